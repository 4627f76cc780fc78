"""A virtual user's cookies, by the rules of `http.cookiejar`: domain, path, expiry, `Secure`."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any, cast
from urllib.request import Request

_SET_COOKIE = b"set-cookie"


class Jar:
    """Cookies for requests below `base`, the target's URL."""

    def __init__(self, base: str) -> None:
        self._base, self._jar = base.rstrip("/"), CookieJar()
        self._empty = True

    def fields(self, path: str) -> tuple[tuple[str, str], ...]:
        """Return the header of a request, or none."""
        if self._empty:
            return ()
        request = Request(self._base + path)
        self._jar.add_cookie_header(request)
        value = request.get_header("Cookie")
        return (("cookie", value),) if value else ()

    def take(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Keep what a response sets; returns whether it set anything."""
        values = [value for name, value in headers if name == _SET_COOKIE]
        if not values:
            return False
        message = Message()
        for value in values:
            message["set-cookie"] = value.decode("latin-1")
        self._jar.extract_cookies(cast(Any, _Answer(message)), Request(self._base + path))
        self._empty = False
        return True

    def values(self) -> dict[str, str]:
        """Return the values by name; of one name the last counts."""
        return {cookie.name: cookie.value or "" for cookie in self._jar}


class _Answer:
    """The part of a response that http.cookiejar asks for."""

    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers
