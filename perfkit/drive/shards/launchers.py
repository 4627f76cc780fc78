"""Place shards: as children of this process, over ssh, or by hand."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from perfkit.errors import BadInput, PerfkitError, unknown
from perfkit.model import Spread, Workload
from perfkit.text import plain

#: Where the secret of shards that are started by hand stands, and how long it is at least.
SECRET_ENV, LEAST_SECRET = "PERFKIT_SECRET", 16
#: So many of the last bytes of what ssh complains of are read.
_MOST_WORDS = 10_000
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from perfkit.drive.shards.boot import main; main()"


class Invitation(NamedTuple):
    """What a shard needs to claim its part. It never stands on a command line: whoever has it takes part."""

    run: str
    shard: int
    secret: str
    address: str = ""  #: HOST:PORT of the coordinator; empty where the connection is inherited
    allow: tuple[str, ...] = ()  #: hosts that may be loaded from there


class Launcher(Protocol):
    """Starts shards somewhere. It need not know what becomes of them: claims tell the coordinator."""

    own: bool  #: whether shards are children on this host, which may be handed a pickled state
    listen: str | None  #: HOST:PORT at which the coordinator waits for shards (port 0: any); None: inherited
    claim_s: float  #: so long may it take until every shard has claimed its part

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        """Start one shard for each; returns at once, with the connections that were inherited."""

    def place(self, shard: int) -> str:
        """Where a shard is, in words: `host a.example`."""

    def lost(self) -> Mapping[int, str]:
        """Shards that certainly do not run (any more), and why."""

    def stop(self, patience_s: float) -> None:
        """End what was started and has not ended by itself after so long; leaves no process behind."""


class _Children:
    """Processes of ours whose standard input and output are the connection."""

    own = False
    listen: str | None = None
    claim_s = 15.0
    #: Whether a terminal's Ctrl-C is kept from them: ssh would end, and a run is to be stopped in order.
    sessions = True

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._complaints: dict[int, IO[bytes]] = {}

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        """See `Launcher`."""
        found = {}
        for one in invitations:
            found[one.shard], theirs = socket.socketpair()
            with theirs:
                self._processes[one.shard] = subprocess.Popen(
                    self._command(one),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._stderr(one.shard),
                    start_new_session=self.sessions,
                )
            with contextlib.suppress(OSError):  # it has ended already: `lost` tells why
                found[one.shard].sendall(json.dumps(self._told(one)).encode() + b"\n")
        return found

    def _command(self, one: Invitation) -> list[str]:
        raise NotImplementedError

    def _stderr(self, shard: int) -> IO[bytes] | None:
        return None

    def _told(self, one: Invitation) -> dict[str, Any]:
        return one._asdict()

    def place(self, shard: int) -> str:
        """See `Launcher`."""
        return "this host"

    def lost(self) -> Mapping[int, str]:
        """See `Launcher`."""
        return {i: self._why(i) for i, one in self._processes.items() if one.poll() is not None}

    def _why(self, shard: int) -> str:
        return "its process died"

    def stop(self, patience_s: float) -> None:
        """See `Launcher`."""
        deadline = time.monotonic() + patience_s
        try:
            for one in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for one in self._processes.values():
                one.kill()
                one.wait()
            for file in self._complaints.values():
                file.close()


class Local(_Children):
    """Fresh processes on this host, which end with their coordinator."""

    own = True
    claim_s = float("inf")
    sessions = False

    def _command(self, one: Invitation) -> list[str]:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return [sys.executable, *flags, "-c", _BOOT, *sys.path]

    def _told(self, one: Invitation) -> dict[str, Any]:
        return {**super()._told(one), "parent": os.getpid()}


class Ssh(_Children):
    """Shards on other hosts, `each` on every one of them; the connection is that of ssh, encrypted by it."""

    def __init__(self, hosts: Sequence[str], each: int, python: str) -> None:
        super().__init__()
        self._hosts, self._each, self._python = hosts, each, python

    def _command(self, one: Invitation) -> list[str]:
        options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
        return ["ssh", *options, "--", self._hosts[one.shard // self._each],
                f"{self._python} -m perfkit.drive.shards"]  # fmt: skip

    def _stderr(self, shard: int) -> IO[bytes] | None:
        self._complaints[shard] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `stop`
        return self._complaints[shard]

    def place(self, shard: int) -> str:
        """See `Launcher`."""
        return f"host {self._hosts[shard // self._each]}"

    def _why(self, shard: int) -> str:
        try:
            fd = self._complaints[shard].fileno()
            last = os.pread(fd, _MOST_WORDS, max(0, os.fstat(fd).st_size - _MOST_WORDS))
            lines = last.decode(errors="replace").strip().splitlines()
        except ValueError:  # closed: nobody waits for it any more
            lines = []
        return plain(lines[-1], most=300) if lines else f"ssh ended with {self._processes[shard].returncode}"


class ByHand:
    """Shards that somebody starts with `perfkit shard --join`."""

    own = False
    claim_s = float("inf")

    def __init__(self, listen: str) -> None:
        self.listen: str | None = listen

    def start(self, invitations: Sequence[Invitation]) -> Mapping[int, socket.socket]:
        """See `Launcher`."""
        return {}

    def place(self, shard: int) -> str:
        """See `Launcher`."""
        return "a host that has not joined"

    def lost(self) -> Mapping[int, str]:
        """See `Launcher`."""
        return {}

    def stop(self, patience_s: float) -> None:
        """See `Launcher`."""


#: Where shards may be, as `spread.on` or --on has it.
FORMS = {
    "local": "local:N processes of this host",
    "ssh": "ssh:HOST1,HOST2,… over ssh, without a password",
    "dask": "dask:tcp://HOST:8786, the scheduler of a Dask cluster",
    "join": "join:N shards that `perfkit shard --join` starts by hand",
}


def processes_of(spread: Spread) -> int | None:
    """Return how many shards a spread asks for; None where it does not say. BadInput for no place."""
    kind, colon, rest = spread.on.partition(":")
    if kind not in FORMS:
        raise unknown("value of spread.on:", kind, FORMS)
    form = FORMS[kind]
    if kind != "join" and spread.listen != Spread().listen:
        raise BadInput(f"spread.listen is only for spread.on join:N: nobody connects on {kind}")
    if kind == "ssh":
        hosts = _hosts(rest)
        if not hosts or not all(hosts) or any(one[0] == "-" or one.split() != [one] for one in hosts):
            raise BadInput(f"spread.on {spread.on!r:.80}: give {form}")
        if len(set(hosts)) < len(hosts):
            words = "a host is there twice; raise processes_per_host instead"
            raise BadInput(f"spread.on {spread.on!r:.80}: {words}")
        return len(hosts) * spread.processes_per_host
    if kind == "dask":
        if not _is_scheduler(rest):
            raise BadInput(f"spread.on {spread.on!r:.80}: give {form}")
        from perfkit.drive.shards.launch_dask import workers_at

        return len(workers_at(rest)) * spread.processes_per_host
    if kind == "local" and not colon:
        return None
    if not (rest.isascii() and rest.isdigit() and 1 <= int(rest) <= 1_024):
        raise BadInput(f"spread.on {spread.on!r:.80}: give {form}, 1 to 1,024")
    if kind == "join":
        _require_listen(spread.listen)
    return int(rest)


def launcher_of(workload: Workload) -> Launcher:
    """Return what places the shards of a workload."""
    spread = workload.spread or Spread()
    kind, _, rest = spread.on.partition(":")
    if kind == "ssh":
        return Ssh(_hosts(rest), spread.processes_per_host, spread.python)
    if kind == "dask":
        from perfkit.drive.shards.launch_dask import Dask

        return Dask(rest, spread.processes_per_host)
    return ByHand(spread.listen) if kind == "join" else Local()


def spread_on(on: object) -> dict[str, str]:
    """Return the `spread` of a place: a text as --on has it, or a dask.distributed Client of a scheduler."""
    if isinstance(on, str):
        return {"on": on}
    address = getattr(getattr(on, "scheduler", None), "address", None)
    if not isinstance(address, str):
        raise BadInput(f"on: expected {', '.join(FORMS)} or a dask.distributed Client, got {on!r:.80}")
    if address.startswith("inproc:"):
        words = "is inside this process: use LocalCluster(processes=True), or on='local:N'"
        raise BadInput(f"on: the scheduler of the Client ({address}) {words}")
    return {"on": f"dask:{address}"}


def _require_listen(address: str) -> None:
    """BadInput unless it is HOST:PORT; port 0: any."""
    host, _, port = address.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if (
        not host
        or (":" in host and not in_brackets)
        or not (port.isascii() and port.isdigit())
        or int(port) > 65_535
    ):
        words = "give HOST:PORT, this machine's address as the other hosts know it; port 0 is any"
        raise BadInput(f"spread.listen {address!r:.80}: {words}")


def listening(address: str) -> socket.socket:
    """Listen at HOST:PORT; PerfkitError where that cannot be."""
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host.strip("[]"), int(port)), backlog=1024)
    except (OSError, ValueError, OverflowError) as error:
        raise PerfkitError(
            f"cannot listen at {address}: {getattr(error, 'strerror', None) or error}"
        ) from None


def _is_scheduler(address: str) -> bool:
    """Whether it may be the address of one: with a host and a port, and not inside a process."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        return bool(parts.scheme != "inproc" and parts.hostname and parts.port)
    except ValueError:
        return False


def _hosts(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]
