"""Tags, notes, and which runs are kept: what people add to a run after it has ended, and what goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.compare.experiment import Kept, comparison_folders, open_comparison
from perfkit.compare.keeping import needed_runs
from perfkit.errors import BadInput, PerfkitError
from perfkit.store import Leftover, Metadata, Run, list_runs, survey, update_run_json, why_not_removed
from perfkit.store.marks import Marks

#: A run with this tag is never pruned.
KEEP = "keep"


# -- tags and notes --------------------------------------------------------------------------------


def mark(runs: Sequence[Run], *, add: Iterable[str] = (), remove: Iterable[str] = (), note: str | None = None
         ) -> list[Run]:  # fmt: skip
    """Add and remove tags, set the note ("" removes it), in all runs or in none; the runs as they are now.

    BadInput for a word that is no tag, a tag to remove that no run has, a note that is too long, and a run
    that is still running, whose own process writes its run.json.
    """
    marks = Marks.of(add, remove, note)

    def change(meta: Metadata) -> dict[str, Any]:
        changes: dict[str, Any] = {"tags": marks.tags(meta.tags)}
        return changes if note is None else changes | {"note": note.strip() or None}

    for run in runs:
        if run.state == "running":
            raise BadInput(f"{run.id} is still running, so nothing was changed; tag it when it has ended")
        if lost := [name for name in run.meta.damage if name.startswith(("tags", "note"))]:
            words = "cannot be read, so nothing was changed; repair run.json"
            raise PerfkitError(f"{run.id}: its {lost[0]} {words}")
    marks.require(tag for run in runs for tag in run.meta.tags)
    for run in runs:
        update_run_json(run.path, change)
    return [Run(run.path) for run in runs]


# -- retention -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What pruning would do: runs to remove, runs that only a reason keeps, leftovers of kills to remove.

    comparisons: those that were refused, which go too.
    """

    remove: tuple[Run, ...]
    spared: tuple[tuple[Run, str], ...]
    leftovers: tuple[Leftover, ...]
    comparisons: tuple[Kept, ...] = ()


def plan(data_dir: Path, keep: int | None, scenario: str | None = None) -> Plan:
    """Which runs go when the newest `keep` sound ones of each scenario stay; none when it is None.

    What is newer than the oldest of those stays too, so that a broken run of today is there to look at. Older
    runs are spared where they are tagged `keep`, still running, damaged, or needed by a kept comparison.
    BadInput for a scenario that has no run; PerfkitError when a comparison cannot be read.
    """
    groups: dict[str, list[Run]] = {}
    spared: list[tuple[Run, str]] = []
    for run in list_runs(data_dir):
        try:
            name, damage = run.meta.scenario.name, run.meta.damage_reason
        except PerfkitError as error:
            name, damage = "", str(error)
        if damage:
            way = why_not_removed(run.path) or "`perfkit rm` removes it"
            spared.append((run, f"damaged ({damage}); {way}"))
            continue
        groups.setdefault(name, []).append(run)
    if scenario is not None and scenario not in groups:
        raise BadInput(f"no run of scenario {scenario!r}; known: {', '.join(sorted(groups)) or 'none'}")
    comparisons = [open_comparison(str(folder), data_dir) for folder in comparison_folders(data_dir)]
    compared = needed_runs(comparisons)
    refused = [one for one in comparisons if one.comparison.refused and KEEP not in one.tags]
    remove = []
    for name in sorted(groups) if scenario is None else [scenario]:
        for run in _older(groups[name], keep):
            if why := _why_kept(run, compared) or why_not_removed(run.path, damaged=False):
                spared.append((run, why))
            else:
                remove.append(run)
    gone = () if keep is None or scenario is not None else tuple(refused)
    return Plan(tuple(remove), tuple(spared), survey(data_dir).leftovers, gone)


def _older(runs: Sequence[Run], keep: int | None) -> Sequence[Run]:
    """Those before the newest `keep` sound ones, oldest first."""
    if not keep:
        return () if keep is None else runs
    sound = [i for i, run in enumerate(runs) if run.verdict.sound]
    return runs[: sound[-keep]] if len(sound) >= keep else ()


def _why_kept(run: Run, compared: dict[str, str]) -> str | None:
    if run.state == "running":
        return "still running"
    if KEEP in run.meta.tags:
        return f"tagged {KEEP}"
    return f"comparison {compared[run.id]} needs it" if run.id in compared else None
