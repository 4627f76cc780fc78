"""One load-generating process: builds transport, recorder and writer, drives its share, reports back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from perfkit.drive.health import HealthWatch
from perfkit.drive.journal import Journal
from perfkit.drive.load import Drive
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.overdue import end_loop, leave_behind, watched
from perfkit.drive.rows import Batch, to_table
from perfkit.drive.scenario import load_scenario
from perfkit.drive.session import DataFiles, Opening, Recorder, Undo
from perfkit.drive.transport import Transport, loop_clock
from perfkit.drive.writer import FLUSH_S, SegmentWriter
from perfkit.errors import PerfkitError, os_error_words, words_of
from perfkit.model import Target, Workload
from perfkit.parent import at_rest
from perfkit.redaction import Redactor

T = TypeVar("T")


@dataclass(frozen=True)
class RunContext:
    """What every process of a run must know; picklable."""

    folder: Path
    workload: Workload
    scenario_ref: str
    scenario_name: str
    origin_ns: int
    coordinator_pid: int
    token: str | None = None
    proxy_auth: str | None = None
    secrets: tuple[str, ...] = ()  #: to be removed from every text that comes in
    journals: bool = False  #: whether what is made on the target is written down; it may outlive the run

    @property
    def id_prefix(self) -> str:
        """Starts every `x-request-id` of the run."""
        return f"{self.folder.name[-4:]}{self.origin_ns % 16**6:06x}-"


@dataclass(frozen=True)
class Shard:
    """One worker's share of a run; picklable."""

    context: RunContext
    state: bytes  #: pickled, because a scenario file has to be loaded before its state can be
    index: int
    start_ns: int


@dataclass(frozen=True)
class Outcome:
    """What a worker reports back; rows are in its segments."""

    health: dict[str, Any]
    undo: list[Undo]
    unanswered: int
    mistakes: Mistakes
    steps: int  #: that ended, or never did
    steps_raised: int  #: those of them that made a mistake
    stopped: bool
    write_error: str | None
    opening: Opening


def make_transport(target: Target, proxy_auth: str | None = None) -> Transport:
    """The transport a target asks for; call it on the running loop. proxy_auth: `user:password`."""
    if target.transport == "httpx":
        from perfkit.drive.via_httpx import HttpxTransport

        return HttpxTransport(target, proxy_auth)
    from perfkit.drive.wire import WireTransport

    return WireTransport(target)


def make_recorder(context: RunContext, name: str, *, first_seq: int) -> Recorder:
    """A recorder for one process of a run, or one part of it, by its name in files.

    `seq` numbers interleave, so each is unique in the run.
    """
    from perfkit import __version__

    target = context.workload.target
    headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": f"perfkit/{__version__}"}
    headers |= {name.lower(): value for name, value in target.headers.items()}
    if context.token is not None:
        headers["authorization"] = f"Bearer {context.token}"
    recorder = Recorder(
        transport=make_transport(target, context.proxy_auth),
        clock=loop_clock(asyncio.get_running_loop()),
        target=target,
        headers=tuple(headers.items()),
        id_prefix=context.id_prefix,
        first_seq=first_seq,
        seq_stride=context.workload.processes + 1,
        redact=Redactor(context.secrets),
        seed=context.workload.seed,
    )
    if context.journals:
        recorder.journal = Journal(context.folder, name, recorder.redact).write
    return recorder


def run_on_loop(work: Coroutine[Any, Any, T], *, whole: bool = False) -> T:
    """Run a coroutine to its end on uvloop where there is one.

    whole: also where another task raises SystemExit or KeyboardInterrupt, which end a loop.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    loop = runner.get_loop()
    try:
        if not whole:
            return runner.run(work)
        task = loop.create_task(work)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt, RuntimeError):  # the last: a step has stopped the loop
                if task.done():
                    raise
    finally:  # the runner's own end waits for threads, and for whatever does not end
        end_loop(loop)


def warm_up_process(scenario_ref: str) -> int:
    """Import what a shard needs, so that no import falls into its measured time; returns the process's id."""
    load_scenario(scenario_ref)
    import perfkit.drive.wire  # noqa: F401

    # what the first table imports is imported while there are descriptors
    to_table(Batch(bytearray(), {}, ()), scenario="", worker=0, id_prefix="", origin_ns=0)
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    return os.getpid()


def run_shard(shard: Shard) -> Outcome:
    """The work of one worker process, for any `concurrent.futures.Executor`."""
    at_rest.clear()
    try:
        return run_on_loop(_run_shard(shard), whole=True)
    except PerfkitError as error:
        raise type(error)(str(error)) from None
    finally:
        at_rest.set()


async def _run_shard(shard: Shard) -> Outcome:
    context = shard.context
    loop = asyncio.get_running_loop()
    scenario = load_scenario(context.scenario_ref)
    state = pickle.loads(shard.state)
    name = f"w{shard.index}"
    recorder = make_recorder(context, name, first_seq=shard.index)
    workload = context.workload
    recorder.data = DataFiles(scenario.folder, workload.seed, shard.index, workload.processes)
    drive = Drive(
        scenario,
        state,
        workload,
        recorder,
        start_ns=shard.start_ns,
        index=shard.index,
        count=workload.processes,
    )
    loop.set_exception_handler(drive.on_loop_error)

    def stop() -> None:  # from the writer's thread
        loop.call_soon_threadsafe(drive.stop)

    writer = _writer(shard, name, stop)
    health = HealthWatch(shard.index, recorder.clock)
    flush = Flusher(recorder, writer)
    health.start()

    def give_up() -> None:  # from another thread, while the loop's own is held
        writer.put(recorder.buffer.take())
        writer.close()

    def stop_now() -> None:  # the rows first: who interrupts twice does not wait for what is cut off
        flush.hand_over()
        drive.stop()

    try:
        with watched(drive, loop, context.folder, context.coordinator_pid, give_up, stop_now):
            await drive.run()
        for task in drive.left:
            leave_behind(task)
    finally:
        seen = health.stop(shard.start_ns, min(recorder.measure_ends, recorder.clock()))
        flush.stop()
        await recorder.transport.close()
        await loop.run_in_executor(None, writer.close)
    return Outcome(
        health=seen.to_mapping(),
        undo=recorder.undo,
        unanswered=recorder.unanswered,
        mistakes=drive.mistakes,
        steps=drive.steps,
        steps_raised=drive.steps_raised,
        stopped=drive.stopped,
        write_error=_told(writer.error) if writer.error else None,
        opening=recorder.opening,
    )


def _writer(shard: Shard, name: str, on_error: Callable[[], None]) -> SegmentWriter:
    """The writer of a worker's rows; on_error: called from its thread."""
    context = shard.context
    return SegmentWriter(
        context.folder,
        scenario=context.scenario_name,
        worker=shard.index,
        name=name,
        id_prefix=context.id_prefix,
        origin_ns=context.origin_ns,
        on_error=on_error,
    )


def _told(error: Exception) -> str:
    return os_error_words(error) if isinstance(error, OSError) else words_of(error)


class Flusher:
    """Hands rows from the load path to the writer several times a second, on the loop's own thread."""

    def __init__(self, recorder: Recorder, writer: SegmentWriter) -> None:
        self._recorder, self._writer = recorder, writer
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self.hand_over()
        self._handle = self._loop.call_later(FLUSH_S, self._flush)

    def stop(self) -> None:
        """Hand over the rest."""
        self._handle.cancel()
        self.hand_over()

    def hand_over(self) -> None:
        """Hand over what there is, and what is under way."""
        self._writer.put(self._recorder.buffer.take(self._recorder.in_flight()))
