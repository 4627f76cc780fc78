"""The server's probes, put together: what watches it, and the two pages that show what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header, HTTPException, Query, Request
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import Response

from agent_server.cache import Cache
from agent_server.services import Services, answer
from agent_server.settings import Settings
from perfkit_probes import MetricRegistry, PoolMonitor, Ring, StatementMonitor, Watchdog, watch_postgres

router = APIRouter()
#: Asking what was seen is nothing to be seen.
UNWATCHED = frozenset(("/metrics", "/probe/samples"))


class Observing:
    """Everything that watches one application; `start` and `stop` with it.

    Metrics stand on `/metrics`; with OTEL_EXPORTER_OTLP_ENDPOINT in the environment they are also sent there,
    with OpenTelemetry's own settings (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
    """

    def __init__(self, settings: Settings, services: Services) -> None:
        self.instance = uuid4().hex[:8]
        self.ring = Ring(instance=self.instance)
        self.page = CollectorRegistry()
        readers: list[MetricReader] = [PrometheusMetricReader(registry=self.page, scope_info_enabled=False)]
        if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
        ):
            readers.append(_otlp_reader())
        resource = Resource.create({"service.name": "perfkit-server", "service.instance.id": self.instance})
        # no exemplars: there is no tracing here, and looking for a trace makes each record slower
        self.provider = MeterProvider(
            readers, resource=resource, shutdown_on_exit=False, exemplar_filter=AlwaysOffExemplarFilter()
        )
        self.registry = MetricRegistry.of(self.provider)
        engines = {"main": services.engine}
        if services.replica is not None:
            engines["replica"] = services.replica.engine
        self._statements = StatementMonitor(*engines.values(), ring=self.ring)
        self._monitors: list[PoolMonitor | StatementMonitor] = [
            *(self._pool(name, engine, settings) for name, engine in engines.items()),
            self._statements,
        ]
        self._services, self._settings = services, settings
        services.registry, services.ring = self.registry, self.ring
        self._watchdog = Watchdog(
            ring=self.ring,
            registry=self.registry,
            hang_after_s=settings.hang_after_s,
            check_every_s=settings.hang_check_s,
            also=self._sample,
            trace_memory=settings.trace_memory,
            serve_on=settings.host,
        )
        self.blocked_ns = self._watchdog.blocked_ns
        self._looking: asyncio.Task[None] | None = None
        self._caches = [_CacheCounts(self.ring, cache) for cache in services.caches]

    def _pool(self, name: str, engine: AsyncEngine, settings: Settings) -> PoolMonitor:
        return PoolMonitor(
            engine, name, ring=self.ring, registry=self.registry, leak_after_s=settings.leak_after_s
        )

    def start(self) -> None:
        """Begin to watch; call it on the loop that serves."""
        for monitor in self._monitors:
            monitor.start()
        self._watchdog.start()
        url = self._services.engine.url
        if url.get_backend_name() == "postgresql":
            self._looking = asyncio.create_task(watch_postgres(url, self.ring, self._statements))

    async def stop(self) -> None:
        """Stop watching; metrics not yet sent are sent."""
        self._watchdog.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for monitor in self._monitors:
            monitor.stop()
        # a collector that does not answer must hold up neither the loop nor the end of the server for long
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self.provider.shutdown, 1500), 2)

    def _sample(self) -> None:
        """From the watchdog's thread, ten times a second: it comes on time also when the loop is blocked."""
        for watched in (*self._monitors, *self._caches):
            watched.sample()


class _CacheCounts:
    """Hits and misses of a cache, by the second."""

    def __init__(self, ring: Ring, cache: Cache) -> None:
        self._ring, self._cache = ring, cache
        self._before = self._counts()

    def sample(self) -> None:
        """Add to the ring what the last second brought, when it is over."""
        now = self._counts()
        elapsed_s, hits, misses = (b - a for a, b in zip(self._before, now, strict=True))
        if elapsed_s < 1:
            return
        self._before = now
        if hits or misses:
            self._ring.add("cache.hits", hits, self._cache.name)
            self._ring.add("cache.misses", misses, self._cache.name)

    def _counts(self) -> tuple[float, int, int]:
        return time.monotonic(), self._cache.hits, self._cache.misses


def _otlp_reader() -> MetricReader:
    # It takes a third of a second to import, and only some need it.
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return PeriodicExportingMetricReader(OTLPMetricExporter())


@router.get("/metrics")
async def metrics_page(request: Request, authorization: Annotated[str | None, Header()] = None) -> Response:
    """Every metric as a Prometheus page."""
    observing = _allowed(request, authorization)
    return Response(generate_latest(observing.page), media_type=CONTENT_TYPE_LATEST)


@router.get("/probe/samples")
async def samples_page(
    request: Request,
    authorization: Annotated[str | None, Header()] = None,
    after: Annotated[int, Query(ge=-1)] = 0,
    limit: Annotated[int, Query(ge=0, le=50_000)] = 20_000,
) -> Response:
    """Samples from number `after` on; -1: none of the past. `now_ns` is this process's monotonic clock."""
    observing = _allowed(request, authorization)
    return answer(observing.ring.told(after, limit))


def _allowed(request: Request, authorization: str | None) -> Observing:
    """The probes, for who may see them. No key is looked up: that would wait for the pool it reports on."""
    observing: Observing | None = request.app.state.observing
    if observing is None:
        raise HTTPException(404, "this server runs without probes (--no-probes)")
    settings: Settings = request.app.state.services.settings
    if settings.secure:
        wanted = f"Bearer {settings.password}".encode()
        if not hmac.compare_digest((authorization or "").encode(), wanted):
            raise HTTPException(401, "Unauthorized: this server's probes want its password")
    return observing
