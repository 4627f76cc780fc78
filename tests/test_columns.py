"""The columns of a timeline: read in their types, or refused in words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perfkit import frames
from perfkit.compare.reduce import reduce_run
from perfkit.errors import PerfkitError
from perfkit.stats import growth
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, summarize
from tests.drills.store import make_store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A complete run, to be damaged."""
    return Run(tmp_path / "runs" / make_store(tmp_path)[0])


def rewrite(run: Run, **columns: pa.Array) -> None:
    """Put other columns in place of the timeline's; None takes one away."""
    table = pq.read_table(run.path / "timeline.parquet")
    for name, column in columns.items():
        table = table.drop_columns([name])
        table = table if column is None else table.append_column(name, column)
    pq.write_table(table, run.path / "timeline.parquet")


N = 1586
DAMAGED = {
    "its column done is double, not int64": {"done": pa.array([math.nan] * N)},
    "its column sent is string, not int64": {"sent": pa.array(["\x1b[31m"] * N)},
    "its column first_byte is bool, not int64": {"first_byte": pa.array([True] * N)},
    "its column started is list<": {"started": pa.array([[1]] * N)},
    "its column operation is struct<": {"operation": pa.array([{"a": 1}] * N)},
    "its column error is binary, not dictionary<": {"error": pa.array([b"x"] * N)},
    "its column phase has 1,586 nulls": {"phase": pa.nulls(N)},
    "its column planned has 1,586 nulls": {"planned": pa.nulls(N, pa.int64())},
    "its column operation has 1,586 nulls": {"operation": pa.nulls(N)},
    "it has no column planned": {"planned": None},
    "it has no column operation": {"operation": None},
    "its column done reaches 106,752 days": {"done": pa.array([2**63 - 1] * N)},
    "its column planned reaches -106,752 days": {"planned": pa.array([-(2**63)] * N)},
    "not in range": {"user": pa.array([2**40] * N)},
}


@pytest.mark.parametrize("words", DAMAGED)
def test_what_is_no_timeline_is_refused_in_a_line(run: Run, words: str) -> None:
    """Another kind of value, none where every row has one, or a time no run reaches: each by its name."""
    rewrite(run, **DAMAGED[words])
    with pytest.raises(PerfkitError, match="is damaged, its rows cannot be read") as error:
        run.table()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(PerfkitError, match="is damaged"):
        run.table(["planned", *DAMAGED[words]])


def test_a_column_that_is_there_twice_is_refused(run: Run) -> None:
    """Nobody knows which of them is meant."""
    table = run.table()
    pq.write_table(table.append_column("done", table["planned"]), run.path / "timeline.parquet")
    with pytest.raises(PerfkitError, match="it has two columns done"):
        run.table(["done"])


def test_the_same_values_in_another_type_are_read(run: Run) -> None:
    """Wider and narrower integers, plain and large strings: the rows and the summary stay the same."""
    table, before = run.table(), frames.summary(frames.measured(run))
    user, words = table["user"].cast(pa.int64()), table["operation"].cast(pa.string())
    rewrite(run, user=user, operation=words.cast(pa.large_string()), worker=table["worker"].cast(pa.uint8()))
    assert run.table().select(table.column_names).equals(table)
    assert frames.summary(frames.measured(run)).equals(before)


def test_columns_of_others_are_left_out_and_missing_ones_are_null(run: Run) -> None:
    """What has another name is not read; a column not every row has, in its own type."""
    table = run.table()
    rewrite(run, status=None, error=None)
    table = pq.read_table(run.path / "timeline.parquet").append_column("mine", pa.array([{"a": 1}] * N))
    pq.write_table(table.append_column("server_db", pa.array([1] * N)), run.path / "timeline.parquet")
    read = run.table()
    assert "mine" not in read.column_names
    assert read["server_db"].type == pa.float64()
    asked = run.table(["status", "error", "done"])
    assert asked["status"].null_count == asked["error"].null_count == N
    assert [asked[name].type for name in ("status", "done")] == [pa.int16(), pa.int64()]


def test_a_request_never_seen_to_end_is_no_success(run: Run) -> None:
    """Without an end there is no latency: frames and comparisons leave it out of the good ones alike."""
    done = run.table()["done"].to_pylist()
    rewrite(run, done=pa.array([None if i % 3 == 0 else value for i, value in enumerate(done)]))
    total, compared = summarize(Part(run))[-1], reduce_run(run, 0.0)
    assert 0 < total["ok"] < total["n"]
    assert (compared.n, compared.n - compared.failed) == (total["n"], total["ok"])
    assert frames.timeline(run)["latency_ms"].notna().sum() == total["ok"]
    mean = compared.value(TOTAL, "mean")
    assert mean is not None
    assert mean.level == pytest.approx(total["mean"])


def test_requests_never_seen_to_end_are_under_way_until_the_end() -> None:
    """A null `done` counts as in flight; it is no warning and no NaN."""
    start = np.linspace(0, 100, 1000)
    end = start + 0.1
    end[::10] = math.nan
    found = growth(start, end, 0.0, 100.0)
    assert found.found
    assert not growth(start, start + 0.1, 0.0, 100.0).found
