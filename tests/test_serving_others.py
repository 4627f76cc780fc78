"""What a server shows to others: it listens to this machine unless asked twice; --secure covers all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent_server.app import create_app
from agent_server.settings import Settings
from perfkit.drive.local_server import reference_server
from perfkit.errors import BadInput
from tests.server_fixture import RunningServer, client, running_server

PASSWORD = "correct horse"


def serve(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`perfkit serve` that is expected to give up at once."""
    command = [sys.executable, "-m", "perfkit.cli", "serve", "--port", "0"]
    command += ["--database-url", f"sqlite:///{tmp_path}/x.db", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "::ffff:0.0.0.0"])
def test_other_machines_are_not_let_in_by_one_option(host: str, tmp_path: Path) -> None:
    """--host alone: exit code 2, one line that names both ways on; nothing was listening."""
    done = serve(tmp_path, "--host", host)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--secure" in line
    assert "--insecure-public" in line


@pytest.mark.sampled(2)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machine_needs_no_second_option(host: str, tmp_path: Path) -> None:
    """Every loopback address is served without a word."""
    with running_server("--database-url", f"sqlite:///{tmp_path}/x.db", "--host", host) as server:
        assert "warning" not in server.complaints()
        assert httpx.get(f"{server.url}/v1/health", trust_env=False).status_code == 200


def test_asked_twice_it_serves_and_warns(tmp_path: Path) -> None:
    """--insecure-public: one line on standard error, and it answers."""
    options = ("--database-url", f"sqlite:///{tmp_path}/x.db", "--host", "0.0.0.0", "--insecure-public")
    with running_server(*options) as server:
        assert "warning: --host 0.0.0.0: every machine" in server.complaints()
        port = server.url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/health", trust_env=False).status_code == 200


@pytest.mark.parametrize("password", [(), ("--password", "")])
def test_secure_needs_a_password(password: tuple[str, ...], tmp_path: Path) -> None:
    """None, and an empty one, are none."""
    done = serve(tmp_path, "--host", "0.0.0.0", "--secure", *password)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--secure needs --password" in done.stderr


def test_a_workload_asks_twice_too(tmp_path: Path) -> None:
    """`server: {host: 0.0.0.0}` of a workload goes the same way."""
    options = {"host": "0.0.0.0", "database_url": f"sqlite:///{tmp_path}/x.db"}
    with pytest.raises(BadInput, match="--insecure-public"), reference_server(options):
        pass
    with reference_server(options | {"insecure_public": True}) as served:
        assert served.url.startswith("http://0.0.0.0:")


# -- --secure ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on every address that wants a key."""
    url = f"sqlite:///{tmp_path_factory.mktemp('secured')}/x.db"
    options = ("--host", "0.0.0.0", "--secure", "--password", PASSWORD, "--database-url", url)
    with running_server(*options) as server:
        yield server


def requests_of_every_route() -> list[tuple[str, str]]:
    """(method, path) of all routes the application has, but health's."""
    api = create_app(Settings(), "sqlite:///never-opened.db").openapi()["paths"]
    found = [
        (method.upper(), path.replace("{change}", "attach").replace("{", "").replace("}", ""))
        for path, methods in api.items()
        for method in methods
    ]
    about = [("GET", path) for path in ("/docs", "/redoc", "/openapi.json")]
    return [*(one for one in found if one[1] != "/v1/health"), *about]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": PASSWORD},
        {"authorization": f"Basic {PASSWORD}"},
        {"x-bare-password": "password wrong"},
        {"user_id": "user-00000000-0000-4000-8000-000000000000"},
        {"authorization": "Bearer \xe9"},
    ],
)
def test_every_route_but_health_wants_the_key(secured: RunningServer, headers: dict[str, str]) -> None:
    """401 without a key and with a wrong one: the API, its documentation, metrics, probes."""
    routes = requests_of_every_route()
    paths = {path for _, path in routes}
    assert {"/metrics", "/probe/samples", "/v1/agents"} <= paths
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    with client(f"http://127.0.0.1:{secured.url.rpartition(':')[2]}") as other:
        seen = {
            (method, path): other.request(method, path, headers=list(raw.items())).status_code
            for method, path in routes
        }
        assert set(seen.values()) == {401}, {one: status for one, status in seen.items() if status != 401}
        for slash in ("", "/"):
            assert other.get(f"/v1/health{slash}", headers=list(raw.items())).status_code == 200


def test_without_a_key_nothing_is_read(secured: RunningServer) -> None:
    """401 before a body is looked at, and for paths there are none of: a stranger learns nothing."""
    with client(f"http://127.0.0.1:{secured.url.rpartition(':')[2]}") as other:
        assert other.post("/v1/agents", content=b"{broken").status_code == 401
        assert other.options("/v1/agents").status_code == 401
        for path in ("/nothing", "//docs", "/docs/", "/docs/oauth2-redirect", "/v1/health/x", "/v1/HEALTH"):
            assert other.get(path).status_code == 401, path


def test_with_the_password_all_of_it_is_there(secured: RunningServer) -> None:
    """The documentation, the metrics and the API, for who has it."""
    with client(secured.url.replace("0.0.0.0", "127.0.0.1"), authorization=f"Bearer {PASSWORD}") as mine:
        for path in ("/docs", "/redoc", "/openapi.json", "/metrics", "/probe/samples", "/v1/agents"):
            assert mine.get(path).status_code == 200, path
        assert "/v1/agents" in mine.get("/openapi.json").text
        assert "/openapi.json" in mine.get("/docs").text
    assert "warning" not in secured.complaints()


def test_without_secure_the_documentation_is_open(sqlite_server: str) -> None:
    """On this machine, without --secure, a browser opens it."""
    with client(sqlite_server) as anybody:
        assert anybody.get("/docs").status_code == 200
        assert anybody.get("/openapi.json").json()["info"]["title"] == "perfkit reference agent server"
