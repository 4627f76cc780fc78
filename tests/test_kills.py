"""kill -9 of a run's coordinator at any moment: nothing goes on, and at most the last second is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kill_runs import Lateness, Logged, Victim, kill_run, logging_server, moments


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with logging_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def check(server: Logged, data: Path, moment: str, wait: Callable[[Victim, Path], None]) -> None:
    """Kill a run, and compare what is left with what is promised."""
    with Lateness() as lateness:
        left = kill_run(server, data, moment, wait)
    assert not left.processes, left
    assert left.last_request_s < 1.0 + 5 * lateness.worst_s, left
    assert not left.missing, left
    assert left.state in ("aborted", "no run"), left


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("moment", "wait"), list(moments(12, seed=13)), ids=lambda given: str(given)[:30])
def test_nothing_of_a_killed_run_goes_on(
    server: Logged, tmp_path: Path, moment: str, wait: Callable[[Victim, Path], None]
) -> None:
    """Two workers, killed in the first moments, around the birth of the workers, and under load: all of it
    ends, nothing is sent after a second, and the run reads as aborted with all rows but the last second's."""
    check(server, tmp_path, moment, wait)
