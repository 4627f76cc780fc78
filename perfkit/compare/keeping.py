"""Kept comparisons as one keeps runs: listed, tagged, removed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perfkit.compare.experiment import Kept, comparison_folder, comparison_folders, open_comparison
from perfkit.errors import BadInput, PerfkitError
from perfkit.store import write_json
from perfkit.store.contents import is_temporary
from perfkit.store.files import locked, read_json, remove_if_empty
from perfkit.store.marks import Marks

#: How a verb that takes runs is given a comparison instead: `comparison:ID`.
PREFIX = "comparison:"
_FILE, _LOCK = "comparison.json", "comparison.json.lock"
_PAGES = ("comparison.html", "comparison.ipynb")


def is_comparison(name: str) -> bool:
    """Whether a name means a comparison, not its runs (`comparison:ID:a`)."""
    return name.startswith(PREFIX) and not name.endswith((":a", ":b"))


def comparison_named(name: str, data_dir: Path) -> Kept:
    """The comparison that `comparison:ID` means; BadInput when there is none."""
    return open_comparison(name.removeprefix(PREFIX), data_dir)


def listed(data_dir: Path) -> list[dict[str, Any]]:
    """Every kept comparison in short, oldest first; a damaged one is listed as such and hides no other."""
    found = []
    for folder in comparison_folders(data_dir):
        try:
            found.append(brief(open_comparison(str(folder), data_dir)))
        except PerfkitError as error:
            unknown: dict[str, Any] = {"a": "", "b": "", "runs": None, "tags": []}
            found.append({"id": folder.name, "verdict": "damaged", **unknown, "words": str(error)})
    return found


def needed_runs(comparisons: Iterable[Kept]) -> dict[str, str]:
    """The runs that comparisons need: run id -> that of the comparison. One that was refused needs none."""
    needing = [kept for kept in comparisons if not kept.comparison.refused]
    return {run.id: kept.id for kept in needing for run in (*kept.a, *kept.b)}


def brief(kept: Kept) -> dict[str, Any]:
    """One comparison in short; runs: how many of each side count."""
    a, b = kept.comparison.a, kept.comparison.b
    return {
        "id": kept.id,
        "verdict": kept.comparison.verdict,
        "a": a.name,
        "b": b.name,
        "runs": [len(a.runs), len(b.runs)],
        "tags": list(kept.tags),
        "note": kept.note,
        "words": kept.comparison.words,
    }


def mark(kept: Kept, *, add: Iterable[str] = (), remove: Iterable[str] = (), note: str | None = None) -> Kept:
    """Add and remove tags, set the note ("" removes it); the comparison as it is now.

    BadInput for a word that is no tag, a tag to remove that it does not have, and a note that is too long.
    """
    marks = Marks.of(add, remove, note)
    marks.require(kept.tags)
    with locked(kept.path / _LOCK):
        given = read_json(kept.path / _FILE)
        given["tags"] = marks.tags(kept.tags)
        if note is not None:
            given["note"] = note.strip()
        write_json(kept.path / _FILE, given)
    return open_comparison(str(kept.path), kept.path.parent.parent)


def removable(name: str, data_dir: Path) -> Path:
    """The folder of the comparison `comparison:ID`, a whole id or a path; BadInput where it may not go."""
    name = name.removeprefix(PREFIX)
    folder = Path(os.path.abspath(comparison_folder(name, data_dir)))
    if "/" not in name and folder.name != name:
        raise BadInput(f"to remove a comparison give its whole id, {folder.name}, not {name!r:.120}")
    if folder.parent.name != "comparisons" or folder.is_symlink():
        raise BadInput(f"{folder} is not a folder inside one named comparisons; nothing was removed")
    return folder


def remove_comparison(folder: Path) -> list[str]:
    """Remove a comparison for good; the files in its folder that perfkit did not write, which stay."""
    with locked(folder / _LOCK):
        (folder / _FILE).unlink(missing_ok=True)  # first: without it the folder is no comparison
        for file in sorted((folder / "report").glob("*")):
            if file.name in _PAGES or is_temporary(file.name):
                file.unlink(missing_ok=True)
        remove_if_empty(folder / "report")
    stays = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    if not stays:
        remove_if_empty(folder)
    return stays
