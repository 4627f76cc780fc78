"""The reference server watched by its own probes: metrics, samples, findings of provoked troubles."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from perfkit import frames
from perfkit.drive.running import checked, run_repeats
from perfkit.drive.workloads import read_yaml
from perfkit.observe import findings
from perfkit.observe.recording import record
from perfkit_probes import INSTRUMENTS
from tests.server_fixture import AGENT, client, running_server

FOLDER = Path(__file__).parents[1] / "params" / "experiments"
SAID = {"messages": [{"role": "user", "content": "how are you?"}]}


def drive(http: httpx.Client) -> None:
    """Use every kind of endpoint, so that every metric has something to tell; also break a pool."""

    def post(path: str, body: dict[str, Any]) -> httpx.Response:
        while (response := http.post(path, json=body)).status_code == 503:
            pass  # on a busy machine its scheduler may have the only connection for that long
        return response.raise_for_status()

    agent = post("/v1/agents/", AGENT | {"include_base_tools": True}).json()["id"]
    for path in ("messages", "messages/stream"):
        post(f"/v1/agents/{agent}/{path}", SAID)
    post(f"/v1/agents/{agent}/archival-memory", {"text": "a note"})
    http.get("/v1/agents/agent-none")
    threads = [
        threading.Thread(target=lambda: http.post(f"/v1/agents/{agent}/messages", json=SAID))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def busy() -> Iterator[httpx.Client]:
    """A server that has been driven, with a pool so small that some gave up on it."""
    options = ("--model-speed", "0", "--pool-size", "1", "--max-overflow", "0", "--pool-timeout-s", "0.02")
    with running_server(*options) as server, client(server.url) as http:
        drive(http)
        time.sleep(0.3)
        yield http


def test_every_metric_is_moved_by_real_traffic(busy: httpx.Client) -> None:
    """On /metrics each instrument has a sample, by the names OpenTelemetry gives them there."""
    page = busy.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(page.text)}
    for name, one in INSTRUMENTS.items():
        shown = name + ("_milliseconds" if one.unit == "ms" else "")
        assert shown in families, name
        assert families[shown].samples, name
    endpoints = {s.labels["endpoint_path"] for s in families["count_endpoint_requests"].samples}
    assert {"/v1/agents", "/v1/agents/{agent_id}/messages", "/v1/agents/{agent_id}"} <= endpoints
    tools = families["count_tool_execution"].samples
    assert {s.labels["tool_name"] for s in tools} == {"conversation_search"}
    errors = families["count_db_pool_connection_errors"].samples
    assert {s.labels["exception_type"] for s in errors} == {"TimeoutError"}


def test_step_times_are_milliseconds() -> None:
    """A step of some seconds is some thousands, not billions as it once was."""
    with running_server("--model-speed", "0.1") as server, client(server.url) as http:
        agent = http.post("/v1/agents/", json=AGENT).json()["id"]
        began = time.monotonic()
        http.post(f"/v1/agents/{agent}/messages", json=SAID)
        took_ms = 1000 * (time.monotonic() - began)
        families = {f.name: f for f in text_string_to_metric_families(http.get("/metrics").text)}
        samples = families["hist_step_execution_time_ms_milliseconds"].samples
        (total,) = (s.value for s in samples if s.name.endswith("_sum"))
    assert 0.7 * took_ms < total <= took_ms


def test_samples_are_keyed_by_the_request(busy: httpx.Client) -> None:
    """A request's own id is on its response, with Server-Timing, and on its samples."""
    answer = busy.get("/v1/agents/", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    names = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert names == ["app", "db", "db_wait", "loop_lag", "model"]
    page = busy.get("/probe/samples", params={"limit": 50_000}).json()
    columns = page["samples"]
    mine = [p for p, i in zip(columns["probe"], columns["request_id"], strict=True) if i == "mine-1"]
    assert {"request.app_ms", "request.db_ms"} <= set(mine)
    assert abs(page["now_ns"] - time.monotonic_ns()) < 5e9
    assert {"pool.checked_out", "loop.lag_ms"} <= set(columns["probe"])


def test_looking_is_not_traffic(busy: httpx.Client) -> None:
    """Who reads the metrics and the samples is in neither, or an idle server would seem busy."""
    for _ in range(2):
        page, samples = busy.get("/metrics").text, busy.get("/probe/samples?limit=50000").json()["samples"]
    assert "server-timing" not in busy.get("/metrics").headers
    assert 'endpoint_path="/v1/agents"' in page
    for path in ("/metrics", "/probe/samples"):
        assert f'endpoint_path="{path}"' not in page
        assert not any(path in (label or "") for label in samples["label"])


def test_probes_want_the_password_of_a_secure_server() -> None:
    """401 without it, on both pages; and --no-probes has neither."""
    with running_server("--secure", "--password", "sesame") as server, client(server.url) as http:
        for path in ("/metrics", "/probe/samples"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"authorization": "Bearer sesame"}).status_code == 200
    with running_server("--no-probes") as server, client(server.url) as http:
        assert http.get("/metrics").status_code == 404
        assert "server-timing" not in http.get("/v1/health/").headers


def test_a_server_that_leaks_says_what_and_where(tmp_path: Path) -> None:
    """Memory, files and tasks by the message, calls that wait for a thread, with the code that does it; time
    for a lock is in no part of a request. At debug level its log has a line for each check of the loop."""
    options = {"leak-memory-mb": 3, "leak-files": 3, "leak-tasks": 4, "leak-threads": 1}
    options |= {"executor-ms": 100, "lock-ms": 20}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    given += [
        "--model-speed",
        "0",
        "--log-level",
        "debug",
        "--database-url",
        f"sqlite:///{tmp_path / 'a.db'}",
    ]
    with running_server(*given) as server, client(server.url) as http, ThreadPoolExecutor(8) as users:
        agent = http.post("/v1/agents/", json=AGENT).json()["id"]
        told = list(users.map(lambda _: http.post(f"/v1/agents/{agent}/messages", json=SAID), range(60)))
        columns = http.get("/probe/samples", params={"limit": 50_000}).json()["samples"]
        assert " ms late, " in server.stderr.read_text()
    assert {one.status_code for one in told} == {200}
    parts = [dict(part.split(";dur=") for part in one.headers["server-timing"].split(", ")) for one in told]
    assert min(float(one["app"]) - float(one["db"]) - float(one["loop_lag"]) for one in parts) >= 100
    seen: dict[str, list[tuple[float, str]]] = {}
    for name, value, label in zip(columns["probe"], columns["value"], columns["label"], strict=True):
        seen.setdefault(name, []).append((value, label))
    grown = {
        name: seen[name][-1][0] - seen[name][0][0] for name in ("process.rss_mb", "process.fds", "loop.tasks")
    }
    assert grown["process.rss_mb"] > 60
    assert grown["process.fds"] > 60
    assert grown["loop.tasks"] > 80
    assert "troubles.py" in seen["loop.tasks"][-1][1]
    assert "_wait_in_thread" in seen["process.threads"][-1][1]
    assert any(value >= 3 and "_hold_thread" in label for value, label in seen["executor.queue"])


def test_metrics_are_sent_to_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_EXPORTER_OTLP_ENDPOINT set they arrive there, by OTLP over HTTP."""
    got: list[ExportMetricsServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(ExportMetricsServiceRequest.FromString(_plain(body, self.headers)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    try:
        with running_server() as watched, client(watched.url) as http:
            http.get("/v1/agents/")
            time.sleep(0.8)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    metrics = [
        m for request in got for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics
    ]
    assert {"count_endpoint_requests", "hist_endpoint_e2e_ms"} <= {metric.name for metric in metrics}


def _plain(body: bytes, headers: Any) -> bytes:
    import gzip

    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


# -- experiments: each provokes one trouble, and that is what is found ------------------------------

#: params/experiments/NAME.yaml, and the kinds of findings that must appear, no other.
EXPERIMENTS: dict[str, set[str]] = {
    "slow_database": {"slow_database"},
    "n_plus_one": {"n_plus_one"},
    "hot_row": {"lock_waits"},
    "statement_timeout": {"statement_timeouts"},
    "killed_connections": {"lost_connections"},
    "pool_overflow": {"pool_overflow"},
    "healthy": set(),
    "pool_of_2": {"pool_exhausted"},
    "leak": {"connection_leak"},
    "blocking_call": {"loop_blocked"},
    "slow_model": {"slow_model"},
    "cache_off": {"cache_misses"},
    "index_off": {"missing_index"},
    "index_on": set(),
    "memory": {"memory_growth"},
    "files": {"descriptors"},
    "tasks": {"tasks_growth"},
    "threads": {"threads_growth"},
    "executor": {"executor_queue"},
    "lock": {"unowned_time"},
    "frozen": {"loop_blocked", "failing"},
    "leak_growth": {"connection_leak"},
    "slow_query": {"slow_database"},
    "query_timeout": {"statement_timeouts", "failing"},
    "model_timeout": {"model_timeouts", "failing"},
    "tool_timeout": {"tool_timeouts", "failing"},
    "request_timeout": {"request_timeouts", "failing"},
    "model_retries": {"model_retries"},
    "admission": {"requests_refused", "failing"},
}
#: What the words of an experiment's finding must name.
NAMED = {
    "blocking_call": ("jobs.py", "tokens"),
    "leak": ("maybe_leak",),
    "slow_database": ("SELECT 1 took",),
    "n_plus_one": ("POST /v1/agents/{agent_id}/messages/stream", "60 × `SELECT users.name FROM users"),
    "hot_row": (
        "`UPDATE organizations SET",
        "of POST /v1/agents/{agent_id}/messages/stream",
        "idle in transaction",
    ),
    "statement_timeout": ("57014", "`SELECT pg_sleep"),
    "killed_connections": ("6 database connections", "pg_terminate_backend"),
    "pool_overflow": ("pool_size=",),
    "leak_growth": ("maybe_leak",),
    "slow_query": ("`SELECT pg_sleep", "POST /v1/agents/{agent_id}/messages/stream"),
    "query_timeout": ("--query-timeout-s",),
    "model_timeout": ("--model-timeout-s",),
    "tool_timeout": ("--tool-timeout-s",),
    "request_timeout": ("--request-timeout-s",),
    "model_retries": ("× unavailable",),
    "admission": ("--max-requests",),
    "index_off": (
        "of POST /v1/agents/{agent_id}/messages/stream",
        "Seq Scan on messages, filter",
        "(agent_id)",
    ),
}


def test_the_guide_lists_every_experiment_and_finding() -> None:
    """One table leads from a trouble to its experiment, its finding and what to do."""
    table = (FOLDER.parents[1] / "docs" / "server.md").read_text().partition("## From trouble to finding")[2]
    named = set(re.findall(r"`([a-z_0-9]+)`", table))
    assert {file.stem for file in FOLDER.glob("*.yaml")} <= named
    rules = "".join(file.read_text() for file in Path(findings.__file__).parent.glob("*.py"))
    assert set(re.findall(r'(?:Finding\(\s*|kind, text = |kind = )"([a-z_]+)"', rules)) <= named


def test_every_experiment_is_tested() -> None:
    """A file nobody runs may be wrong."""
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*EXPERIMENTS, "one_instance", "three_instances"}


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_right_finding_and_no_other(name: str, tmp_path: Path) -> None:
    """A real run against a server with that trouble."""
    given = read_yaml(FOLDER / f"{name}.yaml") | {"thresholds": ["findings = 0", "loop_lag max < 1 us"]}
    (run,) = run_repeats(checked(given, name, ()), tmp_path, show_progress=False, look=record)
    assert [one.errors for one in run.meta.probes] == [0] * given["server"].get("instances", 1)
    judged = findings.judge(frames.measured(run))
    assert judged.probed
    assert {one.kind for one in judged.findings} == EXPERIMENTS[name], judged.findings
    assert run.results.findings == tuple(judged.findings)
    zero, lag = run.meta.thresholds
    assert (zero.value, zero.ok, lag.ok) == (len(judged.findings), not judged.findings, False)
    assert lag.value is not None
    for words in NAMED.get(name, ()):
        assert words in judged.findings[0].text


@pytest.mark.drill  # of two free cores, which a machine that is busy with other tests has not
@pytest.mark.parametrize("name", ["one_instance", "three_instances"])
def test_one_process_is_the_bottleneck_and_three_are_not(name: str, tmp_path: Path) -> None:
    """Of this finding only: where servers, client and database share few cores, others may be true too.

    The limits are lower than the report's: on such a machine one process does not get a whole core.
    """
    (run,) = run_repeats(checked(read_yaml(FOLDER / f"{name}.yaml"), name, ()), tmp_path, show_progress=False)
    assert [one.errors for one in run.meta.probes] == [0] * (3 if name == "three_instances" else 1)
    limits = findings.Limits(cpu_share=0.7, cpu_seconds=2)
    found = {one.kind for one in findings.judge(frames.measured(run), limits).findings}
    assert ("cpu_bound" in found) == (name == "one_instance")
