"""Figures and tables of a run: functions from a small frame of `perfkit.frames` to matplotlib Axes or HTML.

`show(axes)` makes what a notebook displays: an inline SVG with alt text and a caption, in the colours of the
page it stands in. Nothing here reads a run's rows; a figure draws at most a few thousand points.
"""

from perfkit.figures.capacity import (
    capacity,
    capacity_table,
    capacity_verdict,
    law_table,
    left_out,
    runs_table,
    trend,
    trend_verdict,
)
from perfkit.figures.comparing import (
    comparison_facts,
    comparison_table,
    comparison_tables,
    comparison_verdict,
    group_ecdf,
    ratios,
    run_dots,
    shift,
)
from perfkit.figures.distribution import boxes, ecdf, histogram, percentile_plot
from perfkit.figures.over_time import (
    call_latency,
    concurrency,
    generator_delays,
    glance,
    kickoff_timeline,
    throughput,
)
from perfkit.figures.server import (
    endpoint_table,
    endpoint_times,
    findings,
    leadership,
    loop_lag,
    model_times,
    pool,
    tail,
)
from perfkit.figures.streaming import streaming
from perfkit.figures.style import Shown, canvas, latency_axis, show, words
from perfkit.figures.tables import error_table, facts, health_table, notes, summary_table, verdict

__all__ = [
    "Shown",
    "boxes",
    "call_latency",
    "canvas",
    "capacity",
    "capacity_table",
    "capacity_verdict",
    "comparison_facts",
    "comparison_table",
    "comparison_tables",
    "comparison_verdict",
    "concurrency",
    "ecdf",
    "endpoint_table",
    "endpoint_times",
    "error_table",
    "facts",
    "findings",
    "generator_delays",
    "glance",
    "group_ecdf",
    "health_table",
    "histogram",
    "kickoff_timeline",
    "latency_axis",
    "law_table",
    "leadership",
    "left_out",
    "loop_lag",
    "model_times",
    "notes",
    "percentile_plot",
    "pool",
    "ratios",
    "run_dots",
    "runs_table",
    "shift",
    "show",
    "streaming",
    "summary_table",
    "tail",
    "throughput",
    "trend",
    "trend_verdict",
    "verdict",
    "words",
]
