"""Files as recordings: the readers of importing, asked for the requests themselves instead of their times.

Whatever has a row for each request can be replayed where its URLs, or labels that are paths, are in the file;
access logs and traces can be replayed alone.
"""

from __future__ import annotations

import array
import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from perfkit.drive.recording import Operation, Recording, Wanted
from perfkit.drive.session import default_name
from perfkit.drive.transport import header_lines, quote_path
from perfkit.errors import BadInput
from perfkit.importing import access_log, trace
from perfkit.importing.formats import FORMATS, Format, format_of
from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.rows import Headers, Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS
from perfkit.importing.words import Names, clean
from perfkit.redaction import SHORTEST, is_secret_name, masked_text

#: Formats that have no times to import.
_REPLAYED_ONLY: dict[str, Format] = {
    "access-log": Format("an access log of nginx or Apache", access_log.is_log, access_log.read),
    "trace-csv": Format("a CSV of time, method, path, body", trace.is_csv, trace.read),
}
#: Requests of a recording, and bytes of different ones: workers hold them in memory.
_MOST = 5_000_000
_MOST_BYTES = 256_000_000
_MOST_SECRETS = 1_000
_WITH_BODY = ("POST", "PUT", "PATCH")
#: What the client says for itself, or a browser of itself.
_OWN_HEADERS = frozenset({
    *("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "user-agent", "te"),
    *("keep-alive", "trailer", "upgrade", "expect", "upgrade-insecure-requests", "dnt", "priority", "pragma"),
    *("cache-control", "referer", "x-request-id"),
})  # fmt: skip


class _Request(NamedTuple):
    """A request as the file has it: `target` is a URL or a path, `label` what a tool called it."""

    target: str
    method: str
    label: str
    headers: Headers
    body: bytes


class _Known(Names):
    """Numbers different requests; a name is the number as text."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[_Request] = []
        self._numbers: dict[_Request, int] = {}
        self._bytes = 0

    def of(self, label: str, method: str = "", url: str = "") -> str:
        """The number of a request by its label, which may be its URL or path, or by its URL."""
        return self.number(_Request(url or label, method, label, (), b""))

    def number(self, request: _Request) -> str:
        """The number of a request; BadInput where all of them would take too much memory."""
        number = self._numbers.setdefault(request, len(self.requests))
        if number == len(self.requests):
            self.requests.append(request)
            self._bytes += 200 + len(request.target) + len(request.body) + 50 * len(request.headers)
            if self._bytes > _MOST_BYTES:
                raise BadInput("the recording has too many different requests for memory; split the file")
        return str(number)


class _Requests(Rows):
    """Takes what readers make of a file, and keeps of each request when it began and what it was."""

    keeps_requests = True

    def __init__(self) -> None:
        super().__init__(Path())
        self.names: _Known = _Known()
        self.begins, self.numbers = array.array("q"), array.array("i")
        self.around = 0  #: requests of setup and teardown, which are not kept

    def request(
        self, label: str, method: str, headers: Headers = (), body: bytes = b"", *, url: str = ""
    ) -> str:
        """See Rows."""
        return self.names.number(_Request(url or label, method, label, headers, body))

    def add(
        self, operation: str, *, started: int | None, done: int | None, planned: int | None = None,
        phase: str = "measure", **more: Any,
    ) -> None:  # fmt: skip
        """Keep one request; Wrong without an instant, or for one out of any calendar."""
        begin = planned if planned is not None else started
        if begin is None:
            raise Wrong("no instant to begin with", "planned or started")
        self._check(begin)
        if phase != "measure":
            self.around += 1
            return
        self._count(1)
        self.begins.append(begin)
        self.numbers.append(int(operation))

    def add_columns(self, columns: Mapping[str, Any], kept: np.ndarray | None = None) -> None:
        """Keep many."""
        numbers = pa.array(columns["operation"]).cast(pa.int32()).to_numpy(zero_copy_only=False)
        begins = np.asarray(columns["planned"])
        if kept is not None:
            begins, numbers = begins[kept], numbers[kept]
        self._count(len(begins))
        self.begins.frombytes(begins.astype(np.int64).tobytes())
        self.numbers.frombytes(numbers.astype(np.int32).tobytes())

    def add_counted(self, *_: Any, **__: Any) -> None:
        """BadInput: a count of requests does not say what they were."""
        raise BadInput("the file counts requests and does not list them: it cannot be replayed")

    def _count(self, n: int) -> None:
        self.count += n
        if self.count > _MOST:
            raise BadInput(f"more than {_MOST:,} requests cannot be replayed at once; split the file")


def read_recording(path: Path, wanted: Wanted, speed: float = 1.0) -> Recording:
    """Read a file as a recording, `speed` times as fast; BadInput where nothing in it can be sent."""
    source, requests = Source(path), _Requests()
    source.meter.rows_so_far = lambda: requests.count
    name, facts = _read(source, requests)
    if source.broken_count and not wanted.skip_broken:
        raise BadInput(f"{path}: {source.told()}; repair the file, or set params.skip_broken: true")
    begins, numbers = np.frombuffer(requests.begins, np.int64), np.frombuffer(requests.numbers, np.int32)
    if facts.carried or facts.bucketed or not len(begins):
        raise BadInput(f"{path} ({name}) lists no requests: it cannot be replayed")
    operations, why, secrets = _chosen(requests.names.requests, wanted, imported=name in FORMATS)
    reasons: Counter[str] = Counter()
    for text, n in zip(why, np.bincount(numbers, minlength=len(why)).tolist(), strict=True):
        reasons[text or ""] += n
    reasons["requests of setup and teardown"] = requests.around
    reasons["broken places"] = source.broken_count
    left_out = {text: n for text, n in reasons.items() if text and n}
    is_sent = np.array([one is None for one in why])
    sent = is_sent[numbers]
    if not sent.any():
        told = "; ".join(f"{n:,} {text}" for text, n in left_out.items())
        raise BadInput(f"{path}: no request of it can be sent: {told}")
    order = np.argsort(begins[sent], kind="stable")
    at, which = begins[sent][order], (np.cumsum(is_sent) - 1)[numbers[sent][order]]
    notes = [*facts.notes, *source.all_notes()]
    if not any(_method_and_target(one)[0] for one in requests.names.requests):
        notes.append("the file does not say which methods were used: each request is taken as a GET")
    bare = np.array([one.method in _WITH_BODY and not one.body for one in operations])
    if n := int(bare[which].sum()):
        what = "POST, PUT or PATCH requests are sent without a body: the file has none for them"
        notes.append(f"{n:,} {what}")
    whole = not (at % UNITS["s"]).any() and len(at) > 1
    if whole:
        at = _spread(at) if wanted.spread else at
        how = "spread evenly over it" if wanted.spread else "sent together (params.spread: true spreads them)"
        notes.append(f"its times are whole seconds; the requests of a second are {how}")
    at_s = (at - at[0]) / UNITS["s"] / speed
    return Recording(path.name, name, source.sha256(), at_s, which.astype(np.int32), tuple(operations),
                     left_out, tuple(notes), secrets)  # fmt: skip


#: What is said of a file that is none of the kinds; a list of all the formats would bury them.
_UNKNOWN = (
    "unknown format; a replay takes an access log of nginx or Apache, a HAR, a CSV with the columns"
    " time,method,path, or what JMeter, Vegeta, k6, Locust or oha wrote (docs/replay.md)"
)


def _read(source: Source, requests: _Requests) -> tuple[str, Facts]:
    """The format's name, and what its reader says besides the requests."""
    head = Head(source.head)
    name = next((name for name, one in _REPLAYED_ONLY.items() if one.recognise(head)), None)
    if name is not None:
        source.refuse_binary()
    else:
        name = format_of(source, None, Asked(), _UNKNOWN)
    try:
        return name, {**FORMATS, **_REPLAYED_ONLY}[name].read(source, requests, Asked())
    except BadInput:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"{source.path} cannot be read as {name} ({type(error).__name__})") from None


def _spread(at: np.ndarray) -> np.ndarray:
    """Instants in whole seconds, those of one second at even distances in it."""
    _, first, place, n = np.unique(at, return_index=True, return_inverse=True, return_counts=True)
    spread: np.ndarray = at + (np.arange(len(at)) - first[place]) * UNITS["s"] // n[place]
    return spread


# -- which are sent --------------------------------------------------------------------------------


def _chosen(
    requests: list[_Request], wanted: Wanted, imported: bool
) -> tuple[list[Operation], list[str | None], tuple[str, ...]]:
    """The requests that are sent; of each of the file why it is not, or None; the secrets in those sent.

    imported: whether they have the names of an import, to be compared with; logs have those of any run.
    """
    names = Names()
    told = [_name(one, names) if imported else "" for one in requests]
    host = wanted.host
    if host is None:  # that of the first request whose file names one
        hosts = (_path(_method_and_target(one)[1], names)[1] for one in requests)
        host = next(filter(None, hosts), None)
    operations: list[Operation] = []
    why: list[str | None] = []
    secrets: dict[str, None] = {}
    for request, name in zip(requests, told, strict=True):
        made = _operation(request, names, name, host, wanted, secrets)
        why.append(made if isinstance(made, str) else None)
        if isinstance(made, Operation):
            operations.append(made)
    if len(secrets) > _MOST_SECRETS:
        raise BadInput(f"the recording has more than {_MOST_SECRETS:,} secrets, too many to be kept out of "
                       "files; leave params.send_secrets out")  # fmt: skip
    return operations, why, tuple(one for one in secrets if len(one) >= SHORTEST)


def _name(request: _Request, names: Names) -> str:
    """The operation of a request, as an import calls it."""
    label = request.label or "unnamed"
    if label[:1] == "/" or "://" in label:  # names have no query: of many queries one is made
        label = label.partition("?")[0]
    url = request.target if label[:1] == "/" and "://" in request.target else ""
    return names.of(label, request.method, url)


def _method_and_target(request: _Request) -> tuple[str, str]:
    """Its method, empty where nobody says it, and its URL or path: a label may be `GET /path`."""
    first, _, rest = request.target.strip().partition(" ")
    if not request.method and rest and first.isupper() and first.isalpha():
        return first, rest.strip()
    return request.method.upper(), request.target.strip()


def _operation(
    request: _Request, names: Names, name: str, host: str | None, wanted: Wanted, secrets: dict[str, None]
) -> Operation | str:
    """What is sent, or why it is not; secrets: to which those in it are added."""
    method, target = _method_and_target(request)
    method = method or "GET"
    if method not in wanted.methods:
        return f"{clean(method[:20])} requests (params.methods)"
    path, at = _path(target, names)
    if not path:
        return "requests whose URL or path is not in the file"
    if at and host is not None and at != host:
        return f"requests to other hosts than {host} (params.host)"
    body = request.body
    text = f"{path}\n{body.decode('utf-8', 'replace')}"
    found: list[str] = []
    if any(mark in text for mark in "=: "):  # no secret stands beside its name without one
        masked_text(text, found.append)
    if found and not wanted.send_secrets:
        return "requests with a secret in their query or body (params.send_secrets)"
    headers = tuple((header, value) for header, value in request.headers if _is_kept(header, value, wanted))
    found += [value for header, value in headers if _is_secret(header, value)]
    secrets.update(dict.fromkeys(found))
    try:
        quote_path(path)
        _require_headers(headers)
    except ValueError:
        return "requests that HTTP does not allow to be sent"
    name = names.settled(name) if name else clean(default_name(method, path)) or method
    return Operation(method, path, name, headers, body)


def _path(target: str, names: Names) -> tuple[str, str]:
    """Path and query, and the host as names of imported operations have it; empty where there is none."""
    if target.startswith("/"):
        return target.partition("#")[0], ""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "", ""
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        return "", ""
    return f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", names.saw(target)


def _is_kept(name: str, value: str, wanted: Wanted) -> bool:
    """Whether a header is sent: it matters to the server, and is no secret unless those are asked for."""
    low = name.lower()
    own = low in _OWN_HEADERS or low.startswith((":", "sec-", "proxy-"))
    return not own and (wanted.send_secrets or not _is_secret(name, value))


def _is_secret(name: str, value: str) -> bool:
    return is_secret_name(name) or masked_text(f"{name}: {value}") != f"{name}: {value}"


@functools.lru_cache(10_000)
def _require_headers(headers: Headers) -> None:
    """ValueError for headers that cannot be sent."""
    header_lines(headers, "host")
