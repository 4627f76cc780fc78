"""Bodies and credentials of requests, in httpx's language."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

#: `("user", "password")` for Basic (RFC 7617), a text for a Bearer token (RFC 6750).
Auth = tuple[str, str] | str
#: As httpx takes it: names with contents, or with (file name, content, content type).
Files = Mapping[str, Any] | list[tuple[str, Any]]
#: One for all: bodies are apart, and the header lines of requests are put together once.
_MULTIPART = f"multipart/form-data; boundary={secrets.token_hex(16)}"


def form(data: Mapping[str, Any] | None, files: Files | None) -> tuple[bytes | str, str]:
    """Return the body and the content type of a form: URL-encoded, or multipart where there are files."""
    if files is None:
        return urlencode(data or {}, doseq=True), "application/x-www-form-urlencoded"
    import httpx

    request = httpx.Request(
        "POST", "http://localhost", data=data, files=files, headers={"content-type": _MULTIPART}
    )
    return request.read(), _MULTIPART


def authorization(auth: Auth) -> str:
    """Return the value of the header; ValueError, which does not repeat it, for what is neither kind."""
    if isinstance(auth, str) and auth:
        return f"Bearer {auth}"
    if isinstance(auth, tuple) and [type(one) for one in auth] == [str, str] and ":" not in auth[0]:
        return f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"
    raise ValueError('auth is ("user", "password"), the user without a colon, or a token for Bearer')
