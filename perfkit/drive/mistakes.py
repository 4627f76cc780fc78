"""What a scenario did wrong, counted by kind and place; and where its steps stand that do not end."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from types import CoroutineType, FrameType
from typing import Any, NamedTuple, cast

import perfkit
from perfkit.errors import RequestFailed, words_of

#: So many kinds are told apart; a scenario that makes up types of errors would never come to an end.
_MOST_KINDS = 200
_LONGEST = 200
_OURS = str(Path(perfkit.__file__).parent)
NO_REQUEST = "a step made no request through session"


class Mistake(NamedTuple):
    """A kind of mistake: what (the type of an exception, say) and where, `file:line`."""

    what: str
    place: str = ""

    def text(self, words: str) -> str:
        """With the words of the first of its kind."""
        told = f"{self.what}: {words}" if words else self.what
        return f"{told} ({self.place})" if self.place else told


_OTHER = Mistake(f"other errors, beyond the first {_MOST_KINDS} kinds")


class Mistakes:
    """Exact counts of mistakes by kind, with the words of the first of each.

    files: the scenarios', where the places are looked for.
    """

    def __init__(self, *files: str | None) -> None:
        self.counts: Counter[Mistake] = Counter()
        self.words: dict[Mistake, str] = {}
        self._files = files

    def add(self, kind: Mistake, words: str = "", count: int = 1) -> None:
        """Count it."""
        if kind not in self.words:
            kind = kind if len(self.words) < _MOST_KINDS else _OTHER
            self.words.setdefault(kind, words if kind is not _OTHER else "")
        self.counts[kind] += count

    def raised(self, error: BaseException, redact: Callable[[str], str]) -> bool:
        """Count an exception; False for a failed request, which is a row already."""
        first = next((one for one in _leaves(error) if not isinstance(one, RequestFailed)), None)
        if first is None:
            return False
        frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(first.__traceback__)]
        told = words_with_await(first).partition(": ")[2]
        words = redact(told)[:_LONGEST]  # in this order: half a secret is one too
        self.add(Mistake(type(first).__name__, self._place(frames)), words)
        return True

    def place_of(self, task: asyncio.Task[Any]) -> str:
        """Where a task that waits stands in the scenario, `file:line`; empty where it is not in it."""
        frames, waiting = [], cast(Any, task.get_coro())
        while isinstance(waiting, CoroutineType) and waiting.cr_frame is not None:
            frames.append((waiting.cr_frame.f_code.co_filename, waiting.cr_frame.f_lineno))
            waiting = waiting.cr_await
        return self._place(frames)

    def place_in(self, frame: FrameType | None) -> str:
        """Where a thread that runs stands in the scenario, the same."""
        frames = [] if frame is None else [(f.f_code.co_filename, n) for f, n in traceback.walk_stack(frame)]
        return self._place(frames[::-1])

    def held_at(self, frame: FrameType | None) -> str:
        """Where the scenario holds a thread, `file:line`, by itself or in a library it calls; empty where the
        thread is in code of perfkit's."""
        for one, line in traceback.walk_stack(frame) if frame is not None else ():
            name = one.f_code.co_filename
            if name in self._files:
                return f"{PurePath(name).name}:{line}"
            if name.startswith(_OURS):
                break
        return ""

    def _place(self, frames: Iterable[tuple[str, int]]) -> str:
        """The innermost place in a scenario's file, else the innermost of all."""
        every = list(frames)
        own = [one for one in every if one[0] in self._files]
        return f"{PurePath((own or every)[-1][0]).name}:{(own or every)[-1][1]}" if every else ""

    def merge(self, other: Mistakes) -> None:
        """Add those of another worker."""
        for kind, count in other.counts.items():
            self.add(kind, other.words[kind], count)

    def worst(self) -> str:
        """The most frequent one in words; empty without any."""
        return next((kind.text(self.words[kind]) for kind, _ in self.counts.most_common(1)), "")

    def told(self) -> list[dict[str, Any]]:
        """For run.json, the most frequent first."""
        return [
            {"text": kind.text(self.words[kind]), "count": count} for kind, count in self.counts.most_common()
        ]


def words_with_await(error: BaseException) -> str:
    """The type of an exception and what it says; where something was asked of a coroutine, what it lacks."""
    words = words_of(error)
    forgotten = isinstance(error, AttributeError | TypeError) and "'coroutine' object" in words
    return (
        f"{words}; write await before the request, as in (await session.get(…)).json()"
        if forgotten
        else words
    )


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
