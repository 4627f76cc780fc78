"""Workloads: what is refused, in which words, and that the mapping is one to one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.converting import convert
from perfkit.drive.health import delays, judge, median_response_ms, spared
from perfkit.drive.session import Opening
from perfkit.errors import BadInput
from perfkit.model import Arrivals, Budget, Users, Workload
from perfkit.store.rows import Part
from tests.hand_made import MS, row, write_run


@dataclass
class OwnParams:
    """Parameters of a scenario."""

    wait_s: float = 1.0
    name_s: str = ""
    parts: tuple[Users, ...] = ()


USERS = {"count": 2, "iterations": 5}
STAGE = {"duration_s": "9s", "to": 5}
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown name": ({"usres": USERS}, ["'usres'", "did you mean 'users'"]),
    "unknown inner name": ({"users": {"cuont": 2}}, ["users", "did you mean 'count'"]),
    "unknown name of stopping": ({"stopping": {"max_repeat": 2}}, ["stopping", "did you mean 'max_repeats'"]),
    "far from any name": ({"qqqq": 1}, ["known:", "scenario"]),
    "wrong type": (
        {"users": {"count": "two"}},
        ["users.count: expected a whole number, got a text", "'two'"],
    ),
    "out of range": ({"users": {"count": 0, "iterations": 1}}, ["users.count", "at least 1", "0"]),
    "unknown word": ({"arrivals": {"shape": "rmap"}}, ["arrivals.shape", "did you mean 'ramp'"]),
    "unknown transport": ({"target": {"transport": "htpx"}}, ["did you mean 'httpx'"]),
    "two loads": ({"users": USERS, "arrivals": {}}, ["both users and arrivals"]),
    "never ends": ({"users": {"count": 1}}, ["iterations or duration_s"]),
    "think time of three": ({"users": {**USERS, "think_time_s": [1, 2, 3]}}, ["[low, high]"]),
    "think time upside down": ({"users": {**USERS, "think_time_s": [5, 1]}}, ["[low, high]"]),
    "a name of a section": ({"duration": 3}, ["did you mean users.duration_s or arrivals.duration_s?"]),
    "another tool's name": ({"url": "http://x"}, ["did you mean 'target'?"]),
    "a scenario's name": ({"path": "/"}, ["below params (-p path=…)"]),
    "no unit of time": (
        {"users": {**USERS, "duration_s": "30 sec"}},
        ["users.duration_s", "30s, 2m or 1.5h"],
    ),
    "a time of two": (
        {"users": {**USERS, "think_time_s": ["1s", "x"]}},
        ["users.think_time_s", "'x' is not"],
    ),
    "too long": ({"users": {**USERS, "duration_s": "9000h"}}, ["at most 2,592,000", "32400000"]),
    "no time of a server": ({"server": {"pool_timeout_s": "soon"}}, ["server.pool_timeout_s", "not a time"]),
    "a list for a section": (
        {"users": [1]},
        ["users: expected names with values, such as users: {count: 20"],
    ),
    "stages are a list": (
        {"users": {"stages": STAGE}},
        ["stages is a list, one after the other: stages: [{duration_s: 10s, to: 20}"],
    ),
    "a stage as text": (
        {"users": {"stages": ["10s:5"]}},
        ["users.stages[0]: expected names with values, such as {duration_s: 10s, to: 20}"],
    ),
    "a stage of k6": (
        {"users": {"stages": [{"duration": "10s", "target": 5}]}},
        ["users, stages[0]: 'duration'; did you mean 'duration_s'?"],
    ),
    "half a stage": ({"users": {"stages": [{"duration_s": 5}]}}, ["users.stages[0]: missing required field"]),
    "half a user": ({"users": {"stages": [{**STAGE, "to": 2.5}]}}, ["to: 2.5 is not a number of users"]),
    "stages to nothing": ({"users": {"stages": [{**STAGE, "to": 0}]}}, ["all lead to 0"]),
    "stages and a count": ({"users": {"count": 3, "stages": [STAGE]}}, ["users.count 3: the stages say 5"]),
    "stages and an end": (
        {"users": {"iterations": 3, "stages": [STAGE]}},
        ["users.iterations 3 does not go with stages"],
    ),
    "stages in the warm-up": ({"users": {"stages": [STAGE]}, "warmup_s": 9}, ["warmup_s takes 9 s of them"]),
    "another shape with stages": (
        {"arrivals": {"shape": "spike", "stages": [STAGE]}},
        ["arrivals.shape spike does not go with stages"],
    ),
    "stages for ever": ({"users": {"stages": [{"duration_s": "700h", "to": 5}] * 2}}, ["5040000 s; at most"]),
    "stages and a default, named": (
        {"arrivals": {"rate_per_s": 10, "stages": [STAGE]}},
        ["arrivals.rate_per_s 10.0: the stages say 5"],
    ),
    "stages and one user": ({"users": {"count": 1, "stages": [STAGE]}}, ["users.count 1: the stages say 5"]),
    "a mix with stages": (
        {"scenario": "", "mix": [{"scenario": "x", "arrivals": {"duration_s": 10, "stages": [STAGE]}}]},
        ["mix[0]: arrivals.duration_s 10.0: the stages say 9"],
    ),
    "k6's target": (
        {"users": {"stages": [{"duration_s": "10s", "target": 5}]}},
        ["users, stages[0]: 'target'; the level that a stage leads to is `to`: {duration_s: 10s, to: 20}"],
    ),
    "no stages": ({"arrivals": {"shape": "stages"}}, ["shape stages needs stages: [{duration_s"]),
    "ramp down without end": ({"users": {**USERS, "ramp_down_s": 1}}, ["ramp_down_s needs users.duration_s"]),
    "ramps too long": (
        {"users": {"duration_s": 9, "ramp_s": 6, "ramp_down_s": 4}},
        ["ramp_s 6 and ramp_down_s 4 do not fit in warmup_s 0 and duration_s 9"],
    ),
    "negative seconds": ({"warmup_s": -1}, ["warmup_s", "at least 0"]),
    "a number for thresholds": ({"thresholds": 3}, ["thresholds"]),
}


@pytest.mark.parametrize(("given_", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(given_: dict[str, Any], says: list[str]) -> None:
    """One line that names the place, what was given and what is allowed."""
    with pytest.raises(BadInput) as refused:
        Workload.from_mapping({"scenario": "http_get", **given_}, "x.yaml")
    text = str(refused.value)
    assert "\n" not in text
    assert "x.yaml" in text
    for words in says:
        assert words in text


def test_stages_last_as_long_as_they_are_written() -> None:
    """0.1 s and 0.2 s are 0.3 s, as those of others in a mix, and a warm-up's 0.1 s less are 0.2 s."""
    stages = [{"duration_s": "100ms", "to": 5}, {"duration_s": "200ms", "to": 5}]
    users = {"users": {"stages": stages, "duration_s": "200ms"}}
    other = {"arrivals": {"duration_s": 0.2}}
    mix = [{"scenario": "a", **users}, {"scenario": "b", **other}]
    workload = Workload.from_mapping({"mix": mix, "warmup_s": "100ms"})
    assert [load and load.duration_s for one in workload.mix for load in (one.users or one.arrivals,)] == [
        0.2
    ] * 2
    assert Workload.from_mapping(workload.to_mapping()) == workload


def test_a_time_beside_stages_may_be_their_sum_in_floating_point() -> None:
    """0.1 + 0.2 is 0.30000000000000004: as run.json may have it, which `perfkit cleanup` reads."""
    stages = [{"duration_s": 0.1, "to": 5}, {"duration_s": 0.2, "to": 5}]
    for load in ({"users": {"stages": stages}}, {"arrivals": {"stages": stages}}):
        ((name, own),) = load.items()
        workload = Workload.from_mapping({"scenario": "x", name: {**own, "duration_s": 0.1 + 0.2}})
        assert workload == Workload.from_mapping({"scenario": "x", **load})


def test_times_with_units_are_numbers() -> None:
    """A time may have a unit wherever one is read: it becomes a number of the unit in the key's name."""
    users = {"count": 1, "duration_s": "1m30s", "think_time_s": ["300ms", 1.5]}
    arrivals = {"duration_s": "1.5h", "rate_per_s": 3}
    others = {"warmup_s": "500 ms", "budget": {"delay_ms": "1s"}, "target": {"timeout_s": "2m"}}
    server = {"pool_timeout_s": "2s", "model_speed": 0, "database_url": "sqlite:///5s"}
    given_ = {"scenario": "x", "users": users, **others, "server": server}
    workload = Workload.from_mapping(given_)
    assert workload.users == Users(count=1, duration_s=90.0, think_time_s=(0.3, 1.5))
    assert (workload.warmup_s, workload.budget.delay_ms, workload.target.timeout_s) == (0.5, 1000.0, 120.0)
    assert workload.server == {**server, "pool_timeout_s": 2.0}
    assert Workload.from_mapping({"scenario": "x", "arrivals": arrivals}).arrivals == Arrivals(
        duration_s=5400.0, rate_per_s=3
    )
    assert given_["warmup_s"] == "500 ms", "what was given stays"


def test_times_of_a_scenario_have_units_too() -> None:
    """A scenario's own parameter that ends in _s or _ms takes a unit, unless it is a text."""
    given_ = {"wait_s": "250ms", "name_s": "5s", "parts": [{"duration_s": "2m"}]}
    assert convert(OwnParams, given_, "params") == OwnParams(0.25, "5s", (Users(duration_s=120.0),))
    with pytest.raises(BadInput, match=re.escape("params: parts[0].duration_s: 'x' is not a time")):
        convert(OwnParams, {"parts": [{"duration_s": "x"}]}, "params")


def test_a_target_is_a_url() -> None:
    """`target: URL` is short for `target: {url: URL}`."""
    short = Workload.from_mapping({"scenario": "x", "target": "http://localhost:1"})
    assert short == Workload.from_mapping({"scenario": "x", "target": {"url": "http://localhost:1"}})


def test_a_workload_needs_a_scenario() -> None:
    """No scenario: refused by name."""
    with pytest.raises(BadInput, match="scenario"):
        Workload.from_mapping({"users": USERS})


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 1000),
    think=st.one_of(st.floats(0, 10), st.lists(st.floats(0, 10), min_size=2, max_size=2).map(sorted)),
    warmup=st.one_of(st.just(0.0), st.floats(0.001, 100)),
    tags=st.lists(st.text("abcé-_:0", min_size=1, max_size=5), max_size=3),
)
def test_mapping_and_back(seed: int, count: int, think: Any, warmup: float, tags: list[str]) -> None:
    """from_mapping and to_mapping are inverse: a YAML maps to a workload one to one."""
    users = {"count": count, "duration_s": 3.0, "think_time_s": think}
    given_ = {"scenario": "x", "users": users, "seed": seed, "warmup_s": warmup, "tags": tags}
    workload = Workload.from_mapping(given_)
    plain = workload.to_mapping()
    assert Workload.from_mapping(plain) == workload
    assert plain["users"]["count"] == count
    assert plain["target"]["timeout_s"] == 60.0
    assert plain["arrivals"] is None


def part_of(folder: Path, rows: list[tuple[Any, ...]]) -> Part:
    """A run of (planned, started, sent, done in ms, seq, attempt, error), of one worker."""
    names = ("planned", "started", "sent", "done")
    made = [
        row(0, 0)
        | {name: None if ms is None else ms * MS for name, ms in zip(names, given, strict=False)}
        | dict(zip(("seq", "attempt", "error"), given[4:], strict=True))
        for given in rows
    ]
    return Part(write_run(folder, f"20260101-000000-late-{len(rows):04d}", made))


def test_whose_delay_it_was(tmp_path: Path) -> None:
    """Kick-off is a step's first request's; the queue is waiting here, not opening a connection elsewhere."""
    rows = [
        (0, 1, 2, 9, 0, 1, None),  # kick-off 1 ms, queue 1 ms
        (0, 60, 61, 70, 0, 2, None),  # a retry has waited for the server
        (10, 10, 11, 19, 1, 1, None),  # a later request of the step is planned when it starts
        (20, 21, 52, 60, 2, 1, None),  # 30 of 31 ms went into opening a connection
        (30, 31, None, 5031, 3, 1, "timeout"),  # in our own line to its end
        (40, 41, None, 941, 4, 1, "connect"),  # nobody listened
    ]
    opening = Opening(1)
    opening.add(2, 30_000_000)
    seen = delays(part_of(tmp_path, rows), [opening], 1)[0]
    assert seen["rows"] == 6
    assert seen["kickoff_p99_ms"] == pytest.approx(1)
    assert seen["client_queue_p99_ms"] > 4000
    fewer = part_of(tmp_path, rows[:4])
    assert delays(fewer, [opening], 1)[0]["client_queue_p99_ms"] == pytest.approx(1)
    assert delays(fewer, [], 1)[0]["client_queue_p99_ms"] > 30
    assert median_response_ms(fewer) == pytest.approx((9 + 40) / 2)


def test_openings_are_kept_of_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that closes after each answer: of one request in so many it is known, evenly."""
    monkeypatch.setattr(Opening, "MOST", 100)
    opening = Opening(3)
    for number in range(1000):
        opening.add(2 + 3 * number, number)
    assert (opening.every, len(opening.ns)) == (16, 63)
    assert [seq // 3 % 16 for seq in opening.ns] == [0] * 63


def test_health_is_judged_against_the_response() -> None:
    """A delay may be 10 ms, or a tenth of the median response if that is more; each excess is a reason."""
    worker = {"worker": 0, "rows": 9, "kickoff_p99_ms": 30.0, "cpu_share": 0.5, "loop_lag_p99_ms": 1.0,
              "client_queue_p99_ms": None, "gc_pause_max_ms": 0.0}  # fmt: skip
    (reason,) = judge([worker], 50.0, Budget())
    assert "kick-off delay p99 30.0 ms, budget 10.0 ms (worker 0)" in reason
    assert judge([worker], 500.0, Budget()) == []
    assert len(judge([worker | {"cpu_share": 0.95}], 50.0, Budget())) == 2
    assert judge([worker | {"rows": 0}], None, Budget()) == ["no request was measured"]


def test_few_samples_are_judged_by_their_median() -> None:
    """A p99 of fewer than 100 is that of one of them: the median is judged, and a note says so."""
    worker = {"worker": 0, "rows": 3, "kickoff_p50_ms": 0.1, "kickoff_p99_ms": 0.2, "kickoff_n": 3,
              "client_queue_p50_ms": 0.1, "client_queue_p99_ms": 0.2, "client_queue_n": 3,
              "loop_lag_p50_ms": 1.0, "loop_lag_p99_ms": 13.8, "loop_lag_n": 99, "cpu_share": 0.9,
              "gc_pause_max_ms": 0.0, "held_at": ""}  # fmt: skip
    assert judge([worker], 50.0, Budget()) == []
    (note,) = spared([worker], 50.0, Budget())
    assert note.startswith(
        "the lag of perfkit's event loop was up to 13.8 ms (budget 10.0 ms), but 99 samples"
    )
    assert spared([worker], 500.0, Budget()) == []
    (note,) = spared([worker | {"loop_lag_p99_ms": 32_000.0, "held_at": "mine.py:2"}], 50.0, Budget())
    assert note.endswith(" was up to 32000.0 ms (budget 10.0 ms), it stood still at mine.py:2")
    (reason,) = judge([worker | {"loop_lag_p50_ms": 12.0}], 50.0, Budget())
    assert "its event loop lagged 12.0 ms at p50 of 99 samples, budget 10.0 ms (worker 0)" in reason
    enough = worker | {"loop_lag_n": 100}
    (reason,) = judge([enough], 50.0, Budget())
    assert (
        "its event loop lagged 13.8 ms at p99, budget 10.0 ms (worker 0); free some CPU, use more" in reason
    )
    assert spared([enough], 50.0, Budget()) == []
    (reason,) = judge([enough], 50.0, Budget(), cores=0)
    assert reason.endswith("; free some CPU, or raise budget.delay_ms")


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (
            {"loop_lag_p99_ms": 700.0, "cpu_share": 0.1},
            "; a step probably blocks it (time.sleep, a synchronous",
        ),
        (
            {"loop_lag_p99_ms": 30.0, "cpu_share": 0.1, "held_at": "p.py:3"},
            "; a step blocks it at p.py:3 (time",
        ),
        (
            {"loop_lag_p99_ms": 700.0, "cpu_share": 0.8, "held_at": "p.py:3"},
            "; steps hold it at p.py:3; free",
        ),
        ({"loop_lag_p99_ms": 700.0, "cpu_share": 0.8}, "; free some CPU"),
        ({"loop_lag_p99_ms": 30.0, "cpu_share": 0.1}, "; free some CPU"),
    ],
)
def test_a_loop_that_is_blocked_is_told_from_one_that_is_busy(seen: dict[str, Any], says: str) -> None:
    """It lags far beyond what the CPU it used explains, or was seen to be held in the scenario's own code."""
    worker = {"worker": 0, "rows": 9, "gc_pause_max_ms": 0.0, "loop_lag_n": 100, **seen}
    (reason,) = judge([worker], 1.0, Budget())
    assert says in reason
