"""Counts by bucket made into rows: as many as were counted, none truer than its bucket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perfkit.errors import BadInput
from perfkit.importing.rows import Rows, spread

#: A file of a few kB can claim any number of requests; more than this are refused.
MOST = 20_000_000


@dataclass(frozen=True)
class Outcome:
    """How some requests ended: how many, with which status, class of error and words."""

    count: int
    status: int | None = None
    error: str | None = None
    words: str | None = None


def by_rank(points: Sequence[tuple[float, int]], n: int) -> np.ndarray:
    """n latencies in order from (share of all, latency): each that of the first share that covers its rank.

    So a quantile of the rows is the one the tool printed; what lies between two of them gets the higher one.
    """
    refuse_too_many(n)
    shares = np.array([share for share, _ in points])
    values = np.maximum.accumulate(np.array([value for _, value in points], dtype=np.int64))
    ranks = (np.arange(n) + 0.5) / n
    return values[np.minimum(np.searchsorted(shares, ranks - 1e-12), len(values) - 1)]


def add_bucket(
    rows: Rows,
    operation: str,
    span: tuple[int, int],
    latencies: np.ndarray | Sequence[int],
    outcomes: Iterable[Outcome] = (),
) -> None:
    """Rows of one bucket of time, ns: their ends spread evenly over it, in no order of latency.

    The order within a bucket is not known; a fixed shuffle keeps it from looking like a trend. Outcomes are
    dealt out as they come; rows beyond them succeeded.
    """
    n = len(latencies)
    refuse_too_many(n)
    shuffled = np.random.default_rng(n).permutation(np.asarray(latencies, dtype=np.int64)).tolist()
    ends = spread(*span, n)
    place = 0
    for one in (*outcomes, Outcome(n)):
        for took in shuffled[place : place + one.count]:
            done = next(ends)
            rows.add(
                operation, started=done - took, done=done, status=one.status, error=one.error, words=one.words
            )
        place += one.count


def add_lost(rows: Rows, operation: str, span: tuple[int, int], lost: Iterable[Outcome]) -> None:
    """Failures of which nothing but their number is known; they have no end."""
    for one in lost:
        refuse_too_many(one.count)
        for at in spread(*span, one.count):
            rows.add(operation, started=at, done=None, status=one.status, error=one.error, words=one.words)


def refuse_too_many(n: int) -> None:
    """BadInput for more requests than anybody has counted in one bucket."""
    if not 0 <= n <= MOST:
        raise BadInput(f"the file counts {n:,} requests in one bucket; up to {MOST:,} can be made rows")
