"""Is a second shard worth as much as the first, and how long does the final merge take?

    python benchmarks/shards.py [--rate 8000] [--seconds 10] [--rows 10000000] [--times 5]

One shard sends `rate` requests a second, two send twice as many, in turns, to a server that costs next to
nothing: rows a second, what a row costs a shard, and how late requests began. Two cores are shared by shards
and server, so the rate is one that leaves them time. Then segments of two workers, as a run leaves them, are
merged: wall time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
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
scenario, url, data, shards, rate, seconds = sys.argv[1:]
given = {"scenario": scenario, "target": {"url": url}, "spread": {"on": f"local:{shards}"},
         "arrivals": {"rate_per_s": int(shards) * float(rate), "duration_s": float(seconds)}}
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


def load(url: str, shards: int, rate: float, seconds: float) -> list[float]:
    """Rows/s, µs of CPU a row, ms late (p99), and the share that succeeded."""
    with tempfile.TemporaryDirectory(prefix="perfkit-") as data:
        given = [str(HERE / "peers/one_request.py"), url, data, str(shards), str(rate), str(seconds)]
        command = [sys.executable, "-c", RUN, *given]
        found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
    return [float(word) for word in found.stdout.split()]


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
    parser.add_argument("--rate", type=float, default=8000.0, help="requests a second of each shard")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    seen: dict[int, list[list[float]]] = {1: [], 2: []}
    with served() as url:
        for turn in range(given.times):
            for shards in (1, 2)[:: -1 if turn % 2 else 1]:
                seen[shards].append(load(url, shards, given.rate, given.seconds))
    print(f"{hardware()}; medians of {given.times}, in turns.\n")
    print("| shards | rows/s | CPU a row, µs | late, p99, ms | succeeded |\n|---:|---:|---:|---:|---:|")
    for shards, found in seen.items():
        rate, cost, late, ok = (statistics.median(one) for one in zip(*found, strict=True))
        print(f"| {shards} | {rate:,.0f} | {cost:.1f} | {late:.2f} | {100 * ok:.2f} % |")
    took = [merge_s(given.rows) for _ in range(min(given.times, 3))]
    spread = f"{min(took):.1f} to {max(took):.1f}"
    print(f"\nMerge of {given.rows:,} rows: {statistics.median(took):.1f} s ({spread})")


if __name__ == "__main__":
    main()
