"""Time to first byte, time between chunks and chunks a second of streamed responses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit import stats
from perfkit.frames.distribution import carried, counted
from perfkit.frames.rows import floats, small
from perfkit.store import Run

MOST_INTERVALS = 10_000_000
#: Shorter times are counted in a histogram's first bin.
LEAST_MS = 0.01


def streaming(run: Run, rows: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Histograms of streamed responses that succeeded: kind, left, right, count; empty without any.

    kind `ttft`: first_byte - sent of rows that have chunks, ms; `inter_chunk`: gaps between two chunks of one
    response, ms, those below 10 µs in the first bin; `chunks_per_s`: gaps of a response over its time from
    first to last chunk, 1/s. attrs: for each kind that there is {n, log, marks}; failed_streams; read_all
    (false beyond 10 million gaps).
    """
    ttft, gaps, speeds, failed, read_all = _streams(run)
    parts, told = [], {}
    for kind, x, floor in (
        ("ttft", ttft, LEAST_MS),
        ("inter_chunk", gaps, LEAST_MS),
        ("chunks_per_s", speeds, 0.0),
    ):
        if not len(x):
            continue
        data, log = counted(x, bins, floor)
        parts.append(data.assign(kind=kind))
        told[kind] = {"n": len(x), "log": log, "marks": carried(x)}
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["kind", "left", "right", "count"])
    return small(data, rows, read_all=read_all, failed_streams=failed, **told)


def _streams(run: Run) -> tuple[stats.Floats, stats.Floats, stats.Floats, int, bool]:
    """TTFT and gaps in ms, chunks a second of each stream, how many streams failed, whether all was read.

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
