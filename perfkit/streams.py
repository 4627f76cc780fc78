"""Streamed answers (server-sent events): which event carries content, what went wrong, how many tokens.

A scenario says what counts with one small function, `session.post(..., stream=letta)`: it gets an `Event` and
returns what that `Said`. Ready ones: `plain`, `letta`, `openai_chat`, `openai_responses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from perfkit.errors import words_of

_BOM = b"\xef\xbb\xbf"
_LARGEST_US = 2**31 - 1  # of an int32: 35 minutes
_DONE = b"[DONE]"
_decode = msgspec.json.Decoder().decode


class Event(NamedTuple):
    """One event: the instant at which it was complete, its type (`event:`), the lines of its data."""

    at: int
    name: str
    data: bytes


class Said(NamedTuple):
    """What an event says: whether it carries content, tokens of the whole answer, what went wrong."""

    content: bool = False
    tokens: int | None = None
    error: str | None = None


Reader = Callable[[Event], Said]


class Stream(NamedTuple):
    """A stream read to its end: first_token on the loop's clock; chunks: µs from `sent` to each event with
    content, None where the body was no stream; tokens as the server told them; error of the first event that
    told of one."""

    first_token: int | None
    chunks: list[int] | None
    tokens: int | None
    error: str | None


class Events:
    """Takes a body in pieces, and keeps its events (WHATWG HTML, "Server-sent events", 9.2.6).

    An event ends with an empty line and has at least one `data` line; comments (pings) are no events.
    """

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._line: list[bytes] = []  # of the unfinished line
        self._name, self._data = b"", list[bytes]()
        self._begun = self._after_cr = False

    def feed(self, data: bytes, now: int) -> None:
        """Take the next bytes of the body, received at `now`."""
        if self._after_cr and data.startswith(b"\n"):  # the packets' border went through a CRLF
            data = data[1:]
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif data:
            self._after_cr = False
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line = []
            for line in lines:
                self._take(line, now)
        if rest:
            self._line.append(rest)

    def end(self, now: int) -> None:
        """The body has ended: an event without its empty line is none, unless it tells of an error."""
        if self._line:
            self._take(b"".join(self._line), now)
        told = b"\n".join(self._data)
        if self._data and (self._name == b"error" or b'"error' in told):
            self._take(b"", now)
        self._line, self._name, self._data = [], b"", []

    def _take(self, line: bytes, now: int) -> None:
        if not self._begun:
            line, self._begun = line.removeprefix(_BOM), True
        if not line:
            if self._data:
                self.seen.append(Event(now, self._name.decode("utf-8", "replace"), b"\n".join(self._data)))
            self._name, self._data = b"", []
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")


def read(events: Iterable[Event], sent: int | None, reader: Reader) -> Stream:
    """What a reader finds in the events; sent: the instant chunks are counted from, None: never reached."""
    content, tokens, error, of_error = list[int](), None, None, False
    for event in events:
        said = _said(reader, event)
        if said.content:
            content.append(event.at)
        tokens = tokens if said.tokens is None else said.tokens
        if said.error and (error is None or (event.name == "error" and not of_error)):
            # an event of this type says more than the reason to stop that came before it
            error, of_error = said.error, event.name == "error"
    chunks = [] if sent is None else [min((at - sent) // 1000, _LARGEST_US) for at in content]
    return Stream(content[0] if content else None, chunks, tokens, error)


def read_whole(body: bytes, reader: Reader) -> Stream:
    """What a reader finds in a body that is no stream, such as a JSON object: tokens, what went wrong."""
    said = _said(reader, Event(0, "", body))
    return Stream(None, None, said.tokens, said.error)


def _said(reader: Reader, event: Event) -> Said:
    """What a reader says, or what is wrong with it: it is the scenario's own."""
    try:
        said: Any = reader(event)
    except Exception as failed:
        return Said(error=f"the stream reader raised {words_of(failed)}")
    if not isinstance(said, Said) or not isinstance(said.error, str | None):
        return Said(error=f"the stream reader returned {said!r:.80}, not a Said")
    return Said(bool(said.content), _count(said.tokens), said.error)


# -- readers ---------------------------------------------------------------------------------------


def plain(event: Event) -> Said:
    """Any event with data carries content, but `[DONE]`, pings and those of type `error`."""
    if event.name == "error":
        return Said(error=f"error event: {_text(event.data)}")
    data = event.data.strip()
    return Said(content=bool(data) and data != _DONE and event.name not in ("ping", "heartbeat", "done"))


#: Kinds of Letta's messages that carry none of the answer.
_LETTA_SILENT = frozenset({"ping", "usage_statistics", "error_message", "user_message", "system_message"})
#: Reasons to stop that are no failure.
LETTA_GOOD = frozenset({"end_turn", "tool_rule", "requires_approval", "max_steps"})


def letta(event: Event) -> Said:
    """Letta's messages: pings, usage and stop reasons are no content, `llm_api_error` is a failure."""
    found = _object(event.data)
    kind = found.get("message_type")
    if event.name == "error" or kind == "error_message" or found.get("error"):
        told = found.get("error") or found.get("message") or found.get("error_type") or event.data
        return Said(error=f"error event: {_text(told)}")
    if kind == "stop_reason":
        reason = _text(found.get("stop_reason"))
        return Said() if reason in LETTA_GOOD else Said(error=f"the stream ended with stop_reason {reason}")
    if kind == "usage_statistics":
        return Said(tokens=_count(found.get("completion_tokens")))
    silent = not isinstance(kind, str) or kind in _LETTA_SILENT
    text = found.get("content", found.get("reasoning", True))
    if isinstance(text, list):  # parts, each with a text of its own
        text = any(not isinstance(part, dict) or part.get("text", True) for part in text)
    return Said(content=not silent and bool(text))


_CHAT_GOOD = frozenset({"stop", "length", "tool_calls", "function_call"})


def openai_chat(event: Event) -> Said:
    """OpenAI's chat completions: a delta with text, reasoning or a call; a role alone is none."""
    found = _object(event.data)
    if event.name == "error" or found.get("error"):
        return Said(error=f"error event: {_text(found.get('error') or event.data)}")
    tokens = _count(_mapping(found.get("usage")).get("completion_tokens"))
    given = found.get("choices")
    choices = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    deltas = [one["delta"] for one in choices if isinstance(one.get("delta"), dict)]
    content = any(value for delta in deltas for key, value in delta.items() if key != "role")
    reasons = [one["finish_reason"] for one in choices if one.get("finish_reason")]
    bad = next((one for one in reasons if str(one) not in _CHAT_GOOD), None)
    return Said(content, tokens, f"the stream ended with finish_reason {_text(bad)}" if bad else None)


def openai_responses(event: Event) -> Said:
    """OpenAI's responses: deltas carry content; `response.failed`, `.incomplete` and `error` are failures.

    One that is incomplete because it has as many tokens as it may is none.
    """
    found = _object(event.data)
    kind = str(found.get("type") or event.name or "response")
    whole = found.get("object") == "response"  # else it is in an event
    response = found if whole else _mapping(found.get("response"))
    bad = response.get("status") in ("failed", "incomplete", "cancelled")
    bad = bad or kind in ("error", "response.failed", "response.incomplete")
    details = response.get("incomplete_details")
    full = _mapping(details).get("reason") == "max_output_tokens"  # as was asked for
    if bad and not full:
        given = (response.get("error"), details, found.get("error"), found.get("message"), kind)
        told = next(one for one in given if one)
        return Said(error=f"{kind}: {_text(told)}")
    tokens = _count(_mapping(response.get("usage")).get("output_tokens"))
    return Said(kind.endswith(".delta") and bool(found.get("delta")), tokens)


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    try:
        return _mapping(_decode(data))
    except (msgspec.DecodeError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    """A whole number that fits into the timeline's column."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**31 else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:200]
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)[:200]
    return data.decode("utf-8", "replace")[:200]
