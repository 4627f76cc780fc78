"""The header lines of requests, put together and checked once for all requests that have the same."""

from __future__ import annotations

from functools import cached_property

from perfkit.drive.transport import header_lines
from perfkit.redaction import secrets_in

_MOST = 4096

#: Names and values as they were given.
Pairs = tuple[tuple[str, str], ...]


class Head:
    """What requests with the same headers have in common.

    lines: header lines; the last is x-request-id, its end (the number, a line break) is to be added.
    fields: the same by name in lower case.
    """

    def __init__(self, lines: str, fields: dict[str, str]) -> None:
        self.lines, self.fields = lines, fields

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """Values to be removed from what the server says of these requests."""
        return secrets_in(self.fields)


class Heads:
    """Makes heads, and keeps them: to check and to format a request's headers costs more than all the rest
    of building it, and they are mostly those of the request before."""

    def __init__(self, target: Pairs, id_prefix: str, host: str) -> None:
        self._target, self._id_prefix, self._host = target, id_prefix, host
        self._known: dict[tuple[Pairs, str, Pairs], Head] = {}

    def get(self, session: Pairs, content_type: str, request: Pairs) -> Head:
        """The head for a session's headers, the body's type and a request's own headers; of names given twice
        the last counts. ValueError for what cannot be sent."""
        key = (session, content_type, request)
        head = self._known.get(key)
        if head is None:
            if len(self._known) >= _MOST:  # each user may have a key of its own
                self._known.clear()
            head = self._known[key] = self._make(session, content_type, request)
        return head

    def _make(self, session: Pairs, content_type: str, request: Pairs) -> Head:
        body = (("content-type", content_type),) if content_type else ()
        fields = {name.lower(): str(value) for name, value in (*self._target, *session, *body, *request)}
        fields.pop("x-request-id", None)
        fields["x-request-id"] = self._id_prefix
        return Head(header_lines(fields.items(), self._host).removesuffix("\r\n"), fields)
