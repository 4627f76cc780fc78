"""The measured rows of a run as plain arrays: what a comparison computes from, without pandas."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.store import Run


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

    def only(self, pick: np.ndarray | slice) -> Measured:
        """Those rows: by a mask, in the order of an index, or a slice of them."""
        if isinstance(pick, np.ndarray) and pick.dtype == np.bool_ and pick.all():
            return self
        arrays = ("planned", "done", "response_ms", "ttft_ms", "good", "operation")
        return dataclasses.replace(self, step=None, **{name: getattr(self, name)[pick] for name in arrays})

    @classmethod
    def of(cls, run: Run) -> Measured:
        """Read them; PerfkitError where the run is damaged."""
        columns = ["planned", "sent", "first_byte", "done", "phase", "error", "operation"]
        thinking = think_time_s(run)
        table = run.table([*columns, "step"] if thinking else columns)
        inside = pc.equal(_words(table["phase"]), "measure")
        if not pc.all(inside).as_py():
            table = table.filter(inside)
        bounds = run.meta.get("measured") or {}
        planned, sent, first, done = (_ns(table[name]) for name in columns[:4])
        low = float(bounds.get("from_ns", planned.min() if len(planned) else 0))
        high = float(bounds.get("to_ns", np.nanmax(done) if len(done) else low))
        operation = _words(table["operation"]).unify_dictionaries().combine_chunks()
        operation = operation if len(table) else pa.array([], pa.string()).dictionary_encode()
        return cls(
            planned=(planned - low) / 1e9,
            done=(done - low) / 1e9,
            response_ms=(done - planned) / 1e6,
            ttft_ms=(first - sent) / 1e6,
            good=pc.is_null(table["error"]).to_numpy(),
            operation=operation.indices.to_numpy(),
            names=tuple(operation.dictionary.to_pylist()),
            step=table["step"].to_numpy() if thinking else None,
            span_s=(high - low) / 1e9,
        )


def _words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_dictionary(column.type) else column.cast(pa.string()).dictionary_encode()


def _ns(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy())


def think_time_s(run: Run) -> float:
    """How long a user thinks between two steps on average, s."""
    think = ((run.meta.get("workload") or {}).get("users") or {}).get("think_time_s") or 0.0
    return float(np.mean(think))
