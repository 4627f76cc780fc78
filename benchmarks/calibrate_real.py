"""The real calibration: pairs of short runs on the reference server, with itself and with a slower model.

    .venv/bin/python benchmarks/calibrate_real.py [--pairs 60] [--out METHOD.md] [--data DIR]

Each run has a fresh server. 60 pairs of the same thing are the noise; 20 pairs each have a model that is 5
and 10 % slower (`server: {model_speed: …}`). Many draws of R of those pairs, without replacement, then say
how often a comparison of R pairs is wrong and how often it sees the slowdown: perfkit's own `judge`, and the
usual tests on the same rows. Draws share pairs, so the shares are less certain than their number suggests.
With --data the runs are kept there and taken up again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from perfkit.compare import Options, judge, noise
from perfkit.compare.measured import Measured
from perfkit.compare.reduce import Reduced, reduce
from perfkit.compare.turns import run_pairs
from perfkit.store import Run, list_runs
from perfkit.store.rows import Part

SEED = 20261124
SPEED = 4.0
SECONDS = 6
USERS = {"count": 8, "duration_s": SECONDS}
LOAD = {"scenario": "message_stream", "params": {"agents": 8}, "users": USERS}
OPTIONS = Options(primary=("p50", "p95", "throughput"))  # too few requests for p99 and for errors of 0.1 %
DRAWS = 1000
TESTS = ("Mann-Whitney, requests", "KS, requests", "Welch, requests", "Mann-Whitney, run medians")
Pair = tuple[Reduced, Reduced]


def carry_out(data: Path, slower: float, pairs: int) -> list[tuple[Run, Run]]:
    """Pairs of runs, B with a model `slower` times as slow; those in `data` already are taken up."""
    folder = data / f"slower-{slower:g}"
    a = {**LOAD, "server": {"model_speed": SPEED}}
    b = {**LOAD, "server": {"model_speed": SPEED / slower}}
    done = _pairs(folder)
    if len(done) < pairs:
        run_pairs(a, b, ("A", "B"), pairs - len(done), folder, (), show_progress=False)
    return _pairs(folder)[:pairs]


def _pairs(folder: Path) -> list[tuple[Run, Run]]:
    found: dict[tuple[str, int], dict[str, Run]] = {}
    for run in list_runs(folder):
        place = run.meta.experiment
        if place and place.pair is not None and run.state == "complete":
            found.setdefault((place.id, place.pair), {})[place.side] = run
    return [(sides["A"], sides["B"]) for sides in found.values() if len(sides) == 2]


@dataclasses.dataclass
class Side:
    """Pairs reduced, with the response times of their steady parts for the usual tests."""

    pairs: list[Pair]
    rows: list[tuple[np.ndarray, np.ndarray]]
    left_out: Counter[str]


def reduced(runs: Sequence[tuple[Run, Run]]) -> Side:
    """Pairs both of whose runs may be compared."""
    side = Side([], [], Counter())
    for pair in runs:
        measured = [Measured.of(Part(run)) for run in pair]
        both = [reduce(run, rows) for run, rows in zip(pair, measured, strict=True)]
        why = [reason.partition(":")[0] for one in both for reason in one.reasons]
        side.left_out.update(why)
        if not why:
            side.pairs.append((both[0], both[1]))
            x = [
                m.response_ms[m.good & (m.planned >= r.cut * m.span_s)]
                for m, r in zip(measured, both, strict=True)
            ]
            side.rows.append((x[0], x[1]))
    return side


def verdicts(side: Side, repeats: int, history: dict[str, Any] | None, swap: bool) -> Counter[str]:
    """Verdicts of draws of `repeats` pairs; `swap`: chance says which run is A, where both are the same."""
    rng = np.random.default_rng([SEED, repeats, len(side.pairs), bool(history)])
    found: Counter[str] = Counter()
    for _ in range(DRAWS):
        pick = [side.pairs[i] for i in rng.permutation(len(side.pairs))[:repeats]]
        if swap:
            pick = [pair if rng.random() < 0.5 else (pair[1], pair[0]) for pair in pick]
        one = judge([a for a, _ in pick], [b for _, b in pick], OPTIONS, history=history)
        found[one.verdict] += 1
        p50 = one.result("p50")
        found["p50 seen"] += p50.p < 0.05
        found["throughput seen"] += one.result("throughput").p < 0.05
        found["p95 seen"] += one.result("p95").p < 0.05
    return found


def usual(side: Side, repeats: int) -> dict[str, float]:
    """How often the usual tests see a difference in the same draws."""
    rng = np.random.default_rng([SEED, 7, repeats])
    found = dict.fromkeys(TESTS, 0)
    draws = DRAWS // 4
    for _ in range(draws):
        pick = [side.rows[i] for i in rng.permutation(len(side.rows))[:repeats]]
        a, b = (np.concatenate([one[i] for one in pick]) for i in (0, 1))
        medians = [[float(np.median(one[i])) for one in pick] for i in (0, 1)]
        p = (
            scipy_stats.mannwhitneyu(a, b, method="asymptotic").pvalue,
            scipy_stats.ks_2samp(a, b, method="asymp").pvalue,
            scipy_stats.ttest_ind(a, b, equal_var=False).pvalue,
            scipy_stats.mannwhitneyu(*medians, method="exact").pvalue,
        )
        for name, one in zip(found, p, strict=True):
            found[name] += one < 0.05
    return {name: count / draws for name, count in found.items()}


def _name(slower: float) -> str:
    return "the same" if slower == 1.0 else f"{slower - 1:.0%} slower"


def report(sides: dict[float, Side]) -> str:
    """The tables, as Markdown."""
    same = sides[1.0]
    kinds = ("equivalent", "inconclusive", "regressed", "improved")
    seen = ("p50 seen", "p95 seen", "throughput seen")
    known = noise.measure([a for a, _ in same.pairs], [b for _, b in same.pairs])
    lines = [
        "| B's model | pairs | R | verdict: " + " | ".join((*kinds, *seen)) + " |",
        "|---|---:|---:|" + "---:|" * 7,
    ]
    plans = [(s, r, None) for s in sides for r in (3, 5, 10)] + [(s, 3, known) for s in sides if s != 1.0]
    for slower, repeats, history in plans:
        side = sides[slower]
        if len(side.pairs) < repeats:
            continue
        found = verdicts(side, repeats, history, swap=slower == 1.0)
        name = _name(slower)
        cells = [f"{100 * found[k] / DRAWS:.1f}" for k in (*kinds, *seen)]
        floor = ", noise floor" if history else ""
        lines.append(f"| {name} | {len(side.pairs)} | {repeats}{floor} | {' | '.join(cells)} |")
    lines += ["", "The usual tests on the same rows, R 5, how often they see a difference (%):", ""]
    tests = {slower: usual(side, 5) for slower, side in sides.items() if len(side.pairs) >= 5}
    lines += ["| B's model | " + " | ".join(next(iter(tests.values()))) + " |", "|---|" + "---:|" * 4]
    for slower, one in tests.items():
        name = _name(slower)
        lines.append(f"| {name} | {' | '.join(f'{100 * v:.1f}' for v in one.values())} |")
    lines += ["", "The ratio B ÷ A over all pairs of a row, with 95 % intervals:", ""]
    for slower, side in sides.items():
        one = judge([a for a, _ in side.pairs], [b for _, b in side.pairs], OPTIONS)
        told = ", ".join(
            f"{m} {(r := one.result(m)).ratio - 1:+.2%} [{r.low - 1:+.2%}, {r.high - 1:+.2%}]"
            for m in ("p50", "p95", "throughput")
        )
        lines.append(f"- {_name(slower)}: {told}")
    left = sum((side.left_out for side in sides.values()), Counter())
    lines += [
        "",
        "Runs excluded by rule: " + ("; ".join(f"{n} × {why}" for why, n in left.items()) or "none") + ".",
        "",
    ]
    lines += ["```", noise.words(known, "these runs"), "```"]
    return "\n".join(lines)


def main() -> None:
    """Carry out, print, and put between the markers of --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--slower-pairs", type=int, default=20)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, help="file with <!-- real:begin --> and end markers")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        data = given.data or Path(temporary)
        plans = {1.0: given.pairs, 1.05: given.slower_pairs, 1.1: given.slower_pairs}
        sides = {slower: reduced(carry_out(data, slower, pairs)) for slower, pairs in plans.items()}
        text = report(sides)
    runs = 2 * sum(plans.values())
    minutes = (time.monotonic() - began) / 60
    text = f"{runs} runs of {SECONDS} s, 8 users; {minutes:.0f} minutes, seed {SEED}.\n\n{text}"
    print(text)
    if given.out:
        begin, end = "<!-- real:begin -->", "<!-- real:end -->"
        head, _, rest = given.out.read_text().partition(begin)
        given.out.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
