"""Carry out a run: setup, as many worker processes as asked, teardown, merge, and what run.json says of it.

Workers are reached through `concurrent.futures.Executor` only, so a cluster's executor can take the place of
the process pool.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from perfkit import describe
from perfkit.errors import BadInput, PerfkitError, RequestFailed
from perfkit.health import delays, judge, quantile_ms
from perfkit.model import Workload
from perfkit.scenarios import Scenario
from perfkit.session import Recorder, Session, Undo
from perfkit.store import Run, RunFolder
from perfkit.worker import (
    Outcome,
    RunContext,
    Shard,
    make_recorder,
    prepare_process,
    redactor,
    run_on_loop,
    run_shard,
    warm_up_process,
)
from perfkit.writer import SegmentWriter, monotonic_unix_ns

#: Called about five times a second while the load is on, with the run so far.
Progress = Callable[[Run], None]
_LEAD_S = 0.2
_UNDO_WORKERS = 20


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
        self.meta = describe.first_meta(workload, scenario, params, folder.path, monotonic, unix)
        self.start_ns = monotonic
        self.outcomes: list[Outcome] = []
        self.undo: list[Undo] = []

    def save(self, **changes: Any) -> None:
        self.meta.update(changes)
        hide = redactor(self.context)
        self.folder.write_meta(describe.map_strings(self.meta, hide))

    def carry_out(self, executor: Executor | None, on_progress: Progress) -> Run:
        run = Run(self.folder.path)
        error: PerfkitError | None = None
        try:
            self.save(state="running")
            state = run_on_loop(self._set_up())
            try:
                self._load(_pickled(state), executor, on_progress)
            finally:
                run_on_loop(self._tear_down(state))
            self._close("aborted" if self._reason() else "complete", self._reason())
        except KeyboardInterrupt:
            self._close("aborted", "interrupted")
        except OSError as failed:
            error = PerfkitError(f"{_words(failed)}; the rows written so far stay readable in {run.id}")
            self._close("aborted", str(error))
        except PerfkitError as failed:
            error = failed
            self._close("aborted", str(failed))
        finally:
            self.folder.close()
        if error is not None:
            raise error
        return Run(self.folder.path)

    # -- setup and teardown, in this process

    async def _set_up(self) -> Any:
        with self._rows("setup", first_seq=self.workload.processes) as recorder:
            try:
                return await self.scenario.setup(Session(recorder, phase="setup"), self.params)
            except RequestFailed as failed:
                text = recorder.redact(str(failed))
                await self._send_undo(recorder)
                raise PerfkitError(f"setup of {self.scenario.name} failed: {text}") from None
            finally:
                self.undo += recorder.undo
                self._setup_rows = recorder.buffer.count
                await recorder.transport.close()

    async def _tear_down(self, state: Any) -> None:
        stride = self.workload.processes + 1
        first = self.workload.processes + stride * self._setup_rows
        with self._rows("teardown", first_seq=first) as recorder:
            try:
                await self.scenario.teardown(Session(recorder, phase="teardown"), state)
                recorder.undo[:0] = [*self.undo, *(entry for o in self.outcomes for entry in o.undo)]
                await self._send_undo(recorder)
            except RequestFailed as failed:
                self.meta["teardown_error"] = str(failed)
            finally:
                await recorder.transport.close()

    async def _send_undo(self, recorder: Recorder) -> None:
        """Send the requests that remove what the run made, kind by kind: the kind made first goes last."""
        kinds: dict[str, list[Undo]] = {}
        for undo in recorder.undo:
            kinds.setdefault(undo[1].rpartition("/")[0], []).append(undo)
        for group in reversed(kinds.values()):

            async def worker(user: int, remaining: list[Undo] = group) -> None:
                session = Session(recorder, user, phase="teardown")
                while remaining:
                    method, path, headers = remaining.pop()
                    session.headers = dict(headers)
                    await session.request(method, path)

            await asyncio.gather(*(worker(user) for user in range(_UNDO_WORKERS)))

    @contextmanager
    def _rows(self, name: str, first_seq: int) -> Iterator[Recorder]:
        recorder = make_recorder(self.context, first_seq=first_seq)
        writer = SegmentWriter(
            self.folder.path,
            scenario=self.scenario.name,
            worker=self.workload.processes,
            name=name,
            id_prefix=self.context.id_prefix,
            origin_ns=self.context.origin_ns,
        )
        try:
            yield recorder
        finally:
            writer.put(recorder.buffer.take())
            writer.close()
        if writer.error:
            raise writer.error

    # -- the load, in worker processes

    def _load(self, state: bytes, executor: Executor | None, on_progress: Progress) -> None:
        count = self.workload.processes
        with executor or _pool(count) as pool:
            ready = [pool.submit(warm_up_process, self.scenario.ref) for _ in range(count)]
            wait(ready)
            self.start_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
            self.save(load_started_ns=self.start_ns - self.context.origin_ns)
            shards = [Shard(self.context, state, index, self.start_ns) for index in range(count)]
            futures = [pool.submit(run_shard, shard) for shard in shards]
            self._watch(futures, on_progress)
            try:
                self.outcomes = [future.result() for future in futures]
            except BrokenProcessPool:
                raise PerfkitError("a worker process died (killed, or out of memory); see dmesg") from None

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
            raise PerfkitError(f"{failed}; the rows written so far stay readable in {self.folder.path.name}")
        return "interrupted" if any(o.stopped for o in self.outcomes) else None

    def _close(self, state: str, reason: str | None) -> None:
        """Merge what there is, judge the generator, and say in run.json how the run ended."""
        try:
            self.folder.merge()
            self._judge()
            self.save(state=state, reason=reason)
        except OSError as failed:
            raise PerfkitError(
                f"{_words(failed)}; the rows written so far stay readable in {self.folder.path.name}"
            ) from None

    def _judge(self) -> None:
        columns = ["planned", "started", "sent", "done", "worker", "phase", "error"]
        table = Run(self.folder.path).table(columns)
        table = table.filter(pc.equal(table["phase"], "measure"))
        planned, started, sent, done, worker = (
            table[name].to_numpy().astype(float) for name in ("planned", "started", "sent", "done", "worker")
        )
        workers = []
        for index, outcome in enumerate(self.outcomes):
            mine = worker == index
            workers.append(outcome.health | delays(planned[mine], started[mine], sent[mine]))
        reasons = judge(workers, quantile_ms(done - planned, 0.5), self.workload.budget)
        first = self.start_ns - self.context.origin_ns + int(self.workload.warmup_s * 1e9)
        length_s = (self.workload.users or self.workload.arrivals).duration_s  # type: ignore[union-attr]
        last = first + int(length_s * 1e9) if length_s else int(np.nanmax(done, initial=first))
        errors: dict[str, int] = {}
        for outcome in self.outcomes:
            for text, count in outcome.step_errors.items():
                errors[text] = errors.get(text, 0) + count
        self.meta.update(
            measured={"from_ns": first, "to_ns": last},
            health={"valid": not reasons, "reasons": reasons, "workers": workers},
            step_errors=[{"text": text, "count": count} for text, count in errors.items()],
        )


def _pool(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked child would share the parent's locks and sockets
    return ProcessPoolExecutor(count, mp_context=context, initializer=prepare_process)


def _pickled(state: Any) -> bytes:
    try:
        return pickle.dumps(state)
    except Exception as error:
        raise BadInput(f"setup returned a state that cannot be sent to worker processes: {error}") from None


def _words(error: OSError) -> str:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
