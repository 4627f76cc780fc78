"""What the event-loop watchdog costs: CPU of a process with it and without, idle and answering.

    .venv/bin/python benchmarks/watchdog_cost.py

Each measurement is a process of its own, with and without in turn; medians of the repeats. The goal is less
than 0.5 % of a core.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

SECONDS, REPEATS = 4.0, 7
SETTINGS = {"default (15 s, 5 s)": (15.0, 5.0), "tight (100 ms, 50 ms)": (0.1, 0.05)}


async def measure(work: str, settings: str | None) -> float:
    """Share of a core this process used."""
    from perfkit_probes import Ring, Watchdog

    dog: Any = None
    if settings:
        hang, check = SETTINGS[settings]
        dog = Watchdog(asyncio.get_running_loop(), ring=Ring(), hang_after_s=hang, check_every_s=check)
        dog.start()
    await asyncio.sleep(0.2)
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < SECONDS:
        if work == "answering":  # 500 short pieces of work a second
            sum(range(2000))
            await asyncio.sleep(0.002)
        else:
            await asyncio.sleep(0.25)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    if dog is not None:
        dog.stop()
    return share


def main() -> None:
    """Run every combination and print a table."""
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2] or None))))
        return
    shares: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for work in ("idle", "answering"):
            for settings in ("", *SETTINGS):
                done = subprocess.check_output([sys.executable, __file__, work, settings])
                shares.setdefault((work, settings), []).append(json.loads(done))
    print("| loop | settings | % of a core | more than without |\n|---|---|---:|---:|")
    for (work, settings), values in shares.items():
        median = 100 * statistics.median(values)
        more = statistics.median(
            100 * (value - without) for value, without in zip(values, shares[work, ""], strict=True)
        )
        print(f"| {work} | {settings or 'without'} | {median:.2f} | {more if settings else 0:.2f} |")


if __name__ == "__main__":
    main()
