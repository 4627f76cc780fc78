"""The hosts that tests make are hosts: they reach each other, are swallowed on demand, and go away."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces import network

_ECHO = """
import socket
server = socket.create_server(("", 7000))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""


def test_a_host_is_reached_until_its_network_swallows_everything() -> None:
    """A connection passes bytes both ways, then stays open in silence; nothing of the hosts is left."""
    with network(2) as net:
        command = net.hosts[1].command(sys.executable, "-c", _ECHO)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                with socket.create_connection((net.hosts[1].address, 7000), 5) as connection:
                    connection.sendall(b"one")
                    assert connection.recv(100) == b"one"
                    net.hosts[1].swallow()
                    connection.sendall(b"two")
                    connection.settimeout(0.5)
                    with pytest.raises(TimeoutError):
                        connection.recv(100)
            finally:
                process.kill()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(host.name in names for host in net.hosts)
    assert net.hosts[1].address not in Path("/proc/net/fib_trie").read_text()


def test_without_the_right_to_make_namespaces_the_test_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without `ip`: the skip names what was not tested."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(pytest.skip.Exception, match="hosts were not tested"), network(1):
        pass
