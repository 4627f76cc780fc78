"""What a scenario holds: `session.get/post/…` in httpx's language, every request a row.

    response = await session.post("/v1/agents/", json=body, name="create_agent")
    agent_id = response.raise_for_status().json()["id"]

A request never raises for what the server or the network did, unless asked to (`raise_for_status`); a failed
one has `response.error` set and is a row either way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from perfkit.drive.rows import (
    ERROR_CODE,
    MOST_OPERATIONS,
    NEVER,
    OTHER_OPERATIONS,
    PHASE_CODE,
    Extra,
    RowBuffer,
    pack_row,
)
from perfkit.drive.session.heads import Head, Heads
from perfkit.drive.session.redirects import MAX_HOPS, REDIRECTS, redirected
from perfkit.drive.session.response import Check, Response, checked, decoded, judge
from perfkit.drive.transport import Clock, Exchange, Transport, server_timing
from perfkit.model import Target
from perfkit.redaction import Redactor, secrets_in
from perfkit.streams import Reader, Stream, plain, read

__all__ = ["Opening", "Recorder", "Response", "Session", "Step", "Undo"]

ERROR_TEXT_LIMIT = 300
_AT_THE_END = "still under way when the run ended"
_GIVEN_UP = "given up by the scenario: a time limit of its own, or a task it cancelled"
_LOOKED_AT = 16384  #: of a failed response's body, for its error text
_NAME_LIMIT = 200
_HOP = " (redirect)"
_MAX_METRICS = 64
_METRIC_LIMIT = 40
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = re.compile(r"[A-Z][A-Z-]*").fullmatch
_ID_LIKE = re.compile(r"(?<=/)(?:[a-z_]+-)?(?:\d+|[0-9a-f]{8}-?[0-9a-f-]{4,})(?=/|$)", re.IGNORECASE)
_WARMUP, _MEASURE, _DRAIN = (PHASE_CODE[name] for name in ("warmup", "measure", "drain"))
_encode_json = msgspec.json.Encoder().encode
_NOTHING = msgspec.UNSET

_MAKING = ("POST", "PUT")
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_FRESH = {"fresh": True}


class Undo(NamedTuple):
    """A request that removes something, to be sent at teardown."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]


class Opening:
    """Nanoseconds spent opening a connection, or trying to, of requests whose first attempt did, by seq.

    Of at most MOST requests: where there are more, of one in `every`.
    """

    MOST = 100_000

    def __init__(self, seq_stride: int) -> None:
        self.every = 1
        self.ns: dict[int, int] = {}
        self._stride = seq_stride

    def add(self, seq: int, ns: int) -> None:
        """Keep it if it is one of those that are kept."""
        if seq // self._stride % self.every == 0:
            self.ns[seq] = ns
            if len(self.ns) > self.MOST:
                self.thin(self.every * 2)

    def thin(self, every: int) -> None:
        """Keep those of one in `every` requests."""
        self.every = every
        self.ns = {seq: ns for seq, ns in self.ns.items() if seq // self._stride % every == 0}


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
    #: What is planned before the first instant is of phase warmup, from the second on it is drain.
    measure_begins: int = 0
    measure_ends: int = 2**63 - 1
    cutting: bool = False  #: what is cancelled from now on is cut off by the end of the run
    over: bool = False  #: nothing more is sent
    undo: list[Undo] = field(default_factory=list)
    journal: Callable[[Undo], None] = lambda undo: None  #: called with each undo as it comes
    retried: int = 0  #: attempts after the first, the one under way included
    unanswered: int = 0  #: POST and PUT that were sent and got no answer: what they made is not known
    _codes: dict[str, int] = field(default_factory=dict)
    _metrics: dict[str, str | None] = field(default_factory=dict)
    _plain_metrics: set[str] = field(default_factory=set)  #: those recorded under the name they came with

    def __post_init__(self) -> None:
        self._next = self.first_seq
        self.opening = Opening(self.seq_stride)
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

    def operation_code(self, name: str, head: Head | None = None, hop: str = "") -> int:
        """Return the code of an operation, whose name is recorded without secrets. After a thousand names all
        others have one code, so that a slip (an id in a name) cannot grow without bound."""
        code = self._codes.get(name + hop)
        if code is None and len(self._codes) >= MOST_OPERATIONS:
            code = self.buffer.operation_code(OTHER_OPERATIONS)
        elif code is None:
            shown = _storable(self._without_secrets(name, head))[: _NAME_LIMIT - len(hop)] + hop
            code = self._codes[name + hop] = self.buffer.operation_code(shown)
        return code

    def known_metrics(self, timing: dict[str, float], head: Head | None = None) -> dict[str, float] | None:
        """Return the Server-Timing metrics that are recorded, a column each: a limited number of them, and
        none that holds a secret."""
        if self._plain_metrics.issuperset(timing):
            return timing
        kept = {}
        for name, value in timing.items():
            if name not in self._metrics:
                if len(self._metrics) >= _MAX_METRICS:
                    continue
                harmless = self._without_secrets(name, head) == name
                self._metrics[name] = name[:_METRIC_LIMIT] if harmless else None
                if self._metrics[name] == name:
                    self._plain_metrics.add(name)
            column = self._metrics[name]
            if column is not None:
                kept[column] = value
        return kept or None

    def _without_secrets(self, name: str, head: Head | None) -> str:
        return self.redact(name, head.secrets if head is not None else ())


class Step:
    """One step of a scenario. What it begins belongs to it, however long that lasts and whatever comes next.

    phase: of its requests; None: that of the instant each is planned for.
    """

    __slots__ = ("cut", "failed", "head", "number", "phase", "planned", "requests")

    def __init__(self, number: int = 0, planned: int | None = None, phase: int | None = None) -> None:
        self.number, self.phase = number, phase
        self.planned = planned  #: of its first request; None when that has begun
        self.requests = 0  #: how many it has begun
        self.failed = False  #: whether one of them has, after all its attempts
        self.cut = False  #: whether the end of the run has cut one off
        self.head: Head | None = None  #: of the latest


#: The step a task was begun in: tasks that it leaves behind keep it.
_STEP: ContextVar[Step] = ContextVar("step")


class Session:
    """One virtual user's way to the server.

    Attributes a step may use: `user` (number of the virtual user), `iteration`, `local` (a dict that stays
    with the virtual user), `headers` (sent with each of its requests).
    """

    __slots__ = ("_outside", "_recorder", "headers", "local", "user")

    def __init__(self, recorder: Recorder, user: int = 0, phase: str = "setup") -> None:
        self._recorder = recorder
        self._outside = Step(phase=PHASE_CODE[phase])  #: of what is sent in no step: setup and teardown
        self.user = user
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

    @property
    def iteration(self) -> int:
        """The number of the step in the whole run."""
        return _STEP.get(self._outside).number

    def begin_step(self, number: int, planned: int) -> Step:
        """Called by the engine, in the task of the step: its first request was planned for this instant."""
        step = self._outside = Step(number, planned)  # what another thread sends belongs to the latest
        _STEP.set(step)
        return step

    def redact(self, text: str) -> str:
        """Return a text without the secrets of the run, of this user and of its latest request."""
        head = _STEP.get(self._outside).head
        more = head.secrets if head is not None else ()
        return self._recorder.redact(text, (*more, *secrets_in(self.headers)))

    def on_teardown(self, method: str, path: str) -> None:
        """Send this request when the run is over (latest first), to remove what the scenario made."""
        if not isinstance(path, str) or not isinstance(method, str):
            raise TypeError(f"on_teardown takes a method and a path, not {method!r:.40} and {path!r:.40}")
        undo = Undo(method, path, tuple((name, str(value)) for name, value in self.headers.items()))
        self._recorder.undo.append(undo)
        self._recorder.journal(undo)

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
        stream: Reader = plain,
        timeout_s: float | None = None,
    ) -> Response:
        """Send a request, wait for its whole response, record a row.

        `path` is relative to the target. `name` is the row's operation (default: method and path with ids
        replaced). `check(response)` may return False, or a text, to make the row an error of class `check`.
        A stream of server-sent events is read to its end; `stream` says which of its events carry content and
        which tell of an error, which makes the row one of class `check` (`perfkit.streams`). Of headers given
        twice the nearest counts: this request's, then the session's, then the target's.

        A retry is a row with the same `seq` and the next `attempt`. A redirect that is followed leads to
        another request: the next `seq`, attempt 1, planned when the redirect had come, and of operation
        `NAME (redirect)`, so that the times of NAME are not mixed with those of what it led to.
        """
        recorder = self._recorder
        if recorder.over:
            raise asyncio.CancelledError("the run has ended")
        step = _STEP.get(self._outside)
        started = recorder.clock()
        planned, step.planned = step.planned, None
        if planned is None:
            planned = started
        step.requests += 1
        content_type = ""
        if json is not _NOTHING:
            content = _encode_json(json)
            content_type = "application/json"
        elif data is not None:
            content = urlencode(data, doseq=True)
            content_type = "application/x-www-form-urlencoded"
        body = content.encode() if isinstance(content, str) else content
        own = tuple(headers.items()) if headers else ()
        head = step.head = recorder.heads.get(tuple(self.headers.items()), content_type, own)
        if params:
            path = f"{path}{'&' if '?' in path else '?'}{urlencode(params, doseq=True)}"
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /; it is relative to the target's url")
        if method not in _METHODS:
            method = _other_method(method)
        name = name or _default_name(method, path)
        operation = recorder.operation_code(name, head)
        seq = recorder.next_seq()
        target = recorder.target
        timeout_s = timeout_s or target.timeout_s
        attempt, retries, hops = 1, target.retries, MAX_HOPS
        how: dict[str, bool] = {}
        while True:
            row = (planned, started, seq, len(body), operation, attempt)
            lines = f"{head.lines}{seq}\r\n"
            try:
                exchange = await recorder.transport.send(method, path, lines, body, timeout_s, **how)
            except asyncio.CancelledError as cut:
                got_so_far = cut.args[0] if cut.args else None
                exchange = got_so_far if isinstance(got_so_far, Exchange) else Exchange()
                step.cut |= recorder.cutting
                if not recorder.cutting or exchange.done == NEVER:
                    exchange.fail("cutoff", _AT_THE_END if recorder.cutting else _GIVEN_UP, recorder.clock())
                    error = exchange.error or judge(exchange)
                    self._record(step, row, exchange, head, error, _told(exchange, stream))
                    step.failed = True
                    recorder.unanswered += method in _MAKING
                    raise
                _cancel_again()  # answered in this moment: the step hears of it, and ends where it waits next
            response = Response(exchange, method, path, target.max_body_mb * 1024 * 1024)
            response.error = exchange.error or judge(exchange)
            # nobody has done anything yet, or twice is as good as once (RFC 9110, 9.2.2)
            again = not how and (exchange.lost == "unwritten" or (exchange.lost and method in _IDEMPOTENT))
            if exchange.error is not None and exchange.sent != NEVER and method in _MAKING and not again:
                recorder.unanswered += 1
            hop, told = None, _told(exchange, stream)
            if response.error is None and told is not None and told.error is not None:
                response.error, exchange.error_text = "check", told.error
            if response.error is None:
                if exchange.status in REDIRECTS:
                    hop = redirected(method, path, body, exchange, target, hops)
                    response.error = "check" if hop is None else None
                elif check is not None:
                    try:
                        response.error = checked(response, check)
                    except BaseException:
                        self._record(step, row, exchange, head, "check", told)
                        raise
            self._record(step, row, exchange, head, response.error, told)
            if response.error is not None:
                response.shown_path = recorder.redact(path, head.secrets)
            attempt += 1
            if hop is not None:
                hops -= 1
                method, path, body = hop
                planned = started = recorder.clock()
                operation = recorder.operation_code(name, head, _HOP)
                seq, attempt, how = recorder.next_seq(), 1, {}
            elif again:
                how = _FRESH
                recorder.retried += 1
                started = recorder.clock()
            elif retries and response.error in ("connect", "reset", "http_5xx"):
                retries -= 1
                recorder.retried += 1
                started = recorder.clock()
            else:
                step.failed |= response.error is not None
                return response

    def _record(
        self,
        step: Step,
        row: tuple[int, int, int, int, int, int],
        exchange: Exchange,
        head: Head,
        error: str | None,
        stream: Stream | None,
    ) -> None:
        planned, started, seq, body_size, operation, attempt = row
        buffer = self._recorder.buffer
        extra = words = None
        timing = server_timing(exchange.headers)
        if timing is not None:
            timing = self._recorder.known_metrics(timing, head)
        if error is not None:
            buffer.failed += 1
            body = b"" if exchange.error_text else decoded(exchange, _LOOKED_AT)
            text = _storable(exchange.error_text or body.decode("utf-8", "replace"))
            cut = len(body) >= _LOOKED_AT
            text = self._recorder.redact.beginning(text, ERROR_TEXT_LIMIT, head.secrets, cut=cut)
            words = exchange.error_text = text or None  # what is raised or shown holds no secret either
        if stream is not None:
            first = NEVER if stream.first_token is None else stream.first_token
            extra = Extra(words, stream.chunks, timing, first, stream.tokens)
        elif error is not None or timing is not None:
            extra = Extra(words, None, timing)
        if exchange.connecting and attempt == 1:
            self._recorder.opening.add(seq, exchange.connecting)
        phase = step.phase
        if phase is None:
            begins, ends = self._recorder.measure_begins, self._recorder.measure_ends
            phase = _WARMUP if planned < begins else _MEASURE if planned < ends else _DRAIN
        bytes_sent = 0 if exchange.sent == NEVER else body_size
        buffer.add(
            pack_row(
                *(planned, started, exchange.sending, exchange.sent, exchange.first_byte, exchange.done),
                *(seq, step.number, bytes_sent, len(exchange.body), self.user, exchange.status),
                *(operation, phase, ERROR_CODE[error], attempt),
            ),
            extra,
        )


def _cancel_again() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _told(exchange: Exchange, reader: Reader) -> Stream | None:
    if exchange.events is None:
        return None
    return read(exchange.events, None if exchange.sent == NEVER else exchange.sent, reader)


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
