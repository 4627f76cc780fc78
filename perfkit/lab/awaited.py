"""A coroutine that says in plain words that it was not awaited."""

from __future__ import annotations

import warnings
from collections.abc import Coroutine, Generator
from typing import Any, NoReturn, TypeVar

from perfkit.errors import BadInput

T = TypeVar("T")


class NotAwaited(BadInput, AttributeError):
    """A result was used that is not there yet; an AttributeError, for asyncio and IPython look for names."""


class Awaited(Coroutine[Any, Any, T]):
    """A coroutine for `await`, tasks and `asyncio.run`; whoever uses it as its result is told to await it."""

    def __init__(self, inner: Coroutine[Any, Any, T], words: str) -> None:
        self._inner, self._words, self._begun = inner, words, False

    def __await__(self) -> Generator[Any, Any, T]:
        self._begun = True
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        """See Coroutine."""
        self._begun = True
        return self._inner.send(value)

    def throw(self, *given: Any) -> Any:
        """See Coroutine."""
        self._begun = True
        return self._inner.throw(*given)

    def close(self) -> None:
        """See Coroutine."""
        self._begun = True
        self._inner.close()

    def __getattr__(self, name: str) -> NoReturn:
        raise NotAwaited(f"{self._words} (asked for .{name})")

    def __len__(self) -> int:
        raise NotAwaited(f"{self._words} (asked for its length)")

    def __bool__(self) -> bool:
        return True  # for those who ask whether there is a coroutine

    def __getitem__(self, which: object) -> NoReturn:
        raise NotAwaited(f"{self._words} (asked for [{which!r:.40}])")

    def __iter__(self) -> NoReturn:
        raise NotAwaited(f"{self._words} (asked for what is in it)")

    def __repr__(self) -> str:
        return f"<{self._words}>"

    def __del__(self) -> None:
        if not self._begun:
            self._inner.close()  # else Python warns in words of its own
            warnings.warn(self._words, RuntimeWarning, stacklevel=2)
