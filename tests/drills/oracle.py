"""The one judge of all drills: what a step may do, whatever it was given."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit import errors

#: What a step may take: processor time, so that a busy machine fails nothing; and memory.
CPU_S = 5.0
MEMORY_MB = 1024
_CODES = {getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")}
_LINES = {1: 1, 2: 1, 130: 2}
_WIDEST = 2_100
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FRAME = re.compile(r'File ".*?/(perfkit/[\w/]+\.py)", line (\d+), in (\w+)')


@dataclass(frozen=True)
class Outcome:
    """What a step ended with; `code` None: it was ended from outside."""

    step: dict[str, Any]
    code: int | None
    out: str
    err: str
    cpu_s: float
    mb: float
    events: int | None = None  #: changes of the filesystem, where they were counted
    died: str = ""

    @property
    def words(self) -> str:
        """The step as a person would type it."""
        return " ".join(self.step.get("argv") or [self.step["call"], *map(str, self.step["arguments"])])


def check(outcome: Outcome) -> Iterator[str]:
    """What a step did that no step may do, a line each."""
    if outcome.code is None:
        yield f"ended from outside: {outcome.died}"
        return
    if outcome.code not in _CODES:
        yield f"exit code {outcome.code} is documented nowhere"
    if "Traceback (most recent call last)" in outcome.err + outcome.out:
        yield f"traceback: {signature(outcome.err or outcome.out)}"
        return
    if "this is a bug in perfkit" in outcome.err:
        yield f"a fault of its own: {outcome.err[:200]!r}"
    if outcome.code in (1, 2, 3) and not (outcome.err.strip() or outcome.out.strip()):
        yield f"exit code {outcome.code} without a word"
    lines = outcome.err.splitlines()
    if len(lines) > outcome.step.get("lines", _LINES.get(outcome.code, 10)):
        yield f"{len(lines)} lines of errors with exit code {outcome.code}"
    widest = max(map(len, lines), default=0)
    if widest > _WIDEST:
        yield f"a line of errors is {widest:,} characters long"
    if warned := re.search(r"^.*\b(\w*Warning): .*$", outcome.err, re.M):
        yield f"a warning: {warned[0][-160:]}"
    for name, text in (("output", outcome.out), ("errors", outcome.err)):
        if raw := _CONTROL.search(text):
            yield f"raw control character {raw[0]!r} in its {name}"
    if "--json" in outcome.step.get("argv", ()) and outcome.code in (0, 3, 4, 5):
        yield from _json(outcome.out)
    if outcome.cpu_s > outcome.step.get("cpu_ok_s", CPU_S):
        yield f"{outcome.cpu_s:.1f} s of processor time"
    if outcome.mb > outcome.step.get("mb_ok", MEMORY_MB):
        yield f"{outcome.mb:,.0f} MB of memory"


def signature(text: str) -> str:
    """A traceback's last line and its innermost frame of perfkit, so that like failures count once."""
    frames = _FRAME.findall(text)
    where = "{}:{} {}".format(*frames[-1]) if frames else "outside perfkit"
    last = next((line for line in reversed(text.splitlines()) if line and not line.startswith(" ")), "")
    return f"{last[:120]} at {where}"


def _json(text: str) -> Iterator[str]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        yield f"--json is not JSON: {error}"[:160]


def snapshot(folder: Path, but: Iterable[str] = ()) -> dict[str, str]:
    """Digest of every regular file below a folder whose path holds none of `but`; locks are no content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if not file.is_symlink() and file.is_file() and not file.name.endswith("lock")
        if not any(part in str(file) for part in but)
    }


def harmed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Files that are gone or changed."""
    return [f"{name} was {'changed' if name in after else 'removed'}" for name in before
            if after.get(name) != before[name]]  # fmt: skip
