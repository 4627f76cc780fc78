"""Fixtures shared by the tests."""

from tests.browser_fixture import chromium
from tests.server_fixture import agent_server, sqlite_server
from tests.site_fixture import site

__all__ = ["agent_server", "chromium", "site", "sqlite_server"]
