"""Server processes on one embedded PostgreSQL, each behind a proxy that can break, for the drills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from agent_server.postgres import embedded_postgres

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

#: Looks at each run inside the transaction that writes it: stamps of the application tell nothing about when
#: a write came through. `written` is the run's epoch, `current` the one the database had at that moment.
_WITNESS = """
CREATE TABLE drill_witness (run text, batch text, item int, written bigint, current bigint);
CREATE FUNCTION drill_witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO drill_witness SELECT NEW.id, NEW.batch_id, NEW.item, (NEW.request->>'epoch')::bigint, epoch
    FROM leaderships; RETURN NEW; END $$;
CREATE TRIGGER drill_witness AFTER INSERT ON jobs FOR EACH ROW WHEN (NEW.batch_id IS NOT NULL)
    EXECUTE FUNCTION drill_witness();"""

_RUNS = "FROM jobs WHERE batch_id IS NOT NULL"
_COUNTS = {
    "items": f"SELECT count(*) {_RUNS}",
    "unfinished": "SELECT count(*) FROM jobs WHERE kind = 'batch' AND status <> 'completed'",
    "twice": f"SELECT count(*) - count(DISTINCT (batch_id, item)) {_RUNS}",
    "effects": "SELECT count(*) FROM (SELECT r.id FROM jobs r LEFT JOIN messages m ON m.run_id = r.id "
    "WHERE r.batch_id IS NOT NULL GROUP BY r.id HAVING count(m.id) <> 2) AS wrong",
    "late": "SELECT count(*) FROM drill_witness WHERE written <> current",
    "unseen": f"SELECT (SELECT count(*) {_RUNS}) - (SELECT count(*) FROM drill_witness)",
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
    complaints: Path
    url: str = ""
    ready_ns: int = 0  #: when its ready line was there, monotonic
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
    refused: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    gained: dict[int, tuple[int, str]] = field(default_factory=dict)  #: by epoch: when (ns), which instance
    claims: set[tuple[int, str]] = field(default_factory=set)  #: when (ns) which instance said that it leads

    async def start(self, count: int) -> list[Server]:
        """Start servers at once; they answer when this returns."""
        started = []
        for _ in range(count):
            proxy = Proxy(self.folder / uuid.uuid4().hex[:6], self.socket)
            await proxy.start()
            command = [sys.executable, "-m", "agent_server", "--port", "0", "--stop-with-parent"]
            command += ["--database-url", f"postgresql://postgres@/postgres?host={proxy.folder}"]
            command += [part for name, value in _OPTIONS.items() for part in (f"--{name}", str(value))]
            complaints = proxy.folder / "stderr"
            with complaints.open("wb") as out:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
                )
            started.append(Server(process, proxy, complaints))
        for server, (line, at) in zip(started, await asyncio.gather(*map(_ready, started)), strict=True):
            server.ready_ns = at
            if "ready at" not in line:
                raise RuntimeError(f"a server did not start: {server.complaints.read_text()}")
            server.url = line.split()[4]
            page = await asyncio.to_thread(_get, f"{server.url}/probe/samples?after=-1")
            server.instance = page["instance"]
            if not self.agent:
                self.agent = (await asyncio.to_thread(_post, f"{server.url}/v1/agents/"))["id"]
        self.servers += started
        return started

    async def end(self, server: Server) -> None:
        """Kill a server, whatever state it is in."""
        server.process.kill()
        await asyncio.to_thread(server.process.communicate)
        self.refused += server.complaints.read_text().count("a tick was refused: epoch")
        await server.proxy.stop()
        self.servers.remove(server)

    async def state(self) -> tuple[int, str, float, float]:
        """Epoch, leader, when the lease was renewed, and the time now, by the database's clock (s)."""
        row = await self.database.fetchrow(
            "SELECT epoch, leader, extract(epoch FROM renewed_at)::float, "
            "extract(epoch FROM clock_timestamp())::float FROM leaderships JOIN leases USING (name)"
        )
        return tuple(row) if row else (0, "", 0.0, 0.0)  # type: ignore[return-value]

    async def leader(self) -> tuple[Server, int]:
        """The server that leads, and its epoch."""
        while True:
            epoch, instance, renewed, now = await self.state()
            for server in self.servers:
                if server.instance == instance and now - renewed < LEASE_S / 2:
                    return server, epoch
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
        """Put in a batch every 150 ms until there are `enough`; on a connection of its own."""
        items = [{"agent_id": self.agent, "question": f"what about {i}?"} for i in range(ITEMS)]
        user, organization = (f"{kind}-00000000-0000-4000-8000-000000000000" for kind in ("user", "org"))
        database = await _connect(self.socket)
        try:
            while not self.enough.is_set():
                await database.execute(
                    "INSERT INTO jobs (id, kind, status, background, organization_id, user_id, request, "
                    "created_at, updated_at) VALUES ($1, 'batch', 'created', true, $2, $3, $4, now(), now())",
                    *(f"batch-{uuid.uuid4()}", organization, user, json.dumps({"items": items})),
                )
                self.batches += 1
                await asyncio.sleep(0.15)
        finally:
            database.terminate()

    async def look(self) -> None:
        """Ask every server when it gained leadership, and when it said that it has it."""
        for server in self.servers:
            page = await asyncio.to_thread(_get, f"{server.url}/probe/samples?limit=50000")
            columns = page["samples"]
            for at, probe, value in zip(columns["t_ns"], columns["probe"], columns["value"], strict=True):
                if probe == "leader.gained":
                    self.gained[int(value)] = (at, server.instance)
                elif probe == "leader.is" and value:
                    self.claims.add((at, server.instance))

    def doubles(self) -> int:
        """How often a server said that it leads after another had come after it.

        The monotonic clock is one for all processes of a machine.
        """
        count = 0
        for at, instance in self.claims:
            begun = [epoch for epoch, (since, _) in self.gained.items() if since <= at]
            count += bool(begun) and self.gained[max(begun)][1] != instance
        return count

    async def settle(self) -> dict[str, int]:
        """Wait until every batch has ended, or nothing was done for 10 s; then what was done, and what must
        all be 0."""
        count = "SELECT count(*) FROM jobs WHERE kind = 'batch' AND status IN ('created', 'running')"
        done, since = -1, time.monotonic()
        while await self.database.fetchval(count) and time.monotonic() - since < 10:
            if (now_done := await self.database.fetchval(_COUNTS["items"])) != done:
                done, since = now_done, time.monotonic()
            await asyncio.sleep(0.1)
        found = {name: await self.database.fetchval(query) for name, query in _COUNTS.items()}
        found["missing"] = ITEMS * self.batches - found["items"]
        return {**found, "batches": self.batches, "doubles": self.doubles(), "refused": self.refused}


async def _ready(server: Server) -> tuple[str, int]:
    assert server.process.stdout is not None
    return await asyncio.to_thread(server.process.stdout.readline), time.monotonic_ns()


async def _connect(socket: Path) -> Any:
    return await asyncpg.connect(host=str(socket), user="postgres", database="postgres")


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
        database = await _connect(socket)
        made = Cluster(Path(folder), socket, database)
        try:
            await made.start(count)
            await database.execute(_WITNESS)
            yield made
        finally:
            for server in list(made.servers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, signal.SIGCONT)
                await made.end(server)
            await database.close()
