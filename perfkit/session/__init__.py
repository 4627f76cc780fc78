"""What a scenario holds: `session.get/post/…` in httpx's language, every request a row.

    response = await session.post("/v1/agents/", json=body, name="create_agent")
    agent_id = response.raise_for_status().json()["id"]

A request never raises for what the server or the network did, unless asked to (`raise_for_status`); a failed
one has `response.error` set and is a row either way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from perfkit.model import Target
from perfkit.rows import ERROR_CODE, NEVER, PHASE_CODE, Extra, RowBuffer, pack_row
from perfkit.session.heads import Head, Heads
from perfkit.session.redaction import Redactor, is_secret_name, secrets_in
from perfkit.session.redirects import MAX_HOPS, REDIRECTS, redirected
from perfkit.session.response import Check, Response, checked, decoded, judge
from perfkit.transport import Clock, Exchange, Transport, server_timing

__all__ = ["Recorder", "Redactor", "Response", "Session", "Undo", "is_secret_name", "secrets_in"]

ERROR_TEXT_LIMIT = 300
_LOOKED_AT = 16384  #: of a failed response's body, for its error text
_NAME_LIMIT = 200
_HOP = " (redirect)"
_MAX_OPERATIONS = 1000
_MAX_METRICS = 64
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = re.compile(r"[A-Z][A-Z-]*").fullmatch
_ID_LIKE = re.compile(r"(?<=/)(?:[a-z_]+-)?(?:\d+|[0-9a-f]{8}-?[0-9a-f-]{4,})(?=/|$)", re.IGNORECASE)
_MEASURE, _DRAIN = PHASE_CODE["measure"], PHASE_CODE["drain"]
_encode_json = msgspec.json.Encoder().encode
_NOTHING = msgspec.UNSET

#: A request to send at teardown: method, path, headers.
_MAKING = ("POST", "PUT")
Undo = tuple[str, str, tuple[tuple[str, str], ...]]


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
    retried: int = 0  #: attempts after the first, the one under way included
    unanswered: int = 0  #: POST and PUT that were sent and got no answer: what they made is not known
    #: By seq, for requests whose first attempt opened a connection or tried to: nanoseconds spent on that.
    opening: dict[int, int] = field(default_factory=dict)
    _codes: dict[str, int] = field(default_factory=dict)
    _metrics: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._next = self.first_seq
        self.heads = Heads(self.headers, self.id_prefix, urlsplit(self.target.url or "").netloc)

    def next_seq(self) -> int:
        """A number no other request of the run has."""
        seq = self._next
        self._next = seq + self.seq_stride
        return seq

    def in_flight(self) -> int:
        """How many requests are under way, from counts that are kept anyway: the load path pays nothing."""
        begun = (self._next - self.first_seq) // self.seq_stride
        return begun + self.retried - self.buffer.count

    def operation_code(self, name: str) -> int:
        """The code of an operation; after a thousand names all others are one, so that a slip (an id in a
        name) cannot grow without bound."""
        code = self._codes.get(name)
        if code is None:
            name = name if len(self._codes) < _MAX_OPERATIONS else "(other operations)"
            code = self._codes[name] = self.buffer.operation_code(_storable(name)[:_NAME_LIMIT])
        return code

    def known_metrics(self, timing: dict[str, float]) -> dict[str, float] | None:
        """The Server-Timing metrics that are recorded: each name is a column, so there is an end to them."""
        if not self._metrics.issuperset(timing):
            for name in timing:
                if len(self._metrics) < _MAX_METRICS:
                    self._metrics.add(name)
            timing = {name: value for name, value in timing.items() if name in self._metrics}
        return timing or None


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

    def get(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """GET; see `request`."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """POST; see `request`."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """PUT; see `request`."""
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """PATCH; see `request`."""
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """DELETE; see `request`."""
        return self.request("DELETE", path, **options)

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
        A stream of server-sent events is read to its end, with one instant per event. Of headers given
        twice the nearest counts: this request's, then the session's, then the target's.

        A retry is a row with the same `seq` and the next `attempt`. A redirect that is followed leads to
        another request: the next `seq`, attempt 1, planned when the redirect had come, and of operation
        `NAME (redirect)`, so that the times of NAME are not mixed with those of what it led to.
        """
        recorder = self._recorder
        started = recorder.clock()
        planned, self._planned = self._planned, None
        if planned is None:
            planned = started
            if started >= recorder.measure_ends and self._phase == _MEASURE:
                self._phase = _DRAIN
        content_type = ""
        if json is not _NOTHING:
            content = _encode_json(json)
            content_type = "application/json"
        elif data is not None:
            content = urlencode(data, doseq=True)
            content_type = "application/x-www-form-urlencoded"
        body = content.encode() if isinstance(content, str) else content
        own = tuple(headers.items()) if headers else ()
        head = recorder.heads.get(tuple(self.headers.items()), content_type, own)
        if params:
            path = f"{path}{'&' if '?' in path else '?'}{urlencode(params, doseq=True)}"
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /; it is relative to the target's url")
        if method not in _METHODS:
            method = _other_method(method)
        name = name or _default_name(method, path)
        operation = recorder.operation_code(name)
        seq = recorder.next_seq()
        target = recorder.target
        timeout_s = timeout_s or target.timeout_s
        attempt, retries, hops = 1, target.retries, MAX_HOPS
        while True:
            row = (planned, started, seq, len(body), operation, attempt)
            lines = f"{head.lines}{seq}\r\n"
            try:
                exchange = await recorder.transport.send(method, path, lines, body, timeout_s)
            except asyncio.CancelledError as cut:
                got_so_far = cut.args[0] if cut.args else None
                exchange = got_so_far if isinstance(got_so_far, Exchange) else Exchange()
                exchange.fail("cutoff", "still under way when the run ended", recorder.clock())
                self._record(row, exchange, head, exchange.error or judge(exchange))
                recorder.unanswered += method in _MAKING
                raise
            response = Response(exchange, method, path)
            response.error = exchange.error or judge(exchange)
            if exchange.error is not None and exchange.sent != NEVER and method in _MAKING:
                recorder.unanswered += 1
            hop = None
            if response.error is None:
                if exchange.status in REDIRECTS:
                    hop = redirected(method, path, body, exchange, target, hops)
                    response.error = "check" if hop is None else None
                elif check is not None:
                    response.error = checked(response, check)
            self._record(row, exchange, head, response.error)
            attempt += 1
            if hop is not None:
                hops -= 1
                method, path, body = hop
                planned = started = recorder.clock()
                operation = recorder.operation_code(name[: _NAME_LIMIT - len(_HOP)] + _HOP)
                seq, attempt = recorder.next_seq(), 1
            elif retries and response.error in ("connect", "reset", "http_5xx"):
                retries -= 1
                recorder.retried += 1
                started = recorder.clock()
            else:
                return response

    def _record(
        self,
        row: tuple[int, int, int, int, int, int],
        exchange: Exchange,
        head: Head,
        error: str | None,
    ) -> None:
        planned, started, seq, body_size, operation, attempt = row
        buffer = self._recorder.buffer
        extra = None
        timing = server_timing(exchange.headers)
        if timing is not None:
            timing = self._recorder.known_metrics(timing)
        if error is not None:
            buffer.failed += 1
            self.failed = True
            text = exchange.error_text or decoded(exchange, _LOOKED_AT).decode("utf-8", "replace")
            text = _storable(self._recorder.redact(text, secrets_in(head.fields)))[:ERROR_TEXT_LIMIT]
            exchange.error_text = text or None  # what is raised or shown holds no secret either
            extra = Extra(exchange.error_text, exchange.chunks, timing)
        elif timing is not None or exchange.chunks is not None:
            extra = Extra(None, exchange.chunks, timing)
        if exchange.connecting and attempt == 1:
            self._recorder.opening[seq] = exchange.connecting
        self.requests += 1
        bytes_sent = 0 if exchange.sent == NEVER else body_size
        buffer.add(
            pack_row(
                *(planned, started, exchange.sent, exchange.first_byte, exchange.done),
                *(seq, self.iteration, bytes_sent, len(exchange.body), self.user, exchange.status),
                *(operation, self._phase, ERROR_CODE[error], attempt),
            ),
            extra,
        )


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot hold (lone surrogates)."""
    return text.encode("utf-8", "replace").decode()


def _other_method(method: str) -> str:
    method = method.upper()
    if not _OTHER_METHOD(method) or method == "CONNECT":
        raise ValueError(f"method {method!r} is none perfkit can send")
    return method


def _default_name(method: str, path: str) -> str:
    return f"{method} {_ID_LIKE.sub('{id}', path.partition('?')[0])}"
