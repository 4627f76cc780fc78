"""What is kept in memory between requests: agent states, model configurations, answers of queries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

#: How long a value is kept where changes elsewhere go unseen, unless the settings say otherwise (s).
SHARED_MAX_AGE_S = 1.0


class Reading(NamedTuple):
    """That something is about to be read: at which version, and when (s)."""

    version: int
    at_s: float


class Cache:
    """Values by key, the oldest dropped first when there are too many.

    A change that is made while a value is read moves the version on, and the value, perhaps stale, is not
    kept. One per process: several servers on one database do not tell each other of changes, so there a value
    is given for no longer than `max_age_s` after it was read.
    """

    def __init__(
        self,
        name: str,
        *,
        enabled: bool,
        capacity: int = 10_000,
        max_age_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._enabled, self._capacity = name, enabled, capacity
        self._max_age_s, self._clock = max_age_s, clock
        self._values: dict[Hashable, tuple[Any, float]] = {}
        self._version = 0
        self.hits = self.misses = 0

    def get(self, key: Hashable) -> Any:
        """The value, if it is here and not too old; else None."""
        value, read_at_s = self._values.get(key, (None, 0.0))
        if value is None or self._clock() - read_at_s > self._max_age_s:
            self.misses += 1
            return None
        self.hits += 1
        return value

    def reading(self) -> Reading:
        """To be asked for before a value is read, and given to `put`."""
        return Reading(self._version, self._clock())

    def put(self, key: Hashable, value: Any, reading: Reading) -> None:
        """Keep a value that was read then."""
        if not self._enabled or reading.version != self._version:
            return
        self._values.pop(key, None)
        if len(self._values) >= self._capacity:
            del self._values[next(iter(self._values))]
        self._values[key] = value, reading.at_s

    def forget(self, key: Hashable) -> None:
        """One value was changed."""
        self._version += 1
        self._values.pop(key, None)

    def clear(self) -> None:
        """Something that many values may share was changed."""
        self._version += 1
        self._values.clear()
