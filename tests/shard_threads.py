"""Shards in threads of this process: whole runs without starting processes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence

from perfkit.drive.shards.channel import Channel
from perfkit.drive.shards.launchers import Invitation
from perfkit.drive.shards.shard import take_part


class Threads:
    """A launcher whose shards are threads; as on another host, all they are given is on the wire."""

    own = False
    listen: str | None = None
    claim_s = 15.0

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        """See `Launcher`."""
        found = {}
        for one in invitations:
            found[one.shard], theirs = socket.socketpair()
            fd = theirs.detach()
            thread = threading.Thread(
                target=take_part, args=(Channel(fd, fd), one._asdict()), kwargs={"may_exit": False}
            )
            thread.start()
            self._threads.append(thread)
        return found

    def place(self, shard: int) -> str:
        """See `Launcher`."""
        return "a thread"

    def lost(self) -> Mapping[int, str]:
        """See `Launcher`."""
        return {}

    def stop(self, patience_s: float) -> None:
        """See `Launcher`."""
        for one in self._threads:
            one.join(patience_s)
