"""The reference server over real HTTP, on real PostgreSQL and on SQLite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server_fixture import AGENT, client, is_alive, start

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
    """What belongs to one organization is 404 for another; here seen through a key of no organization's."""
    orgs = made(http.get("/v1/admin/orgs/"))
    assert orgs[0]["name"] == "default_org"
    agent = new_agent(http)
    assert made(http.delete(f"/v1/agents/{agent['id']}"))["message"].endswith("successfully deleted")
    assert http.get(f"/v1/agents/{agent['id']}").status_code == 404


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


def test_data_survive_a_restart(tmp_path: Path) -> None:
    """Started twice on one folder: migrations run once, rows are still there; SIGTERM leaves no process."""
    for attempt in (1, 2):
        process = start("--data-dir", str(tmp_path / "pg"), "--model-speed", "0")
        try:
            assert "embedded PostgreSQL" in process.ready, process.stderr and process.stderr.read()
            with client(process.ready.split()[4]) as http:
                new_agent(http)
                assert made(http.get("/v1/agents/count")) == attempt
            postmaster = int((tmp_path / "pg" / "postmaster.pid").read_text().split()[0])
        finally:
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=20)
        assert (process.returncode, complaints) == (0, "")
        assert not is_alive(postmaster)


def test_the_server_ends_with_its_parent() -> None:
    """--stop-with-parent: when standard input closes, the server and its PostgreSQL end."""
    command = [sys.executable, "-m", "perfkit.server", "--port", "0", "--stop-with-parent"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert "ready" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def test_an_exhausted_pool_is_503() -> None:
    """One connection, held by row locks others wait for: who waits too long gets 503, not a traceback."""
    options = ("--pool-size", "1", "--max-overflow", "0", "--pool-timeout-s", "0.05", "--no-agent-cache")
    process = start(*options, "--model-speed", "0")
    try:
        url = process.ready.split()[4]
        with client(url) as http:
            tool = made(http.put("/v1/tools/", json={"source_code": TOOL}))["id"]
        statuses: list[int] = []

        def create() -> None:
            with client(url) as own:
                for _ in range(10):
                    statuses.append(own.post("/v1/agents/", json=AGENT | {"tool_ids": [tool]}).status_code)

        threads = [threading.Thread(target=create) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 503}
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--database-url", "mysql://x/y"], 2, "postgresql"),
        (["--database-url", "not a url"], 2, "postgresql"),
        (["--port", "99999"], 2, "port"),
        (["--model-sped", "1"], 2, "--model-speed"),
    ],
)
def test_bad_options(options: list[str], code: int, says: str) -> None:
    """A bad option is told in words, with exit code 2."""
    command = [sys.executable, "-m", "perfkit.server", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told(agent_server: str) -> None:
    """A port that is taken: one line, exit code 1."""
    port = agent_server.rpartition(":")[2]
    command = [sys.executable, "-m", "perfkit.server", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "choose another --port" in done.stderr


def test_secure_wants_the_password() -> None:
    """--secure: without the password 401, with it served; health stays open."""
    process = start("--secure", "--password", "open sesame", "--model-speed", "0")
    try:
        with client(process.ready.split()[4]) as http:
            assert http.get("/v1/agents/").status_code == 401
            assert http.get("/v1/health/").status_code == 200
            answer = http.get("/v1/agents/", headers={"authorization": "Bearer open sesame"})
            assert answer.status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=20)
