"""Batches: real runs and reports one after the other, cut off and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perfkit.drive.running import worst
from perfkit.store import list_runs
from tests.small_server import WIDE_BUDGET, SmallServer, small_server
from tests.test_cli import perfkit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


@pytest.fixture
def workload(server: SmallServer, tmp_path: Path) -> Callable[..., str]:
    """Writes a workload file and returns its name."""

    def write(name: str, path: str = "/", iterations: int = 40, more: str = "") -> str:
        file = tmp_path / f"{name}.yaml"
        load = f"users: {{count: 2, iterations: {iterations}}}\n{WIDE_BUDGET}"
        file.write_text(
            f"scenario: http_get\nparams: {{path: {path}}}\ntarget: {{url: '{server.url}'}}\n{load}{more}"
        )
        return str(file)

    return write


def test_every_file_is_run_and_reported(workload: Callable[..., str], tmp_path: Path) -> None:
    """Two files, one with two repeats: three runs, three reports, a table, and the exit code of the worst."""
    good = workload("good", more="repeats: 2\n")
    missed = workload("missed", more="thresholds: ['p50 < 1 us']\n")
    done = perfkit("batch", good, missed, "-q", data=tmp_path / "data")
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["experiment", "ended", "rows"]
    assert [line.split("  ")[0] for line in lines[1:4]] == [f"{good} 1/2", f"{good} 2/2", missed]
    assert lines[3].split()[1] == "missed"
    runs = list_runs(tmp_path / "data")
    assert [(run.path / "report" / "run_report.html").exists() for run in runs] == [True] * 3
    assert lines[4:] == [str(run.path / "report" / "run_report.html") for run in runs]


def test_a_bad_file_is_told_before_the_first_request(workload: Callable[..., str], server: SmallServer,
                                                     tmp_path: Path) -> None:  # fmt: skip
    """Nothing is run when any file is wrong."""
    server.requests.clear()
    done = perfkit("batch", workload("good"), workload("bad", more="sede: 1\n"), data=tmp_path / "data")
    assert (done.returncode, server.requests.total()) == (2, 0)
    assert "bad.yaml" in done.stderr
    assert "did you mean 'seed'" in done.stderr


def test_a_run_that_breaks_hinders_no_other(workload: Callable[..., str], tmp_path: Path) -> None:
    """A scenario whose setup fails is told; the next file is run all the same."""
    broken = tmp_path / "broken.py"
    broken.write_text("async def setup(session, params):\n    raise ValueError('no luck')\n\n\n"
                      "async def step(session, state, rng):\n    pass\n")  # fmt: skip
    first = Path(workload("first"))
    first.write_text(first.read_text().replace("http_get", str(broken)).replace("params: {path: /}\n", ""))
    done = perfkit(
        "batch", str(first), workload("second"), "-q", "--no-report", "--json", data=tmp_path / "data"
    )
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 1
    assert [one["ended"] for one in told["items"]] == ["broke down", "valid"]
    assert "no luck" in told["items"][0]["error"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_batch_goes_on_where_it_was_cut_off(
    workload: Callable[..., str], server: SmallServer, tmp_path: Path, how: signal.Signals
) -> None:
    """After a kill, Ctrl-C or SIGTERM in the second of three, the first is not run again, the second is."""
    files = [workload("one"), workload("two", "/slow/20", 150), workload("three", "/three")]
    command = [sys.executable, "-m", "perfkit.cli", "batch", "-q", "--no-report", *files]
    environment = {**os.environ, "PERFKIT_DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as first:
        deadline = time.monotonic() + 30
        while not any(run.row_count() and run.state == "running" for run in list_runs(tmp_path / "data")[1:]):
            assert time.monotonic() < deadline, "the second run did not begin"
            time.sleep(0.02)
        os.killpg(first.pid, how)
        first.communicate()
    assert first.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert server.requests["GET /three"] == 0
    before = [run.state for run in list_runs(tmp_path / "data")]
    assert before == ["complete", "aborted"]
    second = perfkit("batch", "-q", "--no-report", *files, data=tmp_path / "data")
    assert second.returncode == 0, second.stderr
    assert "1 of 3 were done before" in second.stdout
    assert [run.state for run in list_runs(tmp_path / "data")] == [*before, "complete", "complete"]
    third = perfkit("batch", "-q", "--no-report", "--json", files[0], data=tmp_path / "data")
    assert json.loads(third.stdout)["resumed"] == 0
    server.requests.clear()


def test_a_report_that_is_missing_is_made_and_no_run_again(
    workload: Callable[..., str], tmp_path: Path
) -> None:
    """A batch done without reports, asked for with them, is a batch cut off before its report."""
    file, data = workload("only"), tmp_path / "data"
    assert perfkit("batch", "-q", "--no-report", file, data=data).returncode == 0
    assert perfkit("batch", "-q", file, data=data).returncode == 0
    (run,) = list_runs(data)
    assert (run.path / "report" / "run_report.html").exists()


def test_a_run_that_was_removed_is_made_again(workload: Callable[..., str], tmp_path: Path) -> None:
    """A batch taken up after its first run was deleted does not stumble over it."""
    file, data = workload("only"), tmp_path / "data"
    assert perfkit("batch", "-q", "--no-report", file, data=data).returncode == 0
    (before,) = list_runs(data)
    shutil.rmtree(before.path)
    again = perfkit("batch", "-q", "--no-report", file, data=data)
    assert again.returncode == 0, again.stderr
    (after,) = list_runs(data)
    assert after.id != before.id


def test_a_report_that_cannot_be_written_hinders_no_other(
    workload: Callable[..., str], tmp_path: Path
) -> None:
    """Told below the table, exit code 1, and the second file is run and reported."""
    data = tmp_path / "data"
    mine = tmp_path / "mine.py"
    mine.write_text("from pathlib import Path\n\n\nasync def setup(session, params):\n"
                    f"    (run,) = [p for p in Path({str(data)!r}).glob('runs/*')]\n"
                    "    (run / 'report').write_text('in the way')\n\n\n"
                    "async def step(session, state, rng):\n    await session.get('/')\n")  # fmt: skip
    first = Path(workload("first"))
    first.write_text(first.read_text().replace("http_get", str(mine)).replace("params: {path: /}\n", ""))
    done = perfkit("batch", "-q", "--json", str(first), workload("second"), data=data)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert "report" in told["items"][0]["error"]
    assert told["items"][1]["report"].endswith("run_report.html")


def test_the_worst_exit_code_is_told() -> None:
    """Interrupted before bad input, tool error, invalid, thresholds missed; all well is 0."""
    assert worst([0, 4, 3, 1, 2, 130]) == 130
    assert worst([0, 4, 3, 1]) == 1
    assert worst([0, 4, 3]) == 3
    assert worst([0, 4]) == 4
    assert worst([0, 0]) == worst([]) == 0
