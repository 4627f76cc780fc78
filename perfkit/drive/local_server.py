"""Start the reference agent server for a run, in a process of its own, and end it with the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from perfkit.errors import BadInput, PerfkitError, with_extra

_READY = re.compile(r"ready at (http://\S+)(?:.*, instances ([^)]*)\))?")
_START_S = 90.0
_STOP_S = 20.0


def why_not_here() -> str:
    """Return why the embedded PostgreSQL cannot start for this user; empty where it can."""
    try:
        from agent_server.runtime_folder import NotPrivate, runtime_folder

        runtime_folder()
    except ModuleNotFoundError:
        return ""  # the extra is not installed, which is a check of its own
    except NotPrivate as error:
        return str(error)
    return ""


class Served(NamedTuple):
    """A server that answers: its URL, that of each of its instances, and its process's id."""

    url: str
    instances: tuple[str, ...]
    pid: int


@contextmanager
def reference_server(options: Mapping[str, Any]) -> Iterator[Served]:
    """Yield where a fresh `perfkit serve` answers, with `options` as its command-line options.

    Those that may hold a password go by the environment: other users of the machine read command lines.
    """
    try:
        import agent_server  # noqa: F401  found here, it is found there
    except ModuleNotFoundError as error:
        raise with_extra(error) from None
    command = [sys.executable, "-m", "agent_server", "--port", "0"]
    command += ["--stop-with-parent", "--parent-pid", str(os.getpid())]
    environment = dict(os.environ)
    for name, value in options.items():
        flag = name.replace("_", "-")
        if flag in ("password", "database-url", "replica-url"):
            environment[f"PERFKIT_SERVER_{flag.upper().replace('-', '_')}"] = str(value)
            continue
        command += (
            [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
        )
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is for the load; the server is needed to clean up
    )
    complaints: list[str] = []
    listener = threading.Thread(target=_listen, args=(process, complaints), daemon=True)
    listener.start()
    try:
        yield _wait_for_url(process, listener, complaints)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        listener.join()
        process.communicate()


def _listen(process: subprocess.Popen[str], complaints: list[str]) -> None:
    """Drain stderr, so that a chatty server never blocks on a full pipe; keep the last lines."""
    assert process.stderr is not None
    for line in process.stderr:
        complaints.append(line.strip())
        del complaints[:-20]


def _wait_for_url(
    process: subprocess.Popen[str], listener: threading.Thread, complaints: list[str]
) -> Served:
    """Read the ready line, the only one the server prints."""
    assert process.stdout is not None
    timer = threading.Timer(_START_S, process.kill)
    timer.daemon = True
    timer.start()
    try:
        ready = _READY.search(process.stdout.readline())
    finally:
        timer.cancel()
    if ready:
        return Served(ready[1], tuple((ready[2] or ready[1]).split()), process.pid)
    process.terminate()
    code = process.wait()
    listener.join()
    said = next((line for line in reversed(complaints) if line), "no output")
    kind = BadInput if code == 2 else PerfkitError
    raise kind(f"the reference server did not start (exit {code}): {said}")
