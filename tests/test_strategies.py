"""Optimisation strategies: the pairs and their predictions, and the knobs of the server that they turn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agent_server.postgres import embedded_replica
from agent_server.replica import Replica
from benchmarks import strategies
from benchmarks.strategies import FOLDER, Outcome, planned, read, table, write
from perfkit.compare import Options
from perfkit.compare.turns import refuse_differences
from perfkit.drive.workloads import complete, read_yaml
from tests.server_fixture import AGENT, RunningServer, client, running_server

SAID = {"messages": [{"role": "user", "content": "Tell me."}]}
#: What each pair turns, and nothing else.
KNOBS = {
    "index": {"indexes"},
    "query": {"one_by_one"},
    "pool": {"pool_size"},
    "agent_cache": {"agent_cache"},
    "llm_config_cache": {"llm_config_cache"},
    "embedding_config_cache": {"embedding_config_cache"},
    "query_cache": {"query_cache"},
    "replica": {"read_replica"},
    "replica_nearby": {"read_replica"},
    "instances": {"instances", "pool_size"},
    "background": {"workers"},
}


# -- the pairs and their predictions -------------------------------------------------------------------


def test_every_pair_has_a_prediction_and_both_files() -> None:
    """The table, the files and the guide name the same strategies, each with a metric perfkit knows."""
    known = strategies.strategies()
    stems = {f"{name}_{side}" for name in KNOBS for side in ("before", "after")}
    assert set(known) == set(KNOBS)
    assert {file.stem for file in FOLDER.glob("*.yaml")} == stems
    guide = (FOLDER.parents[1] / "docs" / "strategies.md").read_text()
    for name, one in known.items():
        assert f"`{name}`" in guide
        assert 0 < one.margin <= 0.1
        Options(primary=(one.metric,), margin=one.margin)


@pytest.mark.parametrize("name", KNOBS)
def test_the_sides_of_a_pair_differ_in_what_it_is_about(name: str) -> None:
    """One thing is turned, and the runs can be compared. Pools of several processes are equal in total."""
    sides = [read_yaml(file) for file in strategies.files(name, null=False)]
    for side in sides:
        complete(side, name)
    refuse_differences(sides[0], sides[1], Options())
    before, after = (side.pop("server") for side in sides)
    assert sides[0] == sides[1]
    assert before.keys() == after.keys()
    assert {key for key in before if before[key] != after[key]} == KNOBS[name]
    pools = [s["pool_size"] * s["instances"] for s in (before, after) if "instances" in s]
    assert len(set(pools)) <= 1


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is in the results is not carried out again, but for what failed; half a line is no result."""
    results = tmp_path / "results.jsonl"
    assert len(list(planned(["index", "pool"], 2, read(results)))) == 8
    done = [
        {"name": "index", "null": False, "time": 1, "verdict": "improved"},
        {"name": "index", "null": True, "time": 1, "verdict": "failed", "failed": "exit code 1"},
    ]
    results.write_text("".join(json.dumps(one) + "\n" for one in done) + '{"name": "pool", "nu')
    assert list(planned(["index", "pool"], 1, read(results))) == [
        (1, "index", True),
        (1, "pool", False),
        (1, "pool", True),
    ]


def test_the_table_says_how_often_a_prediction_came_true(tmp_path: Path) -> None:
    """A null pair agrees when it is equivalent, and is a false alarm when it is improved or regressed. Of
    a comparison that was tried twice the last one counts."""
    known = {name: one for name, one in strategies.strategies().items() if name in ("index", "replica")}
    there = [
        Outcome("index", False, 1, "failed"),
        Outcome("index", False, 1, "improved", 0.2),
        Outcome("index", False, 2, "inconclusive", 0.95),
        Outcome("index", True, 1, "regressed", 1.2),
        Outcome("index", True, 2, "equivalent", 1.0),
        Outcome("replica", False, 1, "equivalent", 1.0),
    ]
    head, _, index, replica = table(known, there).splitlines()
    cells = [cell.strip() for cell in index.strip("|").split("|")]
    assert cells[3:6] == ["1 improved, 1 inconclusive", "1 of 2", "-80 % to -5 %"]
    assert cells[6:] == ["1 regressed, 1 equivalent", "1 of 2", "1"]
    assert [cell.strip() for cell in replica.strip("|").split("|")][4:] == [
        "1 of 1",
        "+0 %",
        "not run",
        "",
        "",
    ]
    assert head.count("|") == index.count("|")
    page = tmp_path / "page.md"
    page.write_text(f"a\n{strategies.BEGIN}\nold\n{strategies.END}\nz\n")
    write(page, "new")
    assert page.read_text() == f"a\n{strategies.BEGIN}\nnew\n{strategies.END}\nz\n"


# -- caches, lists and what is there from the start ----------------------------------------------------


def made(response: httpx.Response) -> Any:
    """The JSON of a response that must be 200."""
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that keeps answers of queries, with agents from the start."""
    file = tmp_path_factory.mktemp("caching") / "agents.db"
    options = ("--query-cache", "--prefill-agents", "30", "--prefill-messages", "70")
    with running_server("--database-url", f"sqlite:///{file}", *options) as server:
        yield server


def test_agents_and_messages_are_there_from_the_start(caching: RunningServer) -> None:
    """As many agents as asked for, with blocks, and the messages spread over them."""
    with client(caching.url) as http:
        assert made(http.get("/v1/agents/count")) == 30
        first = made(http.get("/v1/agents/agent-prefill-0"))
        assert [block["label"] for block in first["blocks"]] == ["human", "persona"]
        counts = [len(made(http.get(f"/v1/agents/agent-prefill-{i}/messages"))) for i in (0, 9, 10, 29)]
        assert counts == [3, 3, 2, 2]


def test_a_kept_list_of_agents_is_never_out_of_date(caching: RunningServer) -> None:
    """On one server each change to an agent, a block or a tool shows in the next list at once."""
    with client(caching.url) as http:

        def listed() -> dict[str, Any]:
            made(http.get("/v1/agents/?limit=100"))  # now it is kept
            return {one["id"]: one for one in made(http.get("/v1/agents/?limit=100"))}

        before = listed()
        agent = made(http.post("/v1/agents/", json=AGENT))
        assert listed().keys() == {*before, agent["id"]}
        made(http.patch(f"/v1/agents/{agent['id']}", json={"name": "eve"}))
        assert listed()[agent["id"]]["name"] == "eve"
        block = agent["blocks"][0]["id"]
        made(http.patch(f"/v1/blocks/{block}", json={"value": "changed"}))
        assert "changed" in [one["value"] for one in listed()[agent["id"]]["blocks"]]
        made(http.delete(f"/v1/agents/{agent['id']}"))
        assert listed().keys() == before.keys()


def test_a_kept_list_needs_no_statement(caching: RunningServer) -> None:
    """The first of two lists asks the database, the second does not; another length is another list."""
    with client(caching.url) as http:
        made(http.patch("/v1/agents/agent-prefill-1", json={"name": "other"}))  # nothing is kept
        first, second, other = (http.get(f"/v1/agents/?limit={n}") for n in (7, 7, 8))
        assert first.content == second.content
        assert len(other.json()) == 8
        assert [_parts(one).get("db", 0) > 0 for one in (first, second, other)] == [True, False, True]


def test_providers_answers_are_kept(caching: RunningServer) -> None:
    """An agent's creation waits for the providers of its model and its embedding, the next one does not;
    the agent is the same."""
    with client(caching.url) as http:
        new = AGENT | {"model": "openai-proxy/other", "embedding": "openai/other"}
        waited, first, second = _created_twice(http, new)
        assert waited[0] > 30  # two answers of some 40 ms
        assert waited[1] < 10
        for key in ("llm_config", "embedding_config"):
            assert first[key] == second[key]


@pytest.mark.parametrize("off", ["llm-config", "embedding-config"])
def test_a_provider_whose_answers_are_not_kept_is_asked_again(off: str, tmp_path: Path) -> None:
    """With one of the two caches off each creation waits for one provider, the first for both."""
    options = ("--database-url", f"sqlite:///{tmp_path / 'a.db'}", f"--no-{off}-cache")
    with running_server(*options) as server, client(server.url) as http:
        waited, _, _ = _created_twice(http, AGENT)
        assert waited[1] > 10


def _created_twice(http: httpx.Client, new: dict[str, Any]) -> tuple[list[float], Any, Any]:
    """How long each of two creations waited for providers (ms), and both agents."""
    first, second = (http.post("/v1/agents/", json=new) for _ in range(2))
    return [_parts(one).get("model", 0) for one in (first, second)], made(first), made(second)


def _parts(response: httpx.Response) -> dict[str, float]:
    """What `Server-Timing` says of a response, in ms."""
    pieces = [piece.strip().split(";dur=") for piece in response.headers["server-timing"].split(",")]
    return {piece[0]: float(piece[1]) for piece in pieces if len(piece) == 2}


def test_a_list_read_one_by_one_is_the_same_list(tmp_path: Path) -> None:
    """N+1 costs statements, nothing else: 1 + 2 for each agent."""
    options = ("--one-by-one", "--prefill-agents", "5", "--no-agent-cache")
    database = ("--database-url", f"sqlite:///{tmp_path / 'agents.db'}")
    with running_server(*database, *options) as server, client(server.url) as http:
        listed = made(http.get("/v1/agents/"))
        calls = _wait_for(lambda: sum(_samples(http, "db.calls", "GET /v1/agents:")))
        assert calls == 1 + 2 * 5
        assert listed == [made(http.get(f"/v1/agents/{one['id']}")) for one in listed]


def _samples(http: httpx.Client, probe: str, label: str = "") -> list[float]:
    """The values of a server's samples so far."""
    found = made(http.get("/probe/samples"))["samples"]
    rows = zip(found["probe"], found["label"], found["value"], strict=True)
    return [value for name, text, value in rows if name == probe and text.startswith(label)]


def _wait_for(check: Callable[[], Any], within_s: float = 60) -> Any:
    """What a check says, when it is something."""
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


# -- roles ---------------------------------------------------------------------------------------------


def test_only_a_worker_does_background_work(tmp_path: Path) -> None:
    """An `api` leaves a batch alone, a `worker` carries it out and has no API."""
    database = ("--database-url", f"sqlite:///{tmp_path / 'agents.db'}", "--model-speed", "0")
    poll = ("--scheduler-poll-s", "0.05")
    with running_server(*database, *poll, "--role", "api") as api, client(api.url) as http:
        agent = made(http.post("/v1/agents/", json=AGENT))["id"]
        batch = made(http.post("/v1/messages/batches", json={"requests": [SAID | {"agent_id": agent}]}))["id"]
        time.sleep(0.5)
        assert made(http.get(f"/v1/messages/batches/{batch}"))["status"] == "created"
        assert not _samples(http, "job.tick_ms")
        with running_server(*database, *poll, "--role", "worker") as worker, client(worker.url) as other:
            path = f"/v1/messages/batches/{batch}"
            _wait_for(lambda: made(http.get(path))["status"] == "completed")
            assert other.get("/v1/agents/").status_code == 404
            assert made(other.get("/v1/health/"))["status"] == "ok"
            assert len(made(http.get(f"/v1/agents/{agent}/messages"))) == 2


@pytest.mark.slow
def test_workers_have_processes_of_their_own(database: str) -> None:
    """`--workers 1`: the ready line names the API and the worker, and only the worker's process has ticks."""
    options = (
        "--database-url",
        database,
        "--workers",
        "1",
        "--scheduler-poll-s",
        "0.05",
        "--model-speed",
        "0",
    )
    with running_server(*options, start_s=90) as server, client(server.url) as http:
        names = server.ready.partition("instances ")[2].rstrip(")\n").split()
        assert names[0] == server.url
        assert len(names) == 2
        agent = made(http.post("/v1/agents/", json=AGENT))["id"]
        batch = made(http.post("/v1/messages/batches", json={"requests": [SAID | {"agent_id": agent}]}))["id"]
        _wait_for(lambda: made(http.get(f"/v1/messages/batches/{batch}"))["status"] == "completed")
        with client(names[1]) as worker:
            assert worker.get("/v1/agents/").status_code == 404
            assert _wait_for(lambda: _samples(worker, "job.tick_ms"))
        assert not _samples(http, "job.tick_ms")


# -- the read replica ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replica(postgres: str) -> Iterator[str]:
    """URL of a replica that follows the tests' PostgreSQL."""
    with embedded_replica(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def database(postgres: str) -> str:
    """URL of an empty database of the tests' PostgreSQL."""
    asyncio.run(_execute(postgres, "CREATE DATABASE strategies"))
    return sa.make_url(postgres).set(database="strategies").render_as_string(hide_password=False)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield connection


async def _execute(url: str, statement: str) -> None:
    async with _connected(url) as connection:
        await connection.execute(sa.text(statement))


def test_a_replica_that_is_late_is_not_read_from(postgres: str, replica: str) -> None:
    """It is fresh once it has what the primary has committed, stops being so when it has not come as far in
    `max_lag_s`, and is so again when it has caught up."""

    async def look() -> None:
        engine = create_async_engine(replica, poolclass=sa.NullPool)
        one = Replica(sa.make_url(postgres), engine, max_lag_s=0.3)
        assert not one.fresh
        watching = asyncio.create_task(one.watch())
        async with _connected(replica) as standby:
            await _until(lambda: one.fresh)
            await standby.execute(sa.text("SELECT pg_wal_replay_pause()"))
            await _execute(postgres, "CREATE TABLE IF NOT EXISTS replayed (id int)")
            await _until(lambda: not one.fresh)
            await standby.execute(sa.text("SELECT pg_wal_replay_resume()"))
            await _until(lambda: one.fresh)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert not one.fresh
        await one.close()

    asyncio.run(look())


async def _until(check: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


@pytest.mark.slow
def test_reads_go_to_the_replica_and_what_was_just_made_is_found(database: str, replica: str) -> None:
    """While the replica does not follow, lists are as old as it is, an agent that it does not have is read
    from the primary, and a message works on the primary. The lag is a sample."""
    standby = sa.make_url(replica).set(database="strategies").render_as_string(hide_password=False)
    options = ["--database-url", database, "--replica-url", standby, "--replica-max-lag-ms", "600000"]
    options += ["--no-agent-cache", "--model-speed", "0"]
    with running_server(*options) as server, client(server.url) as http:
        first = made(http.post("/v1/agents/", json=AGENT))["id"]
        _wait_for(lambda: _samples(http, "db.replica_lag_ms"))
        _wait_for(lambda: first in [one["id"] for one in made(http.get("/v1/agents/"))])
        asyncio.run(_execute(replica, "SELECT pg_wal_replay_pause()"))
        try:
            second = made(http.post("/v1/agents/", json=AGENT))["id"]
            ids = [one["id"] for one in made(http.get("/v1/agents/"))]
            assert first in ids
            assert second not in ids
            assert made(http.get(f"/v1/agents/{second}"))["id"] == second
            assert http.get("/v1/agents/agent-none").status_code == 404
            made(http.post(f"/v1/agents/{second}/messages", json=SAID))
        finally:
            asyncio.run(_execute(replica, "SELECT pg_wal_replay_resume()"))
        _wait_for(lambda: second in [one["id"] for one in made(http.get("/v1/agents/"))])


@pytest.mark.drill
def test_an_embedded_replica_follows_several_instances() -> None:
    """`--read-replica` with instances: each of them reads from it and measures its lag."""
    options = ("--read-replica", "--instances", "2", "--pool-size", "5", "--prefill-agents", "3")
    with running_server(*options, start_s=90) as server:
        for url in server.ready.partition("instances ")[2].rstrip(")\n").split():
            with client(url) as http:
                _wait_for(lambda http=http: _samples(http, "db.replica_lag_ms"))
                assert len(made(http.get("/v1/agents/"))) == 3
                assert _wait_for(lambda http=http: _samples(http, "pool.size", "replica"))


@pytest.mark.drill
@pytest.mark.parametrize("name", ["index", "query_cache", "background"])
def test_a_large_effect_is_seen_as_predicted(name: str) -> None:
    """One comparison of the real thing, as the benchmark carries it out."""
    one = strategies.strategies()[name]
    outcome = strategies.carry_out(name, one, null=False, number=1)
    assert outcome.verdict == strategies.VERDICTS[one.prediction], outcome
