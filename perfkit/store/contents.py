"""Which files of a run folder are perfkit's: only those are removed, whatever else lies in the folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from perfkit.page import GENERATOR
from perfkit.store.files import read_json

#: Before the name of a run folder that is being removed.
ASIDE = ".removing-"
#: What run.json is called while the run is being removed from a folder that other files keep.
REMOVING = ".run.json.removing"
#: The name of perfkit's temporary files, also those of earlier versions.
is_temporary = re.compile(r"\..+\.(part|part\.ipynb|try)|run\.json\.lock").fullmatch
#: The id of a run that perfkit made.
is_id = re.compile(r"\d{8}-\d{6}-.+-[0-9a-f]{4,}").fullmatch

_FILES = ("stop", "timeline.parquet", "probes.parquet", "run.lock")
#: They go last: while one of them is there, the folder is known as a run, or as one that is being removed.
_LAST = ("run.json", REMOVING, "run.json.lock")
_SEGMENT = re.compile(r"([a-z]*\d*-)?\d{6,}(-\d{6,})?\.parquet|[a-z]+\d*\.live").fullmatch
_JOURNAL = re.compile(r"undo-[a-z]+\d*\.jsonl").fullmatch
_REPORTS = re.compile(r"(run_report|server_health)\.(ipynb|html)").fullmatch


@dataclass(frozen=True)
class Contents:
    """files, folders: perfkit's, in the order they can be removed in; foreign: what others put there."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    foreign: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """The size of perfkit's files."""
        return sum(map(size_of, self.files))

    @property
    def words(self) -> str:
        """The foreign ones for a message."""
        names = sorted(str(path.relative_to(self.folders[-1])) for path in self.foreign)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return ", ".join(names[:5]) + more


def contents_of(folder: Path) -> Contents:
    """Sort what is in a run folder. Links are not followed: in the place of a file of perfkit's they are its.

    A folder that is gone holds nothing; OSError where it cannot be read.
    """
    files: list[Path] = []
    folders: list[Path] = []
    foreign: list[Path] = []
    for entry in _entries(folder):
        if entry.name in _INSIDE and entry.is_dir(follow_symlinks=False):
            folders.append(Path(entry))
            inside, known = _entries(folder / entry.name), _INSIDE[entry.name]
        else:
            inside, known = [entry], _is_known
        for one in inside:
            is_file = not one.is_dir(follow_symlinks=False)
            own = is_file and (is_temporary(one.name) or known(one))
            (files if own else foreign).append(Path(one))
    files.sort(key=lambda file: _LAST.index(file.name) if file.name in _LAST else -1)
    return Contents(tuple(files), (*folders, folder), tuple(foreign))


def left_on_target(folder: Path) -> int:
    """How many things a run has made and not removed, as its journals say (`perfkit.drive.journal`)."""
    lines = 0
    for entry in _entries(folder):
        if _JOURNAL(entry.name) and entry.is_file(follow_symlinks=False):
            with open(entry, "rb") as journal:
                lines += sum(1 for _ in journal)
    return lines


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def size_of(file: Path) -> int:
    """The size of a file in bytes; 0 when it is gone."""
    try:
        return file.lstat().st_size
    except FileNotFoundError:
        return 0


def _is_known(entry: os.DirEntry[str]) -> bool:
    return entry.name in (*_FILES, *_LAST, *_INSIDE) or bool(_JOURNAL(entry.name))


def _is_segment(entry: os.DirEntry[str]) -> bool:
    return bool(_SEGMENT(entry.name))


def _is_report(entry: os.DirEntry[str]) -> bool:
    """Whether perfkit made a page or notebook: by its name, else by what is written in it."""
    return bool(_REPORTS(entry.name)) or (entry.is_file(follow_symlinks=False) and _was_made(Path(entry)))


def _was_made(file: Path) -> bool:
    try:
        if file.suffix == ".html":
            with open(file, "rb") as page:
                return GENERATOR in page.read(4096)
        told = read_json(file) if file.suffix == ".ipynb" else {}
        return bool(told["metadata"]["papermill"]["output_path"] == file.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


_INSIDE = {"segments": _is_segment, "probe_segments": _is_segment, "report": _is_report}
