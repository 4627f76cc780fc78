"""Weighted choices for scenarios."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import TypeVar

T = TypeVar("T")


def choose(rng: Random, weights: Mapping[T, float]) -> T:
    """Return one of the names, each as often as its weight says: `choose(rng, {"read": 8, "write": 2})`.

    rng: of the step, so that a step chooses the same in every run. A weight of 0 is never chosen. ValueError
    unless weights are finite numbers of at least 0, and one is more.
    """
    given: object = weights
    if not isinstance(given, Mapping):
        example = 'choose(rng, {"read": 8, "write": 2}); for equal chances rng.choice([…])'
        raise ValueError(f"weights are a dict, not of type {type(given).__name__}; write {example}")
    try:
        total = math.fsum(weights.values())
    except TypeError:  # "8"
        total = math.nan
    if not 0 < total < math.inf or min(weights.values()) < 0:
        raise ValueError(f"weights {dict(weights)!r:.200}: give numbers of at least 0, and one of more")
    place, chosen = rng.random() * total, None
    for name, weight in weights.items():
        if weight:
            chosen = name
            place -= weight
            if place < 0:
                break
    assert chosen is not None
    return chosen
