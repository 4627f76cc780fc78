"""Place shards: as children of this process, over ssh, or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Invitation(NamedTuple):
    """What a shard needs to claim its part: whoever has it takes part, so it never stands on a command line."""

    run: str
    shard: int
    address: str  #: HOST:PORT; empty where the connection is inherited
    secret: str


class Launcher(Protocol):
    """Starts shards somewhere. It need not know what becomes of them: claims tell the coordinator."""

    #: Whether shards connect to the coordinator's TCP address; else `start` returns connections.
    listens: bool
    #: Whether shards are children on this host, which may be handed a pickled state.
    own: bool

    def start(self, invitations: Sequence[Invitation]) -> None:
        """Start one shard for each; returns at once. PerfkitError names a place that cannot be reached."""

    def lost(self) -> dict[int, str]:
        """Shards that certainly do not run (any more), and why."""

    def stop(self, patience_s: float) -> None:
        """End what was started and has not ended by itself after so long; leaves no process behind."""
