"""Failures of rows as findings; findings and samples of the server as thresholds; both without pandas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
import sqlalchemy as sa

from agent_server.postgres import embedded_postgres
from perfkit import frames
from perfkit.drive.local_server import reference_server
from perfkit.drive.running import checked, run_repeats
from perfkit.errors import BadInput
from perfkit.observe import client, findings
from perfkit.observe import figures as server_figures
from perfkit.observe.recording import record, results_with_findings
from perfkit.store import Run, list_runs
from perfkit.store.metadata import Finding
from perfkit.store.rows import Part
from perfkit.store.thresholds import parse
from tests.command import perfkit
from tests.hand_made import MS, S, row, write_run
from tests.server_fixture import AGENT
from tests.small_server import SmallServer, small_server
from tests.test_server import TOOL
from tests.test_server_side import TEN_S, Sample, at, run_with

ID = "20260101-000000-alerts-0001"
#: A failure of each kind: its class, the words heard, how many.
Failures = dict[str, list[tuple[str, str, int]]]


def requests(operation: str, n: int, *failures: tuple[str, str, int]) -> list[dict[str, Any]]:
    """n requests, one each 10 ms; of them the first ones fail, in these ways."""
    ways = [(error, words) for error, words, count in failures for _ in range(count)]
    ways += [("", "")] * (n - len(ways))
    return [
        row(10 * S + i * 10 * MS, 5 * MS, operation=operation, error=error or None, error_text=words or None)
        for i, (error, words) in enumerate(ways)
    ]


def found_in(folder: Path, *rows: list[dict[str, Any]]) -> list[Finding]:
    return client.findings(Part(write_run(folder, ID, [one for more in rows for one in more])))


# -- what failed -----------------------------------------------------------------------------------


def test_every_operation_that_failed_is_named(tmp_path: Path) -> None:
    """With class, count of n, share and the first words; what fails wholly first, few failures mildly."""
    found = found_in(
        tmp_path,
        requests("get", 500, ("http_5xx", "boom", 6)),
        requests("create", 600, ("http_5xx", "busy", 90), ("reset", "gone", 3)),
        requests("update", 68, ("http_4xx", "no such  block\n", 68)),
        requests("search", 1000, ("check", "", 200)),
        requests("fine", 50),
    )
    assert [one.text for one in found if one.kind in ("failing", "failures")] == [
        "Every request of update failed (68 of 68): 68 × http_4xx (no such block).",
        "200 of 1,000 requests of search failed (20%): 200 × check."
        " Its latencies are those of the others only.",
        "93 of 600 requests of create failed (15.5%): 90 × http_5xx (busy), 3 × reset (gone).",
        "6 of 500 requests of get failed (1.2%): 6 × http_5xx (boom).",
    ]
    assert [one.kind for one in found[:2]] == ["failing", "failing"]
    assert (found[0].from_s, found[0].to_s) == (0.0, 0.67)


def test_an_operation_is_named_once_whatever_the_ways_it_failed_in(tmp_path: Path) -> None:
    """Timeouts alone have a kind of their own; of many classes three are told, of many operations ten."""
    ways = [(f"http_{i}xx", f"words {i}", 10 - i) for i in range(5)]
    many = [requests(f"op {i:02}", 50, ("reset", "gone", 1)) for i in range(13)]
    found = found_in(
        tmp_path,
        requests("slow", 90, ("timeout", "5 s", 2), ("cutoff", "", 1)),
        requests("a", 900, *ways),
        *many,
    )
    texts = [one.text for one in found if one.kind in ("failures", "timeouts")]
    assert len(texts) == 11
    assert "3 of 90 requests of slow got no answer in time (3.33%): 2 × timeout (5 s), 1 × cutoff." in texts
    assert texts[0].endswith(
        "10 × http_0xx (words 0), 9 × http_1xx (words 1), 8 × http_2xx (words 2) and 2 more classes."
    )
    assert texts[-1] == "5 of 250 requests of 5 more operations failed (2%)."


def test_deadlocks_are_named_where_the_server_tells(tmp_path: Path) -> None:
    """By PostgreSQL's words or its SQLSTATE, before milder findings; other words of locks are none."""
    found = found_in(
        tmp_path,
        requests("update", 600, ("http_5xx", '{"detail": "(DeadlockDetectedError) Deadlock detected"}', 60)),
        requests("create", 600, ("http_5xx", "SQLSTATE 40P01", 33)),
        requests("get", 600, ("http_5xx", "the deadlock detector is off", 7)),
    )
    assert found[0].kind == "deadlocks"
    assert "(40P01), and 93 requests failed: 60 of update, 33 of create." in found[0].text
    assert sum(one.kind == "failures" for one in found) == 3


@pytest.mark.parametrize("failed", [1, 6, 500])
def test_no_trouble_never_stands_above_a_table_with_failures(tmp_path: Path, failed: int) -> None:
    """One request that failed of 500 is a finding: the report's sentence that all is well is not said."""
    run = write_run(tmp_path, ID, requests("get", 500, ("http_5xx", "boom", failed)))
    rows = frames.measured(run)
    shown = server_figures.findings(findings.judge(rows)).html
    assert "no trouble" not in shown
    assert f"{failed} of 500" in shown.replace("500 of 500", f"{failed} of 500")
    assert len(frames.errors(rows)) == 1
    fine = frames.measured(write_run(tmp_path / "fine", ID, requests("get", 500)))
    assert "show no trouble" in server_figures.findings(findings.judge(fine)).html


def test_failures_of_an_imported_summary_are_findings(tmp_path: Path) -> None:
    """It has no rows: what it counts is told, also where it does not tell in which way."""
    carried = {"n": 1000, "failed": 0, "quantiles": [[0.5, 3.0]]}
    kinds = {"failures": [{"error": "http_5xx", "operation": "", "count": 7, "words": ""}], "failed": 7}
    for i, (more, told) in enumerate((
        ({}, None),
        ({"failed": 30}, "30 of 1,000 requests of all operations failed (3%), it is not known in which way."),
        (kinds, "7 of 1,000 requests of all operations failed (0.7%): 7 × http_5xx."),
    )):  # fmt: skip
        document = {"imported": {"tool": "k6", "carried": [carried | more]}}
        run = write_run(tmp_path / str(i), ID, [], **document)
        assert [one.text for one in client.findings(Part(run))] == ([told] if told else [])


# -- samples of the server as thresholds -----------------------------------------------------------


def samples_of(*series: tuple[str, Any, str]) -> list[Sample]:
    """A sample each 0.1 s of 10 s: probe, values, label."""
    return [
        (float(t), probe, float(x), label, None)
        for probe, values, label in series
        for t, x in zip(TEN_S, np.broadcast_to(values, len(TEN_S)), strict=True)
    ]


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Lag 0, 1, … 99 ms; two pools; memory that grows from 100 to 149.5 MB; a page of Prometheus; and what
    came before and long after the measured part."""
    up = np.arange(100)
    told = samples_of(
        ("loop.lag_ms", up, ""), ("pool.checked_out", 3, "main"), ("pool.checked_out", 9, "jobs"),
        ("process.rss_mb", 100 + up / 2, ""), ("process.cpu_share", 0.5, ""),
        ("requests_total", up, 'code="200"'), ("requests_total", 5, 'code="500"'),
    )  # fmt: skip
    others = (
        at([-1.0, 60.0], "loop.lag_ms", 9999) + at([1], "gc.pause_ms", 1) + at([1], "pool.error", 2, "main")
    )
    folder = tmp_path_factory.mktemp("it's [a] place")  # DuckDB takes names of files as patterns
    return Part(run_with(folder, told + others))


@pytest.mark.parametrize(
    ("text", "value", "ok"),
    [
        ("loop_lag p50 < 50 ms", 49.5, True),
        ("loop.lag_ms p50 < 0.0495 s", 0.0495, False),
        ("lag max <= 99 ms", 99.0, True),
        ("loop_lag mean > 49 ms", 49.5, True),
        ("loop_lag count = 100", 100.0, True),
        ("pool_checked_out max < 5", 9.0, False),
        ("pool_checked_out(main) max < 5", 3.0, True),
        ("process_cpu p99 < 60 %", 50.0, True),
        ("cpu max < 0.5", 0.5, False),
        ("rss_growth < 50 %", 100 * (147.25 / 102.25 - 1), True),
        ("process_rss growth < 0.4", 147.25 / 102.25 - 1, False),
        ("rss last < 149 MB", 149.5, False),
        ("rss max < 1 GB", 0.1495, True),
        ("requests_total last <= 99", 99.0, True),
        ('requests_total(code="500") last = 5', 5.0, True),
        ("gc_pause growth < 1 %", math.nan, False),
        ("pool_wait p99 < 50 ms", 0.0, True),
        ("pool_wait(main) p99 < 50 ms", 0.0, True),
        ("pool_timeout count = 0", 0.0, True),
        ("pool_error(jobs) sum = 0", 0.0, True),
        ("pool_error sum = 0", 2.0, False),
    ],
)
def test_values_of_samples(part: Part, text: str, value: float, ok: bool) -> None:
    """In the threshold's own unit, over what the server told of the measured part; a pool that nothing waited
    for told of no wait, which is 0."""
    measured, met, _ = parse(text).evaluate(part)
    assert measured == pytest.approx(value, abs=1e-9, nan_ok=True)
    assert met is ok


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loop_lagg p99 < 3 ms", "did you mean 'loop_lag'? there are gc_pause, "),
        ("pool_checked_out(man) max < 3", "did you mean 'main'? there are jobs, main"),
        ("pool_wait(man) max < 3 ms", "did you mean 'main'?"),
        ("loop_lag p99 < 3 MB", "takes a unit of ms, s, us, µs, not 'MB'"),
        ("pool_checked_out max < 3 ms", "takes no unit, not 'ms'"),
    ],
)
def test_a_probe_the_run_has_not_is_told_with_those_it_has(part: Part, text: str, words: str) -> None:
    """One line, when the run has ended: which samples come is the server's business."""
    with pytest.raises(BadInput) as caught:
        parse(text).evaluate(part)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loop_lag < 3 ms", "of a probe also say what: loop_lag p99"),
        ("loop_lag p0 < 3 ms", "between 0 and 100"),
        ("loop_lag most < 3 ms", "unknown statistic 'most'; known: pNN, mean, max"),
        ("loop_lag p99 < 3 parsecs", "'parsecs'"),
        ("p95 max < 3 ms", "takes no statistic"),
        ("p95 = 3 ms", "= is for counts"),
        ("findings = 0 %", "takes no unit"),
        ("findings(x) = 0", "leave the brackets out"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_load(text: str, words: str) -> None:
    """In one line, as everything else that a threshold may not say."""
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- findings, kept and judged ---------------------------------------------------------------------


def test_findings_are_kept_with_the_run_and_may_be_thresholds(tmp_path: Path) -> None:
    """They are those of the report; a threshold has no value before anybody looked for them."""
    waiting = at(TEN_S, "pool.waiting", 2, "main") + at(TEN_S, "pool.checked_out", 3, "main")
    run = run_with(tmp_path, waiting)
    zero = parse("findings = 0")
    assert zero.evaluate(Part(run))[1:] == (False, "nobody looked for findings")
    record(run)
    run = Run(run.path)
    judged = findings.judge(frames.measured(run)).findings
    assert [one.kind for one in judged] == ["pool_exhausted"]
    assert results_with_findings(run).findings == tuple(judged) == run.meta.results.findings
    assert zero.evaluate(Part(run))[:2] == (1.0, False)
    assert parse("findings <= 1").evaluate(Part(run)).ok
    assert "finding: The database pool 'main'" in perfkit("show", str(run.path), data=tmp_path).out
    shown = perfkit("show", str(run.path), "--json", data=tmp_path).json["findings"]
    assert [Finding(**one) for one in shown] == judged


def test_a_server_that_told_nothing_is_no_server_without_findings(tmp_path: Path) -> None:
    """`findings = 0` is missed where every fetch of the probes failed."""
    run = write_run(
        tmp_path,
        ID,
        requests("get", 100),
        probes=[{"source": "s", "page": "http://s/probe/samples", "errors": 9, "error": "status 404"}],
    )
    record(run)
    measured = parse("findings = 0").evaluate(Part(Run(run.path)))
    assert (math.isnan(measured.value), measured.ok) == (True, False)
    assert measured.note == "http://s/probe/samples: 9 fetches failed (status 404)"


def test_without_pandas_the_rows_are_judged_and_the_rest_is_said(tmp_path: Path) -> None:
    """A run with samples, recorded where pandas is not installed: findings of the rows, and what is left."""
    run = run_with(tmp_path, at(TEN_S, "pool.waiting", 2, "main"))
    code = (
        "import sys; sys.modules['pandas'] = None; from pathlib import Path; from perfkit.store import Run;"
        f"from perfkit.observe.recording import record; record(Run(Path({str(run.path)!r})))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    results = Run(run.path).results
    assert results.findings == ()
    assert "pip install 'perfkit[report]'" in results.not_looked_for
    measured = parse("findings = 0").evaluate(Part(Run(run.path)))
    assert (measured.ok, measured.note) == (False, results.not_looked_for)
    assert "not looked for" in perfkit("show", str(run.path), data=tmp_path).out


def test_a_rule_that_fails_keeps_no_threshold_from_being_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples come from outside; what nobody thought of is told, and the rows are judged."""
    run = run_with(tmp_path, at(TEN_S, "pool.waiting", 2, "main"))
    monkeypatch.setattr(findings, "server_samples", lambda rows: {}["unheard of"])
    record(run)
    results = Run(run.path).results
    assert results.findings == ()
    assert results.not_looked_for.endswith("which is a bug in perfkit: KeyError: 'unheard of'")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


TWO = """
async def step(session, state, rng):
    await session.get("/fine", name="fine")
    await session.get("/status/500", name="broken")
"""


def test_a_run_prints_its_findings_and_ends_with_4(server: SmallServer, tmp_path: Path) -> None:
    """A real run in which one of two operations fails: told by run and show, alike; `findings = 0` missed."""
    (tmp_path / "two.py").write_text(TWO)
    load = ("users.count=1", "users.iterations=20", "budget.delay_ms=10000", "budget.cpu_share=100")
    settings = [part for one in (*load, "budget.gc_pause_ms=60000") for part in ("-s", one)]
    command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", str(tmp_path / "two.py")]
    command += ["--target", server.url, *settings, "--threshold", "findings = 0", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    (finding,) = [line.strip() for line in done.stdout.splitlines() if "finding: " in line]
    assert finding.startswith("finding: Every request of broken failed (20 of 20): 20 × http_5xx (")
    assert "threshold findings = 0: MISSED, measured 1; of the requests alone" in done.stdout
    (run,) = list_runs(tmp_path)
    assert run.verdict.brief == "missed"
    code = "import sys; sys.modules['pandas'] = None; from perfkit.cli import main; main()"
    show = [sys.executable, "-c", code, "show", "--json", "--data-dir", str(tmp_path)]
    shown = json.loads(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
    (one,) = shown["findings"]
    assert one.keys() == {"kind", "text", "from_s", "to_s"}
    assert one["kind"] == "failing"


CHANGING = f"""
async def setup(session, params):
    agent = await session.post("/v1/agents/", json={AGENT!r})
    tool = await session.put("/v1/tools/", json={{"source_code": {TOOL!r}}})
    return [answer.raise_for_status().json()["id"] for answer in (agent, tool)]


async def step(session, state, rng):
    agent, tool = state
    await session.patch(f"/v1/agents/{{agent}}", json={{"tool_ids": [tool]}}, name="change_agent")
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def make_deadlock(url: str) -> None:
    """Hold every tool until a change of an agent waits for one, then ask for the agent that it holds; again
    until it was the change that PostgreSQL gave up. It gives up who has waited for a second: not us."""
    host = sa.make_url(url).query["host"]
    mine, other = [await asyncpg.connect(host=host, user="postgres", database="postgres") for _ in range(2)]
    try:
        await mine.execute("SET deadlock_timeout = '1min'; SET lock_timeout = '5s'")
        async with asyncio.timeout(60):
            while not await _deadlock(mine, other):
                await asyncio.sleep(0.01)
    finally:
        await mine.close()
        await other.close()


async def _deadlock(mine: Any, other: Any) -> bool:
    with contextlib.suppress(asyncpg.LockNotAvailableError):
        async with mine.transaction():
            if not await mine.fetch("SELECT id FROM tools FOR UPDATE"):
                return False  # the run is setting up
            while not await other.fetchval(WAITING):
                await asyncio.sleep(0.01)
            return bool(await mine.fetch("SELECT id FROM agents FOR UPDATE"))
    return False


@pytest.mark.drill  # a server of its own, and a second until PostgreSQL looks for deadlocks
def test_a_real_deadlock_is_found_by_name(tmp_path: Path) -> None:
    """Two transactions of the embedded PostgreSQL wait for each other; the server's is given up."""
    (tmp_path / "changing.py").write_text(CHANGING)
    with embedded_postgres(None) as database, reference_server({"database_url": database}) as served:
        given = {
            "scenario": str(tmp_path / "changing.py"),
            "users": {"count": 1, "iterations": 5, "think_time_s": 0.2},
            "target": {"url": served.url, "timeout_s": 60},
        }
        other = threading.Thread(target=asyncio.run, args=(make_deadlock(database),))
        other.start()
        (run,) = run_repeats(checked(given, "deadlock", ()), tmp_path, show_progress=False, look=record)
        other.join()
    kinds = {one.kind: one.text for one in run.results.findings or ()}
    assert "and 1 request failed: 1 of change_agent." in kinds["deadlocks"]
    assert kinds["failing"].startswith("1 of 5 requests of change_agent failed (20%): 1 × http_5xx (")


def test_five_findings_are_printed_and_the_others_counted(tmp_path: Path) -> None:
    """One line each; all of them are in --json."""
    run = write_run(
        tmp_path, ID, [one for i in range(8) for one in requests(f"op{i}", 50, ("reset", "gone", 1))]
    )
    lines = perfkit("show", run.id, data=tmp_path).out.splitlines()
    assert sum("finding: " in line for line in lines) == 5
    assert any("3 more findings: `perfkit show" in line for line in lines)
    assert len(perfkit("show", run.id, "--json", data=tmp_path).json["findings"]) == 8
    fine = write_run(tmp_path, f"{ID}-fine", requests("get", 50))
    shown = perfkit("show", fine.id, data=tmp_path).out
    assert "  findings: none; the server reported nothing about itself" in shown
