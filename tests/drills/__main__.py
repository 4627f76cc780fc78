"""Carry out the drills and print what broke a rule: python -m tests.drills [--only json:17] [--out FILE]."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers.measure import hardware, put_between_marks
from tests.drills.endings import end_runs
from tests.drills.fuzz import CORPORA, Bench, Finding, Result, fuzz
from tests.drills.hostile import meet_all
from tests.drills.kills import VERBS, kill_all, kill_runs_at_random
from tests.small_server import small_server

SEED = 13
RANDOM_KILLS = ENDINGS = 105
HOSTILE_ROUNDS = 10
MARKS = ("<!-- drills:begin -->", "<!-- drills:end -->")
_KINDS = (*CORPORA, "hostile", "kills", "runs", "endings")


def main() -> None:
    """Command line of the drills; exit code 1 where something broke a rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words = f"only these: {', '.join(_KINDS)}; or one case, such as json:17 or kills:tag"
    parser.add_argument("--only", nargs="*", default=_KINDS, metavar="KIND[:CASE]", help=words)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--share", type=float, default=1.0, help="only this share of the cases")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the folders of cases that failed in DIR"
    )
    parser.add_argument("--out", type=Path, help="a Markdown file with the markers, to be rewritten")
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    results, begin = [], time.monotonic()
    with small_server() as server, Bench(given.jobs, server.url) as bench:
        for name in given.only:
            results.append(_carry_out(bench, name, given))
            print(f"{name}: {results[-1].cases:,} cases, {len(results[-1].findings):,} faults, "
                  f"{results[-1].seconds:.0f} s", flush=True)  # fmt: skip
            _print_findings(results[-1].findings)
    text = _table(results, given, time.monotonic() - begin)
    print(text)
    if given.out:
        put_between_marks(given.out, text, MARKS)
    sys.exit(any(one.findings for one in results))


def _carry_out(bench: Bench, name: str, given: argparse.Namespace) -> Result:
    kind, _, one = name.partition(":")
    if kind == "kills":
        return kill_all(bench, [one] if one else VERBS, None if given.share == 1 else int(50 * given.share))
    if kind == "runs":
        return kill_runs_at_random(int(RANDOM_KILLS * given.share), given.seed)
    if kind == "endings":
        return end_runs(bench, int(ENDINGS * given.share), given.seed)
    if kind == "hostile":
        return meet_all(max(1, int(HOSTILE_ROUNDS * given.share)))
    count = int(CORPORA[kind][1] * given.share)
    return fuzz(bench, kind, given.seed, [int(one)] if one else range(count), given.keep)


def _print_findings(all_of_them: Sequence[Finding]) -> None:
    """The distinct faults, the most frequent first, each with its smallest case."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in all_of_them:
        groups[finding.fault].append(finding)
    for fault, findings in sorted(groups.items(), key=lambda item: -len(item[1])):
        one = min(findings, key=lambda finding: len(finding.changes))
        print(
            f"{len(findings)} × {fault}\n    {one.case}: perfkit {one.step:.200}\n    {one.changes[:240]!r}",
            flush=True,
        )


def _table(results: Sequence[Result], given: argparse.Namespace, seconds: float) -> str:
    day, machine = datetime.now(UTC).strftime("%Y-%m-%d"), hardware()
    lines = [
        f"Measured {day} on {machine}; seed {given.seed}, {given.jobs} at once, {seconds / 60:.0f} minutes.",
        "",
        "| drill | cases | verbs carried out | cases refused in words | tracebacks | hangs | other faults "
        "| peak MB | slowest, CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *(one.row() for one in results)])


if __name__ == "__main__":
    main()
