"""What every route shares: the database, the model, who is asking, and how answers are written."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from fastapi import Depends, Header, HTTPException, Request
from opentelemetry.metrics import NoOpMeterProvider
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.responses import Response

from agent_server.cache import SHARED_MAX_AGE_S, Cache
from agent_server.database import DEFAULT_ORGANIZATION, DEFAULT_USER
from agent_server.errors import log_error
from agent_server.model import SimulatedModel
from agent_server.replica import Replica
from agent_server.settings import Settings
from agent_server.tables import api_keys, users
from agent_server.troubles import Troubles
from perfkit_probes import MetricRegistry, Ring, metric_attributes


class Services:
    """One per application."""

    def __init__(
        self, settings: Settings, engine: AsyncEngine, model: SimulatedModel, replica: Replica | None = None
    ) -> None:
        self.settings, self.engine, self.model, self.replica = settings, engine, model, replica
        # what is read from a replica may be stale when it is put: then nothing is kept for ever
        max_age_s = settings.cache_max_age_s or (math.inf if replica is None else SHARED_MAX_AGE_S)

        def cache(name: str, enabled: bool) -> Cache:
            return Cache(name, enabled=enabled, max_age_s=max_age_s)

        self.agent_cache = cache("agent_state", settings.agent_cache)
        self.llm_configs = cache("llm_config", settings.llm_config_cache)
        self.embedding_configs = cache("embedding_config", settings.embedding_config_cache)
        self.query_cache = cache("query", settings.query_cache)
        self.registry = MetricRegistry.of(NoOpMeterProvider())  #: and no ring, until something observes
        self.ring: Ring | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.troubles = Troubles(settings)
        self._messages, self._leaked = 0, list[AsyncConnection]()

    @property
    def caches(self) -> tuple[Cache, ...]:
        """What is looked up; the cache of queries, which is off by default, only where it is on."""
        always = (self.agent_cache, self.llm_configs, self.embedding_configs)
        return (*always, self.query_cache) if self.settings.query_cache else always

    @property
    def read_engine(self) -> AsyncEngine:
        """Where reads that may lag are sent: the replica while it is fresh, else the primary."""
        return self.engine if self.replica is None or not self.replica.fresh else self.replica.engine

    def agent_added(self) -> None:
        """An agent was made: answers that list agents are out of date."""
        self.query_cache.clear()

    def agent_changed(self, agent_id: str) -> None:
        """One agent was changed or deleted."""
        self.agent_cache.forget(agent_id)
        self.query_cache.clear()

    def agents_changed(self) -> None:
        """Something that many agents may share was changed."""
        self.agent_cache.clear()
        self.query_cache.clear()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something after the answer was sent; it is cancelled when the server stops."""
        _start(work, self._background)

    def watch_replica(self) -> None:
        """Begin to measure how far the replica is behind; until the first time, reads go to the primary."""
        if self.replica is not None:
            self.spawn(self.replica.watch(self.ring))

    def see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something short that must come to its end, whatever becomes of the task that asks for it."""
        _start(work, self._closing)

    def next_message(self) -> int:
        """The number of a message, from 1 on."""
        self._messages += 1
        return self._messages

    async def maybe_leak(self, number: int) -> None:
        """Keep a database connection, when an experiment asks for it and it is the turn of this message."""
        if self.settings.leak_every and number % self.settings.leak_every == 0:
            self._leaked.append(await self.engine.connect())

    async def close(self) -> None:
        """End what still runs in the background."""
        await self.troubles.close()
        for connection in self._leaked:
            await connection.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self.replica is not None:
            await self.replica.close()


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
    tasks.add(task)

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_error(f"background work {task.get_name()}", error)

    task.add_done_callback(ended)


@dataclass(frozen=True)
class Actor:
    """Who is asking; rows are seen by organization."""

    user_id: str
    organization_id: str


def get_services(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


async def get_actor(
    services: Annotated[Services, Depends(get_services)],
    authorization: Annotated[str | None, Header()] = None,
    bare_password: Annotated[str | None, Header(alias="X-BARE-PASSWORD")] = None,
    acting: Annotated[str | None, Header(alias="user_id")] = None,
) -> Actor:
    """The user of the bearer key, or of the header `user_id`, or the default user; 401 for a bad key."""
    settings = services.settings
    query = sa.select(users.c.id, users.c.organization_id)
    if authorization is None and bare_password is not None:  # Letta's other spelling: `password <password>`
        authorization = f"bearer {bare_password.removeprefix('password ')}"
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        password = settings.password
        if scheme.lower() != "bearer" or not key:
            raise HTTPException(401, "Unauthorized: send Authorization: Bearer <key>")
        if password is None or not hmac.compare_digest(key.encode(), password.encode()):
            found = await _first(services, query.join(api_keys).where(api_keys.c.key == key))
            if found is None:
                raise HTTPException(401, "Unauthorized: unknown key")
            return Actor(found[0], found[1])
    elif settings.secure:
        raise HTTPException(401, "Unauthorized: this server wants a key")
    if acting is None:
        return Actor(DEFAULT_USER, DEFAULT_ORGANIZATION)
    found = await _first(services, query.where(users.c.id == acting))
    if found is None:
        raise HTTPException(404, f"User with ID {acting} not found")
    return Actor(found[0], found[1])


async def _first(services: Services, query: sa.Select[Any]) -> tuple[str, str] | None:
    async with services.engine.connect() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else (row[0], row[1])


Serving = Annotated[Services, Depends(get_services)]


async def acting(actor: Annotated[Actor, Depends(get_actor)]) -> Actor:
    """The same; metrics of the request carry the organization from now on, as its task has them to itself."""
    metric_attributes.set({**metric_attributes.get(), "organization.id": actor.organization_id})
    return actor


Acting = Annotated[Actor, Depends(acting)]


def answer(content: Any, status: int = 200) -> Response:
    """A JSON response; rows become objects, times ISO text."""
    return json_answer(as_json(content), status)


def as_json(content: Any) -> bytes:
    """The JSON text of a response."""
    return msgspec.json.encode(content, enc_hook=_plain)


def json_answer(body: bytes, status: int = 200) -> Response:
    """A response whose JSON text is there already."""
    return Response(body, status, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


async def all_rows(connection: AsyncConnection, query: Any) -> list[dict[str, Any]]:
    """Every row of a query as a dict."""
    return [dict(row) for row in (await connection.execute(query)).mappings()]


async def one_row(connection: AsyncConnection, query: Any, kind: str, row_id: str) -> dict[str, Any]:
    """The row of a query, or 404 in Letta's words."""
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise not_found(kind, row_id)
    return dict(row)


def not_found(kind: str, row_id: str) -> HTTPException:
    """404 `Agent with ID … not found`."""
    return HTTPException(404, f"{kind} with ID {row_id} not found")


def own(table: sa.Table, row_id: str, actor: Actor) -> sa.ColumnElement[bool]:
    """The condition that a row has this id and belongs to the actor's organization."""
    return sa.and_(table.c.id == row_id, table.c.organization_id == actor.organization_id)
