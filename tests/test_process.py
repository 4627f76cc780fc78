"""What a server's process uses: sampled from real processes, judged when it grows or requests wait for it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvloop

from perfkit import frames
from perfkit.figures import show
from perfkit.observe import figures as server_figures
from perfkit.observe import findings
from perfkit.observe.frames import PARTS, labels_of, server_samples, split, tail_split
from perfkit.observe.growth import growth
from perfkit_probes import ProcessProbe, Ring, Watchdog
from perfkit_probes import process as probe_module
from tests.test_server_side import Sample, at, measured_ids, run_with

# -- samples of a real process ---------------------------------------------------------------------


def seen(ring: Ring, probe: str) -> list[tuple[float, str]]:
    """Values and labels of a probe."""
    return [(one.value, one.label) for one in ring.page().samples if one.probe == probe]


async def until(ready: Callable[[], Any]) -> None:
    """Wait for something, 20 s at most."""
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def watched(work: Callable[[Ring], Any], **options: Any) -> Ring:
    """The samples of a watchdog on a loop that does this."""
    ring = Ring()

    async def go() -> None:
        dog = Watchdog(ring=ring, **options)
        dog.start()
        await work(ring)
        dog.stop()

    uvloop.run(go())
    return ring


def test_a_watchdog_samples_its_process() -> None:
    """Memory, descriptors with their kind, tasks with their place, an executor's queue on uvloop, which hides
    its own, and the pauses of the garbage collector; nothing of it is left in the process."""
    before = list(gc.callbacks)

    async def work(ring: Ring) -> None:
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(200)]
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(30)]
        hold = threading.Event()
        with ThreadPoolExecutor(2, thread_name_prefix="mine") as executor:
            for _ in range(9):
                executor.submit(hold.wait)
            gc.collect()
            await until(lambda: seen(ring, "executor.queue"))
            hold.set()
        for task in tasks:
            task.cancel()
        for file in files:
            os.close(file)

    ring = watched(work)
    assert gc.callbacks == before
    memory = seen(ring, "process.rss_mb")[0][0]
    assert memory == pytest.approx(probe_module.rss_mb(), rel=0.3)
    (fds, kind), (limit, _) = seen(ring, "process.fds")[0], seen(ring, "process.fd_limit")[0]
    assert 200 < fds < limit
    assert kind == "files such as dev/null"
    tasks, place = seen(ring, "loop.tasks")[0]
    assert tasks == 31
    assert place.startswith("asyncio/tasks.py:")  # of this task there is no code but Python's
    assert any(
        one[0] == 7 and "'mine' of 2 threads, which were at " in one[1]
        for one in seen(ring, "executor.queue")
    )
    assert max(pause for pause, _ in seen(ring, "gc.pause_ms")) > 0
    for name in ("process.core_wait_share", "machine.io_stall_share"):
        assert all(share >= 0 for share, _ in seen(ring, name))


def test_a_probe_samples_once_a_second_whoever_asks() -> None:
    """From many threads at once, too: no second has two samples. Stopped, it leaves nothing behind."""
    before, ring = list(gc.callbacks), Ring()
    probe = ProcessProbe(ring)
    loop = asyncio.new_event_loop()
    probe.start()
    end = time.monotonic() + 2.2

    def ask() -> None:
        while time.monotonic() < end:
            probe.sample(loop)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gc.callbacks) == len(before) + 1
    probe.stop()
    assert gc.callbacks == before
    loop.close()
    assert 1 <= len(seen(ring, "process.cpu_share")) <= 2


def test_the_lines_whose_objects_grow_are_named_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `trace_memory`: the line of this file that keeps 2 MB, and no tracing afterwards."""
    import tracemalloc

    monkeypatch.setattr(probe_module, "_TRACE_EVERY_NS", 100_000_000)
    kept: list[bytes] = []

    async def work(ring: Ring) -> None:
        def named() -> bool:
            kept.append(b"x" * 100_000)
            return any("tests/test_process.py" in label for _, label in seen(ring, "memory.growth_mb"))

        await until(named)

    watched(work, trace_memory=True, hang_after_s=0.05, check_every_s=0.05)
    assert not tracemalloc.is_tracing()


# -- growth ----------------------------------------------------------------------------------------

T = np.arange(40.0)
SERIES = {
    "a leak": (100 + 5 * T, True),
    "a leak that is noisy": (100 + 5 * T + 8 * np.sin(7 * T), True),
    "a leak that follows a warm-up": (100 + 300 * (1 - np.exp(-T / 2)) + 5 * T, True),
    "a warm-up": (100 + 300 * (1 - np.exp(-T / 8)), False),
    "one step": (np.where(T < 22, 100, 400), False),
    "a sawtooth": (100 + 60 * (T % 7), False),
    "nothing": (np.full(40, 100.0), False),
    "what is given back": (400 - 5 * T, False),
}


@pytest.mark.parametrize("name", SERIES)
def test_growth_is_steady_or_none(name: str) -> None:
    """What grows from the first quarter to the last is growth; warming up, a step, a sawtooth are none."""
    values, is_growth = SERIES[name]
    found = growth(T, values)
    assert (found is not None) == is_growth
    if found is not None:
        assert found.per_s == pytest.approx(5, rel=0.25) or "warm-up" in name


def test_growth_wants_some_samples() -> None:
    """Five of them, or several of one instant, say nothing."""
    assert growth(T[:5], T[:5]) is None
    assert growth(np.zeros(9), T[:9]) is None


# -- rules: each at its limit and below it ----------------------------------------------------------


def rising(probe: str, first: float, last: float, label: str = "x") -> list[Sample]:
    """Ten samples that rise steadily."""
    return [(i + 0.5, probe, first + (last - first) * i / 9, label, None) for i in range(10)]


def kinds(folder: Path, samples: list[Sample]) -> list[findings.Finding]:
    return findings.judge(frames.measured(run_with(folder, samples))).findings


RULES: dict[str, tuple[list[Sample], list[Sample]]] = {
    "memory_growth": (
        rising("process.rss_mb", 100, 170),
        rising("process.rss_mb", 100, 155),
    ),
    "descriptors": (
        rising("process.fds", 20, 400, "sockets") + at(range(10), "process.fd_limit", 1024),
        at(range(10), "process.fds", 799) + at(range(10), "process.fd_limit", 1024),
    ),
    "tasks_growth": (rising("loop.tasks", 20, 400, "app.py:7 wait"), rising("loop.tasks", 20, 120)),
    "threads_growth": (rising("process.threads", 9, 90, "app.py:3 run"), rising("process.threads", 9, 40)),
    "executor_queue": (
        at(range(2), "executor.queue", 3, "'tools' of 2 threads, which were at app.py:7 call")
        + at(range(2, 10), "executor.queue", 0, "'tools' of 2 threads"),
        at(range(1), "executor.queue", 9, "'tools' of 2 threads")
        + at(range(1, 10), "executor.queue", 2, "'tools' of 2 threads"),
    ),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_speaks_above_its_limit_only(kind: str, tmp_path: Path) -> None:
    """Above the limit this finding and no other, with its evidence; below it none at all."""
    above, below = RULES[kind]
    (found,) = kinds(tmp_path / "above", above)
    assert found.kind == kind
    assert found.text.endswith(".")
    assert kinds(tmp_path / "below", below) == []


def test_words_of_what_grows(tmp_path: Path) -> None:
    """From where to where, a rate by the second and by the request, what it is, and what to do."""
    (memory,) = kinds(tmp_path / "memory", rising("process.rss_mb", 100, 550))
    assert "from 100 to 550 MB: 50 MB a second, " in memory.text
    assert "kB for each request" in memory.text
    assert "--trace-memory" in memory.text
    traced = at([5, 8], "memory.growth_mb", 90, "app.py:12") + at([5], "memory.growth_mb", 20, "lib.py:3")
    traced += at([8], "memory.growth_mb", 1, "noise.py:1")
    (memory,) = kinds(tmp_path / "traced", rising("process.rss_mb", 100, 550) + traced)
    assert "made at app.py:12 (180 MB), lib.py:3 (20 MB): look" in memory.text
    (files,) = kinds(tmp_path / "files", RULES["descriptors"][0])
    assert "from 20 to 400 of 1,024 allowed" in files.text
    assert "most of the newest are sockets" in files.text
    (tasks,) = kinds(tmp_path / "tasks", RULES["tasks_growth"][0])
    assert "most of them wait at app.py:7 wait" in tasks.text
    (queue,) = kinds(tmp_path / "queue", RULES["executor_queue"][0])
    assert "the executor 'tools': up to 3, in 2 of 10 looks at it; it has 2 threads" in queue.text
    assert "app.py:7 call" in queue.text


def test_descriptors_near_their_limit_are_found_without_growth(tmp_path: Path) -> None:
    """Whoever stands at 80 % of the limit all the time is one burst away from it."""
    full = at(range(10), "process.fds", 400) + at(range(10), "process.fd_limit", 500)
    (found,) = kinds(tmp_path, full)
    assert (found.kind, "of 500 allowed" in found.text) == ("descriptors", True)


def test_a_loop_that_gets_no_core_is_not_blocked_by_its_own_code(tmp_path: Path) -> None:
    """In a hang no code ran and the loop's thread waited for a core: it is the machine that is short of them.
    Where it had a core another thread kept it from running, and with code of the service it was that."""
    for place, share, told in (
        ("asyncio/runners.py:118 run", 0.5, []),
        ("asyncio/runners.py:118 run", 0.1, ["loop_blocked"]),
        ("app.py:7 read", 0.5, ["loop_blocked"]),
    ):
        hangs = at([2, 4, 6], "loop.recovered_ms", 400, place)
        shares = at([2.5, 4.5, 6.5], "process.core_wait_share", share)
        found = kinds(tmp_path / f"{place[:3]}{share}", hangs + shares)
        assert [one.kind for one in found] == told


# -- time that nobody owns --------------------------------------------------------------------------


def slow_requests(rest_ms: float, other: str, other_ms: float, app_ms: float) -> pd.DataFrame:
    """The split of 300 requests of 50 ms, one every 30 ms, of which ten from second 3 on were slow."""
    parts = pd.DataFrame({"t_s": 0.03 * np.arange(300), **dict.fromkeys(PARTS, 0.0), other: 0.0})
    parts = parts.assign(rest=50.0, app=45.0)
    parts.loc[100:109, ["rest", other, "app"]] = rest_ms, other_ms, app_ms
    columns = [*(name for name in PARTS if name != "rest"), *({other} - set(PARTS)), "rest", "app"]
    return parts[["t_s", *columns]].assign(response_ms=parts[columns].sum(axis=1) - parts["app"])


def of_split(folder: Path, parts: pd.DataFrame, around: list[Sample]) -> list[findings.Finding]:
    rows = frames.measured(run_with(folder, around))
    return findings.findings(rows, server_samples(rows), parts)


AROUND: list[Sample] = [
    *at([4], "process.cpu_share", 0.12),
    *at([3.5], "loop.lag_ms", 3),
    *at([4], "gc.pause_ms", 5),
    *at([9], "gc.pause_ms", 77),
    *at([4], "loop.tasks", 20, "app.py:9 charge"),
]


def test_time_in_no_part_is_told_with_what_was_measured_around_it(tmp_path: Path) -> None:
    """How much, of how many requests, what else there was then, not at other times, what to do."""
    (found,) = of_split(tmp_path, slow_requests(300, "db", 100, 390), AROUND)
    assert found.kind == "unowned_time"
    assert found.text.startswith("75% of the time of the 10 slowest requests (300 ms each) is in nothing")
    assert "used up to 12% of a core, the loop was up to 3 ms late" in found.text
    assert (
        "garbage collection took 5 ms, most tasks that did not wait for a client waited at app.py:9 charge"
        in found.text
    )
    assert 'timed("…")' in found.text
    assert "before or after" not in found.text
    assert (found.from_s, round(found.to_s, 2)) == (3.0, 3.67)


def test_time_before_the_application_is_told_as_that(tmp_path: Path) -> None:
    """What the server's own clock does not know of was spent on the way, or in the socket."""
    (found,) = of_split(tmp_path, slow_requests(300, "db", 100, 130), AROUND)
    assert "90% of that before or after the application had them" in found.text


@pytest.mark.parametrize("parts", [(240, "db", 0, 240), (300, "db", 310, 610), (10, "billing", 300, 310)])
def test_time_with_an_owner_is_no_finding(parts: Any, tmp_path: Path) -> None:
    """Nor is what is short, or the smaller part, or timed by the service itself."""
    assert of_split(tmp_path, slow_requests(*parts), AROUND) == []


def test_time_without_a_core_has_an_owner(tmp_path: Path) -> None:
    """Of 300 ms in no part the wait for a core is taken off: a fifth of 400 ms is too much; a tenth not."""
    for share, told in ((0.2, []), (0.1, ["unowned_time"])):
        busy = AROUND + at([4], "process.core_wait_share", share)
        found = of_split(tmp_path / str(share), slow_requests(300, "db", 100, 390), busy)
        assert [one.kind for one in found] == told


def test_time_that_another_finding_explains_is_not_told_twice(tmp_path: Path) -> None:
    """Requests that waited for an executor's thread have no second finding."""
    queue = RULES["executor_queue"][0]
    (found,) = of_split(tmp_path, slow_requests(300, "db", 100, 390), AROUND + queue)
    assert found.kind == "executor_queue"


def test_a_part_of_the_services_own_is_in_the_split(tmp_path: Path) -> None:
    """By name, before the rest, in the words about the tail and in the figure; beyond four they are one."""
    blank = run_with(tmp_path / "blank", [])
    told: list[Sample] = []
    for name in measured_ids(blank):
        told += [(1.0, "request.app_ms", 9.0, "", name)]
        told += [(1.0, f"request.part{i}_ms", 1.0 - 0.1 * i, "", name) for i in range(6)]
    rows = frames.measured(run_with(tmp_path, told))
    parts = split(rows, server_samples(rows))
    named = ["part0", "part1", "part2", "part3", "timed", "rest"]
    assert list(labels_of(parts))[-6:] == named
    assert parts["part1"].median() == pytest.approx(0.9)
    assert parts["timed"].median() == pytest.approx(0.6 + 0.5)
    whole = parts[list(labels_of(parts))].sum(axis=1)
    np.testing.assert_allclose(whole, parts["response_ms"])
    assert "'part0', timed by the service" in findings.explain_tail(tail_split(parts))
    figure = show(server_figures.tail(tail_split(parts))).html
    assert "timed by the service" in figure
