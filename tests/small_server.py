"""A real HTTP server for tests of whole runs: answers by path, counts what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: A budget no busy machine exceeds, for tests whose subject is not the generator's health.
WIDE_BUDGET = "budget: {delay_ms: 10000, cpu_share: 100, gc_pause_ms: 60000}\n"


class LocalServer(ThreadingHTTPServer):
    """A server on a port of its own, a thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class SmallServer(LocalServer):
    """`/status/N`, `/slow/MS`, `/reflect` (a 500 that repeats the request's headers), `/echo` (that repeats
    the body), `/metrics` (the page), `/redirect/N` (to what x-to says), `/login` (a token), else 200.
    """

    def __init__(self) -> None:
        super().__init__(Handler)
        self.requests: Counter[str] = Counter()
        self.heads: list[dict[str, str]] = []  #: of every request, names in lower case
        self.page = self.redirects_to = ""
        self.timing = ""  #: a Server-Timing header for every answer


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: SmallServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_one_request(self) -> None:
        """As the base class, but a client that goes away is no error of ours."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def answer(self) -> None:
        """Answer any method."""
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        self.server.requests[f"{self.command} {self.path}"] += 1
        kind, _, number = self.path.partition("?")[0].strip("/").partition("/")
        status, body, payload = 200, {"id": "thing-1", "path": self.path}, None
        if kind == "status":
            status = int(number)
        elif kind == "slow":
            time.sleep(int(number) / 1000)
        elif kind == "reflect":
            status, body = 500, {"headers": dict(self.headers.items())}
        elif kind == "echo":
            status, payload = 500, sent
        elif kind.startswith("metrics"):
            payload = self.server.page.encode()
        elif kind == "redirect":
            status = int(number or 302)
        elif kind == "login":
            body["token"] = "a-token"
        payload = json.dumps(body).encode() if payload is None else payload
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        if self.server.timing:
            self.send_header("server-timing", self.server.timing)
        if kind == "redirect":
            self.send_header("location", self.headers.get("x-to", self.server.redirects_to))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def small_server() -> Iterator[SmallServer]:
    """A running SmallServer."""
    with SmallServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
