"""Fixtures shared by the tests."""

from tests.server_fixture import agent_server, sqlite_server

__all__ = ["agent_server", "sqlite_server"]
