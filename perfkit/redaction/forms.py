"""Every form a server may write a secret in: letter case, base64, hex, escaped for JSON, URLs and HTML."""

from __future__ import annotations

import base64
import functools
import html.entities
import itertools
import re
from collections.abc import Iterator

_RUN = re.compile("[a-z0-9]+")  #: what nobody escapes
#: A backslash as it is, and as JSON, URLs and HTML write it. Of three levels of escaping there are 8 at most;
#: without a bound a text of thousands takes seconds.
_BACKSLASH = r"(?:\\(?:u005c|x5c)?|%(?:25)*5c|&(?:amp;)*(?:#0*92|#x0*5c|bsol);)"
_PERCENT, _ENTITY = r"%(?:25)*", r"&(?:amp;)*"  # a text may have been escaped more than once

_BLANK = rf"[+\s]|\\{{0,8}}(?:u00|x)(?:20|0[9ad])|{_PERCENT}(?:20|0[9ad])|{_ENTITY}(?:nbsp|#0*32|#x0*20);"


class Written:
    """Every written form of one secret, to be searched for in text that went through `lowered`."""

    __slots__ = ("_codes", "_pattern", "_runs", "_secret")

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._codes = {secret.encode("utf-8", "replace"), secret.encode("latin-1", "replace")}
        self._pattern: re.Pattern[str] | None = None
        plain = secret.encode("ascii", "replace").decode().lower()
        forms = [plain, *(form for code in self._codes for form in _coded(code))]
        #: A text without any of these has none of the forms: most texts cost a few fast searches.
        self._runs = {max(_RUN.findall(form), key=len, default="") for form in forms}
        self._runs |= {_percent(code) for code in self._codes}

    def spans(self, low: str) -> Iterator[tuple[int, int]]:
        """Yield where a lowered text holds the secret, in any form."""
        if any(run in low for run in self._runs):
            for found in (self._pattern or self._compiled()).finditer(low):
                yield found.span()

    def _compiled(self) -> re.Pattern[str]:
        forms = [_escaped(self._secret), _identifier(self._secret)]
        for code in self._codes:
            forms += [_escaped(form, of_base64=True) for form in _coded(code)]
            forms.append(_percent(code))
        self._pattern = re.compile("|".join(dict.fromkeys(forms)))
        return self._pattern


#: Secrets are few, or there is one for each virtual user.
written = functools.lru_cache(8192)(Written)


def lowered(text: str) -> str:
    """Return the text in lower case, as long as it was: lower() makes two characters of İ only."""
    return text.replace("İ", "i").lower()


def _coded(code: bytes) -> list[str]:
    """Base64 of bytes at each of the three places they may have in a longer text, and hex; in lower case.

    Of base64 without the characters at both ends that depend on the neighbours.
    """
    found = [code.hex()]
    for before in range(3):
        text = base64.b64encode(bytes(before) + code).decode().rstrip("=")
        end = len(text) - ((before + len(code)) % 3 > 0)
        found.append(text[(0, 2, 3)[before] : end].lower())
    return found


def _identifier(secret: str) -> str:
    """As names of metrics are written."""
    return "".join([c.lower() if c.isascii() and c.isalnum() else "_" for c in secret])


def _percent(code: bytes) -> str:
    return "".join([f"%{byte:02x}" for byte in code])


def _escaped(text: str, *, of_base64: bool = False) -> str:
    """A pattern for a text with each character as it is or escaped for JSON, URLs or HTML."""
    found = []
    for kind, characters in itertools.groupby(text, lambda c: " " if c in "\t\n\r" else c):
        count = len(list(characters))
        if kind == "\\":
            found.append(f"{_BACKSLASH}{{{count},{8 * count}}}+")
        elif kind == " ":
            found.append(rf"(?:(?:\s|\\{{1,8}}[nrt]){{1,{2 * count}}}|(?:{_BLANK}){{{count}}})")
        elif kind.isascii() and kind.isalnum():
            found.append(kind.lower() * count)
        else:
            other = {"+": "-|", "/": "_|"}.get(kind, "") if of_base64 else ""
            found.append(f"(?:{other}{_character(kind)})" * count)
    return "".join(found)


@functools.lru_cache(256)
def _character(c: str) -> str:
    """A pattern for one character that is not a letter of ASCII, a digit, a blank or a backslash."""
    ways = [{"&": _ENTITY, "%": _PERCENT, "+": "[+ ]"}.get(c, re.escape(lowered(c))), *_ways(c)]
    if not c.isascii():
        mistaken = c.encode("utf-8", "replace").decode("latin-1")  # read in the wrong encoding
        ways += ["\ufffd+", *(re.escape(lowered(way)) for way in (c.upper(), mistaken))]
        ways += [way for other in {*c.upper(), *c.lower()} - {c} for way in _ways(other)]
    return f"{_BACKSLASH}{{0,8}}+(?:{'|'.join(ways)})"


def _ways(c: str) -> Iterator[str]:
    """Patterns for a character as JSON, URLs and HTML escape it."""
    utf16 = c.encode("utf-16-be", "surrogatepass")
    yield r"\\{1,8}".join([f"u{utf16[i : i + 2].hex()}" for i in range(0, len(utf16), 2)])
    for code in {c.encode("utf-8", "replace"), c.encode("latin-1", "replace")}:
        yield "".join([f"{_PERCENT}{byte:02x}" for byte in code])
        if len(code) == 1:
            yield f"x{code.hex()}"
    named = "".join([f"|{name}" for name in _entities().get(c, ())])
    yield rf"{_ENTITY}(?:#0*{ord(c)};|#x0*{ord(c):x};{named})"


@functools.cache
def _entities() -> dict[str, set[str]]:
    """The names of characters in HTML, in lower case, with their semicolon."""
    found: dict[str, set[str]] = {}
    for name, character in html.entities.html5.items():
        if name.endswith(";"):
            found.setdefault(character, set()).add(name.lower())
    return found
