"""What one call of each probe costs: CPU of the thread, warm, without a server around it.

    .venv/bin/python benchmarks/probe_calls.py

The least of many short repeats says the same on a busy machine. In a server the same calls run with cold
caches and cost two to four times as much; `probes_cost.py` measures that, and needs a quiet machine for it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvloop
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from prometheus_client import CollectorRegistry
from sqlalchemy.pool import QueuePool

from perfkit_probes import MetricRegistry, PoolMonitor, ProbesMiddleware, RequestTimes, Ring, StatementMonitor
from perfkit_probes.request import request_times

CALLS, REPEATS = 320, 60


def least_us(work: Callable[[], Any]) -> float:
    """CPU of one call, µs: the least of the repeats."""
    took = []
    for _ in range(REPEATS):
        began = time.thread_time_ns()
        for _ in range(CALLS):
            work()
        took.append(time.thread_time_ns() - began)
    return min(took) / CALLS / 1e3


def checkout_us(folder: Path, registry: MetricRegistry) -> float:
    """A checkout and its return, more than without a monitor."""
    found = []
    for watched in (False, True):
        engine = sa.create_engine(f"sqlite:///{folder}/pool.db", poolclass=QueuePool)
        if watched:
            PoolMonitor(engine, "main", ring=Ring(), registry=registry).start()
        found.append(least_us(lambda engine=engine: engine.raw_connection().close()))  # type: ignore[misc]
        engine.dispose()
    return found[1] - found[0]


class _Dialect:
    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Nothing: what is measured is what is put around it."""

    do_executemany = do_execute_no_params = do_commit = do_rollback = do_execute


class _Cursor:
    rowcount = 1


async def statement_us(in_a_turn: int) -> float:
    """A statement, so many of them in each turn of the loop, more than without a monitor."""
    engine: Any = type("Engine", (), {"dialect": _Dialect()})
    StatementMonitor(engine, ring=Ring()).start()
    found = []
    for execute in (_Dialect().do_execute, engine.dialect.do_execute):
        took = []
        for _ in range(REPEATS):
            request_times.set(RequestTimes("id", 0))
            began = time.thread_time_ns()
            for _ in range(20):
                for number in range(in_a_turn):
                    execute(_Cursor, f"SELECT {number}", (), None)
                await asyncio.sleep(0)
            took.append(time.thread_time_ns() - began)
        found.append(min(took) / 20 / in_a_turn / 1e3)
    return found[1] - found[0]


async def request_us(registry: MetricRegistry) -> float:
    """A request through the middleware, more than without it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"x")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        """Nobody is there."""

    route = type("Route", (), {"path": "/v1/agents", "endpoint": None})
    headers = [(b"host", b"x"), (b"x-request-id", b"ab-1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "path": "/v1/agents", "method": "GET", "headers": headers}
    found = []
    for one in (app, ProbesMiddleware(app, ring=Ring(), registry=registry)):
        took = []
        for _ in range(REPEATS):
            began = time.thread_time_ns()
            for _ in range(CALLS):
                await one({**scope, "route": route, "endpoint": None}, None, send)
            took.append(time.thread_time_ns() - began)
        found.append(min(took) / CALLS / 1e3)
    return found[1] - found[0]


def main() -> None:
    """Measure and print a table."""
    reader = PrometheusMetricReader(registry=CollectorRegistry(), scope_info_enabled=False)
    provider = MeterProvider([reader], shutdown_on_exit=False, exemplar_filter=AlwaysOffExemplarFilter())
    registry = MetricRegistry.of(provider)
    print("| call | µs |\n|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        print(f"| checkout and return of a connection | {checkout_us(Path(folder), registry):.1f} |")
    for n in (1, 5):
        told = uvloop.run(statement_us(n))
        print(f"| statement, {n} in a turn of the loop | {told:.1f} |")
    print(f"| request, in the middleware | {uvloop.run(request_us(registry)):.1f} |")
    histogram = least_us(lambda: registry.record("hist_ttft_ms", 12.0, **{"model.name": "m"}))
    print(f"| value of a histogram | {histogram:.1f} |")
    print(f"| count | {least_us(lambda: registry.add('count_user_message')):.1f} |")


if __name__ == "__main__":
    main()
