"""Findings about the database: the way there, its statements and locks, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from perfkit.observe import pools
from perfkit.observe.frames import of_probe, only, span
from perfkit.observe.limits import Limits
from perfkit.store.metadata import Finding
from perfkit.store.rows import Part

_LISTED = 3
_TIMEOUTS = {"57014": "statement_timeout", "55P03": "lock_timeout"}
_CONNECTION_LOST = ("57P", "08")
#: Errors of a pool without a lost connection: it had none left, or the request that used one was cancelled.
_NOT_LOST = ("TimeoutError", "CancelledError")


def findings(rows: Part, samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> list[Finding]:
    """All findings about the database and the pools; arguments as for `findings.findings`."""
    uses = statements(samples)
    locked = list(_lock_waits(samples, uses, limits))
    exhausted = pools.exhausted(samples, limits)
    found = [*locked]
    if not (locked and _behind_locks(samples, exhausted)):
        found += pools.pool_exhausted(samples, parts, exhausted)
    found += pools.leaks(rows, samples, parts, limits)
    found += [*_lost_connections(samples), *_statement_timeouts(samples)]
    found += [*_missing_index(samples, uses, limits), *_n_plus_one(samples, uses, limits)]
    found += _slow_database(samples, parts, uses, limits, explained=bool(found))
    return found if locked else [*found, *pools.overflow(samples, exhausted, limits)]


def statements(samples: pd.DataFrame) -> pd.DataFrame:
    """What each endpoint asked its database: endpoint, statement, calls, ms (of all), rows, requests.

    The statements that took most of the time first; requests: of the endpoint, 0 outside of requests.
    """
    probes = {"db.calls": "calls", "db.total_ms": "ms", "db.rows": "rows"}
    ended = of_probe(samples, "db.requests").groupby("label")["value"].sum()
    sums: dict[str, dict[str, float]] = {}
    part = of_probe(samples, *probes)
    for label, probe, value in zip(part["label"], part["probe"], part["value"], strict=True):
        one = sums.setdefault(str(label), dict.fromkeys(probes.values(), 0.0))
        one[probes[probe]] += value
    names = [label.partition(": ") for label in sums]
    frame = pd.DataFrame(list(sums.values()), columns=list(probes.values()), dtype=float)
    frame.insert(0, "endpoint", pd.Series([name[0] for name in names], dtype=str))
    frame.insert(1, "statement", pd.Series([name[2] for name in names], dtype=str))
    frame["requests"] = [float(ended.get(name[0], 0.0)) for name in names]
    return frame.sort_values("ms", ascending=False, kind="stable").reset_index(drop=True)


def _endpoints(uses: pd.DataFrame, statement: str) -> str:
    """Who sends a statement: ` of GET /a and POST /b`; empty when nobody is known."""
    names = only(uses, statement=statement)["endpoint"].drop_duplicates()
    return f" of {' and '.join(names[:2])}" if len(names) else ""


# -- locks -----------------------------------------------------------------------------------------


def _lock_waits(samples: pd.DataFrame, uses: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Statements waited for locks that other sessions held. Every server looks at the whole database."""
    waits = of_probe(samples, "db.lock_waits")
    longest = of_probe(samples, "db.lock_wait_ms")["value"].max()
    if waits.empty or not longest >= limits.lock_wait_ms:
        return
    at_once, looks = _looks(samples)
    if len(at_once) < limits.lock_looks:
        return
    most = waits.groupby("label")["value"].sum().sort_values(ascending=False)
    text = f"Statements waited for locks in {len(at_once):,} of {looks:,} looks at the database, up to "
    text += f"{at_once.max():.0f} at once, the longest seen {longest:,.0f} ms: mostly `{most.index[0]}`"
    text += f"{_endpoints(uses, str(most.index[0]))}."
    holders = of_probe(samples, "db.lock_holder").groupby("label")["value"].sum()
    if len(holders):
        state, _, statement = str(holders.idxmax()).partition(": ")
        text += f" The session they waited for was mostly {state}, with `{statement}` as its last statement."
    text += " Change the row later in the transaction or commit sooner, and let requests change different "
    text += "rows; a larger pool would only let more of them wait."
    yield Finding("lock_waits", text, *span(waits))


def _looks(samples: pd.DataFrame) -> tuple[pd.Series, int]:
    """Sessions that waited for locks in each look that saw some, and how many looks there were.

    Of the server that saw most: each looks at the whole database.
    """
    waits, looks = of_probe(samples, "db.lock_waits"), of_probe(samples, "db.round_trip_ms")
    source = waits["source"].value_counts().index[0]
    waits, looks = (only(part, source=source) for part in (waits, looks))
    at_once = waits["value"].groupby(looks["t_s"].searchsorted(waits["t_s"])).sum()
    return at_once, max(len(looks), len(at_once))


def _behind_locks(samples: pd.DataFrame, exhausted: pools.Pools) -> bool:
    """Whether most connections of the exhausted pools were out only to wait for a lock, or to hold it."""
    held = of_probe(samples, "pool.checked_out")
    each = [only(held, source=source, label=name)["value"] for source, name in exhausted]
    out = sum(connections.max() for connections in each if len(connections))
    return bool(_looks(samples)[0].median() + 1 >= 0.5 * out)


# -- statements that failed ------------------------------------------------------------------------


def _errors(samples: pd.DataFrame) -> pd.DataFrame:
    """Statements that failed: t_s, state (SQLSTATE, or the kind of exception), statement."""
    part = of_probe(samples, "db.error")
    names = [str(label).partition(" ") for label in part["label"]]
    columns = {"state": [name[0] for name in names], "statement": [name[2] for name in names]}
    return pd.DataFrame({"t_s": part["t_s"].to_numpy()} | {k: np.array(v, str) for k, v in columns.items()})


def _listed(part: pd.DataFrame) -> str:
    """The most frequent statements: `3 × …, 2 × …`."""
    counts = part["statement"].value_counts()
    return ", ".join(f"{n:,} × `{statement}`" for statement, n in counts.head(_LISTED).items())


def _lost_connections(samples: pd.DataFrame) -> Iterator[Finding]:
    """Connections were invalidated or could not be opened."""
    lost = of_probe(samples, "pool.error")
    lost = lost[~lost["label"].isin(_NOT_LOST).to_numpy()]
    if lost.empty:
        return
    kinds = ", ".join(f"{n:,} × {kind}" for kind, n in lost["label"].value_counts().head(_LISTED).items())
    text = f"{len(lost):,} database connections were lost or refused ({kinds})"
    failed = _errors(samples)
    failed = failed[failed["state"].str.startswith(_CONNECTION_LOST).to_numpy(dtype=bool)]
    if len(failed):
        state = failed["state"].iloc[0]
        text += f", in the middle of {len(failed):,} statements (SQLSTATE {state}): {_listed(failed)}"
    text += ". Look for restarts, ended sessions and idle timeouts in the logs of the database and of what "
    text += "lies between. pool_pre_ping, or a shorter pool_recycle, replaces dead connections before use."
    yield Finding("lost_connections", text, *span(lost))


def _statement_timeouts(samples: pd.DataFrame) -> Iterator[Finding]:
    """The database cancelled statements: they took, or waited for a lock, longer than it allows."""
    errors = _errors(samples)
    for state, part in errors[errors["state"].isin(_TIMEOUTS)].groupby("state"):
        text = f"The database cancelled {len(part):,} statements, most likely by {_TIMEOUTS[str(state)]} "
        text += f"(SQLSTATE {state}): {_listed(part)}. Look at their plans, and at what they wait for, "
        yield Finding("statement_timeouts", text + "before allowing them more time.", *span(part))


# -- statements that took long ---------------------------------------------------------------------


def _missing_index(samples: pd.DataFrame, uses: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """A large table was read from end to end again and again: an index is missing or not used."""
    of = of_probe(samples, "db.seq_scans")
    for table, rows in of_probe(samples, "db.seq_rows").groupby("label"):
        scans = only(of, label=table)["value"].sum()
        total = rows["value"].sum()
        if scans < limits.scans or total / scans < limits.scan_rows:
            continue
        text = f"The table {table} was read from end to end {scans:,.0f} times, {total / scans:,.0f} rows "
        text += "each: an index is missing, or not used."
        statement, plan = _plan(samples, str(table))
        used = only(uses, statement=statement)
        if statement:
            text += f" By `{statement}`"
        if len(used):
            calls, ms = used["calls"].sum(), used["ms"].sum()
            text += f"{_endpoints(uses, statement)} ({calls:,.0f} calls, {ms / max(calls, 1):.3g} ms and "
            text += f"{used['rows'].sum() / max(calls, 1):,.3g} resulting rows each)"
        if statement:
            text += f"; its plan: {plan}. An index for that filter helps if it leaves few rows."
        yield Finding("missing_index", text, *span(rows))


def _plan(samples: pd.DataFrame, table: str) -> tuple[str, str]:
    """The statement that scans a table, and its plan; empty when the server did not look for it."""
    for label in of_probe(samples, "db.plan_cost")["label"].astype(str):
        of, _, explained = label.partition(": ")
        if of == table:
            statement, _, plan = explained.partition(" -> ")
            return statement, plan
    return "", ""


def _n_plus_one(samples: pd.DataFrame, uses: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Requests sent the same statement again and again."""
    a_request = uses["calls"] / uses["requests"]
    repeating = (uses["requests"] >= limits.repeating_requests) & (a_request >= limits.repeats)
    often = uses[repeating.to_numpy()]
    for endpoint, part in often.groupby("endpoint", sort=False):
        whole, n = only(uses, endpoint=endpoint), part["requests"].iloc[0]
        same = [f"{one.calls / n:,.3g} × `{one.statement}`" for one in part.head(_LISTED).itertuples()]
        text = f"{endpoint} sent {whole['calls'].sum() / n:,.3g} statements a request, "
        text += f"most of them the same: {', '.join(same)}"
        text += f" ({part['ms'].sum() / n:,.3g} ms a request). One statement for all rows (a join, IN, eager "
        calls = of_probe(samples, "db.calls")
        calls = calls[calls["label"].astype(str).str.startswith(f"{endpoint}: ").to_numpy(dtype=bool)]
        yield Finding("n_plus_one", text + "loading) saves the others' round trips.", *span(calls))


def _slow_database(
    samples: pd.DataFrame, parts: pd.DataFrame, uses: pd.DataFrame, limits: Limits, *, explained: bool
) -> Iterator[Finding]:
    """Most of the requests' time was the database's: the way there is long, or a statement takes long.

    A slow statement is a finding where nothing else explains it.
    """
    if parts.empty:
        return
    share = parts["db"].sum() / max(parts["response_ms"].sum(), 1e-9)
    if share < limits.database_share:
        return
    trips = of_probe(samples, "db.round_trip_ms")
    text = f"The database took {share:.0%} of the requests' time, {parts['db'].mean():,.3g} ms of "
    text += f"{parts['response_ms'].mean():,.3g} ms on average. "
    if len(trips) and (trip := float(trips["value"].median())) >= limits.round_trip_ms:
        text += f"Even SELECT 1 took {trip:,.3g} ms (median): each statement, BEGIN and COMMIT pays that, so "
        text += "the network to the database is slow or the database is overloaded. Compare with a ping of "
        text += "its host; move it nearer, or send fewer statements."
        yield Finding("slow_database", text, *span(trips))
        return
    long = uses["ms"] / uses["calls"] >= limits.statement_ms
    slow = uses[(long & (uses["requests"] > 0)).to_numpy()]
    if len(slow) and not explained:
        one, calls = slow.iloc[0], slow.iloc[0]["calls"]
        text += f"Most of it was `{one['statement']}` of {one['endpoint']}: {calls:,.0f} calls, "
        text += f"{one['ms'] / calls:,.3g} ms and {one['rows'] / calls:,.3g} resulting rows each. "
        text += "See what it does with EXPLAIN (ANALYZE, BUFFERS)."
        yield Finding("slow_database", text, *span(of_probe(samples, "db.calls")))
