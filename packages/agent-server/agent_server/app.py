"""The application: routes, errors in Letta's words, and what lives as long as the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_server import __version__
from agent_server.database import async_url, make_engine, migrate
from agent_server.errors import add_error_handling
from agent_server.model import NAME, SimulatedModel
from agent_server.observing import UNWATCHED, Observing
from agent_server.observing import router as observing_routes
from agent_server.replica import Replica
from agent_server.request_limits import RequestLimits
from agent_server.routes import admin, agents, archival, blocks, messages, tools
from agent_server.scheduler import Scheduler
from agent_server.services import Acting, Services
from agent_server.settings import Settings
from perfkit_probes import ProbesMiddleware

_TITLE = "perfkit reference agent server"
_HEALTH = "/v1/health"


def create_app(settings: Settings, database_url: sa.URL | str | None = None) -> FastAPI:
    """The ASGI application on a database; the schema is brought up to date when it starts."""
    url = database_url or settings.database_url
    if url is None:
        raise ValueError("create_app needs a database URL; serve() brings an embedded PostgreSQL")
    engine = make_engine(async_url(url) if isinstance(url, str) else url, settings)
    model = SimulatedModel(settings.seed, settings.model_speed, settings.model_failure_share)
    services = Services(settings, engine, model, _replica(settings, engine.url))
    observing = Observing(settings, services) if settings.probes else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate(engine, settings)
        if observing is not None:
            observing.start()
        scheduler = None
        if settings.role != "api":
            scheduler = Scheduler(services, observing.instance if observing else uuid4().hex[:8])
            await scheduler.start()
        services.watch_replica()
        try:
            yield
        finally:
            if scheduler is not None:
                await scheduler.stop()
            if observing is not None:
                await observing.stop()
            await services.close()
            await engine.dispose()

    # FastAPI's own pages about the API are open to everybody; `pages` has them for whoever may use the API
    app = FastAPI(
        title=_TITLE,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,
    )
    app.state.services, app.state.observing = services, observing
    add_error_handling(app)
    _add_middleware(app, services, observing)
    if settings.role != "worker":
        for routes in (admin, tools, blocks, agents, archival, messages):
            app.include_router(routes.router, prefix="/v1")
        app.include_router(archival.archives, prefix="/v1")
        app.include_router(pages)
    app.include_router(observing_routes)
    app.add_api_route(_HEALTH, _health)
    return app


def _add_middleware(app: FastAPI, services: Services, observing: Observing | None) -> None:
    """The last one added sees a request first."""
    settings = services.settings
    if settings.max_requests or settings.request_timeout_s:
        app.add_middleware(RequestLimits, services=services, exempt={_HEALTH, *UNWATCHED})
    if observing is not None:
        app.add_middleware(
            ProbesMiddleware,
            ring=observing.ring,
            registry=observing.registry,
            blocked_ns=observing.blocked_ns,
            unwatched=UNWATCHED,
        )
    if settings.secure:
        app.add_middleware(NoStrangers)
    app.add_middleware(TrailingSlash)


def _replica(settings: Settings, primary: sa.URL) -> Replica | None:
    if settings.replica_url is None:
        return None
    engine = make_engine(async_url(settings.replica_url), settings)
    return Replica(primary, engine, settings.replica_max_lag_ms / 1000)


pages = APIRouter(include_in_schema=False)


@pages.get("/openapi.json")
async def _openapi(request: Request, actor: Acting) -> Response:
    return JSONResponse(request.app.openapi())


@pages.get("/docs")
async def _docs(actor: Acting) -> Response:
    return get_swagger_ui_html(openapi_url="/openapi.json", title=_TITLE)


@pages.get("/redoc")
async def _redoc(actor: Acting) -> Response:
    return get_redoc_html(openapi_url="/openapi.json", title=_TITLE)


class NoStrangers:
    """401 for every request but health's that brings no key at all, before its path or body is looked at.

    The routes check what was brought.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app = self._app
        if scope["type"] == "http" and scope["path"] != _HEALTH:
            names = {name for name, _ in scope["headers"]}
            if not names & {b"authorization", b"x-bare-password"}:
                app = JSONResponse({"detail": "Unauthorized: this server wants a key"}, 401)
        await app(scope, receive, send)


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
