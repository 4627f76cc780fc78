"""k6: `--out json=FILE` and `--out csv=FILE`, a line for each metric of each request; and its summary.

A request's metrics stand together. Its end is their time; what it spent sending, waiting and receiving leads
back to the other instants: first byte = end - receiving, sent = first byte - waiting, started = sent -
sending: its latency is k6's http_req_duration. What it was blocked before (for a connection) is a note.

Of the summary at the end of a test (as JSON: --summary-export, handleSummary; and as it is printed) it takes
http_req_duration (ms), http_reqs and http_req_failed, whose `passes` are the requests that failed; of
sub-metrics those of a name, url, scenario or group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_NAME, LONGEST_TEXT
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, go_ms, operations, printed, summary_of
from perfkit.importing.times import UNITS, ns, unix_ns, whole
from perfkit.importing.words import error_class
from perfkit.store.metadata import Carried, FailureKind

_OF_REQUEST = ("duration", "blocked", "connecting", "tls_handshaking", "sending", "waiting", "receiving",
               "failed")  # fmt: skip
_REQUEST = frozenset(("http_reqs", *(f"http_req_{name}" for name in _OF_REQUEST)))
#: In what k6 counts a CSV's time, the number of its digits says; else it is RFC 3339.
_DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
_CODES = {1010: "connect", 1020: "protocol", 1050: "timeout", 1211: "timeout", 1220: "reset", 1201: "reset"}
_CSV = ("metric_name", "timestamp", "metric_value")
_PARTS = ("blocked", "sending", "waiting", "receiving")
#: Groups of a test's life cycle, and the phases their requests belong to.
_PHASES = {"::setup": "setup", "::teardown": "teardown"}


_Tag = str | int | float | bool | None


class _Tags(msgspec.Struct):
    """Those a row is made of; others are not even decoded."""

    url: _Tag = None
    name: _Tag = None
    method: _Tag = None
    status: _Tag = None
    error: _Tag = None
    error_code: _Tag = None
    scenario: _Tag = None
    group: _Tag = None
    vu: _Tag = None


class _Data(msgspec.Struct):
    time: str
    value: float
    tags: _Tags | None = None
    metadata: _Tags | None = None


class _Line(msgspec.Struct):
    type: str
    metric: str
    data: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_data = msgspec.json.Decoder(_Data).decode


def is_json(head: Head) -> bool:
    """A line of k6's JSON."""
    first = head.first_json
    return isinstance(first, dict) and first.get("type") in ("Metric", "Point") and "metric" in first


def is_csv(head: Head) -> bool:
    """k6's CSV by its first columns."""
    return tuple(head.names(head.delimiter(_CSV))[:3]) == _CSV


@dataclass
class _Request:
    """The metrics of one request so far; the end (ns), tags and line of the first of them."""

    end: int = 0
    tags: dict[str, Any] = field(default_factory=dict)
    line: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class _Reader:
    """Puts metrics together to requests and requests into rows."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self._source, self._rows = source, rows
        self._scenarios: set[str] = set()
        self._others: set[str] = set()
        self._around = 0  # requests of setup and teardown
        self._blocked_ms = self._blocked_most_ms = 0.0
        self._blocked = 0
        self._request = _Request()

    def pass_over(self, metric: str) -> None:
        """A metric that is none of an HTTP request."""
        if len(self._others) < 5:
            self._others.add(metric[:LONGEST_NAME])

    def metric(self, name: str, end: int, value: float, tags: dict[str, Any]) -> None:
        """One metric of a request."""
        request = self._request
        if end != request.end or name in request.metrics or tags.get("url") != request.tags.get("url"):
            self.end()
            self._request = _Request(end, tags, self._source.line)
        self._request.metrics[name] = value

    def end(self) -> None:
        """The request is complete: make it a row."""
        request, self._request = self._request, _Request()
        if not request.metrics:
            return
        try:
            self._add(request)
        except (ValueError, OverflowError) as error:
            wrong = error if isinstance(error, Wrong) else Wrong("a metric that is no number", "ms")
            self._source.bad(wrong.found, wrong.expected, f"the request of line {request.line:,}")

    def _add(self, request: _Request) -> None:
        took, tags = request.metrics, request.tags
        status = whole(tags.get("status") or 0) or None
        started, sent, first = _instants(request.end, took)
        error = _error(status, tags, took.get("http_req_failed"))
        url = str(tags.get("url") or "")
        if url:
            self._rows.names.saw(url)
        if tags.get("scenario") and len(self._scenarios) < 2:
            self._scenarios.add(str(tags["scenario"])[:LONGEST_NAME])
        if (blocked := took.get("http_req_blocked", 0.0)) > 0:
            self._blocked += 1
            self._blocked_ms += blocked
            self._blocked_most_ms = max(self._blocked_most_ms, blocked)
        phase = _phase(str(tags.get("group") or ""))
        self._around += phase != "measure"
        label = str(tags.get("name") or url or "unnamed")
        self._rows.add(
            self._rows.request(label, str(tags.get("method") or ""), url=url),
            started=started, sent=sent if status else None, first_byte=first if status else None,
            done=request.end, status=status, error=error, words=tags.get("error"),
            user=whole(tags["vu"]) if str(tags.get("vu") or "").isdecimal() else None, phase=phase,
        )  # fmt: skip

    def facts(self, resolution_ns: int = 1) -> Facts:
        """What there is to say when the file has ended."""
        if not self._rows.added and not self._source.broken_count and self._others:
            some = f"only {', '.join(sorted(self._others))}"
            raise BadInput(f"{self._source.path} has no HTTP request in it, {some}; nothing was imported")
        names = list(self._scenarios)
        notes = ["k6 does not record planned times"]
        if self._around:
            what = "requests of setup and teardown are in the run but not in its statistics"
            notes.append(f"{self._around:,} {what}")
        if self._blocked:
            mean = self._blocked_ms / self._blocked
            notes.append(f"{self._blocked:,} requests were blocked waiting for a connection before starting, "
                         f"{mean:.3g} ms on average, {self._blocked_most_ms:.3g} at most: no part of k6's "
                         "duration, nor of latency here")  # fmt: skip
        return Facts(
            "k6", scenario=names[0] if len(names) == 1 and names[0] != "default" else None,
            rounded_ns=(resolution_ns, 1), notes=tuple(notes),
        )  # fmt: skip


def _phase(group: str) -> str:
    """The phase of a request in this group, or in one inside it."""
    return next((p for name, p in _PHASES.items() if f"{group}::".startswith(f"{name}::")), "measure")


def _instants(end: int, took: dict[str, float]) -> tuple[int, int | None, int | None]:
    """Started, sent and first byte of a request with these metrics (ms); null where one is missing."""
    if "http_req_duration" not in took:
        raise Wrong("no http_req_duration", "one for every request")
    duration = ns(took["http_req_duration"], "ms")
    known = {name: ns(took[f"http_req_{name}"], "ms") for name in _PARTS if f"http_req_{name}" in took}
    if min([duration, *known.values()]) < 0:
        raise Wrong("a negative time", "0 ms or more")
    known.pop("blocked", 0)
    if len(known) == 3 and abs(sum(known.values()) - duration) > UNITS["us"]:
        raise Wrong("a duration its parts do not add up to", "sending + waiting + receiving")
    first = end - known["receiving"] if "receiving" in known else None
    sent = first - known["waiting"] if first is not None and "waiting" in known else None
    started = end - duration
    return started if sent is None else min(started, sent), sent, first  # each was rounded on its own


def _error(status: int | None, tags: dict[str, Any], failed: float | None) -> str | None:
    """The class of a request's failure; k6 may have been told to expect a 404."""
    words = tags.get("error")
    if failed == 0 and not words:
        return None
    lost = bool(words) or status is None
    error = error_class(status, words, failed=bool(failed) or lost, of_transport=True)
    code = int(tags["error_code"]) if str(tags.get("error_code") or "").isdecimal() else 0
    if error is None or not 1000 < code < 1400:
        return error
    return _CODES.get(code) or ("connect" if 1100 <= code < 1300 else error)


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """k6's JSON lines; those of other metrics are passed over."""
    reader = _Reader(source, rows)

    def take(line: bytes) -> None:
        found = _decode_line(line)
        if found.type == "Point" and found.metric not in _REQUEST:
            reader.pass_over(found.metric)
        elif found.type == "Point":
            data = _decode_data(found.data)
            tags = _given(data.metadata) | _given(data.tags)
            reader.metric(found.metric, unix_ns(data.time), data.value, tags)

    source.each(source.lines(), take, "a metric or a point of k6's")
    reader.end()
    return reader.facts()


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """k6's CSV; the time of a line is whole seconds unless k6 was asked for more."""
    reader, steps = _Reader(source, rows), {1}

    def take(tags: dict[str, str]) -> None:
        if tags["metric_name"] not in _REQUEST:
            reader.pass_over(tags["metric_name"])
        else:
            end, step = _csv_time(tags["timestamp"])
            steps.add(step)
            reader.metric(tags["metric_name"], end, float(tags["metric_value"]), tags | dict(_extra(tags)))

    source.each(records(source, _CSV, asked.names), take, "a metric, a time, a number")
    reader.end()
    return reader.facts(max(steps))


def _given(tags: _Tags | None) -> dict[str, Any]:
    """The tags there are."""
    found = {} if tags is None else msgspec.structs.asdict(tags)
    return {name: value for name, value in found.items() if value is not None}


def _csv_time(text: str) -> tuple[int, int]:
    """A CSV's time and its step, ns."""
    unit = _DIGITS.get(len(text)) if text.isdigit() else None
    if unit is None:
        return unix_ns(text), 1 if "." in text else UNITS["s"]
    return int(text) * UNITS[unit], UNITS[unit]


def _extra(tags: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The tags k6 packs into one column, and where a virtual user's number stands."""
    for name in ("extra_tags", "metadata"):
        for pair in (tags.get(name) or "").split("&"):
            key, _, value = pair.partition("=")
            if key in ("vu", "iter"):
                yield key, value


# -- the summary -----------------------------------------------------------------------------------

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


def is_summary(head: Head) -> bool:
    """A summary's `metrics`, with some of HTTP or what it has beside them."""
    is_http = "root_group" in head.keys or _ANY.search(head.text[:200_000]) is not None
    return "metrics" in head.keys and is_http


def is_text(head: Head) -> bool:
    """The line of k6's response times."""
    return re.search(r"^[ \t✓✗]*http_req_duration\.+: avg=", head.text, re.M) is not None


def read_summary(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as JSON, in each of its three kinds."""
    told = Told(source, "summary of k6's")
    results = told.at("results").at("metrics")
    metrics = {}
    for name, one in (*told.at("metrics").items(), *results.items()):
        name = one.text("name") if results.value is not None else name
        if name.partition("{")[0] in _METRICS and len(name) < LONGEST_TEXT:
            values = one if one.at("values").value is None else one.at("values")
            keys = (key for key in values.names() if key in _NUMBERS or _SHARE.fullmatch(key))
            metrics[name] = {key: values.number(key) for key in keys}
    ms, s = told.at("state").number("testRunDurationMs"), told.at("config").number("duration")
    return _summary(rows, metrics, ms / 1e3 if ms else s, told.at("metadata").text("k6Version"))


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as k6 prints it: from 1.0 on under its own heading, before that without."""
    is_new = "TOTAL RESULTS" in source.head.decode(errors="replace")
    text, parts = printed(source, "TOTAL RESULTS" if is_new else r"^[ \t✓✗]*data_received\.+:", asked.part)
    text = re.split(r"█ (?:GROUP|SCENARIO)", text)[0]
    return _summary(rows, dict(_lines(text)), None, "", parts)


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


def _summary(rows: Rows, metrics: Metrics, span: float | None, version: str, parts: int = 1) -> Facts:
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
