"""Waking up on time. asyncio rounds its timers to a millisecond; an open-loop schedule wants better."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Protocol

from perfkit.drive.transport import Clock

#: A wake-up closer than this is waited for by polling the loop without blocking: a sleeping thread comes back
#: some 50 µs late.
SPIN_NS = 100_000


class Pacer(Protocol):
    """Calls back at an instant of the loop's clock; one call at a time."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Arrange for `callback()` at `when_ns` (nanoseconds of the clock), or soon if that has passed."""

    def close(self) -> None:
        """Give back what the operating system lent."""


class LoopPacer:
    """The loop's own timers: exact on a virtual clock, a millisecond coarse on a real one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """See `Pacer`."""
        self._loop.call_later(max(0, when_ns - self._clock()) / 1e9, callback)

    def close(self) -> None:
        """See `Pacer`."""


class TimerfdPacer:
    """A Linux timerfd wakes the loop just before the instant; the rest is polled, not slept."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock
        self._callback: Callable[[], None] = lambda: None
        self._when = 0
        self._fd = _libc().timerfd_create(1, 0o2004000)  # CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._on_timer)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """See `Pacer`."""
        self._callback, self._when = callback, when_ns
        if when_ns - self._clock() <= SPIN_NS:
            self._loop.call_soon(self._poll)
        else:
            wake = when_ns - SPIN_NS
            setting = (ctypes.c_long * 4)(0, 0, wake // 1_000_000_000, wake % 1_000_000_000)
            _libc().timerfd_settime(self._fd, 1, setting, None)  # TFD_TIMER_ABSTIME

    def _on_timer(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._poll()

    def _poll(self) -> None:
        if self._clock() >= self._when:
            self._callback()
        else:
            self._loop.call_soon(self._poll)  # sockets are served in between

    def close(self) -> None:
        """See `Pacer`."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


def pacer_for(loop: asyncio.AbstractEventLoop, clock: Clock) -> Pacer:
    """The best pacer this loop and system have."""
    if sys.platform == "linux" and not hasattr(loop, "time_ns"):
        return TimerfdPacer(loop, clock)
    return LoopPacer(loop, clock)


def _libc() -> ctypes.CDLL:
    global _library
    if _library is None:
        _library = ctypes.CDLL(None, use_errno=True)
    return _library


_library: ctypes.CDLL | None = None
