"""Findings: what was wrong with the server during a run, in words, from its probes and the client's rows.

A finding is said only when the data carry it: every rule here names its evidence and its limit. On a healthy
run there is none. Limits are in `Limits`, so that a report can say them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from perfkit.observe.frames import of_probe, server_samples, split, tail_split
from perfkit.store import Run
from perfkit.store.rows import Part


@dataclass(frozen=True)
class Finding:
    """One trouble: its kind, the words for it, and from when to when it was seen (s in the measured part)."""

    kind: str
    text: str
    from_s: float
    to_s: float


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

    waiting_share: float = 0.02  #: of the samples of a pool in which a checkout was waiting
    blocked_ms: float = 100.0  #: of one block of the event loop; three by the same code, or one of 1 s
    model_ttft_ms: float = 1000.0  #: median time to the model's first token
    scan_rows: float = 500.0  #: rows read by a sequential scan, on average
    scans: int = 20
    cache_hits: float = 0.5  #: share of lookups
    cache_lookups: int = 50
    cpu_share: float = 0.8  #: of one core, by one server process in a second
    cpu_seconds: int = 2  #: and in half of the run's seconds, or in ten
    lag_ms: float = 250.0  #: of the loop where no hang report says by what; three times, or once 1 s
    failed_share: float = 0.2  #: of all requests
    burst_failures: int = 5  #: in one second, and at least half of what ended in it
    no_core_share: float = 0.3  #: of the time of a block in which no code ran: the machine's, not the loop's
    memory_mb: float = 48.0  #: by which memory grew steadily, and a fifth of what it was
    growth_share: float = 0.2
    fds: int = 50  #: by which open files and sockets grew beyond the clients' number, and by half
    fds_share: float = 0.8  #: of the limit
    tasks: int = 100  #: by which tasks grew beyond the clients' number, and doubled
    threads: int = 40  #: the same of threads
    executor_queue: int = 3  #: calls that wait for a thread of an executor,
    executor_share: float = 0.2  #: in so many of its samples
    rest_share: float = 0.5  #: of the slowest requests' time that is in no part of it,
    rest_ms: float = 250.0  #: and on average


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
    found: list[Finding] = []
    from perfkit.observe import process  # it makes findings, which are defined here

    for rule in (_pool_exhausted, _leaks):
        found += rule(samples, parts, limits)
    found += process.findings(rows, samples, parts, limits)
    for rule in (_slow_model, _scans, _cache):
        found += rule(samples, parts, limits)
    return [*found, *_failing(rows, limits), *_timeouts(rows), *_bursts(rows, limits), *_retries(rows)]


# -- of the server's probes ------------------------------------------------------------------------


def _pool_exhausted(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Checkouts were waiting: all connections were out."""
    given_up, held = of_probe(samples, "pool.timeout_ms"), of_probe(samples, "pool.checked_out")
    waits = of_probe(samples, "pool.waiting")
    pools = pd.concat([waits, given_up])[["source", "label"]].drop_duplicates()
    for source, name in pools.itertuples(index=False):
        waiting, lost, out = (_of_pool(part, source, name) for part in (waits, given_up, held))
        busy = waiting[(waiting["value"] > 0).to_numpy()]
        if len(busy) <= limits.waiting_share * len(waiting) and lost.empty:
            continue
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
        yield Finding("pool_exhausted", text.strip(), *_span(pd.concat([busy, lost])))


def _of_pool(part: pd.DataFrame, source: str, name: str) -> pd.DataFrame:
    return part[(part["source"] == source).to_numpy() & (part["label"] == name).to_numpy()]


def _waited(parts: pd.DataFrame) -> str:
    """What share of the slow requests waited for the pool."""
    if parts.empty:
        return ""
    slow = parts.nlargest(max(len(parts) // 100, min(10, len(parts))), "response_ms")
    waited = slow["db_wait"] > 0.1 * slow["response_ms"]
    share = slow["db_wait"].sum() / max(slow["response_ms"].sum(), 1e-9)
    return f"Of the {len(slow)} slowest requests {waited.sum()} waited there, {share:.0%} of their time."


def _leaks(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Connections were held longer than the pool monitor's limit."""
    for place, leaks in of_probe(samples, "pool.leak_s").groupby("label"):
        text = f"{len(leaks):,} database connections taken at {place} were not given back "
        yield Finding("connection_leak", text + f"for {leaks['value'].min():.3g} s or more.", *_span(leaks))


def _slow_model(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    ttft = of_probe(samples, "model.ttft_ms")
    if len(ttft) >= 5 and (middle := float(ttft["value"].median())) >= limits.model_ttft_ms:
        text = f"The model was slow: half of its {len(ttft):,} answers took more than {middle:.0f} ms to the "
        text += f"first token (limit {limits.model_ttft_ms:.0f} ms)."
        yield Finding("slow_model", text, *_span(ttft))


def _scans(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """A large table was read from end to end again and again: an index is missing or not used."""
    read = of_probe(samples, "db.seq_rows")
    for table, rows in read.groupby("label"):
        of = of_probe(samples, "db.seq_scans")
        scans = of[(of["label"] == table).to_numpy()]["value"].sum()
        total = rows["value"].sum()
        if scans >= limits.scans and total / scans >= limits.scan_rows:
            text = (
                f"The table {table} was read from end to end {scans:,.0f} times, {total / scans:,.0f} rows "
            )
            yield Finding("missing_index", text + "each: an index is missing, or not used.", *_span(rows))


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
            f"{label} {share:.0%}"
            for label, share in zip(big["label"], big["share"], strict=True)
            if share >= 0.005
        )
        slowest = f"The slowest {tail.attrs['slowest']:.1%} of {tail.attrs['known']:,} requests"
        name = slowest if group == "slowest" else "The median requests"
        told.append(f"{name} (n = {part['n'].iloc[0]:,}, {part['ms'].sum():.3g} ms on average): {shares}.")
    return " ".join(told)
