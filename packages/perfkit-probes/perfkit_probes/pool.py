"""A monitor of SQLAlchemy's connection pools: true figures, waiting times, leaks with their place."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from perfkit_probes.place import caller, words
from perfkit_probes.registry import MetricRegistry
from perfkit_probes.request import RequestTimes, request_times
from perfkit_probes.ring import Ring
from perfkit_probes.statements import connections_at_work

try:
    from greenlet import getcurrent
except ImportError:  # SQLAlchemy without asyncio
    getcurrent = None

_log = logging.getLogger("perfkit_probes")
EVENTS = (
    *("connect", "first_connect", "checkout", "checkin", "reset"),
    *("invalidate", "soft_invalidate", "close", "close_detached", "detach"),
)
_FREE_NS, _FREE_MS = 1_000_000, 1.0  # a checkout that takes no longer did not wait
_UNUSED_NS = 1_000_000_000  # out for so long without a statement under way, a connection is not in use


@dataclass(frozen=True)
class PoolState:
    """A pool at one moment."""

    size: int  #: connections it keeps; 0: it keeps none
    total: int  #: connections that are open, idle or out
    checked_out: int  #: lent, also one that was closed meanwhile: its place is taken until it is given back
    available: int  #: open and idle
    overflow: int  #: open beyond its size
    waiting: int  #: checkouts that wait for a connection


@dataclass(slots=True)
class _Checkout:
    """A checkout on its way, then the connection that is out."""

    began_ns: int
    place: tuple[str, int, str] | None
    request: RequestTimes | None
    record: ConnectionPoolEntry | None = None  #: of the connection that is out
    free_ns: int = 0  #: when it stopped waiting, and began to open a connection or to ask whether one lives
    taken_ns: int = 0
    used_ns: int = 0  #: when it was taken, or last seen to run a statement
    unused: bool = False  #: it was reported that it runs nothing
    reported: bool = False  #: as a leak
    counted: BaseException | None = None  #: an error that was counted already

    @property
    def request_id(self) -> str | None:
        """Of the request it was made for."""
        return self.request.request_id if self.request is not None else None


@dataclass(frozen=True)
class Leak:
    """A connection that has been out, and has run nothing, for too long."""

    place: str  #: where it was taken, `file.py:LINE function`
    held_s: float
    request_id: str | None


_checkout: ContextVar[_Checkout | None] = ContextVar("perfkit_checkout", default=None)


class PoolMonitor:
    """Watches the pool of an engine, whatever its class, also after `engine.dispose()`.

    Counts the ten events of SQLAlchemy's pools; measures how long each checkout waited (opening a connection
    is not waiting) and how long each connection was out. A connection is leaked when it has been out for
    `leak_after_s` in which `sample` saw it run nothing: a slow statement is no leak. An engine is watched by
    one monitor at a time: a second one that is started on it stays idle, so nothing is counted twice. Any
    thread may use it.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        name: str = "default",
        *,
        ring: Ring | None = None,
        registry: MetricRegistry | None = None,
        leak_after_s: float = 30.0,
    ) -> None:
        self._engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self._name, self._ring, self._registry = name, ring, registry
        self._leak_after_s = leak_after_s
        self._record_wait, self._record_out = (
            (lambda ms: None) if registry is None else registry.bound(metric, engine_name=name)
            for metric in ("hist_db_pool_checkout_wait_ms", "hist_db_pool_connection_duration_ms")
        )
        # The garbage collector gives back connections that nobody closed, in whatever thread and line it runs
        # in: also in one that has this lock. What is under it must bear to be entered again.
        self._lock = threading.RLock()
        self._counts, self._told = dict.fromkeys(EVENTS, 0), dict.fromkeys(EVENTS, 0)
        self._under_way: dict[int, _Checkout] = {}
        self._out: dict[int, list[_Checkout]] = {}  # by connection record; a StaticPool lends one many times
        self._open: dict[int, ConnectionPoolEntry] = {}  # idle or out

    def start(self) -> None:
        """Begin to watch."""
        hook = _Hook.of(self._engine)
        connections_at_work(self._engine)  # known from the first statement on
        if hook.monitor is None:
            hook.monitor = self
            if self._registry is not None:
                self._registry.before_collecting(self._tell)
        elif hook.monitor is not self:
            _log.warning("this engine is watched by another pool monitor; %r stays idle", self._name)

    def stop(self) -> None:
        """Watch no longer; what is out is forgotten."""
        hook = _Hook.of(self._engine)
        if hook.monitor is self:
            hook.monitor = None
            if self._registry is not None:
                self._tell(self._registry)
                self._registry.not_before_collecting(self._tell)
            with self._lock:
                self._under_way.clear()
                self._out.clear()
                self._open.clear()

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each event of `EVENTS` came."""
        with self._lock:
            return dict(self._counts)

    def state(self) -> PoolState:
        """The pool now: its own counters where they are right, else its events and its connections.

        A QueuePool counts places: also those whose connection was invalidated, or closed by the server. What
        the driver knows to be closed is not open; asyncpg knows at once, others at the next use.
        """
        pool, now = self._engine.pool, time.monotonic_ns()
        with self._lock:
            under_way = list(self._under_way.values())
            waiting = sum(not c.free_ns and now - c.began_ns > _FREE_NS for c in under_way)
            held = self._held()
            lent = {id(one.record): one.record for one in held if one.record is not None}
            opened = {**self._open, **lent}
        live = sum(map(_is_open, lent.values()))
        if isinstance(pool, QueuePool):
            size, out, idle = pool.size(), pool.checkedout(), sum(map(_is_open, _idle(pool)))
            live += max(out - len(lent), 0)  # lent before it was watched
            return PoolState(size, idle + live, out, idle, max(0, idle + live - size), waiting)
        total = sum(map(_is_open, opened.values()))
        size = 0 if isinstance(pool, sa.NullPool) else 1
        return PoolState(size, total, len(held), total - live, 0, waiting)

    def leaks(self) -> list[Leak]:
        """The connections that have been out, and have run nothing, for longer than `leak_after_s`."""
        now = time.monotonic_ns()
        late = self._unused(now, 1e9 * self._leak_after_s)
        return [Leak(_place(one), (now - one.taken_ns) / 1e9, one.request_id) for one in late]

    def sample(self) -> None:
        """Put the state into the ring, and report leaks, each once; call it some times a second."""
        state, now = self.state(), time.monotonic_ns()
        if self._ring is not None:
            for name in ("size", "checked_out", "available", "overflow", "waiting"):
                self._ring.add(f"pool.{name}", getattr(state, name), self._name)
        leak_ns = 1e9 * self._leak_after_s
        for one in self._unused(now, min(_UNUSED_NS, leak_ns)):
            unused_ns = now - one.used_ns
            if not one.unused:
                one.unused = True
                self._report("pool.unused_s", one, now)
            if unused_ns >= leak_ns and not one.reported:
                one.reported = True
                held_s = (now - one.taken_ns) / 1e9
                _log.warning("a connection taken at %s has been out for %.3g s", _place(one), held_s)
                self._report("pool.leak_s", one, now)

    def _unused(self, now: int, for_ns: float) -> list[_Checkout]:
        """The connections that are out and have not been seen to run a statement for so long."""
        at_work = connections_at_work(self._engine)
        with self._lock:
            held = self._held()
            for one in held:
                if one.record is not None and id(one.record.dbapi_connection) in at_work:
                    self._used_again(one, now)
            return [one for one in held if now - one.used_ns >= for_ns]

    def _used_again(self, one: _Checkout, now: int) -> None:
        """A connection was given back, or runs something: whatever was reported of it is over."""
        if one.unused:
            self._report("pool.used_again_s", one, now)
        one.used_ns, one.unused, one.reported = now, False, False

    def _report(self, probe: str, one: _Checkout, now: int) -> None:
        """For how long a connection has been out and has run nothing."""
        if self._ring is not None:
            self._ring.add(probe, (now - one.used_ns) / 1e9, _place(one), one.request_id, now)

    def _tell(self, registry: MetricRegistry) -> None:
        """Gauges and events into the metrics, when they are collected: a checkout has three events."""
        state = self.state()
        for name in ("total", "checked_out", "available", "overflow"):
            registry.set(f"gauge_db_pool_connections_{name}", getattr(state, name), engine_name=self._name)
        with self._lock:
            before, self._told = self._told, self._counts.copy()
            counts = self._told
        for name, count in counts.items():
            if count > before[name]:
                news = count - before[name]
                registry.add("count_db_pool_connection_events", news, engine_name=self._name, event=name)

    def _held(self) -> list[_Checkout]:
        return [one for out in list(self._out.values()) for one in list(out)]

    # -- told by the hook ----------------------------------------------------------------------

    def _end(self, one: _Checkout) -> float:
        """A checkout has ended: how long it waited, ms."""
        now = time.monotonic_ns()
        self._under_way.pop(id(one), None)
        waited_ns = (one.free_ns or now) - one.began_ns
        if one.request is not None:
            one.request.db_wait_ns += waited_ns
        return waited_ns / 1e6

    def _got(self, one: _Checkout) -> None:
        waited_ms = self._end(one)
        self._record_wait(waited_ms)
        if waited_ms >= _FREE_MS and self._ring is not None:
            self._ring.add("pool.wait_ms", waited_ms, self._name, one.request_id)

    def _failed(self, one: _Checkout, error: BaseException) -> None:
        waited_ms = self._end(one)
        if isinstance(error, Exception) and error is not one.counted:  # not a task that was cancelled
            self._error(error, waited_ms, one.request_id)

    def _error(
        self, error: BaseException | None, waited_ms: float = 0.0, request_id: str | None = None
    ) -> None:
        kind = _kind(error)
        if self._registry is not None:
            self._registry.add("count_db_pool_connection_errors", engine_name=self._name, exception_type=kind)
        if self._ring is not None:
            self._ring.add("pool.error", 1, kind, request_id)
            if isinstance(error, sa.exc.TimeoutError):
                self._ring.add("pool.timeout_ms", waited_ms, self._name, request_id)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _lent(self, record: ConnectionPoolEntry) -> None:
        one = _checkout.get()
        with self._lock:
            self._counts["checkout"] += 1
            # it comes twice for one checkout when another listener finds the connection dead
            if one is not None and not one.taken_ns:
                one.taken_ns = one.used_ns = time.monotonic_ns()
                one.record = record
                self._out.setdefault(id(record), []).append(one)

    def _returned(self, name: str, record: ConnectionPoolEntry) -> None:
        with self._lock:
            self._counts[name] += 1
            if name == "detach":
                self._open.pop(id(record), None)
            out = self._out.get(id(record))
            one = out.pop() if out else None
            if not out:
                self._out.pop(id(record), None)
        if one is not None:
            now = time.monotonic_ns()
            self._record_out((now - one.taken_ns) / 1e6)
            self._used_again(one, now)

    def _event(self, name: str, args: tuple[Any, ...]) -> None:
        """The events that come less often than checkouts."""
        with self._lock:
            self._counts[name] += 1
            if name == "connect":
                self._open[id(args[1])] = args[1]
            elif name == "close":
                self._open.pop(id(args[1]), None)
        if name == "invalidate" or name == "soft_invalidate":
            self._error(args[2])
            if (one := _checkout.get()) is not None:
                one.counted = args[2]


class _Hook:
    """What is put into an engine, once: listeners of its pool, and wrappers around the pool's methods.

    SQLAlchemy has no event for the beginning of a checkout. The pool is made anew by `engine.dispose()`; its
    listeners go with it, the wrappers are put on again. (The engine has an event for that, but one listener
    there makes every statement slower.) They stay, idle, when a monitor stops: to take a listener away while
    another thread checks out makes that checkout fail.
    """

    @classmethod
    def of(cls, engine: Engine) -> _Hook:
        """The engine's hook. It is kept at the dialect, which an engine shares with those of its options."""
        dialect: Any = engine.dialect
        with _hooking:
            if not hasattr(dialect, "_perfkit_pool"):
                dialect._perfkit_pool = cls(getattr(engine, "_proxied", engine))
            hook: _Hook = dialect._perfkit_pool
            return hook

    def __init__(self, engine: Engine) -> None:
        self.monitor: PoolMonitor | None = None
        for name in EVENTS:
            event.listen(engine.pool, name, self._listener(name))
        dialect: Any = engine.dialect
        dialect.do_ping = _ends_waiting(dialect.do_ping)
        self._wrap(engine.pool)

    def _listener(self, name: str) -> Callable[..., None]:
        """What SQLAlchemy calls at an event; three come with each checkout, and get there in few calls."""

        def lent(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
            if (monitor := self.monitor) is not None:
                monitor._lent(record)

        def returned(_: Any, record: ConnectionPoolEntry) -> None:
            if (monitor := self.monitor) is not None:
                monitor._returned(name, record)

        def counted(*_: Any) -> None:
            if (monitor := self.monitor) is not None:
                monitor._count(name)

        def told(*args: Any) -> None:
            if (monitor := self.monitor) is not None:
                monitor._event(name, args)

        often: dict[str, Callable[..., None]] = {
            "checkout": lent,
            "checkin": returned,
            "detach": returned,
            "reset": counted,
        }
        return often.get(name, told)

    def _wrap(self, pool: Any) -> None:
        original, recreate = pool.connect, pool.recreate
        # The event do_connect does not come when the engine was given a creator of its own.
        pool._invoke_creator = _ends_waiting(pool._invoke_creator)

        def connect() -> Any:
            monitor = self.monitor
            if monitor is None:
                return original()
            place = caller(sys._getframe(1), _outer_frame())
            one = _Checkout(time.monotonic_ns(), place, request_times.get())
            token = _checkout.set(one)
            monitor._under_way[id(one)] = one
            try:
                taken = original()
            except BaseException as error:
                monitor._failed(one, error)
                raise
            finally:
                _checkout.reset(token)
            monitor._got(one)
            return taken

        def recreated() -> Any:
            new = recreate()
            self._wrap(new)
            return new

        pool.connect, pool.recreate = connect, recreated


_hooking = threading.Lock()


def _ends_waiting(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        one = _checkout.get()
        if one is not None and not one.free_ns:
            one.free_ns = time.monotonic_ns()
        return call(*args, **options)

    return called


def _outer_frame() -> FrameType | None:
    """Where the stack goes on outside of SQLAlchemy's greenlet: in the coroutine that awaits."""
    parent = getcurrent().parent if getcurrent is not None else None
    return parent.gr_frame if parent is not None else None


def _kind(error: BaseException | None) -> str:
    """The class of an exception; of the driver's own where SQLAlchemy put one of its own around it."""
    if error is None:
        return "unknown"
    wrapped = type(error).__module__.startswith("sqlalchemy.dialects.") and error.__cause__
    return type(wrapped or error).__name__


def _idle(pool: QueuePool) -> list[ConnectionPoolEntry]:
    """The places that are not lent, with a connection or without."""
    queue: Any = pool._pool
    places = getattr(queue, "queue", None)  # of AsyncAdaptedQueuePool it is one of asyncio's
    return list(queue._queue._queue if places is None else places)


def _is_open(record: ConnectionPoolEntry) -> bool:
    ours: Any = record.dbapi_connection
    connection = getattr(ours, "driver_connection", ours)
    closed = getattr(connection, "is_closed", None) or getattr(connection, "closed", False)
    return connection is not None and not (closed() if callable(closed) else closed)


def _place(one: _Checkout) -> str:
    return words(*one.place) if one.place else "unknown"
