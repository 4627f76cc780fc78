"""Drills of the scheduler's leader election: real server processes, one PostgreSQL, and what goes wrong.

    .venv/bin/python benchmarks/leader_drills.py [--repeats 20] [--drill NAME]

All through a drill batches are put in. At its end each must be completed, each item carried out once (a run
and two messages), and no run written under another epoch than the database's at that moment. The time of a
failover is taken on the database's clock, from the moment leadership was free: at once where the database
sees the leader go, else when its lease had expired; where none was, from the first server's ready line. Exit
code 1 when a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from drill_cluster import CHECK_S, LEASE_S, RETRY_S, Cluster, cluster

#: What must be 0 after every drill.
_NEVER = ("missing", "unfinished", "twice", "effects", "late", "unseen", "doubles")

# -- the drills: each ends one leader and returns how long there was none, s -----------------------


async def kill(c: Cluster) -> float:
    """kill -9 the leader; a fresh server takes its place in the cluster."""
    leader, epoch = await c.leader()
    leader.send(signal.SIGKILL)
    took = await c.new_leader(epoch, from_lease=False)
    await c.end(leader)
    await c.start(1)
    return took


async def freeze(c: Cluster) -> float:
    """SIGSTOP the leader past its lease, wake it when another leads."""
    leader, epoch = await c.leader()
    leader.send(signal.SIGSTOP)
    took = await c.new_leader(epoch, from_lease=True)
    await asyncio.sleep(0.3)
    leader.send(signal.SIGCONT)
    await asyncio.sleep(0.5)
    return took


async def terminate(c: Cluster) -> float:
    """pg_terminate_backend of the connection that holds the lock."""
    _, epoch = await c.leader()
    await c.database.execute("SELECT pg_terminate_backend(pid) FROM leases")
    return await c.new_leader(epoch, from_lease=False)


async def cut(c: Cluster) -> float:
    """The leader's connections are closed and new ones refused for a while."""
    leader, epoch = await c.leader()
    leader.proxy.close_all()
    took = await c.new_leader(epoch, from_lease=False)
    await asyncio.sleep(0.5)
    leader.proxy.heal()
    return took


async def blackhole(c: Cluster) -> float:
    """The leader's connections stay, but nothing passes; the backlog arrives when another leads."""
    leader, epoch = await c.leader()
    leader.proxy.blackhole()
    took = await c.new_leader(epoch, from_lease=True)
    await asyncio.sleep(0.3)
    leader.proxy.heal()
    await asyncio.sleep(0.5)
    return took


async def stop(c: Cluster) -> float:
    """SIGTERM: the leader gives the lock back."""
    leader, epoch = await c.leader()
    leader.send(signal.SIGTERM)
    took = await c.new_leader(epoch, from_lease=False)
    await asyncio.to_thread(leader.process.wait, 20)
    await c.end(leader)
    await c.start(1)
    return took


async def stampede(c: Cluster) -> float:
    """Five start at once where there was none; one leads."""
    epoch, *_ = await c.state()
    for server in list(c.servers):
        await c.end(server)
    started = await c.start(5)
    first = (await c.leader())[1]
    await c.look()
    took = max(c.gained[first][0] - min(server.ready_ns for server in started), 0) / 1e9
    await asyncio.sleep(2 * RETRY_S)
    again, *_ = await c.state()
    assert first == again == epoch + 1, "more than one led"
    for server in c.servers[2:]:
        await c.end(server)
        if (await c.state())[0] != again:
            break
    await c.leader()
    return took


DRILLS: dict[str, Callable[[Cluster], Awaitable[float]]] = {
    drill.__name__: drill for drill in (kill, freeze, terminate, cut, blackhole, stop, stampede)
}


async def run_drill(name: str, repeats: int) -> dict[str, Any]:
    """Repeat a drill on one cluster of three; the failover times, and what was counted."""
    times = []
    async with cluster(3) as c:
        feeding = asyncio.create_task(c.feed())
        for _ in range(repeats):
            times.append(await DRILLS[name](c))
            await c.leader()
            await c.look()
        c.enough.set()
        await feeding
        found = await c.settle()
        for server in list(c.servers):  # what they complained of is counted when they end
            await c.end(server)
        return {**found, "refused": c.refused, "times": times}


def _kept(found: dict[str, Any]) -> bool:
    """Whether everything promised was so, and something was put to the test."""
    in_time = max(found["times"]) <= 2 * RETRY_S
    return in_time and found["items"] > 0 and not any(found[name] for name in _NEVER)


def main() -> None:
    """Run the drills and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--drill", choices=DRILLS)
    options = parser.parse_args()
    print(f"retry {RETRY_S} s, check {CHECK_S} s, lease {LEASE_S} s; promise: within {2 * RETRY_S} s\n")
    print("| drill | n | no leader, s: median | longest | items | twice | lost | old leader wrote | refused "
          "| two leaders | kept |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    broken = False
    for name in [options.drill] if options.drill else DRILLS:
        found = asyncio.run(run_drill(name, options.repeats))
        times, kept = found["times"], _kept(found)
        broken |= not kept
        print(
            f"| {name} | {len(times)} | {statistics.median(times):.2f} | {max(times):.2f} | {found['items']} "
            f"| {found['twice']} | {found['missing']} | {found['late']} | {found['refused']} "
            f"| {found['doubles']} | {'yes' if kept else 'NO'} |",
            flush=True,
        )
        if not kept:
            print(f"{name}: {found}", file=sys.stderr)
    sys.exit(broken)


if __name__ == "__main__":
    main()
