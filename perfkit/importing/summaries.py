"""Summaries of other tools: numbers without requests. What they tell becomes `Carried`, and no row.

`Told` reads a JSON document whose values may be of any type; `carried` and `summary_of` make what a reader
returns. A number that is not told stays null, a number that cannot be (negative, NaN) breaks the file.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from perfkit.durations import duration_ns
from perfkit.errors import BadInput
from perfkit.importing.head import COLOURS
from perfkit.importing.limits import LARGEST_DOCUMENT, LONGEST_NAME, MOST_RUNS
from perfkit.importing.nouns import Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS
from perfkit.importing.words import clean, error_class
from perfkit.store.metadata import Carried, FailureKind

#: Failures by words, operations and quantiles that are kept of a summary.
_KINDS, _OPERATIONS, _POINTS = 50, 200, 500
_MOST = 2.0**62
#: Lines that a tool prints, and the characters of each.
_LINES, _WIDTH = 100_000, 500
Kinds = Iterable[FailureKind]


class Told:
    """A JSON value of a tool's; BadInput, with where it stands, for a value that is of another kind."""

    def __init__(
        self, source: Source, what: str, hint: str = "", *, value: Any = ..., place: str = ""
    ) -> None:
        self._source, self._what, self.place = source, what, place
        hint = hint or f"{what} has a few kB, however long the run was"
        self.value = source.json(LARGEST_DOCUMENT, hint) if value is ... else value

    def at(self, name: str) -> Told:
        """The value of that name; null where there is none."""
        inner = self.value.get(name) if isinstance(self.value, Mapping) else None
        place = f"{self.place}.{name}" if self.place else name
        return Told(self._source, self._what, value=inner, place=place)

    def items(self) -> Iterator[tuple[str, Told]]:
        """Names and values of an object, places and values of an array; nothing of anything else."""
        if isinstance(self.value, Mapping):
            yield from ((name, self.at(name)) for name in self.value)
        elif isinstance(self.value, Sequence) and not isinstance(self.value, str):
            for place, one in enumerate(self.value):
                yield str(place), Told(self._source, self._what, value=one, place=f"{self.place}[{place}]")

    def names(self, begin: str = "") -> list[str]:
        """The names in an object that begin so."""
        return [name for name, _ in self.items() if name.startswith(begin)]

    def text(self, name: str) -> str:
        """A text, empty where there is none."""
        found = self.at(name).value
        return found[:LONGEST_NAME] if isinstance(found, str) else ""

    def number(self, name: str) -> float | None:
        """A number from 0 on, None where there is none."""
        one = self.at(name)
        if one.value is None:
            return None
        if isinstance(one.value, bool):
            raise one.wrong("a number")
        try:
            value = float(one.value)
        except (ValueError, TypeError, OverflowError):
            raise one.wrong("a number") from None
        if math.isnan(value):
            return None
        if not 0 <= value < _MOST:
            raise one.wrong("a number from 0 on")
        return value

    def count(self, name: str) -> int | None:
        """A whole number from 0 on, None where there is none."""
        value = self.number(name)
        if value is not None and value != math.floor(value):
            raise self.at(name).wrong("a whole number")
        return None if value is None else int(value)

    def seconds(self, name: str) -> float | None:
        """A time in s as ms."""
        value = self.number(name)
        return None if value is None else 1e3 * value

    def counts(self) -> dict[str, int]:
        """An object of counts, such as those of status codes."""
        return {str(name)[:LONGEST_NAME]: self.count(name) or 0 for name in self.names()}

    def wrong(self, expected: str) -> BadInput:
        """What to raise for this value."""
        where = f"{self.place[-80:]} is {short(self.value)}, expected {expected}"
        return BadInput(f"{self._source.path} is no {self._what}: {where}; nothing was imported")


def status_kinds(codes: Mapping[str, int], operation: str = "") -> Kinds:
    """The failures among answers counted by status: 400 and more."""
    for code, count in codes.items():
        if code.isdecimal() and (error := error_class(int(code), None, failed=False)):
            yield FailureKind(error, operation, count, f"status {int(code)}")


def lost_kinds(lost: Mapping[str, int], operation: str = "") -> Kinds:
    """Failures counted by the words of them."""
    for words, count in lost.items():
        told = clean(words) or ""
        error = error_class(None, told, failed=True, of_transport=True) or "protocol"
        yield FailureKind(error, operation, count, told)


def carried(
    operation: str = "", *, n: int | None = None, failed: int | None = None, kinds: Kinds | None = None,
    rate_per_s: float | None = None, mean: float | None = None, std: float | None = None,
    low: float | None = None, high: float | None = None, points: Iterable[tuple[float, float | None]] = (),
) -> Carried:  # fmt: skip
    """What a summary tells of an operation, latencies in ms; points: (share, ms) in any order.

    kinds: of its failures, which without `failed` are all there were.

    ValueError for shares beyond 0 to 1, and for times or counts that cannot be.
    """
    kept = sorted({round(share, 9): ms for share, ms in points if ms is not None}.items())
    if any(not 0 <= share <= 1 or not 0 <= ms < _MOST for share, ms in kept):
        raise ValueError("a quantile out of range")
    if len(kept) > _POINTS:  # the tail is what such a spectrum is for
        step = len(kept) // _POINTS + 1
        kept = [*kept[: -_POINTS // 2 : step], *kept[-_POINTS // 2 :]]
    failures = sorted((kind for kind in kinds or () if kind.count > 0), key=lambda kind: -kind.count)
    if failed is None and kinds is not None:
        failed = sum(kind.count for kind in failures)
    times = [one for one in (mean, std, low, high, rate_per_s, n, failed) if one is not None]
    if any(not 0 <= one < _MOST for one in times):
        raise ValueError("a number that cannot be")
    if n is not None and failed is not None and failed > n:
        n = failed if n == 0 else n
        failed = min(failed, n)
    return Carried(
        operation=operation, n=n, failed=failed, rate_per_s=rate_per_s, mean_ms=mean, std_ms=std,
        min_ms=low, max_ms=high, quantiles=tuple(kept), failures=tuple(failures[:_KINDS]),
    )  # fmt: skip


def summary_of(
    tool: str, told: Sequence[Carried], *, span_s: float | None, version: str | None = None, parts: int = 1,
    intended_time: bool = False, notes: Iterable[str] = (), load: Mapping[str, Any] | None = None,
) -> Facts:  # fmt: skip
    """The facts of a summary. BadInput where it tells nothing of any request."""
    if not any(one.n or one.quantiles or one.mean_ms is not None for one in told):
        raise BadInput(f"the summary of {tool} counts no HTTP request; nothing to import")
    largest = sorted(told, key=lambda one: (bool(one.operation), -(one.n or 0)))[:_OPERATIONS]
    left = len(told) - len(largest)
    more = [f"{left:,} operations with fewer requests are omitted"] if left else []
    span = (0, max(1, int(min(span_s, 1e9) * UNITS["s"]))) if span_s else None
    return Facts(tool, version=version, span_ns=span, intended_time=intended_time, load=load or {},
                 timed=False, carried=tuple(largest), parts=parts, notes=(*notes, *more))  # fmt: skip


def go_ms(text: str) -> float:
    """A duration as Go and wrk write it (1m2.3s, 652.01ms, 160.55µs) in ms; ValueError for anything else."""
    return duration_ns(text) / UNITS["ms"]


def printed(source: Source, begin: str, part: int) -> tuple[str, int]:
    """What a tool printed of one of its runs in the file, and how many there are; begin: a pattern."""
    lines = [COLOURS.sub("", text[:_WIDTH]) for text in itertools.islice(source.texts(), _LINES + 1)]
    text = "\n".join(line for line in lines if line.strip())
    marks = [one.start() for one in re.finditer(begin, text, re.M)]
    if len(lines) > _LINES or not 0 < len(marks) <= MOST_RUNS:
        what = f"{len(lines) - 1:,} lines or more" if len(lines) > _LINES else f"{len(marks):,} runs in it"
        raise BadInput(f"{source.path} has {what}; give what the tool printed, of up to {MOST_RUNS} runs")
    return text[marks[part] : [*marks, len(text)][part + 1]], len(marks)


def number_in(text: str, pattern: str) -> float | None:
    """The number that a pattern finds, None where it finds none."""
    found = re.search(pattern, text, re.M)
    return float(found[1]) if found else None


def operations(rows: Rows, labels: Iterable[tuple[str, str]]) -> list[str]:
    """Names of operations, each of (label, method); what would be called the same is numbered."""
    seen: Counter[str] = Counter()
    names = []
    for name in [rows.names.of(*one) for one in labels]:  # all: a name has its host where there are several
        seen[name] += 1
        again = f" ({seen[name]})" if seen[name] > 1 else ""
        names.append(rows.names.settled(name) + again)
    return names
