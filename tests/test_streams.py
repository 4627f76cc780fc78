"""Which events of a stream carry content, which tell of an error, and how many tokens there were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perfkit.streams import Event, Events, Reader, Said, letta, openai_chat, openai_responses, plain, read

CONTENT, NOTHING = Said(content=True), Said()


def event(data: Any, name: str = "", at: int = 0) -> Event:
    return Event(at, name, data if isinstance(data, bytes) else json.dumps(data).encode())


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


CASES: list[tuple[Reader, Event, Said]] = [
    (plain, event(b"a token"), CONTENT),
    (plain, event(b" "), NOTHING),
    (plain, event(b"[DONE]"), NOTHING),
    (plain, event(b"12:00", "ping"), NOTHING),
    (plain, event(b"oh", "error"), Said(error="error event: oh")),
    (letta, event({"message_type": "assistant_message", "content": "hello"}), CONTENT),
    (letta, event({"message_type": "assistant_message", "content": ""}), NOTHING),
    (letta, event({"message_type": "reasoning_message", "reasoning": "hm"}), CONTENT),
    (letta, event({"message_type": "tool_call_message", "tool_call": {"name": "f"}}), CONTENT),
    (letta, event({"message_type": "ping"}), NOTHING),
    (letta, event({"message_type": "stop_reason", "stop_reason": "end_turn"}), NOTHING),
    (letta, event({"message_type": "stop_reason", "stop_reason": "llm_api_error"}),
     Said(error="the stream ended with stop_reason llm_api_error")),
    (letta, event({"message_type": "stop_reason"}), Said(error="the stream ended with stop_reason null")),
    (letta, event({"message_type": "usage_statistics", "completion_tokens": 42}), Said(tokens=42)),
    (letta, event({"message_type": "usage_statistics", "completion_tokens": -1}), NOTHING),
    (letta, event({"message_type": "error_message", "message": "x"}, "error"), Said(error="error event: x")),
    (letta, event({"error": {"type": "x"}}), Said(error='error event: {"type":"x"}')),
    (letta, event(b"[DONE]"), NOTHING),
    (letta, event(b"{broken"), NOTHING),
    (openai_chat, event(delta(role="assistant", content="")), NOTHING),
    (openai_chat, event(delta(content="hello")), CONTENT),
    (openai_chat, event(delta(reasoning_content="hm")), CONTENT),
    (openai_chat, event(delta(tool_calls=[{"index": 0}])), CONTENT),
    (openai_chat, event({"choices": [], "usage": {"completion_tokens": 7}}), Said(tokens=7)),
    (openai_chat, event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), NOTHING),
    (openai_chat, event({"choices": [{"delta": {}, "finish_reason": "content_filter"}]}),
     Said(error="the stream ended with finish_reason content_filter")),
    (openai_chat, event({"error": {"message": "busy"}}), Said(error='error event: {"message":"busy"}')),
    (openai_chat, event(b"[DONE]"), NOTHING),
    (openai_responses, event({"response": {}}, "response.created"), NOTHING),
    (openai_responses, event({"delta": "he"}, "response.output_text.delta"), CONTENT),
    (openai_responses, event({"type": "response.output_text.delta", "delta": "he"}), CONTENT),
    (openai_responses, event({"response": {"usage": {"output_tokens": 5}}}, "response.done"), Said(tokens=5)),
    (openai_responses, event({"response": {"error": {"code": "x"}}}, "response.failed"),
     Said(error='response.failed: {"code":"x"}')),
    (openai_responses, event({"response": {"incomplete_details": {"reason": "max"}}}, "response.incomplete"),
     Said(error='response.incomplete: {"reason":"max"}')),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "given", "wanted"), CASES)
def test_what_an_event_says(reader: Reader, given: Event, wanted: Said) -> None:
    """Content is what a user sees of the answer; pings, roles, usage and ends are none; errors are told."""
    assert reader(given) == wanted


@pytest.mark.parametrize("reader", [plain, letta, openai_chat, openai_responses])
@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"1", b'"x"', b"{}", b"[" * 50_000, b'{"choices": 3}',
             b'{"choices": [null]}', b'{"choices": [{"delta": 1}]}',
             b'{"usage": 1, "response": 2}', b'{"message_type": {}}', b"\xff"]
)  # fmt: skip
def test_nothing_a_server_sends_raises(reader: Reader, data: bytes) -> None:
    """Whatever JSON it is: an event without content."""
    assert read([Event(1, "", data)], 0, reader).error is None


def test_a_stream_is_read_to_its_end() -> None:
    """The first content, the µs from sent to each, the tokens told last, the first error."""
    events = [
        event({"message_type": "ping"}, at=80_000_000),
        event({"message_type": "assistant_message", "content": "a"}, at=480_000_000),
        event({"message_type": "assistant_message", "content": "b"}, at=490_000_000),
        event({"message_type": "stop_reason", "stop_reason": "llm_api_error"}, at=500_000_000),
        event({"message_type": "usage_statistics", "completion_tokens": 9}, at=500_000_000),
    ]
    found = read(events, 1_000_000, letta)
    assert (found.first_token, found.chunks, found.tokens) == (480_000_000, [479_000, 489_000], 9)
    assert found.error == "the stream ended with stop_reason llm_api_error"
    assert read(events, None, letta).chunks == []
    words = [event({"message": text}, "error") for text in ("too slow", "and more")]
    assert read([*events, *words], None, letta).error == "error event: too slow"

    def broken(one: Event) -> Said:
        raise KeyError("odd")

    assert read(events, 0, broken).error == "the stream reader raised KeyError: 'odd'"


@pytest.mark.parametrize(
    ("reader", "body", "content", "error"),
    [
        (letta, 'data: {"message_type":"assistant_message","content":"hi","error":null}', 1, None),
        (letta, 'data: {"message_type":"assistant_message","content":[{"type":"text","text":""}]}', 0, None),
        (letta, 'data: {"message_type":"assistant_message","content":[{"type":"text","text":"a"}]}', 1, None),
        (openai_responses, 'event: message\ndata: {"type":"response.failed","response":{}}', 0, "failed"),
        (openai_responses, 'event: message\ndata: {"type":"response.x.delta","delta":"a"}', 1, None),
        (openai_responses,
         'data: {"type":"response.completed","response":{"status":"failed","error":{"code":"x"}}}', 0, "x"),
    ],
)  # fmt: skip
def test_what_servers_really_say(reader: Reader, body: str, content: int, error: str | None) -> None:
    """An error that is null is none, an empty text no content; the type counts before the event's name."""
    events = Events()
    events.feed(f"{body}\n\n".encode(), 2000)
    found = read(events.seen, 0, reader)
    assert len(found.chunks) == content
    assert (error is None) == (found.error is None)
    assert (error or "") in (found.error or "")


@pytest.mark.parametrize(
    "body", ["event: error\ndata: {}\n", 'data: {"error": {"message": "x"}}', "data: a\n"]
)
def test_an_error_without_its_empty_line_is_one_all_the_same(body: str) -> None:
    """The last event of a body that ends too early is none, unless it tells of an error."""
    events = Events()
    events.feed(b"data: {}\n\n" + body.encode(), 1000)
    events.end(2000)
    assert len(events.seen) == (1 if body == "data: a\n" else 2)
    assert (read(events.seen, 0, letta).error is None) == (body == "data: a\n")
