"""Looking more than once: the level of each look, so that all looks together keep theirs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

_NODES = 240  #: of the integral between two looks; with 120 the levels agree to 1e-7


def spent(fraction: float, alpha: float, power: float = 2.0) -> float:
    """The share of `alpha` that may be used up when this fraction of the most runs is there: alpha t^power.

    Source: Kim & DeMets (1987), a power family; 2 is between Pocock's and O'Brien and Fleming's looks.
    """
    return float(alpha * min(fraction, 1.0) ** power)


def nominal_levels(
    fractions: Sequence[float], alpha: float = 0.05, power: float = 2.0, *, last: bool = False
) -> list[float]:
    """The two-sided level of each look at rising fractions (0, 1] of the most runs.

    A test at these levels, stopped at any look, has a false alarm with probability `alpha` at most. last: the
    final look uses up what is left, whatever its fraction.

    Source: Lan & DeMets (1983); the recursion of Armitage, McPherson & Rowe (1969), as in Jennison & Turnbull
    (2000), chapter 19. For a t on few runs the levels are those of a normal test (simulated in METHOD.md).
    """
    if any(low >= high for low, high in zip((0.0, *fractions), fractions, strict=False)):
        raise ValueError(f"fractions must rise above 0, not {list(fractions)}")
    return list(_levels(tuple(fractions), alpha, power, last))


@functools.lru_cache(256)
def _levels(fractions: tuple[float, ...], alpha: float, power: float, last: bool) -> tuple[float, ...]:
    from scipy.optimize import brentq
    from scipy.special import ndtr

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    found, used, before = [], 0.0, 0.0
    u, mass = np.zeros(1), np.ones(1)  # where the sum of what was seen is now, and with what probability
    for i, fraction in enumerate(fractions):
        total = alpha if last and i == len(fractions) - 1 else spent(fraction, alpha, power)
        step = math.sqrt(fraction - before)

        bound = brentq(_beyond, 0.0, 12 * math.sqrt(fraction), args=(u, mass, step, total - used), xtol=1e-12)
        found.append(float(2 * ndtr(-bound / math.sqrt(fraction))))
        x = bound * nodes
        density = np.exp(-(((x[:, None] - u) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi)) @ mass
        u, mass, used, before = x, bound * weights * density, total, fraction
    return tuple(found)


def _beyond(bound: float, u: np.ndarray, mass: np.ndarray, step: float, wanted: float) -> float:
    """By how much more than wanted the sum is beyond ±bound after a step from u."""
    from scipy.special import ndtr

    return float(mass @ (ndtr((u - bound) / step) + ndtr((-bound - u) / step))) - wanted
