"""Texts of other tools: names of operations, classes of errors, and no secret in either."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from perfkit.drive.rows import MOST_OPERATIONS, OTHER_OPERATIONS
from perfkit.importing.limits import LONGEST_NAME, LONGEST_TEXT
from perfkit.redaction import masked_text

#: In paths and labels: what is another one for every user or request, and may tell who it was.
_IDS = (
    (re.compile(r"\bey[JK][\w-]{4,}\.[\w-]+=*(?:\.[\w-]*=*)?", re.A), "{token}"),  # a JSON web token
    (re.compile(r"(?:;|%3B)(?:jsessionid|phpsessid|sid|session[-_]?id|cfid|cftoken)(?:=|%3D)[^/?#;\s]*",
                re.I), ""),
    (re.compile(r"/\([A-Z]\([0-9a-z]{20,}\)\)", re.I), ""),  # ASP.NET without cookies
    (re.compile(r"[\w.+%'-]{1,64}(?:@|%40)[\w%-]{1,63}(?:\.[\w%-]{1,63}){1,8}"), "{email}"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.I), "{uuid}"),
    (re.compile(r"(?<![0-9a-z])(?:0x)?[0-9a-f]{16,}(?![0-9a-z])", re.I), "{hex}"),
    (re.compile(r"(?<=/)(?=(?:[A-Za-z]*\d){3})(?=\d*[A-Za-z])[0-9A-Za-z]{20,}={0,2}(?=[/?#.;\s]|$)", re.A),
     "{token}"),
    # as a random one has digits, or capitals here and there
    (re.compile(r"(?<=/)(?=(?:[^\d/]*\d){3}|(?:(?:(?![a-z]{4})[^/A-Z])*[A-Z]){8})(?=[\w~-]*[A-Z])"
                r"(?=[\w~-]*[a-z])[\w~-]{24,}={0,2}(?=[/?#.;\s]|$)", re.A), "{token}"),
)  # fmt: skip
_QUERY = re.compile(r"((?:https?://|/)[^\s?\"'<>]*)\?[^\s\"'<>)]*")
_CLASSES = (
    ("timeout", re.compile(r"time[d ]?-? ?out|deadline exceeded", re.I)),
    ("cutoff", re.compile(r"cancel|interrupt|aborted due to deadline|err_aborted", re.I)),
    ("connect", re.compile(r"refused|unreachable|no such host|unknown ?host|name or service|getaddrinfo|dns|"
                           r"\bdial\b|no route|failed to establish|cannot assign requested|connectexception|"
                           r"enotfound|eai_again|address_?not_?found|name_not_resolved|proxy_connection",
                           re.I)),
    ("reset", re.compile(r"reset|broken ?pipe|\beof\b|closed|disconnect|connection ?aborted|nohttpresponse|"
                         r"premature|empty_response|hang ?up", re.I)),
)  # fmt: skip
_LONGEST = 300
_HOST = "\x1f"  # between a host and a name that may have to do without it
_REMEMBERED = 50_000  # labels whose name need not be made again
_COUNTED = 100_000
_MANY = 200


def clean(text: object) -> str | None:
    """At most 300 characters on one line; None: empty.

    Without queries, user names, secrets, session ids, e-mail addresses and long random numbers.
    """
    words = " ".join(str(text)[: 4 * LONGEST_TEXT].split())
    if not words:
        return None
    words = _QUERY.sub(r"\1", masked_text(words[: 4 * _LONGEST]))
    for pattern, word in _IDS:
        words = pattern.sub(word, words)
    return words[:_LONGEST]


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
        self._known: dict[tuple[str, str, str], str] = {}
        self._kept: set[str] = set()
        self._others: set[int] = set()  # hashes
        self._places: dict[str, str] = {}
        self.hosts: dict[str, str] = {}  #: host:port of every URL seen, the first first, with its origin

    def of(self, label: str, method: str = "", url: str = "") -> str:
        """The name of an operation labelled so; that of a URL begins with its host, until `settled`.

        url: where requests with a label that is none went.
        """
        key = (label[:LONGEST_TEXT], method[:LONGEST_NAME], self.saw(url) if url else "")
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

    def _named(self, label: str, method: str, host: str) -> str:
        text = label.strip()
        if "://" in text:
            host, text = self._path(text)
        elif text.startswith("/") or method:
            text = text.split("?")[0]
        text = f"{method} {text}" if method and not text.startswith(f"{method} ") else text
        name = " ".join((clean(text) or "unnamed").split())[:LONGEST_NAME]
        return f"{host}{_HOST}{name}" if host else name

    def settled(self, name: str) -> str:
        """The name for good: hosts belong to it where there are several."""
        host, is_url, name = name.rpartition(_HOST)
        if not is_url or len(self.hosts) < 2:
            return name
        method, _, path = name.rpartition(" ")
        return f"{method} {host}{path}".strip()[:LONGEST_NAME] if path.startswith("/") else f"{host} {name}"

    def _path(self, url: str) -> tuple[str, str]:
        """Host and path of a URL, with the method that may stand before it."""
        before, _, rest = url.partition("://")
        scheme = before.rsplit(" ", 1)
        path = "/" + rest.partition("/")[2] if "/" in rest else "/"
        method = f"{scheme[0]} " if len(scheme) > 1 else ""
        return self.saw(url), method + path.split("?")[0].split("#")[0]

    def saw(self, url: str) -> str:
        """Remember where a URL leads, without user and password; its host, empty where it has none.

        http and https of a host are one.
        """
        end = url.find("/", 9)
        place = url[:end] if 0 < end < LONGEST_TEXT else url[:LONGEST_TEXT]
        host = self._places.get(place)
        if host is None:
            host, origin = _host("/".join(place.rsplit(" ", 1)[-1].split("/", 3)[:3]))
            if len(self._places) < _COUNTED:
                self._places[place] = host
            if host and len(self.hosts) < _COUNTED:
                self.hosts.setdefault(host, origin)
        return host


def _host(url: str) -> tuple[str, str]:
    """Host, with a port that is neither 80 nor 443, and origin of a URL; empty where it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host:
        return "", ""
    host = f"[{host}]" if ":" in host else host
    ours = "" if port in (None, 80, 443) else f":{port}"
    return f"{host}{ours}", f"{parts.scheme}://{host}{f':{port}' if port else ''}"
