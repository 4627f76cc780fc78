"""Runs ended from outside in every phase, by every signal: what is kept of them, and can it be read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.model import PHASES
from perfkit.store import Run, list_runs
from tests.drills.fuzz import Bench, Finding, Result
from tests.drills.oracle import Outcome, check
from tests.kill_runs import SECOND, Lateness, Logged, Victim, logging_server, lost_rows, perfkit, victim

#: Half a second and more in each phase; slow requests, so that the drain has some; things to be removed.
STEPS = """
async def setup(session, params):
    for i in range(12):
        await session.post(f'/slow/40/first/{i}', name='make')
        session.on_teardown('DELETE', f'/first/{i}')
async def step(session, state, rng):
    await session.post(f'/slow/{700 if rng.random() < 0.05 else 5}/made/{session.iteration}', name='make')
    session.on_teardown('DELETE', f'/made/{session.iteration}')
"""
WARMUP_S, DURATION_S, USERS = 0.5, 1.0, 6
SHAPE = (
    "processes=2",
    f"users.count={USERS}",
    f"warmup_s={WARMUP_S}",
    f"users.duration_s={DURATION_S}",
    "drain_s=5",
)
#: So many endings meet every phase.
MANY = 50
WIDE = ("budget.delay_ms=100000", "budget.cpu_share=100", "budget.gc_pause_ms=60000")
#: What a run may be after it was ended so, and its exit codes; a signal may come when it is over.
_WAYS: dict[str, tuple[int, ...]] = {
    "SIGKILL": (137, 0),
    "SIGTERM": (143, 0),
    "SIGTERM to all": (143, 0),
    "Ctrl-C": (130, 0),
    "Ctrl-C twice": (130, 0),
}


@dataclass(frozen=True)
class Ending:
    """How a run is ended, after which share of the time that it takes undisturbed, and the second time."""

    way: str
    share: float
    again_s: float = 0.0

    def __str__(self) -> str:
        again = f", again after {self.again_s:.2f} s" if self.again_s else ""
        return f"{self.way} after {self.share:.0%} of its time{again}"


@dataclass(frozen=True)
class Ended:
    """A run that was ended: when (monotonic ns), its exit code, and what it said on standard error."""

    ending: Ending
    data: Path
    at_ns: int
    code: int
    complained: str
    left: int  #: processes

    @property
    def run(self) -> Run | None:
        """What there is of it."""
        return next(iter(list_runs(self.data)), None)


def endings(count: int, seed: int) -> Iterator[Ending]:
    """Each way in turn, at moments spread over the whole life of a run."""
    dice = random.Random(seed)
    for number in range(count):
        way = list(_WAYS)[number % len(_WAYS)]
        again_s = dice.uniform(0.02, 0.3) if way == "Ctrl-C twice" else 0.0
        yield Ending(way, dice.uniform(0.1, 1.0), again_s)


def command(server: Logged, data: Path) -> tuple[str, ...]:
    """The run."""
    data.mkdir(parents=True)
    (data / "steps.py").write_text(STEPS)
    given = ("--scenario", str(data / "steps.py"), "--target", server.url, "--data-dir", str(data))
    return perfkit("run", "-q", *given, *(word for one in (*SHAPE, *WIDE) for word in ("-s", one)))


def undisturbed(server: Logged, data: Path) -> float:
    """Carry the run out; how long it takes, s."""
    began = time.monotonic()
    with victim(*command(server, data), stdout=subprocess.DEVNULL) as one:
        code = one.process.wait(120)
    assert code == 0, one.process
    return time.monotonic() - began


def end(server: Logged, data: Path, ending: Ending, life_s: float) -> Ended:
    """Start the run and end it."""
    with victim(*command(server, data), stdout=subprocess.DEVNULL) as one:
        time.sleep(ending.share * life_s)
        at_ns = _strike(one, ending)
        complained = one.end(60)
        left = len(one.left())
        code = one.process.returncode
    return Ended(ending, data, at_ns, code if code >= 0 else 128 - code, complained, left)


def _strike(one: Victim, ending: Ending) -> int:
    number = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGTERM to all": signal.SIGTERM}
    at_ns = one.kill(
        number.get(ending.way, signal.SIGINT), all_of_them=ending.way not in ("SIGKILL", "SIGTERM")
    )
    if ending.again_s:
        time.sleep(ending.again_s)
        one.kill(signal.SIGINT, all_of_them=True)
    return at_ns


# -- what is right ---------------------------------------------------------------------------------


def faults(ended: Ended, server: Logged, late_s: float) -> Iterator[str]:
    """What an ended run may not leave behind."""
    run, way = ended.run, ended.ending.way
    if ended.left:
        yield f"{ended.left} processes left"
    if ended.code not in _WAYS[way]:
        yield f"exit code {ended.code}: {ended.complained[:200]!r}"
    if "Traceback" in ended.complained or len(ended.complained.splitlines()) > 2:
        yield f"it said {ended.complained[:200]!r}"
    if run is None:
        return
    whole = way not in ("SIGKILL", "Ctrl-C twice")  # which leave no time for the last second's rows
    due, missing, last_s = lost_rows(server, run, ended.at_ns, 0 if whole else SECOND)
    if missing:
        yield f"{missing} of {due} rows are missing"
    if way == "SIGKILL" and last_s > 1 + late_s:
        yield f"a request {last_s:.1f} s after the kill"
    if run.state not in ("aborted", "complete"):
        yield f"its state is {run.state}"
    yield from _span_faults(run)


def _left_on_target(ended: Ended, server: Logged) -> Iterator[str]:
    """What was made and is there still, after `cleanup`."""
    if (run := ended.run) is None:
        return
    made = {path.split("/", 3)[3] for path in server.paths(run, "POST")}
    left = made - {path[1:] for path in server.paths(run, "DELETE")}
    # answered in the moment of the end, when nobody heard of it: one of each user, or of setup
    if len(left) > (0 if run.state == "complete" else USERS):
        yield f"{len(left)} of {len(made)} things are still on the target"


def _span_faults(run: Run) -> Iterator[str]:
    """The measured part is as long as planned, or ends with the load, and holds all measured requests."""
    span, begun = run.meta.measured, run.meta.load_started_ns
    if span.from_ns is None or span.to_ns is None:
        if run.meta.state != "running":  # so it stands there when it was killed
            yield "its measured part is not told"
        return
    rows = run.table(["phase", "planned", "done"]).to_pandas()
    if begun is not None and span.from_ns != begun + int(WARMUP_S * 1e9):
        yield f"the measured part begins {(span.from_ns - begun) / 1e9:.3f} s after the load"
    measured = rows[(rows["phase"] == "measure").to_numpy()]
    planned = span.from_ns + int(DURATION_S * 1e9)
    if span.to_ns > planned:
        yield "the measured part is longer than planned"
    if run.state == "complete" and span.to_ns != planned:
        yield "the measured part of a whole run is not as planned"
    if len(measured) and span.to_ns < min(planned, int(measured["done"].max())):
        yield "the measured part ends before its last request"


def read_by_all(bench: Bench, ended: list[Ended], good: Path) -> Iterator[tuple[Ended, list[Outcome]]]:
    """`ls`, `show`, `report` and `compare` with a run that nobody disturbed, of each run that there is."""

    def read(server: Any, one: Ended) -> tuple[Ended, list[Outcome]]:
        run = one.run
        if run is None:
            return one, []
        other = next(iter(list_runs(good)))
        with contextlib.suppress(FileExistsError):
            shutil.copytree(other.path, one.data / "runs" / other.id)
        verbs = (("ls", "--json"), ("show", run.id), ("show", run.id, "--json"), ("report", run.id, "-q"),
                 ("compare", run.id, other.id, "--no-report"), ("cleanup", run.id))  # fmt: skip
        steps = [{"argv": [*verb, "--data-dir", str(one.data)], "cpu_ok_s": 30} for verb in verbs]
        return one, server.carry_out(steps, one.data)

    yield from bench.map(read, ended)


def _reading_faults(ended: Ended, told: list[Outcome]) -> Iterator[str]:
    run = ended.run
    for one in told:
        words = " ".join(one.step["argv"][:-2])
        yield from (f"{words}: {fault}" for fault in check(one))
        right = {"compare": (3, 4), "report": (0,), "show": (0,), "ls": (0,), "cleanup": (0,)}
        if run is not None and run.state == "complete":
            right["compare"] = (0, 3, 4)
        if one.code not in right[one.step["argv"][0]]:
            yield f"{words} has exit code {one.code}: {one.err[:160] or one.out[:160]}"
    if told and run is not None and not told[0].code:
        listed = {one["id"]: one["state"] for one in json.loads(told[0].out)}
        if listed.get(run.id) != run.state:
            yield f"listed as {listed.get(run.id)}, not {run.state}"


def end_runs(bench: Bench, count: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Result:
    """Carry the drill out."""
    result, begin = Result("runs ended in every phase"), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="perfkit-drills-") as name,
        logging_server(Path(name) / "log") as server,
    ):
        good = Path(name) / "good"
        life_s, ended = undisturbed(server, good), []
        reached: set[str] = set()
        for number, ending in enumerate(endings(count, seed)):
            with Lateness() as late:
                ended.append(end(server, Path(name) / str(number), ending, life_s))
            label = f"endings:{number}"
            result.findings += [Finding(label, str(ending), "run", fault)
                                for fault in faults(ended[-1], server, late.worst_s)]  # fmt: skip
            reached.add(_phase_reached(ended[-1]))  # now: reading puts another run beside it
            say(f"{ending}: {_reached(ended[-1])}")
        for number, (one, told) in enumerate(read_by_all(bench, ended, good)):
            wrong = [*_reading_faults(one, told), *_left_on_target(one, server)]
            found = [Finding(f"endings:{number}", str(one.ending), "", fault) for fault in wrong]
            result.add(told, found)
        missed = set(PHASES) - reached if count >= MANY else set()
        result.findings += [Finding("endings", phase, "", "no run ended in this phase") for phase in missed]
    result.seconds = time.monotonic() - begin
    return result


def _reached(ended: Ended) -> str:
    """How far a run came."""
    run, phase = ended.run, _phase_reached(ended)
    return (
        f"{run.headline}, {run.row_count():,} rows, ended in {phase}, exit code {ended.code}"
        if run
        else "no run"
    )


def _phase_reached(ended: Ended) -> str:
    """In which a run was when it was ended."""
    run = ended.run
    if run is None:
        return ""
    at, begun = ended.at_ns - (run.meta.clock.monotonic_ns or 0), run.meta.load_started_ns
    if begun is None or at < begun:
        return "setup"
    rows = run.table(["phase", "started"]).to_pandas()
    if ((rows["phase"] == "teardown") & (rows["started"] < at)).any():
        return "teardown"
    gone_s = (at - begun) / 1e9
    return "warmup" if gone_s < WARMUP_S else "measure" if gone_s < WARMUP_S + DURATION_S else "drain"


def main(count: int, seed: int = 1) -> None:
    """Print each ending and each fault."""
    with Bench(os.cpu_count() or 1, "") as bench:
        result = end_runs(bench, count, seed, print)
    print(*result.findings, sep="\n")
    print(f"{result.cases} runs, {len(result.findings)} faults, {result.seconds:.0f} s")


if __name__ == "__main__":
    import sys

    main(*map(int, sys.argv[1:]))
