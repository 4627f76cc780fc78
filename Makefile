# make demo   run the main job end to end and print the paths of the HTML reports
# make test   pass the tests (all of them, the slow ones too)
# Each does its own set-up; nothing but Python 3.11 and make has to be there.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# what is compiled is kept: the tests start hundreds of processes, and each would compile perfkit again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test drills lab lint docs bench calibrate setup lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo | test | drills | lab | lint | docs | bench | calibrate | setup | lock | clean"

$(READY): requirements.lock pyproject.toml
	@scripts/setup "$(PYTHON)" $(VENV)
	@touch $@

setup: $(READY)

demo: $(READY)
	@scripts/demo $(BIN)

test: $(READY)
	@scripts/browser $(VENV)
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

# broken inputs of every kind, hostile servers, kills at every moment, long bombs: an hour; `make test` carries out
# a sample. `make drills ARGS="--only json:17"` repeats one case
drills: $(READY)
	$(if $(ARGS),,$(BIN)/python -m pytest -m drill)
	$(BIN)/python -m tests.drills $(or $(ARGS),--out benchmarks/README.md)

lab: $(READY)
	@scripts/lab $(BIN) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

bench: $(READY)
	@benchmarks/setup_peers.sh "$(PYTHON)"
	$(BIN)/python benchmarks/speed.py --out benchmarks/README.md $(ARGS)
	$(BIN)/python benchmarks/reading.py --out benchmarks/README.md

# the whole grid takes some 10 minutes, that of stopping early an hour; `make calibrate ARGS=--subset` two minutes
calibrate: $(READY)
	$(BIN)/python benchmarks/calibrate.py $(or $(ARGS),--out METHOD.md)
	$(if $(ARGS),,$(BIN)/python benchmarks/calibrate_stopping.py --out METHOD.md)

# needs uv (pip install uv); the lock carries versions and hashes, no addresses
lock:
	uv pip compile pyproject.toml --group dev --python-version 3.11 --universal --generate-hashes \
	    --no-header --no-annotate --quiet --upgrade --all-extras \
	    --no-emit-package perfkit-probes --no-emit-package perfkit-agent-server -o requirements.lock

clean:
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
