"""The `wire` transport: HTTP/1.1 over asyncio with the httptools parser, and nothing in between.

Instants are read where things happen: `sent` after the last byte was handed to the socket, the others when
bytes come out of it, before they are parsed.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from typing import cast
from urllib.parse import quote

import httptools

from perfkit.errors import BadInput
from perfkit.model import Target
from perfkit.rows import NEVER
from perfkit.transport import (
    Clock,
    EventInstants,
    Exchange,
    Headers,
    is_event_stream,
    loop_clock,
    split_url,
    tls_context,
)

_PLAIN_PATH = re.compile(r"/[!-\"$-~]*").fullmatch
_LINE_BREAK = re.compile(r"[\r\n\0]").search


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    __slots__ = (
        *("_body_size", "_clock", "_events", "_fd", "_head_size", "_in_head", "_is_head", "_max_body"),
        *("_max_head", "_now", "_parser", "_parts", "_timer", "exchange", "idle_since", "loop", "on_lost"),
        *("reusable", "transport", "waiter"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, target: Target) -> None:
        self.loop = loop
        self._clock = clock
        self._max_head = target.max_header_kb * 1024
        self._max_body = target.max_body_mb * 1024 * 1024
        self._parser = httptools.HttpResponseParser(self)
        self._fd = -1
        self._now = 0
        self._timer: asyncio.TimerHandle | None = None
        self.exchange: Exchange | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.reusable = True
        self.idle_since = 0
        self.transport: asyncio.Transport

    def start(self, data: bytes, exchange: Exchange, is_head: bool, timeout_s: float) -> asyncio.Future[None]:
        """Write a request; the future is done when the exchange has ended, well or badly."""
        self.exchange = exchange
        self._in_head, self._is_head = True, is_head
        self._head_size = self._body_size = 0
        self._parts: list[bytes] = []
        self._events: EventInstants | None = None
        self.waiter = self.loop.create_future()
        self._timer = self.loop.call_later(timeout_s, self._on_timeout, timeout_s)
        self._write(data, exchange)
        return self.waiter

    def _write(self, data: bytes, exchange: Exchange) -> None:
        if self._fd >= 0:
            # uvloop's transport would write at the end of the loop's turn; the socket is ours while the
            # transport's buffer is empty, so write now and let the transport have only what is left
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self._fail("reset", f"{type(error).__name__}: {error.strerror}")
                return
            if written == len(data):
                exchange.sent = self._clock()
                return
            data = data[written:]
        self.transport.write(data)
        if self.transport.get_write_buffer_size() == 0:
            exchange.sent = self._clock()  # else resume_writing says when

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.transport.set_write_buffer_limits(high=0)
        if transport.get_extra_info("ssl_object") is None:
            self._fd = transport.get_extra_info("socket").fileno()

    def resume_writing(self) -> None:
        if self.exchange is not None and self.exchange.sent == NEVER:
            self.exchange.sent = self._clock()

    def data_received(self, data: bytes) -> None:
        self._now = self._clock()
        if self.exchange is None:  # nobody asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("protocol", "the server switched protocols")
        except httptools.HttpParserError as error:
            self._fail("protocol", f"not HTTP/1.1: {error}")
        if self._in_head and self.exchange is not None:
            self._head_size += len(data)
            if self._head_size > self._max_head:
                self._fail("protocol", f"header over {self._max_head} bytes (target.max_header_kb)")

    def eof_received(self) -> None:
        self.reusable = False  # before connection_lost comes, so that nobody takes it from the pool

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fd = -1
        if self.exchange is not None:
            self._now = self._clock()
            if exc is None and not self._in_head and self._ends_with_connection():
                self._finish()
            else:
                what = "the server closed the connection before the response was complete"
                self._fail("reset", f"{type(exc).__name__}: {exc}" if exc else what)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.exchange is None:  # more than one response to one request
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.exchange is not None:
            self.exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        exchange.status = self._parser.get_status_code()
        if exchange.status < 200:
            return
        self._in_head = False
        headers = exchange.headers
        if sum(len(name) + len(value) + 4 for name, value in headers) > self._max_head:
            self._fail("protocol", f"header over {self._max_head} bytes (target.max_header_kb)")
        elif self._is_head:  # the parser cannot know that no body follows
            self._parser = httptools.HttpResponseParser(self)
            self.reusable = False
            self._finish()
        elif is_event_stream(headers):
            self._events = EventInstants()

    def on_body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if exchange.first_byte == NEVER:
            exchange.first_byte = self._now
        self._parts.append(data)
        self._body_size += len(data)
        if self._body_size > self._max_body:
            self._fail("protocol", f"body over {self._max_body} bytes (target.max_body_mb)")
        elif self._events is not None:
            self._events.feed(data, self._now)

    def on_message_complete(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if exchange.status < 200:  # 100 Continue, 103 Early Hints: the response is still to come
            exchange.headers.clear()
            return
        self.reusable = self._parser.should_keep_alive()
        self._finish()

    # -- endings

    def _finish(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.sent == NEVER and self.transport.get_write_buffer_size() == 0:
            exchange.sent = self._now  # TLS: the last bytes left in this very turn of the loop
        exchange.done = self._now
        self._release(exchange)

    def _fail(self, error: str, text: str) -> None:
        if self.exchange is not None:
            self.exchange.fail(error, text, self._clock())
            self._release(self.exchange)
        self.abort()

    def _release(self, exchange: Exchange) -> None:
        parts = self._parts
        exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._events is not None:
            exchange.chunks = self._events.since(exchange.sent)
        self.exchange = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def _on_timeout(self, timeout_s: float) -> None:
        self._timer = None
        self._fail("timeout", f"no complete response within {timeout_s:g} s")

    def abort(self) -> None:
        """Close at once; the exchange under way, if any, is the caller's to end."""
        self.exchange = None
        self.reusable = False
        self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport.abort()

    def _ends_with_connection(self) -> bool:
        assert self.exchange is not None
        names = {name for name, _ in self.exchange.headers}
        return not names & {b"content-length", b"transfer-encoding"}


class WireTransport:
    """A pool of connections to one target.

    A connection that has been idle longer than `target.keepalive_s` is not used again, the one used last is
    used first. At most `target.connections` are open; who waits for one waits in line.
    """

    def __init__(self, target: Target) -> None:
        for name in ("http2", "proxy"):
            if getattr(target, name):
                raise BadInput(f"target.{name} needs the other transport; set target.transport: httpx")
        url = split_url(target)
        assert url.hostname is not None
        self._target = target
        self._host, self._port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = tls_context(target) if url.scheme == "https" else None
        self._base = url.path.rstrip("/")
        self._host_lines = f" HTTP/1.1\r\nhost: {url.netloc}\r\n"
        self._addresses: list[tuple[int, str]] = []
        self._idle: deque[Connection] = deque()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._open: set[Connection] = set()
        self._opening = 0
        self._loop = asyncio.get_running_loop()
        self._clock = loop_clock(self._loop)
        self._keepalive_ns = int(target.keepalive_s * 1e9)

    async def send(self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float) -> Exchange:
        """Send one request and read its whole response. Raises only CancelledError."""
        exchange = Exchange()
        connection = self._take_idle()
        if connection is None:
            connection = await self._open_or_wait(exchange, timeout_s)
            if connection is None:
                return exchange
        waiter = connection.start(
            self._encode(method, path, headers, body), exchange, method == "HEAD", timeout_s
        )
        try:
            await waiter
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._give_back(connection)
        return exchange

    def _encode(self, method: str, path: str, headers: Headers, body: bytes) -> bytes:
        if not _PLAIN_PATH(path):
            path = quote(path, safe="/?&=%:@!$'()*+,;~[]-._")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        length = f"content-length: {len(body)}\r\n\r\n" if body or method in _WITH_BODY else "\r\n"
        head = f"{method} {self._base}{path}{self._host_lines}{lines}{length}"
        if lines.count("\r\n") != len(headers) or _LINE_BREAK(path):
            raise ValueError("a header holds a line break")
        try:
            return head.encode("latin-1") + body
        except UnicodeEncodeError:
            raise ValueError("a header holds a character outside latin-1") from None

    # -- the pool

    def _take_idle(self) -> Connection | None:
        if self._idle:
            oldest_allowed = self._clock() - self._keepalive_ns
            while self._idle:
                connection = self._idle.pop()
                if connection.reusable and connection.idle_since >= oldest_allowed:
                    return connection
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
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    async def _open_or_wait(self, exchange: Exchange, timeout_s: float) -> Connection | None:
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._open) + self._opening >= self._target.connections:
                    connection = await self._wait_in_line()
                    if connection is not None and connection.reusable:
                        return connection
                    if connection is not None:
                        self._discard(connection)
                return await self._connect(exchange)
        except TimeoutError:
            text = (
                f"no free connection within {timeout_s:g} s (target.connections {self._target.connections})"
            )
            exchange.fail("timeout", text, self._clock())
            return None

    async def _wait_in_line(self) -> Connection | None:
        waiting: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():  # handed over in the same turn: pass it on
                connection = waiting.result()
                if connection is not None:
                    self._give_back(connection)
                else:
                    self._wake_one()
            raise

    async def _connect(self, exchange: Exchange) -> Connection | None:
        self._opening += 1
        try:
            async with asyncio.timeout(self._target.connect_timeout_s):
                connection = await self._dial()
        except TimeoutError:
            text = f"no connection within {self._target.connect_timeout_s:g} s"
            exchange.fail("connect", text, self._clock())
        except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors too
            exchange.fail("connect", f"{type(error).__name__}: {error.strerror or error}", self._clock())
        else:
            self._open.add(connection)
            return connection
        finally:
            self._opening -= 1
        self._wake_one()
        return None

    async def _dial(self) -> Connection:
        if not self._addresses:  # names are looked up once, not for every connection
            found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = [(family, str(address[0])) for family, _, _, _, address in found]
        error: OSError | None = None
        for family, address in list(self._addresses):
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, self._clock, self._target),
                    address,
                    self._port,
                    family=family,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            except OSError as failed:
                error = error or failed
            else:
                self._addresses.sort(key=lambda one: one[1] != address)  # the one that answers goes first
                return connection
        assert error is not None
        raise error

    async def close(self) -> None:
        """Close every connection."""
        for connection in list(self._open):
            connection.abort()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)


_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
