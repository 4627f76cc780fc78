"""Through a real proxy program: http and https, with its password, which no file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete, tokens_of
from perfkit.errors import BadInput
from perfkit.store import Run
from tests.fault_server import Authority, FaultServer
from tests.proxy_fixture import proxy

PASSWORD = "proxy-password-77"


def run(tmp_path: Path, server: FaultServer, through: str, **target: object) -> Run:
    """Twenty requests of two users through a proxy."""
    scenario = tmp_path / "mine.py"
    scenario.write_text(
        "async def step(session, state, rng):\n    await session.get('/ok/private-path?q=1', name='a')\n"
    )
    where = {"url": server.url, "transport": "httpx", "proxy": through, "proxy_auth_env": "PROXY_AUTH"}
    given = {"scenario": str(scenario), "target": where | target, "users": {"count": 2, "iterations": 20}}
    workload, module, params = complete(given, "test")
    return execute(workload, module, params, data_dir=tmp_path, tokens=tokens_of(workload))


@pytest.mark.parametrize("tls", [False, True])
def test_requests_go_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """All are answered; of an https target the proxy sees host and port, neither path nor query."""
    monkeypatch.setenv("PROXY_AUTH", f"me:{PASSWORD}")
    authority = Authority(tmp_path)
    server, log = FaultServer(authority.context() if tls else None), tmp_path / "proxy.log"
    server.start()
    try:
        with proxy(log, f"me:{PASSWORD}") as through:
            done = run(tmp_path, server, through, ca_file=authority.file)
    finally:
        server.stop()
    rows = done.table().to_pandas()
    assert rows["error"].isna().all(), set(rows["error_text"])
    assert (len(rows), server.hits.total()) == (20, 20)
    seen = log.read_text()
    assert str(server.port) in seen
    assert ("private-path" in seen) != tls
    for file in done.path.rglob("*"):
        assert file.is_dir() or PASSWORD.encode() not in file.read_bytes()


def test_a_password_the_proxy_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is a failed row, the run FAILED."""
    monkeypatch.setenv("PROXY_AUTH", "me:wrong-password")
    server = FaultServer()
    server.start()
    try:
        with proxy(tmp_path / "proxy.log", f"me:{PASSWORD}") as through:
            done = run(tmp_path, server, through)
    finally:
        server.stop()
    assert done.verdict.word == "FAILED"
    assert server.hits.total() == 0


def test_what_the_proxy_needs_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable without a colon, one that is not set, and one without a proxy."""
    server = FaultServer()
    server.port = 9  # nobody is asked
    monkeypatch.setenv("PROXY_AUTH", "no-colon")
    with pytest.raises(BadInput, match="must contain user:password"):
        run(tmp_path, server, "http://127.0.0.1:1")
    monkeypatch.delenv("PROXY_AUTH")
    with pytest.raises(BadInput, match="names PROXY_AUTH, which is not set"):
        run(tmp_path, server, "http://127.0.0.1:1")
    with pytest.raises(BadInput, match=r"proxy_auth_env is for target\.proxy"):
        run(tmp_path, server, "http://127.0.0.1:1", proxy=None)
