"""A run opened for frames: its measured part, which they are made from, and its rows in pandas."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from perfkit.errors import BadInput
from perfkit.store import Run, data_folder, fidelity, find_run, list_runs, require_run
from perfkit.store import select as selecting
from perfkit.store.rows import Part
from perfkit.store.summary import summarize

P = ParamSpec("P")
T = TypeVar("T")
__all__ = ["measured", "open_run", "select", "timeline"]


def open_run(name: str = "latest", data_dir: str | Path = "") -> Run:
    """Open a run by path, id or `latest`; if there are no runs yet, `latest` is the sample run."""
    folder = data_folder(data_dir)
    sample = folder / "sample"
    if name == "latest" and not list_runs(folder):
        found = sorted(sample.glob("**/run.json"))
        if found:
            return Run(found[-1].parent)
    return find_run(name, folder)


def measured(run: Run, latency: str = "response") -> Part:
    """Return the measured part of a run, the input of every function here."""
    return Part(require_run(run, "frames.measured"), latency=latency)


def timeline(run: Run, phase: str = "measure", latency: str = "response") -> pd.DataFrame:
    """Return one row per request of `phase`; times are floats in ms and s, NaN where never reached.

    t_s, sent_s, done_s: planned, sent and done in seconds since the measured part began. response_ms = done -
    planned, service_ms = done - sent, kickoff_ms = started - planned (NaN for a retry, which waited for the
    server), queue_ms = sending - started, ttft_ms = first_token - sent, of streams (in a run of
    schema 1: first_byte - sent); latency_ms: the one of `latency`.
    operation, error, group: categories. status (0: no answer), user, worker, attempt
    """
    part = Part(require_run(run, "frames.timeline"), latency=latency, phase=phase)
    times = ("t_s", "sent_s", "done_s", "response_ms", "service_ms", "kickoff_ms", "queue_ms", "ttft_ms",
             "latency_ms")  # fmt: skip
    whole = ("status", "user", "worker", "attempt")
    table = part.query(
        f'SELECT {", ".join(times)}, operation, error, "group", '
        f"{', '.join(f'coalesce({name}, 0)::INTEGER AS {name}' for name in whole)} FROM part"
    )
    columns = {name: table[name].to_numpy() for name in (*times, *whole)}
    text = {name: _categories(table[name]) for name in ("operation", "error", "group")}
    return small(pd.DataFrame(columns | text, copy=False), part)


def select(run: Run, sql: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the result of one SELECT over a run's rows; see `store.select`."""
    frame: pd.DataFrame = selecting.select(run, sql, parameters).to_pandas()
    return frame


#: Parameters of frames that say how many of something there are at most.
_COUNTS = frozenset({"bins", "most"})


def of_part(make: Callable[P, T]) -> Callable[P, T]:
    """Let what is made from a part of a run say so when it is given something else, such as the run, and what
    it takes for `bins` and `most`."""

    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        rows = args[0] if args else kwargs.get("rows")
        if not isinstance(rows, Part):
            raise BadInput(f"{make.__name__} takes frames.measured(run), got {type(rows).__name__}")
        given = signature.bind(*args, **kwargs).arguments
        for name in given.keys() & _COUNTS:
            value = given[name]
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name}: expected a whole number, at least 1, got {value!r:.60}")
        return make(*args, **kwargs)

    return checked


def _categories(column: pa.ChunkedArray) -> pd.Categorical:
    return pd.Categorical(column.dictionary_encode().to_pandas())


def about(rows: Part | pd.DataFrame) -> dict[str, Any]:
    """What captions tell of a part of a run: run, part, latency, n, failed, closed, untimed, span_s, …"""
    if isinstance(rows, pd.DataFrame):
        return {str(name): value for name, value in rows.attrs.items()}
    told = {
        "run": rows.run.id,
        "part": rows.label,
        "latency": rows.latency,
        "closed": rows.run.meta.closed,
        "untimed": fidelity.untimed(rows.run.meta),
        "span_s": rows.span_s,
        "origin_ns": rows.window_ns[0],
        **rows.counts,
    }
    if rows.run.meta.carried:  # a summary has its own numbers, NaN where it does not tell them
        told |= {name: summarize(rows)[-1][name] for name in ("n", "failed")}
    return told


def small(data: Any, rows: Part | pd.DataFrame, **more: Any) -> pd.DataFrame:
    """A frame for one figure or table, with what its caption must tell of the rows it was made from."""
    frame = pd.DataFrame(data)
    frame.attrs.update(about(rows) | more)
    return frame
