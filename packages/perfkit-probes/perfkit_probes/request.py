"""Where the time of the request at hand goes, carried along by a context variable."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

#: Parts that are measured without being asked for: nobody else's time may take their names.
_TAKEN = ("app", "loop_lag", "client", "rest")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


#: A statement's text, how often it ran, for how many nanoseconds in all, and the rows it read or changed. A
#: plain tuple: one is made at every statement of a service.
StatementUse = tuple[str, int, int, int]


@dataclass(slots=True)
class RequestTimes:
    """Nanoseconds a request has spent so far, by part. Parts that overlap in concurrent tasks add up."""

    request_id: str
    started_ns: int
    db_ns: int = 0  #: in the database's hands: statements, commits, rollbacks
    db_wait_ns: int = 0  #: waiting for a connection of the pool
    model_ns: int = 0  #: waiting for the model
    statements: list[StatementUse] = field(default_factory=list)  #: of a watched engine
    endpoint: str | None = None  #: method and route; known when it has ended
    on_end: Callable[[RequestTimes], None] | None = None  #: who wants to know of its end
    named_ns: dict[str, int] | None = None  #: by `timed`, parts of other names

    def add(self, part: str, ns: int) -> None:
        """Count time into a part: `db`, `db_wait`, `model`, or any other name."""
        if part == "model":  # first: it is added to at every token
            self.model_ns += ns
        elif part == "db":
            self.db_ns += ns
        elif part == "db_wait":
            self.db_wait_ns += ns
        elif self.named_ns is None:
            self.named_ns = {part: ns}
        else:
            self.named_ns[part] = self.named_ns.get(part, 0) + ns


#: The request at hand.
request_times: ContextVar[RequestTimes | None] = ContextVar("perfkit_request", default=None)


def current_request() -> RequestTimes | None:
    """The request this code runs for, or None outside of one."""
    return request_times.get()


def add_time(part: str, ns: int) -> None:
    """Count time into a part of the request at hand, if there is one.

    ValueError for a name that `timed` rejects.
    """
    _check(part)
    times = request_times.get()
    if times is not None:
        times.add(part, ns)


class timed:
    """Count the time of a block into a part of the request at hand: `with` or `async with timed("billing"):`.

    part: `db`, `db_wait`, `model`, or a name of your own for an outgoing call, a look-up in DNS, a lock, a
    semaphore: up to 40 lower-case letters, digits and underscores. ValueError for others, and for what is
    measured anyway. It appears in `Server-Timing`, and as the sample `request.NAME_ms`. Parts that overlap
    add up: put the block around what no other part measures.
    """

    __slots__ = ("_began_ns", "_part")

    def __init__(self, part: str) -> None:
        _check(part)
        self._part, self._began_ns = part, 0

    def __enter__(self) -> None:
        self._began_ns = time.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        times = request_times.get()
        if times is not None:
            times.add(self._part, time.monotonic_ns() - self._began_ns)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


@lru_cache(maxsize=256)
def _check(part: str) -> None:
    if part in _TAKEN or not _NAME.fullmatch(part):
        why = "is measured anyway" if part in _TAKEN else "expected lower-case letters, digits, underscores"
        raise ValueError(f"timed: {part!r}: {why}; choose a name such as 'billing'")


@contextmanager
def request_scope(times: RequestTimes) -> Iterator[None]:
    """Make `times` the request at hand; what the block starts (tasks, greenlets) inherits it."""
    token = request_times.set(times)
    try:
        yield
    finally:
        request_times.reset(token)
