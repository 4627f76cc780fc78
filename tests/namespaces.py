"""Hosts of a test: network namespaces on a bridge, each with an address that only this machine knows.

A process in one shares the disk and the clocks of this machine and nothing of its network: it reaches the
others only over the bridge, at whose address (`Network.address`) this machine itself is.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


class Host(NamedTuple):
    """One namespace."""

    name: str
    address: str

    def command(self, *words: str) -> tuple[str, ...]:
        """A command line that starts a program there; the process started is the program itself."""
        return ("ip", "netns", "exec", self.name, *words)

    def swallow(self) -> None:
        """Have everything swallowed, both ways, from now on: connections stay, nothing comes through."""
        _ip("-n", self.name, "route", "add", "blackhole", f"{self.address.rpartition('.')[0]}.0/25")
        _ip("route", "add", "blackhole", self.address)


class Network(NamedTuple):
    """This machine's own address on the bridge, and the hosts."""

    address: str
    hosts: tuple[Host, ...]


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Hosts that are gone when the block ends; skips the test where namespaces cannot be made."""
    dice = random.Random()
    prefix, mark = f"10.{dice.randrange(200, 250)}.{dice.randrange(256)}", f"pk{os.getpid()}"
    bridge = f"{mark}b"
    outside = [f"{mark}v{i}" for i in range(count)]
    hosts = tuple(Host(f"{mark}-{i}", f"{prefix}.{i + 2}") for i in range(count))
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge", "stp_state", "0")
            _ip("address", "add", f"{prefix}.1/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for host, device in zip(hosts, outside, strict=True):
                _ip("netns", "add", host.name)
                _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", host.name)
                _ip("link", "set", device, "master", bridge, "up")
                _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
                for name in ("lo", "eth0"):
                    _ip("-n", host.name, "link", "set", name, "up")
        except (OSError, subprocess.CalledProcessError) as failed:
            words = (getattr(failed, "stderr", "") or str(failed)).strip()
            pytest.skip(f"network namespaces cannot be made here ({words}): hosts were not tested")
        yield Network(f"{prefix}.1", hosts)
    finally:
        swallowed = (("route", "delete", "blackhole", host.address) for host in hosts)
        namespaces = (("netns", "delete", host.name) for host in hosts)
        # a namespace lives as long as a connection in it that nobody answers; its device goes at once
        devices = (("link", "delete", name) for name in (*outside, bridge))
        for words in (*swallowed, *namespaces, *devices):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip(*words)
