"""What every transport gives back for a request, and the few rules both share.

A transport has one method worth the name: `send`. It never raises for what the network or the server did;
that is data, and stands in the `Exchange`.
"""

from __future__ import annotations

import errno
import functools
import math
import re
import ssl
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import SplitResult, quote, urlsplit

from perfkit.drive.rows import NEVER
from perfkit.errors import BadInput
from perfkit.hosts import split_address
from perfkit.model import Target
from perfkit.redaction import masked_text
from perfkit.streams import Event

#: Returns nanoseconds on the clock of the event loop.
Clock = Callable[[], int]
#: Codings of a body that zlib undoes.
GZIP = ("gzip", "x-gzip", "deflate")
_PART = 64 * 1024
#: What the kernel takes at once from a connection that has nothing else to send.
FITS_SOCKET = 65536
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
        *("body", "connecting", "done", "error", "error_text", "events", "first_byte", "headers"),
        *("lost", "sending", "sent", "status"),
    )

    def __init__(self) -> None:
        self.connecting = 0  #: nanoseconds of opening a connection for it: DNS, TCP, TLS, come to that or not
        self.sending = NEVER
        self.sent = NEVER
        self.first_byte = NEVER
        self.done = NEVER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []  #: names in lower case
        self.body = b""
        self.events: list[Event] | None = None  #: of an event stream, as far as it came
        self.error: str | None = None
        self.error_text: str | None = None
        #: The connection had served before, and died before any byte of the answer: `written`, or `unwritten`
        #: where the server cannot have seen the request.
        self.lost: Literal["", "written", "unwritten"] = ""

    def fail(self, error: str, text: str, now: int) -> None:
        """End badly, unless it has ended already."""
        if self.done == NEVER:
            self.error, self.error_text, self.done = error, text, now


class Transport(Protocol):
    """The seam between scenarios and the network."""

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float, *, fresh: bool = False
    ) -> Exchange:
        """Send one request and read its whole response; on a new connection if it is to be `fresh`.

        Raises only ValueError, for a path that cannot be sent, and CancelledError, whose argument is the
        exchange as far as it got.
        """

    async def close(self) -> None:
        """Close every connection; for when nothing is under way any more."""


#: What OpenSSL says of an answer that is not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def os_words(error: OSError, target: Target) -> str:
    """What the operating system said, and what to do where that is known."""
    words = str(error.strerror or error)
    text = f"{type(error).__name__}{': ' if words else ''}{words}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        text += f"; raise the limit (`ulimit -n`) or lower target.connections ({target.connections:,})"
    if isinstance(error, ConnectionRefusedError):
        text += "; is the server running there?"
    if getattr(error, "reason", "") in _NO_TLS:
        text += "; the server speaks no TLS on this port: try http://"
    elif isinstance(error, ConnectionResetError | ssl.SSLEOFError) and (target.url or "").startswith(
        "https:"
    ):
        text += "; does this port speak https?"
    return text


def unpacked(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """A body's pieces without its gzip or deflate coding, each small however much one unpacks to.

    ValueError for another coding; zlib.error for a damaged one.
    """
    if encoding.strip().lower() in ("", "identity"):
        yield from pieces
        return
    if encoding.strip().lower() not in GZIP:
        raise ValueError(f"content-encoding {encoding[:40]!r}, though none was asked for")
    unpacker = zlib.decompressobj(47)
    for piece in pieces:
        part = unpacker.decompress(piece, _PART)
        while part:
            yield part
            part = unpacker.decompress(unpacker.unconsumed_tail, _PART)


def require_path(path: str) -> None:
    """ValueError for a path that is not relative to the target's url."""
    if not path.startswith("/"):
        hint = "" if "://" in path else f"; write /{path:.80}"
        raise ValueError(f"path starts with / and is relative to the target's url, not {path!r:.80}{hint}")


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
            raise ValueError(f"header {name!r} is set by perfkit from the body; leave it out")
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
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in label.strip().lower())


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL: what must be the same for credentials to be sent along."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def split_url(target: Target) -> SplitResult:
    """The target's URL in parts; BadInput says what a usable one looks like."""
    given = target.url or ""
    if "@" in given.partition("://")[2].partition("/")[0]:
        raise BadInput("target url contains a user or password; put the secret in an environment variable "
                       "and name it in target.token_env")  # fmt: skip
    if "?" in given or "#" in given:
        shown = re.split("[?#]", given)[0]  # a query may hold a token
        words = f"remove what follows {given[len(shown)]}; each request has its own query"
        raise BadInput(f"target url {given[: len(shown) + 1]!r}: {words}")
    return split_address(given, f"target url {masked_text(given)!r}")


def _load_client_certificate(context: ssl.SSLContext, target: Target) -> None:
    cert, key = target.client_cert_file, target.client_key_file
    if cert is None:
        if key is not None:
            raise BadInput("target.client_key_file is for target.client_cert_file; give both, or the latter")
        return
    for name, file in (("cert", cert), ("key", key)):
        if file is not None and not Path(file).is_file():
            raise BadInput(f"target.client_{name}_file {file!r}: not a regular file")
    try:
        context.load_cert_chain(cert, key, password="")  # else a passphrase is asked for at the terminal
    except (OSError, ValueError) as error:
        words = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise BadInput(f"target.client_cert_file {cert!r}, with its key: {words}") from None


def tls_context(target: Target) -> ssl.SSLContext:
    """The TLS settings of a target."""
    try:
        if target.ca_file is not None and not Path(target.ca_file).is_file():  # a device may have no end
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        context = ssl.create_default_context(cafile=target.ca_file)
    except OSError as error:
        raise BadInput(f"target.ca_file {target.ca_file!r}: {error.strerror or error}") from None
    _load_client_certificate(context, target)
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
