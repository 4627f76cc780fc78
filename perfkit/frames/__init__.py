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

from perfkit.frames.distribution import *
from perfkit.frames.kickoff import *
from perfkit.frames.over_time import *
from perfkit.frames.rows import *
from perfkit.frames.streaming import *
from perfkit.frames.tables import *
from perfkit.store.rows import LATENCIES as LATENCIES
from perfkit.store.summary import NAMES as NAMES
from perfkit.store.summary import QUANTILES as QUANTILES
from perfkit.store.summary import TOTAL as TOTAL
from perfkit.store.summary import warnings as warnings

pd.set_option("display.html.use_mathjax", False)
