"""Probes for ASGI and SQLAlchemy services: metrics, pool monitor, event-loop watchdog, request times.

They import nothing else of perfkit, and any service may use them.
"""

from perfkit.probes.leader import Fenced, Leader, fenced, leader_tables
from perfkit.probes.middleware import ATTRIBUTE_HEADERS, ProbesMiddleware
from perfkit.probes.pool import EVENTS as POOL_EVENTS
from perfkit.probes.pool import Leak, PoolMonitor, PoolState, count_database_time
from perfkit.probes.registry import INSTRUMENTS, Instrument, MetricRegistry, metric_attributes
from perfkit.probes.request import RequestTimes, add_time, current_request, request_scope, timed
from perfkit.probes.ring import Page, Ring, Sample
from perfkit.probes.table_scans import watch_table_scans
from perfkit.probes.watchdog import HangReport, Watchdog

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
    "RequestTimes",
    "Ring",
    "Sample",
    "Watchdog",
    "add_time",
    "count_database_time",
    "current_request",
    "fenced",
    "leader_tables",
    "metric_attributes",
    "request_scope",
    "timed",
    "watch_table_scans",
]
