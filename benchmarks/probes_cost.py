"""What the probes cost: throughput of the reference server with all of them on against all off.

    .venv/bin/python benchmarks/probes_cost.py [--repeats 9]

Two servers, each on a PostgreSQL of its own, are loaded in turn, in both orders, by the same closed loop of
agent creations; the ratio is made within a pair, and the median of the pairs is told. The goal is at least
0.97.
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


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    ratios, with_probes, without = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        reference_server({"probes": True}) as on,
        reference_server({"probes": False}) as off,
    ):
        data = Path(folder)
        for served in (on, off):  # warm up
            throughput(served.url, data)
        for pair in range(repeats):
            order = (on, off) if pair % 2 else (off, on)
            found = {served: throughput(served.url, data) for served in order}
            with_probes.append(found[on])
            without.append(found[off])
            ratios.append(found[on] / found[off])
            print(
                f"{pair + 1}/{repeats}: with {found[on]:.1f}/s, without {found[off]:.1f}/s, {ratios[-1]:.3f}"
            )
    middle = statistics.median(ratios)
    print(f"\nwith probes ÷ without: median {middle:.3f} of {repeats} pairs", end=" ")
    print(f"[{min(ratios):.3f}–{max(ratios):.3f}], {statistics.median(with_probes):.1f}/s and", end=" ")
    print(f"{statistics.median(without):.1f}/s; goal ≥ 0.97 {'met' if middle >= 0.97 else 'NOT met'}")


if __name__ == "__main__":
    main()
