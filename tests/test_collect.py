"""The server's own samples in the run: fetched over real HTTP, nothing lost, on the run's clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import httpx
import pyarrow as pa
import pytest

from perfkit.converting import convert
from perfkit.drive import collect, spread
from perfkit.drive.collect import Collector
from perfkit.drive.local_server import reference_server
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.hosts import require_allowed_hosts
from perfkit.model import Target, Tokens, Workload
from perfkit.redaction import Redactor
from perfkit.store import Run, RunFolder, list_runs, read_probes
from perfkit.store.metadata import ProbeSource
from perfkit.store.words import describe_run
from perfkit_probes import Ring, SampleServer


@dataclass
class Probed:
    """A server with perfkit's probes and a Prometheus page; its clock is `shift_ns` ahead of ours."""

    ring: Ring = field(default_factory=Ring)
    instance: str = "a1"
    shift_ns: int = 0
    page: str = ""
    url: str = ""
    wrong: Callable[[BaseHTTPRequestHandler], None] | None = None
    seen_headers: list[str | None] = field(default_factory=list)
    answered: int = 0

    def fetched(self, times: int) -> None:
        """Wait until it has answered `times` more; of two, one was asked for after this call."""
        enough, deadline = self.answered + times, time.monotonic() + 30
        while self.answered < enough:
            assert time.monotonic() < deadline, "nobody asks any more"
            time.sleep(0.005)

    def samples(self, query: dict[str, list[str]]) -> bytes:
        """As the reference server answers `/probe/samples`."""
        page = self.ring.page(int(query["after"][0]), int(query["limit"][0]))
        names = ("t_ns", "probe", "value", "label", "request_id")
        columns: dict[str, list[Any]] = {n: [getattr(s, n) for s in page.samples] for n in names}
        columns["t_ns"] = [t + self.shift_ns for t in columns["t_ns"]]
        told = {"instance": self.instance, "next": page.next, "lost": page.lost, "samples": columns}
        told["also"] = self.ring.also
        return json.dumps(told | {"now_ns": time.monotonic_ns() + self.shift_ns}).encode()


@contextmanager
def probed(**options: Any) -> Iterator[Probed]:
    """Serve it from a thread."""
    served = Probed(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            served.seen_headers.append(self.headers.get("authorization"))
            try:
                self.answer(parts)
            finally:
                served.answered += 1

        def answer(self, parts: SplitResult) -> None:
            if served.wrong is not None:
                served.wrong(self)
                return
            body = served.page.encode() if parts.path == "/metrics" else served.samples(parse_qs(parts.query))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def collecting(
    tmp_path: Path, token: str | None = None, **target: Any
) -> Iterator[tuple[RunFolder, list[dict[str, Any]]]]:
    """A collector at work on a run folder; what it told at its end is in the list."""
    folder = RunFolder.create(tmp_path, "test")
    folder.write_meta({"state": "running", "schema": 1})
    redact = Redactor((token,) if token else ())
    collector = Collector(folder.path, Target(**target), time.monotonic_ns(), Tokens(token), redact)
    told: list[dict[str, Any]] = []
    collector.start()
    try:
        yield folder, told
    finally:
        told += collector.stop()
        folder.merge_probes()
        folder.close()


def own(served: Probed) -> dict[str, str]:
    """A target whose probes are on its own origin."""
    return {"url": served.url, "probes_url": served.url}


def table_of(folder: RunFolder) -> pa.Table:
    """What was collected."""
    return read_probes(Run(folder.path))


def test_nothing_is_lost_of_many_samples(tmp_path: Path) -> None:
    """5,000 samples a second for two seconds, a ring of 100,000: each of them once, in order, in time."""
    began = time.monotonic_ns()
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (folder, told):
        served.ring.add("before", 1)
        served.fetched(1)
        for number in range(100):
            for i in range(100):
                served.ring.add("n", 100 * number + i, "label", f"r{i}")
            time.sleep(0.02)
    table = table_of(folder)
    assert table["value"].to_pylist()[-10_000:] == list(range(10_000))
    assert len(table) <= 10_001
    assert told[0]["samples"] == len(table)
    assert (told[0]["lost"], told[0]["errors"]) == (0, 0)
    assert set(table["source"].to_pylist()) == {f"a1 ({served.url[7:]})"}
    t = table["t"].to_pylist()
    assert t == sorted(t)
    assert 0 <= t[0] < t[-1] <= time.monotonic_ns() - began
    assert abs(told[0]["offset_ms"]) <= told[0]["uncertainty_ms"] + 1, "one machine, one clock"


def test_what_a_ring_lost_is_told(tmp_path: Path) -> None:
    """A ring that is too small for its samples: the loss is a number in run.json."""
    with (
        probed(ring=Ring(10)) as served,
        collecting(tmp_path, probes_url=served.url) as (folder, told),
    ):
        served.fetched(1)
        for i in range(50):
            served.ring.add("n", i)
    assert (told[0]["samples"], told[0]["lost"]) == (10, 40)
    assert table_of(folder)["value"].to_pylist() == list(range(40, 50))


@pytest.mark.parametrize("shift_s", [3.0, -50.0])
def test_the_clock_of_another_machine_is_found(tmp_path: Path, shift_s: float) -> None:
    """Its offset is known within half a round trip, and samples are where they belong."""
    before = time.monotonic_ns()
    with (
        probed(shift_ns=int(shift_s * 1e9)) as served,
        collecting(tmp_path, probes_url=served.url) as (folder, told),
    ):
        begun = time.monotonic_ns()
        served.fetched(1)
        least = time.monotonic_ns() - begun
        served.ring.add("now", 1)
        most = time.monotonic_ns() - before
        served.fetched(2)
    off_ns = 1e6 * told[0]["uncertainty_ms"]
    assert told[0]["offset_ms"] == pytest.approx(1000 * shift_s, abs=told[0]["uncertainty_ms"])
    (t,) = table_of(folder)["t"].to_pylist()
    assert least - off_ns <= t <= most + off_ns


def test_a_server_that_restarts_is_followed(tmp_path: Path) -> None:
    """Another instance at the same address: its samples are taken from its beginning."""
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (folder, told):
        served.fetched(1)
        for i in range(500):
            served.ring.add("n", i)
        served.fetched(2)
        served.instance, served.ring = "b2", Ring()
        for i in range(700):
            served.ring.add("n", 1000 + i)
    assert table_of(folder)["value"].to_pylist() == [*range(500), *range(1000, 1700)]
    assert len(set(table_of(folder)["source"].to_pylist())) == 2
    assert told[0]["errors"] == 0


def _respond(status: int, body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return send


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            _respond(404, b""),
            "status 404; target.probes_url must be the base URL of a server",
        ),
        (_respond(401, b""), "status 401; name a variable with its token in target.probes_token_env"),
        (_respond(503, b""), "status 503; see the server's log"),
        (_respond(302, b""), "status 302; is target.probes_url right?"),
        (_respond(200, b"<html>"), "unexpected response"),
        (_respond(200, b'{"instance": 1}'), "unexpected response"),
        (_respond(200, b'{"instance":"a","now_ns":1,"next":1,"lost":0,"samples":{"t_ns":[1]}}'), "KeyError"),
        (lambda handler: handler.connection.close(), ""),
    ],
)
def test_a_server_without_probes_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, words: str
) -> None:
    """Whatever it answers: told in one line, no sample, no exception; the other source is still read."""
    monkeypatch.setattr(collect, "_TIMEOUT_S", 0.4)
    with (
        probed(wrong=wrong) as bad,
        probed() as good,
        collecting(tmp_path, probes_url=(bad.url, good.url)) as (folder, told),
    ):
        good.fetched(1)
        bad.fetched(1)
        good.ring.add("n", 7)
    assert told[0]["samples"] == 0
    assert told[0]["errors"] >= 1
    assert words in told[0]["error"]
    assert "\n" not in told[0]["error"]
    assert table_of(folder)["value"].to_pylist() == [7]


def test_samples_of_a_server_that_hangs_come_from_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the end, with the key it told, never with the target's token; an error without such a thread."""
    monkeypatch.setattr(collect, "_TIMEOUT_S", 0.4)
    ring = Ring(instance="a1")
    beside = SampleServer(ring)
    beside.start()
    with (
        probed(ring=ring) as served,
        collecting(tmp_path, token="secret", **own(served)) as (folder, told),
    ):
        served.fetched(1)
        served.wrong = lambda handler: time.sleep(0.6)
        served.fetched(2)
        ring.add("frozen", 1)
        served.fetched(2)
        ring.add("frozen", 2)
    assert table_of(folder)["value"].to_pylist() == [1, 2]
    assert (told[0]["errors"], told[0]["lost"]) == (0, 0)
    beside.stop()
    assert ring.also is None
    with probed(ring=ring) as served, collecting(tmp_path, **own(served)) as (_, told):
        served.fetched(1)
        served.wrong = lambda handler: time.sleep(0.6)
        served.fetched(2)
    assert "is the server too busy to answer?" in told[0]["error"]


def test_the_thread_with_samples_wants_its_key() -> None:
    """Who may not read the service's page reads nothing there; it answers nothing else, and ends at once."""
    before = threading.active_count()
    ring = Ring()
    ring.add("n", 7)
    beside = SampleServer(ring)
    beside.start()
    beside.start()
    assert ring.also is not None
    url = f"http://127.0.0.1:{ring.also['port']}"
    key = {"authorization": f"Bearer {ring.also['key']}"}
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{url}/probe/samples").status_code == 401
        assert client.get(f"{url}/probe/samples", headers={"authorization": "Bearer x"}).status_code == 401
        assert client.get(f"{url}/", headers=key).status_code == 404
        page = client.get(f"{url}/probe/samples?after=0&limit=10", headers=key).json()
        assert client.get(f"{url}/probe/samples?after=x", headers=key).json() == {}
    assert page["samples"]["value"] == [7]
    beside.stop()
    beside.stop()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("page", "also", "wanted"),
    [
        ("http://h:1/probe/samples", {"port": 2, "key": "k" * 32}, "http://h:2/probe/samples"),
        ("http://[::1]:1/probe/samples", {"port": 2, "key": "k" * 32}, "http://[::1]:2/probe/samples"),
        ("https://h/probe/samples", {"port": 2, "key": "k" * 32}, None),
        ("http://h/probe/samples", {"port": "2@evil", "key": "k" * 32}, None),
        ("http://h/probe/samples", {"port": 70_000, "key": "k" * 32}, None),
        ("http://h/probe/samples", {"port": 2, "key": "k\r\nx: y"}, None),
        ("http://h/probe/samples", {"port": 2}, None),
        ("http://h/probe/samples", "2", None),
    ],
)
def test_where_a_server_sends_us_is_its_own_host(page: str, also: Any, wanted: str | None) -> None:
    """Another port of it, never another host; what is not a port and a key is left alone, and so is TLS."""
    found = collect._beside(page, also)
    assert (found and found[0]) == wanted


def test_two_sources_that_fail_are_told_apart(tmp_path: Path) -> None:
    """On one host, too: each with the page that was fetched, and the option to look at."""
    with (
        probed(wrong=_respond(404, b"")) as bad,
        collecting(tmp_path, probes_url=bad.url, metrics_url=f"{bad.url}/stats?key=1") as (_, told),
    ):
        bad.fetched(2)
    words = [convert(ProbeSource, {"errors": 1} | {k: one[k] for k in ("page", "error")}, "").failure
             for one in told]  # fmt: skip
    assert words[0].startswith(f"{bad.url}/probe/samples: 1 fetches failed (status 404; target.probes_url")
    assert words[1].startswith(f"{bad.url}/stats?key=***: 1 fetches failed (status 404; target.metrics_url")


def test_nobody_there_is_told(tmp_path: Path) -> None:
    """A refused connection is an error of the source."""
    with collecting(tmp_path, probes_url="http://127.0.0.1:9") as (_, told):
        time.sleep(0.05)
    assert "refused" in told[0]["error"]


def test_segments_are_readable_before_the_end(tmp_path: Path) -> None:
    """A run that is killed has what was written until a second before."""
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (folder, _):
        served.fetched(1)
        served.ring.add("n", 1)
        served.fetched(4)
        assert read_probes(Run(folder.path))["value"].to_pylist() == [1]
        assert not (folder.path / "probes.parquet").exists()
    assert (folder.path / "probes.parquet").exists()
    assert not (folder.path / "probe_segments").exists()


def test_a_run_without_probes_has_an_empty_table(tmp_path: Path) -> None:
    """Older runs, and servers that tell nothing."""
    with collecting(tmp_path) as (folder, told):
        pass
    assert len(table_of(folder)) == len(told) == 0


PAGE = """# HELP requests Requests.
# TYPE requests counter
requests_total{{method="GET",path="/a"}} {count}
# TYPE temperature gauge
temperature 3.5
"""


def test_prometheus_pages_of_any_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, labels and values; what did not change is written at the first and the last fetch only."""
    monkeypatch.setattr(collect, "_METRICS_EVERY_S", 0.3)
    with (
        probed(page=PAGE.format(count=1)) as served,
        collecting(tmp_path, metrics_url=served.url + "/metrics") as (folder, told),
    ):
        served.fetched(2)
        served.page = PAGE.format(count=5)
        served.fetched(3)
    rows = table_of(folder).to_pylist()
    counts = [row for row in rows if row["probe"] == "requests_total"]
    assert {row["label"] for row in counts} == {'{method="GET",path="/a"}'}
    assert [row["value"] for row in counts] == [1, 5, 5]
    assert [row["value"] for row in rows if row["probe"] == "temperature"] == [3.5, 3.5]
    assert 0.2e9 < counts[1]["t"] - counts[0]["t"] < 1.2e9
    assert told[0]["errors"] == 0


def test_a_page_of_nonsense_is_told(tmp_path: Path) -> None:
    """Not every page at /metrics is Prometheus."""
    with (
        probed(page="{not prometheus}\n\x00 1 2 3 4") as served,
        collecting(tmp_path, metrics_url=served.url + "/metrics") as (_, told),
    ):
        time.sleep(0.1)
    assert "unexpected response" in told[0]["error"]


def test_the_token_is_sent_and_kept_nowhere(tmp_path: Path) -> None:
    """Probes of a server that wants a key get it; no file has it."""
    with probed() as served, collecting(tmp_path, "token-123", **own(served)) as (folder, told):
        served.fetched(1)
        served.ring.add("n", 1)
    assert set(served.seen_headers) == {"Bearer token-123"}
    assert "token-123" not in str(told)
    for file in folder.path.rglob("*"):
        assert file.is_dir() or b"token-123" not in file.read_bytes()


@pytest.mark.parametrize("name", ["probes_url", "metrics_url"])
def test_addresses_are_checked_before_the_run(name: str) -> None:
    """No address, a password in it, a stranger's machine: refused as a target would be."""
    for url, words in (("localhost:80", "give http"), ("http://u:p@localhost", "without a password")):
        given = {"scenario": "http_get", "target": {"url": "http://localhost", name: url}}
        with pytest.raises(BadInput, match=words):
            complete(given, "test")
    target = Target(url="http://localhost", **{name: ["http://example.com/x"]})
    with pytest.raises(BadInput, match=r"--allow-target example\.com"):
        require_allowed_hosts(Workload(scenario="http_get", target=target), ())
    require_allowed_hosts(Workload(scenario="http_get", target=target), ("example.com",))


# -- servers that would disturb the run --------------------------------------------------------------


def test_json_without_end_is_an_error_of_the_source(tmp_path: Path) -> None:
    """What the parser breaks down on is counted, and the source is asked again."""
    with (
        probed(wrong=_respond(200, b"[" * 200_000)) as served,
        collecting(tmp_path, probes_url=served.url) as (folder, told),
    ):
        served.fetched(1)
        served.wrong = None
        served.fetched(2)
        served.ring.add("n", 1)
    assert told[0]["errors"] >= 1
    assert "RecursionError" in told[0]["error"]
    assert table_of(folder)["value"].to_pylist() == [1]


IN_BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
IN_HEAD = b"HTTP/1.1 200 OK\r\nx: "


@pytest.mark.parametrize(("head", "words"), [(IN_BODY, "or 0.5 s"), (IN_HEAD, "after the end of the load")])
def test_an_answer_byte_by_byte_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, words: str
) -> None:
    """No part of it is late, in the body or in the head: the whole has a limit, and so has the end."""
    monkeypatch.setattr(collect, "_WHOLE_S", 0.5)
    monkeypatch.setattr(collect, "_STOP_S", 1.5)
    over = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(head)
            while not over.wait(0.1):
                handler.wfile.write(b"x")
        except OSError:
            return

    with probed(wrong=trickle) as served:
        with collecting(tmp_path, probes_url=served.url) as (_, told):
            time.sleep(0.1)
            began = time.monotonic()
        took_s = time.monotonic() - began
        over.set()
        time.sleep(0.2)
    assert took_s < 3
    assert words in told[0]["error"]


def test_instances_behind_one_address_are_told(tmp_path: Path) -> None:
    """Each numbers its samples itself, so they cannot be followed: an error, and none is taken twice."""
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (folder, told):
        rings, asked = {"a": Ring(), "b": Ring()}, []
        plain = served.samples

        def samples(query: dict[str, list[str]]) -> bytes:
            asked.append(1)
            served.instance = "ab"[len(asked) % 2]
            served.ring = rings[served.instance]
            return plain(query)

        served.samples = samples  # type: ignore[method-assign]
        for i in range(10):
            rings["a"].add("n", i)
            rings["b"].add("n", 100 + i)
        served.fetched(5)
    assert "several instances" in told[0]["error"]
    values = table_of(folder)["value"].to_pylist()
    assert len(values) == len(set(values))


def test_the_past_of_a_process_that_is_new_here_is_left_out(tmp_path: Path) -> None:
    """Another instance is asked from its beginning: what it saw before the run is none of the run's."""
    older = Ring()
    older.add("n", 1, t_ns=time.monotonic_ns() - 60 * 10**9)
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (folder, _):
        served.fetched(1)
        served.instance, served.ring = "b2", older
        older.add("n", 2)
    assert table_of(folder)["value"].to_pylist() == [2]


def test_a_clock_that_drifts_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offset is of the last fetches, not of the fastest one the run has had."""
    monkeypatch.setattr(collect, "_CLOCK_FETCHES", 2)
    with probed() as served, collecting(tmp_path, probes_url=served.url) as (_, told):
        served.fetched(1)
        plain = served.samples

        def slower(query: dict[str, list[str]]) -> bytes:
            time.sleep(0.02)  # every later round trip is longer
            return plain(query)

        served.shift_ns, served.samples = 10**9, slower  # type: ignore[method-assign]
        served.fetched(3)
    assert told[0]["offset_ms"] == pytest.approx(1000, abs=told[0]["uncertainty_ms"])
    assert told[0]["round_trip_ms"] == 2 * told[0]["uncertainty_ms"]


def test_a_secret_the_server_tells_is_kept_nowhere(tmp_path: Path) -> None:
    """A label, a request id or an error with the token in it: it leaves the text before it is written."""
    with probed() as served, collecting(tmp_path, "token-123", **own(served)) as (folder, told):
        served.fetched(1)
        served.ring.add("n", 1, "x" * 296 + "token-123", "id-token-123")
        served.fetched(2)
        served.instance, served.ring = "token-123", Ring()
    (row,) = table_of(folder).to_pylist()
    assert row["label"].endswith("***")
    assert row["request_id"] == "id-***"
    assert "token-" not in str(told)
    for file in folder.path.rglob("*"):
        assert file.is_dir() or b"token-123" not in file.read_bytes()


# -- Prometheus ---------------------------------------------------------------------------------------

OPEN = '# TYPE r counter\nr_total{a="b"} 3.0 # {trace_id="abc"} 1.0 1.0\n# EOF\n'


@pytest.mark.parametrize(("page", "errors"), [(OPEN, 0), (OPEN.replace("# EOF\n", ""), 1)])
def test_openmetrics_is_read_as_such(tmp_path: Path, page: str, errors: int) -> None:
    """By its content type: a page that was cut off (no EOF) is an error there, as it is none in the other."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/openmetrics-text; version=1.0.0")
        handler.send_header("content-length", str(len(page)))
        handler.end_headers()
        handler.wfile.write(page.encode())

    with (
        probed(wrong=send) as served,
        collecting(tmp_path, metrics_url=served.url + "/metrics") as (folder, told),
    ):
        time.sleep(0.1)
    assert (told[0]["errors"] > 0) == bool(errors)
    assert set(table_of(folder)["value"].to_pylist()) == (set() if errors else {3.0})
    assert "offset_ms" not in told[0], "the page tells no instants"


def test_a_value_that_is_none_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is unlike itself; it is written at the first and the last fetch only, as any other value."""
    monkeypatch.setattr(collect, "_METRICS_EVERY_S", 0.2)
    with (
        probed(page="x NaN\n") as served,
        collecting(tmp_path, metrics_url=served.url + "/metrics") as (folder, _),
    ):
        served.fetched(3)
    assert len(table_of(folder)) == 2


# -- whole runs ---------------------------------------------------------------------------------------


def test_a_server_without_the_page_changes_no_run(tmp_path: Path) -> None:
    """The reference server without its probes: the run is whole and valid, `show` has a line about it."""
    options = {"model_speed": 0, "database_url": f"sqlite:///{tmp_path / 'db'}", "probes": False}
    with reference_server(options) as served:
        given = {"scenario": "http_get", "target": {"url": served.url, "probes_url": served.url}}
        given |= {"params": {"path": "/v1/health"}, "users": {"count": 2, "iterations": 20}}
        workload, scenario, params = complete(given, "test")
        run = spread.execute(workload, scenario, params, data_dir=tmp_path)
    assert run.state == "complete"
    assert run.row_count() == 20
    assert run.meta.probes[0].error.startswith("status 404; ")
    assert "0 samples" in describe_run(run)
    assert "status 404" in describe_run(run)


def test_show_tells_what_came_from_where(tmp_path: Path) -> None:
    """Also when nothing went wrong: how many samples, and how far the clocks are apart."""
    with probed(shift_ns=3 * 10**9) as served:
        given = {"scenario": "http_get", "target": {"url": served.url, "probes_url": served.url}}
        given |= {"params": {"path": "/metrics"}, "users": {"count": 1, "duration_s": 0.5}}
        workload, scenario, params = complete(given, "test")
        run = spread.execute(workload, scenario, params, data_dir=tmp_path)
    (line,) = [line for line in describe_run(run).splitlines() if "samples, clock" in line]
    assert f"a1 ({served.url[7:]}): 0 samples, clock +" in line
    offset_ms = float(line.partition("clock ")[2].split()[0])
    assert offset_ms == pytest.approx(3000, abs=run.meta.probes[0].uncertainty_ms + 0.001)


def test_the_target_is_cleaned_up_after_an_interrupt_in_the_last_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a source is waited for: the run is aborted, and teardown has run."""
    torn = tmp_path / "torn"
    file = tmp_path / "making.py"
    file.write_text(
        "from pathlib import Path\n"
        "async def setup(session, params): return None\n"
        "async def step(session, state, rng): await session.get('/metrics')\n"
        f"async def teardown(session, state): Path({str(torn)!r}).touch()\n"
    )
    waiting = Collector.stop

    def interrupted(self: Collector) -> list[dict[str, Any]]:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        return waiting(self)

    monkeypatch.setattr(Collector, "stop", interrupted)
    with probed(page="x 1\n") as served, probed(wrong=lambda handler: time.sleep(1.5)) as slow:
        given = {"scenario": str(file), "target": {"url": served.url, "probes_url": slow.url}}
        workload, scenario, params = complete(given | {"users": {"count": 1, "iterations": 1}}, "test")
        run = spread.execute(workload, scenario, params, data_dir=tmp_path)
    assert (run.state, run.reason) == ("aborted", "interrupted")
    assert torn.exists()


def test_kill_9_leaves_the_samples_of_all_but_the_last_moments(tmp_path: Path) -> None:
    """A fetch each half second, a segment 0.8 s apart: what is older than 1.6 s is there."""
    with probed(page="x 1\n") as served:
        command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", "http_get"]
        command += ["--target", served.url, "-p", "path=/metrics", "-s", f"target.probes_url={served.url}"]
        command += ["-s", "users.count=1", "-s", "users.duration_s=30", "--data-dir", str(tmp_path)]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            deadline = time.monotonic() + 20
            while not any(read_probes(run).num_rows for run in list_runs(tmp_path)):
                assert time.monotonic() < deadline
                served.ring.add("early", 0)
                time.sleep(0.02)
            for number in range(200):
                served.ring.add("n", number)
                time.sleep(0.01)
        finally:
            killed = time.monotonic_ns()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    (run,) = list_runs(tmp_path)
    assert run.state == "aborted"
    kept = {row["value"] for row in read_probes(run).to_pylist() if row["probe"] == "n"}
    there = [sample for sample in served.ring.page(0, 10**6).samples if sample.probe == "n"]
    due = {sample.value for sample in there if sample.t_ns < killed - 16 * 10**8}
    assert len(due) > 20
    assert due <= kept
