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
from dataclasses import dataclass

import numpy as np

from perfkit.importing.buckets import add_bucket
from perfkit.importing.head import Head
from perfkit.importing.limits import LARGEST_HISTOGRAM, MB, MOST_ROWS
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows, Wrong
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, ns

_COMPRESSED, _PLAIN = 0x1C849304, 0x1C849303
_OLD = (0x1C849301, 0x1C849302, 0x1C849308, 0x1C849309)  # V1 and V0; bits 4 to 7 tell a word's size
_HEADER = struct.Struct(">iiiiqqd")  # cookie, length, offset, digits, lowest, highest, ratio
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
    values: np.ndarray  # middles of buckets in the log's unit
    counts: np.ndarray  # how many have which


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
            one = _interval(source, text)
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


def _interval(source: Source, text: str) -> _Interval:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    at, length = ns(found["at"], "s"), ns(found["length"], "s")
    if at < 0 or length < 0:
        raise Wrong(f"an interval at {found['at']} s of {found['length']} s", "none that is negative")
    payload = unpack(found["coded"])
    source.meter.spend(len(payload))
    return _Interval(found["tag"] or "", at, length, *decode(payload))


def _add(rows: Rows, one: _Interval, base: int, unit_ns: int) -> tuple[int, int]:
    """The rows of an interval; when it began and ended."""
    total = int(one.counts.sum(dtype=np.float64))  # int64 would wrap around
    if total > MOST_ROWS:
        raise Wrong(f"{total:,} values in one interval", f"up to {MOST_ROWS:,}")
    if total and int(one.values[-1]) * unit_ns >= _YEAR_S * UNITS["s"]:
        raise Wrong(f"a value of {one.values[-1]}", "latencies of less than a year")
    span = (base + one.at_ns, base + one.at_ns + one.length_ns)
    add_bucket(rows, rows.names.of(one.tag or "requests"), span, np.repeat(one.values * unit_ns, one.counts))
    return span


# -- decoding --------------------------------------------------------------------------------------


def unpack(coded: str) -> bytes:
    """The V2 histogram packed in base64 and zlib. Wrong for anything else, and for a large one."""
    try:
        raw = base64.b64decode(coded, validate=True)
        cookie, length = struct.unpack_from(">iI", raw)
        if cookie & ~0xF0 != _COMPRESSED & ~0xF0:
            old = cookie & ~0xF0 in _OLD
            raise Wrong(
                "a histogram of an old encoding" if old else "no V2 histogram", "a compressed V2 one (HISTF…)"
            )
        unpacker = zlib.decompressobj()
        payload = unpacker.decompress(raw[8 : 8 + length], LARGEST_HISTOGRAM + 1)
    except (binascii.Error, struct.error, zlib.error) as error:
        raise Wrong(
            f"a histogram that cannot be unpacked ({error})", "a compressed V2 one (HISTF…)"
        ) from None
    if len(payload) > LARGEST_HISTOGRAM:
        raise Wrong(f"a histogram of more than {LARGEST_HISTOGRAM // MB} MB", "a smaller one")
    if len(payload) < _HEADER.size or not unpacker.eof:
        raise Wrong("a histogram cut short", "a whole one")
    return payload


def decode(payload: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of a V2 histogram: middle values in order, the count of each. Wrong for anything else."""
    cookie, size, offset, digits, lowest, _, _ = _HEADER.unpack_from(payload)
    if cookie & ~0xF0 != _PLAIN & ~0xF0 or not 0 <= digits <= 5 or lowest < 1 or offset:
        raise Wrong(
            "a histogram with a header nobody can read", "cookie, digits 0 to 5, lowest from 1, no offset"
        )
    numbers = _zigzag(np.frombuffer(payload[_HEADER.size :][: max(size, 0)], np.uint8))
    steps = np.where(numbers < 0, -numbers, 1)  # a negative number skips so many buckets
    largest = 2 * 10**digits
    half_bits = max((largest - 1).bit_length(), 1) - 1  # log2 of half a bucket's sub-buckets
    half, unit_bits = 1 << half_bits, lowest.bit_length() - 1
    if len(steps) and float(steps.sum(dtype=np.float64)) > half * 64:
        raise Wrong("a value beyond 64 bits", "a smaller one")
    index = (np.cumsum(steps) - steps)[numbers > 0]
    bucket = np.maximum((index >> half_bits) - 1, 0)
    sub = np.where(index < half, index, (index & (half - 1)) + half)
    if len(bucket) and int(bucket.max()) + unit_bits + half_bits > 62:
        raise Wrong("a value beyond 64 bits", "a smaller one")
    step = np.int64(1) << (bucket + unit_bits)
    return sub * step + step // 2, numbers[numbers > 0]


def _zigzag(data: np.ndarray) -> np.ndarray:
    """Signed numbers (int64) of 7 bits a byte (uint8), the last of each below 128; of at most 8 bytes."""
    last = np.flatnonzero(data < 0x80)
    if len(data) and (not len(last) or last[-1] != len(data) - 1):
        raise Wrong("counts cut short", "whole numbers")
    first = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    if len(last) and int((last - first).max()) > 7:
        raise Wrong("a count beyond 55 bits", "a smaller one")
    place = np.arange(len(data)) - np.repeat(first, last - first + 1)
    parts = (data & 0x7F).astype(np.int64) << (7 * place)
    numbers = np.add.reduceat(parts, first) if len(first) else parts
    return (numbers >> 1) ^ -(numbers & 1)
