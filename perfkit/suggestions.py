"""The name somebody meant: the nearest one by edits, by its beginning, or by what other tools call it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

#: What k6, Locust, hey, wrk and others call things, and what they are here; the first that is known counts.
_CALLED = {
    "vus vu virtual_users concurrency concurrent threads clients connections u c": "users count",
    "rps qps tps throughput arrival_rate requests_per_second arrivals": "rate rate_per_s arrivals",
    "avg average": "mean",
    "stages steps": "stage stages step_rates_per_s arrivals",
    "median med": "p50",
    "errors error failures failed fail_rate failure_rate http_req_failed": "error_rate",
    "retry max_retries attempts": "retries",
    "latency response_time http_req_duration": "p95",
    "time t run_time runtime length period z": "duration duration_s",
    "n i num number num_requests total iterations count loops": "requests iterations",
    "spawn_rate hatch_rate ramp_up rampup r": "ramp ramp_s",
    "host base_url baseurl server_url address endpoint": "target url",
    "url uri": "target url path",
    "target": "to",
    "verb m": "method",
    "body payload json_body data_raw data_binary": "data json",
    "sleep pause wait think": "think_time_s",
    "locustfile script file": "scenario",
    "assert check checks slo fail_if": "threshold thresholds",
    "dry_run debug verbose single one": "once",
    "load test start bench benchmark attack exec execute": "run",
    "list runs history": "ls",
    "init create generate scaffold": "new",
    "diff versus vs": "compare",
    "html plot results": "report",
    "info view cat summary": "show",
    "delete remove del": "rm",
}
_ELSEWHERE = {word: ours.split() for words, ours in _CALLED.items() for word in words.split()}
_LONG = 5  #: characters from which on two edits are a slip
_PREFIX = 3  #: characters of the shortest beginning that says which name is meant
_LONGEST = 80  #: characters of a name that are compared


def nearest(given: str, allowed: Iterable[str], last: Iterable[str] = ()) -> str | None:
    """Return the allowed name that was meant by `given`, or None when none is near.

    Near is: another tool's word for it; one edit (two from five characters on), a transposition being one;
    the beginning of exactly one name. last: names proposed only where no other is near.
    """
    names, avoided = list(allowed), set(last)
    text = _folded(given)
    by_fold = {_folded(name): name for name in reversed(names)}
    if text in by_fold:
        return by_fold[text]
    near = []
    for fold, name in by_fold.items():
        distance = edits(text, fold)
        if distance <= (2 if min(len(text), len(fold)) >= _LONG else 1):
            near.append((name in avoided, distance, fold[:1] != text[:1], abs(len(fold) - len(text)), name))
    begun = [name for name in names if len(text) >= _PREFIX and _folded(name).startswith(text)]
    elsewhere = next((by_fold[one] for one in _ELSEWHERE.get(text, ()) if one in by_fold), None)
    if elsewhere is not None:
        return elsewhere
    if near:
        return min(near)[-1]
    return begun[0] if len(begun) == 1 else None


def nearest_file(file: Path, suffixes: Iterable[str] = ()) -> Path | None:
    """Return the file beside it that was meant by one that is not there; suffixes: of those proposed."""
    wanted = tuple(suffixes)
    try:
        there = [one.name for one in sorted(file.parent.iterdir())[:1_000]]
    except (OSError, ValueError):
        return None
    there = [name for name in there if not wanted or name.lower().endswith(wanted)]
    added = next((f"{file.name}{end}" for end in wanted or (".yaml",) if f"{file.name}{end}" in there), None)
    name = added or nearest(file.name, there)
    return file.with_name(name) if name else None


def did_you_mean(file: Path, suffixes: Iterable[str] = ()) -> str:
    """The end of a message on a file that is not there: the one that was meant, empty where none is near."""
    near = None if os.path.exists(file) else nearest_file(file, suffixes)
    return f"; did you mean {near}?" if near is not None else ""


def edits(one: str, other: str) -> int:
    """Return how many insertions, deletions, substitutions and transpositions of neighbours part two texts.

    Damerau and Levenshtein's distance, no place being edited twice (optimal string alignment).
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def _folded(name: str) -> str:
    """A name without what people write in several ways: dashes and case."""
    return re.sub(r"[-\s]", "_", name[:_LONGEST].lstrip("-").lower())
