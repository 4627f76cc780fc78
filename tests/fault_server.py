"""A server that misbehaves on request: the first part of the path says how. See `BEHAVIOURS` at the end.

It runs on its own event loop in a thread, over TCP or TLS (HTTP/1.1, and HTTP/2 where ALPN asks for it), and
can be stopped and started again on the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import trustme

RST_ON_CLOSE = struct.pack("ii", 1, 0)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Authority:
    """A certificate authority nobody trusts unless told to."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def client(self, folder: Path) -> tuple[str, str]:
        """A client's certificate and its key, as two files."""
        issued, files = self._ca.issue_cert("client.example"), (folder / "client.pem", folder / "key.pem")
        issued.cert_chain_pems[0].write_to_path(str(files[0]))
        issued.private_key_pem.write_to_path(str(files[1]))
        return str(files[0]), str(files[1])

    def context(self, name: str = "127.0.0.1", *, http2: bool = False) -> ssl.SSLContext:
        """What a server of this name needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        self._ca.issue_cert(name).configure_cert(context)
        return context


class FaultServer:
    """Counts in `hits` what it was asked, in `accepted` and `live` its connections."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port = 0
        self.hits: Counter[str] = Counter()
        self.accepted = self.live = 0

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; on the same port as before when there was one."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)))
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """Cut every connection and stop listening."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda loop, context: None)  # a cut connection is no news
        self._tasks: set[asyncio.Task[None]] = set()
        listening = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = listening.getsockname()[1]
        server = await asyncio.start_server(self._on_connection, sock=listening, ssl=self._tls)
        ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.live += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        over_tls = writer.get_extra_info("ssl_object")
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if over_tls is not None and over_tls.selected_alpn_protocol() == "h2":
                    await serve_http2(self, reader, writer)
                else:
                    await self._serve_http1(reader, writer)
        finally:
            self.live -= 1
            writer.transport.abort()

    async def _serve_http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = Asked(self, reader, writer, self.accepted)
        while await asked.read():
            behaviour = BEHAVIOURS[asked.parts[0].partition("?")[0]]
            if behaviour not in _READ_THEIR_BODY:
                await asked.read_body()
            if await behaviour(asked):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return


class Asked:
    """A request and the connection it came on."""

    def __init__(
        self, server: FaultServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.server, self.reader, self.writer, self.number = server, reader, writer, number
        self.served = 0

    async def read(self) -> bool:
        """Take the next request's head; False at the end."""
        first = await self.reader.readexactly(1)
        if first == b"\x16":  # a TLS handshake
            await self.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            raise ConnectionAbortedError
        head = (first + await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
        request, *lines = head.split("\r\n")
        self.method, self.path, _ = request.split(" ")
        self.headers = [tuple(line.split(": ", 1)) for line in lines]
        self.parts = [*self.path.strip("/").split("/"), "", ""]
        self.length = int({name.lower(): value for name, value in self.headers}.get("content-length", 0))
        self.body = b""
        self.served += 1
        self.server.hits[self.parts[0]] += 1
        return True

    async def read_body(self) -> None:
        """Take its body."""
        self.body = await self.reader.readexactly(self.length)

    @property
    def number_in_path(self) -> int:
        """The second part of the path."""
        return int(self.parts[1].partition("?")[0])

    async def send(self, *pieces: bytes, pause_s: float = 0.01) -> None:
        """Write the pieces one by one, so that they travel in packets of their own."""
        for i, piece in enumerate(pieces):
            if i:
                await asyncio.sleep(pause_s)
            if self.writer.is_closing():
                raise ConnectionResetError
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)  # what drain does not: let a lost connection be noticed

    async def answer(self, body: bytes = b"ok", status: int = 200, *headers: str) -> None:
        """An answer as it should be."""
        lines = [f"HTTP/1.1 {status} Status", *headers, f"content-length: {len(body)}", "", ""]
        await self.send("\r\n".join(lines).encode() + (b"" if self.method == "HEAD" else body))


Behaviour = Callable[[Asked], Awaitable[bool | None]]


def pieces(*texts: bytes, close: bool = False, pause_s: float = 0.01) -> Behaviour:
    """Sends exactly this, in as many packets."""

    async def behave(asked: Asked) -> bool:
        await asked.send(*texts, pause_s=pause_s)
        return close

    return behave


def then_hang(*texts: bytes) -> Behaviour:
    """Sends this and nothing more."""

    async def behave(asked: Asked) -> bool:
        await asked.send(*texts)
        await asked.reader.read()  # until the client hangs up
        return True

    return behave


def then_reset(*texts: bytes) -> Behaviour:
    """Sends this, then RST."""

    async def behave(asked: Asked) -> None:
        await asked.send(*texts)
        await asyncio.sleep(0.01)
        asked.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        asked.writer.transport.abort()
        raise ConnectionAbortedError

    return behave


def answers(body: bytes, *headers: str, status: int = 200, close: bool = False) -> Behaviour:
    """A proper answer."""

    async def behave(asked: Asked) -> bool:
        await asked.answer(body, status, *headers)
        return close

    return behave


async def echo(asked: Asked) -> None:
    """What was asked, as JSON."""
    seen = {"method": asked.method, "path": asked.path, "headers": asked.headers, "length": asked.length}
    seen["body"] = asked.body[:1000].decode("latin-1")
    await asked.answer(json.dumps(seen).encode(), 200, "content-type: application/json")


async def status(asked: Asked) -> None:
    """/status/N"""
    await asked.answer(b"so it is", asked.number_in_path)


async def slow(asked: Asked) -> None:
    """/slow/MS"""
    await asyncio.sleep(asked.number_in_path / 1000)
    await asked.answer()


async def count(asked: Asked) -> None:
    """Which connection this is, and which of its requests."""
    await asked.answer(json.dumps([asked.number, asked.served]).encode())


async def reflect(asked: Asked) -> None:
    """A 500 that repeats the request's headers."""
    await asked.answer(json.dumps(dict(asked.headers)).encode(), 500)


async def big_header(asked: Asked) -> None:
    """/big-header/KB"""
    await asked.answer(b"ok", 200, "x-big: " + "b" * 1024 * asked.number_in_path)


async def big_body(asked: Asked) -> None:
    """/big-body/KB"""
    await asked.answer(b"b" * 1024 * asked.number_in_path)


async def endless_header(asked: Asked) -> None:
    """Header lines for ever."""
    await asked.send(b"HTTP/1.1 200 OK\r\n")
    for i in range(10**6):
        await asked.send(b"x-%d: %s\r\n" % (i, b"y" * 1000))


async def endless_trailer(asked: Asked) -> None:
    """A short body and trailers for ever."""
    await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
    for i in range(10**6):
        await asked.send(b"x-%d: %s\r\n" % (i, b"y" * 1000))


async def redirect(asked: Asked) -> None:
    """/redirect/STATUS/WHERE"""
    port = asked.server.port
    where = {
        "echo": "location: /echo?after=redirect",
        "url": f"location: {asked.server.url}/echo",
        "relative": "location: ../../echo",
        "other": f"location: http://localhost:{port}/echo?token=not-for-others",
        "userinfo": f"location: http://someone@127.0.0.1:{port + 1}/echo",
        "broken": "location: /status/503",
        "nowhere": "x-location: none",
        "loop": f"location: {asked.path}",
        "bad": "location: http://[::1/",
        "host-only": f"location: {asked.server.url}",
        "query-only": "location: ?x=1",
        "raw": "location: /echo/grün?q=日本",
        "base": "location: /redirect",
    }
    await asked.answer(b"", asked.number_in_path, where[asked.parts[2].partition("?")[0]])


async def close_idle(asked: Asked) -> bool:
    """/close-idle/MS: answers, then closes after a while without having said so."""
    await asked.answer()
    await asyncio.sleep(asked.number_in_path / 1000)
    return True


async def speak_idle(asked: Asked) -> None:
    """/speak-idle/MS: answers, then says something nobody asked for."""
    await asked.answer()
    await asyncio.sleep(asked.number_in_path / 1000)
    await asked.send(b"HTTP/1.1 408 Too late\r\ncontent-length: 0\r\n\r\n")


async def loris(asked: Asked) -> None:
    """An answer byte by byte."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: b\r\n\r\nhello"
    await asked.send(*(bytes([byte]) for byte in answer), pause_s=0.001)


async def slow_read(asked: Asked) -> None:
    """/slow-read/MS: takes the body after a pause, and says how long it was."""
    await asyncio.sleep(asked.number_in_path / 1000)
    await asked.read_body()
    await asked.answer(str(len(asked.body)).encode())


async def early(asked: Asked) -> None:
    """/early/MS: refuses before it has read the body, which it takes after a while; keeps the connection."""
    await asked.answer(b"too big", 413)
    await asyncio.sleep(asked.number_in_path / 1000)
    await asked.read_body()


async def early_close(asked: Asked) -> bool:
    """Refuses before it has read the body, and closes: the client's writing breaks off."""
    await asked.answer(b"too big", 413)
    return True


async def set_cookie(asked: Asked) -> None:
    """/set-cookie/QUOTED: sets that cookie, as often as it is there."""
    await asked.answer(b"sit", 200, *(f"set-cookie: {unquote(one)}" for one in asked.parts[1:] if one))


async def login(asked: Asked) -> None:
    """Sets a cookie and repeats it in a redirect's body."""
    await asked.answer(b"", 302, "set-cookie: sid=open-sesame-42; Path=/", "location: /reflect")


async def flaky(asked: Asked) -> None:
    """/flaky/N/STATUS/SECONDS: the first N requests of this path get that status and Retry-After."""
    asked.server.hits[asked.path] += 1
    if asked.server.hits[asked.path] > asked.number_in_path:
        await asked.answer()
    else:
        await asked.answer(b"later", int(asked.parts[2]), f"retry-after: {asked.parts[3]}")


_READ_THEIR_BODY = (slow_read, early, early_close)

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    """One chunk of a chunked body."""
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


BEHAVIOURS: dict[str, Behaviour] = {
    "": answers(b"root"),
    "ok": answers(b"ok"),
    "echo": echo,
    "status": status,
    "slow": slow,
    "count": count,
    "reflect": reflect,
    "set-cookie": set_cookie,
    "login": login,
    "flaky": flaky,
    # silence
    "hang": then_hang(),
    "hang-in-head": then_hang(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "hang-after-head": then_hang(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"),
    "hang-mid-body": then_hang(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
    "hang-after-100": then_hang(b"HTTP/1.1 100 Continue\r\n\r\n"),
    # endings that come too soon
    "drop": pieces(close=True),
    "drop-in-head": pieces(b"HTTP/1.1 200 OK\r\ncontent-le", close=True),
    "drop-mid-body": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b"half", close=True),
    "drop-mid-chunk": pieces(CHUNKED + b"\r\n" + chunk(b"half") + b"9\r\nha", close=True),
    "reset": then_reset(),
    "reset-mid-body": then_reset(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
    # not HTTP
    "garbage": pieces(b"\x00\xff\xfe SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True),
    "bad-chunk": pieces(CHUNKED + b"\r\nzz\r\nwhat\r\n0\r\n\r\n"),
    "bad-length": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nok"),
    "switch": pieces(b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n\x00\x00"),
    "switch-unasked": then_hang(b"HTTP/1.1 101 Switching\r\n\r\n"),
    # sizes
    "big-header": big_header,
    "big-body": big_body,
    "big-chunked": pieces(CHUNKED + b"\r\n" + chunk(b"b" * 700_000) * 2 + chunk(b"")),
    "endless-header": endless_header,
    "endless-trailer": endless_trailer,
    "slow-read": slow_read,
    "early": early,
    # bodies and their ends
    "chunked": pieces(CHUNKED + b"\r\n", chunk(b"one,"), chunk(b"two,") + chunk(b"three"), chunk(b"")),
    "chunk-extensions": pieces(CHUNKED + b"\r\n4;name=value\r\nbody\r\n0;last\r\n\r\n"),
    "trailers": pieces(
        CHUNKED + b"trailer: server-timing\r\n\r\n" + chunk(b"body") + b"0\r\nserver-timing: db;dur=9\r\n\r\n"
    ),
    "eof-body": pieces(b"HTTP/1.1 200 OK\r\n\r\n", b"to the", b" end", close=True),
    "http10": pieces(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", close=True),
    "http10-eof": pieces(b"HTTP/1.0 200 OK\r\n\r\nok", close=True),
    "empty": answers(b""),
    "no-content": pieces(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "not-modified": pieces(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n"),
    "in-packets": pieces(b"HTTP/1.1 200", b" OK\r\ncontent-length: 4\r\n", b"\r\n", b"bo", b"dy"),
    "loris": loris,
    "gzip": answers(gzip.compress(b'{"zipped": true}'), "content-encoding: gzip"),
    "bad-gzip": answers(b"no gzip", "content-encoding: gzip"),
    "gzip-500": answers(gzip.compress(b"deep words"), "content-encoding: gzip", status=500),
    "binary-500": answers(bytes(range(256)) * 20, status=500),
    "json-nonsense": answers(b"{nonsense"),
    "continue": pieces(b"HTTP/1.1 100 Continue\r\n\r\n", OK),
    "hints": pieces(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n", OK),
    "hints-at-once": pieces(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n" + OK),
    "upgrade-offer": answers(b"ok", "upgrade: h2,h2c", "connection: upgrade"),
    # the connection
    "close": answers(b"ok", "connection: close", close=True),
    "close-shouted": answers(b"ok", "CONNECTION: Keep-Alive , CLOSE"),  # and waits for the client to do it
    "close-unsaid": answers(b"ok", close=True),
    "close-idle": close_idle,
    "early-close": early_close,
    # odd, but read alike by everybody
    "lf": pieces(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    "lf-in-packets": pieces(b"HTTP/1.1 200 OK\ncontent-le", b"ngth: 2\nx: y\n\nok"),
    "folded": pieces(b"HTTP/1.1 200 OK\r\nx-long: one\r\n\ttwo\r\ncontent-length: 2\r\n\r\nok"),
    "same-length-twice": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\nok"),
    "same-length-listed": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
    "chunk-blank": pieces(CHUNKED + b"\r\n2 \r\nok\r\n0\r\n\r\n"),
    # dangerous: two readers may find two ends
    "other-length-twice": pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    "rtsp": pieces(b"RTSP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    "speak-idle": speak_idle,
    "extra": pieces(OK + b"and more nobody asked for"),
    "twice": pieces(OK + OK.replace(b"ok", b"no")),
    "redirect": redirect,
    # headers
    "cookies": answers(b"ok", "set-cookie: a=1", "Set-Cookie: b=2"),
    "odd-case": answers(b"ok", "X-OdD-CaSe: Yes", "SERVER-TIMING: app;dur=1"),
    "latin1": answers(b"ok", "x-name: J\xf6rg"),
    "timing": answers(
        b"ok",
        'server-timing: app;dur=1.5, db;desc="a, b;dur=7";dur=2',
        'Server-Timing: db-wait;dur="0.25", cache;desc=hit, , ;dur=1, x;dur=abc, loop_lag;DUR=3',
    ),
    # events
    "sse": pieces(
        SSE + chunk(b": hello\n\n"),
        chunk(b"data: one\n\n"),
        chunk(b"event: x\ndata: two\ndata: lines\n\n: ping\n\ndata: th"),
        chunk(b"ree\n\n"),
        chunk(b"database: none\n\nid: 7\n\n"),
        chunk(b"data:[DONE]\n\n") + chunk(b"data: unfinished"),
        chunk(b""),
        pause_s=0.03,
    ),
    "sse-crlf": pieces(
        SSE + chunk(b"data: one\r\n\r"),
        chunk(b"\ndata: two\r\n\r\n"),
        chunk(b":ping\r\n\r\ndata:  three\r"),
        chunk(b"\n\r\n"),
        chunk(b""),
        pause_s=0.03,
    ),
    "sse-drop": pieces(SSE + chunk(b"data: one\n\n"), chunk(b"data: two\n\n"), close=True),
    "sse-hang": then_hang(SSE + chunk(b"data: one\n\n")),
}


async def serve_http2(
    server: FaultServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """HTTP/2, as far as these tests need it: echo, status/N, hang, drop, reset, goaway, sse."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    writer.write(state.data_to_send())
    while data := await reader.read(65536):
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers, stream = list(event.headers), event.stream_id
                kind, _, number = dict(headers)[":path"].strip("/").partition("/")
                server.hits[kind] += 1
                if kind == "drop":
                    return
                if kind == "reset":
                    state.reset_stream(stream, error_code=2)
                elif kind == "goaway":
                    state.close_connection(last_stream_id=0)
                elif kind == "sse":
                    state.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
                    for one in (b"data: one\n\n", b": ping\n\ndata: two\n\n"):
                        state.send_data(stream, one)
                        writer.write(state.data_to_send())
                        await asyncio.sleep(0.02)
                    state.end_stream(stream)
                elif kind != "hang":
                    body = json.dumps({"headers": headers}).encode()
                    code = number if kind == "status" else "200"
                    state.send_headers(stream, [(":status", code), ("content-length", str(len(body)))])
                    state.send_data(stream, body, end_stream=True)
        writer.write(state.data_to_send())


@contextlib.contextmanager
def fault_server(tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """A running FaultServer."""
    server = FaultServer(tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()
