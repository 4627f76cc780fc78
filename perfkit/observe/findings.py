"""Findings: what was wrong with the server during a run, in words, from its probes and the client's rows.

A finding is said only when the data carry it: every rule here names its evidence and its limit. On a healthy
run there is none. Limits are in `Limits`, so that a report can say them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from perfkit.observe import client, database, process, service_limits
from perfkit.observe.frames import of_probe, only, server_samples, span, split, tail_split
from perfkit.observe.limits import Limits
from perfkit.store import Run
from perfkit.store.metadata import Finding
from perfkit.store.rows import Part

__all__ = ["Finding", "Judged", "Limits", "explain_tail", "findings", "judge"]


@dataclass(frozen=True)
class Judged:
    """What a report says of the server: findings, why slow requests were slow, whether it had probes."""

    findings: list[Finding]
    tail: str
    probed: bool
    notes: tuple[str, ...] = ()  #: what could not be fetched, or was lost


def judge(rows: Part, limits: Limits | None = None) -> Judged:
    """Findings of a run and the explanation of its tail; rows: `frames.measured`."""
    samples = server_samples(rows)
    parts = split(rows, samples)
    probed = samples["probe"].isin(_OWN).any()
    found = findings(rows, samples, parts, limits)
    return Judged(found, explain_tail(tail_split(parts)), bool(probed), tuple(_collected(rows.run)))


#: Any of them says that a server has perfkit's probes; others are of a Prometheus page.
_OWN = ("loop.lag_ms", "pool.checked_out", "request.app_ms", "process.cpu_share")


def _collected(run: Run) -> Iterator[str]:
    """What did not come from the server's side, a line for each source that had trouble."""
    for probe in run.meta.probes:
        if probe.errors:
            yield probe.failure
        if probe.lost:
            yield f"{probe.source}: {probe.lost:,} samples were lost"


def findings(
    rows: Part, samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits | None = None
) -> list[Finding]:
    """All findings of a run, the most disturbing kinds first.

    rows: `perfkit.frames.measured`; samples: `frames.server_samples`, parts: `frames.split` of this room.
    """
    limits = limits or Limits()
    found = [*database.findings(rows, samples, parts, limits)]
    found += process.findings(rows, samples, parts, limits)
    found += service_limits.findings(samples, limits)
    found += [*_slow_model(samples, limits), *_cache(samples, limits)]
    of_rows = client.findings(rows, limits)
    first = [one for one in of_rows if one.kind in client.FIRST]
    return [*first, *found, *(one for one in of_rows if one not in first)]


# -- of the server's probes ------------------------------------------------------------------------


def _slow_model(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    ttft = of_probe(samples, "model.ttft_ms")
    if len(ttft) >= 5 and (middle := float(ttft["value"].median())) >= limits.model_ttft_ms:
        text = f"The model was slow: half of its {len(ttft):,} answers took more than {middle:.0f} ms to the "
        text += f"first token (limit {limits.model_ttft_ms:.0f} ms)."
        yield Finding("slow_model", text, *span(ttft))


def _cache(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    lookups = of_probe(samples, "cache.hits", "cache.misses")
    for name, part in lookups.groupby("label"):
        total = float(part["value"].sum())
        hits = float(only(part, probe="cache.hits")["value"].sum())
        if total >= limits.cache_lookups and hits / total < limits.cache_hits:
            text = f"The cache of {name} missed {1 - hits / total:.0%} of {total:,.0f} lookups: it is off, "
            yield Finding("cache_misses", text + "too small, or forgets too soon.", *span(part))


# -- the tail --------------------------------------------------------------------------------------


def explain_tail(tail: pd.DataFrame) -> str:
    """Why the slowest requests were slow, in one sentence, from `frames.tail_split`; empty when too few."""
    if tail.empty:
        return ""
    told = []
    for group, part in tail.groupby("group", sort=False):
        big = part.sort_values("share", ascending=False)
        shares = ", ".join(
            f"{label} {share:.0%}"
            for label, share in zip(big["label"], big["share"], strict=True)
            if share >= 0.005
        )
        slowest = f"The slowest {tail.attrs['slowest']:.1%} of {tail.attrs['known']:,} requests"
        name = slowest if group == "slowest" else "The median requests"
        told.append(f"{name} (n = {part['n'].iloc[0]:,}, {part['ms'].sum():.3g} ms on average): {shares}.")
    return " ".join(told)
