"""A run as people hold it in a notebook or a script: its numbers, rows, figures and report a call away."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perfkit import store
from perfkit.errors import BadInput, unknown
from perfkit.text import for_notebook

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.figures import Shown

#: The figures of a run, and the frame each is drawn from.
FIGURES = {
    "kickoff_timeline": "waterfall",
    "call_latency": "calls",
    "histogram": "histogram",
    "boxes": "boxes",
    "ecdf": "survival",
    "percentile_plot": "percentiles",
    "concurrency": "concurrency",
    "throughput": "over_time",
    "streaming": "streaming",
    "generator_delays": "delays",
}


class Page(type(Path())):  # type: ignore[misc]  # before Python 3.12 Path itself has no subclasses
    """The path of a page, which a notebook shows as a link."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from perfkit.figures.markup import part

        place = os.path.relpath(self)
        return for_notebook(str(part("page_link", quote(place), place)))


class Run(store.Run):
    """A run: what `perfkit.run` and `perfkit.open_run` return.

    >>> import perfkit
    >>> run = perfkit.open_run("data/sample/http_get")
    >>> run.state, run.row_count()
    ('complete', 4435)
    """

    def summary(self, latency: str = "response") -> pd.DataFrame:
        """Return counts, rates and latencies with their intervals: a row per operation where there are
        several; the last row, `all operations`, is the total.

        The numbers are those of `perfkit show` and of the report, NaN for a quantile that rests on too few
        requests; latencies are in ms.

        >>> import perfkit
        >>> run = perfkit.open_run("data/sample/http_get")
        >>> run.summary()[["operation", "n", "p95", "p95_low", "p95_high"]].round(2)
                operation     n   p95  p95_low  p95_high
        0  all operations  4027  1.03      0.9       inf
        """
        from perfkit import frames

        return frames.summary(frames.measured(self, latency))

    def rows(self, phase: str = "measure", latency: str = "response") -> pd.DataFrame:
        """Return a row per request of a phase, all in memory; of a large run ask `sql` for what you need.

        Times are in s and ms; see `perfkit.frames.timeline`.

        >>> import perfkit
        >>> run = perfkit.open_run("data/sample/http_get")
        >>> run.rows()[["operation", "response_ms"]].head(1).round(3)
          operation  response_ms
        0       get        0.511
        """
        from perfkit import frames

        return frames.timeline(self, phase, latency)

    def sql(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        """Return the result of one SELECT over `requests` (measured) or `all_requests` (every phase).

        No other file can be read, and nothing can be written. A query is ended after 60 s, and returns at
        most 10 million rows. Give names and values from elsewhere as parameters: `$name` in the query.

        >>> import perfkit
        >>> run = perfkit.open_run("data/sample/http_get")
        >>> run.sql("SELECT status, count(*) AS n FROM requests WHERE response_ms > $ms GROUP BY 1", ms=0.5)
           status     n
        0     200  2156
        """
        from perfkit import frames

        return frames.select(self, query, parameters)

    def figure(self, name: str = "", latency: str = "response") -> Shown:
        """Draw a figure of the report, which a notebook displays; BadInput, with their names, for none.

        >>> import perfkit
        >>> run = perfkit.open_run("data/sample/http_get")
        >>> run.figure("histogram")
        Histogram of the latency of 4,027 successful requests: ...
        """
        from perfkit import figures, frames

        if not isinstance(name, str) or not name:
            raise BadInput(f"run.figure takes one of {', '.join(FIGURES)}, not {name!r:.60}")
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
        frame = getattr(frames, FIGURES[name])(frames.measured(self, latency))
        return figures.show(getattr(figures, name)(frame))

    def report(
        self,
        notebook: str | os.PathLike[str] | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        progress: bool = False,
        **more: Any,
    ) -> Path:
        """Execute the report notebook on this run and return the path of the HTML, shown as a link.

        `run.report()` is `perfkit report RUN`. notebook: another one than run_report, its path or name, such
        as "server_health". Its parameters by name, `run.report(latency="service")`, or as a mapping. See
        `perfkit.make_report` for the parameters and the errors.
        """
        from perfkit.report import make_report

        given = {**parameters, **more} if isinstance(parameters, Mapping) else parameters or more
        return Page(make_report(self, notebook=notebook, parameters=given, progress=progress))
