"""HAR: what a browser or a proxy recorded, one JSON document; an entry for each request.

startedDateTime is when a request began, to a millisecond; its timings lead to the other instants.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections import Counter
from typing import Any
from urllib.parse import urlencode

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import LARGEST_HAR, LONGEST_LINE, MB, MOST_ENTRIES
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.rows import Headers, Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS, ns, unix_ns
from perfkit.importing.words import error_class

_URL = re.compile(r"(?:https?|wss?)://", re.I)
_APART = 2 * UNITS["ms"]  # parts are rounded each on its own
_BEFORE_SENT = ("blocked", "dns", "connect", "send")


def is_har(head: Head) -> bool:
    """One JSON object with a `log` of entries."""
    start = "".join(head.text[:400].split())
    return start.startswith('{"log":{') or {"log", "entries"} <= head.keys


_Number = int | float | str | None
_NULL = msgspec.Raw(b"null")


class _Request(msgspec.Struct):
    url: msgspec.Raw = _NULL
    method: msgspec.Raw = _NULL
    headers: msgspec.Raw = _NULL
    post: msgspec.Raw = msgspec.field(default=_NULL, name="postData")
    body_size: _Number = msgspec.field(default=None, name="bodySize")


class _Pair(msgspec.Struct):
    name: str
    value: str = ""


class _Post(msgspec.Struct):
    kind: str = msgspec.field(default="", name="mimeType")
    text: str | None = None
    params: list[_Pair] | None = None
    encoding: str | None = None


class _Response(msgspec.Struct):
    status: _Number = None
    body_size: _Number = msgspec.field(default=None, name="bodySize")
    failure: msgspec.Raw = msgspec.field(default=_NULL, name="_failureText")
    error: msgspec.Raw = msgspec.field(default=_NULL, name="_error")


class _Timings(msgspec.Struct):
    blocked: _Number = None
    dns: _Number = None
    connect: _Number = None
    send: _Number = None
    wait: _Number = None
    receive: _Number = None


class _Creator(msgspec.Struct):
    name: str
    version: str | None = None


class _Entry(msgspec.Struct):
    """A request whose parts are not decoded yet: a broken one breaks no other, a large one costs nothing."""

    started: msgspec.Raw = msgspec.field(default=_NULL, name="startedDateTime")
    time: msgspec.Raw = _NULL
    request: msgspec.Raw = _NULL
    response: msgspec.Raw = _NULL
    timings: msgspec.Raw = _NULL
    from_cache: msgspec.Raw = msgspec.field(default=_NULL, name="_fromCache")
    fetch_type: msgspec.Raw = msgspec.field(default=_NULL, name="_fetchType")
    error: msgspec.Raw = msgspec.field(default=_NULL, name="_error")


class _Log(msgspec.Struct):
    entries: msgspec.Raw = _NULL
    creator: msgspec.Raw = _NULL


class _Har(msgspec.Struct):
    log: _Log


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each entry."""
    log, entries = _parts(source)
    left_out: Counter[str] = Counter()
    told: Counter[str] = Counter()

    def take(entry: _Entry) -> None:
        if _is_cached(entry):
            left_out["responses came from the browser's cache, not from a server"] += 1
        elif not _URL.match(_leaf(msgspec.json.decode(entry.request, type=_Request).url, str)):
            left_out["entries went to no server, such as data: and blob:"] += 1
        elif not _add(rows, entry, told):
            left_out["entries have no time, neither a total nor of their parts"] += 1

    source.each(entries, take, "a HAR entry with its times", "entry")
    rows.steps.units["took"] = UNITS["ms"]
    notes = ["a browser sends a request when its page needs it; the file has no planned times"]
    notes += [f"left out: {count:,} {words}" for words, count in left_out.items()]
    notes += [f"{words}: {count:,} of its entries" for words, count in told.items() if count]
    return Facts("HAR", version=_creator(log), rounded_ns=(UNITS["ms"], 1), notes=tuple(notes))


def _parts(source: Source) -> tuple[_Log, list[_Entry]]:
    """The log and its entries; BadInput when there are none, or more than MOST_ENTRIES."""
    count = itertools.count(1)

    class Counted(_Entry):
        def __post_init__(self) -> None:
            if next(count) > MOST_ENTRIES:
                raise ValueError(f"more than {MOST_ENTRIES:,} entries")

    document = source.document(LARGEST_HAR, "save it without the content of responses, or in parts")
    try:
        log = msgspec.json.decode(document, type=_Har).log
        return log, msgspec.json.decode(log.entries, type=list[Counted])
    except msgspec.ValidationError as error:
        raise BadInput(f"{source.path} is not a HAR: it has no log.entries of up to {MOST_ENTRIES:,} "
                       f"requests ({error})") from None  # fmt: skip
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{source.path} is broken JSON ({error}); nothing was imported") from None


def _creator(log: _Log) -> str | None:
    """Who recorded it, by its own word."""
    try:
        creator = msgspec.json.decode(log.creator, type=_Creator)
    except msgspec.DecodeError:
        return None
    return f"by {creator.name[:60]} {creator.version or ''}"[:60].strip() if creator.name else None


def _is_cached(entry: _Entry) -> bool:
    """Whether a browser's cache answered, as Chrome or as Safari says it."""
    fetched = _leaf(entry.fetch_type, Any)
    return bool(_leaf(entry.from_cache, str | bool | int | None)) or "Cache" in str(fetched)


def _add(rows: Rows, entry: _Entry, told_of: Counter[str]) -> bool:
    """One entry; whether it has a time. One that is null is the sum of its parts, as HAR defines it."""
    request = msgspec.json.decode(entry.request, type=_Request)
    response = msgspec.json.decode(entry.response, type=_Response | None) or _Response()
    timings = msgspec.json.decode(entry.timings, type=_Timings | None) or _Timings()
    started, told = unix_ns(_leaf(entry.started, str)), _leaf(entry.time, int | float | str | None)
    took = {name: max(0, ns(part or 0, "ms")) for name, part in msgspec.structs.asdict(timings).items()}
    parts = sum(took.values())
    if told is None and not parts:
        return False
    total = parts if told is None else ns(told, "ms")
    told_of["time blocked for a connection is part of its latency"] += took["blocked"] > UNITS["ms"]
    apart = total >= 0 and abs(total - parts) > _APART
    told_of["the total and the sum of its parts disagree; the larger one is used"] += apart
    if total < 0 and total != -UNITS["ms"]:
        raise Wrong(f"a time of {total / UNITS['ms']:g} ms", "0 ms or more")
    status = response.status if isinstance(response.status, int) and response.status > 0 else None
    whys = (_leaf(raw, str | None) for raw in (response.failure, response.error, entry.error))
    words = next(filter(None, whys), None)
    error = error_class(status, words, failed=status is None)
    sent = started + sum(took[name] for name in _BEFORE_SENT)
    answered = status is not None and timings.wait is not None and ns(timings.wait, "ms") >= 0
    rows.add(
        rows.request(_leaf(request.url, str), _leaf(request.method, str),
                     *(_content(request) if rows.keeps_requests else ())), started=started,
        sent=sent if answered else None, first_byte=sent + took["wait"] if answered else None,
        done=started + max(total, parts) if status is not None or total >= 0 else None,
        status=status, error=error,
        words=words or (f"status {status}" if status else "no answer"), bytes_sent=_whole(request.body_size),
        bytes_received=_whole(response.body_size),
    )  # fmt: skip
    return True


def _content(request: _Request) -> tuple[Headers, bytes]:
    """Headers and body of a request, the body as text, as a form, or in base64."""
    pairs = _leaf(request.headers, list[_Pair] | None) or []
    headers = tuple((one.name.lower(), one.value) for one in pairs)
    post = _leaf(request.post, _Post | None) or _Post()
    if post.text:
        body = base64.b64decode(post.text) if post.encoding == "base64" else post.text.encode()
    else:
        body = urlencode([(one.name, one.value) for one in post.params or ()]).encode()
    if body and post.kind and "content-type" not in dict(headers):
        headers = (*headers, ("content-type", post.kind))
    return headers, body


def _leaf(raw: msgspec.Raw, kind: Any) -> Any:
    """A text or number; Wrong for one too long."""
    if memoryview(raw).nbytes > LONGEST_LINE:
        raise Wrong(f"a text of more than {LONGEST_LINE // MB} MB", "a shorter one")
    return msgspec.json.decode(raw, type=kind)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
