"""A server that misbehaves in every way of `behaviours`, and what a run makes of it, over both transports.

python -m tests.drills.hostile [ROUNDS]     prints each fault
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perfkit.spread import execute
from perfkit.store import Run
from perfkit.workloads import complete
from tests.drills.behaviours import Behaviour, behaviours, sized
from tests.drills.fuzz import Finding, Result
from tests.fault_server import RST_ON_CLOSE

STEPS = Path(__file__).with_name("hostile_steps.py")
TRANSPORTS = ("wire", "httpx")


class HostileServer:
    """`/b/NUMBER/ID` is behaviour NUMBER, `/ok/ID` answers with ID; counts requests by their x-request-id."""

    def __init__(self, all_of_them: list[Behaviour]) -> None:
        self._behaviours = all_of_them
        self.seen: Counter[str] = Counter()
        self.port = 0

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Until `over`."""
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
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
def hostile_server(all_of_them: list[Behaviour]) -> Iterator[HostileServer]:
    """A running HostileServer."""
    server, ready = HostileServer(all_of_them), threading.Event()
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


def meet(transport: str, folder: Path, rounds: int = 1) -> list[str]:
    """Ask for every behaviour `rounds` times; what was wrong with the rows, in words.

    What comes after an answer by itself cannot be told from the answer to a request that was sent meanwhile:
    it is one user who meets that, and who pauses.
    """
    late = [one for one in behaviours() if one.late]
    others = [one for one in behaviours() if not one.late]
    found = [
        *_meet(others, transport, folder, rounds, users=8),
        *_meet(late, transport, folder, rounds, users=1),
    ]
    return [f"{transport}: {words}" for words in found]


def _meet(all_of_them: list[Behaviour], transport: str, folder: Path, rounds: int, users: int) -> list[str]:
    numbered = list(enumerate(all_of_them))
    params = {
        "count": len(all_of_them),
        "hanging": [i for i, one in numbered if one.end == "hang"],
        "answering": [i for i, one in numbered if one.answers],
        "pause_s": 0.03 * (users == 1),
    }
    with hostile_server(all_of_them) as server:
        target = {"url": f"http://127.0.0.1:{server.port}", "transport": transport}
        load = {"count": users, "iterations": rounds * len(all_of_them)}
        given = {"scenario": str(STEPS), "params": params, "target": target, "users": load}
        run = execute(*complete(given, "hostile"), data_dir=folder)
    return list(faults(run, all_of_them, server.seen, transport, rounds))


def faults(
    run: Run, all_of_them: list[Behaviour], seen: Counter[str], transport: str, rounds: int
) -> Iterator[str]:
    """Where the rows of a run are not what the server did."""
    if run.state != "complete" or run.meta.step_errors:
        yield f"the run is {run.state}: {run.reason}, {run.meta.step_errors}"
    rows = run.table(["request_id", "operation", "error", "error_text", "attempt"]).to_pylist()
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["attempt"]):
        by_id.setdefault(row["request_id"], []).append(row)
    for name, times in seen.items():
        if len(by_id.get(name, [])) < times:
            yield f"{name}: {times} requests, rows: {by_id.get(name)}"
    counts = Counter(attempts[0]["operation"] for attempts in by_id.values())
    for i, behaviour in enumerate(all_of_them):
        if counts[f"b{i}"] != rounds:
            yield f"{behaviour.name}: {counts[f'b{i}']} requests have rows, not {rounds}"
    for attempts in by_id.values():
        last = attempts[-1]
        name, right = "a request after it", frozenset({"ok"})
        if last["operation"] != "after":
            behaviour = all_of_them[int(last["operation"][1:])]
            name, right = behaviour.name, getattr(behaviour, transport)
        if (last["error"] or "ok") not in right:
            yield f"{name}: {last['error'] or 'ok'} ({last['error_text']}), not {' or '.join(sorted(right))}"
        if any(row["error"] != "reset" for row in attempts[:-1]) or len(attempts) > 2:
            yield f"{name}: sent again after {[row['error'] for row in attempts]}"


def meet_all(rounds: int) -> Result:
    """The drill: over each transport."""
    result, begin = Result(f"a hostile server, {rounds} times"), time.monotonic()
    for transport in TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="perfkit-drills-") as folder:
            found = meet(transport, Path(folder), rounds)
        result.cases += len(behaviours())
        result.findings += [Finding("hostile", transport, "run", fault) for fault in found]
    result.seconds = time.monotonic() - begin
    return result


if __name__ == "__main__":
    done = meet_all(*map(int, sys.argv[1:] or ["1"]))
    print(
        *done.findings,
        f"{done.cases} behaviours, {len(done.findings)} faults, {done.seconds:.0f} s",
        sep="\n",
    )
