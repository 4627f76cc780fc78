"""What kills leave behind in a data folder: listed by `perfkit doctor`, removed by `perfkit prune`.

Whatever a process is still writing is locked by it, so nothing here has to guess by a file's age.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perfkit.store.contents import ASIDE, REMOVING, Contents, contents_of, is_id, is_temporary, size_of
from perfkit.store.files import is_held, locked, remove_if_empty
from perfkit.store.removing import empty, only_us

#: Before the name of a folder that an import is made in.
IMPORTING = ".importing-"
_AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB
_is_comparison = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}").fullmatch


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody will finish, and what it was to be."""

    path: Path
    bytes: int
    what: str


@dataclass(frozen=True)
class Survey:
    """What there is in a data folder besides runs: leftovers of kills, and folders in runs/ of others.

    foreign: with what is in them.
    """

    leftovers: tuple[Leftover, ...]
    foreign: tuple[tuple[Path, str], ...]


def survey(data_dir: Path) -> Survey:
    """Look for leftovers; nothing is changed. What cannot be read counts as somebody else's."""
    found: list[Leftover] = []
    foreign: list[tuple[Path, str]] = []
    for folder in _folders(data_dir / "runs"):
        try:
            contents = contents_of(folder)
        except OSError as error:
            foreign.append((folder, str(error.strerror)))
            continue
        if what := _cut_off(folder, contents):
            if not is_held(folder / "run.lock") and not is_held(folder / "run.json.lock"):
                found.append(Leftover(folder, contents.bytes, what))
            continue
        if not os.path.lexists(folder / "run.json"):
            foreign.append((folder, contents.words or "rows, but no run.json"))
            if not is_id(folder.name):
                continue
        found += _temporary(contents.files)
    for folder in _folders(data_dir):
        if folder.name.startswith(IMPORTING) and not is_held(folder / "run.lock"):
            with contextlib.suppress(OSError):
                found.append(Leftover(folder, contents_of(folder).bytes, "an interrupted import"))
    for folder in _others(data_dir):
        try:
            files = [folder / name for name in os.listdir(folder)]
        except OSError:
            continue
        found += _temporary(files)
        if _is_comparison(folder.name) and all(is_temporary(file.name) for file in files):
            found.append(Leftover(folder, 0, "an unfinished comparison"))
    return Survey(tuple(found), tuple(foreign))


def remove_leftovers(data_dir: Path) -> Iterator[Leftover]:
    """Remove the leftovers nobody holds, and yield them as they go."""
    for one in survey(data_dir).leftovers:
        with contextlib.suppress(OSError):  # come to life, or gone, meanwhile; or it may not be removed
            remove_leftover(one.path)
            yield one


def remove_leftover(path: Path) -> None:
    """Remove a leftover; OSError where that cannot be, BlockingIOError where it is in use."""
    if not path.is_dir():
        with locked(path, _AT_ONCE):  # which removes it
            return
    if _is_comparison(path.name):
        remove_if_empty(path)
        return
    with locked(path / "run.lock", _AT_ONCE, keep=True):
        if path.name.startswith(IMPORTING):
            shutil.rmtree(path)
            return
        with only_us(path, _AT_ONCE):
            if _cut_off(path, contents_of(path)):  # still
                empty(path)


def _cut_off(folder: Path, contents: Contents) -> str | None:
    """What kind of leftover a folder in runs/ is; None when it is a run, or somebody else's."""
    if folder.name.startswith(ASIDE) or os.path.lexists(folder / REMOVING):
        return "an interrupted removal"
    if not is_id(folder.name) or contents.foreign or os.path.lexists(folder / "run.json"):
        return None
    # a run writes run.json before its first row: rows without it are of a copy under way, or of a run whose
    # run.json was lost, and rows are never deleted for that
    rows = any(f.suffix == ".parquet" and not is_temporary(f.name) for f in contents.files)
    return None if rows else "a run that never started"


def _folders(folder: Path) -> list[Path]:
    """The real folders in it, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _others(data_dir: Path) -> Iterator[Path]:
    """The folders besides runs that perfkit writes to."""
    for kind in ("comparisons", "reports"):
        for folder in _folders(data_dir / kind):
            yield from (inner for inner in _folders(folder) if inner.name == "report")
            yield folder
    yield from (folder for folder in _folders(data_dir) if folder.name in ("batches", "noise"))


def _temporary(files: Iterable[Path]) -> Iterator[Leftover]:
    for file in files:
        if is_temporary(file.name) and file.is_file() and not file.is_symlink() and not is_held(file):
            yield Leftover(file, size_of(file), "a temporary file")
