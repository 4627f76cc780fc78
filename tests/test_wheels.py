"""perfkit as pip installs it: wheels that are run outside of the repository, extras, few packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
#: Makes modules not to be found, then does what `python -c` is given.
_WITHOUT = """
import importlib.machinery, sys

found = importlib.machinery.PathFinder.find_spec

def find(name, path=None, target=None):
    return None if name.partition(".")[0] in {modules!r} else found(name, path, target)

if __name__ == "__main__":
    importlib.machinery.PathFinder.find_spec = find
{code}
"""
#: What brings the extras, by the name it is imported by.
EXTRAS = (
    *("pandas", "matplotlib", "seaborn", "ipykernel", "papermill", "nbconvert", "nbformat", "jinja2"),
    *(
        "jupyterlab",
        "jupyter_core",
        "jupyter_client",
        "traitlets",
        "IPython",
        "nest_asyncio",
        "nest_asyncio2",
    ),
    *("agent_server", "perfkit_probes", "sqlalchemy", "fastapi", "uvicorn", "opentelemetry", "asyncpg"),
    *("distributed", "dask"),
)

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three wheels, built here and installed there."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    sources = [ROOT, *sorted((ROOT / "packages").iterdir())]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "dist")]
    subprocess.run([*build, *map(str, sources)], check=True)
    wheels = [str(wheel) for wheel in (folder / "dist").glob("*.whl")]
    assert len(wheels) == len(sources)
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*install, *wheels], check=True)
    return folder / "site"


@pytest.fixture
def python(site: Path, tmp_path: Path) -> Call:
    """Calls Python on the installed wheels, in an empty folder."""

    def call(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_the_main_job_from_wheels(python: Call, site: Path, tmp_path: Path) -> None:
    """Wheels alone carry out the main job: the reference server, a load from params, the report."""
    where = python(
        "-c",
        "import perfkit, agent_server, perfkit_probes\n"
        "for one in (perfkit, agent_server, perfkit_probes): print(one.__file__)",
    )
    assert all(Path(one).is_relative_to(site) for one in where.stdout.split())
    cli = ("-m", "perfkit.cli")
    run = python(*cli, "run", "params/archival_insertion.yaml", "--quiet")
    assert run.returncode in (0, 3), run.stderr
    report = python(*cli, "report", "latest")
    assert report.returncode == 0, report.stderr
    assert "<svg" in (tmp_path / report.stdout.strip()).read_text()


def test_the_base_installation_is_enough_for_load_and_judgement(python: Call, tmp_path: Path) -> None:
    """Without any extra: run, ls, show, compare and gate; what is missing is named with its extra."""
    load = {  # to a port where nothing listens
        "scenario": "http_get", "target": {"url": "http://127.0.0.1:9"},
        "thresholds": ["error_rate <= 100 %", "findings = 0"], "users": {"count": 1, "iterations": 30},
    }  # fmt: skip
    (tmp_path / "load.yaml").write_text(json.dumps(load))
    program = tmp_path / "base.py"
    program.write_text(_WITHOUT.format(modules=EXTRAS, code="    from perfkit.cli import main\n    main()"))

    def base(*arguments: str) -> subprocess.CompletedProcess[str]:
        return python(str(program), *arguments)

    for _ in range(2):
        done = base("run", "load.yaml", "--quiet")
        assert done.returncode == 3, done.stderr  # nothing listens there
        assert "threshold error_rate" in done.stdout
        assert "threshold findings = 0: MISSED, measured 1" in done.stdout
    assert "finding: Every request of get failed (30 of 30): 30 × connect" in base("show").stdout
    runs = [one["id"] for one in json.loads(base("ls", "--json").stdout)]
    assert json.loads(base("show", "latest", "--json").stdout)["verdict"]
    assert base("gate", *runs).returncode == 3
    without = "ok   packages: all installed, except the extras report, lab, server, dask"
    assert without in base("doctor").stdout
    compared = base("compare", *runs)
    assert compared.returncode == 3
    assert compared.stdout.startswith("REFUSED")
    assert "no page was made" in compared.stderr
    for arguments, extra in (
        (("report", "latest"), "report"), (("publish", "site"), "report"),
        (("serve", "--port", "0"), "server"),
        (("run", "params/agent_mass_update.yaml"), "server"),
    ):  # fmt: skip
        missing = base(*arguments)
        assert missing.returncode == 1
        assert f"pip install 'perfkit[{extra}]'" in missing.stderr
        assert "Traceback" not in missing.stderr


def test_the_base_installation_takes_few_packages() -> None:
    """`pip install perfkit` brings at most 26 packages along, itself among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting = {"perfkit"}, [Requirement(text) for text in project["dependencies"]]
    while waiting:
        one = waiting.pop()
        name = one.name.lower().replace("_", "-")
        wanted = [Requirement(text) for text in distribution(name).requires or ()]
        extras = [{"extra": extra} for extra in one.extras] or [{"extra": ""}]
        needed = [r for r in wanted if r.marker is None or any(r.marker.evaluate(extra) for extra in extras)]
        new = name not in found or one.extras
        found.add(name)
        waiting += needed if new else []
    assert len(found) <= 26, sorted(found)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("from perfkit_probes import PoolMonitor", "sqlalchemy: pip install 'perfkit-probes[sqlalchemy]'"),
        ("from perfkit_probes import Leader", "pip install 'perfkit-probes["),
        ("import perfkit_probes as p; p.MetricRegistry.of()", "opentelemetry"),
        ("import perfkit.frames", "pip install 'perfkit[report]'"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(python: Call, tmp_path: Path, code: str, words: str) -> None:
    """Who imports a part that watches or draws with what is not installed reads which extra brings it."""
    (tmp_path / "one.py").write_text(
        _WITHOUT.format(modules=EXTRAS, code=f"    {code}").replace("'perfkit_probes', ", "")
    )
    done = python("one.py")
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]


def test_probes_need_nothing(python: Call, tmp_path: Path) -> None:
    """The middleware and the watchdog run in a service that has neither SQLAlchemy nor OpenTelemetry."""
    code = """
    import asyncio
    from perfkit_probes import ProbesMiddleware, Ring, Watchdog

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main():
        ring, sent = Ring(), []
        watchdog = Watchdog(ring=ring)
        watchdog.start()
        async def send(message): sent.append(message)
        scope = {"type": "http", "path": "/", "method": "GET", "headers": []}
        await ProbesMiddleware(app, ring=ring, blocked_ns=watchdog.blocked_ns)(scope, None, send)
        watchdog.stop()
        print(dict(sent[0]["headers"])[b"server-timing"].decode())
        print(ring.told(0, 100))

    asyncio.run(main())
"""
    (tmp_path / "one.py").write_text(
        _WITHOUT.format(modules=EXTRAS, code=code).replace("'perfkit_probes', ", "")
    )
    done = python("one.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("app;dur=")
    assert "request.app_ms" in done.stdout
