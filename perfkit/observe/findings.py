"""Findings: what was wrong with the server during a run, in words, from its probes and the client's rows.

A finding is said only when the data carry it: every rule here names its evidence and its limit. On a healthy
run there is none. Limits are in `Limits`, so that a report can say them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perfkit.observe import database
from perfkit.observe.frames import PARTS, of_probe, server_samples, split, tail_split
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


@dataclass(frozen=True)
class Limits:
    """From where on something is a finding."""

    blocked_ms: float = 100.0  #: of one block of the event loop; three by the same code, or one of 1 s
    model_ttft_ms: float = 1000.0  #: median time to the model's first token
    cache_hits: float = 0.5  #: share of lookups
    cache_lookups: int = 50
    cpu_share: float = 0.8  #: of one core, by one server process in a second
    cpu_seconds: int = 2  #: and in half of the run's seconds, or in ten
    lag_ms: float = 250.0  #: of the loop where no hang report says by what; three times, or once 1 s
    failed_share: float = 0.2  #: of all requests
    burst_failures: int = 5  #: in one second, and at least half of what ended in it


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
    found = database.findings(samples, parts)
    for rule in (_blocked, _cpu, _slow_model, _cache):
        found += rule(samples, parts, limits)
    return [*found, *_failing(rows, limits), *_timeouts(rows), *_bursts(rows, limits), *_retries(rows)]


# -- of the server's probes ------------------------------------------------------------------------


def _blocked(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """The event loop stood still: a hang whose whole duration is known, or that had not ended."""
    ended, begun = of_probe(samples, "loop.recovered_ms"), of_probe(samples, "loop.hang_ms")
    hangs = ended if len(ended) >= len(begun) else pd.concat([ended, begun.tail(len(begun) - len(ended))])
    hangs = hangs[(hangs["value"] >= limits.blocked_ms).to_numpy()]
    files = hangs["label"].map(lambda place: str(place).partition(":")[0])
    told = [part for _, part in hangs.groupby(files, sort=False) if _often(part["value"])]
    if not told and hangs["value"].sum() >= max(1000.0, 50 * samples.attrs.get("span_s", 0.0)):
        told = [hangs]  # no code does it often, all together hold it for a twentieth of the time
    for part in told:
        places = part.groupby("label", sort=False)["value"].sum().sort_values(ascending=False)
        times = "once" if len(part) == 1 else f"{len(part):,} times"
        text = f"The event loop was blocked {times} by {', '.join(places.index[:3])}"
        text += f" and {len(places) - 3} other places" if len(places) > 3 else ""
        text += f", {part['value'].sum() / 1e3:.2g} s in all, {part['value'].max():.0f} ms the longest; "
        yield Finding("loop_blocked", text + "nothing else was served meanwhile.", *_span(part))
    if not len(ended) and not len(begun):
        yield from _late(samples, limits)


def _often(ms: pd.Series) -> bool:
    """Three times, or once for long: a machine that is short of cores can do less than that to any code."""
    return len(ms) >= 3 or bool(ms.max() >= 1000)


def _late(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """The loop came late again and again, and nobody looked by what: its watchdog waits for longer hangs."""
    for source, lag in of_probe(samples, "loop.lag_ms").groupby("source", observed=True):
        late = (lag["value"] >= limits.lag_ms).to_numpy()
        peaks = lag["value"][late & ~np.append(late[1:], False)]  # the last of those that rise
        if len(peaks) and _often(peaks):
            text = f"The event loop of {source} was blocked {len(peaks):,} times, {peaks.max():.0f} ms the "
            text += "longest; by which code its watchdog tells with hang_after_s=0.2, check_every_s=0.05."
            yield Finding("loop_blocked", text, *_span(lag[late]))


def _cpu(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """A server process used a whole core: with one event loop it cannot use more."""
    for source, cpu in of_probe(samples, "process.cpu_share").groupby("source", observed=True):
        full = cpu[(cpu["value"] >= limits.cpu_share).to_numpy()]
        if len(full) >= max(limits.cpu_seconds, min(len(cpu) / 2, 10)):
            text = f"The server process {source} used {full['value'].mean():.0%} of a core for {len(full)} "
            text += (
                f"of {len(cpu)} s: it was the bottleneck; more instances or less work a request would help. "
            )
            text += "Times of its model hold its own wait for that core."
            yield Finding("cpu_bound", text, *_span(full))


def _slow_model(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    ttft = of_probe(samples, "model.ttft_ms")
    if len(ttft) >= 5 and (middle := float(ttft["value"].median())) >= limits.model_ttft_ms:
        text = f"The model was slow: half of its {len(ttft):,} answers took more than {middle:.0f} ms to the "
        text += f"first token (limit {limits.model_ttft_ms:.0f} ms)."
        yield Finding("slow_model", text, *_span(ttft))


def _cache(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    lookups = of_probe(samples, "cache.hits", "cache.misses")
    for name, part in lookups.groupby("label"):
        total = float(part["value"].sum())
        hits = float(part[(part["probe"] == "cache.hits").to_numpy()]["value"].sum())
        if total >= limits.cache_lookups and hits / total < limits.cache_hits:
            text = f"The cache of {name} missed {1 - hits / total:.0%} of {total:,.0f} lookups: it is off, "
            yield Finding("cache_misses", text + "too small, or forgets too soon.", *_span(part))


# -- of the client's rows --------------------------------------------------------------------------


_TIME = "min(t_s) AS from_s, max(t_s) AS to_s"


def _failing(rows: Part, limits: Limits) -> Iterator[Finding]:
    """A large share of all requests failed: what latencies say is of the few that did not."""
    failed, n = rows.counts["failed"], rows.counts["n"]
    if failed < limits.burst_failures or failed < limits.failed_share * n:
        return
    kinds = _counted(rows, "failed")
    told = ", ".join(f"{one['n']:,} × {one['error']} of {one['operation']}" for one in kinds[:3])
    yield Finding("failing", f"{failed / n:.0%} of all requests failed: {told}.", *_when(kinds))


def _timeouts(rows: Part) -> Iterator[Finding]:
    kinds = sorted(_counted(rows, "censored"), key=lambda one: (one["error"], one["operation"]))
    if kinds:
        late, n = sum(one["n"] for one in kinds), rows.counts["n"]
        told = ", ".join(f"{one['n']:,} {one['error']} of {one['operation']}" for one in kinds)
        text = f"{late:,} of {n:,} requests ({late / n:.2%}) got no answer in time: {told}."
        yield Finding("timeouts", text, *_when(kinds))


def _counted(rows: Part, where: str) -> list[dict[str, Any]]:
    """Requests by error and operation, the most frequent first: error, operation, n, from_s, to_s."""
    found = rows.query(
        f"SELECT error, operation, count(*) AS n, {_TIME} FROM part WHERE {where} GROUP BY ALL"
        " ORDER BY n DESC, error, operation"
    )
    return list(found.to_pylist())


def _when(kinds: list[dict[str, Any]]) -> tuple[float, float]:
    return min(one["from_s"] for one in kinds), max(one["to_s"] for one in kinds)


def _bursts(rows: Part, limits: Limits) -> Iterator[Finding]:
    """Seconds in which at least half of what ended had failed, in a run that mostly went well."""
    failed = rows.counts["failed"]
    if not failed or failed >= 0.5 * rows.counts["n"]:
        return
    second = "floor(coalesce(done_s, t_s))::BIGINT"
    rows.keep(
        "bursts",
        f"SELECT {second} AS second FROM part GROUP BY 1"
        " HAVING count(*) FILTER (failed) >= $failures AND count(*) FILTER (failed) >= 0.5 * count(*)",
        failures=limits.burst_failures,
    )
    if seconds := rows.row("SELECT count(*) AS n FROM bursts")["n"]:
        kinds = rows.query(
            f"SELECT error, count(*) AS n, {_TIME} FROM part WHERE failed AND {second} IN"
            " (SELECT second FROM bursts) GROUP BY 1 ORDER BY n DESC, error"
        ).to_pylist()
        text = f"Errors came in bursts: {sum(one['n'] for one in kinds):,} of the {failed:,} failures within "
        text += f"{seconds} s ({', '.join(one['error'] for one in kinds[:3])})."
        yield Finding("error_burst", text, *_when(kinds))


def _retries(rows: Part) -> Iterator[Finding]:
    again = rows.row(f"SELECT count(*) AS n, {_TIME} FROM part WHERE attempt > 1")
    if again["n"]:
        text = f"{again['n']:,} of {rows.counts['n']:,} rows are retries: "
        text += "what users feel is the sum of their attempts."
        yield Finding("retries", text, again["from_s"], again["to_s"])


def _span(part: pd.DataFrame) -> tuple[float, float]:
    return (float(part["t_s"].min()), float(part["t_s"].max())) if len(part) else (0.0, 0.0)


# -- the tail --------------------------------------------------------------------------------------


def explain_tail(tail: pd.DataFrame) -> str:
    """Why the slowest requests were slow, in one sentence, from `frames.tail_split`; empty when too few."""
    if tail.empty:
        return ""
    told = []
    for group, part in tail.groupby("group", sort=False):
        big = part.sort_values("share", ascending=False)
        shares = ", ".join(
            f"{PARTS[name]} {share:.0%}"
            for name, share in zip(big["part"], big["share"], strict=True)
            if share >= 0.005
        )
        name = (
            f"The slowest {tail.attrs['slowest']:.1%} of requests"
            if group == "slowest"
            else "The median requests"
        )
        told.append(f"{name} (n = {part['n'].iloc[0]:,}, {part['ms'].sum():.3g} ms on average): {shares}.")
    return " ".join(told)
