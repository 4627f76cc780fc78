"""Duets: both sides of a pair at once under one schedule, and whether this machine bears that.

What the machine does meanwhile hits both sides alike, so the difference of a pair is quieter than that of two
runs in turn (Bulej et al. 2020). That takes sides that do not slow each other down: A is measured alone and
beside another first.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.compare.nouns import Comparison, Options, Side
from perfkit.compare.reduce import Reduced
from perfkit.drive.run_process import RunProcess, error_of
from perfkit.drive.spread import soon
from perfkit.errors import PerfkitError
from perfkit.store import Run
from perfkit.store.summary import TOTAL
from perfkit.text import print_lines

#: A side that takes this much longer beside the other than alone shares with it what it is made of. Of a
#: change about that share would be missed: its competitor, slower or faster, leaves it more or less.
MOST_SLOWDOWN = 1.25
_LOOK_S = 0.05


def at_once(
    given: Sequence[Mapping[str, Any]], names: Sequence[str], data_dir: Path, allow_targets: Sequence[str]
) -> list[Run]:
    """Carry out a run of each workload, with loads that begin at the same instant.

    PerfkitError where one could not be carried out; KeyboardInterrupt when all have ended after one.
    """
    with ExitStack() as stack:
        sides = [
            _Side(stack.enter_context(RunProcess(_request(one, name, data_dir, allow_targets), more=True)))
            for one, name in zip(given, names, strict=True)
        ]
        stops, begun = 0, False
        while not all(side.over for side in sides):
            try:
                for side in sides:
                    side.listen()
                if not begun and all(side.ready for side in sides):
                    begun, line = True, json.dumps({"start_ns": soon()}).encode() + b"\n"
                    for side in sides:
                        side.process.say(line)
                if not begun and any(side.over for side in sides):
                    for side in sides:
                        side.process.hang_up()
            except KeyboardInterrupt:
                stops += 1
                for side in sides:
                    side.process.interrupt() if stops < 3 else side.process.kill()
        if stops:
            raise KeyboardInterrupt
        if failed := [side for side in sides if side.failure is not None or side.run is None]:
            print_lines(*failed[0].process.complaints, err=True)
            raise failed[0].failure or PerfkitError(
                f"the process of a side ended (exit {failed[0].process.exit_code()})"
            )
    return [side.run for side in sides if side.run is not None]


def _request(given: Mapping[str, Any], name: str, data_dir: Path, allow_targets: Sequence[str]) -> bytes:
    told = {
        "workload": {**given, "repeats": 1},
        "where": name,
        "data_dir": str(data_dir.absolute()),
        "allow_targets": [*allow_targets],
        "parent_pid": os.getpid(),
        "waits": True,
    }
    return json.dumps(told, default=str).encode() + b"\n"


@dataclass
class _Side:
    """What the process of one side has said so far."""

    process: RunProcess
    run: Run | None = None
    ready: bool = False
    over: bool = False
    failure: PerfkitError | None = None

    def listen(self) -> None:
        """Take the next answer, if there is one soon."""
        if self.over:
            return
        answer = self.process.next(_LOOK_S)
        if answer is None:
            self.over = True
            self.run = self.run and Run(self.run.path)  # as it is now
        elif "run" in answer:
            self.run = Run(Path(answer["run"]))
        elif "error" in answer:
            self.failure = error_of(answer)
        elif "ready" in answer:
            self.ready = True


# -- does this machine bear it? --------------------------------------------------------------------


@dataclass(frozen=True)
class Isolation:
    """How much longer A takes beside another; alone, reasons: why runs by itself, or beside, cannot tell."""

    names: tuple[str, str]  #: of A, and of what ran beside it
    slowdown: float
    alone: tuple[str, ...]
    reasons: tuple[str, ...]
    runs: tuple[tuple[Run, ...], tuple[Run, ...]]

    @classmethod
    def of(cls, names: tuple[str, str], alone: Reduced, beside: Sequence[Reduced]) -> Isolation:
        """alone, beside: runs of A by itself and in a duet."""
        factors = [1.0]
        for metric, sign in (("p50", 1), ("throughput", -1)):
            values = [one.value(TOTAL, metric) for one in (alone, *beside)]
            if all(values):
                first, *others = (value.level for value in values if value is not None)
                factors += [(other / first) ** sign for other in others]
        by_itself, reasons = (
            tuple(f"{one.run.id}: {why}" for one in some for why in one.reasons) for some in ([alone], beside)
        )
        return cls(names, max(factors), by_itself, reasons, ((alone.run,), tuple(one.run for one in beside)))

    @property
    def unfit(self) -> str:
        """Why a duet would not say what differs; empty where it does."""
        a = self.names[0]
        if self.alone:
            return f"{a} could not be measured alone ({'; '.join(self.alone)}): mend that first"
        if self.reasons:
            why = f"{a} could not be measured beside {self._partner} ({'; '.join(self.reasons)})"
        elif self.slowdown > MOST_SLOWDOWN:
            why = (
                f"{a} took {self.slowdown:.2f} times as long beside {self._partner} as alone (at most"
                f" {MOST_SLOWDOWN:g}), so the sides compete for this machine"
            )
        else:
            return ""
        return f"a duet is unfit here: {why}; compare in turns, without --duet, or give each side a machine"

    @property
    def _partner(self) -> str:
        a, other = self.names
        return "itself" if a == other else other

    def told(self, found: Comparison) -> Comparison:
        """The comparison with what a reader must know of its design."""
        forced = (*found.forced, self.unfit) if self.unfit else found.forced
        words = (
            f"duet: both sides ran at once; {self.names[0]} took {self.slowdown:.2f} times as long beside"
            f" {self._partner} as alone"
        )
        return dataclasses.replace(found, forced=forced, notes=(words, *found.notes))

    def refused(self, options: Options) -> Comparison:
        """The comparison that is not made."""
        a, b = (
            Side(f"{self.names[0]} {how}", tuple(run.id for run in runs), ())
            for how, runs in zip(("alone", "beside another"), self.runs, strict=True)
        )
        return Comparison("refused", f"REFUSED: {self.unfit}.", a, b, 0, (), (self.unfit,), (), (), options)
