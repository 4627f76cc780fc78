"""Does a long run keep its memory? A run of many segments, its processes' memory at every tenth of it.

    python benchmarks/long_run.py --rate 2000 --minutes 30

What grows with a run's length are its rows and its segments: a shorter run at a higher rate tells the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from reading import HERE, children, memory_mb, served

RUN = """
import sys
from pathlib import Path
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
given = {"scenario": sys.argv[1], "target": {"url": sys.argv[2]},
         "arrivals": {"rate_per_s": float(sys.argv[4]), "duration_s": float(sys.argv[5])}}
execute(*complete(given, "benchmark"), data_dir=Path(sys.argv[3]))
"""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    with served() as url, tempfile.TemporaryDirectory(prefix="perfkit-") as data:
        command = [sys.executable, "-c", RUN, str(HERE / "peers/one_request.py"), url, data]
        command += [str(given.rate), str(60 * given.minutes)]
        run = subprocess.Popen(command, cwd=HERE.parent, env=os.environ | {"PYTHONPATH": str(HERE.parent)})
        began, ended = time.monotonic(), threading.Event()
        threading.Thread(target=lambda: (run.wait(), ended.set()), daemon=True).start()
        print("| s | MB, each process | segments |\n|---:|---|---:|")
        while not ended.wait(6 * given.minutes):
            sizes = " ".join(f"{memory_mb(pid):.0f}" for pid in children(run.pid))
            files = len(list(Path(data).glob("runs/*/segments/*.parquet")))
            print(f"| {time.monotonic() - began:.0f} | {sizes} | {files} |", flush=True)
        sys.exit(run.returncode)


if __name__ == "__main__":
    main()
