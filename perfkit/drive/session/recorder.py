"""What the sessions of a worker share: how rows are numbered, named and kept; the step a request is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from perfkit.drive.rows import MOST_GROUPS, MOST_OPERATIONS, OTHER_GROUPS, OTHER_OPERATIONS, RowBuffer
from perfkit.drive.session.data import DataFiles
from perfkit.drive.session.heads import Head, Heads
from perfkit.drive.transport import Clock, Transport
from perfkit.model import Target
from perfkit.redaction import Redactor

_NAME_LIMIT = 200
_MAX_METRICS = 64
_METRIC_LIMIT = 40


def storable(text: str) -> str:
    """The text without what UTF-8 cannot hold (lone surrogates)."""
    return text.encode("utf-8", "replace").decode()


class Undo(NamedTuple):
    """A request that removes something, to be sent at teardown."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]


class Opening:
    """Nanoseconds spent opening a connection, or trying to, of requests whose first attempt did, by seq.

    Of at most MOST requests: where there are more, of one in `every`.
    """

    MOST = 100_000

    def __init__(self, seq_stride: int) -> None:
        self.every = 1
        self.ns: dict[int, int] = {}
        self._stride = seq_stride

    def add(self, seq: int, ns: int) -> None:
        """Keep it if it is one of those that are kept."""
        if seq // self._stride % self.every == 0:
            self.ns[seq] = ns
            if len(self.ns) > self.MOST:
                self.thin(self.every * 2)

    def thin(self, every: int) -> None:
        """Keep those of one in `every` requests."""
        self.every = every
        self.ns = {seq: ns for seq, ns in self.ns.items() if seq // self._stride % every == 0}


@dataclass
class Recorder:
    """What all sessions of one worker share: transport, clock, row buffer, and how rows are numbered."""

    transport: Transport
    clock: Clock
    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    id_prefix: str = ""
    first_seq: int = 0
    seq_stride: int = 1
    redact: Redactor = field(default_factory=Redactor)
    buffer: RowBuffer = field(default_factory=RowBuffer)
    seed: int = 0
    #: What is planned before the first instant is of phase warmup, from the second on it is drain.
    measure_begins: int = 0
    measure_ends: int = 2**63 - 1
    cutting: bool = False  #: what is cancelled from now on is cut off by the end of the run
    over: bool = False  #: nothing more is sent
    undo: list[Undo] = field(default_factory=list)
    journal: Callable[[Undo], None] = lambda undo: None  #: called with each undo as it comes
    data: DataFiles | None = None  #: of steps; there is none in setup and teardown
    retried: int = 0  #: attempts after the first, the one under way included
    unanswered: int = 0  #: POST and PUT that were sent and got no answer: what they made is not known
    _codes: dict[str, int] = field(init=False, default_factory=dict)
    _group_codes: dict[str, int] = field(init=False, default_factory=dict)
    _metrics: dict[str, str | None] = field(init=False, default_factory=dict)
    #: Those recorded under the name they came with.
    _plain_metrics: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._next = self.first_seq
        self.most_body = self.target.max_body_mb * 1024 * 1024
        self.opening = Opening(self.seq_stride)
        self.heads = Heads(self.headers, self.id_prefix, urlsplit(self.target.url or "").netloc)

    def beside(self, number: int) -> Recorder:
        """Return the recorder of the worker's `number`-th other scenario, which has rows of its own.

        They share the transport, what is to be removed, and what is known of opening connections.
        """
        first = self.first_seq + number
        other = replace(self, first_seq=first, buffer=RowBuffer())
        other.opening = self.opening
        return other

    def next_seq(self) -> int:
        """A number no other request of the run has."""
        seq = self._next
        self._next = seq + self.seq_stride
        return seq

    def in_flight(self) -> int:
        """How many requests are under way, from counts that are kept anyway: the load path pays nothing."""
        begun = (self._next - self.first_seq) // self.seq_stride
        return begun + self.retried - self.buffer.count

    def operation_code(
        self, name: str, head: Head | None = None, step: Step | None = None, hop: str = ""
    ) -> int:
        """Return the code of an operation, whose name is recorded without secrets. After a thousand names all
        others have one code, so that a slip (an id in a name) cannot grow without bound."""
        code = self._codes.get(name + hop)
        if code is None and len(self._codes) >= MOST_OPERATIONS:
            code = self.buffer.operation_code(OTHER_OPERATIONS)
        elif code is None:
            shown = storable(self._without_secrets(name, head, step))[: _NAME_LIMIT - len(hop)] + hop
            code = self._codes[name + hop] = self.buffer.operation_code(shown)
        return code

    def group_code(self, name: str, head: Head, step: Step) -> int:
        """Return the code of a group, whose name is recorded without secrets. After a thousand groups all
        others have one code. TypeError for what is not a text."""
        if not isinstance(name, str):
            raise TypeError(f"session.group is a text or None, not {type(name).__name__}")
        code = self._group_codes.get(name)
        if code is None:
            if len(self._group_codes) >= MOST_GROUPS:
                return self.buffer.group_code(OTHER_GROUPS)
            shown = storable(self._without_secrets(name, head, step))[:_NAME_LIMIT]
            code = self._group_codes[name] = self.buffer.group_code(shown)
        return code

    def known_metrics(self, timing: dict[str, float], head: Head | None = None) -> dict[str, float] | None:
        """Return the Server-Timing metrics that are recorded, a column each: a limited number of them, and
        none that holds a secret."""
        if self._plain_metrics.issuperset(timing):
            return timing
        kept = {}
        for name, value in timing.items():
            if name not in self._metrics:
                if len(self._metrics) >= _MAX_METRICS:
                    continue
                harmless = self._without_secrets(name, head) == name
                self._metrics[name] = name[:_METRIC_LIMIT] if harmless else None
                if self._metrics[name] == name:
                    self._plain_metrics.add(name)
            column = self._metrics[name]
            if column is not None:
                kept[column] = value
        return kept or None

    def _without_secrets(self, name: str, head: Head | None, step: Step | None = None) -> str:
        known = head.secrets if head is not None else ()
        return self.redact(name, known if step is None else (*known, *step.secrets))


class Step(msgspec.Struct, eq=False):
    """One step of a scenario. What it begins belongs to it, however long it lasts and whatever comes next."""

    number: int = 0
    planned: int | None = None  #: of its first request; None when that has begun
    phase: int | None = None  #: of its requests; None: that of the instant each is planned for
    requests: int = 0  #: how many it has begun
    failed: bool = False  #: whether one of them has, after all its attempts
    cut: bool = False  #: whether the end of the run has cut one off
    head: Head | None = None  #: of the latest
    secrets: tuple[str, ...] = ()  #: besides those in headers
