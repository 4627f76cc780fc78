"""Runs as objects: started in scripts, shown in words and HTML, listed, watched; nested asyncio refused."""

from __future__ import annotations

import asyncio
import html
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

import perfkit
from benchmarks.make_timeline import make_timeline
from perfkit.drive import live_view
from perfkit.drive.progress import Seen
from perfkit.errors import BadInput, PerfkitError
from perfkit.lab import RunCancelled, Runs, enable_nested_asyncio, nested
from perfkit.lab.live import told
from perfkit.store import Run, list_runs
from tests.small_server import SmallServer, small_server

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script> & \x1b[31mred\u202e \"quoted\" 'x'"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    """A server that counts what it is asked."""
    with small_server() as running:
        yield running


def load(server: SmallServer, data: Path, **more: Any) -> dict[str, Any]:
    """Options of a small run."""
    users = {"count": 3, "duration_s": 1.0, "think_time_s": 0.01}
    return {"scenario": "http_get", "target": server.url, "users": users, "data_dir": data, **more}


def words_of(page: str) -> list[str]:
    """The words a browser would show of some HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", page)).split()


# -- starting --------------------------------------------------------------------------------------


def test_run_sync_in_a_script(server: SmallServer, tmp_path: Path) -> None:
    """A plain script gets the run; a bar and the run in words go to standard error, nothing to output."""
    options = {**load(server, tmp_path), "data_dir": str(tmp_path)}
    code = f"import perfkit; run = perfkit.run_sync(**{options!r})\n"
    done = subprocess.run([sys.executable, "-c", code + "print(run.state)"], capture_output=True, text=True)
    assert done.stdout == "complete\n", done.stderr
    (run,) = list_runs(tmp_path)
    assert repr(run) in done.stderr
    assert "Warning" not in done.stderr


def test_run_leaves_the_loop_free(server: SmallServer, tmp_path: Path) -> None:
    """While a run is awaited other tasks go on: no turn of the loop is late by half a second."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - before)

    async def both() -> Any:
        ticking = asyncio.create_task(tick())
        run = await perfkit.run(**load(server, tmp_path), live=False)
        ticking.cancel()
        return run

    assert asyncio.run(both()).state == "complete"
    assert len(late) > 50
    assert max(late) < 0.5


def test_a_timeout_ends_the_run_cleanly(server: SmallServer, tmp_path: Path) -> None:
    """A task that is cancelled waits for the run to be closed; it is aborted and readable."""
    wanted = load(server, tmp_path, users={"count": 2, "duration_s": 60}, live=False)

    async def hasty() -> None:
        running = asyncio.create_task(perfkit.run(**wanted))
        while not any(run.row_count() for run in list_runs(tmp_path)):
            await asyncio.sleep(0.1)
        await asyncio.wait_for(running, 0.1)

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(hasty())
    (run,) = list_runs(tmp_path)
    assert (run.state, run.reason) == ("aborted", "interrupted")
    assert run.row_count() > 0
    assert isinstance(caught.value.__cause__, RunCancelled)
    assert run.id in str(caught.value.__cause__)


def test_changes_are_laid_over_a_file(server: SmallServer, tmp_path: Path) -> None:
    """A workload file, a target by its URL, repeats: several runs come as a list that shows itself."""
    (tmp_path / "mine.yaml").write_text("scenario: http_get\nusers: {count: 2, iterations: 9}\ntags: [a]\n")
    runs = perfkit.run_sync(
        tmp_path / "mine.yaml", target=server.url, repeats=2, users={"iterations": 5}, data_dir=tmp_path
    )
    assert isinstance(runs, Runs)
    assert [run.row_count() for run in runs] == [5, 5]
    assert [run.meta.tags for run in runs] == [("a",), ("a",)]
    assert "2 runs" in repr(runs)


@pytest.mark.parametrize(
    ("given", "changes", "words"),
    [
        (None, {}, "nothing to run: give perfkit.run a file from params/ or scenario=NAME"),
        ("http_get", {}, "perfkit.run takes a URL, a .yaml or .py file or a mapping, not 'http_get'"),
        ("nowhere.yaml", {}, "nowhere.yaml"),
        (
            {"scenario": "http_get"},
            {"user": 3},
            "unknown parameter in perfkit.run: 'user'; did you mean 'users'?",
        ),
        ("http://127.0.0.1:9/", {"rat": 3}, "unknown parameter in perfkit.run: 'rat'; did you mean"),
        ("http://127.0.0.1:9/", {"users": {"cout": 3}}, "unknown parameter in perfkit.run, users: 'cout'"),
        (None, {"url": "http://127.0.0.1:9/"}, "a URL is the first argument: perfkit.run('http://"),
        (None, {"target": "http://127.0.0.1:9/"}, "or a URL first: perfkit.run('http://"),
        ({"scenario": "http_get"}, {"tags": [object()]}, "a workload cannot hold object"),
        (42, {}, "a .yaml or .py file or a mapping, not 42"),
        (None, {"scenario": "http_get", "target": "http://example.com"}, "allow_targets=['example.com']"),
    ],
)
def test_bad_input_is_told_in_one_line(
    tmp_path: Path, given: Any, changes: dict[str, Any], words: str
) -> None:
    """What cannot be run is refused as by `perfkit run`, and nothing is written."""
    with pytest.raises(BadInput) as caught:
        perfkit.run_sync(given, data_dir=tmp_path, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"BadInput: {caught.value}"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_scenario_prints_breaks_nothing(
    server: SmallServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words come out on standard error; the answers of the run's process are not mixed with them."""
    (tmp_path / "loud.py").write_text(
        'async def setup(session, params):\n    print(\'{"error": "no"}\')\n'
        "async def step(session, state, rng):\n    await session.get('/')\n"
    )
    options = load(server, tmp_path, scenario=str(tmp_path / "loud.py"), live=False)
    run = perfkit.run_sync(**options)
    assert isinstance(run, Run)
    assert run.state == "complete"
    assert '{"error": "no"}' in capsys.readouterr().err


def test_a_run_that_is_killed_is_told(server: SmallServer, tmp_path: Path) -> None:
    """Its process killed: one line with the exit code and the run; the run is aborted."""
    wanted = load(server, tmp_path, users={"count": 2, "duration_s": 60}, live=False)

    async def killed() -> None:
        task = asyncio.create_task(perfkit.run(**wanted))
        while not any((tmp_path / "runs").glob("*/segments/w0-*.parquet")):
            await asyncio.sleep(0.05)
        (run,) = list_runs(tmp_path)
        os.kill(_coordinator(run), signal.SIGKILL)
        await task

    with pytest.raises(PerfkitError, match=r"the process of the run ended \(exit -9\); run .* is aborted"):
        asyncio.run(killed())


def _coordinator(run: Run) -> int:
    """The process that holds the run's lock, among our children."""
    wanted = (run.path / "run.lock").stat().st_ino
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if fd.stat().st_ino == wanted and "run.lock" in os.readlink(fd):
                return int(fd.parts[2])
        except OSError:
            continue
    raise AssertionError("nobody holds it")


def test_the_data_folder_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From notebooks/ it is ../data; PERFKIT_DATA_DIR comes first."""
    made = make_timeline(tmp_path / "data", 30)
    (tmp_path / "notebooks" / "mine").mkdir(parents=True)
    (tmp_path / "notebooks" / "data").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks" / "mine")
    assert [run.path for run in perfkit.runs()] == [made.path]
    assert perfkit.open_run().path == made.path
    monkeypatch.setenv("PERFKIT_DATA_DIR", str(tmp_path / "elsewhere"))
    assert perfkit.runs() == []


def test_the_package_offers_four_names() -> None:
    """They are listed, and anything else is refused as by any module."""
    assert {"run", "run_sync", "runs", "open_run"} <= set(dir(perfkit))
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        _ = perfkit.rum  # type: ignore[attr-defined]


# -- showing ---------------------------------------------------------------------------------------


def test_repr_and_html_say_the_same(tmp_path: Path) -> None:
    """The words of a run's HTML are those of its repr, and nothing hostile in them is markup."""
    meta = {
        "note": HOSTILE,
        "tags": ["before", HOSTILE],
        "health": {"valid": False, "reasons": [HOSTILE, "too late"]},
        "thresholds": [{"text": "x", "ok": True}, {"text": "y", "ok": False}],
    }
    run = make_timeline(tmp_path, 1234, meta=meta)
    text = repr(run)
    assert words_of(run._repr_html_()) == text.split()
    assert text.startswith(f"run {run.id}: complete, INVALID: ")
    for told_ in ("too late", "rows        1,258", "1 of 2 met", "before, "):
        assert told_ in text
    assert "<script" not in run._repr_html_()
    assert not re.search(r"[\x1b\u202e]", text)
    assert run == Run(run.path)


def test_a_damaged_run_can_be_shown(tmp_path: Path) -> None:
    """Whatever is wrong with it, repr says so instead of failing."""
    run = make_timeline(tmp_path, 20)
    (run.path / "timeline.parquet").write_bytes(b"PAR1")
    assert "cannot be counted" in repr(Run(run.path))
    (run.path / "run.json").write_text("{")
    assert repr(Run(run.path)).startswith(f"run {run.id}: run.json is damaged")
    odd = {"state": "complete", "workload": {"users": {"count": "x"}}, "tags": 3, "health": []}
    (run.path / "run.json").write_text(json.dumps(odd))
    assert "no load" in repr(Run(run.path))
    assert words_of(Run(run.path)._repr_html_()) == repr(Run(run.path)).split()


def test_runs_are_a_list_that_is_a_table(tmp_path: Path) -> None:
    """Listed, filtered, sliced, as a frame; the newest come last, a damaged one hides no other."""
    for i in range(23):
        make_timeline(
            tmp_path, 20, run_id=f"20260101-0000{i:02}-made-{i:04x}", meta={"tags": [f"t{i % 2}", HOSTILE]}
        )
    runs = perfkit.runs(tmp_path)
    (runs[22].path / "run.json").write_text("{")
    runs = perfkit.runs(tmp_path)
    assert words_of(runs._repr_html_()) == repr(runs).split()
    lines = repr(runs).splitlines()
    assert lines[-1] == "23 runs, the newest 20 shown"
    assert lines[-2].split()[:2] == [runs[22].id, "damaged"]
    assert len(runs.filter(tag="t1")) == 11
    assert runs.filter(tag="t1", state="aborted") == []
    assert isinstance(runs[-2:], Runs)
    with pytest.raises(BadInput, match="did you mean 'complete'"):
        runs.filter(state="completed")
    frame = runs.frame()
    assert list(frame["id"]) == [run.id for run in runs]
    assert str(frame["created"].dt.tz) == "UTC"
    (tmp_path / "none").mkdir()
    assert repr(perfkit.runs(tmp_path / "none")) == "no runs"


# -- watching --------------------------------------------------------------------------------------


def test_the_view_tells_what_is_in_flight(server: SmallServer, tmp_path: Path) -> None:
    """Seen from what workers report while it runs: rate, quantiles, failures, and the requests under way."""
    views: list[tuple[str, str]] = []
    seen = Seen()

    async def watched() -> None:
        params = {"path": "/slow/300"}
        users = {"count": 7, "duration_s": 3.0}
        task = asyncio.create_task(
            perfkit.run(**load(server, tmp_path, params=params, users=users), live=False)
        )
        while not task.done():
            for run in list_runs(tmp_path):
                seen.look(run)
                views.append(told(run, seen, stopping=False))
            await asyncio.sleep(0.2)
        await task

    asyncio.run(watched())
    texts = "\n".join(text for _, text in views)
    assert "setting up" in texts
    assert "in flight 7" in texts
    last = [page for page, text in views if "in flight 7" in text][-1]
    assert words_of(last)[-3:] == ["as", "last", "reported"]
    assert last.count('<svg role="img"') == 1
    assert 300 < seen.recent().p50_ms < 400
    assert 15 < seen.recent().rate_per_s < 25
    assert math.isnan(Seen().recent().p95_ms)
    (run,) = list_runs(tmp_path)
    assert not list(run.path.rglob("*.live"))


def test_a_view_that_breaks_does_not_break_the_run(
    server: SmallServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in showing is told once; the run is carried out to its end."""
    monkeypatch.setattr(Seen, "look", lambda *_: 1 / 0)
    monkeypatch.setattr(live_view, "PRINTED_S", 0.0)
    run = perfkit.run_sync(**load(server, tmp_path))
    assert isinstance(run, Run)
    assert run.state == "complete"
    words = "the live view broke (ZeroDivisionError: division by zero); the run goes on"
    assert capsys.readouterr().err.count(words) == 1


# -- nested asyncio --------------------------------------------------------------------------------


def test_the_patch_is_chosen_by_the_kernel_it_serves() -> None:
    """nest_asyncio for ipykernel 6, nest_asyncio2 for 7; with any other nothing is promised."""
    assert nested.patch_for("6.31.0") == "nest_asyncio"
    assert nested.patch_for("7.4.0") == "nest_asyncio2"
    for other in ("5.5.6", "8.0.0a1", "x"):
        with pytest.raises(BadInput, match="tested with 6 and 7 only; use await instead"):
            nested.patch_for(other)


def test_an_old_patch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """nest_asyncio2 before 1.7.3 loses messages as well: it is refused with what to install."""
    monkeypatch.setattr(nested, "PATCHES", {7: ("nest_asyncio2", (99,)), 6: ("not-there", (1,))})
    with pytest.raises(BadInput, match=r"loses messages under ipykernel 7\.4\.0; install nest_asyncio2>=99"):
        nested.patch_for("7.4.0")
    with pytest.raises(BadInput, match="needs not-there>=1, which is not installed"):
        nested.patch_for("6.0")


def test_nesting_is_refused_where_it_cannot_work() -> None:
    """Outside a kernel asyncio.run works as it is; uvloop's loop cannot be patched."""
    with pytest.raises(BadInput, match=r"here asyncio\.run works as it is"):
        enable_nested_asyncio()
    loop = uvloop.new_event_loop()
    with pytest.raises(BadInput, match=r"uvloop\.Loop, which cannot be nested"):
        nested.refuse_loop(loop)
    loop.close()
