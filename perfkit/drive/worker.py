"""One load-generating process: builds transport, recorder and writer, drives its share, reports back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from perfkit.drive.health import HealthWatch
from perfkit.drive.journal import Journal
from perfkit.drive.load import Drive
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.overdue import Leash, end_loop, leave_behind, watched
from perfkit.drive.rows import Batch, to_table
from perfkit.drive.scenario import Scenario
from perfkit.drive.session import DataFiles, Opening, Recorder, Undo
from perfkit.drive.tally import Status
from perfkit.drive.transport import Transport, loop_clock
from perfkit.drive.writer import FLUSH_S, SegmentWriter
from perfkit.errors import not_imported, os_error_words, words_of
from perfkit.model import Target, Workload
from perfkit.parent import at_rest
from perfkit.redaction import Redactor

T = TypeVar("T")


class RunPart(NamedTuple):
    """A scenario of a run as processes hand it on: how it is loaded, its name, its part of the workload."""

    ref: str
    name: str
    workload: Workload


@dataclass(frozen=True)
class RunContext:
    """What every process of a run must know."""

    folder: Path  #: where a process puts its rows: the run's folder, or one of its own on another host
    workload: Workload
    parts: tuple[RunPart, ...]  #: one, or those of a mix
    origin_ns: int  #: the run's start, on the clock of the process
    id_prefix: str = ""  #: starts every `x-request-id` of the run
    token: str | None = None
    proxy_auth: str | None = None
    secrets: tuple[str, ...] = ()  #: to be removed from every text that comes in
    journals: bool = False  #: whether what is made on the target is written down; it may outlive the run

    @property
    def seq_stride(self) -> int:
        """Numbers of requests interleave: of each part in each worker, and of setup and teardown."""
        return self.workload.processes * len(self.parts) + 1


def id_prefix(folder: Path, origin_ns: int) -> str:
    """Return what starts every `x-request-id` of a run."""
    return f"{folder.name[-4:]}{origin_ns % 16**6:06x}-"


@dataclass(frozen=True)
class Shard:
    """One worker's share of a run."""

    context: RunContext
    scenarios: tuple[Scenario, ...]  #: of each part
    states: list[Any]
    index: int
    start_ns: int  #: on this process's clock
    travelled: bool = False  #: whether the scenarios came from another host


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
    rows: int = 0  #: written to segments


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
        seq_stride=context.seq_stride,
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


def warm_up_process() -> None:
    """Import what a shard needs, so that no import falls into its measured time."""
    import perfkit.drive.wire  # noqa: F401

    # what the first table imports is imported while there are descriptors; pandas would take half a second
    with not_imported("pandas"):
        to_table(Batch(bytearray(), {}, ()), scenario="", worker=0, id_prefix="", origin_ns=0)
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401


def run_shard(shard: Shard, leash: Leash) -> Outcome:
    """The work of one worker process; leash: what ends it before its time."""
    at_rest.clear()
    try:
        return run_on_loop(_run_shard(shard, leash), whole=True)
    finally:
        at_rest.set()


async def _run_shard(shard: Shard, leash: Leash) -> Outcome:
    context = shard.context
    loop = asyncio.get_running_loop()
    recorders = _recorders(shard)
    workloads = [part.workload for part in context.parts]
    first, *others = zip(shard.scenarios, shard.states, workloads, recorders, strict=True)
    drive = Drive(
        *first, start_ns=shard.start_ns, index=shard.index, count=context.workload.processes, others=others
    )
    loop.set_exception_handler(drive.on_loop_error)

    def stop() -> None:  # from a writer's thread
        loop.call_soon_threadsafe(drive.stop)

    health = HealthWatch(shard.index, recorders[0].clock)
    rows = _Rows(shard, recorders, stop, health.lately, drive.gone_wrong)
    health.start()

    def stop_now() -> None:  # the rows first: who interrupts twice does not wait for what is cut off
        rows.hand_over()
        drive.stop()

    try:
        with watched(drive, loop, leash, rows.give_up, stop_now, health.look):
            await drive.run()
        for task in drive.left:
            leave_behind(task)
    finally:
        seen = health.stop(shard.start_ns, min(recorders[0].measure_ends, recorders[0].clock()))
        rows.stop()
        await recorders[0].transport.close()
        await loop.run_in_executor(None, rows.close)
    return Outcome(
        health=seen.to_mapping(),
        undo=recorders[0].undo,
        unanswered=sum(recorder.unanswered for recorder in recorders),
        mistakes=drive.mistakes,
        steps=drive.steps,
        steps_raised=drive.steps_raised,
        stopped=drive.stopped,
        write_error=rows.error,
        opening=recorders[0].opening,
        rows=rows.written,
    )


def _recorders(shard: Shard) -> list[Recorder]:
    """One for each part; they share the worker's connections."""
    context, index, processes = shard.context, shard.index, shard.context.workload.processes
    first = make_recorder(context, f"w{index}", first_seq=index * len(context.parts))
    recorders = [first, *(first.beside(number) for number in range(1, len(context.parts)))]
    for recorder, scenario in zip(recorders, shard.scenarios, strict=True):
        recorder.data = DataFiles(
            scenario.folder, context.workload.seed, index, processes, travelled=shard.travelled
        )
    return recorders


class _Rows:
    """A worker's rows on their way to files: those of each part in files of their own."""

    def __init__(
        self,
        shard: Shard,
        recorders: Sequence[Recorder],
        on_error: Callable[[], None],
        health: Callable[[], tuple[float, float]],
        gone_wrong: Sequence[Callable[[], tuple[int, str]]],
    ) -> None:
        """on_error: called from a writer's thread; health: as for `Flusher`; gone_wrong: of each part."""
        context, of = shard.context, len(recorders)
        self._writers = [
            SegmentWriter(
                context.folder,
                scenario=part.name,
                worker=shard.index,
                name=f"w{shard.index + number * context.workload.processes}",
                id_prefix=context.id_prefix,
                origin_ns=context.origin_ns,
                member=number,
                of=of,
                on_error=on_error,
            )
            for number, part in enumerate(context.parts)
        ]
        each = zip(recorders, self._writers, gone_wrong, strict=True)
        self._flushers = [Flusher(recorder, writer, health, wrong) for recorder, writer, wrong in each]

    def hand_over(self) -> None:
        """Hand over what there is."""
        for flusher in self._flushers:
            flusher.hand_over()

    def give_up(self) -> None:
        """Write what there is from another thread, while the loop's own is held."""
        self.hand_over()
        self.close()

    def stop(self) -> None:
        """Hand over the rest."""
        for flusher in self._flushers:
            flusher.stop()

    def close(self) -> None:
        """Write the rest."""
        for writer in self._writers:
            writer.close()

    @property
    def written(self) -> int:
        """Rows in segments."""
        return sum(writer.rows_written for writer in self._writers)

    @property
    def error(self) -> str | None:
        """Why rows could not be written."""
        return next((_told(writer.error) for writer in self._writers if writer.error), None)


def _told(error: Exception) -> str:
    return os_error_words(error) if isinstance(error, OSError) else words_of(error)


class Flusher:
    """Hands rows from the load path to the writer several times a second, on the loop's own thread."""

    def __init__(
        self,
        recorder: Recorder,
        writer: SegmentWriter,
        health: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
        gone_wrong: Callable[[], tuple[int, str]] = lambda: (0, ""),
    ) -> None:
        """Both are called at each hand-over: `HealthWatch.lately`, `Steps.gone_wrong`."""
        self._recorder, self._writer = recorder, writer
        self._health, self._gone_wrong = health, gone_wrong
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
        """Hand over the rows there are, how many requests are under way, how loop and steps are."""
        recorder = self._recorder
        status = Status(recorder.clock(), recorder.in_flight(), *self._health(), *self._gone_wrong())
        self._writer.put(self._recorder.buffer.take(), status)
