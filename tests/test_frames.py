"""Frames against the raw rows: every number a report shows can be computed again from the Parquet file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit import frames
from perfkit.errors import BadInput
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import summarize

ROWS = 12_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_timeline(tmp_path_factory.mktemp("made"), ROWS, error_rate=0.02)


@pytest.fixture(scope="module")
def rows(run: Run) -> Part:
    return frames.measured(run)


@pytest.fixture(scope="module")
def every(run: Run) -> pd.DataFrame:
    """All measured rows, with what is derived of them."""
    return frames.timeline(run)


@pytest.fixture(scope="module")
def raw(run: Run) -> pd.DataFrame:
    """The measured rows as they lie in the file, instants as integers."""
    frame = run.table().to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame[frame["phase"] == "measure"].reset_index(drop=True)


def test_timeline_has_the_measured_rows_and_derived_times(every: pd.DataFrame, raw: pd.DataFrame) -> None:
    """Only phase `measure`; every derived column is the difference its docstring says."""
    rows = every
    assert len(rows) == ROWS == rows.attrs["n"]
    for name, (end, begin) in {
        "response_ms": ("done", "planned"),
        "service_ms": ("done", "sent"),
        "kickoff_ms": ("started", "planned"),
        "queue_ms": ("sent", "started"),
    }.items():
        wanted = (raw[end] - raw[begin]).astype("Float64").to_numpy(float, na_value=np.nan) / 1e6
        np.testing.assert_array_equal(rows[name].to_numpy(), wanted)
    assert rows["ttft_ms"].isna().all(), "none of them is a stream"
    assert rows["error"].notna().sum() == raw["error"].notna().sum() == rows.attrs["failed"] > 0
    assert rows["operation"].astype(str).tolist() == raw["operation"].astype(str).tolist()


@pytest.mark.parametrize("latency", ["response", "service"])
def test_summary_is_numpys_on_the_raw_rows(run: Run, raw: pd.DataFrame, latency: str) -> None:
    """Every quantile of the summary equals numpy's on the raw rows exactly; so do n and extremes. The frame
    leaves out, as NaN, what fewer than 10 requests lie beyond."""
    measured = frames.measured(run, latency=latency)
    summary = frames.summary(measured).set_index("operation")
    stored = {one["operation"]: one for one in summarize(measured)}
    begin = {"response": "planned", "service": "sent"}[latency]
    assert set(summary.index) == {*raw["operation"].unique(), frames.TOTAL}
    for name, row in summary.iterrows():
        part = raw if name == frames.TOTAL else raw[raw["operation"] == name]
        good = part[part["error"].isna()]
        x = (good["done"] - good[begin]).to_numpy(np.int64) / 1e6
        assert (row["n"], row["failed"]) == (len(part), len(part) - len(good))
        exact = np.quantile(x, frames.QUANTILES).tolist()
        assert [stored[name][p] for p in frames.NAMES] == exact
        beyond = [round(len(x) * min(q, 1 - q), 6) for q in frames.QUANTILES]
        shown = [one if n >= 10 else math.nan for n, one in zip(beyond, exact, strict=True)]
        np.testing.assert_array_equal([row[p] for p in frames.NAMES], shown)
        assert (row["min"], row["max"]) == (x.min(), x.max())
        assert row["mean"] == pytest.approx(x.mean(), rel=1e-12)
        assert row["std"] == pytest.approx(x.std(ddof=1), rel=1e-12)
        assert row["p95_low"] < row["p95"] < row["p95_high"]


def test_unknown_latency_and_bins_are_refused(run: Run, rows: Part) -> None:
    """A wrong choice is refused with what is allowed."""
    with pytest.raises(BadInput, match="did you mean 'response'"):
        frames.measured(run, latency="respons")
    with pytest.raises(BadInput, match="at least 1"):
        frames.over_time(rows, 0)


def test_figures_draw_few_points_but_keep_extremes(rows: Part, every: pd.DataFrame) -> None:
    """However many rows, a figure's frame has at most 5,000 rows, and the slowest request is among them."""
    slowest = every["response_ms"].max()
    fall = frames.waterfall(rows)
    assert fall["high_ms"].max() >= slowest * 0.99
    good = every["latency_ms"][every["error"].isna()]
    calls = frames.calls(rows, 50)
    assert (calls["max"].max(), calls["min"].min()) == (good.max(), good.min())
    assert calls["n"].sum() == len(good)
    for frame in (
        frames.survival(rows),
        frames.percentiles(rows),
        frames.histogram(rows),
        frames.boxes(rows, "user"),
    ):
        assert 0 < len(frame) <= 5000
        assert frame.attrs["n"] == ROWS


def test_counts_add_up(rows: Part, every: pd.DataFrame) -> None:
    """No request is lost by binning, over time or over latency."""
    over = frames.over_time(rows, 30)
    width = over.attrs["bin_s"]
    assert over["planned_per_s"].sum() * width == pytest.approx(ROWS)
    assert (over["ok_per_s"] + over["failed_per_s"]).sum() * width == pytest.approx(ROWS)
    assert frames.histogram(rows)["count"].sum() == every["error"].isna().sum()
    in_flight = frames.concurrency(rows, 40)
    busy = (every["done_s"] - every["sent_s"]).sum()
    assert in_flight["mean"].sum() * in_flight.attrs["bin_s"] == pytest.approx(busy)


def test_boxes_are_exact(rows: Part, every: pd.DataFrame) -> None:
    """The quantiles of a box are numpy's of that operation."""
    good = every[every["error"].isna()]
    for row in frames.boxes(rows).itertuples():
        x = good.loc[good["operation"] == row.operation, "latency_ms"]
        assert [row.p5, row.p25, row.p50, row.p75, row.p95] == np.quantile(
            x, [0.05, 0.25, 0.5, 0.75, 0.95]
        ).tolist()


def test_many_users_are_cut_to_slowest_and_fastest(rows: Part) -> None:
    """Of 40 users 20 boxes are drawn, the slowest first, and the frame says of how many."""
    boxes = frames.boxes(rows, "user")
    assert (len(boxes), boxes.attrs["groups"]) == (20, 40)
    assert boxes["p50"].is_monotonic_decreasing


def test_timeouts_hold_the_curve_down(rows: Part, every: pd.DataFrame) -> None:
    """Censored requests keep an operation's curve from reaching 100 %, dropped ones would not."""
    curve = frames.survival(rows)
    late = every["error"].isin(["timeout", "cutoff"])
    assert curve.attrs["censored"] == late.sum() > 0
    assert curve.attrs["excluded"] == (every["error"].notna() & ~late).sum()
    top = curve.groupby("operation")["share"].max()
    for name, share in top.items():
        mine = every["operation"] == name
        wanted = every["error"].isna() & mine
        assert share == pytest.approx(wanted.sum() / (wanted.sum() + (late & mine).sum()), abs=1e-9)


def test_errors_are_counted_by_class_and_operation(rows: Part, raw: pd.DataFrame) -> None:
    """The table's counts are those of the raw rows, with words that were really said."""
    table = frames.errors(rows)
    wanted = raw.groupby(["error", "operation"], observed=True).size()
    found = {(e, o): c for e, o, c in zip(table["error"], table["operation"], table["count"], strict=True)}
    assert found == wanted.to_dict()
    assert set(table["words"]) <= set(raw["error_text"].dropna())


def test_streaming(tmp_path: Path) -> None:
    """Gaps and speeds are those inside a response that succeeded, never across two; no streams, none."""
    run = make_timeline(tmp_path, 500, streaming=True)
    frame = frames.streaming(frames.measured(run))
    rows = run.table(["chunks", "phase", "error"]).to_pylist()
    measured = [row for row in rows if row["chunks"] and row["phase"] == "measure"]
    chunks = [row["chunks"] for row in measured if row["error"] is None]
    assert frame.attrs["failed_streams"] == len(measured) - len(chunks) > 0
    speeds = [(len(c) - 1) / (c[-1] - c[0]) * 1e6 for c in chunks if len(c) > 1 and c[-1] > c[0]]
    assert frame.attrs["chunks_per_s"]["n"] == len(speeds)
    assert frame.attrs["chunks_per_s"]["marks"]["p50"] == pytest.approx(np.quantile(speeds, 0.5))
    gaps = np.concatenate([np.diff(c) for c in chunks]) / 1000
    assert frame.attrs["inter_chunk"]["n"] == len(gaps)
    assert frame.attrs["inter_chunk"]["marks"]["p99"] == np.quantile(gaps, 0.99)
    for kind in ("ttft", "inter_chunk", "chunks_per_s"):
        assert frame[frame["kind"] == kind]["count"].sum() == frame.attrs[kind]["n"] > 0
    assert frame.attrs["ttft"]["n"] == len(chunks)
    plain = make_timeline(tmp_path, 100)
    assert frames.streaming(frames.measured(plain)).empty


def test_failed_streams_are_no_times(tmp_path: Path) -> None:
    """Where every stream failed there is nothing to draw, and the frame says how many there were."""
    run = make_timeline(tmp_path, 60, streaming=True, error_rate=1.0)
    frame = frames.streaming(frames.measured(run))
    there = sum(row["phase"] == "measure" and bool(row["chunks"]) for row in run.table().to_pylist())
    assert frame.empty
    assert frame.attrs["failed_streams"] == there


def planned_run(tmp_path: Path, rows: list[dict[str, Any]], to_s: float) -> Part:
    """The measured part of a run of these rows (instants in s), measured from 0 to `to_s`."""
    made = make_timeline(tmp_path, len(rows))
    table = made.table().slice(0, len(rows))
    for name, otherwise in {"planned": 0.0, "started": 0.0, "sent": 0.0, "done": 1.0}.items():
        instants = [round(row.get(name, otherwise) * 1e9) for row in rows]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(instants, pa.int64()))
    for name, otherwise in {"phase": "measure", "error": None, "attempt": 1}.items():
        kind = table.schema.field(name).type
        words = pa.array([row.get(name, otherwise) for row in rows])
        table = table.set_column(table.schema.get_field_index(name), name, words.cast(kind))
    pq.write_table(table, made.path / "timeline.parquet")
    meta = {**made.meta.raw, "measured": {"from_ns": 0, "to_ns": round(to_s * 1e9)}}
    (made.path / "run.json").write_text(json.dumps(meta))
    return frames.measured(Run(made.path))


def test_a_backlog_is_no_throughput(tmp_path: Path) -> None:
    """1,000 a second asked for 2 s of a server that does 500: its rate is 500/s, though all were answered."""
    asked = [{"planned": i / 1000, "done": (i + 1) / 500} for i in range(2000)]
    rows = planned_run(tmp_path, asked, 2)
    assert frames.summary(rows).iloc[-1]["rate_per_s"] == 500
    assert frames.summary(rows).iloc[-1]["ok"] == 2000


def test_the_last_answer_counts(tmp_path: Path) -> None:
    """Where the measured part ends with the last answer, whatever its nanosecond, no request is lost."""
    ends = np.random.default_rng(1).random(50) * 1e4
    rows = planned_run(tmp_path, [{"done": end} for end in ends], round(ends.max() * 1e9) / 1e9)
    assert frames.summary(rows).iloc[-1]["rate_per_s"] == pytest.approx(50 / ends.max(), rel=1e-12)


def test_a_retry_is_not_kicked_off_late(tmp_path: Path) -> None:
    """A second attempt waited for the first, not for the generator; the warnings count it as a retry."""
    first = {"error": "http_5xx", "done": 0.05}
    rows = planned_run(tmp_path, [first, {"attempt": 2, "started": 0.05, "sent": 0.05}, {}], 1)
    assert frames.timeline(rows.run)["kickoff_ms"].fillna(-1).tolist() == [0, -1, 0]
    assert np.nanmax(frames.delays(rows)["kickoff_max"]) == 0
    assert frames.warnings(rows)[-1].startswith("1 of the rows are retries")


def test_a_run_without_rows_or_fields_still_reads(tmp_path: Path) -> None:
    """A run killed before its first row gives empty frames, not exceptions."""
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "state": "running"}))
    run = Run(folder)
    rows = frames.measured(run)
    assert len(frames.timeline(run)) == rows.counts["n"] == 0
    summary = frames.summary(rows)
    assert summary["n"].tolist() == [0]
    made = [frames.waterfall, frames.calls, frames.over_time, frames.concurrency, frames.delays]
    for build in [*made, frames.histogram, frames.boxes, frames.survival, frames.percentiles]:
        assert build(rows).attrs["n"] == 0
    assert frames.errors(rows).empty
    assert frames.streaming(rows).empty
    assert frames.warnings(rows) == []


def test_all_failed(tmp_path: Path) -> None:
    """A run in which nothing succeeded has a summary of failures and no latency."""
    run = make_timeline(tmp_path, 300, error_rate=1.0)
    rows = frames.measured(run)
    total = frames.summary(rows).iloc[-1]
    assert (total["failed"], total["ok"], total["rate_per_s"]) == (300, 0, 0)
    assert np.isnan(total["p50"])
    assert frames.percentiles(rows).empty


def test_open_run_falls_back_to_the_sample(tmp_path: Path) -> None:
    """`latest` is one's own last run, or the sample when there is none."""
    with pytest.raises(BadInput):
        frames.open_run("latest", tmp_path)
    sample = make_timeline(tmp_path / "sample", 50, run_id="20250101-000000-sample-0001")
    assert frames.open_run("latest", tmp_path).path == sample.path
    own = make_timeline(tmp_path, 50)
    assert frames.open_run("latest", tmp_path).path == own.path
