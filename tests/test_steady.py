"""The steady part of a run is counted in the database as numpy would count it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_timeline import make_timeline
from benchmarks.simulated import REGIMES, cold, stored, values_of
from perfkit import stats
from perfkit.compare import frames, steady
from perfkit.compare.reduce import reduce_run
from perfkit.compare.steady import Steady, loaded, responses
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, summarize

N = 30_000


def rounded(regime: str, seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Made requests at whole nanoseconds, as a file keeps them."""
    t, x = REGIMES[regime](np.random.default_rng(seed), n)
    return np.floor(t * 1e9) / 1e9, np.floor(x * 1e6) / 1e6


@pytest.mark.parametrize("n", [60, 700, N])
@pytest.mark.parametrize("regime", [name for name in REGIMES if name != "ties"])
def test_a_run_has_the_values_of_its_arrays(tmp_path: Path, regime: str, n: int) -> None:
    """What the calibrations compute of arrays is what a comparison computes of a file: level, error, n."""
    made = rounded(regime, 7, n)
    end_s = float(made[0][-1])
    run = reduce_run(stored(tmp_path, made, 1), 0.1)
    expected = list(values_of(made, 0.1 * end_s, end_s))
    assert [v.metric for v in run.values] == [v.metric for v in expected]
    for value, one in zip(run.values, expected, strict=True):
        assert (value.operation, value.n) == (TOTAL, one.n)
        found, wanted = (np.array([v.level, v.y, v.se, v.df]) for v in (value, one))
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)


def test_ties_are_spread_as_in_arrays(tmp_path: Path) -> None:
    """On a clock of 5 ms a quantile moves within its step, as `stats.without_ties` says."""
    made = rounded("ties", 3)
    end_s = float(made[0][-1])
    run = reduce_run(stored(tmp_path, made, 1), 0.1)
    for one in values_of(made, 0.1 * end_s, end_s):
        value = run.value(TOTAL, one.metric)
        assert value is not None
        assert value.level == pytest.approx(one.level, rel=1e-3)
        assert value.se == pytest.approx(one.se, rel=0.1, nan_ok=True)


@pytest.mark.parametrize("regime", REGIMES)
def test_steadiness_is_judged_as_in_arrays(tmp_path: Path, regime: str) -> None:
    """Warm-up, drift, growth and time under way are those of `perfkit.stats` on the rows."""
    t, x = made = cold(rounded(regime, 11))
    with loaded(Part(stored(tmp_path, made, 1))) as whole:
        low, high = 0.1 * t[-1], float(t[-1])
        one, late = Steady(whole.part, low, high), t >= low
        assert steady.warmup_share(whole) == pytest.approx(stats.warmup_share(x, t))
        found, wanted = one.drift(), stats.drift(x[late], t[late])
        assert (found.ratio, found.p) == pytest.approx((wanted.ratio, wanted.p), rel=1e-4)
        grown, growth = one.growth(), stats.growth(t, t + x / 1000, low, high)
        assert (grown.ratio, grown.trend_p) == pytest.approx((growth.ratio, growth.trend_p), rel=1e-4)
        inside = np.minimum(t + x / 1000, high) - np.maximum(t, low)
        assert one.in_flight() == pytest.approx(np.maximum(inside, 0).sum() / (high - low), rel=1e-4)


def test_many_rows_are_counted_as_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether rows are kept in a table or read anew by each query is a matter of memory, not of numbers."""
    run = make_timeline(tmp_path, N, streaming=True)
    few = reduce_run(run)
    monkeypatch.setattr(steady, "_FEW", 0)
    many = reduce_run(run)
    assert [(v.operation, v.metric, v.n) for v in few.values] == [
        (v.operation, v.metric, v.n) for v in many.values
    ]
    found, wanted = (np.array([(v.level, v.se) for v in one.values]) for one in (many, few))
    assert found == pytest.approx(wanted, rel=1e-9, nan_ok=True)
    assert (few.reasons, few.notes, few.operations) == (many.reasons, many.notes, many.operations)


def test_a_run_compared_whole_has_the_numbers_that_show_prints(tmp_path: Path) -> None:
    """Without a cut: quantiles, mean and their intervals are those of the summary."""
    run = stored(tmp_path, rounded("ar1", 5), 1)
    one = reduce_run(run, 0.0)
    for row in summarize(Part(run)):
        for metric in ("p50", "p95", "p99", "mean"):
            value = one.value(row["operation"], metric)
            assert value is not None
            assert value.level == pytest.approx(row[metric], rel=1e-12)
            ends = row[f"{metric}_low"], row[f"{metric}_high"]
            closed = ends[0] > 0 and math.isfinite(ends[1])
            assert value.se == pytest.approx(
                math.log(ends[1] / ends[0]) / (2 * 1.959964) if closed else math.nan, rel=1e-6, nan_ok=True
            )


def test_distributions_of_groups_are_numpys(tmp_path: Path) -> None:
    """The shift function rests on exact quantiles, the curves on shares at most a bin beside them."""
    made = [rounded("iid", seed, 5000) for seed in range(4)]
    runs = [stored(tmp_path, one, number) for number, one in enumerate(made)]
    sides = {side: frames.steady_latencies(runs[i : i + 2], 0.0) for i, side in ((0, "A"), (2, "B"))}
    ratios = frames.shift(*sides.values(), paired=False)["ratio"]
    logs = [np.log(np.quantile(x, frames.SHIFT)) for _, x in made]
    assert ratios.to_numpy() == pytest.approx(np.exp((logs[2] + logs[3] - logs[0] - logs[1]) / 2))
    curves = frames.group_ecdf(sides)
    of_a = curves[curves["side"] == "A"]
    wanted = np.mean([[np.mean(x <= ms) for ms in of_a["ms"]] for _, x in made[:2]], axis=0)
    assert of_a["share"].to_numpy() == pytest.approx(wanted, abs=0.005)
    assert curves.attrs == {"runs": {"A": 2, "B": 2}, "n": 20_000}


def test_a_part_of_the_time_is_half_open(tmp_path: Path) -> None:
    """What was planned at its end is of the next part."""
    t = np.arange(100.0)
    part = Part(stored(tmp_path, (t, 1 + t), 1))
    assert responses(part, 10, 20).quantiles([(None, 0.0), (None, 1.0)]) == [11.0, 20.0]
