"""Optimisation strategies as A/B experiments: how often does `perfkit compare` agree with what was predicted?

    .venv/bin/python benchmarks/strategies.py [--only NAME] [--times 10] [--out docs/strategies.md]

The predictions are in params/strategies.yaml. Each time, each pair is carried out as a user would (`perfkit
compare before.yaml after.yaml --until-clear`, so a noisy hour costs pairs, not answers), and so is its null
pair, the after side against itself. A null pair agrees when it is equivalent; improved or regressed is a
false alarm. Every comparison is a line of --results, and one that is there already is not carried out again:
an interrupted run goes on where it was. The runs that were compared are removed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from perfkit.drive.workloads import read_yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "params" / "strategies"
TABLE = ROOT / "params" / "strategies.yaml"
BEGIN, END = "<!-- strategies:begin -->", "<!-- strategies:end -->"
#: The verdict that each prediction means.
VERDICTS = {"improved": "improved", "regressed": "regressed", "no change": "equivalent"}
_MOST_PAIRS = 20
_BUDGET = "12m"  # of one comparison: 20 pairs of runs of 7 s, and 40 starts of a server
_LONGEST_S = 1800


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of params/strategies.yaml."""

    metric: str
    prediction: Literal["improved", "regressed", "no change"]
    margin: float
    because: str


@dataclass(frozen=True)
class Outcome:
    """One comparison: a line of the results. `failed` says why there is no verdict."""

    name: str
    null: bool
    time: int  #: 1 is the first
    verdict: str  #: perfkit's, or `failed`
    ratio: float | None = None  #: after ÷ before
    low: float | None = None
    high: float | None = None
    pairs: int = 0  #: of runs that counted
    excluded: int = 0  #: runs, by rule
    reasons: dict[str, int] = field(default_factory=dict)  #: why, and how many
    seconds: float = 0.0
    failed: str = ""


def strategies() -> dict[str, Strategy]:
    """Every pair with its prediction; msgspec.ValidationError for a row that is none."""
    return msgspec.convert(read_yaml(TABLE), dict[str, Strategy])


def files(name: str, null: bool) -> tuple[Path, Path]:
    """The two sides of a pair, or of its null pair."""
    before, after = (FOLDER / f"{name}_{side}.yaml" for side in ("before", "after"))
    return (after, after) if null else (before, after)


def carry_out(name: str, one: Strategy, null: bool, number: int, most: int = _MOST_PAIRS) -> Outcome:
    """Compare the sides with `perfkit compare` until it is clear, in a folder that is removed."""
    sides = [str(file.relative_to(ROOT)) for file in files(name, null)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="perfkit-strategies-") as data:
        command = [sys.executable, "-c", "from perfkit.cli import cli; cli()", "compare", *sides]
        command += ["--primary", one.metric, "--margin", str(one.margin), "--data-dir", data]
        command += ["--until-clear", "--max-repeats", str(most), "--budget", _BUDGET]
        command += ["--no-report", "--quiet", "--json"]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LONGEST_S)
            said, code = done.stdout, done.returncode
            why = (done.stderr.strip().splitlines() or ["no output"])[-1]
        except subprocess.TimeoutExpired:
            said, code, why = "", -1, f"not done after {_LONGEST_S} s"
    seconds = round(time.monotonic() - began, 1)
    if code not in (0, 3):
        return Outcome(name, null, number, "failed", seconds=seconds, failed=f"exit code {code}: {why}"[:300])
    return _outcome(json.loads(said), one, Outcome(name, null, number, "refused", seconds=seconds))


def _outcome(told: dict[str, Any], one: Strategy, blank: Outcome) -> Outcome:
    """What the comparison says of the metric over all requests."""
    left_out = [reasons for side in "ab" for _, reasons in told[side]["left_out"]]
    why = Counter(reason for reasons in left_out for reason in reasons)
    found = asdict(blank) | {"verdict": told["verdict"], "excluded": len(left_out), "reasons": dict(why)}
    found["pairs"] = len(told["a"]["runs"])
    for result in told["results"]:
        if result["metric"] == one.metric and result["primary"]:
            found |= {key: result[key] and round(result[key], 4) for key in ("ratio", "low", "high")}
            break
    return Outcome(**found)


def read(results: Path) -> list[Outcome]:
    """The comparisons that have been carried out; the last line may have been cut off."""
    found = []
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            found.append(Outcome(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def planned(names: Sequence[str], times: int, there: Sequence[Outcome]) -> Iterator[tuple[int, str, bool]]:
    """What is left to do, each pair once before any comes again; what failed is tried again."""
    done = {(one.time, one.name, one.null) for one in there if one.verdict != "failed"}
    for number in range(1, times + 1):
        for name in names:
            for null in (False, True):
                if (number, name, null) not in done:
                    yield number, name, null


def table(known: dict[str, Strategy], there: Sequence[Outcome]) -> str:
    """The predictions beside the verdicts, as Markdown."""
    lines = [
        "| strategy | metric | prediction | verdicts | agreed | change | null pair | agreed | false alarms |",
        "|---|---|---|---|---:|---|---|---:|---:|",
    ]
    for name, one in known.items():
        pair, null = (_last(there, name, null) for null in (False, True))
        alarms = sum(found.verdict in ("improved", "regressed") for found in null)
        cells = [f"`{name}`", one.metric, one.prediction, _verdicts(pair), _agreed(pair, one.prediction)]
        cells += [_changes(pair), _verdicts(null), _agreed(null, "no change"), str(alarms) if null else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _last(there: Sequence[Outcome], name: str, null: bool) -> list[Outcome]:
    """The last try of each time of a pair."""
    return list({one.time: one for one in there if (one.name, one.null) == (name, null)}.values())


def _verdicts(found: Sequence[Outcome]) -> str:
    counts = Counter(one.verdict for one in found)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "not run"


def _agreed(found: Sequence[Outcome], prediction: str) -> str:
    agreed = sum(one.verdict == VERDICTS[prediction] for one in found)
    return f"{agreed} of {len(found)}" if found else ""


def _changes(found: Sequence[Outcome]) -> str:
    """The lowest and the highest change of the metric."""
    ratios = sorted(one.ratio for one in found if one.ratio)
    if not ratios:
        return ""
    ends = dict.fromkeys(f"{100 * (ratio - 1):+.0f} %" for ratio in (ratios[0], ratios[-1]))
    return " to ".join(ends)


def write(out: Path, text: str) -> None:
    """Put the table between the markers of a page."""
    page = out.read_text()
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{out} has no {BEGIN} and {END}")
    out.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def main() -> None:
    """Carry out what is left to do, then print the table."""
    known = strategies()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(known), metavar="NAME", help=", ".join(known))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--max-repeats", type=int, default=_MOST_PAIRS, help="pairs of runs, at most")
    parser.add_argument("--results", type=Path, default=ROOT / "data" / "strategies.jsonl")
    parser.add_argument("--out", type=Path, help=f"page with {BEGIN} and {END}")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the comparison ends, too
    given.results.parent.mkdir(parents=True, exist_ok=True)
    for number, name, null in planned(given.only or list(known), given.times, read(given.results)):
        words = f"{number}/{given.times} {name}{', null pair' if null else ''}"
        print(words, end=" ", file=sys.stderr, flush=True)
        outcome = carry_out(name, known[name], null, number, given.max_repeats)
        with given.results.open("a") as lines:
            lines.write(json.dumps(asdict(outcome)) + "\n")
        change = f"{100 * (outcome.ratio - 1):+.1f} %" if outcome.ratio else outcome.failed
        words = f"{outcome.verdict} {change}, {outcome.pairs} pairs, {outcome.excluded} excluded"
        print(f"{words}, {outcome.seconds:.0f} s", file=sys.stderr)
    text = table(known, read(given.results))
    print(text)
    if given.out:
        write(given.out, text)


if __name__ == "__main__":
    main()
