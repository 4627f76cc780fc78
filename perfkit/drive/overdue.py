"""A worker ends: when asked to, when its coordinator is gone, when a step holds its loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from perfkit.drive.load import GRACE_S, Drive
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.steps import Overdue, Steps

_LOOK_S = 0.1
#: So often in a row a loop has not turned when its step is interrupted.
_MISSED = round(GRACE_S / _LOOK_S)
#: So many looks after its coordinator has ended is a worker ended that does not end by itself.
_ALONE = 6
_left_behind: list[asyncio.Task[Any]] = []


class Leash(Protocol):
    """What a worker's coordinator has of it."""

    may_exit: bool  #: whether the process is the worker's own, and may be ended

    def told_to_stop(self) -> bool:
        """Whether the coordinator wants it to stop."""

    def is_cut(self) -> bool:
        """Whether the coordinator is gone."""

    def stuck(self, place: str, mistakes: Mistakes) -> None:
        """Tell where a step stands that cannot be ended, and the mistakes before it."""

    def end(self) -> None:
        """End the process."""


@contextlib.contextmanager
def watched(
    drive: Drive,
    loop: asyncio.AbstractEventLoop,
    leash: Leash,
    give_up: Callable[[], None],
    stop: Callable[[], None],
    look: Callable[[Callable[[], str]], None],
) -> Iterator[None]:
    """Watch a drive from a thread; call it from the thread its loop runs in.

    `stop` is called in the loop when the coordinator wants that or has ended. When the drive should be over
    and its loop does not turn for `GRACE_S`, the step that holds it is interrupted; when that does not help,
    `give_up` is called to save the rows, and the process ends if it is the worker's own. `look` is
    `HealthWatch.look`.
    """
    over, holder = threading.Event(), threading.get_ident()

    def where() -> str:
        return drive.mistakes.held_at(sys._current_frames().get(holder))

    def watch() -> None:
        stopped, pulse, alone = False, _Pulse(loop), 0
        while not over.wait(_LOOK_S):
            look(where)
            alone += leash.is_cut()
            if not stopped and (alone or leash.told_to_stop()):
                stopped = True
                loop.call_soon_threadsafe(stop)
            if alone > _ALONE and leash.may_exit and not over.is_set():
                give_up()
                leash.end()
            missed = pulse.missed() if stopped or drive.is_due() else 0
            if missed < _MISSED:
                continue
            frame = sys._current_frames().get(holder)
            if missed % _MISSED == 0 and _in_step(frame):
                exception = ctypes.py_object(Overdue)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(holder), exception)
            if missed > 2 * _MISSED and leash.may_exit and not over.is_set():
                give_up()
                leash.stuck(drive.mistakes.place_in(frame), drive.mistakes)
                leash.end()

    thread = threading.Thread(target=watch, name="perfkit-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Pulse:
    """Asks a loop again and again whether it still turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._missed, self._asked = loop, 0, False

    def _beat(self) -> None:
        self._asked = False

    def missed(self) -> int:
        """How often in a row it had not turned since it was asked; looks count, a process may stand still."""
        self._missed = self._missed + 1 if self._asked else 0
        if not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._beat)
        return self._missed


def _in_step(frame: Any) -> bool:
    """Whether a thread is in a step of the scenario."""
    return frame is not None and any(
        one.f_code is Steps.carry_out.__code__ for one, _ in traceback.walk_stack(frame)
    )


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop; what has not ended after `GRACE_S` is left behind, threads are not waited for."""
    loop.set_exception_handler(lambda loop, context: None)  # what there was to tell has been told
    rest = asyncio.all_tasks(loop)

    def ended(task: asyncio.Task[Any]) -> None:
        rest.discard(task)
        if not rest:
            loop.stop()

    for task in list(rest):
        task.add_done_callback(ended)
        task.cancel()
    with contextlib.suppress(SystemExit, KeyboardInterrupt, asyncio.CancelledError):
        if rest:
            late = loop.call_later(GRACE_S, loop.stop)
            loop.run_forever()  # no task of its own: what ends may end all tasks that it knows
            late.cancel()
        generators = loop.create_task(loop.shutdown_asyncgens())
        loop.run_until_complete(asyncio.wait([generators], timeout=GRACE_S))
    for task in asyncio.all_tasks(loop):
        leave_behind(task)
    asyncio.set_event_loop(None)
    loop.close()


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Have nobody wait for a task that does not end; it never goes on once its loop has stopped."""
    asyncio._unregister_task(task)  # see "Extending", in asyncio's documentation
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    if not _left_behind:  # where it is collected it is told to end once more, and may refuse again
        atexit.register(setattr, sys, "unraisablehook", lambda _: None)
    _left_behind.append(task)
