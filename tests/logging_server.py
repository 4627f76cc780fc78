"""A server process that writes down every request it has answered: monotonic nanoseconds, x-request-id,
method and path.

python -m tests.logging_server LOGFILE [HOST]     prints its URL
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import BinaryIO, cast

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Connection(asyncio.Protocol):
    """One connection; a path of /slow/MS… is answered late."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._id = b""
        self._url = b""
        self._delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._delay_s = int(url.split(b"/")[2]) / 1000 if url.startswith(b"/slow/") else 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-request-id":
            self._id = value

    def on_message_complete(self) -> None:
        what = (self._id, self._parser.get_method(), self._url)
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._answer, what)
        else:
            self._answer(what)

    def _answer(self, what: tuple[bytes, bytes, bytes]) -> None:
        self._transport.write(ANSWER)
        self._log.write(b"%d %s %s %s\n" % (time.monotonic_ns(), *what))


async def main(path: str, host: str = "127.0.0.1") -> None:
    """Serve until killed; the log is unbuffered."""
    with open(path, "wb", buffering=0) as log:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(log), host, 0)
        print(f"http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
