"""Drive a scenario in one event loop: virtual users (closed model) or planned arrivals (open model).

Nothing here analyses, prints or writes files. Time is the loop's, the network is a `Transport`: a test gives
a loop whose clock jumps and a transport without sockets, and a minute of load takes seconds.
"""

from __future__ import annotations

import array
import asyncio
import heapq
import itertools
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from perfkit.errors import RequestFailed
from perfkit.model import Users, Workload
from perfkit.pacing import pacer_for
from perfkit.rows import PHASE_CODE
from perfkit.scenarios import Scenario
from perfkit.schedule import plan
from perfkit.session import Recorder, Session

_WARMUP, _MEASURE = PHASE_CODE["warmup"], PHASE_CODE["measure"]
_FOREVER = 2**63 - 1
_NOWHERE = traceback.FrameSummary("unknown", 0, "")


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
        self.step_errors: Counter[str] = Counter()
        self.steps_done = 0
        self._scenario, self._state, self._workload = scenario, state, workload
        self._recorder, self._clock = recorder, recorder.clock
        self._index, self._count = index, count
        self._start = start_ns
        self._measure = start_ns + int(workload.warmup_s * 1e9)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Carry the workload out; returns when the last request has ended or was cut off."""
        loop = asyncio.get_running_loop()
        self._pacer = pacer_for(loop, self._clock)
        try:
            users = self._workload.users
            await (self._run_users(users) if users is not None else self._run_arrivals())
        finally:
            self._pacer.close()

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: count what went wrong in a callback instead of printing each."""
        error = context.get("exception")
        if isinstance(error, Exception):
            self._note(error)
        else:
            self.step_errors[self._recorder.redact(str(context.get("message")))[:200]] += 1

    def stop(self) -> None:
        """Start no more steps and cut off what is under way."""
        self._stopping.set()

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
        grace = None if ends == _FOREVER else (ends - self._clock()) / 1e9 + self._workload.drain_s
        await self._drain(grace)

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
            await self._step(session, step, ready, _WARMUP if warming else _MEASURE)
            if think:
                await asyncio.sleep(think_random.uniform(*think) if isinstance(think, tuple) else think)

    # -- open model

    async def _run_arrivals(self) -> None:
        arrivals = self._workload.arrivals
        assert arrivals is not None
        planned_s = plan(arrivals, self._workload.seed, self._workload.warmup_s)
        warming = int(np.searchsorted(planned_s, self._workload.warmup_s))
        mine = slice(self._index, None, self._count)
        self._planned = array.array("q", (self._start + planned_s[mine] * 1e9).astype(np.int64).tobytes())
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
        rest_s = max(0, self._recorder.measure_ends - self._clock()) / 1e9
        await self._drain(rest_s + self._workload.drain_s)

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
            await self._step(session, step, self._planned[i], _WARMUP if step < 0 else _MEASURE)
        finally:
            heapq.heappush(self._free_users, user)

    # -- both

    def _spawn(self, loop: asyncio.AbstractEventLoop, work: Any) -> None:
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _step(self, session: Session, step: int, planned: int, phase_code: int) -> None:
        requests = session.requests
        session.begin_step(step, planned, phase_code)
        try:
            await self._scenario.step(session, self._state, StepRandom(self._workload.seed, step))
        except RequestFailed:
            pass  # a row already
        except (Exception, SystemExit) as error:
            if not session.failed:  # after a failed request the step may stumble; the row says why
                self._note(error)
        if session.requests == requests:
            self.step_errors["a step made no request"] += 1
            await asyncio.sleep(0.001)
        self.steps_done += 1

    def _note(self, error: BaseException) -> None:
        where = (traceback.extract_tb(error.__traceback__) or [_NOWHERE])[-1]
        words = self._recorder.redact(str(error))[:200]  # in this order: half a secret is one too
        text = f"{type(error).__name__}: {words} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        if text in self.step_errors or len(self.step_errors) < 20:
            self.step_errors[text] += 1

    async def _wait_until(self, when_ns: int) -> None:
        reached = asyncio.Event()
        self._pacer.call_at(when_ns, reached.set)
        await reached.wait()

    async def _drain(self, grace_s: float | None) -> None:
        """Wait for the tasks, for at most `grace_s` or until stopped; then cut off what is left."""
        if self._tasks:
            stopped = asyncio.ensure_future(self._stopping.wait())
            finished = asyncio.ensure_future(asyncio.wait(self._tasks))
            await asyncio.wait([finished, stopped], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            for waiting in (stopped, finished):
                waiting.cancel()
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


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
