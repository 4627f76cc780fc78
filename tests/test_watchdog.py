"""The event-loop watchdog on real loops, with code that really blocks them."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from perfkit_probes import MetricRegistry, Ring, Watchdog, place
from perfkit_probes.tasks import waits_at

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a loop of each kind."""

    def on_loop(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(work)

    return on_loop


def watchdog(**options: Any) -> Watchdog:
    """A watchdog of the running loop that sees hangs of 50 ms."""
    quick = {"hang_after_s": 0.05, "check_every_s": 0.05}
    return Watchdog(asyncio.get_running_loop(), **(quick | options))


def threads() -> int:
    """How many watchdog threads there are."""
    return sum(thread.name == "perfkit-watchdog" for thread in threading.enumerate())


def hold(seconds: float) -> None:
    """Block the loop, as a forgotten time.sleep does."""
    time.sleep(seconds)


def spin(seconds: float) -> None:
    """Block the loop by work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("block", [hold, spin])
def test_a_block_is_seen_once_with_its_place_and_its_end(run: Any, block: Callable[[float], None]) -> None:
    """160 ms of blocking, threshold 50 ms: one report, the function named, recovery with its length."""
    ring = Ring()

    async def work() -> Watchdog:
        dog = watchdog(ring=ring)
        dog.start()
        await asyncio.sleep(0.05)
        block(0.16)
        await asyncio.sleep(0.1)
        dog.stop()
        return dog

    (report,) = run(work()).reports
    assert block.__name__ in report.place
    assert report.place.startswith("tests/test_watchdog.py:")
    assert block.__name__ in report.stacks["MainThread"]
    assert any("test_watchdog.py" in task and "work" in task for task in report.tasks)
    assert report.age_ms >= 50
    assert 130 <= report.recovered_ms < 400
    seen = {sample.probe: sample for sample in ring.page().samples}
    assert seen["loop.hang_ms"].label == seen["loop.recovered_ms"].label == report.place
    assert seen["loop.recovered_ms"].value == report.recovered_ms
    lags = [sample.value for sample in ring.page().samples if sample.probe == "loop.lag_ms"]
    assert 130 <= max(lags) < 400


def test_a_block_of_100_ms_is_seen(run: Any) -> None:
    """The shortest block that must not be missed, seven times over."""

    async def work() -> int:
        dog = watchdog()
        dog.start()
        for _ in range(7):
            await asyncio.sleep(0.03)
            hold(0.1)
        await asyncio.sleep(0.05)
        dog.stop()
        return len(dog.reports)

    assert run(work()) == 7


def test_a_healthy_loop_has_no_report_and_a_series_of_small_lags(run: Any) -> None:
    """Nothing is cried about a loop that does its work in short pieces."""
    ring, reader = Ring(), InMemoryMetricReader()
    registry = MetricRegistry.of(MeterProvider([reader]))

    async def work() -> Watchdog:
        dog = watchdog(ring=ring, registry=registry, hang_after_s=0.3)
        dog.start()
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            spin(0.001)
            await asyncio.sleep(0)
        dog.stop()
        return dog

    assert not run(work()).reports
    lags = sorted(sample.value for sample in ring.page().samples)
    assert len(lags) > 12
    assert lags[len(lags) // 2] < 10
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.name == "hist_event_loop_lag_ms"


def test_blocked_time_between_two_calls(run: Any) -> None:
    """What a request met of a blocked loop: also of a block that has not ended, and none of a free loop."""

    async def work() -> tuple[float, float, float]:
        dog = watchdog()
        dog.start()
        await asyncio.sleep(0.1)
        before = dog.blocked_ns()
        await asyncio.sleep(0.3)
        free = dog.blocked_ns() - before
        before = dog.blocked_ns()
        hold(0.2)
        inside = dog.blocked_ns() - before
        await asyncio.sleep(0.05)
        after = dog.blocked_ns() - before
        dog.stop()
        return free / 1e6, inside / 1e6, after / 1e6

    free, inside, after = run(work())
    assert free < 100
    assert 170 <= inside <= 230
    assert inside <= after <= 300


@pytest.mark.parametrize(
    ("stack", "wanted"),
    [
        (["fastapi/routing.py", "letta/server.py", "letta/agent.py", "requests/api.py"], "letta/agent.py"),
        (["starlette/app.py", "letta/server.py", "sqlalchemy/engine.py"], "letta/server.py"),
        (["starlette/app.py", "anyio/to.py"], "anyio/to.py"),
    ],
)
def test_an_installed_service_is_named(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: list[str], wanted: str
) -> None:
    """The package that the frameworks called, its innermost frame; never what started the loop."""
    monkeypatch.setattr(place, "_INSTALLED", (str(tmp_path),))
    found: list[str] = []
    scope: dict[str, Any] = {"held": lambda: None, "found": found, "place_of": place.place_of, "sys": sys}
    for depth, name in enumerate(reversed(stack)):
        body = "found.append(place_of(sys._getframe()))" if depth == 0 else "inner()"
        scope["inner"] = scope["held"]
        code = compile(f"def held(inner=inner):\n    {body}\n", str(tmp_path / name), "exec")
        exec(code, scope)

    async def work() -> None:
        asyncio.get_running_loop().call_soon(scope["held"])  # no frame of this file is inside of the loop
        await asyncio.sleep(0.01)

    run(work())
    assert found[0].startswith(wanted)


def test_a_task_that_waits_for_a_client_waits_in_its_web_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the innermost code but Python's, whatever service is around it; a database's library is none."""
    monkeypatch.setattr(place, "_INSTALLED", (str(tmp_path),))
    locks, service = (asyncio.locks.__file__, 1, "wait"), (__file__, 7, "answer")
    for library, is_web_server in (("uvicorn/protocol.py", True), ("asyncpg/pool.py", False)):
        inner = (str(tmp_path / library), 3, "receive")
        assert place.is_of_the_web_server([locks, inner, service]) == is_web_server
    assert not place.is_of_the_web_server([locks, service, (str(tmp_path / "uvicorn/protocol.py"), 3, "run")])
    assert not place.is_of_the_web_server([locks])


def test_stop_leaves_no_thread_and_restart_leaves_one(run: Any) -> None:
    """Also when it is started twice, and when it is stopped before it was started."""

    async def work() -> None:
        dog = watchdog()
        dog.stop()
        for _ in range(3):
            dog.start()
            dog.start()
            assert threads() == 1
            await asyncio.sleep(0.03)
            dog.stop()
            assert threads() == 0

    run(work())


def test_stop_returns_at_once_while_the_loop_is_blocked(run: Any) -> None:
    """Nobody waits for a check interval or for the loop."""

    async def work() -> float:
        dog = Watchdog(asyncio.get_running_loop())  # checks every 5 s
        dog.start()
        await asyncio.sleep(0.05)
        began = time.monotonic()
        dog.stop()
        return time.monotonic() - began

    assert run(work()) < 0.2
    assert threads() == 0


def test_a_loop_that_is_closed_under_it_ends_the_thread(run: Any) -> None:
    """A service that forgets to stop it is not punished."""

    async def work() -> Watchdog:
        dog = watchdog()
        dog.start()
        await asyncio.sleep(0.03)
        return dog

    run(work())
    end = time.monotonic() + 2
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == 0


def test_reports_go_to_the_log_and_to_the_callback(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hang is an error with stacks, critical from the second check on, with the number of tasks; its end is
    a warning; the callback is told of its begin and its end."""
    told = []

    async def work() -> None:
        dog = watchdog(on_report=told.append)
        dog.start()
        await asyncio.sleep(0.03)
        hold(0.4)
        await asyncio.sleep(0.05)
        dog.stop()

    with caplog.at_level(logging.INFO, "perfkit_probes"):
        run(work())
    assert [report.recovered_ms is None for report in told] == [True, False]
    error, critical, warning = caplog.records
    assert [one.levelname for one in caplog.records] == ["ERROR", "CRITICAL", "WARNING"]
    assert re.search(r"by tests/test_watchdog.py:\d+ hold, 1 tasks\n", error.getMessage())
    assert "-- 1 pending tasks\n" in error.getMessage()
    assert re.search(r"still blocked for \d+ ms, by \S+ hold, 1 tasks", critical.getMessage())
    assert "free again" in warning.getMessage()


def test_each_check_is_a_line_at_debug_level(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With how late the loop is and how many tasks it has, also while nothing is wrong."""

    async def work() -> None:
        dog = watchdog()
        dog.start()
        await asyncio.sleep(0.2)
        dog.stop()

    with caplog.at_level(logging.DEBUG, "perfkit_probes"):
        run(work())
    lines = [one.getMessage() for one in caplog.records if one.name == "perfkit_probes"]
    assert len(lines) >= 2
    assert all(re.fullmatch(r"event loop \d+ ms late, \d+ tasks", line) for line in lines)


def test_a_waiting_task_is_placed_in_the_services_code(run: Any) -> None:
    """Also through an async generator and the library whose lock it waits for."""

    async def behind_a_lock(lock: asyncio.Lock) -> Any:
        async with lock:
            yield 1

    async def reads(lock: asyncio.Lock) -> None:
        async for _ in behind_a_lock(lock):
            pass

    async def work() -> str:
        lock = asyncio.Lock()
        await lock.acquire()
        task = asyncio.ensure_future(reads(lock))
        await asyncio.sleep(0.01)
        place = waits_at(task)
        lock.release()
        await task
        return place

    assert re.fullmatch(r"tests/test_watchdog.py:\d+ behind_a_lock", run(work()))


def test_samples_can_be_read_while_the_loop_is_blocked(run: Any) -> None:
    """With `serve_on` another thread serves them: the hang is there before it ends, memory and the rest."""
    ring = Ring()
    seen: list[str] = []

    def look() -> None:
        assert ring.also is not None
        url = f"http://127.0.0.1:{ring.also['port']}/probe/samples"
        headers = {"authorization": f"Bearer {ring.also['key']}"}
        with httpx.Client(trust_env=False) as client:
            seen.extend(client.get(url, headers=headers).json()["samples"]["probe"])

    async def work() -> None:
        dog = watchdog(ring=ring, serve_on="127.0.0.1", also_every_ms=50)
        dog.start()
        await asyncio.sleep(0.03)
        looker = threading.Timer(1.3, look)
        looker.start()
        looker.join()  # it is this that blocks the loop
        dog.stop()

    run(work())
    assert {"loop.hang_ms", "loop.lag_ms", "process.rss_mb", "loop.tasks"} <= set(seen)
    assert "loop.recovered_ms" not in seen


def test_also_is_called_while_the_loop_is_blocked(run: Any) -> None:
    """A pool monitor that samples from the thread sees what happens during a hang."""
    calls = []

    async def work() -> int:
        dog = watchdog(also=lambda: calls.append(1))
        dog.start()
        await asyncio.sleep(0.02)
        before = len(calls)
        hold(0.5)
        during = len(calls) - before
        dog.stop()
        return during

    assert 3 <= run(work()) <= 6


@pytest.mark.parametrize("options", [{"interval_ms": 5}, {"hang_after_s": 0.01}, {"check_every_s": 0}])
def test_too_small_settings_are_refused(run: Any, options: dict[str, float]) -> None:
    """Below these it would cost more than it tells."""

    async def work() -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            watchdog(**options)

    run(work())


def test_a_block_that_follows_the_start_at_once_is_seen(run: Any) -> None:
    """There need not have been a heartbeat first."""

    async def work() -> int:
        dog = watchdog()
        dog.start()
        hold(0.15)
        await asyncio.sleep(0.03)
        dog.stop()
        return len(dog.reports)

    assert run(work()) == 1


def test_nothing_is_counted_after_stop(run: Any) -> None:
    """Also when it was stopped before the loop came to its first heartbeat."""

    async def work() -> int:
        dog = watchdog()
        dog.start()
        dog.stop()
        await asyncio.sleep(0.03)
        before = dog.blocked_ns()
        await asyncio.sleep(0.1)
        return dog.blocked_ns() - before

    assert run(work()) == 0


def test_a_hang_that_outlasts_the_watching_has_no_end(run: Any) -> None:
    """Watching again later must not take the next heartbeat for its recovery."""

    async def work() -> Watchdog:
        dog = watchdog()
        dog.start()
        await asyncio.sleep(0.03)
        stopper = threading.Timer(0.15, dog.stop)
        stopper.start()
        hold(0.25)
        stopper.join()
        dog.start()
        await asyncio.sleep(0.05)
        dog.stop()
        return dog

    (report,) = run(work()).reports
    assert report.recovered_ms is None


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_is_not_running_is_not_blocked(kind: str) -> None:
    """Between two `run_until_complete`, as in a notebook, nothing hangs; and watching goes on afterwards."""
    loop = LOOPS[kind]()
    dog = Watchdog(loop, hang_after_s=0.05, check_every_s=0.05)

    async def work() -> None:
        dog.start()
        await asyncio.sleep(0.03)

    async def blocking() -> None:
        await asyncio.sleep(0.05)
        hold(0.15)
        await asyncio.sleep(0.03)

    loop.run_until_complete(work())
    time.sleep(0.2)
    assert not dog.reports
    loop.run_until_complete(blocking())
    dog.stop()
    loop.close()
    assert len(dog.reports) == 1


def test_a_dropped_loop_is_not_kept_alive() -> None:
    """The thread holds neither the loop nor the watchdog, and ends when they go."""
    loop = asyncio.new_event_loop()

    async def work() -> weakref.ref[Watchdog]:
        dog = Watchdog(asyncio.get_running_loop())
        dog.start()
        await asyncio.sleep(0.03)
        return weakref.ref(dog)

    dog = loop.run_until_complete(work())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the loop that nobody closed
        del loop
        gc.collect()
    assert dog() is None
    end = time.monotonic() + 2
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == 0


def test_a_callback_that_fails_does_not_end_the_watching(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged; the next hang is reported, too."""

    def fail(report: object) -> None:
        raise ValueError("on purpose")

    async def work() -> int:
        dog = watchdog(on_report=fail)
        dog.start()
        for _ in range(2):
            await asyncio.sleep(0.05)
            hold(0.15)
        await asyncio.sleep(0.05)
        dog.stop()
        return len(dog.reports)

    assert run(work()) == 2
    assert sum(record.getMessage().startswith("a callback") for record in caplog.records) == 4


def test_also_is_called_in_a_block_much_shorter_than_a_hang(run: Any) -> None:
    """With the settings it has by default, 15 s and 5 s, too."""
    calls = []

    async def work() -> int:
        dog = Watchdog(asyncio.get_running_loop(), also=lambda: calls.append(1))
        dog.start()
        await asyncio.sleep(0.1)
        before = len(calls)
        hold(0.9)
        during = len(calls) - before
        dog.stop()
        return during

    assert run(work()) >= 2
