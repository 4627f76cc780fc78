"""The engine on a virtual clock: exact instants, hours in seconds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perfkit.drive.load import Drive
from perfkit.drive.rows import to_table
from perfkit.drive.scenario import Scenario
from perfkit.drive.schedule import plan
from perfkit.drive.session import Recorder, Session
from perfkit.drive.steps import StepRandom
from perfkit.errors import RequestFailed
from perfkit.model import Arrivals, Target, Workload
from tests.virtual_clock import FakeTransport, VirtualLoop, run_virtually

Step = Callable[[Session, Any, Any], Any]
SECOND = 10**9


async def one_get(session: Session, state: Any, rng: Any) -> None:
    """The simplest step."""
    await session.get("/", name="get")


def drive(
    step: Step = one_get,
    *,
    transport: FakeTransport | None = None,
    shards: int = 1,
    stop_after_s: float | None = None,
    prepare: Callable[[Drive], None] = lambda engine: None,
    **load: Any,
) -> tuple[pd.DataFrame, list[Drive]]:
    """Drive a step on a virtual clock from second 1; rows of all shards, instants in ns from the start."""
    module = ModuleType("made")
    module.step = step  # type: ignore[attr-defined]
    workload = Workload.from_mapping({"scenario": "made", **load})
    used = transport or FakeTransport()

    async def work(i: int) -> tuple[pd.DataFrame, Drive]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        recorder = Recorder(used, loop.time_ns, Target(), first_seq=i, seq_stride=shards, seed=workload.seed)
        scenario = Scenario("made", "made", module)
        one = Drive(scenario, None, workload, recorder, start_ns=SECOND, index=i, count=shards)
        prepare(one)
        if stop_after_s is not None:
            loop.call_later(1 + stop_after_s, one.stop)
        await one.run()
        rows = to_table(recorder.buffer.take(), scenario="made", worker=i, id_prefix="x-", origin_ns=SECOND)
        return rows.to_pandas(), one

    tables, drives = zip(*(run_virtually(work(i)) for i in range(shards)), strict=True)  # a loop each
    return pd.concat(tables, ignore_index=True), list(drives)


def told(engine: Drive) -> dict[str, int]:
    """What the scenario did wrong, counted."""
    return {one["text"]: one["count"] for one in engine.mistakes.told()}


def test_iterations_are_done_once_each() -> None:
    """Closed model: exactly `iterations` steps, each number once, shared by all users."""
    rows, (engine,) = drive(users={"count": 7, "iterations": 100})
    assert sorted(rows["step"]) == list(range(100))
    assert set(rows["user"]) == set(range(7))
    assert (rows["phase"] == "measure").all()
    assert engine.steps == 100


def test_users_ramp_up_and_down() -> None:
    """User i of 4 starts after i quarters of `ramp_s`, in any worker; the first to start stops first,
    so that each is there for equally long; what the warm-up covers is not measured."""
    load = {"count": 4, "duration_s": 40, "ramp_s": 8, "ramp_down_s": 8}
    transport = FakeTransport(lambda i: 0.5)
    for shards in (1, 2):
        rows, _ = drive(transport=transport, shards=shards, users=load, warmup_s=8)
        seen = rows.groupby("user")["planned"].agg(["min", "max"]) / SECOND
        assert seen["min"].tolist() == [0, 2, 4, 6]
        assert seen["max"].tolist() == [41.5, 43.5, 45.5, 47.5]
        assert (rows["phase"] == "warmup").equals(rows["planned"] < 8 * SECOND)
    rows, _ = drive(transport=transport, users={"count": 2, "iterations": 20, "ramp_s": 4})
    assert rows.groupby("user")["planned"].min().tolist() == [0, 2 * SECOND]
    assert set(rows["phase"]) == {"measure"}


def test_users_come_and_go_in_stages() -> None:
    """Up to 4 users, down to 1, up to 3: a fall stops who was there longest, a rise takes who has stopped
    before anybody new; in any worker the same, and what the warm-up covers is not measured."""
    stages = [(4, 4), (4, 4), (3, 1), (0, 3), (5, 3)]
    users = {"stages": [{"duration_s": s, "to": to} for s, to in stages]}
    for shards in (1, 2):
        rows, _ = drive(transport=FakeTransport(lambda i: 0.5), shards=shards, users=users, warmup_s=2)
        seen = {user: (times / SECOND).tolist() for user, times in rows.groupby("user")["planned"]}
        assert [times[0] for times in seen.values()] == [0, 1, 2, 3]
        last_before_the_gap = [max(t for t in times if t < 11) for times in seen.values()]
        assert last_before_the_gap == [8.5, 9.5, 10.5, 10.5]
        assert [user for user, times in seen.items() if max(times) > 11] == [0, 1, 3]
        assert rows["planned"].max() == 15.5 * SECOND
        assert (rows["phase"] == "warmup").equals(rows["planned"] < 2 * SECOND)


def test_a_ramp_ends_with_its_steps_or_when_stopped() -> None:
    """Nobody waits for users who would find no step left, nor after a stop."""
    for think in (0, 1):
        load = {"count": 9, "iterations": 5, "ramp_s": 9000, "think_time_s": think}
        rows, (engine,) = drive(users=load)
        assert len(rows) == 5
        assert engine._clock() < 10 * SECOND
    transport = FakeTransport(lambda i: 0.5)
    rows, (engine,) = drive(
        transport=transport, users={"count": 2, "duration_s": 9000, "ramp_s": 9000}, stop_after_s=3
    )
    assert engine.stopped
    assert rows["done"].max() <= 3 * SECOND


def test_closed_model_never_has_more_in_flight_than_users() -> None:
    """N users, at most N requests in flight, and all N busy without think time."""
    transport = FakeTransport(lambda i: 0.01 + 0.001 * (i % 5))
    drive(transport=transport, users={"count": 9, "duration_s": 10})
    assert transport.most_in_flight == 9


def test_planned_is_when_the_user_became_ready() -> None:
    """Closed model: with think time the next step is planned when thinking ends, not when it was sent."""
    rows, _ = drive(users={"count": 1, "iterations": 5, "think_time_s": 2})
    assert rows["planned"].tolist() == pytest.approx([i * 2.01 * SECOND for i in range(5)], abs=1000)
    assert (rows["started"] == rows["planned"]).all()


def test_uniform_think_time_is_in_bounds_and_seeded() -> None:
    """Think times are uniform in their bounds; the same seed gives the same instants."""
    load = {"count": 3, "iterations": 60, "think_time_s": [1, 5]}
    rows, _ = drive(users=load, seed=4)
    again, _ = drive(users=load, seed=4)
    other, _ = drive(users=load, seed=5)
    gaps = rows.sort_values("planned").groupby("user")["planned"].diff().dropna() / SECOND - 0.01
    assert gaps.between(1 - 1e-6, 5 + 1e-6).all()
    assert 2.4 < gaps.mean() < 3.6
    assert rows.equals(again)
    assert not rows["planned"].equals(other["planned"])


def test_warm_up_is_marked_and_numbered_below_zero() -> None:
    """Warm-up steps come first, have phase warmup and negative numbers; measured ones count from 0."""
    rows, _ = drive(users={"count": 2, "iterations": 50}, warmup_s=1)
    warm, measured = rows[rows["phase"] == "warmup"], rows[rows["phase"] == "measure"]
    assert len(warm) == 200
    assert (warm["step"] < 0).all()
    assert warm["planned"].max() < SECOND <= measured["planned"].min()
    assert sorted(measured["step"]) == list(range(50))


SHAPES = [
    {"shape": "constant", "rate_per_s": 40},
    {"shape": "poisson", "rate_per_s": 40},
    {"shape": "ramp", "start_rate_per_s": 5, "rate_per_s": 50},
    {"shape": "steps", "step_rates_per_s": [10, 40, 20]},
    {"shape": "spike", "rate_per_s": 10},
    {"shape": "soak", "rate_per_s": 20},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["shape"])
def test_open_model_starts_exactly_as_planned(shape: dict[str, Any]) -> None:
    """Every shape: planned is the schedule, started is planned, whatever the server does."""
    arrivals = {**shape, "duration_s": 20}
    rows, _ = drive(transport=FakeTransport(lambda i: 3.0), arrivals=arrivals, seed=2)
    schedule = plan(Workload.from_mapping({"scenario": "x", "arrivals": arrivals}).arrivals, 2)  # type: ignore[arg-type]
    assert np.allclose(np.sort(rows["planned"]), schedule * SECOND, atol=1.5)
    assert (rows["started"] - rows["planned"]).abs().max() <= 1000
    assert sorted(rows["step"]) == list(range(len(schedule)))


def test_what_a_step_leaves_behind_has_the_drain_and_no_longer() -> None:
    """However long the run was; and a run that is stopped says nothing of steps that had not ended."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        await session.get("/")
        kept.append(asyncio.ensure_future(session.get("/")))
        await asyncio.sleep(1)

    kept: list[Any] = []
    transport = FakeTransport(lambda i: 1000.0 if i % 2 else 0.1)
    rows, (engine,) = drive(step, transport=transport, users={"count": 1, "duration_s": 60}, drain_s=5)
    assert rows["done"].max() == pytest.approx(65 * SECOND, abs=SECOND / 100)
    assert (rows["error"] == "cutoff").sum() == len(kept)
    load = {"count": 1, "duration_s": 60}
    _, (engine,) = drive(step, transport=transport, users=load, drain_s=5, stop_after_s=0.5)
    assert not told(engine)


def test_no_coordinated_omission() -> None:
    """A server that stalls for 2 s: arrivals keep their times, and wait for its end."""

    def latency(i: int) -> float:
        arrived = i * 0.1
        return max(0.01, 7 - arrived) if 5 <= arrived < 7 else 0.01

    rows, _ = drive(transport=FakeTransport(latency), arrivals={"rate_per_s": 10, "duration_s": 10})
    response = (rows["done"] - rows["planned"]).sort_index().to_numpy() / SECOND
    assert len(rows) == 100
    assert (response > 0.05).sum() == pytest.approx(20, abs=1)
    assert response.max() == pytest.approx(2, abs=0.01)


def test_arrivals_take_the_lowest_free_user() -> None:
    """Open model: a virtual user is used again when it is free, with what it has learnt in `local`."""
    learnt: list[int] = []

    async def step(session: Session, state: Any, rng: Any) -> None:
        session.local["steps"] = session.local.get("steps", 0) + 1
        learnt.append(session.local["steps"])
        await session.get("/")

    rows, _ = drive(
        step, transport=FakeTransport(lambda i: 0.25), arrivals={"rate_per_s": 10, "duration_s": 10}
    )
    assert set(rows["user"]) == {0, 1, 2}
    assert max(learnt) > 30


def test_drain_lets_requests_end_and_then_cuts_them_off() -> None:
    """Measured requests may end within drain_s; those that do not are rows of class cutoff."""
    rows, _ = drive(
        transport=FakeTransport(lambda i: 100.0 if i % 10 == 0 else 3.0),
        arrivals={"rate_per_s": 10, "duration_s": 5},
        drain_s=4,
    )
    assert len(rows) == 50
    assert (rows["phase"] == "measure").all()
    cut = rows[rows["error"].notna()]
    assert set(cut["error"]) == {"cutoff"}
    assert len(cut) == 5
    assert (cut["done"] / SECOND).tolist() == pytest.approx([9] * 5, abs=0.001)
    assert rows[rows["error"].isna()]["done"].max() > 7 * SECOND


def test_requests_a_step_begins_after_the_end_are_drain() -> None:
    """A step under way at the end goes on; what it sends after the end is of phase drain."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        for _ in range(5):
            await session.get("/")

    rows, _ = drive(
        step, transport=FakeTransport(lambda i: 0.3), users={"count": 1, "duration_s": 1}, drain_s=10
    )
    phases = rows.sort_values("planned")["phase"].tolist()
    assert phases == ["measure"] * 4 + ["drain"]


def test_stop_ends_the_run_early() -> None:
    """stop(): no new steps, what is under way is cut off, the drive says that it was stopped."""
    rows, (engine,) = drive(
        transport=FakeTransport(lambda i: 0.7), users={"count": 3, "duration_s": 100}, stop_after_s=5
    )
    assert engine.stopped
    assert rows["done"].max() == pytest.approx(5 * SECOND, abs=SECOND / 100)
    assert (rows["error"] == "cutoff").sum() == 3


def test_mistakes_of_a_scenario_are_counted_with_their_place() -> None:
    """An exception in a step ends that step only, and is told with file and line, counted."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        await session.get("/")
        if session.iteration % 2:
            raise KeyError("nothing here")

    rows, (engine,) = drive(step, users={"count": 2, "iterations": 10})
    assert len(rows) == 10
    ((text, count),) = told(engine).items()
    assert count == 5
    assert "KeyError" in text
    assert "test_load.py:" in text


def test_stumbling_after_a_failed_request_breaks_no_step() -> None:
    """A step that stumbles because its request failed is counted, but does not make the scenario broken."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        (await session.get("/")).json()["id"]

    rows, (engine,) = drive(
        step, transport=FakeTransport(error=lambda i: "reset"), users={"count": 1, "iterations": 5}
    )
    assert (rows["error"] == "reset").all()
    assert sum(told(engine).values()) == 5
    assert (engine.steps, engine.steps_raised) == (5, 0)


def test_steps_that_send_nothing_do_not_fill_a_core() -> None:
    """A user whose steps have sent nothing for a second pauses 0.1 s after each; one who sends now and then
    does not, nor one who thinks longer anyway. Nothing of it is in a latency, and no step is late."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        session.local["n"] = session.local.get("n", 0) + 1
        if session.user == 0 or session.local["n"] % 2:
            raise ValueError
        await session.get("/")

    rows, (engine,) = drive(step, users={"count": 2, "duration_s": 10})
    assert engine.steps_raised - len(rows) == pytest.approx(1000 + 90, abs=100)
    assert len(rows) == pytest.approx(10_000 / 11, abs=20)
    assert (rows["started"] == rows["planned"]).all()
    assert (rows["done"] - rows["planned"] == 10_000_000).all()
    _, (engine,) = drive(step, users={"count": 1, "iterations": 8, "think_time_s": 0.5})
    assert engine._clock() < 5 * SECOND


def test_raise_for_status_ends_the_step() -> None:
    """RequestFailed ends the step quietly; the row says what happened."""
    after: list[int] = []

    async def step(session: Session, state: Any, rng: Any) -> None:
        (await session.get("/")).raise_for_status()
        after.append(session.iteration)

    _, (engine,) = drive(
        step,
        transport=FakeTransport(error=lambda i: "timeout" if i == 2 else None),
        users={"count": 1, "iterations": 5},
    )
    assert after == [0, 1, 3, 4]
    assert not told(engine)
    assert issubclass(RequestFailed, Exception)


def test_a_step_without_a_request_does_not_spin() -> None:
    """A scenario that sends nothing is told so and cannot hold the loop for ever."""

    async def step(session: Session, state: Any, rng: Any) -> None:
        return

    rows, (engine,) = drive(step, users={"count": 2, "duration_s": 1})
    assert rows.empty
    assert 1000 < told(engine)["a step made no request through session"] < 3000


@pytest.mark.parametrize("load", [{"users": {"count": 6, "iterations": 50}},
                                  {"arrivals": {"rate_per_s": 25, "duration_s": 2}}])  # fmt: skip
def test_shards_together_are_the_whole(load: dict[str, Any]) -> None:
    """Two workers do together what one would do: same steps, same planned instants, same choices."""
    chosen: dict[int, float] = {}

    async def step(session: Session, state: Any, rng: Any) -> None:
        chosen[session.iteration] = rng.random()
        await session.get("/")

    whole, _ = drive(step, **load)
    choices = dict(chosen)
    chosen.clear()
    parts, _ = drive(step, shards=2, **load)
    assert sorted(parts["step"]) == sorted(whole["step"])
    assert chosen == choices
    assert parts["seq"].is_unique
    if "arrivals" in load:
        assert sorted(parts["planned"]) == sorted(whole["planned"])


def test_an_hour_of_load_takes_seconds() -> None:
    """An hour of a soak on the virtual clock, 18,000 requests, in far less than a minute."""
    began = time.monotonic()
    rows, _ = drive(arrivals={"shape": "soak", "rate_per_s": 5, "duration_s": 3600})
    assert len(rows) == pytest.approx(3600 * 5 * 0.95, rel=0.01)
    assert time.monotonic() - began < 30


def test_schedule_of_a_model() -> None:
    """Arrivals is plain data; the same data and seed give the same schedule."""
    arrivals = Arrivals(shape="poisson", rate_per_s=100, duration_s=5)
    assert np.array_equal(plan(arrivals, 1), plan(arrivals, 1))


def test_errors_in_callbacks_are_counted_not_printed() -> None:
    """What goes wrong in a callback of the loop is counted with its place, like a mistake of the scenario."""

    def broken() -> None:
        raise RuntimeError("in a callback")

    async def step(session: Session, state: Any, rng: Any) -> None:
        asyncio.get_running_loop().call_soon(broken)
        await session.get("/")

    def install(engine: Drive) -> None:
        asyncio.get_running_loop().set_exception_handler(engine.on_loop_error)

    _, (engine,) = drive(step, prepare=install, users={"count": 1, "iterations": 3})
    ((text, count),) = told(engine).items()
    assert count == 3
    assert "in a callback" in text


def test_step_random_depends_on_seed_and_step_only() -> None:
    """The same choices in every run and process, others in every step; `random.Random`'s language."""
    draws = {(seed, step): StepRandom(seed, step).random() for seed in range(3) for step in range(-2, 20)}
    assert len(set(draws.values())) == len(draws)
    again = StepRandom(2, 19)
    assert again.random() == draws[2, 19] == random.Random("2:19").random()
    assert again.choice([1, 2, 3]) in (1, 2, 3)
    shuffled = list(range(10))
    StepRandom(1, 1).shuffle(shuffled)
    assert sorted(shuffled) == list(range(10)) != shuffled
