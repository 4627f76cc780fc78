"""What `run` prints at its end: a screenful, in which a number says what it counts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import started
from tests.small_server import SmallServer, small_server

WIDE = ("-s", "budget.delay_ms=10s", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=1m", "-q")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One run, whatever the machine is busy with."""
    return started("run", *arguments, *WIDE, PERFKIT_DATA_DIR=str(folder))


def test_at_most_three_notes(server: SmallServer, tmp_path: Path) -> None:
    """The verdict stays on the screen: `run` prints the three most important notes, `show` all of them."""
    calls = "\n".join(f"    await session.get('/', name='op{i}')" for i in range(6))
    (tmp_path / "mine.py").write_text(f"async def step(session, state, rng):\n{calls}\n")
    done = run(
        tmp_path, str(tmp_path / "mine.py"), "--target", server.url, "--users", "3", "--requests", "60"
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    notes = [line for line in lines if line.startswith("note: ")]
    (more,) = [line for line in lines if " more notes: perfkit show " in line]
    assert len(notes) == 3
    shown = started(*more.partition(": perfkit ")[2].split(), PERFKIT_DATA_DIR=str(tmp_path)).stdout
    every = [line.strip() for line in shown.splitlines() if line.strip().startswith("note: ")]
    assert every[:3] == notes
    few = ["too few" in line or "rests on" in line for line in every]
    assert few == sorted(few), "what the — in the table says already comes last"
    assert len(every) == 3 + int(more.split()[0])
    assert "more notes" not in shown


def test_answers_after_the_measured_part(server: SmallServer, tmp_path: Path) -> None:
    """A rate of 0.0/s beside requests that all succeeded says why; without late answers nothing is said."""
    done = run(tmp_path, f"{server.url}/slow/900", "--users", "3", "--duration", "300ms")
    assert "n 3, failed 0, 0.0/s" in done.stdout
    late = "note: 3 of 3 successes ended after the measured part of 0.3 s: the rate per second (/s) does not"
    assert late in done.stdout
    assert "; /s: successes that ended in it" in done.stdout or "none of" in done.stdout
    done = run(tmp_path, f"{server.url}/", "--users", "1", "--requests", "50")
    assert "ended after" not in done.stdout


def test_what_failed_is_said_once(tmp_path: Path) -> None:
    """Every request of one operation failed: the verdict says so, `show` has the finding as well."""
    done = run(tmp_path, "http://127.0.0.1:9/x", "--users", "1", "--requests", "5")
    assert done.returncode == 3
    assert "every request failed (5 of 5), most often connect of GET /x" in done.stdout
    assert "finding: " not in done.stdout
    shown = started("show", PERFKIT_DATA_DIR=str(tmp_path)).stdout
    assert "finding: Every request of GET /x failed (5 of 5)" in shown


def test_steps_that_raise_in_part_are_in_the_first_line(server: SmallServer, tmp_path: Path) -> None:
    """No error rate counts them: a valid run says how many there were and what the most frequent one was."""
    fails = "    if session.iteration % 5 == 1:\n        await session.get('/status/500')\n"
    raises = "    if session.iteration % 10 == 0:\n        raise ValueError('oops')\n"
    for more, told in (("", ""), (fails, "16.7 % of its requests failed and ")):
        step = f"async def step(session, state, rng):\n    await session.get('/')\n{more}{raises}"
        (tmp_path / "some.py").write_text(step)
        done = run(
            tmp_path, str(tmp_path / "some.py"), "--target", server.url, "--users", "1", "--requests", "50"
        )
        assert done.returncode == 0, done.stderr
        place = step.splitlines().index("        raise ValueError('oops')") + 1
        words = f"complete, valid, but {told}10 % of its steps raised (ValueError: oops (some.py:{place}))"
        assert done.stdout.splitlines()[0].endswith(words)
