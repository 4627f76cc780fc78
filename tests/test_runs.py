"""Whole runs in real processes over real sockets: killed, interrupted, out of disk, out of breath."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.drive.writer import FLUSH_S
from perfkit.store import Run, list_runs
from tests.fault_server import FaultServer
from tests.kill_runs import ROOT, SECOND, Logged, logging_server, perfkit, wait_for_rows
from tests.shard_threads import Threads

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with logging_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def start(server: Logged, data: Path, *more: str, **popen: Any) -> subprocess.Popen[str]:
    """`perfkit run` in a process group of its own."""
    command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", "http_get"]
    command += ["--target", server.url, "--data-dir", str(data), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **popen
    )


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_flush_leaves_room_within_the_second() -> None:
    """Rows are handed over more often than once a second, so that writing them fits in as well."""
    assert FLUSH_S <= 0.85


def test_kill_9_in_setup_loses_at_most_the_last_second(server: Logged, tmp_path: Path) -> None:
    """Rows of setup (and of teardown, which is written by the same means) are on disk within a second too."""
    scenario = tmp_path / "preparing.py"
    scenario.write_text(
        "async def setup(session, params):\n    while True: await session.get('/slow/5')\n"
        "async def step(session, state, rng): ...\n"
    )
    process = start(server, tmp_path, "--scenario", str(scenario), "-s", "users.iterations=1")
    wait_for_rows(tmp_path)
    time.sleep(1.3)
    killed = time.monotonic_ns()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (run,) = list_runs(tmp_path)
    rows = run.table(["request_id"]).to_pydict()["request_id"]
    due = {request for request, at in server.answered(run).items() if at < killed - SECOND}
    assert len(due) > 0
    assert due <= set(rows)


def test_any_launcher_carries_a_run(server: Logged, tmp_path: Path) -> None:
    """Shards need an invitation and a connection only: threads make a whole run too."""
    given = {"scenario": "http_get", "target": {"url": server.url}, "users": {"count": 4, "iterations": 40}}
    workload, scenario, params = complete(given | {"processes": 2}, "test")
    run = execute(workload, scenario, params, data_dir=tmp_path, launcher=Threads())
    assert run.state == "complete"
    assert sorted(run.table(["step"])["step"].to_pylist()) == list(range(40))


def test_a_dead_worker_ends_the_run_with_a_line(server: Logged, tmp_path: Path) -> None:
    """kill -9 of a worker: exit code 1, one line, the run is aborted and its rows are kept."""
    process = start(
        server, tmp_path, "-s", "users.count=4", "-s", "users.duration_s=60", "-p", "path=/slow/5"
    )
    wait_for_rows(tmp_path)
    for pid in children(process.pid):
        if "drive.shards" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 1
    assert [
        line for line in complaints.splitlines() if "worker process died" in line
    ] == complaints.splitlines()
    (run,) = list_runs(tmp_path)
    assert (run.state, run.row_count() > 0) == ("aborted", True)


def test_rows_can_be_read_while_the_run_is_on(server: Logged, tmp_path: Path) -> None:
    """The number of rows that can be read grows about every second; the state is running until the end."""
    process = start(server, tmp_path, "-s", "users.count=2", "-s", "users.duration_s=4", "-p", "path=/slow/5")
    run = wait_for_rows(tmp_path)
    counts, states = set(), set()
    while process.poll() is None:
        states.add(Run(run.path).state)
        counts.add(run.row_count())
        time.sleep(0.05)
    process.communicate()
    assert len(counts) >= 4
    assert "running" in states
    assert Run(run.path).state == "complete"


def test_what_was_made_is_removed_after_an_interrupt(server: Logged, tmp_path: Path) -> None:
    """Ctrl-C: no more steps, the teardown is still carried out, the run is aborted."""
    scenario = tmp_path / "making.py"
    scenario.write_text(
        "async def step(session, state, rng):\n"
        "    await session.post('/slow/5', name='make')\n"
        "    session.on_teardown('DELETE', f'/things/{session.iteration}')\n"
    )
    process = start(server, tmp_path, "--scenario", str(scenario), "-s", "users.duration_s=60")
    run = wait_for_rows(tmp_path, 20)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    rows = run.table(["phase", "operation", "error"]).to_pandas()
    made = ((rows["phase"] == "measure") & rows["error"].isna()).sum()
    assert (rows["phase"] == "teardown").sum() == made


def test_a_full_disk_is_told_and_loses_nothing_written(server: Logged, tmp_path: Path) -> None:
    """When segments cannot be written any more: one line, exit code 1, the rows before stay readable."""

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    load = ("-s", "users.count=1", "-s", "arrivals=null", "-s", "users.duration_s=60", "-p", "path=/slow/1")
    scenario = tmp_path / "growing.py"
    scenario.write_text(  # a few rows a segment at first, then many with texts that do not compress
        "import asyncio, os\n"
        "async def step(session, state, rng):\n"
        "    long = session.iteration > 100\n"
        "    await session.get('/', check=lambda r: os.urandom(150).hex() if long else True)\n"
        "    if not long: await asyncio.sleep(0.02)\n"
    )
    process = start(
        server, tmp_path, "--scenario", str(scenario), *load[:2], *load[4:6], preexec_fn=small_files
    )
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = complaints.splitlines()
    assert "stay readable" in line
    (run,) = list_runs(tmp_path)
    assert run.state == "aborted"
    assert run.row_count() >= 50


def test_a_data_folder_that_cannot_be_made_is_told(server: Logged, tmp_path: Path) -> None:
    """A file in place of the data folder: one line that names --data-dir; it is bad input, exit code 2."""
    (tmp_path / "file").touch()
    process = start(server, tmp_path / "file", "-s", "users.iterations=1", "-s", "users.count=1")
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 2
    (line,) = complaints.splitlines()
    assert "--data-dir" in line


def test_two_processes_make_one_run(server: Logged, tmp_path: Path) -> None:
    """Two workers in an open model: every planned step once, sequence numbers unique, both workers busy."""
    load = ("-s", "arrivals.rate_per_s=100", "-s", "arrivals.duration_s=2", "-s", "processes=2")
    process = start(server, tmp_path, *load)
    process.communicate(timeout=60)
    (run,) = list_runs(tmp_path)
    rows = run.table().to_pandas()
    assert sorted(rows["step"]) == list(range(200))
    assert rows["seq"].is_unique
    assert rows["request_id"].is_unique
    assert rows["worker"].value_counts().to_dict() == {0: 100, 1: 100}
    assert len(run.meta.health.workers) == 2


def test_an_open_loop_keeps_its_times(server: Logged, tmp_path: Path) -> None:
    """200 planned starts a second on a real clock: the median is within 2 ms (best of three tries)."""
    for attempt in range(3):
        data = tmp_path / str(attempt)
        start(server, data, "-s", "arrivals.rate_per_s=200", "-s", "arrivals.duration_s=2").communicate()
        (run,) = list_runs(data)
        rows = run.table(["planned", "started"]).to_pandas()
        assert len(rows) == 400
        if (rows["started"] - rows["planned"]).median() < 2e6:
            return
    raise AssertionError("kick-off was late in three runs")


@pytest.mark.parametrize("transport", ["wire", "httpx"])
def test_a_load_that_takes_every_descriptor_loses_no_row(tmp_path: Path, transport: str) -> None:
    """Segments are written when there is room again; who got no connection is told what to do."""
    server = FaultServer()
    server.start()
    (tmp_path / "mine.py").write_text(
        "async def step(session, state, rng):\n    await session.get('/slow/1500', name='a')\n"
    )
    shape = ("users.count=150", "users.iterations=150", "target.connections=300")
    given = ("--scenario", str(tmp_path / "mine.py"), "--target", server.url, "--data-dir", str(tmp_path))
    options = [word for one in (*shape, f"target.transport={transport}") for word in ("-s", one)]
    try:
        done = subprocess.run(
            perfkit("run", "-q", *given, *options),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
            capture_output=True, text=True, timeout=120, cwd=ROOT,
        )  # fmt: skip
    finally:
        server.stop()
    (run,) = list_runs(tmp_path)
    assert run.state == "complete", done.stderr
    rows = run.table(["error", "error_text"]).to_pandas()
    assert len(rows) == 150
    assert rows["error"].isna().sum() == server.hits.total() > 0
    assert rows["error_text"].dropna().str.contains("ulimit").any()
