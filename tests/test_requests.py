"""What a request may carry besides its body: cookies, files, credentials; where it may go, how often."""

from __future__ import annotations

import asyncio
import base64
import email
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from perfkit.drive.load import cut_off
from perfkit.drive.rows import to_table
from perfkit.drive.session import Recorder, Session
from perfkit.drive.session.cookies import Jar
from perfkit.drive.session.retries import backoff_s
from perfkit.drive.spread import execute
from perfkit.drive.transport import loop_clock
from perfkit.drive.worker import make_transport
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.model import Target
from tests.fault_server import Authority, FaultServer, fault_server
from tests.shard_threads import Threads


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as one:
        yield one


class Rows:
    """A session and the rows it made."""

    def __init__(self, target: Target) -> None:
        clock = loop_clock(asyncio.get_running_loop())
        self.recorder = Recorder(make_transport(target), clock, target, id_prefix="r-")
        self.session = Session(self.recorder)

    def take(self) -> list[dict[str, Any]]:
        """The rows since the last call."""
        batch = self.recorder.buffer.take()
        rows = to_table(batch, scenario="test", worker=0, id_prefix="r-", origin_ns=0).to_pylist()
        return list(rows)


def play(url: str, work: Callable[[Rows], Awaitable[Any]], **target: Any) -> None:
    """Run `work(rows)` against a server."""

    async def run() -> None:
        rows = Rows(Target(url=url, **target))
        try:
            await work(rows)
        finally:
            await rows.recorder.transport.close()

    asyncio.run(run())


async def sent(session: Session, path: str = "/echo", **options: Any) -> dict[str, Any]:
    """The headers that a request came with, and its body as `body`."""
    seen = (await session.post(path, **options)).json()
    return {**dict(seen["headers"]), "body": seen["body"]}


# -- cookies ---------------------------------------------------------------------------------------


def test_a_user_keeps_its_cookies(server: FaultServer) -> None:
    """What a response sets is sent from then on, by this user only; an expired one and one of another path
    are not, and a request's own header counts more."""

    async def work(rows: Rows) -> None:
        other = Session(rows.recorder, 1)
        gone, far = quote("b=2; Max-Age=0", safe=""), quote("c=3; Path=/far", safe="")
        await rows.session.get(f"/set-cookie/{quote('a=1; Path=/', safe='')}/{gone}/{far}")
        assert (await sent(rows.session))["cookie"] == "a=1"
        assert rows.session.cookies == {"a": "1", "c": "3"}
        assert "cookie" not in await sent(other)
        assert (await sent(rows.session, headers={"Cookie": "mine=1"}))["cookie"] == "mine=1"
        rows.session.on_teardown("DELETE", "/echo")
        assert dict(rows.recorder.undo[0].headers) == {"cookie": "a=1"}
        rows.session.cookies = False
        assert "cookie" not in await sent(rows.session)

    play(server.url, work, cookies=True)


def test_cookies_are_kept_on_request(server: FaultServer) -> None:
    """By default none are; `session.cookies = True` keeps them for one user, whom a redirect after the login
    finds logged in. The cookie that the server repeats in an error is not recorded."""

    async def work(rows: Rows) -> None:
        await rows.session.get("/login", follow_redirects=False)
        assert "cookie" not in await sent(rows.session)
        rows.session.cookies = True
        rows.take()
        response = await rows.session.get("/login", name="in", follow_redirects=True)
        first, second = rows.take()
        assert (first["status"], second["status"]) == (302, 500)
        assert response.json()["cookie"] == "sid=open-sesame-42"
        assert '"cookie": "***"' in second["error_text"]
        with pytest.raises(TypeError, match="True or False"):
            rows.session.cookies = {"a": "1"}  # type: ignore[assignment]

    play(server.url, work)


@pytest.mark.parametrize(
    ("base", "set_cookie", "path", "value"),
    [
        ("http://localhost:8000", "a=1", "/x", "a=1"),
        ("http://localhost:8000/base", "a=1; Path=/base", "/x", "a=1"),
        ("http://localhost:8000", "a=1; Path=/x", "/xy", None),
        ("http://127.0.0.1", "a=1; Secure", "/", None),
        ("https://127.0.0.1", "a=1; Secure; HttpOnly; SameSite=Lax", "/", "a=1"),
        ("http://api.example.org", "a=1; Domain=example.org", "/", "a=1"),
        ("http://api.example.org", "a=1; Domain=other.org", "/", None),
        ("http://127.0.0.1", "a=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT", "/", None),
        ("http://127.0.0.1", 'a="q 1"', "/", 'a="q 1"'),
    ],
)
def test_the_rules_of_cookies(base: str, set_cookie: str, path: str, value: str | None) -> None:
    """Domain, path, Secure and expiry decide."""
    jar = Jar(base)
    assert jar.fields(path) == ()
    assert not jar.take("/x", [(b"date", b"today")])
    assert jar.take("/x", [(b"set-cookie", set_cookie.encode())])
    assert dict(jar.fields(path)).get("cookie") == value


# -- forms and credentials -------------------------------------------------------------------------


def test_files_are_sent_as_httpx_sends_them(server: FaultServer) -> None:
    """A multipart form with its fields, file names and types; a second request has the same header lines."""

    async def work(rows: Rows) -> None:
        files = {"doc": ("a.txt", b"some text", "text/plain"), "raw": b"\x00\xff"}
        seen = await sent(rows.session, files=files, data={"title": "Grün"})
        message = email.message_from_string(f"content-type: {seen['content-type']}\n\n{seen['body']}")
        parts = {one.get_param("name", header="content-disposition"): one for one in message.get_payload()}
        assert list(parts) == ["title", "doc", "raw"]
        assert parts["doc"].get_filename() == "a.txt"
        assert parts["doc"].get_content_type() == "text/plain"
        assert parts["doc"].get_payload() == "some text"
        assert (await sent(rows.session, files=files))["content-type"] == seen["content-type"]
        rows_sent = rows.take()
        assert rows_sent[0]["bytes_sent"] > rows_sent[1]["bytes_sent"] > 100

    play(server.url, work)


def test_credentials_are_sent_and_not_recorded(server: FaultServer) -> None:
    """Basic and Bearer, before any other header of that name; a server that repeats them tells nobody."""

    async def work(rows: Rows) -> None:
        pair = base64.b64encode("ada:öffne-dich".encode()).decode()
        assert (await sent(rows.session, auth=("ada", "öffne-dich")))["authorization"] == f"Basic {pair}"
        rows.session.headers = {"authorization": "of the session"}
        seen = await sent(rows.session, auth="token-of-ada", headers={"Authorization": "own", "x-a": "1"})
        assert (seen["authorization"], seen["x-a"]) == ("Bearer token-of-ada", "1")
        rows.take()
        await rows.session.get("/reflect", auth=("ada", "open-sesame"))
        await rows.session.get("/reflect", auth="token-of-ada")
        for row, secret in zip(rows.take(), ("YWRhOm9wZW4tc2VzYW1l", "token-of-ada"), strict=True):
            assert secret not in row["error_text"]
            assert "***" in row["error_text"]
        for wrong in (("a:b", "c"), ("a",), 7, ""):
            with pytest.raises(ValueError, match="the user without a colon"):
                await rows.session.get("/ok", auth=wrong)

    play(server.url, work)


# -- redirects and retries -------------------------------------------------------------------------


@pytest.mark.parametrize("follows", [True, False])
def test_a_request_decides_on_redirects(server: FaultServer, follows: bool) -> None:
    """`follow_redirects` of a request counts more than the target's; a redirect that it does not want to be
    followed is the answer it asked for."""

    async def work(rows: Rows) -> None:
        assert (await rows.session.get("/redirect/302/echo")).is_success is follows
        other = await rows.session.get("/redirect/302/echo", follow_redirects=not follows)
        assert (other.is_success, other.status_code) == (True, 302 if follows else 200)

    play(server.url, work, follow_redirects=follows)


def test_the_wait_before_a_retry() -> None:
    """It is random up to a bound that doubles, the same for the same step; Retry-After is the least, in
    seconds or as a date; 30 s are the most."""
    for retry, most in ((1, 0.1), (2, 0.2), (3, 0.4), (20, 30.0)):
        waits = {backoff_s(0.1, retry, (1, step, 1, retry), []) for step in range(200)}
        assert len(waits) == 200
        assert 0 <= min(waits) < most / 10
        assert 0.9 * most < max(waits) <= most
    assert backoff_s(0.1, 1, (1, 2), []) == backoff_s(0.1, 1, (1, 2), [])
    for value, low, high in (
        (b"7", 7, 7), (b"3600", 30, 30), (b"soon", 0, 0.1), (b"-5", 0, 0.1), (b"", 0, 0.1), (b"\xff", 0, 0.1),
        (formatdate(usegmt=True).encode(), 0, 0.1), (formatdate(4e9, usegmt=True).encode(), 30, 30),
    ):  # fmt: skip
        assert low <= backoff_s(0.1, 1, (1, 2), [(b"retry-after", value)]) <= high


def test_retries_wait(server: FaultServer) -> None:
    """With a backoff a retry starts after its wait, and so it does after 429; without one that is an error.
    Each attempt is a row of the same seq and the same planned instant."""

    async def work(rows: Rows) -> None:
        response = await rows.session.get("/flaky/1/503/1", name="a")
        first, second = rows.take()
        assert response.is_success
        assert (second["attempt"], second["seq"], second["planned"]) == (2, first["seq"], first["planned"])
        assert second["started"] - first["done"] >= 1e9
        assert (await rows.session.get("/flaky/1/429/0", name="b")).is_success
        assert (await rows.session.get("/flaky/9/503/0", name="c")).status_code == 503
        assert [row["attempt"] for row in rows.take()] == [1, 2, 1, 2]
        assert rows.recorder.in_flight() == 0

    play(server.url, work, retries=1, retry_backoff_s=0.01)

    async def at_once(rows: Rows) -> None:
        assert (await rows.session.get("/flaky/1/429/30?x")).status_code == 429

    play(server.url, at_once, retries=1)


def test_the_end_of_the_run_ends_a_wait(server: FaultServer) -> None:
    """Who waits for a retry when the run ends sends nothing more; its step was not stuck."""

    async def work(rows: Rows) -> None:
        step = rows.session.begin_step(1, 0)
        waiting = asyncio.ensure_future(rows.session.get("/flaky/5/503/30"))
        while not rows.recorder.retried:
            await asyncio.sleep(0.01)
        await cut_off([rows.recorder], lambda: {waiting} - ({waiting} if waiting.done() else set()))
        assert waiting.cancelled()
        assert (step.failed, step.cut) == (True, True)
        assert len(rows.take()) == 1
        assert rows.recorder.in_flight() == 0

    play(server.url, work, retries=3, retry_backoff_s=30)


# -- client certificates ---------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["wire", "httpx"])
def test_a_client_shows_its_certificate(tmp_path: Path, transport: str) -> None:
    """A server that asks for one gets it, through both transports; without it the row is an error."""
    authority = Authority(tmp_path)
    context = authority.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    cert, key = authority.client(tmp_path)

    async def work(rows: Rows) -> None:
        assert (await rows.session.get("/ok")).is_success

    async def refused(rows: Rows) -> None:
        assert (await rows.session.get("/ok")).error in ("connect", "reset")

    how = {"transport": transport, "ca_file": authority.file}
    with fault_server(context) as server:
        play(server.url, work, client_cert_file=cert, client_key_file=key, **how)
        play(server.url, refused, **how)


def test_certificates_that_cannot_be_used_are_bad_input(tmp_path: Path) -> None:
    """One line names the option and the file; nobody is asked for a passphrase."""
    cert, key = Authority(tmp_path).client(tmp_path)
    locked = tmp_path / "locked.pem"
    locked.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + base64.b64encode(b"0" * 90).decode() +
        "\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )  # fmt: skip
    for files, words in (
        ({"client_key_file": key}, "client_key_file is for target.client_cert_file"),
        ({"client_cert_file": str(tmp_path / "none.pem")}, "none.pem': not a regular file"),
        (
            {"client_cert_file": cert, "client_key_file": "/dev/zero"},
            "client_key_file '/dev/zero': not a regular",
        ),
        ({"client_cert_file": cert}, "with its key: "),
        ({"client_cert_file": cert, "client_key_file": str(locked)}, "with its key: "),
    ):
        with pytest.raises(BadInput) as caught:
            complete({"scenario": "http_get", "target": {"url": "http://127.0.0.1:1", **files}}, "test")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_cookies_are_in_no_file_of_a_run(server: FaultServer, tmp_path: Path) -> None:
    """A whole run with cookies: the server's secret is not in rows, run.json or any other file."""
    (tmp_path / "mine.py").write_text(
        "async def step(session, state, rng):\n"
        "    if session.cookies: raise KeyError(f'had {session.cookies}')\n"
        "    await session.get('/login', name='in')\n"
        "    raise ValueError(f'got {session.cookies}')\n"
    )
    given = {"scenario": str(tmp_path / "mine.py"), "users": {"count": 2, "iterations": 6}}
    given |= {"target": {"url": server.url, "cookies": True, "follow_redirects": True}}
    run = execute(*complete(given, "test"), data_dir=tmp_path, launcher=Threads())
    rows = run.table(["operation", "error"]).to_pandas()
    assert (rows["operation"] == "in (redirect)").sum() == 2  # the first step of each user
    texts = {one.text for one in run.meta.step_errors}
    assert texts == {
        "ValueError: got {'sid': '***'} (mine.py:4)",
        "KeyError: \"had {'sid': '***'}\" (mine.py:2)",
    }
    for file in run.path.rglob("*"):
        assert not file.is_file() or b"open-sesame" not in file.read_bytes(), file
    assert json.loads((run.path / "run.json").read_text())["target"]["cookies"] is True
