"""Runs started from cells of a real kernel: messages, views, interrupts, a kernel that dies."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit.store import Run, list_runs
from tests.kernel_fixture import Kernel, running_kernel
from tests.small_server import SmallServer, small_server

pytestmark = pytest.mark.slow

FORMS = {"await": "await perfkit.run", "sync": "perfkit.run_sync"}
#: Makes a note a step and removes it at the end; a removal takes REMOVE ms.
NOTES = """
async def step(session, params, rng):
    await session.post("/notes", json={}, name="create_note")
    session.on_teardown("DELETE", "/slow/REMOVE")
    await session.get("/slow/20", name="read_note")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    """A server that counts what it is asked."""
    with small_server() as running:
        yield running


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel that has imported perfkit."""
    with running_kernel() as running:
        assert running.run("import asyncio, perfkit").error is None
        yield running


def cell(form: str, server: SmallServer, data: Path, seconds: float, scenario: str = "http_get") -> str:
    """A cell that carries out a small run."""
    options = f"target={server.url!r}, users={{'count': 3, 'duration_s': {seconds}}}, data_dir={str(data)!r}"
    return f"run = {FORMS[form]}(scenario={scenario!r}, {options})"


def notes(folder: Path, remove_ms: int) -> str:
    """The scenario file that makes and removes notes."""
    (folder / "notes.py").write_text(NOTES.replace("REMOVE", str(remove_ms)))
    return str(folder / "notes.py")


def assert_everything_is_removed(server: SmallServer, run: Run) -> None:
    """Each note that was answered for, and at most one of each of the three users that was cut off."""
    rows = run.table(["operation", "error"]).to_pandas()
    made = int(((rows["operation"] == "create_note") & rows["error"].isna()).sum())
    assert 0 < server.requests["DELETE /slow/1"] == made
    assert made <= server.requests["POST /notes"] <= made + 3


@pytest.mark.parametrize("form", FORMS)
def test_messages_sent_during_a_run_are_answered(
    kernel: Kernel, server: SmallServer, tmp_path: Path, form: str
) -> None:
    """Queued cell, complete, inspect: answered in order when the run has ended; by a subshell at once."""
    client = kernel.client
    first = client.execute(cell(form, server, tmp_path, 2))
    kernel.wait_for_text(first, "requests/s")
    shell = client.session.msg("create_subshell_request", {})
    client.control_channel.send(shell)
    subshell = client.get_control_msg(timeout=5)["content"]["subshell_id"]
    aside = client.session.msg("complete_request", {"code": "perfkit.op", "cursor_pos": 10})
    aside["header"]["subshell_id"] = subshell
    client.shell_channel.send(aside)
    queued = [
        client.execute("after = run.state"),
        client.complete("perfkit.op", 10),
        client.inspect("perfkit", 4),
    ]
    found = kernel.replies([first, aside["header"]["msg_id"], *queued], 60)
    assert list(found) == [aside["header"]["msg_id"], first, *queued]
    assert [one["content"]["status"] for one in found.values()] == ["ok"] * 5
    assert "open_run" in str(found[queued[1]]["content"]["matches"])
    assert kernel.run("after").text == "'complete'"


@pytest.mark.parametrize("form", FORMS)
def test_one_display_updates_in_place(kernel: Kernel, server: SmallServer, tmp_path: Path, form: str) -> None:
    """One display: numbers while it runs, at the end one figure with alt text and caption; nothing else."""
    done = kernel.run(cell(form, server, tmp_path, 4))
    assert done.error is None
    assert [kind for kind, _, _ in done.displays].count("display_data") == 1
    assert len({display_id for _, display_id, _ in done.displays}) == 1
    texts = [data["text/plain"] for _, _, data in done.displays]
    assert re.search(
        r"[1-4] of 4 s; requests/s [\d,]+, p50 .* ms, p95 .* ms, failed 0 of [\d,]+, in flight \d",
        "\n".join(texts),
    )
    page = done.displays[-1][2]["text/html"]
    assert page.count("pk-svg pk-wide") == page.count('role="img"') == page.count("<figcaption>") == 1
    (run,) = list_runs(tmp_path)
    assert f"run {run.id}" in page
    assert f"{run.row_count():,} requests" in page
    assert done.text == ""


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupt_ends_the_run_cleanly(
    kernel: Kernel, server: SmallServer, tmp_path: Path, form: str
) -> None:
    """Aborted and readable, what it made removed, its process gone; one line, and the next cell runs."""
    server.requests.clear()
    sent = kernel.client.execute(cell(form, server, tmp_path, 60, notes(tmp_path, 1)))
    kernel.wait_for_text(sent, "requests/s")
    time.sleep(1.5)
    assert len(kernel.children()) == 1
    before = time.monotonic()
    kernel.manager.interrupt_kernel()
    done = kernel.wait(sent)
    assert time.monotonic() - before < 10
    (run,) = list_runs(tmp_path)
    assert done.error is not None
    assert done.error["ename"] in ("RunCancelled", "RunInterrupted")
    (said,) = done.error["traceback"]  # one cut off on its way may have made something: that is told too
    assert said.startswith(f"interrupted: run {run.id} is aborted, {run.row_count():,} rows are readable")
    assert "\n" not in said
    assert (run.state, run.reason) == ("aborted", "interrupted")
    assert_everything_is_removed(server, run)
    assert any("stopping" in data["text/plain"] for _, _, data in done.displays)
    assert "ABORTED" in done.displays[-1][2]["text/html"]
    assert kernel.children() == []
    assert kernel.run("1 + 1").text == "2"


@pytest.mark.parametrize("form", FORMS)
def test_a_second_interrupt_ends_the_clean_up(
    kernel: Kernel, server: SmallServer, tmp_path: Path, form: str
) -> None:
    """It does not wait for the removals, says how much may be left behind, and the rows are kept."""
    sent = kernel.client.execute(cell(form, server, tmp_path, 60, notes(tmp_path, 5000)))
    kernel.wait_for_text(sent, "requests/s")
    time.sleep(1.5)
    kernel.manager.interrupt_kernel()
    kernel.wait_for_text(sent, "stopping")
    time.sleep(1)
    before = time.monotonic()
    kernel.manager.interrupt_kernel()
    done = kernel.wait(sent)
    assert time.monotonic() - before < 5
    assert done.error is not None
    assert "not cleaned up on the target: interrupted; up to" in done.error["traceback"][0]
    (run,) = list_runs(tmp_path)
    assert run.state == "aborted"
    assert run.row_count() > 10
    assert kernel.children() == []


def test_bad_input_is_one_line(kernel: Kernel) -> None:
    """No wall of frames: the error's own line, and no view."""
    done = kernel.run("await perfkit.run(scenario='http_gte')")
    assert done.error is not None
    assert done.error["traceback"] == [
        "BadInput: perfkit.run: unknown scenario 'http_gte'; did you mean 'http_get'?"
    ]
    assert [data["text/plain"] for _, _, data in done.displays] in ([], ["perfkit: starting", ""])


def test_a_kernel_that_dies_takes_the_run_with_it(server: SmallServer, tmp_path: Path) -> None:
    """Killed at once: the run is closed as aborted within seconds, and what its rows say was made is removed;
    a request that was cut off may have made one thing more."""
    server.requests.clear()
    with running_kernel() as kernel:
        kernel.run("import perfkit")
        sent = kernel.client.execute(cell("await", server, tmp_path, 60, notes(tmp_path, 1)))
        kernel.wait_for_text(sent, "requests/s")
        time.sleep(1.5)
        (child,) = kernel.children()
        os.kill(kernel.pid, signal.SIGKILL)
        (run,) = list_runs(tmp_path)
        for _ in range(100):
            if Run(run.path).meta.state == "aborted":
                break
            time.sleep(0.1)
    ended = Run(run.path)
    assert (ended.state, ended.reason) == ("aborted", "interrupted")
    assert_everything_is_removed(server, ended)
    for _ in range(50):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


# -- asyncio.run in cells --------------------------------------------------------------------------

NESTED = "asyncio.run(asyncio.sleep(0.6, 'slept'))"


@pytest.mark.parametrize(("ipykernel", "patch"), [(7, "nest_asyncio2"), (6, "nest_asyncio")])
def test_nested_asyncio_keeps_the_messages(ipykernel: int, patch: str) -> None:
    """Opted in, asyncio.run works in a cell, and a queued cell, complete and inspect are answered."""
    older = Path(sys.prefix) / "ipykernel6"
    assert (older / "ipykernel_launcher.py").exists(), "scripts/browser (make test) installs ipykernel 6"
    with running_kernel(*([str(older)] if ipykernel == 6 else [])) as kernel:
        kernel.run("import asyncio, ipykernel, perfkit")
        assert kernel.run("ipykernel.version_info[0]").text == str(ipykernel)
        assert "cannot be called from a running event loop" in str(kernel.run(NESTED).error)
        assert kernel.run("perfkit.lab.enable_nested_asyncio()").text == f"'{patch}'"
        for _ in range(2):
            asked = [kernel.client.execute(NESTED)]
            time.sleep(0.2)
            asked += [kernel.client.execute("x = 42"), kernel.client.complete("asyn", 4)]
            asked += [kernel.client.inspect("asyncio", 3)]
            found = kernel.replies(asked, 10)
            assert list(found) == asked
            assert {one["content"]["status"] for one in found.values()} == {"ok"}


def test_nest_asyncio_itself_is_refused_where_it_loses_messages() -> None:
    """Under ipykernel 7 a cell queued behind its asyncio.run never runs; so perfkit says no, in one line."""
    with running_kernel() as kernel:
        kernel.run("import asyncio, nest_asyncio, perfkit.lab; nest_asyncio.apply()")
        refused = kernel.run("perfkit.lab.enable_nested_asyncio()").error
        assert refused is not None
        assert refused["traceback"][0].startswith(
            "BadInput: nest_asyncio was applied in this kernel and loses"
        )
        asked = [kernel.client.execute(NESTED)]
        time.sleep(0.2)
        asked += [kernel.client.execute("x = 42")]
        assert list(kernel.replies(asked, 3)) == asked[:1]
