"""What a request gives back to a scenario, and how an exchange is judged."""

from __future__ import annotations

import contextlib
import json as jsonlib
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from perfkit.errors import RequestFailed
from perfkit.transport import Exchange

if TYPE_CHECKING:
    import httpx

Check = Callable[["Response"], bool | str | None]
_LINE_END = re.compile(r"\r\n|\r|\n")


class Response:
    """The part of httpx.Response a scenario needs, plus `error` (a class of model.ERRORS, or None)."""

    __slots__ = ("_exchange", "_method", "_path", "error")

    def __init__(self, exchange: Exchange, method: str, path: str) -> None:
        self._exchange = exchange
        self._method, self._path = method, path
        self.error = exchange.error

    def __repr__(self) -> str:
        return f"<Response {self._method} {self._path}: {self.status_code} {self.error or 'ok'}>"

    @property
    def status_code(self) -> int:
        """The HTTP status, 0 when there was no response."""
        return self._exchange.status

    @property
    def headers(self) -> httpx.Headers:
        """The response's headers, names in any case."""
        import httpx

        return httpx.Headers(self._exchange.headers)

    @property
    def content(self) -> bytes:
        """The body; gzip and deflate are undone, as far as they go."""
        return decoded(self._exchange)

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.content.decode("utf-8", "replace")

    @property
    def is_success(self) -> bool:
        """Whether the request's row has no error."""
        return self.error is None

    def json(self) -> Any:
        """The body parsed as JSON; ValueError when it is none."""
        return msgspec.json.decode(self.content) if self._exchange.body else jsonlib.loads("")

    def events(self) -> list[str]:
        """The data of each server-sent event of the body."""
        found: list[str] = []
        data: list[str] = []
        *lines, _ = _LINE_END.split(self.text.removeprefix("\ufeff"))  # an unfinished event is none
        for line in lines:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
            elif not line and data:
                found.append("\n".join(data))
                data.clear()
        return found

    def raise_for_status(self) -> Response:
        """This response, or RequestFailed (which ends the step) when its row has an error."""
        if self.error is not None:
            what = f"answered {self.status_code}" if self.status_code else f"failed ({self.error})"
            raise RequestFailed(f"{self._method} {self._path} {what}: {self._exchange.error_text or ''}")
        return self


def judge(exchange: Exchange) -> str | None:
    """The error class of a response that came."""
    if exchange.status < 400:
        return None
    return "http_5xx" if exchange.status >= 500 else "http_4xx"


def checked(response: Response, check: Check) -> str | None:
    """`check` when the scenario's own check says so."""
    try:
        verdict = check(response)
    except Exception as error:
        verdict = f"check raised {type(error).__name__}: {error}"
    if verdict is False or isinstance(verdict, str):
        response._exchange.error_text = verdict or "check failed"
        return "check"
    return None


def decoded(exchange: Exchange, limit: int = 0) -> bytes:
    """A response's body without its gzip or deflate coding; at most `limit` bytes, unless that is 0."""
    body = exchange.body
    encoding = dict(exchange.headers).get(b"content-encoding", b"").strip().lower()
    if body and encoding in (b"gzip", b"x-gzip", b"deflate"):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(47).decompress(body, limit)
    return body[:limit] if limit else body
