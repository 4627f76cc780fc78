"""What a request costs the client, and how punctually an open loop starts, beside other load generators.

python benchmarks/speed.py                                    the whole measurement, some 16 minutes
python benchmarks/speed.py --quick                            a smoke run
python benchmarks/speed.py --out benchmarks/README.md         also put the tables between README's markers

Server and clients have a core each; clients take turns, with the order rotated at each repeat. How the
figures are made and why to doubt them stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from peers.clients import CLOSED, OPEN, Call, Closed, Open, present
from peers.measure import (
    ClientFailed,
    Ran,
    Server,
    machine,
    put_between_marks,
    refuse_unfit_machine,
    run_pinned,
    stolen_s,
)

MARKS = ("<!-- speed:begin -->", "<!-- speed:end -->")
US = "perfkit"
#: The most perfkit's CPU per request may be, as a multiple of a peer's.
GOALS = {
    "wrk": 4.0,
    "Locust FastHttpUser": 1 / 5,
    "aiohttp": 1 / 5,
    "aiohttp on uvloop": 1 / 5,
    "httpx AsyncClient": 1 / 40,
    "httpx Client, N threads": 1 / 40,
}
GOAL_P50_MS, GOAL_P99_MS = 0.1, 1.0
#: Marks the loops against a server that polls and never sleeps.
AWAKE = " (server awake)"

Cell = tuple[str, int]


@dataclass(frozen=True)
class Sample:
    """One client in one closed loop, start-up removed: differences of a long and a short run."""

    cpu_per_10k: float
    tree_per_10k: float  #: perfkit: with the coordinating process; else the same
    rate: float
    server_busy: float
    recorded: int  #: by both runs together
    answered: int  #: by the server in the same time


@dataclass(frozen=True)
class Once:
    """One run of a client."""

    cpu_s: float
    tree_s: float
    wall_s: float
    recorded: int
    answered: int
    server_s: float


@dataclass
class Results:
    """Everything measured; lists have one entry a repeat, None where a client failed."""

    closed: dict[Cell, dict[str, list[Sample | None]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    open: dict[int, dict[str, list[dict[str, float] | None]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    notes: list[str] = field(default_factory=list)


# -- measuring -------------------------------------------------------------------------------------


def rotated(names: list[str], by: int) -> list[str]:
    """The names, beginning with another one each time."""
    by %= len(names)
    return names[by:] + names[:by]


def run_once(call: Call, server: Server, seconds: int, notes: list[str]) -> Once:
    """One run, with what the server says of it."""
    answered, server_s = server.answered()
    ran: Ran = run_pinned(call.command, call.env, timeout_s=60 + 3 * seconds)
    answered_then, server_s_then = server.answered()
    said = call.read(ran)
    if said.get("failed"):
        notes.append(f"{said['failed']} failed requests: {' '.join(map(os.path.basename, call.command[:2]))}")
    return Once(
        cpu_s=said.get("worker_cpu_s", ran.cpu_s),
        tree_s=ran.cpu_s,
        wall_s=ran.wall_s,
        recorded=said["recorded"],
        answered=answered_then - answered,
        server_s=server_s_then - server_s,
    )


def slope(short: Once, long: Once) -> Sample:
    """What the additional requests of the long run cost."""
    more, wall = long.recorded - short.recorded, long.wall_s - short.wall_s
    if more <= 0 or wall <= 0:
        raise ClientFailed(f"the long run recorded {long.recorded} requests, the short one {short.recorded}")
    return Sample(
        cpu_per_10k=(long.cpu_s - short.cpu_s) / more * 1e4,
        tree_per_10k=(long.tree_s - short.tree_s) / more * 1e4,
        rate=more / wall,
        server_busy=(long.server_s - short.server_s) / wall,
        recorded=short.recorded + long.recorded,
        answered=short.answered + long.answered,
    )


def measure_closed(
    server: Server, given: argparse.Namespace, cells: list[Cell], data_dir: Path, results: Results
) -> None:
    """Every client in every closed loop, as often as asked."""
    clients = present(CLOSED)
    for repeat in range(given.repeats):
        for method, n in cells:
            for name in rotated(list(clients), repeat * 4):
                sample = None
                try:
                    once = [
                        run_once(
                            clients[name](Closed(server.url, method, n, s, data_dir)),
                            server,
                            s,
                            results.notes,
                        )
                        for s in (1, given.seconds)
                    ]
                    sample = slope(*once)
                except ClientFailed as failed:
                    results.notes.append(f"{name}, {method}, {n}: {failed}")
                label = f"{method}{AWAKE}" if server.awake else method
                results.closed[label, n][name].append(sample)
                said = f"{sample.cpu_per_10k:.3f} s per 10,000" if sample else "failed"
                progress(f"{repeat + 1}/{given.repeats} {label} {n} {name}: {said}")


def measure_open(server: Server, given: argparse.Namespace, data_dir: Path, results: Results) -> None:
    """Every open loop at every rate, as often as asked."""
    for repeat in range(given.repeats):
        for rate in given.rates:
            for name in rotated(list(OPEN), repeat):
                call = OPEN[name](Open(server.url, rate, given.seconds, data_dir))
                said = None
                try:
                    said = call.read(run_pinned(call.command, call.env, timeout_s=60 + 3 * given.seconds))
                except ClientFailed as failed:
                    results.notes.append(f"{name}, {rate}/s: {failed}")
                results.open[rate][name].append(said)
                words = f"p50 {said['p50']:.3f} ms, p99 {said['p99']:.3f} ms" if said else "failed"
                progress(f"{repeat + 1}/{given.repeats} {rate}/s {name}: {words}")


def progress(text: str) -> None:
    """Say on the terminal how far it is."""
    print(text, file=sys.stderr, flush=True)


# -- tables ----------------------------------------------------------------------------------------


def spread(values: list[float], digits: int) -> str:
    """Median and, from two values on, the range."""
    if not values:
        return "failed"
    text = f"{median(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


def ratios(samples: dict[str, list[Sample | None]], peer: str, whole_tree: bool = False) -> list[float]:
    """perfkit's CPU per request over the peer's, one ratio a repeat."""
    pairs = zip(samples[US], samples[peer], strict=True)
    return [
        (ours.tree_per_10k if whole_tree else ours.cpu_per_10k) / theirs.cpu_per_10k
        for ours, theirs in pairs
        if ours and theirs
    ]


def verdict(value: float, limit: float) -> str:
    """Good or bad."""
    return "met" if value <= limit else "**NOT met**"


def goal_text(limit: float) -> str:
    """4 × or 1/5."""
    return f"≤ {limit:.0f}" if limit >= 1 else f"≤ 1/{1 / limit:.0f} = {limit:.3f}"


def goal_table(results: Results) -> list[str]:
    """perfkit ÷ peer for each goal and cell; the verdict is of the worst cell with the server as it is."""
    cells = list(results.closed)
    lines = [
        f"| perfkit ÷ | {' | '.join(f'{m}, {n}' for m, n in cells)} | goal | |",
        "|---|" + "---:|" * len(cells) + "---|---|",
    ]
    for peer in list(CLOSED)[1:]:
        found = [ratios(results.closed[cell], peer) if peer in results.closed[cell] else [] for cell in cells]
        medians = [
            median(one) for one, (m, _) in zip(found, cells, strict=True) if one and not m.endswith(AWAKE)
        ]
        limit = GOALS.get(peer)
        judged = verdict(max(medians), limit) if limit and medians else ""
        texts = [f"{median(one):.3f}" if one else "—" for one in found]
        lines.append(f"| {peer} | {' | '.join(texts)} | {goal_text(limit) if limit else ''} | {judged} |")
    return lines


def closed_table(samples: dict[str, list[Sample | None]]) -> list[str]:
    """One closed loop: what each client costs."""
    lines = [
        "| client | CPU s per 10,000 requests | perfkit ÷ it | perfkit with coordinator ÷ it | requests/s "
        "| server busy |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, listed in samples.items():
        good = [one for one in listed if one]
        cost = spread([one.cpu_per_10k for one in good], 3)
        ratio = "" if name == US else spread(ratios(samples, name), 3)
        tree = "" if name == US else spread(ratios(samples, name, whole_tree=True), 3)
        rate = f"{median(one.rate for one in good):,.0f}" if good else ""
        busy = f"{median(one.server_busy for one in good):.0%}" if good else ""
        lines.append(f"| {name} | {cost} | {ratio} | {tree} | {rate} | {busy} |")
        if name == US:
            whole = spread([one.tree_per_10k for one in good], 3)
            lines.append(f"| perfkit with coordinator | {whole} | | | | |")
    return lines


def open_table(results: Results) -> list[str]:
    """The kick-off errors; each figure is the median of the repeats."""
    lines = [
        "| rate | client | p50 ms | p99 ms | over 1 ms | worst ms | goal |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for rate, by_name in results.open.items():
        for name, listed in by_name.items():
            good = [one for one in listed if one]
            p50, p99 = [one["p50"] for one in good], [one["p99"] for one in good]
            judged = ""
            if name == US and good:
                half, tail = verdict(median(p50), GOAL_P50_MS), verdict(median(p99), GOAL_P99_MS)
                judged = f"p50 ≤ {GOAL_P50_MS:g} {half}, p99 ≤ {GOAL_P99_MS:g} {tail}"
            over = f"{median(one['over_1ms'] for one in good):.2%}" if good else ""
            worst = spread([one["max"] for one in good], 1)
            lines.append(
                f"| {rate:,}/s | {name} | {spread(p50, 3)} | {spread(p99, 3)} | {over} | {worst} | {judged} |"
            )
    return lines


def rows_line(results: Results) -> str:
    """Whether perfkit wrote a row for each request the server answered."""
    ours = [one for samples in results.closed.values() for one in samples[US] if one]
    rows, answered = sum(one.recorded for one in ours), sum(one.answered for one in ours)
    same = "the same" if all(one.recorded == one.answered for one in ours) else "**NOT the same**"
    return f"Rows perfkit wrote: {rows:,}; requests the server answered it: {answered:,}: {same}."


def page(results: Results, given: argparse.Namespace, stolen: float, took_s: float) -> str:
    """The whole block for the README."""
    how = f"{given.repeats} repeats" if given.repeats > 1 else "one repeat"
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    parts = [
        f"Measured {day} on {machine()}; {how}, runs of 1 s and {given.seconds} s. "
        f"It took {took_s / 60:.0f} minutes, {stolen:.1f} s of CPU were stolen by the hypervisor, the load "
        f"average of the last 15 minutes was {os.getloadavg()[2]:.1f}. "
        "Medians of the repeats [lowest–highest]; ratios are made within a repeat.",
        "",
        "**Client CPU per request, perfkit ÷ peer** (the load-generating process with its writer thread; "
        f"a goal is met when every column without{AWAKE} meets it):",
        "",
        *goal_table(results),
        "",
        rows_line(results),
    ]
    for (method, n), samples in results.closed.items():
        parts += ["", f"Closed loop, {method}, {n} at a time:", "", *closed_table(samples)]
    parts += ["", "**Kick-off error in an open loop** (actual − planned start):", "", *open_table(results)]
    if results.notes:
        parts += ["", "Notes of the run:", *(f"- {note}" for note in results.notes)]
    return "\n".join(parts)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smoke run: one repeat, 2 s, 20 at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="length of the long runs (default 4)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--rates", type=int, nargs="+", default=[200, 1000, 3000])
    parser.add_argument("--out", type=Path, help="a Markdown file with the markers, to be rewritten")
    given = parser.parse_args()
    if given.quick:
        given.repeats, given.seconds, given.concurrency = 1, 2, [20]
    if given.seconds < 2 or given.repeats < 1:
        parser.error("--seconds must be at least 2, --repeats at least 1")
    return given


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    refuse_unfit_machine()
    results, began, stolen = Results(), time.monotonic(), stolen_s()
    cells = [(method, n) for method in ("GET", "POST") for n in given.concurrency]
    with tempfile.TemporaryDirectory(prefix="perfkit-bench-") as folder:
        with Server() as server:
            measure_open(server, given, Path(folder), results)
            measure_closed(server, given, cells, Path(folder), results)
        with Server(awake=True) as server:
            measure_closed(server, given, cells[:1], Path(folder), results)
    text = page(results, given, stolen_s() - stolen, time.monotonic() - began)
    print(text)
    if given.out:
        put_between_marks(given.out, text, MARKS)


if __name__ == "__main__":
    main()
