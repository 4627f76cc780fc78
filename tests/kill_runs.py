"""Kill `perfkit` at a chosen moment and look at what it leaves behind: processes, requests, rows.

python -m tests.kill_runs COUNT [SEED]      kills COUNT runs at random moments and prints a line for each
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.store import Run, list_runs

ROOT = Path(__file__).parents[1]
MARK = "PERFKIT_TEST_MARK"
#: Promised: a worker without its coordinator sends nothing after a second, and at most a second is missing.
SECOND = 10**9
#: Nothing of a killed run lives longer, on a machine however busy.
GONE_S = 30.0


class Logged:
    """A logging server: its URL and what it has answered."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    def answered(self, run: Run | None = None) -> dict[str, int]:
        """Monotonic instant of each answered request by its id; those of one run, or of all."""
        return {request_id: int(at) for at, request_id, *_ in self._lines(run)}

    def paths(self, run: Run, method: str) -> set[str]:
        """Of what was answered to a run's requests of this method."""
        return {path for _, _, its_own, path in self._lines(run) if its_own == method}

    def _lines(self, run: Run | None) -> list[list[str]]:
        lines = [line.split() for line in self._log.read_bytes().decode().splitlines()]
        return [line for line in lines if line[1].startswith(_prefix(run))]


def _prefix(run: Run | None) -> str:
    """How the request ids of a run begin."""
    return "" if run is None else f"{run.id[-4:]}{(run.meta.clock.monotonic_ns or 0) % 16**6:06x}-"


@contextmanager
def logging_server(log: Path, host: str = "127.0.0.1") -> Iterator[Logged]:
    """A server in a process of its own that writes down what it answers."""
    command = [sys.executable, "-m", "tests.logging_server", str(log), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Logged(process.stdout.readline().strip(), log)
        finally:
            process.terminate()


class Victim:
    """A program in a session of its own; it and all that comes of it can be known by a mark.

    Their temporary files are in a folder named by the mark: PostgreSQL overwrites its environment.
    """

    def __init__(self, *command: str, **popen: Any) -> None:
        self.mark = f"mark-{secrets.token_hex(6)}"
        self.temporary = Path(tempfile.mkdtemp(prefix="pk")) / self.mark
        self.temporary.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), MARK: self.mark}
        told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True} | popen
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **told)

    def alive(self) -> dict[int, str]:
        """Command line of each process that has the mark, by process id; of zombies none."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
                if self.mark.encode() in words + b"\0" + (
                    (folder / "environ").read_bytes() if words else b""
                ):
                    found[int(folder.name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def workers(self) -> list[int]:
        """Load generating processes, from the first moment of their lives."""
        return [pid for pid, command in self.alive().items() if "drive.shards" in command]

    def kill(self, number: int = signal.SIGKILL, *, all_of_them: bool = False) -> int:
        """Send a signal to the program, or to every process that has the mark; the monotonic instant (ns)."""
        for pid in self.alive() if all_of_them else [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return time.monotonic_ns()

    def end(self, within_s: float = GONE_S) -> str:
        """Wait for the program's end; what it said on standard error."""
        return self.process.communicate(timeout=within_s)[1] or ""

    def left(self, within_s: float = GONE_S) -> dict[int, str]:
        """What is still alive after this time; returns as soon as nothing is."""
        deadline = time.monotonic() + within_s
        while (alive := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return alive

    def bury(self) -> None:
        """End whatever is left."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def victim(*command: str, **popen: Any) -> Iterator[Victim]:
    """A program to be killed; nothing of it is left when the block has ended."""
    one = Victim(*command, **popen)
    try:
        yield one
    finally:
        one.bury()


def perfkit(*arguments: str) -> tuple[str, ...]:
    """The command line of a verb."""
    return (sys.executable, "-m", "perfkit.cli", *arguments)


def load(server: Logged, data: Path, *more: str) -> tuple[str, ...]:
    """`perfkit run` on two processes, with enough load that every moment has requests."""
    command = ("run", "-q", "--scenario", "http_get", "--target", server.url, "--data-dir", str(data))
    shape = ("-s", "processes=2", "-s", "users.count=6", "-s", "users.duration_s=60", "-p", "path=/slow/5")
    return perfkit(*command, *shape, *more)


def wait_until(true: Callable[[], Any], what: str, within_s: float = 120.0) -> Any:
    """Poll until something is true, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"in {within_s:g} s: no {what}"
        time.sleep(0.005)
    return found


def wait_for_rows(data: Path, count: int = 1) -> Run:
    """The run, once it has so many rows."""
    found: Run = wait_until(
        lambda: next((run for run in list_runs(data) if run.row_count() >= count), None), f"{count} rows"
    )
    return found


class Lateness:
    """How late this machine wakes a thread that sleeps, at its worst: what no promise can be held to."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Lateness:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            before = time.monotonic()
            time.sleep(0.02)
            self.worst_s = max(self.worst_s, time.monotonic() - before - 0.02)


@dataclass(frozen=True)
class Left:
    """What a killed run left: how long after the kill its last process and its last request were seen, and
    of the requests answered a second before the kill, how many there were and how many are missing."""

    moment: str
    gone_s: float
    processes: dict[int, str]
    last_request_s: float
    due: int
    missing: int
    state: str

    def __str__(self) -> str:
        still = f"{len(self.processes)} PROCESSES LEFT" if self.processes else f"gone {self.gone_s:.2f} s"
        sent = f"last request {self.last_request_s:+.2f} s"
        return f"{self.moment}: {still}, {sent}, {self.missing} of {self.due} rows missing, {self.state}"


def kill_run(server: Logged, data: Path, moment: str, wait: Callable[[Victim, Path], None]) -> Left:
    """Start a run, kill -9 its coordinator when `wait` returns, and look at what is left."""
    with victim(*load(server, data)) as run:
        wait(run, data)
        killed = run.kill()
        processes = run.left()
        gone_s = (time.monotonic_ns() - killed) / 1e9
    found = list_runs(data)
    if not found:
        return Left(moment, gone_s, processes, 0.0, 0, 0, "no run")
    due, missing, last_s = lost_rows(server, found[0], killed, SECOND)
    return Left(moment, gone_s, processes, last_s, due, missing, found[0].state)


def lost_rows(server: Logged, run: Run, killed_ns: int, spared_ns: int) -> tuple[int, int, float]:
    """Requests of a run that were answered so long before it was killed, how many of them have no row, and
    when the last one was answered, s after the kill."""
    answered = server.answered(run)
    due = {request for request, at in answered.items() if at < killed_ns - spared_ns}
    missing = due - set(run.table(["request_id"]).to_pydict()["request_id"])
    return len(due), len(missing), (max(answered.values(), default=killed_ns) - killed_ns) / 1e9


def moments(count: int, seed: int) -> Iterator[tuple[str, Callable[[Victim, Path], None]]]:
    """Moments to kill a run at: in its first 1.5 s, around the birth of its workers, and under load."""
    dice = random.Random(seed)
    for number in range(count):
        kind, wait_s = number % 3, dice.uniform(0.0, 1.5)
        if kind == 0:
            yield f"{wait_s:.3f} s after the start", lambda _, __, s=wait_s: time.sleep(s)
        elif kind == 1:
            yield (
                f"{wait_s / 3:.3f} s after the first worker",
                lambda run, _, s=wait_s / 3: wait_until(run.workers, "worker") and time.sleep(s),
            )
        else:
            yield (
                f"{wait_s * 2:.3f} s after the first row",
                lambda _, data, s=wait_s * 2: wait_for_rows(data) and time.sleep(s),
            )


def main(count: int, seed: int = 1) -> None:
    """Print what each of so many kills left, and the worst of all."""
    worst = [0.0, 0.0, 0, 0]
    with tempfile.TemporaryDirectory() as folder, logging_server(Path(folder) / "log") as server:
        for number, (moment, wait) in enumerate(moments(count, seed)):
            left = kill_run(server, Path(folder) / str(number), moment, wait)
            print(left, flush=True)
            worst = [max(worst[0], left.gone_s), max(worst[1], left.last_request_s),
                     worst[2] + left.missing, worst[3] + bool(left.processes)]  # fmt: skip
    print(f"{count} kills: gone within {worst[0]:.2f} s, last request {worst[1]:+.2f} s after the kill, "
          f"{worst[2]} rows older than 1 s missing, {worst[3]} with processes left")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
