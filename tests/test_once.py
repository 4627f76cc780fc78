"""`perfkit run --once`: one step, each request shown with its answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit.drive.once import run_once
from perfkit.drive.running import checked
from perfkit.store import list_runs
from tests.command import started
from tests.small_server import SmallServer, small_server

SECRET = "sk-once-4711-secret"
STEPS = '''"""Setup, a step with a check, and what is removed."""

async def setup(session, params):
    print("from the scenario")
    await session.post("/things", json={"password": "hunter2-hunter2"}, name="create")
    session.on_teardown("DELETE", "/things/1")

async def step(session, state, rng):
    answer = await session.get("/things/1", name="read", check=lambda r: CHECK)
    BODY

async def teardown(session, state):
    await session.post("/bye", name="bye")
'''


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def once(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    """One step; it leaves no run behind."""
    done = started("run", *arguments, "--once", PERFKIT_DATA_DIR=str(data), MY_TOKEN=SECRET)
    assert list_runs(data) == []
    return done


def test_a_request_and_its_answer_are_shown_without_secrets(server: SmallServer, tmp_path: Path) -> None:
    """Method, path, headers, body, status and times stand there; no secret does."""
    before = server.requests.total()
    line = (
        f"{server.url}/reflect?page=2&token={SECRET}q",
        "-H",
        f"X-Api-Key: {SECRET}",
        "-H",
        "x-plain: yes",
    )
    done = once(*line, "--json", '{"text": "hi", "password": "hunter2"}', "-s", "target.token_env=MY_TOKEN",
                data=tmp_path)  # fmt: skip
    assert server.requests.total() == before + 1
    assert server.heads[-1]["authorization"] == f"Bearer {SECRET}"
    assert done.returncode == 1, "a status of 500 is a failure"
    shown = done.stdout.splitlines()
    for one in ("-- step", "> POST /reflect?page=2&token=***", "> authorization: ***", "> x-api-key: ***",
                "> x-plain: yes", '> "password": "***"', "< content-type: application/json"):  # fmt: skip
        assert any(one.replace(" ", "") in line.replace(" ", "") for line in shown), one
    assert any(line.startswith("< 500  ") and "first byte" in line and "total" in line for line in shown)
    assert shown[-1].startswith("FAILED: POST /reflect: http_5xx (status 500): ")
    assert SECRET not in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_setup_and_teardown_belong_to_it(server: SmallServer, tmp_path: Path) -> None:
    """Setup, exactly one step, teardown and what is to be removed, in this order; the scenario
    prints on standard error."""
    file = tmp_path / "made.py"
    file.write_text(STEPS.replace("CHECK", "True").replace("BODY", ""))
    done = once(str(file), "--target", server.url, "--users", "50", data=tmp_path)
    assert done.returncode == 0, done.stdout
    asked = [line for line in done.stdout.splitlines() if line.startswith(("--", "> POST", "> GET", "> DEL"))]
    assert asked == ["-- setup", "> POST /things", "-- step", "> GET /things/1", "-- teardown", "> POST /bye",
                     "> DELETE /things/1"]  # fmt: skip
    assert done.stdout.splitlines()[-1] == "ok: 4 requests, none failed"
    assert "hunter2" not in done.stdout
    assert "from the scenario" in done.stderr


FAILS = {
    "a check": ("'no id in it'", "", "FAILED: read: check (status 200): no id in it"),
    "an exception": ("True", "answer.nothing", "FAILED: step raised AttributeError: "),
    "a failed request that is raised": (
        "False",
        "answer.raise_for_status()",
        "FAILED: read: check (status 200)",
    ),
}


@pytest.mark.parametrize(("check", "body", "says"), FAILS.values(), ids=FAILS)
def test_what_fails_is_said_and_exit_1(
    check: str, body: str, says: str, server: SmallServer, tmp_path: Path
) -> None:
    """A failed check or an exception is named, the exception with its line; teardown comes all the same."""
    file = tmp_path / "made.py"
    file.write_text(STEPS.replace("CHECK", check).replace("BODY", body))
    done = once(str(file), "--target", server.url, data=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert line.startswith(says)
    assert ("(line 10 of made.py)" in line) == ("raised" in line)
    assert "> DELETE /things/1" in done.stdout


def test_one_step_for_programs(server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json: one object with each request and its answer as they are shown, without secrets."""
    monkeypatch.setenv("MY_TOKEN", SECRET)
    file = tmp_path / "made.py"
    file.write_text(STEPS.replace("CHECK", "'no id in it'").replace("BODY", "print('loud')"))
    token = ("-s", "target.token_env=MY_TOKEN")
    done = once(str(file), "--target", server.url, "--json", *token, data=tmp_path)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert found["problems"] == ["read: check (status 200): no id in it"]
    asked = [(one["part"], one["method"], one["path"], one["answer"]["status"]) for one in found["requests"]]
    assert asked[:2] == [("setup", "POST", "/things", 200), ("step", "GET", "/things/1", 200)]
    assert ["authorization", "***"] in found["requests"][0]["headers"]
    assert {one["scenario"] for one in found["requests"]} == {"made"}
    assert SECRET not in done.stdout
    assert "hunter2" not in done.stdout
    done = once("http://127.0.0.1:9/x", "--json", data=tmp_path)
    (one,) = json.loads(done.stdout)["requests"]
    assert (one["answer"]["status"], "ConnectionRefused" in one["answer"]["error"]) == (None, True)


def test_one_step_needs_no_end(server: SmallServer, tmp_path: Path) -> None:
    """Users without iterations or duration_s: refused as a run that never ends, and one step does end."""
    file = tmp_path / "y.yaml"
    file.write_text(f"scenario: http_get\ntarget: {server.url}\nusers: {{count: 5}}\n")
    done = once(str(file), data=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok: 1 request, none failed")
    assert "needs iterations or duration_s" in started("run", str(file)).stderr


def test_nobody_listens(tmp_path: Path) -> None:
    """A connection that is refused is shown as such, exit code 1; a step without a request too."""
    done = once("http://127.0.0.1:9/x", data=tmp_path)
    assert (done.returncode, "< connect: ConnectionRefusedError" in done.stdout) == (1, True)
    (tmp_path / "none.py").write_text("async def step(session, state, rng):\n    pass\n")
    done = once(str(tmp_path / "none.py"), "--target", "http://127.0.0.1:9", data=tmp_path)
    assert (done.returncode, done.stdout) == (1, "FAILED: a step made no request through session\n")


def test_the_first_byte_does_not_come_before_the_server_has_sent_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Times are since the request began, as curl has them: a server that waits 200 ms before it answers has
    its first byte after that, and not after the total."""
    with small_server() as server:
        given = {"scenario": "http_get", "target": {"url": server.url}, "params": {"path": "/slow/200"}}
        assert run_once(checked(given | {"users": {"iterations": 1}}, "test", ()), sys.stdout)
    (shown,) = re.findall(r"first byte ([\d.]+) ms, total ([\d.]+) ms", capsys.readouterr().out)
    assert 200 <= float(shown[0]) <= float(shown[1])
