"""A server that costs next to nothing: answers every request, GET or POST, with the same small JSON body.

python benchmarks/plain_server.py [PORT] [--awake]      prints "ready at http://127.0.0.1:PORT"

`GET /answered` says how many requests it has answered before and how much CPU it has used, so that a client's
own count can be checked against it and a busy server is seen. With `--awake` it polls its sockets and never
sleeps, so that no client pays for waking it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import httptools
import uvloop

HEAD = "HTTP/1.1 200 OK\r\nserver: plain\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
BODY = b'{"status":"ok","pad":"' + b"x" * 100 + b'"}'
ANSWER = HEAD.format(len(BODY)).encode() + BODY


class Plain(asyncio.Protocol):
    """One connection."""

    answered = 0  #: by all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /answered "):
            said = json.dumps({"answered": Plain.answered, "cpu_s": time.process_time()}).encode()
            self.transport.write(HEAD.format(len(said)).encode() + said)
        else:
            self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        Plain.answered += 1
        self.transport.write(ANSWER)


def stay_awake(loop: asyncio.AbstractEventLoop) -> None:
    """Never let the loop wait."""
    loop.call_soon(stay_awake, loop)


async def main(port: int, awake: bool) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    if awake:
        stay_awake(loop)
    server = await loop.create_server(Plain, "127.0.0.1", port, backlog=1024)
    print(f"ready at http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    ports = [int(word) for word in sys.argv[1:] if word != "--awake"]
    uvloop.run(main(ports[0] if ports else 0, "--awake" in sys.argv))
