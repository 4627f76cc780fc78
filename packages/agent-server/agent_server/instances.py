"""Several server processes on one database, behind a round robin, for experiments with more than one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from agent_server.cache import SHARED_MAX_AGE_S
from agent_server.settings import Settings

#: Settings that are the parent's business, or differ between instances.
_OWN = (
    *("host", "port", "database_url", "data_dir", "instances", "workers", "password", "database_delay_ms"),
    *("read_replica", "replica_url"),
)


@contextmanager
def instances(settings: Settings, database_url: str, count: int) -> Iterator[list[str]]:
    """Start `count` servers on free ports and yield their URLs; they end with the block.

    ValueError, in the child's words, when one does not start.
    """
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_instance(settings, database_url)) for _ in range(count)]
        yield [_url(process) for process in started]


@contextmanager
def _instance(settings: Settings, database_url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "agent_server", "--port", "0"]
    command += ["--stop-with-parent", "--parent-pid", str(os.getpid())]
    age_s = settings.cache_max_age_s or SHARED_MAX_AGE_S
    for name, value in (asdict(settings) | {"cache_max_age_s": age_s}).items():
        if name in _OWN or value is None:
            continue
        flag = name.replace("_", "-")
        command += (
            [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
        )
    secrets = {
        "PERFKIT_SERVER_DATABASE_URL": database_url,
        "PERFKIT_SERVER_REPLICA_URL": settings.replica_url,
        "PERFKIT_SERVER_PASSWORD": settings.password,
    }
    environment = {**os.environ, **{name: value for name, value in secrets.items() if value is not None}}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    """The URL in the ready line, the first a server prints."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if len(words) < 5:
        raise ValueError("an instance did not start; see the error above")
    return words[4]


async def round_robin(sock: socket.socket, urls: Sequence[str], when_ready: Callable[[], None]) -> None:
    """Pass connections on `sock` to the servers in turn, until cancelled; one that is gone is passed over."""
    turn = itertools.cycle([(host, int(port)) for host, _, port in (u[7:].rpartition(":") for u in urls)])

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for host, port in itertools.islice(turn, len(urls)):
            with contextlib.suppress(OSError):
                back_reader, back_writer = await asyncio.open_connection(host.strip("[]"), port)
                await asyncio.gather(_pipe(reader, back_writer), _pipe(back_reader, writer))
                return
        writer.close()

    server = await asyncio.start_server(connected, sock=sock)
    async with server:
        when_ready()
        await server.serve_forever()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
