"""What the server's probes saw, on the client's time axis, and where requests spent their time.

`server_samples` reads them once; everything else takes that frame. Probes are named in `perfkit_probes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit import stats
from perfkit.frames.over_time import extent
from perfkit.frames.rows import small, timeline
from perfkit.store import read_probes
from perfkit.store.rows import Part
from perfkit.store.samples import AFTER_NS

#: Where the time of a request goes; together they are its response time.
PARTS = {
    "client": "client queue",
    "db_wait": "waiting for the pool",
    "db": "database",
    "model": "model",
    "loop_lag": "blocked loop",
    "rest": "rest",
}
_OF_REQUESTS = ("t_s", "operation", "error", "response_ms")
_SERVER = ("app", "db", "db_wait", "loop_lag", "model")
_NAMED = re.compile(r"request\.([a-z][a-z0-9_]*)_ms")
_MOST_NAMED = 4  #: parts of the service's own that are told apart; the others are one
_OTHERS = "timed"
_TIMER_MS = 2.0  #: a heartbeat that is no later may be on time: timers have a resolution
#: So many requests make a group whose split is told: of fewer than ten times as many, a tenth.
MIN_GROUP = 10
_TAIL = ("group", "n", "part", "label", "ms", "share")
_FEWEST = 5  #: requests whose slowest are compared with the others


def server_samples(rows: Part) -> pd.DataFrame:
    """The probes' samples: t_s since the measured part began, source, probe, value, label, request_id.

    Only those from the beginning of the measured part to a second after its last request: a leak or the end
    of a block is told when it is over. attrs: as of every frame of these rows.
    """
    table = read_probes(rows.run)
    origin = rows.window_ns[0]
    last = origin + int(extent(rows)[1] * 1e9) + AFTER_NS
    t = table["t"]
    table = table.filter(pc.and_(pc.greater_equal(t, origin), pc.less_equal(t, last)))
    text = {name: table[name].cast(pa.string()).to_pandas() for name in ("label", "request_id")}
    frame = pd.DataFrame(
        {
            "t_s": (table["t"].to_numpy() - origin) / 1e9,
            "source": pd.Categorical(table["source"].cast(pa.string()).to_pandas()),
            "probe": pd.Categorical(table["probe"].cast(pa.string()).to_pandas()),
            "value": table["value"].to_numpy(),
            **text,
        }
    )
    return small(frame, rows)


def of_probe(samples: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The samples of these probes, in the order of time."""
    return samples[samples["probe"].isin(names).to_numpy()].sort_values("t_s", kind="stable")


def by_source(samples: pd.DataFrame, probe: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The samples of a probe, of each source by itself."""
    for source, part in of_probe(samples, probe).groupby("source", observed=True):
        yield str(source), part


def only(frame: pd.DataFrame, /, **wanted: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    pick = np.ones(len(frame), dtype=bool)
    for column, value in wanted.items():
        pick &= (frame[column] == value).to_numpy()
    return frame[pick]


def span(part: pd.DataFrame) -> tuple[float, float]:
    """From when to when samples were seen, s; 0 for none."""
    return (float(part["t_s"].min()), float(part["t_s"].max())) if len(part) else (0.0, 0.0)


def split(rows: Part, samples: pd.DataFrame) -> pd.DataFrame:
    """Where the time of each request went, in ms; only requests whose server told.

    t_s, operation, error, response_ms and its parts: client (planned to sent), db_wait, db, model, loop_lag,
    the service's own (`perfkit_probes.timed`, the largest four), rest (network, the server's own code, its
    waiting for the CPU); app: how long the server was at it in all. What the server counted to the last byte
    is preferred to its Server-Timing header, which ends where the response begins; it does not know how long
    a request lay in the socket while the loop stood still: that is what its watchdog saw. Parts that overlap
    (the database's answer waits while the loop is blocked) are cut to the time there was, the loop's share
    first.
    """
    run, columns = rows.run, ["request_id", *(f"server_{name}" for name in _SERVER)]
    in_headers = any("server_app" in pq.read_schema(file).names for file in run.files())
    if not in_headers and not len(of_probe(samples, "request.app_ms")):  # then no row need be read
        return small({name: [] for name in (*_OF_REQUESTS, *PARTS, "app")}, rows, known=0)
    frame = timeline(run, latency=rows.latency)
    table = run.table(["phase", *columns])
    table = table.filter(pc.equal(table["phase"].cast(pa.string()), "measure"))
    ids = table["request_id"].cast(pa.string()).to_pandas()
    told = {name: _told(name, table, ids, samples) for name in _SERVER}
    response = frame["response_ms"].to_numpy()
    client = (frame["response_ms"] - frame["service_ms"]).fillna(frame["response_ms"]).to_numpy()
    service = np.maximum(response - client, 0)
    stood = np.fmax(told["loop_lag"], _stood_still_ms(frame, ids, samples))
    loop = np.minimum(np.nan_to_num(stood), service)
    others = {name: np.nan_to_num(told[name]) for name in ("db_wait", "db", "model")}
    others |= _named(ids, samples)
    total = sum(others.values())
    room = service - loop
    shrink = np.divide(room, total, out=np.ones_like(room), where=total > room)
    parts = {"client": client, **{name: x * shrink for name, x in others.items()}, "loop_lag": loop}
    parts["rest"] = np.maximum(response - sum(parts.values()), 0)
    order = [*(name for name in PARTS if name != "rest"), *(name for name in others if name not in PARTS)]
    columns_of = {name: parts[name] for name in (*order, "rest")}
    frame = frame[[*_OF_REQUESTS]].assign(**columns_of, app=told["app"])
    known = ~np.isnan(told["app"]) & ~np.isnan(response)
    return small(frame[known].reset_index(drop=True), rows, known=int(known.sum()))


def _stood_still_ms(frame: pd.DataFrame, ids: pd.Series, samples: pd.DataFrame) -> np.ndarray:
    """For how long of each request the loop of its server came late; NaN where that is not known.

    A heartbeat that is late tells that the loop stood still until then, for as long as it is late.
    """
    beats, seen = of_probe(samples, "loop.lag_ms"), of_probe(samples, "request.app_ms")
    stood, sources = np.full(len(frame), np.nan), beats["source"].unique()
    server = pd.Series(seen["source"].astype(str).to_numpy(), index=seen["request_id"].to_numpy())
    served = server[~server.index.duplicated(keep="last")].reindex(ids).to_numpy()
    for source in sources:
        late = beats[((beats["source"] == source) & (beats["value"] > _TIMER_MS)).to_numpy()]
        ends = late["t_s"].to_numpy()
        begins = np.maximum(ends - late["value"].to_numpy() / 1e3, np.append(-np.inf, ends[:-1]))
        total = np.cumsum(ends - begins)
        edges = np.column_stack([begins, ends]).ravel()
        so_far = np.column_stack([np.append(0.0, total)[:-1], total]).ravel()
        own = served == source if len(sources) > 1 else np.ones(len(frame), dtype=bool)
        sent, done = (frame[name].to_numpy()[own] for name in ("sent_s", "done_s"))
        if len(edges):
            stood[own] = 1e3 * (np.interp(done, edges, so_far) - np.interp(sent, edges, so_far))
    return stood


def _told(name: str, table: pa.Table, ids: pd.Series, samples: pd.DataFrame) -> np.ndarray:
    """A part of each request as its server told it, ms; NaN where it did not."""
    from_header = np.asarray(table[f"server_{name}"].cast(pa.float64()).to_numpy())
    found = _of_requests(f"request.{name}_ms", ids, samples)
    return np.where(np.isnan(found), from_header, found)


def _of_requests(probe: str, ids: pd.Series, samples: pd.DataFrame) -> np.ndarray:
    """The value of a probe for each request; NaN where there is none."""
    seen = only(samples, probe=probe)
    by_id = pd.Series(seen["value"].to_numpy(), index=seen["request_id"].to_numpy())
    return np.asarray(by_id[~by_id.index.duplicated(keep="last")].reindex(ids).to_numpy(), dtype=float)


def _named(ids: pd.Series, samples: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the service itself timed of each request, ms: the parts that took most, then all others as one."""
    found = {
        match[1]: np.nan_to_num(_of_requests(probe, ids, samples))
        for probe in samples["probe"].unique()
        if (match := _NAMED.fullmatch(str(probe))) and match[1] not in (*_SERVER, *PARTS)
    }
    names = sorted(found, key=lambda name: (-found[name].sum(), name))
    kept = {name: found[name] for name in names[:_MOST_NAMED] if name != _OTHERS}
    others = [found[name] for name in names if name not in kept]
    return kept | ({_OTHERS: np.sum(others, axis=0)} if others else {})


def labels_of(parts: pd.DataFrame) -> dict[str, str]:
    """The parts of a split in the order of its columns, each with its label."""
    own = {str(name): f"{name!r}, timed by the service" for name in parts.columns}
    own |= PARTS | {_OTHERS: "others timed by the service"}
    return {name: own[name] for name in map(str, parts.columns) if name not in (*_OF_REQUESTS, "app")}


def tail_split(parts: pd.DataFrame, share: float = 0.01) -> pd.DataFrame:
    """The slowest `share` of requests beside the median ones (p40 to p60): group, n, part, label, ms, share.

    Of fewer than 100 requests it is the slowest tenth, at least one; empty when there are fewer than 5.
    ms: the part's mean; share: of the group's time. attrs: slowest (their share), known (of how many).
    """
    if len(parts) < _FEWEST:
        return small({name: [] for name in _TAIL}, parts, slowest=0.0, known=len(parts))
    x, labels = parts["response_ms"].to_numpy(), labels_of(parts)
    slow = max(round(share * len(x)), min(MIN_GROUP, len(x) // 10), 1)
    rows: list[tuple[Any, ...]] = []
    (low, high), bound = np.quantile(x, [0.4, 0.6]), np.partition(x, -slow)[-slow]
    groups = {"slowest": x >= bound, "median": (x >= low) & (x <= high)}
    for name, pick in groups.items():
        n, means = int(pick.sum()), parts.loc[pick, list(labels)].mean()
        whole = float(parts.loc[pick, "response_ms"].mean())
        shares = [(str(part), ms, ms / whole if whole else 0) for part, ms in means.items()]
        rows += [(name, n, part, labels[part], ms, share) for part, ms, share in shares]
    frame = pd.DataFrame(rows, columns=list(_TAIL))
    return small(frame, parts, slowest=float(groups["slowest"].mean()), known=len(x))


# -- over time -------------------------------------------------------------------------------------


def binned(samples: pd.DataFrame, probe: str, bins: int = 200) -> pd.DataFrame:
    """A probe over time, all sources together: t_s (middle of the bin), n, p50, p99, most.

    Bins without a sample are NaN. attrs: bin_s, worst (the largest value there was, NaN without any).
    """
    part = of_probe(samples, probe)
    grid = _grid(samples, min(bins, max(len(part) // 2, 1)))
    counts, values = stats.binned(part["t_s"].to_numpy(), part["value"].to_numpy(), grid, (0.5, 0.99, 1))
    data = {"t_s": (grid[:-1] + grid[1:]) / 2, "n": counts}
    data |= dict(zip(("p50", "p99", "most"), values, strict=True))
    worst = float(part["value"].max()) if len(part) else math.nan
    return small(data, samples, probe=probe, bin_s=float(grid[1] - grid[0]), worst=worst)


def pool(samples: pd.DataFrame, bins: int = 200) -> pd.DataFrame:
    """The pools over time, the most of each bin: t_s, checked_out, waiting, overflow; NaN without samples.

    Several pools, or several instances, are added up. attrs: size (of all), bin_s.
    """
    names = ("checked_out", "waiting", "overflow")
    frames = {name: of_probe(samples, f"pool.{name}") for name in names}
    grid = _grid(samples, min(bins, max(len(frames["checked_out"]) // 2, 1)))
    data: dict[str, Any] = {"t_s": (grid[:-1] + grid[1:]) / 2}
    for name, part in frames.items():
        total = np.zeros(len(grid) - 1)
        for _, one in part.groupby(["source", "label"], observed=True):
            _, (most,) = stats.binned(one["t_s"].to_numpy(), one["value"].to_numpy(), grid, (1,))
            total = total + pd.Series(most).ffill().fillna(0).to_numpy()
        data[name] = total if len(part) else np.full(len(grid) - 1, np.nan)
    sizes = of_probe(samples, "pool.size").groupby(["source", "label"], observed=True)["value"].max()
    return small(data, samples, size=float(sizes.sum()), bin_s=float(grid[1] - grid[0]))


def _grid(samples: pd.DataFrame, bins: int) -> stats.Floats:
    last = float(samples["t_s"].max()) if len(samples) else 0.0
    return stats.edges(0.0, max(samples.attrs["span_s"], last, 1e-6), bins)


def endpoints(samples: pd.DataFrame) -> pd.DataFrame:
    """Each endpoint as its server timed it: endpoint (method, route, status), n, p50, p95, most in ms."""
    part = of_probe(samples, "request.app_ms")
    grouped = part.groupby("label")["value"]
    frame = pd.DataFrame(
        {"n": grouped.size(), "p50": grouped.median(), "p95": grouped.quantile(0.95), "most": grouped.max()}
    )
    frame = frame.sort_values("n", ascending=False, kind="stable").rename_axis("endpoint").reset_index()
    return small(frame, samples)


def leadership(samples: pd.DataFrame) -> pd.DataFrame:
    """What the scheduler did: t_s, source, event (gained, lost, tick), value (epoch, or ms), label."""
    part = of_probe(samples, "leader.gained", "leader.lost", "job.tick_ms")
    names = {"leader.gained": "gained", "leader.lost": "lost", "job.tick_ms": "tick"}
    frame = part.assign(event=part["probe"].astype(str).map(names))
    return small(frame[["t_s", "source", "event", "value", "label"]].reset_index(drop=True), samples)
