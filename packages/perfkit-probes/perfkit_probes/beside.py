"""The samples' page from a thread: it is answered also while the event loop stands still."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from perfkit_probes.ring import Ring

_CLIENT_S = 5.0  # for a client to say what it wants
_WAKE_S = 1.0


class SampleServer:
    """Answers `/probe/samples` on a free port of `host`, as `Ring.told` has it, to whoever has its key.

    The ring's pages say where it is (`also`: port and key), so that whoever may read them can go on there
    when the service itself does not answer any more. OSError when it cannot listen.
    """

    def __init__(self, ring: Ring, host: str = "127.0.0.1") -> None:
        self._ring, self._host, self._key = ring, host, secrets.token_urlsafe(24)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; when it does already, nothing more happens."""
        if self._server is not None:
            return
        self._server = _Server(self._ring, self._key, self._host)
        self._ring.also = {"port": self._server.server_address[1], "key": self._key}
        self._thread = threading.Thread(target=self._server.serve, name="perfkit-samples", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer; no thread stays."""
        server, self._server, self._ring.also = self._server, None, None
        if server is not None and self._thread is not None:
            server.end()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, ring: Ring, key: str, host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.ring, self.key, self._ended = ring, key, False
        super().__init__((host, 0), _Handler)

    def serve(self) -> None:
        """Answer until `end` is called. `serve_forever` would wake the process up again and again."""
        while not self._ended:
            self.handle_request()
        self.server_close()

    def end(self) -> None:
        """Make `serve` return: a connection wakes it up."""
        self._ended = True
        with contextlib.suppress(OSError), socket.create_connection(self.socket.getsockname()[:2], _WAKE_S):
            pass


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        """See http.server."""
        parts = urlsplit(self.path)
        given = self.headers.get("authorization", "").encode()
        if parts.path != "/probe/samples":
            self._answer(404, b"{}")
        elif not hmac.compare_digest(given, f"Bearer {self.server.key}".encode()):
            self._answer(401, b"{}")
        else:
            self._answer(200, self._page(parse_qs(parts.query)))

    def _page(self, query: dict[str, list[str]]) -> bytes:
        after, limit = (query.get(name, ["0"])[0] for name in ("after", "limit"))
        with contextlib.suppress(ValueError):
            return json.dumps(self.server.ring.told(int(after), int(limit) or 20_000)).encode()
        return b"{}"

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: whoever looks is nothing to be seen."""
