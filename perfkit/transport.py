"""What every transport gives back for a request, and the few rules both share.

A transport has one method worth the name: `send`. It never raises for what the network or the server did;
that is data, and stands in the `Exchange`.
"""

from __future__ import annotations

import functools
import math
import re
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol
from urllib.parse import SplitResult, quote, urlsplit

from perfkit.errors import BadInput
from perfkit.model import Target
from perfkit.rows import NEVER

#: Returns nanoseconds on the clock of the event loop.
Clock = Callable[[], int]
#: A request's header lines, as `header_lines` makes them.
Headers = str


def loop_clock(loop: object) -> Clock:
    """The clock instants are read from: the loop's own `time_ns` when it has one (tests), else monotonic.

    `loop.time()` itself will not do: uvloop caches it and rounds it to a millisecond.
    """
    clock: Clock = getattr(loop, "time_ns", time.monotonic_ns)
    return clock


class Exchange:
    """One request's fate. Instants are absolute nanoseconds of the loop's clock; NEVER = not reached."""

    __slots__ = (
        *("body", "chunks", "connecting", "done", "error", "error_text", "first_byte", "headers", "sent"),
        "status",
    )

    def __init__(self) -> None:
        self.connecting = 0  #: nanoseconds of opening a connection for it: DNS, TCP, TLS, come to that or not
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
        """Send one request and read its whole response.

        Raises only ValueError, for a path that cannot be sent, and CancelledError, whose argument is the
        exchange as far as it got.
        """

    async def close(self) -> None:
        """Close every connection; for when nothing is under way any more."""


def quote_path(path: str) -> str:
    """The path and query as they are sent: what a URL cannot hold is percent-encoded, the rest stays."""
    if _PLAIN_PATH(path):
        return path
    if _CONTROL(path):
        raise ValueError(f"path {path!r} holds a line break or another control character; quote it first")
    return quote(path, safe=_PATH_CHARACTERS)


def header_lines(headers: Collection[tuple[str, str]], host: str) -> Headers:
    """The header lines of a request, `host` among them unless it was given.

    ValueError for a line break, for names no server reads alike, and for what frames the body: that is the
    transport's business, and a second opinion about a request's end is how requests are smuggled.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if _HEADER_LINES(lines) and lines.count("\n") == len(headers):
        return f"host: {host}\r\n{lines}"
    for name, value in headers:  # words for what is wrong; a value may be a secret and is not repeated
        if not _HEADER_NAME(name):
            raise ValueError(f"header name {name!r} holds a character HTTP does not allow in names")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ValueError(f"header {name!r} is perfkit's to send, it follows from the body; leave it out")
        if not _HEADER_VALUE(str(value)):
            raise ValueError(f"header {name!r} holds a line break or a character outside latin-1")
    return lines  # a host is given


_PATH_CHARACTERS = "/?&=%:@!$'()*+,;~[]-._"
_PLAIN_PATH = re.compile(f"/[A-Za-z0-9{re.escape(_PATH_CHARACTERS)}]*+").fullmatch
_CONTROL = re.compile(r"[\0-\x1f\x7f]").search
_NAME, _VALUE = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++", r"[\t -~\x80-\xff]*+"
_HEADER_NAME, _HEADER_VALUE = re.compile(_NAME).fullmatch, re.compile(_VALUE).fullmatch
_HEADER_LINES = re.compile(
    rf"(?:(?!(?i:host|content-length|transfer-encoding):){_NAME}: {_VALUE}\r\n)*+"
).fullmatch


class EventInstants:
    """Notes the instant at which each server-sent event of a body was complete.

    An event ends with an empty line and has at least one `data` line; comments (pings) are no events
    (WHATWG HTML, "Server-sent events", 9.2.6).
    """

    def __init__(self) -> None:
        self.instants: list[int] = []
        self._line = b""  # how the unfinished line begins: enough to tell whether it is a data line
        self._has_data = self._after_cr = False

    def feed(self, data: bytes, now: int) -> None:
        """Take the next bytes of the body, received at `now`."""
        if self._after_cr and data.startswith(b"\n"):  # the packets' border went through a CRLF
            data = data[1:]
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif data:
            self._after_cr = False
        *lines, line = data.split(b"\n")
        if lines:
            lines[0] = self._line + lines[0]
            self._line = b""
            for one in lines:
                if one:
                    self._has_data |= one.removeprefix(_BOM)[:5] in (b"data", b"data:")
                elif self._has_data:
                    self.instants.append(now)
                    self._has_data = False
        self._line = (self._line + line[:8])[:8]

    def since(self, sent: int) -> list[int]:
        """Microseconds from `sent` to each event; they fit into an int32 (35 minutes)."""
        if sent == NEVER:  # answered before the request was sent to its end
            return []
        return [min((instant - sent) // 1000, 2**31 - 1) for instant in self.instants]


_BOM = b"\xef\xbb\xbf"


def headers_size(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Bytes of a response's header lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def is_event_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a response's headers announce server-sent events."""
    for name, value in headers:
        if name == b"content-type":
            return value[:17].lower() == b"text/event-stream"
    return False


def server_timing(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, float] | None:
    """Milliseconds by metric name from `Server-Timing` headers (W3C Server Timing), None when there is none.

    `db-wait` becomes `db_wait`; metrics without a duration and what does not parse are left out.
    """
    found: dict[str, float] = {}
    for name, value in headers:
        if name != b"server-timing":
            continue
        text = value.decode("latin-1")
        if '"' in text:  # what a description quotes separates nothing
            text = _QUOTED(lambda quoted: quoted[0].replace(",", " ").replace(";", " "), text)
        for metric in text.split(","):
            label, *attributes = metric.split(";")
            for attribute in attributes:
                what, _, number = attribute.partition("=")
                if what.strip().lower() != "dur":
                    continue
                key = _metric_name(label)
                try:
                    duration = float(number.strip('" \t'))
                except ValueError:
                    break
                if key and math.isfinite(duration) and len(found) < 32:
                    found[key] = duration
                break
    return found or None


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"').sub


@functools.lru_cache(1024)
def _metric_name(label: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in label.strip().lower())[:40]


def split_url(target: Target) -> SplitResult:
    """The target's URL in parts; BadInput says what a usable one looks like."""
    given = target.url or ""
    try:
        url = urlsplit(given)
        port = url.port
        (url.hostname or "").encode("idna")  # refuses what no name server could know
    except ValueError:
        url, port = urlsplit(""), None
    if "@" in given.partition("://")[2].partition("/")[0]:
        raise BadInput("target url holds a user or password; put the secret into an environment variable "
                       "and name it in target.token_env")  # fmt: skip
    usable = url.scheme in ("http", "https") and url.hostname and port != 0 and _NETLOC(url.netloc)
    if not usable or not given.isprintable() or " " in given:
        raise BadInput(f"target url {given!r}: give http://host:port or https://host:port")
    if "?" in given or "#" in given:
        raise BadInput(f"target url {given!r}: leave out what follows ? or #; a request brings its own query")
    return url


_NETLOC = re.compile(r"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.%]+\])(?::\d*)?").fullmatch


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
