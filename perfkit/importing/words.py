"""Texts of other tools: names of operations, classes of errors, and no secret in either."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from perfkit.session import is_secret_name

_USER = re.compile(r"(//)[^/@\s\"']*@")
_QUERY = re.compile(r"((?:https?://|/)[^\s?\"'<>]*)\?[^\s\"'<>)]*")
_SCHEME_WORD = re.compile(r"\b(Bearer|Basic|Token)\s+[^\s,;\"']+", re.IGNORECASE)
_PAIR = re.compile(r"([\w-]{2,40})([\"']?\s*[=:]\s*[\"']?)([^\s,;&\"'}]+)")
_CLASSES = (
    ("timeout", re.compile(r"time[d ]?-? ?out|deadline exceeded", re.I)),
    ("cutoff", re.compile(r"cancel|interrupt|aborted due to deadline|err_aborted", re.I)),
    ("connect", re.compile(r"refused|unreachable|no such host|unknown ?host|name or service|getaddrinfo|dns|"
                           r"\bdial\b|no route|failed to establish|cannot assign requested|connectexception|"
                           r"address_?not_?found|name_not_resolved|proxy_connection", re.I)),
    ("reset", re.compile(r"reset|broken ?pipe|\beof\b|closed|disconnect|connection ?aborted|nohttpresponse|"
                         r"empty_response|hang ?up", re.I)),
)  # fmt: skip
_LONGEST = 300


def clean(text: object) -> str | None:
    """At most 300 characters on one line, without queries, user names, secrets; None: empty."""
    words = " ".join(str(text).split())
    if not words:
        return None
    words = _USER.sub(r"\1***@", words[: 4 * _LONGEST])
    words = _QUERY.sub(r"\1", words)
    words = _SCHEME_WORD.sub(r"\1 ***", words)
    return _without_values(words)[:_LONGEST]


def _without_values(words: str) -> str:
    """The words, with *** for what follows a secret name; a value may be a name itself: `answer: token=x`."""
    place = 0
    while found := _PAIR.search(words, place):
        place = found.start(3)
        if is_secret_name(found[1]):
            words = f"{words[:place]}***{words[found.end() :]}"
            place += 3
    return words


def error_class(
    status: int | None, words: str | None, *, failed: bool, of_transport: bool = False
) -> str | None:
    """perfkit's class for what a tool says of a request; None when it did not fail.

    A status of 400 and more is a failure here: a reader whose tool expected it does not ask. What else was
    answered and failed is `check`, whatever its words: they are those of an assertion, and "timeout" in them
    is no timeout, unless the tool's words are `of_transport` alone. Without an answer the words decide;
    those nobody knows are `protocol`.
    """
    if status is not None and status >= 400:
        return "http_5xx" if status >= 500 else "http_4xx"
    if not failed:
        return None
    answered = bool(status)
    for name, pattern in _CLASSES if of_transport or not answered else ():
        if words and pattern.search(words):
            return name
    return "check" if answered else "protocol"


class Names:
    """Names of operations, made once for each text: a label as it is, a URL as METHOD path without query."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._different: set[str] = set()
        self._places: set[str] = set()
        self.origins: dict[str, None] = {}  #: scheme://host:port of every URL seen, the first first

    def of(self, label: str, method: str = "") -> str:
        """The name of an operation labelled so."""
        key = (label, method)
        name = self._known.get(key)
        if name is None:
            name = self._named(label, method)
            if len(self._known) < 100_000:
                self._known[key] = name
                self._different.add(name)
        return name

    @property
    def count(self) -> int:
        """How many different names there are; counted to 100,000 or a little more."""
        return len(self._different)

    def _named(self, label: str, method: str) -> str:
        text = label.strip()
        if "://" in text:
            text = self._path(text)
        elif text.startswith("/") or method:
            text = text.split("?")[0]
        text = f"{method} {text}" if method and not text.startswith(f"{method} ") else text
        return " ".join((clean(text) or "unnamed").split())[:200]

    def _path(self, url: str) -> str:
        """The path of a URL; its origin is remembered."""
        self.saw(url)
        before, _, rest = url.partition("://")
        scheme = before.rsplit(" ", 1)
        path = "/" + rest.partition("/")[2] if "/" in rest else "/"
        return (f"{scheme[0]} " if len(scheme) > 1 else "") + path.split("?")[0].split("#")[0]

    def saw(self, url: str) -> None:
        """Remember where a URL leads, without user and password."""
        place = "/".join(url.split("/", 3)[:3])
        if place in self._places:
            return
        if len(self._places) < 1000:
            self._places.add(place)
        try:
            parts = urlsplit(url.rsplit(" ", 1)[-1])
            host, port = parts.hostname, parts.port
        except ValueError:
            return
        if host and len(self.origins) < 20:
            host = f"[{host}]" if ":" in host else host
            self.origins[f"{parts.scheme}://{host}{f':{port}' if port else ''}"] = None
