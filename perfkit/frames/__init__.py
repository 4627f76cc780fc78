"""Runs as pandas frames: the rows with derived columns, and the small frames that figures draw.

`timeline` reads a run once, only the columns it needs, text as categories. Everything else here takes that
frame and returns a frame of at most a few thousand rows: binned or thinned for drawing, while quantiles are
computed on every row. `frame.attrs` carries what captions tell: run, latency, n, failed, span_s.
"""

from perfkit.frames.comparing import (
    changes,
    dots,
    group_ecdf,
    load_steps,
    results,
    scalability,
    shift,
    steady_latencies,
    trend,
    trend_of,
    trend_points,
)
from perfkit.frames.distribution import CENSORED, boxes, histogram, percentiles, survival
from perfkit.frames.over_time import calls, concurrency, delays, over_time, waterfall
from perfkit.frames.rows import LATENCIES, open_run, operations, succeeded, throughput, timeline
from perfkit.frames.server import binned, endpoints, leadership, pool, server_samples, split, tail_split
from perfkit.frames.streaming import streaming
from perfkit.frames.tables import NAMES, QUANTILES, TOTAL, errors, listing, summary, warnings

__all__ = [
    "CENSORED",
    "LATENCIES",
    "NAMES",
    "QUANTILES",
    "TOTAL",
    "binned",
    "boxes",
    "calls",
    "changes",
    "concurrency",
    "delays",
    "dots",
    "endpoints",
    "errors",
    "group_ecdf",
    "histogram",
    "leadership",
    "listing",
    "load_steps",
    "open_run",
    "operations",
    "over_time",
    "percentiles",
    "pool",
    "results",
    "scalability",
    "server_samples",
    "shift",
    "split",
    "steady_latencies",
    "streaming",
    "succeeded",
    "summary",
    "survival",
    "tail_split",
    "throughput",
    "timeline",
    "trend",
    "trend_of",
    "trend_points",
    "warnings",
    "waterfall",
]
