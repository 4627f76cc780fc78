"""Secrets: which names hold one, which values are one, and how they leave a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_SECRET_HEADERS = ("authorization", "cookie", "x-api-key", "x-bare-password", "proxy-authorization")
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|credentials|auth|jwt|signature"
    r"|(?:api|access|subscription|private)[_-]?key)$"
).search


class Redactor:
    """Removes known secrets from text."""

    def __init__(self, secrets: Iterator[str] | tuple[str, ...] = ()) -> None:
        self._secrets = {secret for secret in secrets if secret}

    def __call__(self, text: str, more: tuple[str, ...] = ()) -> str:
        """The text without any known secret, nor those of `more`."""
        for secret in sorted({*self._secrets, *more}, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def secrets_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Values of headers that carry secrets, with and without their scheme word or cookie name."""
    found = set()
    for name, value in headers.items():
        if is_secret_name(name):
            found |= {value, value.split(" ")[-1]}
            if name.lower() == "cookie":
                found |= {one.partition("=")[2].strip() for one in value.split(";")}
    return tuple(found - {""})


def is_secret_name(name: str) -> bool:
    """Whether a header or parameter of this name holds a secret."""
    return name.lower() in _SECRET_HEADERS or _SECRET_NAME(name.lower()) is not None
