"""Agent states kept in memory between requests: one of the experiments' knobs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """That rows are about to be read: at which version, and when (s)."""

    version: int
    at_s: float


class AgentCache:
    """States by agent id, the oldest dropped first when there are too many.

    A change that is made while a state is read moves the version on, and the state, perhaps stale, is not
    kept. One per process: several servers on one database do not tell each other of changes, so there a state
    is given for no longer than `max_age_s` after its rows were read.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        capacity: int = 10_000,
        max_age_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enabled, self._capacity, self._max_age_s, self._clock = enabled, capacity, max_age_s, clock
        self._states: dict[str, tuple[dict[str, Any], float]] = {}
        self._version = 0
        self.hits = self.misses = 0

    def get(self, agent_id: str) -> dict[str, Any] | None:
        """The state, if it is here and not too old."""
        state, read_at_s = self._states.get(agent_id, (None, 0.0))
        if state is None or self._clock() - read_at_s > self._max_age_s:
            self.misses += 1
            return None
        self.hits += 1
        return state

    def reading(self) -> Reading:
        """To be asked for before a state's rows are read, and given to `put`."""
        return Reading(self._version, self._clock())

    def put(self, state: dict[str, Any], reading: Reading) -> None:
        """Keep a state whose rows were read then."""
        if not self._enabled or reading.version != self._version:
            return
        self._states.pop(state["id"], None)
        if len(self._states) >= self._capacity:
            del self._states[next(iter(self._states))]
        self._states[state["id"]] = state, reading.at_s

    def forget(self, agent_id: str) -> None:
        """One agent was changed."""
        self._version += 1
        self._states.pop(agent_id, None)

    def clear(self) -> None:
        """Something that many agents may share was changed."""
        self._version += 1
        self._states.clear()
