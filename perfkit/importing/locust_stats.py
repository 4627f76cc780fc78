"""Locust's statistics: NAME_stats.csv of `--csv NAME`, until 0.11 NAME_requests.csv; a summary.

A row for each operation and one for all together. Response times are ms, and those of failures are in them.
"""

from __future__ import annotations

import re
from dataclasses import replace

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import carried, operations, summary_of
from perfkit.importing.times import UNITS, ns, whole
from perfkit.store.metadata import Carried, FailureKind

_MOST = 10_000
_NAMES = {"# requests": "request count", "# failures": "failure count", "method": "type"}
_NEEDED = {"type", "name", "request count", "failure count", "average response time", "requests/s"}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%?")


def is_csv(head: Head) -> bool:
    """The header, in the words of any version."""
    return {_NAMES.get(name.lower(), name.lower()) for name in head.columns()} >= _NEEDED


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """Every row, the one of all together without a name."""
    if not is_csv(Head(source.head)):
        raise BadInput(f"{source.path} lacks the columns of Locust's statistics; it has another format")
    found: list[tuple[str, str, Carried]] = []
    seen: set[tuple[str, str]] = set()

    def add(record: dict[str, str]) -> None:
        told = {_NAMES.get(name.lower(), name.lower()): text.strip() for name, text in record.items()}
        if len(found) >= _MOST:
            raise BadInput(
                f"{source.path} has more than {_MOST:,} operations; give requests a name without ids"
            )
        if (told["name"], told["type"]) in seen:
            raise BadInput(f"{source.path} has {told['name'][:80]!r} twice: files were joined; split it")
        seen.add((told["name"], told["type"]))
        found.append((told["name"], told["type"], _carried(told)))

    source.each(records(source, ("Name",)), add, "counts and ms in the columns that Locust has")
    is_all = [name in ("Aggregated", "Total") and method in ("", "None") for name, method, _ in found]
    names = iter(operations(rows, (one[:2] for one, all_ in zip(found, is_all, strict=True) if not all_)))
    told = [_named(one, "" if all_ else next(names)) for (*_, one), all_ in zip(found, is_all, strict=True)]
    total = next((one for one in told if not one.operation), None)
    span = total.n / total.rate_per_s if total and total.n and total.rate_per_s else None
    return summary_of("Locust", told, span_s=span, notes=["response times include failures"])


def _named(one: Carried, name: str) -> Carried:
    """The same of an operation."""
    return replace(
        one, operation=name, failures=tuple(replace(kind, operation=name) for kind in one.failures)
    )


def _carried(told: dict[str, str]) -> Carried:
    """What one row tells."""
    n, failed = whole(told["request count"]), whole(told["failure count"])
    if not 0 <= failed <= n:
        raise Wrong(f"{failed} failures of {n} requests", "no more failures than requests")
    mean, low, high, median = (
        _ms(told, f"{name} response time") if n else None for name in ("average", "min", "max", "median")
    )
    shares = {name: float(share[1]) / 100 for name in told if (share := _SHARE.fullmatch(name))}
    points = [(0.5, median), *((share, _ms(told, name) if n else None) for name, share in shares.items())]
    kinds = [FailureKind("check", "", failed, "Locust's statistics do not say why")] if failed else []
    rate = float(told["requests/s"]) if n else None
    return carried(
        n=n, failed=failed, kinds=kinds, rate_per_s=rate, mean=mean, low=low, high=high, points=points
    )


def _ms(told: dict[str, str], name: str) -> float | None:
    """A time in ms, None where it is not told."""
    text = told.get(name, "")
    return None if text in ("", "N/A", "None") else ns(text, "ms") / UNITS["ms"]
