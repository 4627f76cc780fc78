"""The client of `python -m perfkit.lab`: a run in a process of its own, its answers and its complaints."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from perfkit.errors import BadInput, PerfkitError

#: So long may the process live after the end of its run.
LAST_S = 10.0
_KEPT_LINES = 20


def error_of(answer: Mapping[str, Any]) -> PerfkitError:
    """Return the error that an answer with "error" and "code" stands for."""
    kind = BadInput if answer["code"] == BadInput.exit_code else PerfkitError
    return kind(answer["error"])


class RunProcess:
    """The process, its answers and its complaints; leaving the block waits for its end, or ends it."""

    def __init__(self, request: bytes, *, more: bool = False) -> None:
        """request: its first line; more: others follow, by `say`."""
        self._request, self._more = request, more
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lines: list[str] = []

    def __enter__(self) -> RunProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "perfkit.lab"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the kernel's process group is passed on by us, once
        )
        threading.Thread(target=self._answers, daemon=True).start()
        self._listener = threading.Thread(target=self._errors, daemon=True)
        self._listener.start()
        self.say(self._request)
        if not self._more:
            self.hang_up()
        return self

    def say(self, line: bytes) -> None:
        """Write a line to it; if it has ended already, its exit code is told."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def hang_up(self) -> None:
        """Say nothing any more: what waits for a line ends its run."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.hang_up()
        if failed is not None:  # nobody follows it any more
            self.interrupt()
        try:
            self._process.wait(LAST_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._listener.join(1.0)  # its last words

    def _answers(self) -> None:
        assert self._process.stdout is not None
        line = b""
        try:
            with self._process.stdout as pipe:
                for line in pipe:
                    self._messages.put(json.loads(line))
        except ValueError:  # nothing that follows it can be believed
            self._lines.append(f"an answer that is not JSON: {line!r:.80}")
        finally:
            self._messages.put(None)

    def _errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            for line in pipe:
                self._lines.append(line.decode(errors="replace").rstrip())
                del self._lines[:-_KEPT_LINES]

    @property
    def complaints(self) -> list[str]:
        """The last lines of standard error, a scenario's prints among them."""
        return list(self._lines)

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next answer, an empty one when there is none in time, None when there will be no more."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return {}

    def exit_code(self) -> int | None:
        """Of the process that has closed its output."""
        try:
            return self._process.wait(LAST_S)
        except subprocess.TimeoutExpired:
            return None

    def interrupt(self) -> None:
        """SIGINT, to it alone: its workers follow it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, to it and its workers; a reference server ends with it by itself."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
