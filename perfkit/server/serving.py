"""Run the application on uvicorn, with its database, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from perfkit.server.app import create_app
from perfkit.server.database import async_url
from perfkit.server.postgres import embedded_postgres
from perfkit.server.settings import Settings


class CannotServe(Exception):
    """The server cannot start; the message is one line. Exit code 2 when it is the options' fault."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def serve(
    settings: Settings, ready: Callable[[str], None] | None = None, *, stop_with_parent: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT; `ready(url)` is called when requests are answered.

    Without `ready`, one line is printed. Raises CannotServe when the database or the port is not to be had.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has shut down
    if stop_with_parent:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    sock = _bind(settings)
    url = f"http://{settings.host}:{sock.getsockname()[1]}"
    with contextlib.suppress(KeyboardInterrupt), _database(settings) as (database_url, words):
        app = create_app(settings, database_url)
        config = uvicorn.Config(
            app, log_level=settings.log_level, access_log=False, timeout_graceful_shutdown=3, lifespan="on"
        )
        server = _Server(config)
        server.when_ready = lambda: _tell(url, words, ready)
        server.run(sockets=[sock])
        if not server.started:
            raise CannotServe("the application did not start; its reason stands above")


class _Server(uvicorn.Server):
    when_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.when_ready()


def _tell(url: str, words: str, ready: Callable[[str], None] | None) -> None:
    if ready is not None:
        ready(url)
    else:
        print(f"perfkit server ready at {url} ({words}, simulated model)", flush=True)


@contextmanager
def _database(settings: Settings) -> Iterator[tuple[Any, str]]:
    if settings.database_url is not None:
        try:
            url = async_url(settings.database_url)
        except ValueError as error:
            raise CannotServe(str(error), 2) from None
        if url.get_backend_name() == "sqlite":
            print("perfkit server: SQLite is for trying things out; measure on PostgreSQL", file=sys.stderr)
        yield url, url.get_backend_name()
        return
    with contextlib.ExitStack() as stack:
        try:
            embedded = stack.enter_context(embedded_postgres(settings.data_dir))
        except Exception as error:
            raise CannotServe(
                f"the embedded PostgreSQL did not start: {str(error).splitlines()[0]}"
            ) from error
        yield async_url(embedded), "embedded PostgreSQL"


def _bind(settings: Settings) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        where = f"{settings.host}:{settings.port}"
        raise CannotServe(f"cannot listen on {where}: {error.strerror}; choose another --port") from None
    return sock


def _stop_when_stdin_closes() -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
