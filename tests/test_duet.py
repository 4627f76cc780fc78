"""Duets: both sides of a pair at once, and machines that do not bear them."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options, compare, duet, turns
from perfkit.compare.experiment import Kept, open_comparison
from perfkit.drive.run_process import RunProcess
from perfkit.errors import PerfkitError
from perfkit.store import Run, list_runs
from perfkit.store.rows import Part
from tests.small_server import small_server
from tests.test_cli import perfkit


def _workload(url: str, ms: int = 5, duration_s: float = 1.2) -> dict[str, Any]:
    return {
        "scenario": "http_get",
        "params": {"path": f"/slow/{ms}"},  # most of it sleep, so that a busy machine is no drift
        "target": {"url": url},
        "arrivals": {"rate_per_s": 150, "duration_s": duration_s},
        "budget": {"delay_ms": 10000, "cpu_share": 100, "gc_pause_ms": 60000},
    }


def _planned(run: Run) -> list[int]:
    """When its requests were planned, ns of the machine's monotonic clock."""
    planned = Part(run).query("SELECT planned FROM part ORDER BY planned")["planned"].to_pylist()
    return [one + run.meta.raw["clock"]["monotonic_ns"] for one in planned]


def test_a_side_that_talks_nonsense_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is not JSON ends its answers, so nobody waits for more; it is among its complaints."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"run\": '\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", "")  # it is started as a user's is
    with RunProcess(b"{}\n") as side:
        assert side.next(30) is None
    assert side.complaints == ["""an answer that is not JSON: b'{"run": \\n'"""]


def test_a_side_that_fails_ends_the_other(tmp_path: Path) -> None:
    """Setup of B raises: A, which waits for it, is ended and cleaned up, and the error is B's."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "async def setup(session, params):\n    raise ValueError('no luck')\n\n\n"
        "async def step(session, state, rng):\n    await session.get('/')\n"
    )
    with small_server() as server:
        good = _workload(server.url)
        bad = {**good, "scenario": str(broken)}
        del bad["params"]
        with pytest.raises(PerfkitError, match="setup of broken failed: ValueError: no luck"):
            duet.at_once([good, bad], ("A", "B"), tmp_path, ())
    assert {run.state for run in list_runs(tmp_path)} == {"aborted"}


def test_an_interrupt_ends_both_sides(tmp_path: Path) -> None:
    """Both runs are closed as aborted, the exit code says which signal, and no comparison is kept."""
    with small_server() as server:
        for name in "ab":
            given = _workload(server.url, duration_s=30)
            (tmp_path / f"{name}.yaml").write_text(json.dumps(given | {"duet": True}))
        files = [str(tmp_path / f"{name}.yaml") for name in "ab"]
        command = [sys.executable, "-m", "perfkit.cli", "compare", *files, "-q", "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            deadline = time.monotonic() + 90
            while not any(run.row_count() and run.state == "running" for run in list_runs(tmp_path)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert {run.state for run in list_runs(tmp_path)} == {"aborted"}
    assert not (tmp_path / "comparisons").exists()


@pytest.fixture
def made_pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs are made timelines; beside another one a run takes `slowdown` times as long."""

    def use(slowdown: float, sound: bool = True, alone: bool = True) -> None:
        numbers = itertools.count(1)

        def run(data: Path, scale: float, sound: bool) -> Run:
            number = next(numbers)
            return make_timeline(
                data, 4000, seed=number, error_rate=0.0, operations=["one"], scale=scale, restless=0.0,
                run_id=f"20260101-{number:06d}-made-{number:04x}",
                meta={"health": {"valid": sound, "reasons": [] if sound else ["late"]}},
            )  # fmt: skip

        def at_once(given: Any, names: Any, data: Path, allow: Any) -> list[Run]:
            return [run(data, slowdown, sound) for _ in given]

        monkeypatch.setattr(turns, "run_repeats", lambda work, data, **_: [run(data, 1.0, alone)])
        monkeypatch.setattr(turns, "at_once", at_once)

    return use


def _duet(data: Path, **options: Any) -> Kept:
    given = _workload("http://127.0.0.1:9")
    asked = Options(primary=("p50",), **options)
    return turns.run_pairs(
        given, given, ("old", "new"), 3, data, (), options=asked, duet=True, show_progress=False
    )


@pytest.mark.parametrize("other", ["http://127.0.0.1:9", "http://127.0.0.1:10"])
def test_a_null_pair_is_said_to_be_one(made_pairs: Any, tmp_path: Path, other: str) -> None:
    """Two files that say the same compare only noise, and every page of it says so; others do not."""
    made_pairs(1.0)
    a, b = _workload("http://127.0.0.1:9"), _workload(other)
    asked = Options(vary=("target.url",))
    kept = turns.run_pairs(a, b, ("old", "new"), 3, tmp_path, (), options=asked, show_progress=False)
    same = "both sides are the same workload, so only noise is compared (perfkit aa measures it)"
    assert (kept.comparison.notes[:1] == (same,)) == (a == b)
    assert (f"  note: {same}\n" in perfkit("show", "comparison:latest", data=tmp_path).stdout) == (a == b)


def test_sides_that_hardly_disturb_each_other_are_compared(made_pairs: Any, tmp_path: Path) -> None:
    """A is measured alone and beside the other first; the pairs are compared, and the page says how. The
    sides take turns in being started first, so that what this does is not taken for their difference."""
    made_pairs(1.1)
    kept = _duet(tmp_path)
    found = open_comparison(kept.id, tmp_path).comparison
    assert (found.duet, found.pairs, found.forced) == (True, 3, ())
    assert found.notes[0].startswith("duet: both sides ran at once; old took 1.1")
    places = [run.meta.experiment for run in list_runs(tmp_path)]
    assert [(one.side, one.pair) for one in places if one][:7] == [
        ("alone", 0), ("beside", 0), ("beside", 0), ("A", 1), ("B", 1), ("B", 2), ("A", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("slowdown", "sound", "why"),
    [
        (1.6, True, "old took 1."),
        (1.0, False, "old could not be measured beside new"),
    ],
)
def test_sides_that_compete_are_refused(
    made_pairs: Any, tmp_path: Path, slowdown: float, sound: bool, why: str
) -> None:
    """No pair is carried out where a duet could not say what differs; the page says so, and what to do."""
    made_pairs(slowdown, sound)
    kept = _duet(tmp_path)
    assert kept.comparison.words.startswith(f"REFUSED: a duet is unfit here: {why}")
    assert kept.comparison.words.endswith("compare in turns, without --duet, or give each side a machine.")
    assert len(list_runs(tmp_path)) == 3


def test_a_side_that_cannot_be_measured_alone_is_no_reason_against_a_duet(
    made_pairs: Any, tmp_path: Path
) -> None:
    """It would fail in turns, too, so that is what is said."""
    made_pairs(1.0, alone=False)
    kept = _duet(tmp_path)
    assert kept.comparison.words.startswith("REFUSED: old could not be measured alone (")
    assert "in turns" not in kept.comparison.words


def test_a_forced_duet_says_that_it_is_unfit(made_pairs: Any, tmp_path: Path) -> None:
    """With --force the pairs are carried out all the same, and every page says what is wrong with them."""
    made_pairs(1.6)
    kept = _duet(tmp_path, force=True)
    assert kept.comparison.pairs == 3
    assert any("a duet is unfit here" in why for why in kept.comparison.forced)


def test_a_run_beside_another_is_not_one_alone(made_pairs: Any, tmp_path: Path) -> None:
    """Runs of a duet are not compared with runs that had the machine for themselves."""
    made_pairs(1.0)
    kept = _duet(tmp_path)
    alone = [
        run for run in list_runs(tmp_path) if run.meta.experiment and run.meta.experiment.side == "alone"
    ]
    refused = compare(kept.a, alone).refused
    assert any(why.startswith("different duet: 'beside another run' and None") for why in refused), refused


def test_both_sides_get_one_schedule_at_the_same_instants(tmp_path: Path) -> None:
    """Two servers up: each request of A has one of B that was planned at the same nanosecond."""
    with small_server() as first, small_server() as second:
        for name, url in (("old", first.url), ("new", second.url)):
            (tmp_path / f"{name}.yaml").write_text(json.dumps(_workload(url, ms=20)))
        files = [str(tmp_path / f"{name}.yaml") for name in ("old", "new")]
        done = perfkit(
            *("compare", *files, "--duet", "--vary", "target.url", "--repeats", "2", "-q"),
            *("--force", "--no-report", "--json"), data=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["pairs"], told["duet"]) == (2, True)
    a, b = open_comparison(told["id"], tmp_path).sides.values()
    assert all(_planned(x) == _planned(y) and len(_planned(x)) > 100 for x, y in zip(a, b, strict=True))
