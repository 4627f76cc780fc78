"""Conversations with a language model's server: time to first token, time per output token, goodput.

For every server with OpenAI's API: POST `/v1/chat/completions` or `/v1/responses`. A step is a conversation,
each of its turns a request that brings the server's answers so far along. Tokens are those of the server's
`usage`, never the chunks of a stream.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from perfkit.drive.session import Response, Session
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import Count, NotNegative
from perfkit.store import read_regular
from perfkit.streams import openai_chat, openai_responses

_LARGEST = 64 * 1024 * 1024
Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Params:
    api: Literal["chat", "responses"] = "chat"
    prefix: str = "/v1"  #: of every path
    model: str | None = None  #: default: the first one that the server lists
    stream: bool = True
    #: JSONL, a conversation a line: `{"prompt": …}`, `{"turns": [ … ]}` or `{"messages": [ … ]}`.
    file: str | None = None
    max_tokens: Count = 128  #: of an answer
    temperature: NotNegative = 0.0
    #: More fields of the body; null takes one out.
    extra: dict[str, Any] = field(default_factory=dict)
    conversations: Count = 100
    workers: Count = 4  #: conversations at once

    def __post_init__(self) -> None:
        if not self.prefix.startswith("/") or self.prefix.endswith("/"):
            raise ValueError(f"prefix starts with / and does not end with it, not {self.prefix!r:.80}")
        if self.file is not None:
            read_conversations(self.file)


@dataclass(frozen=True)
class State:
    params: Params
    model: str
    conversations: list[list[Message]]


def load(params: Params) -> dict[str, Any]:
    return {"users": {"count": params.workers, "iterations": params.conversations}}


async def setup(session: Session, params: Params) -> State:
    model = params.model
    if model is None:
        listed = (await session.get(f"{params.prefix}/models", name="list_models")).raise_for_status()
        try:
            model = str(listed.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise PerfkitError("the server lists no model; name one: -p model=NAME") from None
    return State(params, model, [] if params.file is None else read_conversations(params.file))


async def step(session: Session, state: State, rng: random.Random) -> None:
    if state.conversations:
        messages = state.conversations[session.iteration % len(state.conversations)]
    else:  # the number comes first, so that no server has this prompt in its cache
        messages = [_message("user", f"Number {rng.randrange(10**9)}: tell me a story about a load test.")]
    history: list[Message] = []
    for message in messages:
        history.append(message)
        if message["role"] != "user":
            continue
        response = await _ask(session, state, history)
        if response.error is not None:
            return
        if message is not messages[-1]:
            history.append(_message("assistant", answer_of(response, state.params)))


async def _ask(session: Session, state: State, history: list[Message]) -> Response:
    """One turn, with all that was said before."""
    params = state.params
    chat = params.api == "chat"
    body = {
        "model": state.model,
        "messages" if chat else "input": history,
        "max_tokens" if chat else "max_output_tokens": params.max_tokens,
        "temperature": params.temperature,
        "stream": params.stream,
        "stream_options": {"include_usage": True} if chat and params.stream else None,
        **params.extra,
    }
    return await session.post(
        f"{params.prefix}/{'chat/completions' if chat else 'responses'}",
        json={name: value for name, value in body.items() if value is not None},
        name="chat" if chat else "response",
        stream=openai_chat if chat else openai_responses,
        check=(_chat_is_whole if chat else _response_is_whole) if params.stream else None,
    )


def _chat_is_whole(response: Response) -> bool | str:
    return "[DONE]" in response.text or "the stream ended without [DONE]"


def _response_is_whole(response: Response) -> bool | str:
    ends = ("response.completed", "response.incomplete")
    return any(end in response.text for end in ends) or "the stream ended without response.completed"


def answer_of(response: Response, params: Params) -> str:
    """The text of an answer, streamed or not; empty where it has none."""
    events = response.events() if params.stream else [response.text]
    return "".join(text for event in events for text in _texts(_decoded(event)))


def _texts(value: dict[str, Any]) -> Iterator[str]:
    """The pieces of text in an event or a whole answer of either API."""
    if value.get("type") == "response.output_text.delta":
        yield str(value.get("delta") or "")
    for choice in _dicts(value.get("choices"))[:1]:
        for name in ("delta", "message"):
            yield from (str(one.get("content") or "") for one in _dicts([choice.get(name)]))
    for item in _dicts(value.get("output")):
        yield from (str(one.get("text") or "") for one in _dicts(item.get("content")))


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:  # [DONE]
        return {}
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


# -- the file --------------------------------------------------------------------------------------


def read_conversations(path: str) -> list[list[Message]]:
    """The conversations of a JSONL file, without the answers in it; BadInput with the line that is none."""
    try:
        lines = read_regular(Path(path), _LARGEST).splitlines()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    found = [_conversation(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadInput(f"{path} has no conversation in it")
    return found


def _conversation(line: bytes, where: str) -> list[Message]:
    try:
        given = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    given = given if isinstance(given, dict) else {}
    turns = given.get("turns", [given["prompt"]] if "prompt" in given else [])
    messages = given.get("messages", turns)
    messages = [_message("user", one) if isinstance(one, str) else one for one in _list(messages)]
    if not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages):
        raise BadInput(f"{where}: a message needs a role and content")
    kept: list[Message] = [one for one in messages if one["role"] != "assistant"]
    if not any(one["role"] == "user" for one in kept):
        raise BadInput(f'{where}: expected {{"prompt": …}}, {{"turns": [ … ]}} or {{"messages": [ … ]}}')
    return kept


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
