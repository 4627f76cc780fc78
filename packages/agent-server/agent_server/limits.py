"""The server's limits: what is answered when one is reached, and how that is counted and seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from opentelemetry.metrics import Counter, Meter

from perfkit_probes import current_request

if TYPE_CHECKING:
    from agent_server.services import Services

T = TypeVar("T")
Name = Literal["query", "model", "tool", "request", "admission"]
#: When the request at hand must have ended, on the loop's clock, s; None: whenever it likes.
deadline: ContextVar[float | None] = ContextVar("agent_server_deadline", default=None)


class _Limit(NamedTuple):
    setting: str
    status: int
    reached: str
    to_do: str


_LIMITS: dict[Name, _Limit] = {
    "query": _Limit("query_timeout_s", 504, "a statement took longer", "look at its plan"),
    "model": _Limit("model_timeout_s", 504, "the model sent nothing for so long", "use a faster model"),
    "tool": _Limit("tool_timeout_s", 504, "a tool took longer", "look at what it waits for"),
    "request": _Limit("request_timeout_s", 504, "the request took longer", "ask for less"),
    "admission": _Limit("max_requests", 503, "so many requests are under way", "try again later"),
}


class LimitReached(Exception):
    """A limit of the server was reached; the message says which, its value, and what to do."""

    def __init__(self, name: Name, value: float) -> None:
        one = _LIMITS[name]
        option = f"--{one.setting.replace('_', '-')}"
        super().__init__(f"{option} {value:g} reached: {one.reached}; {one.to_do}, or raise the limit")
        self.name, self.status = name, one.status
        self.body: dict[str, Any] = {"detail": str(self), "limit": one.setting, "value": value}


def limit_reached(services: Services, name: Name) -> LimitReached:
    """Count that a limit was reached, as a metric and as a sample; returns the error to raise."""
    value = float(getattr(services.settings, _LIMITS[name].setting))
    services.registry.get_or_create_metric("count_limits_reached", _counter).add(1, {"limit": name})
    if services.ring is not None:
        request = current_request()
        services.ring.add("limit.reached", value, name, request.request_id if request else None)
    return LimitReached(name, value)


def _counter(meter: Meter) -> Counter:
    return meter.create_counter("count_limits_reached", "1", "Limits of the server that were reached")


async def within(services: Services, name: Name, work: Awaitable[T]) -> T:
    """Await something for as long as a limit allows; LimitReached when it takes longer.

    The limit of the request counts from its beginning, the others from now on; 0 is no limit.
    """
    if name == "request":
        ends_s = deadline.get()
    else:
        limit_s = float(getattr(services.settings, _LIMITS[name].setting))
        ends_s = asyncio.get_running_loop().time() + limit_s if limit_s else None
    if ends_s is None:
        return await work
    try:
        async with asyncio.timeout_at(ends_s) as timeout:
            return await work
    except TimeoutError:
        if not timeout.expired():
            raise
        raise limit_reached(services, name) from None
