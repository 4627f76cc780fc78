"""Secrets in nested values and in text: found, and masked where they stand beside their name."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from perfkit.redaction.names import is_secret_name

#: Characters of the shortest secret that is searched for.
SHORTEST = 8
STARS = "***"
#: Names of secrets in the query of a URL, too ordinary elsewhere.
_QUERY_NAMES = frozenset({"key", "code"})

Keep = Callable[[str], None]
#: User name and password of a URL; `:8000/` is a port, and an `@` behind it part of the path.
_USERINFO = re.compile(
    r"""(?<=//)(?: [^\s/"'<>@:?\#]*:(?!\d{1,5}(?:[/?\#]|$))[^\s"'<>@]*(?:@[^\s"'<>@/?\#]*)*
      | [^\s/"'<>@:?\#]+ )@""",
    re.VERBOSE,
)
_PAIR = re.compile(
    r"""(?<![\w.-])(?P<name>[A-Za-z][\w.-]{1,60})(?:\\?["'])?\s*[=:]\s*
        (?: \\"(?P<escaped>(?:[^"\\]|\\[^"])++)\\" | "(?P<double>(?:[^"\\]|\\.)++)"
          | '(?P<single>(?:[^'\\]|\\.|'')++)'
          | \\?["']?(?P<bare>(?:(?:Bearer|Basic|Token|Digest)\s+)?[^\s,;&"'<>{}\\]+) )""",
    re.VERBOSE | re.IGNORECASE,
)
#: Words as in `basic understanding` and `bearer token` are not secrets.
_AFTER_SCHEME = re.compile(
    r"""\b(?:Bearer\s+(?!token|auth)|(?:Basic|Token)\s+(?=[^\s,;"']*\d|[^\s,;"']{16}))
        (?P<value>[^\s,;"']+)""",
    re.VERBOSE | re.IGNORECASE,
)
#: Headers whose value has several parts, in a command line, say: up to the quote or the line's end.
_WHOLE_HEADER = re.compile(
    r"""\b(?: cookie\s*:\s*(?P<cookies>[^\s=;"'<>]+=[^"'\r\n<>]+)
         | authorization\s*:\s*(?P<value>Digest\s[^\r\n']+) )""",
    re.VERBOSE | re.IGNORECASE,
)
_SCHEME = re.compile(r"([\w-]+)\s+(.+)", re.DOTALL).fullmatch
_COOKIES = re.compile(r"\s*+[^=;\s]++=[^;]*+(?:;\s*+[^=;\s]++=[^;]*+)*+;?\s*").fullmatch


def _nothing(secret: str) -> None:
    """Keep no secret."""


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of headers that carry secrets, whole and in their parts, that are long enough."""
    values = [value for name, value in headers.items() if is_secret_name(name)]
    return _long_enough(part for value in values for part in _parts(str(value)))


def secrets_of(given: Any, tokens: Iterable[str | None] = ()) -> tuple[str, ...]:
    """Return the secrets in nested values (a workload, its parameters) and the tokens, long enough each."""
    found = [f"Bearer {token}" for token in tokens if token]
    masked(given, found.append)
    return _long_enough(part for value in found for part in _parts(value))


def _long_enough(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for one in found if len(one) >= SHORTEST))


def _parts(value: str) -> Iterator[str]:
    """A secret value, and what of it may be echoed alone: without its scheme word, decoded, each cookie's."""
    yield value
    if scheme := _SCHEME(value):
        yield scheme[2]
        if scheme[1].lower() == "basic":
            with suppress(ValueError):
                pair = base64.b64decode(scheme[2]).decode()
                yield from (pair, pair.partition(":")[2])
    cookies = _COOKIES(value) is not None
    for pair in value.split(";" if cookies else ","):
        name, _, inner = pair.partition("=")
        if cookies or is_secret_name(name.strip().rpartition(" ")[2]):
            yield from (inner.strip(), inner.strip().strip('"'))
    if (plain := unquote(value)) != value:
        yield from _parts(plain)


def masked(given: Any, keep: Keep = _nothing) -> Any:
    """Return nested values with *** in place of each secret; `keep` is called with every secret.

    Secrets are the values of secret names at any depth, passwords in URLs, and what stands beside a secret
    name inside a text, such as `password=…` in a DSN.
    """
    if isinstance(given, str):
        return masked_text(given, keep)
    if isinstance(given, Mapping):
        # {"name": "cookie", "value": …}, as in a HAR; tools of HTTP also say key or header
        named = any(is_secret_name(str(given.get(name))) for name in ("name", "key", "header"))

        def secret(key: str, value: Any) -> bool:
            return _is_secret(key, value) or (named and key == "value")

        return {
            key: _starred(value, keep) if secret(str(key), value) else masked(value, keep)
            for key, value in given.items()
        }
    if isinstance(given, list | tuple):
        if len(given) == 2 and isinstance(given[0], str) and is_secret_name(given[0]):
            return [given[0], _starred(given[1], keep)]
        return [masked(one, keep) for one in given]
    return given


def _is_secret(name: str, value: Any) -> bool:
    """Whether a value of this name is secret; `tokens: 100` is a count, `tokens: [a, b]` are secrets."""
    several = isinstance(value, Mapping | list | tuple) or (isinstance(value, str) and not value.isdigit())
    return is_secret_name(name) or (several and is_secret_name(name.removesuffix("s")))


def _starred(value: Any, keep: Keep) -> Any:
    """The value of a secret name: *** for each text and number in it."""
    if isinstance(value, Mapping):
        return {name: _starred(one, keep) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_starred(one, keep) for one in value]
    if value is None or value == "" or isinstance(value, bool):
        return value
    keep(str(value))
    return STARS


def masked_text(text: str, keep: Keep = _nothing) -> str:
    """Return a text with *** for passwords in URLs, values of secret names and what follows `Bearer`."""

    def hide_user(found: re.Match[str]) -> str:
        user, colon, password = found[0][:-1].partition(":")
        keep(password if colon else user)
        return f"{STARS}@"

    text = _USERINFO.sub(hide_user, text)
    for pattern in (_WHOLE_HEADER, _PAIR, _AFTER_SCHEME):
        place = 0
        while found := pattern.search(text, place):
            group = str(found.lastgroup)
            place = found.start(group)  # a value may be a name itself: `answer: token=x`
            if group in ("value", "cookies") or _names_secret(text, found):
                if STARS not in found[group]:
                    keep(found[group])
                text = f"{text[:place]}{STARS}{text[found.end(group) :]}"
                place += len(STARS)
    return text


def _names_secret(text: str, found: re.Match[str]) -> bool:
    in_query = text[found.start() - 1 : found.start()] in ("?", "&")
    return is_secret_name(found["name"]) or (in_query and found["name"].lower() in _QUERY_NAMES)
