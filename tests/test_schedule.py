"""Arrival times as pure data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perfkit.drive.schedule import plan, profile, require_requests
from perfkit.errors import BadInput
from perfkit.model import Arrivals, Workload
from perfkit.stages import Stage, active_s, changes_after, in_words, knots

rates = st.floats(0.5, 200)
durations = st.floats(0.5, 20)


@st.composite
def arrivals(draw: st.DrawFn) -> Arrivals:
    """Any usable shape."""
    return Arrivals(
        shape=draw(st.sampled_from(["constant", "poisson", "ramp", "steps", "spike", "soak"])),
        rate_per_s=draw(rates),
        duration_s=draw(durations),
        spacing=draw(st.sampled_from(["even", "poisson"])),
        start_rate_per_s=draw(st.floats(0, 100)),
        step_rates_per_s=tuple(draw(st.lists(rates, min_size=1, max_size=5))),
    )


@given(arrivals(), st.integers(0, 5), st.floats(0, 3))
def test_planned_times_are_sorted_and_inside(shape: Arrivals, seed: int, warmup_s: float) -> None:
    """Sorted, within [0, warm-up + duration], and the same for the same seed."""
    times = plan(shape, seed, warmup_s)
    assert (np.diff(times) >= 0).all()
    if len(times):
        assert times[0] >= 0
        assert times[-1] <= (warmup_s + shape.duration_s) * (1 + 1e-9)
    assert np.array_equal(times, plan(shape, seed, warmup_s))


@given(arrivals())
def test_even_arrivals_count_the_area_under_the_rate(shape: Arrivals) -> None:
    """Evenly spaced arrivals number the integral of the rate, rounded up."""
    if shape.shape == "poisson" or shape.spacing == "poisson":
        return
    t, rate = np.array(profile(shape), dtype=float).T
    area = np.trapezoid(rate, t)
    assert abs(len(plan(shape, 1)) - area) <= 1


@given(arrivals(), st.integers(0, 100))
def test_poisson_counts_scatter_as_they_should(shape: Arrivals, seed: int) -> None:
    """A Poisson count lies within six standard deviations of its mean."""
    t, rate = np.array(profile(shape), dtype=float).T
    area = np.trapezoid(rate, t)
    if shape.shape == "poisson" or shape.spacing == "poisson":
        assert abs(len(plan(shape, seed)) - area) <= 6 * np.sqrt(area) + 6


def test_constant_is_exact() -> None:
    """Constant arrivals: the k-th at k / rate."""
    assert np.allclose(plan(Arrivals(rate_per_s=4, duration_s=2), 1), np.arange(8) / 4)


def test_ramp_follows_its_closed_form() -> None:
    """A ramp from 0 to r in T: the k-th arrival at sqrt(2 k T / r)."""
    times = plan(Arrivals(shape="ramp", rate_per_s=100, duration_s=10), 1)
    k = np.arange(len(times))
    assert np.allclose(times, np.sqrt(2 * k * 10 / 100))


def test_stages_of_a_rate_begin_with_the_load() -> None:
    """10 s to 100/s, 5 s of it, at once to 20/s for 5 s: 500, 500, 100 arrivals; a warm-up is part of it."""
    stages = [(10, 100), (5, 100), (0, 20), (5, 20)]
    given = {"stages": [{"duration_s": s, "to": to} for s, to in stages]}
    load = Workload.from_mapping({"scenario": "x", "arrivals": given, "warmup_s": 10}).arrivals
    assert load is not None
    assert (load.duration_s, load.rate_per_s) == (10, 100)
    times = plan(load, 1, 10)
    assert np.histogram(times, [0, 10, 15, 20])[0].tolist() == [500, 500, 100]


def test_a_ramp_may_end_before_the_load() -> None:
    """A ramp of 4 s to 100/s, then 6 s of 100/s: 200 arrivals, and 100 in each second after them."""
    times = plan(Arrivals(shape="ramp", rate_per_s=100, duration_s=10, ramp_s=4), 1)
    assert np.histogram(times, [0, 4, 5, 6, 7, 8, 9, 10])[0].tolist() == [200, *[100] * 6]


def test_poisson_gaps_are_exponential() -> None:
    """Gaps of a Poisson schedule pass a Kolmogorov-Smirnov test against the exponential (fixed seed)."""
    times = plan(Arrivals(shape="poisson", rate_per_s=50, duration_s=200), 3)
    assert stats.kstest(np.diff(times) * 50, "expon").pvalue > 0.01


def test_a_step_of_rate_zero_has_no_arrivals() -> None:
    """Nothing arrives while the rate is 0; the steps around it are as asked."""
    times = plan(Arrivals(shape="steps", step_rates_per_s=(10, 0, 20), duration_s=30), 1)
    counts, _ = np.histogram(times, [0, 10, 20 - 1e-9, 30])
    assert counts.tolist() == [100, 0, 200]


def test_spike_is_where_it_was_asked_for() -> None:
    """The spike has its rate between its edges and nowhere else."""
    shape = Arrivals(
        shape="spike", rate_per_s=10, spike_rate_per_s=100, spike_at_s=5, spike_for_s=2, duration_s=10
    )
    counts, _ = np.histogram(plan(shape, 1), [0, 5, 7, 10])
    assert counts.tolist() == pytest.approx([50, 200, 30], abs=1)


def test_warm_up_comes_first_at_the_first_rate() -> None:
    """The warm-up has the shape's first rate and shifts the shape by its length."""
    times = plan(Arrivals(shape="steps", step_rates_per_s=(10, 50), duration_s=4), 1, warmup_s=3)
    counts, _ = np.histogram(times, [0, 3, 5, 7])
    assert counts.tolist() == pytest.approx([30, 20, 100], abs=1)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (Arrivals(shape="steps"), "step_rates_per_s"),
        (Arrivals(shape="steps", step_rates_per_s=(0, 0)), "no request is planned"),
        (Arrivals(shape="spike", spike_at_s=9, spike_for_s=5), "after duration_s"),
        (Arrivals(shape="soak", ramp_s=6), "do not fit"),
        (Arrivals(shape="ramp", ramp_s=11), "does not fit"),
        (Arrivals(rate_per_s=1e9, duration_s=1e3), "at most"),
    ],
)
def test_impossible_shapes_are_refused(shape: Arrivals, says: str) -> None:
    """What cannot be planned is refused in one line that names the knob."""
    with pytest.raises(BadInput, match=says) as refused:
        require_requests(shape, 1)
    assert "\n" not in str(refused.value)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 7]), st.integers(0, 9)), min_size=1, max_size=8))
def test_as_many_users_are_active_as_the_stages_say(given_stages: list[tuple[int, int]]) -> None:
    """At each stage's end the level is exact, between two ends it lies between theirs, and the numbers of the
    users are those from 0 to the highest level."""
    stages = [Stage(duration_s=s, to=to) for s, to in given_stages]
    spans = active_s(stages)
    assert len(spans) == max(to for _, to in given_stages)
    edges = knots(stages)
    for (begin, before), (end, after) in itertools.pairwise(edges):
        for share in (0.25, 0.5, 0.75) if end > begin else ():
            now = begin + share * (end - begin)
            active = sum(low <= now < high for each in spans for low, high in each)
            assert min(before, after) <= active <= max(before, after)
    for each in spans:
        flat = [instant for span in each for instant in span]
        assert flat == sorted(flat), "one after the other"


@pytest.mark.parametrize(
    ("given_stages", "second", "changes"),
    [
        ([(0, 5), (9, 5)], 0.0, False),
        ([(0, 5), (9, 5), (0, 0)], 0.0, False),
        ([(0, 5), (9, 5), (0, 7), (0, 0)], 0.0, False),
        ([(0, 5), (9, 5), (0, 7), (1, 7)], 0.0, True),
        ([(0, 5), (9, 4)], 0.0, True),
        ([(0, 9), (0.1, 9), (0.2, 9), (0, 5), (9, 5)], 0.3, False),
        ([(0, 9), (0.1, 9), (0.2, 9), (0, 5), (9, 5)], 0.2, True),
    ],
)
def test_a_load_changes_where_somebody_can_see_it(
    given_stages: list[tuple[float, int]], second: float, changes: bool
) -> None:
    """A jump at the very end, or as the warm-up ends, changes nothing between them."""
    stages = [Stage(duration_s=s, to=to) for s, to in given_stages]
    assert changes_after(stages, second) is changes


def test_stages_are_told_in_words() -> None:
    """One user is not several, a jump takes 0 s, and of many stages the first five are listed."""
    stages = [Stage(duration_s=s, to=to) for s, to in ((0, 1), (2.5, 1), (1, 3))]
    assert in_words(stages, " user", " users") == "0 s to 1 user, 2.5 s at 1 user, 1 s to 3 users"
    assert in_words(stages, "/s", "/s") == "0 s to 1/s, 2.5 s at 1/s, 1 s to 3/s"
    assert in_words(stages * 3, "/s", "/s").endswith(", 2.5 s at 1/s, … 9 stages")
