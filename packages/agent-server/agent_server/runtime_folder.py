"""A folder of the user's own for locks and sockets: a shared one shuts out the second user of a machine."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


class NotPrivate(RuntimeError):
    """The folder cannot be used; the message says why and what to do, in one line."""


def runtime_folder() -> Path:
    """Return a folder that only this user can write to: XDG_RUNTIME_DIR/perfkit, else TMPDIR/perfkit-UID.

    It is made when it is not there. Raises NotPrivate for one that belongs to, or is open to, others.
    """
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if own and _why_not(Path(own)) == "":
        folder = Path(own, "perfkit")
    else:  # not set, or inherited from another user by su
        folder = Path(tempfile.gettempdir(), f"perfkit-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        why = _why_not(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
    if why:
        raise NotPrivate(f"{folder}: {why}; remove it, or point TMPDIR to a folder of your own")
    return folder


def _why_not(folder: Path) -> str:
    """Why others could interfere in a folder; empty where they cannot."""
    try:
        found = folder.lstat()
    except OSError as error:
        return error.strerror or type(error).__name__
    if not stat.S_ISDIR(found.st_mode):
        return "not a folder"
    if found.st_uid != os.getuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & 0o022:
        return f"other users may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "not writable"
