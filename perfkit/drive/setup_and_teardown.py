"""What is done before and after the load, in the coordinator: setup, teardown, and removing what was made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from perfkit.drive.journal import keep_only, remove
from perfkit.drive.load import cut_off
from perfkit.drive.mistakes import words_with_await
from perfkit.drive.overdue import leave_behind
from perfkit.drive.recording import Recording
from perfkit.drive.scenario import Member
from perfkit.drive.session import Recorder, Session, Undo
from perfkit.drive.worker import Flusher, RunContext, make_recorder
from perfkit.drive.writer import SegmentWriter
from perfkit.errors import PerfkitError, RequestFailed
from perfkit.redaction import Redactor
from perfkit.text import print_lines


class SetupAndTeardown:
    """Those of each member of a run; their rows are written like a worker's."""

    def __init__(
        self,
        context: RunContext,
        members: Sequence[Member],
        recording: Recording | None,
        redact: Redactor,
        broken_off: Callable[[str], PerfkitError],
    ) -> None:
        """broken_off: makes an error of the words for what the operating system refused."""
        self._context, self._members, self._recording = context, members, recording
        self._redact, self._broken_off = redact, broken_off
        self.states: list[Any] = []  #: what the setup of each member returned
        self.undo: list[Undo] = []  #: what setup made
        self.rows = 0  #: written by setup and teardown
        self.told: dict[str, str | None] = {}  #: for run.json: what teardown and removal could not do
        self._unanswered = 0

    async def set_up(self) -> None:
        """Carry out every setup; PerfkitError for one that fails, OSError where its rows find no room."""
        for number, member in enumerate(self._members):
            async with self._rows("setup", number) as recorder:
                self.states.append(await self._set_up_one(member, Session(recorder, phase="setup")))
                await self._settle()

    async def _set_up_one(self, member: Member, session: Session) -> Any:
        try:
            state = await member.scenario.setup(session, member.params)
            return state if self._recording is None else self._recording
        except PerfkitError as failed:
            raise type(failed)(session.redact(str(failed))) from None
        except OSError as failed:
            raise self._broken_off(session.redact(system_words(failed))) from None
        except BaseException as failed:
            if _is_interrupt(failed):
                raise
            words = session.redact(_told(failed))
            raise PerfkitError(f"setup of {member.name} failed: {words}") from None

    async def tear_down(self, made: Sequence[Undo], unanswered: int) -> None:
        """Carry out every teardown, in reverse, and remove what was made.

        unanswered: POST and PUT requests of the load without a response. OSError where rows find no room.
        """
        problems: list[str] = []
        undos = list(made)
        if undos:  # what stands here when a second Ctrl-C ends the clean-up
            words = f"interrupted; up to {len(undos):,} things it made were not removed"
            self.told["removal_error"] = words
        unwritten: list[OSError] = []
        for number in range(len(self.states) - 1, 0, -1):  # of a mix, all but the first
            try:
                async with self._rows("teardown", number) as recorder:
                    await self._tear_down_one(number, recorder, problems)
                    undos += recorder.undo
            except OSError as failed:  # a full disk is no reason to leave things behind
                unwritten.append(failed)
        async with self._rows("teardown", 0) as recorder:
            if self.states:
                await self._tear_down_one(0, recorder, problems)
            removal = await remove(recorder, [*undos, *recorder.undo])
        unanswered += self._unanswered
        if removal.wanted and unanswered:
            problems.append(
                f"{unanswered:,} POST or PUT requests got no response; anything they created was not removed"
            )
        self.told["teardown_error"] = "; ".join(problems) or None
        self.told["removal_error"] = removal.told or None
        keep_only(self._context.folder, removal.left if self._context.journals else (), self._redact)
        if unwritten:
            raise unwritten[0]

    async def _tear_down_one(self, number: int, recorder: Recorder, problems: list[str]) -> None:
        session = Session(recorder, phase="teardown")
        try:
            await self._members[number].scenario.teardown(session, self.states[number])
        except BaseException as failed:  # the load's rows are worth keeping
            if _is_interrupt(failed):
                raise
            problems.append(session.redact(_told(failed)))
        await self._settle()

    @asynccontextmanager
    async def _rows(self, phase: str, number: int) -> AsyncIterator[Recorder]:
        """A recorder of a member's setup or teardown; its rows are written like a worker's."""
        stride = self._context.seq_stride
        name = f"{phase}{number or ''}"
        recorder = make_recorder(self._context, name, first_seq=stride - 1 + stride * self.rows)
        self._others = asyncio.all_tasks()
        asyncio.get_running_loop().set_exception_handler(self._complain)
        writer = SegmentWriter(
            self._context.folder,
            scenario=self._members[number].name,
            worker=self._context.workload.processes,
            name=name,
            id_prefix=self._context.id_prefix,
            origin_ns=self._context.origin_ns,
            member=number,
            of=len(self._members),
        )
        flusher = Flusher(recorder, writer)
        try:
            yield recorder
        finally:
            for task in await cut_off([recorder], self._strays):
                leave_behind(task)
            if phase == "setup":
                self.undo += recorder.undo
            self.rows += recorder.buffer.count
            self._unanswered += recorder.unanswered
            flusher.stop()
            writer.close()
            await recorder.transport.close()
        if writer.error:
            raise writer.error

    def _strays(self) -> set[asyncio.Task[Any]]:
        """Tasks that setup or teardown has begun and left behind."""
        return asyncio.all_tasks() - self._others - {asyncio.current_task()}

    async def _settle(self) -> None:
        """Give what is left behind as long as what a step leaves behind has."""
        ends = time.monotonic() + self._context.workload.drain_s
        while (strays := self._strays()) and (left_s := ends - time.monotonic()) > 0:
            await asyncio.wait(strays, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Print what a task raised that setup or teardown left behind; asyncio would print secrets too."""
        error = context.get("exception")
        words = _told(error) if isinstance(error, Exception) else ""
        print_lines(self._redact(f"perfkit: {context.get('message')}: {words}"), err=True)


def _is_interrupt(error: BaseException) -> bool:
    """Whether it came from outside; a scenario may raise whatever it likes."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    return cancelled or isinstance(error, KeyboardInterrupt)


def _told(error: BaseException) -> str:
    """What a scenario's own error says; what a failed request says is told already."""
    return str(error) if isinstance(error, RequestFailed) else words_with_await(error)


def system_words(error: OSError) -> str:
    """What the operating system refused, and where."""
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
