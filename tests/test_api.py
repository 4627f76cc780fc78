"""perfkit from Python: a run as a handle, one SELECT over its rows, and mistakes answered in plain words."""

from __future__ import annotations

import asyncio
import doctest
import importlib
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

import perfkit
from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames
from perfkit.errors import BadInput
from perfkit.lab import handle
from perfkit.store import Run as StoredRun

ROOT = Path(__file__).parents[1]
_DRAWING = ("distribution", "kickoff", "over_time", "streaming")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> perfkit.Run:
    """A run of 400 requests, in a folder whose name DuckDB could take for a pattern."""
    made = make_timeline(tmp_path_factory.mktemp("a [b]* c"), 400)
    return perfkit.open_run(str(made.path))


@pytest.mark.parametrize(
    "module", ["perfkit.lab.handle", "perfkit.compare.experiment", "perfkit.lab.starting"]
)
def test_the_examples_of_docstrings_hold(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a docstring shows of the sample runs is what comes out."""
    monkeypatch.chdir(ROOT)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(module), optionflags=options).failed == 0


def test_a_handle_says_what_the_frames_say(run: perfkit.Run) -> None:
    """summary, rows, sql and figures are those of frames and figures; the handle goes where a run goes."""
    part = frames.measured(run)
    pd.testing.assert_frame_equal(run.summary(), frames.summary(part))
    pd.testing.assert_frame_equal(run.rows(), frames.timeline(run))
    assert run.sql("SELECT count(*) AS n FROM requests")["n"][0] == part.counts["n"] == 400
    assert run.sql("SELECT count(*) AS n FROM all_requests")["n"][0] == run.row_count()
    assert all(repr(run.figure(name)) for name in handle.FIGURES)
    assert isinstance(run, StoredRun)


def test_every_figure_of_a_run_is_on_its_handle() -> None:
    """Whatever figures draws from one frame of a run is a name of `run.figure`."""
    modules = [importlib.import_module(f"perfkit.figures.{name}") for name in _DRAWING]
    drawn = {name for module in modules for name in module.__all__} - {"glance"}
    assert drawn == set(handle.FIGURES)


def test_an_unknown_figure_gets_the_nearest_name(run: perfkit.Run) -> None:
    """A mistyped figure is one line."""
    with pytest.raises(BadInput, match="unknown figure 'histograms'; did you mean 'histogram'"):
        run.figure("histograms")


#: What somebody may try, by mistake or not, and what is said.
FORBIDDEN = {
    "SELECT * FROM read_text('/etc/hostname')": "no other file",
    "SELECT * FROM read_csv('/etc/passwd')": "no other file",
    "SELECT * FROM parquet_metadata('/etc/passwd')": "no other file",
    "SELECT * FROM glob('/*')": "no other file",
    "FROM '/etc/passwd'": "does not exist",
    "SELECT * FROM duckdb_secrets()": "no other file",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')": "single SELECT",
    "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{out}')": "locked",
    "SELECT * FROM run": "does not exist",  # a variable of the caller's
    "COPY (SELECT 1) TO '{out}'": "one SELECT",
    "COPY (SELECT 1) TO '{rows}'": "one SELECT",
    "EXPORT DATABASE '{out}'": "one SELECT",
    "ATTACH '{out}'": "one SELECT",
    "INSTALL httpfs": "one SELECT",
    "SET enable_external_access = true": "one SELECT",
    "RESET lock_configuration": "one SELECT",
    "PRAGMA profiling_output = '{out}'": "one SELECT",
    "CREATE TABLE t AS SELECT 1": "one SELECT",
    "DROP VIEW requests": "one SELECT",
    "SELECT 1; DROP VIEW requests": "one SELECT",
    "": "one SELECT",
}


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_sql_reads_the_rows_and_nothing_else(sql: str, run: perfkit.Run, tmp_path: Path) -> None:
    """No file is read or written, no setting changed, nothing loaded: one line; the rows are as before."""
    before = (run.path / "timeline.parquet").read_bytes()
    with pytest.raises(BadInput) as caught:
        run.sql(sql.format(out=tmp_path / "out", rows=run.path / "timeline.parquet"))
    assert FORBIDDEN[sql] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert (run.path / "timeline.parquet").read_bytes() == before


def test_explained_or_with_a_name_from_elsewhere_it_is_a_select(run: perfkit.Run) -> None:
    """A parameter is a value whatever it holds; WITH, FROM, DESCRIBE and EXPLAIN are queries, too."""
    odd = "'; DROP VIEW requests; --"
    assert run.sql("SELECT count(*) AS n FROM requests WHERE operation = $name", name=odd)["n"][0] == 0
    for sql in ("WITH x AS (SELECT 1 AS n) FROM x", "DESCRIBE requests", "EXPLAIN SELECT 1"):
        assert len(run.sql(sql))


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT nope FROM requests", 'column "nope" not found'),
        ("SELECT 1 FROM rows_of_mine", "tables: requests, all_requests"),
        ("SELECT $a", "not provided for the following"),
        ("SELECT CAST(operation AS INT) FROM requests", "Could not convert"),
        (5, "takes a SELECT as text, not 5"),
    ],
)
def test_a_mistake_in_sql_is_one_line(sql: Any, says: str, run: perfkit.Run) -> None:
    """What DuckDB says of a query, without its drawing of where."""
    with pytest.raises(BadInput) as caught:
        run.sql(sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_database_of_others_stays_open(run: perfkit.Run) -> None:
    """The lock is on the database of the query: frames read on, and so does a DuckDB of one's own."""
    run.sql("SELECT 1")
    assert frames.measured(run).counts["n"] == 400
    assert duckdb.sql("SELECT count(*) FROM glob('/*')").fetchall() != [(0,)]


def test_a_forgotten_await_is_said(recwarn: pytest.WarningsRecorder) -> None:
    """Used without `await` the result of perfkit.run names the way out, and dropped it warns of that."""
    waiting = perfkit.run("nope.yaml")
    for name in ("summary", "id"):
        with pytest.raises(BadInput, match=r"was not awaited, so nothing ran: write `run = await"):
            getattr(waiting, name)
    assert "was not awaited" in repr(waiting)
    assert not hasattr(waiting, "_repr_html_")
    with pytest.warns(RuntimeWarning, match=r"run = await perfkit\.run"):
        del waiting


def test_perfkit_run_is_a_coroutine() -> None:
    """await, create_task, wait_for, gather and asyncio.run take what perfkit.run returns."""

    async def each() -> None:
        for start in (asyncio.create_task, asyncio.gather, lambda one: asyncio.wait_for(one, 9)):
            with pytest.raises(BadInput, match=r"nope\.yaml"):
                await start(perfkit.run("nope.yaml"))  # type: ignore[operator]

    asyncio.run(each())
    with pytest.raises(BadInput, match=r"nope\.yaml"):
        asyncio.run(perfkit.run("nope.yaml"))


def test_compare_takes_runs_and_names(tmp_path: Path) -> None:
    """perfkit.compare judges handles and what the command line takes, and keeps the comparison."""
    made = [make_timeline(tmp_path, 400, seed=i, run_id=f"20260101-00000{i}-made-000{i}") for i in range(4)]
    held = perfkit.runs(tmp_path)
    assert [one.id for one in held] == [one.id for one in made]
    kept = perfkit.compare(held[:2], held[2:], data_dir=tmp_path, names=("old", "new"), margin=0.5)
    assert kept.comparison.a.name == "old"
    assert len(list((tmp_path / "comparisons").iterdir())) == 1
    same = perfkit.compare(f"{made[0].id},{made[1].id}", held[2:], data_dir=tmp_path)
    assert same.a == kept.a or [one.id for one in same.a] == [one.id for one in kept.a]


@pytest.mark.parametrize(
    ("sides", "options", "says"),
    [
        (("a.yaml", "b.yaml"), {}, "`perfkit compare A.yaml B.yaml`"),
        ((["x"], ["y"]), {}, "takes runs, ids or tag:NAME, not 'x'"),
        ((3, 4), {}, "takes runs, ids or tag:NAME, not 3"),
        (([], []), {"margn": 1}, "did you mean 'margin'"),
        (("tag:no", "tag:no"), {}, "no run is tagged 'no'"),
    ],
)
def test_compare_names_what_it_takes(sides: Any, options: Any, says: str, tmp_path: Path) -> None:
    """A slip is bad input in one line."""
    with pytest.raises(BadInput) as caught:
        perfkit.compare(*sides, data_dir=tmp_path, **options)
    assert says in str(caught.value)


def test_a_wrong_argument_is_told_what_was_expected(run: perfkit.Run) -> None:
    """A figure names its frame, a frame the part it is made from; whatever was given instead is named."""
    part = frames.measured(run)
    for name, frame in handle.FIGURES.items():
        draw, make = getattr(figures, name), getattr(frames, frame)
        with pytest.raises(BadInput, match=rf"{name} takes frames\.{frame}\(rows\), got Part"):
            draw(part)
        with pytest.raises(BadInput, match=rf"{frame} takes frames\.measured\(run\), got Run"):
            make(run)
    with pytest.raises(BadInput, match=r"takes frames\.histogram\(rows\), got another frame: it has no '"):
        figures.histogram(frames.errors(part))
