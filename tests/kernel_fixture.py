"""A real Jupyter kernel of this interpreter, driven over its sockets as JupyterLab does."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[1]


class OwnKernelManager(KernelManager):
    """Starts this interpreter, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """See KernelManager."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="x", language="python")


@dataclass
class Cell:
    """What a cell did: its reply (or None), and its displays as (message type, display id, data)."""

    reply: dict[str, Any] | None = None
    displays: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    error: dict[str, Any] | None = None


class Kernel:
    """A running kernel."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.manager.provisioner.pid)  # type: ignore[union-attr]

    def run(self, code: str, timeout_s: float = 30) -> Cell:
        """Execute a cell and wait for its end."""
        return self.wait(self.client.execute(code), timeout_s)

    def wait(self, msg_id: str, timeout_s: float = 30) -> Cell:
        """All that a cell sends until it is idle again, and its reply."""
        cell, ends = Cell(), time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, ends - time.monotonic()))
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                cell.displays.append((kind, content["transient"].get("display_id", ""), content["data"]))
            elif kind == "stream":
                cell.text += content["text"]
            elif kind == "execute_result":
                cell.text += content["data"]["text/plain"]
            elif kind == "error":
                cell.error = content
            elif kind == "status" and content["execution_state"] == "idle":
                break
        cell.reply = next(iter(self.replies([msg_id], 5).values()), None)
        return cell

    def wait_for_text(self, msg_id: str, words: str, timeout_s: float = 20) -> None:
        """Until a display of a cell says these words."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            message = self.client.get_iopub_msg(timeout=timeout_s)
            told = message["content"].get("data") or {}
            if message["parent_header"].get("msg_id") == msg_id and words in told.get("text/plain", ""):
                return
        raise AssertionError(f"never said: {words}")

    def replies(self, msg_ids: list[str], timeout_s: float) -> dict[str, dict[str, Any]]:
        """The replies on the shell channel to these messages, in the order they came."""
        found: dict[str, dict[str, Any]] = {}
        ends = time.monotonic() + timeout_s
        while len(found) < len(msg_ids) and time.monotonic() < ends:
            try:
                message = self.client.get_shell_msg(timeout=0.2)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") in msg_ids:
                found[message["parent_header"]["msg_id"]] = message
        return found

    def children(self) -> list[int]:
        """Processes the kernel has started and that still run a load."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.pid and b"perfkit.lab" in command:
                found.append(int(folder.name))
        return found


@contextmanager
def running_kernel(*first: str) -> Iterator[Kernel]:
    """A kernel that is ready, in a folder of its own; ended at the end. first: heads its import path."""
    with tempfile.TemporaryDirectory(prefix="pk-") as folder:
        manager = OwnKernelManager(transport="ipc", connection_file=f"{folder}/kernel.json")
        path = os.pathsep.join(filter(None, [*first, str(ROOT), os.environ.get("PYTHONPATH")]))
        with open(os.devnull, "w") as log:
            manager.start_kernel(cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=30)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
