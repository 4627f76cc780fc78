"""What a report of many rows costs beside one of few: time and memory, measured from outside.

    python benchmarks/report_time.py --rows 10000 1000000 --times 3 --out benchmarks/README.md

Each report is made by a process of its own; the sizes take turns, so that a slow minute of the machine
hits all of them. Memory is the most the whole tree of processes (report and notebook kernel) held at once,
sampled from /proc as proportional set size, which counts a page shared by two processes once.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from make_timeline import make_timeline
from peers.measure import hardware, put_between_marks

MARKS = ("<!-- report:begin -->", "<!-- report:end -->")

MAKE = """
import sys
from pathlib import Path
from perfkit.report import make_report
from perfkit.store import Run
make_report(Run(Path(sys.argv[1])), progress=False)
"""


def children(pid: int) -> list[int]:
    """A process and all below it, as far as they still live."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            found += [int(p) for t in tasks for p in (t / "children").read_text().split()]
        except OSError:
            continue
    return found


def memory_mb(pid: int) -> float:
    """Proportional set size of one process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def report(run: Path) -> tuple[float, float]:
    """Seconds and peak MB of one report."""
    shutil.rmtree(run / "report", ignore_errors=True)
    begin, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(run)])
    while process.poll() is None:
        peak = max(peak, sum(map(memory_mb, children(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the report of {run.name} failed")
    return time.perf_counter() - begin, peak


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a Markdown file with the markers, to be rewritten")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perfkit-") as folder:
        runs = {n: make_timeline(Path(folder), n).path for n in given.rows}
        seen: dict[int, list[tuple[float, float]]] = {n: [] for n in runs}
        report(runs[min(runs)])  # once unmeasured: compiled modules and font caches
        for turn in range(given.times):
            for n in sorted(runs, reverse=bool(turn % 2)):
                seen[n].append(report(runs[n]))
    text = table(seen, given.times)
    print(text)
    if given.out:
        put_between_marks(given.out, text, MARKS)


def table(seen: dict[int, list[tuple[float, float]]], times: int) -> str:
    """Markdown: what a report of so many rows took, beside that of the fewest."""
    base = statistics.median(s for s, _ in seen[min(seen)])
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = [
        f"Measured {day} on {hardware()}; {times} times each, in turns. The goal: 1,000,000 rows in at most "
        "2 × the time of 10,000, within 1,500 MB (report and kernel together, proportional set size).",
        "",
        "| rows | seconds, median | all | ÷ fewest rows | peak MB |",
        "|---:|---:|---|---:|---:|",
    ]
    for n in sorted(seen):
        took, peak = [s for s, _ in seen[n]], max(mb for _, mb in seen[n])
        median, every = statistics.median(took), ", ".join(f"{s:.1f}" for s in took)
        lines.append(f"| {n:,} | {median:.2f} | {every} | {median / base:.2f} | {peak:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
