"""One HTTP/1.1 connection over asyncio, with the httptools parser and nothing in between.

Instants are read where things happen: `sent` after the last byte was handed to the socket, the others when
bytes come out of it, before they are parsed. Over TLS `sent` is exact for requests up to 64 KB; for larger
ones the socket's buffer is looked at every millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from collections.abc import Sequence
from typing import cast

import httptools

from perfkit.drive.rows import NEVER
from perfkit.drive.transport import FITS_SOCKET, Clock, Exchange, headers_size, is_event_stream
from perfkit.model import Target
from perfkit.streams import Events


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    __slots__ = (
        *("_body_size", "_clock", "_deadline", "_events", "_fd", "_head", "_head_size", "_in_head"),
        *("_is_head", "_max_body", "_max_head", "_now", "_odd", "_parser", "_parts", "_served", "_socket"),
        *(
            "_spare",
            "_timeout_s",
            "_usual",
            "_timer",
            "_timer_due",
            "exchange",
            "idle_since",
            "loop",
            "reusable",
        ),
        *("transport", "waiter"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, target: Target) -> None:
        self.loop = loop
        self._clock = clock
        self._max_head = target.max_header_kb * 1024
        self._max_body = target.max_body_mb * 1024 * 1024
        self._parser = self._new_parser()
        self._fd = -1
        self._now = 0
        self._spare = -1  #: the socket once more, while a large request is written
        self._served = False  #: whether it has carried an exchange to its end
        self._timer: asyncio.TimerHandle | None = None  # wakes us at the deadline, or before it
        self._timer_due = 0
        self._head: list[bytes] = []  #: as it came, until it is whole
        self._odd: Exception | None = None
        self._parts: list[bytes] = []
        self._events: Events | None = None
        self.exchange: Exchange | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.reusable = True
        self.idle_since = 0
        self.transport: asyncio.Transport
        self._socket: asyncio.Transport  # the same, or what TLS writes to

    def start(
        self, data: bytes, exchange: Exchange, is_head: bool, timeout_s: float, left_s: float
    ) -> asyncio.Future[None]:
        """Write a request; the future is done when the exchange has ended, well or badly.

        `left_s` is what waiting for the connection has left of `timeout_s`.
        """
        self.exchange = exchange
        self._in_head, self._is_head = True, is_head
        self._head_size = self._body_size = 0
        self.waiter = self.loop.create_future()
        self._timeout_s = timeout_s
        self._deadline = self._clock() + int(left_s * 1e9)
        if self._timer is None or self._deadline < self._timer_due:
            self._set_timer(left_s)
        self._write(data, exchange)
        return self.waiter

    def _write(self, data: bytes, exchange: Exchange) -> None:
        if self._fd >= 0:
            # uvloop's transport would write at the end of the loop's turn; the socket is ours while the
            # transport's buffer is empty, so write now and let the transport have only what is left
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError as error:
                exchange.lost = "unwritten" if self._served else ""
                self.fail("reset", f"{type(error).__name__}: {error.strerror}")
                return
            now = self._clock()
            if written == len(data):
                exchange.sending = exchange.sent = now
                return
            if written:
                exchange.sending = now
                data = data[written:]
            self._spare = os.dup(self._fd)
        self.transport.write(data)
        if exchange.sending == NEVER:
            exchange.sending = self._clock()
        if self._all_written() or (self._fd < 0 and len(data) <= FITS_SOCKET):
            exchange.sent = self._clock()
        elif self._fd < 0:
            self._watch_writing(exchange)
        # else resume_writing says when

    def _all_written(self) -> bool:
        if self._socket.is_closing():  # what it had not written it never will
            return False
        return self.transport.get_write_buffer_size() == 0 and self._socket.get_write_buffer_size() == 0

    def _watch_writing(self, exchange: Exchange) -> None:
        """TLS takes everything at once and says nothing when the socket has taken it too."""
        if self.exchange is exchange and exchange.sent == NEVER:
            if self._all_written():
                exchange.sent = self._clock()
            else:
                self.loop.call_later(0.001, self._watch_writing, exchange)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._socket = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.transport.set_write_buffer_limits(high=0)
        self._fd = transport.get_extra_info("socket").fileno()

    def secured(self, transport: asyncio.Transport) -> None:
        """From now on everything goes through TLS."""
        self._socket.set_write_buffer_limits()
        self.transport, self._fd = transport, -1

    def resume_writing(self) -> None:
        if self._fd >= 0 and self.exchange is not None and self.exchange.sent == NEVER:
            self.exchange.sent = self._clock()

    def data_received(self, data: bytes) -> None:
        self._now = self._clock()
        if self.exchange is None:  # nobody asked
            self.abort()
            return
        if self._in_head:
            if not self._head_size:
                self._usual = data[:9] in _USUAL
                if not self._usual and not b"HTTP/1.".startswith(data.lstrip(b"\r\n")[:7]):
                    self.fail("protocol", f"not HTTP/1.1: it begins with {data[:20]!r}")
                    return
            self._head_size += len(data)
            self._head.append(data)
        try:
            if self._odd is None:
                self._parser.feed_data(data)
            else:  # the rest of a head that is to be put in order
                self._parse_again(self._odd)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parse_again(error)
        if self._in_head and self._head_size > self._max_head and self.exchange is not None:
            self._fail_head()

    def is_quiet(self) -> bool:
        """Whether nothing has come that the loop has not read yet: not the end, nor what nobody asked for."""
        poll = select.poll()
        poll.register(self._socket.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def _parse_again(self, error: Exception) -> None:
        """A head that others read too is put in order; all else is no HTTP."""
        if self._in_head and self.exchange is not None:
            came = b"".join(self._head)
            came = came[_INTERIM(came).end() :]  # type: ignore[union-attr]
            if _HEAD(came) is None and _BEGINS(came):
                self._odd = error  # until it is whole
                return
            head, self._odd = tidy(came), None
            if head is not None:
                self.exchange.headers.clear()
                self._parser = self._new_parser()
                try:
                    self._parser.feed_data(head)
                    return
                except (httptools.HttpParserError, httptools.HttpParserUpgrade) as again:
                    error = again
        self.fail("protocol", f"not HTTP/1.1: {error}")

    def eof_received(self) -> None:
        self.reusable = False  # before connection_lost comes, so that nobody takes it from the pool

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fd = -1
        if self._spare >= 0 and self.exchange is not None:
            self._read_rest()
            self.reusable = False
        if self.exchange is not None:
            self._now = self._clock()
            # who refuses a large body and closes may reset what was not read
            ended = exc is None or self.exchange.sent == NEVER
            if ended and not self._in_head and self._ends_with_connection():
                self._finish()
            else:
                if self._served and not self._head_size:
                    self.exchange.lost = "written"
                what = "the server closed the connection before the response was complete"
                self.fail("reset", f"{type(exc).__name__}: {exc}" if exc else what)

    def _read_rest(self) -> None:
        """What had come when writing broke off: a server that refuses a large body answers, and closes."""
        with contextlib.suppress(OSError):
            while self.exchange is not None and (data := os.read(self._spare, FITS_SOCKET)):
                self.data_received(data)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.exchange is None:  # more than one response to one request
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and self.exchange is not None:  # trailers are dropped
            self.exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        headers = exchange.headers
        # what came in so far may hold a piece of the body: count only when that is too much already
        if self._head_size > self._max_head and headers_size(headers) > self._max_head:
            self._fail_head()
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                self.fail("protocol", "the server switched protocols")
            elif status < 100:  # no interim answer that another one follows
                self.fail("protocol", f"not HTTP/1.1: status {status:03}")
            return
        if not self._usual and not _BEGINS(came := b"".join(self._head)):
            self.fail("protocol", f"not HTTP/1.1: it begins with {came[:20]!r}")
            return
        self._in_head = False
        self._head.clear()
        exchange.status = status
        if exchange.sent == NEVER and self._all_written():
            exchange.sent = self._now
        if self._is_head:  # the parser cannot know that no body follows
            stays = self._parser.get_http_version() == "1.1" and not _says_close(headers)
            self._parser = self._new_parser()
            self.reusable = stays
            self._finish()
        elif is_event_stream(headers):
            self._events = Events()

    def on_body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if exchange.first_byte == NEVER:
            exchange.first_byte = self._now
        self._parts.append(data)
        self._body_size += len(data)
        if self._body_size > self._max_body:
            self.fail("protocol", f"body over {self._max_body} bytes (target.max_body_mb)")
        elif self._events is not None:
            self._events.feed(data, self._now)

    def on_message_complete(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if self._in_head:  # 100 Continue, 103 Early Hints: the response is still to come
            exchange.headers.clear()
            self._usual = False
            return
        self.reusable = self._parser.should_keep_alive()
        self._finish()

    # -- the time limit: a timer a connection, not one a request, which is rarely needed

    def _set_timer(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(after_s, self._on_timer)
        self._timer_due = self._deadline

    def _on_timer(self) -> None:
        self._timer = None
        if self.exchange is None:
            return  # the next request sets it again
        left_ns = self._deadline - self._clock()
        if left_ns > 0:  # it was set for an earlier request, or the loop's clock was a bit fast
            self._set_timer(max(left_ns / 1e9, 0.001))
        else:
            self.fail("timeout", f"no complete response within {self._timeout_s:g} s")

    # -- endings

    def _finish(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.sent == NEVER:
            self.reusable = False  # answered too early: the request's rest must not mix with the next one
        exchange.done = self._now
        self._served = True
        self._release(exchange)

    def fail(self, error: str, text: str) -> None:
        """End the exchange under way, if any, and close."""
        if self.exchange is not None:
            self.exchange.fail(error, text, self._clock())
        self.abort()

    def _fail_head(self) -> None:
        self.fail("protocol", f"header over {self._max_head} bytes (target.max_header_kb)")

    def _release(self, exchange: Exchange) -> None:
        parts = self._parts
        exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._events is not None:
            self._events.end(exchange.done)
            exchange.events = self._events.seen
            self._events = None
        parts.clear()
        self.exchange = None
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def abort(self) -> None:
        """Close at once; an exchange under way stays as it is."""
        if self.exchange is not None:
            self._release(self.exchange)
        self.reusable = False
        self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport.abort()

    def _ends_with_connection(self) -> bool:
        assert self.exchange is not None
        names = {name for name, _ in self.exchange.headers}
        return not names & {b"content-length", b"transfer-encoding"}


def tidy(data: bytes) -> bytes | None:
    """A response whose head has lines that end in LF, folded lines (RFC 9112, 5.2: each a space), or the same
    Content-Length more than once (RFC 9110, 8.6), put in order; None where nothing of that is in it."""
    found = _HEAD(data)
    if found is None:
        return None
    lines = _FOLD(b" ", found[0]).replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    lengths = [line.partition(b":")[2] for line in lines if line[:15].lower() == b"content-length:"]
    values = {value.strip() for value in b",".join(lengths).split(b",")}
    if lengths and len(values) == 1:
        lines = [line for line in lines if line[:15].lower() != b"content-length:"]
        lines.append(b"content-length: " + values.pop())
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    return head + data[found.end() :] if head != found[0] else None


_USUAL = (b"HTTP/1.1 ", b"HTTP/1.0 ")
#: The first line of the answer, after those of interim ones (RFC 9110, 15.2).
_BEGINS = re.compile(rb"(?:\s*HTTP/1\.[01] 1\d\d.*?\n\r?\n)*+\s*HTTP/1\.[01] ", re.DOTALL).match
_INTERIM = re.compile(rb"(?:\s*HTTP/1\.[01] 1\d\d.*?\n\r?\n)*+", re.DOTALL).match
_HEAD = re.compile(rb".*?\r?\n\r?\n", re.DOTALL).match
_FOLD = re.compile(rb"\r?\n[ \t]+").sub


def _says_close(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether `close` is among the options of the `connection` headers (RFC 9110, 7.6.1: in any case)."""
    options = b",".join([value for name, value in headers if name == b"connection"]).lower().split(b",")
    return b"close" in [option.strip() for option in options]
