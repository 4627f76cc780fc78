"""HdrHistogram interval logs (format 1.x, V2 histograms): counts by value for each interval, maybe by tag.

Every counted value becomes a row with the middle of its bucket as latency, its end somewhere in the interval.
The log does not tell the unit of its values; by convention it is ns, and `--unit` says so if it is another.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from perfkit.importing.buckets import MOST, add_bucket
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows, Wrong
from perfkit.importing.source import Head, Source, short
from perfkit.importing.times import UNITS, ns

_COMPRESSED, _PLAIN = 0x1C849304, 0x1C849303
_OLD = (0x1C849301, 0x1C849302, 0x1C849308, 0x1C849309)  # V1 and V0; bits 4 to 7 tell a word's size
_HEADER = struct.Struct(">iiiiqqd")  # cookie, length, offset, digits, lowest, highest, ratio
_LARGEST = 32 * 1024 * 1024
_TIME = re.compile(r"#\[(Start|Base)Time: *(\d+(?:\.\d+)?) ")
_LINE = re.compile(
    r'(?:Tag=(?P<tag>[^,]*),)?"?(?P<at>[\d.eE+-]+)"?,(?P<length>[\d.eE+-]+),(?P<max>[^,]*),(?P<coded>\S+)'
)
_YEAR_S = 365 * 86_400


def is_log(head: Head) -> bool:
    """A log's legend, version line, or an interval line."""
    text = head.text[:20_000]
    return "Interval_Compressed_Histogram" in text or "#[Histogram log format" in text or ",HISTF" in text


@dataclass(frozen=True)
class _Interval:
    tag: str
    at_ns: int  # as written
    length_ns: int
    counts: list[tuple[int, int]]  # middle of the bucket in the log's unit, how many


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for every counted value."""
    unit = asked.unit or "ns"
    base = {"Start": 0, "Base": 0}
    first: int | None = None
    spans: list[int] = []
    for text in map(str.strip, source.texts()):
        told = _TIME.match(text)
        if told:
            base[told[1]] = ns(told[2], "s")
        if text.startswith(("#", '"Start', "Start")):
            continue
        try:
            one = _interval(text)
            if first is None:
                first = one.at_ns
                base["Base"] = base["Base"] or _base(first, base["Start"])
                rows.absolute = first + base["Base"] > 30 * _YEAR_S * UNITS["s"]
            spans += _add(rows, one, base["Base"], UNITS[unit])
            spans = [min(spans), max(spans)]
        except Wrong as wrong:
            source.bad(wrong.found, wrong.expected)
        except (ValueError, OverflowError):
            source.bad(short(text), "[Tag=NAME,]start,length,max,HISTF… in s")
    notes = (
        ["values were taken as ns, HdrHistogram's custom; --unit says otherwise"]
        if asked.unit is None
        else []
    )
    span = (spans[0], spans[1]) if spans else None
    return Facts("HdrHistogram", bucketed=True, span_ns=span, notes=(
        *notes, "failures are not in such a log",
        "whether values were counted from when requests were due is not known",
    ))  # fmt: skip


def _base(first: int, start: int) -> int:
    """What interval times count from, where no BaseTime says: times long before StartTime count from it."""
    return start if first < start - _YEAR_S * UNITS["s"] else 0


def _interval(text: str) -> _Interval:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    at, length = ns(found["at"], "s"), ns(found["length"], "s")
    if at < 0 or length < 0:
        raise Wrong(f"an interval at {found['at']} s of {found['length']} s", "none that is negative")
    return _Interval(found["tag"] or "", at, length, list(decode(found["coded"])))


def _add(rows: Rows, one: _Interval, base: int, unit_ns: int) -> tuple[int, int]:
    """The rows of an interval; when it began and ended."""
    total = sum(count for _, count in one.counts)
    if total > MOST:
        raise Wrong(f"{total:,} values in one interval", f"up to {MOST:,}")
    latencies = [value * unit_ns for value, count in one.counts for _ in range(count)]
    span = (base + one.at_ns, base + one.at_ns + one.length_ns)
    add_bucket(rows, rows.names.of(one.tag or "requests"), span, latencies)
    return span


# -- decoding --------------------------------------------------------------------------------------


def decode(coded: str) -> Iterator[tuple[int, int]]:
    """The buckets of a base64 V2 histogram: middle value, count. Wrong for anything else."""
    try:
        raw = base64.b64decode(coded, validate=True)
        cookie, length = struct.unpack_from(">iI", raw)
        if cookie & ~0xF0 != _COMPRESSED & ~0xF0:
            old = cookie & ~0xF0 in _OLD
            raise Wrong(
                "a histogram of an old encoding" if old else "no V2 histogram", "a compressed V2 one (HISTF…)"
            )
        unpacker = zlib.decompressobj()
        payload = unpacker.decompress(raw[8 : 8 + length], _LARGEST)
    except (binascii.Error, struct.error, zlib.error) as error:
        raise Wrong(
            f"a histogram that cannot be unpacked ({error})", "a compressed V2 one (HISTF…)"
        ) from None
    if len(payload) < _HEADER.size or not unpacker.eof:
        raise Wrong("a histogram cut short", "a whole one")
    cookie, size, offset, digits, lowest, _, _ = _HEADER.unpack_from(payload)
    if cookie & ~0xF0 != _PLAIN & ~0xF0 or not 0 <= digits <= 5 or lowest < 1 or offset:
        raise Wrong(
            "a histogram with a header nobody can read", "cookie, digits 0 to 5, lowest from 1, no offset"
        )
    yield from _buckets(payload[_HEADER.size : _HEADER.size + size], digits, lowest)


def _buckets(counts: bytes, digits: int, lowest: int) -> Iterator[tuple[int, int]]:
    largest = 2 * 10**digits
    half_bits = max((largest - 1).bit_length(), 1) - 1  # log2 of half a bucket's sub-buckets
    half, unit_bits = 1 << half_bits, lowest.bit_length() - 1
    index = 0
    for value in _zigzag(counts):
        if value < 0:
            index -= value
            continue
        if value:
            bucket = (index >> half_bits) - 1
            sub = (index & (half - 1)) + half
            if bucket < 0:
                sub, bucket = sub - half, 0
            step = 1 << (bucket + unit_bits)
            if bucket + unit_bits > 62:
                raise Wrong("a value beyond 64 bits", "a smaller one")
            yield sub * step + step // 2, value
        index += 1


def _zigzag(data: bytes) -> Iterator[int]:
    """Signed numbers of 7 bits a byte, at most 9 bytes."""
    place, n = 0, len(data)
    while place < n:
        number = 0
        for i in range(9):
            if place >= n:
                raise Wrong("counts cut short", "whole numbers")
            byte = data[place]
            place += 1
            number |= (byte if i == 8 else byte & 0x7F) << (7 * i)
            if byte < 0x80:
                break
        yield (number >> 1) ^ -(number & 1)
