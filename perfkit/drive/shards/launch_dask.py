"""Place shards on the workers of a Dask cluster.

Dask only places them: a task of a few milliseconds starts the shard as a process of its own, which claims its
part over its own connection. Dask may carry a task out twice (dask/distributed#7870); the second shard is
refused. A shard ends with its worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from perfkit.drive.shards.launchers import Invitation
from perfkit.errors import BadInput, PerfkitError, with_extra, words_of
from perfkit.parent import when_parent_ends
from perfkit.text import plain

_CONNECT_S = 5.0
#: So long may a shard write its last rows after its worker has ended.
_LAST_ROWS_S = 5.0
_FIRST = 1_000  #: priority of the tasks: whoever else uses the cluster waits for a moment only


class Dask:
    """Shards on all workers of a scheduler, `each` on every one of them."""

    own = False
    claim_s = 12.0

    def __init__(self, address: str, each: int = 1) -> None:
        """Connect to a scheduler (tcp://HOST:PORT); PerfkitError where there is none, or no worker."""
        self._client, self._address, self._each = _connected(address), address, each
        self._count = 0
        self._workers = _workers(self._client, address)
        self.listen: str | None = f"{_address_seen_from(self._workers)}:0"
        self._failed: dict[int, str] = {}

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        """See `Launcher`."""
        self._failed.clear()
        self._count = len(invitations)
        for one in invitations:
            future = self._client.submit(
                _start_shard, json.dumps(one._asdict()), key=f"perfkit-{one.run}-{one.shard}",
                workers=[self._worker(one.shard)], allow_other_workers=False, retries=0, pure=False,
                priority=_FIRST,
            )  # fmt: skip
            future.add_done_callback(lambda done, shard=one.shard: self._placed(shard, done))
        return {}

    def _placed(self, shard: int, future: Any) -> None:
        """Let go of a task: a finished one whose worker dies would be carried out again."""
        with contextlib.suppress(Exception):  # its worker has gone since: nobody claims its part
            why = future.exception() if future.status == "error" else future.result(timeout=_CONNECT_S)
            if why:
                self._failed[shard] = plain(f"Dask could not start it: {why}", most=300)
        future.release()

    def _worker(self, shard: int) -> str:
        return self._workers[shard // self._each % len(self._workers)]

    def place(self, shard: int) -> str:
        """See `Launcher`."""
        return f"Dask worker {self._worker(shard)}"

    def lost(self) -> Mapping[int, str]:
        """See `Launcher`."""
        if self._client.status != "running":
            return dict.fromkeys(range(self._count), f"the Dask scheduler at {self._address} has ended")
        return self._failed

    def stop(self, patience_s: float) -> None:
        """See `Launcher`; a shard ends when its coordinator has hung up, or with its worker."""
        self._client.close(timeout=patience_s)


def workers_at(address: str) -> list[str]:
    """Return the addresses of a scheduler's workers; PerfkitError where there is none, BadInput for what is
    no address."""
    with _connected(address) as client:
        return _workers(client, address)


def _workers(client: Any, address: str) -> list[str]:
    found = sorted(client.scheduler_info(n_workers=-1)["workers"])
    if not found:
        client.close()
        raise PerfkitError(f"the Dask cluster at {address} has no workers: start some, or scale it up")
    return found


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise with_extra(error) from None
    for handler in logging.getLogger("distributed").handlers:
        handler.setLevel(logging.CRITICAL)  # what matters of its complaints is told by us
    client: Any = Client.__new__(Client)
    try:
        client.__init__(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        client.status = "closed"  # half made: its end would wait for what never began, and complain
        kind = BadInput if isinstance(error, ValueError) else PerfkitError
        raise kind(f"no Dask scheduler at {address}: {plain(error, most=200)}") from None
    return client


def _address_seen_from(workers: Sequence[str]) -> str:
    """This machine's own address on the way to the workers: of those on other hosts, if there are any."""
    found = set()
    for worker in workers:
        host = urlsplit(worker).hostname or "127.0.0.1"
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect((host, 9))  # sends nothing
            found.add(str(route.getsockname()[0]))
    return min(found - {"127.0.0.1"}, default="127.0.0.1")


def _start_shard(invitation: str) -> str:
    """Start a shard that ends with this process, on a worker; returns why it could not be started, if so.

    Nothing is raised: of a task that fails Dask logs the arguments, and the secret is one.
    """
    try:
        _start_process(invitation)
    except Exception as error:
        return words_of(error)
    return ""


def _start_process(invitation: str) -> None:
    process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    told = {**json.loads(invitation), "worker_pid": os.getpid()}
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin:  # it is dead already: nobody claims its part
        process.stdin.write(json.dumps(told).encode() + b"\n")
    threading.Thread(target=process.wait, name="perfkit-shard", daemon=True).start()  # else it stays a zombie


def _take_part() -> None:
    """Be a shard that a line on standard input invites; what it complains of is in the worker's log."""
    from perfkit.drive.shards.joining import join
    from perfkit.drive.shards.shard import end_process

    given = json.loads(sys.stdin.readline())

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LAST_ROWS_S)
        end_process(1)  # a step holds the thread that a signal needs

    when_parent_ends(given["worker_pid"], end)
    try:
        join(given["address"], given["secret"], given["allow"], run=given["run"], shard=given["shard"])
    except PerfkitError as error:
        sys.exit(f"perfkit shard: {error}")


if __name__ == "__main__":
    _take_part()
