"""The data folder every drill begins with: small runs of each kind, a comparison, a noise floor, a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLES = Path(__file__).parents[2] / "data" / "sample"
_MEASURED_S = 6


def make_store(folder: Path) -> list[str]:
    """Make the folder; the ids of its runs, all of them finished but the last one, which was killed."""
    ids = []
    for number in range(6):
        side = ("before", "after")[number % 2]
        ids.append(_copy(folder, "http_get", f"20261101-12000{number}-http_get-000{number}", [side], number))
    ids.append(
        _copy(folder, "agent_mass_creation", "20261101-130000-agent_mass_creation-00a0", ["agents"], 7)
    )
    _probes(folder / "runs" / ids[-1])
    ids.append(_copy(folder, "http_get", "20261101-140000-http_get-00b0", ["killed"], 8))
    _as_killed(folder / "runs" / ids[-1])
    return ids


def _copy(folder: Path, sample: str, run_id: str, tags: list[str], number: int) -> str:
    run = folder / "runs" / run_id
    (run / "segments").mkdir(parents=True)
    (run / "segments").rmdir()
    meta = json.loads((SAMPLES / sample / "run.json").read_text())
    first = meta["measured"]["from_ns"]
    last = min(meta["measured"]["to_ns"], first + _MEASURED_S * 10**9)
    meta |= {"id": run_id, "tags": tags, "measured": {"from_ns": first, "to_ns": last}}
    table = pq.read_table(SAMPLES / sample / "timeline.parquet")
    table = table.filter(pc.less(table["planned"], last))
    slower = np.random.default_rng(number).integers(0, 100_000, len(table)) * (1 + number % 2)
    done = pc.add(table["done"], pa.array(slower))
    table = table.set_column(table.column_names.index("done"), "done", done)
    pq.write_table(table, run / "timeline.parquet")
    (run / "run.json").write_text(json.dumps(meta, indent=1) + "\n")
    (run / "run.lock").touch()
    return run_id


def _probes(run: Path) -> None:
    from perfkit.store import PROBES_SCHEMA

    n = 200
    names = ("loop.lag_ms", "request.app_ms", "pool.wait_ms", "pool.checked_out", "gc.pause_ms")
    columns: dict[str, Any] = {
        "t": [i * 10**7 for i in range(n)],
        "source": ["one"] * n,
        "probe": [names[i % len(names)] for i in range(n)],
        "value": [float(i % 13) for i in range(n)],
        "label": ["POST /v1/agents/" if i % 2 else None for i in range(n)],
        "request_id": [None] * n,
    }
    pq.write_table(pa.table(columns, schema=PROBES_SCHEMA), run / "probes.parquet")


def _as_killed(run: Path) -> None:
    meta = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(meta | {"state": "running", "health": None}, indent=1))
    table = pq.read_table(run / "timeline.parquet")
    (run / "segments").mkdir()
    for part in range(3):
        pq.write_table(table.slice(part * 200, 200), run / "segments" / f"w0-{part:06}.parquet")
    (run / "timeline.parquet").unlink()


def copy_store(source: Path, target: Path) -> None:
    """A copy of its own, for what changes it."""
    shutil.copytree(source, target)
