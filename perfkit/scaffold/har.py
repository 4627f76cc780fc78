"""HAR: an operation for each kind of request that a browser made of one server, without its secrets."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from perfkit.drive.session import default_name
from perfkit.errors import BadInput
from perfkit.redaction import STARS, Redactor, is_secret_name, masked, masked_text, secrets_of
from perfkit.scaffold.api import MOST_OPERATIONS, NO_BODY, Api, Operation, bounded, identifier, mapping

#: Answers that a page is made of, not an API.
_STATIC = re.compile(r"image/|font/|audio/|video/|text/css|.*javascript|application/(wasm|font|pdf)").match
#: Three parts of base64url that begin with `{"`: a JSON Web Token, under whatever name.
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
#: A part of a multipart form, and an element of XML, with what it is called.
_FIELD = re.compile(
    r"(?P<head>\bname=\"(?P<name>[^\"\r\n]{1,200})\"[^\r\n]*(?:\r?\n[^\r\n]+)*\r?\n\r?\n)(?:.*?)(?P<tail>\r?\n--)",
    re.DOTALL,
)
_ELEMENT = re.compile(r"(?P<head><(?:\w+:)?(?P<name>[\w-]{1,200})(?:\s[^<>]*)?>)[^<]*(?P<tail></)")
_MOST_SECRETS = 2_000
_LONGEST_ANSWER = 200_000  #: characters of an answer in which secrets are looked for


def read(document: Mapping[Any, Any], where: str) -> Api:
    """Return what was asked of the server that was asked most; BadInput where nothing was.

    Values of secret names, and whatever repeats one, are ***; secret headers come from the environment.
    """
    entries = mapping(document.get("log")).get("entries")
    entries = [one for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []
    requests = [mapping(one.get("request")) for one in entries if not _is_static(one)]
    origins = Counter(origin for one in requests if (origin := _origin(one)))
    if not origins:
        raise BadInput(f"{where}: no request of an API in it: a HAR has log.entries with http(s) addresses")
    origin = origins.most_common(1)[0][0]
    redact = Redactor(_secrets(entries))
    mine = [one for one in requests if _origin(one) == origin]
    operations = tuple(_operations(mine, redact))
    if not operations:
        raise BadInput(f"{where}: no request of {origin} has a method of letters alone, such as GET")
    headers = {name.lower() for one in mine for name, _ in _pairs(one.get("headers")) if is_secret_name(name)}
    cookies = headers & {"cookie"}
    notes = ["cookies were left out: log in in setup, or in the step"] if cookies else []
    for count, words in ((len(entries) - len(requests), "requests for pictures, styles and scripts"),
                         (origins.total() - len(mine), "requests to other servers")):  # fmt: skip
        notes += [f"left out: {count:,} {words}"] if count else []
    if any(STARS in repr(one) for one in operations):
        notes.append(f"{STARS} stands where a secret was: fill it in from the environment")
    secrets = tuple(sorted(headers - cookies - {"set-cookie"}))
    title = f"{urlsplit(origin).hostname}, as it was recorded"
    return Api(title, origin, operations, secrets=secrets, notes=tuple(notes))


def _operations(requests: Iterable[Mapping[str, Any]], redact: Redactor) -> Iterator[Operation]:
    """One for each method and path with its ids replaced, of the first request of its kind."""
    seen: set[str] = set()
    taken: set[str] = set()
    for request in requests:
        parts = urlsplit(str(request.get("url")))
        method = str(request.get("method") or "GET").upper()[:20]
        path = _hidden(parts.path or "/", redact)
        kind = default_name(method, path)
        if kind in seen or len(seen) >= MOST_OPERATIONS or not re.fullmatch("[A-Z]+", method):
            continue
        seen.add(kind)
        name = identifier(kind.replace("{id}", "one"), taken)
        taken.add(name)
        query = {
            _hidden(key, redact): STARS if is_secret_name(key) else _hidden(value, redact)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
        }
        headers = {
            key.lower(): _hidden(value, redact)
            for key, value in _pairs(request.get("headers"))
            if key.lower().startswith("x-") and not is_secret_name(key)
        }
        body, content, content_type = _body(request, redact)
        headers |= {"content-type": content_type} if content_type else {}
        yield Operation(name, method, path, "", {}, query, headers, body, content)


def _body(request: Mapping[str, Any], redact: Redactor) -> tuple[Any, str | None, str]:
    """JSON, or any other text with its type."""
    data = mapping(request.get("postData"))
    text, kind = data.get("text"), str(data.get("mimeType") or "").partition(";")[0]
    if not text:
        pairs = _pairs(data.get("params"))
        text = "&".join(f"{name}={value}" for name, value in pairs)
    if not text:
        return NO_BODY, None, ""
    if "json" in kind:
        try:
            given = redact.within({"body": masked(bounded(json.loads(str(text))))})["body"]
            body = json.loads(_JWT.sub(STARS, json.dumps(given)))
            return body, None, "" if kind == "application/json" else kind
        except (ValueError, RecursionError):
            pass
    text = _FIELD.sub(_without_value, _ELEMENT.sub(_without_value, str(text)))
    return NO_BODY, _hidden(text, redact), kind or "text/plain"


def _without_value(found: re.Match[str]) -> str:
    """A part of a form, or an element of XML, without the value of a secret name."""
    return f"{found['head']}{STARS}{found['tail']}" if is_secret_name(found["name"]) else found[0]


def _hidden(text: str, redact: Redactor) -> str:
    return _JWT.sub(STARS, masked_text(redact(text)))


def _secrets(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Secrets in requests, and in answers that are JSON: what a log-in returned is sent later."""
    found: dict[str, None] = {}
    for entry in entries:
        request, response = mapping(entry.get("request")), mapping(entry.get("response"))
        content = mapping(response.get("content"))
        text = _decoded(content)
        is_json = "json" in str(content.get("mimeType")) and len(text) <= _LONGEST_ANSWER
        answer = _parsed(text) if is_json else ""
        sent = _parsed(str(mapping(request.get("postData")).get("text") or "")[:_LONGEST_ANSWER])
        query = _query(str(request.get("url")))
        given = [request, sent, query, response.get("headers"), response.get("cookies"), answer]
        cookies = [value for name, value in _pairs(request.get("cookies"))]
        for secret in (*secrets_of(given), *cookies):
            found[secret] = None
        if len(found) > _MOST_SECRETS:
            raise BadInput(f"more than {_MOST_SECRETS:,} secrets in the recording; record less of it")
    return list(found)


def _parsed(text: str) -> Any:
    """A text as JSON; itself where it is none."""
    try:
        return bounded(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _query(url: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(urlsplit(url).query))
    except ValueError:  # an address that is none
        return {}


def _decoded(content: Mapping[str, Any]) -> str:
    """The text of an answer, which may be written as base64."""
    text = str(content.get("text") or "")
    if content.get("encoding") != "base64" or len(text) > 2 * _LONGEST_ANSWER:
        return text
    try:
        return base64.b64decode(text).decode("utf-8", "replace")
    except ValueError:
        return ""


def _origin(request: Mapping[str, Any]) -> str:
    try:
        parts = urlsplit(str(request.get("url")))
    except ValueError:
        return ""
    known = parts.scheme in ("http", "https") and parts.hostname
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if known else ""


def _is_static(entry: Mapping[str, Any]) -> bool:
    kind = str(mapping(mapping(entry.get("response")).get("content")).get("mimeType") or "").lower()
    return _STATIC(kind) is not None or mapping(entry.get("request")).get("method") == "OPTIONS"


def _pairs(given: Any) -> list[tuple[str, str]]:
    """Names and values as HAR lists them."""
    several = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
    return [(str(one.get("name", "")), str(one.get("value", ""))) for one in several]
