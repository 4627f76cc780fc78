"""Limits of the reference server: what is answered and counted when one is reached, retries, and findings."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from agent_server import Settings
from agent_server.database import async_url, look_at, make_engine
from agent_server.model import ModelUnavailable, SimulatedModel
from agent_server.model_calls import answer_tokens
from agent_server.services import Services
from perfkit import frames
from perfkit.observe import findings
from perfkit_probes import RequestTimes, Ring, request_scope
from tests.server_fixture import AGENT, RunningServer, client, running_server
from tests.test_jobs import until
from tests.test_server_side import Sample, at, run_with

TELL = {"messages": [{"role": "user", "content": "tell me"}]}
ASK = {"messages": [{"role": "user", "content": "how are you?"}]}


def error_of(response: httpx.Response) -> str:
    """The words of the error event of a stream that had begun well."""
    assert response.status_code == 200
    assert "event: error" in response.text
    return str(json.loads(response.text.strip().rpartition("data: ")[2])["message"])


def seen(http: httpx.Client, probe: str) -> list[tuple[float, str]]:
    """Values and labels of a probe."""
    told = http.get("/probe/samples", params={"limit": 50_000}).json()["samples"]
    rows = zip(told["probe"], told["value"], told["label"], strict=True)
    return [(value, label) for name, value, label in rows if name == probe]


def counted(http: httpx.Client, metric: str) -> list[str]:
    """The lines of a counter on the server's page of metrics."""
    return [line for line in http.get("/metrics").text.splitlines() if line.startswith(f"{metric}_total{{")]


def new_agent(http: httpx.Client) -> str:
    response = http.post("/v1/agents/", json=AGENT | {"include_base_tools": True}).raise_for_status()
    return str(response.json()["id"])


def test_a_slow_model_and_a_tool_that_hangs_are_given_up(tmp_path: Path) -> None:
    """504 that names the limit, its value and what to raise; of a stream an error event, of a batch its
    error. Each is counted, and so is the repeated call, which is a part of the request and in the log."""
    options = {"model-speed": 0.02, "model-timeout-s": 0.2, "model-retries": 1, "model-backoff-s": 0.05}
    options |= {"tool-hang-ms": 60_000, "tool-timeout-s": 0.1}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (
        running_server("--database-url", f"sqlite:///{tmp_path}/a.db", *given) as server,
        client(server.url) as http,
    ):
        agent = new_agent(http)
        model, tool = (http.post(f"/v1/agents/{agent}/messages", json=body) for body in (TELL, ASK))
        assert (model.status_code, tool.status_code) == (504, 504)
        words = "--model-timeout-s 0.2 reached: the model sent nothing for so long; use a faster model, or "
        expected = {"detail": f"{words}raise the limit", "limit": "model_timeout_s", "value": 0.2}
        assert model.json() == expected
        assert {key: tool.json()[key] for key in ("limit", "value")} == {
            "limit": "tool_timeout_s",
            "value": 0.1,
        }
        assert " model_retry;dur=" in model.headers["server-timing"]
        assert " tool;dur=" in tool.headers["server-timing"]
        for body, words in ((TELL, "--model-timeout-s 0.2"), (ASK, "--tool-timeout-s 0.1")):
            assert words in error_of(http.post(f"/v1/agents/{agent}/messages/stream", json=body))
        passage = http.post(f"/v1/agents/{agent}/archival-memory", json={"text": "a note"})
        assert (passage.status_code, passage.json()["limit"]) == (504, "model_timeout_s")
        _batch_fails(http, agent)
        assert {label for _, label in seen(http, "limit.reached")} == {"model", "tool"}
        assert {label for _, label in seen(http, "model.retry_ms")} == {"timeout"}
        assert len(counted(http, "count_limits_reached")) == 2
        assert any('reason="timeout"' in line for line in counted(http, "count_model_retries"))
        assert "attempt 1 of 2 to ask gpt-4o-mini: --model-timeout-s 0.2 reached" in server.complaints()
        assert "Traceback" not in server.complaints()


def _batch_fails(http: httpx.Client, agent: str) -> None:
    batch = http.post("/v1/messages/batches", json={"requests": [TELL | {"agent_id": agent}]}).json()["id"]

    def failed() -> Any:
        found = http.get(f"/v1/messages/batches/{batch}").json()
        return found if found["status"] == "failed" else None

    assert "--model-timeout-s" in until(failed, 30)["error"]


def test_requests_are_refused_or_given_up_by_the_servers_limits(tmp_path: Path) -> None:
    """One at once: the next gets 503 with Retry-After, but for health and metrics; and one that takes too
    long gets 504, before its response has begun and after. Who comes later is served."""
    options = ("--max-requests", "1", "--request-timeout-s", "5", "--model-speed", "0.03")
    with (
        running_server("--database-url", f"sqlite:///{tmp_path}/a.db", *options) as server,
        client(server.url) as http,
    ):
        agent, refused = new_agent(http), list[httpx.Response]()
        for path in ("messages", "messages/stream"):
            answers = _while_others_come(server, f"/v1/agents/{agent}/{path}", refused)
            if path == "messages":
                assert answers.status_code == 504
                assert (answers.json()["limit"], answers.json()["value"]) == ("request_timeout_s", 5)
            else:
                assert "--request-timeout-s 5 reached" in error_of(answers)
        assert refused
        assert {one.headers["retry-after"] for one in refused} == {"1"}
        assert (
            refused[0].json()["detail"].startswith("--max-requests 1 reached: so many requests are under way")
        )
        assert http.get("/v1/agents/").status_code == 200
        assert {label for _, label in seen(http, "limit.reached")} == {"request", "admission"}
        assert "Traceback" not in server.complaints()


def _while_others_come(server: RunningServer, path: str, refused: list[httpx.Response]) -> httpx.Response:
    """The answer to a message; what was refused meanwhile goes into a list."""
    answers: list[httpx.Response] = []

    def send() -> None:
        with client(server.url) as own:
            while not answers or answers[-1].status_code == 503:  # the others were there before it
                answers.append(own.post(path, json=TELL))

    thread = threading.Thread(target=send)
    thread.start()
    with client(server.url) as http:
        while thread.is_alive():
            time.sleep(0.02)
            response = http.get("/v1/agents/")
            refused += [response] * (response.status_code == 503)
            assert http.get("/v1/health/").status_code == 200
    thread.join()
    return answers[-1]


def test_a_slow_statement_is_cancelled_by_the_servers_limit(postgres: str) -> None:
    """504 that names the limit and its value, not a word of SQL; the schema is made without that limit."""
    url = async_url(postgres).set(database="limits")
    asyncio.run(_create_database(postgres, "limits"))
    given = url.set(drivername="postgresql").render_as_string(hide_password=False)
    options = ("--query-timeout-s", "0.2", "--slow-query-ms", "60000", "--database-url", given)
    with running_server(*options) as server, client(server.url) as http:
        agent = new_agent(http)
        answer = http.post(f"/v1/agents/{agent}/messages", json=TELL)
        assert (answer.status_code, answer.json()["limit"], answer.json()["value"]) == (
            504,
            "query_timeout_s",
            0.2,
        )
        assert "--query-timeout-s 0.2 reached: a statement took longer" in answer.json()["detail"]
        assert "pg_sleep" not in answer.text
        assert any('limit="query"' in line for line in counted(http, "count_limits_reached"))


async def _create_database(url: str, name: str) -> None:
    engine = make_engine(async_url(url), Settings())
    async with engine.connect() as connection:
        raw = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await raw.execute(sa.text(f"DROP DATABASE IF EXISTS {name}"))
        await raw.execute(sa.text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    await look_at(async_url(url).set(database=name))


# -- retries -----------------------------------------------------------------------------------------


@asynccontextmanager
async def model_of(folder: Path, **options: Any) -> AsyncIterator[Services]:
    """Services with a model that refuses a share of its calls."""
    settings = Settings(model_speed=0, **options)
    engine = make_engine(async_url(f"sqlite:///{folder}/a.db"), settings)
    services = Services(settings, engine, SimulatedModel(1, 0, settings.model_failure_share))
    services.ring = Ring()
    yield services
    await engine.dispose()


def test_pauses_between_attempts_double_up_to_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full jitter: each is drawn from 0 to twice the one before, at most the limit; then the error is raised.
    What was lost is a part of the request, and a sample each."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("agent_server.model_calls.random.uniform", uniform)
    options = {"model_retries": 4, "model_backoff_s": 0.01, "model_backoff_max_s": 0.03}

    async def work() -> tuple[RequestTimes, list[float]]:
        async with model_of(tmp_path, model_failure_share=1, **options) as services:
            times = RequestTimes("r", 0)
            with request_scope(times), pytest.raises(ModelUnavailable):
                await anext(answer_tokens(services, "m", "hello"))
            assert services.ring is not None
            return times, [one.value for one in services.ring.page().samples if one.probe == "model.retry_ms"]

    times, lost_ms = asyncio.run(work())
    assert drawn == [(0, 0.01), (0, 0.02), (0, 0.03), (0, 0.03)]
    assert (times.named_ns or {})["model_retry"] >= 90e6
    assert len(lost_ms) == 4
    assert sum(lost_ms) >= 90


def test_an_answer_after_retries_is_the_same_answer(tmp_path: Path) -> None:
    """A model that refuses every second call answers all the same, each word once."""

    async def answers(**options: Any) -> list[str]:
        async with model_of(tmp_path, model_retries=20, model_backoff_s=0.001, **options) as services:
            asked = [[token async for token in answer_tokens(services, "m", f"q{i}")] for i in range(20)]
            return ["".join(tokens) for tokens in asked]

    assert asyncio.run(answers()) == asyncio.run(answers(model_failure_share=0.5))


# -- rules: above their limit and below it -------------------------------------------------------------

OTHER = at([3], "limit.reached", 1, "something of its own")
RULES: dict[str, tuple[list[Sample], list[Sample]]] = {
    "model_timeouts": (at([3], "limit.reached", 0.5, "model"), OTHER),
    "tool_timeouts": (at([3], "limit.reached", 0.5, "tool"), OTHER),
    "request_timeouts": (at([3], "limit.reached", 0.5, "request"), OTHER),
    "requests_refused": (at([3], "limit.reached", 8, "admission"), OTHER),
    "model_retries": (
        at(range(5), "model.retry_ms", 50, "timeout") + at([3] * 100, "model.ttft_ms", 80),
        at(range(5), "model.retry_ms", 50, "timeout") + at([3] * 101, "model.ttft_ms", 80),
    ),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_speaks_above_its_limit_only(kind: str, tmp_path: Path) -> None:
    """Above the limit this finding and no other, with the limit's value; just below it none at all."""
    above, below = RULES[kind]
    (found,) = findings.judge(frames.measured(run_with(tmp_path / "above", above))).findings
    assert found.kind == kind
    assert (f"{above[0][2]:g}") in found.text
    assert found.text.endswith(".")
    assert findings.judge(frames.measured(run_with(tmp_path / "below", below))).findings == []
    few = at(range(4), "model.retry_ms", 50, "timeout")
    assert findings.judge(frames.measured(run_with(tmp_path / "few", few))).findings == []
