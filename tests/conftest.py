"""Fixtures shared by the tests."""

import signal
from collections.abc import Iterator

import pytest

from tests.browser_fixture import chromium
from tests.kill_points import Verbs, verbs
from tests.server_fixture import agent_server, postgres, sqlite_server
from tests.site_fixture import site

__all__ = ["agent_server", "chromium", "postgres", "site", "sqlite_server"]

# started as `make test &`, what the tests start would ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", name="perfkit")
def perfkit_verbs() -> Iterator[Verbs]:
    """The verbs of a process that is started once."""
    with verbs() as running:
        yield running
