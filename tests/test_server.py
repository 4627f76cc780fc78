"""The reference server over real HTTP, on real PostgreSQL and on SQLite."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from agent_server import Settings
from agent_server.cache import Cache
from agent_server.database import async_url, make_engine, migrate
from agent_server.model import SimulatedModel
from agent_server.tables import metadata
from perfkit.drive.local_server import reference_server
from tests.kill_runs import victim
from tests.server_fixture import AGENT, client, is_alive, running_server

TOOL = "def shout(text: str, times: int = 1) -> str:\n    '''Say it.'''\n    return text.upper() * times\n"


@pytest.fixture(params=["postgresql", "sqlite"])
def http(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the server, on each database."""
    name = "agent_server" if request.param == "postgresql" else "sqlite_server"
    with client(request.getfixturevalue(name)) as made:
        yield made


def made(response: httpx.Response) -> Any:
    """The JSON of a response that must be 200."""
    assert response.status_code == 200, response.text
    return response.json()


def new_agent(http: httpx.Client, **more: Any) -> dict[str, Any]:
    """Create an agent."""
    agent: dict[str, Any] = made(http.post("/v1/agents/", json=AGENT | more))
    return agent


@pytest.mark.parametrize("slash", ["", "/"])
def test_health_with_and_without_slash(http: httpx.Client, slash: str) -> None:
    """Both spellings of a path are one route, without a redirect; the model says that it is simulated."""
    health = made(http.get(f"/v1/health{slash}"))
    assert health["status"] == "ok"
    assert "simulated" in health["model"]


def test_a_user_gets_a_key_and_acts_with_it(http: httpx.Client) -> None:
    """User, key, then requests with that bearer token; the agent remembers who made it."""
    user = made(http.post("/v1/admin/users/", json={"name": "ada"}))
    assert user["id"].startswith("user-")
    key = made(http.post("/v1/admin/users/keys", json={"user_id": user["id"]}))["key"]
    http.headers["authorization"] = f"Bearer {key}"
    assert new_agent(http)["created_by_id"] == user["id"]
    assert made(http.delete("/v1/admin/users/", params={"user_id": user["id"]}))["is_deleted"]
    assert http.get("/v1/agents/").status_code == 401, "the key went with the user"


def test_the_user_id_header_acts_for_a_user(http: httpx.Client) -> None:
    """Letta 0.16's way: the header user_id names the acting user; an unknown one is 404."""
    user = made(http.post("/v1/admin/users/", json={"name": "bob"}))
    agent = made(http.post("/v1/agents/", json=AGENT, headers={"user_id": user["id"]}))
    assert agent["created_by_id"] == user["id"]
    assert http.get("/v1/agents/", headers={"user_id": "user-none"}).status_code == 404


@pytest.mark.parametrize("value", ["Bearer sk-nobody", "Basic abc", "Bearer"])
def test_a_bad_key_is_401(http: httpx.Client, value: str) -> None:
    """An authorization header that names no key is refused, on every kind of route."""
    for method, path in (("GET", "/v1/agents/"), ("POST", "/v1/blocks/"), ("PUT", "/v1/tools/")):
        answer = http.request(method, path, headers={"authorization": value}, json={})
        assert answer.status_code == 401
        assert "Unauthorized" in answer.json()["detail"]


def test_tools_are_upserted_by_name(http: httpx.Client) -> None:
    """PUT twice with one function name is one tool, with the later source; the source gives its schema."""
    first = made(http.put("/v1/tools/", json={"source_code": TOOL}))
    second = made(http.put("/v1/tools/", json={"source_code": TOOL + "# changed\n"}))
    assert first["id"] == second["id"]
    assert second["source_code"].endswith("# changed\n")
    assert second["json_schema"]["parameters"] == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["text"],
    }
    assert http.put("/v1/tools/", json={"source_code": "x ="}).status_code == 400


def test_an_agent_has_its_blocks_and_tools(http: httpx.Client) -> None:
    """Creation links tools and shared blocks and makes memory blocks; reading gives the same state."""
    tool = made(http.put("/v1/tools/", json={"source_code": TOOL}))
    block = made(http.post("/v1/blocks/", json={"label": "shared", "value": "v"}))
    agent = new_agent(http, tool_ids=[tool["id"]], block_ids=[block["id"]], include_base_tools=True)
    assert {one["name"] for one in agent["tools"]} == {
        *("shout", "conversation_search", "memory_insert", "memory_replace")
    }
    assert {one["label"] for one in agent["memory"]["blocks"]} == {"human", "persona", "shared"}
    assert agent["llm_config"]["model_endpoint"] == "perfkit-simulated"
    again = made(http.get(f"/v1/agents/{agent['id']}"))
    assert again.keys() == agent.keys()
    assert again["name"] == "ada"


def test_patch_replaces_the_whole_list(http: httpx.Client) -> None:
    """PATCH of tool_ids or block_ids replaces the list, and only that list."""
    tool = made(http.put("/v1/tools/", json={"source_code": TOOL}))
    blocks = [made(http.post("/v1/blocks/", json={"label": f"b{i}", "value": "v"}))["id"] for i in range(3)]
    agent = new_agent(http, tool_ids=[tool["id"]], block_ids=blocks)
    path = f"/v1/agents/{agent['id']}"
    changed = made(http.patch(path, json={"block_ids": blocks[:1]}))
    assert [one["id"] for one in changed["blocks"]] == blocks[:1]
    assert [one["id"] for one in changed["tools"]] == [tool["id"]]
    assert made(http.patch(path, json={"tool_ids": []}))["tools"] == []
    assert made(http.get(path))["tools"] == [], "no stale state from the cache"
    assert made(http.patch(f"{path}/tools/attach/{tool['id']}"))["tools"][0]["id"] == tool["id"]
    assert made(http.patch(f"{path}/core-memory/blocks/detach/{blocks[0]}"))["blocks"] == []


def test_unknown_ids_are_404_in_lettas_words(http: httpx.Client) -> None:
    """404 with `Agent with ID … not found`, for every kind of thing."""
    for method, path, kind in (
        ("GET", "/v1/agents/agent-x", "Agent"),
        ("PATCH", "/v1/agents/agent-x", "Agent"),
        ("DELETE", "/v1/agents/agent-x", "Agent"),
        ("GET", "/v1/blocks/block-x", "Block"),
        ("DELETE", "/v1/tools/tool-x", "Tool"),
        ("GET", "/v1/runs/run-x", "Run"),
        ("GET", "/v1/messages/batches/batch-x", "Batch"),
        ("GET", "/v1/agents/agent-x/archival-memory", "Agent"),
    ):
        answer = http.request(method, path, json={} if method == "PATCH" else None)
        assert answer.status_code == 404, path
        assert answer.json() == {"detail": f"{kind} with ID {path.rpartition('/')[2]} not found"} or (
            "agent-x" in answer.json()["detail"]
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/agents/", {"name": 3}, 422),
        ("POST", "/v1/agents/", {"name": "no model"}, 400),
        ("POST", "/v1/agents/", AGENT | {"embedding_config": {"embedding_dim": 0}}, 400),
        ("POST", "/v1/blocks/", {"label": "no value"}, 422),
        ("POST", "/v1/admin/users/", {}, 422),
        ("POST", "/v1/admin/users/", {"name": "x", "organization_id": "org-x"}, 404),
        ("POST", "/v1/admin/users/keys", {"user_id": "user-x"}, 404),
        ("PUT", "/v1/tools/", {"source_code": 1}, 422),
        ("POST", "/v1/messages/batches", {"requests": []}, 422),
    ],
)
def test_bad_bodies(http: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    """A body that cannot be used is 422 (or 400, as Letta says it) with a detail, never a 500."""
    answer = http.request(method, path, json=body)
    assert (answer.status_code, "detail" in answer.json()) == (status, True)
    assert http.request(method, path, content=b"{broken").status_code == 422


def test_creation_is_one_transaction(http: httpx.Client) -> None:
    """A creation that fails half-way leaves nothing: neither the agent nor its memory blocks."""
    agents, label = made(http.get("/v1/agents/count")), f"only-{time.monotonic_ns()}"
    body = AGENT | {"memory_blocks": [{"label": label, "value": "v"}], "block_ids": ["block-x"]}
    assert http.post("/v1/agents/", json=body).status_code == 404
    assert made(http.get("/v1/agents/count")) == agents
    assert made(http.get("/v1/blocks/", params={"label": label})) == []


def test_archival_search_finds_the_nearest(http: httpx.Client) -> None:
    """A passage is stored with a unit vector; search by vector ranks the one that shares most words first."""
    agent = new_agent(http)
    path = f"/v1/agents/{agent['id']}/archival-memory"
    for text in ("the cat sat on the mat", "stock prices fell sharply", "rain is expected tomorrow"):
        (passage,) = made(http.post(path, json={"text": text}))
        assert len(passage["embedding"]) == 1536
        assert sum(x * x for x in passage["embedding"]) == pytest.approx(1, abs=1e-3)
    assert len(made(http.get(path))) == 3
    found = made(http.get(f"{path}/search", params={"query": "where is the cat and the mat", "top_k": 2}))
    assert found["count"] == 2
    assert found["results"][0]["content"] == "the cat sat on the mat"
    assert made(http.delete(f"{path}/{found['results'][0]['id']}"))
    assert len(made(http.get(path))) == 2


def test_a_message_is_answered_and_kept(http: httpx.Client) -> None:
    """A message makes a run and two messages; the same question gets the same answer, marked as simulated."""
    agent = new_agent(http)
    path = f"/v1/agents/{agent['id']}/messages"
    body = {"messages": [{"role": "user", "content": "hello"}]}
    first, second = made(http.post(path, json=body)), made(http.post(path, json=body))
    assert first["messages"][0]["content"].startswith("[simulated model]")
    assert first["messages"][0]["content"] == second["messages"][0]["content"]
    assert first["stop_reason"]["stop_reason"] == "end_turn"
    run = made(http.get(f"/v1/runs/{first['usage']['run_ids'][0]}"))
    assert (run["status"], run["agent_id"]) == ("completed", agent["id"])
    assert [m["message_type"] for m in made(http.get(path))] == ["user_message", "assistant_message"] * 2
    assert len(made(http.get("/v1/runs/", params={"agent_id": agent["id"]}))) == 2


@pytest.mark.parametrize("by_token", [True, False])
def test_a_stream_of_events(http: httpx.Client, by_token: bool) -> None:
    """Server-sent events: the answer (token by token when asked), a stop reason, usage, then [DONE]."""
    agent = new_agent(http)
    body = {"messages": [{"role": "user", "content": "tell me"}], "stream_tokens": by_token}
    with http.stream("POST", f"/v1/agents/{agent['id']}/messages/stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line[6:]) for line in lines[:-1]]
    kinds = [event["message_type"] for event in events]
    assert kinds[-2:] == ["stop_reason", "usage_statistics"]
    assert set(kinds[:-2]) == {"assistant_message"}
    assert (len(kinds) > 20) == by_token


def wait_for(http: httpx.Client, path: str) -> dict[str, Any]:
    """Poll a job until it has ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        job: dict[str, Any] = made(http.get(path))
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"{path} did not end")


def test_background_runs_and_batches_end(http: httpx.Client) -> None:
    """A message sent in the background and a batch are carried out; their rows say so."""
    agent = new_agent(http)
    body = {"messages": [{"content": "later"}]}
    run = made(http.post(f"/v1/agents/{agent['id']}/messages/async", json=body))
    assert run["background"]
    assert wait_for(http, f"/v1/runs/{run['id']}")["status"] == "completed"
    batch = made(http.post("/v1/messages/batches", json={"requests": [body | {"agent_id": agent["id"]}] * 2}))
    assert wait_for(http, f"/v1/messages/batches/{batch['id']}")["status"] == "completed"
    assert batch["id"] in [one["id"] for one in made(http.get("/v1/messages/batches"))]


def test_organizations_do_not_see_each_other(http: httpx.Client) -> None:
    """What belongs to one organization is 404 for another, whatever the verb; its own members share it."""
    assert made(http.get("/v1/admin/orgs/"))[0]["name"] == "default_org"
    other = made(http.post("/v1/admin/orgs/", json={"name": "other"}))["id"]
    stranger = made(http.post("/v1/admin/users/", json={"name": "eve", "organization_id": other}))["id"]
    colleague = made(http.post("/v1/admin/users/", json={"name": "bob"}))["id"]
    block = made(http.post("/v1/blocks/", json={"label": "l", "value": "v"}))["id"]
    agent = new_agent(http, block_ids=[block])["id"]
    path = f"/v1/agents/{agent}"
    assert made(http.get(path, headers={"user_id": colleague}))["id"] == agent
    eve = {"user_id": stranger}
    said = {"messages": [{"content": "hello"}]}
    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"name": "mine"}),
        ("DELETE", path, None),
        ("GET", f"/v1/blocks/{block}", None),
        ("POST", f"{path}/messages", said),
        ("POST", f"{path}/archival-memory", {"text": "t"}),
        ("POST", "/v1/messages/batches", {"requests": [said | {"agent_id": agent}]}),
        ("POST", "/v1/agents/", AGENT | {"block_ids": [block]}),
    ):
        assert http.request(method, where, json=body, headers=eve).status_code == 404, (method, where)
    assert made(http.get("/v1/agents/", headers=eve)) == []


def test_a_deleted_agent_is_gone_with_its_messages(http: httpx.Client) -> None:
    """DELETE answers in Letta's words; afterwards the agent is 404, also from the cache."""
    agent = new_agent(http)["id"]
    made(http.post(f"/v1/agents/{agent}/messages", json={"messages": [{"content": "hello"}]}))
    assert made(http.delete(f"/v1/agents/{agent}"))["message"] == f"Agent id={agent} successfully deleted"
    assert http.get(f"/v1/agents/{agent}").status_code == 404
    assert made(http.get("/v1/runs/", params={"agent_id": agent})) == []


def test_a_list_of_agents_holds_whole_states(http: httpx.Client) -> None:
    """A list's states are those of single GETs, each with its own blocks; limit and name select."""
    name = f"listed-{time.monotonic_ns()}"
    ids = [new_agent(http, name=name)["id"] for _ in range(3)]
    found = made(http.get("/v1/agents/", params={"name": name}))
    assert [one["id"] for one in found] == ids[::-1], "newest first"
    assert {block["id"] for block in found[0]["blocks"]}.isdisjoint(b["id"] for b in found[1]["blocks"])
    single = made(http.get(f"/v1/agents/{ids[0]}"))
    assert (single["blocks"], single.keys()) == (found[2]["blocks"], found[2].keys())
    assert len(made(http.get("/v1/agents/", params={"name": name, "limit": 2}))) == 2


def test_changing_a_block_changes_its_agents(http: httpx.Client) -> None:
    """A shared block's new value is in its agents' states at once, cache or not."""
    block = made(http.post("/v1/blocks/", json={"label": "shared", "value": "old"}))["id"]
    agent = new_agent(http, block_ids=[block], memory_blocks=[])["id"]
    assert made(http.patch(f"/v1/blocks/{block}", json={"value": "new"}))["value"] == "new"
    assert made(http.get(f"/v1/agents/{agent}"))["blocks"][0]["value"] == "new"
    assert made(http.delete(f"/v1/blocks/{block}"))
    assert made(http.get(f"/v1/agents/{agent}"))["blocks"] == []


HOSTILE = [
    rb'{"label": "NUL \u0000", "value": "v"}',
    rb'{"label": "half a surrogate \ud800", "value": "v"}',
    rb'{"label": NaN, "value": "v"}',
    rb'{"label": "l", "value": "v", "metadata": {"x": [NaN]}}',
    rb'{"label": "l", "value": "v", "limit": 1e30}',
    rb'{"label": "l", "value": "v", "limit": 4294967296}',
    b'{"label": "l", "value": "v", "metadata": {"x": ' + b"[" * 500 + b"]" * 500 + b"}}",
]


@pytest.mark.parametrize("body", HOSTILE)
def test_what_no_database_stores_is_422(http: httpx.Client, body: bytes) -> None:
    """Text, numbers and nesting that JSON carries and no database does are 422; the connection lives on."""
    answer = http.post("/v1/blocks/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert http.get("/v1/health/").status_code == 200


@pytest.mark.parametrize("path", ["agents", "blocks", "tools", "runs", "admin/users", "messages/batches"])
@pytest.mark.parametrize("limit", ["-1", "0", "99999999999999999999", "many"])
def test_a_bad_limit_is_422(http: httpx.Client, path: str, limit: str) -> None:
    """A list's limit has bounds, wherever there is a list."""
    assert http.get(f"/v1/{path}/", params={"limit": limit}).status_code == 422


def test_content_may_come_in_parts(http: httpx.Client) -> None:
    """A message's content is text, or parts of text, as in Letta."""
    path = f"/v1/agents/{new_agent(http)['id']}/messages"
    whole = made(http.post(path, json={"messages": [{"content": "one two"}]}))
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert (
        made(http.post(path, json={"messages": [{"content": parts}]}))["messages"][0]["content"]
        == (whole["messages"][0]["content"])
    )


def test_deleting_while_inserting(http: httpx.Client) -> None:
    """Passages put into agents that are deleted meanwhile: 200, 404 or 409, never 500."""
    agents = [new_agent(http)["id"] for _ in range(12)]
    statuses: list[int] = []

    def each(method: str, path: str, body: Any) -> None:
        with client(str(http.base_url)) as own:
            statuses.extend(
                own.request(method, f"/v1/agents/{agent}{path}", json=body).status_code for agent in agents
            )

    work = [("POST", "/archival-memory", {"text": "t"})] * 3 + [("DELETE", "", None)]
    threads = [threading.Thread(target=each, args=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 48
    assert set(statuses) <= {200, 404, 409}


def test_concurrent_updates_of_one_agent(agent_server: str) -> None:
    """Many PATCHes of one agent at once: each succeeds, and the last state is one of those asked for."""
    with client(agent_server) as http:
        blocks = [
            made(http.post("/v1/blocks/", json={"label": f"c{i}", "value": "v"}))["id"] for i in range(4)
        ]
        agent = new_agent(http)
        statuses: list[int] = []

        def change(i: int) -> None:
            with client(agent_server) as own:
                answer = own.patch(f"/v1/agents/{agent['id']}", json={"block_ids": blocks[: i % 4 + 1]})
                statuses.append(answer.status_code)

        threads = [threading.Thread(target=change, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 16
        left = [one["id"] for one in made(http.get(f"/v1/agents/{agent['id']}"))["blocks"]]
        assert sorted(left) in [sorted(blocks[:n]) for n in (1, 2, 3, 4)]


def postmaster(folder: Path) -> int:
    """The process id of the PostgreSQL on a folder."""
    return int((folder / "postmaster.pid").read_text().split()[0])


def test_data_survive_a_restart(tmp_path: Path) -> None:
    """Started twice on one folder: migrations run once, rows are still there; SIGTERM leaves no process.
    A second server on the folder while it is in use is refused, and harms nothing."""
    folder = tmp_path / "pg"
    for attempt in (1, 2):
        with running_server("--data-dir", str(folder), "--model-speed", "0") as server:
            assert re.search(r"\(PostgreSQL \d+\.\d+ embedded, simulated model\)$", server.ready.strip())
            command = [sys.executable, "-m", "agent_server", "--port", "0", "--data-dir", str(folder)]
            if attempt == 1:
                second = subprocess.run(command, capture_output=True, text=True, timeout=30)
                assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
                assert "in use" in second.stderr
            with client(server.url) as http:
                new_agent(http)
                assert made(http.get("/v1/agents/count")) == attempt
            pid = postmaster(folder)
            assert (server.stop(), server.complaints()) == (0, "")
        assert not is_alive(pid)


def wait_until(true: Callable[[], object], seconds: float = 10) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_server_takes_its_database_along(tmp_path: Path) -> None:
    """kill -9: nothing in the server can act, and still its PostgreSQL ends."""
    with running_server("--data-dir", str(tmp_path / "pg")) as server:
        pid = postmaster(tmp_path / "pg")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("after_s", [0.0, 0.6])
def test_a_server_killed_while_its_database_starts_leaves_nothing(after_s: float) -> None:
    """kill -9 when initdb is half-way: no PostgreSQL runs on, and its temporary folder is removed."""
    with victim(sys.executable, "-m", "agent_server", "--port", "0") as server:
        wait_until(lambda: list(server.temporary.glob("perfkit-pg-*/PG_VERSION")), 30)
        time.sleep(after_s)
        server.kill()
        assert not server.left()
        assert not list(server.temporary.glob("perfkit-pg-*"))


def test_a_signal_while_postgresql_starts_waits(tmp_path: Path) -> None:
    """SIGTERM when initdb or the postmaster is half-way, and again: the server ends, PostgreSQL with it."""
    folder = tmp_path / "pg"
    command = [sys.executable, "-m", "agent_server", "--port", "0", "--data-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: (folder / "PG_VERSION").exists())
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert (process.wait(30), process.stderr.read()) == (0, b"")
    assert not (folder / "postmaster.pid").exists()


def test_an_abandoned_stream_fails_its_run() -> None:
    """A client that leaves in the middle of a stream: the run ends as failed, and holds no connection."""
    options = ("--pool-size", "1", "--max-overflow", "0", "--model-speed", "0.5")
    with running_server(*options) as server, client(server.url) as http:
        agent = new_agent(http)["id"]
        body = {"messages": [{"content": "tell me"}], "stream_tokens": True}
        with http.stream("POST", f"/v1/agents/{agent}/messages/stream", json=body) as response:
            lines = response.iter_lines()  # kept: a generator that is let go closes its response
            assert next(lines).startswith("data: ")
            (run,) = made(http.get("/v1/runs/", params={"agent_id": agent}))
            assert run["status"] == "running"
        assert wait_for(http, f"/v1/runs/{run['id']}")["status"] == "failed"


def test_the_same_question_takes_another_time() -> None:
    """The words follow from the question, the times from the seed and the call: repeats are a distribution,
    and a server with the same seed draws it again."""

    async def first_tokens(seed: int) -> list[float]:
        model, waits = SimulatedModel(seed, 1), []
        for _ in range(5):
            stream = model.stream("hello")
            began = time.perf_counter()
            await anext(stream)
            waits.append(time.perf_counter() - began)
            await stream.aclose()  # type: ignore[attr-defined]
        return waits

    first, again = asyncio.run(first_tokens(7)), asyncio.run(first_tokens(7))
    assert max(first) - min(first) > 0.005
    assert first == pytest.approx(again, abs=0.02)


def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    """Alembic finds no difference between tables.py and a database made by the migrations, run twice."""

    async def differences() -> list[Any]:
        settings = Settings()
        engine = make_engine(async_url(f"sqlite:///{tmp_path}/a.db"), settings)
        await migrate(engine, settings)
        await migrate(engine, settings)
        async with engine.connect() as connection:
            found = await connection.run_sync(
                lambda c: compare_metadata(MigrationContext.configure(c), metadata)
            )
        await engine.dispose()
        return list(found)

    assert asyncio.run(differences()) == []


def test_without_indexes(tmp_path: Path) -> None:
    """--no-indexes drops them, --indexes makes them again, on the same database."""

    async def indexes(on: bool) -> set[str]:
        settings = Settings(indexes=on)
        engine = make_engine(async_url(f"sqlite:///{tmp_path}/b.db"), settings)
        await migrate(engine, settings)
        async with engine.connect() as connection:
            names = await connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'index'"))
        await engine.dispose()
        return {name for name in names if name in ("ix_passages_agent_id", "ix_messages_agent_id")}

    assert [len(asyncio.run(indexes(on))) for on in (True, False, True)] == [2, 0, 2]


def test_the_cache_keeps_no_stale_state() -> None:
    """A state read before a change and put after it is dropped; so is the oldest when there are too many."""
    cache = Cache("agent_state", enabled=True, capacity=2)
    reading = cache.reading()
    cache.forget("a")
    cache.put("a", {"id": "a"}, reading)
    assert cache.get("a") is None
    for name in "abc":
        cache.put(name, {"id": name}, cache.reading())
    assert [cache.get(name) is not None for name in "abc"] == [False, True, True]
    off = Cache("agent_state", enabled=False)
    off.put("a", {"id": "a"}, off.reading())
    assert off.get("a") is None


def test_a_kept_state_is_no_older_than_said() -> None:
    """Its age counts from before its rows were read, not from when it was put."""
    at_s = [0.0]
    cache = Cache("agent_state", enabled=True, max_age_s=1.0, clock=lambda: at_s[0])
    reading = cache.reading()
    at_s[0] = 0.6
    cache.put("a", {"id": "a"}, reading)
    at_s[0] = 0.9
    assert cache.get("a") is not None
    at_s[0] = 1.1
    assert cache.get("a") is None
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.slow
def test_instances_agree_on_an_agent_after_a_second(tmp_path: Path) -> None:
    """Three servers on one database, asked for agents all the time: what was changed or deleted is told as it
    is by all of them when `--cache-max-age-s` is over, and by the one that did it at once."""
    max_age_s = 0.5
    options = ("--instances", "3", "--cache-max-age-s", str(max_age_s), "--model-speed", "0")
    with running_server(*options) as server, client(server.url) as http:
        path = f"/v1/agents/{new_agent(http)['id']}"
        stale: list[str] = []
        for number in range(4):
            for _ in range(12):  # all of them keep it
                http.get(path)
            http.patch(path, json={"name": f"name {number}"}).raise_for_status()
            changed, answers = time.monotonic(), 0
            while answers < 30 or time.monotonic() < changed + 2 * max_age_s:
                asked = time.monotonic()
                name = http.get(path).json()["name"]
                stale += [name] * (name != f"name {number}" and asked > changed + max_age_s)
                answers += 1
        assert not stale
        http.delete(path).raise_for_status()
        time.sleep(max_age_s)
        assert {http.get(path).status_code for _ in range(12)} == {404}


def test_an_unexpected_error_is_500_with_an_id(tmp_path: Path) -> None:
    """500 has a trace id and no traceback, the log has both, and the connection goes on working."""
    file = tmp_path / "c.db"
    with running_server("--database-url", f"sqlite:///{file}", "--model-speed", "0") as server:
        with closing(sqlite3.connect(file)) as database, client(server.url) as http:
            database.execute("ALTER TABLE passages RENAME TO moved")
            database.commit()
            answer = http.post(f"/v1/agents/{new_agent(http)['id']}/archival-memory", json={"text": "t"})
            assert (answer.status_code, answer.json()["detail"]) == (500, "internal server error")
            assert "Traceback" not in answer.text
            assert http.get("/v1/health/").status_code == 200
        assert answer.json()["trace_id"] in server.complaints()


def test_the_server_ends_with_its_parent() -> None:
    """--stop-with-parent: when standard input closes, the server and its PostgreSQL end."""
    command = [sys.executable, "-m", "agent_server", "--port", "0", "--stop-with-parent"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert "ready" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def test_an_exhausted_pool_is_503() -> None:
    """One connection and many who want it: who waits too long gets 503 with a detail, not a traceback."""
    options = ("--pool-size", "1", "--max-overflow", "0", "--pool-timeout-s", "0.05", "--no-agent-cache")
    with running_server(*options, "--model-speed", "0") as server:
        with client(server.url) as http:
            tool = made(http.put("/v1/tools/", json={"source_code": TOOL}))["id"]
        answers: list[httpx.Response] = []

        def create() -> None:
            with client(server.url) as own:
                for _ in range(10):
                    answers.append(own.post("/v1/agents/", json=AGENT | {"tool_ids": [tool]}))

        threads = [threading.Thread(target=create) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {200, 503}
        assert "connection" in next(a for a in answers if a.status_code == 503).json()["detail"]
        assert server.complaints() == ""


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--database-url", "mysql://x/y"], 2, "postgresql"),
        (["--database-url", "not a url"], 2, "postgresql"),
        (["--database-url", "sqlite://"], 2, "in memory"),
        (["--database-url", "postgresql://u:hunter2@127.0.0.1:9/x"], 1, "does not answer"),
        (["--pool-size", "500"], 2, "--pool-size"),
        (["--database-url", "sqlite:///x.db", "--database-delay-ms", "5"], 2, "--database-delay-ms"),
        (["--database-url", "sqlite:///x.db", "--query-timeout-s", "1"], 2, "--query-timeout-s"),
        (["--database-url", "sqlite:///x.db", "--workers", "1"], 2, "only one"),
        (["--database-url", "sqlite:///x.db", "--read-replica"], 2, "--replica-url"),
        (["--replica-url", "postgresql://127.0.0.1/x"], 2, "--database-url"),
        (["--workers", "1", "--role", "api"], 2, "omit --role"),
        (["--prefill-messages", "5"], 2, "--prefill-agents"),
        (["--secure"], 2, "--password"),
        (["--port", "99999"], 2, "port"),
        (["--model-sped", "1"], 2, "--model-speed"),
    ],
)
def test_bad_options(options: list[str], code: int, says: str) -> None:
    """A bad option is told in words, exit code 2; a database that does not answer, 1; no secret is told."""
    command = [sys.executable, "-m", "agent_server", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_port_in_use_is_told(agent_server: str) -> None:
    """A port that is taken: one line, exit code 1."""
    port = agent_server.rpartition(":")[2]
    command = [sys.executable, "-m", "agent_server", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "choose another --host or --port" in done.stderr


def test_secure_wants_the_password() -> None:
    """--secure: without the password 401, with it (in either of Letta's spellings) served; health is open."""
    with running_server("--secure", "--password", "open sesame") as server, client(server.url) as http:
        assert http.get("/v1/agents/").status_code == 401
        assert http.get("/v1/health/").status_code == 200
        for good in ({"authorization": "Bearer open sesame"}, {"x-bare-password": "password open sesame"}):
            assert http.get("/v1/agents/", headers=good).status_code == 200
        assert http.get("/v1/agents/", headers={"x-bare-password": "password no"}).status_code == 401


def test_password_of_a_server_started_for_a_run_is_on_no_command_line(tmp_path: Path) -> None:
    """Others on the machine can read command lines: what may hold a password goes by the environment."""
    options = {"secure": True, "password": "open sesame", "database_url": f"sqlite:///{tmp_path}/secret.db"}
    with reference_server(options) as served, client(served.url) as http:
        commands = _command_lines()
        assert "agent_server" in commands
        assert "sesame" not in commands
        assert "secret.db" not in commands
        assert http.get("/v1/agents/", headers={"authorization": "Bearer open sesame"}).status_code == 200
        assert (tmp_path / "secret.db").exists()


def _command_lines() -> str:
    """The command lines of every process of this machine."""
    if not Path("/proc/self/cmdline").exists():
        return subprocess.check_output(["ps", "-ax", "-ww", "-o", "args="], text=True)
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)
