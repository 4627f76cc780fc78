"""Runs that end early: what a condition is, when it is met, and what becomes of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames
from perfkit.drive import abort
from perfkit.drive.abort import LEAST, Watch, parse
from perfkit.drive.progress import Window
from perfkit.drive.running import checked, run_repeats
from perfkit.drive.tally import BINS, PER_OCTAVE
from perfkit.errors import BadInput
from perfkit.model import Workload
from perfkit.observe.recording import record
from perfkit.store.words import describe_run
from tests.command import started
from tests.small_server import SmallServer, small_server
from tests.test_live_view import folder_with, tell

#: A budget that no busy machine exceeds.
WIDE = {"delay_ms": 100_000, "cpu_share": 100, "gc_pause_ms": 60_000}


def window(
    rows: int, failed: int = 0, *, ms: float = 10.0, censored: int = 0, span_s: float = 10.0
) -> Window:
    """Requests of which all that succeeded took so many ms."""
    counts = np.zeros(BINS, np.int64)
    counts[int(np.log2(ms * 1e3) * PER_OCTAVE)] = rows - failed
    return Window(span_s, rows, failed, censored, counts)


# -- conditions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "one", "met"),
    [
        ("error_rate > 50 % for 10s", window(100, 51), "51 % in 100 requests"),
        ("error_rate > 50 % for 10s", window(100, 50), ""),
        ("error_rate >= 0.5 for 10 s", window(100, 50), "0.5 in 100 requests"),
        ("p99 > 5 s for 30s", window(100, ms=5200.0), "5.2 s in 100 requests"),
        ("p99 > 5 s for 30s", window(100, ms=4800.0), ""),
        ("p50 > 5 s for 30s", window(100, 60, censored=60), "beyond the timeout in 100 requests"),
        ("p50 > 5 s for 30s", window(100, 60), ""),
        ("rate < 1 /s for 1m", window(0, span_s=60.0), "0 /s in 0 requests"),
        ("rate < 1 /s for 1m", window(100, 95, span_s=60.0), "0.0833 /s in 100 requests"),
        ("rate < 1 /s for 1m", window(100, span_s=60.0), ""),
    ],
)
def test_when_a_condition_is_met(text: str, one: Window, met: str) -> None:
    """As a threshold over what ended in the window: failures count, timeouts are slower than any limit, the
    rate is that of successes."""
    found = parse(text).met(one)
    assert re.sub(r"(?<=5\.)[12]\d", "2", found) == met


def test_few_requests_say_nothing() -> None:
    """Fewer than 20 requests meet no condition, except one on the rate."""
    assert LEAST == 20
    assert parse("error_rate > 1 % for 1s").met(window(19, 19)) == ""
    assert parse("error_rate > 1 % for 1s").met(window(20, 20)) != ""
    assert parse("p50 > 1 us for 1s").met(window(19)) == ""
    assert parse("rate < 5 /s for 10s").met(window(19)) != ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("error_rate > 50 %", "say what and for how long, like error_rate > 50 % for 10s"),
        ("error_rate > 50 % for ever", "'ever' is not a time; write 300ms"),
        ("for 10s", "say what and for how long"),
        ("eror_rate > 50 % for 10s", "did you mean 'error_rate'"),
        ("p99 > 5 parsecs for 10s", "'parsecs'"),
        ("p99(get) > 5 s for 10s", "of all operations"),
        ("loop_lag p99 > 5 ms for 10s", "use pNN, error_rate or rate"),
        ("findings > 1 for 10s", "use pNN, error_rate or rate"),
        ("mean > 1 s for 10s", "use pNN, error_rate or rate"),
        ("ttft_p50 > 1 s for 10s", "use pNN, error_rate or rate"),
        ("p99 > 5 s for 0.5s", "for 1 s to 10 min, not 0.5 s"),
        ("p99 > 5 s for 11min", "not 660 s"),
    ],
)
def test_what_is_no_condition(text: str, words: str) -> None:
    """Rejected in one line that names the condition, before the first request."""
    given = {"scenario": "http_get", "target": {"url": "http://127.0.0.1:1"}, "abort": [text]}
    with pytest.raises(BadInput) as caught:
        checked(given | {"users": {"iterations": 1}}, "test", ())
    assert f"abort condition {text!r}: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- when a run is ended ---------------------------------------------------------------------------


def watched(**more: Any) -> Watch:
    """Over a run of ten minutes."""
    users = {"count": 1, "duration_s": 600.0}
    return Watch(Workload.from_mapping({"scenario": "http_get", "users": users, **more}))


def test_a_window_is_of_its_seconds_alone(tmp_path: Path) -> None:
    """A condition for 5 s is judged by what ended in the last 5 s, whatever came before."""
    run, watch = folder_with(tmp_path), watched(abort=["error_rate > 50 % for 5s"])
    met = {}
    for second in range(1, 31):  # of 10 requests a second 9 fail from second 21 on
        tell(run, "w0", second, 10 * second, failed=9 * max(0, second - 20))
        if (found := watch.look(run)) is not None:
            met[second] = found
    assert min(met) == 23  # 27 of the 50 requests since second 18
    assert met[23].condition == "error_rate > 50 % for 5s"
    assert met[23].reason == "abort condition met: error_rate > 50 % for 5s (54 % in 50 requests)"


def test_a_warm_up_is_not_judged(tmp_path: Path) -> None:
    """Nearly all fails in a warm-up, nothing after it: no window that reaches into it is judged."""
    run, watch = folder_with(tmp_path), watched(warmup_s=10.0, abort=["error_rate > 10 % for 5s"])
    for second in range(1, 40):
        tell(run, "w0", second, 10 * second, failed=10 * min(second, 10) - 1)
        assert watch.look(run) is None, second


def test_workers_are_judged_together(tmp_path: Path) -> None:
    """Half of the requests fail, all of one worker's: that is 50 %, and not more."""
    run, watch = (
        folder_with(tmp_path),
        watched(abort=["error_rate > 60 % for 5s", "error_rate > 40 % for 8s"]),
    )
    ended = []
    for second in range(1, 12):
        tell(run, "w1", second, 10 * second)
        tell(run, "w0", second, 10 * second, failed=10 * second)
        ended.append(watch.look(run))
    assert ended[:7] == [None] * 7
    assert {one.condition for one in ended if one} == {"error_rate > 40 % for 8s"}


@pytest.mark.parametrize("conditions", [None, ["p99 > 600 s for 10s"]])
def test_nothing_succeeds(tmp_path: Path, conditions: list[str] | None) -> None:
    """By default, and beside conditions of its own, a run ends 10 s after its first request ended, when not
    one of at least 20 has succeeded; in the warm-up, too."""
    run, watch = folder_with(tmp_path), watched(warmup_s=60.0, abort=conditions)
    for second in range(1, 13):
        tell(run, "w0", second, 2 * max(0, second - 2), failed=2 * max(0, second - 2))
        assert watch.look(run) is None, second
    tell(run, "w0", 13, 22, failed=22)
    found = watch.look(run)
    assert found is not None
    assert found.reason == "ended early: none of 22 requests succeeded in 13 s"


@pytest.mark.parametrize(
    ("failed", "words"),
    [(0, "no request ended and 60 steps raised"), (2, "none of 2 requests succeeded and")],
)
def test_every_step_raises(tmp_path: Path, failed: int, words: str) -> None:
    """Steps that raise have ended without success, too: by default a run ends 10 s after they began to."""
    run, watch = folder_with(tmp_path), watched()
    for second in range(1, 11):
        tell(run, "w0", second, failed, failed=failed, raised=5 * second)
        assert watch.look(run) is None, second
    tell(run, "w0", 11, failed, failed=failed, raised=60)
    found = watch.look(run)
    assert found is not None
    assert found.reason.startswith(f"ended early: {words}")
    assert found.reason.endswith("in 11 s")


def test_a_few_steps_that_raise_end_no_run(tmp_path: Path) -> None:
    """Beside more requests that still wait for slow answers, or after one that succeeded, it goes on."""
    (tmp_path / "b").mkdir()
    for run, more in ((folder_with(tmp_path), {"in_flight": 9}), (folder_with(tmp_path / "b"), {"rows": 1})):
        watch = watched()
        for second in range(1, 60):
            tell(run, "w0", second, **{"rows": 0, "raised": 8, **more})
            assert watch.look(run) is None


@pytest.mark.parametrize(
    ("rows", "failed", "more"),
    [(0, 0, {}), (20, 19, {}), (1000, 999, {}), (1000, 1000, {"abort": []})],
)
def test_a_run_that_goes_on(tmp_path: Path, rows: int, failed: int, more: dict[str, Any]) -> None:
    """None that ended; one success however long ago; an empty list of conditions."""
    run, watch = folder_with(tmp_path), watched(**more)
    for second in range(1, 100):
        tell(run, "w0", second, rows, failed=failed, in_flight=second)
        assert watch.look(run) is None


# -- what becomes of it ----------------------------------------------------------------------------

MET: dict[str, Any] = {"state": "aborted", "aborted_by": "p99 > 5 s for 30s", "reason": "condition met: …"}


@pytest.mark.parametrize(
    ("errors", "more", "word", "code"),
    [
        (0.0, {}, "ABORTED", 4),
        (0.0, {"thresholds": [{"text": "p50 < 1 us", "value": 3.0, "ok": False}]}, "ABORTED", 4),
        (1.0, {}, "FAILED", 3),
        (0.0, {"health": {"valid": False, "reasons": ["slow"], "workers": []}}, "INVALID", 3),
        (0.0, {"steps_broken": True}, "BROKEN", 1),
        (0.0, {"tags": 3}, "DAMAGED", 3),
    ],
)
def test_its_verdict(tmp_path: Path, errors: float, more: dict[str, Any], word: str, code: int) -> None:
    """ABORTED, exit code 4 as for a threshold that is missed; what is worse keeps its word and code. The
    reason comes first, in the verdict and in the first line."""
    run = make_timeline(tmp_path, 300, error_rate=errors, meta=MET | more)
    verdict = run.verdict
    assert (verdict.word, verdict.exit_code, verdict.reasons[0]) == (word, code, MET["reason"])
    assert not verdict.sound
    first = describe_run(run).splitlines()[0]
    assert first.startswith(f"run {run.id}: aborted")
    assert MET["reason"] in first
    assert (word in first) == (word != "ABORTED")


@pytest.mark.parametrize("errors", [0.05, 0.7])
def test_the_first_line_says_that_much_failed(tmp_path: Path, errors: float) -> None:
    """A sound measurement of a server that mostly fails is VALID, exit code 0; from a tenth of failures on
    the first line says so as well."""
    run = make_timeline(tmp_path, 600, error_rate=errors, meta={"state": "complete"})
    assert (run.verdict.word, run.verdict.exit_code, run.headline) == ("VALID", 0, "complete, valid")
    first = describe_run(run).splitlines()[0]
    share = f", but {100 * run.results.failed / run.results.n:.3g} % of its requests failed"
    assert first == f"run {run.id}: complete, valid{share if errors > 0.1 else ''}"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


USERS = {"users": {"count": 4, "duration_s": 600.0, "think_time_s": 0.01}}
ARRIVALS = {"arrivals": {"rate_per_s": 60.0, "duration_s": 600.0}}


@pytest.mark.slow
@pytest.mark.parametrize(("load", "processes"), [(USERS, 2), (ARRIVALS, 1)], ids=["users", "arrivals"])
def test_a_condition_ends_a_run(
    server: SmallServer, tmp_path: Path, load: dict[str, Any], processes: int
) -> None:
    """A run of ten minutes ends in seconds, and is not repeated: thresholds are judged and findings looked
    for, the measured part is the time until then; run.json, `show` and the page of its verdict say why."""
    given = {"scenario": "http_get", "target": {"url": server.url}, "params": {"path": "/slow/20"},
             "budget": WIDE, "processes": processes, "abort": ["p50 > 1 ms for 1s"],
             "thresholds": ["p50 < 1 ms", "rate > 1 /s"], "repeats": 3, **load}  # fmt: skip
    (run,) = run_repeats(checked(given, "test", ()), tmp_path, show_progress=False, look=record)
    assert (run.state, run.verdict.word, run.verdict.exit_code) == ("aborted", "ABORTED", 4)
    assert [one.ok for one in run.meta.thresholds] == [False, True]
    assert run.meta.results.findings is not None
    assert run.meta.aborted_by == "p50 > 1 ms for 1s"
    assert re.fullmatch(r"abort condition met: p50 > 1 ms for 1s \(.* ms in \d+ requests\)", run.meta.reason)
    measured = run.meta.measured
    assert measured.from_ns is not None
    assert measured.to_ns is not None
    assert 1.0 <= (measured.to_ns - measured.from_ns) / 1e9 < 300
    assert describe_run(run).splitlines()[0] == f"run {run.id}: aborted ({run.meta.reason})"
    assert "p50 &gt; 1 ms for 1s" in figures.verdict(run, frames.summary(frames.measured(run))).html


@pytest.mark.slow
def test_nothing_succeeds_for_real(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against what only fails, in a warm-up of minutes, with a condition of its own beside: FAILED, exit code
    3, as a run that came to its end, soon; its first line says why."""
    monkeypatch.setattr(abort, "NOTHING_SUCCEEDS_S", 1.0)
    given = {"scenario": "http_get", "target": {"url": server.url}, "params": {"path": "/status/500"},
             "warmup_s": 300, "budget": WIDE, "abort": ["p50 > 600 s for 1s"], **USERS}  # fmt: skip
    (run,) = run_repeats(checked(given, "test", ()), tmp_path, show_progress=False)
    assert (run.verdict.word, run.verdict.exit_code) == ("FAILED", 3)
    assert run.meta.aborted_by == "nothing succeeds for 1s"
    first = describe_run(run).splitlines()[0]
    words = r": aborted, FAILED: ended early: none of [\d,]+ requests succeeded in \d+ s; no request was"
    assert re.search(words, first)


@pytest.mark.slow
@pytest.mark.parametrize("warmup_s", [0, 300])
def test_every_step_raises_for_real(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup_s: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A step that needs a file which is not there: the run ends soon, BROKEN, exit code 1, as one that ran to
    its end; a log says at once how many steps raised and why, and the users did not fill a core with it."""
    monkeypatch.setattr(abort, "NOTHING_SUCCEEDS_S", 2.0)
    (tmp_path / "mine.py").write_text(
        "async def step(session, state, rng):\n    session.data('no' + '.csv')\n    await session.get('/')\n"
    )
    given = {"scenario": str(tmp_path / "mine.py"), "target": {"url": server.url}, "warmup_s": warmup_s,
             "budget": WIDE, "users": {"count": 2, "duration_s": 600}}  # fmt: skip
    (run,) = run_repeats(checked(given, "test", ()), tmp_path, show_progress=True)
    assert (run.verdict.word, run.verdict.exit_code) == ("BROKEN", 1)
    first = describe_run(run).splitlines()[0]
    assert ": aborted, BROKEN: ended early: no request ended and " in first
    assert "every step raised an exception" in first
    said = capsys.readouterr().err.splitlines()[0]
    words = r"0 requests, 0 failed, [\d,]+ steps raised: BadInput: .*no\.csv.* \(mine\.py:2\),"
    assert re.search(words, said)
    assert run.meta.steps_ended < 2 * (1000 + 40)


@pytest.mark.drill
def test_on_the_command_line(server: SmallServer, tmp_path: Path) -> None:
    """`perfkit run --abort`: exit code 4 and the reason first; against what only fails 3, after 10 s."""
    load = ("-s", "users.count=2", "-s", "users.duration_s=600", "-s", "users.think_time_s=0.05",
            "-s", f"budget={json.dumps(WIDE)}", "--data-dir", tmp_path)  # fmt: skip
    run = ("run", "-q", "--scenario", "http_get", "--target", server.url, *load)
    done = started(*run, "--abort", "p50 > 1 us for 2s")
    assert done.returncode == 4, done.stderr
    assert "aborted (abort condition met: p50 > 1 us for 2s (" in done.stdout.splitlines()[0]
    done = started(*run, "-p", "path=/status/500")
    assert done.returncode == 3, done.stderr
    words = r"aborted, FAILED: ended early: none of [\d,]+ requests succeeded in \d\d s; every request failed"
    assert re.search(words, done.stdout.splitlines()[0])
