"""The layout of the package, read from its imports."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.store import results, update_run_json

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "perfkit"
#: Packages of their own, and what they may import of each other.
ISLANDS = {
    "perfkit_probes": (ROOT / "packages" / "perfkit-probes", set()),
    "agent_server": (ROOT / "packages" / "agent-server", {"perfkit_probes"}),
}

#: The rooms, lower floors first; a room imports only what stands before it.
FLOORS = (
    *(
        "text",
        "suggestions",
        "durations",
        "errors",
        "redaction",
        "interrupts",
        "parent",
        "plain_data",
        "stages",
    ),
    *("converting", "model", "safe_yaml", "hosts"),
    *("card", "choosing", "junit", "page", "streams", "stats"),
    "store",
    "drive",
    *("importing", "scenarios", "scaffold"),
    *("frames", "figures"),
    *("observe", "compare"),
    "report",
    *("site", "lab"),
    *("calibration", "doctor", "retention", "batch"),
    *("api", "cli"),
)
#: Heavy libraries and the modules that may import them, at the top of the file or inside a function.
HEAVY = {
    "papermill": {"report"},
    "nbconvert": {"report"},
    "nbformat": {"report"},
    "jinja2": {"figures"},
    "markupsafe": {"figures"},
    "matplotlib": {"figures", "compare", "observe"},
    "seaborn": {"figures", "observe"},
    "pandas": {"frames", "figures", "compare", "observe", "lab"},
    "duckdb": {"store"},
    "scipy": {"stats"},
    "sqlalchemy": set(),
    "opentelemetry": set(),
    "apscheduler": set(),
    "fastapi": set(),
    "dask": set(),
    "fsspec": {"store"},
    "distributed": {"drive"},
    "IPython": {"lab"},
    "nest_asyncio": {"lab"},
    "nest_asyncio2": {"lab"},
}


def imports_of(file: Path) -> set[str]:
    """Every module a file imports, absolute."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def modules() -> dict[str, set[str]]:
    """Imports by first-level module of the package."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(name, set()).update(imports_of(file))
    return found


def inside(imported: str) -> str | None:
    """The first-level perfkit module an import means."""
    parts = imported.split(".")
    return parts[1] if parts[0] == "perfkit" and len(parts) > 1 else None


def test_every_module_stands_on_a_floor() -> None:
    """A new module must say where it belongs."""
    assert set(modules()) - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_go_down_only(name: str) -> None:
    """A module imports only from floors below it."""
    own = {inside(one) for one in modules()[name]} - {None, name, "__version__"}
    assert own <= set(FLOORS[: FLOORS.index(name)])


def test_no_module_imports_in_a_circle() -> None:
    """What a module imports at its top needs nothing of it, in no room."""
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    graph = {}
    for name, file in files.items():
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
        imported = [f"{node.module}.{alias.name}" for node in top for alias in node.names]
        graph[name] = {one if one in files else one.rpartition(".")[0] for one in imported} & set(files)
    graphlib.TopologicalSorter(graph).prepare()


def test_functions_fit_a_screen() -> None:
    """No function is longer than 60 lines; how complex they may be, ruff knows (C901)."""
    for file in (*PACKAGE.rglob("*.py"), *(ROOT / "packages").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file.relative_to(ROOT)}: {node.name}"


@pytest.mark.parametrize("name", ISLANDS)
def test_islands_stand_alone(name: str) -> None:
    """The server and the probes import nothing of perfkit; two places ask whether the server is there."""
    folder, others = ISLANDS[name]
    imported = set[str]().union(*(imports_of(file) for file in folder.rglob("*.py")))
    ours = {one.split(".")[0] for one in imported} & {"perfkit", *ISLANDS}
    assert ours <= {name, *others}
    users = {user for user, found in modules().items() if name in {one.split(".")[0] for one in found}}
    assert users <= ({"cli", "drive"} if name == "agent_server" else set())


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_have_one_place(library: str) -> None:
    """A heavy library is imported on one floor only."""
    users = {name for name, found in modules().items() if any(one.split(".")[0] == library for one in found)}
    assert users <= HEAVY[library]


def test_import_perfkit_is_light() -> None:
    """`import perfkit` and the command line's help load none of the heavy libraries."""
    code = (
        "import sys, perfkit, perfkit.cli; perfkit.cli._add_server_command();"
        f"print(*(m for m in {list(HEAVY)!r} + ['numpy', 'pyarrow', 'duckdb', 'httpx'] if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_worker_is_light() -> None:
    """A process that drives load imports nothing heavy by itself; its scenario may import pandas."""
    code = (
        "import sys; from perfkit.drive.worker import warm_up_process; warm_up_process();"
        f"print(*(m for m in {list(HEAVY)!r} if m in sys.modules)); import pandas, pyarrow as pa;"
        "pa.table({'x': [1]}).to_pandas()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"duckdb"}


def test_listing_and_showing_runs_is_light(tmp_path: Path) -> None:
    """`perfkit ls` of a run that keeps its results in run.json loads no heavy library: it reads no rows.
    `perfkit show` reads them, and loads what that takes: nothing that draws or makes pages."""
    run = make_timeline(tmp_path, 50)
    update_run_json(run.path, lambda meta: {"results": results.stamped(run.results, *run.files())})
    verbs = (["ls", "--json"], ["show", run.id, "--json"])
    code = f"""
import contextlib, sys
from perfkit.cli import main
for arguments in {verbs!r}:
    sys.argv = ["perfkit", *arguments, "--data-dir", {str(tmp_path)!r}]
    with contextlib.suppress(SystemExit):
        main()
    print(*(m for m in {list(HEAVY)!r} if m in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, shown = done.stdout.split("\n]\n")
    assert [one["rows"] for one in json.loads(listed + "]")] == [51]
    assert json.loads(shown)["summary"][-1]["n"] == 50
    of_ls, of_show = done.stderr.split("\n")[:2]
    assert of_ls.split() == []
    assert set(of_show.split()) <= {"duckdb", "scipy"}
