"""The `httpx` transport: HTTP/2, proxies and whatever else httpx can do, at httpx's cost.

Instants come from httpcore's trace events and from the stream of body bytes, so a row means the same as one
of the `wire` transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import httpcore
import httpx

from perfkit.drive.rows import NEVER
from perfkit.drive.transport import (
    FITS_SOCKET,
    Exchange,
    Headers,
    headers_size,
    is_event_stream,
    loop_clock,
    os_words,
    quote_path,
    split_url,
    tls_context,
)
from perfkit.model import Target
from perfkit.streams import Events


class _RawURL(httpx.URL):
    """A URL whose path and query are sent as they are: httpx would normalise them.

    httpcore's own way, the extension `target`, replaces the address in a CONNECT to a proxy, too.
    """

    def __init__(self, origin: httpx.URL, raw_path: bytes) -> None:
        super().__init__(origin)
        self._raw_path = raw_path

    @property
    def raw_path(self) -> bytes:
        """See httpx."""
        return self._raw_path


class HttpxTransport:
    """Sends through httpx's transports; same limits, same classes of error as `wire`.

    For HTTP/1.1 each connection is an `httpx.AsyncHTTPTransport` of its own: in httpcore's pool a request
    cancelled at the wrong moment takes its connection with it for ever, and the pool's cost grows with
    connections × waiters. Over HTTP/2 one pool carries all.
    """

    def __init__(self, target: Target, proxy_auth: str | None = None) -> None:
        url = split_url(target)
        user, _, password = (proxy_auth or "").partition(":")
        auth = (user, password) if proxy_auth else None
        self._proxy = httpx.Proxy(target.proxy, auth=auth) if target.proxy else None
        self._target = target
        self._origin = httpx.URL(f"{url.scheme}://{url.netloc}/")
        self._base = quote_path(url.path.rstrip("/") or "/").rstrip("/")
        self._max_body = target.max_body_mb * 1024 * 1024
        self._clock = loop_clock(asyncio.get_running_loop())
        self._tls = tls_context(target)
        self._shared = self._open_lane(target.connections) if target.http2 else None
        self._places = asyncio.Semaphore(target.connections * (100 if target.http2 else 1))
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closing: set[asyncio.Task[None]] = set()

    def _open_lane(self, connections: int | None) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=connections, keepalive_expiry=self._target.keepalive_s)
        lane = httpx.AsyncHTTPTransport(
            verify=self._tls, http2=self._target.http2, limits=limits, proxy=self._proxy
        )
        pool: Any = lane._pool  # httpx hands no backend on
        pool._network_backend = _Backend()
        return lane

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float, *, fresh: bool = False
    ) -> Exchange:
        """Send one request and read its whole response; see `Transport.send`."""
        exchange = Exchange()
        lines = headers.encode("latin-1").split(b"\r\n")[:-1]
        extensions = {
            "timeout": httpx.Timeout(None, connect=self._target.connect_timeout_s).as_dict(),
            "trace": self._trace(exchange),
        }
        raw_path = f"{self._base}{quote_path(path)}".encode("ascii")
        fields = [(name, value.strip()) for name, _, value in (line.partition(b": ") for line in lines)]
        request = httpx.Request(
            method, self._origin, headers=fields, content=body or None, extensions=extensions
        )
        request.url = _RawURL(self._origin, raw_path)
        try:
            async with asyncio.timeout(timeout_s) as limit, self._places:
                await self._on_lane(request, exchange, fresh)
        except asyncio.CancelledError:
            raise asyncio.CancelledError(exchange) from None
        except Exception as error:  # whatever httpx, httpcore, h11, h2 or anyio make of the network
            if limit.expired():
                exchange.fail("timeout", f"no complete response within {timeout_s:g} s", self._clock())
            elif isinstance(error, httpx.ConnectTimeout):
                text = f"no connection within {self._target.connect_timeout_s:g} s"
                exchange.fail("connect", text, self._clock())
            else:
                exchange.fail(_class_of(error), _words(error, self._target), self._clock())
        return exchange

    def _trace(self, exchange: Exchange) -> Any:
        began = NEVER

        async def trace(event: str, info: dict[str, Any]) -> None:
            nonlocal began
            if event.endswith("send_request_headers.complete"):
                exchange.sending = self._clock()
            elif event.endswith("send_request_body.complete"):
                exchange.sent = self._clock()
            elif event.startswith("connection."):  # connect_tcp with the name's look-up, then start_tls
                began = self._clock() if began == NEVER else began
                exchange.connecting = self._clock() - began

        return trace

    async def _on_lane(self, request: httpx.Request, exchange: Exchange, fresh: bool) -> None:
        if self._shared is not None:
            await self._exchange(self._shared, request, exchange)
            return
        used = bool(self._idle) and not fresh
        lane = self._idle.pop() if used else self._open_lane(None)
        try:
            await self._exchange(lane, request, exchange)
        except BaseException as error:
            if used and not exchange.connecting and not exchange.headers and _class_of(error) == "reset":
                exchange.lost = "unwritten" if exchange.sending == NEVER else "written"
            self._close(lane)
            raise
        if _is_clean(lane):
            self._idle.append(lane)
        else:
            self._close(lane)

    def _close(self, lane: httpx.AsyncHTTPTransport) -> None:
        """In a task of its own, that belongs to no step: a second cancellation cannot stop it."""
        closing = asyncio.create_task(lane.aclose(), context=contextvars.Context())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _exchange(
        self, lane: httpx.AsyncHTTPTransport, request: httpx.Request, exchange: Exchange
    ) -> None:
        response = await lane.handle_async_request(request)
        try:
            exchange.headers = [(name.lower(), value) for name, value in response.headers.raw]
            if headers_size(exchange.headers) > self._target.max_header_kb * 1024:
                text = f"header over {self._target.max_header_kb * 1024} bytes (target.max_header_kb)"
                exchange.fail("protocol", text, self._clock())
                return
            version = response.extensions.get("http_version", b"HTTP/1.1")
            if not version.startswith(b"HTTP/2" if self._target.http2 else b"HTTP/1."):
                exchange.fail("protocol", f"not HTTP/1.1: it begins with {version!r}", self._clock())
                return
            if response.status_code == 101:
                exchange.fail("protocol", "the server switched protocols", self._clock())
                return
            exchange.status = response.status_code
            await self._read_body(response, exchange)
        finally:
            await response.aclose()

    async def _read_body(self, response: httpx.Response, exchange: Exchange) -> None:
        events = Events() if is_event_stream(exchange.headers) else None
        parts: list[bytes] = []
        size = 0
        try:
            async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_raw())) as stream:
                async for data in stream:
                    now = self._clock()
                    if exchange.first_byte == NEVER:
                        exchange.first_byte = now
                    parts.append(data)
                    size += len(data)
                    if events is not None:
                        events.feed(data, now)
                    if size > self._max_body:
                        text = f"body over {self._max_body} bytes (target.max_body_mb)"
                        exchange.fail("protocol", text, now)
                        return
                exchange.done = self._clock()
        except httpx.ReadError:  # who refuses a large body and closes may reset what was not read
            names = {name for name, _ in exchange.headers}
            if exchange.sent != NEVER or names & {b"content-length", b"transfer-encoding"}:
                raise
            exchange.done = self._clock()
        finally:
            exchange.body = b"".join(parts)
            if events is not None:
                events.end(self._clock())
                exchange.events = events.seen

    async def close(self) -> None:
        """Close every connection; what is under way nevertheless goes on."""
        for lane in (*self._idle, *([self._shared] if self._shared else ())):
            await lane.aclose()
        self._idle.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)


class _Backend(httpcore.AnyIOBackend):
    async def connect_tcp(self, *given: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        return _Stream(await super().connect_tcp(*given, **more))


class _Stream(httpcore.AsyncNetworkStream):
    """A socket that is read to its end where writing has broken off: a server that refuses a large body
    answers, and closes. Not over TLS."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream, self._rest = stream, b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._stream.read(max_bytes, timeout)
        except httpcore.ReadError:
            if not self._rest:
                raise
            part, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
            return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if len(buffer) <= FITS_SOCKET:
            await self._stream.write(buffer, timeout)
            return
        spare = os.dup(self._stream.get_extra_info("socket").fileno())
        try:
            await self._stream.write(buffer, timeout)
        except httpcore.WriteError:
            with contextlib.suppress(OSError):
                while part := os.read(spare, FITS_SOCKET):
                    self._rest += part
            raise
        finally:
            os.close(spare)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *given: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        return await self._stream.start_tls(*given, **more)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _is_clean(lane: httpx.AsyncHTTPTransport) -> bool:
    """Whether nothing came after the response: h11 would take it for the beginning of the next one."""
    pool: Any = getattr(lane, "_pool", None)
    for connection in getattr(pool, "connections", ()):
        while connection is not None and not hasattr(connection, "_h11_state"):  # a proxy's has one inside
            connection = getattr(connection, "_connection", None)
        state = getattr(connection, "_h11_state", None)
        if state is not None and state.trailing_data[0]:
            return False
    return True


def _class_of(error: BaseException) -> str:
    """The error class of a row for what httpx raised."""
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return "connect"
    if isinstance(error, (httpx.NetworkError, OSError)):
        return "reset"
    ended = ("disconnected", "closed connection", "ConnectionClosed", "StreamReset", "ConnectionTerminated")
    return "reset" if any(word in str(error) for word in ended) else "protocol"


def _words(error: BaseException, target: Target) -> str:
    """What the operating system or the TLS library said first, else httpx's own words."""
    text = str(error) or type(error).__name__
    cause: BaseException | None = error
    for _ in range(10):
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        elif cause is not None:
            if isinstance(cause, OSError) and cause.errno is not None:
                text = os_words(cause, target)
            cause = cause.__cause__ or cause.__context__
    return text
