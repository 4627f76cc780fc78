"""What a scenario holds: `session.get/post/…` in httpx's language, every request a row.

    response = await session.post("/v1/agents/", json=body, name="create_agent")
    agent_id = response.raise_for_status().json()["id"]

A request never raises for what the server or the network did, unless asked to (`raise_for_status`); a failed
one has `response.error` set and is a row either way.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from perfkit.errors import RequestFailed
from perfkit.model import Target
from perfkit.rows import ERROR_CODE, PHASE_CODE, Extra, RowBuffer, pack_row
from perfkit.transport import Clock, Exchange, Transport, server_timing

if TYPE_CHECKING:
    import httpx

ERROR_TEXT_LIMIT = 300
_MAX_OPERATIONS = 1000
_ID_LIKE = re.compile(r"(?<=/)(?:[a-z_]+-)?(?:\d+|[0-9a-f]{8}-?[0-9a-f-]{4,})(?=/|$)")
_SECRET_HEADERS = ("authorization", "cookie", "x-api-key", "x-bare-password", "proxy-authorization")
_SECRET_NAME = re.compile(r"(?:^|[_-])(?:token|secret|password|passwd|credentials|api[_-]?key)$").search
_MEASURE, _DRAIN = PHASE_CODE["measure"], PHASE_CODE["drain"]
_encode_json = msgspec.json.Encoder().encode
_NOTHING = msgspec.UNSET

#: A request to send at teardown: method, path, headers.
Undo = tuple[str, str, tuple[tuple[str, str], ...]]
Check = Callable[["Response"], bool | str | None]


class Redactor:
    """Removes known secrets from text."""

    def __init__(self, secrets: Iterator[str] | tuple[str, ...] = ()) -> None:
        self._secrets = {secret for secret in secrets if secret}

    def __call__(self, text: str, more: tuple[str, ...] = ()) -> str:
        """The text without any known secret, nor those of `more`."""
        for secret in sorted({*self._secrets, *more}, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Values of headers that carry secrets, with and without their scheme word."""
    values = [v for name, v in headers.items() if is_secret_name(name)]
    return tuple({part for value in values for part in (value, value.split(" ")[-1]) if part})


def is_secret_name(name: str) -> bool:
    """Whether a header or parameter of this name holds a secret."""
    return name.lower() in _SECRET_HEADERS or _SECRET_NAME(name.lower()) is not None


@dataclass
class Recorder:
    """What all sessions of one worker share: transport, clock, row buffer, and how rows are numbered."""

    transport: Transport
    clock: Clock
    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    id_prefix: str = ""
    first_seq: int = 0
    seq_stride: int = 1
    redact: Redactor = field(default_factory=Redactor)
    buffer: RowBuffer = field(default_factory=RowBuffer)
    seed: int = 0
    measure_ends: int = 2**63 - 1  #: requests a step begins after this instant are of phase drain
    undo: list[Undo] = field(default_factory=list)
    _codes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next = self.first_seq

    def next_seq(self) -> int:
        """A number no other request of the run has."""
        seq = self._next
        self._next = seq + self.seq_stride
        return seq

    def operation_code(self, name: str) -> int:
        """The code of an operation; after a thousand names all others are one, so that a slip (an id in a
        name) cannot grow without bound."""
        code = self._codes.get(name)
        if code is None:
            name = name if len(self._codes) < _MAX_OPERATIONS else "(other operations)"
            code = self._codes[name] = self.buffer.operation_code(name)
        return code


class Session:
    """One virtual user's way to the server.

    Attributes a step may use: `user` (number of the virtual user), `iteration` (number of the step in the
    whole run), `local` (a dict that stays with the virtual user), `headers` (sent with each of its requests).
    """

    __slots__ = (
        "_phase",
        "_planned",
        "_recorder",
        "failed",
        "headers",
        "iteration",
        "local",
        "requests",
        "user",
    )

    def __init__(self, recorder: Recorder, user: int = 0, phase: str = "setup") -> None:
        self._recorder = recorder
        self._planned: int | None = None
        self._phase = PHASE_CODE[phase]
        self.user = user
        self.iteration = 0
        self.requests = 0
        self.failed = False
        self.local: dict[str, Any] = {}
        self.headers: dict[str, str] = {}

    @property
    def seed(self) -> int:
        """The workload's seed, for random choices in `setup`."""
        return self._recorder.seed

    @property
    def run_tag(self) -> str:
        """A few letters no other run has, for names on a shared server."""
        return self._recorder.id_prefix.rstrip("-")

    def begin_step(self, iteration: int, planned: int, phase_code: int) -> None:
        """Called by the engine: the next request was planned for this instant."""
        self.iteration, self._planned, self._phase = iteration, planned, phase_code
        self.failed = False

    def on_teardown(self, method: str, path: str) -> None:
        """Send this request when the run is over (latest first), to remove what the scenario made."""
        self._recorder.undo.append((method, path, tuple(self.headers.items())))

    async def get(self, path: str, **options: Any) -> Response:
        """GET; see `request`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        """POST; see `request`."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> Response:
        """PUT; see `request`."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> Response:
        """PATCH; see `request`."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> Response:
        """DELETE; see `request`."""
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = _NOTHING,
        content: bytes | str = b"",
        data: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        check: Check | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Send a request, wait for its whole response, record a row.

        `path` is relative to the target. `name` is the row's operation (default: method and path with ids
        replaced). `check(response)` may return False, or a text, to make the row an error of class `check`.
        A stream of server-sent events is read to its end, with one instant per event.
        """
        recorder = self._recorder
        started = recorder.clock()
        planned, self._planned = self._planned, None
        if planned is None:
            planned = started
            if started >= recorder.measure_ends and self._phase == _MEASURE:
                self._phase = _DRAIN
        lines: list[tuple[str, str]] = [*recorder.headers, *self.headers.items()]
        if json is not _NOTHING:
            content = _encode_json(json)
            lines.append(("content-type", "application/json"))
        elif data is not None:
            content = urlencode(data, doseq=True)
            lines.append(("content-type", "application/x-www-form-urlencoded"))
        body = content.encode() if isinstance(content, str) else content
        if headers:
            lines.extend(headers.items())
        if params:
            path = f"{path}{'&' if '?' in path else '?'}{urlencode(params, doseq=True)}"
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /; it is relative to the target's url")
        seq = recorder.next_seq()
        lines.append(("x-request-id", f"{recorder.id_prefix}{seq}"))
        operation = recorder.operation_code(name or _default_name(method, path))
        target = recorder.target
        timeout_s = timeout_s or target.timeout_s
        attempt = 1
        while True:
            row = (planned, started, seq, len(body), operation, attempt)
            try:
                exchange = await recorder.transport.send(method, path, lines, body, timeout_s)
            except asyncio.CancelledError:
                exchange = Exchange()
                exchange.fail("cutoff", "still under way when the run ended", recorder.clock())
                self._record(row, exchange, lines)
                raise
            response = Response(exchange, method, path)
            response.error = exchange.error or _judge(response, check, target.follow_redirects)
            self._record(row, exchange, lines, response.error)
            attempt += 1
            if response.error in ("connect", "reset", "http_5xx") and attempt <= target.retries + 1:
                started = recorder.clock()
            elif target.follow_redirects and exchange.status in _REDIRECTS and attempt <= _MAX_HOPS:
                method, path, body = _redirected(method, path, body, response, target)
                planned = started = recorder.clock()
            else:
                return response

    def _record(
        self,
        row: tuple[int, int, int, int, int, int],
        exchange: Exchange,
        lines: list[tuple[str, str]],
        error: str | None = None,
    ) -> None:
        planned, started, seq, bytes_sent, operation, attempt = row
        error = error or exchange.error
        buffer = self._recorder.buffer
        extra = None
        timing = server_timing(exchange.headers)
        if error is not None:
            buffer.failed += 1
            self.failed = True
            text = exchange.error_text or exchange.body[: 4 * ERROR_TEXT_LIMIT].decode("utf-8", "replace")
            text = self._recorder.redact(text, secrets_in(dict(lines)))[:ERROR_TEXT_LIMIT]
            extra = Extra(text or None, exchange.chunks, timing)
        elif timing is not None or exchange.chunks is not None:
            extra = Extra(None, exchange.chunks, timing)
        self.requests += 1
        buffer.add(
            pack_row(
                *(planned, started, exchange.sent, exchange.first_byte, exchange.done),
                *(seq, self.iteration, bytes_sent, len(exchange.body), self.user, exchange.status),
                *(operation, self._phase, ERROR_CODE[error], attempt),
            ),
            extra,
        )


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
        """The body; gzip and deflate are undone."""
        encoding = dict(self._exchange.headers).get(b"content-encoding", b"")
        body = self._exchange.body
        return zlib.decompress(body, 47) if encoding in (b"gzip", b"deflate") else body

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
        blocks = self.text.replace("\r\n", "\n").split("\n\n")
        lines = [
            [one[5:].lstrip(" ") for one in block.split("\n") if one.startswith("data:")] for block in blocks
        ]
        return ["\n".join(block) for block in lines if block]

    def raise_for_status(self) -> Response:
        """This response, or RequestFailed (which ends the step) when its row has an error."""
        if self.error is not None:
            text = self._exchange.error_text or self._exchange.body[:ERROR_TEXT_LIMIT].decode(
                "utf-8", "replace"
            )
            what = f"answered {self.status_code}" if self.status_code else f"failed ({self.error})"
            raise RequestFailed(f"{self._method} {self._path} {what}: {text}")
        return self


class StepRandom:
    """A `random.Random` that costs nothing until it is used; seeded by (seed, number of the step), so a
    step makes the same choices in every run, whatever else is going on."""

    __slots__ = ("_random", "_seed", "_step")

    def __init__(self, seed: int, step: int) -> None:
        self._seed, self._step = seed, step
        self._random: random.Random | None = None

    def __getattr__(self, name: str) -> Any:
        if self._random is None:
            self._random = random.Random(f"{self._seed}:{self._step}")
        return getattr(self._random, name)


_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS = 10


def _judge(response: Response, check: Check | None, follow_redirects: bool) -> str | None:
    """The error class of a response that came."""
    status = response.status_code
    exchange = response._exchange
    if status >= 400:
        return "http_5xx" if status >= 500 else "http_4xx"
    if status in _REDIRECTS and not follow_redirects:
        where = dict(exchange.headers).get(b"location", b"").decode("latin-1")
        exchange.error_text = f"redirected ({status}) to {where}; redirects are off (target.follow_redirects)"
        return "check"
    if check is not None:
        try:
            verdict = check(response)
        except Exception as error:
            verdict = f"check raised {type(error).__name__}: {error}"
        if verdict is False or isinstance(verdict, str):
            exchange.error_text = verdict or "check failed"
            return "check"
    return None


def _redirected(
    method: str, path: str, body: bytes, response: Response, target: Target
) -> tuple[str, str, bytes]:
    """Where a redirect leads; only to the same target, a load test visits no other server."""
    location = response.headers.get("location", "")
    base = (target.url or "").rstrip("/")
    if location.startswith(base + "/"):
        location = location[len(base) :]
    if not location.startswith("/") or location.startswith("//"):
        raise RequestFailed(f"{method} {path} redirects to {location!r}, outside the target")
    if response.status_code in (307, 308):
        return method, location, body
    return ("HEAD" if method == "HEAD" else "GET"), location, b""


def _default_name(method: str, path: str) -> str:
    return f"{method} {_ID_LIKE.sub('{id}', path.partition('?')[0])}"
