"""Statistics against numpy, scipy and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perfkit import stats

values = st.floats(0.001, 1e5, allow_nan=False)
latencies = st.integers(1, 300).flatmap(lambda n: arrays(np.float64, n, elements=values))
few = st.integers(1, 60).flatmap(lambda n: arrays(np.float64, n, elements=st.integers(1, 12).map(float)))


def autocorrelated(n: int, seed: int, keep: float = 0.999) -> np.ndarray:
    """Lognormal latencies whose logarithm is an AR(1) series with standard deviation 0.5 plus noise."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    shocks = rng.normal(0, 0.4 * math.sqrt(1 - keep * keep), n)
    shocks[0] = rng.normal(0, 0.4)
    return np.exp(lfilter([1.0], [1.0, -keep], shocks) + rng.normal(0, 0.3, n))


@given(latencies, st.floats(0, 1))
def test_quantile_is_numpys(x: np.ndarray, p: float) -> None:
    """A quantile is bit for bit numpy's linear one, alone or with an interval."""
    assert stats.quantile(x, p) == np.quantile(x, p)
    assert stats.quantiles(x, np.arange(len(x), dtype=float), [p])[0].point == np.quantile(x, p)


@given(
    latencies,
    st.lists(st.sampled_from([0, 0.05, 0.25, 0.5, 0.9, 0.99, 0.999, 1]), min_size=1),
    st.integers(1, 9),
)
def test_grouped_quantiles_are_numpys(x: np.ndarray, ps: list[float], groups: int) -> None:
    """The quantiles of each group are bit for bit numpy's of that group alone; an empty group has none."""
    group = np.random.default_rng(len(x)).integers(-1, groups, len(x))
    counts, found = stats.grouped(group, x, groups, ps)
    for g in range(groups):
        mine = x[group == g]
        assert counts[g] == len(mine)
        if len(mine):
            assert found[:, g].tolist() == np.quantile(mine, ps).tolist()
        else:
            assert np.isnan(found[:, g]).all()


@given(few, st.integers(0, 2**32 - 1))
def test_kaplan_meier_is_scipys(x: np.ndarray, seed: int) -> None:
    """Times and shares agree with scipy.stats.ecdf on right-censored data, ties included."""
    censored = np.random.default_rng(seed).random(len(x)) < 0.3
    times, place = np.unique(x, return_inverse=True)
    ended, late = (np.bincount(place, which, len(times)).astype(int) for which in (~censored, censored))
    share = stats.kaplan_meier(ended, late)
    if censored.all():
        assert not share.any()
        return
    times, share = times[ended > 0], share[ended > 0]
    data = scipy.stats.CensoredData(uncensored=x[~censored], right=x[censored])
    theirs = scipy.stats.ecdf(data).cdf
    pick = np.isin(theirs.quantiles, x[~censored])
    assert times.tolist() == theirs.quantiles[pick].tolist()
    np.testing.assert_allclose(share, theirs.probabilities[pick], atol=1e-12)


@given(few, few, st.integers(1, 8))
@settings(max_examples=60)
def test_concurrency_is_what_counting_gives(start: np.ndarray, length: np.ndarray, bins: int) -> None:
    """Mean, least and most under way in a cell agree with looking at every instant something changes."""
    n = min(len(start), len(length))
    start, end = start[:n], start[:n] + length[:n] - 1  # some last no time at all
    grid = np.linspace(0.5, 20.25, bins + 1)
    mean, least, most = stats.concurrency(start, end, grid)
    for i in range(bins):
        left, right = grid[i], grid[i + 1]
        changes = [left, *(t for t in np.concatenate([start, end]) if left <= t < right)]
        counts = [int(((start <= t) & (end > t)).sum()) for t in changes]
        assert (least[i], most[i]) == (min(counts), max(counts))
        overlap = np.clip(np.minimum(end, right) - np.maximum(start, left), 0, None).sum()
        assert mean[i] == pytest.approx(overlap / (right - left), abs=1e-9)


def test_order_statistics_cover_what_they_say() -> None:
    """The ranks bound the quantile with at least the level, by the binomial distribution."""
    for n, p in ((30, 0.5), (200, 0.9), (399, 0.95)):
        low, high = stats.order_statistics(n, p)
        covered = scipy.stats.binom.cdf(high - 1, n, p) - scipy.stats.binom.cdf(low - 1, n, p)
        assert 0.95 <= covered < 0.985


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_within_run_interval_covers_under_autocorrelation(p: float) -> None:
    """On autocorrelated runs the slice interval covers the true quantile about as often as it says;
    the one that takes requests as independent does not."""
    truth = math.exp(0.5 * scipy.stats.norm.ppf(p))
    hits = naive = 0
    for seed in range(200):
        x = autocorrelated(20_000, seed)
        found = stats.quantiles(x, np.arange(len(x), dtype=float), [p])[0]
        hits += found.unit == stats.WIDE or found.low <= truth <= found.high
        low, high = stats.order_statistics(len(x), p)
        ranked = np.sort(x)
        naive += ranked[low - 1] <= truth <= ranked[high - 1]
    assert hits >= 0.9 * 200
    assert naive < 0.6 * 200


def in_line(n: int, load: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals and response times of M/M/1 in its steady state, service 1 on average."""
    between, service = rng.exponential(1 / load, n), rng.exponential(size=n)
    first = rng.exponential(1 / (1 - load)) if rng.random() < load else 0.0
    walk = np.concatenate([[0.0], np.cumsum(service[:-1] - between[1:])])
    wait = np.maximum(first + walk, walk - np.minimum.accumulate(walk))
    return np.cumsum(between), wait + service


@pytest.mark.parametrize(("n", "load", "p"), [(5000, 0.9, 0.95), (5000, 0.8, 0.99), (20_000, 0.9, 0.99)])
def test_the_tail_of_a_queue_is_open_above(n: int, load: float, p: float) -> None:
    """Its largest values come in few long waits: that the largest one seen is no bound is said, and the lower
    end holds 95 times of 100 or more."""
    rng = np.random.default_rng(20261129)
    truth = -math.log(1 - p) / (1 - load)
    found = []
    for _ in range(200):
        t, x = in_line(n, load, rng)
        found.append(stats.quantiles(x, t, [p])[0])
    given = [one for one in found if one.unit == stats.WITHIN_RUN]
    assert sum(one.high == math.inf for one in given) > 0.9 * len(given)
    assert len(given) > 100
    assert sum(one.low <= truth <= one.high for one in given) >= 0.93 * len(given)


def test_independent_requests_have_closed_intervals() -> None:
    """Of 1,200 both ends of p95 are known, of 5,000 those of p99; they cover 93 to 98 times of 100."""
    rng = np.random.default_rng(20261129)
    for n, p in ((1200, 0.95), (5000, 0.99)):
        truth = scipy.stats.norm.ppf(p)
        found = [stats.quantiles(rng.normal(size=n), np.arange(float(n)), [p])[0] for _ in range(400)]
        assert sum(math.isfinite(one.high) for one in found) > 0.95 * 400
        assert 0.93 * 400 <= sum(one.low <= truth <= one.high for one in found) <= 0.985 * 400


def test_mean_interval_covers() -> None:
    """So does the interval of the mean."""
    truth = math.exp(0.125)
    runs = [autocorrelated(10_000, seed) for seed in range(200)]
    found = [stats.mean(x, np.arange(len(x), dtype=float)) for x in runs]
    assert sum(e.unit == stats.WIDE or e.low <= truth <= e.high for e in found) >= 0.9 * 200


def test_too_few_requests_give_no_interval() -> None:
    """With fewer than ten requests beyond a quantile there is no interval."""
    x = np.random.default_rng(1).permutation(np.arange(700.0))
    median, tail = stats.quantiles(x, np.arange(700.0), [0.5, 0.999])
    assert median.low < median.point < median.high
    assert math.isnan(tail.low)
    assert tail.unit == stats.THIN


def test_a_run_that_only_rises_has_no_interval_of_its_median() -> None:
    """An interval from the least to the largest value would say nothing: there is none."""
    x = np.arange(700.0)
    (median,) = stats.quantiles(x, x, [0.5])
    assert (median.point, median.unit) == (349.5, stats.WIDE)
    assert math.isnan(median.low)


def test_support_is_exact() -> None:
    """Ten of a hundred requests lie beyond p90: enough to show it."""
    assert stats.support(100, 0.9) == 10
    assert stats.support(1000, 0.01) == 10  # below it, that is
    assert not math.isnan(stats.quantiles(np.arange(100.0), np.arange(100.0), [0.9])[0].low)


def test_a_burst_has_no_time_to_replicate_in() -> None:
    """Rows planned at one instant, or in few slices, take rows as independent: no interval of width zero."""
    x = np.arange(1000.0)
    for t in (np.zeros(1000), np.repeat([0.0, 1.0, 9.0], [400, 400, 200])):
        median = stats.quantiles(x, t, [0.5])[0]
        assert median.unit == stats.mean(x, t).unit == stats.INDEPENDENT
        assert median.low < median.point < median.high


def test_small_runs_say_what_they_take_for_independent() -> None:
    """Below ten rows a slice the order-statistic interval is used, and named."""
    x = np.random.default_rng(1).lognormal(size=100)
    assert stats.quantiles(x, np.arange(100.0), [0.5])[0].unit == stats.INDEPENDENT
    assert stats.mean(x, np.arange(100.0)).unit == stats.INDEPENDENT
    assert stats.mean(x[:3], np.arange(3.0)).unit == stats.THIN


def test_a_gap_does_not_switch_the_drift_check_off() -> None:
    """A second of sixty without a request: 60 % slower at the end is a drift all the same; with half of the
    time missing it is not known."""
    rng = np.random.default_rng(5)
    t = np.sort(rng.uniform(0, 60, 12_000))
    x = rng.lognormal(size=len(t), sigma=0.3) * np.where(t > 40, 1.6, 1.0)
    whole = (t < 20) | (t > 21.2)
    assert stats.drift(x[whole], t[whole]).found
    assert not stats.drift(rng.lognormal(size=whole.sum(), sigma=0.3), t[whole]).found
    assert math.isnan(stats.drift(x[(t < 10) | (t > 25)], t[(t < 10) | (t > 25)]).ratio)


def test_nothing_in_nothing_out() -> None:
    """No values give NaN or empty arrays, not an exception."""
    none = np.empty(0)
    assert math.isnan(stats.quantile(none, 0.5))
    assert stats.quantiles(none, none, [0.5])[0].n == 0
    assert stats.mean(none, none).n == 0
    assert len(stats.kaplan_meier(none.astype(int), none.astype(int))) == 0
    mean, least, most = stats.concurrency(none, none, stats.edges(0, 1, 3))
    assert not mean.any()
    assert not least.any()
    assert not most.any()


def test_equal_instants_are_one_slice() -> None:
    """A burst whose requests were all due at once is no division by zero."""
    x = np.random.default_rng(1).lognormal(size=1000)
    found = stats.quantiles(x, np.zeros(1000), [0.5])[0]
    assert found.point == np.median(x)


@pytest.mark.parametrize(
    ("ratio", "p", "found"), [(1.2, 1e-4, True), (0.8, 1e-4, True), (1.2, 0.01, False), (1.04, 1e-9, False)]
)
def test_a_drift_is_large_and_not_by_chance(ratio: float, p: float, found: bool) -> None:
    """More than 5 %, either way, and a p-value below 0.001: both."""
    assert stats.Drift(ratio, p).found is found


@pytest.mark.parametrize(
    ("ratio", "trend_p", "slope_p", "found"),
    [(2.0, 1e-3, 1e-2, True), (2.0, 0.5, 1e-2, False), (2.0, 1e-3, 0.5, False), (1.4, 1e-3, 1e-2, False)],
)
def test_a_backlog_grows_all_the_time(ratio: float, trend_p: float, slope_p: float, found: bool) -> None:
    """Half as much again in flight, by a trend and by a slope: all three."""
    assert stats.Growth(ratio, trend_p, slope_p).found is found


def test_counts_vary_at_least_as_chance_makes_them() -> None:
    """Runs with one failure each are alike by chance: their difference's error is not below Poisson's."""
    alike = stats.pooled(np.zeros(5), np.zeros(5))
    assert (alike.se, alike.at_least(0.3).se) == (0.0, 0.3)
    apart = stats.pooled(np.array([0.0, 2.0]), np.array([1.0, 3.0]))
    assert apart.at_least(0.3).se == apart.se > 0.3
