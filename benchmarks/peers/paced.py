"""Open-loop clients to compare with: asyncio sleeping until each planned instant, and no client at all.

python paced.py asyncio|floor URL RATE SECONDS

`floor` sends nothing: a thread sleeps until shortly before each instant, polls the clock for the rest and
then works for 0.1 ms, about what a request costs a client. What it is late by, the machine is late by.
"""

from __future__ import annotations

import asyncio
import sys
import time

from shared import PATH, WARMUP_S, tell_lateness

late_ms: list[float] = []


async def with_asyncio(url: str, planned: list[float]) -> None:
    """One pacer, one task a request, requests by aiohttp."""
    import aiohttp

    tasks = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=500)) as client:

        async def send(when: float) -> None:
            late_ms.append((time.perf_counter() - when) * 1e3)
            async with client.get(url + PATH) as response:
                await response.read()

        start = time.perf_counter() + 0.2
        for offset in planned:
            delay = start + offset - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(send(start + offset))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def without_client(planned: list[float]) -> None:
    """Sleep, poll, note how late, be busy."""
    start = time.perf_counter() + 0.2
    for offset in planned:
        delay = start + offset - time.perf_counter() - 100e-6
        if delay > 0:
            time.sleep(delay)
        while (now := time.perf_counter()) < start + offset:
            pass
        late_ms.append((now - start - offset) * 1e3)
        while time.perf_counter() < now + 100e-6:
            pass


def main() -> None:
    """Run the client named on the command line."""
    kind, url, rate, seconds = sys.argv[1:]
    total = int((WARMUP_S + float(seconds)) * float(rate))
    planned = [i / float(rate) for i in range(total)]
    if kind == "asyncio":
        asyncio.run(with_asyncio(url, planned))
    else:
        without_client(planned)
    tell_lateness(late_ms[int(WARMUP_S * float(rate)) :])


if __name__ == "__main__":
    main()
