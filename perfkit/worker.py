"""One load-generating process: builds transport, recorder and writer, drives its share, reports back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from perfkit.errors import PerfkitError
from perfkit.health import HealthWatch
from perfkit.load import Drive
from perfkit.model import Target, Workload
from perfkit.scenarios import load_scenario
from perfkit.session import Recorder, Redactor, Undo
from perfkit.transport import Transport, loop_clock
from perfkit.writer import FLUSH_S, SegmentWriter, parent_watch

T = TypeVar("T")
_LAST_ROWS_S = 2.0


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
    step_errors: dict[str, int]
    steps_done: int
    stopped: bool
    write_error: str | None
    opening: dict[int, int]  #: nanoseconds a request waited for its connection to be opened, by seq


def make_transport(target: Target) -> Transport:
    """The transport a target asks for; call it on the running loop."""
    if target.transport == "httpx":
        from perfkit.via_httpx import HttpxTransport

        return HttpxTransport(target)
    from perfkit.wire import WireTransport

    return WireTransport(target)


def make_recorder(context: RunContext, *, first_seq: int) -> Recorder:
    """A recorder for one process of a run; `seq` numbers interleave, so each is unique in the run."""
    from perfkit import __version__

    target = context.workload.target
    headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": f"perfkit/{__version__}"}
    headers |= {name.lower(): value for name, value in target.headers.items()}
    if context.token is not None:
        headers["authorization"] = f"Bearer {context.token}"
    return Recorder(
        transport=make_transport(target),
        clock=loop_clock(asyncio.get_running_loop()),
        target=target,
        headers=tuple(headers.items()),
        id_prefix=context.id_prefix,
        first_seq=first_seq,
        seq_stride=context.workload.processes + 1,
        redact=redactor(context),
        seed=context.workload.seed,
    )


def redactor(context: RunContext) -> Redactor:
    """Removes every secret this run was given."""
    from perfkit.session import is_secret_name, secrets_in

    workload = context.workload
    known = [context.token or "", urlsplit(workload.target.proxy or "").password or ""]
    known += [str(value) for name, value in workload.server.items() if is_secret_name(name)]
    return Redactor((*known, *secrets_in(workload.target.headers)))


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def prepare_process() -> None:
    """Initialise a worker process: Ctrl-C is the coordinator's business; open as many sockets as allowed.

    The writer thread gives the interpreter lock back after 0.1 ms, not 5: a step must not wait for a segment.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(0.0001)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.Thread(target=_end_with, args=(os.getppid(),), name="perfkit-parent", daemon=True).start()


def _end_with(parent_pid: int) -> None:
    """End this process when its parent is gone; the load itself stops by `parent_watch`, and writes its rows.

    An executor's idle worker would wait for its next task for ever.
    """
    while os.getppid() == parent_pid:
        time.sleep(0.2)
    time.sleep(_LAST_ROWS_S)
    os._exit(1)


def warm_up_process(scenario_ref: str) -> int:
    """Import what a shard needs, so that no import falls into its measured time; returns the process's id."""
    load_scenario(scenario_ref)
    import perfkit.wire  # noqa: F401

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    return os.getpid()


def run_shard(shard: Shard) -> Outcome:
    """The work of one worker process, for any `concurrent.futures.Executor`."""
    try:
        return run_on_loop(_run_shard(shard))
    except PerfkitError as error:
        raise type(error)(str(error)) from None


async def _run_shard(shard: Shard) -> Outcome:
    context = shard.context
    loop = asyncio.get_running_loop()
    scenario = load_scenario(context.scenario_ref)
    state = pickle.loads(shard.state)
    recorder = make_recorder(context, first_seq=shard.index)
    drive = Drive(
        scenario,
        state,
        context.workload,
        recorder,
        start_ns=shard.start_ns,
        index=shard.index,
        count=context.workload.processes,
    )
    loop.set_exception_handler(drive.on_loop_error)

    def stop() -> None:  # called from the writer's thread
        loop.call_soon_threadsafe(drive.stop)

    writer = SegmentWriter(
        context.folder,
        scenario=context.scenario_name,
        worker=shard.index,
        name=f"w{shard.index}",
        id_prefix=context.id_prefix,
        origin_ns=context.origin_ns,
        should_stop=parent_watch(context.coordinator_pid, context.folder / "stop"),
        on_stop=stop,
    )
    health = HealthWatch(shard.index, recorder.clock)
    flush = Flusher(recorder, writer)
    health.start()
    try:
        await drive.run()
    finally:
        seen = health.stop(shard.start_ns, min(recorder.measure_ends, recorder.clock()))
        flush.stop()
        await recorder.transport.close()
        await loop.run_in_executor(None, writer.close)
    return Outcome(
        health=seen.to_mapping(),
        undo=recorder.undo,
        unanswered=recorder.unanswered,
        step_errors=dict(drive.step_errors),
        steps_done=drive.steps_done,
        stopped=drive.stopped,
        write_error=str(writer.error) if writer.error else None,
        opening=recorder.opening,
    )


class Flusher:
    """Hands rows from the load path to the writer several times a second, on the loop's own thread."""

    def __init__(self, recorder: Recorder, writer: SegmentWriter) -> None:
        self._recorder, self._writer = recorder, writer
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._hand_over()
        self._handle = self._loop.call_later(FLUSH_S, self._flush)

    def stop(self) -> None:
        """Hand over the rest."""
        self._handle.cancel()
        self._hand_over()

    def _hand_over(self) -> None:
        self._writer.put(self._recorder.buffer.take(self._recorder.in_flight()))
