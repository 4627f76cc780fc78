"""What others' files say and do not mean: each would make a number that nobody measured."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from perfkit import frames
from perfkit.compare.reduce import reduce_run
from perfkit.errors import BadInput
from perfkit.importing.words import error_class
from perfkit.model import LONGEST_NOTE
from perfkit.store import Run
from perfkit.store.metadata import Span
from tests.imported import import_file
from tests.test_importing import FILES

MAPPED = {"started_unix_s": "begin", "duration_ms": "took", "error_text": "err"}
JTL = "timeStamp,elapsed,label,responseCode,responseMessage,success,failureMessage"
HISTORY = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,99%,100%,"
HISTORY += "Total Request Count,Total Failure Count"


def imported(folder: Path, lines: Iterable[str], name: str = "given", **options: Any) -> Run:
    """A run made of these lines."""
    made = folder / name
    made.write_text("\n".join(lines) + "\n")
    return import_file(made, data_dir=folder / "data", **options)


def label(run: Run) -> str:
    """How true its times are said to be."""
    return str(run.meta.imported.fidelity.words.rsplit(", ", 1)[0])


def notes(run: Run) -> str:
    """All that is said of the file."""
    return "; ".join(run.meta.imported.notes)


def rate(run: Run) -> float:
    """Successes a second."""
    return float(frames.summary(frames.measured(run)).iloc[-1]["rate_per_s"])


def errors(run: Run) -> dict[Any, int]:
    """How many rows of each class."""
    return Counter(run.table(["error"])["error"].to_pylist())


# -- how true times are ----------------------------------------------------------------------------


@pytest.mark.parametrize("a_second", [1, 4])
def test_a_rounded_plan_rounds_the_latency(a_second: int, tmp_path: Path) -> None:
    """Due in whole seconds: 6 ms calls would take half a second; also where no two are due at once."""
    rng = random.Random(1)
    lines = ["due,begin,end"]
    for i in range(40):
        due = 1_700_000_000 + i // a_second + rng.random()
        lines.append(f"{int(due)},{due + 0.0001:.6f},{due + 0.006:.6f}")
    columns = {"planned_unix_s": "due", "started_unix_s": "begin", "done_unix_s": "end"}
    assert label(imported(tmp_path, lines, columns=columns)) == (
        "instants rounded to 1 s, latencies rounded to 1 s"
    )


def test_an_even_schedule_is_no_rounding(tmp_path: Path) -> None:
    """Due every 100 ms exactly, and called within a few: such a plan is as exact as the calls are."""
    at = [1_700_000_000_000_000 + i * 100_000 for i in range(40)]
    lines = ["due,begin,took", *(f"{one},{one + 300 + i * 7},{6000 + i * 12}" for i, one in enumerate(at))]
    columns = {"planned_unix_us": "due", "started_unix_us": "begin", "duration_us": "took"}
    assert label(imported(tmp_path, lines, columns=columns)) == "instants exact, latencies exact"


def test_a_latency_is_as_coarse_as_what_it_is_the_difference_of(tmp_path: Path) -> None:
    """Begun in whole seconds, ended in µs: the difference is no latency in µs; a duration of its own is."""
    lines = [
        "begin,end,took",
        *(f"{1_700_000_000 + i},{1_700_000_000 + i}.90{i:04},5.0{i:02}" for i in range(30)),
    ]
    differing = {"started_unix_s": "begin", "done_unix_s": "end"}
    assert label(imported(tmp_path, lines, columns=differing)).endswith("latencies rounded to 1 s")
    own = {"started_unix_s": "begin", "duration_ms": "took"}
    assert label(imported(tmp_path, lines, columns=own)) == "instants rounded to 1 s, latencies exact"


def test_whole_values_are_as_fine_as_their_unit(tmp_path: Path) -> None:
    """A few whole ms are not exact, equal ones not rounded to 10 ms; a fraction anywhere says otherwise."""
    few = [f"{1_700_000_000_000 + i * 37},{5 + i}" for i in range(3)]
    columns = {"started_unix_ms": "begin", "duration_ms": "took"}
    ms = "instants rounded to 1 ms, latencies rounded to 1 ms"
    assert label(imported(tmp_path, ["begin,took", *few], columns=columns)) == ms
    equal = [f"{1_700_000_000_000 + i * 37},{0 if i % 2 else 300}" for i in range(40)]
    assert label(imported(tmp_path, ["begin,took", *equal], columns=columns)) == ms
    finer = ["begin,took", *few, "1700000000200.25,7.5"]
    assert label(imported(tmp_path, finer, columns=columns)) == "instants exact, latencies exact"
    jtl = [JTL, *(f"{1_700_000_000_000 + i * 37},10,a,200,OK,true," for i in range(30))]
    assert label(imported(tmp_path, jtl)) == ms
    iso = ["begin,took", *(f"2026-01-01T00:00:0{i}Z,{i}" for i in range(3))]
    seconds = import_columns(tmp_path, iso, started="begin", duration_s="took")
    assert label(seconds) == "instants rounded to 1 s, latencies rounded to 1 s"


def import_columns(folder: Path, lines: Iterable[str], **columns: str) -> Run:
    """A run made of a CSV by a map."""
    return imported(folder, lines, columns=columns)


def test_each_operation_is_judged_by_its_own_median(tmp_path: Path) -> None:
    """1 ms is nothing beside 500 ms and too much beside 5, however many slow requests stand beside; or 0."""
    rng = random.Random(2)
    lines = [JTL]
    for i in range(1500):
        at = 1_700_000_000_000 + i * 40
        lines += [f"{at},{5 + rng.randrange(2)},fast,200,OK,true,", f"{at},{i % 20 == 0:d},none,200,OK,true,"]
        lines += [f"{at + j},{500 + rng.randrange(100)},slow,200,OK,true," for j in range(3)]
    one = reduce_run(imported(tmp_path, lines, "a.jtl"))
    carried = {(v.operation, v.metric) for v in one.values}
    assert {("slow", "p50"), ("all operations", "p50"), ("fast", "throughput")} <= carried
    latencies = {"p50", "p90", "p95", "p99", "mean"}
    assert not {(name, metric) for name in ("fast", "none") for metric in latencies} & carried
    assert "fast: latencies are rounded to 1 ms, 18% of the median: not compared" in " ".join(one.notes)


def test_latencies_of_nothing_have_no_logarithm(tmp_path: Path) -> None:
    """An operation that took 0 ms each time, by the tool's word, has a rate and no latency to compare."""
    lines = [JTL]
    for i in range(600):
        at = 1_700_000_000_000 + i * 7
        lines += [
            f"{at},0,zero,{404 if i < 9 else 200},OK,{str(i >= 9).lower()},",
            f"{at},{500 + i},a,200,OK,true,",
        ]
    one = reduce_run(imported(tmp_path, lines))
    assert {v.metric for v in one.values if v.operation == "zero"} == {"throughput", "error_rate"}


# -- how long a run took ---------------------------------------------------------------------------


def test_a_slow_request_does_not_stretch_a_run_of_counts(tmp_path: Path) -> None:
    """100 requests in 10 s are 10 a second, also if one of them took 5 s."""
    history = [HISTORY, "1700000000,5,GET,a,0,0,N/A,N/A,N/A,0,0"]
    history += [f"{1_700_000_000 + i},5,GET,a,9,0,30,40,5000,{i * 10},0" for i in range(1, 11)]
    assert rate(imported(tmp_path, history)) == pytest.approx(10)
    log = import_file(FILES / "hdr_java.hlog", data_dir=tmp_path)
    assert rate(log) == pytest.approx(400)


# -- which rows there are, and why they failed -----------------------------------------------------


def test_an_open_quote_takes_no_line_without_a_word(tmp_path: Path) -> None:
    """A quote in line 7 that is never closed: the line is named, and those it swallowed are counted."""
    row = "{}.123456,{},{:.6f}"
    lines = ["begin,err,took"]
    lines += [row.format(1_700_000_000 + i, '"oops' if i == 5 else "", 5.1 + i / 1e3) for i in range(1000)]
    with pytest.raises(BadInput, match=r"line 7: a quote that is never closed \(and 994 more lines in its"):
        imported(tmp_path, lines, columns=MAPPED)
    run = imported(tmp_path, lines, columns=MAPPED, skip_broken=True)
    assert run.row_count() == 5
    assert "994 more lines inside quotes of broken places" in notes(run)
    lines[11] = row.format(1_700_000_010, '"and more', 5.1)  # closes the quote of line 7, wrongly
    run = imported(tmp_path, lines, columns=MAPPED, skip_broken=True)
    assert (run.row_count(), run.meta.imported.skipped) == (994, 1)
    assert "5 more lines inside quotes" in notes(run)


def test_a_text_of_several_lines_is_one_record(tmp_path: Path) -> None:
    """Quotes that are closed may hold lines; the run says how many, for they may be requests after all."""
    lines = ["begin,err,took", '1700000000.123,"one', "two", 'three",5.1', "1700000001.123,,5.2"]
    run = imported(tmp_path, lines, columns=MAPPED | {"error": "err"})
    assert run.row_count() == 2
    assert "2 lines are inside quotes opened by an earlier line" in notes(run)
    lines[4] = "1700000001.123,,x"
    with pytest.raises(BadInput, match="line 5: "):
        imported(tmp_path, lines, columns=MAPPED)


def test_an_answer_is_not_classed_by_words(tmp_path: Path) -> None:
    """An assertion about the word "timeout" is a check; without an answer, and of transport, words count."""
    words = ("closed", "timeout", "cancelled", "refused")
    lines = [JTL, *(f"1700000000000,10,a,200,OK,false,expected /order {one}/" for one in words)]
    lines += ["1700000000000,10,a,503,timeout,false,", "1700000000000,10,a,42,timeout,false,"]
    lines += ["1700000000000,10,a,Non HTTP response code: x,Read timed out,false,"]
    assert errors(imported(tmp_path, lines)) == {"check": 5, "http_5xx": 1, "timeout": 1}
    assert error_class(200, "unexpected EOF", failed=True, of_transport=True) == "reset"
    log = ["timestamp,request_type,name,response_time_ms,status_code,exception"]
    log += ["1700000000.5,GET,a,5.25,200,CatchResponseError('timeout missing')"]
    log += ["1700000000.5,GET,a,5.25,0,Read timed out"]
    assert errors(imported(tmp_path, log)) == {"check": 1, "timeout": 1}
    mapped = import_columns(
        tmp_path, ["a,b,c,d", "1,2,200,closed account", "1,2,,connection closed"],
        started_s="a", done_s="b", status="c", error="d",
    )  # fmt: skip
    assert errors(mapped) == {"check": 1, "reset": 1}


def test_successes_without_a_latency_are_no_failures(tmp_path: Path) -> None:
    """A Locust history without quantiles has counts only: its successes are left out, or it is refused."""
    for missing in ("N/A", "0"):
        line = f"{{}},5,,Aggregated,0,0,{missing},{missing},{missing},{{}},{{}}"
        with pytest.raises(BadInput, match="has counts but no quantiles, so no request has a latency"):
            imported(tmp_path, [HISTORY, line.format(1_700_000_000, 30, 0)])
        run = imported(
            tmp_path, [HISTORY, line.format(1_700_000_000, 10, 1), line.format(1_700_000_001, 30, 3)]
        )
        assert errors(run) == {"check": 3}
        assert "27 successes are skipped: the history has no quantiles" in notes(run)
    quick = [HISTORY, *(f"{1_700_000_000 + i},5,GET,a,20,0,0,0,0,{i * 20},0" for i in range(5))]
    assert errors(imported(tmp_path, quick)) == {None: 80}  # its window has requests: they took under 0.5 ms


def test_setup_and_teardown_of_k6_are_not_measured(tmp_path: Path) -> None:
    """Requests of k6's setup() and teardown() are rows of those phases, the measured part is without them."""
    lines = []
    for i, group in enumerate(["::setup::login", "", "::setups", "", "::teardown"]):
        tags = {"url": f"http://127.0.0.1/{i}", "method": "GET", "status": "200", "group": group}
        data = {"time": f"2026-11-01T10:00:0{i}.1Z", "value": 50, "tags": tags}
        lines.append(json.dumps({"type": "Point", "metric": "http_req_duration", "data": data}))
    run = imported(tmp_path, lines)
    assert run.table(["phase"])["phase"].to_pylist() == ["setup", "measure", "measure", "measure", "teardown"]
    assert run.meta.measured == Span(10**9, 3_050_000_000)
    assert "2 requests of setup and teardown are in the run but not in its statistics" in notes(run)
    with pytest.raises(BadInput, match="has only requests of setup and teardown"):
        imported(tmp_path, lines[:1])


def test_what_a_cache_answered_is_no_request(tmp_path: Path) -> None:
    """HAR entries that a browser took from its cache are left out, and counted."""
    log = json.loads((FILES / "page.har").read_text())
    for entry in log["log"]["entries"][:2]:
        entry["_fromCache"] = "memory"
    made = tmp_path / "page.har"
    made.write_text(json.dumps(log))
    run = import_file(made, data_dir=tmp_path)
    assert run.row_count() == 19
    assert "left out: 2 responses came from the browser's cache" in notes(run)


def test_users_with_and_without_names_are_different_users(tmp_path: Path) -> None:
    """User 0 and user alice are two; numbers stay, names get those after the highest."""
    users = ["alice", "0", "7", "bob", "007", "99999999999", "alice"]
    lines = ["a,b,u", *(f"1,2,{user}" for user in users)]
    run = import_columns(tmp_path, lines, started_s="a", done_s="b", user="u")
    assert run.table(["seq", "user"]).sort_by("seq")["user"].to_pylist() == [8, 0, 7, 9, 10, 11, 8]


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    """Which of two columns of a name is meant nobody knows; one that is not needed may be there twice."""
    with pytest.raises(BadInput, match="2 columns are called 'b', so it is ambiguous"):
        import_columns(tmp_path, ["a,b,b", "1,2,3"], started_s="a", done_s="b")
    assert import_columns(tmp_path, ["a,b,c,c", "1,2,3,3"], started_s="a", done_s="b").row_count() == 1
    with pytest.raises(BadInput, match="2 columns are called 'elapsed'"):
        imported(tmp_path, ["timeStamp,elapsed,elapsed", "1700000000000,1,2"])


# -- what is left behind ---------------------------------------------------------------------------


def test_a_note_has_an_end(tmp_path: Path) -> None:
    """The longest note of an import is that of `perfkit tag`; blanks alone are none."""
    with pytest.raises(BadInput, match="the note has 4,001 characters; at most 4,000 are allowed"):
        import_file(FILES / "hey.csv", data_dir=tmp_path, note="x" * (LONGEST_NOTE + 1))
    assert list(tmp_path.iterdir()) == []
    assert import_file(FILES / "vegeta.csv", data_dir=tmp_path, note="  ").meta.note == ""


def test_what_a_killed_import_left_goes_with_the_next(tmp_path: Path) -> None:
    """The folder of an import that is on stays; after kill -9 the next import takes it away."""
    code = (
        "import sys; from pathlib import Path; from perfkit.importing.aside import aside\n"
        "with aside(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        (tmp_path / ".importing-empty").mkdir()
        import_file(FILES / "vegeta.csv", data_dir=tmp_path)
        assert len(left := list(tmp_path.glob(".importing-*"))) == 1
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
        assert left[0].exists()
        import_file(FILES / "vegeta.csv", data_dir=tmp_path)
        assert [one.name for one in tmp_path.iterdir()] == ["runs"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.communicate(timeout=10)
