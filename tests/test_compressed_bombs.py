"""Servers whose answers are small on the wire and huge when unpacked or parsed, met by real processes."""

from __future__ import annotations

import functools
import gzip
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.bombs import LIMITED, MB, cost_of


@functools.cache
def series(*, packed: bool = False) -> bytes:
    """A metrics page of a million series."""
    page = b"".join(b'requests_total{path="/users/%d"} 1\n' % number for number in range(1_000_000))
    return gzip.compress(page, 1) if packed else page


@functools.cache
def bomb(begin: bytes, block: bytes) -> bytes:
    """300 MB of a block, packed."""
    packer = zlib.compressobj(wbits=31)
    whole = block * (MB // len(block))
    return packer.compress(begin) + b"".join(packer.compress(whole) for _ in range(300)) + packer.flush()


#: path -> content type, coding, body
PAGES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "/series": ("text/plain", "", series),
    "/open": ("application/openmetrics-text; version=1.0.0", "", series),
    "/packed": ("text/plain", "gzip", lambda: series(packed=True)),
    "/comments": ("text/plain", "gzip", lambda: bomb(b"", b"# nothing\n")),
    "/line": ("text/plain", "gzip", lambda: bomb(b"a{", b'b="c",')),
    "/brotli": ("text/plain", "br", lambda: b"\x1b\xff\xff\xff"),
    "/json/probe/samples": ("application/json", "gzip", lambda: bomb(b'{"samples":[', b"[],")),
    "/body": ("application/json", "gzip", lambda: bomb(b"[", b"[],")),
}
COLLECT = """
import json, sys, time
from pathlib import Path
from perfkit.drive import collect
from perfkit.model import Target
from perfkit.store import RunFolder

collect._TIMEOUT_S = collect._WHOLE_S = collect._STOP_S = 60.0  # however busy the machine is
folder = RunFolder.create(Path(sys.argv[1]), "test")
collector = collect.Collector(folder.path, Target(**{sys.argv[2]: sys.argv[3]}), time.monotonic_ns())
collector.start()
(told,) = collector.stop()
print(json.dumps([told["errors"], told["error"], peak_mb()]))
"""


class Handler(BaseHTTPRequestHandler):
    """Serves PAGES."""

    def do_GET(self) -> None:
        kind, coding, made = PAGES[self.path.partition("?")[0]]
        body = made()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if coding:
            self.send_header("content-encoding", coding)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@contextmanager
def serving() -> Iterator[str]:
    """The server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        ("metrics_url", "/series", "more than 20,000 series, the most that are read from one page: give a"),
        ("metrics_url", "/open", "more than 20,000 series"),
        ("metrics_url", "/packed", "more than 20,000 series"),
        ("metrics_url", "/comments", "more than 16 MB"),
        ("metrics_url", "/line", "a series with more than 64 kB of labels"),
        ("metrics_url", "/brotli", "content-encoding 'br', though none was asked for"),
        ("probes_url", "/json", "more than 16 MB"),
    ],
)  # fmt: skip
def test_a_page_is_read_up_to_its_limit(tmp_path: Path, source: str, path: str, words: str) -> None:
    """10^6 series, or a page that unpacks to 300 MB: reading ends at the limit, which has its right name."""
    with serving() as url:
        arguments = [sys.executable, "-c", LIMITED + COLLECT, str(tmp_path), source, url + path]
        child = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=True)
    errors, error, peak_mb = json.loads(child.stdout)
    assert errors >= 1
    assert words in error
    assert peak_mb < 300


SCENARIO = """
async def step(session, state, rng):
    (await session.get("/body")).json()
"""


@pytest.mark.parametrize("transport", ["wire", "httpx"])
def test_a_body_is_unpacked_up_to_max_body_mb(tmp_path: Path, transport: str) -> None:
    """A scenario that reads a bomb gets an error that says so; no process of the run takes its 300 MB."""
    scenario = tmp_path / "bomb.py"
    scenario.write_text(SCENARIO)
    with serving() as url:
        cost = cost_of(
            *(tmp_path, "run", "-q", "--json", "--scenario", scenario, "--target", url),
            *("-s", "users.count=1", "-s", "users.iterations=2", "-s", f"target.transport={transport}"),
            *("-s", "target.max_body_mb=8"),
        )
    assert "Traceback" not in cost.words
    assert "GET /body: body unpacks to more than 8388608 bytes (target.max_body_mb)" in cost.words
    assert cost.peak_mb < 400
    assert cost.peak_of_children_mb < 400
