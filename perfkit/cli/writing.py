"""Files that a verb writes besides its run: all of a file or nothing, and refused before the load."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from perfkit.errors import BadInput, PerfkitError


def refuse_unwritable(file: Path) -> None:
    """BadInput before the load where a file could not be written after it."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"cannot write {file}: folder {folder} does not exist")
    if file.is_dir():
        raise BadInput(f"cannot write {file}: it is a folder; name a file in it")
    if not os.access(file if file.exists() else folder, os.W_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        why = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise BadInput(f"cannot write {file}: {why}; name another file")
    if _is_special(file):
        with _opened(file):  # a pipe nobody reads is an error now, not an endless wait after the load
            pass


def remove_outdated(file: Path | None) -> None:
    """Remove what an earlier job has written there, as CI would take it for what this one found."""
    if file is not None and file.is_file() and not _is_special(file):
        with contextlib.suppress(OSError):
            os.unlink(os.path.realpath(file))


@contextlib.contextmanager
def outdated_removed(*files: Path | None) -> Iterator[None]:
    """`remove_outdated` where what is done inside ends with an error."""
    try:
        yield
    except PerfkitError:
        for file in files:
            remove_outdated(file)
        raise


def write(file: Path, text: str) -> None:
    """Write all of it or nothing; to a pipe or device as to any."""
    if _is_special(file):
        with _opened(file) as special:
            special.write(text.encode())
    else:
        from perfkit.store import write_atomically

        write_atomically(Path(os.path.realpath(file)), text.encode())


def _is_special(file: Path) -> bool:
    return file.exists() and (not file.is_file() or file.is_relative_to("/dev"))  # /dev/stdout may be a file


def _opened(file: Path) -> IO[bytes]:
    try:
        fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(f"cannot write {file}: {error.strerror}; name another file") from None
    os.set_blocking(fd, True)
    return open(fd, "wb")
