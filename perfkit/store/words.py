"""A run in words: for a person, in a list, and as JSON."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perfkit import stats
from perfkit.store.contents import left_on_target
from perfkit.store.metadata import ProbeSource, Results
from perfkit.store.reading import Run
from perfkit.store.rows import Part
from perfkit.store.summary import NAMES, TOTAL, firm, no_goodput, summarize, warnings
from perfkit.store.verdict import broken_steps
from perfkit.text import for_terminal, plural

#: Operations, and notes on them, that are shown for a person; the most frequent first.
_SHOWN = 30
_FINDINGS = 5
_NOTES = 3  #: on the summary of a run that has just ended
#: Share of the successes that may end after the measured part without a word.
_LATE = 0.05
#: The first line says how many requests failed from this share on.
_MANY_FAILED = 0.1
#: And how many of its steps raised, which no error rate counts.
_MANY_RAISED = 0.01


def headline(run: Run) -> dict[str, str]:
    """The measured part in words: rows, failed, and `p50 ms`, …, "—" where too few requests carry it."""
    row = _firm_summary(Part(run))[-1]
    counts = (("rows", row["n"]), ("failed", row["failed"]))
    told = {name: "—" if count is None else f"{count:,.0f}" for name, count in counts}
    firm = {f"{name} ms": row[name] for name in ("p50", "p95", "p99")}
    return told | {name: "—" if value is None else f"{value:.4g}" for name, value in firm.items()}


def _firm_summary(part: Part) -> list[dict[str, Any]]:
    """The summary per operation, None for NaN and for quantiles that too few requests carry."""
    rows = []
    for row in summarize(part):
        soft = {name for name in NAMES if not firm(row, name)}
        nan = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
        rows.append(row | dict.fromkeys(soft | nan))
    return rows


def details(run: Run, *, summary: bool = True, results: Results | None = None) -> dict[str, Any]:
    """Everything run.json says, the state as it is now, and the summary per operation (null without).

    results: the run's, with findings; null where none were looked for.
    """
    found = (results or run.meta.results).findings
    return {
        **run.meta.raw,
        "state": run.state,
        "reason": run.reason,
        "verdict": run.verdict.brief,
        "path": str(run.path),
        "summary": _firm_summary(Part(run)) if summary else None,
        "findings": None if found is None else [dataclasses.asdict(one) for one in found],
        "damage": list(run.meta.damage),
    }


def describe_run(
    run: Run, *, summary: bool = True, results: Results | None = None, brief: bool = False
) -> str:
    """The same for a person: verdict, thresholds and findings first, then numbers and the next command.

    brief: few notes, and no finding that repeats the verdict.
    """
    meta = run.meta
    lines = [f"run {run.id}: {run.headline}{_but_failed(run)}"]
    for threshold in sorted(meta.thresholds, key=lambda one: one.ok):
        met = "ok" if threshold.ok else "MISSED"
        lines.append(f"  threshold {threshold.text}: {met}, measured {threshold.measured}")
    lines += [f"  {words}" for words in _finding_words(run, results or meta.results, brief)]
    lines += [f"  {words}" for words in _left_words(run)]
    where = meta.target_url or "a target not named in the file"
    if meta.imported:
        lines.append(f"  scenario {meta.scenario.name} on {where}")
    else:
        lines.append(f"  scenario {meta.scenario.name} on {meta.target_url}, {meta.load_words}")
    lines += [f"  {words}" for words in meta.shard_words]
    lines += [f"  {words}" for words in (meta.replay.words if meta.replay else ())]
    lines += [f"  scenario error, {plural(error.count, 'time')}: {error.text}" for error in meta.step_errors]
    unread = [f"{run.row_count():,} requests; `perfkit show {run.id}` summarizes them"]
    numbers = _summary_lines(run, _NOTES if brief else _SHOWN) if summary else unread
    lines += [f"  {words}" for words in (*numbers, *(f"note: {text}" for text in meta.health.notes))]
    lines += [f"  server {words}" for words in _probe_words(meta.probes)]
    lines.append(f"  {run.path}")
    if run.state != "running" and run.results.n:
        lines.append(f"  next: perfkit report {reference(run.path)}{needs_extra()}")
    return "\n".join(map(for_terminal, lines))


def _but_failed(run: Run) -> str:
    """How many requests and steps of a valid run failed, where that is more than a few: validity is the
    generator's."""
    if run.verdict.word != "VALID":
        return ""
    n, failed, broken = run.results.n, run.results.failed, broken_steps(run.meta)
    told = []
    if n and failed / n >= _MANY_FAILED:
        told.append(f"{100 * failed / n:.3g} % of its requests failed")
    if broken and run.meta.steps_ended and (share := broken.n / broken.steps) >= _MANY_RAISED:
        told.append(f"{100 * share:.3g} % of its steps {broken.verb} ({broken.most_often})")
    return f", but {' and '.join(told)}" if told else ""


def reference(folder: Path) -> str:
    """What names a run or comparison on a command line: its id where that is looked for, else its path."""
    looked_for = Path(os.environ.get("PERFKIT_DATA_DIR", "data"))
    known = folder.parent in (looked_for / "runs", looked_for / "comparisons")
    return folder.name if known else shlex.quote(str(folder))


def needs_extra() -> str:
    """What is to be installed before a report can be made."""
    return "" if find_spec("papermill") else " (first: pip install 'perfkit[report]')"


def _left_words(run: Run) -> Iterator[str]:
    """What the run left on its target, and what to do about it."""
    if run.meta.not_cleaned_up:
        yield f"not cleaned up on the target: {run.meta.not_cleaned_up}"
    if words := "" if run.state == "running" else still_there(run):
        yield words


def still_there(run: Run) -> str:
    """What the journals of a run say is left; empty where nothing is."""
    left = left_on_target(run.path)
    if not left:
        return ""
    return f"up to {left:,} things it created are still on the target; run `perfkit cleanup {run.id}`"


def _summary_lines(run: Run, notes: int) -> list[str]:
    """n, errors, rate and quantiles with their 95 % within-run intervals, a line per operation."""
    part = Part(run)
    rows = summarize(part)
    n = rows[-1]["n"]
    if not n:  # what is not told is NaN
        return ["no measured requests"]
    if rows[-1]["ok"] == 0:
        return [f"none of {n} requests succeeded"]
    unit = _unit(rows[-1])
    is_open = any(math.isinf(row[f"{name}_high"]) for row in rows for name in ("p50", "p95", "p99"))
    ends = "; ≥: upper end unknown" if is_open else ""
    told = f" with 95 % intervals ({unit}); — where there is none{ends}" if unit else ""
    told = told or "; — where too few requests"
    told += "; /s: successes that ended in it"
    told = "; numbers from a summary, — where it has none" if run.meta.carried else told
    lines = [f"{part.label}: response time in ms{told}"]
    *operations, total = rows
    for row in (*operations[:_SHOWN], total):
        shown = [f"{name} {_interval(row, str(name))}" for name in ("p50", "p95", "p99")]
        per_s = row["rate_per_s"]
        rate = "—" if math.isnan(per_s) else f"{per_s:.1f}/s" if per_s >= 1 or not per_s else f"{per_s:.2g}/s"
        met = row["goodput_per_s"]
        shown += [] if math.isnan(met) else [f"goodput {met:.4g}/s"]
        shown += [f"intervals: {_unit(row)}"] if _unit(row) not in (unit, "") else []
        n, failed = ("—" if row[name] != row[name] else f"{row[name]:.0f}" for name in ("n", "failed"))
        lines.append(f"{row['operation']}: n {n}, failed {failed}, {rate}, {', '.join(shown)}")
    for row in operations[:_SHOWN] or [total]:
        tokens = {name: row.get(f"ttft_{name}", math.nan) for name in ("p50", "p99")}
        known = [f"{name} {value:.4g} ms" for name, value in tokens.items() if not math.isnan(value)]
        lines += [f"ttft of {row['operation']}: {', '.join(known)}"] if known else []
    if run.meta.slo:
        why = no_goodput(part)
        lines.append(f"goodput: {why}" if why else f"goodput: successes a second with {run.meta.slo}")
    if len(operations) > _SHOWN:
        more = f"{len(operations) - _SHOWN:,} less frequent operations"
        lines.insert(-1, f"{more} are not shown: `perfkit show {run.id} --json`")
    return lines + _notes(part, total, notes)


def _notes(part: Part, total: Mapping[str, Any], most: int) -> list[str]:
    """Notes on a summary, the most important first: percentiles on few requests say so by their —, too."""
    late = () if part.run.meta.carried else _late_words(total, part.span_s)
    found = sorted(
        (*late, *warnings(part)),
        key=lambda text: (bool(_THIN(text)), ": " in text and not text.startswith(TOTAL)),
    )
    more = len(found) - most
    lines = [f"note: {text}" for text in found[:most]]
    if more > 0:
        lines.append(f"{plural(more, 'more note')}: perfkit show {reference(part.run.path)}")
    return lines


_THIN = re.compile(r"rests on|not shown \(too few").search


def _late_words(total: Mapping[str, Any], span_s: float) -> Iterator[str]:
    """How many successes the rate is without, where these are more than a few."""
    late = total["ok"] - total["rate_per_s"] * span_s
    if late > _LATE * total["ok"]:
        yield (
            f"{late:,.0f} of {total['ok']:,.0f} successes ended after the measured part of {span_s:.3g} s:"
            f" the rate per second (/s) does not count them"
        )


def _finding_words(run: Run, results: Results, brief: bool) -> Iterator[str]:
    """The first findings, a line each, and what was not looked for."""
    found = results.findings or ()
    if brief and run.verdict.word == "FAILED" and [one.kind for one in found] == ["failing"]:
        return  # the verdict says which requests failed, and why
    for one in found[:_FINDINGS]:
        yield f"finding: {one}"
    if len(found) > _FINDINGS:
        yield f"{len(found) - _FINDINGS:,} more findings: `perfkit show {run.id} --json`"
    if results.findings == () and results.n:
        yield f"findings: none{'' if run.meta.probes else '; the server reported nothing about itself'}"
    if results.not_looked_for:
        yield f"note: {results.not_looked_for}"


def _probe_words(sources: Iterable[ProbeSource]) -> Iterator[str]:
    """What came from the server's probes and what did not, a line for each source."""
    for source in sources:
        words = [f"{source.source}: {source.samples:,} samples"]
        if source.offset_ms is not None:
            words.append(f"clock {source.offset_ms:+.3f} ± {source.uncertainty_ms:.3f} ms from ours")
        words += [f"{source.lost:,} samples lost"] if source.lost else []
        words += [source.failure] if source.errors else []
        yield ", ".join(words)


def _unit(row: Mapping[str, Any]) -> str:
    """What the intervals of an operation take for independent; empty where it has none."""
    units = [row[f"{name}_unit"] for name in ("p50", "p95", "p99")]
    return next((unit for unit in units if unit not in stats.NO_INTERVAL), "")


def _interval(row: Mapping[Any, Any], name: str) -> str:
    point, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if math.isnan(low):
        return f"{point:.4g}" if firm(row, name) else "—"
    return f"{point:.4g} [≥ {low:.4g}]" if math.isinf(high) else f"{point:.4g} [{low:.4g}, {high:.4g}]"
