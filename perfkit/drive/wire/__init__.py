"""The `wire` transport: a pool of HTTP/1.1 connections to one target."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque

from perfkit.drive.rows import NEVER
from perfkit.drive.transport import (
    Exchange,
    Headers,
    loop_clock,
    os_words,
    quote_path,
    split_url,
    tls_context,
)
from perfkit.drive.wire.addresses import Addresses
from perfkit.drive.wire.connection import Connection
from perfkit.errors import BadInput
from perfkit.model import Target

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
#: A connection that has been idle for so long is not looked at before it is used again.
_TRUSTED_NS = 1_000_000


class WireTransport:
    """A pool of connections to one target.

    A connection that has been idle longer than `target.keepalive_s` is not used again, the one used last is
    used first. It is looked at before if it was idle for a while, and always once this server has closed one
    without saying so. At most `target.connections` are open; who waits for one waits in line.
    """

    def __init__(self, target: Target) -> None:
        for name in ("http2", "proxy"):
            if getattr(target, name):
                raise BadInput(f"target.{name} needs target.transport: httpx")
        url = split_url(target)
        assert url.hostname is not None
        self._target = target
        self._host, self._port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = tls_context(target) if url.scheme == "https" else None
        self._base = quote_path(url.path.rstrip("/") or "/").rstrip("/")
        self._addresses = Addresses(self._host, self._port)
        self._watchful = False
        self._idle: deque[Connection] = deque()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._open: set[Connection] = set()
        self._opening = 0  # places taken by who opens a connection, or was told to
        self._loop = asyncio.get_running_loop()
        self._clock = loop_clock(self._loop)
        self._keepalive_ns = int(target.keepalive_s * 1e9)

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float, *, fresh: bool = False
    ) -> Exchange:
        """Send one request and read its whole response; see `Transport.send`."""
        exchange = Exchange()
        data = self._encode(method, path, headers, body)
        left_s = timeout_s
        if fresh and self._idle:  # makes room for another one
            self._discard(self._idle.popleft())
        connection = None if fresh else self._take_idle()
        if connection is None:
            asked = self._clock()
            connection = await self._open_or_wait(exchange, timeout_s)
            if connection is None:
                return exchange
            left_s = max(0.0, timeout_s - (self._clock() - asked) / 1e9)
        waiter = connection.start(data, exchange, method == "HEAD", timeout_s, left_s)
        try:
            await waiter
        except asyncio.CancelledError:
            connection.abort()
            raise asyncio.CancelledError(exchange) from None
        finally:
            self._give_back(connection)
        if exchange.lost:
            self._watchful = True
        return exchange

    def _encode(self, method: str, path: str, headers: Headers, body: bytes) -> bytes:
        length = f"content-length: {len(body)}\r\n\r\n" if body or method in _WITH_BODY else "\r\n"
        return (
            f"{method} {self._base}{quote_path(path)} HTTP/1.1\r\n{headers}{length}".encode("latin-1") + body
        )

    # -- the pool

    def _take_idle(self) -> Connection | None:
        if self._idle:
            now = self._clock()
            trusted = now + 1 if self._watchful else now - _TRUSTED_NS
            while self._idle:
                connection = self._idle.pop()
                since = connection.idle_since
                if connection.reusable and since >= now - self._keepalive_ns:
                    if since >= trusted or connection.is_quiet():
                        return connection
                    self._watchful = True
                self._discard(connection)
        return None

    def _give_back(self, connection: Connection) -> None:
        if not connection.reusable:
            self._discard(connection)
            return
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(connection)
                return
        connection.idle_since = self._clock()
        self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()
        self._free_place()

    def _free_place(self) -> None:
        """One connection less; its place belongs to the first in line, before anyone who comes new."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                self._opening += 1
                waiting.set_result(None)
                return

    async def _open_or_wait(self, exchange: Exchange, timeout_s: float) -> Connection | None:
        lacking = f"free connection (target.connections {self._target.connections})"
        try:
            async with asyncio.timeout(timeout_s):
                if len(self._open) + self._opening < self._target.connections:
                    self._opening += 1
                elif connection := await self._wait_in_line():
                    return connection
                lacking = "connection"
                return await self._connect(exchange)
        except TimeoutError:
            exchange.fail("timeout", f"no {lacking} within {timeout_s:g} s", self._clock())
            return None
        except asyncio.CancelledError:
            raise asyncio.CancelledError(exchange) from None

    async def _wait_in_line(self) -> Connection | None:
        """A connection that was given back, or None: then a place to open one is ours."""
        waiting: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(waiting)
        try:
            connection = await waiting
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            if waiting.done() and not waiting.cancelled():  # ours since this very turn: pass it on
                if connection := waiting.result():
                    self._give_back(connection)
                else:
                    self._opening -= 1
                    self._free_place()
            raise
        if connection is not None and not connection.reusable:  # died on its way to us
            self._open.discard(connection)
            connection.abort()
            self._opening += 1
            return None
        return connection

    async def _connect(self, exchange: Exchange) -> Connection | None:
        """Open a connection on the place taken by the caller."""
        connection, began = None, self._clock()
        try:
            async with asyncio.timeout(self._target.connect_timeout_s):
                connection = await self._dial()
            self._open.add(connection)
        except TimeoutError:
            text = f"no connection within {self._target.connect_timeout_s:g} s"
            exchange.fail("connect", text, self._clock())
        except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors too
            exchange.fail("connect", os_words(error, self._target), self._clock())
        finally:
            ended = self._clock() if exchange.done == NEVER else exchange.done
            exchange.connecting = ended - began
            self._opening -= 1
            if connection is None:
                self._free_place()
        return connection

    async def _dial(self) -> Connection:
        sock = await self._addresses.connect(self._loop)
        try:
            transport, connection = await self._loop.create_connection(
                lambda: Connection(self._loop, self._clock, self._target), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        if self._tls is not None:
            secure = await self._loop.start_tls(transport, connection, self._tls, server_hostname=self._host)
            assert secure is not None
            connection.secured(secure)
        return connection

    async def close(self) -> None:
        """Close every connection; what is under way nevertheless is cut off."""
        for waiting in self._waiting:
            waiting.cancel()
        for connection in self._open:
            connection.fail("cutoff", "still in flight when the transport was closed")
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)
