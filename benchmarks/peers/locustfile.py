"""Locust's two HTTP users in a closed loop, and its `constant_throughput` in an open one.

BENCH_METHOD=GET locust -f locustfile.py Fast|Plain|Paced --headless …
"""

from __future__ import annotations

import os
import time
from itertools import count
from typing import Any

import gevent
from locust import FastHttpUser, HttpUser, constant_throughput, events, task
from shared import BODY, PATH, USER_RATE, WARMUP_S, tell, tell_lateness

METHOD = os.environ.get("BENCH_METHOD", "GET")
RATE = float(os.environ.get("BENCH_RATE", "0"))
late_ms: list[float] = []
numbers = count()
began = time.perf_counter()


class Fast(FastHttpUser):
    """The fast user, without waiting."""

    @task
    def one(self) -> None:
        self.client.request(METHOD, PATH, json=BODY if METHOD == "POST" else None)


class Plain(HttpUser):
    """The user on requests, without waiting."""

    @task
    def one(self) -> None:
        self.client.request(METHOD, PATH, json=BODY if METHOD == "POST" else None)


class Paced(FastHttpUser):
    """A fixed rate a user. The first request of each is shifted, so that together they are evenly spaced.

    The kick-off error is against the user's own schedule, which Locust keeps as the end of its last task
    plus the wait it chose; after a task longer than the interval it begins a new schedule, and that delay is
    not seen.
    """

    wait_time = constant_throughput(USER_RATE)

    def on_start(self) -> None:
        gevent.sleep(WARMUP_S / 2 + next(numbers) / RATE)

    @task
    def one(self) -> None:
        now = time.perf_counter()
        if now - began > WARMUP_S:
            late_ms.append((now - self._cp_last_run - self._cp_last_wait_time) * 1e3)
        self.client.request(METHOD, PATH, json=None)


@events.test_start.add_listener
def on_test_start(**_: Any) -> None:
    global began
    began = time.perf_counter()


@events.quitting.add_listener
def on_quitting(environment: Any, **_: Any) -> None:
    if late_ms:
        tell_lateness(late_ms)
    else:
        total = environment.stats.total
        tell(recorded=total.num_requests, failed=total.num_failures)
