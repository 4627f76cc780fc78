"""A small server with OpenAI's API over real sockets: the last user's first word says how it answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.small_server import LocalServer

WORDS = ("Once", " upon", " a", " time")
TOKENS = 9  #: more than it has chunks


class LlmServer(LocalServer):
    """`plain`: WORDS and usage; `nousage`; `error` and `cut`: midway; `endless`: it just stops."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(Handler)
        self.pause_s = pause_s  #: before each word
        self.bodies: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: LlmServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """The models."""
        self._json({"object": "list", "data": [{"id": "small-1"}, {"id": "large-1"}]})

    def do_POST(self) -> None:
        """An answer, whole or streamed."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        chat = self.path.endswith("/chat/completions")
        kind = (body["messages"] if chat else body["input"])[-1]["content"].split()[0]
        if not body["stream"]:
            self._json(_whole(chat, kind))
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        events = _chat_events(body, kind) if chat else _response_events(kind)
        for number, event in enumerate(events):
            time.sleep(self.server.pause_s if number else 0)
            if number == 3 and kind == "cut":
                self.close_connection = True
                return
            if number == 3 and kind == "error":
                event = {"type": "error", "error": {"message": "out of memory"}}
            data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if number == 3 and kind == "error":
                break
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, value: Any) -> None:
        payload = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _whole(chat: bool, kind: str) -> dict[str, Any]:
    text, usage = "".join(WORDS), {"completion_tokens": TOKENS, "output_tokens": TOKENS}
    if chat:
        message = {"role": "assistant", "content": text}
        answer: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}]}
    else:
        content = [{"type": "output_text", "text": text}]
        answer = {"object": "response", "status": "completed", "output": [{"content": content}]}
    return answer if kind == "nousage" else answer | {"usage": usage}


def _chat_events(body: dict[str, Any], kind: str) -> Iterator[dict[str, Any] | str]:
    yield {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    for word in WORDS:
        yield {"choices": [{"delta": {"content": word}, "finish_reason": None}]}
    yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    if kind != "nousage" and body.get("stream_options", {}).get("include_usage"):
        yield {"choices": [], "usage": {"completion_tokens": TOKENS}}
    if kind != "endless":
        yield "[DONE]"


def _response_events(kind: str) -> Iterator[dict[str, Any] | str]:
    yield {"type": "response.created", "response": {"status": "in_progress"}}
    for word in WORDS:
        yield {"type": "response.output_text.delta", "delta": word}
    usage = {} if kind == "nousage" else {"usage": {"output_tokens": TOKENS}}
    if kind != "endless":
        yield {"type": "response.completed", "response": {"status": "completed", **usage}}


@contextmanager
def llm_server(pause_s: float = 0.002) -> Iterator[LlmServer]:
    """A running LlmServer."""
    with LlmServer(pause_s) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
