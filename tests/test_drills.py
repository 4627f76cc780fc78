"""A seeded sample of the drills, and the oracle itself; `make drills` carries all of them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.drills import hostile
from tests.drills.behaviours import behaviours
from tests.drills.endings import end_runs
from tests.drills.fuzz import Bench, fuzz
from tests.drills.kills import VERBS, kill_all
from tests.drills.oracle import Outcome, check, harmed, snapshot
from tests.small_server import small_server

#: Another than that of `make drills`, so that both see different cases.
SEED = 2


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with small_server() as there, Bench(jobs=2, url=there.url) as made:
        yield made


@pytest.mark.parametrize(
    ("corpus", "cases"), [("yaml", 40), ("run", 1), ("json", 2), ("parquet", 2), ("import", 20)]
)
def test_no_input_breaks_a_verb(bench: Bench, corpus: str, cases: int) -> None:
    """Whatever a file holds: documented exit codes, a line of words, nothing else harmed, nothing left."""
    result = fuzz(bench, corpus, SEED, range(cases))
    assert not result.findings, "\n".join(map(str, result.findings))
    assert result.cases == cases


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("corpus", "case"), [("json", 212), ("import", 250), *(("parquet", case) for case in (4, 14, 61, 132))]
)
def test_what_make_drills_has_found_stays_mended(bench: Bench, corpus: str, case: int) -> None:
    """A noise file without metrics; a generator without a delay; rows that break while they are coded, a
    footer that ends a library, a forced side that failed altogether, response times below zero."""
    assert not fuzz(bench, corpus, 13, [case]).findings


@pytest.mark.sampled(3)
@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.slow])
def test_a_verb_killed_anywhere_loses_nothing(bench: Bench, verb: str) -> None:
    """Every run is there before and after as a whole; the verb can be done again; prune leaves no remains."""
    result = kill_all(bench, [verb], most=4)
    assert not result.findings, "\n".join(map(str, result.findings))
    assert result.cases


# -- the oracle finds what it is there to find ------------------------------------------------------


def carry_out(bench: Bench, steps: list[dict[str, Any]], folder: Path) -> list[Outcome]:
    """Steps in a child; what they leave running is not waited for."""
    return next(bench.map(lambda server, _: server.carry_out(steps, folder, patience_s=0.2), [None]))


BAD = {
    "raise KeyError('x')": "traceback: KeyError: 'x'",
    "raise SystemExit(77)": "exit code 77 is documented nowhere",
    "raise SystemExit(2)": "exit code 2 without a word",
    "print('red \\x1b[31m')": "raw control character '\\x1b' in its output",
    "print('\\u202e', file=sys.stderr)": "raw control character '\\u202e' in its errors",
    "print('one\\ntwo', file=sys.stderr); raise SystemExit(1)": "2 lines of errors with exit code 1",
    "print('x' * 3000, file=sys.stderr)": "a line of errors is 3,000 characters long",
    "import warnings; warnings.warn('old')": "a warning:",
    "import os; os.kill(os.getpid(), 9)": "ended from outside: signal 9",
    "while True: pass": "ended from outside: signal 27",  # SIGPROF
    "memoryview(bytearray(b'x') * 1_200_000_000)": "MB of memory",
    "import subprocess; subprocess.Popen(['sleep', '60'])": "ended from outside: left 1 process",
}


@pytest.mark.parametrize("code", BAD)
def test_what_no_step_may_do_is_found(bench: Bench, tmp_path: Path, code: str) -> None:
    """Each rule of the oracle, broken by a child that really does it."""
    step = {
        "call": "builtins:exec",
        "arguments": [f"import sys\n{code}"],
        "cpu_s": 0.5 if "while" in code else 20,
    }
    outcomes = carry_out(bench, [step], tmp_path)
    faults = [fault for one in outcomes for fault in check(one)]
    assert any(BAD[code] in fault for fault in faults), (outcomes, faults)


def test_what_is_allowed_is_not_found(bench: Bench, tmp_path: Path) -> None:
    """A verb that refuses in a line, one that prints JSON, and what follows in the same child."""
    lines = (["show", "none"], ["ls", "--json"], ["nonsense"])
    steps = [{"argv": [*line, "--data-dir", "data"]} for line in lines]
    outcomes = carry_out(bench, steps, tmp_path)
    assert [one.code for one in outcomes] == [2, 0, 2]
    assert [list(check(one)) for one in outcomes] == [[], [], []]


def test_a_changed_and_a_removed_file_are_harm(tmp_path: Path) -> None:
    """What is new or left out by name is none."""
    for name in ("same", "changed", "removed", "victim"):
        (tmp_path / name).write_text(name)
    before = snapshot(tmp_path, ["victim"])
    (tmp_path / "changed").write_text("other")
    for name in ("removed", "victim"):
        (tmp_path / name).unlink()
    (tmp_path / "new").touch()
    assert harmed(before, snapshot(tmp_path, ["victim"])) == ["changed was changed", "removed was removed"]


def test_a_case_is_the_same_every_time(bench: Bench) -> None:
    """Corpus, seed and number make the case; nothing else does."""
    twice = [fuzz(bench, "json", 5, [3]) for _ in range(2)]
    assert twice[0].findings == twice[1].findings
    assert (twice[0].steps, twice[0].refused) == (twice[1].steps, twice[1].refused)


# -- hostile servers, and runs ended from outside ---------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", hostile.WAYS)
def test_a_hostile_server_gets_a_row_for_each_request(tmp_path: Path, way: str) -> None:
    """Each of 360 behaviours once: rows are requests, each of the right class, the run ends, and no request
    gets the answer to another one."""
    assert len(behaviours()) >= 200
    assert not hostile.meet(way, tmp_path)


def test_an_ended_run_can_be_read(bench: Bench) -> None:
    """Two ways to end a run: no process is left, no row older than a second lost, all verbs read it."""
    result = end_runs(bench, 2, SEED)
    assert not result.findings, "\n".join(map(str, result.findings))
