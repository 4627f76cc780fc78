"""A Dask cluster of a test: a scheduler on this machine, a worker on each of two hosts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from perfkit.drive.shards.launch_dask import workers_at
from perfkit.errors import PerfkitError
from tests.kill_runs import ROOT, Logged, Victim, logging_server, perfkit, victim, wait_until
from tests.namespaces import Network, network

#: A host has a name and a disk of its own: the folder of runs is not on it. $0: the folder, $1: the name.
BOOT = 'hostname "$1"; mount -t tmpfs none "$0" || exit 1; shift; {more}\nexec "$@"'
SCENARIO = ROOT / "perfkit" / "scenarios" / "http_get.py"
#: A worker that is started again has the address of the one before: what was pinned to it may run once more.
_WORKER_PORT = "8790"


class Cluster:
    """Two hosts, a server to be loaded, and the processes of Dask."""

    def __init__(self, net: Network, server: Logged, data: Path, stack: ExitStack) -> None:
        self.net, self.server, self.data, self._stack = net, server, data, stack
        self.address = f"tcp://{net.address}:8786"
        self.processes: list[Victim] = []  #: the scheduler, then a nanny with its worker on each host

    def start(self, more: str = "") -> None:
        """Start the scheduler and its workers afresh; more: what the shell of the last host does before."""
        self.stop()
        self._begin("scheduler", "--host", self.net.address, "--port", "8786")
        for number, host in enumerate(self.net.hosts):
            script = BOOT.format(more=more if number else "")
            boot = ("unshare", "--uts", "sh", "-c", script, str(self.data), f"host-{number}")
            options = ("--nthreads", "1", "--worker-port", _WORKER_PORT)
            folder = str(self.data.parent / host.name)
            self._begin("worker", self.address, *options, "--local-directory", folder,
                        before=host.command(*boot))  # fmt: skip
        self.wait()

    def _begin(self, what: str, *options: str, before: tuple[str, ...] = ()) -> None:
        module = (sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard")
        one = victim(*before, *module, *options, stderr=subprocess.DEVNULL)
        self.processes.append(self._stack.enter_context(one))

    def stop(self) -> None:
        """End all of it."""
        while self.processes:
            self.processes.pop().bury()

    def wait(self) -> None:
        """Wait until scheduler and workers know each other, as after a worker's end, and no shard is left."""
        wait_until(self._is_whole, "cluster of two workers")

    def _is_whole(self) -> bool:
        try:
            return len(workers_at(self.address)) == len(self.net.hosts)
        except PerfkitError:  # not yet
            return False

    def workers(self) -> list[int]:
        """The processes of the workers themselves, without their nannies."""
        return self._with("spawn_main")

    def shards(self) -> list[int]:
        """The processes that generate load, on all hosts."""
        return self._with("perfkit.drive.shards")

    def _with(self, words: str) -> list[int]:
        return [pid for one in self.processes[1:] for pid, command in one.alive().items() if words in command]

    def command(self, data: Path, *more: str) -> tuple[str, ...]:
        """`perfkit run` on the cluster, with enough load that every moment has requests."""
        given = ("--scenario", "http_get", "--target", self.server.url, "--allow-target", self.net.address)
        shape = ("-s", "users.count=6", "-s", "users.duration_s=60", "-p", "path=/slow/5")
        return perfkit(
            "run", "-q", *given, "--data-dir", str(data), "--on", f"dask:{self.address}", *shape, *more
        )


@contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a running cluster; skips the test where hosts cannot be made."""
    (folder / "data").mkdir()
    with ExitStack() as stack:
        net = stack.enter_context(network(2))
        server = stack.enter_context(logging_server(folder / "log", net.address))
        cluster = Cluster(net, server, folder / "data", stack)
        cluster.start()
        yield cluster
        cluster.stop()
