"""The addresses of a name, and a socket to one of them."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time

from aiohappyeyeballs import AddrInfoType, start_connection

#: A name is looked up again after so long, for a connection that is opened then.
_NAMES_S = 30.0
#: The next address is tried when one has not answered for so long (RFC 8305, 5).
_NEXT_S = 0.25


def _alternating(addresses: list[AddrInfoType]) -> list[AddrInfoType]:
    """Both families in turn, that of the first one first (RFC 8305, 4)."""
    families = dict.fromkeys(one[0] for one in addresses)
    columns = [[one for one in addresses if one[0] == family] for family in families]
    return [one for row in itertools.zip_longest(*columns) for one in row if one is not None]


class Addresses:
    """Connects to a name's addresses in turn, so that all of them get load.

    "Happy eyeballs" (RFC 8305): the families alternate, the next address is tried when one has not answered
    for 0.25 s. Those that did not answer come last until the name is looked up again, after 30 s.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._good: list[AddrInfoType] = []
        self._bad: list[AddrInfoType] = []
        self._until_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """A connected socket; OSError where no address answers."""
        if time.monotonic() >= self._until_s:
            if self._looking is None:  # one look-up for all who wait
                self._looking = loop.create_task(self._look_up(loop))
                self._looking.add_done_callback(self._looked_up)
            await asyncio.shield(self._looking)
        self._good = self._good[1:] + self._good[:1]
        tried = [*_alternating(self._good), *_alternating(self._bad)]
        sock = await start_connection(tried, happy_eyeballs_delay=_NEXT_S, loop=loop)
        answered = sock.getpeername()[:2]
        before = tried[: next((i for i, one in enumerate(tried) if one[4][:2] == answered), 0)]
        for one in before:
            if one in self._good:
                self._good.remove(one)
                self._bad.append(one)
        return sock

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> None:
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        self._good, self._bad, self._until_s = [*found], [], time.monotonic() + _NAMES_S

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # those who wait are told; when all of them were cancelled nobody has to be
