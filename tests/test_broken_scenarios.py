"""Scenarios that go wrong at every stage: one line, nothing lost, and what was made is removed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit.store import Run, list_runs
from tests.small_server import SmallServer, small_server

STEP = "\nasync def step(session, state, rng):\n    await session.get('/')\n"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def command(server: SmallServer, data: Path, scenario: str, *more: str) -> list[str]:
    """`perfkit run` of a scenario given as text."""
    data.mkdir(exist_ok=True)
    file = data / "mine.py"
    file.write_text(scenario)
    run = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", str(file), "--target", server.url]
    return [*run, "--data-dir", str(data), *(more or ("-s", "users.iterations=5", "-s", "users.count=1"))]


def play(
    server: SmallServer, data: Path, scenario: str, *more: str
) -> tuple[subprocess.CompletedProcess[str], Run]:
    """Run it to its end."""
    done = subprocess.run(
        command(server, data, scenario, *more), capture_output=True, text=True, timeout=60, check=False
    )
    (run,) = list_runs(data)
    return done, run


def removed(run: Run) -> list[str]:
    """The operations of the teardown."""
    rows = run.table(["phase", "operation"]).to_pandas()
    return sorted(rows["operation"][rows["phase"] == "teardown"])


SETUPS = {
    "an error of Python": "    {}['x']\n",
    "a failed request": "    (await session.get('/status/500')).raise_for_status()\n",
    "an answer that is not what was expected": "    (await session.get('/')).json()['nothing']\n",
}


@pytest.mark.parametrize("mistake", SETUPS.values(), ids=SETUPS)
def test_a_setup_that_fails_is_one_line_and_cleaned_up(
    server: SmallServer, tmp_path: Path, mistake: str
) -> None:
    """Whatever setup raises: exit code 1, one line, the run is aborted with the reason, and undone."""
    scenario = "async def setup(session, params):\n    session.on_teardown('DELETE', '/made')\n" + mistake
    done, run = play(server, tmp_path, scenario + STEP)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "setup of mine failed" in line
    assert (run.state, run.reason in line) == ("aborted", True)
    assert removed(run) == ["DELETE /made"]


@pytest.mark.parametrize("sends", ["", "    await session.get('/')\n"], ids=["nothing", "a request"])
def test_a_state_that_cannot_be_handed_on(server: SmallServer, tmp_path: Path, sends: str) -> None:
    """Exit code 2 with the name of the file; a run is left only where setup has sent something."""
    scenario = f"async def setup(session, params):\n{sends}    return lambda: 1\n{STEP}"
    done = subprocess.run(
        command(server, tmp_path, scenario), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "scenario file mine.py: setup returned a state that cannot be sent to worker processes: " in line
    assert [run.state for run in list_runs(tmp_path)] == (["aborted"] if sends else [])


def test_a_teardown_that_fails_spoils_no_measured_run(server: SmallServer, tmp_path: Path) -> None:
    """The run stays complete and valid, its undo requests are sent all the same, and both faults are told."""
    scenario = (
        "async def setup(session, params):\n"
        "    session.on_teardown('DELETE', '/made')\n"
        "    session.on_teardown('DELETE', '/status/500')\n"
        "    session.on_teardown('DELETE', '/status/404')\n"
        "async def teardown(session, state):\n    raise KeyError('oh')\n"
    )
    done, run = play(server, tmp_path, scenario + STEP)
    assert (done.returncode, done.stderr, run.state) == (0, "", "complete")
    assert len(removed(run)) == 3
    told = next(line for line in done.stdout.splitlines() if "not cleaned up" in line)
    assert "KeyError" in told
    assert "1 of 3" in told


def test_ctrl_c_in_setup_removes_what_was_made(server: SmallServer, tmp_path: Path) -> None:
    """Interrupted before the load: exit code 130, aborted, undone."""
    scenario = (
        "async def setup(session, params):\n"
        "    session.on_teardown('DELETE', '/made')\n"
        "    await session.get('/')\n"
        "    await session.get('/slow/30000')\n"
    )
    process = subprocess.Popen(
        command(server, tmp_path, scenario + STEP), stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(run.row_count() for run in list_runs(tmp_path)):
        time.sleep(0.05)  # the first row of setup is written while the second request is under way
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    (run,) = list_runs(tmp_path)
    assert (process.returncode, run.state, run.reason) == (130, "aborted", "interrupted")
    assert removed(run) == ["DELETE /made"]


def test_a_second_ctrl_c_ends_what_will_not_stop(server: SmallServer, tmp_path: Path) -> None:
    """A step that blocks its process for an hour: the first Ctrl-C asks, the second one ends the run."""
    scenario = "import time" + STEP + "    time.sleep(3600)\n"
    server.requests.clear()  # those of other tests
    process = subprocess.Popen(
        command(server, tmp_path, scenario), stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not server.requests["GET /"]:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    (run,) = list_runs(tmp_path)
    while time.monotonic() < deadline and not (run.path / "stop").exists():
        time.sleep(0.05)  # two signals at once are one
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    (run,) = list_runs(tmp_path)
    assert (process.returncode, run.state) == (130, "aborted")


def test_a_scenario_that_never_sends_is_broken(server: SmallServer, tmp_path: Path) -> None:
    """Steps that stumble before their first request: exit code 1, as for those that stumble after it; the
    reason and the error are told."""
    done, run = play(server, tmp_path, "async def step(session, state, rng):\n    nonsense\n")
    assert done.returncode == 1
    assert ": complete, BROKEN: every step raised an exception (5 of 5): NameError: " in done.stdout
    assert "no request was measured" in done.stdout
    assert "NameError" in done.stdout
    assert run.meta.health.valid is False


@pytest.mark.parametrize("asked", ["'health'", "'/', timeout_s='3'", "'/', json={}, data={}"])
def test_a_request_asked_for_wrongly_starves_nobody(server: SmallServer, tmp_path: Path, asked: str) -> None:
    """It never waits for anything: its users let the loop breathe, so that it stays on time and can end."""
    text = f"async def step(session, state, rng):\n    await session.get({asked})\n"
    done, run = play(server, tmp_path, text, "-s", "users={count: 2, duration_s: 2}")
    assert (done.returncode, run.verdict.word) == (1, "BROKEN")
    assert "stood still" not in done.stdout + done.stderr
    steps = re.findall(r"\(([\d,]+) of [\d,]+\)", run.verdict.words)[0]
    assert int(steps.replace(",", "")) < 10_000


def test_a_step_with_another_client_is_told_what_to_use(server: SmallServer, tmp_path: Path) -> None:
    """What urllib sends is not seen: the first line names its line and what takes its place."""
    scenario = "from urllib.parse import quote\nfrom urllib.request import urlopen\n"
    scenario += "async def step(session, state, rng):\n"
    done, _ = play(server, tmp_path, scenario + f"    urlopen('{server.url}').close()\n")
    first = done.stdout.splitlines()[0]
    assert done.returncode == 1
    assert "every step broke (5 of 5): a step made no request through session: use await session" in first
    assert "session.get(…) in place of urllib.request (mine.py:4)" in first
    once = subprocess.run(
        command(server, tmp_path, (tmp_path / "mine.py").read_text(), "--once"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert once.returncode == 1
    assert "FAILED: a step made no request through session: use await session.get(…) in place" in once.stdout


@pytest.mark.slow
def test_a_step_that_never_yields_is_in_the_first_line(server: SmallServer, tmp_path: Path) -> None:
    """It is interrupted after the drain: broken with its line, and no note asks to measure for longer."""
    load = ("-s", "users.count=1", "-s", "users.duration_s=1", "-s", "drain_s=0.5")
    done, _ = play(server, tmp_path, "async def step(session, state, rng):\n    while True: pass\n", *load)
    first = done.stdout.splitlines()[0]
    assert done.returncode == 1
    assert ": complete, BROKEN: every step raised an exception (1 of 1): Overdue: " in first
    assert "(mine.py:2)" in first
    assert "measure for longer" not in done.stdout


BLOCKING = {
    "idle": ("    time.sleep(0.03)\n", "; a step blocks it at mine.py:3 (time.sleep, a synchronous client?)"),
    "busy": ("    sum(i * i for i in range(2_000_000))\n", " it at mine.py:3"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "says"), BLOCKING.values(), ids=BLOCKING)
def test_a_step_that_holds_the_loop_is_named(
    server: SmallServer, tmp_path: Path, line: str, says: str
) -> None:
    """A step that waits or computes without giving the loop back: invalid, and the reason names its line."""
    scenario = f"import time\nasync def step(session, state, rng):\n{line}    await session.get('/')\n"
    load = ("-s", "users.count=4", "-s", "users.duration_s=2", "-s", "budget.cpu_share=100")
    done, run = play(server, tmp_path, scenario, *load)
    assert (done.returncode, run.verdict.word) == (3, "INVALID")
    assert says in done.stdout.splitlines()[0]


FORGOTTEN = {
    "in a step": "async def step(session, state, rng):\n    get = session.get\n    get('/').json()\n",
    "in setup": "async def setup(session, params):\n    get = session.get\n    get('/').json()\n" + STEP,
    "a function": "async def more(session):\n    await session.get('/')\n" + STEP + "    more(session)\n",
}


@pytest.mark.parametrize("once", [False, True], ids=["run", "once"])
@pytest.mark.parametrize("scenario", FORGOTTEN.values(), ids=FORGOTTEN)
def test_what_is_not_awaited_is_said_in_our_words(
    server: SmallServer, tmp_path: Path, scenario: str, once: bool
) -> None:
    """Where the source alone does not tell: nothing of Python's warning, which names a line of perfkit's."""
    load = ("-s", "users.iterations=2", *(("--once",) if once else ()))
    done = subprocess.run(
        command(server, tmp_path, scenario, *load), capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    for word in ("RuntimeWarning", "tracemalloc", "steps.py", "once.py"):
        assert word not in said
    assert "(…) was not awaited, so it did nothing; write await before it\n" in done.stderr


def test_a_run_that_ends_early_is_measured_until_its_end(server: SmallServer, tmp_path: Path) -> None:
    """10 iterations within 60 s take a moment, and rates are per second of that moment."""
    load = ("-s", "users.iterations=10", "-s", "users.count=1", "-s", "users.duration_s=60")
    _, run = play(server, tmp_path, STEP, *load)
    measured = run.meta.measured
    assert measured.to_ns == max(run.table(["done"])["done"].to_pylist())
    assert measured.to_ns - measured.from_ns < 10e9


def test_steps_that_always_break_are_exit_1(server: SmallServer, tmp_path: Path) -> None:
    """Requests are measured, but every step ends by an error of its own, sys.exit included: not a success."""
    for ending in ("raise KeyError('boom')", "raise SystemExit(3)"):
        done, run = play(
            server,
            tmp_path,
            f"async def step(session, state, rng):\n    await session.get('/')\n    {ending}\n",
        )
        assert (done.returncode, run.state) == (1, "complete"), done.stderr
        assert "scenario error" in done.stdout
        shutil.rmtree(run.path)


def test_writes_without_an_answer_are_told(server: SmallServer, tmp_path: Path) -> None:
    """A POST that timed out may have made something that no clean-up knows of."""
    step = (
        "async def step(session, state, rng):\n"
        "    session.on_teardown('DELETE', '/x')\n"
        "    await session.post('/slow/500', timeout_s=0.05)\n"
    )
    done, run = play(server, tmp_path, step, "-s", "users.iterations=3", "-s", "users.count=1")
    assert "3 POST or PUT requests got no response" in run.meta.teardown_error
    assert "not cleaned up on the target" in done.stdout


def test_no_secret_of_a_started_server_is_written(tmp_path: Path) -> None:
    """Its password, by whatever name it is given."""
    command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", "http_get"]
    settings = ["server.password=hunter2server", f"server.database_url=sqlite:///{tmp_path}/x.db"]
    settings += ["users.iterations=1", "users.count=1"]
    command += [part for one in settings for part in ("-s", one)] + ["--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hunter2" not in done.stdout + done.stderr
    (run,) = list_runs(tmp_path)
    for file in run.path.rglob("*"):
        assert file.is_dir() or b"hunter2" not in file.read_bytes(), file.name


def test_no_secret_of_the_settings_is_written(server: SmallServer, tmp_path: Path) -> None:
    """Passwords of a started server and of a proxy, headers that hold keys: no file of the run has them."""
    settings = [
        ("target.headers.ocp-apim-subscription-key", "hunter2header"),
        ("target.headers.x-access-key", "hunter2access"),
        ("target.proxy", "http://me:hunter2proxy@127.0.0.1:9"),
        ("target.transport", "httpx"),
        ("users.iterations", "1"),
        ("users.count", "1"),
    ]
    more = [part for name, value in settings for part in ("-s", f"{name}={value}")]
    done, run = play(server, tmp_path, STEP, *more)
    assert run.row_count() == 1
    assert "hunter2" not in done.stdout + done.stderr
    for file in run.path.rglob("*"):
        if file.is_file():
            assert b"hunter2" not in file.read_bytes(), file.name
