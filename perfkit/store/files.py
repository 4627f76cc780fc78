"""Files as perfkit reads and writes them: regular files only, replaced in one step, changed by one process.

Locks are `flock`s, which end with their process however it ends. A file that is being written is locked too,
so a temporary file nobody holds is known to be a leftover of a kill.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: A document perfkit reads as a whole (run.json, a workload, a comparison) is never larger.
MOST_BYTES = 64 * 1024 * 1024
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


# -- reading ---------------------------------------------------------------------------------------


def shipped(name: str) -> Path:
    """The folder `name` that comes with perfkit: in the package (wheel), or beside it (repository)."""
    package = Path(__file__).parents[1]
    inside = package / f"_{name}"
    return inside if inside.is_dir() else package.parent / name


def require_regular(path: Path) -> Path:
    """Return `path`; OSError, without opening it, unless it is a regular file or a link to one.

    Opening a pipe waits for somebody to write to it, reading a device may never end.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "something else")
        raise OSError(errno.EINVAL, f"it is {what}, not a regular file", str(path))
    return path


def read_regular(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file; OSError for anything else, and for more than `most_bytes`."""
    fd = os.open(require_regular(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes / 2**20:,.0f} MB", str(path))
    return content


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return what a JSON file holds; OSError as for `read_regular`, ValueError for broken JSON."""
    try:
        return json.loads(read_regular(path, most_bytes))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


# -- writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """Yield a new file beside `path` to write to; it takes the place of `path`, synced, when the block ends.

    When the block raises, the new file is removed and `path` stays as it was. An OSError names `path`.
    """
    try:
        fd, temporary = _new_file(path, suffix)
        try:
            yield temporary
            os.fsync(fd)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            os.close(fd)
    except OSError as error:
        name = os.path.basename(str(error.filename or ""))  # a write knows none
        if not name or name.startswith(f".{path.name[:40]}."):
            words = error.strerror or str(error).splitlines()[0]  # pyarrow says all in one text
            raise OSError(error.errno, words, str(path)) from None
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or a crash, meets the old one or the new one, never a part.

    What writes of the same file left that were killed is removed: it may lie where nobody else looks for it.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    for left in path.parent.glob(f".{glob.escape(path.name[:40])}.{'[0-9a-f]' * 8}.part"):
        with contextlib.suppress(OSError), locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):  # removes it
            pass


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=1, default=str) + "\n").encode())


def new_folder(parent: Path, name: str) -> Path:
    """Make and return a folder called `name` and four hex digits that no other process has taken."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.suppress(FileExistsError):
            path = parent / f"{name}-{secrets.token_hex(2)}"
            path.mkdir()
            return path


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing any more."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _new_file(path: Path, suffix: str) -> tuple[int, Path]:
    """A new file beside `path` with a name no other process uses, locked."""
    while True:
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{suffix}")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _take(fd, temporary):
            return fd, temporary


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the filesystem can."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


# -- locks -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX, *, keep: bool = False) -> Iterator[None]:
    """Hold the lock file at `path`, made where it is missing, and removed afterwards unless `keep`.

    how: as of flock; with LOCK_NB, BlockingIOError when another process holds it. FileNotFoundError when its
    folder is gone.
    """
    fd = hold(path, how)
    try:
        yield
    finally:
        if not keep:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(fd)


def hold(path: Path, how: int = fcntl.LOCK_EX) -> int:
    """Return a descriptor that holds the lock file at `path` until it is closed; errors as for `locked`."""
    while True:
        fd = os.open(path, _LOCK_FLAGS, 0o666)
        if _take(fd, path, how):
            return fd


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of this file; False where there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _take(fd: int, path: Path, how: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file; False, with the file closed, when it was removed from `path` before."""
    try:
        fcntl.flock(fd, how)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return True
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return False
