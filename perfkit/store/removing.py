"""Removing runs: only what is surely a run, of it only what perfkit wrote, and never by halves.

A run folder is renamed, so that it is gone for everybody at once, and then emptied. Where it holds files of
others it stays for them: run.json is renamed first, then perfkit's files are removed. What a kill leaves of
either is known by its name, and `perfkit.store.leftovers` does the rest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from perfkit.errors import BadInput, PerfkitError
from perfkit.store.contents import (
    ASIDE,
    REMOVING,
    Contents,
    contents_of,
    is_id,
    is_temporary,
    left_on_target,
)
from perfkit.store.files import is_held, locked, remove_if_empty
from perfkit.store.reading import Run
from perfkit.store.remote import remove_timeline, require_own


def remove_runs(runs: Iterable[Run]) -> Iterator[Run]:
    """Remove runs, each once, and yield them as they go; files perfkit did not write stay where they are.

    BadInput when `why_not_removed` has something against one of them; then none is removed.
    """
    once = list({_real(run.path): run for run in runs}.values())
    for run in once:
        if why := why_not_removed(run.path):
            raise BadInput(f"{why}; nothing was removed")
    for run in once:
        if _remove(run.path):
            yield run


def _real(path: Path) -> str:
    """The same for all ways to one folder; a link is not what it leads to."""
    path = Path(os.path.abspath(path))
    return os.path.join(os.path.realpath(path.parent), path.name)


# -- what may be removed ---------------------------------------------------------------------------


def why_not_removed(path: Path, *, damaged: bool = True) -> str | None:
    """Why a folder cannot be removed as a run, in words, or None if it can.

    It has to be a real folder inside a folder `runs`, with a run.json that has a known state and the folder's
    name as its id. damaged: one whose run.json cannot be read will do, too, if it is named like a run and
    holds only perfkit's files.
    """
    path = Path(os.path.abspath(path))
    if path.is_symlink():
        return f"{path} is a symbolic link, perfkit removes real folders only; `unlink` removes a link"
    if path.parent.name != "runs":
        return f"{path} is not inside a folder named runs; perfkit removes only runs in there"
    if not os.path.lexists(path / "run.json"):
        return f"{path} is not a run: run.json is missing"
    try:
        contents = contents_of(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return _why_no_run(path, contents, damaged) or _why_busy(path, contents) or _why_left(path)


def _why_no_run(path: Path, contents: Contents, damaged: bool) -> str | None:
    try:
        run_id, why = Run(path).meta.id, f"run.json of {path.name} has no run id"
    except PerfkitError as error:
        run_id, why = "", str(error)
    if run_id == path.name or (damaged and not run_id and is_id(path.name) and not contents.foreign):
        return None
    if run_id:
        why = f"run.json of {path.name} belongs to another run, {run_id!r:.120}"
    elif not is_id(path.name):
        why += ", and the folder is not named like a run"
    elif contents.foreign:
        why += f", and the folder holds files perfkit did not write ({contents.words})"
    return f"{why}; if {path} is a run, remove the folder yourself"


def _why_busy(path: Path, contents: Contents) -> str | None:
    if is_held(path / "run.lock"):
        return f"{path.name} is still running; stop it first"
    for file in contents.files:
        brief = "run.json." in file.name  # a tag being put on: `_remove` waits for it
        if is_temporary(file.name) and not brief and is_held(file):
            return f"{path.name} is being written to by another process (a report?); wait for it"
    return None


def _why_left(path: Path) -> str | None:
    left = left_on_target(path)
    if not left:
        return None
    ways = f"`perfkit cleanup {path.name}` removes them, --forget stops tracking them"
    return f"{path.name} left up to {left:,} things on its target: {ways}"


# -- removing --------------------------------------------------------------------------------------


def _remove_elsewhere(path: Path, url: str) -> None:
    """Remove a run's rows from `url`; PerfkitError where that cannot be reached, unless they are here."""
    require_own(url, path.name)
    try:
        remove_timeline(url, path.name)
    except PerfkitError:
        if not (path / "timeline.parquet").exists():
            raise


def _remove(path: Path) -> bool:
    """Remove a run; False when another process was faster, BadInput when it has come into use meanwhile."""
    try:
        with only_us(path):
            if not os.path.lexists(path / "run.json"):
                return False
            if why := why_not_removed(path):
                raise BadInput(f"{why}; not removed")
            at = ""
            with contextlib.suppress(PerfkitError):  # run.json is damaged
                at = Run(path).meta.rows_at
            if at:
                _remove_elsewhere(path, at)
            aside = path.with_name(ASIDE + path.name)
            too_long = len(os.fsencode(aside.name)) > 255
            if contents_of(path).foreign or too_long or os.path.lexists(aside):
                os.replace(path / "run.json", path / REMOVING)
                empty(path)
            else:
                os.rename(path, aside)
                empty(aside)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def only_us(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the lock under which run.json is changed and runs are removed; errors as for `locked`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path / "run.json.lock", how))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise  # on a full disk nobody can make the lock; removing a run is the way out
        yield


def empty(folder: Path) -> None:
    """Remove perfkit's files from a run folder, and the folder unless it holds others.

    If it does and was renamed, it gets its name back.
    """
    contents = contents_of(folder)
    for file in contents.files:
        file.unlink(missing_ok=True)
    for inner in contents.folders:
        remove_if_empty(inner)
    if folder.name.startswith(ASIDE) and folder.exists():
        os.rename(folder, folder.with_name(folder.name.removeprefix(ASIDE)))
