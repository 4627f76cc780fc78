"""Fixtures shared by the tests."""

import random
import signal
from collections import defaultdict

import pytest

from perfkit.report.parameters import jupyter
from tests.browser_fixture import chromium
from tests.command import warm
from tests.kill_points import Verbs
from tests.server_fixture import agent_server, postgres, sqlite_server
from tests.site_fixture import site

jupyter("nbformat")  # two seconds sooner than where a test module imports it

__all__ = ["agent_server", "chromium", "postgres", "site", "sqlite_server"]

# started as `make test &` or with nohup, what the tests start would ignore Ctrl-C or a closed terminal
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(name="perfkit")
def perfkit_verbs() -> Verbs:
    """The verbs of a process that is started once."""
    return warm()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all but n parameters of a `sampled(n)` test to `make drills`; which, its name decides."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, all_of_it in cases.items():
        marker = all_of_it[0].get_closest_marker("sampled")
        n = marker.args[0] if marker else 0
        for item in random.Random(name).sample(all_of_it, max(len(all_of_it) - n, 0)):
            item.add_marker("drill")
