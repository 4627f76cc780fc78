"""Agent states kept in memory between requests: one of the experiments' knobs."""

from __future__ import annotations

from typing import Any


class AgentCache:
    """States by agent id, the oldest dropped first when there are too many.

    A state is put with the version read before its rows were: a change that is made meanwhile moves the
    version on, and the state, perhaps stale, is not kept. One per process: several servers on one database
    do not tell each other of changes.
    """

    def __init__(self, *, enabled: bool, capacity: int = 10_000) -> None:
        self._enabled, self._capacity = enabled, capacity
        self._states: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.hits = self.misses = 0

    def get(self, agent_id: str) -> dict[str, Any] | None:
        """The state, if it is here."""
        found = self._states.get(agent_id)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, state: dict[str, Any], version: int) -> None:
        """Keep a state whose rows were read at this version."""
        if not self._enabled or version != self.version:
            return
        if len(self._states) >= self._capacity:
            del self._states[next(iter(self._states))]
        self._states[state["id"]] = state

    def forget(self, agent_id: str) -> None:
        """One agent was changed."""
        self.version += 1
        self._states.pop(agent_id, None)

    def clear(self) -> None:
        """Something that many agents may share was changed."""
        self.version += 1
        self._states.clear()
