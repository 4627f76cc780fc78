"""A monitor of SQLAlchemy's connection pools: true figures, waiting times, leaks with their place."""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from perfkit.probes.place import caller, words
from perfkit.probes.registry import MetricRegistry
from perfkit.probes.request import add_time, current_request
from perfkit.probes.ring import Ring

try:
    from greenlet import getcurrent
except ImportError:  # SQLAlchemy without asyncio
    getcurrent = None

_log = logging.getLogger("perfkit.probes")
EVENTS = (
    *("connect", "first_connect", "checkout", "checkin", "reset"),
    *("invalidate", "soft_invalidate", "close", "close_detached", "detach"),
)
_FREE_NS = 1_000_000  # a checkout that takes no longer did not wait


@dataclass(frozen=True)
class PoolState:
    """A pool at one moment."""

    size: int  #: connections it keeps; 0: it keeps none
    total: int  #: open connections, idle or out
    checked_out: int
    available: int  #: open and idle
    overflow: int  #: open beyond its size
    waiting: int  #: checkouts that wait for a connection


@dataclass
class _Checkout:
    """A checkout on its way, then the connection that is out."""

    began_ns: int
    place: tuple[str, int, str] | None
    request_id: str | None
    opening_ns: int = 0  #: when it stopped waiting and began to open a connection
    taken_ns: int = 0
    reported: bool = field(default=False)


@dataclass(frozen=True)
class Leak:
    """A connection that has been out for too long."""

    place: str  #: where it was taken, `file.py:LINE function`
    held_s: float
    request_id: str | None


_checkout: ContextVar[_Checkout | None] = ContextVar("perfkit_checkout", default=None)


class PoolMonitor:
    """Watches the pool of an engine, whatever its class, also after `engine.dispose()`.

    Counts the ten events of SQLAlchemy's pools; measures how long each checkout waited (opening a connection
    is not waiting) and how long each connection was out. An engine is watched by one monitor at a time: a
    second one that is started on it stays idle, so nothing is counted twice. Any thread may use it.
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
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._under_way: dict[int, _Checkout] = {}
        self._out: dict[int, list[_Checkout]] = {}  # by connection record; a StaticPool lends one many times

    def start(self) -> None:
        """Begin to watch."""
        hook = _Hook.of(self._engine)
        if hook.monitor is None:
            hook.monitor = self
        elif hook.monitor is not self:
            _log.warning("this engine is watched by another pool monitor; %r stays idle", self._name)

    def stop(self) -> None:
        """Watch no longer; what is out is forgotten."""
        hook = _Hook.of(self._engine)
        if hook.monitor is self:
            hook.monitor = None
            if self._registry is not None:
                self._tell_counts(self._registry)
            with self._lock:
                self._under_way.clear()
                self._out.clear()

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each event of `EVENTS` came."""
        with self._lock:
            return {name: self._counts[name] for name in EVENTS}

    def state(self) -> PoolState:
        """The pool now, by its own counters where it has any, else by its events."""
        pool, now = self._engine.pool, time.monotonic_ns()
        with self._lock:
            waiting = sum(not c.opening_ns and now - c.began_ns > _FREE_NS for c in self._under_way.values())
            out = sum(map(len, self._out.values()))
            opened = self._counts["connect"] - self._counts["close"] - self._counts["detach"]
        if isinstance(pool, QueuePool):
            idle, out, over = pool.checkedin(), pool.checkedout(), max(0, pool.overflow())
            return PoolState(pool.size(), idle + out, out, idle, over, waiting)
        keeps = 0 if isinstance(pool, sa.NullPool) else 1
        total = max(opened, out)
        return PoolState(keeps, total, out, total - out, 0, waiting)

    def leaks(self) -> list[Leak]:
        """The connections that have been out for longer than `leak_after_s`."""
        now = time.monotonic_ns()
        with self._lock:
            held = [(c, (now - c.taken_ns) / 1e9) for out in self._out.values() for c in out]
        return [Leak(_place(c), s, c.request_id) for c, s in held if s >= self._leak_after_s]

    def sample(self) -> None:
        """Put the state into ring and gauges, and report leaks, each once; call it some times a second."""
        state = self.state()
        if self._ring is not None:
            for name in ("size", "checked_out", "available", "overflow", "waiting"):
                self._ring.add(f"pool.{name}", getattr(state, name), self._name)
        if self._registry is not None:
            for name in ("total", "checked_out", "available", "overflow"):
                gauge = f"gauge_db_pool_connections_{name}"
                self._registry.set(gauge, getattr(state, name), engine_name=self._name)
            self._tell_counts(self._registry)
        now = time.monotonic_ns()
        with self._lock:
            late = [c for out in self._out.values() for c in out if not c.reported]
            late = [c for c in late if now - c.taken_ns >= 1e9 * self._leak_after_s]
            for one in late:
                one.reported = True
        for one in late:
            held_s = (now - one.taken_ns) / 1e9
            _log.warning("a connection taken at %s has been out for %.3g s", _place(one), held_s)
            if self._ring is not None:
                self._ring.add("pool.leak_s", held_s, _place(one), one.request_id)

    def _tell_counts(self, registry: MetricRegistry) -> None:
        """Events into the metric, from time to time: a checkout has three, and counting there is slow."""
        with self._lock:
            news, self._told = self._counts - self._told, self._counts.copy()
        for name, count in news.items():
            registry.add("count_db_pool_connection_events", count, engine_name=self._name, event=name)

    # -- told by the hook ----------------------------------------------------------------------

    def _begin(self, one: _Checkout) -> None:
        with self._lock:
            self._under_way[id(one)] = one

    def _end(self, one: _Checkout, error: BaseException | None) -> None:
        """A checkout has ended, with a connection or with an error."""
        now = time.monotonic_ns()
        with self._lock:
            self._under_way.pop(id(one), None)
        waited_ns = (one.opening_ns or now) - one.began_ns
        add_time("db_wait", waited_ns)
        if isinstance(error, Exception):  # not a task that was cancelled
            self._error(error, waited_ns / 1e6, one.request_id)
        elif error is None:
            if self._registry is not None:
                self._registry.record(
                    "hist_db_pool_checkout_wait_ms", waited_ns / 1e6, engine_name=self._name
                )
            if self._ring is not None and waited_ns >= _FREE_NS:
                self._ring.add("pool.wait_ms", waited_ns / 1e6, self._name, one.request_id)

    def _error(
        self, error: BaseException | None, waited_ms: float = 0.0, request_id: str | None = None
    ) -> None:
        kind = type(error).__name__ if error is not None else "unknown"
        if self._registry is not None:
            self._registry.add("count_db_pool_connection_errors", engine_name=self._name, exception_type=kind)
        if self._ring is not None:
            self._ring.add("pool.error", 1, kind, request_id)
            if isinstance(error, sa.exc.TimeoutError):
                self._ring.add("pool.timeout_ms", waited_ms, self._name, request_id)

    def _event(self, name: str, args: tuple[Any, ...]) -> None:
        with self._lock:
            self._counts[name] += 1
        if name == "checkout":
            one = _checkout.get()
            if one is not None:
                one.taken_ns = time.monotonic_ns()
                with self._lock:
                    self._out.setdefault(id(args[1]), []).append(one)
        elif name in ("checkin", "detach"):
            self._returned(id(args[1]))
        elif name in ("invalidate", "soft_invalidate"):
            self._error(args[2])

    def _returned(self, record: int) -> None:
        with self._lock:
            out = self._out.get(record)
            one = out.pop() if out else None
            if not out:
                self._out.pop(record, None)
        if one is not None and self._registry is not None:
            held_ms = (time.monotonic_ns() - one.taken_ns) / 1e6
            self._registry.record("hist_db_pool_connection_duration_ms", held_ms, engine_name=self._name)


class _Hook:
    """What is put into an engine, once: listeners, and a wrapper around its pool's `connect`.

    SQLAlchemy has no event for the beginning of a checkout. The pool is made anew by `engine.dispose()`; its
    listeners go with it, the wrapper is put on again.
    """

    _all: weakref.WeakKeyDictionary[Engine, _Hook] = weakref.WeakKeyDictionary()  # noqa: RUF012
    _all_lock = threading.Lock()

    @classmethod
    def of(cls, engine: Engine) -> _Hook:
        """The engine's hook."""
        with cls._all_lock:
            if engine not in cls._all:
                cls._all[engine] = cls(engine)
            return cls._all[engine]

    def __init__(self, engine: Engine) -> None:
        self.monitor: PoolMonitor | None = None
        for name in EVENTS:
            event.listen(engine.pool, name, self._listener(name))
        event.listen(engine, "do_connect", self._opening)
        event.listen(engine, "engine_disposed", self._wrap)
        self._wrap(engine)

    def _listener(self, name: str) -> Callable[..., None]:
        def told(*args: Any) -> None:
            if self.monitor is not None:
                self.monitor._event(name, args)

        return told

    def _opening(self, *args: Any) -> None:
        one = _checkout.get()
        if one is not None and not one.opening_ns:
            one.opening_ns = time.monotonic_ns()

    def _wrap(self, engine: Engine) -> None:
        original = engine.pool.connect

        def connect() -> Any:
            monitor = self.monitor
            if monitor is None:
                return original()
            request = current_request()
            place = caller(sys._getframe(1), _outer_frame())
            one = _Checkout(time.monotonic_ns(), place, request.request_id if request else None)
            token = _checkout.set(one)
            monitor._begin(one)
            error: BaseException | None = None
            try:
                return original()
            except BaseException as raised:
                error = raised
                raise
            finally:
                _checkout.reset(token)
                monitor._end(one, error)

        engine.pool.connect = connect  # type: ignore[method-assign]


def _outer_frame() -> FrameType | None:
    """Where the stack goes on outside of SQLAlchemy's greenlet: in the coroutine that awaits."""
    parent = getcurrent().parent if getcurrent is not None else None
    return parent.gr_frame if parent is not None else None


def _place(one: _Checkout) -> str:
    return words(*one.place) if one.place else "unknown"


# -- time in the database --------------------------------------------------------------------------

_CALLS = ("do_execute", "do_executemany", "do_execute_no_params", "do_commit", "do_rollback")


def count_database_time(engine: Engine | AsyncEngine) -> Callable[[], None]:
    """Count statements, commits and rollbacks of an engine into the `db` part of the request at hand.

    Wraps the dialect's calls of the driver, once however often it is called; returns what undoes it.
    """
    dialect: Any = (engine.sync_engine if isinstance(engine, AsyncEngine) else engine).dialect
    if not hasattr(dialect, "_perfkit_timed"):
        dialect._perfkit_timed = True
        for name in _CALLS:
            setattr(dialect, name, _timed(getattr(dialect, name)))

    def undo() -> None:
        for name in ("_perfkit_timed", *_CALLS):
            dialect.__dict__.pop(name, None)

    return undo


def _timed(call: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        began = time.monotonic_ns()
        try:
            return call(*args, **options)
        finally:
            add_time("db", time.monotonic_ns() - began)

    return timed
