"""Load from two hosts, and everything that may end a part of it: what is left of the run.

python -m tests.drills.hosts [--moments 20] [--seed 13] [--only shard scheduler …] [--out FILE]

The hosts are network namespaces with disks of their own (`tests.dask_cluster`), each with a Dask worker that
places one shard. Kills come at random moments: after the command, after the first shard, under load. Then
nothing of the run goes on, no request was sent twice, and every answered request has a row, but for the last
ones of a shard that run.json says was lost, or of a coordinator that was killed.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.measure import hardware, put_between_marks
from perfkit.store import Run, list_runs
from tests.dask_cluster import SCENARIO, Cluster, dask_cluster
from tests.kill_runs import SECOND, Lateness, Victim, victim, wait_until

MARKS = ("<!-- hosts:begin -->", "<!-- hosts:end -->")
#: A shard that hears nothing of its coordinator for 5 s stops, and has 5 s more for its last rows.
_GONE_S = 12.0
#: Nothing fails because a machine is busy.
WIDE = ("-s", "budget.delay_ms=100000", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=60000")

Wait = Callable[[Cluster, Victim, Path], object]


@dataclass(frozen=True)
class Drill:
    """One thing that may happen, and what is right then."""

    name: str
    strike: Callable[[Cluster, Victim, random.Random], object]
    reason: str = ""  #: pattern in the run's reason, and in what the command says
    once: bool = False  #: there is but one moment for it
    more: str = ""  #: what the shell of the last host does before its worker starts
    options: tuple[str, ...] = ()
    state: str = "aborted"
    spoils: bool = True  #: whether the cluster is none any more
    last_s: float = 7.0  #: so long after the strike no request may be sent any more


@dataclass
class Ended:
    """What is left of a run."""

    moment: str
    run: Run | None
    said: str
    ended_s: float  #: from the strike to the command's end
    last_s: float  #: from the strike to the last answered request
    left: int  #: processes of shards
    doubles: int = 0
    placed: bool = True  #: whether there was a shard when it happened
    lost: int = 0  #: rows of a shard that run.json says was lost, or whose coordinator was killed
    missing: int = 0  #: other rows that are not there
    faults: list[str] = field(default_factory=list)

    @property
    def without_it(self) -> bool:
        """What happened did so before a shard was placed: the run had no need of it, and went well."""
        return not self.placed and self.run is not None and self.run.state == "complete"

    def __str__(self) -> str:
        state, words = self.run.state if self.run else "no run", "; ".join(self.faults) or self.said.strip()
        times = f"ended after {self.ended_s:.1f} s, last request {self.last_s:+.1f} s"
        return f"{self.moment}: {state}, {times}, {self.lost} rows lost; {words:.240}"


def _kill(pids: Callable[[], list[int]], dice: random.Random, number: int = signal.SIGKILL) -> int:
    pid = dice.choice(sorted(wait_until(pids, "process", 30)))
    os.kill(pid, number)
    return pid


def _freeze(cluster: Cluster, run: Victim, dice: random.Random) -> None:
    pid = _kill(cluster.shards, dice, signal.SIGSTOP)
    time.sleep(10)
    os.kill(pid, signal.SIGCONT)


def _starve(cluster: Cluster, run: Victim, dice: random.Random) -> None:
    """A shard gets 10 ms of a core in every 200 ms, for 4 s, as on a host that others have taken."""
    pid = dice.choice(sorted(wait_until(cluster.shards, "process", 30)))
    for _ in range(20):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.19)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def _nothing(cluster: Cluster, run: Victim, dice: random.Random) -> None:
    """What happens has happened before the run began."""


def _patched(line: str) -> str:
    """The last host's Python does this when it starts."""
    file = '"${PYTHONPATH%%:*}/sitecustomize.py"'
    return f'export PYTHONPATH="$(mktemp -d):$PYTHONPATH"; echo "{line}" > {file}'


_LOST = "shard [01] on .* was lost|has ended"
DRILLS = {
    one.name: one
    for one in (
        Drill("shard", lambda c, run, dice: _kill(c.shards, dice), f"{_LOST}|not ready", spoils=False),
        Drill("Dask worker", lambda c, run, dice: _kill(c.workers, dice), f"{_LOST}|not ready"),
        Drill("Dask scheduler", lambda c, run, dice: c.processes[0].kill(), f"{_LOST}|no Dask scheduler"),
        Drill("coordinator", lambda c, run, dice: run.kill(), spoils=False),
        Drill("frozen for 10 s", _freeze, "shard [01] .* no word from it for 5 s", True,
              spoils=False, last_s=12.0),
        Drill("network swallows everything", lambda c, run, dice: c.net.hosts[1].swallow(),
              "shard 1 .*: no word", True),
        Drill("a dead host at the start", _nothing, "not ready after 1[0-5] s.*8790", True),
        Drill("another Python", _nothing, "host-1 differs: python 3.99.0", True,
              _patched("import platform; platform.python_version = lambda: '3.99.0'")),
        Drill("another perfkit", _nothing, "host-1 differs: perfkit 9.9", True,
              _patched("import perfkit; perfkit.__version__ = '9.9'")),
        Drill("another scenario", _nothing, "host-1: scenario http_get is another one here", True,
              f'(cat "{SCENARIO}"; echo) > $TMPDIR/x; mount --bind $TMPDIR/x "{SCENARIO}"'),
        Drill("a host without the CPU", _starve, "", True, options=("-s", "users.duration_s=8"),
              state="complete", spoils=False),
    )
}  # fmt: skip


def moments(count: int, seed: int, early: bool) -> Iterator[tuple[str, Wait]]:
    """Moments to strike at; early: also before there is a shard."""
    dice = random.Random(seed)
    for number in range(count):
        wait_s = dice.uniform(0.0, 3.0)
        if number % 4 == 2 and early:
            yield f"{wait_s:.2f} s after the command", _after(lambda c, data: True, wait_s)
        elif number % 2:
            yield f"{wait_s / 3:.2f} s after the first shard", _after(lambda c, data: c.shards(), wait_s / 3)
        else:
            yield f"{wait_s:.2f} s under load", _after(_is_loaded, wait_s)


def _after(true: Callable[[Cluster, Path], object], wait_s: float) -> Wait:
    """Wait until something is true, or the run has ended before, and then so long."""

    def wait(cluster: Cluster, run: Victim, data: Path) -> None:
        wait_until(lambda: true(cluster, data) or run.process.poll() is not None, "moment")
        time.sleep(wait_s)

    return wait


def _is_loaded(cluster: Cluster, data: Path) -> bool:
    return any(cluster.server.numbers(run) for run in list_runs(data))


def meet(cluster: Cluster, drill: Drill, data: Path, moment: str, wait: Wait, dice: random.Random) -> Ended:
    """Start a run, strike at the moment, and look at what is left."""
    at_ns = 0
    if drill.name == "a dead host at the start":
        cluster.net.hosts[1].swallow()
    with Lateness() as late, victim(*cluster.command(data, *_options(drill))) as run:
        wait(cluster, run, data)
        at_ns, placed = time.monotonic_ns(), bool(cluster.shards())
        drill.strike(cluster, run, dice)
        said = run.end(120)
        ended_s = (time.monotonic_ns() - at_ns) / SECOND
        deadline = time.monotonic() + _GONE_S + 5 * late.worst_s
        while (left := len(cluster.shards())) and time.monotonic() < deadline:
            time.sleep(0.1)
    found = next(iter(list_runs(data)), None)
    answered = cluster.server.numbers(found) if found else []
    last_s = (max((at for at, _ in answered), default=at_ns) - at_ns) / SECOND
    ended = Ended(moment, found, said, ended_s, last_s, left, placed=placed)
    if found is not None:
        _count(ended, found, [seq for _, seq in answered])
    ended.faults += _faults(drill, ended, late.worst_s)
    return ended


def _options(drill: Drill) -> tuple[str, ...]:
    return drill.options if drill.options else WIDE


def _count(ended: Ended, run: Run, sent: Sequence[int]) -> None:
    """Count what was sent or written twice, and the rows that are not there."""
    rows = run.table(["seq"]).to_pydict()["seq"]
    ended.doubles = len(sent) - len(set(sent)) + len(rows) - len(set(rows))
    shards = run.meta.raw.get("shards")  # none of a coordinator that was killed
    told = {0, 1} if shards is None else {one["shard"] for one in shards if one["lost"]}
    missing = set(sent) - set(rows)
    ended.lost = sum(seq % 3 in told for seq in missing)  # two shards, and setup
    ended.missing = len(missing) - ended.lost


def _faults(drill: Drill, ended: Ended, late_s: float) -> Iterator[str]:
    """What may not be."""
    run, killed = ended.run, drill.name == "coordinator"
    reason = str(run.meta.raw.get("reason")) if run else ended.said
    if not killed and not ended.without_it and not re.search(drill.reason, reason):
        yield f"its reason is {reason[:300]!r}"
    if run is not None and run.state != drill.state and not ended.without_it:
        yield f"its state is {run.state}"
    if drill.state == "complete" and run is not None and "(worker " not in str(run.meta.raw.get("health")):
        yield f"its health is {run.meta.raw.get('health')}"
    if ended.doubles:
        yield f"{ended.doubles} requests twice"
    if ended.missing:
        yield f"{ended.missing} rows are missing, and nobody says so"
    if ended.left:
        yield f"{ended.left} shards are left"
    if "Traceback" in ended.said or (len(ended.said.splitlines()) > 2):
        yield f"it said {ended.said[:300]!r}"
    if drill.state == "aborted" and not ended.without_it and ended.last_s > drill.last_s + late_s:
        yield f"a request {ended.last_s:.1f} s after the strike"


def carry_out(
    cluster: Cluster, drill: Drill, count: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> list[Ended]:
    """Meet a drill at so many moments."""
    dice, found = random.Random(seed), []
    early = drill.name not in ("shard", "frozen for 10 s")
    all_of_them = [("", lambda c, run, data: None)] if drill.more or drill.name.startswith("a dead") else (
        moments(1 if drill.once else count, seed, early and not drill.once))  # fmt: skip
    if drill.more:
        cluster.start(drill.more)
    for number, (moment, wait) in enumerate(all_of_them):
        data = cluster.data / f"{drill.name}-{number}".replace(" ", "-")
        found.append(meet(cluster, drill, data, moment, wait, dice))
        say(f"{drill.name}, {found[-1]}")
        if drill.spoils:
            cluster.net.heal()
            cluster.start()
    return found


def row(drill: Drill, found: Sequence[Ended]) -> str:
    """A line of the table."""
    right = sum(one.run is None or one.without_it or one.run.state == drill.state for one in found)
    numbers = (len(found), sum(one.doubles for one in found), sum(one.lost for one in found),
               sum(one.missing for one in found), f"{right} of {len(found)}")  # fmt: skip
    met = [one for one in found if not one.without_it] or found
    worst = (f"{max(one.ended_s for one in met):.1f}", f"{max(one.last_s for one in met):+.1f}")
    rest = (sum(one.left for one in found), sum(len(one.faults) for one in found))
    return f"| {' | '.join(map(str, (drill.name, *numbers, *worst, *rest)))} |"


def main() -> None:
    """Command line; exit code 1 where something was not as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--only", nargs="*", default=list(DRILLS), metavar="DRILL")
    parser.add_argument("--out", type=Path, help="a Markdown file with the markers, to be rewritten")
    given = parser.parse_args()
    rows, faults, begin = [], 0, time.monotonic()
    say = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory(prefix="pk-hosts-") as folder, dask_cluster(Path(folder)) as cluster:
        for name in given.only:
            found = carry_out(cluster, DRILLS[name], given.moments, given.seed, say)
            rows.append(row(DRILLS[name], found))
            faults += sum(len(one.faults) for one in found)
    head = ("what happens", "n", "sent or written twice", "rows lost, as reported", "rows lost otherwise",
            "state as promised", "command ends after, s", "last request after, s", "shards left",
            "faults")  # fmt: skip
    text = "\n".join((
        f"Measured on {hardware()}; seed {given.seed}, {(time.monotonic() - begin) / 60:.0f} minutes.", "",
        f"| {' | '.join(head)} |", f"|---|{'---:|' * 9}", *rows,
    ))  # fmt: skip
    print(text)
    if given.out:
        put_between_marks(given.out, text, MARKS)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
