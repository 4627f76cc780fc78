"""The application: routes, errors in Letta's words, and what lives as long as the server does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from fastapi import FastAPI, Request
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from perfkit import __version__
from perfkit.server.database import async_url, make_engine, migrate
from perfkit.server.model import NAME, SimulatedModel
from perfkit.server.routes import admin, agents, archival, blocks, messages, tools
from perfkit.server.services import Services
from perfkit.server.settings import Settings

_log = logging.getLogger("perfkit.server")


def create_app(settings: Settings, database_url: sa.URL | str | None = None) -> FastAPI:
    """The ASGI application on a database; the schema is brought up to date when it starts."""
    url = database_url or settings.database_url
    if url is None:
        raise ValueError("create_app needs a database URL; serve() brings an embedded PostgreSQL")
    engine = make_engine(async_url(url) if isinstance(url, str) else url, settings)
    services = Services(settings, engine, SimulatedModel(settings.seed, settings.model_speed))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate(engine, settings)
        try:
            yield
        finally:
            await services.close()
            await engine.dispose()

    app = FastAPI(
        title="perfkit reference agent server", version=__version__, lifespan=lifespan, redirect_slashes=False
    )
    app.state.services = services
    app.add_middleware(TrailingSlash)
    for routes in (admin, tools, blocks, agents, archival, messages):
        app.include_router(routes.router, prefix="/v1")
    app.add_api_route("/v1/health", _health)
    app.add_exception_handler(PoolTimeout, _pool_exhausted)
    app.add_exception_handler(Exception, _unexpected)
    return app


class TrailingSlash:
    """`/v1/agents` and `/v1/agents/` are one route, without a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


async def _health() -> dict[str, str]:
    return {"version": f"perfkit-{__version__}", "status": "ok", "model": NAME}


async def _pool_exhausted(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "no database connection became free in time"}, 503)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    trace_id = uuid4().hex
    _log.error("trace %s: %s %s", trace_id, request.method, request.url.path, exc_info=error)
    content: dict[str, Any] = {"detail": "internal server error", "trace_id": trace_id}
    return JSONResponse(content, 500)
