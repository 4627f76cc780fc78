"""One contract for both transports: whatever the server does, the rows are the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from perfkit.drive.rows import to_table
from perfkit.drive.session import Recorder, Response, Session
from perfkit.drive.transport import loop_clock
from perfkit.drive.via_httpx import HttpxTransport
from perfkit.drive.wire import WireTransport
from perfkit.drive.worker import make_transport
from perfkit.errors import BadInput
from perfkit.model import INSTANTS, Target
from tests.fault_server import Authority, FaultServer, fault_server

Work = Callable[..., Coroutine[Any, Any, Any]]
HEADERS = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "perfkit/test"))


@dataclass(frozen=True)
class Way:
    """A transport on a kind of event loop, to a server with or without TLS."""

    transport: str
    loop: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.loop}-{self.scheme}"


WAYS = [
    Way(transport, loop, scheme)
    for scheme in ("http", "https")
    for transport, loop in (("wire", "uvloop"), ("wire", "asyncio"), ("httpx", "uvloop"))
]
PLAIN = [way for way in WAYS if way.scheme == "http"]
ways = pytest.mark.parametrize("way", WAYS, ids=str)
plain_ways = pytest.mark.parametrize("way", PLAIN, ids=str)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the test servers' certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def servers(authority: Authority) -> Iterator[dict[str, FaultServer]]:
    """A fault server without and one with TLS."""
    with fault_server() as plain, fault_server(authority.context(http2=True)) as tls:
        yield {"http": plain, "https": tls}


class Client:
    """A session with everything behind it, and the rows it made."""

    def __init__(self, target: Target) -> None:
        self.clock = loop_clock(asyncio.get_running_loop())
        self.origin = self.clock()
        self.transport: Any = make_transport(target)
        self.recorder = Recorder(self.transport, self.clock, target, HEADERS, "run1-")
        self.session = Session(self.recorder)

    def rows(self) -> list[dict[str, Any]]:
        """The rows since the last call, as the timeline has them."""
        batch = self.recorder.buffer.take()
        table = to_table(batch, scenario="test", worker=0, id_prefix="run1-", origin_ns=self.origin)
        rows = table.to_pylist()
        for row in rows:
            assert_instants_in_order(row)
        return rows

    def row(self) -> dict[str, Any]:
        """The only row."""
        (row,) = self.rows()
        return row

    @property
    def connections(self) -> int:
        """How many connections the transport believes to have, opening ones included."""
        if isinstance(self.transport, WireTransport):
            assert self.transport._opening >= 0
            return len(self.transport._open) + self.transport._opening
        lanes = [*self.transport._idle, *([self.transport._shared] if self.transport._shared else [])]
        return sum(len(lane._pool.connections) for lane in lanes)


def assert_instants_in_order(row: dict[str, Any]) -> None:
    """planned ≤ started ≤ sent ≤ first_byte ≤ done, leaving out what was never reached."""
    reached = [row[name] for name in INSTANTS if row[name] is not None]
    assert reached == sorted(reached), row
    assert row["planned"] is not None
    assert row["started"] is not None
    assert row["done"] is not None


@contextlib.asynccontextmanager
async def client(way: Way, url: str, **options: Any) -> AsyncIterator[Client]:
    """A client of this way; an exception in a callback of the loop fails the test."""
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(context))
    one = Client(Target(url=url, transport=way.transport, **options))  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.transport.close()
        await asyncio.sleep(0)
        assert broken == []


def on_loop(way: Way, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop of this way."""
    factory = uvloop.new_event_loop if way.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def with_client(
    way: Way,
    servers: dict[str, FaultServer],
    authority: Authority,
    work: Callable[[Client], Awaitable[Any]],
    **options: Any,
) -> Any:
    """Run `work(client)` against the fault server of this way."""

    async def run() -> Any:
        options.setdefault("ca_file", authority.file)
        async with client(way, servers[way.scheme].url, **options) as one:
            return await work(one)

    return on_loop(way, run())


# -- what the server does, and the row it makes ----------------------------------------------------

#: path: status, error class, bytes received, whether `sent` and `first_byte` are reached
FATES: dict[str, tuple[int | None, str | None, int, bool, bool]] = {
    "/ok": (200, None, 2, True, True),
    "/status/201": (201, None, 8, True, True),
    "/status/404": (404, "http_4xx", 8, True, True),
    "/status/503": (503, "http_5xx", 8, True, True),
    "/hang": (None, "timeout", 0, True, False),
    "/hang-in-head": (None, "timeout", 0, True, False),
    "/hang-after-head": (200, "timeout", 0, True, False),
    "/hang-mid-body": (200, "timeout", 4, True, True),
    "/hang-after-100": (None, "timeout", 0, True, False),
    "/drop": (None, "reset", 0, True, False),
    "/drop-in-head": (None, "reset", 0, True, False),
    "/drop-mid-body": (200, "reset", 4, True, True),
    "/drop-mid-chunk": (200, "reset", 6, True, True),
    "/reset": (None, "reset", 0, True, False),
    "/reset-mid-body": (200, "reset", 4, True, True),
    "/garbage": (None, "protocol", 0, True, False),
    "/bad-chunk": (200, "protocol", 0, True, False),
    "/bad-length": (None, "protocol", 0, True, False),
    "/switch": (None, "protocol", 0, True, False),
    "/switch-unasked": (None, "protocol", 0, True, False),
    "/big-header/30": (200, None, 2, True, True),
    "/big-header/80": (None, "protocol", 0, True, False),
    "/big-header/300": (None, "protocol", 0, True, False),
    "/endless-header": (None, "protocol", 0, True, False),
    "/big-body/1024": (200, None, 1024 * 1024, True, True),
    "/chunked": (200, None, 13, True, True),
    "/chunk-extensions": (200, None, 4, True, True),
    "/trailers": (200, None, 4, True, True),
    "/eof-body": (200, None, 10, True, True),
    "/http10": (200, None, 2, True, True),
    "/http10-eof": (200, None, 2, True, True),
    "/empty": (200, None, 0, True, False),
    "/no-content": (204, None, 0, True, False),
    "/not-modified": (304, None, 0, True, False),
    "/in-packets": (200, None, 4, True, True),
    "/loris": (200, None, 5, True, True),
    "/continue": (200, None, 2, True, True),
    "/hints": (200, None, 2, True, True),
    "/hints-at-once": (200, None, 2, True, True),
    "/upgrade-offer": (200, None, 2, True, True),
    "/close": (200, None, 2, True, True),
    "/extra": (200, None, 2, True, True),
    "/twice": (200, None, 2, True, True),
    "/redirect/302/echo": (302, "check", 0, True, False),
    "/cookies": (200, None, 2, True, True),
    "/odd-case": (200, None, 2, True, True),
    "/latin1": (200, None, 2, True, True),
}

#: httpcore keeps what came after a response and reads it as the answer to the next request.
ONLY_WIRE: tuple[str, ...] = ()

#: httpcore takes a TLS connection for usable whose end was the end of a body.
ONLY_WIRE_TLS = ("/eof-body",)


def not_for(way: Way) -> tuple[str, ...]:
    """What a transport cannot be tested with."""
    if way.transport == "wire":
        return ()
    return ONLY_WIRE if way.scheme == "http" else ONLY_WIRE + ONLY_WIRE_TLS


@ways
def test_each_fate_of_a_request_is_a_row_of_its_class_and_the_run_goes_on(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """After any misbehaviour there is one row that says what came, and the next request works."""

    async def work(one: Client) -> None:
        for path, (status, error, received, sent, first_byte) in FATES.items():
            if path in not_for(way):
                continue
            response = await one.session.get(path, timeout_s=0.12 if "hang" in path else 5, name="fate")
            *lost, row = one.rows()
            assert [one["error"] for one in lost] in ([], ["reset"])  # on a connection that had served
            told = (row["status"], row["error"], row["bytes_received"])
            assert told == (status, error, received), (path, row)
            reached = (row["sent"] is not None, row["first_byte"] is not None)
            assert reached == (sent, first_byte), (path, row)
            assert (row["error_text"] is None) == (error is None), (path, row)
            assert (row["attempt"], row["operation"], row["chunks"]) == (1 + len(lost), "fate", None)
            assert response.error == error
            assert (await one.session.get("/ok")).error is None, path
            one.rows()
        assert one.connections == 1

    with_client(way, servers, authority, work)


@ways
def test_a_post_is_sent_with_its_length_and_counted(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """bytes_sent is the body's size; the server gets the body whole, an empty one with its length of 0."""

    async def work(one: Client) -> None:
        for method in ("POST", "PUT", "PATCH"):
            for body in (b"", b"x" * 10, b"x" * 3_000_000):
                seen = (await one.session.request(method, "/echo", content=body)).json()
                assert (seen["method"], seen["length"]) == (method, len(body))
                assert ["content-length", str(len(body))] in [[k.lower(), v] for k, v in seen["headers"]]
                assert one.row()["bytes_sent"] == len(body)
        assert (await one.session.delete("/echo")).json()["length"] == 0

    with_client(way, servers, authority, work)


@ways
def test_head_has_no_body_and_keeps_its_connection(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A HEAD response ends with its head, whatever length it names, and the connection serves the next,
    unless the server says close, in whatever case of letters and company."""

    async def work(one: Client) -> None:
        server, before = servers[way.scheme], servers[way.scheme].accepted
        for path in ("/ok", "/empty", "/big-body/64"):
            response = await one.session.request("HEAD", path)
            assert (response.status_code, response.content, response.error) == (200, b"", None)
        await one.session.get("/ok")
        assert server.accepted == before + 1
        assert (await one.session.request("HEAD", "/close")).error is None
        assert (await one.session.get("/ok")).error is None
        assert server.accepted == before + 2
        assert (await one.session.request("HEAD", "/close-shouted")).error is None
        assert (await one.session.get("/ok")).error is None
        assert server.accepted == before + 3

    with_client(way, servers, authority, work)


def test_both_transports_send_the_same_bytes(servers: dict[str, FaultServer], authority: Authority) -> None:
    """Request line, header names and values do not depend on the transport."""
    paths = [
        "/echo",
        "/echo?q=a b&r=%20&s=ä",
        "/echo/ünï/日本",
        "/echo/a/../b/./c//d",
        '/echo/"<>\\^`{|}#frag',
        "/echo?x=[1]&y='(a)'&z=100%",
        "/echo/;p=1,2:3@4!$*+~",
    ]

    async def work(one: Client) -> list[Any]:
        one.session.headers = {"X-Tenant": "Jörg ", "Authorization": "Bearer abc"}
        found: list[Any] = []
        for path in paths:
            for method, body in (("GET", b""), ("POST", b"{}"), ("POST", b""), ("get", b"")):
                seen = (await one.session.request(method, path, content=body)).json()
                sent = sorted((name.lower(), value.strip()) for name, value in seen["headers"])
                found.append((seen["method"], seen["path"], sent, seen["body"]))
        return found

    wire, plain, other = (with_client(way, servers, authority, work) for way in PLAIN)
    assert wire == plain == other
    names = [name for name, _ in wire[0][2]]
    assert names == sorted(
        ["accept", "accept-encoding", "authorization", "host", "user-agent", "x-request-id", "x-tenant"]
    )
    assert wire[0][1] == "/echo"
    assert wire[8][1] == "/echo/%C3%BCn%C3%AF/%E6%97%A5%E6%9C%AC"
    assert wire[12][1] == "/echo/a/../b/./c//d"  # a load test sends the path it was given


@plain_ways
def test_the_path_of_the_target_comes_before_the_request_s(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """`http://host/echo/` with `/x` asks for `/echo/x`; the host header is the target's or the one given."""

    async def run() -> None:
        url = servers["http"].url
        async with client(way, url + "/echo/ü/") as one:
            seen = (await one.session.get("/x?y=1")).json()
            assert seen["path"] == "/echo/%C3%BC/x?y=1"
            assert dict(seen["headers"])["host"] == url.removeprefix("http://")
            seen = (await one.session.get("/x", headers={"Host": "other.example"})).json()
            hosts = [value for name, value in seen["headers"] if name.lower() == "host"]
            assert hosts == ["other.example"]

    on_loop(way, run())


REFUSED_HEADERS = [
    {"x-a": "b\r\nx-injected: 1"},
    {"x-a": "b\nx-injected: 1"},
    {"x-a": "b\rx-injected: 1"},
    {"x-a": "b\0"},
    {"x-a": "secret ☃"},
    {"x-a\r\nx-injected": "1"},
    {"x-a: 1\r\nx-injected": "1"},
    {"x a": "1"},
    {"x-a:": "1"},
    {"": "1"},
    {"x-ä": "1"},
    {"transfer-encoding": "chunked"},
    {"Transfer-Encoding ": "chunked"},
    {"Content-Length": "0"},
]


@plain_ways
def test_what_would_change_the_request_s_framing_is_refused(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Line breaks in headers or paths, names servers read differently, and framing headers are a ValueError
    that names the culprit (never a header's value); nothing is sent, no connection is lost over it."""

    async def work(one: Client) -> None:
        server = servers["http"]
        await one.session.get("/ok")
        before = server.hits.total()
        for headers in REFUSED_HEADERS:
            with pytest.raises(ValueError, match="header") as refused:
                await one.session.get("/echo", headers=headers)
            assert "injected: 1" not in str(refused.value)
            assert "secret" not in str(refused.value)
        for path in ("/a\r\nx: 1", "/a\nb", "/a\0", "/a\x7f"):
            with pytest.raises(ValueError, match="control character"):
                await one.session.get(path)
        for path in ("http://127.0.0.1/x", "echo", "", "?x=1"):
            with pytest.raises(ValueError, match="relative to the target"):
                await one.session.get(path)
        for method in ("GET /echo HTTP/1.1\r\nx: y\r\n\r\nGET", "", "G T", "CONNECT", "É"):
            with pytest.raises(ValueError, match="method"):
                await one.session.request(method, "/echo")
        assert server.hits.total() == before
        assert one.connections == 1
        assert (await one.session.get("/ok")).error is None

    with_client(way, servers, authority, work, connections=1)


@plain_ways
def test_limits_on_header_and_body(way: Way, servers: dict[str, FaultServer], authority: Authority) -> None:
    """max_header_kb and max_body_mb cut a response off with class protocol and words that name the setting; a
    body that just fits passes, a huge body in the packet of a small head counts as body."""

    async def work(one: Client) -> None:
        assert (await one.session.get("/big-body/1024")).error is None
        for path in ("/big-body/1025", "/big-chunked"):
            assert (await one.session.get(path)).error == "protocol"
        assert (await one.session.get("/big-header/3")).error == "protocol"
        fits, body, chunked, header = one.rows()
        assert fits["bytes_received"] == 2**20
        assert "max_body_mb" in body["error_text"]
        assert "max_body_mb" in chunked["error_text"]
        assert "max_header_kb" in header["error_text"]
        assert one.connections <= 1

    with_client(way, servers, authority, work, max_header_kb=2, max_body_mb=1)


@plain_ways
def test_trailers_are_no_headers_and_no_way_round_the_limits(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Trailers are dropped, so no row has their Server-Timing; trailers without end cost no memory."""

    async def work(one: Client) -> None:
        response = await one.session.get("/trailers")
        assert "server-timing" not in response.headers
        assert "server_db" not in one.row()
        response = await one.session.get("/endless-trailer", timeout_s=0.3)
        assert response.error in ("timeout", "protocol")  # h11 has a limit of its own
        assert len(response.headers) == 1

    with_client(way, servers, authority, work)


@ways
def test_events_have_an_instant_each(way: Way, servers: dict[str, FaultServer], authority: Authority) -> None:
    """A stream's row has one instant per event (comments, pings and unfinished events have none), when it
    arrived: at the server's pauses, in microseconds since `sent`; the first body byte may be a comment's."""

    async def work(one: Client) -> None:
        response = await one.session.get("/sse")
        row = one.row()
        assert response.events() == ["one", "two\nlines", "three", "[DONE]"]
        gaps = [0, *row["chunks"]]
        assert len(row["chunks"]) == 3  # [DONE] is no content
        assert row["first_token"] - row["sent"] == pytest.approx(1000 * row["chunks"][0], abs=1000)
        pauses = [b - a for a, b in itertools.pairwise(gaps)]
        assert all(pause > 20_000 for pause in pauses), row["chunks"]
        assert row["first_byte"] - row["sent"] < 20_000_000
        assert row["chunks"][-1] <= (row["done"] - row["sent"]) / 1000
        response = await one.session.get("/sse-crlf")
        assert response.events() == ["one", "two", " three"]
        row = one.row()
        assert len(row["chunks"]) == 3
        assert row["chunks"][0] < 20_000  # complete with the second carriage return
        for path, error in (("/sse-drop", "reset"), ("/sse-hang", "timeout")):
            await one.session.get(path, timeout_s=0.2)
            row = one.row()
            assert row["error"] == error
            assert len(row["chunks"]) == (2 if error == "reset" else 1)

    with_client(way, servers, authority, work)


@plain_ways
def test_server_timing_becomes_columns(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Server-Timing durations are columns in ms; what is malformed is left out and harms nothing."""

    async def work(one: Client) -> None:
        await one.session.get("/timing")
        found = {name: value for name, value in one.row().items() if name.startswith("server_")}
        assert found == {"server_app": 1.5, "server_db": 2.0, "server_db_wait": 0.25, "server_loop_lag": 3.0}

    with_client(way, servers, authority, work)


@ways
def test_sent_is_when_the_last_byte_left(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A server that takes a large body slowly delays `sent`, not the time from `sent` to the answer."""

    async def work(one: Client) -> None:
        size = 12_000_000  # more than both sockets' buffers hold
        response = await one.session.post("/slow-read/150", content=b"x" * size)
        assert response.text == str(size)
        row = one.row()
        assert row["sent"] - row["started"] > 140e6
        assert row["done"] - row["sent"] < 100e6

    with_client(way, servers, authority, work)


@pytest.mark.parametrize("way", [way for way in WAYS if way.transport == "wire"], ids=str)
def test_an_answer_before_the_request_s_end_spoils_no_later_request(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A connection whose request was answered before it was sent is not used again: the rest of the body
    would be read as the next request. Only `wire` reads while it writes; httpx sees the answer afterwards."""

    async def work(one: Client) -> None:
        for _ in range(3):
            response = await one.session.post("/early/50", content=b"x" * 12_000_000)
            assert (response.error, response.text) == ("http_4xx", "too big")
            row = one.row()
            assert (row["sent"], row["bytes_sent"]) == (None, 0)
            assert (await one.session.get("/echo")).json()["method"] == "GET"
            one.rows()

    with_client(way, servers, authority, work)


# -- connections -----------------------------------------------------------------------------------


@ways
def test_a_connection_is_kept_as_long_as_the_server_allows(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """One connection serves request after request; `connection: close` and HTTP/1.0 end it."""

    async def work(one: Client) -> None:
        first, second, third = [(await one.session.get("/count")).json() for _ in range(3)]
        assert first[0] == second[0] == third[0]
        assert [first[1], second[1], third[1]] == [1, 2, 3]
        for path in ("/close", "/close-shouted", "/http10", "/http10-eof"):
            last = (await one.session.get("/count")).json()[0]
            await one.session.get(path)
            response = await one.session.get("/count")
            assert response.error is None, (path, one.rows()[-1])
            assert response.json()[0] > last
        assert {row["error"] for row in one.rows()} == {None}

    with_client(way, servers, authority, work)


@plain_ways
def test_an_idle_connection_older_than_keepalive_s_is_not_used_again(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """After keepalive_s of silence a new connection is opened."""

    async def work(one: Client) -> None:
        first = (await one.session.get("/count")).json()[0]
        await asyncio.sleep(0.02)
        assert (await one.session.get("/count")).json()[0] == first
        await asyncio.sleep(0.15)
        assert (await one.session.get("/count")).json()[0] > first
        assert one.connections == 1

    with_client(way, servers, authority, work, keepalive_s=0.1)


@ways
def test_what_happens_on_an_idle_connection_hurts_no_request(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Closed by the server, or with bytes nobody asked for, it is dropped and the next gets a new one."""

    async def work(one: Client) -> None:
        for path in ("/close-idle/10", "/speak-idle/10", "/extra", "/twice"):
            if path in not_for(way):
                continue
            assert (await one.session.get(path)).error is None
            await asyncio.sleep(0.04)
            response = await one.session.get("/echo")
            assert (response.error, response.json()["path"]) == (None, "/echo")
        assert one.connections == 1

    with_client(way, servers, authority, work)


@ways
def test_a_server_that_closes_without_saying_so_costs_no_request(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """An idempotent request whose connection was dead is sent once more, on a new one, and is two rows."""

    async def work(one: Client) -> None:
        for number in range(100):
            method = ("GET", "PUT", "DELETE")[number % 3]
            response = await one.session.request(method, "/close-unsaid", name=f"r{number}")
            assert (response.error, response.text) == (None, "ok"), number
        rows = one.rows()
        last = {row["seq"]: row for row in rows}
        assert len(last) == 100
        assert {(row["error"], row["attempt"] <= 2) for row in last.values()} == {(None, True)}
        lost = [row for row in rows if row["error"]]
        assert {(row["error"], row["attempt"]) for row in lost} <= {("reset", 1)}
        assert one.recorder.retried == len(lost) == len(rows) - 100
        assert one.recorder.unanswered == 0  # a PUT that was sent again has its answer

    with_client(way, servers, authority, work)


@ways
def test_a_request_that_may_have_been_carried_out_is_not_sent_again(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """POST on a connection that dies: a reset. GET is sent twice, not three times; on a new one once."""

    async def work(one: Client) -> None:
        await one.session.get("/ok")
        assert (await one.session.post("/drop")).error == "reset"
        await one.session.get("/ok")
        assert (await one.session.get("/drop")).error == "reset"
        assert (await one.session.get("/drop")).error == "reset"
        told = [(row["operation"], row["attempt"], row["error"]) for row in one.rows()]
        assert told == [
            *[("GET /ok", 1, None), ("POST /drop", 1, "reset"), ("GET /ok", 1, None)],
            *[("GET /drop", 1, "reset"), ("GET /drop", 2, "reset"), ("GET /drop", 1, "reset")],
        ]

    with_client(way, servers, authority, work)


ODD = ("lf", "lf-in-packets", "folded", "same-length-twice", "same-length-listed", "chunk-blank")


@pytest.mark.parametrize("way", [way for way in WAYS if way.transport == "wire"], ids=str)
def test_what_others_read_is_read_and_what_is_dangerous_is_refused(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Ends of lines, folded lines, the same length twice; but not two lengths, nor another protocol."""

    async def work(one: Client) -> None:
        for path in ODD:
            response = await one.session.get(f"/{path}")
            assert (response.error, response.text) == (None, "ok"), path
            if path == "folded":
                assert response.headers["x-long"] == "one two"
            assert (await one.session.get("/echo")).json()["path"] == "/echo"
        one.rows()
        assert (await one.session.get("/other-length-twice")).error == "protocol"
        assert (await one.session.get("/rtsp")).error == "protocol"
        assert "it begins with b'RTSP/1.0" in one.rows()[-1]["error_text"]

    with_client(way, servers, authority, work)


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way.transport == "wire" or way.scheme == "http"], ids=str
)
def test_an_early_refusal_is_the_answer(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A 413 that comes while the body is written, with the connection closed behind it, is a 413."""

    async def work(one: Client) -> None:
        response = await one.session.post("/early-close", content=b"x" * 12_000_000)
        assert (response.error, response.status_code) == ("http_4xx", 413)
        assert (await one.session.get("/echo")).json()["method"] == "GET"

    with_client(way, servers, authority, work)


@plain_ways
def test_a_limit_on_connections_is_client_queue(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """With 2 connections 6 requests of 60 ms take three turns; the wait is in sent − started, service is not
    touched, and the time limit counts from taking the request up."""

    async def work(one: Client) -> None:
        before = servers["http"].accepted
        await one.session.get("/ok")  # httpx's first request imports half of it
        one.rows()
        await asyncio.gather(*(one.session.get("/slow/60") for _ in range(6)))
        rows = one.rows()
        assert servers["http"].accepted == before + 2
        queued = sorted((row["sent"] - row["started"]) / 1e6 for row in rows)
        assert queued[1] < 40
        assert 50 < queued[2] < 110
        assert queued[5] > 110
        assert all((row["done"] - row["sent"]) / 1e6 < 110 for row in rows)

        limits_s = [0.15] * 4 + [0.12] * 2  # the last two give up while they wait in line
        waits = [one.session.get("/slow/100", timeout_s=limit_s) for limit_s in limits_s]
        started = time.monotonic()
        errors = [response.error for response in await asyncio.gather(*waits)]
        assert errors == [None, None, *["timeout"] * 4]
        assert time.monotonic() - started < 0.25  # no second time limit on top of the first
        timed_out = [row for row in one.rows() if row["error"]]
        assert sum(row["sent"] is None for row in timed_out) == 2
        assert (await one.session.get("/ok")).error is None
        assert one.connections <= 2

    with_client(way, servers, authority, work, connections=2)


@ways
def test_each_request_has_its_own_time_limit_on_a_connection_it_shares(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A limit is kept to whether the request before had a longer one, a shorter one, or one that ran out
    while the connection was idle or another request was under way; none ends a request before its time."""

    async def work(one: Client) -> None:
        async def limit_kept(timeout_s: float) -> None:
            one.rows()
            assert (await one.session.get("/hang", timeout_s=timeout_s)).error == "timeout"
            row = one.row()
            assert timeout_s - 0.002 < (row["done"] - row["started"]) / 1e9 < timeout_s + 0.05
            assert row["error_text"] == f"no complete response within {timeout_s:g} s"

        async def same_connection(*limits_s: float) -> None:
            answers = [(await one.session.get("/count", timeout_s=limit_s)).json() for limit_s in limits_s]
            assert len({connection for connection, _ in answers}) == 1

        await limit_kept(0.1)  # on a new connection
        await same_connection(30, 30)
        await limit_kept(0.1)  # the timer was set for 30 s
        await same_connection(30, 0.06)
        await limit_kept(0.15)  # it goes off in between
        await same_connection(0.03)
        assert (await one.session.get("/slow/60", timeout_s=5)).error is None  # likewise
        await same_connection(5, 0.03)
        await asyncio.sleep(0.05)  # it goes off while nothing is under way
        await same_connection(5, 0.2)
        await limit_kept(0.1)

    with_client(way, servers, authority, work)


@plain_ways
def test_a_time_limit_that_ran_out_idle_costs_no_connection(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A connection whose last request's limit passes after its answer goes on serving."""

    async def work(one: Client) -> None:
        before = servers["http"].accepted
        for _ in range(3):
            assert (await one.session.get("/ok", timeout_s=0.3)).error is None
            await asyncio.sleep(0.35)
        assert servers["http"].accepted == before + 1

    with_client(way, servers, authority, work)


@plain_ways
def test_who_waits_for_a_connection_is_served_before_who_comes_later(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A server that closes after each answer starves nobody: users take turns on one connection at a time."""

    async def work(one: Client) -> None:
        async def user(number: int) -> None:
            session = Session(one.recorder, number)
            for _ in range(8):
                assert (await session.get("/close", timeout_s=5)).error is None

        await asyncio.gather(*(user(number) for number in range(3)))
        order = [row["user"] for row in sorted(one.rows(), key=lambda row: row["sent"])]
        assert all(set(order[i : i + 3]) == {0, 1, 2} for i in range(0, 24, 3)), order

    with_client(way, servers, authority, work, connections=1)


@plain_ways
def test_a_waiter_is_not_lost_with_the_one_before_it(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Whoever had the only connection may be cancelled, while connecting or in mid-request, or have it die:
    the next in line gets its turn at once."""

    async def work(one: Client) -> None:
        for path in ("/hang", "/drop", "/reset", "/garbage", "/hang-mid-body"):
            for moment in (0.0, 0.02):
                first = asyncio.create_task(one.session.get(path, timeout_s=5))
                await asyncio.sleep(0)
                second = asyncio.create_task(one.session.get("/ok", timeout_s=2))
                third = asyncio.create_task(one.session.get("/ok", timeout_s=2))
                await asyncio.sleep(moment)
                first.cancel()
                assert (await second).error is None, (path, moment)
                assert (await third).error is None, (path, moment)
                await asyncio.gather(first, return_exceptions=True)
        assert one.connections == 1

    with_client(way, servers, authority, work, connections=1)


@plain_ways
@pytest.mark.parametrize("seed", range(4))
def test_no_mix_of_fates_leaks_a_connection(
    way: Way, servers: dict[str, FaultServer], authority: Authority, seed: int
) -> None:
    """Random requests, cancelled or timed out at random instants, over 3 connections: each is a row, and in
    the end no more than 3 connections are open, none is counted that is not there, and requests work."""
    rng = random.Random(seed)
    paths = ["ok", "slow/5", "hang", "drop", "reset", "garbage", "close", "chunked", "extra", "twice"]
    paths += ["drop-mid-body", "hang-mid-body"]

    async def work(one: Client) -> None:
        server = servers["http"]
        seen_too_many: list[int] = []
        tasks = []
        for _ in range(150):
            path, timeout_s = "/" + rng.choice(paths), rng.choice([0.01, 0.02, 0.05, 2])
            timeout_s = min(timeout_s, 0.05) if "hang" in path else timeout_s
            task = asyncio.create_task(one.session.get(path, timeout_s=timeout_s))
            tasks.append(task)
            if rng.random() < 0.3:
                asyncio.get_running_loop().call_later(rng.random() * 0.03, task.cancel)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.005)
            if one.connections > 3:
                seen_too_many.append(one.connections)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(d, Response | asyncio.CancelledError) for d in done), done
        started = sum(1 for d in done if isinstance(d, Response))
        rows = one.rows()
        assert started <= len(rows) - one.recorder.retried <= len(tasks)
        assert {row["error"] for row in rows} <= {None, "timeout", "reset", "protocol", "cutoff"}
        assert not seen_too_many
        answers = await asyncio.gather(*(one.session.get("/slow/5", timeout_s=3) for _ in range(9)))
        assert [answer.error for answer in answers] == [None] * 9
        assert one.connections <= 3
        if isinstance(one.transport, WireTransport):
            assert one.transport._opening == 0
            assert len(one.transport._waiting) == 0
            assert len(one.transport._idle) == len(one.transport._open)
            kept = list(one.transport._open)
            assert [connection.exchange for connection in kept] == [None] * len(kept)
            await one.transport.close()
            assert [connection._timer for connection in kept] == [None] * len(kept)
        for _ in range(50):
            if server.live <= 3:
                break
            await asyncio.sleep(0.01)
        assert server.live <= 3

    with_client(way, servers, authority, work, connections=3)


@plain_ways
def test_a_restarted_server_is_reset_then_connect_then_ok(way: Way) -> None:
    """While the server is away requests are rows of class reset or connect; back on its port, all is well."""

    async def run(server: FaultServer) -> None:
        async with client(way, server.url, connections=4) as one:
            under_way = [asyncio.create_task(one.session.get("/slow/3000")) for _ in range(2)]
            assert (await one.session.get("/ok")).error is None
            await asyncio.sleep(0.02)
            await asyncio.to_thread(server.stop)
            assert [(await task).error for task in under_way] == ["reset", "reset"]
            away = [(await one.session.get("/ok")).error for _ in range(3)]
            assert away[1:] == ["connect", "connect"]
            assert away[0] in ("connect", "reset")
            assert "Connect" in one.rows()[-1]["error_text"]
            await asyncio.to_thread(server.start)
            assert [(await one.session.get("/ok")).error for _ in range(3)] == [None] * 3
            assert one.connections == 1

    with fault_server() as server:
        on_loop(way, run(server))


# -- no connection ---------------------------------------------------------------------------------


@plain_ways
def test_a_refused_connection_is_a_row_with_the_system_s_words(way: Way) -> None:
    """Nobody listens: class connect, at once, in the system's words; nothing was sent."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        async def run() -> None:
            async with client(way, url) as one:
                assert (await one.session.post("/x", content=b"body")).status_code == 0
                row = one.row()
                assert (row["error"], row["sent"], row["status"]) == ("connect", None, None)
                assert row["bytes_sent"] == 0
                assert 0 < one.recorder.opening.ns[0] <= row["done"] - row["started"]
                assert row["error_text"].startswith("ConnectionRefusedError: ")
                assert one.connections == 0

        on_loop(way, run())


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a port that lets nobody in."""
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@plain_ways
def test_a_connection_that_is_not_accepted_times_out_as_connect(way: Way) -> None:
    """A full backlog: class connect after connect_timeout_s; class timeout when the request's own limit is
    shorter; and who waited for that place gets its own try."""
    with full_backlog() as url:

        async def run() -> None:
            async with client(way, url, connect_timeout_s=0.1, connections=1) as one:
                began = time.monotonic()
                answers = await asyncio.gather(*(one.session.get("/x", timeout_s=5) for _ in range(2)))
                assert [answer.error for answer in answers] == ["connect", "connect"]
                assert 0.15 < time.monotonic() - began < 0.5
                assert {row["error_text"] for row in one.rows()} == {"no connection within 0.1 s"}
                assert (await one.session.get("/x", timeout_s=0.05)).error == "timeout"
                assert one.row()["sent"] is None
                first = asyncio.create_task(one.session.get("/x", timeout_s=5))
                await asyncio.sleep(0.01)
                second = asyncio.create_task(one.session.get("/x", timeout_s=0.35))
                await asyncio.sleep(0.01)
                first.cancel()
                assert (await second).error == "connect"  # not timeout: it was told that the place is free

        on_loop(way, run())


@ways
def test_connecting_is_the_time_of_opening_a_connection(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """Whoever dials has it, within `sent - started`; not whose connection was there already, nor who waited
    for another's, however long."""

    async def work(one: Client) -> None:
        first, second = one.session.get("/slow/60"), one.session.get("/ok")
        await asyncio.gather(first, second)
        await one.session.get("/ok")
        rows = {row["seq"]: row for row in one.rows()}
        assert list(one.recorder.opening.ns) == [0]
        assert 0 < one.recorder.opening.ns[0] <= rows[0]["sent"] - rows[0]["started"]
        assert rows[1]["sent"] - rows[1]["started"] > 50e6

    with_client(way, servers, authority, work, connections=1)


@plain_ways
def test_connecting_in_vain_has_a_time_too(way: Way) -> None:
    """Given up by connect_timeout_s, by the request's own limit or by a cancellation: `connecting` is the
    time until then."""

    async def run(url: str) -> None:
        async with client(way, url, connect_timeout_s=0.4) as one:
            assert (await one.session.get("/x")).error == "connect"
            assert (await one.session.get("/x", timeout_s=0.3)).error == "timeout"
            cut = asyncio.create_task(one.session.get("/x"))
            await asyncio.sleep(0.3)
            cut.cancel()
            await asyncio.gather(cut, return_exceptions=True)
            rows, opening = one.rows(), one.recorder.opening.ns
            assert [row["error"] for row in rows] == ["connect", "timeout", "cutoff"]
            for row in rows:
                assert 100e6 < opening[row["seq"]] <= row["done"] - row["started"]

    with full_backlog() as url:
        on_loop(way, run(url))


@plain_ways
def test_a_name_nobody_knows_is_class_connect(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name look-up's failure is a row, in the resolver's words."""

    def unknown(host: Any, *args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def run() -> None:
        async with client(Way(way.transport, "asyncio", "http"), "http://nobody.invalid:1") as one:
            await one.session.get("/x")
            row = one.row()
            assert row["error"] == "connect"
            assert "Name or service not known" in row["error_text"]

    on_loop(Way(way.transport, "asyncio", "http"), run())


TLS = [way for way in WAYS if way.scheme == "https"]


@pytest.mark.parametrize("way", TLS, ids=str)
def test_certificates_are_verified_unless_told_otherwise(
    way: Way, servers: dict[str, FaultServer], authority: Authority, tmp_path: Path
) -> None:
    """An unknown authority or a wrong name is class connect with the reason; ca_file or verify_tls: false
    make it work; a server that speaks no TLS is class connect too."""

    async def get(url: str, **options: Any) -> dict[str, Any]:
        async with client(way, url, **options) as one:
            await one.session.get("/ok")
            return one.row()

    url = servers["https"].url
    row = on_loop(way, get(url))
    assert row["error"] == "connect"
    assert "certificate" in row["error_text"].lower()
    row = on_loop(way, get(url.replace("127.0.0.1", "localhost"), ca_file=authority.file))
    assert row["error"] == "connect"
    assert "localhost" in row["error_text"]
    assert on_loop(way, get(url, ca_file=authority.file))["error"] is None
    assert on_loop(way, get(url, verify_tls=False))["error"] is None
    row = on_loop(way, get(servers["http"].url.replace("http:", "https:")))
    assert row["error"] == "connect"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        row = on_loop(way, get(silent_url, connect_timeout_s=0.1))
        assert (row["error"], row["error_text"]) == ("connect", "no connection within 0.1 s")
    with pytest.raises(BadInput, match="ca_file"):
        on_loop(way, get(url, ca_file=str(tmp_path / "none.pem")))


# -- cutting off -----------------------------------------------------------------------------------


@ways
def test_a_cancelled_request_is_a_row_of_class_cutoff(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """It keeps what it had reached: sent, status, the bytes and events so far; null is only what was not."""

    async def work(one: Client) -> None:
        await one.session.get("/ok")
        one.rows()
        for path, status, received, events in (
            ("/hang", None, 0, None),
            ("/hang-mid-body", 200, 4, None),
            ("/sse-hang", 200, 11, 1),
        ):
            task = asyncio.create_task(one.session.get(path))
            await asyncio.sleep(0.06)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            row = one.row()
            told = (row["error"], row["status"], row["bytes_received"])
            assert told == ("cutoff", status, received), row
            assert row["sent"] is not None
            assert (row["first_byte"] is not None) == (received > 0)
            assert (row["chunks"] and len(row["chunks"])) == events
        assert (await one.session.get("/ok")).error is None

    with_client(way, servers, authority, work)


@plain_ways
def test_cut_off_in_line_nothing_was_sent(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """A request cancelled while it waits for a connection is a cutoff row without `sent`."""

    async def work(one: Client) -> None:
        tasks = [asyncio.create_task(one.session.post("/hang", content=b"body")) for _ in range(3)]
        await asyncio.sleep(0.03)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rows = one.rows()
        assert [row["error"] for row in rows] == ["cutoff"] * 3
        assert sorted((row["sent"] is None, row["bytes_sent"]) for row in rows) == [
            (False, 4), (True, 0), (True, 0)
        ]  # fmt: skip

    with_client(way, servers, authority, work, connections=1)


@pytest.mark.parametrize("way", [way for way in PLAIN if way.transport == "wire"], ids=str)
def test_closing_the_transport_leaves_nobody_waiting(
    way: Way, servers: dict[str, FaultServer], authority: Authority
) -> None:
    """`close` cuts off the request under way and the one in line; their tasks come to an end."""

    async def work(one: Client) -> None:
        tasks = [asyncio.create_task(one.session.get("/hang")) for _ in range(2)]
        await asyncio.sleep(0.05)
        await one.transport.close()
        _, pending = await asyncio.wait(tasks, timeout=0.5)
        assert not pending
        assert {row["error"] for row in one.rows()} == {"cutoff"}

    with_client(way, servers, authority, work, connections=1)


# -- targets ---------------------------------------------------------------------------------------


def test_only_httpx_takes_http2_and_proxies(servers: dict[str, FaultServer]) -> None:
    """`wire` refuses what it cannot do and names the other transport."""

    async def make(target: Target) -> None:
        WireTransport(target)

    for options in ({"http2": True}, {"proxy": "http://127.0.0.1:1"}):
        with pytest.raises(BadInput, match=r"target\.transport: httpx"):
            asyncio.run(make(Target(url="http://127.0.0.1", **options)))  # type: ignore[arg-type]


def test_http2_makes_the_same_rows(servers: dict[str, FaultServer], authority: Authority) -> None:
    """Over HTTP/2 statuses, resets, drops, time limits and events are rows like any others."""
    fates = {
        "/ok": (200, None),
        "/status/404": (404, "http_4xx"),
        "/reset": (None, "reset"),
        "/goaway": (None, "reset"),
        "/drop": (None, "reset"),
        "/hang": (None, "timeout"),
        "/sse": (200, None),
    }

    async def work(one: Client) -> None:
        for path, fate in fates.items():
            response = await one.session.get(path, timeout_s=0.3)
            row = one.row()
            assert (row["status"], row["error"]) == fate, (path, row)
            assert row["sent"] is not None
            if path == "/ok":
                names = {name for name, _ in response.json()["headers"]}
                assert ":authority" in names
            assert (row["chunks"] is not None) == (path == "/sse")
            assert (await one.session.get("/ok")).error is None, path
            one.rows()
        answers = await asyncio.gather(*(one.session.get("/ok") for _ in range(20)))
        assert {answer.error for answer in answers} == {None}

    with_client(Way("httpx", "uvloop", "https"), servers, authority, work, http2=True)


def test_a_proxy_that_is_not_there_is_class_connect(servers: dict[str, FaultServer]) -> None:
    """httpx's proxy errors are rows too."""

    async def run() -> None:
        async with client(PLAIN[2], servers["http"].url, proxy="http://127.0.0.1:9") as one:
            await one.session.get("/ok")
            assert one.row()["error"] == "connect"

    on_loop(PLAIN[2], run())


def test_any_exception_below_httpx_is_a_row(
    servers: dict[str, FaultServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What httpx, httpcore, h2 or anyio may raise is never the scenario's to catch."""

    async def run() -> None:
        async with client(PLAIN[2], servers["http"].url) as one:
            assert isinstance(one.transport, HttpxTransport)
            for error in (KeyError(3), RuntimeError("deep"), ssl.SSLError("tls"), TimeoutError("os")):

                async def broken(*args: Any, error: Exception = error, **options: Any) -> Any:
                    raise error

                monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", broken)
                assert (await one.session.get("/ok")).error in ("protocol", "reset")
                assert one.row()["error_text"]

    on_loop(PLAIN[2], run())


def test_json_of_an_echo_survives(servers: dict[str, FaultServer], authority: Authority) -> None:
    """Smoke: JSON in, JSON out, over every way."""

    async def work(one: Client) -> Any:
        return (await one.session.post("/echo", json={"a": [1, "ä"]})).json()["body"]

    for way in WAYS:
        body = with_client(way, servers, authority, work)
        assert json.loads(body.encode("latin-1")) == {"a": [1, "ä"]}
