"""Two groups of runs compared: ratios with intervals, and a verdict that noise does not make.

The unit of replication is the run. With one run a side there is no verdict, only what the runs know of
themselves. METHOD.md, "Comparing runs", tells the method and how it was checked; every limit is in `Options`.
"""

from perfkit.compare.judging import compare, judge
from perfkit.compare.nouns import Comparison, Options, Result, Side, Verdict, change, tipping_words

__all__ = [
    "Comparison",
    "Options",
    "Result",
    "Side",
    "Verdict",
    "change",
    "compare",
    "judge",
    "tipping_words",
]
