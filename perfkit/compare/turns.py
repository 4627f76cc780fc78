"""Experiments: two sides carried out in turns.

A pair is one run of each side, one after the other; the order within pairs alternates (ABBA), so that what
changes slowly on a machine hits both sides alike. In a duet both run at once. Where perfkit starts the
server, each run has a fresh one.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit import interrupts
from perfkit.compare import Comparison, Options, noise
from perfkit.compare.configuration import configuration_of, lines_of, refuse_unknown
from perfkit.compare.duet import Isolation, at_once
from perfkit.compare.experiment import Kept, keep
from perfkit.compare.judging import compare
from perfkit.compare.reduce import FEWEST, reduce_run
from perfkit.drive.describe import digests, shown
from perfkit.drive.operations import most_requests
from perfkit.drive.running import Checked, checked, run_repeats
from perfkit.drive.scenario import Mix
from perfkit.drive.schedule import plan
from perfkit.drive.workload_files import read_workload
from perfkit.drive.workloads import complete, redactor_for
from perfkit.errors import BadInput, Interrupted, NothingToJudge
from perfkit.hosts import as_list
from perfkit.model import Workload
from perfkit.observe.recording import record
from perfkit.stats import LEAST_CUT
from perfkit.store import Metadata, Run, update_run_json
from perfkit.text import print_lines

DEFAULT_REPEATS = 5
#: What a reader must know of a null pair, meant or not.
SAME_SIDES = "both sides are the same workload, so only noise is compared (perfkit aa measures it)"


class Turns:
    """Two sides carried out a pair at a time, in turns (AB BA AB …) or at once; `found` are their runs."""

    def __init__(
        self,
        given: Mapping[str, Mapping[str, Any]],
        names: tuple[str, str],
        data_dir: Path,
        allow_targets: Iterable[str],
        *,
        most: int,
        show_progress: bool,
        duet: bool = False,
        experiment: str | None = None,
        found: Mapping[str, Sequence[Run]] | None = None,
    ) -> None:
        """given: the workloads of sides A and B. Everything that can be known is checked now, before the
        first request. experiment, found: of one that goes on, its id and the runs of its pairs."""
        self._given, self._allowed, self._duet = given, as_list(allow_targets), duet
        self._sides = {
            side: checked(given[side], name, self._allowed).once()
            for side, name in zip("AB", names, strict=True)
        }
        for side, name in zip("AB", names, strict=True):
            _refuse_bound_to_fail(self._sides[side], name)
        self._isolation: Isolation | None = None
        self._known: dict[tuple[Any, ...], Any] = {}  #: what the runs were reduced to, from look to look
        self._names, self._data_dir, self._most, self._shows = names, data_dir, most, show_progress
        self._planned = experiment is not None
        self.id = experiment or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.found = {side: [*(found or {}).get(side, ())] for side in "AB"}

    def pair(self) -> None:
        """Carry out the next pair. Interrupted when a run was: those so far are kept, and named."""
        pair = len(self.found["B"]) + 1
        order = ("AB", "BA")[(pair - 1) % 2]
        for sides in (order,) if self._duet else order:
            for side, run in zip(sides, self._carry_out(sides, pair), strict=True):
                self.found[side].append(run)
            for side in sides:
                self._require_sound(self.found[side][-1], side, pair)

    def refused(self, options: Options) -> Kept | None:
        """Measure how much the sides of a duet disturb each other; the comparison to be kept where that is
        too much, None where it is not, or where the sides are carried out in turns."""
        if not self._duet:
            return None
        # beside itself where both have a server of their own, else it would have twice the load
        other = "B" if self._sides["A"].workload.target.url else "A"
        alone = self._carry_out("A", 0, ["alone"])
        self._require_sound(alone[0], "A", 0)
        both = self._carry_out(f"A{other}", 0, ["beside", "beside"])
        for run, side in zip(both, f"A{other}", strict=True):
            self._require_sound(run, side, 0)
        of_a = both if other == "A" else both[:1]
        names = self._names[0], self._names["AB".index(other)]
        self._isolation = Isolation.of(names, reduce_run(alone[0]), [reduce_run(run) for run in of_a])
        if not self._isolation.unfit or options.force:
            return None
        return keep(self._isolation.refused(options), alone, of_a, self._data_dir)

    def judged(self, options: Options) -> Comparison:
        """Compare the runs so far."""
        a, b = self.found["A"], self.found["B"]
        history = noise.load(self._data_dir, a[0])
        found = compare(a, b, options, names=self._names, history=history, known=self._known)
        if self._given["A"] == self._given["B"]:
            found = dataclasses.replace(found, notes=(SAME_SIDES, *found.notes))
        return found if self._isolation is None else self._isolation.told(found)

    def kept(self, found: Comparison) -> Kept:
        """Keep this comparison of the runs so far."""
        return keep(found, self.found["A"], self.found["B"], self._data_dir)

    def _carry_out(self, sides: str, pair: int, called: Sequence[str] = ()) -> list[Run]:
        """One run of each of these sides, at once if there are two; called: their sides in run.json."""
        names = [self._names["AB".index(side)] for side in sides]
        if self._shows:
            what = f"pair {pair}/{self._most}" if pair else "how much do the sides disturb each other"
            print_lines(f"{what}, {' and '.join(names)}{' at once' * (len(names) > 1)}", err=True)
        try:
            if len(sides) > 1:
                given = [self._given[side] for side in sides]
                runs = at_once(given, names, self._data_dir, self._allowed)
            else:
                work = self._sides[sides]
                runs = run_repeats(work, self._data_dir, show_progress=self._shows, look=record)
        except KeyboardInterrupt:
            raise _interrupted(interrupts.reason(), pair, self._most, self.found, self._planned) from None
        order = sum(map(len, self.found.values()))
        for side, run in zip(called or sides, runs, strict=True):
            order += 1
            where = {"id": self.id, "side": side, "pair": pair, "order": order, "duet": len(runs) > 1}
            update_run_json(run.path, lambda _: {"experiment": where})  # noqa: B023  called at once
        return [Run(run.path) for run in runs]

    def _require_sound(self, run: Run, side: str, pair: int) -> None:
        """Raise where a run was ended from outside or by a condition, or is the first and too short."""
        if not run.ended_by_itself:
            raise _interrupted(run.reason or "", pair, self._most, self.found, self._planned)
        if run.verdict.word == "ABORTED":
            where = f"pair {pair} of {self._most}" if pair else "before the first pair"
            raise NothingToJudge(f"run {run.id}, {where}: {run.reason}")
        if pair < 2:
            _refuse_too_few(run, self._sides[side].workload)


def run_pairs(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    names: tuple[str, str],
    pairs: int,
    data_dir: Path,
    allow_targets: Iterable[str],
    *,
    show_progress: bool,
    options: Options | None = None,
    duet: bool = False,
) -> Kept:
    """Carry out both sides `pairs` times, in turns or at once; keep the comparison. Errors: see `Turns`."""
    given, options = {"A": a, "B": b}, options or Options()
    turns = Turns(given, names, data_dir, allow_targets, most=pairs, show_progress=show_progress, duet=duet)
    if refused := turns.refused(options):
        return refused
    for _ in range(pairs):
        turns.pair()
    return turns.kept(turns.judged(options))


#: Requests that a run must measure, without the first tenth.
_NEEDED = math.ceil(FEWEST / (1 - LEAST_CUT))


def _refuse_bound_to_fail(work: Checked, name: str) -> None:
    """NothingToJudge where a run cannot have enough requests, before the first of them."""
    workload, scenario = work.workload, work.scenario
    if isinstance(scenario, Mix) or workload.target.retries or workload.target.follow_redirects:
        return
    steps = None
    if workload.users is not None:
        steps = workload.users.iterations
    elif workload.arrivals is not None and workload.arrivals.shape != "replay":
        steps = int((plan(workload.arrivals, workload.seed, workload.warmup_s) >= workload.warmup_s).sum())
    each = most_requests(scenario)
    if steps is not None and each and steps * each < _NEEDED:
        raise NothingToJudge(
            f"{name} would measure at most {steps * each} requests; {_enough(workload, steps * each)}"
        )


def _refuse_too_few(run: Run, workload: Workload) -> None:
    """NothingToJudge where a run like this one has too few requests, instead of after all of them."""
    n = run.meta.results.n
    if 0 < n < _NEEDED and run.verdict.word != "FAILED":
        words = f"{run.id} measured {n} requests, and no further run was started"
        raise NothingToJudge(f"{words}; {_enough(workload, n)}")


def _enough(workload: Workload, n: int) -> str:
    """How many requests a comparison needs, and what makes a run of `n` of them long enough."""
    longer = math.ceil(1.2 * _NEEDED / n * 10) / 10
    users, arrivals = workload.users, workload.arrivals
    if users is not None and users.iterations is not None:
        way = f"users.iterations: {math.ceil(users.iterations * longer)}"
    else:
        duration_s = arrivals.duration_s if arrivals is not None else users.duration_s if users else None
        name = "arrivals" if arrivals is not None else "users"
        way = f"{name}.duration_s: {math.ceil((duration_s or 0) * longer)}"
    return f"at least {_NEEDED} are needed ({FEWEST} without the first tenth): set {way} or more"


def _interrupted(
    reason: str, pair: int, pairs: int, found: Mapping[str, Sequence[Run]], plan: bool
) -> Interrupted:
    """The error that names the runs which are complete."""
    done = [",".join(one.id for one in found[side] if one.state == "complete") for side in "AB"]
    kept = f"; `perfkit compare {done[0]} {done[1]}` judges what there is" if all(done) and not plan else ""
    following = len(found["B"]) + 1
    kept = f"; the same command continues from pair {pair or following}" if plan else kept
    where = f"in pair {pair}" if pair else f"before pair {following}"
    return Interrupted(f"{reason} {where} of {pairs}{kept}", reason)


def refuse_differences(a: Mapping[str, Any], b: Mapping[str, Any], options: Options) -> None:
    """BadInput when runs of these two workloads could not be compared, before any of them is made."""
    refuse_unknown(options.vary)
    if options.force:
        return
    found = []
    for given, name in ((a, "A"), (b, "B")):
        workload, scenario, _ = complete(given, name)
        told = shown(workload, redactor_for(given))
        meta = {"workload": told, "target": told["target"], "own_server": workload.target.url is None}
        meta["scenario"] = {"name": scenario.name, "sha256": digests(scenario)}
        found.append(configuration_of(Metadata.of(meta | {"state": "running"})))
    if wrong := lines_of(found, tuple(options.vary)):
        hint = "name what is meant to differ with --vary NAME, or add --force"
        raise BadInput(f"runs of these could not be compared: {'; '.join(wrong)}; {hint}")


def repeats_of(given: Mapping[str, Any]) -> int:
    """How often a workload file wants each side to run; 5 where it does not say."""
    repeats = given.get("repeats", 1)
    return repeats if isinstance(repeats, int) and repeats > 1 else DEFAULT_REPEATS


def measure_noise(
    file: Path,
    pairs: int,
    data_dir: Path,
    allow_targets: Iterable[str],
    *,
    show_progress: bool,
    duet: bool = False,
) -> tuple[Kept, dict[str, Any]]:
    """Compare a workload with itself `pairs` times, keep the floor, and return it with the comparison.

    NothingToJudge when fewer than three pairs can be compared.
    """
    given = read_workload(file)
    duet = duet or given.get("duet") is True
    names = (f"{file.stem}", f"{file.stem} again")
    kept = run_pairs(
        given, given, names, pairs, data_dir, allow_targets, show_progress=show_progress, duet=duet
    )
    if kept.comparison.refused and duet and len(kept.b) < pairs:
        raise NothingToJudge("; ".join(kept.comparison.refused))
    good = set(kept.comparison.a.runs) | set(kept.comparison.b.runs)
    both = [(x, y) for x, y in zip(kept.a, kept.b, strict=False) if x.id in good and y.id in good]
    if len(both) < 3:
        sides = (kept.comparison.a, kept.comparison.b)
        why = "; ".join(
            dict.fromkeys(text for side in sides for _, reasons in side.left_out for text in reasons)
        )
        raise NothingToJudge(
            f"only {len(both)} of {pairs} pairs can be compared, at least 3 are needed: {why}"
        )
    cut = kept.comparison.cut
    found = noise.measure([reduce_run(x, cut) for x, _ in both], [reduce_run(y, cut) for _, y in both])
    noise.save(data_dir, kept.a[0], found)
    return kept, dict(found)
