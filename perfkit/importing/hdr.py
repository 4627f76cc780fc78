"""HdrHistogram: interval logs (histograms of V0, V1 and V2), and a histogram's table of percentiles (.hgrm).

A log has counts by value for each interval, maybe by tag. Every counted value becomes a row with the middle
of its bucket as latency, its end somewhere in the interval; of more than `MOST_COUNTED` the counts stay
counts: a summary with their quantiles. Neither file tells the unit of its values; by convention it is ns in a
log and ms in a table, and `--unit` says so if it is another.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perfkit.errors import BadInput
from perfkit.importing.buckets import add_bucket
from perfkit.importing.head import Head
from perfkit.importing.limits import LARGEST_HISTOGRAM, MB, MOST_LINES_OF_COUNTS
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, operations, summary_of
from perfkit.importing.times import UNITS, ns, whole
from perfkit.store.metadata import Carried

#: Cookies, by version, of the packed histogram and of the one in it; bits 4 to 7 tell the size of a count.
_PACKED = {0x1C849309: 0, 0x1C849302: 1, 0x1C849304: 2}
_PLAIN = {0: 0x1C849308, 1: 0x1C849301, 2: 0x1C849303}
_HEADER = struct.Struct(">iiiiqqd")  # cookie, length, offset, digits, lowest, highest, ratio
_HEADER_V0 = struct.Struct(">iiqqq")  # cookie, digits, lowest, highest, total
_WORDS = {2: ">i2", 4: ">i4", 8: ">i8"}
#: So many counted values become rows.
MOST_COUNTED = 200_000
_TIME = re.compile(r"#\[(Start|Base)Time: *(\d+(?:\.\d+)?) ")
_LINE = re.compile(r'(?:Tag=([^,]*),)?"?([\d.eE+-]+)"?,([\d.eE+-]+),[^,]*,(\S+)')  # tag, at, length, counts
_YEAR_S = 365 * 86_400


def is_log(head: Head) -> bool:
    """A log's legend, version line, or an interval line."""
    text = head.text[:20_000]
    return "Interval_Compressed_Histogram" in text or "#[Histogram log format" in text or ",HIST" in text


@dataclass(frozen=True)
class _Interval:
    tag: str
    at_ns: int  # as written
    length_ns: int
    values: np.ndarray  # middles of buckets in the log's unit
    counts: np.ndarray  # how many have which


def is_table(head: Head) -> bool:
    """The header of a table of percentiles."""
    words = head.first_line.replace('"', " ").replace(",", " ").split()
    return words[:1] in (["Value"], ["Value(ms)"]) and words[1:3] == ["Percentile", "TotalCount"]


def _each_interval(source: Source, take: Callable[[_Interval], None]) -> None:
    """Hand every interval of a log to `take`, at the instant that its times count from."""
    base = {"Start": 0, "Base": 0}
    begun = False

    def line(text: str) -> None:
        nonlocal begun
        if told := _TIME.match(text):
            base[told[1]] = ns(told[2], "s")
        if text.startswith(("#", '"Start', "Start")):
            return
        one = _interval(source, text)
        if not begun and not base["Base"] and one.at_ns < base["Start"] - _YEAR_S * UNITS["s"]:
            base["Base"] = base["Start"]  # without a BaseTime, times long before StartTime count from it
        begun = True
        take(dataclasses.replace(one, at_ns=one.at_ns + base["Base"]))

    source.each(map(str.strip, source.texts()), line, "[Tag=NAME,]start,length,max,HISTF… in s")


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for every counted value, or the counts by tag where they are many."""
    unit_ns = UNITS[asked.unit or "ns"]
    counts: dict[str, Counter[int]] = {}
    span: list[int] = []
    seen = 0

    def count(one: _Interval) -> None:
        if one.counts.sum(dtype=np.float64) and int(one.values[-1]) * unit_ns >= _YEAR_S * UNITS["s"]:
            raise Wrong(f"a value of {one.values[-1]}", "latencies of less than a year")
        nonlocal seen
        seen += len(one.values)
        mine = counts.setdefault(one.tag, Counter())
        for value, n in zip(one.values.tolist(), one.counts.tolist(), strict=True):
            mine[value] += n
        if sum(map(len, counts.values())) > MOST_LINES_OF_COUNTS:
            raise BadInput(f"{source.path} counts more than {MOST_LINES_OF_COUNTS:,} different values")
        span[:] = [min([*span, one.at_ns]), max([*span, one.at_ns + one.length_ns])]

    as_before, source.meter.rows_so_far = source.meter.rows_so_far, lambda: seen
    _each_interval(source, count)
    source.meter.rows_so_far = as_before
    notes = ["such a log has no failures",
             "whether latencies count from the planned time is unknown"]  # fmt: skip
    if asked.unit is None:
        notes.insert(0, "values were taken as ns, HdrHistogram's custom; --unit says otherwise")
    if sum(sum(one.values()) for one in counts.values()) > MOST_COUNTED:
        names = operations(rows, [(tag or "requests", "") for tag in counts])
        told = [_carried(name, one, unit_ns) for name, one in zip(names, counts.values(), strict=True)]
        length_s = (span[1] - span[0]) / UNITS["s"]
        return summary_of("HdrHistogram", told, span_s=length_s, notes=notes)
    rows.absolute = bool(span) and span[0] > 30 * _YEAR_S * UNITS["s"]
    rows.times.in_order = False

    def add(one: _Interval) -> None:
        values = np.repeat(one.values * unit_ns, one.counts)
        if len(values):
            span = one.at_ns, one.at_ns + one.length_ns
            add_bucket(rows, rows.names.of(one.tag or "requests"), span, values)

    again = Source(source.path)
    again.meter.rows_so_far = as_before
    _each_interval(again, add)
    source.broken, source.broken_count = again.broken, again.broken_count  # rows are held to more
    whole_span = (span[0], span[1]) if span else None
    return Facts("HdrHistogram", bucketed=True, span_ns=whole_span, notes=tuple(notes))


def _carried(name: str, counts: Counter[int], unit_ns: int) -> Carried:
    """What a histogram tells: quantiles at powers of two of the tail, as in HdrHistogram's own table."""
    values = np.array(sorted(counts), np.int64)
    n = np.array([counts[value] for value in values.tolist()], np.int64)
    total, ms = int(n.sum()), values * unit_ns / UNITS["ms"]
    if not total:
        return carried(name, n=0)
    shares = np.unique([0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0, *(1 - 0.5 ** (k / 4) for k in range(1, 60))])
    at = np.searchsorted(np.cumsum(n), np.maximum(np.ceil(shares * total), 1))
    mean = float((ms * n).sum() / total)
    std = float(np.sqrt(((ms - mean) ** 2 * n).sum() / total))
    points = zip(shares.tolist(), ms[at].tolist(), strict=True)
    return carried(name, n=total, mean=mean, std=std, low=float(ms[0]), high=float(ms[-1]), points=points)


_ROW = re.compile(r'"?([\d.,]+)"?[\s,;]+"?([01][.,]\d+)"?[\s,;]+"?(\d+)"?(?:[\s,;]+\S+)?')
_FOOT = re.compile(r"#\[(Mean|Max)\s*=\s*([\d.]+),\s*(?:StdDeviation|Total count)\s*=\s*([\d.]+)\]")


def read_table(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A table of percentiles: a summary with many of them."""
    unit = asked.unit or "ms"
    points: list[tuple[float, float]] = []
    total, foot = 0, {}

    def take(text: str) -> None:
        nonlocal total
        if told := _FOOT.match(text):
            foot[told[1]] = (float(told[2]), float(told[3]))
        if text.startswith(("#", "-")) or "Value" in text:
            return
        found = _ROW.fullmatch(text)
        if found is None or len(points) > MOST_LINES_OF_COUNTS:
            raise ValueError(text)
        points.append((float(found[2].replace(",", ".")), ns(found[1].replace(",", "."), unit) / UNITS["ms"]))
        total = max(total, whole(found[3]))

    source.each(map(str.strip, source.texts()), take, "value, percentile, count")
    scale = UNITS[unit] / UNITS["ms"]
    mean, std = (one * scale for one in foot["Mean"]) if "Mean" in foot else (None, None)
    high = foot["Max"][0] * scale if "Max" in foot else points[-1][1] if points else None
    told = carried("requests", n=total, mean=mean, std=std, high=high, points=points)
    notes = ["such a table has neither failures nor the length of the run"]
    if "Value(ms)" in source.head[:200].decode(errors="replace"):
        notes.append("Vegeta rounds the counts of its plot down: there may be a few requests more")
    elif asked.unit is None:
        notes.append("values were taken as ms; --unit says otherwise")
    return summary_of("HdrHistogram", [told], span_s=None, notes=notes)


def _interval(source: Source, text: str) -> _Interval:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    tag, at, length, coded = found.groups()
    at_ns, length_ns = ns(at, "s"), ns(length, "s")
    if at_ns < 0 or length_ns < 0:
        raise Wrong(f"an interval at {at} s of {length} s", "no negative value")
    payload = unpack(coded)
    source.meter.spend(len(payload))
    return _Interval(tag or "", at_ns, length_ns, *decode(payload))


# -- decoding --------------------------------------------------------------------------------------


def unpack(coded: str) -> bytes:
    """The histogram packed in base64 and zlib. Wrong for anything else, and for a large one."""
    try:
        raw = base64.b64decode(coded, validate=True)
        cookie, length = struct.unpack_from(">iI", raw)
        if cookie & ~0xF0 not in _PACKED:
            raise Wrong("no histogram", "a compressed one (HIST…)")
        unpacker = zlib.decompressobj()
        payload = unpacker.decompress(raw[8 : 8 + length], LARGEST_HISTOGRAM + 1)
    except (binascii.Error, struct.error, zlib.error) as error:
        raise Wrong(f"a histogram that cannot be unpacked ({error})", "a compressed one (HIST…)") from None
    if len(payload) > LARGEST_HISTOGRAM:
        raise Wrong(f"a histogram of more than {LARGEST_HISTOGRAM // MB} MB", "a smaller one")
    if len(payload) < _HEADER_V0.size or not unpacker.eof:
        raise Wrong("a histogram cut short", "a whole one")
    return payload


def decode(payload: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of a histogram: middle values in order, the count of each. Wrong for anything else."""
    (cookie,) = struct.unpack_from(">i", payload)
    version = next((one for one, plain in _PLAIN.items() if cookie & ~0xF0 == plain & ~0xF0), None)
    offset, size, header = 0, len(payload), _HEADER_V0
    if version == 0:
        _, digits, lowest, _, _ = _HEADER_V0.unpack_from(payload)
    elif version is not None and len(payload) >= _HEADER.size:
        header = _HEADER
        _, size, offset, digits, lowest, _, _ = _HEADER.unpack_from(payload)
    else:
        digits = -1
    if not 0 <= digits <= 5 or lowest < 1 or offset:
        fine = "cookie, digits 0 to 5, lowest from 1, no offset"
        raise Wrong("a histogram with an unreadable header", fine)
    body = payload[header.size :][: max(size, 0)]
    numbers = _zigzag(np.frombuffer(body, np.uint8)) if version == 2 else _plain(body, (cookie & 0xF0) >> 4)
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
    counts = numbers[numbers > 0]
    if counts.sum(dtype=np.float64) > 2.0**53:
        raise Wrong("more values than can be stored", "fewer")
    return sub * step + step // 2, counts


def _plain(data: bytes, word: int) -> np.ndarray:
    """Counts (int64) as V0 and V1 write them: whole words, the highest byte first."""
    if word not in _WORDS:
        raise Wrong(f"counts of {word} bytes", "2, 4 or 8")
    counts = np.frombuffer(data[: len(data) // word * word], _WORDS[word]).astype(np.int64)
    if (counts < 0).any():
        raise Wrong("a negative count", "whole numbers from 0 on")
    return counts


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
