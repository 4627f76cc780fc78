"""When steps begin: virtual users (closed model), or planned arrivals (open model)."""

from __future__ import annotations

import array
import asyncio
import heapq
import itertools
import math
import operator
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from perfkit.drive.pacing import pacer_for
from perfkit.drive.schedule import plan
from perfkit.drive.session import Session
from perfkit.drive.steps import Steps
from perfkit.model import Arrivals, Users
from perfkit.stages import Stage, active_s

FOREVER = 2**63 - 1
#: A user whose steps have sent nothing for so long, and how long that one pauses after each of them: they
#: would fill a core, at the cost of the users who do send something.
_IDLE_NS, _IDLE_PAUSE_S = 1_000_000_000, 0.1


@dataclass(frozen=True)
class Worker:
    """What the loads of one worker share: the worker is `index` of `count`, and starts at `start_ns`.

    spawn: begins a task of the worker's own.
    """

    start_ns: int
    index: int
    count: int
    stopping: asyncio.Event
    spawn: Callable[[Coroutine[Any, Any, None]], None]


class Load(Protocol):
    """Begins the steps of one scenario in one worker."""

    async def start(self) -> None:
        """Begin steps; returns when no new user or arrival is to come, or the worker is stopping."""

    def close(self) -> None:
        """Give back what the operating system lent."""


def load_of(steps: Steps, worker: Worker) -> Load:
    """Return the load of a workload; it sets when its recorder's measured part begins and ends."""
    workload, recorder = steps.workload, steps.recorder
    begins = recorder.measure_begins = worker.start_ns + int(workload.warmup_s * 1e9)
    if workload.users is None:
        assert workload.arrivals is not None
        recorder.measure_ends = begins + int(workload.arrivals.duration_s * 1e9)
        return _OpenModel(steps, workload.arrivals, worker)
    if workload.users.duration_s is not None:
        recorder.measure_ends = begins + int(workload.users.duration_s * 1e9)
    return _ClosedModel(steps, workload.users, worker)


class _ClosedModel:
    """This worker's users, and the steps they share."""

    def __init__(self, steps: Steps, users: Users, worker: Worker) -> None:
        self._steps, self._users, self._worker = steps, users, worker
        self._recorder, self._clock = steps.recorder, steps.recorder.clock
        index, count = worker.index, worker.count
        self._warmups = itertools.count(-1 - index, -count)
        self._measured: Iterator[int] = iter(range(index, users.iterations or FOREVER, count))
        self._none_left = asyncio.Event()  #: of the steps to be measured
        self._pacer = pacer_for(asyncio.get_running_loop(), self._clock)

    async def start(self) -> None:
        """Start each user when it is first active; those that are active again wait by themselves."""
        worker = self._worker
        every = active_s(_stages(self._users, self._steps.workload.warmup_s))
        await self._wait_until(worker.start_ns)
        for user in range(worker.index, len(every), worker.count):
            spans = [(self._instant(begin), self._instant(end)) for begin, end in every[user]]
            if spans[0][0] > self._clock():
                await self._wait_until(spans[0][0])
            if worker.stopping.is_set() or self._none_left.is_set():
                return
            worker.spawn(self._user(user, spans))

    def _instant(self, second: float) -> int:
        """A second of the load on the loop's clock, in ns."""
        return FOREVER if second == math.inf else self._worker.start_ns + int(second * 1e9)

    async def _wait_until(self, when_ns: int) -> None:
        """Wait for an instant, or until the worker stops, or has no step left."""
        reached = asyncio.Event()
        self._pacer.call_at(when_ns, reached.set)
        events = (reached, self._worker.stopping, self._none_left)
        waiting = [asyncio.ensure_future(one.wait()) for one in events]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)  # they are nobody's strays

    async def _user(self, user: int, spans: Iterable[tuple[int, int]]) -> None:
        session = Session(self._recorder, user)
        think_random = random.Random(f"{self._steps.workload.seed}:think:{user}")
        for begins, ends in spans:
            if begins > self._clock():
                await asyncio.sleep((begins - self._clock()) / 1e9)
            await self._work(session, think_random, ends)

    async def _work(self, session: Session, think_random: random.Random, ends: int) -> None:
        """Carry out steps until an instant, or until none is left."""
        stopping, measured, think = self._worker.stopping, self._measured, self._users.think_time_s
        sent, sent_ns = True, 0
        while not stopping.is_set():
            ready = self._clock()
            if ready >= ends:
                return
            warming = ready < self._recorder.measure_begins
            step = next(self._warmups) if warming else next(measured, None)
            if step is None:
                break
            sent_ns = ready if sent else sent_ns  # of the latest step that sent something, its end
            sent = await self._steps.carry_out(session, step, ready)
            idle = not sent and ready - sent_ns > _IDLE_NS
            if think or idle:
                pause_s = think_random.uniform(*think) if isinstance(think, tuple) else think
                pause_s = max(pause_s, _IDLE_PAUSE_S) if idle else pause_s
                if self._clock() + pause_s * 1e9 >= ends or not operator.length_hint(measured, 1):
                    break  # nobody waits for a thought that leads to nothing
                await asyncio.sleep(pause_s)
        if not operator.length_hint(measured, 1):
            self._none_left.set()

    def close(self) -> None:
        self._pacer.close()


def _stages(users: Users, warmup_s: float) -> tuple[Stage, ...]:
    """What the users' ramps are as stages; without an end of its own the last one is endless."""
    if users.stages:
        return users.stages
    rest_s = math.inf
    if users.duration_s is not None:
        rest_s = warmup_s + users.duration_s - users.ramp_s - users.ramp_down_s
    return (
        Stage(duration_s=users.ramp_s, to=users.count),
        Stage(duration_s=rest_s, to=users.count),
        Stage(duration_s=users.ramp_down_s, to=0),
    )


class _OpenModel:
    """This worker's share of planned arrivals."""

    def __init__(self, steps: Steps, arrivals: Arrivals, worker: Worker) -> None:
        self._steps, self._arrivals, self._worker = steps, arrivals, worker
        self._recorder, self._clock = steps.recorder, steps.recorder.clock
        self._pacer = pacer_for(asyncio.get_running_loop(), self._clock)

    async def start(self) -> None:
        """Plan, then start each arrival at its time."""
        workload, worker = self._steps.workload, self._worker
        if self._arrivals.shape == "replay":
            planned_s = self._steps.state.at_s.copy()
        else:
            planned_s = plan(self._arrivals, workload.seed, workload.warmup_s)
        warming = int(np.searchsorted(planned_s, workload.warmup_s))
        mine = planned_s[worker.index :: worker.count]
        mine *= 1e9  # in place: there may be 50 million
        np.rint(mine, out=mine)
        planned = mine.astype(np.int64)
        planned += worker.start_ns
        self._planned = array.array("q")
        self._planned.frombytes(planned.view(np.uint8).data)
        self._first_step = worker.index - warming
        self._next = 0
        self._free_users: list[int] = []
        self._sessions: dict[int, Session] = {}
        self._all_sent = asyncio.get_running_loop().create_future()
        self._pump()
        stopped = asyncio.ensure_future(worker.stopping.wait())
        await asyncio.wait([self._all_sent, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()

    def _pump(self) -> None:
        """Start every step whose time has come, then ask to be called for the next."""
        planned, n, stopping = self._planned, len(self._planned), self._worker.stopping
        while self._next < n and planned[self._next] <= self._clock() and not stopping.is_set():
            self._worker.spawn(self._arrival(self._next))
            self._next += 1
        if self._next < n and not stopping.is_set():
            self._pacer.call_at(planned[self._next], self._pump)
        elif not self._all_sent.done():
            self._all_sent.set_result(None)

    async def _arrival(self, i: int) -> None:
        """One arrival takes the lowest free virtual user, so that what a user has learnt is used again."""
        user = heapq.heappop(self._free_users) if self._free_users else len(self._sessions)
        session = self._sessions.get(user)
        if session is None:
            number = self._worker.index + user * self._worker.count
            session = self._sessions[user] = Session(self._recorder, number)
        step = self._first_step + i * self._worker.count
        try:
            await self._steps.carry_out(session, step, self._planned[i])
        finally:
            heapq.heappush(self._free_users, user)

    def close(self) -> None:
        self._pacer.close()
