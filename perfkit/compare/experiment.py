"""Comparisons kept in a folder each, and the runs that a side names."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perfkit.card import Card
from perfkit.compare import Comparison, Options, Verdict, compare, noise
from perfkit.errors import BadInput, PerfkitError, unknown
from perfkit.hosts import as_list
from perfkit.store import Run, data_folder, existing_folder, find_run, list_runs, write_json
from perfkit.store.files import new_folder, read_json, remove_if_empty
from perfkit.text import for_notebook

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

    @property
    def verdict(self) -> Verdict:
        """regressed, improved, equivalent, inconclusive; `within-run only` or `refused`: there is none."""
        return self.comparison.verdict

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
    return keep(compare(a, b, options, names=names, history=history), a, b, data_dir)


def compare_named(
    a: str | Run | Sequence[Run] | None = None,
    b: str | Run | Sequence[Run] | None = None,
    *,
    names: Sequence[str] = ("A", "B"),
    margin: float = Options.margin,
    error_margin: float = Options.error_margin,
    alpha: float = Options.alpha,
    primary: str | Sequence[str] = Options.primary,
    vary: str | Sequence[str] = (),
    force: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    **others: Any,
) -> Kept:
    """Compare two groups of runs, keep the comparison and return it: `perfkit.compare`::

        perfkit.compare("tag:before", "tag:after")
        perfkit.compare([run1, run2, run3], [run4, run5, run6], names=("old", "new"), margin=0.1)

    a, b: runs, or text as `perfkit compare` takes it (ids separated by commas, `tag:NAME`). names: what the
    sides are called. margin: a ratio within 1 ± this is a difference nobody cares about; error_margin: the
    same of the share of failed requests, absolute. alpha: chance of a false alarm. primary: the metrics that
    decide. vary: what may differ between the sides besides the server and the code. force: compare what is
    not comparable. Two workload files are carried out in turns by `perfkit compare` in a shell. Raises
    BadInput.

    What is returned shows itself; `.verdict` is its word, `.comparison` all of it: `.words`, `.results` (a
    metric each: `.ratio`, `.low`, `.high`, `.verdict`), `.notes`, `.refused`; `.sides` the runs that count,
    `.path` its folder. One run per side gets no verdict.
    """
    options: dict[str, Any] = {"margin": margin, "error_margin": error_margin, "alpha": alpha, "force": force}
    for name in others:
        raise unknown("option", name, {*options, "primary", "vary", "names", "data_dir"})
    if a is None or b is None:
        raise BadInput("perfkit.compare takes two groups of runs: perfkit.compare('tag:before', 'tag:after')")
    folder = existing_folder(data_dir)
    options |= {"primary": _texts("primary", primary), "vary": _texts("vary", vary)}
    called = _texts("names", names)
    if len(called) != 2 or isinstance(names, str):
        raise BadInput(f"names: expected two different texts, such as ('old', 'new'), got {names!r:.60}")
    sides = _group(a, folder), _group(b, folder)
    return compare_and_keep(*sides, Options(**options), (called[0], called[1]), folder)


def _texts(name: str, given: object) -> tuple[str, ...]:
    """One text or several, each once; BadInput, under the option's name, for anything else."""
    found = as_list(given) if isinstance(given, Iterable) else [given]
    texts = tuple(one for one in found if isinstance(one, str) and one)
    if len(texts) < len(found):
        raise BadInput(f"{name}: expected texts, got {given!r:.60}")
    return texts


def _group(side: object, data_dir: Path) -> list[Run]:
    """The runs of a side of `compare_named`."""
    if isinstance(side, str):
        if is_workload(side):
            raise BadInput(f"{side}: two workload files are carried out by `perfkit compare A.yaml B.yaml`")
        return runs_named(side, data_dir)
    runs: list[Run] = []
    for one in side if isinstance(side, Iterable) else [side]:
        if not isinstance(one, Run):
            raise BadInput(f"perfkit.compare takes runs, ids or tag:NAME, not {one!r:.80}")
        runs.append(one)
    return runs


def keep(found: Comparison, a: Sequence[Run], b: Sequence[Run], data_dir: Path) -> Kept:
    """Write a comparison of these runs to a folder, with a note where some of them were compared before."""
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
    folder, name = data_folder(data_dir) / "comparisons", name.removeprefix("comparison:")
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
