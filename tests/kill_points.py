"""Verbs killed at their k-th filesystem event: what `kill -9` or a power cut can leave behind.

    with verbs() as perfkit:
        ended = perfkit("rm", run.id, "--data-dir", str(data), below=data, kill_at=3)

A process that has perfkit loaded forks a child for each call, so a call takes milliseconds. An event is what
changes the filesystem, as Python's audit hooks tell it (PEP 578): files opened for writing, renamed, removed,
locked; folders made and removed. The child is killed just before its k-th event below a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Events whose first argument is the path that is changed.
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_LONGEST_S = 100
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit code (negative: the signal), what it printed, its number of events.

    events is None when it was killed.
    """

    code: int
    out: str
    err: str
    events: int | None

    @property
    def killed(self) -> bool:
        """Whether it met its kill point; if not, it ended by itself before."""
        return self.code == -signal.SIGKILL


class Verbs:
    """Carries out `perfkit` verbs, each in a process of its own; see the module."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(
        self, *arguments: str, below: Path, kill_at: int = 0, environment: Mapping[str, str] | None = None
    ) -> Ended:
        """One verb, killed just before its `kill_at`-th event in the folder `below`, if it has so many.

        It runs in that folder, and with more in its environment.
        """
        (ended,) = self.together([arguments], below=below, kill_at=kill_at, environment=environment)
        return ended

    def together(
        self,
        calls: Sequence[Sequence[str]],
        *,
        below: Path,
        kill_at: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> list[Ended]:
        """Several verbs, all let go at the same moment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        place = {"below": str(below.resolve()), "environment": dict(environment or {})}
        request = {"calls": calls, "kill_at": kill_at, **place}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [Ended(**told) for told in json.loads(self._process.stdout.readline())]


@contextlib.contextmanager
def verbs(before: Callable[[], None] | None = None) -> Iterator[Verbs]:
    """Yield the `Verbs` of a process that has perfkit loaded and forks; `before` is called in it at first."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.kill_points"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=before
    ) as process:
        yield Verbs(process)
        assert process.stdin is not None
        process.stdin.close()


# -- in the process that forks ---------------------------------------------------------------------


def _serve() -> None:
    import perfkit.cli
    import perfkit.compare.experiment
    import perfkit.doctor
    import perfkit.importing
    import perfkit.retention  # noqa: F401  what verbs import when they are called

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory(prefix="perfkit-kill-") as folder:
            gate, opened = os.pipe()
            children = []
            for number, arguments in enumerate(request["calls"]):
                told = Path(folder) / str(number)
                told.mkdir()
                if (child := os.fork()) == 0:
                    os.close(opened)
                    os.read(gate, 1)  # until all are there
                    os.environ.update(request["environment"])
                    _work(arguments, request["below"], request["kill_at"], told)
                children.append((child, told))
            os.close(gate)
            os.close(opened)
            ended = [_told(os.waitpid(child, 0)[1], told) for child, told in children]
        answers.write(json.dumps(ended) + "\n")
        answers.flush()


def _told(status: int, told: Path) -> dict[str, Any]:
    events = told / "events"
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": (told / "out").read_text(errors="replace"),
        "err": (told / "err").read_text(errors="replace"),
        "events": int(events.read_text()) if events.exists() else None,
    }


def _work(arguments: list[str], below: str, kill_at: int, told: Path) -> None:
    """Carry out one verb in this forked child, and end it."""
    from perfkit.cli import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(told / name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    os.chdir(below)  # so that names relative to an open folder are below it, too
    signal.alarm(_LONGEST_S)  # ends a child that hangs
    counted = count_events(below, kill_at)
    sys.argv = ["perfkit", *arguments]
    code = 70
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        (told / "events").write_text(str(counted[0]))
        os._exit(code)


def count_events(below: str, kill_at: int) -> list[int]:
    """Begin to count; the number of events so far is the list's one entry."""
    counted = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & _WRITES:
                return
        elif event in _CHANGES:
            path = arguments[0]
        elif event == "fcntl.flock":
            path = below
        else:
            return
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(below):
            return
        counted[0] += 1
        if counted[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


if __name__ == "__main__":
    _serve()
