"""Runs and batches: their times, their states under many writers, who may see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from agent_server import Settings
from agent_server.database import async_url, make_engine, migrate
from agent_server.jobs import change, job_row
from agent_server.postgres import embedded_postgres
from agent_server.services import Actor
from agent_server.tables import jobs
from tests.server_fixture import AGENT, client, running_server

ACTOR = Actor("user-00000000-0000-4000-8000-000000000000", "org-00000000-0000-4000-8000-000000000000")
SAID = {"messages": [{"role": "user", "content": "how are you?"}]}


def until(look: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client of a server with a model that takes its time."""
    more = []
    if request.param == "sqlite":
        more = ["--database-url", f"sqlite:///{tmp_path_factory.mktemp('db')}/agents.db"]
    with running_server("--model-speed", "2", *more) as server, client(server.url) as made:
        yield made


def test_times_of_a_plain_message_are_what_the_client_saw(http: httpx.Client) -> None:
    """total_duration_ns within 20 ms of the client's own clock; the first token came before that."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    differences = []
    for _ in range(5):
        began = time.monotonic_ns()
        answer = http.post(f"/v1/agents/{agent}/messages", json=SAID).json()
        total = time.monotonic_ns() - began
        (run_id,) = answer["usage"]["run_ids"]
        run = until(lambda r=run_id: _timed(http, r))
        differences.append((total - run["total_duration_ns"]) / 1e6)
        assert 10e6 < run["ttft_ns"] < run["total_duration_ns"]
    assert sorted(differences)[2] == pytest.approx(0, abs=20)


def test_times_that_are_not_there_yet_are_pending(http: httpx.Client) -> None:
    """A run that has ended says whether its times are still to come; they are its organization's to write."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    (run_id,) = http.post(f"/v1/agents/{agent}/messages", json=SAID).json()["usage"]["run_ids"]
    run = http.get(f"/v1/runs/{run_id}").json()
    assert run["times_pending"] is (run["total_duration_ns"] is None)
    assert until(lambda: _timed(http, run_id))["times_pending"] is False


def test_metrics_name_the_organization(http: httpx.Client) -> None:
    """As soon as it is known who asks, what is recorded carries its organization, the request's time too."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    http.post(f"/v1/agents/{agent}/messages", json=SAID).raise_for_status()
    lines = http.get("/metrics").text.splitlines()
    for metric in ("count_user_message", "hist_endpoint_e2e_ms_"):
        assert any(line.startswith(metric) and 'organization_id="org-' in line for line in lines), metric


def _timed(http: httpx.Client, run_id: str) -> Any:
    run = http.get(f"/v1/runs/{run_id}").json()
    return run if run["total_duration_ns"] is not None else None


def test_times_of_a_streamed_message_are_what_the_client_saw(http: httpx.Client) -> None:
    """Time to the first event and to the last byte, both within 5 ms."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    firsts, totals = [], []
    for _ in range(5):
        began, first, text = time.monotonic_ns(), 0, ""
        with http.stream(
            "POST", f"/v1/agents/{agent}/messages/stream", json=SAID | {"stream_tokens": True}
        ) as stream:
            for chunk in stream.iter_text():
                first = first or time.monotonic_ns() - began
                text += chunk
        total = time.monotonic_ns() - began
        run_id = text.split('"run_ids":["')[1].split('"')[0]
        run = until(lambda r=run_id: _timed(http, r))
        firsts.append((first - run["ttft_ns"]) / 1e6)
        totals.append((total - run["total_duration_ns"]) / 1e6)
    assert sorted(firsts)[2] == pytest.approx(0, abs=20)
    assert sorted(totals)[2] == pytest.approx(0, abs=20)


def test_a_batch_is_carried_out_by_the_scheduler_each_item_once(http: httpx.Client) -> None:
    """Runs with times and both messages, one for each item; the batch is closed."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    batch = http.post("/v1/messages/batches", json={"requests": [SAID | {"agent_id": agent}] * 3}).json()
    assert batch["status"] == "created"

    def ended() -> Any:
        found = http.get(f"/v1/messages/batches/{batch['id']}").json()
        return found if found["status"] not in ("created", "running") else None

    assert until(ended)["status"] == "completed"
    runs = http.get("/v1/runs/", params={"agent_id": agent}).json()
    assert [run["status"] for run in runs] == ["completed"] * 3
    assert all(run["ttft_ns"] and run["total_duration_ns"] for run in runs)
    assert {run["batch_id"] for run in runs} == {batch["id"]}
    assert len(http.get(f"/v1/agents/{agent}/messages").json()) == 6


def test_a_batch_whose_agent_is_gone_fails(http: httpx.Client) -> None:
    """It says why, and the scheduler goes on with the next."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    items = [SAID | {"agent_id": agent}] * 40
    first = http.post("/v1/messages/batches", json={"requests": items}).json()
    http.delete(f"/v1/agents/{agent}")

    def failed() -> Any:
        found = http.get(f"/v1/messages/batches/{first['id']}").json()
        return found if found["status"] == "failed" else None

    assert "not found" in until(failed)["error"]


def test_jobs_are_seen_by_their_organization_only(http: httpx.Client) -> None:
    """Another organization's user gets 404 for a run and a batch, and lists neither."""
    agent = http.post("/v1/agents/", json=AGENT).json()["id"]
    (run,) = http.post(f"/v1/agents/{agent}/messages", json=SAID).json()["usage"]["run_ids"]
    batch = http.post("/v1/messages/batches", json={"requests": [SAID | {"agent_id": agent}]}).json()["id"]
    organization = http.post("/v1/admin/orgs/", json={"name": "other"}).json()["id"]
    user = {"name": "stranger", "organization_id": organization}
    stranger = {"user_id": http.post("/v1/admin/users/", json=user).json()["id"]}
    for path in (f"/v1/runs/{run}", f"/v1/messages/batches/{batch}"):
        assert http.get(path).status_code == 200
        assert http.get(path, headers=stranger).status_code == 404
    for path in ("/v1/runs/", "/v1/messages/batches"):
        assert http.get(path, headers=stranger).json() == []


def test_states_never_go_back_whoever_writes() -> None:
    """40 writers at once on PostgreSQL, ten times: one end wins, and nothing changes it afterwards."""

    async def work(url: str) -> None:
        engine = make_engine(async_url(url), Settings())
        await migrate(engine, Settings())
        writers = create_async_engine(url, pool_size=40)

        async def write(job_id: str, status: str) -> tuple[str, bool]:
            async with writers.begin() as connection:
                return status, await change(connection, job_id, status)

        for _ in range(10):
            row = job_row(ACTOR, "run", None)
            async with engine.begin() as connection:
                await connection.execute(sa.insert(jobs).values(row))
            statuses = ["pending", "running", "completed", "failed"] * 10
            done = await asyncio.gather(*(write(row["id"], status) for status in statuses))
            won = [status for status, changed in done if changed]
            ends = [status for status in won if status in ("completed", "failed")]
            async with engine.connect() as connection:
                query = sa.select(jobs.c.status).where(jobs.c.id == row["id"])
                status = await connection.scalar(query)
            assert len(ends) <= 1
            assert won.count("pending") <= 1
            assert won.count("running") <= 1
            if ends:
                assert status == ends[0]
                assert not any(changed for _, changed in [await write(row["id"], s) for s in statuses[:4]])
        await writers.dispose()
        await engine.dispose()

    with embedded_postgres(None) as url:
        asyncio.run(work(url))
