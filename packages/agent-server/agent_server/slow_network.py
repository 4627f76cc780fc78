"""A slow network between the server and its database: an experiment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

_PORT = 5432
_PIECE = 65536


@contextmanager
def slow_network(url: sa.URL, delay_ms: float) -> Iterator[tuple[sa.URL, Callable[[], None]]]:
    """Yield a URL by which a PostgreSQL is as far away as that in each direction, and what begins the delay.

    Until it has begun bytes are passed on at once. Without a delay, the database's own URL.
    """
    if not delay_ms:
        yield url, lambda: None
        return
    path = _Path(url, delay_ms / 1000)
    with path.running() as port:
        there = url.difference_update_query(["host", "port"]).set(host="127.0.0.1", port=port)
        yield there, path.begin


class _Path:
    """Passes on what arrives on a port of this machine, in both directions, on an event loop of its own."""

    def __init__(self, url: sa.URL, delay_s: float) -> None:
        host = url.query.get("host", url.host or "127.0.0.1")
        self._host = host if isinstance(host, str) else host[0]
        self._port = int(str(url.query.get("port", url.port or _PORT)))
        self._delay_s, self._begun_delay_s = delay_s, 0.0

    def begin(self) -> None:
        """Delay what arrives from now on."""
        self._begun_delay_s = self._delay_s

    @contextmanager
    def running(self) -> Iterator[int]:
        """Listen as long as the block lasts; yields the port."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        thread = threading.Thread(target=loop.run_forever, name="slow network", daemon=True)
        thread.start()
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(_end(server))
            loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if self._host.startswith("/"):
                opening = asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
            else:
                opening = asyncio.open_connection(self._host, self._port)
            back_reader, back_writer = await opening
            with contextlib.closing(back_writer):
                await asyncio.gather(self._pass_on(reader, back_writer), self._pass_on(back_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each piece as long after its arrival as the delay is; what follows does not wait for it."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(max(due - loop.time(), 0))
                if not piece:
                    return writer.close()
                writer.write(piece)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        while True:
            try:
                piece = await reader.read(_PIECE)
            except OSError:
                piece = b""
            under_way.put_nowait((loop.time() + self._begun_delay_s, piece))
            if not piece:
                break
        await delivering


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
