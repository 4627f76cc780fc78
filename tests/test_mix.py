"""Several scenarios in one run: rows of each, numbers that are there once, one report; what is no mix."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from perfkit.compare.configuration import differences, refuse_unknown
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.model import Workload
from perfkit.store import Run, thresholds
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from tests.fault_server import FaultServer, fault_server

SCENARIO = """
from dataclasses import dataclass

@dataclass
class Params:
    path: str = "/ok"

async def setup(session, params):
    await session.get("/count", name="prepare")
    session.on_teardown("DELETE", params.path)
    return params

async def step(session, params, rng):
    session.group = f"group of {params.path}"
    assert session.user < 45 and -200 < session.iteration < 9999  # as alone: 40 arrivals are planned
    await session.get(params.path, name="call")
    await session.get(f"/ok?{session.iteration}-{rng.random()}", name=f"own {params.path}")

async def teardown(session, params):
    await session.get("/count", name="inspect")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as one:
        yield one


def mix(folder: Path, url: str, **changes: Any) -> dict[str, Any]:
    """Two users of one scenario beside arrivals of the same with another path."""
    (folder / "mine.py").write_text(SCENARIO)
    users = {"count": 2, "duration_s": 0.6, "think_time_s": 0.02}
    arrivals = {"rate_per_s": 50, "duration_s": 0.6}
    return {
        "mix": [
            {"scenario": str(folder / "mine.py"), "users": users},
            {"scenario": str(folder / "mine.py"), "name": "slow", "params": {"path": "/slow/3"},
             "arrivals": arrivals},
        ],
        "target": {"url": url}, "warmup_s": 0.2, "processes": 2,
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def run(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("mix")
    return execute(*complete(mix(folder, server.url), "test"), data_dir=folder)


@pytest.fixture(scope="module")
def rows(run: Run) -> pd.DataFrame:
    return run.table().to_pandas()


def test_each_scenario_has_its_rows(run: Run, rows: pd.DataFrame) -> None:
    """Setup, load and teardown of both are there, under their names; nothing went wrong."""
    assert run.state == "complete"
    assert not run.meta.step_errors
    assert rows["error"].isna().all()
    counts = rows.groupby(["scenario", "phase"], observed=True).size()
    for name in ("mine", "slow"):
        assert counts[name, "setup"] == 1
        assert counts[name, "measure"] > 2
        assert counts[name, "warmup"] > 2
    assert counts.unstack()["teardown"].sum() == 4  # two of teardown, two removed
    assert set(rows.loc[rows["scenario"] == "slow", "operation"]) >= {
        "slow/call",
        "slow/own /slow/3",
        "slow/prepare",
    }
    load = rows[rows["phase"].isin(["warmup", "measure"])]
    groups = load.groupby("scenario", observed=True)["group"].unique().map(list).to_dict()
    assert groups == {"mine": ["group of /ok"], "slow": ["group of /slow/3"]}
    slow = rows.query("scenario == 'slow' and phase == 'measure' and operation == 'slow/call'")
    assert len(slow) == 30  # as alone


def test_numbers_are_there_once(rows: pd.DataFrame) -> None:
    """seq, and with it request_id, is of one request; a step and a user are of one scenario; a user alone
    and a step alone count from 0."""
    assert rows["seq"].is_unique
    assert rows["request_id"].is_unique
    load = rows[rows["phase"].isin(["warmup", "measure", "drain"])]
    for number in ("step", "user"):
        assert (load.groupby(number)["scenario"].nunique() == 1).all()
    assert set(load.loc[load["scenario"] == "mine", "user"]) == {0, 2}
    assert (load.groupby("step")["operation"].count() == 2).all()
    assert set(rows["worker"]) == {0, 1, 2}


def test_it_is_one_report(run: Run) -> None:
    """Operations of one name stay apart, in tables and thresholds; run.json says what the load was."""
    by_name = {row["operation"]: row["n"] for row in summarize(Part(run))}
    assert {"mine/call", "mine/own /ok", "slow/call", "slow/own /slow/3"} <= set(by_name)
    assert by_name["slow/call"] == 30
    assert thresholds.parse("p50(slow/call) > 2 ms").evaluate(Part(run)).ok
    assert run.meta.scenario.name == "mine+slow"
    assert run.meta.scenario.params == {"mine": {"path": "/ok"}, "slow": {"path": "/slow/3"}}
    assert run.meta.load_words == (
        "mix: mine, closed model: 2 users, 0.6 s; slow, open model: constant, 50/s, 0.6 s"
    ).replace("mine,", f"{run.meta.mix[0].scenario},")
    measured = run.meta.measured
    assert measured.from_ns is not None
    assert measured.to_ns == measured.from_ns + 600_000_000
    assert Workload.from_mapping(run.meta.workload).mix[1].name == "slow"


def test_compare_refuses_another_mix(run: Run) -> None:
    """A mix is comparable with itself only, unless --vary names what may differ."""
    raw = copy.deepcopy(dict(run.meta.raw))
    raw["workload"]["mix"][1]["arrivals"]["rate_per_s"] = 60
    other = Run(run.path)
    other.__dict__["meta"] = type(run.meta).of(raw)
    assert differences([run, Run(run.path)]) == []
    assert differences([run, other]) == ["different mix.slow.arrivals.rate_per_s: 50.0 and 60"]
    assert differences([run, other], ["mix.slow"]) == []
    refuse_unknown(["mix", "mix.slow.users"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenario": "http_get"}, "scenario, params, users and arrivals are given in each entry of mix"),
        ({"users": {"iterations": 3}}, "are given in each entry of mix"),
        ({"mix": []}, "scenario is missing; name one, or several in mix"),
        ({"mix": [{"scenario": "http_get"}]}, "each entry of mix needs users or arrivals"),
        (
            {"mix": [{"scenario": "http_get", "users": {"count": 2, "duration_s": 9}}] * 2},
            "mix[1]: http_get is the name of an",
        ),
        ({"mix": [{"scenario": "http_get", "users": {"iterations": 9, "duration_s": 1}}]}, "no iterations"),
        (
            {"mix": [{"scenario": "http_get", "name": "a b", "arrivals": {}}]},
            "name 'a b': use 1 to 40 letters",
        ),
        ({"mix": [{"scenario": "http_get", "urers": {}}]}, "mix[0]: 'urers'"),
        ({"mix": [{"scenario": "http_get", "arrivals": {"shape": "cube"}}]}, "'cube'"),
        ({"mix": [{"scenario": "htp_get", "arrivals": {}}]}, "did you mean 'http_get'"),
        ({"mix": [{"scenario": "http_get", "params": {"pth": 1}, "arrivals": {}}]}, "did you mean 'path'"),
        ({"mix": [{"scenario": "http_get", "users": {"duration_s": 3}}]}, "processes 2 for users.count 1"),
        (
            {"mix": [{"scenario": "http_get", "arrivals": {"duration_s": one}} for one in (1, 2)]},
            "with the same duration_s for all",
        ),
    ],
)
def test_what_is_no_mix_is_bad_input(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """One line names the entry, what is wrong and what is allowed."""
    with pytest.raises(BadInput) as caught:
        complete(mix(tmp_path, "http://127.0.0.1:9", **changes), "test")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
