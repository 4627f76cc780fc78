"""Every how-to of docs/scenarios.md runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfkit import safe_yaml
from perfkit.drive.running import checked
from perfkit.drive.spread import execute
from perfkit.store import Run
from tests.shard_threads import Threads
from tests.small_server import SmallServer, small_server

TEXT = (Path(__file__).parents[1] / "docs" / "scenarios.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as one:
        yield one


RUNNABLE = [title for title, text in SECTIONS.items() if "```" in text]


RUNNABLE = [title for title, text in SECTIONS.items() if "```" in text]


def blocks(title: str) -> dict[str, str]:
    """The fenced blocks of a section by language."""
    return dict(re.findall(r"```(\w+)\n(.*?)```", SECTIONS[title], re.S))


def run(server: SmallServer, folder: Path, title: str, **changes: Any) -> Run:
    """The how-to as a run; what it does not show is a scenario of one GET, under two users and ten steps."""
    shown = blocks(title)
    (folder / "mine.py").write_text(
        shown.get("python", "async def step(session, state, rng):\n    await session.get('/')\n")
    )
    (folder / "users.csv").write_text(shown.get("csv", ""))
    given: dict[str, Any] = {"scenario": str(folder / "mine.py"), "target": {}}
    given |= safe_yaml.load(shown.get("yaml", "users: {count: 2, iterations: 10}"))
    given |= changes
    if "mix" in given:
        del given["scenario"]
    given["target"] |= {"url": server.url}
    server.heads.clear()
    work = checked(given, "guide", ())
    done = execute(
        work.workload, work.scenario, work.params,
        data_dir=folder, tokens=work.tokens, launcher=Threads(),
    )  # fmt: skip
    assert done.state == "complete"
    assert not done.meta.step_errors
    return done


@pytest.mark.parametrize("title", RUNNABLE)
def test_every_how_to_runs(server: SmallServer, tmp_path: Path, title: str) -> None:
    """No step raises, no request fails."""
    rows = run(server, tmp_path, title).table(["error"]).to_pandas()
    assert len(rows) >= 10
    assert rows["error"].isna().all()
