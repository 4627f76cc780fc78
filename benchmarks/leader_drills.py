"""Drills of the scheduler's leader election: real server processes, one PostgreSQL, and what goes wrong.

    .venv/bin/python benchmarks/leader_drills.py [--repeats 20] [--drill NAME]

All through a drill batches are put in; at its end each must be completed, each item carried out once (a run
and two messages), and no run of an earlier epoch may have ended after one of a later epoch had. The time of a
failover is taken on the database's clock, from the moment leadership was free: at once where the database
sees the leader go, else when its lease had expired.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from perfkit.server.postgres import embedded_postgres

RETRY_S, CHECK_S, LEASE_S = 0.5, 0.3, 1.5
ITEMS = 3
_OPTIONS = {"scheduler-retry-s": RETRY_S, "scheduler-check-s": CHECK_S, "scheduler-lease-s": LEASE_S}
_OPTIONS |= {
    "scheduler-poll-s": 0.1,
    "model-speed": 20,
    "pool-size": 5,
    "max-overflow": 2,
    "pool-timeout-s": 2,
}


class Proxy:
    """Stands between a server and the database's socket; can close everything, or pass nothing on."""

    def __init__(self, folder: Path, behind: Path) -> None:
        self.folder, self._behind = folder, behind / ".s.PGSQL.5432"
        self._passing = asyncio.Event()
        self._passing.set()
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen."""
        self.folder.mkdir()
        self._server = await asyncio.start_unix_server(self._connected, self.folder / ".s.PGSQL.5432")

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.close()
            return
        back_reader, back_writer = await asyncio.open_unix_connection(self._behind)
        self._writers |= {writer, back_writer}
        await asyncio.gather(self._pipe(reader, back_writer), self._pipe(back_reader, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    def close_all(self) -> None:
        """The network breaks: connections end, new ones are refused."""
        self._open = False
        for writer in list(self._writers):
            writer.close()

    def blackhole(self) -> None:
        """The network swallows: connections stay, nothing comes through."""
        self._passing.clear()

    def heal(self) -> None:
        """All is well again."""
        self._open = True
        self._passing.set()

    async def stop(self) -> None:
        """Listen no longer."""
        self.heal()
        self._server.close()
        for writer in list(self._writers):
            writer.close()


@dataclass
class Server:
    """A server process behind its proxy."""

    process: subprocess.Popen[str]
    proxy: Proxy
    instance: str = ""

    def send(self, what: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(what)


@dataclass
class Cluster:
    """Servers on one database."""

    folder: Path
    socket: Path
    database: Any
    servers: list[Server] = field(default_factory=list)
    agent: str = ""
    batches: int = 0
    doubles: int = 0

    async def start(self, count: int) -> list[Server]:
        """Start servers at once; they answer when this returns."""
        started = []
        for _ in range(count):
            proxy = Proxy(self.folder / uuid.uuid4().hex[:6], self.socket)
            await proxy.start()
            command = [sys.executable, "-m", "perfkit.server", "--port", "0", "--stop-with-parent"]
            command += ["--database-url", f"postgresql://postgres@/postgres?host={proxy.folder}"]
            command += [part for name, value in _OPTIONS.items() for part in (f"--{name}", str(value))]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=_errors(), text=True
            )
            started.append(Server(process, proxy))
        for server in started:
            line = await asyncio.to_thread(server.process.stdout.readline)  # type: ignore[union-attr]
            url = line.split()[4]
            server.instance = (await asyncio.to_thread(_get, f"{url}/probe/samples?after=-1"))["instance"]
            if not self.agent:
                self.agent = (await asyncio.to_thread(_post, f"{url}/v1/agents/"))["id"]
        self.servers += started
        return started

    async def end(self, server: Server) -> None:
        """Kill a server, whatever state it is in."""
        server.process.kill()
        await asyncio.to_thread(server.process.communicate)
        await server.proxy.stop()
        self.servers.remove(server)

    async def state(self) -> tuple[int, str, float, float]:
        """Epoch, leader, when the lease was renewed, and the time now, by the database's clock (s)."""
        row = await self.database.fetchrow(
            "SELECT epoch, leader, extract(epoch FROM renewed_at)::float, "
            "extract(epoch FROM clock_timestamp())::float FROM leaderships JOIN leases USING (name)"
        )
        return tuple(row) if row else (0, "", 0.0, 0.0)  # type: ignore[return-value]

    async def leader(self) -> Server:
        """The server that leads."""
        while True:
            _, instance, renewed, now = await self.state()
            for server in self.servers:
                if server.instance == instance and now - renewed < LEASE_S / 2:
                    return server
            await asyncio.sleep(0.02)

    async def new_leader(self, after: int, *, from_lease: bool) -> float:
        """Wait for an epoch beyond `after`; how long leadership had been free, s."""
        _, _, renewed, began = await self.state()
        while True:
            epoch, _, lease, now = await self.state()
            if epoch > after:
                return now - (renewed + LEASE_S if from_lease else began)
            renewed = lease
            if now - began > 30:
                raise RuntimeError("no new leader in 30 s")
            await asyncio.sleep(0.005)

    async def feed(self) -> None:
        """Put in a batch every 50 ms, until cancelled."""
        items = [{"agent_id": self.agent, "question": f"what about {i}?"} for i in range(ITEMS)]
        user, organization = (f"{kind}-00000000-0000-4000-8000-000000000000" for kind in ("user", "org"))
        connection = await asyncpg.connect(host=str(self.socket), user="postgres", database="postgres")
        try:
            while True:
                await connection.execute(
                    "INSERT INTO jobs (id, kind, status, background, organization_id, user_id, request, "
                    "created_at, updated_at) VALUES ($1, 'batch', 'created', true, $2, $3, $4, now(), now())",
                    *(f"batch-{uuid.uuid4()}", organization, user, json.dumps({"items": items})),
                )
                self.batches += 1
                await asyncio.sleep(0.05)
        finally:
            connection.terminate()

    async def settle(self) -> None:
        """Wait until every batch has ended, and check what was promised."""
        count = "SELECT count(*) FROM jobs WHERE kind = 'batch' AND status IN ('created', 'running')"
        for _ in range(3000):
            if not await self.database.fetchval(count):
                break
            await asyncio.sleep(0.02)
        bad = await self.database.fetch(
            "SELECT b.id, b.status, count(r.id) FROM jobs b LEFT JOIN jobs r ON r.batch_id = b.id "
            "WHERE b.kind = 'batch' GROUP BY b.id, b.status "
            f"HAVING b.status <> 'completed' OR count(r.id) <> {ITEMS} OR count(DISTINCT r.item) <> {ITEMS}"
        )
        assert not bad, f"batches not carried out exactly once: {[tuple(row) for row in bad[:3]]}"
        said = await self.database.fetch(
            "SELECT r.id, count(m.id) FROM jobs r LEFT JOIN messages m ON m.run_id = r.id "
            "WHERE r.batch_id IS NOT NULL GROUP BY r.id HAVING count(m.id) <> 2"
        )
        assert not said, "runs with effects more or less than once"
        epochs = await self.database.fetch(
            "SELECT (request->>'epoch')::int AS epoch FROM jobs WHERE batch_id IS NOT NULL "
            "ORDER BY completed_at"
        )
        order = [row["epoch"] for row in epochs]
        self.doubles = sum(later < earlier for earlier, later in itertools.pairwise(order))
        assert not self.doubles, "an earlier leader wrote after a later one"


def _errors() -> Any:
    """Where the servers' warnings go: PERFKIT_DRILL_LOG, for who looks for a cause."""
    place = os.environ.get("PERFKIT_DRILL_LOG")
    return open(place, "a") if place else subprocess.DEVNULL


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def _post(url: str) -> Any:
    body = {"name": "drill", "model": "m/m", "embedding": "e/e", "include_base_tools": False}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@asynccontextmanager
async def cluster(count: int) -> AsyncIterator[Cluster]:
    """A database with servers; everything ends with the block."""
    with embedded_postgres(None) as url, tempfile.TemporaryDirectory(prefix="pk-") as folder:
        socket = Path(parse_qs(urlsplit(url).query)["host"][0])
        database = await asyncpg.connect(host=str(socket), user="postgres", database="postgres")
        made = Cluster(Path(folder), socket, database)
        try:
            await made.start(count)
            yield made
        finally:
            for server in list(made.servers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, signal.SIGCONT)
                await made.end(server)
            await database.close()


# -- the drills: each ends one leader and returns how long there was none, s -----------------------


async def kill(c: Cluster) -> float:
    """kill -9 the leader; a fresh server takes its place in the cluster."""
    leader, (epoch, *_) = await c.leader(), await c.state()
    leader.send(signal.SIGKILL)
    took = await c.new_leader(epoch, from_lease=False)
    await c.end(leader)
    await c.start(1)
    return took


async def freeze(c: Cluster) -> float:
    """SIGSTOP the leader past its lease, wake it when another leads."""
    leader, (epoch, *_) = await c.leader(), await c.state()
    leader.send(signal.SIGSTOP)
    took = await c.new_leader(epoch, from_lease=True)
    await asyncio.sleep(0.3)
    leader.send(signal.SIGCONT)
    await asyncio.sleep(0.5)
    return took


async def terminate(c: Cluster) -> float:
    """pg_terminate_backend of the connection that holds the lock."""
    _, (epoch, *_) = await c.leader(), await c.state()
    await c.database.execute("SELECT pg_terminate_backend(pid) FROM leases")
    return await c.new_leader(epoch, from_lease=False)


async def cut(c: Cluster) -> float:
    """The leader's connections are closed and new ones refused for a while."""
    leader, (epoch, *_) = await c.leader(), await c.state()
    leader.proxy.close_all()
    took = await c.new_leader(epoch, from_lease=False)
    await asyncio.sleep(0.5)
    leader.proxy.heal()
    return took


async def blackhole(c: Cluster) -> float:
    """The leader's connections stay, but nothing passes; the backlog arrives when another leads."""
    leader, (epoch, *_) = await c.leader(), await c.state()
    leader.proxy.blackhole()
    took = await c.new_leader(epoch, from_lease=True)
    await asyncio.sleep(0.3)
    leader.proxy.heal()
    await asyncio.sleep(0.5)
    return took


async def stop(c: Cluster) -> float:
    """SIGTERM: the leader gives the lock back."""
    leader, (epoch, *_) = await c.leader(), await c.state()
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
    waiting = asyncio.create_task(c.start(5))
    took = await c.new_leader(epoch, from_lease=False)  # start-up included
    await waiting
    first, *_ = await c.state()
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
        assert not feeding.done(), f"no more batches were put in: {feeding}"
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await c.settle()
        return {"drill": name, "times": times, "batches": c.batches, "doubles": c.doubles}


def main() -> None:
    """Run the drills and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--drill", choices=DRILLS)
    options = parser.parse_args()
    print(f"retry {RETRY_S} s, check {CHECK_S} s, lease {LEASE_S} s; promise: within {2 * RETRY_S} s\n")
    print("| drill | n | without a leader, s: median | longest | batches | items twice | old leader wrote |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in [options.drill] if options.drill else DRILLS:
        found = asyncio.run(run_drill(name, options.repeats))
        times = found["times"]
        print(
            f"| {name} | {len(times)} | {statistics.median(times):.2f} | {max(times):.2f} "
            f"| {found['batches']} | 0 | {found['doubles']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
