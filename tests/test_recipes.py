"""The recipes of CONTRIBUTING.md, carried out on a copy as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_server import small_server

ROOT = Path(__file__).parents[1]
_TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^### (.+?)\n.*?```diff\n(.*?)```", _TEXT, re.S | re.M))

Perfkit = Callable[..., str]


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str, int], Perfkit]:
    """Carries a recipe out on a copy of the package, and gives a way to call that."""

    def carried_out(name: str, files: int) -> Perfkit:
        for folder in ("perfkit", "notebooks"):
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        recipe = RECIPES[name]
        assert len(re.findall(r"^\+\+\+ ", recipe, re.M)) == files
        apply = ["git", "apply", "-C1", "-"]
        subprocess.run(apply, cwd=tmp_path, input=recipe, text=True, check=True)

        def call(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, *arguments], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode in (0, 3), done.stderr  # 3: the machine was too busy
            return done.stdout

        return call

    return carried_out


def test_a_scenario_is_one_file(copy: Callable[[str, int], Perfkit]) -> None:
    """A file in scenarios/ is a scenario with its name, parameters and meaning."""
    perfkit = copy("A scenario: one file", 1)
    with small_server() as server:
        load = ("-s", "users.count=1", "-s", "users.iterations=5", "-p", "limit=3", "-q")
        perfkit("-m", "perfkit.cli", "run", "--scenario", "list_agents", "--target", server.url, *load)
    shown = json.loads(perfkit("-m", "perfkit.cli", "show", "latest", "--json"))
    assert [one["operation"] for one in shown["summary"]] == ["all operations"]
    assert shown["summary"][-1]["n"] == 5


def test_a_metric_is_one_row(copy: Callable[[str, int], Perfkit]) -> None:
    """A row of the table of metrics is in what comparisons, trends and gates know of a run."""
    perfkit = copy("A metric: one row", 1)
    sample = ROOT / "data" / "sample"
    code = f"""
from pathlib import Path
from perfkit.compare.reduce import reduce_run
from perfkit.compare.frames import trend
from perfkit.store import Run
run = Run(next(Path({str(sample)!r}).glob("**/run.json")).parent)
print(reduce_run(run).value("all operations", "p75").level, trend([run], "p75")["level"][0])
"""
    level, trended = map(float, perfkit("-c", code).split())
    assert level == trended > 0


@pytest.mark.slow
def test_a_figure_is_three_files(copy: Callable[[str, int], Perfkit], tmp_path: Path) -> None:
    """A frame, a figure and a cell: the report shows it."""
    perfkit = copy("A figure: three files", 3)
    run = next((ROOT / "data" / "sample").glob("**/run.json")).parent
    shutil.copytree(run, tmp_path / "data" / "runs" / run.name)
    page = perfkit("-m", "perfkit.cli", "report", str(tmp_path / "data" / "runs" / run.name)).strip()
    assert re.search(r"At most [\d.,]+ MB a second", (tmp_path / page).read_text())


def test_a_format_is_two_files(copy: Callable[[str, int], Perfkit], tmp_path: Path) -> None:
    """A row of the table of formats and its reader: files are told by content, the help knows it."""
    perfkit = copy("An import format: two files", 2)
    rows = "".join(f"{1_790_000_000_000 + 10 * i},/agents,{5 + i % 7},200\n" for i in range(50))
    (tmp_path / "calls.csv").write_text("begin,path,took,status\n" + rows)
    perfkit("-m", "perfkit.cli", "import", "calls.csv")
    shown = json.loads(perfkit("-m", "perfkit.cli", "show", "latest", "--json"))
    assert shown["summary"][-1]["n"] == 50
    assert "probe-csv" in perfkit("-m", "perfkit.cli", "import", "--help")
