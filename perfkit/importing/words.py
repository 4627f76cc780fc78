"""Texts of other tools: names of operations, classes of errors, and no secret in either."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from perfkit.importing.limits import LONGEST_NAME, LONGEST_TEXT
from perfkit.redaction import masked_text
from perfkit.rows import MOST_OPERATIONS, OTHER_OPERATIONS

_QUERY = re.compile(r"((?:https?://|/)[^\s?\"'<>]*)\?[^\s\"'<>)]*")
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
_REMEMBERED = 50_000  # labels whose name need not be made again
_COUNTED = 100_000
_MANY = 200


def clean(text: object) -> str | None:
    """At most 300 characters on one line, without queries, user names, secrets; None: empty."""
    words = " ".join(str(text)[: 4 * LONGEST_TEXT].split())
    if not words:
        return None
    return _QUERY.sub(r"\1", masked_text(words[: 4 * _LONGEST]))[:_LONGEST]


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
    """Names of operations, made once for each text: a label as it is, a URL as METHOD path without query.

    The first MOST_OPERATIONS are kept, as in runs of perfkit's own; the rest are OTHER_OPERATIONS.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._kept: set[str] = set()
        self._others: set[int] = set()  # hashes
        self._places: set[str] = set()
        self.origins: dict[str, None] = {}  #: scheme://host:port of every URL seen, the first first

    def of(self, label: str, method: str = "") -> str:
        """The name of an operation labelled so."""
        key = (label[:LONGEST_TEXT], method[:LONGEST_NAME])
        name = self._known.get(key)
        if name is None:
            name = self._kept_name(self._named(*key))
            if len(self._known) < _REMEMBERED:
                self._known[key] = name
        return name

    def _kept_name(self, name: str) -> str:
        if name in self._kept or len(self._kept) < MOST_OPERATIONS:
            self._kept.add(name)
            return name
        if len(self._others) < _COUNTED:
            self._others.add(hash(name))
        return OTHER_OPERATIONS

    @property
    def note(self) -> str | None:
        """What to say of very many operations."""
        kept, others = len(self._kept), len(self._others)
        if not others:
            many = f"{kept:,} different operations; give requests a name in the tool to group them"
            return many if kept > _MANY else None
        more = "more than " if others >= _COUNTED else ""
        return (
            f"{more}{kept + others:,} different operations: the first {kept:,} are kept by name, the other "
            f"{more}{others:,} together as {OTHER_OPERATIONS}; give requests a name without ids in the tool"
        )

    def _named(self, label: str, method: str) -> str:
        text = label.strip()
        if "://" in text:
            text = self._path(text)
        elif text.startswith("/") or method:
            text = text.split("?")[0]
        text = f"{method} {text}" if method and not text.startswith(f"{method} ") else text
        return " ".join((clean(text) or "unnamed").split())[:LONGEST_NAME]

    def _path(self, url: str) -> str:
        """The path of a URL; its origin is remembered."""
        self.saw(url)
        before, _, rest = url.partition("://")
        scheme = before.rsplit(" ", 1)
        path = "/" + rest.partition("/")[2] if "/" in rest else "/"
        return (f"{scheme[0]} " if len(scheme) > 1 else "") + path.split("?")[0].split("#")[0]

    def saw(self, url: str) -> None:
        """Remember where a URL leads, without user and password."""
        url = url[:LONGEST_TEXT]
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
