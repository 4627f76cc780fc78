"""Run one client on its own core and say what it cost; its server on the other core; the machine's facts."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).parent
PEERS_PYTHON = HERE.parents[1] / ".bench/venv/bin/python"
SERVER_CORE, CLIENT_CORE = 0, 1


class ClientFailed(Exception):
    """A client did not do its part; the text says which and how."""


@dataclass(frozen=True)
class Ran:
    """One process tree from start to end."""

    cpu_s: float  #: user and system, of the process and of all its children
    wall_s: float
    output: str

    def said(self) -> dict[str, Any]:
        """The JSON object on the last line that is one."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        if not lines:
            raise ClientFailed(f"it said nothing: {self.output[-300:]}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found


def run_pinned(command: Sequence[str], env: Mapping[str, str], timeout_s: float) -> Ran:
    """Run a command on the client core; its CPU comes from the kernel when it is waited for."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _on_core(CLIENT_CORE):
            began = perf_counter()
            process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=os.environ | dict(env)
            )
        killer = threading.Timer(timeout_s, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - began
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    if process.returncode:
        raise ClientFailed(f"exit code {process.returncode}: {texts[1][-300:].strip()}")
    return Ran(usage.ru_utime + usage.ru_stime, wall, texts[0])


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Let the calling thread, and what it starts, run on one core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """The plain server, on its core, and what it says of itself."""

    def __init__(self, awake: bool = False) -> None:
        self.awake = awake
        command = [str(PEERS_PYTHON), str(HERE.parent / "plain_server.py"), *(["--awake"] if awake else [])]
        with _on_core(SERVER_CORE):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def answered(self) -> tuple[int, float]:
        """How many requests it has answered and what CPU seconds it has used, up to now."""
        with urllib.request.urlopen(self.url + "/answered", timeout=10) as response:
            said = json.load(response)
        return said["answered"], said["cpu_s"]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def refuse_unfit_machine() -> None:
    """One clear line when the measurement cannot be made here."""
    if not hasattr(os, "sched_setaffinity") or not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        sys.exit(
            "the speed benchmark pins server and client to cores 0 and 1: it needs Linux and both of them"
        )
    if not PEERS_PYTHON.exists():
        sys.exit("the peers are not installed: run make bench, or benchmarks/setup_peers.sh first")


def machine() -> str:
    """The hardware and the peers' versions, in one paragraph."""
    return f"{hardware()}, {', '.join(f'{name} {version}' for name, version in _versions().items())}"


def hardware() -> str:
    """Cores, processor, kernel and Python."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "?")
    virtual = ", virtual machine" if any("hypervisor" in line.split() for line in info) else ""
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}{virtual}), {system}"


def _versions() -> dict[str, str]:
    names = ["locust", "aiohttp", "httpx", "uvloop"]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    found: dict[str, str] = json.loads(subprocess.check_output([str(PEERS_PYTHON), "-c", code], text=True))
    for tool in ("wrk", "hey"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["dpkg-query", "-W", "-f", "${Version}", tool]
            found[tool] = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    return found


def stolen_s() -> float:
    """CPU seconds the hypervisor has given to others since the machine started."""
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8]) / os.sysconf("SC_CLK_TCK")


def print_table(
    doc: str | None, made: Callable[[int], str], marks: tuple[str, str], option: str, usual: int
) -> None:
    """The program of a script that makes one table: prints it, with --out writes it to a file with marks.

    option: how many cases a cell has, `usual` by default.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(f"--{option}", type=int, default=usual, dest="count")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = made(given.count)
    print(text)
    if given.out:
        put_between_marks(given.out, text, marks)


def put_between_marks(path: Path, text: str, marks: tuple[str, str]) -> None:
    """Replace what stands between the markers."""
    before, begin, rest = path.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        sys.exit(f"{path.name} has no {marks[0]} … {marks[1]}; the tables are above")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
