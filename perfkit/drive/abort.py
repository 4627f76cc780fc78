"""When a run ends early: conditions over the last seconds, judged by the coordinator while the load is on.

A condition is a threshold and for how long: `error_rate > 50 % for 10s`. It is over all requests that ended
in the last so many seconds, taken together, all of them in the measured part; at least `LEAST` requests,
except for `rate`, where it matters that nothing ends. Quantiles are within 1.1 % (`drive.tally`). A run
without conditions of its own ends early, too: when nothing has succeeded since it began, and requests have
failed or steps have raised without one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from perfkit import durations
from perfkit.drive.progress import Seen, Window
from perfkit.drive.tally import quantile_ms
from perfkit.durations import duration_ns
from perfkit.errors import BadInput
from perfkit.model import Workload
from perfkit.store import Run, thresholds
from perfkit.store.metrics import MULTIPLES, Metric
from perfkit.store.thresholds import Threshold
from perfkit.text import plural

#: Fewer requests in a window say nothing.
LEAST = 20
#: A run ends when so many seconds after its first request ended, or steps began to raise, none has succeeded.
NOTHING_SUCCEEDS_S = 10.0
EXAMPLES = "error_rate > 50 % for 10s, p99 > 5 s for 30s, rate < 1 /s for 1m"
_SHAPE = re.compile(r"(?P<what>.*\S)\s+for\s+(?P<span>\S.*)")
_SHORTEST_S, _LONGEST_S = 1.0, 600.0


@dataclass(frozen=True)
class Condition:
    """One condition, parsed; text: as it was written."""

    text: str
    limit: Threshold
    metric: Metric
    span_s: float

    def met(self, window: Window) -> str:
        """What was measured, in words, where a window meets the condition; empty where it does not."""
        if self.metric.kind != "rate" and window.rows < LEAST:
            return ""
        found = self.limit.judge(_value(self.metric, window), MULTIPLES[self.metric.kind])
        if not found.ok:
            return ""
        value = "beyond the timeout" if math.isinf(found.value) else f"{found.value:.3g} {self.limit.unit}"
        return f"{value.strip()} in {window.rows:,} requests"


def _value(metric: Metric, window: Window) -> float:
    """The metric's number in its own unit, NaN for none; counted as thresholds do."""
    if metric.kind == "rate":
        return (window.rows - window.failed) / window.span_s
    if metric.p is None:
        return window.failed / window.rows
    return quantile_ms(window.counts, metric.p, window.censored)


def parse(text: str) -> Condition:
    """Read one condition; BadInput says what is wrong with it and what is allowed."""
    shown = f"abort condition {text!r:.100}"
    found = _SHAPE.fullmatch(text) if len(text) <= 400 else None
    if not found:
        raise BadInput(f"{shown}: say what and for how long, like {EXAMPLES}")
    try:
        span_s = duration_ns(found["span"]) / 1e9
    except ValueError:
        raise BadInput(
            f"{shown}: {found['span']!r:.40} is not a time; {durations.how_to_write(found['span'])}"
        ) from None
    try:
        limit = thresholds.parse(found["what"])
    except BadInput as error:
        raise BadInput(f"{shown}: {error}") from None
    metric = limit.metric
    is_known = isinstance(metric, Metric) and (
        metric.kind in ("errors", "rate") or (metric.p is not None and metric.column == "response_ms")
    )
    if not is_known or limit.operation is not None:
        raise BadInput(f"{shown}: use pNN, error_rate or rate, of all operations, like {EXAMPLES}")
    if not _SHORTEST_S <= span_s <= _LONGEST_S:
        raise BadInput(f"{shown}: for {_SHORTEST_S:g} s to {_LONGEST_S / 60:g} min, not {span_s:g} s")
    assert isinstance(metric, Metric)
    return Condition(text.strip(), limit, metric, span_s)


@dataclass(frozen=True)
class Met:
    """A condition that was met, and the run's reason in words."""

    condition: str
    reason: str


class Watch:
    """Looks at a run while its load is on, and says when it should end early."""

    def __init__(self, workload: Workload) -> None:
        self._wanted = workload.abort is None or bool(workload.abort)
        self._conditions: Sequence[Condition] = [parse(text) for text in workload.abort or ()]
        self._warmup_s = workload.warmup_s
        self._seen = Seen(max((one.span_s for one in self._conditions), default=0.0))
        self._first_end_s: float | None = None  #: when the first request had ended, or steps had raised

    def look(self, run: Run) -> Met | None:
        """The first condition that is met now; None: the run goes on."""
        if not self._wanted or not self._seen.look(run):
            return None
        seen = self._seen
        for one in self._conditions:
            window = seen.window(one.span_s)
            if window.span_s < one.span_s or seen.at_s - window.span_s < self._warmup_s:
                continue
            if words := one.met(window):
                return Met(one.text, f"abort condition met: {one.text} ({words})")
        return self._nothing_succeeds()

    def _nothing_succeeds(self) -> Met | None:
        seen = self._seen
        # a few that raise say nothing of the others, who may wait for slow answers
        if self._first_end_s is None and (seen.rows or seen.raised > seen.in_flight):
            self._first_end_s = seen.at_s
        if seen.failed < seen.rows or self._first_end_s is None:
            return None
        if seen.at_s - self._first_end_s < NOTHING_SUCCEEDS_S:
            return None
        condition = f"nothing succeeds for {NOTHING_SUCCEEDS_S:g}s"
        words = f"none of {seen.rows:,} requests succeeded" if seen.rows else "no request ended"
        words += f" and {plural(seen.raised, 'step')} raised" if seen.raised else ""
        return Met(condition, f"ended early: {words} in {seen.at_s:.0f} s")
