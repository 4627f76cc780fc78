"""`--on dask:` and any `distributed.Client`: Dask places shards, and nothing else rests on it."""

from __future__ import annotations

import gc
import json
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import perfkit
from perfkit.drive.running import checked
from perfkit.drive.shards.launch_dask import Dask, _start_shard
from perfkit.drive.shards.launchers import Invitation, processes_of
from perfkit.drive.spread import execute
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import Spread
from perfkit.store import Run, list_runs
from tests.small_server import SmallServer, small_server

WORKLOAD: dict[str, Any] = {
    "scenario": "http_get",
    "params": {"path": "/slow/100"},
    "users": {"count": 4, "iterations": 60},
    "budget": {"delay_ms": 10000, "cpu_share": 100, "gc_pause_ms": 60000},
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a cluster whose scheduler and two workers are threads of this process, reached over TCP."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "protocol": "tcp://"}
    with (
        LocalCluster(**options, host="127.0.0.1", dashboard_address=":0") as cluster,
        Client(cluster) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def run_on(launcher: Dask, server: SmallServer, data: Path) -> Run:
    """Carry the workload out in this process."""
    work = checked({**WORKLOAD, "target": {"url": server.url}, "processes": 2}, "", ())
    return execute(work.workload, work.scenario, work.params, data_dir=data, launcher=launcher)


def address_of(client: Client) -> str:
    """Of its scheduler."""
    return str(client.scheduler.address)


async def _run(workload: Mapping[str, Any], on: Any, data: Path) -> Any:
    return await perfkit.run(workload, on=on, data_dir=data, live=False)


def test_a_client_is_a_place(client: Client, server: SmallServer, tmp_path: Path) -> None:
    """`run(w, on=client)`: one shard on each worker, one run with all rows, and no task is left in Dask."""
    run = perfkit.run_sync({**WORKLOAD, "target": server.url}, on=client, data_dir=tmp_path, live=False)
    assert isinstance(run, Run)
    assert (run.state, run.row_count(), run.meta.raw["workload"]["processes"]) == ("complete", 60, 2)
    assert len({one["pid"] for one in run.meta.raw["shards"]}) == 2
    assert not client.cluster.scheduler.tasks


class _Twice(Dask):
    """Dask carries every task out a second time, as it may (dask/distributed#7870)."""

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        found = super().start(invitations)
        self.again = [
            self._client.submit(_start_shard, json.dumps(one._asdict()), key=f"again-{one.shard}")
            for one in invitations
        ]
        return found


def test_a_task_carried_out_twice_begins_no_second_load(
    client: Client, server: SmallServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second shard is refused and reported: every request was sent once."""
    before = server.requests.total()
    run = run_on(_Twice(address_of(client)), server, tmp_path)
    assert (run.state, run.row_count()) == ("complete", 60)
    assert server.requests.total() - before == 60
    assert "a shard was refused" in capfd.readouterr().err


def test_what_a_worker_cannot_start_is_named_and_no_secret_logged(
    client: Client, server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The run is aborted with the worker and its reason; what Dask logs of the task has no secret in it."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PerfkitError, match=r"shard \d on Dask worker tcp://.*/nowhere/python"):
        run_on(Dask(address_of(client)), server, tmp_path)
    assert list_runs(tmp_path)[0].state == "aborted"
    logged = caplog.text + capfd.readouterr().err
    assert "Compute Failed" not in logged  # with the task's arguments
    assert "secret" not in logged


def test_where_there_is_no_cluster_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler, no worker, no distributed, a scheduler that only its own process can reach."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(PerfkitError, match=f"no Dask scheduler at tcp://127.0.0.1:{port}"):
        Dask(f"tcp://127.0.0.1:{port}")
    quiet = {"processes": False, "dashboard_address": ":0"}
    tcp = {"protocol": "tcp://", "host": "127.0.0.1"}
    with (
        LocalCluster(n_workers=0, **tcp, **quiet) as empty,
        pytest.raises(PerfkitError, match="has no workers: start some"),
    ):
        Dask(empty.scheduler_address)
    with (
        LocalCluster(n_workers=0, **quiet) as empty,
        Client(empty) as inside,
        pytest.raises(BadInput, match="inproc"),
    ):
        perfkit.run_sync({**WORKLOAD, "target": "http://127.0.0.1:9"}, on=inside)
    with pytest.raises(BadInput, match=r"on: .* a dask.distributed Client"):
        perfkit.run_sync({**WORKLOAD, "target": "http://127.0.0.1:9"}, on=3)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PerfkitError, match=r"pip install 'perfkit\[dask\]'"):
        Dask("tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [("moon://127.0.0.1:1", BadInput, "unknown address scheme"), ("tls://127.0.0.1:1", PerfkitError, "TLS")],
)
def test_an_address_that_dask_cannot_use_is_one_line(
    address: str, kind: type[PerfkitError], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client that was only half made does not wait for its end, and complains of nothing."""
    with pytest.raises(PerfkitError, match=f"no Dask scheduler at {address}: .*{words}") as raised:
        processes_of(Spread(on=f"dask:{address}"))
    assert type(raised.value) is kind
    del raised
    gc.collect()
    assert capfd.readouterr() == ("", "")
