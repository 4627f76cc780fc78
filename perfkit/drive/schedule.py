"""Arrival times, computed before a run from (shape, seed): pure data.

A shape is a rate over time, piecewise linear. Its integral L(t) counts expected arrivals; the k-th even
arrival is where L reaches k, and Poisson arrivals are where L reaches a unit-rate Poisson process
(time-change theorem; Çınlar 1975, ch. 4.7).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfkit.errors import BadInput
from perfkit.model import Arrivals
from perfkit.stages import knots

Floats = npt.NDArray[np.float64]
Knots = list[tuple[float, float]]

#: Planned arrivals of a run, warm-up included; the schedule takes 8 bytes for each.
MAX_ARRIVALS = 50_000_000
_BLOCK = 1_000_000  # arrivals computed at a time
_SURELY_SOME = 100.0  # expected arrivals of which no seed draws none


def plan(arrivals: Arrivals, seed: int, warmup_s: float = 0.0) -> Floats:
    """Planned start times, sorted, in seconds since the load's start, shape (n,).

    The warm-up comes first, at the rate the shape begins with; the shape itself spans
    [warmup_s, warmup_s + duration_s). Stages span the warm-up, too.
    """
    t, rate, mass = _cumulated(arrivals, warmup_s)
    random = arrivals.shape == "poisson" or arrivals.spacing == "poisson"
    times = _poisson(mass[-1], seed) if random else np.arange(0, np.ceil(mass[-1] - 1e-9))
    for first in range(0, len(times), _BLOCK):
        block = slice(first, first + _BLOCK)
        times[block] = _inverse(times[block], t, rate, mass)
    return times


def require_requests(arrivals: Arrivals, seed: int, warmup_s: float = 0.0) -> None:
    """BadInput for a schedule with nothing in its measured part, or with more than a run can hold."""
    t, _, mass = _cumulated(arrivals, warmup_s)
    measured = mass[-1] - np.interp(warmup_s, t, mass)
    if measured < _SURELY_SOME and not np.any(plan(arrivals, seed, warmup_s) >= warmup_s):
        words = f"arrivals: no request is planned in the {arrivals.duration_s:g} s"
        raise BadInput(f"{words} ({measured:.3g} expected); raise the rate or the duration")


def _cumulated(arrivals: Arrivals, warmup_s: float) -> tuple[Floats, Floats, Floats]:
    """The knots' seconds and rates, and the arrivals expected up to each; BadInput for too many."""
    shape = profile(arrivals)
    if warmup_s and not arrivals.stages:
        first = shape[0][1]
        shape = [(0.0, first), *((warmup_s + t, rate) for t, rate in shape)]
    t, rate = np.array(shape, dtype=float).T
    mass = np.concatenate([[0.0], np.cumsum(np.diff(t) * (rate[1:] + rate[:-1]) / 2)])
    if mass[-1] > MAX_ARRIVALS:
        raise BadInput(
            f"arrivals: {mass[-1]:.3g} requests planned, at most {MAX_ARRIVALS:,}; "
            "lower the rate or the duration"
        )
    return t, rate, mass


def profile(arrivals: Arrivals) -> Knots:
    """The shape as (second, rate per second) knots; two knots at one second are a jump."""
    rate, total = arrivals.rate_per_s, arrivals.duration_s
    match arrivals.shape:
        case "ramp":
            rise = total if arrivals.ramp_s is None else arrivals.ramp_s
            if rise > total:
                raise BadInput(f"arrivals.ramp_s {rise:g}: the ramp does not fit in duration_s {total:g}")
            steady = [(total, rate)] if rise < total else []
            return [(0, arrivals.start_rate_per_s), (rise, rate), *steady]
        case "steps":
            return _steps(arrivals.step_rates_per_s, total)
        case "spike":
            return _spike(arrivals)
        case "stages":
            return knots(arrivals.stages)
        case "soak":
            ramp = total * 0.05 if arrivals.ramp_s is None else arrivals.ramp_s
            if 2 * ramp > total:
                raise BadInput(f"arrivals.ramp_s {ramp:g}: two ramps do not fit in duration_s {total:g}")
            return (
                [(0, 0), (ramp, rate), (total - ramp, rate), (total, 0)]
                if ramp
                else [(0, rate), (total, rate)]
            )
        case _:
            return [(0, rate), (total, rate)]


def _steps(rates: tuple[float, ...], total: float) -> Knots:
    if not rates:
        raise BadInput("arrivals: shape steps needs step_rates_per_s, for example [50, 100, 200]")
    length = total / len(rates)
    return [(edge, rate) for i, rate in enumerate(rates) for edge in (i * length, (i + 1) * length)]


def _spike(arrivals: Arrivals) -> Knots:
    rate, total = arrivals.rate_per_s, arrivals.duration_s
    peak = 5 * rate if arrivals.spike_rate_per_s is None else arrivals.spike_rate_per_s
    start = 0.4 * total if arrivals.spike_at_s is None else arrivals.spike_at_s
    end = start + (0.2 * total if arrivals.spike_for_s is None else arrivals.spike_for_s)
    if end > total:
        raise BadInput(f"arrivals: the spike ends at {end:g} s, after duration_s {total:g}")
    return [(0, rate), (start, rate), (start, peak), (end, peak), (end, rate), (total, rate)]


def _poisson(mass: float, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    pieces: list[Floats] = []
    last = 0.0
    while not pieces or last < mass:
        gaps = rng.exponential(size=int(mass * 0.1 + 4 * mass**0.5 + 16) if pieces else int(mass) + 16)
        pieces.append(np.cumsum(gaps, out=gaps))
        pieces[-1] += last
        last = pieces[-1][-1]
    times = np.concatenate(pieces)
    return times[: np.searchsorted(times, mass)]


def _inverse(targets: Floats, t: Floats, rate: Floats, mass: Floats) -> Floats:
    """Where the cumulated rate reaches each target: a quadratic in the segment that holds it."""
    segment = np.clip(np.searchsorted(mass, targets, side="right") - 1, 0, len(t) - 2)
    r0, length = rate[segment], np.diff(t)[segment]
    slope = np.divide(rate[segment + 1] - r0, length, out=np.zeros_like(r0), where=length > 0)
    rest = targets - mass[segment]
    root = np.sqrt(np.maximum(r0 * r0 + 2 * slope * rest, 0))
    inside = np.divide(2 * rest, r0 + root, out=np.zeros_like(rest), where=rest > 0)
    times: Floats = t[segment] + inside
    return times
