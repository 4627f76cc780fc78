"""ASGI middleware: how many requests are let in at once, and how long each of them may take."""

from __future__ import annotations

import asyncio
from collections.abc import Container

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_server.limits import LimitReached, deadline, limit_reached
from agent_server.services import Services

_RETRY_AFTER_S = 1


class RequestLimits:
    """503 with Retry-After beyond `max_requests` at once; 504 when a response has not begun in time.

    A response that has begun cannot get another status: who streams one watches its `limits.deadline`.
    Paths in `exempt` are always let in.
    """

    def __init__(self, app: ASGIApp, *, services: Services, exempt: Container[str]) -> None:
        self._app, self._services, self._exempt = app, services, exempt
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            return await self._app(scope, receive, send)
        most = self._services.settings.max_requests
        if most and self._under_way >= most:
            refused = limit_reached(self._services, "admission")
            headers = {"retry-after": str(_RETRY_AFTER_S)}
            return await JSONResponse(refused.body, refused.status, headers)(scope, receive, send)
        self._under_way += 1
        try:
            await self._in_time(scope, receive, send)
        except LimitReached as error:
            await JSONResponse(error.body, error.status)(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_s = self._services.settings.request_timeout_s
        if not limit_s:
            return await self._app(scope, receive, send)
        ends_s, begun = asyncio.get_running_loop().time() + limit_s, False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                timeout.reschedule(None)
            await send(message)

        token = deadline.set(ends_s)
        try:
            async with asyncio.timeout_at(ends_s) as timeout:
                await self._app(scope, receive, watched_send)
        except TimeoutError:
            if begun or not timeout.expired():
                raise
            raise limit_reached(self._services, "request") from None
        finally:
            deadline.reset(token)
