"""What `perfkit run`, `ls` and `show` do: repeats with progress and thresholds, and runs told in words."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perfkit import fidelity, frames, thresholds
from perfkit.card import load_words
from perfkit.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RUN_INVALID,
    EXIT_THRESHOLDS_MISSED,
    EXIT_TOOL_ERROR,
    BadInput,
    PerfkitError,
)
from perfkit.local_server import reference_server
from perfkit.model import Workload
from perfkit.progress import Goal, bar
from perfkit.scenarios import Scenario
from perfkit.spread import Progress, execute
from perfkit.store import Run, write_atomically
from perfkit.workloads import complete, refuse_stranger, token_of, with_server


def run_repeats(
    given: Mapping[str, Any],
    where: str,
    data_dir: Path,
    allow_targets: Iterable[str],
    *,
    show_progress: bool,
    on_progress: Progress = lambda run: None,
) -> list[Run]:
    """Carry out a workload as often as its `repeats` say; every input is checked before the first request.

    on_progress is called with each run as soon as it has a folder, and several times a second from then on.
    Raises BadInput for anything that cannot be run, PerfkitError when a run breaks down.
    """
    workload, scenario, params = checked(given, where, allow_targets)
    wanted = [thresholds.parse(text) for text in workload.thresholds]
    token = token_of(workload)
    runs = []
    for repeat in range(workload.repeats):
        label = scenario.name if workload.repeats == 1 else f"{scenario.name} {repeat + 1}/{workload.repeats}"
        with (
            _target_of(workload, show_progress) as aimed,
            bar(Goal.of(aimed.to_mapping()), label, show=show_progress) as draw,
        ):

            def tell(run: Run, draw: Progress = draw) -> None:
                draw(run)
                on_progress(run)

            run = execute(aimed, scenario, params, data_dir=data_dir, token=token, on_progress=tell)
        _apply_thresholds(run, wanted)
        if workload.target.url is None:
            stamp(run, own_server=True)
        runs.append(Run(run.path))
        if runs[-1].state != "complete":
            break
    return runs


def checked(
    given: Mapping[str, Any], where: str, allow_targets: Iterable[str]
) -> tuple[Workload, Scenario, Any]:
    """A workload with its scenario and parameters, after every check that needs no request; else BadInput."""
    workload, scenario, params = complete(given, where)
    for text in workload.thresholds:
        thresholds.parse(text)
    token_of(workload)
    refuse_stranger(workload, allow_targets)
    return workload, scenario, params


@contextlib.contextmanager
def _target_of(workload: Workload, tell: bool) -> Iterator[Workload]:
    """The workload with a URL: its own, or that of a reference server started for this run."""
    if workload.target.url is not None:
        yield workload
        return
    if tell:
        print("starting the reference agent server", file=sys.stderr)
    with reference_server(workload.server) as served:
        yield with_server(
            workload, served.url, served.instances if workload.server.get("probes", True) else ()
        )


def _apply_thresholds(run: Run, wanted: list[thresholds.Threshold]) -> None:
    if not wanted or run.state != "complete":
        return
    frame = frames.timeline(run)
    results: list[dict[str, Any]] = []
    for threshold in wanted:
        try:
            found = threshold.evaluate(frame)
        except BadInput as error:  # an operation the run never had: the run is kept, the threshold missed
            results.append({"text": f"{threshold.text} ({error})", "value": None, "ok": False})
            continue
        value = None if math.isnan(found.value) else found.value
        results.append({"text": threshold.text, "value": value, "ok": found.ok, "note": found.note})
    stamp(run, thresholds=results)


def stamp(run: Run, **told: Any) -> None:
    """Add to what run.json says."""
    meta = Run(run.path).meta | told
    write_atomically(run.path / "run.json", (json.dumps(meta, indent=1, default=str) + "\n").encode())


def outcome(run: Run) -> tuple[str, int]:
    """How a run ended in a word or two, and the exit code of `perfkit run` for it."""
    if run.state == "aborted":
        return "aborted", EXIT_INTERRUPTED if run.reason == "interrupted" else EXIT_TOOL_ERROR
    if run.state != "complete":
        return run.state, EXIT_TOOL_ERROR
    if not (run.meta.get("health") or {}).get("valid", False):
        return "invalid", EXIT_RUN_INVALID
    if run.meta.get("steps_broken"):
        return "scenario broke", EXIT_TOOL_ERROR
    if not all(one["ok"] for one in run.meta.get("thresholds") or ()):
        return "thresholds missed", EXIT_THRESHOLDS_MISSED
    return "ok", EXIT_OK


#: Of several exit codes the first of these that occurs is told.
_WORST_FIRST = (EXIT_INTERRUPTED, EXIT_BAD_INPUT, EXIT_TOOL_ERROR, EXIT_RUN_INVALID, EXIT_THRESHOLDS_MISSED)


def worst(codes: Iterable[int]) -> int:
    """One exit code for several runs: what kept them from ending says more than what they found."""
    seen = set(codes)
    return next((code for code in _WORST_FIRST if code in seen), EXIT_OK)


# -- runs in words ---------------------------------------------------------------------------------


def brief(run: Run) -> dict[str, Any]:
    """A run in one line: id, state, validity, rows, errors, tags."""
    errors = run.table(["error"])["error"]
    health = run.meta.get("health")
    return {
        "id": run.id,
        "state": run.state,
        "valid": health["valid"] if health else None,
        "rows": len(errors),
        "errors": len(errors) - errors.null_count,
        "fidelity": fidelity.fidelity(run).get("label"),
        "scenario": run.meta.get("scenario", {}).get("name"),
        "created": run.meta.get("created"),
        "tags": " ".join(run.meta.get("tags", ())),
    }


def listed(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """`brief` of each; one that is damaged is told, and hides no other."""
    found = []
    for run in runs:
        try:
            found.append(brief(run))
        except PerfkitError as error:
            damaged = dict.fromkeys(("valid", "rows", "errors", "scenario", "created"))
            found.append({"id": run.id, "state": "damaged", **damaged, "tags": str(error)})
    return found


def headline(run: Run) -> dict[str, str]:
    """The measured part in words: rows, failed, and `p50 ms`, …, "—" where too few requests carry it."""
    row = _firm_summary(run).iloc[-1]
    told = {"rows": f"{int(row['n']):,}", "failed": f"{int(row['failed']):,}"}
    firm = {f"{name} ms": row[name] for name in ("p50", "p95", "p99")}
    return told | {name: "—" if math.isnan(value) else f"{value:.4g}" for name, value in firm.items()}


def _firm_summary(run: Run) -> Any:
    """The summary per operation, without the quantiles that too few requests carry."""
    summary = frames.summary(frames.timeline(run))
    for name in frames.NAMES:
        summary.loc[summary[f"{name}_low"].isna(), name] = math.nan
    return summary


def details(run: Run) -> dict[str, Any]:
    """Everything run.json says, the state as it is now, and the summary per operation."""
    rows = json.loads(_firm_summary(run).to_json(orient="records"))
    return run.meta | {"state": run.state, "reason": run.reason, "path": str(run.path), "summary": rows}


def describe_run(run: Run) -> str:
    """The same for a person."""
    meta = run.meta
    health = meta.get("health") or {}
    lines = [f"run {run.id}: {run.state}{f' ({run.reason})' if run.reason else ''}"]
    if health and not health["valid"]:
        lines += [f"  INVALID: {reason}" for reason in health["reasons"]]
    scenario, target = meta.get("scenario") or {}, meta.get("target") or {}
    load = load_words(meta.get("workload") or {})
    if fidelity.imported(run):
        lines += [f"  {text}" for text in (f"imported {fidelity.words(run)}", *fidelity.lacks(run))]
        lines.append(
            f"  scenario {scenario.get('name')} on {target.get('url') or 'a target the file does not name'}"
        )
    else:
        lines.append(f"  scenario {scenario.get('name')} on {target.get('url')}, {load}")
    lines += [f"  scenario error, {one['count']} times: {one['text']}" for one in meta.get("step_errors", ())]
    if meta.get("teardown_error"):
        lines.append(f"  left behind on the target: {meta['teardown_error']}")
    lines += ["  " + line for line in _summary_lines(run)]
    lines += [f"  server {words}" for words in _probe_words(meta.get("probes") or [])]
    for one in meta.get("thresholds", ()):
        value = "no value" if one["value"] is None else f"{one['value']:.4g}"
        note = f" ({one['note']})" if one.get("note") else ""
        lines.append(f"  threshold {one['text']}: {value}, {'ok' if one['ok'] else 'MISSED'}{note}")
    lines.append(f"  {run.path}")
    return "\n".join(lines)


def _summary_lines(run: Run) -> list[str]:
    """n, errors, rate and quantiles with their 95 % within-run intervals, a line per operation."""
    rows = frames.timeline(run)
    if rows.empty:
        return ["no measured requests"]
    summary = frames.summary(rows).to_dict("records")
    failures = frames.errors(run, rows, most=5).to_dict("records")
    lines = [f"{one['count']} × {one['error']} of {one['operation']}: {one['words']}" for one in failures]
    if not summary[-1]["ok"]:
        return [*lines, f"none of {len(rows)} requests succeeded"]
    unit = summary[-1]["unit"]
    lines += [f"response time in ms with 95 % intervals ({unit}); — where too few requests carry it"]
    for row in summary:
        shown = [f"{name} {_interval(row, str(name))}" for name in ("p50", "p95", "p99")]
        rate = f"{row['rate_per_s']:.1f}/s"
        lines.append(f"{row['operation']}: n {row['n']}, failed {row['failed']}, {rate}, {', '.join(shown)}")
    return lines + [f"note: {text}" for text in frames.warnings(rows)]


def _probe_words(sources: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What came from the server's probes and what did not, a line for each source."""
    for one in sources:
        words = [f"{one['source']}: {one['samples']:,} samples of itself"]
        if "offset_ms" in one:
            words.append(f"clock {one['offset_ms']:+.3f} ± {one['uncertainty_ms']:.3f} ms from ours")
        words += [f"{one['lost']:,} samples lost"] if one["lost"] else []
        words += [f"{one['errors']} fetches failed ({one['error']})"] if one["errors"] else []
        yield ", ".join(words)


def _interval(row: Mapping[Any, Any], name: str) -> str:
    point, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return "—" if math.isnan(low) or math.isnan(high) else f"{point:.4g} [{low:.4g}, {high:.4g}]"
