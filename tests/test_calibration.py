"""A sample of the calibration of whole comparisons: the tables in METHOD.md have the full counts."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_whole_comparisons_cry_wolf_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on disk with a cold start: no change is called one at most once in twelve, none is called better
    that is a fifth slower, and the interval of p50 holds the truth."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    found = importlib.import_module("calibrate_compare").judged(("iid", "cold", 500, 3, 12))
    same, slower = found[1.0], found[1.2]
    assert same["regressed"] + same["improved"] <= 1
    assert (slower["improved"], slower["equivalent"]) == (0, 0)
    assert slower["regressed"] >= 6
    assert sum(told["hold"] for told in found.values()) >= 30
