"""A server that misbehaves in every way of `behaviours`, and what a run makes of it, over both transports:
plain, over TLS, and through a real proxy's tunnel.

python -m tests.drills.hostile [ROUNDS]     prints each fault
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.store import Run
from tests.drills.behaviours import Behaviour, behaviours, sized
from tests.drills.fuzz import Finding, Result
from tests.fault_server import RST_ON_CLOSE, Authority
from tests.proxy_fixture import proxy

STEPS = Path(__file__).with_name("hostile_steps.py")
WAYS = ("wire", "httpx", "wire over TLS", "httpx through a tunnel")


class HostileServer:
    """`/b/NUMBER/ID` is behaviour NUMBER, `/ok/ID` answers with ID; counts requests by their x-request-id."""

    def __init__(self, all_of_them: list[Behaviour], tls: ssl.SSLContext | None) -> None:
        self._behaviours, self._tls = all_of_them, tls
        self.seen: Counter[str] = Counter()
        self.port = 0

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Until `over`."""
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False at the connection's end."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines if line)
        self.seen[fields[b"x-request-id"].decode()] += 1
        kind, number, *rest = first.split(b" ")[1].strip(b"/").split(b"/")
        if kind == b"ok":
            writer.write(sized(number))
            return True
        behaviour = self._behaviours[int(number)]
        whole, at = b"".join(behaviour.pieces).replace(b"{id}", rest[0]), 0
        for piece in behaviour.pieces:
            if at:
                await asyncio.sleep(0.001)
            writer.write(whole[at : (at := at + len(piece))])
            await writer.drain()
        if behaviour.end == "hang":
            await reader.read()
        if behaviour.end == "reset":
            await asyncio.sleep(0.01)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            writer.transport.abort()
        if behaviour.end == "close":
            writer.close()
            await writer.wait_closed()
        return behaviour.end == "keep"


@contextlib.contextmanager
def hostile_server(
    all_of_them: list[Behaviour], tls: ssl.SSLContext | None = None
) -> Iterator[HostileServer]:
    """A running HostileServer."""
    server, ready = HostileServer(all_of_them, tls), threading.Event()
    loop, over = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve(ready, over)))
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def meet(way: str, folder: Path, rounds: int = 1) -> list[str]:
    """Ask for every behaviour `rounds` times; what was wrong with the rows, in words.

    What comes after an answer by itself cannot be told from the answer to a request that was sent meanwhile:
    it is one user who meets that, and who pauses.
    """
    late = [one for one in behaviours() if one.late]
    others = [one for one in behaviours() if not one.late]
    found = [
        *_meet(others, way, folder, rounds, users=8),
        *_meet(late, way, folder, rounds, users=1),
    ]
    return [f"{way}: {words}" for words in found]


def _meet(all_of_them: list[Behaviour], way: str, folder: Path, rounds: int, users: int) -> list[str]:
    transport, _, how = way.partition(" ")
    numbered = list(enumerate(all_of_them))
    params = {
        "count": len(all_of_them),
        "hanging": [i for i, one in numbered if one.end == "hang"],
        "answering": [i for i, one in numbered if one.answers],
        "pause_s": 0.03 * (users == 1),
    }
    with contextlib.ExitStack() as stack:
        authority = Authority(folder) if how else None
        server = stack.enter_context(hostile_server(all_of_them, authority.context() if authority else None))
        target = {"url": f"http://127.0.0.1:{server.port}", "transport": transport}
        if authority:
            target |= {"url": f"https://127.0.0.1:{server.port}", "ca_file": authority.file}
        if "tunnel" in how:
            target["proxy"] = stack.enter_context(proxy())
        load = {"count": users, "iterations": rounds * len(all_of_them)}
        given = {"scenario": str(STEPS), "params": params, "target": target, "users": load}
        run = execute(*complete(given, "hostile"), data_dir=folder)
    return list(faults(run, all_of_them, server.seen, transport, rounds, tunnel="tunnel" in how))


def faults(
    run: Run, all_of_them: list[Behaviour], seen: Counter[str], transport: str, rounds: int, *, tunnel: bool
) -> Iterator[str]:
    """Where the rows of a run are not what the server did."""
    if run.state != "complete" or run.meta.step_errors:
        yield f"the run is {run.state}: {run.reason}, {run.meta.step_errors}"
    rows = run.table(["request_id", "operation", "error", "error_text", "attempt", "sent"]).to_pylist()
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["attempt"]):
        by_id.setdefault(row["request_id"], []).append(row)
    for name in seen.keys() | by_id.keys():
        attempts, times = by_id.get(name, []), seen[name]
        unseen = sum(row["error"] == "reset" for row in attempts)  # a connection died before it was read
        if not times <= len(attempts) <= times + unseen:
            yield f"{name}: {times} requests, rows: {attempts}"
    counts = Counter(attempts[0]["operation"] for attempts in by_id.values())
    for i, behaviour in enumerate(all_of_them):
        if counts[f"b{i}"] != rounds:
            yield f"{behaviour.name}: {counts[f'b{i}']} requests have rows, not {rounds}"
    for attempts in by_id.values():
        last = attempts[-1]
        name, right = "a request after it", frozenset({"ok"})
        if tunnel:  # it may pass stray bytes on after the answer, when the next request is on its way
            right |= {"protocol", "reset"}
        if last["operation"] != "after":
            behaviour = all_of_them[int(last["operation"][1:])]
            name, right = behaviour.name, getattr(behaviour, transport)
            if tunnel and behaviour.name == "framed-reset":  # a tunnel passes on that it ended, not how
                right |= {"ok"}
        if (last["error"] or "ok") not in right:
            yield f"{name}: {last['error'] or 'ok'} ({last['error_text']}), not {' or '.join(sorted(right))}"
        if any(row["error"] != "reset" for row in attempts[:-1]) or len(attempts) > 2:
            yield f"{name}: sent again after {[row['error'] for row in attempts]}"


def meet_all(rounds: int) -> Result:
    """The drill: over each transport."""
    result, begin = Result(f"a hostile server, {rounds} times"), time.monotonic()
    for way in WAYS:
        with tempfile.TemporaryDirectory(prefix="perfkit-drills-") as folder:
            found = meet(way, Path(folder), rounds)
        result.cases += len(behaviours())
        result.findings += [Finding("hostile", way, "run", fault) for fault in found]
    result.seconds = time.monotonic() - begin
    return result


if __name__ == "__main__":
    done = meet_all(*map(int, sys.argv[1:] or ["1"]))
    print(
        *done.findings,
        f"{done.cases} behaviours, {len(done.findings)} faults, {done.seconds:.0f} s",
        sep="\n",
    )
