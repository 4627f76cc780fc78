"""Steps that raise, hang, spin or leave requests behind: each is told and counted, each request has a row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import PerfkitError
from perfkit.observe import client
from perfkit.store import Run, list_runs
from perfkit.store.rows import Part
from tests.fault_server import FaultServer


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    served = FaultServer()
    served.start()
    yield served
    served.stop()


def run(server: FaultServer, folder: Path, code: str, **load: Any) -> tuple[Run, pd.DataFrame]:
    """A scenario of this code under load; its run and its rows in the order they began."""
    folder.mkdir(exist_ok=True)
    file = folder / "mine.py"
    file.write_text("import asyncio, time\n" + code)
    server.hits.clear()
    given = {"scenario": str(file), "target": {"url": server.url}, **load}
    done = execute(*complete(given, "test"), data_dir=folder)
    return done, done.table().to_pandas().sort_values("started")


def told(done: Run) -> dict[str, int]:
    return {error.text: error.count for error in done.meta.step_errors}


GOOD = "async def step(session, state, rng):\n    await session.get('/ok', name='a')\n"


def test_exceptions_are_counted_by_kind_and_place(server: FaultServer, tmp_path: Path) -> None:
    """200 steps with words of their own are one kind, 200 times: every step broke."""
    code = GOOD + "    raise KeyError(f'agent-{session.iteration}')\n"
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 200})
    assert told(done) == {"KeyError: 'agent-0' (mine.py:4)": 200}
    assert len(rows) == 200
    assert done.verdict.word == "BROKEN"


def test_a_forgotten_await_is_told(server: FaultServer, tmp_path: Path) -> None:
    """What is asked of a coroutine lacks an await; what sends nothing through session is told, too."""
    code = "async def step(session, state, rng):\n    answer = session.get('/ok')\n    answer.json()\n"
    done, _ = run(server, tmp_path, code, users={"count": 1, "iterations": 2})
    (text,) = told(done)
    assert "; write await before the request, as in (await session.get(…)).json() (mine.py:" in text
    done, _ = run(
        server,
        tmp_path,
        "async def step(session, state, rng):\n    pass\n",
        users={"count": 1, "iterations": 2},
    )
    assert told(done) == {"a step made no request through session": 2}


def test_no_step_counts_twice(server: FaultServer, tmp_path: Path) -> None:
    """One that raises before its first request has made none, too; of 100 steps 50 raised."""
    code = "async def step(session, state, rng):\n    if session.iteration % 2: raise ValueError('no data')\n"
    code += "    await session.get('/ok', name='a')\n"
    done, _ = run(server, tmp_path, code, users={"count": 2, "iterations": 100})
    assert told(done) == {"ValueError: no data (mine.py:3)": 50}
    assert done.verdict.word != "BROKEN"
    (finding,) = client.findings(Part(done))
    assert finding.kind == "step_errors"
    assert finding.text.startswith("The scenario went wrong 50 times: ValueError: no data (mine.py:3).")


def test_a_broken_run_has_no_finding_beside_its_verdict(server: FaultServer, tmp_path: Path) -> None:
    """Where every step raised, the verdict says it; of several kinds a finding names the most frequent."""
    done, _ = run(server, tmp_path, GOOD + "    raise ValueError('x')\n", users={"count": 1, "iterations": 5})
    assert (done.verdict.word, client.findings(Part(done))) == ("BROKEN", [])
    code = GOOD + "    if session.iteration % 8: raise ValueError('x')\n"
    done, _ = run(server, tmp_path, code, users={"count": 1, "iterations": 40})
    assert (
        done.verdict.words == "BROKEN: most steps raised an exception (35 of 40): ValueError: x (mine.py:4)"
    )
    assert client.findings(Part(done)) == []
    code = GOOD + "    if session.iteration % 4 == 0: raise ValueError('x')\n"
    code += "    if session.iteration == 1: raise KeyError('y')\n"
    done, _ = run(server, tmp_path, code, users={"count": 1, "iterations": 12})
    (finding,) = client.findings(Part(done))
    assert "went wrong 4 times, 3 of them so: ValueError: x (mine.py:4)." in finding.text


def test_words_of_what_a_user_left_behind_hold_no_secret(server: FaultServer, tmp_path: Path) -> None:
    """Nobody knows whose task it was: where users have secrets of a data file, type and place are kept."""
    (tmp_path / "logins.csv").write_text("password\nsesame-opens-it\n")
    code = "async def fail(word): raise ValueError(word)\n"
    code += "async def step(session, state, rng):\n    login = session.data('logins.csv', at_end='cycle')\n"
    code += "    asyncio.create_task(fail(login['password']))\n    await session.get('/ok', name='a')\n"
    done, _ = run(server, tmp_path, code, users={"count": 1, "iterations": 3})
    assert told(done) == {"ValueError (mine.py:2)": 3}
    assert "sesame" not in (done.path / "run.json").read_text()


@pytest.mark.parametrize(
    "what", ["KeyboardInterrupt()", "SystemExit(3)", "GeneratorExit()", "Own()", "asyncio.CancelledError()"]
)
def test_no_exception_ends_a_user(server: FaultServer, tmp_path: Path, what: str) -> None:
    """Whatever a step raises is an exception like others, and its user goes on."""
    code = f"class Own(BaseException): pass\n{GOOD}    if session.iteration == 5: raise {what}\n"
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 50})
    ((text, count),) = told(done).items()
    assert (count, len(rows)) == (1, 50)
    assert text.startswith(what.removeprefix("asyncio.").partition("(")[0])
    assert "(mine.py:5)" in text
    assert done.meta.state == "complete"


def test_a_step_that_cancels_itself_goes_on(server: FaultServer, tmp_path: Path) -> None:
    """It awaits a task it cancelled, or cancels its own: one exception, and all 50 steps."""
    code = f"""{GOOD}
    if session.iteration == 5:
        t = asyncio.ensure_future(asyncio.sleep(10)); t.cancel(); await t
    if session.iteration == 7:
        asyncio.current_task().cancel(); await asyncio.sleep(1)
"""
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 50})
    assert told(done) == {"CancelledError (mine.py:6)": 1, "CancelledError (mine.py:8)": 1}
    assert len(rows) == 50


def test_steps_that_never_end_are_told(server: FaultServer, tmp_path: Path) -> None:
    """Where they stand; a step whose request is cut off is none of them."""
    code = GOOD + "    await asyncio.Event().wait()\n"
    done, rows = run(server, tmp_path, code, users={"count": 2, "duration_s": 0.5}, drain_s=0.5)
    assert told(done) == {"a step did not end (mine.py:4)": 2}
    assert len(rows) == 2
    assert done.verdict.word == "BROKEN"
    code = "async def step(session, state, rng):\n    await session.get('/hang', name='a')\n"
    done, rows = run(server, tmp_path / "cut", code, users={"count": 2, "duration_s": 0.5}, drain_s=0.5)
    assert told(done) == {}
    assert rows["error"].tolist() == ["cutoff", "cutoff"]
    assert set(rows["error_text"]) == {"still in flight when the run ended"}


SWALLOWS = """
async def step(session, state, rng):
    while True:
        try:
            await session.get('/slow/50', name='poll')
            await asyncio.sleep(0.05)
        except:
            await asyncio.sleep(0.05)
"""
SPINS = GOOD + "    if session.iteration == 3:\n        while True: sum(range(1000))\n"
SLEEPS = GOOD + "    if session.iteration == 3:\n        time.sleep(600)\n"
STUBBORN = (
    GOOD
    + """    while session.iteration == 3:
        try:
            while True: sum(range(1000))
        except BaseException: pass
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "place"), [(SWALLOWS, "could not be cancelled (mine.py:"), (SPINS, "(mine.py:5)")]
)
def test_a_step_that_does_not_let_go_cannot_keep_a_run_from_ending(
    server: FaultServer, tmp_path: Path, code: str, place: str
) -> None:
    """It swallows its cancellation, or spins: after the grace the run ends, with a row for each request."""
    began = time.monotonic()
    done, rows = run(server, tmp_path, code, users={"count": 2, "duration_s": 1}, drain_s=1)
    assert time.monotonic() - began < 30
    assert done.meta.state == "complete"
    assert any(place in text for text in told(done)), told(done)
    assert len(rows) == server.hits.total()


@pytest.mark.slow
@pytest.mark.parametrize("code", [SLEEPS, STUBBORN])
def test_a_worker_whose_loop_cannot_be_freed_is_ended(server: FaultServer, tmp_path: Path, code: str) -> None:
    """The step's place is told, the rows are kept, and the run is aborted."""
    with pytest.raises(
        PerfkitError, match=r"a step at mine.py:\d blocked the event loop .*, so its worker was killed"
    ):
        run(server, tmp_path, code, users={"count": 1, "duration_s": 1}, drain_s=1)
    (done,) = list_runs(tmp_path)
    assert (done.state, done.row_count()) == ("aborted", server.hits.total() or 4)
    assert "mine.py:" in (done.reason or "")
    assert not list(done.path.glob("*.stuck"))


def test_requests_that_outlive_their_step_are_rows(server: FaultServer, tmp_path: Path) -> None:
    """Tasks left behind, a gather whose sibling failed: each request has its row and its step."""
    code = """
KEPT = []
async def fail(session):
    (await session.get('/status/500', name='fails')).raise_for_status()
async def step(session, state, rng):
    n = session.iteration
    async def later():
        await asyncio.sleep(0.05)
        await session.get(f'/slow/100?{session.iteration}', name=f'later of {n}')
    KEPT.append(asyncio.create_task(later()))
    await asyncio.gather(fail(session), session.get('/slow/150', name=f'slow of {n}'))
"""
    done, rows = run(server, tmp_path, code, users={"count": 2, "iterations": 20})
    assert len(rows) == server.hits.total() == 60
    named = rows[rows["operation"] != "fails"]
    assert (named["operation"].str.rpartition(" ")[2].astype(int) == named["step"]).all()
    assert told(done) == {}


def test_what_is_left_behind_for_ever_is_cut_off(server: FaultServer, tmp_path: Path) -> None:
    """A poller without end: it is given the drain, then its request is a row that was cut off."""
    code = """
async def poll(session):
    while True: await session.get('/slow/40', name='poll')
async def step(session, state, rng):
    asyncio.create_task(poll(session)); await session.get('/ok', name='a')
"""
    began = time.monotonic()
    _, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 3}, drain_s=0.5)
    assert time.monotonic() - began < 20
    assert len(rows) == server.hits.total()
    assert (rows["error"] == "cutoff").sum() == 3


def test_the_scenario_s_own_time_limit_has_its_own_words(server: FaultServer, tmp_path: Path) -> None:
    """A request that the scenario gave up is none that the end of the run cut off."""
    code = GOOD.replace("session.get('/ok', name='a')", "asyncio.wait_for(session.get('/slow/500'), 0.05)")
    _, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 3})
    assert rows["error"].tolist() == ["cutoff"] * 3
    assert rows["error_text"].str.startswith("cancelled by the scenario").all()


def test_phase_and_step_are_those_of_a_request_s_beginning(server: FaultServer, tmp_path: Path) -> None:
    """One begun in warm-up that ends in the measured part is warm-up; one begun before the end counts."""
    code = """
KEPT = []
async def step(session, state, rng):
    name = 'bg warm' if session.iteration < 0 else 'bg measured'
    KEPT.append(asyncio.create_task(session.get('/slow/400', name=name)))
    await session.get('/ok', name='a')
    await asyncio.sleep(0.1)
"""
    _, rows = run(server, tmp_path, code, users={"count": 1, "duration_s": 1}, warmup_s=1)
    phases = rows.groupby("operation", observed=True)["phase"].unique()
    assert list(phases["bg warm"]) == ["warmup"]
    assert list(phases["bg measured"]) == ["measure"]
    assert (rows["step"] < 0).eq(rows["phase"] == "warmup").all()


def test_the_last_thought_is_not_waited_for(server: FaultServer, tmp_path: Path) -> None:
    """Users who think for 10 s between steps do not keep a run of 1 s, or of one step each, for 10 s."""
    began = time.monotonic()
    run(server, tmp_path, GOOD, users={"count": 2, "duration_s": 1, "think_time_s": 10})
    run(server, tmp_path / "steps", GOOD, users={"count": 2, "iterations": 2, "think_time_s": 10})
    assert time.monotonic() - began < 10


def test_an_exception_after_a_failed_request_counts_too(server: FaultServer, tmp_path: Path) -> None:
    """A 404 that the scenario handles, or one it stumbles over, hides no mistake; only the run is not broken
    by a server's failures."""
    code = """
async def step(session, state, rng):
    response = await session.get('/status/404', name='a')
    if session.iteration % 2: raise KeyError('own')
    response.json()['id']
"""
    done, _ = run(server, tmp_path, code, users={"count": 1, "iterations": 20})
    assert sum(told(done).values()) == 20
    assert told(done)["KeyError: 'own' (mine.py:5)"] == 10
    assert done.verdict.word == "FAILED"
    code = """
async def step(session, state, rng):
    await session.get('/ok', name='good')
    (await session.get('/status/503', name='bad')).json()['id']
"""
    done, _ = run(server, tmp_path / "half", code, users={"count": 1, "iterations": 20})
    assert sum(told(done).values()) == 20
    assert done.verdict.word == "VALID"


@pytest.mark.parametrize("what", ["SystemExit(3)", "KeyboardInterrupt()"])
def test_what_ends_a_loop_ends_no_worker(server: FaultServer, tmp_path: Path, what: str) -> None:
    """Raised in a task of a step's own, awaited or left behind: one exception, and all 50 steps."""
    code = f"""{GOOD}
    async def child(): raise {what}
    if session.iteration == 5: await asyncio.create_task(child())
    if session.iteration == 7: asyncio.create_task(child())
"""
    done, rows = run(server, tmp_path, code, users={"count": 2, "iterations": 50})
    assert len(rows) == 50
    assert done.meta.state == "complete"
    assert sum(told(done).values()) == 2
    assert all(text.startswith(what.partition("(")[0]) for text in told(done))


@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_requests_that_outlive_setup_and_teardown_are_rows(
    server: FaultServer, tmp_path: Path, where: str
) -> None:
    """Left behind, they are given the drain: what ends in it is told to its task, which may note what it has
    made; the rest is cut off. Each is a row, and what was made is removed."""
    code = f"""{GOOD}
async def {where}(session, state):
    async def make():
        await session.get('/slow/100', name='made')
        session.on_teardown('DELETE', '/status/204')
    session.kept = [asyncio.create_task(make()), asyncio.create_task(session.get('/hang', name='hangs'))]
    await asyncio.sleep(0.01)
""".replace("session.kept", "session.local['kept']")
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 3}, drain_s=1)
    assert len(rows) == server.hits.total() == 3 + 3
    own = rows[rows["phase"] == where].set_index("operation")["error"]
    assert own["hangs"] == "cutoff"
    assert own["made"] is None or own.isna()["made"]
    assert server.hits["status"] == 1
    assert done.meta.state == "complete"


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "asyncio.create_task(end()); await asyncio.sleep(9)"])
def test_a_setup_that_ends_the_program_is_an_error(server: FaultServer, tmp_path: Path, how: str) -> None:
    """In its own task or in one it made: the run is aborted in a line."""
    code = f"{GOOD}\nasync def end(): raise SystemExit(3)\nasync def setup(session, params):\n    {how}\n"
    with pytest.raises(PerfkitError, match="SystemExit"):
        run(server, tmp_path, code, users={"count": 1, "iterations": 3})
    (done,) = list_runs(tmp_path)
    assert done.state == "aborted"


@pytest.mark.parametrize(
    ("code", "requests"),
    [
        ("    n = session.iteration\n    try: await session.get('/hang')\n"
         "    finally: asyncio.create_task(session.get('/slow/200', name='tidy'))\n", 4),
        ("    try: await session.get('/hang')\n"
         "    finally: await asyncio.shield(session.get('/hang', name='tidy'))\n", 4),
    ],
)  # fmt: skip
def test_what_is_begun_while_being_cut_off_is_a_row_too(
    server: FaultServer, tmp_path: Path, code: str, requests: int
) -> None:
    """The usual tidying in `finally`, in a task of its own or shielded."""
    code = f"async def step(session, state, rng):\n{code}"
    done, rows = run(server, tmp_path, code, users={"count": 2, "duration_s": 0.5}, drain_s=0.2)
    assert len(rows) == server.hits.total() == requests
    assert done.meta.state == "complete"


THREAD = GOOD + "    await asyncio.to_thread(time.sleep, 60)\n"
GENERATOR = """
KEPT = []
async def endless(session):
    try:
        while True: yield await session.get('/ok')
    finally: await asyncio.sleep(60)
async def step(session, state, rng):
    one = endless(session); KEPT.append(one); await anext(one); await asyncio.sleep(0.1)
"""
BEGUN_LATE = """
async def step(session, state, rng):
    await session.get('/ok')
    try: await asyncio.sleep(60)
    except asyncio.CancelledError:
        async def stubborn():
            while True:
                try: await asyncio.sleep(1)
                except BaseException: pass
        session.local['kept'] = asyncio.create_task(stubborn())
        raise
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [THREAD, GENERATOR, BEGUN_LATE])
def test_nothing_that_a_step_leaves_behind_keeps_a_run(
    server: FaultServer, tmp_path: Path, code: str
) -> None:
    """A thread, a generator that does not end, a task that was begun in the last moment."""
    began = time.monotonic()
    done, rows = run(server, tmp_path, code, users={"count": 1, "duration_s": 0.5}, drain_s=0.2)
    assert time.monotonic() - began < 25
    assert (done.meta.state, len(rows)) == ("complete", server.hits.total())


@pytest.mark.parametrize(
    "raised", ["asyncio.CancelledError()", "Own()", "GeneratorExit()", "SystemExit(3)", "ValueError('x')"]
)
@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_whatever_setup_and_teardown_raise_is_told(
    server: FaultServer, tmp_path: Path, where: str, raised: str
) -> None:
    """A setup ends the run in a line; a teardown spoils nothing, what was made is removed."""
    code = f"""class Own(BaseException): pass
{GOOD}    session.on_teardown('DELETE', '/status/204')
async def {where}(session, state): raise {raised}
"""
    name = raised.split(".")[-1].partition("(")[0]
    if where == "setup":
        with pytest.raises(PerfkitError, match=f"setup of mine failed: {name}: "):
            run(server, tmp_path, code, users={"count": 1, "iterations": 3})
        assert list_runs(tmp_path)[0].state == "aborted"
        return
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 3})
    assert done.meta.state == "complete"
    assert done.meta.teardown_error.startswith(f"{name}: ")
    assert server.hits["status"] == 3
    assert len(rows) == 6


def test_exceptions_of_tasks_that_are_kept_count(server: FaultServer, tmp_path: Path) -> None:
    """asyncio's documentation has one keep its tasks, which then never complain; a chain of them is drained,
    and what a thread of a step sends belongs to the step."""
    code = """
KEPT = []
async def boom(session):
    await session.get('/ok', name='boom')
    raise ValueError('x')
async def chain(session, left):
    await session.get('/slow/100', name='chain')
    if left: KEPT.append(asyncio.create_task(chain(session, left - 1)))
async def step(session, state, rng):
    KEPT.append(asyncio.create_task(boom(session)))
    if session.iteration == 9:
        await chain(session, 3)
        loop = asyncio.get_running_loop()
        ask = lambda: asyncio.run_coroutine_threadsafe(session.get('/ok', name='thread'), loop).result(3)
        await loop.run_in_executor(None, ask)
    await session.get('/ok', name='a')
"""
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 10}, drain_s=5)
    assert told(done) == {"ValueError: x (mine.py:6)": 10}
    assert len(rows) == server.hits.total() == 10 + 10 + 4 + 1
    assert (rows["error"].isna()).all(), "the last links have the drain"
    assert set(rows["phase"]) == {"measure"}
    assert rows.set_index("operation")["step"]["thread"] == 9


@pytest.mark.parametrize(
    "check",
    [
        "lambda answer: sys.exit('no')",
        "lambda answer: (_ for _ in ()).throw(Own())",
        "lambda answer: (_ for _ in ()).throw(Mute())",
    ],
)
def test_a_check_that_goes_wrong_is_a_row(server: FaultServer, tmp_path: Path, check: str) -> None:
    """Of class check, whatever it raises."""
    code = f"""import sys
class Own(BaseException): pass
class Mute(Exception):
    def __str__(self): raise TypeError
async def step(session, state, rng):
    await session.get('/ok', name='a', check={check})
"""
    _, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 5})
    assert rows["error"].tolist() == ["check"] * 5
    assert server.hits.total() == 5


@pytest.mark.parametrize(
    "said", ["None", "True", "Said(error=5)", "Said(True, '7')", "Said(True, 3_000_000_000)"]
)
def test_a_reader_that_goes_wrong_costs_no_row(server: FaultServer, tmp_path: Path, said: str) -> None:
    """What it says that is nothing is an error of the row; tokens that no column holds are left out."""
    code = f"""from perfkit.streams import Said
async def step(session, state, rng):
    await session.get('/sse', name='a', stream=lambda event: {said})
"""
    done, rows = run(server, tmp_path, code, users={"count": 1, "iterations": 5})
    assert len(rows) == server.hits.total() == 5
    assert done.meta.state == "complete"
    wrong = "Said(True" not in said
    assert (rows["error"] == "check").all() if wrong else rows["error"].isna().all()
    assert rows["tokens_out"].isna().all()


def test_a_step_that_ends_the_engine_loses_no_row(server: FaultServer, tmp_path: Path) -> None:
    """It cancels every task there is: what was sent is told, and the run is aborted in words."""
    code = f"{GOOD}    if session.iteration == 5:\n        for one in asyncio.all_tasks(): one.cancel()\n"
    with pytest.raises(PerfkitError, match="a worker process failed"):
        run(server, tmp_path, code, users={"count": 2, "iterations": 20})
    (done,) = list_runs(tmp_path)
    assert done.table(["sent"]).column("sent").drop_null().length() == server.hits.total()
    code = f"{GOOD}    if session.iteration == 5: asyncio.get_running_loop().stop()\n"
    done, rows = run(server, tmp_path / "stopped", code, users={"count": 2, "iterations": 20})
    assert len(rows) == server.hits.total() == 20
    assert done.meta.state == "complete"


@pytest.mark.slow
def test_a_worker_that_is_ended_tells_its_mistakes(server: FaultServer, tmp_path: Path) -> None:
    """Those before the step that holds the loop for ever."""
    code = f"{GOOD}    if session.iteration < 20: raise KeyError('k')\n    time.sleep(600)\n"
    with pytest.raises(PerfkitError, match="blocked the event loop"):
        run(server, tmp_path, code, users={"count": 1, "duration_s": 1}, drain_s=1)
    (done,) = list_runs(tmp_path)
    assert told(done) == {"KeyError: 'k' (mine.py:4)": 20}
