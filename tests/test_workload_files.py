"""A file that a workload names begins at the workload's folder, and else at the current one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perfkit
from perfkit.drive.workload_files import read_workload
from perfkit.errors import BadInput
from tests.command import started
from tests.small_server import SmallServer, small_server

SCENARIO = "async def step(session, state, rng):\n    await session.get('/')\n"
WIDE = ("-s", "budget.delay_ms=10s", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=1m", "-q")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    return tmp_path / "w"


def write(file: Path, **given: Any) -> str:
    """A workload file, whose name is returned as it is typed."""
    file.write_text(json.dumps(given))
    return os.path.relpath(file)


def test_a_scenario_is_looked_for_beside_its_workload(folder: Path, server: SmallServer) -> None:
    """run, run --once, batch and gate find it from any folder; run.json says how it is reached from here."""
    (folder / "mine.py").write_text(SCENARIO)
    users = {"count": 1, "iterations": 2}
    budget = {"delay_ms": 10_000, "cpu_share": 100, "gc_pause_ms": 60_000}
    file = write(folder / "a.yaml", scenario="mine.py", target=server.url, users=users, budget=budget)
    other = write(folder / "b.yaml", scenario="mine.py", target=server.url, users=users, budget=budget)
    data = {"PERFKIT_DATA_DIR": os.getcwd()}
    assert started("run", file, "--once", **data).returncode == 0
    done = started("run", file, "--json", "-q", **data)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["workload"]["scenario"] == "w/mine.py"
    assert started("batch", file, "--no-report", "-q", **data).returncode == 0
    done = started("gate", file, other, "--repeats", "1", "-q", **data)
    assert "mine.py" not in done.stderr
    assert done.returncode == 3, "one run a side says nothing"
    perfkit.run_sync(file, data_dir=os.getcwd())


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"scenario": "x.py"}, ("scenario",)),
        ({"scenario": "${STEM:-x}.py"}, ("scenario",)),
        ({"scenario": "replay", "arrivals": {"shape": "replay", "file": "x.py"}}, ("arrivals", "file")),
        ({"mix": [{"scenario": "x.py"}]}, ("mix", 0, "scenario")),
        ({"scenario": "http_get", "target": {"ca_file": "x.py"}}, ("target", "ca_file")),
        ({"scenario": "http_get", "target": {"client_key_file": "x.py"}}, ("target", "client_key_file")),
        ({"scenario": "openai_chat", "params": {"file": "x.py"}}, ("params", "file")),
    ],
    ids=["scenario", "variable", "replay", "mix", "ca", "key", "params"],
)
def test_every_name_of_a_file_follows_one_rule(
    folder: Path, given: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    """The workload's folder first, then the current one; neither: a line that names both."""

    def read() -> Any:
        found: Any = read_workload(Path(write(folder / "a.yaml", **given)))
        for one in place:
            found = found[one]
        return found

    with pytest.raises(BadInput, match=r"x\.py is neither in w, the folder of a\.yaml, nor in /"):
        read()
    Path("x.py").write_text(SCENARIO)
    text = "${STEM:-x}.py" if "STEM" in str(given) else "x.py"
    assert read() == text
    shutil.copy("x.py", folder)
    assert read() == f"w/{text}"


def test_what_the_command_line_names_begins_here(folder: Path, server: SmallServer) -> None:
    """--scenario and -s are read from the current folder, and what they replace is not looked for."""
    file = write(folder / "a.yaml", scenario="gone.py", target=server.url, users={"iterations": 1})
    Path("here.py").write_text(SCENARIO)
    for more in (("--scenario", "here.py"), ("-s", "scenario=here.py")):
        done = started("run", file, *more, *WIDE, PERFKIT_DATA_DIR=os.getcwd())
        assert done.returncode == 0, done.stderr
    assert read_workload(Path(file), {"scenario": "here.py"})["scenario"] == "gone.py"
    (folder / "gon.py").write_text(SCENARIO)
    done = started("run", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f" nor in {os.getcwd()}; did you mean w/gon.py?\n")


def test_perfkits_own_workloads_find_their_scenarios_anywhere() -> None:
    """`perfkit run params/…` works in any folder, with the scenario file beside it."""
    given = read_workload(Path("params/strategies/background_before.yaml"))
    assert Path(given["scenario"]).is_file()


def test_new_names_the_scenario_beside_it(folder: Path, server: SmallServer) -> None:
    """What `perfkit new FOLDER/NAME` writes runs from every folder."""
    assert started("new", "w/shop", "--target", server.url).returncode == 0
    assert 'scenario: "shop.py"' in (folder / "shop.yaml").read_text()
    for where in (folder, folder.parent):
        file = os.path.relpath(folder / "shop.yaml", where)
        os.chdir(where)
        done = started("run", file, "--once", PERFKIT_DATA_DIR=os.getcwd())
        assert done.returncode == 0, done.stderr
