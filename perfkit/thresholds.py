"""Thresholds a run must meet: `p95 < 300 ms`, `p99(create_agent) <= 1.5 s`, `error_rate < 1 %`.

Latencies are response times of the requests that succeeded; `error_rate` is a threshold of its own, because a
server that fails fast must not look fast. In a quantile, requests that timed out or were cut off rank behind
all others: they are known to take longer. A threshold without a value is missed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from perfkit import stats
from perfkit.errors import BadInput, nearest, unknown
from perfkit.frames import CENSORED, throughput

#: Metrics with a fixed name; pNN and ttft_pNN take any percentile.
METRICS = ("mean", "max", "min", "error_rate", "rate")
EXAMPLES = "p95 < 300 ms, p99(create_agent) <= 1.5 s, error_rate < 1 %, rate > 50 /s, ttft_p95 < 1 s"
#: Units of each kind of metric, as multiples of the frame's own (ms, share, per second).
UNITS = {
    "latency": {"ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001},
    "error_rate": {"%": 0.01},
    "rate": {"/s": 1.0, "/min": 1 / 60},
}
_OPERATORS = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}
_SHAPE = re.compile(
    r"\s*(?P<metric>[A-Za-z_]+[\d.]*)\s*(\((?P<operation>[^)]*)\))?\s*(?P<operator>[<>]=?)\s*"
    r"(?P<number>\d+(\.\d+)?([eE][-+]?\d+)?)\s*(?P<unit>\S*)\s*"
)
_PERCENTILE = re.compile(r"(ttft_)?p(\d+(?:\.\d+)?)")


class Measured(NamedTuple):
    """A threshold's value in its own unit (NaN: there is none), whether it is met, and what to know of it."""

    value: float
    ok: bool
    note: str | None = None


@dataclass(frozen=True)
class Threshold:
    """One threshold, parsed; `text` is what was written."""

    text: str
    metric: str
    operation: str | None
    operator: str
    limit: float
    unit: str

    def evaluate(self, frame: pd.DataFrame) -> Measured:
        """What the run has of it, and whether it is met. `frame` is of `frames.timeline`.

        An operation the run does not have is BadInput, with the nearest one.
        """
        if self.operation is not None:
            names = [str(name) for name in frame["operation"].cat.categories]
            if self.operation not in names:
                raise unknown(f"operation in threshold {self.text!r}:", self.operation, names)
            attrs = frame.attrs
            frame = frame[(frame["operation"] == self.operation).to_numpy()]
            frame.attrs = attrs
        value, note = self._measure(frame)
        value /= UNITS[_kind(self.metric)].get(self.unit, 1.0)
        seen = float(f"{value:.12g}")  # 0.07 / 0.01 is 7.000000000000001, and 7 % is not more than 7 %
        return Measured(
            value, not math.isnan(value) and bool(_OPERATORS[self.operator](seen, self.limit)), note
        )

    def _measure(self, frame: pd.DataFrame) -> tuple[float, str | None]:
        good = frame["error"].isna().to_numpy()
        if self.metric == "error_rate":
            return (float((~good).sum()) / len(frame) if len(frame) else math.nan), None
        if self.metric == "rate":
            return throughput(frame), None
        percentile = _PERCENTILE.fullmatch(self.metric)
        column = frame["ttft_ms" if percentile and percentile[1] else "response_ms"].to_numpy()
        x = column[good]
        x = x[~pd.isna(x)]
        if percentile:
            late = frame["error"].isin(CENSORED).to_numpy()
            unanswered = int((late & pd.isna(column)).sum() if percentile[1] else late.sum())
            return _quantile(x, unanswered, float(percentile[2]) / 100)
        if not len(x):
            return math.nan, None
        return {"mean": float(x.mean()), "max": float(x.max()), "min": float(x.min())}[self.metric], None


def _quantile(x: stats.Floats, unanswered: int, p: float) -> tuple[float, str | None]:
    """The p-quantile of x and of requests known only to take longer, which rank last; what it rests on."""
    n = len(x) + unanswered
    if not n:
        return math.nan, None
    place = (n - 1) * p
    if unanswered and math.ceil(place - 1e-9) >= len(x):
        return (
            math.nan,
            f"beyond what was waited for: {unanswered:,} of {n:,} requests timed out or were cut off",
        )
    # the same method on all n: between the two values whose ranks enclose the place
    value = float(np.interp(place, np.arange(len(x)), np.sort(x))) if unanswered else stats.quantile(x, p)
    rests_on = stats.support(n, p)
    return value, f"rests on {rests_on:.2g} of {n:,} requests" if rests_on < stats.MIN_SUPPORT else None


def parse(text: str) -> Threshold:
    """Read one threshold; BadInput says what is wrong with it, what is allowed and the nearest name."""
    found = _SHAPE.fullmatch(text)
    if not found:
        raise BadInput(f"cannot read threshold {text!r}; write it like {EXAMPLES}")
    metric, operation, unit = found["metric"], found["operation"], found["unit"]
    percentile = _PERCENTILE.fullmatch(metric)
    if metric not in METRICS and not percentile:
        close = nearest(metric, (*METRICS, "p50", "p90", "p95", "p99", "ttft_p95"))
        hint = f"did you mean {close!r}?" if close else f"known: pNN, ttft_pNN, {', '.join(METRICS)}"
        raise BadInput(f"unknown metric {metric!r} in threshold {text!r}; {hint}")
    if percentile and not 0 < float(percentile[2]) < 100:
        raise BadInput(f"threshold {text!r}: a percentile lies between 0 and 100, {metric!r} does not")
    allowed = UNITS[_kind(metric)]
    if unit not in allowed and not (unit == "" and metric == "error_rate"):
        bare = " (or none, for a share)" if metric == "error_rate" else ""
        raise BadInput(
            f"threshold {text!r}: {metric} takes a unit of {', '.join(allowed)}{bare}, not {unit!r}"
        )
    name = operation.strip() if operation is not None else None
    if name == "":
        raise BadInput(
            f"threshold {text!r}: no operation between the brackets; leave them out for all of them"
        )
    return Threshold(text.strip(), metric, name, found["operator"], float(found["number"]), unit)


def _kind(metric: str) -> str:
    return metric if metric in UNITS else "latency"
