"""Closed-loop clients in Python: N workers on one client, each sending its next request after its last.

python closed.py aiohttp|aiohttp+uvloop|httpx|httpx-threads URL GET|POST N SECONDS

Every one reads the whole body, parses nothing, and keeps each latency in a list.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from shared import BODY, PATH, tell

Send = Callable[[], Awaitable[None]]
latencies: list[float] = []


async def drive(send: Send, n: int, seconds: float) -> None:
    """Run n workers for so many seconds."""
    ends = time.perf_counter() + seconds

    async def worker() -> None:
        while (began := time.perf_counter()) < ends:
            await send()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(worker() for _ in range(n)))


async def with_aiohttp(url: str, method: str, n: int, seconds: float) -> None:
    """One ClientSession."""
    import aiohttp

    body = BODY if method == "POST" else None
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=n)) as client:

        async def send() -> None:
            async with client.request(method, url + PATH, json=body) as response:
                await response.read()
                assert response.status == 200

        await drive(send, n, seconds)


async def with_httpx(url: str, method: str, n: int, seconds: float) -> None:
    """One AsyncClient, allowed as many connections as there are workers."""
    import httpx

    body = BODY if method == "POST" else None
    limits = httpx.Limits(max_connections=n, max_keepalive_connections=n)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def send() -> None:
            response = await client.request(method, PATH, json=body)
            assert response.status_code == 200

        await drive(send, n, seconds)


def with_httpx_threads(url: str, method: str, n: int, seconds: float) -> None:
    """One synchronous Client shared by n threads."""
    import httpx

    body = BODY if method == "POST" else None
    limits = httpx.Limits(max_connections=n, max_keepalive_connections=n)
    with httpx.Client(base_url=url, limits=limits, timeout=60) as client:
        ends = time.perf_counter() + seconds

        def worker() -> None:
            while (began := time.perf_counter()) < ends:
                assert client.request(method, PATH, json=body).status_code == 200
                latencies.append(time.perf_counter() - began)

        threads = [threading.Thread(target=worker) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    """Run the client named on the command line."""
    kind, url, method, n, seconds = sys.argv[1:]
    work = (url, method, int(n), float(seconds))
    if kind == "aiohttp":
        asyncio.run(with_aiohttp(*work))
    elif kind == "aiohttp+uvloop":
        import uvloop

        uvloop.run(with_aiohttp(*work))
    elif kind == "httpx":
        asyncio.run(with_httpx(*work))
    else:
        with_httpx_threads(*work)
    tell(recorded=len(latencies))


if __name__ == "__main__":
    main()
