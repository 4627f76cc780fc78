"""What it costs to read runs of many rows, and what a load costs, beside another commit: time and memory.

    python benchmarks/reading.py --beside 3d6c308 --times 3 --out benchmarks/README.md

Everything is a process of its own, of both commits in turns, so that a slow minute of the machine hits both.
Memory is the most the whole tree of processes held at once, sampled from /proc as proportional set size,
which counts a page shared by two processes once. An earlier commit may be told to leave out what it cannot
do in reasonable time (`--rows-beside`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from make_timeline import make_timeline
from peers.measure import hardware, put_between_marks

from perfkit.store import results, update_run_json

HERE = Path(__file__).resolve().parent
MARKS = ("<!-- reading:begin -->", "<!-- reading:end -->")
FEW = 10_000
SCHEMA = {"schema": 1}  # that an earlier commit reads too

#: Begins what is run with an earlier commit too, whose rooms had other names.
FOUND = """
import importlib

def found(*names):
    for name in names:
        try:
            return importlib.import_module(f"perfkit.{name}")
        except ModuleNotFoundError as error:
            last = error
    raise last
"""
REPORT = """
import sys
from pathlib import Path
from perfkit.report import make_report
from perfkit.store import Run
make_report(Run(Path(sys.argv[1])), progress=False)
"""
#: Prints its own seconds: what a comparison waits for is without the interpreter's start.
REDUCE = f"""{FOUND}
import sys, time
from pathlib import Path
reduce_run = found("compare.reduce", "reduce").reduce_run
from perfkit.store import Run
reduce_run(Run(Path(sys.argv[1])))
began = time.perf_counter()
reduce_run(Run(Path(sys.argv[1])))
print("took", time.perf_counter() - began)
"""
COMPARE = f"""{FOUND}
import sys, time
from pathlib import Path
compare = found("compare", "comparison").compare
from perfkit.store import Run
runs = [Run(Path(path)) for path in sys.argv[1:]]
began = time.perf_counter()
compare(runs[::2], runs[1::2])
print("took", time.perf_counter() - began)
"""
#: Prints the worker's CPU per 10,000 rows, and how late a step of an open loop began.
LOAD = f"""{FOUND}
import resource, sys
from pathlib import Path
execute = found("drive.spread", "spread").execute
complete = found("drive.workloads", "workloads").complete
given = {{"scenario": sys.argv[1], "target": {{"url": sys.argv[2]}}}}
if sys.argv[4] == "open":
    given |= {{"arrivals": {{"rate_per_s": 1000, "duration_s": 3}}, "warmup_s": 1}}
else:
    given |= {{"params": {{"method": "GET"}}, "users": {{"count": 20, "duration_s": 4}}}}
run = execute(*complete(given, "benchmark"), data_dir=Path(sys.argv[3]))
rows = run.table(["planned", "started", "phase"]).to_pandas()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
late = rows[(rows["phase"] == "measure").to_numpy()].eval("started - planned").quantile(0.99)
print("took", late / 1e9 if sys.argv[4] == "open" else 1e4 * (used.ru_utime + used.ru_stime) / len(rows))
"""


@dataclass(frozen=True)
class Task:
    """What is measured: a command, and the goal: the most it may take, in s or as a multiple, and MB."""

    name: str
    command: list[str]
    goal_s: float = 0.0
    goal_mb: float = 0.0
    of: str = ""  #: the goal is a multiple of this task's time, or of the other commit's ("beside")
    rows: int = 0


@dataclass
class Seen:
    """Seconds and peak MB of each time."""

    took: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)


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


def once(task: Task, tree: Path, seen: Seen) -> None:
    """Carry a task out with the package of `tree`."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(
        [sys.executable, *task.command], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None:
        peak = max(peak, sum(map(memory_mb, children(process.pid))))
        time.sleep(0.05)
    took = time.perf_counter() - began
    if process.returncode:
        sys.exit(
            f"{task.name} with {tree} ended with {process.returncode}: {process.communicate()[1][-500:]}"
        )
    assert process.stdout is not None
    said = re.search(r"took (\S+)", process.stdout.read()) if "took" in task.command[1] else None
    seen.took.append(float(said[1]) if said else took)
    seen.mb.append(peak)


def made(folder: Path, rows: int, **how: Any) -> str:
    """A run as one that was carried out leaves it, with what its rows come to in run.json."""
    run = make_timeline(folder, rows, meta=SCHEMA, **how)
    update_run_json(
        run.path, lambda _: {"results": results.stamped(run.results, run.path / "timeline.parquet")}
    )
    return str(run.path)


def tasks(folder: Path, url: str, many: int) -> list[Task]:
    """What is measured, on runs made in `folder`."""
    for seed in range(300):
        made(folder / "list", 100, seed=seed)
    sides = [made(folder, 1_000_000, seed=i, error_rate=0.002, restless=0.02) for i in range(10)]
    few, large, huge = (made(folder, n) for n in (FEW, many, 5 * many))
    cli = ["-m", "perfkit.cli"]
    load = ["-c", LOAD, str(HERE / "peers/one_request.py"), url, str(folder / "load")]
    report = f"report of {FEW:,} rows"
    return [
        Task("perfkit --help", [*cli, "--help"], 0.1),
        Task("ls of 300 runs", [*cli, "ls", "--data-dir", str(folder / "list")], 0.6),
        Task("reduce 1,000,000 rows", ["-c", REDUCE, sides[0]], 0.25),
        Task("compare 5 with 5 of 1,000,000 rows", ["-c", COMPARE, *sides], 3.0),
        Task(f"show of {many:,} rows", [*cli, "show", large], 2.5, 400, rows=many),
        Task(report, ["-c", REPORT, few], 4.0),
        Task(f"report of {many:,} rows", ["-c", REPORT, large], 1.5, 500, report, many),
        Task(f"report of {5 * many:,} rows", ["-c", REPORT, huge], 3.0, 700, report, 5 * many),
        Task("worker's CPU for 10,000 requests", [*load, "closed"], 1.05, of="beside"),
        Task("kick-off error, p99 at 1,000/s", [*load, "open"], 1.05, of="beside"),
    ]


@contextlib.contextmanager
def checked_out(revision: str | None) -> Iterator[Path | None]:
    """The files of another commit, for a while."""
    if revision is None:
        yield None
        return
    root = HERE.parent
    folder = tempfile.mkdtemp(prefix="perfkit-beside-")
    subprocess.run(["git", "worktree", "add", "-qf", "--detach", folder, revision], cwd=root, check=True)
    try:
        yield Path(folder)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=root, check=True)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The plain server's URL."""
    command = [sys.executable, str(HERE / "plain_server.py")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait(10)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beside", metavar="REV", help="a commit to be measured in the same run")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rows-beside", type=int, default=10_000_000, help="the most the other one reads")
    parser.add_argument("--only", metavar="WORDS", default="", help="tasks whose name holds this")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a Markdown file with the markers, to be rewritten")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfkit-")))
        trees = {"now": HERE.parent, "beside": stack.enter_context(checked_out(given.beside))}
        every = tasks(folder, stack.enter_context(served()), given.rows)
        wanted = [task for task in every if given.only in task.name]
        seen = {(task.name, tree): Seen() for task in wanted for tree in trees}
        once(every[5], HERE.parent, Seen())  # unmeasured: compiled modules and font caches
        for turn in range(given.times):
            for task in wanted[:: -1 if turn % 2 else 1]:
                for name, tree in trees.items():
                    if tree is not None and (name == "now" or task.rows <= given.rows_beside):
                        shutil.rmtree(Path(task.command[-1]) / "report", ignore_errors=True)
                        once(task, tree, seen[task.name, name])
    text = table(wanted, seen, given.times, given.beside)
    print(text)
    if given.out:
        put_between_marks(given.out, text, MARKS)


def table(wanted: list[Task], seen: dict[tuple[str, str], Seen], times: int, beside: str | None) -> str:
    """Markdown: medians of both, their ratio, peaks, and the goals."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = [
        f"Measured {day} on {hardware()}; median of {times} times each, in turns; peak of all processes.",
        "",
        f"| | now | {beside or 'beside'} | now ÷ it | peak MB, now | it | goal | |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    middle = {one: statistics.median(found.took) for one, found in seen.items() if found.took}
    for task in wanted:
        now, then = middle[task.name, "now"], middle.get((task.name, "beside"))
        mb = [max(seen[task.name, tree].mb, default=0) for tree in ("now", "beside")]
        base = {"": 1.0, "beside": then or 0.0}.get(task.of) or middle[task.of, "now"]
        met = now <= task.goal_s * base and (not task.goal_mb or mb[0] <= task.goal_mb)
        goal = f"≤ {task.goal_s:g} {f'× {task.of}' if task.of else 's'}"
        goal += f", {task.goal_mb:g} MB" if task.goal_mb else ""
        told = [seconds(now), seconds(then) if then else "", f"{now / then:.2f}" if then else ""]
        peaks = [f"{one:,.0f}" if one else "" for one in mb]
        cells = [task.name, *told, *peaks, goal, "met" if met else "**NOT met**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    """s, or ms below 10 ms."""
    return f"{value:.2f} s" if value >= 0.01 else f"{1e3 * value:.2f} ms"


if __name__ == "__main__":
    main()
