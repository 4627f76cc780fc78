"""`run` and `run_sync`: the same work on a thread; they differ in how they wait and are interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perfkit.drive.shards.launchers import spread_on
from perfkit.lab.awaited import Awaited
from perfkit.lab.work import Work
from perfkit.text import plain

if TYPE_CHECKING:
    from perfkit.lab.handle import Run
    from perfkit.lab.listing import Runs

_TURN_S = 0.1
_NOT_AWAITED = (
    "perfkit.run(...) was not awaited, so nothing ran: write `run = await perfkit.run(...)`, or in a script "
    "`run = perfkit.run_sync(...)`"
)


class RunInterrupted(KeyboardInterrupt):
    """The cell of a run was interrupted; the message names the run, which is kept as `aborted`."""

    def _render_traceback_(self) -> list[str]:
        return [f"interrupted: {plain(self)}"]


class RunCancelled(asyncio.CancelledError):
    """The same for a task that was cancelled, as an interrupt does with `await perfkit.run(...)`."""

    def _render_traceback_(self) -> list[str]:
        return [f"interrupted: {plain(self)}"]


def run(
    workload: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    allow_targets: Iterable[str] = (),
    live: bool = True,
    on: Any = None,
    **changes: Any,
) -> Awaited[Run | Runs]:
    """Carry out a workload; `await` it for the finished run: a `Run`, or `Runs` of several `repeats`::

        run = await perfkit.run("params/http_get.yaml", target="http://127.0.0.1:8000")

    workload: a URL to be loaded, a .yaml or .py file, or a mapping as YAML has it; `changes` are laid over
    it, name by name: scenario, params, users, arrivals (either replaces the other), tags, …; `target` may be
    a URL, and the load may be given as on the command line: users=20 or rate=50, duration="30s", ramp="5s",
    requests=1000. Without a URL a reference server is started for the run.
    data_dir: PERFKIT_DATA_DIR, or the nearest `data` folder with runs, upwards from here. live: show a view
    that updates in place and leaves a figure behind; in a terminal, a block of lines. on: where the load is
    generated: `local:4`, `ssh:host1,host2`, `join:2`, or a client of a Dask cluster.

    Raises BadInput for what cannot be run and PerfkitError when a run breaks down, each in one line. When the
    task is cancelled (an interrupt in JupyterLab) the run ends cleanly, then RunCancelled is raised; a second
    interrupt ends the clean-up too.
    """
    changes |= {"spread": spread_on(on)} if on else {}
    return Awaited(_run(Work(workload, changes, data_dir, allow_targets, live)), _NOT_AWAITED)


async def _run(work: Work) -> Run | Runs:
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
    on: Any = None,
    **changes: Any,
) -> Run | Runs:
    """Carry out a workload and block until the run has ended: `run` for scripts and blocking cells::

        run = perfkit.run_sync("params/http_get.yaml", target="http://127.0.0.1:8000")

    An interrupt (Ctrl-C) ends the run cleanly, then RunInterrupted is raised.
    """
    changes |= {"spread": spread_on(on)} if on else {}
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
