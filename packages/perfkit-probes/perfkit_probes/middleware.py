"""ASGI middleware: where each request's time went, on the response, in the ring and in the metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from perfkit_probes.registry import MetricRegistry, metric_attributes
from perfkit_probes.request import RequestTimes, request_times
from perfkit_probes.ring import Ring

#: ASGI's types, as its specification has them (https://asgi.readthedocs.io).
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]

#: Request headers whose value becomes an attribute of every metric of the request.
ATTRIBUTE_HEADERS: Mapping[str, str] = {
    "x-project-id": "project.id",
    "x-base-template-id": "base_template.id",
    "x-template-id": "template.id",
    "x-agent-id": "agent.id",
}
_CONVERTER = re.compile(r"(?<=[{\w]):\w+(?=})")
_USABLE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class ProbesMiddleware:
    """Times every HTTP request; put it inside whatever rewrites the path, outside of everything else.

    The response gets `x-request-id` (the client's own, where it sent one) and `Server-Timing`
    (https://www.w3.org/TR/server-timing/) with `app`, `db`, `db_wait`, `loop_lag` and `model` in ms, and the
    service's own parts (`timed`), counted until the response begins. Counted to its last byte they go into
    `ring` as `request.app_ms` and so on, and into the endpoint's metrics. `blocked_ns` is
    `Watchdog.blocked_ns`: how long the event loop has been blocked so far. Paths in `unwatched` are passed on
    as they are: those that only show what was seen.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        ring: Ring | None = None,
        registry: MetricRegistry | None = None,
        blocked_ns: Callable[[], int] | None = None,
        unwatched: Container[str] = (),
    ) -> None:
        self._unwatched = unwatched
        self._app, self._ring, self._registry = app, ring, registry
        self._blocked_ns = blocked_ns or (lambda: 0)
        self._records: dict[tuple[str, str, int], _Records] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in self._unwatched:
            await self._app(scope, receive, send)
            return
        # This runs for every request: it is written to make few calls.
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _USABLE_ID.fullmatch(request_id):
            request_id = uuid4().hex.encode()
        times = RequestTimes(request_id.decode(), time.monotonic_ns())
        blocked_before = self._blocked_ns()
        status = 500  # what the server sends when the application breaks down before it answers

        def timed_send(message: Message) -> Any:  # an awaitable: a coroutine more for each part costs
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                parts = _parts_ms(times, self._blocked_ns() - blocked_before)
                timing = _SERVER_TIMING % parts
                for name, ns in (times.named_ns or {}).items():
                    timing += b", %s;dur=%.3f" % (name.encode(), ns / 1e6)
                mine = ((b"x-request-id", request_id), (b"server-timing", timing))
                theirs = [one for one in message.get("headers", ()) if one[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*theirs, *mine]}
            return send(message)

        attributes = {n: headers[key].decode("latin-1") for key, n in _ATTRIBUTE_HEADERS if key in headers}
        token = metric_attributes.set(attributes) if attributes else None
        scoped = request_times.set(times)
        try:
            await self._app(scope, receive, timed_send)
        finally:
            request_times.reset(scoped)
            self._keep(scope, status, times, _parts_ms(times, self._blocked_ns() - blocked_before))
            if token is not None:
                metric_attributes.reset(token)

    def _keep(self, scope: Scope, status: int, times: RequestTimes, parts: tuple[float, ...]) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        key = (_route(scope), method, status)
        records = self._records.get(key)
        if records is None:
            if len(self._records) >= _MOST_SERIES:
                key = ("other", method, status)
            records = self._records.setdefault(key, _Records.of(self._registry, *key))
        if self._ring is not None:
            took = [one for one in zip(_PROBES, parts, strict=True) if one[1]]
            took += [(f"request.{name}_ms", ns / 1e6) for name, ns in (times.named_ns or {}).items()]
            self._ring.add_all(took, records.label, times.request_id)
        records.time(parts[0])
        records.count(1)
        times.endpoint = records.endpoint
        if times.on_end is not None:
            times.on_end(times)


@dataclass(frozen=True, slots=True)
class _Records:
    """What is the same for all requests of one route, method and status."""

    label: str
    endpoint: str
    time: Callable[[float], None]
    count: Callable[[float], None]

    @classmethod
    def of(cls, registry: MetricRegistry | None, route: str, method: str, status: int) -> _Records:
        name = f"{method} {route}"
        label = f"{name} {status}"
        if registry is None:
            return cls(label, name, _nowhere, _nowhere)
        endpoint = {"endpoint_path": route, "method": method, "status_code": status}
        return cls(
            label,
            name,
            registry.bound("hist_endpoint_e2e_ms", **endpoint),
            registry.bound("count_endpoint_requests", **endpoint),
        )


def _nowhere(value: float) -> None:
    """A record where no registry is."""


#: More routes, methods and statuses than this, and the rest are one: no client can make series for ever.
_MOST_SERIES = 2000
_PARTS = ("app", "db", "db_wait", "loop_lag", "model")
_PROBES = tuple(f"request.{name}_ms" for name in _PARTS)
_SERVER_TIMING = ", ".join(f"{name};dur=%.3f" for name in _PARTS).encode()
#: Others are told as OpenTelemetry does it: a client could think out any number of them.
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_ATTRIBUTE_HEADERS = tuple((header.encode(), name) for header, name in ATTRIBUTE_HEADERS.items())


def _route(scope: Scope) -> str:
    """`/v1/agents/{agent_id}`: never the path itself, which has ids; `unmatched` where nothing was there.

    Starlette and FastAPI leave the route in the scope; what comes before it in the path is where it is
    mounted or included. A mounted application without routes is told by where it is mounted.
    """
    route = scope.get("route")
    if "endpoint" not in scope or route is None:
        return "unmatched"
    template = str(getattr(route, "path", "unmatched"))
    if not hasattr(route, "endpoint"):
        return template
    params = scope.get("path_params") or {}
    deeper = sum(str(value).count("/") for value in params.values())
    without, inside = _split(template)
    if scope["path"].count("/") == len(inside) + deeper and template[:1] == "/":  # it is mounted nowhere
        return without
    ahead = scope["path"].split("/")[: -(len(inside) + deeper)]
    names = {str(value): f"{{{name}}}" for name, value in params.items() if f"{{{name}" not in template}
    return "/".join([*(names.get(part, part) for part in ahead), *inside])


@lru_cache(maxsize=_MOST_SERIES)
def _split(template: str) -> tuple[str, list[str]]:
    """A route's path without its converters, and its segments."""
    without = _CONVERTER.sub("", template)
    return without, without.split("/")[1:]


def _parts_ms(times: RequestTimes, blocked_ns: int) -> tuple[float, ...]:
    """In the order of `_PARTS`."""
    app_ns = time.monotonic_ns() - times.started_ns
    return app_ns / 1e6, times.db_ns / 1e6, times.db_wait_ns / 1e6, blocked_ns / 1e6, times.model_ns / 1e6
