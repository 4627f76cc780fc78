"""Two groups of runs compared: ratios with intervals, and a verdict that noise does not make.

The unit of replication is the run. With one run per side there is no verdict, only what the runs know of
themselves. METHOD.md, "Comparing runs", tells the method and how it was checked; every limit is in `Options`.
"""

import inspect
import sys
from types import ModuleType
from typing import Any

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


class _Callable(ModuleType):
    """The package, which can be called: `perfkit.compare("tag:before", "tag:after")`."""

    def __call__(self, *sides: Any, **options: Any) -> Any:
        """Compare two groups of runs: see `perfkit.compare.experiment.compare_named`."""
        from perfkit.compare.experiment import compare_named

        return compare_named(*sides, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from perfkit.compare.experiment import compare_named

        return inspect.signature(compare_named)


sys.modules[__name__].__class__ = _Callable
