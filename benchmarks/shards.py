"""Is a second shard worth as much as the first, and how long does the final merge take?

    python benchmarks/shards.py [--rate 2000] [--seconds 10] [--rows 10000000] [--times 5]

One shard and two, and two that a Dask cluster of this machine places, in turns, against a server that costs
next to nothing. Each sends `rate` requests a second: rows a second, and how late requests began. Then each
has ten users that do not pause: what a row costs a shard, since two cores, which the server shares, have no
room for two shards at their fastest. Last, segments of two workers, as a run leaves them, are merged.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from make_timeline import make_timeline
from peers.measure import hardware
from reading import HERE, served

from perfkit.store.writing import RunFolder, write_segment

#: Rows, their seconds, CPU of the shards, and p99 of how late the requests began.
RUN = """
import resource, sys
from pathlib import Path
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
scenario, url, data, on, shards, rate, seconds = sys.argv[1:]
given = {"scenario": scenario, "target": {"url": url}, "spread": {"on": on}}
if float(rate):
    given["arrivals"] = {"rate_per_s": int(shards) * float(rate), "duration_s": float(seconds)}
else:
    given["users"] = {"count": 10 * int(shards), "duration_s": float(seconds)}
run = execute(*complete(given, "benchmark"), data_dir=Path(data))
rows = run.table(["planned", "sent", "done", "error"]).to_pandas()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
took = (rows["done"].max() - rows["sent"].min()) / 1e9
late = (rows["sent"] - rows["planned"]).quantile(0.99) / 1e6
cost = 1e6 * (used.ru_utime + used.ru_stime) / len(rows)
print(len(rows) / took, cost, late, rows["error"].isna().mean())
"""
#: Rows of a segment, as joined on the way.
SEGMENT = 64_000


def load(url: str, on: str, shards: int, rate: float, seconds: float) -> list[float]:
    """Rows/s, µs of CPU a row, ms late (p99), share that succeeded; rate 0: users that do not pause."""
    with tempfile.TemporaryDirectory(prefix="perfkit-") as data:
        given = [str(HERE / "peers/one_request.py"), url, data, on, str(shards), str(rate), str(seconds)]
        command = [sys.executable, "-c", RUN, *given]
        found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
    return [float(word) for word in found.stdout.split()]


@contextlib.contextmanager
def placed_by_dask() -> Iterator[str]:
    """Where shards are placed by a scheduler and two workers, processes of this machine."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:
        yield f"dask:{cluster.scheduler_address}"


def merge_s(rows: int) -> float:
    """Wall time of merging so many rows of two workers."""
    with tempfile.TemporaryDirectory(prefix="perfkit-") as data:
        made = make_timeline(Path(data) / "made", rows)
        folder = RunFolder.create(Path(data), "merged")
        folder.write_meta(dict(made.meta.raw))
        with pq.ParquetFile(made.path / "timeline.parquet") as file:
            for number, batch in enumerate(file.iter_batches(SEGMENT)):
                name = f"w{number % 2}-{number // 2:06}"
                write_segment(folder.path, name, pa.Table.from_batches([batch]))
        began = time.perf_counter()
        folder.merge()
        return time.perf_counter() - began


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second of each shard")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    print(f"{hardware()}; medians of {given.times}, in turns.\n")
    print("| shards | rows/s | late, p99, ms | succeeded | CPU a row without pause, µs |")
    print("|---:|---:|---:|---:|---:|")
    seen: dict[tuple[str, bool], list[list[float]]] = {}
    with served() as url, placed_by_dask() as dask:
        places = {"local:1": 1, "local:2": 2, dask: 2}
        for turn in range(given.times):
            for on, paced in itertools.product(list(places)[:: -1 if turn % 2 else 1], (True, False)):
                found = load(url, on, places[on], given.rate if paced else 0.0, given.seconds)
                seen.setdefault((on, paced), []).append(found)
    for on in places:
        rate, _, late, ok = map(statistics.median, zip(*seen[on, True], strict=True))
        # those that Dask places are no children of ours
        cost = statistics.median(found[1] for found in seen[on, False])
        told = f"{cost:.1f}" if on != dask else ""
        print(f"| {on if on != dask else 'dask: 2'} | {rate:,.0f} | {late:.2f} | {100 * ok:.2f} % | {told} |")
    took = [merge_s(given.rows) for _ in range(min(given.times, 3))]
    spread = f"{min(took):.1f} to {max(took):.1f}"
    print(f"\nMerge of {given.rows:,} rows: {statistics.median(took):.1f} s ({spread})")


if __name__ == "__main__":
    main()
