"""The reference server as a process of its own, for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_server.postgres import embedded_postgres
from perfkit.drive.local_server import reference_server


@pytest.fixture(scope="session")
def agent_server() -> Iterator[str]:
    """URL of a server on embedded PostgreSQL whose model does not wait."""
    with reference_server({"model_speed": 0}) as served:
        yield served.url


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same on SQLite."""
    file = tmp_path_factory.mktemp("sqlite") / "agents.db"
    with reference_server({"model_speed": 0, "database_url": f"sqlite:///{file}"}) as served:
        yield served.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a real PostgreSQL, for asyncpg; its tables are the tests' own."""
    with embedded_postgres(None) as url:
        yield url


@contextmanager
def client(url: str, **headers: str) -> Iterator[httpx.Client]:
    """An httpx client of a server."""
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as made:
        yield made


@dataclass
class RunningServer:
    """A server started by a test."""

    process: subprocess.Popen[bytes]
    ready: str
    stderr: Path

    @property
    def url(self) -> str:
        """Its base URL, from the ready line."""
        return self.ready.split()[4]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def complaints(self) -> str:
        """What it wrote to standard error so far, but for its watchdog: that this machine was busy."""
        stacks = r"(--.*\n|  .*\n|Task-.*\n|\S+: \S+:\d+ .*\n|\n)*"
        blocked = rf"^event loop (blocked|still blocked|free again) .*\n{stacks}"
        return re.sub(blocked, "", self.stderr.read_text(), flags=re.MULTILINE)

    def stop(self) -> int:
        """SIGTERM, by pid; returns the exit code."""
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def running_server(*options: str, start_s: float = 30) -> Iterator[RunningServer]:
    """`perfkit serve` on a free port as a process of its own, ready within 30 s, stopped at the end.

    Its standard error goes to a file: a pipe nobody reads would stop a chatty server.
    """
    command = [sys.executable, "-m", "agent_server", "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        stderr = Path(folder) / "stderr"
        with (
            stderr.open("wb") as out,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out) as process,
        ):
            timer = threading.Timer(start_s, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                server = RunningServer(process, process.stdout.readline().decode(), stderr)
                timer.cancel()
                assert "ready at" in server.ready, server.complaints()
                yield server
            finally:
                timer.cancel()
                if process.poll() is None:
                    process.terminate()
                    process.wait(20)


def is_alive(pid: int) -> bool:
    """Whether a process exists (and is no zombie)."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


AGENT: dict[str, Any] = {
    "name": "ada",
    "model": "openai-proxy/gpt-4o-mini",
    "embedding": "openai/text-embedding-3-small",
    "include_base_tools": False,
    "memory_blocks": [{"label": "human", "value": "h"}, {"label": "persona", "value": "p"}],
}
