"""One request on its way: its attempts, where redirects lead it, and a row for each."""

from __future__ import annotations

import asyncio

from perfkit.drive.rows import ERROR_CODE, NEVER, PHASE_CODE, Extra, pack_row
from perfkit.drive.session.heads import Head
from perfkit.drive.session.recorder import Recorder, Step, storable
from perfkit.drive.session.redirects import MAX_HOPS, REDIRECTS, redirected
from perfkit.drive.session.response import Check, Response, checked, decoded, judge
from perfkit.drive.transport import Exchange, server_timing
from perfkit.streams import Reader, Stream, read

ERROR_TEXT_LIMIT = 300
_AT_THE_END = "still in flight when the run ended"
_GIVEN_UP = "cancelled by the scenario: its own time limit, or a task it cancelled"
_LOOKED_AT = 16384  #: of a failed response's body, for its error text
_HOP = " (redirect)"
_WARMUP, _MEASURE, _DRAIN = (PHASE_CODE[name] for name in ("warmup", "measure", "drain"))
_MAKING = ("POST", "PUT")
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_FRESH = {"fresh": True}


class Sending:
    """A request of a step: `once` sends it, `again` says whether it has to be sent once more, and how."""

    __slots__ = (
        *("_attempt", "_body", "_fresh", "_head", "_hop", "_hops", "_how", "_method", "_name", "_operation"),
        *("_path", "_planned", "_recorder", "_retries", "_seq", "_started", "_step", "_user"),
    )

    def __init__(
        self, recorder: Recorder, step: Step, head: Head, user: int,
        method: str, path: str, body: bytes, name: str, planned: int, started: int,
    ) -> None:  # fmt: skip
        self._recorder, self._step, self._head, self._user = recorder, step, head, user
        self._method, self._path, self._body, self._name = method, path, body, name
        self._planned, self._started = planned, started
        self._operation = recorder.operation_code(name, head)
        self._seq = recorder.next_seq()
        self._attempt, self._retries, self._hops = 1, recorder.target.retries, MAX_HOPS
        self._how: dict[str, bool] = {}
        self._hop: tuple[str, str, bytes] | None = None
        self._fresh = False

    async def once(self, timeout_s: float, stream: Reader, check: Check | None) -> Response:
        """Send it, wait for the whole response, record a row."""
        recorder, method = self._recorder, self._method
        lines = f"{self._head.lines}{self._seq}\r\n"
        try:
            exchange = await recorder.transport.send(
                method, self._path, lines, self._body, timeout_s, **self._how
            )
        except asyncio.CancelledError as cut:
            got = self._cut(cut, stream)
            if got is None:
                raise
            exchange = got
        response = Response(exchange, method, self._path, recorder.target.max_body_mb * 1024 * 1024)
        response.error = exchange.error or judge(exchange)
        # nobody has done anything yet, or twice is as good as once (RFC 9110, 9.2.2)
        repeatable = exchange.lost == "unwritten" or (exchange.lost and method in _IDEMPOTENT)
        self._fresh = not self._how and bool(repeatable)
        if exchange.error is not None and exchange.sent != NEVER and method in _MAKING and not self._fresh:
            recorder.unanswered += 1
        told, self._hop = _told(exchange, stream), None
        if response.error is None and told is not None and told.error is not None:
            response.error, exchange.error_text = "check", told.error
        if response.error is None:
            self._look(response, exchange, told, check)
        self._record(exchange, response.error, told)
        if response.error is not None:
            response.shown_path = recorder.redact(self._path, self._head.secrets)
        return response

    def again(self, response: Response) -> bool:
        """Whether it is sent once more: after a redirect, on a fresh connection, or as a retry."""
        recorder = self._recorder
        self._attempt += 1
        if self._hop is not None:
            self._hops -= 1
            self._method, self._path, self._body = self._hop
            self._planned = self._started = recorder.clock()
            self._operation = recorder.operation_code(self._name, self._head, _HOP)
            self._seq, self._attempt, self._how = recorder.next_seq(), 1, {}
            return True
        if self._fresh:
            self._how = _FRESH
        elif self._retries and response.error in ("connect", "reset", "http_5xx"):
            self._retries -= 1
        else:
            self._step.failed |= response.error is not None
            return False
        recorder.retried += 1
        self._started = recorder.clock()
        return True

    def _cut(self, cut: asyncio.CancelledError, stream: Reader) -> Exchange | None:
        """The whole exchange of a request that is cancelled; None for a part of it, which is a row now."""
        recorder, step = self._recorder, self._step
        got_so_far = cut.args[0] if cut.args else None
        exchange = got_so_far if isinstance(got_so_far, Exchange) else Exchange()
        step.cut |= recorder.cutting
        if recorder.cutting and exchange.done != NEVER:
            _cancel_again()  # answered in this moment: the step hears of it, and ends where it waits next
            return exchange
        exchange.fail("cutoff", _AT_THE_END if recorder.cutting else _GIVEN_UP, recorder.clock())
        self._record(exchange, exchange.error or judge(exchange), _told(exchange, stream))
        step.failed = True
        recorder.unanswered += self._method in _MAKING
        return None

    def _look(self, response: Response, exchange: Exchange, told: Stream | None, check: Check | None) -> None:
        """Where a response that did not fail leads, or what the scenario's check says of it."""
        if exchange.status in REDIRECTS:
            target = self._recorder.target
            self._hop = redirected(self._method, self._path, self._body, exchange, target, self._hops)
            response.error = "check" if self._hop is None else None
        elif check is not None:
            try:
                response.error = checked(response, check)
            except BaseException:
                self._record(exchange, "check", told)
                raise

    def _record(self, exchange: Exchange, error: str | None, stream: Stream | None) -> None:
        step, planned = self._step, self._planned
        buffer = self._recorder.buffer
        extra = words = None
        timing = server_timing(exchange.headers)
        if timing is not None:
            timing = self._recorder.known_metrics(timing, self._head)
        if error is not None:
            buffer.failed += 1
            body = b"" if exchange.error_text else decoded(exchange, _LOOKED_AT)
            text = storable(exchange.error_text or body.decode("utf-8", "replace"))
            cut = len(body) >= _LOOKED_AT
            text = self._recorder.redact.beginning(text, ERROR_TEXT_LIMIT, self._head.secrets, cut=cut)
            words = exchange.error_text = text or None  # what is raised or shown holds no secret either
        if stream is not None:
            first = NEVER if stream.first_token is None else stream.first_token
            extra = Extra(words, stream.chunks, timing, first, stream.tokens)
        elif error is not None or timing is not None:
            extra = Extra(words, None, timing)
        if exchange.connecting and self._attempt == 1:
            self._recorder.opening.add(self._seq, exchange.connecting)
        phase = step.phase
        if phase is None:
            begins, ends = self._recorder.measure_begins, self._recorder.measure_ends
            phase = _WARMUP if planned < begins else _MEASURE if planned < ends else _DRAIN
        bytes_sent = 0 if exchange.sent == NEVER else len(self._body)
        row = pack_row(
            planned, self._started, exchange.sending, exchange.sent, exchange.first_byte, exchange.done,
            self._seq, step.number, bytes_sent, len(exchange.body), self._user, exchange.status,
            self._operation, phase, ERROR_CODE[error], self._attempt,
        )  # fmt: skip
        buffer.add(row, extra)


def _cancel_again() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _told(exchange: Exchange, reader: Reader) -> Stream | None:
    if exchange.events is None:
        return None
    return read(exchange.events, None if exchange.sent == NEVER else exchange.sent, reader)
