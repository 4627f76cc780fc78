"""The `httpx` transport: HTTP/2, proxies and whatever else httpx can do, at httpx's cost.

Instants come from httpcore's trace events and from the stream of body bytes, so a row means the same as one
of the `wire` transport.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx

from perfkit.model import Target
from perfkit.rows import NEVER
from perfkit.transport import (
    EventInstants,
    Exchange,
    Headers,
    is_event_stream,
    loop_clock,
    split_url,
    tls_context,
)


class HttpxTransport:
    """Sends through one `httpx.AsyncClient`; same limits, same classes of error as `wire`."""

    def __init__(self, target: Target) -> None:
        url = split_url(target)
        self._target = target
        self._base = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        self._max_body = target.max_body_mb * 1024 * 1024
        self._clock = loop_clock(asyncio.get_running_loop())
        limits = httpx.Limits(
            max_connections=target.connections,
            max_keepalive_connections=target.connections,
            keepalive_expiry=target.keepalive_s,
        )
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=tls_context(target), http2=target.http2, limits=limits, proxy=target.proxy
            ),
            timeout=httpx.Timeout(None, connect=target.connect_timeout_s),
            trust_env=False,
        )
        self._client.headers.clear()

    async def send(self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float) -> Exchange:
        """Send one request and read its whole response. Raises only CancelledError."""
        exchange = Exchange()
        url = self._base + quote(path, safe="/?&=%:@!$'()*+,;~[]-._")
        request = httpx.Request(method, url, headers=list(headers), content=body or None)
        if not body and method in ("POST", "PUT", "PATCH"):
            request.headers["content-length"] = "0"
        request.extensions = {
            "timeout": httpx.Timeout(None, connect=self._target.connect_timeout_s).as_dict()
        }
        request.extensions["trace"] = self._trace(exchange)
        try:
            async with asyncio.timeout(timeout_s):
                await self._exchange(request, exchange)
        except TimeoutError:
            exchange.fail("timeout", f"no complete response within {timeout_s:g} s", self._clock())
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            text = str(error) or f"no connection within {self._target.connect_timeout_s:g} s"
            exchange.fail("connect", text, self._clock())
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            closed = "disconnected" in str(error) or "closed connection" in str(error)
            exchange.fail("reset" if closed else "protocol", str(error), self._clock())
        except (httpx.NetworkError, OSError) as error:
            exchange.fail("reset", str(error) or type(error).__name__, self._clock())
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            raise ValueError(str(error)) from None  # the scenario's fault, not the server's
        return exchange

    def _trace(self, exchange: Exchange) -> Any:
        async def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith("send_request_body.complete"):
                exchange.sent = self._clock()

        return trace

    async def _exchange(self, request: httpx.Request, exchange: Exchange) -> None:
        response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            exchange.status = response.status_code
            exchange.headers = [(name.lower(), value) for name, value in response.headers.raw]
            if sum(len(n) + len(v) + 4 for n, v in exchange.headers) > self._target.max_header_kb * 1024:
                text = f"header over {self._target.max_header_kb * 1024} bytes (target.max_header_kb)"
                exchange.fail("protocol", text, self._clock())
                return
            await self._read_body(response, exchange)
        finally:
            await response.aclose()

    async def _read_body(self, response: httpx.Response, exchange: Exchange) -> None:
        events = EventInstants() if is_event_stream(exchange.headers) else None
        parts: list[bytes] = []
        size = 0
        try:
            async for data in response.aiter_raw():
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
        finally:
            exchange.body = b"".join(parts)
            if events is not None:
                exchange.chunks = events.since(exchange.sent)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
