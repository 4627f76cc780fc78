"""The nouns of importing: how good a file's times are, and what else it told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perfkit.store.metadata import Carried

#: Times this fine or finer are called exact, ns.
EXACT_NS = 1_000
#: The steps a resolution is told in, ns, the coarsest first.
_STEPS = (60_000_000_000, *(10**power for power in range(10, 3, -1)))


class Wrong(ValueError):
    """A row that cannot be; `found` and `expected` say what is wrong with it."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found}, expected {expected}")
        self.found, self.expected = found, expected


@dataclass(frozen=True)
class Fidelity:
    """How true an imported run's times are to what happened.

    instants_ns, latency_ns: the step they were rounded to; EXACT_NS and finer is exact. bucketed: the file
    has counts by bucket of time or latency instead of requests. aggregated: it has numbers and no requests.
    intended_time: it has when each was due. timed: it has when requests ended.
    """

    instants_ns: int = 1
    latency_ns: int = 1
    bucketed: bool = False
    intended_time: bool = False
    aggregated: bool = False
    timed: bool = True

    @property
    def label(self) -> str:
        """`exact`, `rounded`, `bucketed` or `aggregated`: the worst of it."""
        if self.aggregated:
            return "aggregated"
        if self.bucketed:
            return "bucketed"
        return "rounded" if max(self.instants_ns, self.latency_ns) > EXACT_NS else "exact"

    @property
    def words(self) -> str:
        """The whole label for a person."""
        if self.aggregated:
            due = ", latencies from planned times" if self.intended_time else ""
            return f"aggregated: a summary without its requests{due}"
        times = f"instants {_rounding(self.instants_ns)}, latencies {_rounding(self.latency_ns)}"
        if self.bucketed:
            times = "instants and latencies bucketed"
        return f"{times}, {'intended time known' if self.intended_time else 'no intended time'}"

    def to_mapping(self) -> dict[str, Any]:
        """As run.json has it; steps in seconds."""
        return {
            "label": self.label,
            "words": self.words,
            "instants_to_s": self.instants_ns / 1e9,
            "latency_to_s": self.latency_ns / 1e9,
            "intended_time": "known" if self.intended_time else "not recorded",
            "timed": self.timed,
        }


def coarsest(divisor: int) -> int:
    """The coarsest step (ns) that divides every one of some times, given their common divisor; 1: none."""
    return next((step for step in _STEPS if divisor and divisor % step == 0), 1)


def _rounding(step_ns: int) -> str:
    if step_ns <= EXACT_NS:
        return "exact"
    units = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))
    size, unit = next(one for one in units if step_ns >= one[0])
    return f"rounded to {step_ns / size:g} {unit}"


@dataclass(frozen=True)
class Facts:
    """What a reader found besides the rows.

    span_ns: first and last instant of the measured part on the file's clock, where the rows alone do not
    tell. rounded_ns: the steps (instants, latencies) the format rounds to at least; coarser ones are found.
    carried: of a summary, in place of rows. timed: whether rows tell when their requests ended.
    """

    tool: str
    version: str | None = None
    scenario: str | None = None
    span_ns: tuple[int, int] | None = None
    rounded_ns: tuple[int, int] = (1, 1)
    bucketed: bool = False
    intended_time: bool = False
    load: Mapping[str, Any] = field(default_factory=dict)  #: what the file says of the load, in its own words
    notes: tuple[str, ...] = ()
    timed: bool = True
    carried: tuple[Carried, ...] = ()
    parts: int = 1  #: runs there are in the file


@dataclass(frozen=True)
class Asked:
    """What a person asked for: the column map of a CSV, the unit of an HdrHistogram log's values, the names
    of columns where a CSV has no header; part: which of a file's runs to read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    names: tuple[str, ...] = ()
    part: int = 0
