"""Each scenario against the reference server: what it sends, that it cleans up, that its seed decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from perfkit.drive.scenario import load_scenario
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput, PerfkitError
from perfkit.store import Run
from tests.server_fixture import client


def run(url: str, data: Path, scenario: str, params: Mapping[str, Any], **more: Any) -> Run:
    """Carry out a scenario with small parameters."""
    given = {"scenario": scenario, "params": dict(params), "target": {"url": url}, **more}
    workload, loaded, checked = complete(given, "test")
    return execute(workload, loaded, checked, data_dir=data)


def rows_of(run: Run) -> pd.DataFrame:
    """All rows of a run that must have gone well."""
    rows = run.table().to_pandas()
    failed = rows[rows["error"].notna()]
    assert failed.empty, failed[["operation", "phase", "status", "error_text"]].to_string()
    assert run.state == "complete"
    assert run.meta.step_errors == ()
    return rows


def measured(rows: pd.DataFrame) -> dict[str, int]:
    """Measured requests by operation."""
    counts = rows[rows["phase"] == "measure"]["operation"].value_counts()
    return {str(name): int(count) for name, count in counts.items() if count}


def inventory(url: str) -> dict[str, int]:
    """How many things of each kind the server holds."""
    with client(url) as http:
        return {
            "agents": http.get("/v1/agents/count").json(),
            "blocks": len(http.get("/v1/blocks/?limit=1000").json()),
            "users": len(http.get("/v1/admin/users/?limit=1000").json()),
            "tools": sum(t["tool_type"] == "custom" for t in http.get("/v1/tools/?limit=1000").json()),
        }


PROFILES = ["reference", "letta-0.16"]


@pytest.mark.parametrize("profile", PROFILES)
def test_agent_mass_creation(agent_server: str, tmp_path: Path, profile: str) -> None:
    """users × agents_per_user creations, taking turns, each user a group; setup and teardown as said; nothing
    is left behind."""
    before = inventory(agent_server)
    params = {"users": 3, "agents_per_user": 4, "blocks_per_user": 2, "workers": 5, "profile": profile}
    rows = rows_of(run(agent_server, tmp_path, "agent_mass_creation", params))
    assert measured(rows) == {"create_agent": 12}
    groups = rows[rows["phase"] == "measure"]["group"].value_counts().to_dict()
    assert groups == {"user 0": 4, "user 1": 4, "user 2": 4}
    setup = rows[rows["phase"] == "setup"]["operation"].value_counts()
    assert (setup["create_user"], setup["upsert_tool"], setup["create_block"]) == (3, 2, 6)
    assert setup.get("create_key", 0) == (3 if profile == "reference" else 0)
    assert (rows["phase"] == "teardown").sum() == 12 + 24 + 3 + 2 + 6
    assert inventory(agent_server) == before


def test_keep_leaves_what_was_made(agent_server: str, tmp_path: Path) -> None:
    """With keep: true nothing is deleted; the agents have the tools and blocks the scenario gave them."""
    before = inventory(agent_server)
    params = {
        "users": 1,
        "agents_per_user": 3,
        "blocks_per_user": 2,
        "keep": True,
        "include_base_tools": False,
    }
    rows = rows_of(run(agent_server, tmp_path, "agent_mass_creation", params))
    assert "teardown" not in set(rows["phase"])
    after = inventory(agent_server)
    assert after["agents"] - before["agents"] == 3
    with client(agent_server) as http:
        agents = http.get("/v1/agents/?limit=3").json()
        for agent in agents:
            assert (len(agent["tools"]), len(agent["blocks"])) == (2, 4)
            http.delete(f"/v1/agents/{agent['id']}")


@pytest.mark.parametrize("profile", PROFILES)
def test_agent_mass_update(agent_server: str, tmp_path: Path, profile: str) -> None:
    """As many updates as claimed, half of each kind, every agent the same number, in an order of the seed."""
    before = inventory(agent_server)
    params = {"agents": 2, "updates_per_agent": 10, "blocks_per_agent": 3, "workers": 6, "profile": profile}
    rows = rows_of(run(agent_server, tmp_path, "agent_mass_update", params))
    assert measured(rows) == {"update_agent_tools": 10, "update_agent_blocks": 10}
    assert inventory(agent_server) == before


def test_the_seed_decides_the_order(agent_server: str, tmp_path: Path) -> None:
    """The same seed gives the same kind of update at each step, another seed another order."""
    params = {"agents": 2, "updates_per_agent": 10, "blocks_per_agent": 2, "workers": 4}

    def order(seed: int) -> list[str]:
        rows = rows_of(run(agent_server, tmp_path, "agent_mass_update", params, seed=seed))
        chosen = rows[rows["phase"] == "measure"].sort_values("step")
        return [f"{o} {b}" for o, b in zip(chosen["operation"], chosen["bytes_sent"], strict=True)]

    first, again, other = order(1), order(1), order(2)
    assert first == again
    assert first != other


@pytest.mark.parametrize("profile", PROFILES)
def test_archival_insertion(agent_server: str, tmp_path: Path, profile: str) -> None:
    """One burst: every agent gets its insertions, all started together."""
    before = inventory(agent_server)
    params = {"agents": 6, "inserts_per_agent": 2, "profile": profile}
    rows = rows_of(run(agent_server, tmp_path, "archival_insertion", params))
    assert measured(rows) == {"insert_passage": 12}
    first = rows[rows["phase"] == "measure"].sort_values("planned")["planned"].head(6)
    assert first.max() - first.min() < 50e6, "the six agents start within 50 ms"
    archives = rows[(rows["phase"] == "teardown") & rows["operation"].str.contains("archives")]
    assert len(archives) == (6 if profile == "letta-0.16" else 0)  # once each, however many passages
    assert inventory(agent_server) == before


@pytest.mark.parametrize("profile", PROFILES)
def test_user_journey(agent_server: str, tmp_path: Path, profile: str) -> None:
    """Each virtual user signs up once, makes one agent, and then sends messages."""
    before = inventory(agent_server)
    params = {"users": 3, "duration_s": 1.0, "think_low_s": 0.05, "think_high_s": 0.1, "profile": profile}
    rows = rows_of(run(agent_server, tmp_path, "user_journey", params))
    counts = measured(rows)
    assert (counts["create_user"], counts["create_agent"]) == (3, 3)
    assert counts["send_message"] > 6
    by_user = rows[rows["operation"] == "send_message"].groupby("user").size()
    assert len(by_user) == 3
    assert inventory(agent_server) == before


@pytest.mark.parametrize("profile", PROFILES)
def test_message_stream(agent_server: str, tmp_path: Path, profile: str) -> None:
    """Streams are read to their end, with one instant per event, in order, within the request."""
    params = {"agents": 2, "messages": 6, "workers": 2, "profile": profile}
    rows = rows_of(run(agent_server, tmp_path, "message_stream", params))
    assert measured(rows) == {"stream_message": 6}
    for row in rows[rows["operation"] == "stream_message"].itertuples():
        chunks = list(row.chunks)
        assert len(chunks) > 20
        assert chunks == sorted(chunks)
        assert chunks[-1] <= (row.done - row.sent) / 1000


@pytest.mark.parametrize("transport", ["wire", "httpx"])
def test_http_get(agent_server: str, tmp_path: Path, transport: str) -> None:
    """The smallest scenario, over either transport, in an open model."""
    arrivals = {"rate_per_s": 50, "duration_s": 1}
    target = {"url": agent_server, "transport": transport}
    workload, loaded, params = complete(
        {"scenario": "http_get", "target": target, "arrivals": arrivals}, "test"
    )
    rows = rows_of(execute(workload, loaded, params, data_dir=tmp_path))
    assert measured(rows) == {"get": 50}


def test_two_processes_share_one_setup(agent_server: str, tmp_path: Path) -> None:
    """With two processes the work is done once, by both, on what one setup made."""
    params = {"users": 2, "agents_per_user": 10, "blocks_per_user": 1, "workers": 4}
    rows = rows_of(run(agent_server, tmp_path, "agent_mass_creation", params, processes=2))
    assert measured(rows) == {"create_agent": 20}
    assert sorted(rows[rows["phase"] == "measure"]["step"]) == list(range(20))
    assert set(rows[rows["phase"] == "measure"]["worker"]) == {0, 1}
    assert rows["seq"].is_unique


def test_a_bad_profile_is_refused() -> None:
    """An unknown profile names the known ones."""
    with pytest.raises(BadInput, match=r"letta-0.16"):
        load_scenario("user_journey").params({"profile": "letta-0.61"})


def test_a_wrong_organization_fails_in_setup(agent_server: str, tmp_path: Path) -> None:
    """What the server refuses in setup ends the run with one line that says what it answered."""
    with pytest.raises(PerfkitError, match=r"setup of archival_insertion failed.*404.*Organization"):
        run(agent_server, tmp_path, "archival_insertion", {"organization_id": "org-x"})
    (left,) = (tmp_path / "runs").iterdir()
    assert Run(left).state == "aborted"


def test_letta_asks_for_the_organization(agent_server: str, tmp_path: Path) -> None:
    """The letta profile finds the server's organization and sends it with each new user."""
    with httpx.Client(base_url=agent_server, trust_env=False) as http:
        organization = http.get("/v1/admin/orgs/").json()[0]["id"]
    params = {"agents": 1, "profile": "letta-0.16", "keep": True}
    rows_of(run(agent_server, tmp_path, "archival_insertion", params))
    with client(agent_server) as http:
        users = http.get("/v1/admin/users/?limit=1000").json()
    assert users[-1]["organization_id"] == organization


class AsLetta(BaseHTTPRequestHandler):
    """Says it is Letta, and refuses the path that its server names; organizations it has none."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        refused, status = self.server.refusing  # type: ignore[attr-defined]
        told: Any = {"id": "user-1"}
        if self.path == "/v1/health/":
            told = {"version": "0.16.8", "status": "ok"}
        elif self.path == "/v1/admin/orgs/":
            told = []
        elif self.path == refused:
            told = {"detail": "organization_id: field required"}
        body = json.dumps(told).encode()
        self.send_response(status if self.path == refused else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        """Nothing."""


USERS, KEYS, AGENTS = "/v1/admin/users/", "/v1/admin/users/keys", "/v1/agents/"
TO_LETTA = "Letta 0.16.8: add -p profile=letta-0.16"


@pytest.mark.parametrize(
    ("profile", "refused", "status", "organization", "words"),
    [
        ("reference", USERS, 422, "org-1", TO_LETTA),
        ("reference", KEYS, 404, "org-1", TO_LETTA),
        ("letta-0.16", AGENTS, 422, "org-1", "Letta 0.16.8: has it model"),
        ("letta-0.16", AGENTS, 404, "org-1", "Letta 0.16.8: has it model"),
        ("letta-0.16", AGENTS, 500, "org-1", r"answered 500: [^;]*$"),
        ("letta-0.16", "", 0, None, "no organization; .* -p organization_id="),
    ],
)
def test_another_server_than_the_profile_s_says_what_to_do(
    tmp_path: Path, profile: str, refused: str, status: int, organization: str | None, words: str
) -> None:
    """A Letta that refuses (404, 422): its version, and the parameters that are meant for it; a fault of its
    own (500) is no reason to name them. One without an organization is told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), AsLetta) as server:
        server.refusing = refused, status  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            params = {"agents": 1, "profile": profile, "organization_id": organization}
            with pytest.raises(PerfkitError, match=words):
                run(url, tmp_path, "archival_insertion", params)
        finally:
            server.shutdown()
            thread.join()
