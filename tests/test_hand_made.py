"""One run whose numbers are computed by hand (tests/hand_made.py), met by every way a number can take.

Of the measured part, 970 of 1,000 requests succeed. Sorted, each ms from 10 to 49 comes 9 times (the first
block has none), each of 51 … 59, 61 … 99 and 101 … 109 ten times, 90 nine times, 60, 110 … 139 and 141 … 149
once. The steady part is what follows the first tenth: 873 of 900 succeed, each of 10 … 49, 51 … 59, 61 … 99
and 101 … 109 nine times. Ranks count from 0; the µs of a value is the number of its block.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfkit.compare import compare
from perfkit.compare import frames as compare_frames
from perfkit.compare.reduce import reduce_run
from perfkit.report import make_report
from perfkit.site import Wishes, publish
from perfkit.store import Run, thresholds
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, summarize
from tests.command import perfkit
from tests.hand_made import MS, S, hand_made, row, write_run

A = [f"20260101-00000{i}-hand-made-000{i}" for i in range(3)]
B = [f"20260101-00001{i}-hand-made-001{i}" for i in range(3)]
HALF = [f"20260101-00002{i}-hand-made-002{i}" for i in range(3)]

#: Rank 969 × p of the whole measured part. p50: 484.5 lies in the ten of 64 (ranks 482 … 491), between its
#: third and fourth, of blocks 2 and 3. p90: 872.1 in those of 104. p95: 920.55 between the last of 108 and
#: the first of 109.
P50, P90, P95 = 64.0025, 104.0011, 108.009 + 0.55 * 0.991
#: All times but the fails': 97 values of sum 5,740 in each of ten blocks, 40 more in the first, 0 … 9 µs.
MEAN = (10 * 5740 + 97 * 40 + 0.097 * 45) / 970
#: Five successes end after the measured part, four reads and a write.
RATE, READ_RATE, WRITE_RATE = 96.5, 71.6, 24.9
#: The steady part, rank 872 × p: 436 = 48 × 9 + 4, the fifth of 59; 784.8 in 99; 828.4 in 105.
STEADY_P50, STEADY_P90, STEADY_P95 = 59.005, 99.0028, 105.0014
STEADY_MEAN = 5740 / 97 + 0.005
#: 873, without the five that end too late, with the nine of the first block that end in it; in 9 s.
STEADY_RATE = 877 / 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of A; of B, 20 ms slower; of HALF, every second request of A."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(3):
        hand_made(folder, A[i], slower=i, tags=["a"], created=f"2026-01-01T00:00:0{i}+00:00")
        hand_made(folder, B[i], slower=20 + i, tags=["b"], created=f"2026-01-01T00:01:0{i}+00:00")
        hand_made(folder, HALF[i], slower=i, every=2, tags=["half"], workload=half_load())
    return folder


def half_load() -> dict[str, Any]:
    """The load of A by name: what came of it is what differs."""
    arrivals = {"shape": "constant", "rate_per_s": 100.0, "duration_s": 10.0}
    return {"scenario": "hand_made", "arrivals": arrivals, "warmup_s": 5.0,
            "target": {"url": "http://127.0.0.1:8283"}}  # fmt: skip


def test_show(data: Path) -> None:
    """n, failures, rate, mean and quantiles of all and of each operation, of the measured rows alone."""
    read, write, total = perfkit("show", A[0], "--json", data=data).json["summary"]
    assert (read["operation"], write["operation"], total["operation"]) == ("read", "write", TOTAL)
    counts = [(row["n"], row["failed"], row["ok"], row["rate_per_s"]) for row in (read, write, total)]
    assert counts == [
        (750, 30, 720, READ_RATE),
        (250, 0, 250, WRITE_RATE),
        (1000, 30, 970, RATE),
    ]
    assert total["p50"] == pytest.approx(P50, abs=1e-9)
    assert total["p90"] == pytest.approx(P90, abs=1e-9)
    assert total["p95"] == pytest.approx(P95, abs=1e-9)
    assert total["mean"] == pytest.approx(MEAN, abs=1e-9)
    assert (total["min"], total["max"]) == (10.001, 149.0)
    assert (total["p99"], total["p99.9"]) == (None, None)  # 9.7 requests beyond p99: fewer than ten
    # the writes take 13, 17, … 109 ms, 40 more in the first block: rank 124.5 is in the ten of 65, from 120
    assert write["p50"] == pytest.approx(65.0045, abs=1e-9)
    assert write["mean"] == pytest.approx(65.0045, abs=1e-9)
    assert (write["min"], write["max"]) == (13.001, 149.0)
    for one in (read, write, total):
        for name in ("p50", "mean"):
            assert one[f"{name}_low"] < one[name] < (one[f"{name}_high"] or math.inf)
    assert (total["p95_low"], total["p95_high"]) == (
        None,
        None,
    )  # in the first block


def test_show_in_words(data: Path) -> None:
    """The lines for a person have the same numbers."""
    out = perfkit("show", A[0], data=data).out
    assert "30 of 750 requests of read failed (4%): 20 × http_5xx (busy 20), 10 × timeout (5 s)." in out
    line = next(line.strip() for line in out.splitlines() if f"{TOTAL}: n" in line)
    assert line.startswith("all operations: n 1000, failed 30, 96.5/s, p50 64 [")
    assert "p95 108.6, " in line
    assert line.endswith("p99 —")
    assert "10 of the rows are retries" in out


def test_list(data: Path) -> None:
    """Rows of every phase, and the failed: 30 measured, 25 of warm-up, 20 drained, 3 removals."""
    (one,) = [run for run in perfkit("ls", "--json", data=data).json if run["id"] == A[0]]
    assert (one["rows"], one["errors"]) == (1095, 78)


def test_a_list_counts_as_every_summary_does(data: Path) -> None:
    """For a person the requests of the measured part, as `show` and reports say; JSON has both."""
    (one,) = [run for run in perfkit("ls", "--json", data=data).json if run["id"] == A[0]]
    assert (one["n"], one["failed"]) == (1000, 30)
    head, *lines = (line.split() for line in perfkit("ls", data=data).out.splitlines())
    assert head == ["id", "state", "verdict", "requests", "failed", "tags"]
    assert next(line for line in lines if line[0] == A[0])[3:5] == ["1000", "30"]


#: Thresholds: value in the unit written, and whether it is met. Quantiles rank the ten timeouts last: of 980.
THRESHOLDS = {
    "p50 < 64.008 ms": (64.0075, True),  # rank 489.5 of 980, between the eighth and ninth of 64
    "p50 < 64.007 ms": (64.0075, False),
    "p95 < 200 ms": (109.009 + 0.05 * 0.991, True),  # rank 930.05, between the last 109 and the only 110
    "p99 < 10 s": (None, False),  # rank 969.21 lies beyond the 970 that were answered
    "error_rate < 3 %": (3.0, False),
    "error_rate <= 3 %": (3.0, True),
    "error_rate(write) < 1 %": (0.0, True),
    "rate > 96 /s": (RATE, True),
    "rate(write) > 1494 /min": (WRITE_RATE * 60, False),
    "p50(write) < 0.1 s": (0.0650045, True),
    "ttft_p50 < 6 ms": (5.0, True),  # of the reads, which are most
    "ttft_p95(write) < 8 ms": (7.0, True),
    "min > 10 ms": (10.001, True),
    "mean < 10 s": (None, False),  # the ten that timed out take longer than is known
    "max < 10 s": (None, False),
    "mean(write) < 65.005 ms": (65.0045, True),
    "max(write) < 149 ms": (149.0, False),
}


@pytest.mark.parametrize("text", THRESHOLDS)
def test_thresholds(data: Path, text: str) -> None:
    """Value and outcome."""
    found = thresholds.parse(text).evaluate(Part(Run(data / "runs" / A[0])))
    value, met = THRESHOLDS[text]
    assert found.ok is met
    assert math.isnan(found.value) if value is None else found.value == pytest.approx(value, abs=1e-9)


def test_the_steady_part(data: Path) -> None:
    """What a comparison knows of a run: its warm-up of a tenth is cut off, setup, drain and teardown too."""
    one = reduce_run(Run(data / "runs" / A[0]))
    assert (one.cut, one.span_s, one.n, one.failed, one.reasons) == (0.1, 9.0, 900, 27, ())
    levels = {(v.operation, v.metric): v.level for v in one.values}
    wanted = {
        (TOTAL, "p50"): STEADY_P50, (TOTAL, "p90"): STEADY_P90, (TOTAL, "p95"): STEADY_P95,
        (TOTAL, "mean"): STEADY_MEAN, (TOTAL, "throughput"): STEADY_RATE, (TOTAL, "error_rate"): 0.03,
        ("read", "error_rate"): 0.04, ("write", "error_rate"): 0.0,
        ("write", "p50"): 61.005, ("write", "mean"): 61.005, ("write", "ttft_p50"): 7.0,
        ("read", "ttft_p50"): 5.0,
    }  # fmt: skip
    assert {name: levels[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    assert (TOTAL, "p99") not in levels  # 8.73 requests beyond it


def test_an_interval_that_cannot_hold_is_not_printed(tmp_path: Path) -> None:
    """Twenty of 1 ms and one of 1 s: mean 48.6 ms, ± 99 ms. Times are positive, so that says nothing."""
    rows = [row(10 * S + i * MS, (1000 if i == 20 else 1) * MS) for i in range(21)]
    run = write_run(tmp_path, "20260101-000000-skew-0001", rows)
    (total,) = summarize(Part(run))
    assert total["mean"] == pytest.approx(1020 / 21)
    assert math.isnan(total["mean_low"])
    assert math.isnan(total["mean_high"])
    words = perfkit("show", run.id, data=tmp_path).out
    assert "no interval for mean: it varied so much during the run" in words
    assert "nan" not in words.replace("nanoseconds", "")


def test_a_longer_warm_up_is_found_and_cut_off(tmp_path: Path) -> None:
    """Three slow blocks of ten: of the other seven, rank 678 × 0.5 = 339 is 48 × 7 + 3, the fourth of 59."""
    one = reduce_run(hand_made(tmp_path, A[0], warm=3))
    value = one.value(TOTAL, "p50")
    assert value is not None
    assert (one.cut, one.n, one.reasons) == (0.3, 700, ())
    assert value.level == pytest.approx(59.006, abs=1e-9)
    assert "its warm-up took 30% of the measured part" in one.notes


def test_a_warm_up_is_explained_where_runs_are_compared(tmp_path: Path) -> None:
    """In plain words, once, before the runs that had a long one: what it is, what is left out, what helps."""
    runs = [hand_made(tmp_path, name, slower=i, warm=3) for i, name in enumerate((*A[:2], *B[:2]))]
    explained, *others = compare(runs[:2], runs[2:]).notes
    assert explained.startswith("a warm-up is the start of a run, as far as it differs from the rest; ")
    assert "the first 30% of every measured part" in explained
    assert "longer runs, or warmup_s in the workload" in explained
    assert f"{A[0]}: its warm-up took 30% of the measured part" in others
    short = [hand_made(tmp_path / "short", name, slower=i) for i, name in enumerate((*A[:2], *B[:2]))]
    assert not any("warm-up" in note for note in compare(short[:2], short[2:]).notes)


def test_the_same_part_has_the_same_numbers(data: Path) -> None:
    """The steady part asked for by its cut: what a summary says of it is what a comparison does."""
    run = Run(data / "runs" / A[0])
    part = Part(run, cut=0.1)
    *_, total = summarize(part)
    assert (part.label, part.span_s, total["n"], total["failed"]) == (
        "steady part, without its first 10%",
        9.0,
        900,
        27,
    )
    names = {"p50": STEADY_P50, "p90": STEADY_P90, "p95": STEADY_P95, "mean": STEADY_MEAN}
    assert {name: total[name] for name in names} == pytest.approx(names, abs=1e-9)
    assert total["rate_per_s"] == pytest.approx(STEADY_RATE, abs=1e-9)
    one = reduce_run(run)
    for name in ("p50", "p90", "p95", "mean"):
        value = one.value(TOTAL, name)
        assert value is not None
        assert value.level == pytest.approx(total[name], abs=1e-9)
        half_log = math.log(total[f"{name}_high"] / total[f"{name}_low"]) / 2
        assert value.se == pytest.approx(half_log / 1.959964, rel=1e-6)


def ratio(b: float, a: float) -> float:
    """B ÷ A of geometric means over runs 0, 1 and 2 ms slower."""
    return math.prod((b + i) / (a + i) for i in range(3)) ** (1 / 3)


def test_compare(data: Path) -> None:
    """Ratios of geometric means over the runs; slower by a third is regressed."""
    done = perfkit("compare", "tag:a", "tag:b", "--no-report", "--json", data=data)
    found = {one["metric"]: one for one in done.json["results"] if one["operation"] == TOTAL}
    assert (done.code, done.json["verdict"], done.json["cut"]) == (0, "regressed", 0.1)
    assert found["p50"]["a"] == pytest.approx((59.005 * 60.005 * 61.005) ** (1 / 3), rel=1e-9)
    assert found["p50"]["ratio"] == pytest.approx(ratio(STEADY_P50 + 20, STEADY_P50), rel=1e-9)
    assert found["p95"]["ratio"] == pytest.approx(ratio(STEADY_P95 + 20, STEADY_P95), rel=1e-9)
    assert found["mean"]["ratio"] == pytest.approx(ratio(STEADY_MEAN + 20, STEADY_MEAN), rel=1e-9)
    assert (found["p50"]["verdict"], found["error_rate"]["a"]) == ("regressed", 0.03)
    assert found["p50"]["low"] < found["p50"]["ratio"] < found["p50"]["high"]
    assert found["throughput"]["a"] == pytest.approx(STEADY_RATE, rel=0.01)  # the slower two lose some
    assert done.json["a"]["runs"] == A


@pytest.mark.parametrize(
    ("a", "b", "code", "verdict"),
    [
        ("a", "b", 4, "regressed"),
        ("b", "a", 0, "improved"),
        ("a", "half", 4, "regressed"),
        ("half", "a", 0, "improved"),
    ],
)
def test_gate(data: Path, a: str, b: str, code: int, verdict: str) -> None:
    """Slower is worse; so is half the throughput at the same latency, whatever else stays."""
    primary = "throughput" if "half" in (a, b) else "p50"
    done = perfkit("gate", f"tag:{a}", f"tag:{b}", "--json", "--primary", primary, data=data)
    assert (done.code, done.json["verdict"]) == (code, verdict)


def test_trend(data: Path) -> None:
    """A point of a trend is the steady part's number."""
    runs = [Run(data / "runs" / name) for name in A]
    assert compare_frames.trend(runs, "p50")["level"].tolist() == pytest.approx(
        [59.005, 60.005, 61.005], abs=1e-9
    )
    rates = compare_frames.trend(runs, "throughput")["level"].tolist()
    assert rates[0] == pytest.approx(STEADY_RATE, abs=1e-9)
    assert compare_frames.trend(runs, "error_rate")["level"].tolist() == pytest.approx([0.03] * 3)


def test_site_index(data: Path, tmp_path: Path) -> None:
    """index.json has the numbers of `show`."""
    publish(tmp_path / "site", data, Wishes(title="By hand", reports=False))
    index = json.loads((tmp_path / "site" / "index.json").read_text())
    (one,) = [run for run in index["runs"] if run["id"] == A[0]]
    counts = [one[name] for name in ("requests", "failed", "error_rate", "rate_per_s")]
    assert counts == [1000, 30, 0.03, RATE]
    assert one["latency_ms"]["p50"]["value"] == pytest.approx(P50, abs=1e-9)
    assert one["latency_ms"]["p95"]["value"] == pytest.approx(P95, abs=1e-9)
    assert one["latency_ms"]["p99"] is None


def tables(page: str) -> Iterator[dict[str, list[str]]]:
    """The tables of a page: the cells of each row by its first one."""
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in re.findall(
            r"<tr.*?</tr>", table, re.DOTALL)]  # fmt: skip
        texts = [[html.unescape(re.sub(r"(<[^>]+>|\s)+", " ", cell)).strip() for cell in row] for row in rows]
        yield {row[0]: row[1:] for row in texts}


def test_report(tmp_path: Path) -> None:
    """The tables of the page have the numbers of `show`."""
    run = hand_made(tmp_path, A[0])
    summary, errors = tables(make_report(run, progress=False).read_text())
    assert summary["statistic"] == [TOTAL, "read", "write"]
    assert summary["requests"] == ["1,000", "750", "250"]
    assert summary["failed"] == ["30 3 %", "30 4 %", "0"]
    assert summary["successes a second"] == ["96.5", "71.6", "24.9"]
    points = {name: [cell.split(" ms")[0] for cell in summary[name]] for name in ("mean", "p50", "p95")}
    assert points == {
        "mean": ["63.2", "62.5", "65"],
        "p50": ["64", "63", "65"],
        "p95": ["109", "108", "109"],
    }
    assert (summary["p99"], summary["max"]) == (["—"] * 3, ["149 ms", "148 ms", "149 ms"])
    assert errors["http_5xx"] == ["read", "20", "2.7 %", "busy 20"]
    assert errors["timeout"] == ["read", "10", "1.3 %", "5 s"]
