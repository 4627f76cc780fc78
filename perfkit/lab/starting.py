"""`run` and `run_sync`: the same work on a thread; they differ in how they wait and are interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perfkit.lab.work import Work
from perfkit.text import plain

if TYPE_CHECKING:
    from perfkit.lab.listing import Runs
    from perfkit.store import Run

_TURN_S = 0.1


class RunInterrupted(KeyboardInterrupt):
    """The cell of a run was interrupted; the message names the run, which is kept as `aborted`."""

    def _render_traceback_(self) -> list[str]:
        return [f"interrupted: {plain(self)}"]


class RunCancelled(asyncio.CancelledError):
    """The same for a task that was cancelled, as an interrupt does with `await perfkit.run(...)`."""

    def _render_traceback_(self) -> list[str]:
        return [f"interrupted: {plain(self)}"]


async def run(
    workload: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    allow_targets: Iterable[str] = (),
    live: bool = True,
    **changes: Any,
) -> Run | Runs:
    """Carry out a workload and return the finished run: a `Run`, or `Runs` when its `repeats` are several.

    workload: a YAML file or a mapping as it has; `changes` are laid over it, name by name: scenario, params,
    users, arrivals, tags, …; `target` may be a URL. Without a URL a reference server is started for the run.
    data_dir: PERFKIT_DATA_DIR, or the nearest `data` folder with runs, upwards from here. live: show a view
    that updates in place and leaves a figure behind; in a terminal, a block of lines.

    Raises BadInput for what cannot be run and PerfkitError when a run breaks down, each in one line. When the
    task is cancelled (an interrupt in JupyterLab) the run ends cleanly, then RunCancelled is raised; a second
    interrupt ends the clean-up too.
    """
    work = Work(workload, changes, data_dir, allow_targets, live)
    future = asyncio.wrap_future(work.start())
    try:
        await _ended(future)
    except asyncio.CancelledError:
        work.stop()
        with _also_on_interrupt(work.stop):
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await _ended(future)
                    break
                work.stop()
        future.exception()  # looked at, else asyncio complains of it
        raise RunCancelled(work.last_words()) from None
    return future.result()


def run_sync(
    workload: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    allow_targets: Iterable[str] = (),
    live: bool = True,
    **changes: Any,
) -> Run | Runs:
    """The same for a script, or a cell that is to wait: blocks until the run has ended. See `run`.

    An interrupt (Ctrl-C) ends the run cleanly, then RunInterrupted is raised.
    """
    work = Work(workload, changes, data_dir, allow_targets, live)
    future = work.start()
    interrupted = False
    while not future.done():
        try:
            future.exception()
        except KeyboardInterrupt:
            interrupted = True
            work.stop()
    if interrupted:
        raise RunInterrupted(work.last_words()) from None
    return future.result()


async def _ended(future: asyncio.Future[Any]) -> None:
    """Wait in short turns: an interrupt, which ipykernel makes a cancellation, wakes no sleeping loop."""
    while not future.done():
        await asyncio.wait([future], timeout=_TURN_S)


@contextlib.contextmanager
def _also_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """An interrupt calls `stop`: ipykernel cancels a cell once only, and asyncio.run would leave at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
