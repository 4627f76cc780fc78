"""What the probes cost: throughput of the reference server with all of them on against all off.

    .venv/bin/python benchmarks/probes_cost.py [--rounds 7]

Two processes of the same server differ by some percent (hash seeds, memory layout), so each round starts two
fresh servers, each on a PostgreSQL of its own. The same closed loop loads them in the order on, off, off, on,
every second round the other way about. A round's ratio is that of its geometric means; told is the median of
the rounds. The goal is at least 0.97.

`messages` is what an agent server is for: 20 users, each message streamed by the model at its usual speed.
In `messages, no model` and `creations` nothing is waited for: one core is full, each microsecond counts, and
requests are as short as they can be, so that is the most the probes can cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from perfkit import frames
from perfkit.drive.local_server import reference_server
from perfkit.drive.running import checked, run_repeats

MESSAGES = {"scenario": "message_stream", "params": {"agents": 20}, "users": {"count": 20, "iterations": 600}}
CREATIONS = {"scenario": "agent_mass_creation", "params": {"agents_per_user": 60}}  # 7 users

#: name of the load, what the server is started with, what it is asked
LOADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({}, MESSAGES),
    "messages, no model": ({"model_speed": 0}, MESSAGES),
    "creations": ({}, CREATIONS),
}


def throughput(url: str, load: dict[str, Any], data: Path) -> float:
    """Successes a second of one run."""
    (run,) = run_repeats(
        checked({**load, "target": {"url": url}}, "benchmark", ()), data, show_progress=False
    )
    rows = frames.measured(run)
    assert not rows.counts["failed"]
    return float(frames.summary(rows)["rate_per_s"].iloc[-1])


def one_round(name: str, number: int, data: Path) -> tuple[float, float]:
    """Throughput with and without probes: geometric means of two runs each."""
    options, load = LOADS[name]
    with (
        reference_server({**options, "probes": True}) as on,
        reference_server({**options, "probes": False}) as off,
    ):
        first, second = (on, off) if number % 2 else (off, on)
        found: dict[bool, list[float]] = {True: [], False: []}
        for served in (on, off):  # warm up
            throughput(served.url, load, data)
        for served in (first, second, second, first):
            found[served is on].append(throughput(served.url, load, data))
    return statistics.geometric_mean(found[True]), statistics.geometric_mean(found[False])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name, found in pairs.items():
                on, off = one_round(name, number, Path(folder))
                found.append((on, off))
                print(f"{number + 1}/{rounds} {name}: {on:.1f}/s and {off:.1f}/s, {on / off:.3f}", flush=True)
    print("\nwith probes ÷ without:")
    for name, found in pairs.items():
        ratios = [on / off for on, off in found]
        middle = statistics.median(ratios)
        with_probes, without = (statistics.median(side) for side in zip(*found, strict=True))
        print(f"{name}: median {middle:.3f} of {rounds} rounds [{min(ratios):.3f}–{max(ratios):.3f}]", end="")
        print(f", {with_probes:.1f}/s and {without:.1f}/s", end="")
        print(f"; goal ≥ 0.97 {'met' if middle >= 0.97 else 'NOT met'}")


if __name__ == "__main__":
    main()
