"""Vegeta's reports: `vegeta report -type json` (times in ns) and `vegeta report`, as it is printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import Told, carried, go_ms, printed, status_kinds, summary_of
from perfkit.importing.times import UNITS
from perfkit.importing.words import clean, error_class
from perfkit.store.metadata import FailureKind

_BEGIN = r"^Requests\s+\[total, rate"
_ROW = re.compile(r"^(\w[\w ]*\w) +\[([^\]\n]*)\] +(.*)$", re.M)


def is_json(head: Head) -> bool:
    """The report's parts."""
    return {"latencies", "bytes_in", "status_codes", "requests"} <= head.keys


def is_text(head: Head) -> bool:
    """The report's first line."""
    return re.search(_BEGIN, head.text, re.M) is not None


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The report as JSON."""
    rows.absolute = False
    told = Told(source, "report of Vegeta's")
    latencies, n = told.at("latencies"), told.count("requests") or 0
    times = {name.removesuffix("th"): latencies.number(name) for name in latencies.names()}
    known = {name: ns / UNITS["ms"] for name, ns in times.items() if ns}  # a library's report has zeros
    if "mean" not in known and n and "total" in known:
        known["mean"] = known["total"] / n
    spans = told.number("duration"), told.number("wait")
    span = ((spans[0] or 0) + (spans[1] or 0)) / UNITS["s"] if spans[0] else None
    errors = [one.value for _, one in told.at("errors").items() if isinstance(one.value, str)]
    return _facts(n, told.at("status_codes").counts(), errors, known, span)


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The report as it is printed."""
    rows.absolute = False
    text, parts = printed(source, _BEGIN, asked.part)
    told = {name: dict(zip(re.split(", *", labels), re.split(", *", values.strip()), strict=False))
            for name, labels, values in _ROW.findall(text)}  # fmt: skip
    codes = re.search(r"^Status Codes\s+\[code:count\]\s+(.*)$", text, re.M)
    counts = {code: int(count) for code, count in re.findall(r"(\d+):(\d+)", codes[1])} if codes else {}
    errors = [line.strip() for line in text.partition("Error Set:")[2].splitlines() if line.strip()]
    times = {name: go_ms(at) for name, at in told.get("Latencies", {}).items()}
    requests, total = told.get("Requests", {}), told.get("Duration", {}).get("total")
    span = go_ms(total) / 1e3 if total else None
    return _facts(int(requests.get("total", 0)), counts, errors, times, span, parts)


def _facts(n: int, codes: Mapping[str, int], errors: Iterable[str], times: Mapping[str, float],
           span: float | None, parts: int = 1) -> Facts:  # fmt: skip
    """The facts of either; times (ms) by their labels, of which 50 is the median."""
    lost, kinds = codes.get("0", 0), list(status_kinds(codes))
    words = [one for one in errors if not re.match(r"\d{3}\b", one)]
    classes = {error_class(None, one, failed=True, of_transport=True) or "" for one in words[:200]}
    notes = []
    if lost:
        error = classes.pop() if len(classes) == 1 else "protocol"
        kinds.append(
            FailureKind(
                error,
                "",
                lost,
                clean(words[0]) or "" if len(words) == 1 else f"{len(words)} different errors",
            )
        )
        notes = ["Vegeta's report does not count errors by type"]
    points = [(float(name) / 100, ms) for name, ms in times.items() if name[:1].isdigit()]
    rate = n / span if span else None
    told = carried(n=n, kinds=kinds, rate_per_s=rate, mean=times.get("mean"), low=times.get("min"),
                   high=times.get("max"), points=points)  # fmt: skip
    return summary_of("Vegeta", [told], span_s=span, parts=parts, notes=notes)
