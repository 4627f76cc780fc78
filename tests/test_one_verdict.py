"""May a run be trusted? Every kind of run gets one answer wherever it is asked for.

Made by the command line; asked of exit code, `ls`, `show`, repr, report, the site (pages and index.json),
compare, gate, capacity, trend, prune.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perfkit import frames
from perfkit.compare import frames as compare_frames
from perfkit.report import make_report
from perfkit.retention import plan
from perfkit.site import Wishes, publish
from perfkit.store import Run, list_runs
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from tests.command import perfkit
from tests.kill_runs import perfkit as command
from tests.kill_runs import victim, wait_for_rows
from tests.small_server import small_server

RAISING = """
async def step(session, state, rng):
    await session.get('/fine')
    raise KeyError('total')
"""
RAISING_AT_ONCE = """
async def step(session, state, rng):
    raise KeyError('total')
    await session.get('/fine')
"""
WIDE = ("-s", "budget.delay_ms=100000", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=60000")
LOAD = ("-s", "users.count=4", "-s", "users.iterations=300", "-p", "path=/slow/2")


@dataclass(frozen=True)
class Kind:
    """What a run of this kind is called everywhere; reason: a pattern of its first reason."""

    word: str
    brief: str
    exit_code: int
    reason: str = ""
    compared: str = "left out"  #: what becomes of it beside a good run


KINDS = {
    "good": Kind("VALID", "valid", 0, compared="within-run only"),
    "thresholds missed": Kind("VALID", "missed", 4, compared="within-run only"),
    "every step raises": Kind(
        "BROKEN", "broken", 1, r"every step raised an exception \(300 of 300\): KeyError: 'total'"
    ),
    "every step raises at once": Kind(
        "BROKEN", "broken", 1, r"every step raised an exception \(300 of 300\): KeyError: 'total'"
    ),
    "server down": Kind(
        "FAILED", "failed", 3, r"every request failed \(300 of 300\), most often connect of get: "
        r".*\(300 times\)", "regressed",
    ),
    "404 everywhere": Kind(
        "FAILED", "failed", 3, r"every request failed \(300 of 300\), most often http_4xx of get: "
        r".*\(300 times\)", "regressed",
    ),
    "interrupted": Kind("ABORTED", "aborted", 130, "interrupted"),
    "interrupted twice": Kind("ABORTED", "aborted", 130, "interrupted"),
    "ended by a condition": Kind("ABORTED", "aborted", 4, "abort condition met: p50 > 1 us for 1s"),
    "killed": Kind("ABORTED", "aborted", 137, "its process ended without closing the run"),
    "over budget": Kind("INVALID", "invalid", 3, r"p99 .* ms, budget 0\.0 ms"),
    "imported": Kind("IMPORTED", "imported", 0, r"from vegeta\.csv", "refused"),
    "damaged": Kind("DAMAGED", "damaged", 3, "run.json is damaged: wrong type or value of measured.from_ns"),
}  # fmt: skip


def run(data: Path, url: str, *more: str) -> int:
    """`perfkit run` of http_get, in a process of its own; its exit code."""
    load = command("run", "-q", "--scenario", "http_get", "--target", url, *WIDE, *LOAD, *more)
    return subprocess.run([*load, "--data-dir", str(data)], capture_output=True, check=False).returncode


def stopped(data: Path, url: str, *signals: int) -> int:
    """A run of a minute that is sent these signals, one right after the other."""
    load = command("run", "-q", "--scenario", "http_get", "--target", url, *WIDE, *LOAD)
    with victim(
        *load, "-s", "users.iterations=null", "-s", "users.duration_s=60", "--data-dir", str(data)
    ) as one:
        wait_for_rows(data, 200)
        for number in signals:
            os.kill(one.process.pid, number)
        one.end()
    code = int(one.process.returncode)
    return code if code >= 0 else 128 - code


def damaged(data: Path, url: str) -> int:
    """A good run whose run.json is changed afterwards; the exit code is what its verdict would make it."""
    run(data, url)
    (one,) = list_runs(data)
    document = json.loads((one.path / "run.json").read_text())
    document["measured"]["from_ns"] = "soon"
    (one.path / "run.json").write_text(json.dumps(document))
    return Run(one.path).verdict.exit_code


def broken(data: Path, url: str, scenario: str = RAISING) -> int:
    (data / "raising.py").write_text(scenario)
    given = ("--scenario", str(data / "raising.py"), "-s", "params={}")
    load = command("run", "-q", "--target", url, *given, *WIDE, *LOAD[:4], "--data-dir", str(data))
    return subprocess.run(load, capture_output=True, check=False).returncode


def imported(data: Path, url: str) -> int:
    return perfkit("import", Path(__file__).parent / "imports" / "vegeta.csv", data=data).code


MAKE: dict[str, Callable[[Path, str], int]] = {
    "good": run,
    "thresholds missed": lambda data, url: run(data, url, "--threshold", "p50 < 1 us"),
    "every step raises": broken,
    "every step raises at once": lambda data, url: broken(data, url, RAISING_AT_ONCE),
    "server down": lambda data, url: run(data, "http://127.0.0.1:9"),
    "404 everywhere": lambda data, url: run(data, url, "-p", "path=/status/404"),
    "interrupted": lambda data, url: stopped(data, url, signal.SIGINT),
    "interrupted twice": lambda data, url: stopped(data, url, signal.SIGINT, signal.SIGINT),
    "ended by a condition": lambda data, url: run(
        data, url, "--abort", "p50 > 1 us for 1s", "-s", "users.iterations=null", "-s", "users.duration_s=600"
    ),
    "killed": lambda data, url: stopped(data, url, signal.SIGKILL),
    "over budget": lambda data, url: run(
        data, url, "-s", "budget.delay_ms=0.000001", "-s", "budget.delay_share=0"
    ),
    "imported": imported,
    "damaged": damaged,
}


@dataclass(frozen=True)
class Made:
    """One run of each kind in one data folder, the exit codes they ended with, a second good run."""

    data: Path
    runs: dict[str, Run]
    codes: dict[str, int]
    good: tuple[Run, ...]
    index: dict[str, Any]
    site: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("one")
    data, runs, codes = top / "data", {}, {}
    (data / "runs").mkdir(parents=True)
    with small_server() as server:
        for i, (kind, make) in enumerate((*MAKE.items(), ("second", run), ("third", run))):
            folder = top / str(i)
            folder.mkdir()
            codes[kind] = make(folder, server.url)
            (one,) = list_runs(folder)
            shutil.move(one.path, data / "runs" / one.id)
            runs[kind] = Run(data / "runs" / one.id)
    good = runs.pop("second"), runs.pop("third")
    publish(top / "site", data, Wishes(title="All", reports=False))
    index = json.loads((top / "site" / "index.json").read_text())
    return Made(data, runs, codes, good, index, top / "site")


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, made: Made) -> tuple[Kind, Run, int]:
    return KINDS[request.param], made.runs[request.param], made.codes[request.param]


def test_the_exit_code(case: tuple[Kind, Run, int]) -> None:
    """What `perfkit run` ended with."""
    kind, _, code = case
    assert code == kind.exit_code


def test_lists(case: tuple[Kind, Run, int], made: Made) -> None:
    """`ls`, `show`, repr: the word, and the reason in the first line."""
    kind, one, _ = case
    (listed,) = [row for row in perfkit("ls", "--json", data=made.data).json if row["id"] == one.id]
    shown = perfkit("show", one.id, data=made.data)
    assert (
        listed["verdict"] == kind.brief == perfkit("show", one.id, "--json", data=made.data).json["verdict"]
    )
    first = shown.out.splitlines()[0]
    assert first == f"run {one.id}: {one.headline}"
    assert re.search(kind.reason, first)
    assert repr(one).splitlines()[0].startswith(first[:300])
    wanted = {"VALID": "complete, valid", "IMPORTED": "imported from", "ABORTED": "aborted ("}
    assert one.headline.startswith(wanted.get(kind.word, f"complete, {kind.word}: "))


def test_pages(case: tuple[Kind, Run, int], made: Made) -> None:
    """The site's index.json, list and page of the run."""
    kind, one, _ = case
    (entry,) = [row for row in made.index["runs"] if row["id"] == one.id]
    assert entry["verdict"]["word"] == kind.brief
    if kind.reason:
        assert re.search(kind.reason, entry["verdict"]["reasons"][0])
    page = (made.site / entry["href"]).read_text()
    assert f"<strong>{kind.word}</strong>" in page
    assert f"pk-verdict pk-{entry['verdict']['level']}" in page


def test_compare(case: tuple[Kind, Run, int], made: Made) -> None:
    """As side B beside a good run: compared, regressed, or left out in the words of the verdict."""
    kind, one, _ = case
    if one.id == made.runs["good"].id:
        one = made.good[1]
    vary = ("--vary", "target.url", "--vary", "params", "--vary", "scenario", "--vary", "users", "--vary",
            "warmup_s", "--vary", "processes")  # fmt: skip
    done = perfkit("gate", made.good[0].id, one.id, *vary, "--json", data=made.data)
    code, verdict = {"left out": (3, "refused"), "refused": (3, "refused"), "regressed": (4, "regressed"),
                     "within-run only": (3, "within-run only")}[kind.compared]  # fmt: skip
    assert (done.code, done.json["verdict"]) == (code, verdict)
    left_out = dict(done.json["b"]["left_out"])
    if kind.compared in ("left out", "regressed"):
        assert left_out[one.id][0] == one.verdict.words
        assert re.search(kind.reason, left_out[one.id][0])
    if kind.compared == "regressed":
        assert done.json["words"].startswith("REGRESSED: no request of B succeeded: FAILED: every request")
        forced = perfkit("gate", made.good[0].id, one.id, *vary, "--force", "--json", data=made.data)
        assert (forced.code, forced.json["verdict"]) == (3, "regressed")  # nothing a gate may fail on
        back = perfkit("gate", one.id, made.good[0].id, *vary, "--json", data=made.data)
        assert (back.code, back.json["verdict"]) == (0, "improved")


def test_capacity_and_trend(case: tuple[Kind, Run, int], made: Made) -> None:
    """A run that is not sound is no level of a curve and no point of a trend, and the page says why."""
    kind, one, _ = case
    steps = compare_frames.load_steps([made.good[0], one])
    if kind.word != "VALID":
        assert one.id in steps.attrs["left_out"]
    if kind.word not in ("VALID", "IMPORTED"):
        point = compare_frames.trend_points(one, ("p50",))["p50"]
        assert not point["counts"]
        assert re.search(kind.reason, point["why"])


def test_prune(made: Made) -> None:
    """The newest sound run of a scenario stays, however many others came after it."""
    kept = {one.id for one in list_runs(made.data)} - {one.id for one in plan(made.data, 3).remove}
    assert {one.id for one in made.good} <= kept
    assert made.runs["thresholds missed"].id in kept  # the third sound one
    assert made.runs["good"].id not in kept
    assert made.runs["damaged"].id in kept


def test_a_run_interrupted_twice_has_the_span_that_was_measured(made: Made) -> None:
    """Its rate is of the time until the signal, and it does not say that nothing was measured."""
    for kind in ("interrupted", "interrupted twice", "killed"):
        one = made.runs[kind]
        rows = frames.timeline(one)
        shown = summarize(Part(one))[-1]["rate_per_s"]
        assert rows.attrs["span_s"] == pytest.approx(rows["done_s"].max(), abs=0.5)
        assert shown == pytest.approx(len(rows) / rows["done_s"].max(), rel=0.3)
        assert one.meta.health.reasons == ()


@pytest.mark.parametrize("kind", ["every step raises", "server down"])
def test_report(made: Made, kind: str) -> None:
    """The report's first words."""
    page = make_report(made.runs[kind], progress=False).read_text()
    assert re.search(rf"<strong>{KINDS[kind].word}</strong> — every (step|request)", page)
