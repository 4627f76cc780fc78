"""hey, once called boom: `hey -o csv`, a line for each request that was answered, and what it prints.

The CSV has s since hey began, to 0.1 ms: when a request began (offset), how long it took, and its parts.
"""

from __future__ import annotations

import re

from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, lost_kinds, number_in, printed, status_kinds, summary_of
from perfkit.importing.times import UNITS, ns, whole
from perfkit.importing.words import error_class

_CSV = ("response-time", "DNS+dialup", "DNS", "Request-write", "Response-delay", "Response-read",
        "status-code", "offset")  # fmt: skip
_BEGIN = r"^[ \t]*Summary:[ \t\r]*$"
#: oha and ghz print another line before the total; etcd's benchmark has a deviation.
_TEXT = re.compile(_BEGIN + r"\s+Total:\s+[\d.]+ secs(?!(?:.*\n){1,6}\s*Stddev:)", re.M)
_MOST = 1_000_000  # latencies that hey keeps


def is_csv(head: Head) -> bool:
    """The header of hey's CSV."""
    return tuple(head.columns()) == _CSV


def is_text(head: Head) -> bool:
    """The beginning of hey's summary."""
    return _TEXT.search(head.text) is not None


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line."""
    rows.absolute = False

    def add(told: dict[str, str]) -> None:
        times = ("response-time", "Response-delay", "Response-read", "offset")
        took, waited, reading, started = (ns(told[name], "s") for name in times)
        if took < 0:
            raise Wrong(f"a response time of {told['response-time']}", "0 s or more")
        status = whole(told["status-code"])
        first = started + took - reading if waited > 0 and 0 <= reading <= took else None
        rows.add("request", started=started, done=started + took, first_byte=first, status=status,
                 error=error_class(status, None, failed=False))  # fmt: skip

    source.each(records(source, _CSV, asked.names), add, ",".join(_CSV))
    notes = ("hey wrote only the requests that got a response: failures without one are missing",
             "the file has no planned times")  # fmt: skip
    return Facts("hey", rounded_ns=(UNITS["ms"] // 10, UNITS["ms"] // 10), notes=notes)


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary that hey prints."""
    text, parts = printed(source, _BEGIN, asked.part)
    body, _, lost = text.partition("Error distribution:")
    codes = {code: int(n) for code, n in re.findall(r"^\s*\[(\d+)\]\s+(\d+) responses", body, re.M)}
    errors = {words: int(n) for n, words in re.findall(r"^\s*\[(\d+)\]\s+(\S.*)", lost, re.M)}
    shares = re.findall(r"^\s*(\d+)%+ in ([\d.]+) secs", body, re.M)
    answered, n = sum(codes.values()), sum(codes.values()) + sum(errors.values())
    times = (number_in(body, rf"^\s*{name}:\s+([\d.]+) secs") for name in ("Average", "Fastest", "Slowest"))
    mean, low, high = (None if s is None or not answered else 1e3 * s for s in times)
    notes = []
    if answered > _MOST:  # it divides the sum of all by the number of those it kept
        mean = None
        notes = [f"hey's quantiles are of its first {_MOST:,} answers, its mean is wrong for more"]
    told = carried(
        n=n, kinds=[*status_kinds(codes), *lost_kinds(errors)], mean=mean, low=low, high=high,
        rate_per_s=number_in(body, r"Requests/sec:\s+([\d.]+)"),
        points=[(int(share) / 100, 1e3 * float(at)) for share, at in shares if int(share) and answered],
    )  # fmt: skip
    span_s = number_in(body, r"Total:\s+([\d.]+) secs")
    return summary_of("hey", [told], span_s=span_s, parts=parts, notes=notes)
