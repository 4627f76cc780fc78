"""Make a run that never happened: a proper run folder of any size, for benchmarks and tests of reports.

    python benchmarks/make_timeline.py --rows 1000000 --out /tmp/bench --seed 1

Latencies are lognormal and autocorrelated (an AR(1) load level shared by neighbours in time, and stalls), so
that reports face what real servers do. Rows are written a row group at a time: memory does not grow.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.model import COLUMNS, ERRORS, OPTIONAL, SCHEMA_VERSION
from perfkit.store import Run
from perfkit.store.writing import ROW_GROUP, parquet_options

OPERATIONS = ("create_agent", "send_message", "update_agent")
GROUP = 250_000
TIMEOUT_MS = 5_000.0
WORDS = {
    "timeout": "no answer within 5 s",
    "connect": "Connection refused",
    "reset": "Connection reset by peer",
    "http_4xx": '{"detail": "Agent with ID agent-1 not found"}',
    "http_5xx": "<script>alert('server')</script> Internal Server Error",
    "protocol": "invalid HTTP version",
    "check": "expected 10 blocks, got 9",
    "cutoff": "still under way when the drain ended",
}
_TEXT = pa.dictionary(pa.int32(), pa.string())


def make_timeline(
    out: Path,
    rows: int,
    *,
    seed: int = 1,
    operations: Sequence[str] = OPERATIONS,
    error_rate: float = 0.004,
    rate_per_s: float = 200.0,
    users: int = 40,
    scale: float = 1.0,
    streaming: bool = False,
    restless: float = 1.0,
    run_id: str | None = None,
    meta: dict[str, Any] | None = None,
    closed: bool = False,
) -> Run:
    """Write `out`/runs/<id> with `rows` measured requests (and 2 % of warm-up) and return it.

    restless: how much the load level varies and how often it stalls, as a multiple of the usual. closed: say
    that `users` made them, not arrivals.
    """
    folder = out / "runs" / (run_id or f"20260101-000000-made-{rows:x}{seed:x}")
    folder.mkdir(parents=True, exist_ok=True)
    writer = None
    for table in _groups(
        rows, seed, list(operations), error_rate, rate_per_s, users, scale, streaming, restless
    ):
        # as runs have them: how columns are packed decides how fast they are read
        options = parquet_options(table.schema)
        writer = writer or pq.ParquetWriter(folder / "timeline.parquet", table.schema, **options)
        writer.write_table(table, row_group_size=ROW_GROUP)
    if writer is not None:
        writer.close()
    made = _meta(folder.name, rows, seed, rate_per_s, users, operations) | (meta or {})
    if closed:
        load = {"count": users, "duration_s": rows / rate_per_s}
        made["workload"] = {"scenario": "made", "users": load}
    (folder / "run.json").write_text(json.dumps(made, indent=1) + "\n")
    return Run(folder)


def _groups(
    rows: int,
    seed: int,
    operations: list[str],
    error_rate: float,
    rate: float,
    users: int,
    scale: float,
    streaming: bool,
    restless: float,
) -> Iterator[pa.Table]:
    rng = np.random.default_rng(seed)
    warm = max(rows // 50, 1)
    at, level, seq = 0.0, 0.0, 0
    while seq < rows + warm:
        n = min(GROUP, rows + warm - seq)
        planned = at + np.cumsum(rng.exponential(1 / rate, n))
        at = float(planned[-1])
        load, level = _load_level(rng, n, rate, level, restless)
        operation = rng.choice(len(operations), n)
        median_ms = scale * 40.0 * 2.2**operation
        service = median_ms * np.exp(load + rng.normal(0, 0.35, n))
        yield _table(rng, planned, service, operation, operations, error_rate, users, seq, warm, streaming)
        seq += n


def _load_level(
    rng: np.random.Generator, n: int, rate: float, level: float, restless: float
) -> tuple[np.ndarray, float]:
    """An AR(1) series with a memory of about two seconds, and now and then a stall that dies away."""
    from scipy.signal import lfilter

    keep = math.exp(-1 / (2 * rate))
    shock = restless * rng.normal(0, 0.25 * math.sqrt(1 - keep * keep), n)
    shock += (rng.random(n) < restless * 0.04 / rate) * rng.uniform(1.0, 2.0, n)
    series, _ = lfilter([1.0], [1.0, -keep], shock, zi=[keep * level])
    return np.asarray(series), float(series[-1])


def _table(
    rng: np.random.Generator,
    planned: np.ndarray,
    service: np.ndarray,
    operation: np.ndarray,
    operations: list[str],
    error_rate: float,
    users: int,
    seq: int,
    warm: int,
    streaming: bool,
) -> pa.Table:
    n = len(planned)
    error = np.where(rng.random(n) < error_rate, rng.integers(0, len(ERRORS), n), -1)
    error = np.where(service > TIMEOUT_MS, ERRORS.index("timeout"), error)
    service = np.where(np.isin(error, [ERRORS.index("timeout"), ERRORS.index("cutoff")]), TIMEOUT_MS, service)
    kick, queue = rng.gamma(2, 40e3, n), rng.gamma(1.5, 60e3, n)
    at = (planned * 1e9).astype(np.int64)
    started = at + kick.astype(np.int64)
    sent = started + queue.astype(np.int64)
    done = sent + (service * 1e6).astype(np.int64)
    first = sent + (service * rng.uniform(2e5, 9e5, n)).astype(np.int64)
    unsent, unanswered = error == ERRORS.index("connect"), np.isin(error, [0, 1, 2, 7])
    columns: dict[str, Any] = {
        "planned": at,
        "started": started,
        "sending": pa.array(sent, mask=unsent),
        "sent": pa.array(sent, mask=unsent),
        "first_byte": pa.array(first, mask=unanswered),
        "first_token": pa.array(first, mask=unanswered | (not streaming)),
        "done": done,
        "seq": np.arange(seq, seq + n),
        "worker": (np.arange(n) % 2).astype(np.int32),
        "user": rng.integers(0, users, n).astype(np.int32),
        "step": np.arange(seq, seq + n) // users,
        "scenario": _text(np.zeros(n), ["made"]),
        "operation": _text(operation, operations),
        "phase": _text(np.where(np.arange(seq, seq + n) < warm, 0, 1), ["warmup", "measure"]),
        "status": pa.array(
            np.where(error == 3, 404, np.where(error == 4, 500, 200)).astype(np.int16), mask=unanswered
        ),
        "error": _text(error, list(ERRORS)),
        "error_text": _text(error, [WORDS[e] for e in ERRORS]).cast(pa.string()),
        "bytes_sent": np.full(n, 420),
        "bytes_received": rng.integers(200, 4000, n),
        "attempt": np.ones(n, np.uint8),
        "chunks": _chunks(rng, first - sent, done - sent, unanswered)
        if streaming
        else pa.nulls(n, pa.list_(pa.int32())),
        "tokens_out": pa.array(np.full(n, 12, np.int32), mask=unanswered | (not streaming)),
        "request_id": pa.array([f"m{i:x}" for i in range(seq, seq + n)]),
    }
    assert list(columns) == [name for name in COLUMNS if name not in OPTIONAL]
    return pa.table(columns)


def _chunks(rng: np.random.Generator, first: np.ndarray, done: np.ndarray, none: np.ndarray) -> pa.Array:
    lists = [
        None if skip else np.sort(rng.integers(a, max(b, a + 1), 12) // 1000).astype(np.int32)
        for a, b, skip in zip(first, done, none, strict=True)
    ]
    return pa.array(lists, pa.list_(pa.int32()))


def _text(codes: np.ndarray, words: list[str]) -> pa.Array:
    codes = codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(words)).cast(_TEXT)


def _meta(
    name: str, rows: int, seed: int, rate: float, users: int, operations: Sequence[str]
) -> dict[str, Any]:
    warm = max(rows // 50, 1) / rate
    worker = {"kickoff_p50_ms": 0.07, "kickoff_p99_ms": 0.27, "loop_lag_p50_ms": 0.05, "loop_lag_p99_ms": 0.6}
    worker |= {"loop_lag_max_ms": 2.1, "cpu_share": 0.31, "gc_pauses": 0, "gc_pause_max_ms": 0.0}
    worker |= {"client_queue_p99_ms": 0.3}
    return {
        "schema": SCHEMA_VERSION,
        "id": name,
        "state": "complete",
        "reason": None,
        "created": "2026-01-01T00:00:00Z",
        "workload": {"scenario": "made", "arrivals": {"shape": "poisson", "rate_per_s": rate}, "seed": seed},
        "scenario": {
            "name": "made",
            "doc": "Requests that never happened, drawn from a seed.",
            "params": {"rows": rows, "users": users, "operations": list(operations)},
        },
        "target": {"url": "http://made.invalid", "transport": "none"},
        "git": {"sha": "0" * 40, "dirty": False},
        "host": {
            "name": "nowhere",
            "cpus": 2,
            "cpu_model": "none",
            "memory_gb": 4.0,
            "kernel": "none",
            "python": "3.11",
        },
        "versions": {"perfkit": "0.1.0", "numpy": np.__version__},
        "clock": {"monotonic_ns": 0, "unix_ns": 1767225600000000000},
        "measured": {"from_ns": int(warm * 1e9), "to_ns": int((warm + rows / rate) * 1e9)},
        "workers": 2,
        "health": {"valid": True, "reasons": [], "workers": [{"worker": w, **worker} for w in (0, 1)]},
        "thresholds": [{"text": "error_rate < 1 %", "value": 0.4, "ok": True}],
        "step_errors": [],
        "tags": ["made"],
        "note": None,
    }


def main() -> None:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="data directory; the run goes to OUT/runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS))
    parser.add_argument("--error-rate", type=float, default=0.004)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--streaming", action="store_true", help="give rows chunks, as a streamed answer has")
    given = vars(parser.parse_args())
    out, rows = given.pop("out"), given.pop("rows")
    print(make_timeline(out, rows, **given).path)


if __name__ == "__main__":
    main()
