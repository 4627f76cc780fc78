"""The measured rows of a run as plain arrays: what a comparison computes from, without pandas."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import no_goodput


@dataclass(frozen=True)
class Measured:
    """The measured rows of a run as arrays, instants in s since the measured part began."""

    planned: np.ndarray
    done: np.ndarray
    response_ms: np.ndarray
    ttft_ms: np.ndarray
    good: np.ndarray
    operation: np.ndarray
    names: tuple[str, ...]
    step: np.ndarray | None  #: only where users think between steps
    span_s: float
    tpot_ms: np.ndarray | None = None  #: None where the server reported no tokens
    met: np.ndarray | None = None  #: which meet the workload's `slo`; None without goodput
    #: Successes of other phases that ended in the measured part: when, and the operation, -1 for another.
    others_done: np.ndarray = field(default_factory=lambda: np.empty(0))
    others_operation: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    others_met: np.ndarray = field(default_factory=lambda: np.empty(0, np.bool_))

    def only(self, pick: np.ndarray | slice) -> Measured:
        """Those rows: by a mask, in the order of an index, or a slice of them."""
        if isinstance(pick, np.ndarray) and pick.dtype == np.bool_ and pick.all():
            return self
        arrays = ("planned", "done", "response_ms", "ttft_ms", "good", "operation", "tpot_ms", "met")
        there = {name: one for name in arrays if (one := getattr(self, name)) is not None}
        return dataclasses.replace(self, step=None, **{name: one[pick] for name, one in there.items()})

    @classmethod
    def of(cls, part: Part) -> Measured:
        """Read them; PerfkitError where the run is damaged."""
        thinking = think_time_s(part.run) > 0
        columns = (
            "t_s, done_s, response_ms, ttft_ms, tpot_ms, ok, coalesce(meets_slo, false) AS met,"
            f" {part.coded('operation')}{', step' if thinking else ''}"
        )
        table = part.query(f"SELECT {columns} FROM part")
        others = part.query(
            f"SELECT (done - {part.begin_ns}) / 1e9 AS done_s, operation, coalesce(meets_slo, false) AS met"
            f" FROM r WHERE ok AND NOT measured"
            f" AND done BETWEEN {part.begin_ns} AND {part.window_ns[1]}"
        )
        operation = table["operation"].combine_chunks()
        names = operation.dictionary.to_pylist()
        place = {name: code for code, name in enumerate(names)}
        return cls(
            planned=table["t_s"].to_numpy(),
            done=table["done_s"].to_numpy(),
            response_ms=table["response_ms"].to_numpy(),
            ttft_ms=table["ttft_ms"].to_numpy(),
            good=table["ok"].to_numpy(),
            tpot_ms=None if table["tpot_ms"].null_count == len(table) else table["tpot_ms"].to_numpy(),
            met=None if no_goodput(part) else table["met"].to_numpy(),
            operation=operation.indices.to_numpy(),
            names=tuple(names),
            step=table["step"].to_numpy() if thinking else None,
            span_s=part.span_s,
            others_done=others["done_s"].to_numpy(),
            others_met=others["met"].to_numpy(),
            others_operation=np.array([place.get(n, -1) for n in others["operation"].to_pylist()], np.int64),
        )


def think_time_s(run: Run) -> float:
    """How long a user thinks between two steps on average, s."""
    return float(np.mean(run.meta.users.think_time_s)) if run.meta.users else 0.0
