"""Run the application on uvicorn, with its database, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import ipaddress
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import uvicorn

from agent_server.app import create_app
from agent_server.database import CannotUse, async_url, look_at
from agent_server.instances import instances, round_robin
from agent_server.postgres import MAX_CONNECTIONS, embedded_postgres, embedded_replica
from agent_server.settings import Settings
from agent_server.slow_network import slow_network


class CannotServe(Exception):
    """The server cannot start; the message is one line. Exit code 2 when it is the options' fault."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(printable(text))
        self.exit_code = exit_code


def printable(text: str) -> str:
    """The text without what acts on a terminal; the server stands alone and has no `perfkit.text`."""
    return "".join(c if c.isprintable() else "�" for c in text)


class _Log(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).split("\n")  # paths come from clients, words from the database
        return "\n".join(map(printable, lines))


def serve(
    settings: Settings,
    ready: Callable[[str], None] | None = None,
    *,
    stop_with_parent: bool = False,
    parent_pid: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `ready(url)` is called when requests are answered.

    Without `ready`, one line is printed. Raises CannotServe when the database or the port is not to be had.
    `stop_with_parent` ends the server when its standard input closes or it gets another parent than
    `parent_pid`, an id that the parent handed over.
    """
    if settings.scheduler_check_s >= settings.scheduler_lease_s:
        raise CannotServe("--scheduler-check-s must be less than --scheduler-lease-s", 2)
    if 0 < settings.model_speed < 0.001:
        raise CannotServe("--model-speed must be 0 (no waiting) or 0.001 to 1,000,000", 2)
    if settings.secure and not settings.password:
        raise CannotServe("--secure needs --password: without it nobody could create the first key", 2)
    if settings.workers and settings.role != "all":
        raise CannotServe("--workers starts processes of each role itself: omit --role", 2)
    if settings.prefill_messages and not settings.prefill_agents:
        raise CannotServe("--prefill-messages are messages of agents: give --prefill-agents too", 2)
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises the signal again when it has shut down
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # a closed terminal; not under nohup
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    if stop_with_parent:
        threading.Thread(target=_stop_with_parent, args=(parent_pid,), daemon=True).start()
    _set_up_log(settings.log_level.upper())
    sock = _bind(settings)
    _refuse_strangers(settings, sock)
    with (
        contextlib.closing(sock),
        contextlib.suppress(KeyboardInterrupt),
        _database(settings) as url,
        _replica(settings, url) as replica_url,
        slow_network(url, settings.database_delay_ms) as (there, begin_delay),
    ):
        _run(dataclasses.replace(settings, replica_url=replica_url), there, sock, ready, begin_delay)


def _set_up_log(level: str) -> None:
    for name in ("agent_server", "perfkit_probes"):
        logging.getLogger(name).setLevel(level)
    if logging.lastResort is not None:  # what writes this server's log where nobody has set another up
        logging.lastResort.setFormatter(_Log())
        logging.lastResort.setLevel(min(logging.getLevelName(level), logging.WARNING))


def _run(
    settings: Settings,
    database_url: sa.URL,
    sock: socket.socket,
    ready: Callable[[str], None] | None,
    before_ready: Callable[[], None],
) -> None:
    try:
        version = asyncio.run(look_at(database_url))
    except CannotUse as error:
        raise CannotServe(str(error)) from error
    words = printable(f"{version}{'' if settings.database_url else ' embedded'}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{sock.getsockname()[1]}"

    def tell(more: str = "") -> None:
        before_ready()
        _tell(address, words, ready, more)

    if settings.instances == 1 and not settings.workers:
        return _run_app(settings, database_url, sock, tell)
    try:
        _run_processes(settings, database_url, sock, address, tell)
    except ValueError as error:
        raise CannotServe(str(error)) from None


def _run_app(
    settings: Settings, database_url: sa.URL, sock: socket.socket, when_ready: Callable[[], None]
) -> None:
    config = uvicorn.Config(
        create_app(settings, database_url),
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=3,
        lifespan="on",
    )
    server = _Server(config)
    server.when_ready = when_ready
    server.run(sockets=[sock])
    if not server.started:
        raise CannotServe("the application did not start; see the error above")


def _run_processes(
    settings: Settings, url: sa.URL, sock: socket.socket, address: str, tell: Callable[[str], None]
) -> None:
    """Workers in processes of their own; of the API one in this process, or several behind a round robin.

    The ready line names the workers too: what they observe of themselves is part of a run.
    """
    there = url.render_as_string(hide_password=False)
    api = dataclasses.replace(settings, role="api" if settings.workers else settings.role)
    worker = dataclasses.replace(settings, role="worker")
    with instances(worker, there, settings.workers) as workers:
        if settings.instances == 1:
            return _run_app(api, url, sock, lambda: tell(f", instances {' '.join([address, *workers])}"))
        with instances(api, there, settings.instances) as urls:
            asyncio.run(round_robin(sock, urls, lambda: tell(f", instances {' '.join([*urls, *workers])}")))


class _Server(uvicorn.Server):
    when_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What stands now stays: the collector need not go through all of it again and again.
            gc.collect()
            gc.freeze()
            self.when_ready()


def _tell(url: str, words: str, ready: Callable[[str], None] | None, more: str = "") -> None:
    if ready is not None:
        ready(url)
    else:
        print(f"perfkit server ready at {url} ({words}, simulated model{more})", flush=True)


@contextmanager
def _database(settings: Settings) -> Iterator[sa.URL]:
    if settings.database_url is not None:
        try:
            url = async_url(settings.database_url)
        except ValueError as error:
            raise CannotServe(str(error), 2) from None
        if url.get_backend_name() == "sqlite":
            if settings.instances + settings.workers > 1:
                raise CannotServe("--instances: SQLite supports only one; use PostgreSQL", 2)
            if settings.database_delay_ms:
                raise CannotServe("--database-delay-ms: SQLite is reached by no network; use PostgreSQL", 2)
            if settings.query_timeout_s:
                raise CannotServe("--query-timeout-s: SQLite cancels no statement; use PostgreSQL", 2)
            print(
                "perfkit server: SQLite is only for trying things out; measure with PostgreSQL",
                file=sys.stderr,
            )
        yield url
        return
    processes = settings.instances + settings.workers
    if processes * (settings.pool_size + settings.max_overflow) > MAX_CONNECTIONS:
        text = f"--pool-size and --max-overflow: the embedded PostgreSQL serves {MAX_CONNECTIONS} connections"
        text += " of all instances" if processes > 1 else ""
        raise CannotServe(f"{text}; give fewer, or a --database-url", 2)
    with contextlib.ExitStack() as stack:
        try:
            embedded = stack.enter_context(embedded_postgres(settings.data_dir))
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CannotServe(f"the embedded PostgreSQL did not start: {reason}") from error
        yield async_url(embedded)


@contextmanager
def _replica(settings: Settings, primary: sa.URL) -> Iterator[str | None]:
    """The URL of the replica to read from, if there is one; an embedded one is made first."""
    if not settings.read_replica:
        if settings.replica_url is not None:
            _refuse_replica(settings, settings.replica_url)
        yield settings.replica_url
        return
    if settings.database_url is not None:
        raise CannotServe("--read-replica follows the embedded PostgreSQL; give a --replica-url instead", 2)
    with contextlib.ExitStack() as stack:
        try:
            there = primary.render_as_string(hide_password=False)
            url = stack.enter_context(embedded_replica(there))
        except Exception as error:
            said = str(getattr(error, "stderr", "") or error).strip() or type(error).__name__
            raise CannotServe(f"the read replica did not start: {said.splitlines()[-1]}") from error
        yield url


def _refuse_replica(settings: Settings, url: str) -> None:
    """CannotServe for a replica that cannot be one."""
    try:
        kind = async_url(url).get_backend_name()
    except ValueError as error:
        raise CannotServe(str(error).replace("--database-url", "--replica-url"), 2) from None
    if kind != "postgresql" or settings.database_url is None:
        raise CannotServe("--replica-url: give a PostgreSQL that follows the one of --database-url", 2)


def _bind(settings: Settings) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except (OSError, TypeError, ValueError) as error:  # TypeError: no host is called so
        sock.close()
        where, why = f"{settings.host}:{settings.port}", getattr(error, "strerror", None) or error
        raise CannotServe(f"cannot listen on {where}: {why}; choose another --host or --port") from None
    return sock


def _refuse_strangers(settings: Settings, sock: socket.socket) -> None:
    """CannotServe when other machines could use a server without a key; a warning where that is wanted."""
    address = ipaddress.ip_address(sock.getsockname()[0])
    if settings.secure or (getattr(address, "ipv4_mapped", None) or address).is_loopback:
        return
    words = f"--host {settings.host}: every machine that reaches this one can use the server"
    if not settings.insecure_public:
        sock.close()
        raise CannotServe(f"{words}; add --secure and --password, or --insecure-public to serve it anyway", 2)
    print(f"perfkit server: warning: {words}, and read and change its data", file=sys.stderr)


def _stop_with_parent(parent_pid: int | None) -> None:
    """Wait for the end of standard input, or for another parent: a pipe may be held open by others."""
    with contextlib.suppress(OSError, ValueError):
        while parent_pid is None or os.getppid() == parent_pid:
            readable, _, _ = select.select([0], [], [], 0.5)
            if readable and not os.read(0, 4096):
                break
    os.kill(os.getpid(), signal.SIGTERM)
