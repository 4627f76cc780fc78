"""What a scenario holds: names, bodies, checks, retries, redirects, redaction, and the rows they make."""

from __future__ import annotations

import asyncio
import errno
import gzip
import inspect
import json
import operator
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.drive.rows import to_table
from perfkit.drive.session import Recorder, Response, Session
from perfkit.drive.session.redirects import redirected
from perfkit.drive.transport import Exchange, loop_clock, os_words
from perfkit.drive.wire import WireTransport
from perfkit.errors import RequestFailed
from perfkit.model import Target
from perfkit.redaction import Redactor, secrets_in
from tests.fault_server import FaultServer, fault_server


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """The fault server, without TLS."""
    with fault_server() as one:
        yield one


class Rows:
    """A session and the rows it made."""

    def __init__(self, target: Target, **options: Any) -> None:
        self.clock = loop_clock(asyncio.get_running_loop())
        self.recorder = Recorder(WireTransport(target), self.clock, target, id_prefix="r-", **options)
        self.session = Session(self.recorder)

    def take(self) -> list[dict[str, Any]]:
        """The rows since the last call."""
        batch = self.recorder.buffer.take()
        table = to_table(batch, scenario="test", worker=0, id_prefix="r-", origin_ns=0)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows


def play(url: str, work: Callable[[Rows], Awaitable[Any]], options: Any = None, **target: Any) -> Any:
    """Run `work(rows)` against a server; `options` are the recorder's."""

    async def run() -> Any:
        rows = Rows(Target(url=url, **target), **(options or {}))
        try:
            return await work(rows)
        finally:
            await rows.recorder.transport.close()

    return asyncio.run(run())


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/agents/", "GET /v1/agents/"),
        ("/v1/agents/agent-123e4567-e89b-42d3-a456-426614174000", "GET /v1/agents/{id}"),
        (
            "/v1/agents/agent-123e4567-e89b-42d3-a456-426614174000/messages?x=1",
            "GET /v1/agents/{id}/messages",
        ),
        ("/u/123E4567-E89B-42D3-A456-426614174000/k", "GET /u/{id}/k"),
        ("/u/123e4567e89b42d3a456426614174000", "GET /u/{id}"),
        ("/items/7/parts/12345", "GET /items/{id}/parts/{id}"),
        ("/items/7?page=12", "GET /items/{id}"),
        ("/v2/deadline/facade/v1", "GET /v2/deadline/facade/v1"),
        ("/", "GET /"),
    ],
)
def test_the_default_name_has_no_ids(server: FaultServer, path: str, name: str) -> None:
    """Without `name` an operation is method and path, its ids (numbers, UUIDs, Letta's) replaced."""

    class Silent:
        async def send(self, *args: Any, fresh: bool) -> Exchange:
            exchange = Exchange()
            exchange.fail("reset", "silence", 1)
            return exchange

    async def work(rows: Rows) -> None:
        rows.recorder.transport = Silent()  # type: ignore[assignment]
        await rows.session.get(path)
        await rows.session.get(path, name="mine")
        assert [row["operation"] for row in rows.take()] == [name, "mine"]

    async def run() -> None:
        rows = Rows(Target(url=server.url))
        await work(rows)

    asyncio.run(run())


def test_a_thousand_names_are_enough(server: FaultServer) -> None:
    """After a thousand operations all others are one, known names keep theirs, and a name is kept short."""

    async def work(rows: Rows) -> None:
        codes = [rows.recorder.operation_code(f"n{i}") for i in range(1000)]
        assert len(set(codes)) == 1000
        rest = {rows.recorder.operation_code(f"more{i}") for i in range(50)}
        assert len(rest) == 1
        assert rows.recorder.operation_code("n7") == codes[7]
        await rows.session.get("/ok", name="yet another")
        assert rows.take()[0]["operation"] == "(other operations)"

    play(server.url, work)

    async def odd(rows: Rows) -> None:
        await rows.session.get("/ok", name="x" * 5000)
        await rows.session.get("/ok", name="lone \ud800 surrogate")
        long, lone = rows.take()
        assert long["operation"] == "x" * 200
        assert lone["operation"] == "lone ? surrogate"

    play(server.url, odd)


def test_server_timing_names_come_to_an_end(server: FaultServer) -> None:
    """Each metric name is a column: a server that makes them up gets 64."""

    async def work(rows: Rows) -> None:
        for i in range(100):
            rows.recorder.known_metrics({f"m{i}": 1.0})
        assert rows.recorder.known_metrics({"m3": 2.0, "m99": 3.0}) == {"m3": 2.0}
        assert rows.recorder.known_metrics({"m99": 3.0}) is None

    play(server.url, work)


# -- what is sent ----------------------------------------------------------------------------------


def test_bodies_and_their_content_types(server: FaultServer) -> None:
    """json, data, content and params are sent as httpx would; None is a JSON body, no body is none."""

    async def work(rows: Rows) -> None:
        async def sent(**options: Any) -> tuple[str, str | None, str]:
            seen = (await rows.session.post("/echo", **options)).json()
            return seen["body"], dict(seen["headers"]).get("content-type"), seen["path"]

        assert await sent(json={"a": [1, None]}) == ('{"a":[1,null]}', "application/json", "/echo")
        assert await sent(json=None) == ("null", "application/json", "/echo")
        form = "application/x-www-form-urlencoded"
        assert await sent(data={"a": "b c", "d": [1, 2]}) == ("a=b+c&d=1&d=2", form, "/echo")
        assert await sent(content="plain") == ("plain", None, "/echo")
        assert await sent(content=b"\xff") == ("\xff", None, "/echo")
        assert await sent() == ("", None, "/echo")
        assert await sent(params={"q": "a&b", "r": [1, 2]}) == ("", None, "/echo?q=a%26b&r=1&r=2")
        seen = (await rows.session.get("/echo?x=1", params={"y": 2})).json()
        assert seen["path"] == "/echo?x=1&y=2"
        assert [row["bytes_sent"] for row in rows.take()] == [14, 4, 13, 5, 1, 0, 0, 0]

    play(server.url, work)


def test_of_headers_given_twice_the_nearest_counts(server: FaultServer) -> None:
    """Target, session, request, in any case of letters: each name is sent once; x-request-id is the row's."""

    async def work(rows: Rows) -> None:
        rows.session.headers = {"X-REQUEST-ID": "no", "Authorization": "Bearer user", "x-tenant": "one"}
        response = await rows.session.post(
            "/echo", json={}, headers={"X-Request-Id": "mine", "X-Tenant": "two", "Content-Type": "text/x"}
        )
        sent = response.json()["headers"]
        names = [name for name, _ in sent]
        assert len(names) == len(set(names))
        assert dict(sent) | {"host": ""} == {
            "host": "",
            "accept": "*/*",
            "authorization": "Bearer user",
            "x-tenant": "two",
            "content-type": "text/x",
            "x-request-id": "r-0",
            "content-length": "2",
        }
        assert rows.take()[0]["request_id"] == "r-0"

    play(server.url, work, {"headers": (("Accept", "*/*"), ("authorization", "Bearer target"))})


def test_what_is_kept_of_headers_is_never_another_request_s(server: FaultServer) -> None:
    """Headers that change between requests, of the same session or of another, are those that are sent; a
    refused one stays refused, and neither spoils the next."""

    async def work(rows: Rows) -> None:
        other = Session(rows.recorder, 1)

        async def sent(session: Session, **options: Any) -> dict[str, str]:
            seen = (await session.post("/echo", **options)).json()["headers"]
            return {name: value for name, value in seen if name in ("x-a", "content-type", "x-request-id")}

        json_type, form_type = "application/json", "application/x-www-form-urlencoded"
        for number in (0, 6):
            ids = [f"r-{number + i}" for i in range(6)]
            rows.session.headers = {"X-A": "1"}
            assert await sent(rows.session) == {"x-a": "1", "x-request-id": ids[0]}
            expected = {"x-a": "1", "x-request-id": ids[1], "content-type": json_type}
            assert await sent(rows.session, json=1) == expected
            expected = {"x-a": "2", "x-request-id": ids[2], "content-type": form_type}
            assert await sent(rows.session, data={"a": 1}, headers={"x-a": "2"}) == expected
            assert await sent(other) == {"x-request-id": ids[3]}
            rows.session.headers["X-A"] = "3"
            assert await sent(rows.session) == {"x-a": "3", "x-request-id": ids[4]}
            for _ in range(2):
                with pytest.raises(ValueError, match="line break"):
                    await sent(rows.session, headers={"x-a": "1\r\nx-b: 2"})
            del rows.session.headers["X-A"]
            assert await sent(rows.session) == {"x-request-id": ids[5]}

    play(server.url, work)


def test_the_heads_that_are_kept_come_to_an_end(server: FaultServer) -> None:
    """Ten thousand users with a token each do not make the worker grow without bound."""

    async def work(rows: Rows) -> None:
        for number in range(10_000):
            fields = rows.recorder.heads.get((("authorization", f"Bearer {number}"),), "", ()).fields
            assert fields["authorization"] == f"Bearer {number}"
        assert len(rows.recorder.heads._known) <= 4096

    play(server.url, work)


def test_numbers_interleave_between_workers(server: FaultServer) -> None:
    """Each request has the next number of its worker's share."""

    async def work(rows: Rows) -> None:
        for _ in range(3):
            await rows.session.get("/ok")
        assert [row["seq"] for row in rows.take()] == [2, 5, 8]

    play(server.url, work, {"first_seq": 2, "seq_stride": 3})


# -- what comes back -------------------------------------------------------------------------------


def test_a_response_speaks_httpx_s_language(server: FaultServer) -> None:
    """status_code, json, text, content, headers in any case, is_success, raise_for_status; gzip is undone."""

    async def work(rows: Rows) -> None:
        session = rows.session
        response = await session.get("/gzip")
        assert response.json() == {"zipped": True}
        assert response.text == '{"zipped": true}'
        assert rows.take()[0]["bytes_received"] == len(gzip.compress(b'{"zipped": true}'))
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.raise_for_status() is response
        assert (response.is_success, repr(response)) == (True, "<Response GET /gzip: 200 ok>")
        assert (await session.get("/bad-gzip")).text == "no gzip"
        assert (await session.get("/cookies")).headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert (await session.get("/odd-case")).headers["x-odd-case"] == "Yes"
        assert (await session.get("/latin1")).headers["x-name"] == "Jörg"
        for path in ("/json-nonsense", "/empty", "/binary-500"):
            with pytest.raises(ValueError, match=r"."):
                (await session.get(path)).json()
        for path, words in (
            ("/status/404", "answered 404: so it is"),
            ("/drop", r"failed \(reset\): the server"),
        ):
            response = await session.get(path)
            with pytest.raises(RequestFailed, match=words):
                response.raise_for_status()
            assert not response.is_success

    play(server.url, work)


def test_events_follow_the_standard(server: FaultServer) -> None:
    """Line ends of all three kinds, several data lines, one space after the colon, comments, other fields, a
    byte order mark; an event the stream did not finish is none."""
    exchange = Exchange()
    exchange.body = (
        "\ufeffdata: a\r\rdata:b\ndata:  c\n\n: no\n\nid: 1\n\ndata\n\ndatax: 1\r\n\r\ndata: end".encode()
    )
    assert Response(exchange, "GET", "/").events() == ["a", "b\n c", ""]


# -- judging ---------------------------------------------------------------------------------------


def test_a_check_makes_the_row_an_error(server: FaultServer) -> None:
    """False, a text or an exception is class check with the words; True and None pass; a failed request is
    not checked."""

    def raising(response: Response) -> bool:
        return bool(response.json()["none"])

    async def work(rows: Rows) -> None:
        step = rows.session.begin_step(0, rows.clock())
        checks: list[Any] = [lambda r: False, lambda r: "odd: " + r.text, lambda r: "", raising]
        for check in [*checks, lambda r: True, lambda r: None, lambda r: r.status_code == 200]:
            await rows.session.get("/ok", check=check)
        await rows.session.get("/status/500", check=raising)
        found = [(row["error"], row["error_text"]) for row in rows.take()]
        assert found[:3] == [("check", "check failed"), ("check", "odd: ok"), ("check", "check failed")]
        assert found[3][0] == "check"
        assert found[3][1].startswith("check raised DecodeError: ")
        assert found[4:7] == [(None, None)] * 3
        assert found[7] == ("http_5xx", "so it is")
        assert step.failed
        assert rows.recorder.buffer.failed == 5

    play(server.url, work)


class Checks:
    """A check that is no function."""

    def __call__(self, response: Response) -> bool:
        return self.nested(response)

    def nested(self, response: Response) -> bool:
        return bool(response.headers["none"])  # the innermost line of this file


def test_a_check_that_raises_names_its_line(server: FaultServer) -> None:
    """Its innermost line in the file it stands in, also where something it calls raised; a function without
    lines of Python has none."""
    line = inspect.getsourcelines(Checks.nested)[1] + 1

    async def work(rows: Rows) -> None:
        checks: list[Any] = [Checks(), lambda r: int("x"), operator.itemgetter(0)]
        for check in checks:
            await rows.session.get("/ok", check=check)
        object_, lambda_, builtin = [row["error_text"] for row in rows.take()]
        assert object_ == f"check raised KeyError: 'none' (test_session.py:{line})"
        assert re.fullmatch(r"check raised ValueError: .*'x' \(test_session\.py:\d+\)", lambda_)
        assert builtin.startswith("check raised TypeError: ")
        assert ".py:" not in builtin

    play(server.url, work)


async def get(session: Session, **options: Any) -> Response:
    return await session.get("/ok", **options)


#: What a step asks for, and what it is told.
ASKED: dict[str, tuple[Callable[[Session], Awaitable[Any]], str]] = {
    "timeout": (
        lambda s: get(s, timeout=3),
        r"no argument 'timeout'; did you mean timeout_s\? .*target.timeout_s",
    ),
    "expect": (lambda s: get(s, expect=404), "no argument 'expect'; did you mean ok?"),
    "no argument at all": (lambda s: get(s, xyzzy=1), "no argument 'xyzzy'; known: json, content"),
    "a name that is a number": (lambda s: get(s, name=5), "a text, not 5; leave it out"),
    "an empty name": (lambda s: get(s, name=""), "a text, not ''; leave it out"),
    "a check that is none": (
        lambda s: get(s, check="hello"),
        "check is a function of the response, not 'hello'",
    ),
    "a status that is a text": (lambda s: get(s, ok="404"), "such as 404 or .404, 409., not '404'"),
    "a status that is none": (lambda s: get(s, ok=4.04), "such as 404 or .404, 409., not 4.04"),
    "a path that is a number": (lambda s: s.get(5), "a text such as '/notes', not 5"),  # type: ignore[arg-type]
    "two bodies": (lambda s: get(s, json={}, data={"a": 1}), "keep one of them"),
    "two other bodies": (lambda s: get(s, content="x", data={"a": 1}), "keep one of them"),
    "params that are a list": (lambda s: get(s, params=[1]), r"params is the query, .*, not \[1\]"),
    "a body without its name": (
        lambda s: s.post("/items", {"a": 1}),
        r"arguments by name, not .'a': 1.; write json=, data= or content=",
    ),
    "a query without its name": (lambda s: s.get("/items", {"a": 1}), "by name, .*; write params="),
    "fetch": (lambda s: s.fetch("/"), "a session has no 'fetch'; did you mean get?"),
    "pots": (lambda s: s.pots("/"), "a session has no 'pots'; did you mean post?"),
}


@pytest.mark.parametrize(("ask", "says"), ASKED.values(), ids=ASKED)
def test_what_a_request_does_not_have_is_told(
    server: FaultServer, ask: Callable[[Session], Awaitable[Any]], says: str
) -> None:
    """One line says what was meant, or all there is; nothing is sent."""

    async def work(rows: Rows) -> None:
        with pytest.raises((TypeError, AttributeError), match=says) as caught:
            await ask(rows.session)
        assert "\n" not in str(caught.value)
        assert rows.take() == []

    play(server.url, work)


def test_what_a_response_does_not_have_is_told(server: FaultServer) -> None:
    """Names of other libraries lead to ours; a response has no others."""

    async def work(rows: Rows) -> None:
        response = await rows.session.get("/ok")
        for name, meant in {
            "status": "status_code",
            "ok": "is_success",
            "body": "content",
            "jsn": "json",
        }.items():
            with pytest.raises(AttributeError, match=f"a response has no '{name}'; did you mean {meant}\\?"):
                getattr(response, name)
        with pytest.raises(AttributeError, match="known: content, error, events, failure, headers"):
            response.elapsed  # noqa: B018

    play(server.url, work)


@pytest.mark.parametrize(
    ("ok", "path", "error"),
    [(404, "/status/404", None), ((404, 409), "/status/404", None), ((404,), "/status/403", "http_4xx"),
     ((404,), "/status/500", "http_5xx"), (500, "/status/500", None), ((), "/status/404", "http_4xx")],
)  # fmt: skip
def test_a_status_that_is_expected_is_no_error(
    server: FaultServer, ok: Any, path: str, error: str | None
) -> None:
    """`ok=404`: the row has no error, nothing is sent again, and a check may still look."""

    async def work(rows: Rows) -> None:
        response = await rows.session.get(path, ok=ok)
        assert response.error == error
        assert {row["error"] for row in rows.take()} == {error}
        if error is None:
            assert (await rows.session.get(path, ok=ok, check=lambda response: "no")).error == "check"

    play(server.url, work, retries=1)


def test_error_text_is_short_and_storable(server: FaultServer) -> None:
    """At most 300 characters of whatever the server says: no text at all, coded bodies, surrogates."""

    async def work(rows: Rows) -> None:
        await rows.session.get("/binary-500")
        await rows.session.get("/gzip-500")
        await rows.session.get("/ok", check=lambda r: "\ud800 \0" + "x" * 1000)
        binary, zipped, check = (row["error_text"] for row in rows.take())
        assert len(binary) == len(check) == 300
        assert zipped == "deep words"
        assert check.startswith("? \0x")

    play(server.url, work)


# -- retries and redirects -------------------------------------------------------------------------


def test_each_retry_is_a_row(server: FaultServer) -> None:
    """connect, reset and http_5xx are tried again at once: same seq and planned, attempt counted, started
    anew; other errors are not."""

    async def work(rows: Rows) -> None:
        rows.session.begin_step(7, rows.clock() - 5_000_000)
        response = await rows.session.get("/status/503")
        assert response.error == "http_5xx"
        first, second, third = rows.take()
        assert [row["attempt"] for row in (first, second, third)] == [1, 2, 3]
        assert first["planned"] == second["planned"] == third["planned"] < first["started"]
        assert first["started"] < first["done"] <= second["started"] < second["done"] <= third["started"]
        assert {row["seq"] for row in (first, second, third)} == {0}
        assert {row["step"] for row in (first, second, third)} == {7}
        for path in ("/status/404", "/garbage", "/ok"):
            await rows.session.get(path, check=lambda r: False)
            assert len(rows.take()) == 1
        await rows.session.get("/drop")  # on a connection that had served: once more, then the two retries
        assert [(row["attempt"], row["error"]) for row in rows.take()] == [(n, "reset") for n in (1, 2, 3, 4)]

    play(server.url, work, retries=2)


def test_redirects_are_off_by_default(server: FaultServer) -> None:
    """A redirect is class check and says where it led."""

    async def work(rows: Rows) -> None:
        response = await rows.session.get("/redirect/302/echo")
        assert (response.status_code, response.error) == (302, "check")
        text = rows.take()[0]["error_text"]
        assert text == "redirected (302) to /echo?after=redirect; redirects are off (target.follow_redirects)"
        assert server.hits["echo"] == before

    before = server.hits["echo"]
    play(server.url, work)


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        *((status, "GET", "GET") for status in (301, 302, 303, 307, 308)),
        *((status, "POST", "GET") for status in (301, 302, 303)),
        *((status, "POST", "POST") for status in (307, 308)),
        (301, "PUT", "PUT"),
        (302, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (308, "DELETE", "DELETE"),
    ],
)
def test_a_redirect_that_is_followed_is_a_row_of_its_own(
    server: FaultServer, status: int, method: str, then: str
) -> None:
    """The redirect is a row without error; what it leads to is a request of its own, with its own operation,
    number and id, planned when the redirect had come, and a first attempt. The method changes as in httpx;
    only the last response is checked."""
    checked = []

    async def work(rows: Rows) -> None:
        body = b"body" if method in ("POST", "PUT") else b""
        response = await rows.session.request(
            method,
            f"/redirect/{status}/echo",
            content=body,
            check=lambda r: bool(checked.append(r)) or None,
            name="page",
        )
        seen = response.json()
        assert (seen["method"], seen["path"]) == (then, "/echo?after=redirect")
        assert seen["body"] == (body.decode() if then == method else "")
        hop, last = rows.take()
        assert (hop["status"], hop["error"], hop["attempt"]) == (status, None, 1)
        assert (last["status"], last["error"], last["attempt"]) == (200, None, 1)
        assert [row["operation"] for row in (hop, last)] == ["page", "page (redirect)"]
        assert [row["request_id"] for row in (hop, last)] == ["r-0", "r-1"]
        assert dict(seen["headers"])["x-request-id"] == "r-1"
        assert last["bytes_sent"] == len(seen["body"])
        assert last["planned"] == last["started"] >= hop["done"]
        assert checked == [response]

    play(server.url, work, follow_redirects=True)


def test_every_form_of_location_is_followed(server: FaultServer) -> None:
    """UTF-8 as it is, the same host without a path, a query alone."""

    async def work(rows: Rows) -> None:
        seen = (await rows.session.get("/redirect/302/raw")).json()
        assert seen["path"] == "/echo/gr%C3%BCn?q=%E6%97%A5%E6%9C%AC"
        assert (await rows.session.get("/redirect/302/host-only")).text == "root"
        assert (await rows.session.get("/redirect/302/query-only")).error == "check"  # it leads to itself
        assert [row["error"] for row in rows.take()] == [None] * 4 + [None] * 10 + ["check"]

    play(server.url, work, follow_redirects=True)


def test_too_many_open_files_say_what_to_do() -> None:
    """The limit and the target's own are named, and what a refusal may mean; the system's words stay."""
    target = Target(url="http://127.0.0.1:1", connections=7000)
    words = os_words(OSError(errno.EMFILE, "Too many open files"), target)
    assert (
        words
        == "OSError: Too many open files; raise the limit (`ulimit -n`) or lower target.connections (7,000)"
    )
    refused = os_words(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), target)
    assert refused == "ConnectionRefusedError: Connection refused; is the server running there?"


def test_a_retry_after_a_redirect_is_one_of_the_new_request(server: FaultServer) -> None:
    """Attempts are counted anew behind a redirect; however long a name is, its suffix is not cut."""

    async def work(rows: Rows) -> None:
        assert (await rows.session.get("/redirect/302/broken", name="x" * 300)).status_code == 503
        made = rows.take()
        assert [(row["seq"], row["attempt"], row["status"]) for row in made] == [
            (0, 1, 302),
            (1, 1, 503),
            (1, 2, 503),
        ]
        assert [row["operation"] for row in made] == ["x" * 200, *["x" * 189 + " (redirect)"] * 2]

    play(server.url, work, follow_redirects=True, retries=1)


def test_requests_under_way_are_counted(server: FaultServer) -> None:
    """In flight: those sent and not yet ended; a retry, a redirect and one cut off leave nothing behind."""

    async def work(rows: Rows) -> None:
        await rows.session.get("/redirect/302/broken")
        assert rows.recorder.in_flight() == 0
        slow = [asyncio.create_task(rows.session.get("/slow/2000")) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert rows.recorder.in_flight() == 3
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert rows.recorder.in_flight() == 0

    play(server.url, work, follow_redirects=True, retries=1)


def test_opening_a_connection_is_told_apart_from_waiting(server: FaultServer) -> None:
    """`opening` has the number of each request whose first attempt dialled, and of no other."""

    async def work(rows: Rows) -> None:
        await rows.session.get("/ok")
        await rows.session.get("/ok")
        await rows.session.get("/drop")  # on a connection there was; its retry has to open one
        await rows.session.get("/ok")
        assert [row["attempt"] for row in rows.take()] == [1, 1, 1, 2, 3, 1]
        assert list(rows.recorder.opening.ns) == [0, 3]

    play(server.url, work, retries=1)


def test_redirects_stay_inside_the_target(server: FaultServer) -> None:
    """Full URLs of the target and relative ones are followed; another host, port or base path, a missing or
    unreadable place and an endless chain are a row of class check, and no other server is asked."""

    async def work(rows: Rows) -> None:
        for kind in ("url", "relative"):
            assert (await rows.session.get(f"/redirect/302/{kind}")).json()["path"] == "/echo"
        rows.take()
        asked = server.hits["echo"]
        for kind in ("other", "userinfo", "nowhere", "bad"):
            response = await rows.session.get(f"/redirect/302/{kind}")
            assert response.error == "check"
            (row,) = rows.take()
            assert "outside the target" in row["error_text"]
        assert server.hits["echo"] == asked
        assert (await rows.session.get("/redirect/307/loop")).error == "check"
        chain = rows.take()
        assert [row["error"] for row in chain] == [None] * 10 + ["check"]
        assert [row["seq"] for row in chain] == list(range(chain[0]["seq"], chain[0]["seq"] + 11))
        first, *rest = (row["operation"] for row in chain)
        assert (first, set(rest)) == ("GET /redirect/{id}/loop", {first + " (redirect)"})
        assert "10 redirects" in chain[-1]["error_text"]

    play(server.url, work, follow_redirects=True)

    async def below(rows: Rows) -> None:
        assert (await rows.session.get("/302/echo")).error == "check"  # /echo is not below /redirect
        assert (await rows.session.get("/302/loop")).error == "check"
        assert len(rows.take()) == 12

    play(server.url + "/redirect", below, follow_redirects=True)

    async def to_base(rows: Rows) -> None:  # which is not outside, though nothing stands there
        assert (await rows.session.get("/302/base")).error != "check"
        assert rows.take()[-1]["operation"].endswith(" (redirect)")

    play(server.url + "/redirect", to_base, follow_redirects=True)


def test_a_location_that_cannot_be_sent_leads_nowhere() -> None:
    """A control character that a transport lets through is the server's doing, and raises nothing."""
    exchange = Exchange()
    exchange.status, exchange.headers = 302, [(b"location", b"/a\x7fb")]
    target = Target(url="http://127.0.0.1:1", follow_redirects=True)
    assert redirected("GET", "/x", b"", exchange, target, 10, follow=True) is None
    assert "outside the target" in (exchange.error_text or "")


# -- secrets ---------------------------------------------------------------------------------------


def test_no_secret_comes_back_in_a_row(server: FaultServer) -> None:
    """Secrets of the run and of the request's own headers are cut out of what the server says, of what a
    check says and of what is raised."""
    secrets = ["run-secret-1", "key-secret-2", "cookie-secret-3", "user-secret-4"]

    async def work(rows: Rows) -> None:
        rows.session.headers = {"authorization": f"Bearer {secrets[1]}"}
        headers = {"Cookie": f"theme=dark; sid={secrets[2]}", "x-api-key": secrets[3], "x-other": secrets[0]}
        response = await rows.session.get("/reflect", headers=headers)
        with pytest.raises(RequestFailed) as failed:
            response.raise_for_status()
        await rows.session.get("/echo", headers=headers, check=lambda r: f"odd cookie {secrets[2]}: {r.text}")
        texts = [row["error_text"] for row in rows.take()]
        for text in (*texts, str(failed.value)):
            assert "***" in text
            assert not [secret for secret in secrets if secret in text], text

    play(server.url, work, {"redact": Redactor((secrets[0],))})


@given(
    secret=st.text("ab-", min_size=8, max_size=120),
    pieces=st.lists(st.sampled_from(["", "x", "yy zz", '"', "\n"]), min_size=1, max_size=40),
)
def test_redaction_finds_every_copy(secret: str, pieces: list[str]) -> None:
    """However often and wherever a secret stands, nothing of it is left."""
    text = Redactor((secret,))(secret.join(pieces))
    assert secret not in text


def test_a_secret_at_the_edge_is_not_cut_in_half(server: FaultServer) -> None:
    """The text is cut to 300 characters after the secrets are out, so no half secret remains at its end."""

    async def work(rows: Rows) -> None:
        secret = "s3cr3t" * 30
        for length in range(250, 310, 7):
            await rows.session.get(
                "/ok",
                headers={"x-api-key": secret},
                check=lambda r, length=length: "x" * length + secret * 12,
            )
        assert not any("s3c" in row["error_text"] for row in rows.take())

    play(server.url, work)


def test_secrets_in_headers() -> None:
    """Whole values, the part after the scheme word, and cookie values, of at least 8 characters each."""
    headers = {"Authorization": "Bearer abcdefgh", "accept": "text/html-and-more"}
    assert set(secrets_in(headers)) == {"Bearer abcdefgh", "abcdefgh"}
    assert set(secrets_in({"Authorization": "Bearer abc"})) == {"Bearer abc"}
    assert "abcdef123456" in secrets_in({"cookie": "sid=abcdef123456; b=2"})
    assert not {"1", "2"} & set(secrets_in({"cookie": "a=1; b=2"}))
    assert secrets_in({"x-access-token": ""}) == ()


# -- steps -----------------------------------------------------------------------------------------


def test_planned_belongs_to_a_step_s_first_request(server: FaultServer) -> None:
    """The first request has the step's planned instant, the next are planned when they start; what starts
    after the measured part is of phase drain."""

    async def work(rows: Rows) -> None:
        planned = rows.clock() - 10_000_000
        rows.session.begin_step(1, planned)
        await rows.session.get("/ok")
        await rows.session.get("/ok")
        rows.recorder.measure_ends = rows.clock()
        await rows.session.get("/ok")
        first, second, late = rows.take()
        assert first["planned"] == planned < first["started"]
        assert second["planned"] == second["started"]
        assert [row["phase"] for row in (first, second, late)] == ["measure", "measure", "drain"]

    play(server.url, work)


def test_undo_is_plain_data(server: FaultServer) -> None:
    """What is to be removed travels between processes with the headers of its moment."""

    async def work(rows: Rows) -> None:
        rows.session.headers["authorization"] = "Bearer a"
        rows.session.on_teardown("DELETE", "/x")
        rows.session.headers["authorization"] = "Bearer b"
        found = pickle.loads(pickle.dumps(rows.recorder.undo))
        assert found == [("DELETE", "/x", (("authorization", "Bearer a"),))]
        assert json.dumps(found)

    play(server.url, work)
