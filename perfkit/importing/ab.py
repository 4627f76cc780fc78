"""ab, Apache's benchmark: `ab -g FILE`, a line for each request; `ab -e FILE`, quantiles; and what it prints.

The lines of -g have when a request began in whole s, and its times in whole ms.
"""

from __future__ import annotations

import re

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, number_in, operations, printed, summary_of
from perfkit.importing.times import UNITS, ns, whole
from perfkit.store.metadata import FailureKind

_PLOT = ("starttime", "seconds", "ctime", "dtime", "ttime", "wait")
_QUANTILES = ("Percentage served", "Time in ms")
_BEGIN = r"^(?:This is ApacheBench|Concurrency Level:)"
_TOTAL = re.compile(r"^Total:\s+([\d.]+)\s+([\d.]+)(?:\s+([\d.]+)\s+[\d.]+)?\s+([\d.]+)\s*$", re.M)
_FAILED = {
    "connect": ("connect", "ab counted errors to connect"),
    "receive": ("reset", "ab counted errors to receive"),
    "exceptions": ("protocol", "ab counted exceptions"),
}


def is_plot(head: Head) -> bool:
    """The header of -g."""
    return tuple(head.names("\t")) == _PLOT


def is_quantiles(head: Head) -> bool:
    """The header of -e."""
    return tuple(head.columns()) == _QUANTILES


def is_text(head: Head) -> bool:
    """Lines that ab prints, maybe without its first ones."""
    return re.search(r"^Concurrency Level: .*\n(?:.*\n){1,3}Complete requests: ", head.text, re.M) is not None


def read_plot(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line."""

    def add(told: dict[str, str]) -> None:
        started = ns(told["seconds"], "s")
        connect, took, wait = (ns(told[name], "ms") for name in ("ctime", "ttime", "wait"))
        if min(connect, took, wait) < 0:
            raise Wrong("a negative time", "0 ms or more")
        rows.add("request", started=started, done=started + took,
                 first_byte=started + min(connect + wait, took))  # fmt: skip

    source.each(records(source, _PLOT, asked.names, delimiter="\t"), add, "\\t".join(_PLOT))
    notes = ("ab wrote only the requests that got a response, without status: failures are missing",
             "the file has no planned times")  # fmt: skip
    return Facts("ab", rounded_ns=(UNITS["s"], UNITS["ms"]), notes=notes)


def read_quantiles(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Quantiles, and no count."""
    points: dict[int, float] = {}

    def add(told: dict[str, str]) -> None:
        share, at = whole(told[_QUANTILES[0]]), ns(told[_QUANTILES[1]], "ms")
        if not 0 <= share <= 100 or at < 0:
            raise Wrong(f"{at / UNITS['ms']:g} ms for {share} %", "0 ms or more, 0 to 100 %")
        points[share] = at / UNITS["ms"]

    source.each(records(source, _QUANTILES), add, ",".join(_QUANTILES))
    shares = [(share / 100, ms) for share, ms in points.items()]
    told = carried(low=points.get(0), high=points.get(100), points=shares)
    return summary_of("ab", [told], span_s=None, notes=["the file has no number of requests"])


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary that ab prints."""
    begin = r"^This is ApacheBench" if b"This is ApacheBench" in source.head else _BEGIN
    text, parts = printed(source, begin, asked.part)
    n = number_in(text, r"^Complete requests:\s+(\d+)")
    if n is None:
        words = "a run of ab without `Complete requests`; give the full output of ab"
        raise BadInput(f"{source.path} has {words}")
    table, (kinds, notes) = _TOTAL.search(text), _failures(text)
    times = table.groups() if table else [None] * 4
    low, mean, std, high = (None if ms is None else float(ms) for ms in times)
    shares = re.findall(r"^\s*(\d+)%\s+(\d+)(?:\s+\(longest request\))?\s*$", text, re.M)
    told = carried(
        _name(rows, text), n=int(n), kinds=kinds, mean=mean, std=std, low=low, high=high,
        rate_per_s=number_in(text, r"^Requests per second:\s+([\d.]+)"),
        points=[(int(share) / 100, float(ms)) for share, ms in shares],
    )  # fmt: skip
    concurrency = number_in(text, r"^Concurrency Level:\s+(\d+)")
    version = re.search(r"ApacheBench, Version ([\d.]+)", text)
    return summary_of("ab", [told], span_s=number_in(text, r"^Time taken for tests:\s+([\d.]+)"), parts=parts,
                      version=version and version[1], notes=notes,
                      load={"concurrency": int(concurrency)} if concurrency else {})  # fmt: skip


def _failures(text: str) -> tuple[list[FailureKind], list[str]]:
    """Failures by kind, and what to say of answers that ab calls failed for their length alone."""
    counted = (number_in(text, rf"^{name}:\s+(\d+)") for name in ("Failed requests", "Non-2xx responses"))
    failed, answers = (int(n or 0) for n in counted)
    kinds = [FailureKind("check", "", answers, "not 2xx")]
    told = re.search(r"^Failed requests:.*\n\s*\(([^)\n]*)\)", text, re.M)
    if told is None:
        return [*kinds, FailureKind("check", "", failed, "ab does not say why")], []
    counts = {name.lower(): int(count) for name, count in re.findall(r"(\w+): (\d+)", told[1])}
    kinds += [FailureKind(error, "", counts.get(name, 0), words) for name, (error, words) in _FAILED.items()]
    if not (length := counts.get("length", 0)):
        return kinds, []
    words = "responses differ in length from the first: ab counts them as failed, perfkit does not"
    return kinds, [f"{length:,} {words}"]


def _name(rows: Rows, text: str) -> str:
    """The operation: the path of the document, which leads to the host too."""
    names = ("Server Hostname", "Server Port", "Document Path")
    host, port, path = (re.search(rf"^{name}:\s+(\S+)", text, re.M) for name in names)
    scheme = "https" if re.search(r"^(?:SSL|TLS)", text, re.M) else "http"
    place = f"{scheme}://{host[1]}:{port[1]}" if host and port else ""
    (name,) = operations(rows, [(f"{place}{path[1]}" if path else "requests", "")])
    return name
