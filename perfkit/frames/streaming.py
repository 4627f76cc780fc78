"""Time to first token, time between chunks, chunks and tokens a second of streamed responses."""

from __future__ import annotations

from typing import Any

import pandas as pd

from perfkit.frames.distribution import bars, carried
from perfkit.frames.rows import of_part, small
from perfkit.store.quantiles import Binned
from perfkit.store.rows import Part

__all__ = ["streaming"]

#: Of a run with more gaps between chunks, those of a sample of its responses are counted.
MOST_GAPS = 30_000_000
#: Shorter times are counted in a histogram's first bin.
LEAST_MS = 0.01
_SAMPLED = "NOT failed AND chunks IS NOT NULL AND hash(planned, seq) % {one_in} = 0"
#: SQL of x, and what is counted in the first bin if below; instants of chunks are in µs.
_KINDS = {
    "ttft": ("SELECT ttft_ms AS x FROM {streams} WHERE ttft_ms IS NOT NULL", LEAST_MS),
    "inter_chunk": ("SELECT (unnest(chunks[2:]) - unnest(chunks[1:-2])) / 1e3 AS x FROM {streams}", LEAST_MS),
    "chunks_per_s": (
        "SELECT (len(chunks) - 1) / ((chunks[-1] - chunks[1]) / 1e6) AS x FROM {streams}"
        " WHERE chunks[-1] > chunks[1]",
        None,
    ),
    "tokens_per_s": (
        "SELECT (tokens_out - 1) / ((chunks[-1] - chunks[1]) / 1e6) AS x FROM {streams}"
        " WHERE tokens_out > 1 AND chunks[-1] > chunks[1]",
        None,
    ),
}


@of_part
def streaming(rows: Part, bins: int = 60) -> pd.DataFrame:
    """Return histograms of successful streamed responses: kind, left, right, count; empty without any.

    A chunk is an event that carries content. kind `ttft`: first_token - sent, ms (first_byte in a run of
    schema 1); `inter_chunk`: gaps between two chunks of one response, ms, those below 10 µs in the first bin;
    `chunks_per_s`: gaps of a response over its time from first to last chunk, 1/s; `tokens_per_s`: the same
    of the tokens the server reported; absent where it reported none. attrs: for each kind present {n, log,
    marks}; failed_streams; one_in (of so many responses one was read: 1, all, up to `MOST_GAPS` gaps).
    """
    there = rows.row(
        "SELECT coalesce(sum(len(chunks)) FILTER (NOT failed), 0) AS chunks,"
        " count(chunks) FILTER (failed) AS failed FROM part"
    )
    one_in = int(there["chunks"]) // MOST_GAPS + 1
    parts, told = [], dict[str, Any]()
    for kind, (sql, floor) in _KINDS.items() if there["chunks"] else ():
        values = sql.format(streams=f"(SELECT * FROM part WHERE {_SAMPLED.format(one_in=one_in)})")
        binned = Binned(rows, f"SELECT 0 AS g, 0 AS s, x FROM ({values})")
        if not binned.n():
            continue
        data, log = bars(rows, values, binned, bins, floor)
        parts.append(data.assign(kind=kind))
        told[kind] = {"n": binned.n(), "log": log, "marks": carried(binned)}
    data = pd.concat(parts) if parts else pd.DataFrame(columns=["kind", "left", "right", "count"])
    return small(data, rows, one_in=one_in, failed_streams=there["failed"], **told)
