"""The signals that end what is under way: Ctrl-C, SIGTERM (`kill`, `timeout`, a service manager), SIGHUP.

Whatever ends after Ctrl-C ends in the same way after the other two: they call the handler of SIGINT. The
words and the exit code say which signal it was.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: `timeout` sends SIGTERM twice, a service manager SIGTERM and SIGHUP: within this time they count as one.
_ECHO_S = 1.0

_first: int | None = None
_last_at_s = float("-inf")


def install() -> None:
    """Make SIGTERM and SIGHUP end this program as Ctrl-C does. For programs, never for library code.

    A signal that is ignored at the start stays ignored: SIGHUP under nohup, SIGINT in a background job.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # blocked instead: the others need its handler
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _heard_nowhere


def _heard_nowhere(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that came inside a weak reference's callback or the like, where Python prints it and goes
    on: it comes again in a moment, from outside."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def received() -> bool:
    """Return whether a SIGTERM or SIGHUP has come."""
    return _first is not None


def reason() -> str:
    """Return what ended the work, one of `errors.INTERRUPTIONS`."""
    return "interrupted" if _first is None else f"terminated by {signal.Signals(_first).name}"


@contextmanager
def held(*, first_only: bool = False) -> Iterator[None]:
    """Hold signals back until the block is left, then deliver the first of them.

    With `first_only`, one is held back and a second one arrives at once. Processes started in the block
    begin with all of them blocked. Outside the main thread, which alone handles signals, that is all it does.
    """
    global _last_at_s
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not _is_echo(number):
            came.append(number)
            if first_only:
                _restore(before)

    before = _replace(note)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, () if first_only else SIGNALS)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # a second one, or a cancelled task: the work ends as it is
            came.clear()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _restore(before)
        if came:
            _last_at_s = float("-inf")  # it is delivered now, and no echo of itself
            signal.raise_signal(came[0])


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore signals in the block."""
    before = _replace(signal.SIG_IGN)
    try:
        yield
    finally:
        _restore(before)


def leave_to_parent() -> None:
    """Make a worker survive all three: ending the work is its coordinator's business.

    Handlers that do nothing, where SIG_IGN would be passed on to every program that the worker starts.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does here and now."""
    global _first
    if _is_echo(number):
        return
    _first = _first or number
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if not callable(on_ctrl_c):
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)


def _is_echo(number: int) -> bool:
    """Whether this signal is the same request again."""
    global _last_at_s
    if number == signal.SIGINT:
        return False
    before, _last_at_s = _last_at_s, time.monotonic()
    return _last_at_s - before < _ECHO_S


def _replace(handler: signal._HANDLER) -> dict[int, signal._HANDLER]:
    """Set the handler of every signal that has one; returns those it had."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, signal._HANDLER] = {}
    for number in SIGNALS:
        if signal.getsignal(number) not in (None, signal.SIG_IGN):
            before[number] = signal.signal(number, handler)
    return before


def _restore(handlers: dict[int, signal._HANDLER]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
