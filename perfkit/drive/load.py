"""Drive a scenario in one event loop: virtual users (closed model) or planned arrivals (open model).

Nothing here analyses, prints or writes files. Time is the loop's, the network is a `Transport`: a test gives
a loop whose clock jumps and a transport without sockets, and a minute of load takes seconds.
"""

from __future__ import annotations

import array
import asyncio
import gc
import heapq
import itertools
import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from perfkit.drive.mistakes import NO_REQUEST, Mistake, Mistakes
from perfkit.drive.pacing import pacer_for
from perfkit.drive.scenario import Scenario
from perfkit.drive.schedule import plan
from perfkit.drive.session import Recorder, Session, Step
from perfkit.model import Users, Workload

_FOREVER = 2**63 - 1
#: So long may what is cut off at the end take to end; then it is left behind.
GRACE_S = 2.0


class Overdue(BaseException):
    """Thrown into a step that holds the event loop when the run should be over."""

    def __str__(self) -> str:
        return "it blocked the event loop after the end of the run"


class Drive:
    """One worker's share of a workload, `index` of `count`, starting at `start_ns` of the loop's clock."""

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
    ) -> None:
        self.mistakes = Mistakes(getattr(scenario.module, "__file__", None))
        #: Steps that ended or were cut off; of them those that raised, unless a request of theirs had failed.
        self.steps = self.steps_raised = 0
        self._scenario, self._state, self._workload = scenario, state, workload
        self._recorder, self._clock = recorder, recorder.clock
        self._index, self._count = index, count
        self._start = start_ns
        self._measure = start_ns + int(workload.warmup_s * 1e9)
        recorder.measure_begins = self._measure
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: list[tuple[Step, asyncio.Task[Any] | None]] = []
        self.left: list[asyncio.Task[Any]] = []  #: what could not be cut off

    async def run(self) -> None:
        """Carry the workload out; returns when the last request has ended or was cut off."""
        loop = asyncio.get_running_loop()
        self._others = asyncio.all_tasks()
        self._pacer = pacer_for(loop, self._clock)
        try:
            users = self._workload.users
            await (self._run_users(users) if users is not None else self._run_arrivals())
        except BaseException:  # a step has cancelled the engine: what is under way is a row all the same
            await self._cut_off()
            raise
        finally:
            self._pacer.close()
            self._never_asked_for()

    def _never_asked_for(self) -> None:
        """Count what tasks of steps have raised, of which nobody has asked."""
        for one in gc.get_objects():
            if not isinstance(one, asyncio.Task) or one in self._others:
                continue
            unasked = one.done() and getattr(one, "_log_traceback", False)
            if unasked and (error := one.exception()):  # asking for it keeps asyncio from complaining
                self.mistakes.raised(error, self._recorder.redact)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: count what went wrong in a callback instead of printing each."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.mistakes.raised(error, self._recorder.redact)
        else:
            self.mistakes.add(Mistake(self._recorder.redact(str(context.get("message")))[:200]))

    def stop(self) -> None:
        """Start no more steps and cut off what is under way."""
        self._stopping.set()

    def is_due(self) -> bool:
        """Whether all of it should have ended or been cut off by now."""
        ends = self._recorder.measure_ends
        return ends != _FOREVER and self._clock() > ends + int(self._workload.drain_s * 1e9)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    # -- closed model

    async def _run_users(self, users: Users) -> None:
        ends = _FOREVER if users.duration_s is None else self._measure + int(users.duration_s * 1e9)
        self._recorder.measure_ends = ends
        warmups = itertools.count(-1 - self._index, -self._count)
        wanted = range(self._index, users.iterations or _FOREVER, self._count)
        steps = iter(wanted)
        await self._wait_until(self._start)
        loop = asyncio.get_running_loop()
        for user in range(self._index, users.count, self._count):
            self._spawn(loop, self._user(user, users, ends, warmups, steps))
        await self._drain(None if ends == _FOREVER else (ends - self._clock()) / 1e9)

    async def _user(
        self, user: int, users: Users, ends: int, warmups: Iterator[int], steps: Iterator[int]
    ) -> None:
        session = Session(self._recorder, user)
        think_random = random.Random(f"{self._workload.seed}:think:{user}")
        think = users.think_time_s
        while not self._stopping.is_set():
            ready = self._clock()
            if ready >= ends:
                return
            warming = ready < self._measure
            step = next(warmups) if warming else next(steps, None)
            if step is None:
                return
            await self.step(session, step, ready)
            if think:
                pause_s = think_random.uniform(*think) if isinstance(think, tuple) else think
                if self._clock() + pause_s * 1e9 >= ends or not operator.length_hint(steps, 1):
                    return  # nobody waits for a thought that leads to nothing
                await asyncio.sleep(pause_s)

    # -- open model

    async def _run_arrivals(self) -> None:
        arrivals = self._workload.arrivals
        assert arrivals is not None
        replayed = self._state.at_s.copy() if arrivals.shape == "replay" else None
        planned_s = (
            plan(arrivals, self._workload.seed, self._workload.warmup_s) if replayed is None else replayed
        )
        warming = int(np.searchsorted(planned_s, self._workload.warmup_s))
        mine = planned_s[self._index :: self._count]
        mine *= 1e9  # in place: there may be 50 million
        np.rint(mine, out=mine)
        planned = mine.astype(np.int64)
        planned += self._start
        self._planned = array.array("q")
        self._planned.frombytes(planned.view(np.uint8).data)
        self._first_step = self._index - warming
        self._next = 0
        self._recorder.measure_ends = self._measure + int(arrivals.duration_s * 1e9)
        self._free_users: list[int] = []
        self._sessions: dict[int, Session] = {}
        self._all_sent = asyncio.get_running_loop().create_future()
        self._pump()
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([self._all_sent, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        await self._drain(max(0, self._recorder.measure_ends - self._clock()) / 1e9)

    def _pump(self) -> None:
        """Start every step whose time has come, then ask to be called for the next."""
        planned, n = self._planned, len(self._planned)
        loop = asyncio.get_running_loop()
        while self._next < n and planned[self._next] <= self._clock() and not self._stopping.is_set():
            self._spawn(loop, self._arrival(self._next))
            self._next += 1
        if self._next < n and not self._stopping.is_set():
            self._pacer.call_at(planned[self._next], self._pump)
        elif not self._all_sent.done():
            self._all_sent.set_result(None)

    async def _arrival(self, i: int) -> None:
        """One arrival takes the lowest free virtual user, so that what a user has learnt is used again."""
        user = heapq.heappop(self._free_users) if self._free_users else len(self._sessions)
        session = self._sessions.get(user)
        if session is None:
            number = self._index + user * self._count
            session = self._sessions[user] = Session(self._recorder, number)
        step = self._first_step + i * self._count
        try:
            await self.step(session, step, self._planned[i])
        finally:
            heapq.heappush(self._free_users, user)

    # -- both

    def _spawn(self, loop: asyncio.AbstractEventLoop, work: Any) -> None:
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def step(self, session: Session, number: int, planned: int) -> None:
        """One step from its beginning to its end, whatever it raises; a mistake is counted."""
        step, raised = session.begin_step(number, planned), False
        try:
            await self._scenario.step(session, self._state, StepRandom(self._workload.seed, number))
        except BaseException as error:
            if self._recorder.over:
                raise
            if self._recorder.cutting:
                self._cut.append((step, asyncio.current_task()))
                raise
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()):
                while task.uncancel():  # the step's own doing: the user goes on
                    pass
            counted = self.mistakes.raised(error, session.redact)
            # what stumbles over a failed request may be right otherwise: no server breaks a scenario
            raised = counted and (not step.failed or isinstance(error, Overdue))
        if not step.requests:
            if not raised:
                self.mistakes.add(Mistake(NO_REQUEST))
            raised = True
            await asyncio.sleep(0.001)
        self.steps += 1
        self.steps_raised += raised

    async def _wait_until(self, when_ns: int) -> None:
        reached = asyncio.Event()
        self._pacer.call_at(when_ns, reached.set)
        await reached.wait()

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
        self.left = await cut_off(self._recorder, self._under_way)
        cut = () if self.stopped else self._cut  # who is stopped may have been about to end
        ends = [("a step did not end", task) for step, task in cut if task and not step.cut]
        ends += [("a step could not be cancelled", task) for task in self.left]
        for what, task in ends:
            self.mistakes.add(Mistake(what, places.get(task) or self.mistakes.place_of(task)))
        self.steps += len(ends)
        self.steps_raised += len(ends)


async def cut_off(
    recorder: Recorder, under_way: Callable[[], set[asyncio.Task[Any]]]
) -> list[asyncio.Task[Any]]:
    """Cancel what is under way at the end of a part of the run, and let nothing more be sent.

    Who is cut off may begin something to tidy up, which has the rest of the grace before it is cut off, too.
    Returns the tasks that do not end.
    """
    recorder.cutting = True
    for task in under_way():
        task.cancel()
    ends = recorder.clock() + int(GRACE_S * 1e9)
    while (tasks := under_way()) and (left_s := (ends - recorder.clock()) / 1e9) > 0:
        await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    recorder.over = True
    left = under_way()
    for task in left:  # a request under way is cut off and becomes a row, the next one is not sent
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=0.05)
    return [task for task in left if not task.done()]


class StepRandom:
    """A `random.Random` that costs nothing until it is used; seeded by (seed, number of the step), so a
    step makes the same choices in every run, whatever else is going on."""

    __slots__ = ("_random", "_seed", "_step")

    def __init__(self, seed: int, step: int) -> None:
        self._seed, self._step = seed, step
        self._random: random.Random | None = None

    def __getattr__(self, name: str) -> Any:
        if self._random is None:
            self._random = random.Random(f"{self._seed}:{self._step}")
        return getattr(self._random, name)
