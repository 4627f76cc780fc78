"""What a summary of another tool carries, in the shape of what perfkit computes from rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from perfkit.store.metadata import Carried, Results

#: A quantile is taken from the next one that a summary tells, at most this share of its tail further out.
_NEAR = 0.25


def totals(carried: tuple[Carried, ...]) -> Carried:
    """The numbers of all operations together; counts are added up where the file has none of them."""
    told = next((one for one in carried if not one.operation), None)
    if told is not None or len(carried) == 1:
        return told or carried[0]
    n, failed = ([getattr(one, name) for one in carried] for name in ("n", "failed"))
    return Carried(n=_sum(n), failed=_sum(failed), failures=tuple(f for one in carried for f in one.failures))


def _sum(values: list[int | None]) -> int | None:
    return None if None in values else sum(value or 0 for value in values)


def results_of(carried: tuple[Carried, ...]) -> Results:
    """Counts and kinds of failure; 0 for a count that is not told."""
    total = totals(carried)
    n, failed = total.n or 0, total.failed or 0
    one = len(carried) == 1  # shown as all operations
    named = (
        replace(kind, operation=(not one and kind.operation) or "all operations") for kind in total.failures
    )
    kinds = tuple(sorted(named, key=lambda kind: -kind.count))
    return Results(rows=n, errors=failed, n=n, failed=failed, failures=kinds)


def summarize(carried: tuple[Carried, ...], names: dict[str, float], total: str) -> list[dict[str, Any]]:
    """Rows of `store.summary.summarize`, n and failed NaN where they are not told.

    names: of quantiles, with their shares.
    """
    from perfkit import stats

    parts = [one for one in carried if one.operation] if len(carried) > 1 else []
    parts.sort(key=lambda one: -(one.n or 0))
    rows = []
    for one in (*parts, totals(carried)):
        n, failed, rate = map(_or_nan, (one.n, one.failed, one.rate_per_s))
        row: dict[str, Any] = {"operation": one.operation if one in parts else total}
        row |= {"n": n, "failed": failed}
        row |= {
            "ok": n - failed,
            "censored": 0,
            "rate_per_s": rate * (1 - failed / n) if failed > 0 and n else rate,
            "goodput_per_s": math.nan,
        }
        for name in ("mean", "std", "min", "max"):
            row[name] = _or_nan(getattr(one, f"{name}_ms"))
        for name in ("mean", *names):
            row |= {f"{name}_low": math.nan, f"{name}_high": math.nan, f"{name}_unit": stats.SUMMARIZED}
        rows.append(row | {name: quantile(one, share) for name, share in names.items()})
    return rows


def quantile(one: Carried, share: float) -> float:
    """The latency (ms) that this share of requests kept to, NaN where the summary does not tell it.

    It does where it has that share, or one a little further out, or the same latency on both sides of it.
    """
    below = math.nan
    for at, ms in one.quantiles:
        if at >= share - 1e-9:
            return ms if at <= share + _NEAR * (1 - share) + 1e-9 or ms == below else math.nan
        below = ms
    return math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
