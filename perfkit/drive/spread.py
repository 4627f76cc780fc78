"""Carry out a run: setup, as many shards as asked (`drive.shards`), teardown, merge, and its run.json."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from perfkit import interrupts
from perfkit.drive import abort, describe
from perfkit.drive.collect import Collector
from perfkit.drive.health import NO_DELAYS, delays, judge, median_response_ms, spared
from perfkit.drive.journal import journaled
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.progress import STOP
from perfkit.drive.recording import Recording
from perfkit.drive.scenario import Member, Mix, Scenario, members_of
from perfkit.drive.session import Undo
from perfkit.drive.setup_and_teardown import SetupAndTeardown, system_words
from perfkit.drive.shards.coordinator import Body, Coordinator, Stuck
from perfkit.drive.shards.launchers import LEAST_SECRET, SECRET_ENV, ByHand, Launcher, launcher_of, listening
from perfkit.drive.shards.messages import Package, encode, source_of
from perfkit.drive.shards.plain import to_plain
from perfkit.drive.worker import (
    Outcome,
    RunContext,
    RunPart,
    id_prefix,
    run_on_loop,
)
from perfkit.drive.writer import monotonic_unix_ns
from perfkit.errors import BadInput, PerfkitError
from perfkit.hosts import hosts_of
from perfkit.model import NO_TOKENS, Tokens, Users, Workload
from perfkit.redaction import Redactor
from perfkit.store import Run, RunFolder, results
from perfkit.store.rows import Part
from perfkit.text import harmless_prints, print_lines

#: Called as soon as the run has a folder, and about five times a second while the load is on.
Progress = Callable[[Run], None]
_LEAD_S = 0.2
_TELL_S = 0.5
#: So long may shards take to end when there is nothing left to do.
_END_S = 5.0
#: So long may a shared file system take to show what other hosts have written.
_LATE_S = 60.0
#: So long when the user will not wait any more: enough to write what they have, if their steps let them.
_KILL_S = 0.5


def soon() -> int:
    """Return when a load may begin whose workers are ready now, in ns of the monotonic clock."""
    return time.monotonic_ns() + int(_LEAD_S * 1e9)


def execute(
    workload: Workload,
    scenario: Scenario | Mix,
    params: Any,
    *,
    data_dir: Path,
    tokens: Tokens = NO_TOKENS,
    launcher: Launcher | None = None,
    on_progress: Progress = lambda run: None,
    own_server: bool = False,
    begin: Callable[[], int] = soon,
) -> Run:
    """Run a workload against its target and return the finished (or aborted) run.

    begin: called when setup is over and the workers are ready; returns when their load begins, as `soon`.
    launcher: places the shards that generate the load; by default as children of this process.

    Raises PerfkitError when the run could not be carried out; whatever was recorded until then stays
    readable, with the reason in run.json. Neither the message nor anything that is written holds a secret of
    the workload, of its parameters or of the tokens.
    """
    # before there is a folder: the file may be gone
    recording = None if isinstance(scenario, Mix) else scenario.recording(params, workload)
    launcher = launcher or launcher_of(workload)
    try:
        secret_of_run(launcher)
        if launcher.listen is not None:  # known before setup; the port is free again at once
            listening(launcher.listen).close()
        folder = RunFolder.create(data_dir, scenario.name)
    except BaseException:
        launcher.stop(0.0)
        raise
    execution = _Execution(workload, scenario, params, folder, tokens, own_server, recording, begin)
    return execution.carry_out(launcher, on_progress)


class _Execution:
    """The steps of one run, and the run.json that grows with them."""

    def __init__(
        self,
        workload: Workload,
        scenario: Scenario | Mix,
        params: Any,
        folder: RunFolder,
        tokens: Tokens,
        own_server: bool,
        recording: Recording | None,
        begin: Callable[[], int],
    ) -> None:
        secrets = describe.known_secrets(workload, params, tokens)
        secrets += recording.secrets if recording else ()
        self.redact = Redactor(secrets)
        monotonic, unix = monotonic_unix_ns()
        self.workload, self.folder = workload, folder
        self.members = members_of(scenario, params, workload)
        self.context = RunContext(
            folder=folder.path,
            workload=workload,
            parts=tuple(RunPart(one.scenario.ref, one.name, one.workload) for one in self.members),
            origin_ns=monotonic,
            id_prefix=id_prefix(folder.path, monotonic),
            token=tokens.target,
            proxy_auth=tokens.proxy,
            secrets=secrets,
            journals=not own_server,
        )
        self.collector = Collector(folder.path, workload.target, monotonic, tokens, self.redact)
        self.meta = describe.first_meta(workload, scenario, params, folder.path, monotonic, unix, self.redact)
        self.meta["own_server"] = own_server
        self.meta["replay"] = recording.to_mapping() if recording else None
        self._begin = begin
        self.around = SetupAndTeardown(self.context, self.members, recording, self.redact, self._broken_off)
        self.start_ns = monotonic
        self.coordinator: Coordinator | None = None
        self.interrupted = False
        self._stopped_ns: int | None = None  #: when the load was told to end before its time
        self._abort = abort.Watch(workload)
        self._met: abort.Met | None = None  #: the condition that ended the load
        #: The state of a setup cannot be handed on; where no request was sent before, no run is left.
        self._refused = False
        self._mistakes = Mistakes()

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the shards that have come to their end."""
        shards = self.coordinator.shards if self.coordinator else ()
        return [one.outcome for one in shards if one.outcome is not None]

    @property
    def _write_error(self) -> str:
        """Why a shard could not write its rows."""
        return next((one.write_error for one in self.outcomes if one.write_error), "")

    def save(self, **changes: Any) -> None:
        self.meta.update(changes)
        self.folder.write_meta(self.meta)

    def carry_out(self, launcher: Launcher, on_progress: Progress) -> Run:
        failure: PerfkitError | None = None
        reason: str | None = None
        try:
            self.save()
        except OSError as failed:  # not even run.json has room
            launcher.stop(0.0)
            self.folder.discard()
            raise PerfkitError(self.redact(system_words(failed))) from None
        try:
            on_progress(Run(self.folder.path))
            self._work(launcher, on_progress)
            reason = self._reason()
        except KeyboardInterrupt:
            reason = interrupts.reason()
        except PerfkitError as failed:
            failure = type(failed)(self.redact(str(failed)))  # a scenario's own words, perhaps
        except OSError as failed:
            failure = self._broken_off(failed)
        except SystemExit as failed:
            failure = self._broken_off(f"a task of setup or teardown raised SystemExit: {failed}")
        # half a merge helps nobody; what has been interrupted already is not interrupted again
        with interrupts.ignored() if reason else interrupts.held():
            failure = self._close(reason, failure)
        try:
            failure = failure or self._put_elsewhere()
        finally:
            self.folder.close()
        if failure is not None:
            if self._refused and not self.around.rows:
                self.folder.discard()
            raise failure
        return Run(self.folder.path)

    def _work(self, launcher: Launcher, on_progress: Progress) -> None:
        try:
            try:
                with harmless_prints():
                    run_on_loop(self.around.set_up())
                self.collector.start()
                self._load(launcher, on_progress)
            finally:
                launcher.stop(0.0)  # also where setup has failed
                self.meta["probes"] = self.collector.stop()
        except KeyboardInterrupt:
            self.interrupted = True
            raise
        finally:  # also after Ctrl-C: what was made is removed
            with harmless_prints():
                run_on_loop(self._clean_up(on_progress))

    async def _clean_up(self, on_progress: Progress) -> None:
        """Tear down; the second Ctrl-C ends that, wherever the first one came."""
        telling = asyncio.create_task(self._tell(on_progress))
        unanswered = sum(outcome.unanswered for outcome in self.outcomes)
        try:
            with nullcontext() if self.interrupted else interrupts.held(first_only=True):
                await self.around.tear_down(self._made(), unanswered)
        finally:
            self.meta |= self.around.told
        telling.cancel()

    async def _tell(self, on_progress: Progress) -> None:
        """Removing what a large run made takes a minute: it is seen how far it got."""
        with contextlib.suppress(Exception):  # it is no reason to leave things behind
            while True:
                await asyncio.sleep(_TELL_S)
                on_progress(Run(self.folder.path))

    def _made(self) -> list[Undo]:
        """What is to be removed; of a worker that has told nothing any more, what its journal says."""
        made = list(self.around.undo)
        for one in self.coordinator.shards if self.coordinator else ():
            if one.outcome is not None:
                made += one.outcome.undo
            else:
                with contextlib.suppress(OSError):
                    made += journaled(self.folder.path, f"w{one.index}")
        return made

    # -- the load, in shards

    def _load(self, launcher: Launcher, on_progress: Progress) -> None:
        allow = tuple({host for _, host in hosts_of(self.workload)})
        try:
            body = self._body(launcher.own)
        except BadInput:
            self._refused = True
            raise
        shards = self.coordinator = Coordinator(
            self.folder.path.name, self.folder.path, self.workload.processes, launcher,
            body, secret_of_run(launcher), allow,
        )  # fmt: skip
        patience_s = _END_S
        try:
            with interrupts.held():  # half a process would complain
                address = shards.open()
            if isinstance(launcher, ByHand):
                words = f"waiting for {self.workload.processes} shards: perfkit shard --join {address}"
                print_lines(f"perfkit: {words}", err=True)
            shards.gather()
            self._drive(shards, on_progress)
        except KeyboardInterrupt:
            patience_s = _KILL_S
            raise
        finally:
            shards.close(patience_s)
        if shards.failures:
            failed = shards.failures[0]
            if isinstance(failed, Stuck):
                self._mistakes = failed.mistakes
                raise self._broken_off(str(failed))
            raise failed

    def _body(self, own: bool) -> Body:
        """What every shard gets to know; our own children load the scenario's file themselves."""
        context = dataclasses.replace(
            self.context,
            folder=self.folder.path.absolute(),
            workload=dataclasses.replace(self.workload, variables=()),
            parts=tuple(one._replace(workload=dataclasses.replace(one.workload, variables=()))
                        for one in self.context.parts),
        )  # fmt: skip
        if own:
            return Body(encode(Package(context)), _pickled(self.members, self.around.states))
        scenarios = [one.scenario for one in self.members]
        states = tuple(
            to_plain(state, one.module) for state, one in zip(self.around.states, scenarios, strict=True)
        )
        sources = tuple(source_of(one.scenario, one.params) for one in self.members)
        return Body(encode(Package(context, sources, states, self.folder.nonce)))

    def _drive(self, shards: Coordinator, on_progress: Progress) -> None:
        """Start every shard and wait until all have ended; the first Ctrl-C stops them, the second kills."""
        begin_ns = self._begin()
        try:
            with interrupts.held():
                self.start_ns = shards.start(self.context.origin_ns, begin_ns)
            self.save(load_started_ns=self.start_ns - self.context.origin_ns)
            self._watch(shards, on_progress)
        except BaseException as error:
            self._stop_workers(interrupts.reason())
            if not isinstance(error, KeyboardInterrupt):
                raise
            self.interrupted = True
            self._watch(shards, on_progress)

    def _watch(self, shards: Coordinator, on_progress: Progress) -> None:
        """Wait until every shard has come to its end, or a condition ends the load."""
        pending, failed = True, False
        while pending:
            pending = shards.wait(0.2)
            run = Run(self.folder.path)
            on_progress(run)
            self.folder.compact()
            if pending and not failed and (shards.failures or self._write_error):
                failed = True
                self._stop_workers("a worker failed")  # the run cannot be whole any more
            elif pending and self._stopped_ns is None and (met := self._abort.look(run)):
                self._met = met
                self._stop_workers(met.reason)

    def _stop_workers(self, why: str) -> None:
        """End the load; why: for who watches the run."""
        if self.coordinator is not None:
            self.coordinator.stop()
        self._stopped_ns = self._stopped_ns or time.monotonic_ns() - self.context.origin_ns
        file = self.folder.path / STOP
        file.touch()
        with contextlib.suppress(OSError):  # a full disk may hold the file and not its text
            file.write_text(why)

    # -- the end

    def _reason(self) -> str | None:
        if self._write_error:
            raise self._broken_off(self._write_error)
        if self.interrupted:
            return interrupts.reason()
        stopped = any(o.stopped for o in self.outcomes)
        if self._met is not None and stopped:
            self.meta["aborted_by"] = self._met.condition
            return self._met.reason
        return interrupts.reason() if stopped else None

    def _broken_off(self, why: OSError | str) -> PerfkitError:
        words = self.redact(why if isinstance(why, str) else system_words(why))
        return PerfkitError(f"{words}; the rows written so far stay readable in {self.folder.path.name}")

    def _close(self, reason: str | None, failure: PerfkitError | None) -> PerfkitError | None:
        """Merge, judge the generator, say in run.json how the run ended; returns what failed, if anything."""
        try:
            if missing := self._missing():
                failure = failure or self._broken_off(missing)
            else:
                self.folder.merge(self._on_our_clock)
            self.folder.merge_probes()
            self._judge(stopped=bool(reason or failure))
        except OSError as failed:
            failure = failure or self._broken_off(failed)
        reason = str(failure) if failure else reason
        try:
            self.save(state="aborted" if reason else "complete", reason=reason)
        except OSError as failed:
            failure = failure or self._broken_off(failed)
        return failure

    def _put_elsewhere(self) -> PerfkitError | None:
        """Move the rows to `spread.folder`, if there is one; returns what failed: then they stay here."""
        try:
            if self.workload.spread and self.workload.spread.folder:
                self.folder.move_rows(self.workload.spread.folder)
        except PerfkitError as failed:
            return failed
        except OSError as failed:
            return self._broken_off(failed)
        return None

    def _missing(self) -> str:
        """Which rows that shards wrote into a shared folder cannot be seen here; it may show them late."""
        shards = [] if self.coordinator is None else self.coordinator.shards
        wanted = {one.index: one.outcome.rows for one in shards if one.sees_folder and one.outcome}
        deadline = time.monotonic() + _LATE_S
        while wanted:
            counts = self.folder.rows_by_worker(self.workload.processes)
            short = {index: (counts[index], rows) for index, rows in wanted.items() if counts[index] < rows}
            if not short:
                break
            if time.monotonic() > deadline:
                told = ", ".join(f"shard {i}: {seen:,} of {rows:,}" for i, (seen, rows) in short.items())
                return f"not all rows can be seen in the run's folder ({told}), so they were not merged"
            time.sleep(0.2)
        return ""

    def _on_our_clock(self, rows: pa.Table) -> pa.Table:
        """A segment's instants on the run's clock."""
        shards = self.coordinator.shards if self.coordinator else []
        worker = rows["worker"][0].as_py() if len(rows) else len(shards)
        if worker >= len(shards) or not shards[worker].clock.trips:
            return rows
        return shards[worker].clock.corrected(rows, self.context.origin_ns)

    def _judge(self, stopped: bool) -> None:
        run = Run(self.folder.path)
        part = Part(run)
        late = delays(part, [outcome.opening for outcome in self.outcomes], self.context.seq_stride)
        workers = [one.health | late.get(one.health["worker"], NO_DELAYS) for one in self.outcomes]
        median_ms, budget = median_response_ms(part), self.workload.budget
        reasons = judge(workers, median_ms, budget, cores=_spare_cores(self.workload.processes))
        # one that was killed has told nothing of itself; how late steps without rows were, nobody knows
        reported = len(workers) == self.workload.processes and not self._write_error
        first = self.start_ns - self.context.origin_ns + int(self.workload.warmup_s * 1e9)
        mistakes = self._mistakes
        for outcome in self.outcomes:
            mistakes.merge(outcome.mistakes)
        steps = sum(outcome.steps for outcome in self.outcomes)
        self.meta.update(
            measured={"from_ns": first, "to_ns": self._measure_ends(first, part, stopped)},
            health={
                "valid": not reasons,
                "reasons": reasons,
                "notes": spared(workers, median_ms, budget),
                "workers": workers,
            }
            if reported
            else {"workers": workers},
            results=results.stamped(results.results_of(part), *run.files()),
            step_errors=mistakes.told(),
            shards=[] if self.coordinator is None else self.coordinator.facts(self.redact),
            steps_ended=steps,
            steps_broken=steps < 2 * sum(outcome.steps_raised for outcome in self.outcomes),
        )

    def _measure_ends(self, first: int, part: Part, stopped: bool) -> int:
        """When the measured part ended: as planned, or when the load was over or stopped before that."""
        load = self.members[0].workload.users or self.members[0].workload.arrivals  # all end together
        assert load is not None
        last = part.row("SELECT max(done) AS done FROM part")["done"] or 0
        last = max(first, last, self._stopped_ns or 0)
        if load.duration_s is None:
            return last
        planned = first + int(load.duration_s * 1e9)
        may_end_early = isinstance(load, Users) and load.iterations is not None
        return min(planned, last) if may_end_early or stopped else planned


def secret_of_run(launcher: Launcher) -> str:
    """Return what shards prove to be the run's with: of those started by hand what was agreed on before."""
    if not isinstance(launcher, ByHand):
        return secrets.token_hex(32)
    given = os.environ.get(SECRET_ENV, "")
    if len(given) < LEAST_SECRET:
        raise BadInput(
            f"spread.on join: set {SECRET_ENV} to the same {LEAST_SECRET} characters or more here and where"
            " `perfkit shard --join` is started, such as what `openssl rand -hex 16` prints"
        )
    return given


def _spare_cores(processes: int) -> float:
    """How many cores of this host neither the processes of a run nor the last minute's load took."""
    return (os.cpu_count() or 1) - max(processes, os.getloadavg()[0])


def _pickled(members: Sequence[Member], states: list[Any]) -> bytes:
    with contextlib.suppress(Exception):
        return pickle.dumps(states)
    for member, state in zip(members, states, strict=True):  # whose is it?
        try:
            pickle.dumps(state)
        except Exception as error:
            words = f"setup returned a state that cannot be sent to worker processes: {error}"
            raise BadInput(f"{member.scenario.label}: {words}") from None
    return pickle.dumps(states)
