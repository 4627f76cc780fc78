"""Where the time of the request at hand goes, carried along by a context variable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["db", "db_wait", "model"]


@dataclass(slots=True)
class StatementUse:
    """How often a statement ran, for how many nanoseconds in all, and the rows it read or changed."""

    calls: int = 0
    ns: int = 0
    rows: int = 0

    def add(self, other: StatementUse) -> None:
        """Count those, too."""
        self.calls += other.calls
        self.ns += other.ns
        self.rows += other.rows


@dataclass(slots=True)
class RequestTimes:
    """Nanoseconds a request has spent so far, by part. Parts that overlap in concurrent tasks add up."""

    request_id: str
    started_ns: int
    db_ns: int = 0  #: in the database's hands: statements, commits, rollbacks
    db_wait_ns: int = 0  #: waiting for a connection of the pool
    model_ns: int = 0  #: waiting for the model
    statements: dict[str, StatementUse] = field(default_factory=dict)  #: by text, of a watched engine
    endpoint: str | None = None  #: method and route; known when it has ended
    on_end: Callable[[RequestTimes], None] | None = None  #: who wants to know of its end

    def add(self, part: Part, ns: int) -> None:
        """Count time into a part."""
        name = f"{part}_ns"
        setattr(self, name, getattr(self, name) + ns)


#: The request at hand.
request_times: ContextVar[RequestTimes | None] = ContextVar("perfkit_request", default=None)


def current_request() -> RequestTimes | None:
    """The request this code runs for, or None outside of one."""
    return request_times.get()


def add_time(part: Part, ns: int) -> None:
    """Count time into a part of the request at hand, if there is one."""
    times = request_times.get()
    if times is not None:
        times.add(part, ns)


@contextmanager
def timed(part: Part) -> Iterator[None]:
    """Count the time of a block into a part of the request at hand."""
    began = time.monotonic_ns()
    try:
        yield
    finally:
        add_time(part, time.monotonic_ns() - began)


@contextmanager
def request_scope(times: RequestTimes) -> Iterator[None]:
    """Make `times` the request at hand; what the block starts (tasks, greenlets) inherits it."""
    token = request_times.set(times)
    try:
        yield
    finally:
        request_times.reset(token)
