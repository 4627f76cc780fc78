"""What the probes cost: CPU and throughput of the reference server with all of them on against all off.

    .venv/bin/python benchmarks/probes_cost.py [--rounds 7]

Two processes of the same server differ by some percent (hash seeds, memory layout), so each round starts two
fresh servers, each on a PostgreSQL of its own. The same closed loop loads them in the order on, off, off, on,
every second round the other way about. A round's ratio is that of its geometric means; told is the median of
the rounds.

CPU is the server process's own (of all its threads, without PostgreSQL) for each request of a run, those of
its setup and teardown included. It says the same on a busy machine, where throughput says little. The goals
are 3 % of throughput at the model's usual speed, and 7 % of CPU where the core is full.

`messages` is what an agent server is for: 20 users, each message streamed by the model at its usual speed.
In `messages, no model` and `creations` nothing is waited for: one core is full, each microsecond counts, and
requests are as short as they can be, so that is the most the probes can cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from perfkit import frames
from perfkit.drive.local_server import Served, reference_server
from perfkit.drive.running import checked, run_repeats

MESSAGES = {"scenario": "message_stream", "params": {"agents": 20}, "users": {"count": 20, "iterations": 600}}
CREATIONS = {"scenario": "agent_mass_creation", "params": {"agents_per_user": 60}}  # 7 users

#: name of the load, what the server is started with, what it is asked
LOADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({}, MESSAGES),
    "messages, no model": ({"model_speed": 0}, MESSAGES),
    "creations": ({}, CREATIONS),
}


class Cost(NamedTuple):
    """What a server did in one run."""

    cpu_ms: float  #: for each request
    rate_per_s: float  #: of successes


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(served: Served, load: dict[str, Any], data: Path) -> Cost:
    """Load the server once."""
    before = cpu_s(served.pid)
    workload = {**load, "target": {"url": served.url}}
    (run,) = run_repeats(checked(workload, "benchmark", ()), data, show_progress=False)
    used = cpu_s(served.pid) - before
    rows = frames.measured(run)
    assert not rows.counts["failed"]
    return Cost(1e3 * used / run.row_count(), float(frames.summary(rows)["rate_per_s"].iloc[-1]))


def one_round(name: str, number: int, data: Path) -> tuple[Cost, Cost]:
    """Costs with and without probes: geometric means of two runs each."""
    options, load = LOADS[name]
    with (
        reference_server({**options, "probes": True}) as on,
        reference_server({**options, "probes": False}) as off,
    ):
        first, second = (on, off) if number % 2 else (off, on)
        found: dict[bool, list[Cost]] = {True: [], False: []}
        for served in (on, off):  # warm up
            cost(served, load, data)
        for served in (first, second, second, first):
            found[served is on].append(cost(served, load, data))
    with_probes, without = (
        Cost(*map(statistics.geometric_mean, zip(*found[on], strict=True))) for on in (True, False)
    )
    return with_probes, without


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--load", action="append", choices=list(LOADS), help="one of the loads; default: all")
    asked = parser.parse_args()
    pairs: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in asked.load or LOADS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.rounds):
            for name, found in pairs.items():
                found.append(one_round(name, number, Path(folder)))
                ratios = [a / b for a, b in zip(*found[-1], strict=True)]
                print(
                    f"{number + 1}/{asked.rounds} {name}: CPU {ratios[0]:.3f}, rate {ratios[1]:.3f}",
                    flush=True,
                )
    print("\n| load | CPU, with ÷ without | with | without | successes/s, with ÷ without | with | without |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, found in pairs.items():
        cells = [f"{_ratio(found, 'cpu_ms')} ms", f"{_ratio(found, 'rate_per_s')}/s"]
        print(f"| {name} | {' | '.join(cells)} |")


def _ratio(found: list[tuple[Cost, Cost]], name: str) -> str:
    """Median [lowest–highest] of the ratios, and the medians of both sides."""
    with_probes, without = ([getattr(one, name) for one in side] for side in zip(*found, strict=True))
    ratios = [a / b for a, b in zip(with_probes, without, strict=True)]
    told = f"{statistics.median(ratios):.3f} [{min(ratios):.3f}–{max(ratios):.3f}]"
    return f"{told} | {statistics.median(with_probes):.4g} | {statistics.median(without):.4g}"


if __name__ == "__main__":
    main()
