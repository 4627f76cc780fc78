"""The folder an import is made in: beside the runs until it is one of them, and gone whatever happens."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from perfkit import interrupts
from perfkit.errors import PerfkitError, no_place
from perfkit.store import IMPORTING, RunFolder
from perfkit.store.leftovers import remove_leftover


@contextlib.contextmanager
def aside(data_dir: Path) -> Iterator[RunFolder]:
    """A folder on the same disk as the runs, locked, and gone afterwards unless it was moved away.

    Those that imports left which were killed go first. PerfkitError where it cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            (data_dir / "runs").mkdir(parents=True, exist_ok=True)
            for left in data_dir.glob(f"{IMPORTING}*"):
                with contextlib.suppress(OSError):  # held by an import that is on, or somebody else's
                    remove_leftover(left)
            with interrupts.held():  # a signal between making it and knowing of it would leave it there
                folder = _made(data_dir)
                stack.callback(shutil.rmtree, folder.path, ignore_errors=True)
                stack.callback(folder.close)
            (folder.path / "segments").mkdir()
        except OSError as error:
            raise PerfkitError(no_place(f"write runs to {data_dir}", error)) from None
        try:
            yield folder
        except OSError as error:
            raise PerfkitError(no_place(f"write to {data_dir}", error)) from None


def _made(data_dir: Path) -> RunFolder:
    """A new folder whose lock is held."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=IMPORTING, dir=data_dir))
        with contextlib.suppress(FileNotFoundError):  # cleaned up by another process before it was locked
            return RunFolder(path)
