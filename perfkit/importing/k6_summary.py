"""k6's summary at the end of a test: as JSON (--summary-export, handleSummary) and as it is printed.

Of its metrics it takes http_req_duration (ms), http_reqs and http_req_failed, whose `passes` are the requests
that failed; of sub-metrics those of a name, url, scenario or group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_TEXT
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, go_ms, operations, printed, summary_of
from perfkit.store.metadata import Carried, FailureKind

_METRICS = ("http_req_duration", "http_reqs", "http_req_failed")
_ANY = re.compile(r'"http_req(?:s|_duration|_failed)["{]')
_SUB = re.compile(r"\{\s*(?:name|url|scenario|group):\s*(?P<name>[^{}]*(?:\{[^{}]*\}[^{}]*)*?)\s*\}")
_SEVERAL = re.compile(r",\s*\w+:")
_WHY = "http_req_failed (the k6 summary gives no reason)"
_SHARE = re.compile(r"p\((\d+(?:\.\d+)?)\)")
_NUMBERS = ("avg", "min", "med", "max", "count", "rate", "passes", "fails", "matches", "total")
_LINE = re.compile(r"[ \t✓✗]*(?P<name>\w+|\{ ?.+ ?\})\s*\.+: (?P<rest>.+)$")
_TREND = re.compile(r"(avg|min|med|max|count|p\([\d.]+\))=(\S+)")
Metrics = Mapping[str, Mapping[str, float | None]]


def is_json(head: Head) -> bool:
    """A summary's `metrics`, with some of HTTP or what it has beside them."""
    return "metrics" in head.keys and (
        "root_group" in head.keys or _ANY.search(head.text[:200_000]) is not None
    )


def is_text(head: Head) -> bool:
    """The line of k6's response times."""
    return re.search(r"^[ \t✓✗]*http_req_duration\.+: avg=", head.text, re.M) is not None


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as JSON, in each of its three kinds."""
    told = Told(source, "summary of k6's")
    results = told.at("results").at("metrics")
    metrics = {}
    for name, one in (*told.at("metrics").items(), *results.items()):
        name = one.text("name") if results.value is not None else name
        if name.partition("{")[0] in _METRICS and len(name) < LONGEST_TEXT:
            values = one if one.at("values").value is None else one.at("values")
            metrics[name] = {
                key: values.number(key) for key in values.names() if key in _NUMBERS or _SHARE.fullmatch(key)
            }
    ms, s = told.at("state").number("testRunDurationMs"), told.at("config").number("duration")
    return _facts(rows, metrics, ms / 1e3 if ms else s, told.at("metadata").text("k6Version"))


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as k6 prints it: from 1.0 on under its own heading, before that without."""
    is_new = "TOTAL RESULTS" in source.head.decode(errors="replace")
    text, parts = printed(source, "TOTAL RESULTS" if is_new else r"^[ \t✓✗]*data_received\.+:", asked.part)
    text = re.split(r"█ (?:GROUP|SCENARIO)", text)[0]
    return _facts(rows, dict(_lines(text)), None, "", parts)


def _lines(text: str) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Metrics that stand in a text, as JSON has them; sub-metrics follow their metric."""
    metric = ""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        name, rest = found["name"], found["rest"]
        metric = metric if name.startswith("{") else name
        if metric not in _METRICS:
            continue
        values: dict[str, float | None] = {}
        if metric == "http_req_duration":
            values = {key: float(at) if key == "count" else go_ms(at) for key, at in _TREND.findall(rest)}
        elif metric == "http_reqs" and (told := re.match(r"(\d+)\s+([\d.]+)/s", rest)):
            values = {"count": float(told[1]), "rate": float(told[2])}
        elif told := re.match(r"[\d.]+%\s+✓ (\d+)\s+✗ (\d+)", rest):
            values = {"passes": float(told[1]), "fails": float(told[2])}
        elif told := re.match(r"[\d.]+%\s+(\d+) out of (\d+)", rest):
            values = {"matches": float(told[1]), "total": float(told[2])}
        yield (metric + name if name.startswith("{") else metric), values


def _facts(rows: Rows, metrics: Metrics, span: float | None, version: str, parts: int = 1) -> Facts:
    """All requests, and those of each sub-metric that stands for an operation."""
    labels = {}
    for metric in metrics:
        base, brace, _ = metric.partition("{")
        found = _SUB.fullmatch(metric[len(base) :]) if brace else None
        if found and not _SEVERAL.search(found["name"]):
            labels[metric[len(base) :]] = found["name"].strip("\"' ") or "unnamed"
    names = operations(rows, ((label, "") for label in labels.values()))
    told = [_carried(metrics, tags, name) for tags, name in zip(labels, names, strict=True)]
    told = [_carried(metrics, "", ""), *(one for one in told if one.n != 0)]
    if told[0].n is None and told[0].mean_ms is None and len(told) > 1:
        told = told[1:]  # of a part of a summary
    if not span and told[0].n and told[0].rate_per_s:
        span = told[0].n / told[0].rate_per_s
    return summary_of("k6", told, span_s=span, version=version or None, parts=parts)


def _carried(metrics: Metrics, tags: str, operation: str) -> Carried:
    """What the metrics with these tags tell; of an operation without requests k6 writes zeros."""
    times, requests, failures = (metrics.get(metric + tags, {}) for metric in _METRICS)
    failed = failures.get("passes", failures.get("matches"))
    good = failures.get("fails")
    judged = failures.get("total") if failed is None or good is None else failed + good
    n = next((one for one in (requests.get("count"), times.get("count"), judged) if one is not None), None)
    if n is None and times and not times.get("max"):
        n = 0
    if n == 0:
        times = {}
    kinds = None if failed is None else [FailureKind("check", operation, int(failed), _WHY)]
    points = [(float(share[1]) / 100, ms) for key, ms in times.items() if (share := _SHARE.fullmatch(key))]
    return carried(
        operation, n=None if n is None else int(n), kinds=kinds, rate_per_s=requests.get("rate"),
        mean=times.get("avg"), low=times.get("min"), high=times.get("max"),
        points=[*points, (0.5, times.get("med"))],
    )  # fmt: skip
