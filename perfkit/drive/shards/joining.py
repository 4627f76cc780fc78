"""Join a run over TCP: for whoever starts a shard by hand, or with any tool that starts processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from perfkit.drive.shards.boot import prepare_process
from perfkit.drive.shards.channel import Channel
from perfkit.drive.shards.shard import take_part
from perfkit.errors import BadInput, PerfkitError
from perfkit.interrupts import SIGNALS

_CONNECT_S = 10.0


def join(address: str, secret: str, allow: Sequence[str], **more: Any) -> int:
    """Take part in the run that is coordinated at HOST:PORT; returns an exit code.

    allow: hosts besides this one that may be loaded from here. more: run and shard, where they are known.
    A signal ends it: the coordinator loses this shard.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise BadInput(f"--join {address!r:.80}: give HOST:PORT")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S)
    except OSError as error:
        raise PerfkitError(
            f"cannot reach {address}: {error.strerror or error}; is the run waiting?"
        ) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    prepare_process()
    _end_by_signals(connection.dup())
    fd = connection.detach()
    code = take_part(Channel(fd, fd), {"secret": secret, "allow": list(allow), **more})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that a step has left behind keeps nobody


def _end_by_signals(connection: socket.socket) -> None:
    """Have a signal end the connection, as if the coordinator had gone; the second one ends the process."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    for number in SIGNALS:
        signal.signal(number, end)
