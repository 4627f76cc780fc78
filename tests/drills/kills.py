"""Kill drills: every verb that writes, killed just before each change it makes to the filesystem."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import kill_runs
from tests.drills.cases import ROOT
from tests.drills.fuzz import Bench, Finding, Result, Server
from tests.drills.oracle import Outcome, check, harmed, snapshot
from tests.drills.store import copy_store
from tests.kill_runs import Lateness, Left, logging_server

ONE, TWO = "20261101-120000-http_get-0000", "20261101-120002-http_get-0002"
PROBED, KILLED = "20261101-130000-agent_mass_creation-00a0", "20261101-140000-http_get-00b0"
_ID = re.compile(r"\d{8}-\d{6}-(\w+-)?[0-9a-f]{4}|work-[0-9a-f]{12}")
_STATES = ("complete", "aborted", "running")


@dataclass(frozen=True)
class Verb:
    """A verb to be killed; `changes`: runs it may change or remove; `redo`: how it is done again."""

    name: str
    argv: tuple[str, ...]
    changes: tuple[str, ...] = ()
    redo: tuple[tuple[str, ...], ...] = ()  #: else the verb itself; 2, nothing of that name, is right as well
    slow: bool = False  #: takes seconds, being a real run or report
    leaves: str = "\0"  #: what of a killed one stays for good, being the rows of a run: how their paths begin


_ROWS = "runs/NEW/segments"
VERBS = {
    verb.name: verb
    for verb in (
        Verb("tag", ("tag", f"{ONE},{TWO}", "new"), (ONE, TWO)),
        Verb("note", ("tag", ONE, "--note", "a note"), (ONE,)),
        Verb("rm", ("rm", PROBED, KILLED), (PROBED, KILLED), (("rm", PROBED), ("rm", KILLED))),
        Verb("prune", ("prune", "--keep", "0", "--yes"), (PROBED, KILLED)),
        Verb("import", ("import", str(ROOT / "tests" / "imports" / "vegeta.csv"))),
        Verb("compare", ("compare", "tag:before", "tag:after", "--no-report")),
        Verb("gate", ("gate", "latest", "--junit", "gate.xml", "--markdown", "gate.md")),
        Verb("publish", ("publish", "data/site", "--no-report", "-q")),
        Verb("run", ("run", "work.yaml", "-q"), slow=True, leaves=_ROWS),
        Verb("batch", ("batch", "work.yaml", "-q", "--no-report"), slow=True, leaves=_ROWS),
        Verb("report", ("report", ONE, "-q"), (ONE,), slow=True),
    )
}
WORKLOAD = """\
scenario: http_get
params: {{path: /thing}}
target: {{url: {url}}}
users: {{count: 2, iterations: 20}}
budget: {{delay_ms: 10000, cpu_share: 100, gc_pause_ms: 60000}}
"""


def moments(server: Server, verb: Verb, bench: Bench) -> tuple[int, list[str]]:
    """How many changes an undisturbed verb makes, and which files there are in the end."""
    folder = _prepared(bench, f"{verb.name}-0")
    done = server.carry_out([_step(verb, 0)], folder)
    assert done[0].code == 0, (verb.name, done[0].code, done[0].err)
    files = _shape(folder / "data", bench.base)
    shutil.rmtree(folder)
    return int(done[0].events or 0), files


def kill(server: Server, verb: Verb, moment: int, files: list[str], bench: Bench
         ) -> tuple[list[Outcome], list[Finding]]:  # fmt: skip
    """Kill a verb at a moment, look at what is there, do it again, tidy up, and look again."""
    folder = _prepared(bench, f"{verb.name}-{moment}")
    before = snapshot(folder / "data", verb.changes)
    outcomes = server.carry_out([_step(verb, moment)], folder)
    faults = [one.died for one in outcomes[1:]]
    if outcomes[0].code is not None:  # fewer changes than usual: it ended before
        shutil.rmtree(folder)
        return outcomes, []
    looks = [["ls", "--json"], ["show", TWO], ["show", "latest"]]
    told = server.carry_out(_lines(looks), folder)
    faults += harmed(before, snapshot(folder / "data", verb.changes))
    faults += _victims(folder / "data", verb, bench.base)
    redo = [*map(list, verb.redo or (verb.argv,)), ["ls", "--json"], ["prune", "--keep", "1000", "--yes"]]
    told += server.carry_out(_lines([*redo, ["ls", "--json"]]), folder)
    faults += list(_judged(told, verb, bench.base))
    wanted = set(files)
    there = {file for file in _shape(folder / "data", bench.base) if not file.startswith(verb.leaves)}
    faults += [f"left behind for good: {', '.join(left[:3])}"] if (left := sorted(there - wanted)) else []
    faults += [f"gone for good: {', '.join(gone[:3])}"] if (gone := sorted(wanted - there)) else []
    shutil.rmtree(folder)
    changes = f"killed before change {moment}"
    name, words = f"kills:{verb.name}:{moment}", " ".join(verb.argv)
    return told, [Finding(name, changes, words, fault) for fault in faults]


def kill_all(bench: Bench, names: Iterable[str], most: int | None = None) -> Result:
    """Kill each of these verbs at every change it makes, or at `most` of them, evenly spread."""
    result, begin = Result("verbs killed at every change they make"), time.monotonic()
    verbs = [VERBS[name] for name in names]
    counted = bench.map(lambda server, verb: moments(server, verb, bench), verbs)
    shots = [
        (verb, moment, files)
        for verb, (count, files) in zip(verbs, counted, strict=True)
        for moment in range(1, count + 1, max(1, math.ceil(count / (most or count))))
    ]
    for outcomes, findings in bench.map(lambda server, shot: kill(server, *shot, bench), shots):
        result.add(outcomes, findings)
    result.seconds = time.monotonic() - begin
    return result


def kill_runs_at_random(count: int, seed: int) -> Result:
    """Kill the coordinators of real runs under load at random moments."""
    result, begin = Result("runs killed at random moments"), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="perfkit-drills-") as name,
        logging_server(Path(name) / "log") as server,
        Lateness() as late,
    ):
        for number, (moment, wait) in enumerate(kill_runs.moments(count, seed)):
            left = kill_runs.kill_run(server, Path(name) / str(number), moment, wait)
            result.cases += 1
            faults = _lost(left, late.worst_s)
            result.findings += [Finding(f"runs:{number}", moment, "run", fault) for fault in faults]
    result.seconds = time.monotonic() - begin
    return result


def _lost(left: Left, late_s: float) -> Iterator[str]:
    """What a killed run may not leave: processes, requests sent later, rows missing, another state."""
    if left.processes:
        yield f"{len(left.processes)} processes left"
    if left.last_request_s > 1 + late_s:
        yield f"a request {left.last_request_s:.1f} s after the kill"
    if left.missing:
        yield f"{left.missing} of {left.due} rows older than a second are missing"
    if left.state not in ("aborted", "no run"):
        yield f"its state is {left.state}"


def _prepared(bench: Bench, name: str) -> Path:
    folder = bench.place / name
    folder.mkdir()
    copy_store(bench.base, folder / "data")
    (folder / "data" / "runs" / PROBED / "notes.txt").write_text("somebody's own")
    (folder / "work.yaml").write_text(WORKLOAD.format(url=bench.url))
    return folder


def _step(verb: Verb, moment: int) -> dict[str, Any]:
    argv = [*verb.argv, "--data-dir", "data"]
    return {"argv": argv, "kill_at": moment, "cpu_ok_s": 15}


def _lines(lines: list[list[str]]) -> list[dict[str, Any]]:
    return [{"argv": [*line, "--data-dir", "data"], "cpu_ok_s": 15} for line in lines]


def _judged(told: list[Outcome], verb: Verb, base: Path) -> Iterator[str]:
    """Faults of the looks after a kill: what the lists say, and whether the verb can be done again."""
    for one in told:
        words = f"afterwards, {' '.join(one.step['argv'][:-2])}"
        yield from (f"{words}: {fault}" for fault in check(one))
        allowed = (0, 2) if one.step["argv"][0] in ("show", "rm") else (0,)
        if one.code not in allowed:
            yield f"{words} has exit code {one.code}: {one.err[:160]}"
    known = {path.name for path in (base / "runs").iterdir()}
    for one in told:
        if one.step["argv"][0] != "ls" or one.code:
            continue
        listed = {run["id"]: run for run in json.loads(one.out)}
        odd = [f"{i} {run['state']}" for i, run in listed.items() if run["state"] not in _STATES]
        if odd:
            yield f"afterwards, listed as {odd[0]}"
        gone = [i for i in known - listed.keys() if i not in verb.changes]
        if gone:
            yield f"afterwards, not listed any more: {gone[0]}"


def _victims(data: Path, verb: Verb, base: Path) -> Iterator[str]:
    """A run that was to be changed is as before, or changed as a whole, or gone as a whole."""
    for run in sorted((base / "runs").iterdir()):
        now = data / "runs" / run.name
        if run.name not in verb.changes or not (now / "run.json").exists():
            continue
        if gone := [name for name in snapshot(run) if not (now / name).exists()]:
            yield f"half of {run.name} is gone: {gone[0]}"
        old, new = (json.loads((where / "run.json").read_text()) for where in (run, now))
        if {**old, "tags": 0, "note": 0} != {**new, "tags": 0, "note": 0}:
            yield f"run.json of {run.name} says something else"


def _shape(data: Path, base: Path) -> list[str]:
    """The files below a data folder, ids of what is new replaced; locks are no content."""
    old = {path.name for path in [*base.glob("runs/*"), *base.glob("comparisons/*")]}
    files = (str(path.relative_to(data)) for path in data.rglob("*") if not path.name.endswith("lock"))
    return sorted({_ID.sub(lambda found: found[0] if found[0] in old else "NEW", file) for file in files})
