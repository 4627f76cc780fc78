"""What a run has made on its target, noted as it is made, and `perfkit cleanup` of what is left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit.drive.journal import Journal, journaled, keep_only
from perfkit.drive.session import Undo
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.redaction import NO_SECRETS, Redactor
from perfkit.store import Run, left_on_target, list_runs, update_run_json
from tests.command import perfkit
from tests.kill_runs import perfkit as command
from tests.kill_runs import victim, wait_until
from tests.small_server import SmallServer, small_server

#: Two users make a thing each in their steps, with a key they were given.
MAKING = """
async def setup(session, params):
    session.headers = {'x-key': 'given-by-the-target'}
    await session.post('/make/first')
    session.on_teardown('DELETE', '/first/1')
async def step(session, state, rng):
    session.headers = {'x-key': 'given-by-the-target'}
    await session.post(f'/make/{session.iteration}')
    session.on_teardown('DELETE', f'/made/{session.iteration}')
"""
#: What is made cannot be removed.
STUCK = MAKING.replace("f'/made/", "f'/status/503?thing=")


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def killed(
    server: SmallServer, data: Path, *more: str, scenario: str = MAKING, things: int = 20, whom: str = "run"
) -> Run:
    """A run of two workers of which the coordinator (`run`) or a worker was killed under load."""
    (data / "making.py").write_text(scenario)
    given = ("--scenario", str(data / "making.py"), "--target", server.url, "--data-dir", str(data))
    shape = ("-s", "processes=2", "-s", "users.count=2", "-s", "users.duration_s=60")
    with victim(*command("run", "-q", *given, *shape, *more), stdout=subprocess.PIPE) as process:
        wait_until(
            lambda: sum(path.startswith("POST /make/") for path in list(server.requests)) >= things, "things"
        )
        if whom == "run":
            process.kill()
        else:
            os.kill(process.workers()[0], signal.SIGKILL)
        process.process.wait(60)
        assert not process.left()
    return list_runs(data)[0]


def removed(server: SmallServer) -> set[str]:
    return {path.split("/", 2)[2] for path in server.requests if path.startswith("DELETE /made/")}


def made(server: SmallServer) -> set[str]:
    return {path.split("/", 2)[2] for path in list(server.requests) if path.startswith("POST /make/")} - {
        "first"
    }


def test_what_a_killed_run_left_is_removed_later(server: SmallServer, tmp_path: Path) -> None:
    """Every thing that was made before the kill but one of each user, with the key it was made with; until
    then `show` tells of it, and neither `rm` nor `prune` takes the note of it away."""
    run = killed(server, tmp_path)
    journals = list(run.path.glob("undo-*.jsonl"))
    assert len(journals) == 3
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in journals)
    left = len(journaled(run.path))
    words = f"up to {left:,} things"
    assert f"run `perfkit cleanup {run.id}`" in perfkit("show", run.id, data=tmp_path).out
    for verb in (("rm", run.id), ("rm", run.path)):
        refused = perfkit(*verb, data=tmp_path)
        assert (refused.code, words in refused.err) == (2, True)
    assert words in perfkit("prune", "--keep", "0", "--yes", data=tmp_path).out

    done = perfkit("cleanup", run.id, data=tmp_path)
    assert (done.code, done.out, done.err) == (
        0,
        f"removed {left:,} of {left:,} things that {run.id} left\n",
        "",
    )
    assert len(made(server) - removed(server)) <= 2
    assert list(server.requests)[-1] == "DELETE /first/1", "the kind made first goes last"
    assert server.heads[-1]["x-key"] == server.heads[-2]["x-key"] == "given-by-the-target"
    assert not list(run.path.glob("undo-*"))
    again = perfkit("cleanup", run.id, data=tmp_path)
    assert (again.code, again.out) == (0, f"{run.id} left nothing on its target\n")
    assert "things it created" not in perfkit("show", run.id, data=tmp_path).out
    assert perfkit("rm", run.id, data=tmp_path).code == 0
    assert not run.path.exists()


def test_what_a_killed_worker_made_is_removed_by_its_run(server: SmallServer, tmp_path: Path) -> None:
    """The coordinator reads its journal."""
    run = killed(server, tmp_path, whom="worker")
    assert run.state == "aborted"
    assert len(made(server) - removed(server)) <= 2
    assert not list(run.path.glob("undo-*"))


def test_what_cannot_be_removed_stays_noted(server: SmallServer, tmp_path: Path) -> None:
    """Exit code 1 and why; --forget gives it up."""
    run = killed(server, tmp_path, scenario=STUCK)
    left = len(journaled(run.path))
    done = perfkit("cleanup", run.id, data=tmp_path)
    assert done.code == 1
    assert done.out.splitlines()[0] == f"removed 1 of {left:,} things that {run.id} left"
    assert (
        f"{left - 1:,} of {left:,} requests that remove what the run made failed (DELETE /status/503"
        in done.out
    )
    assert len(journaled(run.path)) == left - 1
    told = perfkit("cleanup", run.id, "--json", data=tmp_path)
    assert (told.code, told.json["left"], told.json["things"]) == (1, left - 1, left - 1)
    assert "503" in told.json["why"]
    assert "503" in Run(run.path).meta.removal_error
    given_up = perfkit("cleanup", run.id, "--forget", data=tmp_path)
    assert (given_up.code, given_up.out) == (
        0,
        f"forgot {left - 1:,} things that {run.id} left on its target\n",
    )
    assert not journaled(run.path)


@pytest.mark.parametrize("own_server", [False, True])
def test_a_run_that_ends_notes_what_it_could_not_remove(
    server: SmallServer, tmp_path: Path, own_server: bool
) -> None:
    """And nothing else; nothing at all when the server ends with the run."""
    (tmp_path / "making.py").write_text(STUCK)
    given = {"scenario": str(tmp_path / "making.py"), "target": {"url": server.url}}
    workload, scenario, params = complete(given | {"users": {"iterations": 3}}, "test")
    run = execute(workload, scenario, params, data_dir=tmp_path, own_server=own_server)
    assert run.meta.own_server == own_server
    assert run.meta.removal_error.startswith(
        "3 of 4 requests that remove what the run made failed (DELETE /status"
    )
    left = [] if own_server else [f"/status/503?thing={i}" for i in range(3)]
    assert [undo.path for undo in journaled(run.path)] == left


def test_secrets_of_the_run_are_not_noted(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its token nor its headers; the token comes from the environment again, headers with -H. A path
    with a secret in it is not sent, and said to be left."""
    monkeypatch.setenv("TOKEN", "the-secret-token-1")
    scenario = (
        MAKING + "    session.headers = {'x-own': 'the-secret-header-2', 'x-key': 'given'}\n"
        "    session.on_teardown('DELETE', '/also/1')\n"
        "    if session.iteration == 0:\n        session.on_teardown('DELETE', '/by/the-secret-header-2')\n"
    )
    more = ("-s", "target.token_env=TOKEN", "-s", "target.headers.x-own=the-secret-header-2")
    more = (*more, "-s", "target.headers.x-api-key=the-secret-header-2")
    run = killed(server, tmp_path, *more, scenario=scenario)
    for file in run.path.rglob("*"):
        assert file.is_dir() or b"the-secret" not in file.read_bytes(), file
    refused = perfkit("cleanup", run.id, data=tmp_path)
    assert refused.code == 1
    assert "DELETE /also/1" not in server.requests, "a 404 without its header would say nothing"
    server.heads.clear()
    done = perfkit("cleanup", run.id, "-H", "X-Own: given-anew", data=tmp_path)
    assert done.code == 1
    assert "1 of " in done.out
    assert "(its address contained a secret, which is not stored)" in done.out
    assert {head["authorization"] for head in server.heads} == {"Bearer the-secret-token-1"}
    assert {head["x-own"] for head in server.heads} == {"given-anew"}
    assert {head["x-key"] for head in server.heads} == {"given"}, "the others were removed before"


def test_what_a_whole_run_could_not_remove_is_noted_without_its_secrets(
    server: SmallServer, tmp_path: Path
) -> None:
    """A header that holds one is named only; an undo that makes no request ends no teardown, a header that is
    a number is sent as one."""
    (tmp_path / "making.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Params:\n    api_key: str = 'the-secret-param-3'\n"
        "async def step(session, params, rng):\n"
        "    session.headers = {'x-auth': params.api_key, 'x-number': 7}\n"
        "    await session.post('/make/1')\n"
        "    session.on_teardown('DELETE', '/status/503')\n"
        "    session.on_teardown('DELETE', 'no/slash')\n"
    )
    given = {"scenario": str(tmp_path / "making.py"), "target": {"url": server.url}}
    run = execute(*complete(given | {"users": {"iterations": 1}}, "test"), data_dir=tmp_path)
    assert (run.state, run.meta.step_errors) == ("complete", ())
    assert run.meta.removal_error.startswith("2 of 2 requests that remove")
    for file in run.path.rglob("*"):
        assert file.is_dir() or b"the-secret" not in file.read_bytes(), file
    assert {undo.headers for undo in journaled(run.path)} == {(("x-auth", "***"), ("x-number", "7"))}
    done = perfkit("cleanup", run.id, data=tmp_path)
    assert (done.code, "its header x-auth held a secret" in done.out) == (1, True)
    assert perfkit("cleanup", run.id, "-H", "x-auth: once-more", data=tmp_path).code == 1
    assert b"once-more" not in b"".join(file.read_bytes() for file in run.path.glob("undo-*"))


def test_cleanup_refuses_in_one_line(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an id, a host that was not allowed, a header that is none, a token that is not set: exit code 2
    and nothing sent."""
    run = killed(server, tmp_path)
    sent = len(server.heads)
    document = json.loads((run.path / "run.json").read_text())
    assert perfkit("cleanup", run.id[:10], data=tmp_path).code == 2
    for header in ("x-key", "x key: 1", "x: a\nb"):
        refused = perfkit("cleanup", run.id, "-H", header, data=tmp_path)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"header {header.partition(':')[0]!r}: " in refused.err
    document["target"]["url"] = document["workload"]["target"]["url"] = "http://example.invalid"
    (run.path / "run.json").write_text(json.dumps(document))
    refused = perfkit("cleanup", run.id, data=tmp_path)
    assert (refused.code, "add --allow-target example.invalid" in refused.err) == (2, True)
    document["target"]["url"] = server.url
    document["target"]["token_env"] = "NOT_SET_HERE"
    (run.path / "run.json").write_text(json.dumps(document))
    refused = perfkit("cleanup", run.id, data=tmp_path)
    assert (refused.code, "NOT_SET_HERE, which is not set" in refused.err) == (2, True)
    assert len(server.heads) == sent


def test_a_journal_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Setup first. Half a line, of a kill or a full disk, and lines that are something else stand for things
    that nobody can remove."""
    Journal(tmp_path, "w0", NO_SECRETS).write(Undo("DELETE", "/b", ()))
    Journal(tmp_path, "setup", NO_SECRETS).write(Undo("DELETE", "/a", (("x", "ü"),)))
    with open(tmp_path / "undo-w0.jsonl", "ab") as file:
        file.write(
            b'7\n["DELETE", 1, 2]\n\xff\n[]\n["DELETE", "/c", []]\n' + b"[" * 100_000 + b'\n["DELETE", "/d"'
        )
    found = journaled(tmp_path)
    good = [undo for undo in found if undo.method]
    assert good == [Undo("DELETE", "/a", (("x", "ü"),)), Undo("DELETE", "/b", ()), Undo("DELETE", "/c", ())]
    assert len(found) == len(good) + 6 == left_on_target(tmp_path)
    keep_only(tmp_path, found[1:], NO_SECRETS)
    assert journaled(tmp_path) == found[1:]
    assert [file.name for file in tmp_path.iterdir()] == ["undo-left.jsonl"]
    assert stat.S_IMODE((tmp_path / "undo-left.jsonl").stat().st_mode) == 0o600
    keep_only(tmp_path, [], NO_SECRETS)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_outlives_its_run_is_waited_for(server: SmallServer, tmp_path: Path) -> None:
    """Steps that swallow what ends them: the worker is ended within a second, and what it made until then is
    removed by a clean-up that comes at once."""
    stubborn = MAKING.replace("async def step", "async def one") + (
        "async def step(session, state, rng):\n"
        "    while True:\n"
        "        try: await one(session, state, rng)\n"
        "        except BaseException: await asyncio.sleep(0.01)\n"
    )
    (tmp_path / "making.py").write_text("import asyncio\n" + stubborn)
    given = ("--scenario", str(tmp_path / "making.py"), "--target", server.url, "--data-dir", str(tmp_path))
    with victim(*command("run", "-q", *given, "-s", "users.duration_s=60")) as process:
        wait_until(lambda: len(made(server)) >= 1, "things")
        process.kill()
        process.process.wait(10)
        run = list_runs(tmp_path)[0]
        done = perfkit("cleanup", run.id, data=tmp_path)
        assert done.code == 0, done.err
        assert not process.left()
    assert not list(run.path.glob("undo-*"))
    assert len(made(server) - removed(server)) <= 1


def test_a_line_that_cannot_be_read_is_not_forgotten(server: SmallServer, tmp_path: Path) -> None:
    """All else is removed; the line is told and kept, until it is given up. What else the teardown said of
    the run stays; a journal that cannot be opened is an error."""
    run = killed(server, tmp_path)
    with open(run.path / "undo-w0.jsonl", "ab") as file:
        file.write(b'["DELETE", "/half')
    update_run_json(run.path, lambda meta: {"teardown_error": "3 POST or PUT requests got no response"})
    left = len(journaled(run.path))
    done = perfkit("cleanup", run.id, data=tmp_path)
    assert (done.code, done.out.splitlines()[0]) == (
        1,
        f"removed {left - 1:,} of {left:,} things that {run.id} left",
    )
    assert """a line of the run's journal cannot be read: '["DELETE", "/half'""" in done.out
    assert left_on_target(run.path) == 1
    meta = Run(run.path).meta
    assert meta.not_cleaned_up.startswith("3 POST or PUT requests got no response; 1 of ")
    (run.path / "undo-left.jsonl").rename(run.path / "undo-w1.jsonl")
    (run.path / "undo-left.jsonl").symlink_to("/dev/null")
    refused = perfkit("cleanup", run.id, data=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    (run.path / "undo-left.jsonl").unlink()
    assert perfkit("cleanup", run.id, "--forget", data=tmp_path).code == 0
    assert Run(run.path).meta.not_cleaned_up == "3 POST or PUT requests got no response"
    assert perfkit("rm", run.id, data=tmp_path).code == 0


def test_a_journal_of_a_full_disk_breaks_nothing(tmp_path: Path) -> None:
    """Rows meet the same disk, and their writer tells."""
    Journal(tmp_path / "gone", "w0", Redactor()).write(Undo("DELETE", "/a", ()))
