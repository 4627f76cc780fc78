"""Two groups of runs compared: ratios with intervals, and a verdict that noise does not make.

The unit of replication is the run. With one run a side there is no verdict, only what the runs know of
themselves. METHOD.md, "Comparing runs", tells the method and how it was checked; every limit is in `Options`.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from perfkit.compare.judging import compare, judge
from perfkit.compare.nouns import PRIMARY, Comparison, Options, Result, Side, Verdict, change, tipping_words

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

    def __call__(
        self,
        a: Any = None,
        b: Any = None,
        *,
        names: Sequence[str] = ("A", "B"),
        margin: float = 0.05,
        error_margin: float = 0.001,
        alpha: float = 0.05,
        primary: str | Sequence[str] = PRIMARY,
        vary: str | Sequence[str] = (),
        force: bool = False,
        data_dir: Any = None,
        **others: Any,
    ) -> Any:
        """Compare two groups of runs: see `perfkit.compare.experiment.compare_named`."""
        from perfkit.compare.experiment import compare_named

        others |= {"names": names, "primary": primary, "vary": vary, "data_dir": data_dir}
        others |= {"margin": margin, "error_margin": error_margin, "alpha": alpha, "force": force}
        return compare_named(a, b, **others)


sys.modules[__name__].__class__ = _Callable
