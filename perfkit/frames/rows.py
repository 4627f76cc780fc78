"""The rows of a run as one frame with derived columns; everything else of `perfkit.frames` starts from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from perfkit import fidelity
from perfkit.errors import unknown
from perfkit.fidelity import knows_intended_time
from perfkit.store import Run, data_folder, find_run, list_runs

LATENCIES = ("response", "service")
_READ = ("planned", "started", "sent", "first_byte", "done", "user", "worker", "attempt")


def open_run(name: str = "latest", data_dir: str | Path = "") -> Run:
    """The run meant by a path, an id or `latest`; without any run of one's own, `latest` is the sample."""
    folder = data_folder(data_dir)
    sample = folder / "sample"
    if name == "latest" and not list_runs(folder):
        found = sorted(sample.glob("**/run.json"))
        if found:
            return Run(found[-1].parent)
    return find_run(name, folder)


def timeline(run: Run, phase: str = "measure", latency: str = "response") -> pd.DataFrame:
    """One row per request of `phase`, times in ms and s as floats, NaN where an instant was never reached.

    t_s, sent_s, done_s: planned, sent and done in seconds since the measured part began. response_ms = done -
    planned, service_ms = done - sent, kickoff_ms = started - planned (NaN for a retry, which waited for the
    server), queue_ms = sent - started, ttft_ms = first_byte - sent; latency_ms: the one of `latency`.
    operation, error: categories. user, worker, attempt
    """
    if latency not in LATENCIES:
        raise unknown("latency", latency, LATENCIES)
    table = run.table([*_READ, "operation", "phase", "error"])
    inside = np.asarray(_categories(table["phase"]) == phase)
    table = table if inside.all() else table.filter(pa.array(inside))
    window = _window(run, table)
    origin = window[0]
    columns: dict[str, Any] = {
        "t_s": floats(pc.subtract(table["planned"], pa.scalar(origin, pa.int64())), 1e-9),
        "sent_s": floats(pc.subtract(table["sent"], pa.scalar(origin, pa.int64())), 1e-9),
        "done_s": floats(pc.subtract(table["done"], pa.scalar(origin, pa.int64())), 1e-9),
        "response_ms": floats(pc.subtract(table["done"], table["planned"]), 1e-6),
        "service_ms": floats(pc.subtract(table["done"], table["sent"]), 1e-6),
        "kickoff_ms": floats(pc.subtract(table["started"], table["planned"]), 1e-6),
        "queue_ms": floats(pc.subtract(table["sent"], table["started"]), 1e-6),
        "ttft_ms": floats(pc.subtract(table["first_byte"], table["sent"]), 1e-6),
        "operation": _categories(table["operation"]),
        "error": _categories(table["error"]),
        **{name: _whole(table[name]) for name in ("user", "worker", "attempt")},
    }
    frame = pd.DataFrame(columns, copy=False)
    retries = frame["attempt"].to_numpy() > 1
    if retries.any():
        frame["kickoff_ms"] = frame["kickoff_ms"].mask(retries)
    if not knows_intended_time(run):  # planned is started: a delay of 0 would be made up
        frame["kickoff_ms"] = math.nan
    frame["latency_ms"] = frame[f"{latency}_ms"]
    failed = int(frame["error"].notna().sum())
    frame.attrs = {"run": run.id, "latency": latency, "n": len(frame), "failed": failed}
    frame.attrs["untimed"] = fidelity.untimed(run)
    frame.attrs |= {"span_s": (window[1] - window[0]) / 1e9, "origin_ns": origin}
    return frame


def _window(run: Run, table: pa.Table) -> tuple[int, int]:
    """The measured part on the run's clock, ns: as recorded, else from the first planned to the last done."""
    try:
        measured = run.meta["measured"]
        return int(measured["from_ns"]), int(measured["to_ns"])
    except (KeyError, TypeError, ValueError):
        low, high = pc.min(table["planned"]).as_py(), pc.max(table["done"]).as_py()
        low = 0 if low is None else low
        return low, low if high is None else high


def floats(column: pa.ChunkedArray, scale: float) -> np.ndarray:
    values = np.asarray(column.cast(pa.float64()).to_numpy())
    return values * scale if scale >= 1 else values / round(1 / scale)


def _whole(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column.cast(pa.int32()), 0).to_numpy())


def _categories(column: pa.ChunkedArray) -> pd.Categorical:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunks at all
        return pd.Categorical([])
    words = array.dictionary.to_pylist()
    codes = np.asarray(pc.fill_null(array.indices, -1).to_numpy())
    if len(set(words)) < len(words):  # the same word twice, by files merged without unifying
        return pd.Categorical([None if c < 0 else words[c] for c in codes])
    used = np.bincount(codes[codes >= 0], minlength=len(words)) > 0
    place = np.append(np.cumsum(used) - 1, -1).astype(np.int32)  # the last one is for -1, no word at all
    kept = pd.Index([w for w, there in zip(words, used, strict=True) if there], dtype="str")
    return pd.Categorical.from_codes(place[codes], kept)


def operations(rows: pd.DataFrame) -> list[str]:
    """The operations, the most frequent first."""
    return [str(name) for name, count in rows["operation"].value_counts().items() if count]


def succeeded(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows that ended well, those latency statistics rest on; only these columns, copying no others."""
    good = (rows["error"].isna() & rows["latency_ms"].notna()).to_numpy()
    return rows[list(columns)][good] if columns else rows[good]


def throughput(rows: pd.DataFrame) -> float:
    """Successes a second of the measured part: those that ended in it; NaN when it has no length.

    What was asked for in it and answered in the drain is no throughput of it (a backlog would look like one).
    """
    span = rows.attrs["span_s"]
    if span <= 0:
        return math.nan
    inside = rows["error"].isna() & (rows["done_s"] <= span + 1e-9)
    return int(inside.sum()) / float(span)


def small(data: Any, rows: pd.DataFrame, **more: Any) -> pd.DataFrame:
    """A frame for one figure or table, with what its caption must tell of the rows it was made from."""
    frame = pd.DataFrame(data)
    frame.attrs = {**rows.attrs, "n": len(rows), "failed": int(rows["error"].notna().sum())}
    frame.attrs.update(more.items())
    return frame
