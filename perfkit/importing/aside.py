"""The folder an import is made in: beside the runs until it is one of them, and gone whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from perfkit.errors import PerfkitError
from perfkit.store import RunFolder

_PREFIX = ".importing-"


@contextlib.contextmanager
def aside(data_dir: Path) -> Iterator[RunFolder]:
    """A folder on the same disk as the runs, locked, and gone afterwards unless it was moved away.

    Those that imports left which were killed go first. PerfkitError where the place cannot be written.
    """
    try:
        (data_dir / "runs").mkdir(parents=True, exist_ok=True)
        _sweep(data_dir)
        folder = _made(data_dir)
        (folder.path / "segments").mkdir()
    except OSError as error:
        raise PerfkitError(f"cannot write runs to {data_dir}: {error.strerror}; choose --data-dir") from None
    try:
        yield folder
    finally:
        folder.close()
        shutil.rmtree(folder.path, ignore_errors=True)


def _made(data_dir: Path) -> RunFolder:
    """A new folder whose lock is held."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=data_dir))
        with contextlib.suppress(FileNotFoundError):  # swept by another import before its lock was there
            lock = open(path / "run.lock", "w")  # noqa: SIM115  held as long as the import lasts
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (path / "run.lock").exists():
                return RunFolder(path, lock)
            lock.close()


def _sweep(data_dir: Path) -> None:
    """Remove the folders of dead imports: nobody holds their lock."""
    for left in data_dir.glob(f"{_PREFIX}*"):
        try:
            with open(left / "run.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # killed before its lock: there is nothing in it
                left.rmdir()
        except OSError:  # held by an import that is on, or somebody else's
            continue
