"""Vegeta: `vegeta encode --to json` and `--to csv`, a line for each request.

The timestamp is when a request started, the latency how long it took. When it was due is not written.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_NAME
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.times import unix_ns, whole
from perfkit.importing.words import error_class

#: Columns of its CSV, which has no header; older versions end with seq.
COLUMNS = (
    *("timestamp", "code", "latency", "bytes_out", "bytes_in", "error", "body", "attack", "seq"),
    *("method", "url", "headers"),
)
_FEWEST = 9
_NUMBERS = ("latency", "code", "bytes_out", "bytes_in")


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
        self.rows = rows
        self.attacks: set[str] = set()

    def add(self, at: int, result: _Result) -> None:
        """One result; `at` is its timestamp, ns."""
        if result.latency < 0:
            raise Wrong(f"a latency of {result.latency}", "0 ns or more")
        status = result.code or None
        failed = bool(result.error) or status is None
        error = error_class(status, result.error, failed=failed, of_transport=True)
        if result.attack and len(self.attacks) < 2:
            self.attacks.add(result.attack[:LONGEST_NAME])
        label = result.url or "request"
        self.rows.add(
            self.rows.names.of(label, result.method), started=at, done=at + result.latency, status=status,
            error=error, words=result.error or (f"status {status}" if error else None),
            bytes_sent=result.bytes_out, bytes_received=result.bytes_in,
        )  # fmt: skip

    def facts(self) -> Facts:
        """What there is to say when the file has ended."""
        names = list(self.attacks)
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
