"""Frames of many rows, made from counts: what is told is numpy's of the raw rows, what is drawn is close."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames, stats
from perfkit.errors import BadInput
from perfkit.frames.over_time import extent
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import numbers_of, summarize

ROWS = 30_000
OPERATIONS = ["create", 'it\'s "odd" $1; --', "update"]
#: Lines may be off by so much: less than a hundredth of an inch of any figure.
CLOSE = 0.003


def odd_run(folder: Path) -> Run:
    """A minute of rows with ties, zeros, failures, timeouts, retries, requests that never ended."""
    rng = np.random.default_rng(7)
    run = make_timeline(folder, ROWS, error_rate=0.0, operations=OPERATIONS, users=70)
    table = run.table()
    n = len(table)
    planned = np.sort(rng.choice(np.arange(0, 60_000, 2), n)) * 1_000_000  # on a clock of 2 ms: edges of bins
    sent = planned + rng.choice([0, 5_000, 1_000_000], n)
    took = np.exp(rng.normal(17, 1, n)).astype(np.int64)
    took = np.where(rng.random(n) < 0.5, took // 1_000_000 * 1_000_000, took)  # ties
    took[rng.random(n) < 0.01] = 0
    error = rng.choice(["", "timeout", "cutoff", "http_5xx"], n, p=[0.9, 0.04, 0.02, 0.04])
    took = np.where(error == "timeout", 60_000_000, took)
    instants = {
        "planned": planned,
        "started": np.minimum(planned + 3_000, sent),
        "sent": sent,
        "done": sent + took,
    }
    for name, values in instants.items():
        unknown = rng.random(n) < 0.01 if name in ("sent", "done") else np.zeros(n, bool)
        table = put(table, name, pa.array(values, pa.int64(), mask=unknown))
    table = put(table, "error", pa.array([word or None for word in error]))
    table = put(table, "attempt", pa.array(rng.choice([1, 2], n, p=[0.9, 0.1])))
    shuffled = table.take(pa.array(rng.permutation(n)))
    pq.write_table(shuffled, run.path / "timeline.parquet", row_group_size=5000)
    return Run(run.path)


def put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, column.cast(field.type))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return odd_run(tmp_path_factory.mktemp("odd"))


@pytest.fixture(params=["response", "service"])
def rows(run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Part:
    """The rows, few of which count as few."""
    monkeypatch.setattr(sys.modules["perfkit.frames.distribution"], "MOST_EXACT", 300)
    monkeypatch.setattr(sys.modules["perfkit.frames.over_time"], "MOST_EXACT", 300)
    return frames.measured(run, latency=request.param)


@pytest.fixture
def every(rows: Part) -> pd.DataFrame:
    return frames.timeline(rows.run, latency=rows.latency)


@pytest.fixture
def good(every: pd.DataFrame) -> pd.DataFrame:
    return every[every["error"].isna() & every["latency_ms"].notna() & every["done_s"].notna()]


def test_a_histogram_is_numpys(rows: Part, good: pd.DataFrame) -> None:
    """Each count and each mark."""
    frame, x = frames.histogram(rows), good["latency_ms"].to_numpy()
    assert frame["count"].sum() == frame.attrs["ok"] == len(x)
    for name, part in frame.groupby("operation"):
        mine = good.loc[good["operation"] == name, "latency_ms"].to_numpy()
        grid = np.append(part["left"], part["right"].iloc[-1])
        assert part["count"].tolist() == np.histogram(mine, grid)[0].tolist()
        marks = {f"p{100 * p:g}": np.quantile(mine, p) for p in (0.5, 0.95, 0.99)}
        assert frame.attrs["marks"][name] == marks


@pytest.mark.parametrize(("by", "most"), [("operation", 20), ("user", 20), ("user", 80)])
def test_boxes_are_numpys(rows: Part, good: pd.DataFrame, by: str, most: int) -> None:
    """Each quantile of each box, and which groups have the slowest and the fastest median; of users, of
    whom there may be many, to 0.3 %."""
    off = 0.0 if by == "operation" else CLOSE
    frame = frames.boxes(rows, by, most)
    names = good[by].astype(str)
    medians = good.groupby(names)["latency_ms"].median().sort_values()
    assert frame.attrs["groups"] == len(medians)
    kept = min(most, len(medians))
    wanted = [*medians[::-1][: kept // 2], *medians[: kept - kept // 2][::-1]]
    np.testing.assert_allclose(frame["p50"], wanted, rtol=off)
    for row in frame.to_dict("records"):
        x = good["latency_ms"][names == row[by]]
        assert row["n"] == len(x)
        found = [row[name] for name in ("min", "p5", "p25", "p50", "p75", "p95", "max")]
        np.testing.assert_allclose(found, np.quantile(x, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]), rtol=off)
        assert (row["min"], row["max"]) == (x.min(), x.max())


def test_boxes_of_something_else_are_refused(rows: Part) -> None:
    """A column is not put into a query as it was given."""
    with pytest.raises(BadInput, match="unknown by"):
        frames.boxes(rows, "user; DROP TABLE r")


def test_calls_count_exactly_and_draw_closely(rows: Part, every: pd.DataFrame, good: pd.DataFrame) -> None:
    """Counts and extremes of each bin are numpy's; p50 and p99, where 10 lie beyond, are within 0.3 %."""
    frame = frames.calls(rows, 37)
    grid = edges(frame, every)
    counts, found = stats.binned(
        good["t_s"].to_numpy(), good["latency_ms"].to_numpy(), grid, (0, 0.5, 0.99, 1)
    )
    assert frame["n"].tolist() == counts.tolist()
    np.testing.assert_array_equal(frame[["min", "max"]].to_numpy().T, found[[0, 3]])
    np.testing.assert_allclose(frame["p50"], found[1], rtol=CLOSE)
    together = round(frame.attrs["over_s"]["p99"] / frame.attrs["bin_s"])
    assert together > 1, "a bin has too few requests for a p99"
    wide = np.append(grid[:-1:together], grid[-1])
    sizes, tails = stats.binned(good["t_s"].to_numpy(), good["latency_ms"].to_numpy(), wide, (0.99,))
    firm = np.where(sizes >= 1000, tails[0], np.nan)
    np.testing.assert_allclose(frame["p99"], np.repeat(firm, together)[: len(frame)], rtol=CLOSE)
    assert frame["p99"].notna().any()


def test_delays_draw_closely(rows: Part, every: pd.DataFrame) -> None:
    """The worst of a bin is exact, quantiles within 0.3 %; a retry has no kick-off delay."""
    frame = frames.delays(rows, 23)
    for name in ("kickoff", "queue"):
        known = every[every[f"{name}_ms"].notna()]
        _, found = stats.binned(
            known["t_s"].to_numpy(), known[f"{name}_ms"].to_numpy(), edges(frame, every), (0.5, 0.99, 1)
        )
        np.testing.assert_array_equal(frame[f"{name}_max"], found[2])
        np.testing.assert_allclose(frame[[f"{name}_p50", f"{name}_p99"]].to_numpy().T, found[:2], rtol=CLOSE)


def test_rates_are_numpys_counts(rows: Part, every: pd.DataFrame) -> None:
    """Also of requests on the edge of a bin, and of those never seen to end."""
    frame = frames.over_time(rows, 60)
    grid, width = edges(frame, every), frame.attrs["bin_s"]
    ended, failed = every["done_s"].fillna(every["t_s"]), every["error"].notna()
    wanted = {"planned": every["t_s"], "ok": ended[~failed], "failed": ended[failed]}
    for name, t in wanted.items():
        assert np.round(frame[f"{name}_per_s"] * width).tolist() == np.histogram(t, grid)[0].tolist()


def test_concurrency_from_counts_is_the_sorted_ones(rows: Part, every: pd.DataFrame) -> None:
    """Means are exact; the extremes of half a million moments are those of every start and end, or nearly."""
    frame = frames.concurrency(rows, 40)
    grid = edges(frame, every)
    sent, done, due = (every[name].to_numpy() for name in ("sent_s", "done_s", "t_s"))
    flying = ~np.isnan(sent) & ~np.isnan(done)
    mean, least, most = stats.concurrency(sent[flying], done[flying], grid)
    np.testing.assert_allclose(frame["mean"], mean, rtol=1e-9, atol=1e-9)
    assert (frame["least"] >= least).all()
    assert (frame["most"] <= most).all()
    assert (frame["most"] - most).abs().max() <= 2
    left = np.where(np.isnan(sent), done, sent)
    waits = ~np.isnan(left)
    np.testing.assert_allclose(
        frame["waiting"], stats.concurrency(due[waits], left[waits], grid)[0], rtol=1e-6, atol=1e-9
    )
    assert frame.attrs["moments_s"] == pytest.approx(frame.attrs["bin_s"] / 12_500)


def test_survival_is_scipys_kaplan_meier(rows: Part, every: pd.DataFrame) -> None:
    """Each point lies within 0.3 % of the curve, and its end is exact."""
    frame = frames.survival(rows)
    late = every["error"].isin(["timeout", "cutoff"])
    assert not frame.attrs["exact"]
    for name, drawn in frame.groupby("operation"):
        mine = every[(every["operation"] == name) & (every["error"].isna() & every["done_s"].notna() | late)]
        x = mine["latency_ms"].fillna(mine["response_ms"].where(late))
        mine, x = mine[x.notna()], x[x.notna()].to_numpy()
        ends = mine["error"].isna().to_numpy()
        curve = scipy.stats.ecdf(scipy.stats.CensoredData(uncensored=x[ends], right=x[~ends])).cdf
        at, share = drawn["latency_ms"].to_numpy(), drawn["share"].to_numpy()
        assert (share >= curve.evaluate(at * (1 - CLOSE)) - 1e-6).all()
        assert (share <= curve.evaluate(at * (1 + CLOSE)) + 1e-6).all()
        assert share[-1] == pytest.approx(curve.probabilities[-1], abs=1e-4)


def test_percentiles_draw_closely_and_end_exactly(rows: Part, good: pd.DataFrame) -> None:
    """Within 0.3 % of numpy's; those that few requests carry, which are told in words, to the last bit."""
    frame = frames.percentiles(rows)
    assert len(frame) == 600
    for name, drawn in frame.groupby("operation"):
        x = good["latency_ms"][good["operation"] == name]
        wanted = np.quantile(x, drawn["p"])
        np.testing.assert_allclose(drawn["latency_ms"], wanted, rtol=CLOSE)
        last = len(x) * (1 - drawn["p"].to_numpy()) < 250
        assert drawn["latency_ms"][last].tolist() == wanted[last].tolist()


def test_a_map_counts_every_request(rows: Part, every: pd.DataFrame) -> None:
    """Of thousands each is in one cell for its wait and in one for its service or failure."""
    frame = frames.waterfall(rows)
    sent = every["sent_s"].notna()
    served = every["error"].isna() & sent & every["done_s"].notna()
    failed = every["error"].notna() & every["done_s"].notna()
    counts = frame.groupby("kind")["n"].sum().to_dict()
    assert counts == {"waiting": sent.sum(), "service": served.sum(), "failed": failed.sum()}
    assert len(frame) < 6000
    took = (1000 * (every["done_s"] - every["sent_s"])[served]).round(6)  # whole ns: many are 4 ms
    service = frame[frame["kind"] == "service"]
    for limit in service["low_ms"].unique()[5:25:5]:
        assert service["n"][service["low_ms"] < limit * 0.999].sum() == (took < limit).sum()


def test_a_quantile_that_a_run_cannot_carry_is_not_drawn(tmp_path: Path) -> None:
    """2,500 requests have no p99 over time: three stretches of 1,500 are more than there are."""
    frame = frames.calls(frames.measured(make_timeline(tmp_path, 2500, error_rate=0.0)))
    assert frame["p99"].isna().all()
    assert frame["p50"].notna().mean() > 0.8
    assert frame["p90"].notna().mean() > 0.8
    assert frame.attrs["over_s"]["p90"] > frame.attrs["over_s"]["p50"]


def edges(frame: pd.DataFrame, every: pd.DataFrame) -> np.ndarray:
    """The grid of a frame over time, which holds all there is of the measured part and a little more."""
    t, width = frame["t_s"].to_numpy(), frame.attrs["bin_s"]
    low = t - width / 2 if frame.attrs.get("drawn") == "bins" or "queue_p50" in frame else t
    grid = np.round(np.append(low, low[-1] + width), 9)
    high = max(every.attrs["span_s"], every["t_s"].max(), every["done_s"].max())
    assert (grid[0], grid[-1]) == (min(every["t_s"].min(), 0.0), pytest.approx(high, rel=1e-4))
    assert grid[-1] >= high
    return grid


def test_of_very_many_chunks_a_sample_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in so many responses, which the frame and its caption tell."""
    rows = frames.measured(make_timeline(tmp_path, 4000, streaming=True))
    every = frames.streaming(rows)
    monkeypatch.setattr(
        sys.modules["perfkit.frames.streaming"], "MOST_GAPS", every.attrs["inter_chunk"]["n"] // 3
    )
    part = frames.streaming(rows)
    one_in = part.attrs["one_in"]
    assert (every.attrs["one_in"], one_in) == (1, 4)
    assert part.attrs["ttft"]["n"] == pytest.approx(every.attrs["ttft"]["n"] / one_in, rel=0.2)
    assert f"1 in {one_in} responses" in figures.words(figures.streaming(part))[1]


@pytest.mark.parametrize("bins", [1, 7, 707, 999, 3000])
def test_a_short_last_bin_is_a_rate_too(rows: Part, bins: int) -> None:
    """Whatever the bins, rates times their widths are the counts, and the last bin ends with the run."""
    frame = frames.over_time(rows, bins)
    edges = np.append(frame["t_s"], extent(rows)[1])
    counted = sum(float((frame[f"{name}_per_s"] * np.diff(edges)).sum()) for name in ("ok", "failed"))
    assert counted == pytest.approx(rows.counts["n"])
    assert (np.diff(edges) > 0).all()


def test_a_part_is_counted_in_few_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many operations there are: one pass counts, one fetches what all their numbers need."""
    asked = []
    run = Part._run
    monkeypatch.setattr(Part, "_run", lambda self, sql, *more: (asked.append(sql), run(self, sql, *more))[1])
    part = Part(make_timeline(tmp_path, 2_000, operations=[f"o{i}" for i in range(30)], error_rate=0.0))
    before = len(asked)
    assert numbers_of(part, "o1")["max"] > 0
    first = [sql for sql in asked[before:] if "FROM part" in sql or "FROM r " in sql]
    assert len(first) == 3  # counted, fetched, and what ended in the part
    summarize(part)
    assert len([sql for sql in asked[before:] if "FROM part" in sql]) <= 4
