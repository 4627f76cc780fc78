"""Hosts of a test that the real `ssh` reaches: an SSH server in each of two network namespaces.

python -m tests.ssh_hosts FOLDER ADDRESS     is such a server; it ends with its standard input
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.dask_cluster import BOOT
from tests.kill_runs import Victim, victim
from tests.namespaces import Network, network

_PORT = 2222


class SshHosts:
    """Two hosts, `host-0` and `host-1` for `ssh`, neither of which sees the folder of runs."""

    def __init__(self, net: Network, path: Path, data: Path) -> None:
        self.net, self.data = net, data
        self.servers: list[Victim] = []
        #: PATH on which `ssh` knows the hosts and the key.
        self.path = f"{path}{os.pathsep}{os.environ['PATH']}"

    def shards(self) -> list[int]:
        """The processes that generate load, on all hosts."""
        return [pid for one in self.servers for pid in one.workers()]


@contextmanager
def ssh_hosts(folder: Path) -> Iterator[SshHosts]:
    """Yield two hosts; skips the test where hosts cannot be made or there is no `ssh`."""
    if (ssh := shutil.which("ssh")) is None:
        pytest.skip("no ssh on this machine: hosts over ssh were not tested")
    (data := folder / "data").mkdir()
    with ExitStack() as stack:
        net = stack.enter_context(network(2))
        _write_keys(folder, ssh, net)
        hosts = SshHosts(net, folder, data)
        for number, host in enumerate(net.hosts):
            boot = ("unshare", "--uts", "sh", "-c", BOOT.format(more=""), str(data), f"host-{number}")
            server = (sys.executable, "-m", "tests.ssh_hosts", str(folder), host.address)
            one = victim(*host.command(*boot, *server), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)  # fmt: skip
            hosts.servers.append(stack.enter_context(one))
        for started in hosts.servers:
            assert started.process.stdout is not None
            assert started.process.stdout.readline() == "ready\n"
        yield hosts


def _write_keys(folder: Path, ssh: str, net: Network) -> None:
    """A key of the hosts, one of their user, and an `ssh` that has read of both."""
    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
        key.write_public_key(folder / f"{name}.pub")
    public = (folder / "host.pub").read_text()
    known = "".join(f"[{host.address}]:{_PORT} {public}" for host in net.hosts)
    (folder / "known").write_text(known)
    common = f"""
        Port {_PORT}
        User somebody
        IdentityFile {folder}/user
        IdentitiesOnly yes
        StrictHostKeyChecking yes
        UserKnownHostsFile {folder}/known
    """
    each = [f"Host host-{i}\n  HostName {host.address}\n{common}" for i, host in enumerate(net.hosts)]
    (folder / "config").write_text("\n".join(each))
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    (folder / "ssh").chmod(0o755)


async def _carry_out(asked: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command as sshd does: by a shell, with the channel as its input and output."""
    assert asked.command is not None
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_shell(asked.command, stdin=pipe, stdout=pipe, stderr=pipe)
    await asked.redirect(child.stdin, child.stdout, child.stderr)
    asked.exit(await child.wait())


async def serve(folder: Path, address: str) -> None:
    """Be an SSH server until standard input ends."""
    await asyncssh.listen(
        address,
        _PORT,
        server_host_keys=[folder / "host"],
        authorized_client_keys=str(folder / "user.pub"),
        process_factory=_carry_out,
        encoding=None,
    )
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
