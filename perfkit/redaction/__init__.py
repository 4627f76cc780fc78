"""Secrets: which names hold one, which values are secrets, and how they are removed from text.

Known secrets are searched for in every form a server may echo them in. Only values of at least `SHORTEST`
characters are: a shorter one occurs in ordinary text by chance, and is hidden only where it stands beside its
own name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from perfkit.errors import PerfkitError
from perfkit.redaction.forms import lowered, written
from perfkit.redaction.names import is_secret_name
from perfkit.redaction.values import SHORTEST, STARS, masked, masked_text, secrets_in, secrets_of

__all__ = [
    "NO_SECRETS",
    "SHORTEST",
    "STARS",
    "Redactor",
    "is_secret_name",
    "lowered",
    "masked",
    "masked_text",
    "redacted_errors",
    "secrets_in",
    "secrets_of",
    "written",
]

_LONGEST_ESCAPE = 24  #: characters of one: `\\ud83d\\ude00`, `&amp;#x0022;`, `%25C3%25A9`, escaped again
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#]*", re.IGNORECASE).match


class Redactor:
    """Removes known secrets, in every written form, from text; those shorter than `SHORTEST` it leaves."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known = {secret: written(secret) for secret in secrets if len(secret) >= SHORTEST}
        self._cached = functools.lru_cache(256)(self._removed)  # failed requests get the same answers

    def __call__(self, text: str, more: Iterable[str] = ()) -> str:
        """Return the text without any known secret, nor those of `more`."""
        return self._cached(text, tuple(more))

    def _removed(self, text: str, more: tuple[str, ...]) -> str:
        low = lowered(text)
        known = [*self._known.values(), *(written(one) for one in more if self._is_news(one))]
        spans = sorted(span for one in known for span in one.spans(low))
        if not spans:
            return text
        pieces, at, end = [], 0, 0
        for begins, ends in spans:
            if begins >= end:  # not inside or across the one before
                pieces += [text[at:begins], STARS]
            at = end = max(end, ends)
        return self("".join([*pieces, text[at:]]), more)  # what stands together now may be a secret of stars

    def _is_news(self, secret: str) -> bool:
        return len(secret) >= SHORTEST and secret not in self._known

    def beginning(self, text: str, length: int, more: tuple[str, ...] = (), *, cut: bool = False) -> str:
        """Return the first `length` characters of the text without secrets; looks at no more than it must.

        cut: the text itself is a beginning, and its end may be half a secret.
        """
        longest = max(map(len, (*self._known, *more)), default=0)
        begins = text[: length + longest * _LONGEST_ESCAPE]
        clean = self(begins, more)
        if clean == begins and len(begins) < len(text):
            return clean[:length]
        if len(begins) < len(text):
            clean = self(text, more)
        return clean[: max(0, min(length, len(clean) - longest))] if cut else clean[:length]

    def url(self, given: str) -> str:
        """Return a URL without secrets in its path and query; scheme, host and port stay as they are."""
        given = masked_text(given)
        origin = found[0] if (found := _ORIGIN(given)) else ""
        return origin + self(given[len(origin) :])

    def within(self, given: Any) -> Any:
        """Return nested values without secrets in any text, and with *** for the values of secret names.

        The names of the outermost mapping stay: they are perfkit's own, or a scenario's.
        """
        given = masked(given)
        if isinstance(given, Mapping):
            return {name: self._within(value) for name, value in given.items()}
        return self._within(given)

    def _within(self, given: Any) -> Any:
        if isinstance(given, str):
            return self(given)
        if isinstance(given, Mapping):
            return {self(str(name)): self._within(value) for name, value in given.items()}
        return [self._within(one) for one in given] if isinstance(given, list | tuple) else given


NO_SECRETS = Redactor()


@contextmanager
def redacted_errors(redact: Redactor) -> Iterator[None]:
    """Remove secrets from the message of whatever is raised inside; its class stays, if it is perfkit's."""
    try:
        yield
    except Exception as error:
        words = redact(str(error))
        if words == str(error):
            raise
        if isinstance(error, PerfkitError):
            raise type(error)(words) from None
        raise PerfkitError(f"{type(error).__name__}: {words}") from None
