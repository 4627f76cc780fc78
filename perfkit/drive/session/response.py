"""What a request gives back to a scenario, and how an exchange is judged."""

from __future__ import annotations

import contextlib
import json as jsonlib
import traceback
import zlib
from collections.abc import Callable, Collection
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from perfkit.drive.session.asked import no_attribute
from perfkit.drive.transport import GZIP, Exchange
from perfkit.errors import RequestFailed, words_of
from perfkit.streams import Events

if TYPE_CHECKING:
    import httpx

Check = Callable[["Response"], bool | str | None]
_MOST = 64 * 1024 * 1024


class Response(msgspec.Struct, eq=False):
    """The part of httpx.Response a scenario needs, plus `error` (a class of model.ERRORS, or None)."""

    _exchange: Exchange
    _method: str
    shown_path: str  #: as messages show it: without secrets when the request failed
    _most: int = _MOST  #: bytes the body may unpack to
    error: str | None = None

    def __getattr__(self, name: str) -> Any:
        raise no_attribute("response", name, _KNOWN)

    def __repr__(self) -> str:
        return f"<Response {self._method} {self.shown_path}: {self.status_code} {self.error or 'ok'}>"

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
        """The body; gzip and deflate are undone, as far as they go. ValueError for a compression bomb."""
        body = decoded(self._exchange, self._most + 1)
        if len(body) > max(self._most, len(self._exchange.body)):
            what = f"body unpacks to more than {self._most} bytes (target.max_body_mb)"
            raise ValueError(f"{self._method} {self.shown_path}: {what}")
        return body

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
        events = Events()
        events.feed(self.content, 0)
        return [event.data.decode("utf-8", "replace") for event in events.seen]

    @property
    def failure(self) -> str:
        """How the request failed, in a line without secrets; empty when it did not."""
        if self.error is None:
            return ""
        what = f"answered {self.status_code}" if self.status_code else f"failed ({self.error})"
        return f"{self._method} {self.shown_path} {what}: {self._exchange.error_text or ''}"

    def raise_for_status(self) -> Response:
        """This response, or RequestFailed (which ends the step) when its row has an error."""
        if self.error is not None:
            raise RequestFailed(self.failure, self.status_code)
        return self


#: What a scenario may ask a response for.
_KNOWN = tuple(name for name in vars(Response) if name != "shown_path")


def judge(exchange: Exchange, ok: int | Collection[int] = ()) -> str | None:
    """The error class of a response that came; ok: statuses from 400 on that the request may have."""
    if exchange.status < 400:
        return None
    if ok and exchange.status in ((ok,) if isinstance(ok, int) else ok):
        return None
    return "http_5xx" if exchange.status >= 500 else "http_4xx"


def checked(response: Response, check: Check) -> str | None:
    """`check` when the scenario's own check says so."""
    try:
        verdict = check(response)
    except BaseException as error:
        verdict = f"check raised {words_of(error)}{_place(error)}"
        if not isinstance(error, Exception | SystemExit):
            response._exchange.error_text = verdict
            raise
    if verdict is False or isinstance(verdict, str):
        response._exchange.error_text = verdict or "check failed"
        return "check"
    return None


def _place(error: BaseException) -> str:
    """Where a check raised: the innermost line of the file it stands in; empty where it is no Python."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)][1:]
    file = lines[0][0] if lines else ""
    return next((f" ({PurePath(file).name}:{line})" for one, line in reversed(lines) if one == file), "")


def decoded(exchange: Exchange, limit: int) -> bytes:
    """At most `limit` bytes of a response's body, without its gzip or deflate coding."""
    body = exchange.body
    encoding = dict(exchange.headers).get(b"content-encoding", b"").strip().lower()
    if body and encoding.decode("latin-1") in GZIP:
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(47).decompress(body, limit)
    return body[:limit]
