"""Findings about the database: the way there, its statements, locks and connections, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from perfkit.observe.frames import of_probe, span
from perfkit.store.metadata import Finding

#: Share of a pool's samples in which a checkout was waiting.
WAITING_SHARE = 0.02
#: Share of a pool's samples in which it had connections beyond its size.
OVERFLOW_SHARE = 0.1
#: Rows read by a sequential scan, on average, and how many scans.
SCAN_ROWS, SCANS = 500.0, 20
#: The same statement, so many times in a request on average, in so many requests.
REPEATS, REPEATING_REQUESTS = 10.0, 5
#: Looks at the database in which statements waited for locks, and the longest of these waits.
LOCK_LOOKS, LOCK_WAIT_MS = 3, 100.0
#: Share of the requests' time that was the database's; the way there and back, and a statement's mean, that
#: are slow.
DATABASE_SHARE, ROUND_TRIP_MS, STATEMENT_MS = 0.5, 10.0, 100.0
_LISTED = 3
_TIMEOUTS = {"57014": "statement_timeout", "55P03": "lock_timeout"}
_CONNECTION_LOST = ("57P", "08")


def findings(samples: pd.DataFrame, parts: pd.DataFrame) -> list[Finding]:
    """All findings about the database and the pools.

    samples: `frames.server_samples`, parts: `frames.split` of this room.
    """
    uses = statements(samples)
    locked = list(_lock_waits(samples, uses))
    exhausted = _exhausted_pools(samples)
    found = [*locked]
    if not (locked and _behind_locks(samples, exhausted)):
        found += _pool_exhausted(samples, parts, exhausted)
    found += [*_leaks(samples), *_lost_connections(samples), *_statement_timeouts(samples)]
    found += [*_missing_index(samples, uses), *_n_plus_one(samples, uses)]
    found += _slow_database(samples, parts, uses, explained=bool(found))
    return found if locked else [*found, *_overflow(samples, exhausted)]


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
    names = uses[(uses["statement"] == statement).to_numpy()]["endpoint"].drop_duplicates()
    return f" of {' and '.join(names[:2])}" if len(names) else ""


# -- locks and pools -------------------------------------------------------------------------------


def _lock_waits(samples: pd.DataFrame, uses: pd.DataFrame) -> Iterator[Finding]:
    """Statements waited for locks that other sessions held. Every server looks at the whole database."""
    waits = of_probe(samples, "db.lock_waits")
    longest = of_probe(samples, "db.lock_wait_ms")["value"].max()
    if waits.empty or not longest >= LOCK_WAIT_MS:
        return
    at_once, looks = _looks(samples)
    if len(at_once) < LOCK_LOOKS:
        return
    most = waits.groupby("label")["value"].sum().sort_values(ascending=False)
    text = f"Statements waited for locks in {len(at_once):,} of {looks:,} looks at the database, up to "
    text += f"{at_once.max():.0f} at once, the longest seen {longest:,.0f} ms: mostly `{most.index[0]}`"
    text += f"{_endpoints(uses, str(most.index[0]))}."
    holders = of_probe(samples, "db.lock_holder").groupby("label")["value"].sum()
    if len(holders):
        state, _, statement = str(holders.idxmax()).partition(": ")
        text += f" The session they waited for was mostly {state}, with `{statement}` as its last statement."
    text += (
        " Change the row later in the transaction or commit sooner, and let requests change different rows;"
    )
    text += " a larger pool would only let more of them wait."
    yield Finding("lock_waits", text, *span(waits))


def _looks(samples: pd.DataFrame) -> tuple[pd.Series, int]:
    """Sessions that waited for locks in each look that saw some, and how many looks there were.

    Of the server that saw most: each looks at the whole database.
    """
    waits, looks = of_probe(samples, "db.lock_waits"), of_probe(samples, "db.round_trip_ms")
    source = waits["source"].value_counts().index[0]
    waits, looks = (part[(part["source"] == source).to_numpy()] for part in (waits, looks))
    at_once = waits["value"].groupby(looks["t_s"].searchsorted(waits["t_s"])).sum()
    return at_once, max(len(looks), len(at_once))


def _exhausted_pools(samples: pd.DataFrame) -> list[tuple[str, str]]:
    """Pools (source, name) that were exhausted: checkouts waited often enough, or gave up."""
    given_up, waits = of_probe(samples, "pool.timeout_ms"), of_probe(samples, "pool.waiting")
    pools = pd.concat([waits, given_up])[["source", "label"]].drop_duplicates()
    found = []
    for source, name in pools.itertuples(index=False):
        waiting, lost = _of_pool(waits, source, name), _of_pool(given_up, source, name)
        if (waiting["value"] > 0).sum() > WAITING_SHARE * len(waiting) or len(lost):
            found.append((str(source), str(name)))
    return found


def _behind_locks(samples: pd.DataFrame, exhausted: list[tuple[str, str]]) -> bool:
    """Whether most connections of the exhausted pools were out only to wait for a lock, or to hold it."""
    held = of_probe(samples, "pool.checked_out")
    out = sum(_of_pool(held, *one)["value"].max() for one in exhausted if len(_of_pool(held, *one)))
    return bool(_looks(samples)[0].median() + 1 >= 0.5 * out)


def _pool_exhausted(
    samples: pd.DataFrame, parts: pd.DataFrame, exhausted: list[tuple[str, str]]
) -> Iterator[Finding]:
    """Checkouts were waiting: all connections were out."""
    probes = ("pool.waiting", "pool.timeout_ms", "pool.checked_out")
    for source, name in exhausted:
        waiting, lost, out = (_of_pool(of_probe(samples, probe), source, name) for probe in probes)
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


def _overflow(samples: pd.DataFrame, exhausted: list[tuple[str, str]]) -> Iterator[Finding]:
    """A pool lived on its overflow; one that was exhausted has its own finding."""
    over = of_probe(samples, "pool.overflow")
    sizes = of_probe(samples, "pool.size").groupby(["source", "label"], observed=True)["value"].max()
    for (source, name), part in over.groupby(["source", "label"], observed=True):
        used = part[(part["value"] > 0).to_numpy()]
        if (str(source), str(name)) in exhausted or len(used) <= OVERFLOW_SHARE * len(part):
            continue
        size = sizes.get((source, name), 0.0)
        text = (
            f"The database pool {name!r} of {source} was too small {len(used) / len(part):.0%} of the time: "
        )
        text += f"up to {used['value'].max():.0f} connections beyond its size of {size:.0f} were open. "
        text += "Each of them is opened for one checkout and closed after it: "
        yield Finding(
            "pool_overflow", f"{text}pool_size={size + used['value'].max():.0f} keeps them.", *span(used)
        )


def _leaks(samples: pd.DataFrame) -> Iterator[Finding]:
    """Connections were held longer than the pool monitor's limit."""
    for place, leaks in of_probe(samples, "pool.leak_s").groupby("label"):
        text = f"{len(leaks):,} database connections taken at {place} were not given back "
        yield Finding("connection_leak", text + f"for {leaks['value'].min():.3g} s or more.", *span(leaks))


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
    lost = lost[(lost["label"] != "TimeoutError").to_numpy()]
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
        text += (
            f"(SQLSTATE {state}): {_listed(part)}. Look at their plans, and at what they wait for, before "
        )
        yield Finding("statement_timeouts", text + "allowing them more time.", *span(part))


# -- statements that took long ---------------------------------------------------------------------


def _missing_index(samples: pd.DataFrame, uses: pd.DataFrame) -> Iterator[Finding]:
    """A large table was read from end to end again and again: an index is missing or not used."""
    of = of_probe(samples, "db.seq_scans")
    for table, rows in of_probe(samples, "db.seq_rows").groupby("label"):
        scans = of[(of["label"] == table).to_numpy()]["value"].sum()
        total = rows["value"].sum()
        if scans < SCANS or total / scans < SCAN_ROWS:
            continue
        text = (
            f"The table {table} was read from end to end {scans:,.0f} times, {total / scans:,.0f} rows each: "
        )
        text += "an index is missing, or not used."
        statement, plan = _plan(samples, str(table))
        used = uses[(uses["statement"] == statement).to_numpy()]
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


def _n_plus_one(samples: pd.DataFrame, uses: pd.DataFrame) -> Iterator[Finding]:
    """Requests sent the same statement again and again."""
    a_request = uses["calls"] / uses["requests"]
    often = uses[((uses["requests"] >= REPEATING_REQUESTS) & (a_request >= REPEATS)).to_numpy()]
    for endpoint, part in often.groupby("endpoint", sort=False):
        whole, n = uses[(uses["endpoint"] == endpoint).to_numpy()], part["requests"].iloc[0]
        text = (
            f"{endpoint} sent {whole['calls'].sum() / n:,.3g} statements a request, most of them the same: "
        )
        text += ", ".join(
            f"{one.calls / n:,.3g} × `{one.statement}`" for one in part.head(_LISTED).itertuples()
        )
        text += f" ({part['ms'].sum() / n:,.3g} ms a request). One statement for all rows (a join, IN, eager "
        calls = of_probe(samples, "db.calls")
        calls = calls[calls["label"].astype(str).str.startswith(f"{endpoint}: ").to_numpy(dtype=bool)]
        yield Finding("n_plus_one", text + "loading) saves the others' round trips.", *span(calls))


def _slow_database(
    samples: pd.DataFrame, parts: pd.DataFrame, uses: pd.DataFrame, explained: bool
) -> Iterator[Finding]:
    """Most of the requests' time was the database's: the way there is long, or a statement takes long.

    A slow statement is a finding where nothing else explains it.
    """
    if parts.empty or (share := parts["db"].sum() / max(parts["response_ms"].sum(), 1e-9)) < DATABASE_SHARE:
        return
    trips = of_probe(samples, "db.round_trip_ms")
    text = f"The database took {share:.0%} of the requests' time, {parts['db'].mean():,.3g} ms of "
    text += f"{parts['response_ms'].mean():,.3g} ms on average. "
    if len(trips) and (trip := float(trips["value"].median())) >= ROUND_TRIP_MS:
        text += (
            f"Even SELECT 1 took {trip:,.3g} ms (median): each statement, BEGIN and COMMIT pays that, so the "
        )
        text += (
            "network to the database is slow or the database is overloaded. Compare with a ping of its host; "
        )
        yield Finding("slow_database", text + "move it nearer, or send fewer statements.", *span(trips))
        return
    slow = uses[(uses["ms"] / uses["calls"] >= STATEMENT_MS).to_numpy() & (uses["requests"] > 0).to_numpy()]
    if len(slow) and not explained:
        one = slow.iloc[0]
        calls = one["calls"]
        text += f"Most of it was `{one['statement']}` of {one['endpoint']}: {calls:,.0f} calls, "
        text += f"{one['ms'] / calls:,.3g} ms and {one['rows'] / calls:,.3g} resulting rows each. "
        text += "See what it does with EXPLAIN (ANALYZE, BUFFERS)."
        yield Finding("slow_database", text, *span(of_probe(samples, "db.calls")))
