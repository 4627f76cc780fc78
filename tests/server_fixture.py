"""The reference server as a process of its own, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from perfkit.local_server import reference_server


@pytest.fixture(scope="session")
def agent_server() -> Iterator[str]:
    """URL of a server on embedded PostgreSQL whose model does not wait."""
    with reference_server({"model_speed": 0}) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same on SQLite."""
    file = tmp_path_factory.mktemp("sqlite") / "agents.db"
    with reference_server({"model_speed": 0, "database_url": f"sqlite:///{file}"}) as url:
        yield url


@contextmanager
def client(url: str, **headers: str) -> Iterator[httpx.Client]:
    """An httpx client of a server."""
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as made:
        yield made


def start(*options: str) -> subprocess.Popen[str]:
    """Start `perfkit serve` and return it when it is ready; the ready line is in `.ready`."""
    command = [sys.executable, "-m", "perfkit.server", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.ready = process.stdout.readline()  # type: ignore[attr-defined]
    return process


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
