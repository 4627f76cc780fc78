"""Probes for ASGI and SQLAlchemy services: metrics, pool monitor, event-loop watchdog, request times.

They depend on nothing: what watches SQLAlchemy, PostgreSQL or OpenTelemetry needs what it watches, and is
loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit_probes.beside import SampleServer
    from perfkit_probes.leader import Fenced, Leader, fenced, leader_tables
    from perfkit_probes.middleware import ATTRIBUTE_HEADERS, ProbesMiddleware
    from perfkit_probes.pool import EVENTS as POOL_EVENTS
    from perfkit_probes.pool import Leak, PoolMonitor, PoolState
    from perfkit_probes.postgres import watch_postgres
    from perfkit_probes.process import ProcessProbe
    from perfkit_probes.registry import INSTRUMENTS, Instrument, MetricRegistry, metric_attributes
    from perfkit_probes.request import RequestTimes, add_time, current_request, request_scope, timed
    from perfkit_probes.ring import Page, Ring, Sample
    from perfkit_probes.statements import StatementMonitor, count_database_time
    from perfkit_probes.watchdog import HangReport, Watchdog

__all__ = [
    "ATTRIBUTE_HEADERS",
    "INSTRUMENTS",
    "POOL_EVENTS",
    "Fenced",
    "HangReport",
    "Instrument",
    "Leader",
    "Leak",
    "MetricRegistry",
    "Page",
    "PoolMonitor",
    "PoolState",
    "ProbesMiddleware",
    "ProcessProbe",
    "RequestTimes",
    "Ring",
    "Sample",
    "SampleServer",
    "StatementMonitor",
    "Watchdog",
    "add_time",
    "count_database_time",
    "current_request",
    "fenced",
    "leader_tables",
    "metric_attributes",
    "request_scope",
    "timed",
    "watch_postgres",
]

_MODULES = {
    "beside": ("SampleServer",),
    "leader": ("Fenced", "Leader", "fenced", "leader_tables"),
    "middleware": ("ATTRIBUTE_HEADERS", "ProbesMiddleware"),
    "pool": ("POOL_EVENTS", "Leak", "PoolMonitor", "PoolState"),
    "postgres": ("watch_postgres",),
    "process": ("ProcessProbe",),
    "registry": ("INSTRUMENTS", "Instrument", "MetricRegistry", "metric_attributes"),
    "request": ("RequestTimes", "add_time", "current_request", "request_scope", "timed"),
    "ring": ("Page", "Ring", "Sample"),
    "statements": ("StatementMonitor", "count_database_time"),
    "watchdog": ("HangReport", "Watchdog"),
}
#: The extra that brings a package, for who has not got it.
_EXTRAS = {"sqlalchemy": "sqlalchemy", "asyncpg": "postgresql", "opentelemetry": "opentelemetry"}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load what is asked for; ModuleNotFoundError where what it watches is not installed, with the extra."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        words = f"{name} needs {error.name}: pip install 'perfkit-probes[{extra}]'"
        raise ModuleNotFoundError(words, name=error.name) from None
    return getattr(module, "EVENTS" if name == "POOL_EVENTS" else name)
