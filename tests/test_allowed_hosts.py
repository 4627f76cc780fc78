"""No host but this machine is connected to unless it was allowed by name, whatever it is needed for."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import ArgumentError

import perfkit
from agent_server.database import async_url
from perfkit import batch
from perfkit.compare import turns
from perfkit.drive.running import Checked, checked
from perfkit.errors import BadInput
from perfkit.hosts import addresses_of, database_hosts, is_loopback, require_allowed_hosts, split_address
from perfkit.model import Target, Workload
from perfkit.store import list_runs
from tests.small_server import small_server

STRANGER = "192.0.2.7"  # TEST-NET-1: nobody's

HERE = [
    "http://127.0.0.1:8000",
    "http://127.255.0.1",
    "http://localhost",
    "http://LOCALHOST:80",
    "HTTP://127.0.0.1",
    "https://[::1]:8283",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::ffff:127.0.0.1]",
    "http://[::FFFF:7f00:1]",
    "http://127.0.0.1:",
]
#: Hosts that are not this machine by name, though some may lead to it: they can be allowed.
ELSEWHERE = {
    "http://192.0.2.7": "192.0.2.7",
    "http://example.com:80": "example.com",
    "http://EXAMPLE.com.": "example.com.",
    "http://localhost.": "localhost.",
    "http://localhost.example.com": "localhost.example.com",
    "http://127.0.0.1.example.com": "127.0.0.1.example.com",
    "http://0.0.0.0": "0.0.0.0",
    "http://[::]": "::",
    "http://[fe80::1%lo]": "fe80::1%lo",
    "http://[::ffff:192.0.2.7]": "::ffff:192.0.2.7",
    "http://xn--lcalhost-54a.example": "xn--lcalhost-54a.example",
}
#: Addresses that two programs could read in two ways, or none: no --allow-target helps.
DOUBTFUL = [
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127.0.0.1\\@example.com/",
    "http://127.0.0.1\\.example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1/",
    "http:///127.0.0.1",
    "http:127.0.0.1",
    "//127.0.0.1",
    "127.0.0.1:80",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "http://",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:0",
    "http://127.0.0.1:\uff18\uff10",
    "http://\uff11\uff12\uff17.0.0.1",
    "http://l\u00f6calhost",
    "http://\u24dbocalhost",
    "http://127.0.0.1\t.example.com",
    "http://127.0.0.1\n.example.com",
    "http://127.0.0.1\r@example.com",
    "\thttp://127.0.0.1",
    " http://127.0.0.1",
    "http://127.0.0.1\x00.example.com",
    "http://127.0.0.1%2eexample.com",
    "http://%31%32%37.0.0.1",
    "http://[::1",
    "http://[::1].example.com",
    "http://[127.0.0.1]",
    "http://a..b",
    "http://127.1",
    "http://127.0.0.1.",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.1",
    "http://0177.0.0.1",
    "http\u017f://127.0.0.1",
]
DATABASES_HERE = [
    "sqlite:///agents.db",
    "sqlite+aiosqlite:////tmp/agents.db",
    "postgresql://me@localhost/agents",
    "postgres://me:hunter2@127.0.0.1:5432/agents",
    "postgresql+asyncpg://[::1]:5432/agents",
    "postgresql://me@/agents?host=/var/run/postgresql",
    "postgresql://me:p%40ss%2Fword@localhost/agents?sslmode=require",
    "postgresql://localhost/agents?host=127.0.0.1:5433",
    "postgresql://localhost,127.0.0.1/agents",
]
DATABASES_ELSEWHERE = [
    "postgresql://me:hunter2@192.0.2.7/agents",
    "postgresql://192.0.2.7:5432",
    "postgresql://localhost,192.0.2.7/agents",
    "postgresql://localhost/agents?host=192.0.2.7",
    "postgresql://localhost/agents?sslmode=require&host=192.0.2.7:5432",
    "postgresql://localhost/agents?host=localhost&host=192.0.2.7",
    "postgresql://localhost/agents?host=localhost,192.0.2.7",
    "postgresql://localhost/agents?host=%31%39%32.0.2.7",
    "postgresql://me@/agents?host=/var/run/postgresql,192.0.2.7",
]
DATABASES_DOUBTFUL = [
    "postgresql:///agents",  # asyncpg asks PGHOST
    "postgresql://me@/agents",
    "postgresql://me:hunter2/x@192.0.2.7/agents",  # the host ends where SQLAlchemy says, not urlsplit
    "postgresql://me:a@b@192.0.2.7/agents",
    "postgresql://localhost\\@192.0.2.7/agents",
    "host=192.0.2.7 dbname=agents",
    "mysql://localhost/agents",
    "sqlite://192.0.2.7/agents",
    "postgresql://localhost\n/agents",
    "None",
]


def given(**target: Any) -> dict[str, Any]:
    """A small workload on a target."""
    return {"scenario": "http_get", "users": {"count": 1, "iterations": 1}, "target": target}


@pytest.mark.parametrize("url", HERE)
def test_this_machine_needs_no_permission(url: str) -> None:
    """The loopback addresses in every spelling that is unmistakable, and `localhost`."""
    for name in ("url", "proxy", "probes_url", "metrics_url"):
        checked(given(**({"url": "http://localhost", "transport": "httpx"} | {name: url})), "test", ())


@pytest.mark.parametrize(("url", "host"), ELSEWHERE.items())
@pytest.mark.parametrize("field", ["url", "proxy", "probes_url", "metrics_url"])
def test_another_host_is_named_and_can_be_allowed(field: str, url: str, host: str) -> None:
    """The target, its proxy, its probes and metrics: the message has the host as --allow-target takes it."""
    workload = given(**({"url": "http://localhost", "transport": "httpx"} | {field: url}))
    with pytest.raises(BadInput) as refused:
        checked(workload, "test", ())
    assert f"--allow-target {host.lower()} " in str(refused.value)
    assert ("target." + field if field != "url" else "target ") in str(refused.value)
    assert checked(workload, "test", [host]).workload.target


@pytest.mark.parametrize("url", DOUBTFUL)
@pytest.mark.parametrize("field", ["url", "proxy", "probes_url", "metrics_url"])
def test_a_doubtful_address_is_refused_whatever_is_allowed(field: str, url: str) -> None:
    """What is checked is what is connected to, so an address is read in one way or not at all."""
    if field.endswith("s_url") and url == "http://127.0.0.1?@example.com/":
        return  # a query, on this machine
    workload = given(**({"url": "http://localhost", "transport": "httpx"} | {field: url}))
    with pytest.raises(BadInput) as refused:
        checked(
            workload, "test", ["example.com", "127.0.0.1.example.com", "localhost", "127.1", "2130706433"]
        )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", [*HERE, *ELSEWHERE, *DOUBTFUL])
def test_every_client_reads_an_accepted_address_alike(url: str) -> None:
    """httpx, which opens probes, metrics, the proxy and one of the transports, sees the checked host."""
    try:
        host = split_address(url, "test").hostname
    except BadInput:
        return
    assert host == httpx.URL(url).raw_host.decode("ascii").lower().strip("[]")


def test_a_proxys_user_is_not_its_host() -> None:
    """`http://127.0.0.1@example.com` is a user called 127.0.0.1 at example.com."""
    workload = given(url="http://localhost", transport="httpx", proxy="http://127.0.0.1@example.com")
    with pytest.raises(BadInput, match=r"target\.proxy example\.com is not this machine"):
        checked(workload, "test", ())
    checked(workload, "test", ["example.com"])
    for field, words in (("url", "token_env"), ("probes_url", "password"), ("metrics_url", "password")):
        for url in ("http://127.0.0.1@example.com/", "http://127.0.0.1:80@example.com/"):
            with pytest.raises(BadInput, match=words):
                checked(given(**({"url": "http://localhost"} | {field: url})), "test", ["example.com"])


def test_every_address_of_a_target_is_walked() -> None:
    """A field of Target that holds an address is under the guard, one added later too."""
    walked = {field.removeprefix("target").lstrip(".") or "url" for field, _ in addresses_of(Target())}
    assert walked == {f.name for f in dataclasses.fields(Target) if f.name.endswith(("url", "proxy"))}


@pytest.mark.parametrize("url", DATABASES_HERE)
def test_a_database_on_this_machine(url: str) -> None:
    """A file, a socket, a local PostgreSQL: for the server perfkit starts itself."""
    workload = Workload(scenario="http_get", server={"database_url": url})
    require_allowed_hosts(workload, ())


@pytest.mark.parametrize("name", ["database_url", "database-url"])
@pytest.mark.parametrize("url", DATABASES_ELSEWHERE)
def test_a_database_elsewhere_is_named_and_can_be_allowed(url: str, name: str) -> None:
    """Each host of the URL, in its middle or in its query; the password is not repeated."""
    workload = {"scenario": "http_get", "server": {name: url}}
    with pytest.raises(BadInput, match=r"server\.database_url 192\.0\.2\.7 .*--allow-target") as refused:
        checked(workload, "test", ())
    assert "hunter2" not in str(refused.value)
    checked(workload, "test", [STRANGER])


@pytest.mark.parametrize("url", DATABASES_DOUBTFUL)
def test_a_doubtful_database_is_refused(url: str) -> None:
    """One that could be read in two ways, or whose host the driver would look for somewhere else."""
    workload = {"scenario": "http_get", "server": {"database_url": url}}
    with pytest.raises(BadInput, match=r"server\.database_url") as refused:
        checked(workload, "test", [STRANGER])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", [*DATABASES_HERE, *DATABASES_ELSEWHERE])
def test_the_servers_driver_reads_an_accepted_database_alike(url: str) -> None:
    """Where the server's engine would connect to are the hosts that were checked."""
    parsed = async_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert database_hosts(url, "test") == []
        return
    try:
        _, options = PGDialect_asyncpg().create_connect_args(parsed)
    except ArgumentError:  # several hosts without ports: nothing is connected to
        return
    hosts = options["host"] if isinstance(options["host"], list) else options["host"].split(",")
    assert {host for host in hosts if not host.startswith("/")} <= set(database_hosts(url, "test"))


def test_the_database_in_the_environment_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The started server takes PERFKIT_SERVER_DATABASE_URL, so it is checked where none is named."""
    monkeypatch.setenv("PERFKIT_SERVER_DATABASE_URL", f"postgresql://{STRANGER}/agents")
    with pytest.raises(BadInput, match=r"PERFKIT_SERVER_DATABASE_URL 192\.0\.2\.7"):
        checked({"scenario": "http_get"}, "test", ())
    checked(given(url="http://localhost"), "test", ())
    checked({"scenario": "http_get", "server": {"database_url": "sqlite:///x.db"}}, "test", ())


@pytest.mark.parametrize("name", [f"database-url=postgresql://{STRANGER}/x", "Host", "-q", "", "a b"])
def test_a_server_option_is_a_name(name: str) -> None:
    """An option cannot bring another one along in its name."""
    with pytest.raises(BadInput, match="not an option"):
        checked({"scenario": "http_get", "server": {name: True}}, "test", ())


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("EXAMPLE.com", "http://example.COM"),
        ("example.com.", "http://example.com"),
        ("example.com", "http://example.com."),
        ("[2001:db8::1]", "http://[2001:DB8:0::1]"),
        ("2001:db8:0:0::1", "http://[2001:db8::1]:80"),
        ("192.0.2.7", "http://[::ffff:192.0.2.7]"),
    ],
)
def test_spellings_of_an_allowed_host(allowed: str, url: str) -> None:
    """Case, brackets, a trailing dot and the form of an address do not matter; a str is one name."""
    checked(given(url=url), "test", [allowed])
    checked(given(url=url), "test", allowed)


@pytest.mark.parametrize(
    "allowed",
    [
        "http://example.com",
        "example.com:80",
        "example.com/x",
        "",
        "*",
        "*.com",
        "exämple.com",
        "a b",
        None,
        7,
    ],
)
def test_an_allowed_host_is_a_host(allowed: Any) -> None:
    """A URL, a port, a pattern: refused with words, even where nothing needs it."""
    with pytest.raises(BadInput, match=r"--allow-target .*the host alone"):
        checked(given(url="http://localhost"), "test", [allowed])


def test_names_are_not_looked_up() -> None:
    """A name other than localhost is not this machine, whatever a name server says: nobody is asked."""
    assert is_loopback("localhost")
    assert not is_loopback(socket.gethostname())
    assert not is_loopback("ip6-localhost")


# -- every way to a run ------------------------------------------------------------------------------


def cli(*arguments: str, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """perfkit in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "perfkit.cli", *arguments, "--data-dir", str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_every_way_to_a_run_is_guarded(tmp_path: Path) -> None:
    """run, batch, both sides of a comparison, aa and perfkit.run_sync refuse before there is a folder."""
    data, file = tmp_path / "data", tmp_path / "w.yaml"
    proxied = given(url="http://127.0.0.1:9", transport="httpx", proxy=f"http://{STRANGER}:3128")
    file.write_text(json.dumps(proxied))
    words = f"--allow-target {STRANGER}"
    done = cli("run", str(file), data=data)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    for attempt in (
        lambda: batch.run_batch([file], data),
        lambda: turns.run_pairs(proxied, proxied, ("A", "B"), 1, data, (), show_progress=False),
        lambda: turns.measure_noise(file, 3, data, (), show_progress=False),
        lambda: perfkit.run_sync(file, data_dir=data, live=False),
        lambda: perfkit.run_sync(proxied, data_dir=data, live=False),
    ):
        with pytest.raises(BadInput, match=words):
            attempt()
    assert list_runs(data) == []


@pytest.mark.parametrize("verb", [("compare",), ("gate",), ("aa",)])
def test_comparing_verbs_are_guarded(verb: tuple[str, ...], tmp_path: Path) -> None:
    """The command line hands --allow-target to the same check."""
    file = tmp_path / "w.yaml"
    file.write_text(
        f"scenario: http_get\ntarget: {{url: 'http://localhost', metrics_url: 'http://{STRANGER}/m'}}\n"
    )
    sides = [str(file)] if verb == ("aa",) else [str(file), str(file)]
    done = cli(*verb, *sides, data=tmp_path / "data")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"--allow-target {STRANGER}" in done.stderr


def test_one_iterable_of_hosts_serves_all_sides(tmp_path: Path) -> None:
    """A generator of allowed hosts is read once, for every file of a batch and both sides of a comparison."""
    workload = given(url=f"http://{STRANGER}") | {"thresholds": ["nonsense"]}
    with pytest.raises(
        BadInput, match="threshold"
    ):  # not the host: the second side is checked like the first
        turns.run_pairs(
            given(url=f"http://{STRANGER}"),
            workload,
            ("A", "B"),
            1,
            tmp_path,
            iter([STRANGER]),
            show_progress=False,
        )


def test_two_scenario_files_of_one_name_stay_two(tmp_path: Path) -> None:
    """Sides are checked before the first run, so the second file must not take the place of the first."""
    works: list[Checked] = []
    for folder in ("before", "after"):
        file = tmp_path / folder / "mine.py"
        file.parent.mkdir()
        file.write_text(
            "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Params:\n    side: str = "
            f"'{folder}'\n\n\nasync def step(session, state, rng): ...\n"
        )
        works.append(checked(given(url="http://localhost") | {"scenario": str(file)}, folder, ()))
    assert [pickle.loads(pickle.dumps(work.params)).side for work in works] == ["before", "after"]


# -- the environment's proxies -----------------------------------------------------------------------


@contextmanager
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """A port of this machine where nobody may come by; yields its URL and what those who did sent."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(1000))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("transport", ["wire", "httpx"])
def test_proxies_of_the_environment_are_not_used(transport: str, tmp_path: Path) -> None:
    """HTTP_PROXY and ALL_PROXY lead neither the load nor the fetches of probes and metrics elsewhere."""
    with small_server() as server, trap() as (proxy, seen):
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {spelt: proxy for name in names for spelt in (name, name.lower())} | {"NO_PROXY": ""}
        url = server.url
        settings = [f"target.transport={transport}", "users.count=1", "users.iterations=3"]
        settings += [f"target.metrics_url={url}/metrics", f"target.probes_url={url}", "budget.delay_ms=10000"]
        more = [part for one in settings for part in ("-s", one)]
        done = cli(
            "run", "--scenario", "http_get", "--target", url, "-q", *more, data=tmp_path, **environment
        )
        assert server.requests["GET /v1/health/"] == 3, done.stderr
        assert server.requests["GET /metrics"]
    assert seen == []
