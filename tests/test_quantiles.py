"""Exact order statistics in two passes, beside numpy on all values at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perfkit.store.quantiles import Binned
from perfkit.store.rows import Part
from tests.hand_made import MS, S, row, write_run

#: Milliseconds with ties, with values of one bin, below zero and at it, over twelve decades.
VALUES = [-5e3, -5e3, -1e-3, 0, 0, 1e-6, 2e-6, 0.1, 0.1, 0.1, 100.0, 100.0001, 100.0002, 100.0002, 7e5]


@pytest.fixture
def binned(tmp_path: Path) -> Binned:
    """The values three times: as group 0, as group 1 ten times as large, each in two slices."""
    rows = [
        row(10 * S, MS, late=0, sending=10 * S + round(x * MS), user=g) for x in VALUES for g in (0, 0, 1)
    ]
    part = Part(write_run(tmp_path, "20260101-000000-quantiles-0001", rows))
    values = "SELECT user AS g, seq % 2 AS s, queue_ms * (1 + 9 * user) AS x FROM part"
    return Binned(part, values, slices=2)


def values_of(group: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and slices of a group."""
    given = [(x * (1 + 9 * g), g, i) for i, (x, g) in enumerate((x, g) for x in VALUES for g in (0, 0, 1))]
    picked = [(x, i % 2) for x, g, i in given if group is None or g == group]
    return np.array([x for x, _ in picked]), np.array([s for _, s in picked])


@pytest.mark.parametrize("group", [None, 0, 1])
def test_quantiles_are_numpys_to_the_last_bit(binned: Binned, group: int | None) -> None:
    """Of each group and of all, at both ends and everywhere between."""
    x, _ = values_of(group)
    ps = [0, 0.01, 0.2, 1 / 3, 0.5, 0.75, 0.95, 0.999, 1]
    assert binned.n(group) == len(x)
    assert binned.quantiles([(group, p) for p in ps]) == np.quantile(x, ps).tolist()


@pytest.mark.parametrize("group", [None, 0, 1])
def test_how_many_are_at_most_a_value(binned: Binned, group: int | None) -> None:
    """By slice; equal ones count, also those of the value's own bin."""
    x, slices = values_of(group)
    for limit in (*np.unique(x), -1e4, 0.05, 100.00015, 1e9):
        wanted = [int((x[slices == s] <= limit).sum()) for s in (0, 1)]
        assert binned.at_most(group, float(limit)).tolist() == wanted, limit
    assert binned.sizes(group).tolist() == [int((slices == s).sum()) for s in (0, 1)]


def test_no_values(tmp_path: Path) -> None:
    """NaN, not an exception."""
    part = Part(write_run(tmp_path, "20260101-000000-quantiles-0002", []))
    none = Binned(part, "SELECT 0 AS g, 0 AS s, response_ms AS x FROM part")
    assert none.n() == 0
    assert np.isnan(none.quantiles([(None, 0.5), (0, 0.9)])).all()
