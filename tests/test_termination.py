"""SIGTERM, SIGHUP and Ctrl-C, sent to real commands: what is kept, what is removed, what is left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.drive.progress import Seen
from perfkit.drive.running import naming
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.store import Run, list_runs
from perfkit.store.rows import Part
from tests.kill_runs import ROOT, Logged, Victim, logging_server, perfkit, victim, wait_for_rows, wait_until

pytestmark = pytest.mark.slow

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
#: A budget that no busy machine exceeds.
WIDE = ("-s", "budget.delay_ms=100000", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=60000")
#: Makes things in its setup and in every step; the undo requests of 20 of them take a while each.
MAKING = """
async def setup(session, params):
    for i in range(20):
        await session.post('/slow/5', name='make')
        session.on_teardown('DELETE', '/slow/200')
async def step(session, state, rng):
    await session.post('/slow/5', name='make')
    session.on_teardown('DELETE', f'/made/{session.iteration}')
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with logging_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def command(server: Logged, folder: Path, *more: str, scenario: str = MAKING) -> tuple[str, ...]:
    """`perfkit run` of a scenario on two processes."""
    (folder / "making.py").write_text(scenario)
    given = ("--scenario", str(folder / "making.py"), "--target", server.url, "--data-dir", str(folder))
    return perfkit("run", "-q", *given, "-s", "processes=2", "-s", "users.count=4", *more)


def ended(run: Victim) -> tuple[int, str, str]:
    """Exit code as a shell tells it, standard output and standard error of a command, of which nothing is
    left. A signal that finds the interpreter already gone ends the process itself: 128 + its number, too."""
    said, complained = run.process.communicate(timeout=90)
    assert not run.left()
    code = run.process.returncode
    return code if code >= 0 else 128 - code, said or "", complained or ""


def loading(folder: Path) -> Run:
    """The run, once its workers have written rows."""
    wait_until(lambda: list(folder.glob("runs/*/segments/w*.parquet")), "rows of a worker")
    return list_runs(folder)[0]


def assert_nothing_is_left_behind(run: Run) -> None:
    """Everything that was made was removed, or run.json says what was not."""
    rows = run.table(["phase", "operation", "error"]).to_pandas()
    removals, good = rows["phase"] == "teardown", rows["error"].isna()
    made = int((good & (rows["operation"] == "make")).sum())
    assert 0 < removals.sum() <= made <= removals.sum() + 4  # a step of each user may have been cut off
    assert (removals & good).sum() == made or run.meta.not_cleaned_up


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("number", "all_of_them", "code", "reason"),
    [
        (TERM, False, 143, "terminated by SIGTERM"),
        (TERM, True, 143, "terminated by SIGTERM"),  # as a service manager does
        (HUP, True, 129, "terminated by SIGHUP"),  # as a terminal does that is closed
        (INT, True, 130, "interrupted"),
    ],
)
def test_a_signal_ends_a_run_in_order(
    server: Logged, tmp_path: Path, number: int, all_of_them: bool, code: int, reason: str
) -> None:
    """The rows are kept, what was made is removed, nothing goes on, and one line names the run."""
    load = command(server, tmp_path, "-s", "users.duration_s=60")
    with victim(*load, stdout=subprocess.PIPE) as process:
        loading(tmp_path)
        killed = process.kill(number, all_of_them=all_of_them)
        returned, said, complained = ended(process)
    (run,) = list_runs(tmp_path)
    assert (returned, run.state, run.reason, complained) == (code, "aborted", reason, "")
    assert said.splitlines()[0] == f"run {run.id}: aborted ({reason})"
    assert_nothing_is_left_behind(run)
    made = {request for request, at in server.answered(run).items() if at < killed}
    assert made <= set(run.table(["request_id"])["request_id"].to_pylist())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(6))
def test_sigterm_at_any_moment(server: Logged, tmp_path: Path, seed: int) -> None:
    """In setup, before the load, under it, in teardown and at the end: the exit code is 143, nothing that was
    made is left, nothing goes on; when the run had ended already, it is complete and named all the same."""
    dice = random.Random(seed)
    load = command(server, tmp_path, "-s", "users.iterations=200")
    with victim(*load, stdout=subprocess.PIPE) as process:
        wait_until(lambda: list_runs(tmp_path), "run")
        if seed % 3:
            wait_until(process.workers, "worker")
        if seed % 3 == 2:
            loading(tmp_path)
        time.sleep(dice.uniform(0.0, (0.3, 1.0, 1.5)[seed % 3]))
        was_over = process.process.poll() is not None
        process.kill(TERM, all_of_them=seed % 2 == 0)
        returned, said, complained = ended(process)
    (run,) = list_runs(tmp_path)
    assert returned == (0 if was_over else 143), complained
    assert "Traceback" not in complained
    assert run.id in said + complained
    assert run.state == "complete" or run.reason == "terminated by SIGTERM"
    assert_nothing_is_left_behind(run)


def test_timeout_asks_once(server: Logged, tmp_path: Path) -> None:
    """`timeout` sends SIGTERM to the command and to its group: the second cuts no clean-up short."""
    load = command(server, tmp_path, "-s", "users.duration_s=60")
    with victim("timeout", "300", *load, stdout=subprocess.PIPE) as process:
        loading(tmp_path)
        process.kill(TERM)  # it passes a signal on as it sends one at the end of its time
        assert ended(process)[0] == 143
    (run,) = list_runs(tmp_path)
    assert (run.state, run.reason) == ("aborted", "terminated by SIGTERM")
    assert_nothing_is_left_behind(run)


def test_a_second_sigterm_ends_the_clean_up(server: Logged, tmp_path: Path) -> None:
    """A second and more after the first; what is left is told."""
    scenario = MAKING.replace("range(20)", "range(40)").replace("/slow/200", "/slow/20000")
    with victim(*command(server, tmp_path, "-s", "users.duration_s=60", scenario=scenario)) as process:
        run = loading(tmp_path)
        process.kill(TERM)
        wait_until(lambda: list(run.path.glob("stop")), "stop file")
        wait_until(lambda: not process.workers(), "end of the workers")
        time.sleep(1.2)
        process.kill(TERM)
        assert ended(process)[0] == 143
    assert Run(run.path).reason == "terminated by SIGTERM"
    assert Run(run.path).meta.removal_error.startswith("interrupted; up to ")


#: One that will not be cut off: it holds the loop for seconds, so nothing is flushed meanwhile.
HOLDING = """
import asyncio, pathlib, time
async def setup(session, params):
    return str(pathlib.Path(__file__).parent)
async def step(session, state, rng):
    await session.get('/slow/5')
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        try:
            time.sleep(3)
        finally:
            pathlib.Path(state, 'free').touch()
"""


def test_ctrl_c_twice_at_once_keeps_the_rows_and_the_span(server: Logged, tmp_path: Path) -> None:
    """Right after the start of the load: what was answered before the first Ctrl-C is handed over before
    anything is cut off, and the measured part ends with that signal, not with the last row that was kept."""
    shape = ("-s", "users.duration_s=60", "-s", "processes=1", "-s", "users.count=1")
    load = command(server, tmp_path, *shape, scenario=HOLDING)
    with victim(*load, stdout=subprocess.PIPE) as process:
        (run,) = wait_until(lambda: list_runs(tmp_path), "run")
        wait_until(lambda: server.answered(run), "answer")
        time.sleep(0.2)
        first = time.monotonic_ns()
        process.kill(INT, all_of_them=True)
        loading(tmp_path)
        assert not (tmp_path / "free").exists()
        process.kill(INT, all_of_them=True)
        code, said, complained = ended(process)
    (run,) = list_runs(tmp_path)
    assert (code, run.reason, complained) == (130, "interrupted", "")
    assert run.meta.measured.to_ns >= first - run.meta.clock.monotonic_ns
    shown = subprocess.run(
        perfkit("show", run.id, "--data-dir", str(tmp_path)), capture_output=True, text=True
    )
    assert "no measured requests" not in shown.stdout + said


def test_a_signal_that_was_ignored_stays_ignored(server: Logged, tmp_path: Path) -> None:
    """SIGHUP under nohup and SIGINT in the background of a script end nothing; SIGTERM still does."""
    ignoring = "trap '' HUP INT; exec \"$@\""
    load = command(server, tmp_path, "-s", "users.duration_s=60")
    with victim("sh", "-c", ignoring, "sh", *load, stdout=subprocess.PIPE) as process:
        run = loading(tmp_path)
        process.kill(HUP, all_of_them=True)
        process.kill(INT, all_of_them=True)
        before = run.row_count()
        wait_until(lambda: run.row_count() > before + 100, "more rows")
        process.kill(TERM)
        returned, said, complained = ended(process)
    assert (returned, complained) == (143, "")
    assert f"run {run.id}: aborted (terminated by SIGTERM)" in said
    assert_nothing_is_left_behind(run)


def test_a_closed_terminal_ends_the_run(server: Logged, tmp_path: Path) -> None:
    """The shell's terminal is closed, with a bar being drawn on it: the run is closed as aborted."""
    master, slave = os.openpty()
    attach = (
        "import fcntl, os, sys, termios\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    load = [word for word in command(server, tmp_path, "-s", "users.duration_s=60") if word != "-q"]
    with victim(sys.executable, "-c", attach, *load, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        run = loading(tmp_path)
        os.close(master)
        assert ended(process)[0] == 129
    assert (Run(run.path).state, Run(run.path).reason) == ("aborted", "terminated by SIGHUP")
    assert_nothing_is_left_behind(run)


def test_a_worker_leaves_signals_to_its_coordinator(server: Logged, tmp_path: Path) -> None:
    """SIGTERM to the workers alone ends nothing; a program that a step starts can be terminated."""
    scenario = (
        "import asyncio\n"
        "async def step(session, state, rng):\n"
        "    await session.get('/slow/5')\n"
        "    if session.iteration == 5:\n"
        "        child = await asyncio.create_subprocess_exec('sleep', '60')\n"
        "        child.terminate()\n"
        "        assert await child.wait() == -15\n"
    )
    with victim(
        *command(server, tmp_path, "-s", "users.iterations=1500", *WIDE, scenario=scenario)
    ) as process:
        run = loading(tmp_path)
        for worker in process.workers():
            os.kill(worker, TERM)
        assert ended(process)[0] == 0
    run = Run(run.path)
    assert (run.state, run.row_count(), run.meta.step_errors) == ("complete", 1500, ())


def test_the_others_keep_their_rows_when_a_worker_dies(server: Logged, tmp_path: Path) -> None:
    """kill -9 of one of two workers: the other writes what it has, and the run ends within seconds."""
    with victim(*command(server, tmp_path, "-s", "users.duration_s=60")) as process:
        run = loading(tmp_path)
        dead, _ = process.workers()
        killed = time.monotonic_ns()
        os.kill(dead, signal.SIGKILL)
        returned, _, complained = ended(process)
    assert (returned, complained.count("\n")) == (1, 1)
    assert "worker process died" in complained
    rows = run.table(["worker", "done"]).to_pandas()
    origin = Run(run.path).meta.clock.monotonic_ns or 0
    assert any(rows[rows["worker"] == worker]["done"].max() + origin > killed for worker in (0, 1))


def test_progress_that_fails_stops_the_load(server: Logged, tmp_path: Path) -> None:
    """Whatever breaks in the coordinator while it waits: the workers are stopped, not waited for."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from perfkit.drive.spread import execute\n"
        "from perfkit.drive.workloads import complete\n"
        "def broken(run):\n"
        "    if run.row_count() > 50: raise OSError(5, 'no terminal')\n"
        "if __name__ == '__main__':\n"
        "    given = {'scenario': 'http_get', 'target': {'url': sys.argv[1]}, 'processes': 2,\n"
        "             'users': {'count': 4, 'duration_s': 600}, 'params': {'path': '/slow/5'}}\n"
        "    workload, scenario, params = complete(given, 'test')\n"
        "    execute(workload, scenario, params, data_dir=Path(sys.argv[2]), on_progress=broken)\n"
    )
    (tmp_path / "script.py").write_text(script)
    with victim(sys.executable, str(tmp_path / "script.py"), server.url, str(tmp_path)) as process:
        returned, _, complained = ended(process)
    (run,) = list_runs(tmp_path)
    assert (returned, run.state) == (1, "aborted")
    assert "no terminal" in complained


# -- other verbs -----------------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A data folder with one run, and a page of it from before."""
    folder = tmp_path / "data" / "runs" / "20260101-000000-http_get-abcd"
    shutil.copytree(ROOT / "data" / "sample" / "http_get", folder)
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "waiting.html").write_text("old")
    return folder


def waiting_notebook(folder: Path) -> str:
    """A notebook whose second cell leaves a file `begun` and takes a minute."""
    parameters = nbformat.v4.new_code_cell('run = ""\ndata_dir = ""', metadata={"tags": ["parameters"]})  # type: ignore[no-untyped-call]
    code = "import time\nopen('begun', 'w').close()\nfor _ in range(600): time.sleep(0.1)"
    cells = [parameters, nbformat.v4.new_code_cell(code)]  # type: ignore[no-untyped-call]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})  # type: ignore[no-untyped-call]
    nbformat.write(notebook, str(folder / "waiting.ipynb"))  # type: ignore[no-untyped-call]
    return str(folder / "waiting.ipynb")


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130), (signal.SIGKILL, 137)])
def test_a_report_that_is_ended_leaves_the_old_page(
    sample: Path, tmp_path: Path, number: int, code: int
) -> None:
    """In the middle of a cell: its kernel ends too, one line says why, and the page is that of before."""
    verb = ("report", "-q", "--notebook", waiting_notebook(tmp_path), "--data-dir", str(tmp_path / "data"))
    with victim(*perfkit(*verb)) as process:
        wait_until(lambda: (sample / "report" / "begun").exists(), "cell under way")
        process.kill(number)
        returned, _, complained = ended(process)
    assert returned == code
    assert (
        complained.split()
        == {143: "perfkit: terminated by SIGTERM", 130: "perfkit: interrupted"}.get(code, "").split()
    )
    assert (sample / "report" / "waiting.html").read_text() == "old"


#: Adopts the orphans of its child, as a user's service manager does: their parent is not process 1 then.
ADOPTER = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
subprocess.run(sys.argv[1:])
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_kernel_that_is_starting_ends_with_its_report(sample: Path, tmp_path: Path) -> None:
    """kill -9 of a report whose kernel has just been started, whoever adopts it."""
    report = perfkit("report", "-q", "--data-dir", str(tmp_path / "data"))
    with victim(sys.executable, "-c", ADOPTER, *report, stdin=subprocess.PIPE) as adopter:
        wait_until(lambda: [c for c in adopter.alive().values() if "kernel.json" in c], "kernel")
        for pid, words in adopter.alive().items():
            if "perfkit.cli" in words and "prctl" not in words:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(adopter.alive()) == 1, "end of all but the adopter")


def test_an_import_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM half-way: no run, and nothing of it beside the runs."""
    with open(tmp_path / "calls.csv", "w") as file:
        file.write("begin,took\n")
        file.writelines(f"{1700000000 + i / 1000:.3f},5\n" for i in range(1_000_000))
    data = tmp_path / "data"
    columns = ("--column", "started_unix_s=begin", "--column", "duration_ms=took")
    with victim(
        *perfkit("import", str(tmp_path / "calls.csv"), *columns, "--data-dir", str(data))
    ) as process:
        wait_until(lambda: list(data.glob(".importing-*")), "import under way")
        process.kill(TERM)
        assert ended(process) == (143, "", "\nperfkit: terminated by SIGTERM\n")
    assert [path.name for path in data.rglob("*")] == ["runs"]


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_script_that_is_ended_takes_its_run_along(
    server: Logged, tmp_path: Path, all_of_them: bool
) -> None:
    """`perfkit.run_sync` installs no handlers: SIGTERM ends the script, and its run is closed in order."""
    (tmp_path / "making.py").write_text(MAKING)
    given = f"scenario={str(tmp_path / 'making.py')!r}, target={server.url!r}, data_dir={str(tmp_path)!r}"
    code = f"import perfkit; perfkit.run_sync({given}, users={{'count': 2, 'duration_s': 60}}, live=False)"
    with victim(sys.executable, "-c", code) as process:
        run = loading(tmp_path)
        process.kill(TERM, all_of_them=all_of_them)
        assert ended(process)[0] == 143
    ended_run = Run(run.path)
    assert ended_run.state == "aborted"
    assert ended_run.reason == ("terminated by SIGTERM" if all_of_them else "interrupted")
    assert_nothing_is_left_behind(ended_run)


def test_a_run_that_nobody_asks_for_ends_at_once() -> None:
    """A kernel that died before it had sent its request: the process of the run ends without a word."""
    for request in (b"", b'{"workload": {"scen'):
        done = subprocess.run([sys.executable, "-m", "perfkit.lab"], input=request, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# -- the reference server --------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("number", "all_of_them", "options"),
    [
        (signal.SIGKILL, False, ()),
        (signal.SIGKILL, False, ("-s", "server.instances=2")),
        (TERM, False, ()),
        (TERM, True, ()),
    ],
)
def test_the_reference_server_ends_with_its_run(
    tmp_path: Path, number: int, all_of_them: bool, options: tuple[str, ...]
) -> None:
    """While it starts, while its database does, and under load: server, instances and PostgreSQL all end, and
    the folder of the data is removed."""
    load = perfkit("run", "-q", "--scenario", "http_get", "-p", "path=/v1/health/", *options)
    shape = ("-s", "users.count=4", "-s", "users.duration_s=60")
    for moment in ("agent_server", "initdb", "drive.shards"):
        data = tmp_path / moment[:4]  # not a command line that has it
        with victim(*load, *shape, "--data-dir", str(data)) as process:
            wait_until(lambda m=moment, p=process: m in " ".join(p.alive().values()), moment)
            if moment == "drive.shards":
                wait_for_rows(data)
            process.kill(number, all_of_them=all_of_them)
            returned = ended(process)[0]
            assert not list(process.temporary.glob("perfkit-pg-*")), moment
        assert returned == (137 if number == signal.SIGKILL else 143)
        assert [run.state for run in list_runs(data)] == (["aborted"] if moment == "drive.shards" else [])


#: Ends as soon as it has started the reference server; a fork of it holds the server's standard input open.
DYING = """
import os, subprocess, sys, time
from perfkit.drive.local_server import reference_server
start = subprocess.Popen
def start_and_die(*given, **named):
    server = start(*given, **named)
    if os.fork():
        os._exit(0)
    time.sleep(600)
subprocess.Popen = start_and_die
with reference_server({"database-url": "sqlite:///" + sys.argv[1]}):
    pass
"""


def test_a_server_ends_whose_parent_died_while_it_started(tmp_path: Path) -> None:
    """Also when somebody else holds the pipe on its standard input open."""
    with victim(sys.executable, "-c", DYING, str(tmp_path / "db")) as process:
        assert process.process.wait(60) == 0
        assert any("agent_server" in words for words in process.alive().values())
        wait_until(lambda: not any("agent_server" in words for words in process.alive().values()), "end", 60)


def test_removing_is_seen(server: Logged, tmp_path: Path) -> None:
    """A clean-up that lasts: progress goes on, and tells of what was removed."""
    scenario = tmp_path / "making.py"
    scenario.write_text(
        "async def step(session, state, rng):\n"
        "    await session.post('/slow/1', name='make')\n"
        "    session.on_teardown('DELETE', '/slow/400')\n"
    )
    given = {
        "scenario": str(scenario),
        "target": {"url": server.url},
        "users": {"count": 4, "iterations": 100},
    }
    seen, told = Seen(), []

    def on_progress(run: Run) -> None:
        seen.look(run)
        told.append(seen.removed)

    execute(*complete(given, "test"), data_dir=tmp_path, on_progress=on_progress)
    assert sum(0 < removed < 100 for removed in told) >= 1, told


def test_an_interrupt_in_a_query_is_an_interrupt(tmp_path: Path) -> None:
    """DuckDB says "Query interrupted" of it, which would read like a bug of perfkit's."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    part = Part(make_timeline(tmp_path, 1000))
    before = signal.signal(signal.SIGUSR1, interrupt)
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.3):
            os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            part.query(
                "SELECT sum(sin(range)) AS x FROM range(300000000)"
            )  # a thread of it may go on to its end
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_that_nobody_hears_comes_again() -> None:
    """Inside a finalizer Python prints it and goes on: the program would not end."""
    code = (
        "import time\nfrom perfkit import interrupts\ninterrupts.install()\n"
        "class Gone:\n    def __del__(self): raise KeyboardInterrupt\n"
        "try:\n    Gone()\n    time.sleep(60)\nexcept KeyboardInterrupt: print('ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_an_interrupt_says_what_a_run_has_left(tmp_path: Path) -> None:
    """Wherever the second signal comes: which runs are kept, how many things they left, what removes them."""
    clean, left = (make_timeline(tmp_path, 20, run_id=f"20260101-00000{i}-made-aaaa") for i in range(2))
    (left.path / "undo-w0.jsonl").write_text('["DELETE", "/a", []]\n["DELETE", "/b", []]\n')
    with pytest.raises(KeyboardInterrupt) as caught, naming([clean, left]):
        raise KeyboardInterrupt
    (note,) = caught.value.__notes__
    still = f"up to 2 things it created are still on the target; run `perfkit cleanup {left.id}`"
    assert note == f"kept: {clean.id}, {left.id}; {still}"
