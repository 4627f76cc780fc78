"""wrk2: what `wrk --latency` of wrk2 prints, with its detailed percentile spectrum.

The spectrum has how many requests took at most so long, counted from when each was due. Its first seconds,
in which wrk2 finds its pace, are not in it.
"""

from __future__ import annotations

import re

from perfkit.errors import BadInput
from perfkit.importing.buckets import Outcome, add_bucket, add_lost, by_rank
from perfkit.importing.head import Head
from perfkit.importing.limits import MOST_LINES_OF_COUNTS
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, ns, whole

_BEGIN = re.compile(r"Running (\S+) test @ (\S+)")
_CLIENTS = re.compile(r"(\d+) threads? and (\d+) connections?")
_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m|h),")
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_ANSWERS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_FACTS = {"begin": _BEGIN, "clients": _CLIENTS, "total": _TOTAL, "socket": _SOCKET, "answers": _ANSWERS}
_SPECTRUM = re.compile(r"([\d.]+|inf|-?nan)\s+([01]\.\d+)\s+(\d+)\s*([\d.]+|inf)?")
_UNITS = UNITS | {"m": 60 * UNITS["s"], "h": 3600 * UNITS["s"]}


def is_text(head: Head) -> bool:
    """The first line of wrk and wrk2."""
    return _BEGIN.search(head.text[:2000]) is not None


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """As many rows as the spectrum counts, over the part of the run it covers."""
    rows.absolute = False
    points, texts = _read_lines(source)
    whole_text = "\n".join(texts)
    found = {name: pattern.search(whole_text) for name, pattern in _FACTS.items()}
    total, begin = found["total"], found["begin"]
    if not points:
        raise BadInput(
            f"{source.path} has no detailed percentile spectrum; wrk2 prints one with --latency, wrk has none"
        )
    if total is None or begin is None or int(total[1]) < 1:
        raise BadInput(f"{source.path} has no line 'N requests in T'; give all that wrk2 printed")
    n, requests, length = points[-1][1], int(total[1]), ns(total[2], "s") * _UNITS[total[3]] // UNITS["s"]
    if length <= 0:
        raise BadInput(f"{source.path}: a run of {total[2]}{total[3]}; nothing to import")
    span = (0, length * min(n, requests) // requests)
    name = rows.names.of(begin[2])
    bad = int(found["answers"][1]) if found["answers"] else 0
    latencies = by_rank([(count / n, value) for value, count in points], n)
    add_bucket(
        rows, name, span, latencies, [Outcome(min(bad, n), error="check", words="neither 2xx nor 3xx")]
    )
    socket = [int(one) for one in found["socket"].groups()] if found["socket"] else [0, 0, 0, 0]
    add_lost(rows, name, span, [
        Outcome(socket[0], error="connect", words="wrk2 counted a connect error"),
        Outcome(socket[1] + socket[2], error="reset", words="wrk2 counted a read or write error"),
    ])  # fmt: skip
    notes = ["wrk2 prints one spectrum for all of the run: how latency moved in it is not known"]
    if n < requests:
        notes.append(
            f"{requests - n:,} of {requests:,} requests are not in the spectrum, as when wrk2 found its pace"
        )
    if socket[3]:
        notes.append(f"wrk2 counted {socket[3]:,} timeouts; which requests they were is not known")
    clients = found["clients"]
    load = {"threads": int(clients[1]), "connections": int(clients[2])} if clients else {}
    return Facts("wrk2", span_ns=span, bucketed=True, intended_time=True, load=load,
                 notes=tuple(notes))  # fmt: skip


def _read_lines(source: Source) -> tuple[list[tuple[int, int]], list[str]]:
    """The points (latency in ns, requests up to it) of the first spectrum, and all other lines."""
    points: list[tuple[int, int]] = []
    texts: list[str] = []
    spectra = 0
    for text in map(str.strip, source.texts()):
        if text.startswith("Detailed Percentile spectrum"):
            spectra += 1
        found = _SPECTRUM.fullmatch(text) if spectra else None
        if found is None:
            if len(texts) < 1000:
                texts.append(text[:500])
            if spectra == 1 and text[:1].isdigit() and "requests in" not in text and "%" not in text:
                source.bad(short(text), "value, percentile, count")
        elif spectra == 1:
            _point(source, points, found)
            if len(points) > MOST_LINES_OF_COUNTS:
                raise BadInput(f"{source.path}: a spectrum of more than {MOST_LINES_OF_COUNTS:,} lines; "
                               "nothing was imported")  # fmt: skip
    return points, texts


def _point(source: Source, points: list[tuple[int, int]], found: re.Match[str]) -> None:
    try:
        value, count = ns(found[1], "ms"), whole(found[3])
    except ValueError:
        source.bad(short(found[0]), "value, percentile, count")
        return
    before = points[-1] if points else (0, 0)
    if value < before[0] or count < before[1] or count < 1:
        source.bad(short(found[0]), "values and counts that grow")
        return
    points.append((value, count))
