"""What a run has made on its target: requests that remove it, noted as things are made, and sent at the end.

Whatever ends a run, what it left can be removed later (`perfkit cleanup`). A file for each process, a line
for each request, readable by its owner only: the headers may hold keys the target has given to this run.
Secrets that were given to the run itself are not in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from perfkit.drive.session import Recorder, Session, Undo
from perfkit.redaction import STARS, Redactor
from perfkit.store import is_held, read_regular, replacing

_MOST_BYTES = 2**30
_AT_ONCE = 20


class Journal:
    """The file of one process; made with its first line. A full disk is not its to tell: rows meet it too."""

    def __init__(self, folder: Path, name: str, redact: Redactor) -> None:
        self._path, self._redact = folder / f"undo-{name}.jsonl", redact
        self._fd: int | None = None

    def write(self, undo: Undo) -> None:
        """Add a line; it survives the process from then on, whatever ends that."""
        line = _line(undo, self._redact)
        with contextlib.suppress(OSError):
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as long as somebody may write to it
                weakref.finalize(self, os.close, self._fd)
            os.write(self._fd, line)


def journaled(folder: Path, name: str = "*") -> list[Undo]:
    """What the journal of one process, or of all, holds. OSError where one cannot be read.

    That of setup comes before those of workers: the order in which things were made. A line that cannot be
    read, as a full disk leaves one, stands for something that was made: a request without a method.
    """
    files = sorted(folder.glob(f"undo-{name}.jsonl"))
    return [_undo(line) for file in files for line in read_regular(file, _MOST_BYTES).splitlines()]


def _undo(line: bytes) -> Undo:
    try:
        method, path, headers = json.loads(line)
        return Undo(str(method), str(path), tuple((str(n), str(v)) for n, v in headers))
    except (ValueError, TypeError, RecursionError):
        return Undo("", line.decode("utf-8", "replace"), ())


def being_written(folder: Path) -> bool:
    """Whether a process of the run may still note what it makes: one that outlives its coordinator."""
    return any(is_held(file) for file in folder.glob("undo-*.jsonl"))


def keep_only(folder: Path, left: Iterable[Undo], redact: Redactor) -> None:
    """What is left to be removed takes the place of all journals; without any there is none."""
    lines, rest = b"".join(_line(undo, redact) for undo in left), folder / "undo-left.jsonl"
    if lines:
        with replacing(rest) as new:
            os.chmod(new, 0o600)
            new.write_bytes(lines)
    for file in folder.glob("undo-*.jsonl"):
        if not (lines and file == rest):
            file.unlink(missing_ok=True)


class Removal(NamedTuple):
    """What became of requests that remove something: those that have not, and the words of the first."""

    wanted: int
    left: list[Undo]
    words: str = ""

    @property
    def told(self) -> str:
        """What is left in a sentence; empty when nothing is."""
        failed = f"{len(self.left):,} of {self.wanted:,} requests that remove what the run made failed"
        return f"{failed} ({self.words})" if self.left else ""


async def remove(
    recorder: Recorder, undos: Sequence[Undo], headers: Mapping[str, str] = MappingProxyType({})
) -> Removal:
    """Send the requests, kind by kind: the kind made first goes last. What is gone already (404) counts.

    headers: sent in the place of an undo's own ones of these names (in lower case).
    """
    kinds: dict[str, list[int]] = {}
    for number, undo in enumerate(undos):
        kinds.setdefault(undo.path.rpartition("/")[0], []).append(number)
    why: dict[int, str] = {}

    async def worker(user: int, remaining: list[int]) -> None:
        session = Session(recorder, user, phase="teardown")
        while remaining:
            number = remaining.pop()
            if words := await _why_not_removed(session, _with(headers, undos[number])):
                why[number] = words

    for group in reversed(kinds.values()):
        await asyncio.gather(*(worker(user, group) for user in range(_AT_ONCE)))
    left = sorted(why)
    return Removal(len(undos), [undos[number] for number in left], why[left[0]] if left else "")


def _with(headers: Mapping[str, str], undo: Undo) -> Undo:
    own = [(name, value) for name, value in undo.headers if name.lower() not in headers]
    return undo._replace(headers=(*own, *headers.items()))


async def _why_not_removed(session: Session, undo: Undo) -> str:
    """Send the request; why that was of no use, empty when it was. Without all its headers it is not sent:
    what the server hides from others is not gone."""
    if not undo.method:
        return f"a line of the run's journal cannot be read: {undo.path[:80]!r}"
    if STARS in undo.path:
        return "its address contained a secret, which is not stored"
    if lost := [name for name, value in undo.headers if value == STARS]:
        return f"its header {lost[0]} held a secret, which is not kept; `perfkit cleanup -H` takes it"
    session.headers = dict(undo.headers)
    try:
        response = await session.request(undo.method, undo.path)
    except ValueError as error:  # the scenario's own words make no request
        return str(error)
    return "" if response.is_success or response.status_code == 404 else response.failure


def _line(undo: Undo, redact: Redactor) -> bytes:
    """An undo without secrets: of a header that holds one only the name is kept."""
    headers = [(name, value if redact(value) == value else STARS) for name, value in undo.headers]
    return json.dumps((undo.method, redact(undo.path), headers)).encode() + b"\n"
