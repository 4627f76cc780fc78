"""The steps of one scenario in one event loop: each is carried out to its end, and counted."""

from __future__ import annotations

import asyncio
import random
from pathlib import PurePath
from typing import Any

import msgspec

from perfkit.drive.mistakes import NO_REQUEST, Mistake, Mistakes
from perfkit.drive.operations import other_client
from perfkit.drive.scenario import Scenario
from perfkit.drive.session import Recorder, Session, Step
from perfkit.model import Workload


class Overdue(BaseException):
    """Thrown into a step that holds the event loop when the run should be over."""

    def __str__(self) -> str:
        return "it blocked the event loop after the end of the run"


class Steps:
    """Carries out steps of a scenario with its state, under its part of the workload, into its recorder."""

    def __init__(
        self, scenario: Scenario, state: Any, workload: Workload, recorder: Recorder, mistakes: Mistakes
    ) -> None:
        self.workload, self.recorder = workload, recorder
        #: Steps that ended or were cut off; of them those that raised, unless a request of theirs had failed.
        self.done = self.raised = 0
        self.cut: list[tuple[Step, asyncio.Task[Any] | None]] = []
        self.state = state  #: what setup returned
        self._scenario, self._seed = scenario, workload.seed
        self._mistakes = mistakes
        self._no_request = no_request(scenario)

    def gone_wrong(self) -> tuple[int, str]:
        """How many steps have raised, and the most frequent mistake; the other scenarios of a mix may have
        made it."""
        return self.raised, self._mistakes.worst() if self.raised else ""

    async def carry_out(self, session: Session, number: int, planned: int) -> bool:
        """One step from its beginning to its end, whatever it raises; a mistake is counted. Return whether it
        has sent a request."""
        step, raised = session.begin_step(number, planned), False
        try:
            await self._scenario.step(session, self.state, StepRandom(self._seed, number))
        except BaseException as error:
            if self.recorder.over:
                raise
            if self.recorder.cutting:
                self.cut.append((step, asyncio.current_task()))
                raise
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()):
                while task.uncancel():  # the step's own doing: the user goes on
                    pass
            counted = self._mistakes.raised(error, session.redact)
            # what stumbles over a failed request may be right otherwise: no server breaks a scenario
            raised = counted and (not step.failed or isinstance(error, Overdue))
        if not step.requests and not raised:
            self._mistakes.add(*self._no_request)
            raised = True
        self.done += 1
        self.raised += raised
        if raised:  # counted before: at the end of the run it is cut off here
            await asyncio.sleep(0.001)
        return bool(step.requests)


def no_request(scenario: Scenario) -> tuple[Mistake, str]:
    """A step that sent nothing, with the place and the words where the scenario uses another library."""
    if (found := other_client(scenario)) is None:
        return Mistake(NO_REQUEST), ""
    library, line = found
    place = f"{PurePath(str(scenario.module.__file__)).name}:{line}"
    return Mistake(NO_REQUEST, place), f"use await session.get(…) in place of {library}"


class StepRandom(msgspec.Struct, eq=False):
    """A `random.Random` that costs nothing until it is used; seeded by (seed, number of the step), so a
    step makes the same choices in every run, whatever else is going on."""

    _seed: int
    _step: int
    _random: random.Random | None = None

    def __getattr__(self, name: str) -> Any:
        if self._random is None:
            self._random = random.Random(f"{self._seed}:{self._step}")
        return getattr(self._random, name)
