"""k6: `--out json=FILE` and `--out csv=FILE`, a line for each metric of each request.

A request's metrics stand together. Its end is their time; what it spent sending, waiting and receiving leads
back to the other instants: first byte = end - receiving, sent = first byte - waiting, started = sent -
sending: its latency is k6's http_req_duration. What it was blocked before (for a connection) is a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_NAME
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS, ns, unix_ns, whole
from perfkit.importing.words import error_class

_OF_REQUEST = ("duration", "blocked", "connecting", "tls_handshaking", "sending", "waiting", "receiving",
               "failed")  # fmt: skip
_REQUEST = frozenset(("http_reqs", *(f"http_req_{name}" for name in _OF_REQUEST)))
#: In what k6 counts a CSV's time, the number of its digits says; else it is RFC 3339.
_DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
_CODES = {1010: "connect", 1020: "protocol", 1050: "timeout", 1211: "timeout", 1220: "reset", 1201: "reset"}
_CSV = ("metric_name", "timestamp", "metric_value")
_PARTS = ("blocked", "sending", "waiting", "receiving")
_NOTE = "k6 does not record planned times"
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


class _Request:
    """The metrics of one request so far."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.end = 0
        self.tags: dict[str, Any] = {}
        self.line = 0

    def takes(self, metric: str, end: int, tags: dict[str, Any]) -> bool:
        """Whether a metric is one of this request's."""
        return end == self.end and metric not in self.metrics and tags.get("url") == self.tags.get("url")


class _Reader:
    """Puts metrics together to requests and requests into rows."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.scenarios: set[str] = set()
        self._others: set[str] = set()
        self.around = 0  # requests of setup and teardown
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
        if not request.takes(name, end, tags):
            self.end()
            request = self._request
            request.end, request.tags, request.line = end, tags, self.source.line
        request.metrics[name] = value

    def end(self) -> None:
        """The request is complete: make it a row."""
        request, self._request = self._request, _Request()
        if not request.metrics:
            return
        try:
            self._add(request)
        except Wrong as wrong:
            self.source.bad(wrong.found, wrong.expected, f"the request of line {request.line:,}")
        except (ValueError, OverflowError):
            self.source.bad("a metric that is no number", "ms", f"the request of line {request.line:,}")

    def _add(self, request: _Request) -> None:
        took, tags = request.metrics, request.tags
        status = whole(tags.get("status") or 0) or None
        started, sent, first = _instants(request.end, took)
        error = _error(status, tags, took.get("http_req_failed"))
        label, url = str(tags.get("name") or tags.get("url") or "unnamed"), tags.get("url")
        if url:
            self.rows.names.saw(str(url))
        if tags.get("scenario") and len(self.scenarios) < 2:
            self.scenarios.add(str(tags["scenario"])[:LONGEST_NAME])
        if (blocked := took.get("http_req_blocked", 0.0)) > 0:
            self._blocked += 1
            self._blocked_ms += blocked
            self._blocked_most_ms = max(self._blocked_most_ms, blocked)
        phase = _phase(str(tags.get("group") or ""))
        self.around += phase != "measure"
        self.rows.add(
            self.rows.request(label, str(tags.get("method") or ""), url=str(url or "")),
            started=started, sent=sent if status else None, first_byte=first if status else None,
            done=request.end, status=status, error=error,
            words=tags.get("error") or (f"status {status}" if error else None),
            user=whole(tags["vu"]) if str(tags.get("vu") or "").isdecimal() else None,
            phase=phase,
        )  # fmt: skip

    def facts(self, resolution_ns: int = 1) -> Facts:
        """What there is to say when the file has ended."""
        if not self.rows.added and not self.source.broken_count and self._others:
            some = ", ".join(sorted(self._others))
            raise BadInput(f"{self.source.path} has no HTTP request in it, only {some}; nothing was imported")
        names = list(self.scenarios)
        around = f"{self.around:,} requests of setup and teardown are in the run but not in its statistics"
        notes = [_NOTE, *([around] if self.around else [])]
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
            reader.metric(
                found.metric, unix_ns(data.time), data.value, _given(data.metadata) | _given(data.tags)
            )

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

    lines = records(source, () if asked.names else _CSV, asked.names)
    source.each(lines, take, "a metric, a time, a number")
    reader.end()
    return reader.facts(max(steps))


def _given(tags: _Tags | None) -> dict[str, Any]:
    if tags is None:
        return {}
    found = {name: getattr(tags, name) for name in _Tags.__struct_fields__}
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
