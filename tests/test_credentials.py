"""Credentials go to the target's own origin, and to no other: sources, redirects, retries, proxies."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perfkit.drive.collect import Collector
from perfkit.drive.session import Recorder, Session
from perfkit.drive.transport import loop_clock, origin
from perfkit.drive.worker import make_transport
from perfkit.drive.workloads import complete, tokens_of, with_server
from perfkit.errors import BadInput
from perfkit.model import Target, Tokens, Workload
from perfkit.store import RunFolder, list_runs
from tests.fault_server import Authority, fault_server
from tests.small_server import SmallServer, small_server
from tests.test_secrets import play

TOKENS = Tokens("target-token", "probes-token", "metrics-token")
WAYS = pytest.mark.parametrize("transport", ["wire", "httpx"])


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


@pytest.fixture
def other() -> Iterator[SmallServer]:
    with small_server() as running:
        running.page = "x 1\n"
        yield running


def authorizations(server: SmallServer) -> set[str | None]:
    """What came as `Authorization`."""
    return {head.get("authorization") for head in server.heads}


def collect(folder: Path, target: Target, tokens: Tokens) -> list[dict[str, Any]]:
    """Fetch each source of a target at least once; what the collector says of them."""
    made = RunFolder.create(folder, "test")
    made.write_meta({"state": "running", "schema": 1})
    collector = Collector(made.path, target, time.monotonic_ns(), tokens)
    collector.start()
    told = collector.stop()
    made.close()
    return told


# -- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["probes", "metrics"])
def test_a_source_elsewhere_gets_its_own_token_only(
    server: SmallServer, other: SmallServer, tmp_path: Path, kind: str
) -> None:
    """On another port it gets none of the target; on the target's origin it gets the target's, unless it has
    one of its own."""
    field = f"{kind}_url"
    for url, tokens, expected in (
        (other.url, TOKENS._replace(probes=None, metrics=None), None),
        (other.url, TOKENS, f"Bearer {kind}-token"),
        (server.url, TOKENS._replace(probes=None, metrics=None), "Bearer target-token"),
        (server.url, TOKENS, f"Bearer {kind}-token"),
    ):
        target = Target(url=server.url, headers={"x-api-key": "of-the-target"}, **{field: f"{url}/metrics"})
        server.heads.clear()
        other.heads.clear()
        collect(tmp_path, target, tokens)
        asked = server if url == server.url else other
        assert authorizations(asked) == {expected}
        assert not any("x-api-key" in head for head in other.heads)


def test_what_an_origin_is() -> None:
    """Scheme, host and port, the default port named or not, letter case of no account."""
    assert origin("http://Example.com/a") == origin("http://example.com:80/b?c")
    assert origin("https://h") == origin("https://h:443")
    for url in ("https://h:1", "http://h:2", "http://i:1", "http://h.i:1"):
        assert origin(url) != origin("http://h:1")


def test_a_source_that_redirects_is_not_followed(
    server: SmallServer, other: SmallServer, tmp_path: Path
) -> None:
    """Neither to another origin nor within its own: the answer is said to be a redirect."""
    target = Target(url=server.url, metrics_url=f"{server.url}/redirect/307")
    server.redirects_to = f"{other.url}/metrics"
    (told,) = collect(tmp_path, target, TOKENS)
    assert "307" in told["error"]
    assert not other.requests


def test_tokens_come_from_their_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named by the target; one that is not set is refused by its name, as is one without its URL."""
    for name in ("ONE", "TWO", "THREE"):
        monkeypatch.setenv(name, f"token-{name}")
    target = Target(url="http://h", token_env="ONE", probes_token_env="TWO", metrics_token_env="THREE")
    assert tokens_of(Workload(scenario="x", target=target)) == ("token-ONE", "token-TWO", "token-THREE", None)
    monkeypatch.delenv("THREE")
    with pytest.raises(BadInput, match="metrics_token_env names THREE"):
        tokens_of(Workload(scenario="x", target=target))
    given = {"scenario": "http_get", "target": {"url": "http://127.0.0.1", "probes_token_env": "TWO"}}
    with pytest.raises(BadInput, match=r"probes_token_env is for target\.probes_url"):
        complete(given, "x.yaml")


def test_the_instances_perfkit_starts_are_the_target(tmp_path: Path) -> None:
    """Each has a port of its own, and wants the password for its probes: it gets it."""
    workload = {
        "scenario": "http_get",
        "params": {"path": "/v1/health"},
        "target": {"token_env": "MY_TOKEN"},
        "server": {"instances": 2, "secure": True, "password": "open-sesame"},
    }
    done = play(tmp_path, workload, MY_TOKEN="open-sesame")
    (run,) = list_runs(tmp_path)
    assert run.state == "complete", done.stderr
    assert len(run.meta.probes) == 2
    assert all(source.errors == 0 and source.samples for source in run.meta.probes), run.meta.probes
    given = Workload(scenario="x", target=Target(token_env="MY_TOKEN", probes_url="http://h"))
    assert with_server(given, "http://127.0.0.1:1", ("http://127.0.0.1:2",)).target.probes_token_env is None


# -- requests --------------------------------------------------------------------------------------


def send(
    server: SmallServer, transport: str, *requests: tuple[str, dict[str, str]], **target: Any
) -> list[Any]:
    """Requests with a token, one after the other; the responses."""

    async def work() -> list[Any]:
        where = Target(**{"url": server.url, "transport": transport, "follow_redirects": True, **target})
        recorder = Recorder(
            make_transport(where),
            loop_clock(asyncio.get_running_loop()),
            where,
            (("authorization", "Bearer target-token"),),
        )
        session = Session(recorder)
        try:
            return [await session.get(path, headers=headers) for path, headers in requests]
        finally:
            await recorder.transport.close()

    return asyncio.run(work())


@WAYS
def test_no_redirect_leads_elsewhere(server: SmallServer, other: SmallServer, transport: str) -> None:
    """Another port, another name for the same machine, another scheme, a path that is an address: each is an
    error of the row, and the other server is never asked."""
    port = server.url.rpartition(":")[2]
    places = (
        other.url,
        f"//{other.url[7:]}/x",
        f"http://localhost:{port}/",
        f"https://127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}@{other.url[7:]}/",
        f"http:\\\\{other.url[7:]}/x",
        f"\\\\{other.url[7:]}/x",
    )
    for status in (301, 302, 307, 308):
        requests = [(f"/redirect/{status}", {"x-to": place}) for place in places[:5]]
        for response in send(server, transport, *requests):
            assert response.error == "check"
            assert response.status_code == status
    send(server, transport, *(("/redirect/302", {"x-to": place}) for place in places[5:]))
    send(server, transport, ("/redirect/302", {"x-to": "/ok"}))
    assert not other.requests
    assert server.requests["GET /ok"] == 1
    assert authorizations(server) == {"Bearer target-token"}


@WAYS
def test_a_path_is_never_an_address(server: SmallServer, other: SmallServer, transport: str) -> None:
    """`//host/…` is a path of the target; a whole URL is refused."""
    send(server, transport, (f"//{other.url[7:]}/x", {}), (f"/\\{other.url[7:]}/x", {}))
    with pytest.raises(ValueError, match="must start with /"):
        send(server, transport, (f"{other.url}/x", {}))
    assert len(server.heads) == 2
    assert not other.requests


@WAYS
def test_retries_go_to_the_target(server: SmallServer, other: SmallServer, transport: str) -> None:
    """A failed answer that names another place is asked for again where it was."""
    (response,) = send(server, transport, ("/redirect/503", {"x-to": other.url}), retries=2)
    assert response.status_code == 503
    assert server.requests["GET /redirect/503"] == 3
    assert not other.requests


@contextmanager
def tunnel() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy for CONNECT; its URL, and the heads it was sent in clear."""
    heads: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def pipe(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n") and (data := client.recv(1)):
                head += data
            heads.append(head)
            host, _, port = head.split()[1].decode().rpartition(":")
            with client, socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pipe, args=(server, client))
                back.start()
                pipe(client, server)
                back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://me:proxy-password@127.0.0.1:{listening.getsockname()[1]}", heads
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_a_proxy_of_a_target_without_tls_gets_the_whole_address(server: SmallServer) -> None:
    """The path goes out as it was given, as with no proxy in between."""
    target = {"url": "http://127.0.0.1:1/base", "proxy": server.url}
    send(server, "httpx", ("/a/../b//%7ec?d=%2f..", {}), **target)
    assert dict(server.requests) == {"GET http://127.0.0.1:1/base/a/../b//%7ec?d=%2f..": 1}


def test_a_proxy_does_not_see_the_token(tmp_path: Path) -> None:
    """To a TLS target it carries what it cannot read; the target does not see the proxy's password."""
    authority = Authority(tmp_path)
    with fault_server(authority.context(http2=False)) as secured, tunnel() as (proxy, heads):

        async def work() -> Any:
            target = Target(url=secured.url, transport="httpx", proxy=proxy, verify_tls=False)
            headers = (("authorization", "Bearer target-token"),)
            clock = loop_clock(asyncio.get_running_loop())
            recorder = Recorder(make_transport(target), clock, target, headers)
            try:
                return await Session(recorder).get("/reflect")
            finally:
                await recorder.transport.close()

        response = asyncio.run(work())
    assert "Bearer target-token" in response.text
    assert "proxy-authorization" not in response.text.lower()
    (head,) = heads
    assert b"proxy-authorization" in head.lower()
    assert b"target-token" not in head
    assert b"\r\nauthorization" not in head.lower()


@WAYS
def test_nothing_of_the_environment_is_sent(
    server: SmallServer, other: SmallServer, tmp_path: Path, transport: str
) -> None:
    """A .netrc with a password for the host, and proxies named in variables, mean nothing to a run."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password of-the-netrc\n")
    server.page = "x 1\n"
    target = {"url": server.url, "transport": transport, "metrics_url": f"{server.url}/metrics"}
    environment = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), other.url)
    done = play(
        tmp_path, {"scenario": "http_get", "target": target}, NETRC=str(netrc), NO_PROXY="", **environment
    )
    (run,) = list_runs(tmp_path)
    assert (run.state, run.meta.probes[0].errors) == ("complete", 0), done.stderr
    assert authorizations(server) == {None}
    assert not other.requests
