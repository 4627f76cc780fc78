"""Errors as JSON in Letta's words, for the client without a traceback, for the log with one."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_server.limits import LimitReached, limit_reached
from agent_server.model import ModelUnavailable

if TYPE_CHECKING:
    from agent_server.services import Services

_log = logging.getLogger("agent_server")

#: Classes of SQLSTATE that have a cause outside this program: (status, what is said).
_STATES = {
    "08": (503, "the database does not answer"),
    "22": (422, "the database cannot hold a value of this request"),
    "23": (409, "something this request refers to was changed or deleted at the same time"),
    "40": (503, "the database gave up a transaction for another; try again"),
    "53": (503, "the database has no connection or room left"),
    "57": (503, "the database is shutting down"),
}
#: SQLSTATEs that say more than their class does.
_OF_THEIR_OWN = {
    "40P01": (503, "deadlock detected (40P01): the database gave up this transaction for another; try again"),
    "55P03": (503, "a row or table stayed locked for longer than the database's lock_timeout"),
    "57014": (504, "the database cancelled a statement: it took longer than its statement_timeout"),
}


def add_error_handling(app: FastAPI) -> None:
    """Answer every error with JSON; call it before other middleware is added."""
    app.add_exception_handler(RequestValidationError, _bad_request)
    for kind in (sa.exc.TimeoutError, sa.exc.DBAPIError, LimitReached, ModelUnavailable):
        app.add_exception_handler(kind, _known_error)
    app.add_middleware(UnexpectedErrors)


def log_error(what: str, error: BaseException) -> str:
    """Write an unexpected error to the log with its traceback; returns the id it is found by."""
    trace_id = uuid4().hex
    _log.error("trace %s: %s", trace_id, what, exc_info=error)
    return trace_id


class UnexpectedErrors:
    """500 with a trace id. Starlette's own handler raises again, and uvicorn then drops the connection,
    so that the client's next request on it would fail too and be counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if begun:
                raise  # the connection must end: the client has half an answer
            await _internal(f"{scope['method']} {scope['path']}", error)(scope, receive, send)


def _internal(what: str, error: BaseException) -> Response:
    content = {"detail": "internal server error", "trace_id": log_error(what, error)}
    return JSONResponse(content, 500)


async def _bad_request(request: Request, error: Exception) -> Response:
    """FastAPI's 422 without the input, which may hold a secret, or what JSON cannot (NaN)."""
    assert isinstance(error, RequestValidationError)
    detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")


async def _known_error(request: Request, error: Exception) -> Response:
    fault = known_fault(request.app.state.services, error)
    if fault is None:
        return _internal(f"{request.method} {request.url.path}", error)
    status, body = fault
    return JSONResponse(body, status)


def known_fault(services: Services, error: Exception) -> tuple[int, dict[str, Any]] | None:
    """Status and body for an error with a known cause; None: it is unexpected.

    A statement that PostgreSQL cancelled because of `query_timeout_s` is counted here, as that limit's.
    """
    if services.settings.query_timeout_s and "due to statement timeout" in str(getattr(error, "orig", "")):
        error = limit_reached(services, "query")
    if isinstance(error, LimitReached):
        return error.status, error.body
    if isinstance(error, ModelUnavailable):
        retries = services.settings.model_retries
        return 502, {"detail": f"{error}, also when asked again {retries} times (--model-retries)"}
    if isinstance(error, sa.exc.TimeoutError):
        limit_s = services.settings.pool_timeout_s
        words = f"no database connection became free in {limit_s:g} s (--pool-timeout-s)"
        return 503, {"detail": words, "limit": "pool_timeout_s", "value": limit_s}
    fault = database_fault(error)
    return None if fault is None else (fault[0], {"detail": fault[1]})


def database_fault(error: Exception) -> tuple[int, str] | None:
    """Status and words for a database error with a known cause; None: it is unexpected."""
    original: Any = getattr(error, "orig", None)
    if isinstance(error, sa.exc.IntegrityError):
        return _STATES["23"]
    if "database is locked" in str(original):  # SQLite, by another process
        return 503, "the database is locked"
    state = str(getattr(original, "sqlstate", None) or "")
    return _OF_THEIR_OWN.get(state) or _STATES.get(state[:2])
