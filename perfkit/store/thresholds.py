"""Thresholds a run must meet: `p95 < 300 ms`, `error_rate < 1 %`, `findings = 0`, `loop_lag p99 < 20 ms`.

Latencies are response times of the requests that succeeded; `error_rate` is a threshold of its own, because a
server that fails fast must not look fast. In quantiles, `mean` and `max`, requests that timed out or were cut
off count as slower than all others: they are known to take longer. A name followed by a statistic is a probe
of the server (`store.samples`), in brackets a label of its samples. A threshold without a value is missed; a
quantile that few requests carry is judged, and says so. Each attempt of a request that was repeated counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from perfkit import stats
from perfkit.errors import BadInput, unknown
from perfkit.store import samples
from perfkit.store.metrics import MULTIPLES, THRESHOLD_NAMES, Metric, of_threshold
from perfkit.store.quantiles import Binned, counted
from perfkit.store.rows import Part
from perfkit.store.summary import no_goodput, numbers_of, without
from perfkit.suggestions import nearest

EXAMPLES = (
    "p95 < 300 ms, p99(create_agent) <= 1.5 s, error_rate < 1 %, rate > 50 /s, ttft_p95 < 1 s, findings = 0,"
    " loop_lag p99 < 20 ms, rss_growth < 20 %"
)
_OPERATORS = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__, "=": float.__eq__}
_SHAPE = re.compile(
    r"\s*(?P<metric>[A-Za-z_][\w.:]*)(\s*\((?P<operation>[^)]*)\))?(\s+(?P<statistic>[A-Za-z][\w.]*))?"
    r"\s*(?P<operator>[<>]=?|=)\s*(?P<number>\d+(\.\d+)?([eE][-+]?\d+)?)\s*(?P<unit>\S*)\s*"
)
_GROWTH = "_growth"
_LONGEST = 400


class Value(NamedTuple):
    """A threshold's value in its own unit (NaN: there is none), whether it is met, and what to know of it."""

    value: float
    ok: bool
    note: str | None = None


@dataclass(frozen=True)
class Threshold:
    """One threshold, parsed; `text` is what was written.

    metric: of the requests, with the operation in brackets; or the name of a probe, with a label in them,
    and a statistic of its samples.
    """

    text: str
    metric: Metric | str
    operation: str | None
    operator: str
    limit: float
    unit: str
    statistic: str = ""

    @property
    def of_samples(self) -> bool:
        """Whether it is over what the server observed of itself."""
        return isinstance(self.metric, str)

    def evaluate(self, part: Part) -> Value:
        """What the part has of it, and whether it is met; BadInput for names that it does not have."""
        if isinstance(self.metric, str):
            measured = samples.measure(part, self.metric, self.operation, self.statistic)
            value, note, units = measured.value, measured.note, measured.units
            _require_unit(self.text, self.metric, self.unit, units)
        else:
            if self.operation is not None and self.operation not in (names := counted(part).names):
                raise _without_rows(part, self.operation, names)
            value, note = _measure(part, self.metric, self.operation)
            note = "; ".join(filter(None, (note, _attempts(part, self.metric, self.operation)))) or None
            units = MULTIPLES[self.metric.kind]
        return self.judge(value, units, note)

    def judge(self, value: float, units: Mapping[str, float], note: str | None = None) -> Value:
        """A value in the metric's own unit, turned into the threshold's, and whether that meets it."""
        value /= units.get(self.unit, 1.0)
        seen = float(f"{value:.12g}")  # 0.07 / 0.01 is 7.000000000000001, and 7 % is not more than 7 %
        met = bool(_OPERATORS[self.operator](seen, self.limit))  # of NaN nothing is true
        return Value(value, met, note)


def _without_rows(part: Part, operation: str, names: Iterable[str]) -> BadInput:
    """What is said of an operation that the measured part does not have: it may have been warm-up alone."""
    sql = "SELECT count(*) AS n FROM r WHERE operation = $operation AND phase = 'warmup'"
    if n := part.row(sql, operation=operation)["n"]:
        warmup = f"warmup_s: {part.run.meta.warmup_s:g}"
        return BadInput(f"every request of {operation:.80} ({n:,}) fell into the warm-up ({warmup})")
    return unknown("operation", operation, names)


def _measure(part: Part, metric: Metric, operation: str | None) -> tuple[float, str | None]:
    """The metric's number in its own unit, NaN for none, and what it rests on."""
    if metric.p is not None:
        return _quantile(part, metric, operation)
    if metric.kind == "findings":
        return _findings(part)
    row = numbers_of(part, operation)
    if metric.kind == "errors":
        return (row["failed"] / row["n"] if row["n"] else math.nan), None
    if metric.population == "censored" and row["censored"]:
        return math.nan, _beyond(row["censored"], row["ok"] + row["censored"])
    if metric.population == "slo":
        return row["goodput_per_s"], no_goodput(part) or None
    return row["rate_per_s" if metric.kind == "rate" else metric.name], None


def _attempts(part: Part, metric: Metric, operation: str | None) -> str | None:
    """What a reader must know where requests were sent again: each attempt is a request of its own."""
    if metric.kind == "findings":
        return None
    of = "true" if operation is None else "operation = $operation"
    named = {} if operation is None else {"operation": operation}
    n = part.row(f"SELECT count(*) FILTER (attempt > 1) AS n FROM part WHERE {of}", **named)["n"]
    return f"each attempt counts, {n:,} are repeats" if n else None


def _findings(part: Part) -> tuple[float, str | None]:
    """How many findings a run has; NaN where not all were looked for, or the server told nothing."""
    results, sources = part.run.results, part.run.meta.probes
    silent = next((source.failure for source in sources if source.errors and not source.samples), "")
    why = results.not_looked_for or silent
    if results.findings is None or why:
        return math.nan, why or "nobody looked for findings"
    return float(
        len(results.findings)
    ), None if sources else "of the requests alone, without the server's probes"


def _quantile(part: Part, metric: Metric, operation: str | None) -> tuple[float, str | None]:
    """A quantile of successes and of requests known only to take longer, which rank last."""
    assert metric.p is not None
    of = "" if operation is None else " AND operation = $operation"
    named = {} if operation is None else {"operation": operation}
    column = metric.column  # one of ours
    late = "censored"
    if column != "response_ms":  # of an operation with streams: its tokens would have come later
        streamed = "SELECT operation FROM part WHERE chunks IS NOT NULL"
        late += f" AND {column} IS NULL AND operation IN ({streamed})"
    unanswered = part.row(f"SELECT count(*) AS n FROM part WHERE {late}{of}", **named)["n"]
    values = f"SELECT 0 AS g, 0 AS s, {column} AS x FROM part WHERE ok AND {column} IS NOT NULL{of}"
    binned = Binned(part, values, parameters=named)
    known = binned.n()
    if column == "tpot_ms" and not known:  # what timed out ranks behind others, of which nothing is known
        return math.nan, without(part, column)
    n = known + unanswered
    if not n:
        return math.nan, None if column == "response_ms" else without(part, column)
    place = (n - 1) * metric.p
    if unanswered and math.ceil(place - 1e-9) >= known:
        return math.nan, _beyond(unanswered, n)
    # the same method on all n: between the two values whose ranks enclose the place
    (value,) = binned.quantiles([(None, place / (known - 1) if unanswered and known > 1 else metric.p)])
    rests_on = stats.support(n, metric.p)
    return value, f"rests on {rests_on:.2g} of {n:,} requests" if rests_on < stats.MIN_SUPPORT else None


def _beyond(unanswered: int, n: int) -> str:
    return f"beyond the timeout: {unanswered:,} of {n:,} requests timed out or were cut off"


#: k6's `p(95)<300`, `http_req_duration: p(95)<300` and `rate<0.01`, which is of failures there.
_K6 = re.compile(
    r"\s*(?:\w+\s*:\s*)?(?:p\((?P<p>\d+(\.\d+)?)\)|(?P<rate>rate))\s*(?P<op>[<>]=?)\s*(?P<limit>\d+(\.\d+)?)\s*"
)


def _refuse_k6(text: str) -> None:
    """BadInput with perfkit's form for a threshold in k6's."""
    found = _K6.fullmatch(text[:_LONGEST])
    if found and found["p"]:
        raise BadInput(f"threshold {text!r} is k6's; write p{found['p']} {found['op']} {found['limit']} ms")
    if found and found["op"][0] == "<" and float(found["limit"]) <= 1:
        share = f"error_rate {found['op']} {100 * float(found['limit']):g} %"
        raise BadInput(f"threshold {text!r}: rate is of successes; of failures, as in k6, write {share}")


def parse(text: str) -> Threshold:
    """Read one threshold; BadInput says what is wrong with it, what is allowed and the nearest name."""
    _refuse_k6(text)
    found = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
    if not found:
        raise BadInput(f"cannot read threshold {text!r:.100}; write it like {EXAMPLES}")
    if not math.isfinite(float(found["number"])):
        raise BadInput(f"threshold {text!r}: {found['number']} is not a finite number")
    name, statistic, unit = found["metric"], found["statistic"] or "", found["unit"]
    if name.endswith(_GROWTH) and not statistic:
        name, statistic = name.removesuffix(_GROWTH), _GROWTH[1:]
    metric: Metric | str = _probe(text, name, statistic, unit) if statistic else _metric(text, name, unit)
    operation = found["operation"].strip() if found["operation"] is not None else None
    if operation == "":
        what = "the brackets are empty; name an operation, or omit them for all operations"
        raise BadInput(f"threshold {text!r}: {what}")
    if isinstance(metric, Metric) and metric.kind == "findings" and operation is not None:
        raise BadInput(f"threshold {text!r}: findings are of the whole run; leave the brackets out")
    limit, operator = float(found["number"]), found["operator"]
    if isinstance(metric, Metric) and metric.kind == "errors" and not unit and limit >= 1:
        meant = f"{name}{f'({operation})' if operation else ''} {operator} {limit:g} %"
        raise BadInput(f"threshold {text!r}: a number without % is a share of all requests; write {meant}")
    if operator == "=" and unit:
        raise BadInput(f"threshold {text!r}: = is for counts, such as findings = 0; use <, <=, > or >=")
    return Threshold(text.strip(), metric, operation, operator, limit, unit, statistic)


def _metric(text: str, name: str, unit: str) -> Metric:
    """The metric of this name over requests."""
    metric = of_threshold(name)
    if metric is None:
        close = nearest(name, (*THRESHOLD_NAMES, "p50", "p90", "p95", "p99", "ttft_p95", "tpot_p95"))
        names = ", ".join(("pNN", "ttft_pNN", "tpot_pNN", *THRESHOLD_NAMES))
        known = f"known: {names}; of a probe also say what: loop_lag p99"
        hint = f"did you mean {close!r}?" if close else known
        raise BadInput(f"unknown metric {name!r:.80} in threshold {text!r:.100}; {hint}")
    if metric.p is not None and not 0 < metric.p < 1:
        raise BadInput(f"threshold {text!r}: percentiles must lie between 0 and 100, not {metric.name!r}")
    _require_unit(text, name, unit, MULTIPLES[metric.kind] | ({"": 1.0} if metric.kind == "errors" else {}))
    return metric


def _probe(text: str, name: str, statistic: str, unit: str) -> str:
    """The name of a probe; whether the run has it is known at its end."""
    if of_threshold(name) is not None:
        raise BadInput(f"threshold {text!r}: {name} is of the requests and takes no statistic")
    try:
        samples.require_statistic(statistic)
    except BadInput as error:
        raise BadInput(f"threshold {text!r}: {error}") from None
    if unit and unit not in samples.ANY_UNIT:
        allowed = ", ".join(samples.ANY_UNIT)
        raise BadInput(f"threshold {text!r}: a probe takes a unit of {allowed}, not {unit!r}")
    return name


def _require_unit(text: str, name: str, unit: str, units: Mapping[str, float]) -> None:
    if unit not in units:
        named = ", ".join(one for one in units if one)
        bare = " (or none, for a share)" if "" in units and named else ""
        if not unit and named:
            example = f"{text.strip()} {named.partition(',')[0]}"
            raise BadInput(f"threshold {text!r}: {name} takes a unit of {named}; write {example}")
        what = f"a unit of {named}{bare}" if named else "no unit"
        raise BadInput(f"threshold {text!r}: {name} takes {what}, not {unit!r}")
