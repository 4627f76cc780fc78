"""The command line of every client that is compared, and how its count is read."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.measure import HERE, PEERS_PYTHON, ClientFailed, Ran
from peers.shared import BODY, PATH, USER_RATE, WARMUP_S

_HEY_COUNT = re.compile(r"\[200\]\s+(\d+) responses")
_LOCUST = (str(PEERS_PYTHON), "-m", "locust", "-f", str(HERE / "locustfile.py"))
_QUIET = ("--headless", "--only-summary", "--loglevel", "ERROR")


@dataclass(frozen=True)
class Call:
    """One invocation."""

    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    read: Callable[[Ran], dict[str, Any]] = Ran.said


@dataclass(frozen=True)
class Closed:
    """What a closed loop is given."""

    url: str
    method: str
    n: int
    seconds: int
    data_dir: Path


@dataclass(frozen=True)
class Open:
    """What an open loop is given."""

    url: str
    rate: int
    seconds: int
    data_dir: Path


def _perfkit(c: Closed) -> Call:
    script = str(HERE / "perfkit_load.py")
    return Call(
        [sys.executable, script, "closed", c.url, c.method, str(c.n), str(c.seconds), str(c.data_dir)]
    )


def _wrk(c: Closed) -> Call:
    size = ["-t1", f"-c{c.n}", f"-d{c.seconds}s"]
    script = str(HERE / "wrk.lua")
    return Call(["wrk", *size, "-s", script, c.url + PATH, "--", c.method, json.dumps(BODY)])


def _hey(c: Closed) -> Call:
    body = ["-m", "POST", "-T", "application/json", "-d", json.dumps(BODY)] if c.method == "POST" else []
    return Call(["hey", "-z", f"{c.seconds}s", "-c", str(c.n), *body, c.url + PATH], read=_hey_count)


def _hey_count(ran: Ran) -> dict[str, Any]:
    found = _HEY_COUNT.search(ran.output)
    if found is None:
        raise ClientFailed(f"no count in what it said: {ran.output[-300:]}")
    return {"recorded": int(found[1])}


def _locust(user: str) -> Callable[[Closed], Call]:
    def call(c: Closed) -> Call:
        size = ["-u", str(c.n), "-r", str(c.n), "-t", str(c.seconds)]
        return Call([*_LOCUST, user, "-H", c.url, *size, *_QUIET], {"BENCH_METHOD": c.method})

    return call


def _python(kind: str) -> Callable[[Closed], Call]:
    def call(c: Closed) -> Call:
        script = str(HERE / "closed.py")
        return Call([str(PEERS_PYTHON), script, kind, c.url, c.method, str(c.n), str(c.seconds)])

    return call


def _perfkit_open(o: Open) -> Call:
    script = str(HERE / "perfkit_load.py")
    return Call([sys.executable, script, "open", o.url, str(o.rate), str(o.seconds), str(o.data_dir)])


def _locust_open(o: Open) -> Call:
    users = str(round(o.rate / USER_RATE))
    size = ["-u", users, "-r", users, "-t", str(o.seconds + round(WARMUP_S))]
    env = {"BENCH_RATE": str(o.rate)}
    return Call([*_LOCUST, "Paced", "-H", o.url, *size, *_QUIET], env)


def _paced(kind: str) -> Callable[[Open], Call]:
    def call(o: Open) -> Call:
        return Call([str(PEERS_PYTHON), str(HERE / "paced.py"), kind, o.url, str(o.rate), str(o.seconds)])

    return call


def present(clients: dict[str, Callable[[Any], Call]]) -> dict[str, Callable[[Any], Call]]:
    """Those that are installed."""
    return {n: call for n, call in clients.items() if n not in ("wrk", "hey") or shutil.which(n)}


CLOSED: dict[str, Callable[[Closed], Call]] = {
    "perfkit": _perfkit,
    "wrk": _wrk,
    "hey": _hey,
    "Locust FastHttpUser": _locust("Fast"),
    "Locust HttpUser": _locust("Plain"),
    "aiohttp": _python("aiohttp"),
    "aiohttp on uvloop": _python("aiohttp+uvloop"),
    "httpx AsyncClient": _python("httpx"),
    "httpx Client, N threads": _python("httpx-threads"),
}

OPEN: dict[str, Callable[[Open], Call]] = {
    "perfkit": _perfkit_open,
    "Locust constant_throughput": _locust_open,
    "asyncio.sleep + aiohttp": _paced("asyncio"),
    "no client (the machine's floor)": _paced("floor"),
}
