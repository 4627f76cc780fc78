"""The numbers of a part of a run: how many requests, how fast, with what intervals; by operation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from perfkit import stats
from perfkit.errors import BadInput
from perfkit.store import carried, fidelity, slo
from perfkit.store.quantiles import OFTEN, Binned, Counted, counted, estimates
from perfkit.store.rows import Part
from perfkit.text import plural

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
#: The names of the quantiles: p50 … p99.9.
NAMES = tuple(f"p{100 * p:g}" for p in QUANTILES)
TOTAL = "all operations"
#: Why a statistic that enough requests carry has no interval (`stats.WIDE`).
MOVED = "it varied so much during the run that the interval would be meaningless"
#: Around p50 and p90: where these are far apart, the quantile lies between two groups of requests.
_AROUND = (0.45, 0.55, 0.85, 0.95)


@functools.lru_cache(maxsize=4)
def summarize(part: Part, level: float = stats.LEVEL) -> tuple[dict[str, Any], ...]:
    """One entry per operation, the most frequent first, where there are several; the last one for all.

    operation; n, failed, ok (successes with a latency); rate_per_s, the successes that ended in the part, of
    whatever phase, a second; goodput_per_s, those that meet the `slo`, NaN where nobody knows; of the
    latencies of successes, in ms: mean, std, min, p50 … p99.9, max, NaN where there is none.
    `<statistic>_low`, `_high`: interval at `level`, NaN for none, infinite where that end is not known;
    `_unit`: what it takes for independent (`stats.WITHIN_RUN`, `INDEPENDENT`), or why there is none (`THIN`,
    `WIDE`, `SUMMARIZED`: it is another tool's summary, with the numbers that stand there). Quantiles are
    exact, numpy's linear method on every row. Where something streamed: ttft_p50, ttft_p99, the time to the
    first token in ms, NaN for what fewer than 10 requests carry.
    """
    if part.run.meta.carried:
        shares = dict(zip(NAMES, QUANTILES, strict=True))
        return tuple(carried.summarize(part.run.meta.carried, shares, TOTAL))
    names, _, binned = counted(part)
    groups: list[int | None] = [*range(len(names) if len(names) > 1 else 0), None]
    timed = not fidelity.untimed(part.run.meta)
    wanted = [(group, p) for group in groups for p in QUANTILES]
    often = [(group, p) for group in groups for p in OFTEN]
    found = estimates(binned, wanted, level, timed=timed, near=often)
    rows, streams = [], _first_tokens(part, groups) if numbers_of(part)["streamed"] else {}
    for group in groups:
        name = None if group is None else names[group]
        row = {"operation": TOTAL if name is None else name, **numbers_of(part, name)}
        counts, sums, _ = binned.sizes(group), row.pop("slices_ms"), row.pop("streamed")
        sums = sums if timed else None
        mean = stats.mean_estimate(row["mean"], row["std"], row["ok"], sums, counts, level)
        told = {"mean": mean}
        told |= {label: found[group, p] for label, p in zip(NAMES, QUANTILES, strict=True)}
        for label, one in told.items():
            row |= {label: one.point, f"{label}_low": one.low, f"{label}_high": one.high}
            row[f"{label}_unit"] = one.unit
        rows.append(row | streams.get(group, {}))
    return tuple(rows)


def _first_tokens(part: Part, groups: Sequence[int | None]) -> dict[int | None, dict[str, float]]:
    """Quantiles of the time to the first token by group."""
    values = "SELECT g, 0 AS s, ttft_ms AS x FROM part JOIN operations USING (operation)"
    binned = Binned(part, f"{values} WHERE ok AND ttft_ms IS NOT NULL")
    found: dict[int | None, dict[str, float]] = {}
    for group in groups:
        shares = {"ttft_p50": 0.5, "ttft_p99": 0.99}
        points = binned.quantiles([(group, p) for p in shares.values()])
        firm = [stats.support(binned.n(group), p) >= stats.MIN_SUPPORT for p in shares.values()]
        told = zip(shares, points, firm, strict=True)
        found[group] = {name: point if is_firm else math.nan for name, point, is_firm in told}
    return found


def firm(row: Any, name: str) -> bool:
    """Whether a quantile of an entry is there and rests on requests enough to be shown."""
    return bool(row[f"{name}_unit"] != stats.THIN and not math.isnan(row[name]))


def numbers_of(part: Part, operation: str | None = None) -> dict[str, Any]:
    """What can be counted or summed up of an operation, or of all (None).

    n, failed, ok, censored, rate_per_s, goodput_per_s; streamed, of those that ended in it; mean, std, min,
    max of latencies of successes, in ms.
    """
    if part.run.meta.carried:
        return next(row for row in summarize(part) if row["operation"] == (operation or TOTAL))
    return dict(_heads(part)[operation])


@functools.lru_cache(maxsize=4)
def _heads(part: Part) -> dict[str | None, dict[str, Any]]:
    """What can be counted or summed up of each operation, and of all (None); slices_ms: sums by slice."""
    found = counted(part)
    ended = part.query(
        "SELECT operation, count(*) AS n, count(*) FILTER (meets_slo) AS met, count(ttft_ms) AS streamed"
        f" FROM r WHERE ok AND done BETWEEN {part.begin_ns} AND {part.window_ns[1]} GROUP BY operation"
    ).to_pydict()
    ends, met, streamed = (_with_total(ended["operation"], ended[name]) for name in ("n", "met", "streamed"))
    known = not no_goodput(part)
    groups: dict[str | None, int | None] = {None: None, **{name: g for g, name in enumerate(found.names)}}
    found.latencies.quantiles([(g, p) for g in groups.values() for p in (0.0, 1.0)])  # all in one pass
    return {
        name: _head(found, g)
        | _rates(ends.get(name, 0), met.get(name, 0) if known else math.nan, part.span_s)
        | {"streamed": streamed.get(name, 0)}
        for name, g in groups.items()
    }


def _with_total(names: Sequence[str], counts: Sequence[int]) -> dict[str | None, int]:
    """Counts by operation, and their sum under None."""
    return {**dict(zip(names, counts, strict=True)), None: sum(counts)}


def _rates(ended: int, met: float, span_s: float) -> dict[str, float]:
    """What ended, and of that what meets the `slo`, a second."""
    length = span_s if span_s > 0 else math.nan
    return {"rate_per_s": ended / length, "goodput_per_s": met / length}


def _head(found: Counted, group: int | None) -> dict[str, Any]:
    """The numbers of an operation, or of all, from those of its cells."""
    mine = slice(None) if group is None else slice(*np.searchsorted(found.cells["g"], (group, group + 1)))
    cells = {name: column[mine] for name, column in found.cells.items()}
    good = {name: column[cells["good"]] for name, column in cells.items()}
    n, total_ms, ok = good["n"], good["total_ms"], int(good["n"].sum())
    mean = float(total_ms.sum()) / ok if ok else math.nan
    squares = float((n * (good["variance"] + (total_ms / n - mean) ** 2)).sum())
    least, most = found.latencies.quantiles([(group, 0.0), (group, 1.0)])
    return {
        "n": int(cells["n"].sum()),
        **{name: int(cells["n"][cells[name]].sum()) for name in ("failed", "censored")},
        "ok": ok,
        "std": math.sqrt(squares / (ok - 1)) if ok > 1 else math.nan,
        "min": least,
        "max": most,
        "mean": mean,
        "slices_ms": np.bincount(good["s"], total_ms, minlength=stats.SLICES),
    }


# -- tokens and goodput -------------------------------------------------------------------------------


def without(part: Part, column: str) -> str:
    """Why no success of a part has a time of this column, `ttft_ms` or `tpot_ms`."""
    seen = part.row("SELECT count(first_token) AS streamed, count(tokens_out) AS counted FROM part WHERE ok")
    if column == "ttft_ms" or not seen["streamed"]:
        return "no response was streamed"
    if not seen["counted"]:
        return "the server reported no usage, and a chunk is not a token"
    return "no response has two tokens"


@functools.lru_cache(maxsize=4)
def no_goodput(part: Part) -> str:
    """Why a part has no goodput; empty where it has, also one of 0."""
    if not part.run.meta.slo:
        return "the workload has no slo"
    try:
        columns = [one.column for one in slo.parse(part.run.meta.slo)]
    except BadInput as error:
        return str(error)
    times = ("ttft_ms", "tpot_ms")
    seen = part.row(f"SELECT count(*) AS n, {', '.join(f'count({x}) AS {x}' for x in times)},"
                    " count(tokens_out) AS counted FROM part WHERE ok")  # fmt: skip
    seen["tpot_ms"] = min(seen["ttft_ms"], seen["counted"])  # a single token is known to be one
    lacking = next((one for one in columns if seen["n"] and not seen.get(one, 1)), None)
    return without(part, lacking) if lacking else ""


# -- what a reader must know --------------------------------------------------------------------------


def warnings(part: Part) -> list[str]:
    """What a reader of the summary must know: quantiles on few requests or between modes, retries."""
    if part.run.meta.carried:
        return []
    names, _, binned = counted(part)
    rows = summarize(part)
    found = []
    for row in (rows[-1], *rows[:-1]):
        if row["operation"] != TOTAL and stats.support(row["ok"], 0.5) < stats.MIN_SUPPORT:
            continue  # no number of it is shown
        group = None if row["operation"] == TOTAL else names.index(row["operation"])
        told = (_thin_support(row["ok"]), _unsteady(row), *_between_modes(binned, group))
        found += [f"{row['operation']}: {words}" for words in told if words]
    lost = part.row("SELECT count(*) AS n FROM part WHERE ok AND first_token >= 0 AND tokens_out IS NULL")[
        "n"
    ]
    if lost and "tpot" in part.run.meta.slo:
        found.append(f"{lost:,} streams succeeded without usage from the server: not counted as goodput")
    retries = part.row("SELECT count(*) AS n FROM part WHERE attempt > 1")["n"]
    if retries:
        found.append(f"{retries:,} of the rows are retries; each attempt is a row of its own")
    return found


def _unsteady(row: dict[str, Any]) -> str:
    """Which statistics have no interval though requests enough carry them."""
    names = [name for name in ("mean", *NAMES) if row[f"{name}_unit"] == stats.WIDE]
    return f"no interval for {', '.join(names)}: {MOVED}" if names else ""


def _thin_support(n: int) -> str:
    """Which quantiles of n requests rest on few of them, and which are not shown for it."""
    weak = [(name, stats.support(n, p)) for name, p in zip(NAMES, QUANTILES, strict=True)]
    weak = [(name, on) for name, on in weak if n and on < stats.GOOD_SUPPORT]
    shown = [f"{name} of {n:,} requests rests on {on:.0f}" for name, on in weak if on >= stats.MIN_SUPPORT]
    not_shown = [f"{name} ({on:.2g})" for name, on in weak if on < stats.MIN_SUPPORT]
    hidden = [f"not shown (too few of {plural(n, 'request')} lie beyond): {', '.join(not_shown)}"]
    return "; ".join(shown + (hidden if not_shown else []))


def _between_modes(binned: Binned, group: int | None) -> list[str]:
    """A quantile in a gap of the distribution jumps from run to run."""
    if binned.n(group) < 20:
        return []
    ends = binned.quantiles([(group, p) for p in _AROUND])
    return [
        f"{name} lies between two groups of requests ({low:.3g} ms and {high:.3g} ms within ±5 %), "
        "so it may jump from run to run"
        for name, (low, high) in (("p50", ends[:2]), ("p90", ends[2:]))
        if low > 0 and high / low > 2
    ]
