"""Figures and tables of a run: functions from a small frame of `perfkit.frames` to matplotlib Axes or HTML.

`show(axes)` makes what a notebook displays: an inline SVG with alt text and a caption, in the colours of the
page it stands in. Nothing here reads a run's rows; a figure draws at most a few thousand points.
"""

from perfkit.figures.distribution import boxes, ecdf, histogram, percentile_plot
from perfkit.figures.over_time import (
    call_latency,
    concurrency,
    generator_delays,
    glance,
    kickoff_timeline,
    throughput,
)
from perfkit.figures.streaming import streaming
from perfkit.figures.style import Shown, canvas, latency_axis, show, words
from perfkit.figures.tables import error_table, facts, health_table, notes, summary_table, verdict

__all__ = [
    "Shown",
    "boxes",
    "call_latency",
    "canvas",
    "concurrency",
    "ecdf",
    "error_table",
    "facts",
    "generator_delays",
    "glance",
    "health_table",
    "histogram",
    "kickoff_timeline",
    "latency_axis",
    "notes",
    "percentile_plot",
    "show",
    "streaming",
    "summary_table",
    "throughput",
    "verdict",
    "words",
]
