"""What a service asks its database: the time of each request there, and calls, time and rows by statement."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from perfkit_probes.request import RequestTimes, StatementUse, request_times
from perfkit_probes.ring import Ring
from perfkit_probes.statement_text import statement_kind

_FREE_NS = 1_000_000  # a turn of the loop that takes no longer is none of a busy one
#: The dialect's calls of the driver, and whether a statement is among their arguments.
_CALLS = {
    "do_execute": True,
    "do_executemany": True,
    "do_execute_no_params": True,
    "do_commit": False,
    "do_rollback": False,
}
_OUTSIDE = "outside of requests"
_MOST_TEXTS = 5_000  # whose kind is remembered
_MOST_KINDS = 500  # others are told as one: a service that writes values into its statements has any number
_OTHERS = "other statements"
_MOST_WAITING = 1_000  # requests, or statements, until they are added up
#: SQLSTATEs of an ordinary refusal (a duplicate key, an unusable value): errors of a request, not troubles.
_REFUSALS = ("22", "23")


class StatementMonitor:
    """Gathers how often each endpoint sends which kind of statement, how long these take and their rows.

    Times are those of `count_database_time`, which it includes. `sample` puts into the ring, each second and
    for each endpoint and kind: `db.calls`, `db.total_ms`, `db.rows`, labelled `ENDPOINT: STATEMENT`, and
    `db.requests`, labelled `ENDPOINT`, for the requests that ended. A statement that fails is a `db.error`,
    labelled `SQLSTATE STATEMENT`. Statements are told without values. Requests are known by
    `ProbesMiddleware`; what runs without one is told as `outside of requests`. Any thread may use it.
    """

    def __init__(self, *engines: Engine | AsyncEngine, ring: Ring) -> None:
        """engines: all that the same statements may be sent to, such as a primary and its replica."""
        self._engines, self._ring = engines, ring
        self._undo: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        # What happens at a request or a statement is one `append`; it is added up when it is sampled.
        self._ended: deque[tuple[str, list[StatementUse]]] = deque()  # by endpoint, of requests
        self._others: deque[tuple[str, list[StatementUse]]] = deque()  # by endpoint, outside of one
        self._gathered: dict[str, dict[str, list[int]]] = {}  # calls, ns, rows by endpoint and text
        self._requests: dict[str, int] = {}
        self._on_end = self._request_ended
        self._kinds: dict[str, str] = {}  # by text
        self._totals: dict[str, tuple[int, str]] = {}  # by kind: time of all its calls, one of its texts
        self._since = time.monotonic()

    def start(self) -> None:
        """Begin to watch; an engine has one monitor, the last that was started."""
        self._undo = [count_database_time(engine) for engine in self._engines]
        for engine in self._engines:
            _Timed.of(engine).monitor = self

    def stop(self) -> None:
        """Watch no longer."""
        for engine, undo in zip(self._engines, self._undo, strict=True):
            timing = _Timed.of(engine)
            if timing.monitor is self:
                timing.monitor = None
                undo()

    def sample(self) -> None:
        """Put what was gathered into the ring when a second is over; call it some times a second."""
        now = time.monotonic()
        if now - self._since < 1:
            return
        self._since = now
        self._add_up()
        with self._lock:
            gathered, self._gathered = self._gathered, {}
            requests, self._requests = self._requests, {}
        for endpoint, count in requests.items():
            self._ring.add("db.requests", count, endpoint)
        for endpoint, uses in gathered.items():
            for kind, (calls, ns, rows) in self._by_kind(uses).items():
                values = ("db.calls", calls), ("db.total_ms", ns / 1e6), ("db.rows", rows)
                self._ring.add_all(values, f"{endpoint}: {kind}", None)

    def most_costly(self, word: str) -> list[tuple[str, str]]:
        """Kinds of statements that hold a word, such as a table's name, each with a text; slowest first."""
        with self._lock:
            found = [(ns, kind, text) for kind, (ns, text) in self._totals.items() if word in text]
        return [(kind, text) for _, kind, text in sorted(found, reverse=True)]

    def kind(self, text: str) -> str:
        """The statement without values, cut short."""
        kind = self._kinds.get(text)
        if kind is None:
            if len(self._kinds) >= _MOST_TEXTS:
                self._kinds.clear()
            kind = statement_kind(text)
            self._kinds[text] = kind
        return kind

    def _by_kind(self, uses: dict[str, list[int]]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for text, use in uses.items():
            kind = self.kind(text)
            with self._lock:
                if kind not in self._totals and len(self._totals) >= _MOST_KINDS:
                    kind = _OTHERS
                before, first = self._totals.get(kind, (0, text))
                self._totals[kind] = before + use[1], first
            _count(found, kind, *use)
        return found

    def _add_up(self) -> None:
        """Add up what requests and statements have left; one that another thread takes is in its sums."""
        with self._lock, contextlib.suppress(IndexError):
            while True:
                endpoint, uses = self._ended.popleft()
                self._requests[endpoint] = self._requests.get(endpoint, 0) + 1
                self._gather(endpoint, uses)
        with self._lock, contextlib.suppress(IndexError):
            while True:
                self._gather(*self._others.popleft())

    def _gather(self, endpoint: str, uses: list[StatementUse]) -> None:
        gathered = self._gathered.setdefault(endpoint, {})
        for use in uses:
            _count(gathered, *use)

    # -- told by the dialect's calls and the middleware ------------------------------------------------

    def _executed(self, text: str, ns: int, rows: int, times: RequestTimes | None) -> None:
        if times is not None and times.endpoint is None:
            times.on_end = self._on_end
            uses = times.statements
            uses.append((text, 1, ns, rows))
            if not len(uses) % _MOST_WAITING:
                _shorten(uses)
            return
        self._others.append((_OUTSIDE if times is None else str(times.endpoint), [(text, 1, ns, rows)]))
        if len(self._others) >= _MOST_WAITING:
            self._add_up()

    def _request_ended(self, times: RequestTimes) -> None:
        self._ended.append((str(times.endpoint), times.statements))
        if len(self._ended) >= _MOST_WAITING:
            self._add_up()

    def _failed(self, text: str, error: Exception, times: RequestTimes | None) -> None:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or type(error).__name__
        if not str(state).startswith(_REFUSALS):
            request_id = times.request_id if times is not None else None
            self._ring.add("db.error", 1, f"{state} {self.kind(text)}", request_id)


def _count(uses: dict[str, list[int]], text: str, calls: int, ns: int, rows: int) -> None:
    use = uses.get(text)
    if use is None:
        use = uses[text] = [0, 0, 0]
    use[0] += calls
    use[1] += ns
    use[2] += rows


def _shorten(uses: list[StatementUse]) -> None:
    """Add up a list in place: a request may run a statement a million times."""
    sums: dict[str, list[int]] = {}
    for use in uses:
        _count(sums, *use)
    uses[:] = [(text, *use) for text, use in sums.items()]  # type: ignore[misc]


# -- time in the database --------------------------------------------------------------------------


class _Timed:
    """What is kept at a dialect whose calls are timed; it stays, idle, when nobody counts any more."""

    def __init__(self) -> None:
        self.counts = False  #: into the request at hand
        self.monitor: StatementMonitor | None = None
        self.under_way: dict[int, Any] = {}  #: cursors and connections whose calls have not ended, by id

    @classmethod
    def of(cls, engine: Engine | AsyncEngine) -> _Timed:
        """The engine's, whose dialect's calls of the driver are wrapped the first time it is asked for."""
        dialect = _dialect(engine)
        if not hasattr(dialect, "_perfkit_timed"):
            dialect._perfkit_timed = timing = cls()
            for name, of_statement in _CALLS.items():
                setattr(dialect, name, _timed(getattr(dialect, name), timing, of_statement))
        found: _Timed = dialect._perfkit_timed
        return found


def connections_at_work(engine: Engine | AsyncEngine) -> set[int]:
    """Return the `id` of each DBAPI connection that runs a statement, a commit or a rollback now.

    The calls of the engine's dialect are watched from the first time this is asked on. Any thread may ask.
    """
    return {id(_connection_of(used)) for used in list(_Timed.of(engine).under_way.values())}


def _connection_of(used: Any) -> Any:
    """The DBAPI connection of a pool's proxy, of SQLAlchemy's own cursor, or of a driver's cursor."""
    if (connection := getattr(used, "dbapi_connection", None)) is not None:
        return connection
    return getattr(used, "_adapt_connection", None) or getattr(used, "connection", None)


def _dialect(engine: Engine | AsyncEngine) -> Any:
    return (engine.sync_engine if isinstance(engine, AsyncEngine) else engine).dialect


def count_database_time(engine: Engine | AsyncEngine) -> Callable[[], None]:
    """Count statements, commits and rollbacks of an engine into the `db` part of the request at hand.

    As the caller waits for them, less its wait for the event loop, which is two turns of it: in one the
    answer is read, in the next the caller goes on. Those that begin with the statement are measured.
    A result whose rows the driver has not fetched yet (SQLite, server-side cursors) is fetched uncounted.
    Wraps the dialect's calls of the driver, once however often it is called; returns what undoes it.
    """
    timing = _Timed.of(engine)
    timing.counts = True

    def undo() -> None:
        timing.counts = False

    return undo


def _timed(call: Callable[..., Any], timing: _Timed, of_statement: bool) -> Callable[..., Any]:
    under_way = timing.under_way

    def timed(*args: Any, **options: Any) -> Any:
        times = request_times.get() if timing.counts else None
        monitor = timing.monitor if of_statement else None
        used, turns, began_ns = args[0], None, 0
        if times is not None or monitor is not None:
            loop = asyncio._get_running_loop()
            turns = None if loop is None else _turns(loop)
            began_ns = time.monotonic_ns()
        under_way[id(used)] = used
        try:
            return call(*args, **options)
        except Exception as error:
            if monitor is not None:
                monitor._failed(args[1], error, times)
            raise
        finally:
            under_way.pop(id(used), None)
            if began_ns:
                ns = time.monotonic_ns() - began_ns
                if turns is not None and turns.first_ns:
                    ns = max(ns - turns.since(began_ns), 0)
                if times is not None:
                    times.db_ns += ns
                if monitor is not None:
                    monitor._executed(args[1], ns, max(getattr(used, "rowcount", 0), 0), times)

    return timed


class Turns:
    """The next two turns of an event loop: when the waits that began before them were gone on with.

    All that begin in one turn share them: to ask the loop for a turn is what a measured statement costs most.
    """

    __slots__ = ("_began_ns", "_loop", "first_ns", "second_ns")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: asyncio.AbstractEventLoop | None = loop
        self.first_ns = self.second_ns = 0  #: when they came; 0: not yet
        self._began_ns = time.monotonic_ns()
        loop.call_soon(self._first_turn)

    def is_next_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a wait that begins now on this loop has these turns ahead."""
        return not self.first_ns and self._loop is loop

    def _first_turn(self) -> None:
        self.first_ns, loop = time.monotonic_ns(), self._loop
        self._loop = None  # it may be dropped
        if loop is not None and self.first_ns - self._began_ns > _FREE_NS:  # busy: also in the next one
            loop.call_soon(self._second_turn)

    def _second_turn(self) -> None:
        self.second_ns = time.monotonic_ns()

    def since(self, began_ns: int) -> int:
        """How much of a wait that began then was for the loop."""
        first_ns = self.first_ns - began_ns if self.first_ns else 0
        return self.second_ns - began_ns if first_ns > _FREE_NS and self.second_ns else first_ns


_latest: Turns | None = None


def _turns(loop: asyncio.AbstractEventLoop) -> Turns:
    global _latest
    turns = _latest
    if turns is None or not turns.is_next_of(loop):
        turns = _latest = Turns(loop)
    return turns


class Wait:
    """A wait that begins now; of one on an event loop, for something else than the loop's next two turns."""

    __slots__ = ("_began_ns", "_turns")

    def __init__(self) -> None:
        loop = asyncio._get_running_loop()
        self._turns = None if loop is None else _turns(loop)
        self._began_ns = time.monotonic_ns()

    def ns(self) -> int:
        """How long it has lasted, without those."""
        loops_ns = 0 if self._turns is None else self._turns.since(self._began_ns)
        return max(time.monotonic_ns() - self._began_ns - loops_ns, 0)
