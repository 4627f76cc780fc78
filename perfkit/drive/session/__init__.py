"""What a scenario holds: `session.get/post/…` in httpx's language, every request a row.

    response = await session.post("/v1/agents/", json=body, name="create_agent")
    agent_id = response.raise_for_status().json()["id"]

A request never raises for what the server or the network did, unless asked to (`raise_for_status`); a failed
one has `response.error` set and is a row either way.

`path` is relative to the target. `name` is the row's operation (default: method and path with ids replaced).
`json`, `content`, `data`, `files` and `params` are httpx's; `auth` is `("user", "password")` for Basic, or a
text for a Bearer token. `check(response)` may return False, or a text, to make the row an error of class
`check`. `ok=404`, or `ok=(404, 409)`, names statuses that are no error of this request. A stream of
server-sent events is read to its end; `stream` says which of its events carry content and which tell of an
error, which makes the row one of class `check` (`perfkit.streams`). Of headers given twice the nearest
counts: this request's, then the session's, then the target's.

A retry is a row with the same `seq` and the next `attempt`. A redirect that is followed (`follow_redirects`,
default: the target's) leads to another request: the next `seq`, attempt 1, planned when the redirect had
come, and of operation `NAME (redirect)`, so that the times of NAME are not mixed with those of what it led
to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlencode

import msgspec

from perfkit.drive.rows import PHASE_CODE
from perfkit.drive.session.asked import no_attribute, no_params, not_named, require_arguments
from perfkit.drive.session.cookies import Jar
from perfkit.drive.session.data import AtEnd, DataFiles, DataRow, Per
from perfkit.drive.session.forms import Auth, Files, authorization, form
from perfkit.drive.session.heads import Pairs
from perfkit.drive.session.recorder import Opening, Recorder, Step, Undo
from perfkit.drive.session.response import Check, Response
from perfkit.drive.session.sending import Sending
from perfkit.errors import BadInput
from perfkit.redaction import secrets_in
from perfkit.streams import Reader, plain

__all__ = ["DataFiles", "Opening", "Recorder", "Response", "Session", "Step", "Undo", "default_name"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = re.compile(r"[A-Z][A-Z-]*").fullmatch
_ID_LIKE = re.compile(r"(?<=/)(?:[a-z_]+-)?(?:\d+|[0-9a-f]{8}-?[0-9a-f-]{4,})(?=/|$)", re.IGNORECASE)
_encode_json = msgspec.json.Encoder().encode
_NOTHING = msgspec.UNSET

#: The step a task was begun in: tasks that it leaves behind keep it.
_STEP: ContextVar[Step] = ContextVar("step")


class Session:
    """One virtual user's way to the server.

    Attributes a step may use: `user` (number of the virtual user), `iteration`, `local` (a dict that stays
    with the virtual user), `headers` (sent with each of its requests), `group` (a short text such as
    `account-3` that is kept with each of its requests, so that figures show them apart; None: no group).
    """

    __slots__ = ("_data_secrets", "_jar", "_outside", "_recorder", "group", "headers", "local", "user")

    def __init__(self, recorder: Recorder, user: int = 0, phase: str = "setup") -> None:
        self._recorder = recorder
        self._outside = Step(phase=PHASE_CODE[phase])  #: of what is sent in no step: setup and teardown
        self.user = user
        self.local: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.group: str | None = None
        self._jar = Jar(recorder.target.url or "") if recorder.target.cookies else None
        self._data_secrets: dict[tuple[str, Per], tuple[str, ...]] = {}  #: of the latest row of each file

    def __getattr__(self, name: str) -> Any:
        raise no_attribute("session", name, dir(type(self)))

    @property
    def cookies(self) -> dict[str, str]:
        """This user's cookies by name. Set it to True to keep cookies, as `target.cookies` does for all;
        to False to forget them and keep none."""
        return self._jar.values() if self._jar is not None else {}

    @cookies.setter
    def cookies(self, keep: bool) -> None:
        if not isinstance(keep, bool):
            raise TypeError("session.cookies is set to True or False; cookies come from the server")
        if not keep:
            self._jar = None
        elif self._jar is None:
            self._jar = Jar(self._recorder.target.url or "")

    @property
    def seed(self) -> int:
        """The workload's seed, for random choices in `setup`."""
        return self._recorder.seed

    @property
    def run_tag(self) -> str:
        """A few letters no other run has, for names on a shared server."""
        return self._recorder.id_prefix.rstrip("-")

    @property
    def iteration(self) -> int:
        """The number of the step in the whole run."""
        return _STEP.get(self._outside).number

    def begin_step(self, number: int, planned: int) -> Step:
        """Called by the engine, in the task of the step: its first request was planned for this instant."""
        step = self._outside = Step(number, planned)  # what another thread sends belongs to the latest
        if self._data_secrets or self._jar is not None:
            self._hide(step)
        _STEP.set(step)
        return step

    def data(self, name: str, *, per: Per = "user", at_end: AtEnd = "error") -> DataRow:
        """Return the row of a data file that belongs to this user, or to this step.

        name: a CSV file with a header (values are texts) or a JSON Lines file (`.jsonl`), relative to the
        scenario's file. The rows are in a random order that depends on the workload's seed alone. No row is
        used by two users (per="user") or two steps (per="step"), in all worker processes, until they run out:
        then BadInput ends the step (at_end="error"), or they begin again ("cycle"). With per="step" each
        worker has its share of the rows. BadInput in setup and teardown, and for a broken file.

        Values of columns named like secrets (`password`, `token`) are kept out of what is recorded.
        """
        if self._recorder.data is None:
            raise BadInput("session.data is for steps: setup and teardown have no user; open the file there")
        step = _STEP.get(self._outside)
        row, secrets = self._recorder.data.take(name, per, at_end, self.user, step.number)
        if secrets:
            self._data_secrets[name, per] = secrets
            self._hide(step)
        return DataRow(row)

    def _hide(self, step: Step) -> None:
        """Keep out of rows of a step what is in no header of the request itself."""
        cookies = self._jar.values().values() if self._jar is not None else ()
        step.secrets = (*(one for secrets in self._data_secrets.values() for one in secrets), *cookies)
        self._recorder.hides |= bool(step.secrets)

    def redact(self, text: str) -> str:
        """Return a text without the secrets of the run, of this user and of its latest request."""
        step = _STEP.get(self._outside)
        more = step.head.secrets if step.head is not None else ()
        return self._recorder.redact(text, (*more, *step.secrets, *secrets_in(self.headers)))

    def on_teardown(self, method: str, path: str) -> None:
        """Send this request when the run is over (latest first), to remove what the scenario made."""
        if not isinstance(path, str) or not isinstance(method, str):
            raise TypeError(f"on_teardown takes a method and a path, not {method!r:.40} and {path!r:.40}")
        cookies = self._jar.fields(path) if self._jar is not None else ()
        undo = Undo(method, path, (*cookies, *((name, str(value)) for name, value in self.headers.items())))
        self._recorder.undo.append(undo)
        self._recorder.journal(undo)

    def get(self, path: str, *unnamed: Any, **options: Any) -> Coroutine[Any, Any, Response]:
        """GET; see `request`."""
        if unnamed:
            raise not_named("GET", unnamed[0])
        return self.request("GET", path, **options)

    def post(self, path: str, *unnamed: Any, **options: Any) -> Coroutine[Any, Any, Response]:
        """POST; see `request`."""
        if unnamed:
            raise not_named("POST", unnamed[0])
        return self.request("POST", path, **options)

    def put(self, path: str, *unnamed: Any, **options: Any) -> Coroutine[Any, Any, Response]:
        """PUT; see `request`."""
        if unnamed:
            raise not_named("PUT", unnamed[0])
        return self.request("PUT", path, **options)

    def patch(self, path: str, *unnamed: Any, **options: Any) -> Coroutine[Any, Any, Response]:
        """PATCH; see `request`."""
        if unnamed:
            raise not_named("PATCH", unnamed[0])
        return self.request("PATCH", path, **options)

    def delete(self, path: str, *unnamed: Any, **options: Any) -> Coroutine[Any, Any, Response]:
        """DELETE; see `request`."""
        if unnamed:
            raise not_named("DELETE", unnamed[0])
        return self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = _NOTHING,
        content: bytes | str = b"",
        data: Mapping[str, Any] | None = None,
        files: Files | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        follow_redirects: bool | None = None,
        name: str | None = None,
        check: Check | None = None,
        ok: int | Collection[int] = (),
        stream: Reader = plain,
        timeout_s: float | None = None,
        **more: Any,
    ) -> Response:
        """Send a request, wait for its whole response, record a row: see the module's text."""
        if more or ok or check or type(path) is not str or (name is not None and type(name or 0) is not str):
            require_arguments(path, name, check, ok, more)  # not in each request, for its cost
        recorder = self._recorder
        if recorder.over:
            raise asyncio.CancelledError("the run has ended")
        step = _STEP.get(self._outside)
        started = recorder.clock()
        planned, step.planned = started if step.planned is None else step.planned, None
        bare = not content and json is _NOTHING and data is None and files is None
        body, content_type = (b"", "") if bare else _body(json, content, data, files)
        own = _own_headers(headers, auth) if headers or auth is not None else ()
        session = tuple(self.headers.items()) if self.headers else ()
        head = step.head = recorder.heads.get(session, content_type, own)
        if params or path[:1] != "/":
            path = _with_params(path, params)
        if (jar := self._jar) is not None:
            head = step.head = recorder.heads.get(session, content_type, (*jar.fields(path), *own))
        method = method if method in _METHODS else _other_method(method)
        group = recorder.group_code(self.group, head, step) if self.group else 0
        operation = recorder.operation_code(name := name or default_name(method, path), head, step)
        step.requests += 1  # not before its arguments are known to be good
        sending = Sending(
            recorder, step, head, self.user, group, method, path, body, name, operation,
            recorder.next_seq(), planned, started, follow_redirects,
        )  # fmt: skip
        while True:
            try:
                exchange = await sending.begin(timeout_s or recorder.target.timeout_s)
            except asyncio.CancelledError as cut:
                exchange = sending.cut(cut, stream)
            if jar is not None and jar.take(sending.path, exchange.headers):
                self._hide(step)
            response = sending.end(exchange, stream, check, ok)
            if (response.error is None and sending.hop is None) or not sending.again(response):
                return response
            if jar is not None:
                fields = (*jar.fields(sending.path), *own)
                head = step.head = recorder.heads.get(session, content_type, fields)
            await sending.prepare_again(head)


def _body(
    json: Any, content: bytes | str, data: Mapping[str, Any] | None, files: Files | None
) -> tuple[bytes, str]:
    """Return the body of a request and its type; TypeError for two bodies."""
    content_type, has_form = "", data is not None or files is not None
    if (json is not _NOTHING) + bool(content) + has_form > 1:
        raise TypeError(
            "json, content, and data with files are three ways to give the body; keep one of them"
        )
    if json is not _NOTHING:
        return _encode_json(json), "application/json"
    if has_form:
        content, content_type = form(data, files)
    return content.encode() if isinstance(content, str) else content, content_type


def _own_headers(headers: Mapping[str, str] | None, auth: Auth | None) -> Pairs:
    credentials = () if auth is None else (("authorization", authorization(auth)),)
    return (*(headers or {}).items(), *credentials)


def _with_params(path: str, params: Mapping[str, Any] | None) -> str:
    if not path.startswith("/"):
        raise ValueError(f"path {path!r} must start with /; it is relative to the target's url")
    try:
        return f"{path}{'&' if '?' in path else '?'}{urlencode(params or {}, doseq=True)}"
    except (TypeError, ValueError):
        raise no_params(params) from None


def _other_method(method: str) -> str:
    method = method.upper()
    if not _OTHER_METHOD(method) or method == "CONNECT":
        raise ValueError(f"method {method!r} is not supported")
    return method


def default_name(method: str, path: str) -> str:
    """Return the operation of a request without a name: method and path, ids replaced, no query."""
    return f"{method} {_ID_LIKE.sub('{id}', path.partition('?')[0])}"
