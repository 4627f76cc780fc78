"""What the probes cost: throughput of the reference server with all of them on against all off.

    .venv/bin/python benchmarks/probes_cost.py [--rounds 9]

Two processes of the same server differ by some percent (hash seeds, memory layout), so each round starts two
fresh servers, each on a PostgreSQL of its own. The same closed loop of agent creations loads them in the
order on, off, off, on, every second round the other way about. A round's ratio is that of its geometric
means; told is the median of the rounds. The goal is at least 0.97.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from perfkit import frames
from perfkit.local_server import reference_server
from perfkit.running import run_repeats

AGENTS = 60  # for each of 7 users


def throughput(url: str, data: Path) -> float:
    """Successes a second of one run."""
    given = {
        "scenario": "agent_mass_creation",
        "params": {"agents_per_user": AGENTS},
        "target": {"url": url},
    }
    (run,) = run_repeats(given, "benchmark", data, (), show_progress=False)
    rows = frames.timeline(run)
    assert not rows["error"].notna().any()
    return frames.throughput(rows)


def one_round(number: int, data: Path) -> tuple[float, float]:
    """Throughput with and without probes: geometric means of two runs each."""
    with reference_server({"probes": True}) as on, reference_server({"probes": False}) as off:
        first, second = (on, off) if number % 2 else (off, on)
        found: dict[bool, list[float]] = {True: [], False: []}
        for served in (on, off):  # warm up
            throughput(served.url, data)
        for served in (first, second, second, first):
            found[served is on].append(throughput(served.url, data))
    return statistics.geometric_mean(found[True]), statistics.geometric_mean(found[False])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    ratios, with_probes, without = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            on, off = one_round(number, Path(folder))
            with_probes.append(on)
            without.append(off)
            ratios.append(on / off)
            print(
                f"{number + 1}/{rounds}: with {on:.1f}/s, without {off:.1f}/s, {ratios[-1]:.3f}", flush=True
            )
    middle = statistics.median(ratios)
    print(f"\nwith probes ÷ without: median {middle:.3f} of {rounds} rounds", end=" ")
    print(f"[{min(ratios):.3f}–{max(ratios):.3f}], {statistics.median(with_probes):.1f}/s and", end=" ")
    print(f"{statistics.median(without):.1f}/s; goal ≥ 0.97 {'met' if middle >= 0.97 else 'NOT met'}")


if __name__ == "__main__":
    main()
