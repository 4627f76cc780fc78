"""Pairs until the question is answered: an experiment that looks at its runs several times and stops.

The plan (when to look, at how many pairs at most, at which level in all) is written before the first run, and
each look before it is taken: neither a kill nor a second thought changes the levels.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import perfkit
from perfkit.compare.experiment import Kept
from perfkit.compare.nouns import Comparison, Look, Options
from perfkit.compare.turns import Turns
from perfkit.converting import convert
from perfkit.drive import describe
from perfkit.drive.scenario import load_scenario
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import Stopping
from perfkit.store import Run, list_runs, write_json
from perfkit.store.files import locked, read_json
from perfkit.text import print_lines

#: Pairs at which one looks; simulated beside others in METHOD.md.
LOOKS = (3, 5, 8, 13, 20)


def looks_up_to(most: int) -> tuple[int, ...]:
    """When to look where there are at most so many pairs, three or more."""
    longer = list(LOOKS)
    while longer[-1] < most:
        longer.append(longer[-1] + longer[-2])
    return (*(one for one in longer if one < most), most)


@dataclass
class _Plan:
    """What was decided before the first run, and the looks so far (pairs that counted at each)."""

    path: Path
    id: str
    most: int
    counts: list[int]
    done: bool

    @classmethod
    def of(cls, path: Path, experiment: str, most: int) -> _Plan:
        """The plan as it was written; else this one, written now."""
        if path.exists():
            try:
                told = read_json(path)
                counts = [int(one) for one in told["counts"]]
                rising = [*sorted(set(counts)), most + 1]
                if told["id"] != path.stem or told["most"] != most or [*counts, most + 1] != rising:
                    raise ValueError("it does not belong to this question")
                if counts and not 0 < counts[0] <= counts[-1] <= most:
                    raise ValueError("its counts of pairs cannot be")
                return cls(path, path.stem, most, counts, bool(told["done"]))
            except (ValueError, LookupError, TypeError) as error:
                raise PerfkitError(f"{path} is damaged ({error}); remove it to start over") from None
        plan = cls(path, experiment, most, [], False)
        path.parent.mkdir(parents=True, exist_ok=True)
        plan.write()
        return plan

    def write(self) -> None:
        told = {"id": self.id, "most": self.most, "counts": self.counts, "done": self.done}
        write_json(self.path, told)


def run_until_clear(
    given: Mapping[str, Mapping[str, Any]],
    names: tuple[str, str],
    options: Options,
    data_dir: Path,
    allow_targets: Iterable[str],
    *,
    stopping: Stopping,
    duet: bool = False,
    show_progress: bool = True,
) -> Kept:
    """Carry out pairs of `given` (the workloads of sides A and B) until the comparison is clear; keep it.

    Clear: a primary metric regressed or improved, or all of them are equivalent. It ends at
    `stopping.max_repeats` pairs, and before a pair that `budget_s` of wall time would probably not hold, with
    a last look that uses what is left of the level. The same call continues an experiment that was
    interrupted.
    """
    plan, began = _plan_of(given, options, data_dir, stopping.max_repeats, duet), time.monotonic()
    try:
        with locked(plan.path.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB):
            turns = Turns(
                given, names, data_dir, allow_targets, most=plan.most, show_progress=show_progress,
                duet=duet, experiment=plan.id, found=_runs_of(plan.id, data_dir),
            )  # fmt: skip
            if show_progress and turns.found["A"]:
                done = f"continuing experiment {plan.id} after {len(turns.found['A'])} pairs"
                print_lines(f"{done}; remove {plan.path} to start over", err=True)
            return turns.refused(options) or _carry_out(plan, turns, options, stopping.budget_s, began)
    except BlockingIOError:
        raise BadInput(f"experiment {plan.id} is being carried out by another perfkit") from None


def _carry_out(plan: _Plan, turns: Turns, options: Options, budget_s: float | None, began: float) -> Kept:
    most, first = plan.most, time.monotonic()
    looks = looks_up_to(most)
    before = len(turns.found["B"])
    while True:
        pairs = len(turns.found["B"])
        now = time.monotonic()
        a_pair_s = (now - first) / max(pairs - before, 1)
        over = budget_s is not None and pairs >= 2 and now - began + a_pair_s > budget_s
        if pairs in looks or (over and pairs):
            look = Look(counts=tuple(plan.counts), most=most, final=over or pairs >= most)
            judged = turns.judged(dataclasses.replace(options, look=look))
            seen = judged.options.look
            news = seen is not None and not seen.again
            if seen is not None and news:
                plan.counts = list(seen.counts)
                plan.write()
            if look.final or (news and is_clear(judged)):
                break
        turns.pair()
    plan.done = True
    plan.write()
    return turns.kept(judged)


def is_clear(found: Comparison) -> bool:
    """Whether more pairs would add nothing to the verdict."""
    if not found.results:  # refused, or no request of one side succeeded: more pairs are no better
        return True
    verdicts = {one.verdict for one in found.results if one.primary}
    return bool(verdicts & {"regressed", "improved"}) or verdicts == {"equivalent"}


def _plan_of(given: Mapping[str, Any], options: Options, data_dir: Path, most: int, duet: bool) -> _Plan:
    """The unfinished plan of this very question, asked of the same code, or a new one."""
    files = [load_scenario(name).module.__file__ for name in _scenarios(given)]
    code = [hashlib.sha256(Path(str(file)).read_bytes()).hexdigest() for file in files]
    question = {
        **{"given": given, "options": dataclasses.asdict(options), "most": most, "duet": duet},
        **{"code": code, "git": describe.git(Path.cwd()), "perfkit": perfkit.__version__},
    }
    text = json.dumps(question, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    folder, number = data_dir / "experiments", 0
    while True:
        number += 1
        path = folder / f"{digest}-{number}.json"
        plan = _Plan.of(path, path.stem, most)
        if not plan.done:
            return plan


def _scenarios(given: Mapping[str, Any]) -> list[str]:
    """The scenarios of both workloads, by name or file, those of mixes too."""
    entries = [entry for side in "AB" for entry in (given[side], *(given[side].get("mix") or ()))]
    return sorted({str(entry["scenario"]) for entry in entries if entry.get("scenario")})


def _runs_of(experiment: str, data_dir: Path) -> dict[str, list[Run]]:
    """The runs of an experiment's whole pairs, in their order."""
    pairs: dict[int, dict[str, Run]] = {}
    for run in list_runs(data_dir):
        try:
            place = run.meta.experiment
        except PerfkitError:
            continue
        if place and place.id == experiment and place.pair and run.state == "complete":
            pairs.setdefault(place.pair, {})[place.side] = run
    whole = [pairs[number] for number in sorted(pairs) if len(pairs[number]) == 2]
    return {side: [one[side] for one in whole] for side in "AB"}


def stopping_of(
    given: Mapping[str, Any], until_clear: bool, max_repeats: int | None, budget_s: float | None
) -> Stopping | None:
    """What a workload file and the options of a verb say about stopping early; None where neither does.

    BadInput for options without --until-clear, and for a bad value.
    """
    said = given.get("stopping")
    if not until_clear and said is None:
        for option, value in (("--max-repeats", max_repeats), ("--budget", budget_s)):
            if value is not None:
                raise BadInput(f"{option} goes with --until-clear, or `stopping:` in the workload")
        return None
    named = {"max_repeats": max_repeats, "budget_s": budget_s}
    more = {name: value for name, value in named.items() if value is not None}
    return convert(Stopping, dict(said or {}) | more, "stopping")
