"""perfkit from Python: a run as a handle, one SELECT over its rows, and mistakes answered in plain words."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

import perfkit
from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames
from perfkit.compare.experiment import compare_named
from perfkit.errors import BadInput
from perfkit.lab import handle, work
from perfkit.store import Run as StoredRun
from perfkit.store import select

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
    statuses = run.sql("SELECT coalesce(status, 0)::INTEGER AS status FROM requests")["status"]
    assert sorted(run.rows()["status"]) == sorted(statuses)
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
        ("FROM timeline", "timeline does not exist; tables: requests, all_requests"),
        ("FROM part_", "part_ does not exist; tables"),
        ("FROM reqests", 'Did you mean "requests"?'),
        ('SELECT 1 FROM requests WHERE operation = "it\'s"', "single quotes: 'it''s'"),
        ("PIVOT requests ON status USING count(*)", "PIVOT needs its values: ON status IN (200, 404)"),
    ],
)
def test_a_mistake_in_sql_is_one_line(sql: Any, says: str, run: perfkit.Run) -> None:
    """What DuckDB says of a query, without its drawing of where."""
    with pytest.raises(BadInput) as caught:
        run.sql(sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_parameters(run: perfkit.Run) -> None:
    """Whatever numpy's type, a number is that number, alone or in a list."""
    found = run.sql("SELECT $a + 1 AS a, $b AS b, $c AS c", a=np.int16(3), b=[np.float32(2)], c=np.arange(2))
    assert [found["a"][0], list(found["b"][0]), list(found["c"][0])] == [4, [2.0], [0, 1]]


def test_a_query_ends_and_its_result_has_an_end(run: perfkit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that takes too long is ended, whatever it does; a result beyond the limit is refused."""
    monkeypatch.setattr(select, "MOST_S", 0.5)
    monkeypatch.setattr(select, "MOST_ROWS", 1_000)
    endless = (
        "SELECT sum(hash(a.range + b.range)) FROM range(10000000) a, range(10000000) b",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    )
    for sql in endless:
        with pytest.raises(BadInput, match=r"was ended, it took longer than 0\.5 s"):
            run.sql(sql)
    with pytest.raises(BadInput, match="more than 1,000 rows"):
        run.sql("FROM range(1001)")
    assert len(run.sql("FROM range(1000)")) == 1000


def test_the_database_of_others_stays_open(run: perfkit.Run) -> None:
    """The lock is on the database of the query: frames read on, and so does a DuckDB of one's own."""
    run.sql("SELECT 1")
    assert frames.measured(run).counts["n"] == 400
    assert duckdb.sql("SELECT count(*) FROM glob('/*')").fetchall() != [(0,)]


def test_a_forgotten_await_is_said(recwarn: pytest.WarningsRecorder) -> None:
    """Used without `await` the result of perfkit.run names the way out, and dropped it warns of that."""
    waiting = perfkit.run("nope.yaml")
    for use in (len, list, dict, lambda one: one[0]):
        with pytest.raises(BadInput, match="was not awaited"):
            use(waiting)
    assert waiting, "whoever asks whether there is a coroutine is told so"
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
    assert kept.verdict == kept.comparison.verdict
    assert len(list((tmp_path / "comparisons").iterdir())) == 1
    same = perfkit.compare(f"{made[0].id},{made[1].id}", held[2:], data_dir=tmp_path)
    assert same.a == kept.a or [one.id for one in same.a] == [one.id for one in kept.a]


@pytest.mark.parametrize(
    ("sides", "options", "says"),
    [
        (("a.yaml", "b.yaml"), {}, "`perfkit compare A.yaml B.yaml`"),
        ((), {}, "takes two groups of runs: perfkit.compare('tag:before', 'tag:after')"),
        *(
            (("x", "y"), {"names": names}, f"got {names!r}")
            for names in (("a",), 5, "ab", ("a", "a"), ("a", 1))
        ),
        (("x", "y"), {"vary": 5}, "vary: expected texts, got 5"),
        (("x", "y"), {"data_dir": "/nope"}, "there is no folder /nope"),
        ((["x"], ["y"]), {}, "takes runs, ids or tag:NAME, not 'x'"),
        ((3, 4), {}, "takes runs, ids or tag:NAME, not 3"),
        (([], []), {"margn": 1}, "did you mean 'margin'"),
        (("tag:no", "tag:no"), {}, "no run is tagged 'no'"),
    ],
)
def test_compare_names_what_it_takes(sides: Any, options: Any, says: str, tmp_path: Path) -> None:
    """A slip is bad input in one line."""
    with pytest.raises(BadInput) as caught:
        perfkit.compare(*sides, **{"data_dir": tmp_path} | options)
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
        with pytest.raises(
            BadInput, match=rf"{name} takes frames\.{frame}\(rows\), got another frame"
        ) as caught:
            draw(run.rows())
        assert "Index" not in str(caught.value)
        with pytest.raises(BadInput, match=rf"{name}: ax is Axes of matplotlib, or left out, not 5"):
            draw(getattr(frames, frame)(part), ax=5)
    with pytest.raises(BadInput, match=r"takes frames\.histogram\(rows\), got another frame: it has no '"):
        figures.histogram(frames.errors(part))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.rows(5), "unknown phase '5'; known: drain, measure"),
        (lambda run: run.rows(None), "unknown phase 'None'"),
        (lambda run: run.rows("warmupp"), "unknown phase 'warmupp'; did you mean 'warmup'?"),
        (lambda run: frames.timeline(run, "x"), "unknown phase 'x'"),
        (lambda run: frames.timeline("latest"), "frames.timeline takes a run, not 'latest'"),
        (lambda run: frames.measured("latest"), "perfkit.open_run('latest') opens one"),
        (lambda run: perfkit.make_report("latest"), "perfkit.make_report takes a run, not 'latest'"),
        (lambda run: run.report(notebook="capacit"), "unknown notebook 'capacit'; did you mean 'capacity'?"),
        (lambda run: run.report("capacit"), "unknown notebook 'capacit'; did you mean 'capacity'?"),
        (lambda run: run.report(notebook=5), "notebook: expected a path, got 5"),
        (lambda run: run.report(parameters=5), "parameters: expected names with values"),
        (lambda run: run.report(latncy="service"), "did you mean 'latency'?"),
        (lambda run: run.figure("histogram", latency=None), "unknown latency 'None'"),
        (lambda run: run.figure(["histogram"]), "run.figure takes one of kickoff_timeline, "),
        (lambda run: run.figure(), "run.figure takes one of kickoff_timeline, "),
        (lambda run: figures.show(5), "figures.show takes what a figure returns"),
        (lambda run: figures.summary_table(run.rows()), "summary_table takes frames.summary(rows)"),
        *(
            (
                lambda run, bad=bad: frames.histogram(frames.measured(run), bins=bad),
                f"at least 1, got {bad!r}",
            )
            for bad in (-3, 0, "a", 2.5, True, None)
        ),
        (lambda run: frames.boxes(frames.measured(run), most=0), "most: expected a whole number, at least 1"),
        (lambda run: frames.boxes(frames.measured(run), by=None), "unknown by 'None'"),
        (lambda run: frames.errors(frames.measured(run), most=-1), "most: expected a whole number"),
        (
            lambda run: frames.summary(frames.measured(run), level=95),
            "level: expected a share between 0 and 1",
        ),
        (lambda run: perfkit.runs(data_dir=5), "data_dir: expected a path, got 5"),
        (lambda run: perfkit.runs(data_dir="/typo"), "there is no folder /typo"),
        (lambda run: perfkit.open_run("x", data_dir="/typo"), "there is no folder /typo"),
        (lambda run: perfkit.open_run(5), "takes an id, a path or latest, not 5"),
        (lambda run: perfkit.open_run("tag:x"), "perfkit.runs().filter(tag='x')"),
        (lambda run: perfkit.import_runs(5, data_dir="x"), "path: expected a path, got 5"),
        (lambda run: perfkit.run_sync(print), "a scenario is a name or a .py file"),
        (lambda run: perfkit.run_sync(scenario=print), "%%writefile"),
        (lambda run: perfkit.run_sync("http://h/x", target="http://i"), "are two targets"),
        (lambda run: perfkit.run_sync("a.py", scenario="http_get"), "are two scenarios"),
    ],
)
def test_a_wrong_value_is_one_line(call: Any, says: str, run: perfkit.Run) -> None:
    """Whatever is given in place of what is meant: one line that names it and what is allowed."""
    with pytest.raises(BadInput) as caught:
        call(run)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_summary_shows_no_quantile_that_few_requests_carry(tmp_path: Path) -> None:
    """Of one request there are counts, its time, and no percentile; what is read first comes first."""
    found = perfkit.Run(make_timeline(tmp_path, 1).path).summary()
    assert list(found.columns[:7]) == ["operation", "n", "failed", "rate_per_s", "p50", "p95", "p99"]
    assert found.columns[-1].endswith("_unit")
    assert found[list(frames.NAMES)].isna().all(axis=None)
    assert found["n"][0] == 1
    assert found["max"][0] > 0


def test_paths_are_text_or_paths(run: perfkit.Run, tmp_path: Path) -> None:
    """A run is opened by itself and by a path; a file is imported from text to text."""
    assert perfkit.open_run(run) == perfkit.open_run(run.path) == run  # type: ignore[arg-type]
    (tmp_path / "a.csv").write_text("when,ms\n2026-01-01T00:00:00Z,5\n2026-01-01T00:00:01Z,6\n")
    columns = {"started": "when", "duration_ms": "ms"}
    (made,) = perfkit.import_runs(f"{tmp_path}/a.csv", data_dir=str(tmp_path), columns=columns)
    assert made.row_count() == 2


def test_compare_has_one_signature() -> None:
    """What help shows of perfkit.compare is what it takes, as a function and as a module that is called."""
    ours, its = (inspect.signature(one).parameters for one in (compare_named, perfkit.compare))
    assert {name: one.default for name, one in ours.items()} == {
        name: one.default for name, one in its.items()
    }
    assert {"a", "b", "names", "margin", "vary"} < its.keys()


def test_a_url_a_file_and_a_load_in_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the command line: a URL is a GET of it, a .py a scenario; users take the place of arrivals, and
    where they do not say how long, it is 10 s."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text("scenario: http_get\narrivals: {rate_per_s: 20}\n")
    given, _ = work._given("http://h:1/notes?a=1", {"users": {"count": 2}})
    assert given == {
        "scenario": "http_request",
        "params": {"path": "/notes?a=1", "method": "GET"},
        "target": {"url": "http://h:1"},
        "users": {"count": 2, "duration_s": 10.0},
    }
    assert work._given("http://h:1", {})[0]["users"] == {"count": 10, "duration_s": 10.0}
    assert work._given("shop.py", {"target": "http://h"})[0]["scenario"] == "shop.py"
    loads = {"count": 3, "iterations": 9}
    assert work._given("w.yaml", {"users": loads})[0] == {"scenario": "http_get", "users": loads}
    assert work._given("w.yaml", {"arrivals": {"duration_s": 1}})[0]["arrivals"] == {
        "rate_per_s": 20,
        "duration_s": 1,
    }
    again, _ = work._given({"scenario": "x", "users": loads}, {"users": {"duration_s": "5s"}})
    assert again["users"] == {"count": 3, "duration_s": "5s"}
