"""Ring, metric registry and middleware: the parts any ASGI service may use."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from perfkit_probes import (
    INSTRUMENTS,
    MetricRegistry,
    ProbesMiddleware,
    Ring,
    add_time,
    current_request,
    timed,
)

# -- ring ------------------------------------------------------------------------------------------


@given(
    capacity=st.integers(1, 20),
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=20),
)
def test_ring_gives_each_sample_once_or_counts_it_as_lost(
    capacity: int, steps: list[tuple[int, int]]
) -> None:
    """Whatever the order of adding and reading: read + lost + unread = added, in order, none twice."""
    ring = Ring(capacity)
    added, seen, lost, after = 0, [], 0, 0
    for adding, limit in steps:
        for _ in range(adding):
            ring.add("n", added)
            added += 1
        page = ring.page(after, limit)
        assert len(page.samples) <= limit
        seen += [int(sample.value) for sample in page.samples]
        lost, after = lost + page.lost, page.next
    rest = ring.page(after, capacity)
    seen, lost = seen + [int(sample.value) for sample in rest.samples], lost + rest.lost
    assert seen == sorted(set(seen))
    assert len(seen) + lost == added


def test_ring_from_now_on_and_after_a_restart() -> None:
    """-1 means nothing of the past; a number beyond the end is of another process and gets everything."""
    ring = Ring(4)
    for i in range(6):
        ring.add("n", i)
    assert ring.page(-1) == ring.page(6)
    assert ring.page(-1).samples == []
    assert [sample.value for sample in ring.page(1_000_000).samples] == [2, 3, 4, 5]


def test_ring_takes_samples_from_many_threads() -> None:
    """Nothing is lost between threads that add at once."""
    ring = Ring(10_000)

    def add(number: int) -> None:
        for i in range(1000):
            ring.add("n", number * 1000 + i)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {sample.value for sample in ring.page(0, 10_000).samples} == set(range(8000))


# -- registry --------------------------------------------------------------------------------------


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Every metric a reader sees, by name."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}


def use(registry: MetricRegistry, name: str) -> None:
    """Record something in a metric, with all its attributes."""
    attributes = dict.fromkeys(INSTRUMENTS[name].attributes, "x")
    by_kind = {"counter": registry.add, "histogram": registry.record, "gauge": registry.set}
    by_kind[INSTRUMENTS[name].kind](name, 3, **attributes)


def test_instruments_have_their_name_unit_kind_attributes_and_buckets() -> None:
    """What the table says is what OpenTelemetry exports, for each instrument."""
    reader = InMemoryMetricReader()
    registry = MetricRegistry.of(MeterProvider([reader]))
    assert metrics_of(reader) == {}, "instruments are made when they are first used"
    for name in INSTRUMENTS:
        use(registry, name)
    found = metrics_of(reader)
    assert found.keys() == INSTRUMENTS.keys()
    for name, one in INSTRUMENTS.items():
        (point,) = found[name].data.data_points
        assert (found[name].unit, set(point.attributes)) == (one.unit, set(one.attributes))
        assert name.startswith({"counter": "count_", "histogram": "hist_", "gauge": "gauge_"}[one.kind])
        if one.kind == "histogram":
            assert tuple(point.explicit_bounds) == one.buckets
        if name.endswith("_ms"):
            assert one.unit == "ms"
            assert one.buckets is not None
            assert one.buckets[0] <= 1
            assert one.buckets[-1] >= 60_000


def test_a_service_has_metrics_of_its_own() -> None:
    """They are made once, by the factory, whoever asks; a name of the table is refused."""
    reader = InMemoryMetricReader()
    registry = MetricRegistry.of(MeterProvider([reader]))
    made = [
        registry.get_or_create_metric("count_cats", lambda meter: meter.create_counter("count_cats"))
        for _ in "ab"
    ]
    assert made[0] is made[1]
    made[0].add(3, {"colour": "black"})
    (point,) = metrics_of(reader)["count_cats"].data.data_points
    assert (point.value, dict(point.attributes)) == (3, {"colour": "black"})
    with pytest.raises(ValueError, match="count_user_message is a metric of perfkit_probes"):
        registry.get_or_create_metric("count_user_message", lambda meter: meter.create_counter("x"))


def test_one_registry_per_provider_from_many_threads() -> None:
    """However many threads ask at once, a provider has one registry and a metric is made once."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    found: list[MetricRegistry] = []
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        registry = MetricRegistry.of(provider)
        found.append(registry)
        for _ in range(200):
            registry.add("count_user_message")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    (point,) = metrics_of(reader)["count_user_message"].data.data_points
    assert point.value == 3200
    assert MetricRegistry.of(MeterProvider([InMemoryMetricReader()])) is not found[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: r.add("hist_ttft_ms"), "hist_ttft_ms is a histogram: it has 'record', not 'add'"),
        (lambda r: r.record("hist_ttft_ms", 1, modell="x"), "hist_ttft_ms has no attribute 'modell'"),
    ],
)
def test_registry_refuses_wrong_kinds_and_unknown_attributes(call: Any, words: str) -> None:
    """A misspelt attribute would be a second series nobody looks at."""
    registry = MetricRegistry.of(MeterProvider([InMemoryMetricReader()]))
    with pytest.raises((TypeError, ValueError), match=words):
        call(registry)


# -- middleware ------------------------------------------------------------------------------------


async def _work(request: Request) -> Response:
    with timed("db"):
        await asyncio.sleep(0.03)
    with timed("db_wait"):
        await asyncio.sleep(0.02)
    await asyncio.gather(_model(), _model())  # tasks inherit the request
    return Response("done", headers={"server-timing": "own;dur=1"})


async def _model() -> None:
    with timed("model"):
        await asyncio.sleep(0.01)


async def _named(request: Request) -> Response:
    with timed("billing"):
        await asyncio.sleep(0.02)
    async with timed("billing"):
        await asyncio.sleep(0.01)
    return Response("done")


async def _stream(request: Request) -> Response:
    async def chunks() -> Any:
        for _ in range(4):
            with timed("model"):
                await asyncio.sleep(0.02)
            yield b"x"

    return StreamingResponse(chunks())


async def _break(request: Request) -> Response:
    raise RuntimeError("broken")


async def _plain(request: Request) -> Response:
    return Response()


@dataclass
class Probed:
    """A small application inside the middleware, and what the middleware tells of its requests."""

    ring: Ring = field(default_factory=Ring)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def ask(self, path: str, headers: dict[str, Any] | None = None, method: str = "GET") -> httpx.Response:
        """The response to a request."""
        routes = [Route(f"/{f.__name__}/{{id}}", f) for f in (_work, _named, _stream, _break)]
        routes += [Route("/_tree/{path:path}", _plain), Route("/_any/{id}", _plain, methods=["GRAB", "TAKE"])]
        routes.append(Mount("/mounted", routes=[Route("/_work/{id}", _work)]))
        registry = MetricRegistry.of(self.provider)
        app = ProbesMiddleware(Starlette(routes=routes), ring=self.ring, registry=registry)

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(go())

    @cached_property
    def provider(self) -> MeterProvider:
        """The provider the metrics go to."""
        return MeterProvider([self.reader])


def parts_of(response: httpx.Response) -> dict[str, float]:
    """The Server-Timing header as numbers in ms."""
    entries = (entry.split(";dur=") for entry in response.headers["server-timing"].split(", "))
    return {name: float(ms) for name, ms in entries}


def test_parts_of_a_request_are_on_its_response_and_in_the_ring() -> None:
    """Each part has its time; concurrent tasks add up; the ring and the header agree; the id is kept."""
    probed = Probed()
    response = probed.ask("/_work/7", {"x-request-id": "abc-1"})
    parts = parts_of(response)
    assert response.headers["x-request-id"] == "abc-1"
    assert parts["own"] == 1, "the application's own entry stays"
    assert 30 <= parts["db"] < 60
    assert 20 <= parts["db_wait"] < 50
    assert 20 <= parts["model"] < 50, "two tasks of 10 ms"
    assert 60 <= parts["app"] < 200
    seen = {sample.probe: sample for sample in probed.ring.page().samples}
    assert {sample.request_id for sample in seen.values()} == {"abc-1"}
    assert {sample.label for sample in seen.values()} == {"GET /_work/{id} 200"}
    assert seen["request.db_ms"].value == pytest.approx(parts["db"], abs=0.001)
    assert "request.loop_lag_ms" not in seen, "parts that took no time are left out"


def test_a_stream_is_counted_to_its_last_byte() -> None:
    """The header ends where the response begins; the ring has the whole."""
    probed = Probed()
    response = probed.ask("/_stream/7")
    assert parts_of(response)["model"] < 10
    seen = {sample.probe: sample.value for sample in probed.ring.page().samples}
    assert seen["request.model_ms"] >= 80
    assert seen["request.app_ms"] >= 80


def test_every_endpoint_is_a_metric_by_its_route() -> None:
    """Failures and unknown paths too; never by the path itself, which holds ids."""
    probed = Probed()
    for path in ("/_work/1", "/_work/2", "/_break/1", "/nowhere/1"):
        probed.ask(path, {"x-project-id": "p1"})
    found = metrics_of(probed.reader)
    points = found["count_endpoint_requests"].data.data_points
    counted = {(p.attributes["endpoint_path"], p.attributes["status_code"]): p.value for p in points}
    assert counted == {("/_work/{id}", 200): 2, ("/_break/{id}", 500): 1, ("unmatched", 404): 1}
    assert {p.attributes["project.id"] for p in points} == {"p1"}
    times = {p.attributes["endpoint_path"]: p.sum for p in found["hist_endpoint_e2e_ms"].data.data_points}
    assert 120 <= times["/_work/{id}"] < 400


def test_no_client_can_invent_series() -> None:
    """Methods nobody knows are one, OpenTelemetry's `_OTHER`; a path inside a parameter is not told."""
    probed = Probed()
    probed.ask("/_tree/a/b/c")
    probed.ask("/mounted/_work/8")
    probed.ask("/mounted/_work/_work")
    probed.ask("/mounted/nowhere")
    for method in ("GRAB", "TAKE"):
        probed.ask("/_any/1", method=method)
    points = metrics_of(probed.reader)["count_endpoint_requests"].data.data_points
    counted = {(p.attributes["method"], p.attributes["endpoint_path"]): p.value for p in points}
    assert counted == {
        ("GET", "/_tree/{path}"): 1,
        ("GET", "/mounted/_work/{id}"): 2,
        ("GET", "/mounted"): 1,
        ("_OTHER", "/_any/{id}"): 2,
    }


@pytest.mark.parametrize("given_id", [None, "", "x" * 200, "two words", "caf\u00e9"])
def test_an_unusable_request_id_is_replaced(given_id: str | None) -> None:
    """An id goes into headers and files: one that is missing, too long or no plain text is made anew."""
    probed = Probed()
    response = probed.ask(
        "/_work/1", {} if given_id is None else {"x-request-id": given_id.encode("latin-1")}
    )
    assert len(response.headers["x-request-id"]) == 32
    assert probed.ring.page().samples[0].request_id == response.headers["x-request-id"]


def test_a_part_of_the_services_own_is_on_its_response_and_in_the_ring() -> None:
    """`timed("billing")`, as `with` and as `async with`, adds up under its name."""
    probed = Probed()
    response = probed.ask("/_named/7", {"x-request-id": "abc-2"})
    assert 30 <= parts_of(response)["billing"] < 100
    seen = {sample.probe: sample.value for sample in probed.ring.page().samples}
    assert seen["request.billing_ms"] == pytest.approx(parts_of(response)["billing"], abs=0.001)


@pytest.mark.parametrize("name", ["app", "rest", "loop_lag", "Billing", "a b", "a;b", "", "x" * 41])
def test_a_part_has_a_name_that_means_nothing_else(name: str) -> None:
    """It goes into a header and becomes a column: what breaks either is rejected, and what is taken."""
    with pytest.raises(ValueError, match="choose a name such as 'billing'"):
        timed(name)


def test_time_outside_of_a_request_goes_nowhere() -> None:
    """Background work may use the same code."""
    add_time("db", time.monotonic_ns())
    with timed("model"):
        assert current_request() is None
