"""Time to first byte and time between chunks of streamed responses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit import stats
from perfkit.frames.distribution import carried
from perfkit.frames.rows import floats, small
from perfkit.store import Run

MOST_INTERVALS = 10_000_000


def streaming(run: Run, rows: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Histograms of streamed responses: kind (ttft, inter_chunk), left, right (ms), count; empty without.

    Of streams that succeeded: TTFT = first_byte - sent of rows that have chunks; inter-chunk time = the gap
    between two events of one response; events a second = gaps of a response over its time from first to last
    event. attrs: ttft and inter_chunk, each {n, log, marks}; events_per_s {n, marks}; failed_streams;
    read_all (false beyond 10 million gaps).
    """
    ttft, gaps, speeds, failed, read_all = _streams(run)
    parts, told = [], {}
    for kind, x in (("ttft", ttft), ("inter_chunk", gaps)):
        if not len(x):
            continue
        low, high = max(float(x.min()), 0.01), max(float(x.max()), 0.02)
        log = high > 20 * low
        grid = np.geomspace(low, high * 1.0001, bins + 1) if log else stats.edges(float(x.min()), high, bins)
        counts = np.histogram(np.maximum(x, grid[0]), grid)[0]
        parts.append(pd.DataFrame({"kind": kind, "left": grid[:-1], "right": grid[1:], "count": counts}))
        told[kind] = {
            "n": len(x),
            "log": log,
            "marks": carried(x),
        }
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["kind", "left", "right", "count"])
    told["events_per_s"] = {"n": len(speeds), "marks": carried(speeds)}
    return small(data, rows, read_all=read_all, failed_streams=failed, **told)


def _streams(run: Run) -> tuple[stats.Floats, stats.Floats, stats.Floats, int, bool]:
    """TTFT and gaps in ms, events a second of each stream, how many streams failed, whether all was read.

    A row group at a time: a long stream has hundreds of chunks.
    """
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0),) * 3]
    failed = 0
    for file in run.files():
        source = pq.ParquetFile(file)
        if "chunks" not in source.schema_arrow.names or not pa.types.is_list(
            source.schema_arrow.field("chunks").type
        ):
            continue
        for batch in source.iter_batches(65536, columns=["phase", "sent", "first_byte", "chunks", "error"]):
            if sum(len(gaps) for _, gaps, _ in parts) > MOST_INTERVALS:
                ttft, gaps, speeds = (np.concatenate(one) for one in zip(*parts, strict=True))
                return ttft, gaps, speeds, failed, False
            if batch["chunks"].null_count == len(batch):
                continue
            table = pa.table(batch)
            of_interest = pc.and_(
                pc.equal(table["phase"].cast(pa.string()), "measure"), pc.is_valid(table["chunks"])
            )
            table = table.filter(of_interest)
            good = table.filter(pc.is_null(table["error"]))
            failed += len(table) - len(good)
            first = floats(pc.subtract(good["first_byte"], good["sent"]), 1e-6)
            parts.append((first[~np.isnan(first)], *_gaps(good["chunks"])))
    ttft, gaps, speeds = (np.concatenate(one) for one in zip(*parts, strict=True))
    return ttft, gaps, speeds, failed, True


def _gaps(chunks: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Differences between neighbours inside each list, µs to ms; and each list's gaps a second."""
    instants = np.asarray(pc.list_flatten(chunks).to_numpy())
    lengths = np.asarray(pc.list_value_length(chunks).to_numpy()).astype(np.int64)
    if len(instants) < 2:
        return np.empty(0), np.empty(0)
    inside = np.ones(len(instants), bool)
    starts = np.cumsum(lengths)[:-1]
    inside[starts[starts < len(instants)]] = False
    first = (np.cumsum(lengths) - lengths)[lengths > 1]
    last = (np.cumsum(lengths) - 1)[lengths > 1]
    lasted_s = (instants[last] - instants[first]) / 1e6
    speeds = (lengths[lengths > 1] - 1)[lasted_s > 0] / lasted_s[lasted_s > 0]
    return np.diff(instants)[inside[1:]] / 1e3, speeds
