"""What a scenario asks of a session or a response that they do not have: one line with what was meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from perfkit.suggestions import nearest

#: What a request takes besides its method and path.
ARGUMENTS = (
    "json", "content", "data", "files", "params", "headers", "auth", "follow_redirects", "name", "check",
    "ok", "stream", "timeout_s",
)  # fmt: skip
#: What httpx, requests, aiohttp and Locust call things.
_ELSEWHERE = {
    **dict.fromkeys(("expect", "expected", "expected_status", "status", "status_code"), "ok"),
    **dict.fromkeys(("timeout", "read_timeout"), "timeout_s"),
    **dict.fromkeys(("query", "query_params"), "params"),
    **dict.fromkeys(("body", "payload"), "json, content or data"),
    **dict.fromkeys(("catch_response", "validate"), "check"),
    **dict.fromkeys(("allow_redirects", "redirects"), "follow_redirects"),
    "label": "name",
    "cookies": "session.cookies = True",
}
_ATTRIBUTES_ELSEWHERE = {
    "session": {
        "fetch": "get",
        "send": "request",
        "head": "request('HEAD', …)",
        "options": "request('OPTIONS', …)",
    },
    "response": {
        "ok": "is_success",
        "body": "content",
        "data": "content",
        "status": "status_code",
        "code": "status_code",
    },
}


def require_arguments(path: str, name: str | None, check: Any, ok: Any, others: Mapping[str, Any]) -> None:
    """TypeError or ValueError for an argument that a request does not have, and for one of the wrong type."""
    if others:
        given = next(iter(others))
        meant = _ELSEWHERE.get(given) or nearest(given, ARGUMENTS)
        hint = f"did you mean {meant}?" if meant else f"known: {', '.join(ARGUMENTS)}"
        more = " (for all requests: target.timeout_s)" if meant == "timeout_s" else ""
        raise TypeError(f"a request has no argument {given!r:.60}; {hint}{more}")
    if type(path) is not str and not isinstance(path, str):
        raise TypeError(f"the path of a request is a text such as '/notes', not {path!r:.60}")
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(
            f"name is the request's operation, a text, not {name!r:.60}; leave it out for its path"
        )
    statuses = (ok,) if isinstance(ok, int) else ok
    if not isinstance(statuses, Collection) or not all(isinstance(one, int) for one in statuses):
        raise TypeError(
            f"ok is a status that does not count as an error, such as 404 or (404, 409), not {ok!r:.60}"
        )
    if check is not None and not callable(check):
        raise TypeError(
            f"check is a function of the response, not {check!r:.60}; write check=lambda response: …"
        )


def not_named(method: str, given: Any) -> TypeError:
    """What is raised where something follows the path of a request without its name."""
    what = "params=" if method == "GET" else "json=, data= or content="
    words = f"behind its path a request takes its arguments by name, not {given!r:.60}"
    return TypeError(f"{words}; write {what}…")


def no_params(given: Any) -> TypeError:
    """What is raised for params that are no names with values."""
    return TypeError(f"params is the query, such as params={{'page': 1}}, not {given!r:.60}")


def no_attribute(of: str, given: str, names: Iterable[str]) -> AttributeError:
    """What is raised for an attribute that a session or a response does not have."""
    known = sorted(name for name in names if not name.startswith("_"))
    meant = _ATTRIBUTES_ELSEWHERE[of].get(given) or nearest(given, known)
    hint = f"did you mean {meant}?" if meant else f"known: {', '.join(known)}"
    return AttributeError(f"a {of} has no {given!r:.60}; {hint}")
