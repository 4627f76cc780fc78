"""Calls of the model: each attempt has a time limit, and one that failed is repeated after a pause."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from opentelemetry.metrics import Counter, Meter

from agent_server.limits import LimitReached, within
from agent_server.model import ModelUnavailable
from agent_server.services import Services
from perfkit_probes import add_time, current_request, timed

T = TypeVar("T")
_log = logging.getLogger("agent_server")


async def answer_tokens(services: Services, model: str, question: str) -> AsyncGenerator[str]:
    """Yield the answer's tokens; only the wait for the first one is repeated when it fails.

    Raises LimitReached when a token takes longer than `model_timeout_s`, ModelUnavailable.
    """

    async def begin() -> tuple[AsyncGenerator[str], str | None]:
        begun = services.model.stream(question)
        try:
            return begun, await anext(begun, None)
        except BaseException:
            await begun.aclose()
            raise

    stream, token = await _repeated(services, model, begin)
    async with aclosing(stream):
        while token is not None:
            yield token
            with timed("model"):
                token = await within(services, "model", anext(stream, None))


async def embed(services: Services, text: str, dimensions: int) -> list[float]:
    """Return a text's embedding; an attempt that fails is repeated. Raises as `answer_tokens`."""
    return await _repeated(services, "embedding", lambda: services.model.embed(text, dimensions))


async def _repeated(services: Services, model: str, ask: Callable[[], Awaitable[T]]) -> T:
    """What the model answers to the first attempt that does not fail, of `model_retries` + 1.

    The time of the last attempt is the request's `model`; that of those before it, and of the pauses,
    is `model_retry`.
    """
    attempt, most = 1, services.settings.model_retries + 1
    while True:
        began, part = time.monotonic_ns(), "model"
        try:
            return await within(services, "model", ask())
        except (LimitReached, ModelUnavailable) as error:
            if attempt == most:
                raise
            failed, part = error, "model_retry"
        finally:  # also of one that was cancelled
            lost_ns = time.monotonic_ns() - began
            add_time(part, lost_ns)
        await _pause(services, model, attempt, failed, lost_ns)
        attempt += 1


async def _pause(services: Services, model: str, attempt: int, error: Exception, lost_ns: int) -> None:
    """Wait before the next attempt, and let that be seen: a metric, a sample, a line in the log.

    Exponential backoff with full jitter, so that those who failed together do not come back together
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    settings = services.settings
    longest_s = min(settings.model_backoff_max_s, settings.model_backoff_s * 2 ** (attempt - 1))
    pause_s = random.uniform(0, longest_s)
    reason = "timeout" if isinstance(error, LimitReached) else "unavailable"
    attributes = {"model.name": model, "reason": reason}
    services.registry.get_or_create_metric("count_model_retries", _counter).add(1, attributes)
    if services.ring is not None:
        request = current_request()
        lost_ms = lost_ns / 1e6 + 1e3 * pause_s
        services.ring.add("model.retry_ms", lost_ms, reason, request.request_id if request else None)
    most = settings.model_retries + 1
    _log.warning("attempt %d of %d to ask %s: %s; again in %.3g s", attempt, most, model, error, pause_s)
    with timed("model_retry"):
        await asyncio.sleep(pause_s)


def _counter(meter: Meter) -> Counter:
    return meter.create_counter("count_model_retries", "1", "Attempts to ask the model that were repeated")
