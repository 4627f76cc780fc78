"""wrk and wrk2: what they print, once or several times in a file: each is a run of its own.

Both print counts, a rate and a mean; with --latency wrk adds four quantiles, and wrk2 its detailed spectrum,
counted from when each request was due and without the first seconds, in which wrk2 finds its pace.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import MOST_RUNS
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, go_ms, number_in, summary_of
from perfkit.store.metadata import FailureKind

_BEGIN = re.compile(r"^\s*Running (\S+) test @ (\S+)", re.M)
_CLIENTS = re.compile(r"(\d+) threads? and (\d+) connections?")
_TOTAL = re.compile(r"(\d+) requests in ([\d.]+\s?(?:us|ms|s|m|h)),")
_LATENCY = re.compile(r"^\s*Latency\s+(\S+)\s+(\S+)\s+(\S+)", re.M)
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_SHARE = re.compile(r"^\s*([\d.]+)%\s+([\d.]+\s?(?:us|ms|s|m|h))\s*$", re.M)
_SPECTRUM = re.compile(r"^\s*([\d.]+)\s+([01]\.\d+)\s+(\d+)\s+(?:[\d.]+|inf)\s*$", re.M)
_UNCORRECTED = re.compile(r"\(HdrHistogram - Uncorrected")
_MOST_LINES = 20_000  # of a run


def is_text(head: Head) -> bool:
    """The first line of wrk and wrk2, maybe after a prompt."""
    return _BEGIN.search(head.text[:4000]) is not None


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary of one of the runs in the file."""
    every = list(_runs(source.texts()))
    runs = [one for one in every if (total := _TOTAL.search(one)) and int(total[1])] or every
    if len(runs) > MOST_RUNS:
        raise BadInput(f"{source.path} has {len(runs):,} runs in it; up to {MOST_RUNS} are read, split it")
    facts = _facts(source, rows, runs[asked.part], len(runs))
    left = len(every) - len(runs)
    more = (f"{left} of {len(every)} runs in the file have no request",) if left else ()
    return dataclasses.replace(facts, notes=(*facts.notes, *more))


def _runs(texts: Iterable[str]) -> Iterator[str]:
    """The text of each run."""
    lines: list[str] = []
    for text in texts:
        if _BEGIN.match(text) and lines:
            yield "\n".join(lines)
            lines = []
        if lines or _BEGIN.match(text):
            lines.append(text[:500])
        if len(lines) > _MOST_LINES:
            raise BadInput(f"a run of wrk's of more than {_MOST_LINES:,} lines; nothing was imported")
    yield "\n".join(lines)


def _facts(source: Source, rows: Rows, text: str, parts: int) -> Facts:
    begin, total = _BEGIN.search(text), _TOTAL.search(text)
    if begin is None or total is None or not int(total[1]):
        words = "no line 'N requests in T' with a request; give the full output of wrk"
        raise BadInput(f"{source.path} has {words}")
    latency, clients = _LATENCY.search(text), _CLIENTS.search(text)
    rate = number_in(text, r"Requests/sec:\s+([\d.]+)")
    bad = number_in(text, r"Non-2xx or 3xx responses: (\d+)")
    corrected = _UNCORRECTED.split(text)[0]
    spectrum = [(float(share), float(value)) for value, share, _ in _SPECTRUM.findall(corrected)]
    points = spectrum or [(float(share) / 100, go_ms(value)) for share, value in _SHARE.findall(corrected)]
    notes, lost = [], 0
    kinds = [FailureKind("check", "", int(bad or 0), "neither 2xx nor 3xx")]
    if socket := _SOCKET.search(text):
        connect, read_, write, timeout = map(int, socket.groups())
        lost = connect + read_ + write
        kinds += [FailureKind("connect", "", connect, "wrk counted connect errors"),
                  FailureKind("reset", "", read_ + write, "wrk counted read and write errors")]  # fmt: skip
        notes += [f"wrk counted {timeout:,} timeouts; they are not separate failures"] if timeout else []
    is_wrk2 = bool(spectrum) or "Thread calibration" in text or "HdrHistogram" in text
    mean, std, high = map(_ms, latency.groups()) if latency else (None, None, None)
    told = carried(
        rows.names.settled(rows.names.of(begin[2])), n=int(total[1]) + lost, kinds=kinds,
        rate_per_s=None if rate is None else rate * (1 + lost / int(total[1])),
        mean=mean, std=std, high=high, points=points,
    )  # fmt: skip
    load = {"threads": int(clients[1]), "connections": int(clients[2])} if clients else {}
    return summary_of("wrk2" if is_wrk2 else "wrk", [told], span_s=go_ms(total[2]) / 1e3, parts=parts,
                      load=load, intended_time=is_wrk2, notes=notes)  # fmt: skip


def _ms(text: str) -> float | None:
    """A time, None where wrk prints nan."""
    return None if "nan" in text else go_ms(text)
