"""Experiments: two sides carried out in turns, and comparisons kept in a folder each.

A pair is one run of each side, one after the other; the order within pairs alternates (ABBA), so that what
changes slowly on a machine hits both sides alike. Where perfkit starts the server, each run has a fresh one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit import interrupts
from perfkit.card import Card
from perfkit.compare import Comparison, Options, compare, noise
from perfkit.compare.configuration import configuration_of, lines_of, refuse_unknown
from perfkit.compare.reduce import FEWEST, reduce_run
from perfkit.drive.describe import shown
from perfkit.drive.running import checked, run_repeats
from perfkit.drive.workloads import complete, read_yaml, redactor_for
from perfkit.errors import BadInput, Interrupted, NothingToJudge, PerfkitError
from perfkit.hosts import as_list
from perfkit.model import Workload
from perfkit.observe.recording import record
from perfkit.stats import LEAST_CUT
from perfkit.store import Metadata, Run, data_folder, find_run, list_runs, update_run_json, write_json
from perfkit.store.files import new_folder, read_json, remove_if_empty
from perfkit.text import for_notebook, print_lines

DEFAULT_REPEATS = 5
#: What a damaged comparison.json provokes.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Kept:
    """A comparison on disk: its folder, what it says, and its runs (those left out too)."""

    path: Path
    comparison: Comparison
    a: tuple[Run, ...]
    b: tuple[Run, ...]
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return for_notebook(self._card().html())

    def _card(self) -> Card:
        """What a person is told of it: the verdict, and the runs of each side that count."""
        sides = (self.comparison.a, self.comparison.b)
        left = [f"; {len(side.left_out)} excluded by rule" if side.left_out else "" for side in sides]
        counted = [
            f"{side.name}, {len(side.runs)} runs{more}" for side, more in zip(sides, left, strict=True)
        ]
        return Card(f"comparison {self.id}: {self.comparison.words}", [("a", counted[0]), ("b", counted[1])])

    @property
    def sides(self) -> dict[str, list[Run]]:
        """The runs that count, by the name of their side; those of a pair stand at the same place.

        Both are empty when the comparison was refused: figures side by side would compare them all the same.
        """
        if self.comparison.refused:
            return {self.comparison.a.name: [], self.comparison.b.name: []}
        by_id = {run.id: run for run in (*self.a, *self.b)}
        both = (self.comparison.a, self.comparison.b)
        return {side.name: [by_id[name] for name in side.runs] for side in both}


# -- carrying out ----------------------------------------------------------------------------------


class Turns:
    """Two sides carried out in turns, AB BA AB …, a pair at a time; `found` are the runs of each."""

    def __init__(
        self,
        given: Mapping[str, Mapping[str, Any]],
        names: tuple[str, str],
        data_dir: Path,
        allow_targets: Iterable[str],
        *,
        most: int,
        show_progress: bool,
        experiment: str | None = None,
        found: Mapping[str, Sequence[Run]] | None = None,
    ) -> None:
        """given: the workloads of sides A and B. Everything that can be known is checked now, before the
        first request. experiment, found: of one that goes on, its id and the runs of its pairs."""
        allowed = as_list(allow_targets)
        self._sides = {
            side: checked(given[side], name, allowed).once() for side, name in zip("AB", names, strict=True)
        }
        self._names, self._data_dir, self._most, self._shows = names, data_dir, most, show_progress
        self.id = experiment or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.found = {side: [*(found or {}).get(side, ())] for side in "AB"}

    def pair(self) -> None:
        """Carry out the next pair. Interrupted when a run was: those so far are kept, and named."""
        pair = len(self.found["B"]) + 1
        for place, side in enumerate(("AB", "BA")[(pair - 1) % 2]):
            name = self._names["AB".index(side)]
            if self._shows:
                print_lines(f"pair {pair}/{self._most}, {name}", err=True)
            try:
                work = self._sides[side]
                (run,) = run_repeats(work, self._data_dir, show_progress=self._shows, look=record)
            except KeyboardInterrupt:
                raise _interrupted(interrupts.reason(), pair, self._most, self.found) from None
            where = {"id": self.id, "side": side, "pair": pair, "order": 2 * pair - 1 + place}
            update_run_json(run.path, lambda _: {"experiment": where})  # noqa: B023  called at once
            self.found[side].append(Run(run.path))
            if not run.ended_by_itself:
                raise _interrupted(run.reason or "", pair, self._most, self.found)
            if run.verdict.word == "ABORTED":
                raise NothingToJudge(f"run {run.id}, pair {pair} of {self._most}: {run.reason}")
            if pair == 1:
                _refuse_too_few(run, work.workload)


def run_pairs(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    names: tuple[str, str],
    pairs: int,
    data_dir: Path,
    allow_targets: Iterable[str],
    *,
    show_progress: bool,
) -> tuple[list[Run], list[Run]]:
    """Carry out both sides `pairs` times in turns and return the runs of each; errors as of `Turns`."""
    given = {"A": a, "B": b}
    turns = Turns(given, names, data_dir, allow_targets, most=pairs, show_progress=show_progress)
    for _ in range(pairs):
        turns.pair()
    return turns.found["A"], turns.found["B"]


def _refuse_too_few(run: Run, workload: Workload) -> None:
    """NothingToJudge where a run like this one has too few requests, instead of after all of them."""
    n, needed = run.meta.results.n, math.ceil(FEWEST / (1 - LEAST_CUT))
    if not 0 < n < needed or run.verdict.word == "FAILED":
        return
    longer = math.ceil(1.2 * needed / n * 10) / 10
    users, arrivals = workload.users, workload.arrivals
    if users is not None and users.iterations is not None:
        way = f"users.iterations: {math.ceil(users.iterations * longer)}"
    else:
        duration_s = arrivals.duration_s if arrivals is not None else users.duration_s if users else None
        name = "arrivals" if arrivals is not None else "users"
        way = f"{name}.duration_s: {math.ceil((duration_s or 0) * longer)}"
    raise NothingToJudge(
        f"{run.id} measured {n} requests; a comparison needs at least {needed} per run ({FEWEST} without the"
        f" first tenth). No further run was started: set {way} or more"
    )


def _interrupted(reason: str, pair: int, pairs: int, found: Mapping[str, Sequence[Run]]) -> Interrupted:
    """The error that names the runs which are complete."""
    done = [",".join(one.id for one in found[side] if one.state == "complete") for side in "AB"]
    kept = f"; `perfkit compare {done[0]} {done[1]}` judges what there is" if all(done) else ""
    return Interrupted(f"{reason} in pair {pair} of {pairs}{kept}", reason)


def refuse_differences(a: Mapping[str, Any], b: Mapping[str, Any], options: Options) -> None:
    """BadInput when runs of these two workloads could not be compared, before any of them is made."""
    refuse_unknown(options.vary)
    if options.force:
        return
    found = []
    for given, name in ((a, "A"), (b, "B")):
        workload, _, _ = complete(given, name)
        told = shown(workload, redactor_for(given))
        meta = {"workload": told, "target": told["target"], "own_server": workload.target.url is None}
        found.append(configuration_of(Metadata.of(meta | {"state": "running"})))
    if wrong := lines_of(found, tuple(options.vary)):
        hint = "name what is meant to differ with --vary NAME, or add --force"
        raise BadInput(f"runs of these could not be compared: {'; '.join(wrong)}; {hint}")


def repeats_of(given: Mapping[str, Any]) -> int:
    """How often a workload file wants each side to run; 5 where it does not say."""
    repeats = given.get("repeats", 1)
    return repeats if isinstance(repeats, int) and repeats > 1 else DEFAULT_REPEATS


# -- naming groups of runs -------------------------------------------------------------------------


def is_workload(name: str) -> bool:
    """Whether a side is named by a workload file to be carried out."""
    return name.endswith((".yaml", ".yml"))


def runs_named(name: str, data_dir: str | Path) -> list[Run]:
    """Existing runs: `tag:NAME`, `comparison:ID:a`, or ids separated by commas (as find_run takes them)."""
    folder = data_folder(data_dir)
    if name.startswith("tag:"):
        found = [run for run in list_runs(folder) if name[4:] in _tags(run)]
        if not found:
            raise BadInput(f"no run is tagged {name[4:]!r}; `perfkit ls` shows the tags")
        return found
    return [find_run(one.strip(), folder) for one in name.split(",") if one.strip()]


def _tags(run: Run) -> Sequence[str]:
    try:
        return run.meta.tags
    except PerfkitError:
        return ()


def series_named(name: str, data_dir: str | Path) -> list[Run]:
    """Runs of a trend, oldest first: as `runs_named`; one run alone stands for all of its configuration."""
    folder = data_folder(data_dir)
    found = runs_named(name, folder)
    if len(found) == 1:
        wanted = noise.key(found[0])
        found = [run for run in list_runs(folder) if run.path == found[0].path or _key(run) == wanted]
    return sorted(found, key=lambda run: run.id)


def _key(run: Run) -> str | None:
    try:
        return noise.key(run)
    except PerfkitError:  # a damaged one hides no other
        return None


def noise_sd(run: Run, metric: str, data_dir: str | Path) -> float:
    """The standard deviation of a metric between runs, log scale, from the noise floor; NaN without one."""
    known = noise.load(data_folder(data_dir), run).get(metric)
    return math.nan if known is None else math.sqrt(known.variance)


# -- keeping ---------------------------------------------------------------------------------------


def compare_and_keep(
    a: Sequence[Run], b: Sequence[Run], options: Options, names: tuple[str, str], data_dir: Path
) -> Kept:
    """Compare, with the noise floor of this configuration where there is one, and write it to a folder."""
    history = noise.load(data_dir, a[0]) if a else {}
    found = compare(a, b, options, names=names, history=history)
    ids, asked = {run.id for run in (*a, *b)}, found.to_mapping()["options"]
    if looks := _earlier_looks(ids, asked, data_dir):
        often = "once" if looks == 1 else f"{looks} times"
        words = f"some of these runs were compared before, {often}: p-values are not corrected for that"
        found = dataclasses.replace(found, notes=(*found.notes, words))
    return Kept(_keep(found, a, b, data_dir), found, tuple(a), tuple(b))


def _keep(found: Comparison, a: Sequence[Run], b: Sequence[Run], data_dir: Path) -> Path:
    """Write a comparison to a folder of its own, or leave nothing; the folder."""
    folder = new_folder(data_dir / "comparisons", f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
    told = {
        "id": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs_a": [os.path.relpath(run.path, folder) for run in a],
        "runs_b": [os.path.relpath(run.path, folder) for run in b],
        "comparison": found.to_mapping(),
    }
    try:
        write_json(folder / "comparison.json", told)
    except FileNotFoundError:  # the empty folder was cleaned up as a leftover
        return _keep(found, a, b, data_dir)
    finally:
        remove_if_empty(folder)
    return folder


def _earlier_looks(ids: set[str], options: Any, data_dir: Path) -> int:
    """How many kept comparisons judged some of these runs: looking again and again finds noise, with runs
    dropped, added or made anew, too."""
    looks = 0
    for folder in comparison_folders(data_dir):
        with contextlib.suppress(*_DAMAGE):
            told = read_json(folder / "comparison.json")
            before = {Path(path).name for side in ("runs_a", "runs_b") for path in told[side]}
            judged = not (told["comparison"]["refused"] or told["comparison"]["forced"])
            other = told["comparison"]["options"] != options  # the same question of the same runs is no look
            looks += judged and bool(before & ids) and (before != ids or other)
    return looks


def comparison_folders(data_dir: Path) -> list[Path]:
    """The folders of kept comparisons, oldest first."""
    return sorted(file.parent for file in (data_dir / "comparisons").glob("*/comparison.json"))


def comparison_folder(name: str = "latest", data_dir: str | Path = "") -> Path:
    """The folder of a comparison by id, its start or end, a path, or `latest`; BadInput for none."""
    folder = data_folder(data_dir) / "comparisons"
    there = comparison_folders(folder.parent)
    if os.path.lexists(os.path.join(name, "comparison.json")):
        there = [Path(name)]
    elif name != "latest":
        there = [p for p in there if p.name == name or p.name.startswith(name) or p.name.endswith(name)]
        if len(there) > 1:
            raise BadInput(f"{name!r} means {len(there)} comparisons: {', '.join(p.name for p in there[:3])}")
    if not there:
        raise BadInput(f"no comparison {name!r} in {folder}; `perfkit compare` makes one")
    return there[-1]


def open_comparison(name: str = "latest", data_dir: str | Path = "") -> Kept:
    """The comparison in `comparison_folder`; PerfkitError where it cannot be read."""
    folder = comparison_folder(name, data_dir)
    try:
        given = read_json(folder / "comparison.json")
        paths = [msgspec.convert(given[side], list[str]) for side in ("runs_a", "runs_b")]
        a, b = (tuple(Run(folder / path) for path in side) for side in paths)
        tags = msgspec.convert(given.get("tags", ()), tuple[str, ...])
        note = msgspec.convert(given.get("note", ""), str)
        return Kept(folder, Comparison.from_mapping(given["comparison"]), a, b, tags, note)
    except _DAMAGE as error:
        words = getattr(error, "strerror", None) or f"{type(error).__name__} {error}"
        raise PerfkitError(
            f"{folder} is damaged, comparison.json: {words}; `perfkit rm comparison:{folder.name}` removes it"
        ) from None


# -- the noise floor -------------------------------------------------------------------------------


def measure_noise(
    file: Path, pairs: int, data_dir: Path, allow_targets: Iterable[str], *, show_progress: bool
) -> tuple[Kept, dict[str, Any]]:
    """Compare a workload with itself `pairs` times, keep the floor, and return it with the comparison.

    NothingToJudge when fewer than three pairs can be compared.
    """
    given = read_yaml(file)
    names = (f"{file.stem}", f"{file.stem} again")
    a, b = run_pairs(given, given, names, pairs, data_dir, allow_targets, show_progress=show_progress)
    kept = compare_and_keep(a, b, Options(), names, data_dir)
    good = set(kept.comparison.a.runs) | set(kept.comparison.b.runs)
    both = [(x, y) for x, y in zip(a, b, strict=False) if x.id in good and y.id in good]
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
    noise.save(data_dir, a[0], found)
    return kept, dict(found)
