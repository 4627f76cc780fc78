"""How true the times of an imported run are, and what that forbids. Runs of perfkit's own: nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perfkit.store import Run

#: A time rounded to more than this share of what is compared would be compared by its rounding.
COARSE = 0.01
#: What stands for runs of perfkit's own, when they meet an imported one.
OWN = {"tool": "perfkit", "fidelity": "measured by perfkit, intended time known"}
#: Drift is looked for in slices of the run; instants must be finer than one.
_SLICES = 20


def imported(run: Run) -> Mapping[str, Any]:
    """What run.json says of the file a run was imported from; empty for runs perfkit made itself."""
    found = run.meta.get("imported")
    return found if isinstance(found, Mapping) else {}


def fidelity(run: Run) -> Mapping[str, Any]:
    """The label of an imported run, in its parts; empty for others."""
    found = imported(run).get("fidelity")
    return found if isinstance(found, Mapping) else {}


def configuration(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same besides the rest, from run.json; nothing for runs of perfkit's own.

    No comparison may vary it: a difference in how true times are is always told.
    """
    told = meta.get("imported") or {}
    return {"tool": told.get("tool"), "fidelity": (told.get("fidelity") or {}).get("words")} if told else {}


def knows_intended_time(run: Run) -> bool:
    """Whether `planned` is when requests were due; else it is when they started."""
    return not imported(run) or fidelity(run).get("intended_time") == "known"


def words(run: Run) -> str:
    """`from a.json (k6-json, k6): instants exact, …`; empty for runs perfkit made itself."""
    told = imported(run)
    if not told:
        return ""
    version = f" {told['version']}" if told.get("version") else ""
    where = f"from {told.get('file')} ({told.get('format')}, {told.get('tool')}{version})"
    return f"{where}: {fidelity(run).get('words') or 'fidelity unknown'}"


def lacks(run: Run) -> list[str]:
    """What a reader must know of the file: lines left out, and what the tool did not tell."""
    told = imported(run)
    skipped = told.get("skipped") or 0
    first = "; ".join(map(str, told.get("skipped_first") or ()))
    places = "1 broken place" if skipped == 1 else f"{skipped:,} broken places"
    left_out = [f"{places} of the file left out: {first}"] if skipped else []
    return [*left_out, *map(str, told.get("notes") or ())]


#: Formats that hold one histogram of a whole run.
_ONE_HISTOGRAM = ("wrk2", "oha-json")


def untimed(run: Run) -> bool:
    """Whether the file tells how long requests took and nothing of when: figures over time are made up."""
    return imported(run).get("format") in _ONE_HISTOGRAM


def refusals(run: Run) -> Iterable[str]:
    """Why an imported run may not be compared at all."""
    if fidelity(run).get("label") == "bucketed":
        yield "its times are bucketed: rows were made from counts, and say nothing of how requests differ"


def unchecked(run: Run) -> Iterable[str]:
    """The checks a comparison could not make of an imported run."""
    if imported(run):
        tool = imported(run).get("tool")
        yield (
            f"imported from {tool}: the generator's health, host and load are not in the file, "
            "so neither they nor Little's law nor a server that fell behind were checked"
        )


def coarse_latency(run: Run, median_ms: float) -> str | None:
    """Why latencies of this median may not be compared; None when they may."""
    step_ms = 1e3 * float(fidelity(run).get("latency_to_s") or 0)
    if step_ms <= COARSE * median_ms:
        return None
    share = f"{step_ms / median_ms:.0%} of" if median_ms > 0 else "more than"
    return f"latencies are rounded to {step_ms:g} ms, {share} the median: not compared (1 % is the most)"


def coarse_span(run: Run, span_s: float) -> str | None:
    """Why a throughput over this time may not be compared; None when it may."""
    step_s = float(fidelity(run).get("instants_to_s") or 0)
    if step_s <= COARSE * span_s:
        return None
    return f"instants are rounded to {step_s:g} s, too coarse for {span_s:.3g} s: throughput not compared"


def too_coarse_for_drift(run: Run, span_s: float) -> bool:
    """Whether instants are too coarse to say that latency was steady."""
    return float(fidelity(run).get("instants_to_s") or 0) > span_s / _SLICES
