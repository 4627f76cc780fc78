"""Vegeta: `vegeta encode --to json` and `--to csv`, a line for each request; and its reports, summaries.

The timestamp of a line is when a request started, the latency how long it took. When it was due is not
written. Reports are those of `vegeta report -type json` (times in ns) and of `vegeta report`, as printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_NAME
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, go_ms, printed, status_kinds, summary_of
from perfkit.importing.times import UNITS, unix_ns, whole
from perfkit.importing.words import clean, error_class
from perfkit.store.metadata import FailureKind

#: Columns of its CSV, which has no header; older versions end with seq.
COLUMNS = (
    *("timestamp", "code", "latency", "bytes_out", "bytes_in", "error", "body", "attack", "seq"),
    *("method", "url", "headers"),
)
_FEWEST = 9
_NUMBERS = ("latency", "code", "bytes_out", "bytes_in")
_BEGIN = r"^Requests\s+\[total, rate"
_ROW = re.compile(r"^(\w[\w ]*\w) +\[([^\]\n]*)\] +(.*)$", re.M)


class _Result(msgspec.Struct):
    timestamp: str
    latency: int
    code: int
    attack: str = ""
    bytes_out: int = 0
    bytes_in: int = 0
    error: str = ""
    method: str = ""
    url: str = ""


_decode = msgspec.json.Decoder(_Result).decode


def is_json(head: Head) -> bool:
    """A line of Vegeta's JSON."""
    first = head.first_json
    return isinstance(first, dict) and {"timestamp", "latency", "code", "seq"} <= first.keys()


def is_csv(head: Head) -> bool:
    """Nine to twelve columns without names, of which the first is a time in ns."""
    first = head.cells()
    return _FEWEST <= len(first) <= len(COLUMNS) and [len(first[0]), first[0].isdigit()] == [19, True] and (
        first[1].isdigit() and first[2].isdigit() and first[8].isdigit()
    )  # fmt: skip


class _Reader:
    """What JSON and CSV have in common."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._attacks: set[str] = set()

    def add(self, at: int, result: _Result) -> None:
        """One result; `at` is its timestamp, ns."""
        if result.latency < 0:
            raise Wrong(f"a latency of {result.latency}", "0 ns or more")
        status = result.code or None
        failed = bool(result.error) or status is None
        error = error_class(status, result.error, failed=failed, of_transport=True)
        if result.attack and len(self._attacks) < 2:
            self._attacks.add(result.attack[:LONGEST_NAME])
        self._rows.add(
            self._rows.names.of(result.url or "request", result.method), started=at, done=at + result.latency,
            status=status, error=error, words=result.error,
            bytes_sent=result.bytes_out, bytes_received=result.bytes_in,
        )  # fmt: skip

    def facts(self) -> Facts:
        """What there is to say when the file has ended."""
        names = list(self._attacks)
        notes = ("Vegeta records when a request started, not when it was planned",)
        return Facts("Vegeta", scenario=names[0] if len(names) == 1 else None, notes=notes)


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Vegeta's JSON lines."""
    reader = _Reader(rows)

    def add(line: bytes) -> None:
        result = _decode(line)
        reader.add(unix_ns(result.timestamp), result)

    source.each(source.lines(), add, "a result of Vegeta's")
    return reader.facts()


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Vegeta's CSV."""
    reader = _Reader(rows)

    def add(told: dict[str, str]) -> None:
        numbers: dict[str, Any] = {name: whole(told[name]) for name in _NUMBERS}
        texts: dict[str, Any] = {name: told.get(name, "") for name in ("attack", "error", "method", "url")}
        reader.add(whole(told["timestamp"]), _Result(timestamp="", **numbers, **texts))

    lines = records(source, names=COLUMNS, fewest=_FEWEST, delimiter=",")
    source.each(lines, add, "whole numbers in the first five columns")
    return reader.facts()


# -- reports ---------------------------------------------------------------------------------------


def is_report(head: Head) -> bool:
    """The report's parts."""
    return {"latencies", "bytes_in", "status_codes", "requests"} <= head.keys


def is_text(head: Head) -> bool:
    """The report's first line."""
    return re.search(_BEGIN, head.text, re.M) is not None


def read_report(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The report as JSON."""
    told = Told(source, "report of Vegeta's")
    latencies, n = told.at("latencies"), told.count("requests") or 0
    times = {name.removesuffix("th"): latencies.number(name) for name in latencies.names()}
    known = {name: ns / UNITS["ms"] for name, ns in times.items() if ns}  # a library's report has zeros
    if "mean" not in known and n and "total" in known:
        known["mean"] = known["total"] / n
    spans = told.number("duration"), told.number("wait")
    span = ((spans[0] or 0) + (spans[1] or 0)) / UNITS["s"] if spans[0] else None
    errors = [one.value for _, one in told.at("errors").items() if isinstance(one.value, str)]
    return _report(n, told.at("status_codes").counts(), errors, known, span)


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The report as it is printed."""
    text, parts = printed(source, _BEGIN, asked.part)
    told = {name: dict(zip(re.split(", *", labels), re.split(", *", values.strip()), strict=False))
            for name, labels, values in _ROW.findall(text)}  # fmt: skip
    codes = re.search(r"^Status Codes\s+\[code:count\]\s+(.*)$", text, re.M)
    counts = {code: int(count) for code, count in re.findall(r"(\d+):(\d+)", codes[1])} if codes else {}
    errors = [line.strip() for line in text.partition("Error Set:")[2].splitlines() if line.strip()]
    times = {name: go_ms(at) for name, at in told.get("Latencies", {}).items()}
    requests, total = told.get("Requests", {}), told.get("Duration", {}).get("total")
    span = go_ms(total) / 1e3 if total else None
    return _report(int(requests.get("total", 0)), counts, errors, times, span, parts)


def _report(n: int, codes: Mapping[str, int], errors: Iterable[str], times: Mapping[str, float],
           span: float | None, parts: int = 1) -> Facts:  # fmt: skip
    """The facts of either; times (ms) by their labels, of which 50 is the median."""
    lost, kinds = codes.get("0", 0), list(status_kinds(codes))
    words = [one for one in errors if not re.match(r"\d{3}\b", one)]
    classes = {error_class(None, one, failed=True, of_transport=True) or "" for one in words[:200]}
    notes = []
    if lost:
        error = classes.pop() if len(classes) == 1 else "protocol"
        why = clean(words[0]) or "" if len(words) == 1 else f"{len(words)} different errors"
        kinds.append(FailureKind(error, "", lost, why))
        notes = ["Vegeta's report does not count errors by type"]
    points = [(float(name) / 100, ms) for name, ms in times.items() if name[:1].isdigit()]
    rate = n / span if span else None
    told = carried(n=n, kinds=kinds, rate_per_s=rate, mean=times.get("mean"), low=times.get("min"),
                   high=times.get("max"), points=points)  # fmt: skip
    return summary_of("Vegeta", [told], span_s=span, parts=parts, notes=notes)
