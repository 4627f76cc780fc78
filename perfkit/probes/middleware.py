"""ASGI middleware: where each request's time went, on the response, in the ring and in the metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any
from uuid import uuid4

from perfkit.probes.registry import MetricRegistry, metric_attributes
from perfkit.probes.request import RequestTimes, request_scope
from perfkit.probes.ring import Ring

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
_USABLE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class ProbesMiddleware:
    """Times every HTTP request; put it inside whatever rewrites the path, outside of everything else.

    The response gets `x-request-id` (the client's own, where it sent one) and `Server-Timing`
    (https://www.w3.org/TR/server-timing/) with `app`, `db`, `db_wait`, `loop_lag` and `model` in ms, counted
    until the response begins. Counted to its last byte they go into `ring` as `request.app_ms` and so on,
    and into the endpoint's metrics. `blocked_ns` is `Watchdog.blocked_ns`: how long the event loop has been
    blocked so far.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        ring: Ring | None = None,
        registry: MetricRegistry | None = None,
        blocked_ns: Callable[[], int] | None = None,
    ) -> None:
        self._app, self._ring, self._registry = app, ring, registry
        self._blocked_ns = blocked_ns or (lambda: 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _USABLE_ID.fullmatch(request_id):
            request_id = uuid4().hex.encode()
        times = RequestTimes(request_id.decode(), time.monotonic_ns())
        blocked_before = self._blocked_ns()
        status = 500  # what the server sends when the application breaks down before it answers

        async def timed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                parts = _parts(times, self._blocked_ns() - blocked_before)
                more = ((b"x-request-id", request_id), (b"server-timing", _server_timing(parts)))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        attributes = {name: headers[key] for key, name in _ATTRIBUTE_HEADERS if key in headers}
        token = metric_attributes.set({n: v.decode("latin-1") for n, v in attributes.items()})
        try:
            with request_scope(times):
                await self._app(scope, receive, timed_send)
        finally:
            self._keep(scope, status, times, self._blocked_ns() - blocked_before)
            metric_attributes.reset(token)

    def _keep(self, scope: Scope, status: int, times: RequestTimes, blocked_ns: int) -> None:
        parts = _parts(times, blocked_ns)
        route = _route(scope)
        if self._ring is not None:
            label = f"{scope['method']} {route} {status}"
            for name, ms in parts:
                if ms or name == "app":
                    self._ring.add(f"request.{name}_ms", ms, label, times.request_id)
        if self._registry is not None:
            endpoint = {"endpoint_path": route, "method": scope["method"], "status_code": status}
            self._registry.record("hist_endpoint_e2e_ms", parts[0][1], **endpoint)
            self._registry.add("count_endpoint_requests", 1, **endpoint)


_ATTRIBUTE_HEADERS = tuple((header.encode(), name) for header, name in ATTRIBUTE_HEADERS.items())


def _route(scope: Scope) -> str:
    """`/v1/agents/{agent_id}`: never the path itself, which has ids; `unmatched` where nothing was there."""
    if "endpoint" not in scope:
        return "unmatched"
    names = {str(value): name for name, value in scope.get("path_params", {}).items()}
    parts = scope["path"].split("/")
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in parts)


def _parts(times: RequestTimes, blocked_ns: int) -> tuple[tuple[str, float], ...]:
    return (
        ("app", (time.monotonic_ns() - times.started_ns) / 1e6),
        ("db", times.db_ns / 1e6),
        ("db_wait", times.db_wait_ns / 1e6),
        ("loop_lag", blocked_ns / 1e6),
        ("model", times.model_ns / 1e6),
    )


def _server_timing(parts: Iterable[tuple[str, float]]) -> bytes:
    return ", ".join(f"{name};dur={ms:.3f}" for name, ms in parts).encode()
