"""perfkit itself, as `perfkit run` drives it: a scenario, a worker process, rows in Parquet.

python perfkit_load.py closed URL GET|POST USERS SECONDS DATA_DIR
python perfkit_load.py open URL RATE SECONDS DATA_DIR

`worker_cpu_s` is the CPU of the worker process with its writer thread, from the same kernel counters as
everybody's: the children this process has waited for. Setup, merge and verdict happen in this process.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from shared import BODY, WARMUP_S, tell, tell_lateness

from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.store import Run


def run(given: dict[str, Any], url: str, data_dir: str) -> Run:
    """Carry out a workload on the scenario of this folder."""
    fixed = {"scenario": str(Path(__file__).with_name("one_request.py")), "target": {"url": url}}
    workload, scenario, params = complete(fixed | given, "benchmark")
    return execute(workload, scenario, params, data_dir=Path(data_dir))


def closed(url: str, method: str, users: str, seconds: str, data_dir: str) -> None:
    """Closed loop: rows and CPU."""
    load = {"count": int(users), "duration_s": float(seconds)}
    done = run({"params": {"method": method, "body": BODY}, "users": load}, url, data_dir)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    errors = done.table(["error"])["error"]
    failed = len(errors) - errors.null_count
    tell(recorded=len(errors), failed=failed, worker_cpu_s=used.ru_utime + used.ru_stime)


def open_(url: str, rate: str, seconds: str, data_dir: str) -> None:
    """Open loop: how late each step started."""
    load = {"rate_per_s": float(rate), "duration_s": float(seconds)}
    done = run({"arrivals": load, "warmup_s": WARMUP_S}, url, data_dir)
    table = done.table(["planned", "started", "phase"])
    table = table.filter(pc.equal(table["phase"], "measure"))
    tell_lateness(((table["started"].to_numpy() - table["planned"].to_numpy()) / 1e6).tolist())


if __name__ == "__main__":
    {"closed": closed, "open": open_}[sys.argv[1]](*sys.argv[2:])
