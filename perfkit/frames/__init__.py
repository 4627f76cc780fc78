"""Runs as pandas frames: the small frames that figures draw, and the rows with derived columns.

`measured` opens a run's measured part for queries; the functions here take it and return a frame of at most
a few thousand rows: binned or thinned for drawing, while reported numbers are those of every row. No
more of a run is in memory. `frame.attrs` carries what captions tell: run, latency, n, failed, span_s.
`timeline` is all rows as one frame, for one's own questions.

Names and words in frames come from servers: with this package loaded, pandas marks its tables so that
JupyterLab takes no `$…$` in them for mathematics (`display.html.use_mathjax`).
"""

from perfkit.errors import with_extra

try:
    import pandas as pd
except ModuleNotFoundError as error:
    raise with_extra(error) from None

from perfkit.frames.distribution import boxes, histogram, percentiles, survival
from perfkit.frames.over_time import calls, concurrency, delays, over_time, waterfall
from perfkit.frames.rows import measured, open_run, timeline
from perfkit.frames.streaming import streaming
from perfkit.frames.tables import errors, listing, operations, summary
from perfkit.store.rows import LATENCIES
from perfkit.store.summary import NAMES, QUANTILES, TOTAL, warnings

pd.set_option("display.html.use_mathjax", False)

__all__ = [
    "LATENCIES",
    "NAMES",
    "QUANTILES",
    "TOTAL",
    "boxes",
    "calls",
    "concurrency",
    "delays",
    "errors",
    "histogram",
    "listing",
    "measured",
    "open_run",
    "operations",
    "over_time",
    "percentiles",
    "streaming",
    "summary",
    "survival",
    "timeline",
    "warnings",
    "waterfall",
]
