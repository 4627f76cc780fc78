"""Drive scenarios in one event loop, from the first step to the last, and cut off what does not end.

Nothing here analyses, prints or writes files. Time is the loop's, the network is a `Transport`: a test gives
a loop whose clock jumps and a transport without sockets, and a minute of load takes seconds.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from perfkit.drive.mistakes import Mistake, Mistakes
from perfkit.drive.models import FOREVER, Load, Worker, load_of
from perfkit.drive.scenario import Scenario
from perfkit.drive.session import Recorder
from perfkit.drive.steps import Steps
from perfkit.model import Workload

#: So long may what is cut off at the end take to end; then it is left behind.
GRACE_S = 2.0


class Drive:
    """One worker's share of a workload, `index` of `count`, starting at `start_ns` of the loop's clock.

    others: the other scenarios of a mix, each with its state, its part of the workload and its recorder.
    """

    def __init__(
        self,
        scenario: Scenario,
        state: Any,
        workload: Workload,
        recorder: Recorder,
        *,
        start_ns: int,
        index: int = 0,
        count: int = 1,
        others: Sequence[tuple[Scenario, Any, Workload, Recorder]] = (),
    ) -> None:
        every = [(scenario, state, workload, recorder), *others]
        self.mistakes = Mistakes(*(getattr(one.module, "__file__", None) for one, *_ in every))
        self._parts = [Steps(*one, self.mistakes) for one in every]
        self._recorders = [part.recorder for part in self._parts]
        self._workload, self._recorder, self._clock = workload, recorder, recorder.clock
        self._start, self._index, self._count = start_ns, index, count
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._never_ended = 0  #: steps
        self.left: list[asyncio.Task[Any]] = []  #: what could not be cut off

    @property
    def steps(self) -> int:
        """Steps that ended or were cut off."""
        return self._never_ended + sum(part.done for part in self._parts)

    @property
    def steps_raised(self) -> int:
        """Those of them that raised, unless a request of theirs had failed, and those that did not end."""
        return self._never_ended + sum(part.raised for part in self._parts)

    @property
    def gone_wrong(self) -> list[Callable[[], tuple[int, str]]]:
        """What tells of the steps that raised, of each scenario (`Steps.gone_wrong`)."""
        return [part.gone_wrong for part in self._parts]

    async def run(self) -> None:
        """Carry the workload out; returns when the last request has ended or was cut off."""
        self._loop = asyncio.get_running_loop()
        self._others = asyncio.all_tasks()
        worker = Worker(self._start, self._index, self._count, self._stopping, self._spawn)
        loads: list[Load] = []
        try:
            for part in self._parts:
                loads.append(load_of(part, worker))
            await (loads[0].start() if len(loads) == 1 else asyncio.gather(*(one.start() for one in loads)))
            ends = self._recorder.measure_ends
            await self._drain(None if ends == FOREVER else max(0, ends - self._clock()) / 1e9)
        except BaseException:  # a step has cancelled the engine: what is under way is a row all the same
            await self._cut_off()
            raise
        finally:
            for load in loads:
                load.close()
            self._never_asked_for()

    def _never_asked_for(self) -> None:
        """Count what tasks of steps have raised, of which nobody has asked."""
        for one in gc.get_objects():
            if not isinstance(one, asyncio.Task) or one in self._others:
                continue
            unasked = one.done() and getattr(one, "_log_traceback", False)
            if unasked and (error := one.exception()):  # asking for it keeps asyncio from complaining
                self.mistakes.raised(error, self._redact)

    def _redact(self, text: str) -> str:
        """Return words of an unknown user without secrets; nothing where users have secrets of their own."""
        return "" if any(one.hides for one in self._recorders) else self._recorder.redact(text)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: count what went wrong in a callback instead of printing each."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.mistakes.raised(error, self._redact)
        else:
            words = self._redact(str(context.get("message")))[:200]
            self.mistakes.add(Mistake(words or "an error in a callback"))

    def stop(self) -> None:
        """Start no more steps and cut off what is under way."""
        self._stopping.set()

    def is_due(self) -> bool:
        """Whether all of it should have ended or been cut off by now."""
        ends = self._recorder.measure_ends
        return ends != FOREVER and self._clock() > ends + int(self._workload.drain_s * 1e9)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, rest_s: float | None) -> None:
        """Wait for what is under way, then cut off what is left.

        For `rest_s` and the workload's drain at most, without end where that is None: then only what steps
        have left behind has no longer than the drain. A stop ends either.
        """
        drain_s, began = self._workload.drain_s, self._clock()
        await self._wait(self._tasks, None if rest_s is None else rest_s + drain_s)
        ends = (self._clock() if rest_s is None else began + int(rest_s * 1e9)) + int(drain_s * 1e9)
        while not self._tasks and (strays := self._strays()) and not self._stopping.is_set():
            if (left_s := (ends - self._clock()) / 1e9) <= 0:
                break
            await self._wait(strays, left_s)  # which may have begun others meanwhile
        await self._cut_off()

    def _under_way(self) -> set[asyncio.Task[Any]]:
        return self._tasks | self._strays()

    async def _wait(self, tasks: set[asyncio.Task[Any]], limit_s: float | None) -> None:
        if not tasks or self._stopping.is_set():
            return
        stopped = asyncio.ensure_future(self._stopping.wait())
        finished = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait([finished, stopped], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (stopped, finished):
            waiting.cancel()
        await asyncio.gather(stopped, finished, return_exceptions=True)  # they are no strays

    def _strays(self) -> set[asyncio.Task[Any]]:
        """Tasks that steps have begun and left behind."""
        return asyncio.all_tasks() - self._others - self._tasks - {asyncio.current_task()}

    async def _cut_off(self) -> None:
        """End all; a step that waited for no answer when it was cut off would never have ended."""
        places = {task: self.mistakes.place_of(task) for task in self._under_way()}
        self.left = await cut_off(self._recorders, self._under_way)
        every = [one for part in self._parts for one in part.cut]
        cut = () if self.stopped else every  # who is stopped may have been about to end
        ends = [("a step did not end", task) for step, task in cut if task and not step.cut]
        ends += [("a step could not be cancelled", task) for task in self.left]
        for what, task in ends:
            self.mistakes.add(Mistake(what, places.get(task) or self.mistakes.place_of(task)))
        self._never_ended += len(ends)


async def cut_off(
    recorders: Sequence[Recorder], under_way: Callable[[], set[asyncio.Task[Any]]]
) -> list[asyncio.Task[Any]]:
    """Cancel what is under way at the end of a part of the run, and let nothing more be sent.

    Who is cut off may begin something to tidy up, which has the rest of the grace before it is cut off, too.
    Returns the tasks that do not end.
    """
    for recorder in recorders:
        recorder.cutting = True
    for task in under_way():
        task.cancel()
    clock = recorders[0].clock
    ends = clock() + int(GRACE_S * 1e9)
    while (tasks := under_way()) and (left_s := (ends - clock()) / 1e9) > 0:
        await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    for recorder in recorders:
        recorder.over = True
    left = under_way()
    for task in left:  # a request under way is cut off and becomes a row, the next one is not sent
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=0.05)
    return [task for task in left if not task.done()]
