"""A run small and regular enough that every number about it can be computed by hand.

An open loop of 100 requests/s: 5 s of warm-up, 10 s measured (from 10 s to 20 s on the run's clock), a drain.
Each measured second is one block of 100 requests, planned 10 ms apart. Request j of a block (0 … 99) takes
10 + (37 j mod 100) ms, so a block has each response time from 10 to 109 ms once. Of a block

* j = 20 and 70 fail at once with 503, j = 50 times out after 5 s: 97 succeed (not: 50, 60, 100 ms);
* j = 3, 7, 11, … are writes (25), all others reads (75); j = 21 is the second attempt of its request;
* every request starts 1 ms late, j = 0, 10, 20, … 4 ms; it is sent 2 ms after that; its first byte comes
  5 ms after that, of a write 7 ms.

In the first block, the first tenth of the measured part, every success takes 40 ms longer: 50 to 149 ms.
Of equal times the later block's is the longer one, by 1 µs for each block.
Rows of setup, warm-up, drain and teardown take 77 s each and half of them fail.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.store import Run
from perfkit.store.columns import TYPES

MS, S = 10**6, 10**9
URL = "http://127.0.0.1:8283"


def row(planned: int, took: int, *, late: int = MS, phase: str = "measure", **more: Any) -> dict[str, Any]:
    """One request, instants in ns."""
    started = planned + late
    return {
        "planned": planned, "started": started, "sent": started + 2 * MS, "first_byte": started + 7 * MS,
        "done": planned + took, "worker": 0, "user": 0, "scenario": "hand_made", "operation": "read",
        "phase": phase, "status": 200, "error": None, "error_text": None, "bytes_sent": 10,
        "bytes_received": 100, "attempt": 1, "chunks": None, **more,
    }  # fmt: skip


def measured(second: int, j: int, slower: int = 0, warm: int = 1) -> dict[str, Any]:
    """Request j of a block; slower: ms on top of every success; warm: so many blocks take 40 ms longer."""
    planned = (10 + second) * S + 10 * j * MS
    late = 4 * MS if j % 10 == 0 else MS
    operation = "write" if j % 4 == 3 else "read"
    more: dict[str, Any] = {"operation": operation, "late": late, "attempt": 2 if j == 21 else 1}
    if j in (20, 70):
        return row(planned, 8 * MS, **more, status=503, error="http_5xx", error_text=f"busy {j}")
    if j == 50:
        return row(planned, 5 * S, **more, status=None, first_byte=None, error="timeout", error_text="5 s")
    took = (10 + 37 * j % 100 + (40 if second < warm else 0) + slower) * MS + second * MS // 1000
    first = planned + late + 2 * MS + (7 if operation == "write" else 5) * MS
    return row(planned, took, **more, first_byte=first, first_token=first, chunks=[0])


def others() -> list[dict[str, Any]]:
    """Rows of every other phase, each with a wild time; two of five operations occur nowhere else."""
    failed = {"status": 500, "error": "http_5xx", "error_text": "wild"}
    wild = 77 * S
    return [
        *(row(i * S, wild, phase="setup", operation="make") for i in (1, 2)),
        *(row(5 * S + 100 * i * MS, wild, phase="warmup", **(failed if i % 2 else {})) for i in range(50)),
        *(row(20 * S + 100 * i * MS, wild, phase="drain", **(failed if i % 2 else {})) for i in range(40)),
        *(row(100 * S, wild, phase="teardown", operation="remove", **failed) for _ in range(3)),
    ]


def hand_made(data: Path, name: str, *, slower: int = 0, every: int = 1, warm: int = 1, **meta: Any) -> Run:
    """Write the run; slower: ms added to every success, every: keep only four requests of so many
    times four, warm: so many blocks are the slow beginning. meta: changes of run.json."""
    kept = [j for j in range(100) if j // 4 % every == 0]
    rows = [measured(second, j, slower, warm) for second in range(10) for j in kept]
    arrivals = {"shape": "constant", "rate_per_s": 100.0 / every, "duration_s": 10.0}
    workload = {"scenario": "hand_made", "arrivals": arrivals, "warmup_s": 5.0, "target": {"url": URL}}
    return write_run(data, name, [*rows, *others()], **{"workload": workload, **meta})


def write_run(data: Path, name: str, rows: list[dict[str, Any]], **meta: Any) -> Run:
    """A complete run of these rows; meta: changes of its run.json. Columns that a row lacks are counted."""
    for seq, one in enumerate(rows):
        one |= {"seq": seq, "step": seq, "request_id": f"{name[-4:]}-{seq}"} | one
    folder = data / "runs" / name
    folder.mkdir(parents=True)
    schema = pa.schema([(column, TYPES[column]) for column in TYPES], metadata={"perfkit_schema": "1"})
    plain = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema])
    pq.write_table(pa.Table.from_pylist(rows, plain).cast(schema), folder / "timeline.parquet")
    document = {
        "schema": 1, "id": name, "state": "complete", "reason": None, "created": "2026-01-01T00:00:00+00:00",
        "workload": {}, "scenario": {"name": "hand_made", "doc": "", "params": {}}, "target": {"url": URL},
        "git": {}, "host": {"name": "desk"}, "versions": {"perfkit": "0.1.0"}, "load_started_ns": 5 * S,
        "measured": {"from_ns": 10 * S, "to_ns": 20 * S}, "clock": {"monotonic_ns": 0, "unix_ns": 0},
        "health": {"valid": True, "reasons": [], "workers": []}, "thresholds": [], "tags": [], "note": None,
        **meta,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(document))
    return Run(folder)
