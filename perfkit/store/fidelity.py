"""How true the times of an imported run are, and what that forbids. Runs of perfkit's own: nothing to say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perfkit.store.metadata import FidelityFacts, Metadata

#: A time rounded to more than this share of what is compared would be compared by its rounding.
COARSE = 0.01
#: What stands for runs of perfkit's own, when they meet an imported one.
OWN = {"tool": "perfkit", "fidelity": "measured by perfkit, intended time known"}
#: Drift is looked for in slices of the run; instants must be finer than one.
_SLICES = 20


def fidelity(meta: Metadata) -> FidelityFacts:
    """How true the times of a run are; empty for runs perfkit made itself."""
    return meta.imported.fidelity if meta.imported else FidelityFacts()


def configuration(meta: Metadata) -> dict[str, Any]:
    """What must be the same besides the rest, from run.json; nothing for runs of perfkit's own.

    No comparison may vary it: a difference in how true times are is always told.
    """
    file = meta.imported
    return {"tool": file.tool, "fidelity": file.fidelity.words} if file else {}


def knows_intended_time(meta: Metadata) -> bool:
    """Whether `planned` is when requests were due; else it is when they started."""
    return meta.imported is None or fidelity(meta).intended_time == "known"


def words(meta: Metadata) -> str:
    """`from a.json (k6-json, k6): instants exact, …`; empty for runs perfkit made itself."""
    file = meta.imported
    if file is None:
        return ""
    version = f" {file.version}" if file.version else ""
    where = f"from {file.file} ({file.format}, {file.tool}{version})"
    return f"{where}: {file.fidelity.words or 'fidelity unknown'}"


def lacks(meta: Metadata) -> list[str]:
    """What a reader must know of the file: lines left out, and what the tool did not tell."""
    file = meta.imported
    if file is None:
        return []
    places = "1 broken place" if file.skipped == 1 else f"{file.skipped:,} broken places"
    left_out = [f"{places} of the file left out: {'; '.join(file.skipped_first)}"] if file.skipped else []
    return [*left_out, *file.notes]


#: Formats that hold one histogram of a whole run, in runs of earlier versions, which did not say so.
_ONE_HISTOGRAM = ("wrk2", "oha-json")


def untimed(meta: Metadata) -> bool:
    """Whether the file tells how long requests took and nothing of when: figures over time are made up."""
    file = meta.imported
    return file is not None and (file.format in _ONE_HISTOGRAM or not file.fidelity.timed)


def refusals(meta: Metadata) -> Iterable[str]:
    """Why an imported run may not be compared at all."""
    if fidelity(meta).label == "bucketed":
        yield "its times are bucketed: its rows come from counts and show no spread between requests"
    if meta.carried:
        yield "it is a summary from another tool: the random variation of its numbers is unknown"


def unchecked(meta: Metadata) -> Iterable[str]:
    """The checks a comparison could not make of an imported run."""
    if meta.imported:
        yield (
            f"imported from {meta.imported.tool}: the generator's health, host and load are not in the "
            "file, so neither they nor Little's law nor a server that fell behind were checked"
        )


def coarse_latency(meta: Metadata, median_ms: float) -> str | None:
    """Why latencies of this median may not be compared; None when they may."""
    step_ms = 1e3 * fidelity(meta).latency_to_s
    if step_ms <= COARSE * median_ms:
        return None
    share = f"{step_ms / median_ms:.0%} of" if median_ms > 0 else "more than"
    return f"latencies are rounded to {step_ms:g} ms, {share} the median: not compared (1 % is the most)"


def coarse_span(meta: Metadata, span_s: float) -> str | None:
    """Why a throughput over this time may not be compared; None when it may."""
    step_s = fidelity(meta).instants_to_s
    if step_s <= COARSE * span_s:
        return None
    return f"instants are rounded to {step_s:g} s, too coarse for {span_s:.3g} s: throughput not compared"


def too_coarse_for_drift(meta: Metadata, span_s: float) -> bool:
    """Whether instants are too coarse to say that latency was steady."""
    return fidelity(meta).instants_to_s > span_s / _SLICES
