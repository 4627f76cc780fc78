"""Artillery: the report of `artillery run --output FILE`, of 1.x and of 2.x; a summary.

Counts and latencies (ms) of all requests are in its part `aggregate`; of each endpoint too, if the plugin
metrics-by-endpoint was used.
"""

from __future__ import annotations

from collections.abc import Mapping

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, lost_kinds, operations, status_kinds, summary_of
from perfkit.store.metadata import Carried

_HINT = "cut it down to what is read: jq '{aggregate}' report.json > small.json"
_BY_ENDPOINT = "plugins.metrics-by-endpoint."
_TIMES = f"{_BY_ENDPOINT}response_time."


def is_json(head: Head) -> bool:
    """A report has a part of all together, with its counts."""
    return "aggregate" in head.keys and bool({"requestsCompleted", "counters"} & head.keys)


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary: all requests, and those of each endpoint where the file separates them."""
    told = Told(source, "Artillery's report", _HINT).at("aggregate")
    if told.at("requestsCompleted").value is not None:
        codes, errors = told.at("codes").counts(), told.at("errors").counts()
        answered = told.count("requestsCompleted") or 0
        whole = _carried("", told.at("latency"), codes, errors, answered + sum(errors.values()))
        return summary_of("Artillery", [whole], span_s=None)
    counters = told.at("counters")
    summaries = told.at("summaries" if told.at("summaries").value else "histograms")
    first, last = (told.number(name) for name in ("firstMetricAt", "lastMetricAt"))
    span = None
    if first is not None and last is not None and first < last:
        span = (last - first) / 1e3
    sent = counters.count("http.requests")
    codes, errors = _below(counters, "http.codes."), _below(counters, "errors.")
    wholes = [_carried("", summaries.at("http.response_time"), codes, errors, sent, span)]
    ends_of = [name.removeprefix(_TIMES) for name in summaries.names(_TIMES)]
    for name, end in zip(operations(rows, ((one, "") for one in ends_of)), ends_of, strict=True):
        codes, errors = (_below(counters, f"{_BY_ENDPOINT}{end}.{kind}.") for kind in ("codes", "errors"))
        wholes.append(_carried(name, summaries.at(_TIMES + end), codes, errors, None, span))
    return summary_of("Artillery", wholes, span_s=span)


def _below(counters: Told, begin: str) -> dict[str, int]:
    """Counters whose names begin so, by the rest of their names."""
    return {name.removeprefix(begin): counters.count(name) or 0 for name in counters.names(begin)}


def _carried(operation: str, times: Told, codes: Mapping[str, int], errors: Mapping[str, int],
             n: int | None, span: float | None = None) -> Carried:  # fmt: skip
    """The numbers of one operation; n: of its requests, where the file has them, else answers and errors."""
    if n is None:
        n = (times.count("count") or sum(codes.values())) + sum(errors.values())
    kinds = [*status_kinds(codes, operation), *lost_kinds(errors, operation)]
    mean, low, high = (times.number(name) for name in ("mean", "min", "max"))
    shares = {name: float(f"0.{name[1:]}") for name in times.names("p") if name[1:].isdecimal()}
    points = [(share, times.number(name)) for name, share in {"median": 0.5, **shares}.items()]
    return carried(operation, n=n, kinds=kinds, rate_per_s=n / span if span else None, mean=mean, low=low,
                   high=high, points=points)  # fmt: skip
