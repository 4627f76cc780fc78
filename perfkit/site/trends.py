"""Trend pages: p50, p95, p99, throughput and error rate over the runs of one configuration."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from perfkit.compare import frames as compare_frames
from perfkit.compare import series
from perfkit.figures import show
from perfkit.site import pages
from perfkit.site.facts import TRENDS, Facts

_NAMES = {
    "p50": "p50: the typical response time",
    "p95": "p95",
    "p99": "p99: the slow end",
    "throughput": "Throughput",
    "error_rate": "Failed requests",
}


def name(about: Facts, runs: Sequence[Facts], floors: Mapping[str, float]) -> str:
    """Names what a trend page shows, to know whether it must be drawn again."""
    told = [about, [[one["trend"], one["shown"]] for one in runs], dict(floors)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def page(title: str, about: Facts, runs: Sequence[Facts], floors: Mapping[str, float]) -> bytes:
    """The page. runs: entries of the manifest, oldest first; floors: noise, sd on the log scale."""
    parts = []
    for metric in TRENDS:
        frame = compare_frames.trend_of([_point(one["trend"][metric]) for one in runs], metric)
        floor = floors.get(metric, math.nan)
        changes = compare_frames.changes(frame, floor)
        verdict = series.trend_verdict(frame, changes, floor)
        part = {"metric": metric, "name": _NAMES[metric], "short": metric.replace("_", " ")}
        parts.append(part | {"verdict": verdict, "figure": show(series.trend(frame, changes, floor))})
    shown = [one["shown"] | {"why": one["trend"][TRENDS[0]]["why"]} for one in runs]
    return pages.trend(title, about, parts, shown[::-1])


def _point(kept: Facts) -> dict[str, Any]:
    """A point as it was before JSON: NaN for null."""
    return {n: math.nan if v is None else v for n, v in kept.items()}
