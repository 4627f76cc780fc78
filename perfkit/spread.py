"""Carry out a run: setup, as many worker processes as asked, teardown, merge, and what run.json says of it.

Workers are reached through `concurrent.futures.Executor` only, so a cluster's executor can take the place of
the process pool.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from perfkit import describe
from perfkit.collect import Collector
from perfkit.errors import BadInput, PerfkitError, RequestFailed
from perfkit.health import MeasuredRows, judge
from perfkit.model import Users, Workload
from perfkit.pool import own_pool, warm_up
from perfkit.scenarios import Scenario
from perfkit.session import Recorder, Session, Undo
from perfkit.store import Run, RunFolder
from perfkit.worker import (
    Flusher,
    Outcome,
    RunContext,
    Shard,
    make_recorder,
    redactor,
    run_on_loop,
    run_shard,
)
from perfkit.writer import SegmentWriter, monotonic_unix_ns

#: Called as soon as the run has a folder, and about five times a second while the load is on.
Progress = Callable[[Run], None]
_LEAD_S = 0.2
_UNDO_WORKERS = 20
_NOT_SET_UP = object()


def execute(
    workload: Workload,
    scenario: Scenario,
    params: Any,
    *,
    data_dir: Path,
    token: str | None = None,
    executor: Executor | None = None,
    on_progress: Progress = lambda run: None,
) -> Run:
    """Run a workload against its target and return the finished (or aborted) run.

    Raises PerfkitError when the run could not be carried out; whatever was recorded until then stays
    readable, with the reason in run.json.
    """
    folder = RunFolder.create(data_dir, scenario.name)
    return _Execution(workload, scenario, params, folder, token).carry_out(executor, on_progress)


class _Execution:
    """The steps of one run, and the run.json that grows with them."""

    def __init__(
        self, workload: Workload, scenario: Scenario, params: Any, folder: RunFolder, token: str | None
    ) -> None:
        monotonic, unix = monotonic_unix_ns()
        self.workload, self.scenario, self.params, self.folder = workload, scenario, params, folder
        self.context = RunContext(
            folder=folder.path,
            workload=workload,
            scenario_ref=scenario.ref,
            scenario_name=scenario.name,
            origin_ns=monotonic,
            coordinator_pid=multiprocessing.current_process().pid or 0,
            token=token,
        )
        self.collector = Collector(folder.path, workload.target, monotonic, token)
        self.meta = describe.first_meta(workload, scenario, params, folder.path, monotonic, unix)
        self.start_ns = monotonic
        self.outcomes: list[Outcome] = []
        self.undo: list[Undo] = []
        self._setup_rows = self._unanswered = 0

    def save(self, **changes: Any) -> None:
        self.meta.update(changes)
        hide = redactor(self.context)
        self.folder.write_meta(describe.map_strings(self.meta, hide))

    def carry_out(self, executor: Executor | None, on_progress: Progress) -> Run:
        failure: PerfkitError | None = None
        reason: str | None = None
        try:
            self.save()
            on_progress(Run(self.folder.path))
            self._work(executor, on_progress)
            reason = self._reason()
        except KeyboardInterrupt:
            reason = "interrupted"
        except PerfkitError as failed:
            failure = failed
        except OSError as failed:
            failure = self._broken_off(failed)
        with _undisturbed():
            failure = self._close(reason, failure)
        if failure is not None:
            raise failure
        return Run(self.folder.path)

    def _work(self, executor: Executor | None, on_progress: Progress) -> None:
        state = _NOT_SET_UP
        try:
            state = run_on_loop(self._set_up())
            self.collector.start()
            self._load(_pickled(state), executor, on_progress)
        finally:  # also after Ctrl-C: what was made is removed
            try:
                self.meta["probes"] = self.collector.stop()
            finally:  # also after Ctrl-C during the last fetch
                run_on_loop(self._tear_down(state))

    # -- setup and teardown, in this process

    async def _set_up(self) -> Any:
        async with self._rows("setup", first_seq=self.workload.processes) as recorder:
            try:
                return await self.scenario.setup(Session(recorder, phase="setup"), self.params)
            except Exception as failed:
                if isinstance(failed, PerfkitError | OSError):
                    raise
                raise PerfkitError(
                    f"setup of {self.scenario.name} failed: {recorder.redact(_told(failed))}"
                ) from None
            finally:
                self.undo += recorder.undo
                self._unanswered = recorder.unanswered
                self._setup_rows = recorder.buffer.count

    async def _tear_down(self, state: Any) -> None:
        stride = self.workload.processes + 1
        first = self.workload.processes + stride * self._setup_rows
        problems = []
        wanted = len(self.undo) + sum(len(outcome.undo) for outcome in self.outcomes)
        if wanted:  # what stands here when a second Ctrl-C ends the clean-up
            self.meta["teardown_error"] = f"interrupted; up to {wanted:,} things it made were not removed"
        async with self._rows("teardown", first_seq=first) as recorder:
            if state is not _NOT_SET_UP:
                try:
                    await self.scenario.teardown(Session(recorder, phase="teardown"), state)
                except Exception as failed:  # the load is over and measured: its rows are worth keeping
                    problems.append(recorder.redact(_told(failed)))
            recorder.undo[:0] = [*self.undo, *(entry for o in self.outcomes for entry in o.undo)]
            wanted = len(recorder.undo)
            if left := await self._send_undo(recorder):
                problems.append(f"{left:,} of {wanted:,} requests that remove what the run made failed")
        unanswered = self._unanswered + sum(outcome.unanswered for outcome in self.outcomes)
        if wanted and unanswered:
            problems.append(f"{unanswered:,} POST or PUT got no answer; what they made, if anything, is left")
        self.meta["teardown_error"] = "; ".join(problems) or None

    async def _send_undo(self, recorder: Recorder) -> int:
        """Send the requests that remove what the run made, kind by kind: the kind made first goes last.

        Returns how many failed; one that is gone already (404) has not.
        """
        kinds: dict[str, list[Undo]] = {}
        for undo in recorder.undo:
            kinds.setdefault(undo[1].rpartition("/")[0], []).append(undo)
        failed = 0

        async def worker(user: int, remaining: list[Undo]) -> None:
            nonlocal failed
            session = Session(recorder, user, phase="teardown")
            while remaining:
                method, path, headers = remaining.pop()
                session.headers = dict(headers)
                response = await session.request(method, path)
                failed += not response.is_success and response.status_code != 404

        for group in reversed(kinds.values()):
            await asyncio.gather(*(worker(user, group) for user in range(_UNDO_WORKERS)))
        return failed

    @asynccontextmanager
    async def _rows(self, name: str, first_seq: int) -> AsyncIterator[Recorder]:
        """A recorder whose rows are written about once a second, like a worker's."""
        recorder = make_recorder(self.context, first_seq=first_seq)
        writer = SegmentWriter(
            self.folder.path,
            scenario=self.scenario.name,
            worker=self.workload.processes,
            name=name,
            id_prefix=self.context.id_prefix,
            origin_ns=self.context.origin_ns,
        )
        flusher = Flusher(recorder, writer)
        try:
            yield recorder
        finally:
            flusher.stop()
            writer.close()
            await recorder.transport.close()
        if writer.error:
            raise writer.error

    # -- the load, in worker processes

    def _load(self, state: bytes, executor: Executor | None, on_progress: Progress) -> None:
        count = self.workload.processes
        with nullcontext(executor) if executor else own_pool(count) as pool:
            try:
                warm_up(pool, count, self.scenario.ref)
                self.start_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
                self.save(load_started_ns=self.start_ns - self.context.origin_ns)
                shards = [Shard(self.context, state, index, self.start_ns) for index in range(count)]
                futures = [pool.submit(run_shard, shard) for shard in shards]
                self._watch(futures, on_progress)
            except BrokenProcessPool:
                raise PerfkitError("a worker process died (killed, or out of memory); see dmesg") from None
        failed = [error for future in futures if (error := future.exception())]
        self.outcomes = [future.result() for future in futures if not future.exception()]
        if any(isinstance(error, BrokenProcessPool) for error in failed):
            raise PerfkitError("a worker process died (killed, or out of memory); see dmesg")
        if failed:
            raise failed[0]

    def _watch(self, futures: list[Future[Outcome]], on_progress: Progress) -> None:
        pending = set(futures)
        interrupted = False
        while pending:
            try:
                done, pending = wait(pending, timeout=0.2)
                on_progress(Run(self.folder.path))
                if any(future.exception() for future in done):
                    self._stop_workers()  # one has failed: the run cannot be whole any more
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._stop_workers()

    def _stop_workers(self) -> None:
        (self.folder.path / "stop").touch()

    # -- the end

    def _reason(self) -> str | None:
        failed = next((o.write_error for o in self.outcomes if o.write_error), None)
        if failed is not None:
            raise self._broken_off(failed)
        return "interrupted" if any(o.stopped for o in self.outcomes) else None

    def _broken_off(self, why: OSError | str) -> PerfkitError:
        words = why if isinstance(why, str) else _words(why)
        return PerfkitError(f"{words}; the rows written so far stay readable in {self.folder.path.name}")

    def _close(self, reason: str | None, failure: PerfkitError | None) -> PerfkitError | None:
        """Merge, judge the generator, say in run.json how the run ended; returns what failed, if anything."""
        try:
            self.folder.merge()
            self.folder.merge_probes()
            self._judge()
        except OSError as failed:
            failure = failure or self._broken_off(failed)
        reason = str(failure) if failure else reason
        try:
            self.save(state="aborted" if reason else "complete", reason=reason)
        except OSError as failed:
            failure = failure or self._broken_off(failed)
        self.folder.close()
        return failure

    def _judge(self) -> None:
        rows = MeasuredRows.of(Run(self.folder.path).table(MeasuredRows.COLUMNS))
        workers = [
            outcome.health | rows.of_worker(index).delays(outcome.opening)
            for index, outcome in enumerate(self.outcomes)
        ]
        reasons = judge(workers, rows.median_response_ms(), self.workload.budget)
        first = self.start_ns - self.context.origin_ns + int(self.workload.warmup_s * 1e9)
        errors: Counter[str] = Counter()
        for outcome in self.outcomes:
            errors.update(outcome.step_errors)
        self.meta.update(
            measured={"from_ns": first, "to_ns": self._measure_ends(first, rows)},
            health={"valid": not reasons, "reasons": reasons, "workers": workers},
            step_errors=[{"text": text, "count": count} for text, count in errors.items()],
            steps_broken=0 < sum(outcome.steps_done for outcome in self.outcomes) <= errors.total(),
        )

    def _measure_ends(self, first: int, rows: MeasuredRows) -> int:
        """When the measured part ended: as planned, or when the load was over before that."""
        load = self.workload.users or self.workload.arrivals
        assert load is not None
        last = max(first, rows.last_done())
        if load.duration_s is None:
            return last
        planned = first + int(load.duration_s * 1e9)
        may_end_early = isinstance(load, Users) and load.iterations is not None
        stopped = any(outcome.stopped for outcome in self.outcomes)
        return min(planned, last) if may_end_early or stopped else planned


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C does nothing while the run is closed: half a merge helps nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _pickled(state: Any) -> bytes:
    try:
        return pickle.dumps(state)
    except Exception as error:
        raise BadInput(f"setup returned a state that cannot be sent to worker processes: {error}") from None


def _told(error: Exception) -> str:
    """What a scenario's own error says; what a failed request says is told already."""
    return str(error) if isinstance(error, RequestFailed) else f"{type(error).__name__}: {error}"


def _words(error: OSError) -> str:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
