"""One request on its way: its attempts, where redirects lead it, and a row for each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

import msgspec

from perfkit.drive.rows import ERROR_CODE, NEVER, PHASE_CODE, Extra, pack_row
from perfkit.drive.session.heads import Head
from perfkit.drive.session.recorder import Recorder, Step, storable
from perfkit.drive.session.redirects import MAX_HOPS, REDIRECTS, redirected
from perfkit.drive.session.response import Check, Response, checked, decoded, judge
from perfkit.drive.session.retries import backoff_s
from perfkit.drive.transport import Exchange, server_timing
from perfkit.streams import Reader, Stream, plain, read, read_whole

ERROR_TEXT_LIMIT = 300
_AT_THE_END = "still in flight when the run ended"
_GIVEN_UP = "cancelled by the scenario: its own time limit, or a task it cancelled"
_READ_WHOLE = 16 * 1024 * 1024  #: of a body that is no stream, for its tokens
_LOOKED_AT = 16384  #: of a failed response's body, for its error text
HOP = " (redirect)"
_WARMUP, _MEASURE, _DRAIN = (PHASE_CODE[name] for name in ("warmup", "measure", "drain"))
_MAKING = ("POST", "PUT")
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_RETRIED = ("connect", "reset", "http_5xx")


class Sending(msgspec.Struct, eq=False):  # made for each request: a third of what an __init__ costs
    """A request of a step: `begin` sends it, `end` records a row, `again` says whether once more, and how."""

    _recorder: Recorder
    _step: Step
    head: Head
    _user: int
    _group: int  #: its code
    _method: str
    path: str
    _body: bytes
    _name: str
    _operation: int  #: the code of its name
    _seq: int
    _planned: int
    _started: int
    follow: bool | None = None  #: redirects; None: as the target says
    _attempt: int = 1
    _hops: int = MAX_HOPS
    _fresh: bool = False  #: on a connection of its own
    _retried: int = 0  #: how many of `target.retries` it has used
    hop: tuple[str, str, bytes] | None = None  #: where a redirect leads it
    pause_s: float = 0.0  #: how long to wait before it is sent again

    def begin(self, timeout_s: float) -> Coroutine[Any, Any, Exchange]:
        """Send it, when this is awaited, and wait for the whole response."""
        lines = f"{self.head.lines}{self._seq}\r\n"
        send = self._recorder.transport.send
        return send(self._method, self.path, lines, self._body, timeout_s, fresh=self._fresh)

    def end(
        self, exchange: Exchange, stream: Reader, check: Check | None, ok: int | Collection[int] = ()
    ) -> Response:
        """Judge what came of it, and record a row."""
        recorder = self._recorder
        response = Response(exchange, self._method, self.path, recorder.most_body)
        error = exchange.error or judge(exchange, ok)
        told = None if exchange.events is None and stream is plain else _told(exchange, stream)
        if error is None and told is not None and told.error is not None:
            error, exchange.error_text = "check", told.error
        if error is None and (check is not None or exchange.status in REDIRECTS):
            error = self._look(response, exchange, told, check)
        self._record(exchange, error, told)
        if error is not None:
            response.error = error
            response.shown_path = recorder.redact(self.path, self._secrets())
        return response

    def again(self, response: Response) -> bool:
        """Whether what failed or leads elsewhere is sent once more: after a redirect, on a fresh connection,
        or as a retry."""
        recorder, exchange = self._recorder, response._exchange
        self._attempt += 1
        if self.hop is not None:
            self._hops -= 1
            self._method, self.path, self._body = self.hop
            self._planned = self._started = recorder.clock()
            self._operation = recorder.operation_code(self._name, self.head, self._step, HOP)
            self._seq, self._attempt, self._fresh, self.hop = recorder.next_seq(), 1, False, None
            return True
        # nobody has done anything yet, or twice is as good as once (RFC 9110, 9.2.2)
        repeatable = exchange.lost == "unwritten" or (exchange.lost and self._method in _IDEMPOTENT)
        if repeatable and not self._fresh:
            self._fresh = True
        else:
            if exchange.error is not None and exchange.sent != NEVER and self._method in _MAKING:
                recorder.unanswered += 1
            target = recorder.target
            patient = target.retry_backoff_s > 0
            retried = response.error in _RETRIED or (patient and response.status_code == 429)
            if self._retried >= target.retries or not retried:
                self._step.failed = True
                return False
            self._retried += 1
            if patient:
                seeds = (recorder.seed, self._step.number, self._step.requests, self._retried)
                self.pause_s = backoff_s(target.retry_backoff_s, self._retried, seeds, exchange.headers)
        recorder.retried += 1
        self._started = recorder.clock()
        return True

    async def prepare_again(self, head: Head) -> None:
        """Take the header of the next attempt, and wait until it is time for it."""
        self.head = head
        if not self.pause_s:
            return
        recorder, step = self._recorder, self._step
        try:
            await asyncio.sleep(self.pause_s)
        except asyncio.CancelledError:  # the attempt is not made after all
            recorder.retried -= 1
            step.failed, step.cut = True, step.cut or recorder.cutting
            raise
        self._started, self.pause_s = recorder.clock(), 0.0

    def cut(self, cut: asyncio.CancelledError, stream: Reader) -> Exchange:
        """The whole exchange of a request that is cancelled; a part of it is recorded, and `cut` raised."""
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
        raise cut

    def _look(
        self, response: Response, exchange: Exchange, told: Stream | None, check: Check | None
    ) -> str | None:
        """Where a response that did not fail leads, or what the scenario's check says of it."""
        if exchange.status in REDIRECTS and self.follow is not False:  # else it is what was asked for
            target = self._recorder.target
            follow = target.follow_redirects if self.follow is None else self.follow
            self.hop = redirected(
                self._method, self.path, self._body, exchange, target, self._hops, follow=follow
            )
            return "check" if self.hop is None else None
        if check is None:
            return None
        try:
            return checked(response, check)
        except BaseException:
            self._record(exchange, "check", told)
            raise

    def _secrets(self) -> tuple[str, ...]:
        return (*self.head.secrets, *self._step.secrets)

    def _record(self, exchange: Exchange, error: str | None, stream: Stream | None) -> None:
        recorder, step, planned = self._recorder, self._step, self._planned
        extra = words = None
        timing = server_timing(exchange.headers)
        if timing is not None:
            timing = recorder.known_metrics(timing, self.head)
        if error is not None:
            recorder.buffer.failed += 1
            body = b"" if exchange.error_text else decoded(exchange, _LOOKED_AT)
            text = storable(exchange.error_text or body.decode("utf-8", "replace"))
            cut = len(body) >= _LOOKED_AT
            text = recorder.redact.beginning(text, ERROR_TEXT_LIMIT, self._secrets(), cut=cut)
            words = exchange.error_text = text or None  # what is raised or shown holds no secret either
        if stream is not None:
            first = NEVER if stream.first_token is None else stream.first_token
            extra = Extra(words, stream.chunks, timing, first, stream.tokens)
        elif error is not None or timing is not None:
            extra = Extra(words, None, timing)
        if exchange.connecting and self._attempt == 1:
            recorder.opening.add(self._seq, exchange.connecting)
        phase = step.phase
        if phase is None:
            phase = (
                _WARMUP if planned < recorder.measure_begins
                else _MEASURE if planned < recorder.measure_ends else _DRAIN
            )  # fmt: skip
        bytes_sent = 0 if exchange.sent == NEVER else len(self._body)
        row = pack_row(
            planned, self._started, exchange.sending, exchange.sent, exchange.first_byte, exchange.done,
            self._seq, step.number, bytes_sent, len(exchange.body), self._user, exchange.status,
            self._operation, self._group, phase, ERROR_CODE[error], self._attempt,
        )  # fmt: skip
        recorder.buffer.add(row, extra)


def _cancel_again() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _told(exchange: Exchange, reader: Reader) -> Stream | None:
    """What a reader says of a response; of one that is no stream only a reader that was asked for by name."""
    if exchange.events is None:
        whole = reader is not plain and exchange.body and exchange.error is None
        return read_whole(decoded(exchange, _READ_WHOLE), reader) if whole else None
    return read(exchange.events, None if exchange.sent == NEVER else exchange.sent, reader)
