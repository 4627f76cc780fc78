"""A thread that watches an asyncio event loop: how late it is, and who holds it when it stands still."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from perfkit_probes.beside import SampleServer
from perfkit_probes.place import place_of
from perfkit_probes.process import ProcessProbe
from perfkit_probes.registry import MetricRegistry
from perfkit_probes.ring import Ring
from perfkit_probes.tasks import tasks_of, waits_at

_log = logging.getLogger("perfkit_probes")
_TIMER_NS = 2_000_000  # what is not later than this may be the resolution of timers


@dataclass(frozen=True)
class HangReport:
    """One hang of the loop, as it was when it was noticed."""

    at_ns: int  #: monotonic
    age_ms: float  #: how long the loop had not answered
    place: str  #: the code that held it, `file.py:LINE function`
    stacks: dict[str, str]  #: the stack of every thread, by name
    tasks: list[str]  #: pending tasks, with the place where each waits
    recovered_ms: float | None = None  #: how long it lasted in all, once it is over


class Watchdog:
    """Heartbeats on a loop, and a thread that looks how old the last one is.

    A heartbeat every `interval_ms` (10 to 50; by default 50, or a quarter of a short `hang_after_s`): how
    late it comes is the loop's lag (`loop.lag_ms`, `hist_event_loop_lag_ms`; up to 2 ms are the timers').
    One that is `hang_after_s` late, looked at every `check_every_s` (both at least 0.05 s), is a hang: it is
    reported once, with every thread's stack, to the ring and `on_report`, and so is its end. The log has a
    line for each check (DEBUG), the hang with its stacks (ERROR), from the next check on that it goes on
    (CRITICAL, once a second at most), and its end (WARNING). The ring also has what `ProcessProbe` sees, each
    second; `trace_memory` is its option. With `serve_on`, an address of this machine, the ring can be read
    while the loop is blocked (`SampleServer`). `also` is called every `also_every_ms`, from the loop, or from
    the thread while the loop is blocked (noticed within half a second). What the callbacks raise is logged. A
    loop that is not running is not blocked. All times are of the monotonic clock.

    The series is made on the loop, because a loop that is busy in short pieces can keep the interpreter's
    lock from a thread for seconds: each time it polls it gives the lock back for too short a moment.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ring: Ring | None = None,
        registry: MetricRegistry | None = None,
        interval_ms: float | None = None,
        hang_after_s: float = 15.0,
        check_every_s: float = 5.0,
        on_report: Callable[[HangReport], None] | None = None,
        also: Callable[[], None] | None = None,
        also_every_ms: float = 100.0,
        trace_memory: bool = False,
        serve_on: str | None = None,
    ) -> None:
        if min(hang_after_s, check_every_s) < 0.05:
            raise ValueError("hang_after_s and check_every_s: expected at least 0.05")
        if interval_ms is None:
            interval_ms = min(max(250 * hang_after_s, 10.0), 50.0)
        if not 10 <= interval_ms <= 50:
            raise ValueError(f"interval_ms: expected 10 to 50, got {interval_ms:g}")
        self._given_loop, self._ring, self._registry = loop, ring, registry
        self._interval_s, self._hang_after_s = interval_ms / 1e3, hang_after_s
        self._check_every_s = check_every_s
        self._on_report, self._also = on_report, also
        self._also_every_s = also_every_ms / 1e3
        self._also_lock, self._also_due_ns = threading.Lock(), 0
        self._lock = threading.Lock()  # of the next heartbeat and of the hang; nothing slow is done under it
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._due_ns = 0  # when the next heartbeat is due; 0: none is
        self._blocked_ns = 0  # lateness of the heartbeats so far
        self._hang: HangReport | None = None
        self._loop_thread: int | None = None
        self._process = ProcessProbe(ring, trace_memory=trace_memory) if ring is not None else None
        self._server = SampleServer(ring, serve_on) if ring is not None and serve_on is not None else None
        self._went_on_ns = 0  # when the log was last told that a hang goes on
        self.reports: deque[HangReport] = deque(maxlen=100)

    def start(self) -> None:
        """Begin to watch; when it does already, nothing more happens.

        Any thread may call it; without a `loop` of its own it watches the one that runs here.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        self._loop = self._given_loop or asyncio.get_running_loop()
        if self._process is not None:
            self._process.start()
        if self._server is not None:
            self._server.start()
        stop = self._stop = threading.Event()
        if asyncio._get_running_loop() is self._loop:  # what blocks it from here on counts
            self._loop_thread, self._due_ns = threading.get_ident(), time.monotonic_ns()
        self._loop.call_soon_threadsafe(self._next_beat, stop)
        # A loop that is dropped takes its watchdog along, and that ends the thread.
        weak = weakref.ref(self, lambda _: stop.set())
        self._thread = threading.Thread(
            target=_watch, args=(weak, stop), name="perfkit-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, at once, also while the loop is blocked; no thread stays. May be started again."""
        with self._lock:
            self._stop.set()
            self._blocked_ns = self.blocked_ns()
            self._due_ns, self._hang = 0, None
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._process is not None and self._thread is not None:
            self._process.stop()
        if self._server is not None:
            self._server.stop()
        self._thread = None

    def blocked_ns(self) -> int:
        """How long heartbeats have been late so far, the one that is due now included.

        The difference of two calls is how long the loop could not be reached in between. From any thread.
        """
        blocked, due = self._blocked_ns, self._due_ns
        late = time.monotonic_ns() - due if due else 0
        return blocked + (late if late > _TIMER_NS else 0)

    # -- on the loop ---------------------------------------------------------------------------

    def _next_beat(self, stop: threading.Event) -> None:
        with self._lock:
            if stop.is_set():
                return
            self._loop_thread = threading.get_ident()
            self._due_ns = time.monotonic_ns() + int(1e9 * self._interval_s)
        self._loop.call_later(self._interval_s, self._beat, stop)

    def _beat(self, stop: threading.Event) -> None:
        with self._lock:
            if stop.is_set():
                return
            due = self._due_ns
            late_ns = max(time.monotonic_ns() - due, 0) if due else 0
            if late_ns > _TIMER_NS:
                self._blocked_ns += late_ns
            self._due_ns = 0
            over, self._hang = self._hang, None
            if over is not None:
                over = self.reports[-1] = replace(over, recovered_ms=late_ns / 1e6)
        self._next_beat(stop)
        if due and self._ring is not None:
            self._ring.add("loop.lag_ms", late_ns / 1e6)
        if due and self._registry is not None:
            self._registry.record("hist_event_loop_lag_ms", late_ns / 1e6)
        if over is not None:
            self._recovered(over, late_ns / 1e6)
        self._sample_process()
        self._do_also()

    def _sample_process(self) -> None:
        if self._process is not None:
            _call(self._process.sample, self._loop)

    def _recovered(self, report: HangReport, whole_ms: float) -> None:
        _log.warning("event loop free again after %.0f ms, held by %s", whole_ms, report.place)
        if self._ring is not None:
            self._ring.add("loop.recovered_ms", whole_ms, report.place)
        _call(self._on_report, report)

    def _do_also(self) -> None:
        now = time.monotonic_ns()
        if self._also is not None and now >= self._also_due_ns and self._also_lock.acquire(blocking=False):
            try:
                self._also_due_ns = now + int(1e9 * self._also_every_s)
                _call(self._also)
            finally:
                self._also_lock.release()

    # -- in the thread -------------------------------------------------------------------------

    def _check(self) -> float | None:
        """Look once; the seconds until the next look, or None when there is nothing left to watch."""
        if self._loop.is_closed():
            return None
        due = self._due_ns
        late_s = (time.monotonic_ns() - due) / 1e9 if due else 0.0
        if late_s > _TIMER_NS / 1e9 and not self._loop.is_running():
            self._stands_still(due)
            late_s = 0.0
        if late_s >= min(self._hang_after_s, self._check_every_s) and self._ring is not None:
            self._ring.add("loop.lag_ms", 1e3 * late_s)  # the series shows the rise, too
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("event loop %.0f ms late, %d tasks", max(1e3 * late_s, 0), len(tasks_of(self._loop)))
        if late_s >= self._hang_after_s and self._hang is None:
            self._report(due, 1e3 * late_s)
        elif late_s >= self._hang_after_s:
            self._goes_on(1e3 * late_s)
        if late_s >= self._also_every_s:
            self._sample_process()
            self._do_also()
        if self._process is not None:
            _call(self._process.trace)
        return self._until_next_look(late_s)

    def _stands_still(self, due: int) -> None:
        """Nobody runs the loop: its next heartbeat says nothing."""
        with self._lock:
            if self._due_ns == due:
                self._due_ns, self._hang = 0, None

    def _until_next_look(self, late_s: float) -> float:
        """Seconds: a thread that wakes up only when the next heartbeat would be too late costs little."""
        if late_s <= _TIMER_NS / 1e9:
            wait = max(self._hang_after_s - late_s, self._check_every_s)
            return wait if self._also is None else min(wait, 0.5)
        left = self._hang_after_s - late_s
        wait = min(left, self._check_every_s) if left > 0 else self._check_every_s
        return max(wait if self._also is None else min(wait, self._also_every_s), 0.001)

    def _report(self, due: int, late_ms: float) -> None:
        report = self._look(late_ms)
        with self._lock:
            if self._due_ns != due:  # it came to itself while we looked: the stack is of something else
                return
            self._hang = report
            self.reports.append(report)
        words = "event loop blocked for %.0f ms by %s, %d tasks\n%s"
        _log.error(words, late_ms, report.place, len(report.tasks), _text(report))
        self._went_on_ns = 0
        if self._ring is not None:
            self._ring.add("loop.hang_ms", late_ms, report.place)
        _call(self._on_report, report)

    def _goes_on(self, late_ms: float) -> None:
        """The hang goes on: the second check in a row over the limit, and those that follow."""
        now = time.monotonic_ns()
        if now - self._went_on_ns >= 1_000_000_000:
            self._went_on_ns, tasks = now, len(tasks_of(self._loop))
            place = self._held_at(sys._current_frames())
            _log.critical("event loop still blocked for %.0f ms, by %s, %d tasks", late_ms, place, tasks)

    def _held_at(self, frames: dict[int, FrameType]) -> str:
        held = frames.get(self._loop_thread or -1)
        return place_of(held) if held is not None else "unknown"

    def _look(self, age_ms: float) -> HangReport:
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = {
            names.get(ident) or f"thread {ident}": "".join(traceback.format_stack(frame))
            for ident, frame in frames.items()
            if ident != threading.get_ident()
        }
        tasks = sorted(f"{task.get_name()}: {waits_at(task)}" for task in tasks_of(self._loop))
        return HangReport(time.monotonic_ns(), age_ms, self._held_at(frames), stacks, tasks)


def _watch(weak: weakref.ref[Watchdog], stop: threading.Event) -> None:
    wait: float | None = 0.0
    while wait is not None and not stop.wait(wait):
        dog = weak()
        wait = None if dog is None else dog._check()
        del dog  # not to be held while waiting


def _call(callback: Callable[..., None] | None, *told: Any) -> None:
    """A callback that fails must not end the watching."""
    if callback is not None:
        try:
            callback(*told)
        except Exception:
            _log.exception("a callback of the event-loop watchdog failed")


def _text(report: HangReport) -> str:
    stacks = "\n".join(f"-- {name}\n{stack}" for name, stack in report.stacks.items())
    return "\n".join([stacks, f"-- {len(report.tasks)} pending tasks", *report.tasks])
