"""Secrets for tests: the forms a server may echo one in, and a search for them that is not perfkit's own."""

from __future__ import annotations

import base64
import html
import json
import random
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from markupsafe import escape


def _in_base64(before: int, encode: Callable[[bytes], bytes]) -> Callable[[str], str]:
    """Base64 of the secret inside a longer text, with so many bytes before it."""
    return lambda secret: encode(bytes([0xFB] * before) + secret.encode() + b"!?").decode()


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


#: How a server writes a secret it repeats, by name.
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "other case": str.swapcase,
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
    **{f"base64 +{n}": _in_base64(n, base64.b64encode) for n in (0, 1, 2, 4)},
    **{f"url-safe base64 +{n}": _in_base64(n, base64.urlsafe_b64encode) for n in (0, 1, 2, 5)},
    "base64 in a URL": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "base64 in JSON": lambda s: base64.b64encode(b"a" + s.encode()).decode().replace("/", "\\/"),
    "JSON": _json,
    "JSON in JSON": lambda s: _json(_json(s)),
    "JSON with slashes escaped": lambda s: _json(s).replace("/", "\\/"),
    "JSON with all escaped": lambda s: "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in s),
    "URL": lambda s: quote(s, safe=""),
    "URL with slashes": quote,
    "URL as browsers write it": lambda s: quote(s, safe="/:@!$&'()*+,;=?~"),
    "URL in small letters": lambda s: re.sub("%..", lambda code: code[0].lower(), quote(s, safe="")),
    "form": quote_plus,
    "URL in a URL": lambda s: quote(quote(s, safe=""), safe=""),
    "every byte for a URL": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "JSON in a URL": lambda s: quote(_json(s)),
    "HTML": html.escape,
    "HTML of Jinja": lambda s: str(escape(s)),
    "HTML with numbers": lambda s: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in s),
    "HTML in HTML": lambda s: html.escape(html.escape(s)),
    "JSON in HTML": lambda s: html.escape(_json(s)),
    "HTML in JSON": lambda s: _json(html.escape(s)),
    "Python": lambda s: repr(s)[1:-1],
}

#: Alphabets of secrets; few characters make secrets that look like their own escapes.
ALPHABETS = (
    "".join(map(chr, range(33, 127))),
    "".join(map(chr, range(32, 127))),
    *("abcXYZ019", "ab", "0", "-._~", "+/=ab", "\\\"'", "%25a", "&amp;", "*a", "+ b", "\\n ", "\\u0", "=;,&"),
)


def random_secret(rng: random.Random) -> str:
    """A secret of 8 to 60 printable characters that a header can carry, without blanks at its ends."""
    while True:
        secret = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(8, 60))).strip()
        if len(secret) >= 8:
            return secret


def held(text: str, *secrets: str) -> list[str]:
    """The secrets a text holds: it is decoded in every way, over and over, until nothing new appears."""
    waiting, seen = [text], {text}
    while waiting:
        for decoded in _decoded(waiting.pop()):
            if decoded not in seen and len(seen) < 60:
                seen.add(decoded)
                waiting.append(decoded)
    plain = "\n".join(seen).lower()
    codes = b"\n".join(_codes(text))
    return [secret for secret in secrets if secret.lower() in plain or secret.encode() in codes]


def _decoded(text: str) -> Iterator[str]:
    yield from (unquote(text), unquote_plus(text), html.unescape(text))
    yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
    yield re.sub(r"\\([\\\"'/])", r"\1", text)


def _codes(text: str) -> Iterator[bytes]:
    """Every run of characters that may be base64 or hex, decoded at each place."""
    text = unquote(text).replace("\\/", "/").replace("-", "+").replace("_", "/")
    for run in re.findall(r"[A-Za-z0-9+/]{8,}", text):
        for start in range(4):
            part = run[start:]
            yield base64.b64decode(part[: len(part) // 4 * 4])
            yield base64.b64decode(part + "A" * (-len(part) % 4))
    for run in re.findall(r"[0-9a-fA-F]{16,}", text):
        for start in range(2):
            yield bytes.fromhex(run[start : start + (len(run) - start) // 2 * 2])
