"""Counts by bucket made into rows: as many as were counted, none truer than its bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from perfkit.errors import BadInput
from perfkit.importing.limits import MOST_ROWS
from perfkit.importing.rows import SEGMENT, Rows


def by_rank(points: Sequence[tuple[float, int]], n: int) -> np.ndarray:
    """n latencies in order from (share of all, latency): each that of the first share that covers its rank.

    So a quantile of the rows is the one the tool printed; what lies between two of them gets the higher one.
    """
    refuse_too_many(n)
    shares = np.array([share for share, _ in points])
    values = np.maximum.accumulate(np.array([value for _, value in points], dtype=np.int64))
    latencies = np.empty(n, np.int64)
    for part in _parts(0, n):
        places = np.searchsorted(shares, (part + 0.5) / n - 1e-12)
        latencies[part] = values[np.minimum(places, len(values) - 1)]
    return latencies


def add_bucket(
    rows: Rows, operation: str, span: tuple[int, int], latencies: np.ndarray, failed: int = 0, why: str = ""
) -> None:
    """Rows of one bucket of time, ns: their ends spread evenly over it, in no order of latency (int64).

    The order within a bucket is not known; a fixed shuffle keeps it from looking like a trend. The first ones
    are those that failed.
    """
    n = len(latencies)
    rows.refuse_more(n)
    np.random.default_rng(n).shuffle(latencies)
    failed = min(failed, n)
    for begin, end, failure in ((0, failed, why), (failed, n, None)):
        for part in _parts(begin, end):
            done = _spread(*span, n, part)
            rows.add_counted(operation, done - latencies[part], done, failure)


def add_lost(rows: Rows, operation: str, span: tuple[int, int], n: int, why: str) -> None:
    """Failures of which nothing but their number is known; they have no end."""
    rows.refuse_more(n)
    for part in _parts(0, n):
        rows.add_counted(operation, _spread(*span, n, part), None, why)


def refuse_too_many(n: int) -> None:
    """BadInput for more requests than anybody has counted in one bucket: a few kB can claim any number."""
    if not 0 <= n <= MOST_ROWS:
        raise BadInput(f"the file counts {n:,} requests in one bucket; at most {MOST_ROWS:,} can become rows")


def _parts(begin: int, end: int) -> Iterator[np.ndarray]:
    """The numbers from begin to before end, a segment's worth at a time."""
    for first in range(begin, end, SEGMENT):
        yield np.arange(first, min(first + SEGMENT, end), dtype=np.int64)


def _spread(begin: int, end: int, n: int, part: np.ndarray) -> np.ndarray:
    """The instants (ns) of these of n that lie evenly over a bucket of time, none on its edges."""
    step, rest = divmod(end - begin, 2 * n)
    return np.asarray(begin + step * (2 * part + 1) + rest * (2 * part + 1) // (2 * n))
