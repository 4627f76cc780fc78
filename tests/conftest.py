"""Fixtures shared by the tests."""

import signal

from tests.browser_fixture import chromium
from tests.server_fixture import agent_server, sqlite_server
from tests.site_fixture import site

__all__ = ["agent_server", "chromium", "site", "sqlite_server"]

# started as `make test &`, what the tests start would ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
