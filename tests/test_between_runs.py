"""Statistics between runs: t tests against scipy, adjustments, power, capacity, change points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from perfkit import stats

RNG = np.random.default_rng(5)
A, B = RNG.normal(0, 0.03, 6), RNG.normal(0.05, 0.03, 6)


def test_paired_pooled_and_welch_are_scipys() -> None:
    """Without a history each is the textbook's test, its interval included."""
    for mine, theirs in (
        (stats.paired(A, B), scipy_stats.ttest_rel(B, A)),
        (stats.pooled(A, B), scipy_stats.ttest_ind(B, A)),
        (stats.welch(A, B[:4]), scipy_stats.ttest_ind(B[:4], A, equal_var=False)),
    ):
        assert mine.p == pytest.approx(theirs.pvalue)
        low, high = theirs.confidence_interval(0.95)
        assert np.log(mine.interval()) == pytest.approx([low, high])


def test_a_history_adds_degrees_of_freedom_unless_it_is_too_quiet() -> None:
    """Variances weighted by degrees of freedom; one far below these runs' is not used, and that is told."""
    plain = stats.pooled(A, B)
    known = stats.pooled(A, B, stats.History(0.03**2, 20))
    assert (known.method, known.df) == ("moderated", 30)
    inside = plain.se**2 * 3
    assert known.se**2 * 3 == pytest.approx((10 * inside + 20 * 0.0009) / 30)
    quiet = stats.pooled(A, B, stats.History(0.001**2, 20))
    assert quiet.noisier
    assert (quiet.method, quiet.se) == ("pooled", plain.se)
    alone = stats.pooled(A[:1], B[:1], stats.History(0.03**2, 20))
    assert alone.df == 20


def test_no_noise_is_no_division_by_zero() -> None:
    """Equal runs: p is 1 for no difference and 0 for one."""
    same = np.ones(3)
    assert stats.pooled(same, same).p == 1
    assert stats.pooled(same, same + 1).p == 0


def test_holm_is_the_textbooks() -> None:
    """Holm's own steps: p(1)·m, p(2)·(m-1), …, never falling, at most 1."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []


def test_max_t_is_the_exact_permutation_test_for_one_metric() -> None:
    """With one metric it is scipy's permutation t test; with a copy of it nothing is paid for the second."""

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        return abs(float(scipy_stats.ttest_ind(x, y).statistic))

    data = (A, B + 0.02)
    wanted = scipy_stats.permutation_test(data, statistic, n_resamples=np.inf, alternative="greater").pvalue
    one = stats.max_t(data[0][:, None], data[1][:, None])
    assert one == pytest.approx([wanted])
    twice = stats.max_t(*(np.stack([x, 2 * x], axis=1) for x in data))
    assert twice == pytest.approx([wanted, wanted])


def test_the_detectable_change_is_found_8_times_of_10() -> None:
    """By simulation: runs that differ by it are told apart in 80 % of comparisons."""
    rng, sd, repeats = np.random.default_rng(1), 0.03, 5
    change = stats.detectable(sd * math.sqrt(2 / repeats), 2 * repeats - 2)
    found = sum(
        stats.pooled(rng.normal(0, sd, repeats), rng.normal(math.log1p(change), sd, repeats)).p < 0.05
        for _ in range(2000)
    )
    assert 0.77 < found / 2000 < 0.83


@pytest.mark.parametrize("df", [1, 2, 3.5, 8, 40, 400])
def test_the_detectable_change_is_known_for_any_df(df: float) -> None:
    """Few degrees of freedom or many: between the normal's bound and nothing absurd."""
    assert math.log1p(stats.detectable(0.001, df)) > 2.8 * 0.001
    assert stats.detectable(0.001, df) < 0.1


@pytest.mark.parametrize("pairs", [True, False])
def test_repeats_needed_are_the_fewest(pairs: bool) -> None:
    """With one repeat less the margin is not detectable any more."""
    sd, margin = 0.03, 0.05
    repeats = stats.repeats_needed(sd, margin, pairs=pairs)
    assert repeats is not None

    def change(n: int) -> float:
        return stats.detectable(sd * math.sqrt((1 if pairs else 2) / n), n - 1 if pairs else 2 * n - 2)

    assert change(repeats) <= margin < change(repeats - 1)
    assert stats.repeats_needed(10.0, margin, pairs=pairs) is None


def test_tipping_point_is_where_one_run_a_side_would_count() -> None:
    """With exactly that spread between runs the difference is as large as its interval."""
    tau = stats.tipping_point(0.2, 0.1)
    z = stats.t_factor(0.95, 1e9)
    assert z * math.sqrt((0.1 / z) ** 2 + 2 * tau**2) == pytest.approx(0.2)
    assert stats.tipping_point(0.05, 0.1) == 0


def test_bands_hold_at_all_columns_at_once() -> None:
    """In 95 % of simulated comparisons of the same thing no column leaves its band."""
    rng, inside, draws = np.random.default_rng(3), 0, 300
    for _ in range(draws):
        a, b = (rng.normal(0, 1, (6, 1)) + rng.normal(0, 0.5, (6, 19)) for _ in "ab")
        factor, method = stats.simultaneous_factor(a, b, paired=False, df=10)
        each = [stats.pooled(x, y) for x, y in zip(a.T, b.T, strict=True)]
        inside += all(abs(one.d) <= factor * one.se for one in each)
    assert "permutations" in method
    assert 0.9 <= inside / draws <= 0.985


# -- ties ------------------------------------------------------------------------------------------


def test_ties_are_spread_over_their_step() -> None:
    """Values of a coarse clock move by less than half its step, in order; fine ones do not move."""
    x = np.repeat([5.0, 10.0, 15.0], 200)
    even = stats.without_ties(x)
    assert len(np.unique(even)) == 600
    assert np.abs(even - x).max() < 2.5
    assert np.median(even) == pytest.approx(10, abs=0.01)
    fine = RNG.normal(10, 1, 500)
    assert stats.without_ties(fine) is fine


def test_mean_level_is_the_sorted_ones() -> None:
    """Without sorting the same mean concurrency as by sorted events."""
    start = RNG.uniform(0, 10, 3000)
    end = start + RNG.exponential(0.2, 3000)
    grid = np.linspace(2, 9, 31)
    np.testing.assert_allclose(stats.mean_level(start, end, grid), stats.concurrency(start, end, grid)[0])


# -- capacity and change points --------------------------------------------------------------------

#: SPEC SDM91 on a Sun SPARCcenter 2000, from Gunther, "Guerrilla Capacity Planning" (2007); R package usl.
SPECSDM91 = ([1, 18, 36, 72, 108, 144, 216], [64.9, 995.9, 1652.4, 1853.2, 1828.9, 1775.0, 1702.2])


def test_the_law_is_fitted_as_published() -> None:
    """The R package usl prints 89.9952, 0.0277285 and 0.0001044 for this set; the knee is at 96.5.

    Seven points know it to 74 to 125 only, which is said.
    """
    law = stats.fit_usl(*(np.array(x, float) for x in SPECSDM91))
    assert law.gamma == pytest.approx(89.9952, rel=1e-4)
    assert law.alpha == pytest.approx(0.0277285, rel=1e-4)
    assert law.beta == pytest.approx(0.0001044, rel=1e-3)
    assert law.knee == pytest.approx(96.5, abs=0.1)
    assert law.knee_interval[0] < 96.5 < law.knee_interval[1]
    assert law.told.startswith("too uncertain: the fit puts it at 96.5, 95 % interval 74")
    three = np.tile(np.array(SPECSDM91, float), 3)
    assert stats.fit_usl(three[0], three[1] * RNG.normal(1, 0.01, 21)).told == ""


def test_a_knee_beyond_the_range_is_not_told() -> None:
    """Measured up to half of it the fit may put it anywhere: the reason stands in its place."""
    n, x = (np.array(one, float) for one in SPECSDM91)
    law = stats.fit_usl(n[:4], x[:4])
    assert "beyond the measured range" in law.told or "too uncertain" in law.told
    with pytest.raises(ValueError, match="give 4 or more"):
        stats.fit_usl(n[:3], x[:3])


def test_a_law_that_does_not_fit_tells_no_knee() -> None:
    """A server that serves four at once and queues the rest is no such law: the curve misses its edge."""
    n = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 3)
    law = stats.fit_usl(n, np.minimum(n, 4) * 174 * RNG.normal(1, 0.005, 15))
    assert law.told.startswith("the law does not describe this server: it misses by 1")


def test_a_linear_server_has_no_knee() -> None:
    """Throughput that grows with load: no knee, and no crash at beta 0."""
    n = np.array([1.0, 2, 4, 8, 16])
    law = stats.fit_usl(n, 100 * n)
    assert law.told
    assert law(n) == pytest.approx(100 * n, rel=1e-3)


def test_a_shift_is_found_where_it_is() -> None:
    """10 % at run 20 of 40: one change point, there, of that size; two shifts are two."""
    rng = np.random.default_rng(7)
    y = rng.normal(0, 0.02, 60)
    y[20:] += 0.1
    (one,) = stats.change_points(y[:40])
    assert one.at == 20
    assert one.ratio == pytest.approx(1.105, abs=0.02)
    y[45:] -= 0.15
    assert [c.at for c in stats.change_points(y)] == [20, 45]
    assert stats.change_points(y, floor=0.5) == []


@pytest.mark.parametrize("factor", [1.1, 1.5, 2, 3, 5])
def test_a_level_that_goes_away_again_is_two_shifts(factor: float) -> None:
    """Ten of thirty runs, in the middle: 8 times of 10 and more both ends are found where they are."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(20):
        y = rng.normal(0, 0.02, 30)
        y[10:20] += math.log(factor)
        found += [one.at for one in stats.change_points(y, draws=199)][:2] == [10, 20]
    assert found >= 15


def test_a_slow_drift_is_none_of_shifts() -> None:
    """A line of 30 % over 40 runs is called a drift, a step of that size is not, nor is noise."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.02, 40)
    slow, step = noise + np.linspace(0, math.log(1.3), 40), noise + math.log(1.3) * (np.arange(40) >= 20)
    assert stats.drifted(slow, [one.at for one in stats.change_points(slow)]) == pytest.approx(1.3, rel=0.03)
    assert math.isnan(stats.drifted(step, [one.at for one in stats.change_points(step)]))
    assert math.isnan(stats.drifted(noise, [one.at for one in stats.change_points(noise)]))


def test_what_a_trend_promises_to_tell_it_tells() -> None:
    """A shift in the middle of the size that another such series would be told of, 8 times of 10; of ten runs
    nothing is promised."""
    rng, told = np.random.default_rng(3), 0
    for _ in range(40):
        size = stats.detectable_shift(rng.normal(0, 0.02, 20))
        y = rng.normal(0, 0.02, 20)
        y[10:] += math.log1p(size)
        told += bool(stats.change_points(y))
    assert told >= 28
    assert math.isnan(stats.detectable_shift(rng.normal(0, 0.02, 10)))


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_noise_is_no_shift(memory: float) -> None:
    """At p < 0.01 about a series in a hundred of noise is told to shift, also of slow noise."""
    from scipy.signal import lfilter

    rng, found, draws = np.random.default_rng(11), 0, 150
    for _ in range(draws):
        y = lfilter([1.0], [1.0, -memory], rng.normal(0, 0.02, 60))[20:]
        found += bool(stats.change_points(y, draws=199))
    assert found / draws <= 0.06


# -- steady ----------------------------------------------------------------------------------------


def test_mser_is_the_brute_force_minimum() -> None:
    """The cut that makes the standard error of the rest's mean least, of all up to half."""
    y = np.concatenate([RNG.normal(3, 0.1, 12), RNG.normal(1, 0.1, 88)])
    errors = [np.var(y[d:]) / len(y[d:]) for d in range(51)]
    assert stats.mser(y) == int(np.argmin(errors)) == 12


def test_a_trend_is_told_with_autocorrelated_errors() -> None:
    """Newey–West: a slope stands out of noise, a flat series does not."""
    flat = RNG.normal(0, 1, 20)
    assert stats.newey_west_slope(flat) > 0.01
    assert stats.newey_west_slope(flat + np.arange(20)) < 1e-4
    assert stats.mann_kendall(np.arange(20.0)) < 1e-6
    assert stats.mann_kendall(np.ones(20)) == 1
