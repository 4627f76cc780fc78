"""Findings about the database by their limits, on samples made by hand; test_observing provokes each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perfkit import frames
from perfkit.observe import findings
from perfkit.observe import frames as server_frames
from perfkit.observe.database import statements
from perfkit.store import Run
from tests.test_server_side import TEN_S, Sample, at, measured_ids, run_with

LOOKS = np.arange(0, 10, 0.5)
A, B = "GET /a", "POST /b"
READ, WRITE = "SELECT … FROM t WHERE id = ?", "UPDATE t SET n=? WHERE id = ?"


def uses(
    endpoint: str, statement: str, calls: float, ms: float, requests: float, rows: float = 1
) -> list[Sample]:
    """What an endpoint sent in one second."""
    label = f"{endpoint}: {statement}"
    told = ("db.calls", calls), ("db.total_ms", ms), ("db.rows", rows)
    return [
        *(s for probe, x in told for s in at([5], probe, x, label)),
        *at([5], "db.requests", requests, endpoint),
    ]


def locks(waiting: float, ms: float, looks: int = 3) -> list[Sample]:
    """So many sessions that wait in the first looks at the database."""
    seen = [float(t) + 0.001 for t in LOOKS[:looks]]
    return [
        *at(LOOKS, "db.round_trip_ms", 1, ""),
        *at(seen, "db.lock_waits", waiting, WRITE),
        *at(seen, "db.lock_wait_ms", ms, WRITE),
        *at(seen, "db.lock_holder", 1, f"idle in transaction: {WRITE}"),
    ]


def pool(out: float, waiting: float, overflow: float = 0, size: float = 5) -> list[Sample]:
    """A pool that was the same all the time."""
    told = {"size": size, "checked_out": out, "waiting": waiting, "overflow": overflow}
    return [s for name, x in told.items() for s in at(TEN_S, f"pool.{name}", x, "main")]


def of(folder: Path, samples: list[Sample]) -> dict[str, str]:
    """Findings of a run whose server told this: their words by their kinds, in order."""
    found = findings.judge(frames.measured(run_with(folder, samples))).findings
    assert len({one.kind for one in found}) == len(found)
    for one in found:
        assert 0 <= one.from_s <= one.to_s <= 10.1
        assert one.text.endswith(".")
    return {one.kind: one.text for one in found}


CANCELLED = "CancelledError"
#: Samples above the limit, which have this finding and no other, and just below it, which have none.
RULES: dict[str, tuple[list[Sample], list[Sample]]] = {
    "n_plus_one": (uses(A, READ, 50, 10, 5), uses(A, READ, 49, 10, 5) + uses(B, READ, 40, 10, 4)),
    "lock_waits": (locks(2, 100), locks(2, 99) + locks(2, 100, looks=0)),
    "statement_timeouts": (at([3], "db.error", 1, f"57014 {READ}"), at([3], "db.error", 1, f"40001 {READ}")),
    "lost_connections": (at([3], "pool.error", 1, "OSError"),
                         at([3], "pool.error", 1, "TimeoutError") + at([4], "pool.error", 1, CANCELLED)),
    "pool_overflow": (
        at(TEN_S[11:], "pool.overflow", 0, "main") + at(TEN_S[:11], "pool.overflow", 3, "main"),
        at(TEN_S[10:], "pool.overflow", 0, "main") + at(TEN_S[:10], "pool.overflow", 3, "main"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_speaks_above_its_limit_only(kind: str, tmp_path: Path) -> None:
    """Above the limit this finding and no other; just below it none at all."""
    above, below = RULES[kind]
    assert list(of(tmp_path / "above", above)) == [kind]
    assert of(tmp_path / "below", below) == {}


def timed(folder: Path, share: float, trip_ms: float, more: list[Sample]) -> dict[str, str]:
    """Findings of a run: the database had this share of each request's time, the model the rest."""
    blank = run_with(folder / "blank", [])
    ids = measured_ids(blank)
    response = frames.timeline(blank)["response_ms"]
    told = [
        (1.0, probe, float(x * ms), "", name)
        for name, ms in zip(ids, response, strict=True)
        for probe, x in (("request.app_ms", 1), ("request.db_ms", share), ("request.model_ms", 1 - share))
    ]
    return of(folder, [*told, *at(LOOKS, "db.round_trip_ms", trip_ms, ""), *more])


def test_a_database_far_away_is_told_by_its_round_trip(tmp_path: Path) -> None:
    """Most of the time was the database's and even SELECT 1 took long; neither of them alone is a finding."""
    words = timed(tmp_path / "slow", 0.95, 120, [])
    assert list(words) == ["slow_database"]
    assert "SELECT 1 took 120 ms" in words["slow_database"]
    assert timed(tmp_path / "share", 0.3, 120, []) == {}
    assert timed(tmp_path / "near", 0.95, 9, []) == {}


def test_a_slow_statement_is_told_where_nothing_else_explains_it(tmp_path: Path) -> None:
    """With its endpoint, calls, time and rows; a statement that waited for a lock is not called slow."""
    slow = uses(A, READ, 50, 5000, 50, rows=100)
    words = timed(tmp_path / "slow", 0.95, 1, slow)
    assert list(words) == ["slow_database"]
    assert f"`{READ}` of GET /a: 50 calls, 100 ms and 2 resulting rows each" in words["slow_database"]
    assert list(timed(tmp_path / "locked", 0.95, 1, [*slow, *locks(2, 100)])) == ["lock_waits"]
    assert timed(tmp_path / "quick", 0.95, 1, uses(A, READ, 50, 4999, 50)) == {}


def test_connections_that_wait_for_a_lock_are_no_exhausted_pool(tmp_path: Path) -> None:
    """A bigger pool would not help them; where few of those that were out waited for it, both are told."""
    words = of(
        tmp_path / "locked", [*locks(4, 500), *pool(6, waiting=3, overflow=1), *uses(B, WRITE, 9, 9, 9)]
    )
    assert list(words) == ["lock_waits"]
    assert "3 of 20 looks at the database, up to 4 at once, the longest seen 500 ms" in words["lock_waits"]
    assert f"mostly `{WRITE}` of POST /b" in words["lock_waits"]
    assert "idle in transaction" in words["lock_waits"]
    words = of(tmp_path / "both", [*locks(1, 500), *pool(6, waiting=3)])
    assert list(words) == ["lock_waits", "pool_exhausted"]


def test_an_exhausted_pool_is_not_said_to_be_in_overflow(tmp_path: Path) -> None:
    """One finding for one trouble."""
    assert list(of(tmp_path, pool(7, waiting=1, overflow=2))) == ["pool_exhausted"]


def test_a_missing_index_is_named_with_statement_endpoint_and_plan(tmp_path: Path) -> None:
    """The statement whose plan reads the table, not another that names it too."""
    scans = at([1], "db.seq_scans", 20, "t") + at([1], "db.seq_rows", 10_000, "t")
    plan = at([1], "db.plan_cost", 9, f"t: {READ} -> Limit > Seq Scan on t, filter (id = ?)")
    told = uses(A, READ, 20, 60, 20, rows=40) + uses(B, WRITE, 20, 600, 20)
    text = of(tmp_path, [*scans, *plan, *told])["missing_index"]
    assert "table t was read from end to end 20 times, 500 rows each" in text
    assert f"By `{READ}` of GET /a (20 calls, 3 ms and 2 resulting rows each)" in text
    assert "its plan: Limit > Seq Scan on t, filter (id = ?)." in text


def test_words_of_n_plus_one(tmp_path: Path) -> None:
    """How many statements a request sends, which of them again and again, and what that costs."""
    text = of(tmp_path, [*uses(A, READ, 600, 240, 10), *uses(A, WRITE, 20, 9, 0)])["n_plus_one"]
    assert "GET /a sent 62 statements a request" in text
    assert f"60 × `{READ}` (24 ms a request)" in text


def test_statements_of_all_servers_are_added_up(tmp_path: Path) -> None:
    """Slowest first; of what ran outside of requests no requests are known; none at all is an empty frame."""
    told = [*uses(A, READ, 2, 10, 2), *uses(A, READ, 3, 10, 3), *uses("outside of requests", WRITE, 1, 30, 0)]

    def of_run(run: Run) -> pd.DataFrame:
        return statements(server_frames.server_samples(frames.measured(run)))

    frame = of_run(run_with(tmp_path / "some", told))
    columns = ["endpoint", "statement", "calls", "ms", "rows", "requests"]
    assert frame[columns].to_numpy().tolist() == [
        ["outside of requests", WRITE, 1, 30, 1, 0],
        [A, READ, 5, 20, 2, 5],
    ]
    assert list(of_run(run_with(tmp_path / "none", [])).columns) == columns
