"""`session.group`: from a scenario's step to the rows, the frames and the report's box plot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from perfkit import figures, frames
from perfkit.drive.rows import MOST_GROUPS
from perfkit.drive.running import checked, run_repeats
from perfkit.redaction import Redactor
from perfkit.store.writing import RunFolder, write_segment
from tests.fault_server import FaultServer, fault_server
from tests.hand_made import MS, S, hand_made, row, write_run
from tests.test_session import Rows, play


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """The fault server, without TLS."""
    with fault_server() as one:
        yield one


def test_a_row_has_the_group_its_request_began_in(server: FaultServer) -> None:
    """Each request keeps the group that was set when it began, also beside others of its session, at a retry
    and behind a redirect; none before one is set and after it is taken away."""

    async def work(rows: Rows) -> None:
        session = rows.session
        await session.get("/ok", name="before")
        session.group = "account-1"
        under_way = asyncio.create_task(session.get("/slow/50", name="slow"))
        await asyncio.sleep(0)
        session.group = "account-2"
        await session.get("/ok", name="second")
        await session.get("/status/503", name="again")
        await session.get("/redirect/302/relative", name="led")
        session.group = None
        await session.get("/ok", name="after")
        await under_way
        seen = [(one["operation"], one["attempt"], one["group"]) for one in rows.take()]
        assert sorted(seen, key=lambda one: one[:2]) == [
            ("after", 1, None),
            ("again", 1, "account-2"),
            ("again", 2, "account-2"),
            ("before", 1, None),
            ("led", 1, "account-2"),
            ("led (redirect)", 1, "account-2"),
            ("second", 1, "account-2"),
            ("slow", 1, "account-1"),
        ]
        await session.get("/ok")
        assert "group" not in rows.take()[0], "rows without a group have no such column"

    play(server.url, work, retries=1, follow_redirects=True)


def test_a_group_holds_no_secret_and_groups_come_to_an_end(server: FaultServer) -> None:
    """Secrets of the run and of the request are removed from a group's text; it is kept short; after a
    thousand groups all others are one; what is no text is an error of the scenario, and sends nothing."""

    async def work(rows: Rows) -> None:
        session, recorder = rows.session, rows.recorder
        session.headers = {"x-api-key": "my-own-key-1"}
        for group in ("of hunter2-hunter2", "of my-own-key-1", "x" * 500, "lone \ud800"):
            session.group = group
            await session.get("/ok")
        assert [one["group"] for one in rows.take()] == ["of ***", "of ***", "x" * 200, "lone ?"]
        begun = recorder.in_flight()
        session.group = 3  # type: ignore[assignment]
        with pytest.raises(TypeError, match=r"session\.group is a text or None, not int"):
            await session.get("/ok")
        assert (rows.take(), recorder.in_flight()) == ([], begun)
        for i in range(MOST_GROUPS):
            session.group = f"many-{i}"
            await session.get("/ok")
        groups = [one["group"] for one in rows.take()]
        assert groups[:2] == ["many-0", "many-1"]
        assert set(groups[MOST_GROUPS - 4 :]) == {"(other groups)"}
        session.group = "many-7"
        await session.get("/ok")
        assert rows.take()[0]["group"] == "many-7"

    play(server.url, work, {"redact": Redactor(("hunter2-hunter2",))})


SCENARIO = """
async def step(session, state, rng):
    if session.iteration % 5:
        session.group = f"account-{session.iteration % 5}"
    else:
        session.group = None
    await session.get("/ok", name="get")
"""


def test_a_run_keeps_the_groups_of_its_scenario(server: FaultServer, tmp_path: Path) -> None:
    """From a scenario's file by a worker of its own to the timeline and to pandas."""
    (tmp_path / "grouped.py").write_text(SCENARIO)
    workload = {"scenario": str(tmp_path / "grouped.py"), "target": {"url": server.url}}
    workload |= {"users": {"count": 4, "iterations": 40}}
    (run,) = run_repeats(checked(workload, "test", ()), tmp_path, show_progress=False)
    order = sorted(run.table(["step", "group"]).to_pylist(), key=lambda one: one["step"])
    wanted = [f"account-{step % 5}" if step % 5 else None for step in range(40)]
    assert [one["group"] for one in order] == wanted
    assert frames.timeline(run)["group"].value_counts().to_dict() == {f"account-{i}": 8 for i in range(1, 5)}
    assert frames.user_column(frames.measured(run)) == "group"


def test_segments_with_and_without_groups_are_one_timeline(tmp_path: Path) -> None:
    """A worker may send its first request of a group late: earlier rows are null, in segments and merged."""
    folder = RunFolder.create(tmp_path, "made")
    folder.write_meta({"state": "running", "schema": 2})
    made = [
        write_run(tmp_path, f"made-{i}", [row(i * MS, MS, **more)])
        for i, more in enumerate(({}, {"group": "a"}))
    ]
    for i, run in enumerate(made):
        table = run.table()
        write_segment(folder.path, f"w0-{i:06}", table if i else table.drop_columns(["group"]))
    run = type(made[0])(folder.path)
    for merge in (False, True):
        if merge:
            folder.merge()
        assert (
            sorted(run.table(["group"])["group"].to_pylist(), key=str)
            == [None, "a"][:: 1 if "None" < "a" else -1]
        )
        assert frames.measured(run).row('SELECT count("group") AS n FROM part')["n"] == 1
    folder.close()


def test_boxes_by_group_are_numpys(tmp_path: Path) -> None:
    """A box for each group of the measured part, its numbers those of its successes to 0.3 %; rows without a
    group are in none; the figure and its alt text name the groups."""
    rows = [row(10 * S + i * MS, (1 + i % 7) * 10 * MS + i * 1000) for i in range(700)]
    for i, one in enumerate(rows):
        one["group"] = f"account {i % 7}" if i < 630 else None
        if i % 70 == 0:
            one |= {"error": "http_5xx", "status": 500}
    part = frames.measured(write_run(tmp_path, "grouped", rows))
    frame = frames.boxes(part, by="group")
    assert frame["group"].tolist() == [f"account {i}" for i in range(6, -1, -1)]
    for box in frame.to_dict("records"):
        mine = [one for one in rows if one["group"] == box["group"] and one["error"] is None]
        x = np.array([(one["done"] - one["planned"]) / 1e6 for one in mine])
        assert box["n"] == len(x)
        found = [box[name] for name in ("min", "p5", "p25", "p50", "p75", "p95", "max")]
        np.testing.assert_allclose(found, np.quantile(x, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]), rtol=0.003)
    assert frames.user_column(part) == "group"
    alt, caption = figures.words(figures.boxes(frame))
    assert "Box plot of latency by group" in alt
    assert "account 6" in alt
    assert "quantiles to 0.3 %" in caption


def test_a_run_without_groups_is_shown_by_virtual_user(tmp_path: Path) -> None:
    """Files of before have no such column: they are read, drawn by virtual user in a closed loop, of which
    arrivals have none to tell apart, and asked for their groups say so."""
    users = {"scenario": "hand_made", "users": {"count": 4, "duration_s": 10}}
    run = hand_made(tmp_path, "old", workload=users)
    table = pq.read_table(run.files()[0])
    pq.write_table(table.drop_columns(["group"]), run.files()[0])
    part = frames.measured(run)
    assert frames.user_column(part) == "user"
    arrivals = frames.measured(hand_made(tmp_path, "arrivals"))
    assert frames.boxes(arrivals, by=frames.user_column(arrivals)).empty
    assert run.table(["group"])["group"].null_count == run.row_count()
    empty = frames.boxes(part, by="group")
    assert empty.empty
    assert "session.group" in figures.words(figures.boxes(empty))[0]
