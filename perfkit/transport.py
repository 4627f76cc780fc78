"""What every transport gives back for a request, and the few rules both share.

A transport has one method worth the name: `send`. It never raises for what the network or the server did;
that is data, and stands in the `Exchange`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from perfkit.errors import BadInput
from perfkit.model import Target
from perfkit.rows import NEVER

#: Returns nanoseconds on the clock of the event loop.
Clock = Callable[[], int]
Headers = Sequence[tuple[str, str]]


def loop_clock(loop: object) -> Clock:
    """The clock instants are read from: the loop's own `time_ns` when it has one (tests), else monotonic.

    `loop.time()` itself will not do: uvloop caches it and rounds it to a millisecond.
    """
    clock: Clock = getattr(loop, "time_ns", time.monotonic_ns)
    return clock


class Exchange:
    """One request's fate. Instants are absolute nanoseconds of the loop's clock; NEVER = not reached."""

    __slots__ = ("body", "chunks", "done", "error", "error_text", "first_byte", "headers", "sent", "status")

    def __init__(self) -> None:
        self.sent = NEVER
        self.first_byte = NEVER
        self.done = NEVER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []  #: names in lower case
        self.body = b""
        self.chunks: list[int] | None = None  #: event streams: microseconds since `sent`, one per event
        self.error: str | None = None
        self.error_text: str | None = None

    def fail(self, error: str, text: str, now: int) -> None:
        """End badly, unless it has ended already."""
        if self.done == NEVER:
            self.error, self.error_text, self.done = error, text, now


class Transport(Protocol):
    """The seam between scenarios and the network."""

    async def send(self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float) -> Exchange:
        """Send one request and read its whole response. Raises only CancelledError."""

    async def close(self) -> None:
        """Close every connection."""


class EventInstants:
    """Notes the instant at which each server-sent event of a body was complete.

    An event ends with an empty line and has at least one `data` line; comments (pings) are no events
    (WHATWG HTML, "Server-sent events", 9.2.6).
    """

    def __init__(self) -> None:
        self.instants: list[int] = []
        self._tail = b""

    def feed(self, data: bytes, now: int) -> None:
        """Take the next bytes of the body, received at `now`."""
        *events, self._tail = (self._tail + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event.startswith(b"data") or b"\ndata" in event:
                self.instants.append(now)

    def since(self, sent: int) -> list[int]:
        """Microseconds from `sent` to each event."""
        return [(instant - sent) // 1000 for instant in self.instants]


def is_event_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a response's headers announce server-sent events."""
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def server_timing(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, float] | None:
    """Milliseconds by metric name from `Server-Timing` headers (W3C Server Timing), None when there is none.

    `db-wait` becomes `db_wait`; metrics without a duration and what does not parse are left out.
    """
    found: dict[str, float] = {}
    for name, value in headers:
        if name != b"server-timing":
            continue
        for metric in value.decode("latin-1").split(","):
            label, *attributes = (part.strip() for part in metric.split(";"))
            key = "".join(c if c.isalnum() and c.isascii() else "_" for c in label.lower())[:40]
            for attribute in attributes:
                if key and attribute.lower().startswith("dur=") and len(found) < 32:
                    try:
                        found[key] = float(attribute[4:].strip('" '))
                    except ValueError:
                        continue
    return found or None


def split_url(target: Target) -> SplitResult:
    """The target's URL in parts; BadInput says what a usable one looks like."""
    given = target.url or ""
    try:
        url = urlsplit(given)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise BadInput(f"target url {given!r}: give http://host:port or https://host:port")
    if url.username or url.password:
        raise BadInput("target url holds a user or password; put the secret into an environment variable "
                       "and name it in target.token_env")  # fmt: skip
    return url


def tls_context(target: Target) -> ssl.SSLContext:
    """The TLS settings of a target."""
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
    except OSError as error:
        raise BadInput(f"target.ca_file {target.ca_file!r}: {error.strerror or error}") from None
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
