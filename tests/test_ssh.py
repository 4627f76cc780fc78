"""Load from two hosts over the real `ssh`: each host an SSH server in a network namespace of its own."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from perfkit.store import list_runs
from tests.drills.hosts import WIDE
from tests.kill_runs import Logged, Victim, logging_server, perfkit, victim, wait_until
from tests.ssh_hosts import SshHosts, ssh_hosts


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHosts]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture(scope="module")
def server(hosts: SshHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with logging_server(tmp_path_factory.mktemp("log") / "log", hosts.net.address) as running:
        yield running


def started(hosts: SshHosts, server: Logged, data: Path, *more: str) -> AbstractContextManager[Victim]:
    """Yield `perfkit run` on both hosts."""
    given = ("--scenario", "http_get", "--target", server.url, "--allow-target", hosts.net.address)
    shape = ("-s", "users.count=4", "-p", "path=/slow/5", "-s", f"spread.python={sys.executable}")
    command = perfkit("run", "-q", *given, "--data-dir", str(data), "--on", "ssh:host-0,host-1", *shape)
    environment = ("env", f"PATH={hosts.path}")
    return victim(*environment, *command, *WIDE, *more)


def test_two_hosts_over_ssh(hosts: SshHosts, server: Logged) -> None:
    """Every answered request is a row, from both hosts, whose clocks are known; nothing is left there."""
    data = hosts.data / "whole"
    with started(hosts, server, data, "-s", "users.duration_s=2") as run:
        assert (run.end(60), run.process.returncode) == ("", 0)
    (found,) = list_runs(data)
    rows = found.table(["seq", "worker"]).to_pydict()
    assert found.state == "complete"
    assert sorted(seq for _, seq in server.numbers(found)) == sorted(rows["seq"])
    assert len(set(rows["worker"])) >= 2
    shards = found.meta.raw["shards"]
    assert [one["host"] for one in shards] == ["host-0", "host-1"]
    assert all(abs(one["offset_ns"]) <= one["error_ns"] for one in shards)
    wait_until(lambda: not hosts.shards(), "end of the shards", 15)


def test_ctrl_c_ends_a_run_over_ssh_in_order(hosts: SshHosts, server: Logged) -> None:
    """The terminal's SIGINT goes to perfkit alone: the shards stop and no row is missing."""
    data = hosts.data / "interrupted"
    with started(hosts, server, data, "-s", "users.duration_s=60") as run:
        _wait_for_load(server, run, data)
        run.kill(signal.SIGINT)
        run.end(30)
    (found,) = list_runs(data)
    assert (found.state, found.meta.raw["reason"]) == ("aborted", "interrupted")
    assert sorted(seq for _, seq in server.numbers(found)) == sorted(found.table(["seq"]).to_pydict()["seq"])
    wait_until(lambda: not hosts.shards(), "end of the shards", 15)


def test_a_host_that_ssh_no_longer_reaches_aborts_the_run(hosts: SshHosts, server: Logged) -> None:
    """Its name stands in the reason; its shard, cut off, stops by itself."""
    data = hosts.data / "lost"
    with started(hosts, server, data, "-s", "users.duration_s=60") as run:
        _wait_for_load(server, run, data)
        hosts.net.hosts[1].swallow()
        said = run.end(60)
    (found,) = list_runs(data)
    assert found.state == "aborted"
    assert re.search(r"shard 1 on host host-1 was lost", str(found.meta.raw["reason"])), said
    assert "Traceback" not in said
    wait_until(lambda: not hosts.shards(), "end of the shards", 30)
    hosts.net.heal()


def _wait_for_load(server: Logged, run: Victim, data: Path) -> None:
    wait_until(
        lambda: run.process.poll() is not None or any(server.numbers(one) for one in list_runs(data)),
        "request",
    )
