"""Findings about connection pools: exhausted, in overflow, leaked, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from perfkit.observe.frames import of_probe, only, span
from perfkit.observe.limits import Limits
from perfkit.store.metadata import Finding
from perfkit.store.rows import Part

#: A report may be this much earlier by one sample than by another: clocks, and when it was looked.
_CLOCKS_S = 0.2
Pools = list[tuple[str, str]]  #: source and name of each


def exhausted(samples: pd.DataFrame, limits: Limits) -> Pools:
    """Pools that were exhausted: checkouts waited often enough, or gave up."""
    given_up, waits = of_probe(samples, "pool.timeout_ms"), of_probe(samples, "pool.waiting")
    pools = pd.concat([waits, given_up])[["source", "label"]].drop_duplicates()
    found = []
    for source, name in pools.itertuples(index=False):
        waiting, lost = (only(part, source=source, label=name) for part in (waits, given_up))
        if (waiting["value"] > 0).sum() > limits.waiting_share * len(waiting) or len(lost):
            found.append((str(source), str(name)))
    return found


def pool_exhausted(samples: pd.DataFrame, parts: pd.DataFrame, exhausted: Pools) -> Iterator[Finding]:
    """Checkouts were waiting: all connections were out."""
    probes = ("pool.waiting", "pool.timeout_ms", "pool.checked_out")
    for source, name in exhausted:
        waiting, lost, out = (only(of_probe(samples, probe), source=source, label=name) for probe in probes)
        busy = waiting[(waiting["value"] > 0).to_numpy()]
        text = f"The database pool {name!r} of {source} was exhausted"
        if len(busy):
            until = waiting["t_s"].shift(-1).fillna(waiting["t_s"])
            lasted = (until - waiting["t_s"])[(waiting["value"] > 0).to_numpy()].sum()
            whole = max(float(waiting["t_s"].max() - waiting["t_s"].min()), 1e-9)
            text += f" for {lasted:.2g} s of {whole:.2g} s ({lasted / whole:.0%})"
            text += f": all {out['value'].max():.0f} connections were out and " if len(out) else ": "
            text += f"up to {waiting['value'].max():.0f} checkouts waited for one"
        text += f". {_waited(parts)}"
        if len(lost):
            text += f" {len(lost):,} checkouts gave up waiting."
        yield Finding("pool_exhausted", text.strip(), *span(pd.concat([busy, lost])))


def _waited(parts: pd.DataFrame) -> str:
    """What share of the slow requests waited for the pool."""
    if parts.empty:
        return ""
    slow = parts.nlargest(max(len(parts) // 100, min(10, len(parts))), "response_ms")
    waited = slow["db_wait"] > 0.1 * slow["response_ms"]
    share = slow["db_wait"].sum() / max(slow["response_ms"].sum(), 1e-9)
    return f"Of the {len(slow)} slowest requests {waited.sum()} waited there, {share:.0%} of their time."


def overflow(samples: pd.DataFrame, exhausted: Pools, limits: Limits) -> Iterator[Finding]:
    """A pool lived on its overflow; one that was exhausted has its own finding."""
    over = of_probe(samples, "pool.overflow")
    sizes = of_probe(samples, "pool.size").groupby(["source", "label"], observed=True)["value"].max()
    for (source, name), part in over.groupby(["source", "label"], observed=True):
        used = part[(part["value"] > 0).to_numpy()]
        if (str(source), str(name)) in exhausted or len(used) <= limits.overflow_share * len(part):
            continue
        size = sizes.get((source, name), 0.0)
        most = round(float(used["value"].max()))
        text = f"The database pool {name!r} of {source} was too small {len(used) / len(part):.0%} of the "
        text += f"time: {most:.0f} connection{'s' * (most != 1)} beyond its size of {size:.0f} at most. "
        text += "Each of them is opened for one checkout and closed after it: "
        yield Finding("pool_overflow", f"{text}pool_size={size + most:.0f} keeps them.", *span(used))


def leaks(rows: Part, samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Connections were not given back: for the pool monitor's limit, or longer than any request lasted.

    Of each server that is told which has more of them: one that leaks all the time has few that are old.
    """
    reported = of_probe(samples, "pool.leak_s")
    long = of_probe(samples, "pool.used_again_s")
    long = long[(long["value"] >= reported["value"].min()).to_numpy()]
    old = _not_used_again(reported, long, np.inf)
    longest_s = _longest_use_s(rows, parts)
    ends = of_probe(samples, "pool.checked_out").groupby("source", observed=True)["t_s"].max()
    for source, end_s in ends.items():
        probes = ("pool.unused_s", "pool.used_again_s")
        unused, again = (only(of_probe(samples, probe), source=source) for probe in probes)
        part = _not_used_again(unused, again, end_s - longest_s)
        if len(part) < limits.unused_connections or len(part) <= (old["source"] == source).sum():
            continue
        old = old[(old["source"] != source).to_numpy()]
        text = f"The connections of {source} that are out of their pool and run nothing grew by {len(part):,}"
        text += ": until the end they were neither used nor given back, for longer than any request may have "
        text += f"needed them ({longest_s:.2g} s). Most of them were taken at "
        text += f"{part['label'].mode().iloc[0]}: close them there."
        yield Finding("connection_leak", text, *span(part))
    for place, part in old.groupby("label"):
        many = "s were" if len(part) > 1 else " was"
        text = f"{len(part):,} database connection{many} taken at {place} and neither used nor given back "
        text += f"for {part['value'].min():.3g} s or more. Close them there."
        yield Finding("connection_leak", text, *span(part))


def _not_used_again(reported: pd.DataFrame, used_again: pd.DataFrame, until_s: float) -> pd.DataFrame:
    """Connections that were reported to run nothing until then, without those used or given back later.

    Both samples say for how long the connection had run nothing, thus when it was reported. Which of those
    of a place came back does not matter: the last of them are returned, as many as did not.
    """
    keys = ["source", "label"]
    reported = reported[(reported["t_s"] <= until_s).to_numpy()]
    at_s = used_again["t_s"] - used_again["value"] + reported["value"].min()
    back = used_again[((at_s >= 0) & (at_s <= until_s + _CLOCKS_S)).to_numpy()]
    came_back = back.groupby(keys, observed=True).size()
    number = reported.groupby(keys, observed=True).cumcount()
    least = [came_back.get(key, 0) for key in zip(reported["source"], reported["label"], strict=True)]
    return reported[(number >= least).to_numpy()]


def _longest_use_s(rows: Part, parts: pd.DataFrame) -> float:
    """For how long a request may have had a connection at most, s: its wait for the pool is none of it."""
    if parts.empty:
        return float(rows.row("SELECT max(done_s - t_s) AS s FROM part")["s"] or 0.0)
    return float((parts["response_ms"] - parts["client"] - parts["db_wait"]).max()) / 1e3
