"""What `perfkit run` and `show` do: repeats with progress and thresholds, and runs told in words."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from perfkit import stats
from perfkit.drive import abort, describe
from perfkit.drive.live_view import live_view
from perfkit.drive.local_server import reference_server
from perfkit.drive.operations import operations_of, require_awaits, require_files
from perfkit.drive.scenario import Mix, Scenario, is_file, members_of
from perfkit.drive.session.sending import HOP
from perfkit.drive.spread import Progress, execute, soon
from perfkit.drive.workloads import complete, tokens_of, with_server
from perfkit.errors import (
    EXIT_BAD_INPUT,
    EXIT_OK,
    EXIT_RUN_INVALID,
    EXIT_THRESHOLDS_MISSED,
    EXIT_TOOL_ERROR,
    INTERRUPTIONS,
    BadInput,
    unknown,
)
from perfkit.hosts import require_allowed_hosts
from perfkit.model import Tokens, Workload
from perfkit.redaction import Redactor, redacted_errors
from perfkit.store import Run, left_on_target, slo, thresholds, update_run_json
from perfkit.store.metadata import ProbeSource, Results
from perfkit.store.metrics import Metric
from perfkit.store.remote import require_lasting
from perfkit.store.rows import Part
from perfkit.store.summary import NAMES, TOTAL, firm, no_goodput, summarize, warnings
from perfkit.store.verdict import broken_steps
from perfkit.text import for_terminal, plural, print_lines

#: Called with a run that is complete, to look for findings in it.
Look = Callable[[Run], None]
#: Operations, and notes on them, that are shown for a person; the most frequent first.
_SHOWN = 30
_FINDINGS = 5
_NOTES = 3  #: on the summary of a run that has just ended
#: Scenarios of perfkit's that ask nothing of the server they load.
_ANY_SERVER = ("http_get", "http_request", "openai_chat", "replay")
#: Share of the successes that may end after the measured part without a word.
_LATE = 0.05
#: The first line says how many requests failed from this share on.
_MANY_FAILED = 0.1
#: And how many of its steps raised, which no error rate counts.
_MANY_RAISED = 0.01


class Checked(NamedTuple):
    """A workload after every check that needs no request, with what was looked up for it."""

    workload: Workload
    scenario: Scenario | Mix
    params: Any
    tokens: Tokens

    def once(self) -> Checked:
        """The same, to be run once whatever its `repeats`."""
        return self._replace(workload=dataclasses.replace(self.workload, repeats=1))


def checked(given: Mapping[str, Any], where: str, allow_targets: Iterable[str]) -> Checked:
    """Check a workload: names, values, scenario, schedule, thresholds, token, and the hosts it leads to.

    The one way to a run, so BadInput comes before a folder is made and before a host is asked for anything.
    """
    workload, scenario, params = complete(given, where)
    if workload.spread is not None:
        require_lasting(workload.spread.folder, where)
    for member in members_of(scenario, params, workload):
        require_awaits(member.scenario)
        require_files(member.scenario)
    wanted = [thresholds.parse(text) for text in workload.thresholds]
    for one in wanted:
        if isinstance(one.metric, Metric) and one.metric.population == "slo" and not workload.slo:
            raise BadInput(f"threshold {one.text!r}: goodput needs an objective; set slo: {slo.EXAMPLE}")
        if one.of_samples and not _brings_samples(workload):
            raise BadInput(
                f"threshold {one.text!r} is over samples of the server, and this run would have none; set"
                " target.probes_url or target.metrics_url"
            )
    _require_operations(wanted, scenario, params)
    for text in workload.abort or ():
        abort.parse(text)
    require_allowed_hosts(workload, allow_targets)
    return Checked(workload, scenario, params, tokens_of(workload))


def _require_operations(
    wanted: Iterable[thresholds.Threshold], scenario: Scenario | Mix, params: Any
) -> None:
    """BadInput for a threshold of an operation that the scenario surely does not have."""
    if isinstance(scenario, Mix):  # there an operation begins with its scenario's name
        of_each = [operations_of(one.scenario, one.params) for one in scenario.members]
        both = zip(scenario.members, of_each, strict=True)
        known = {f"{one.name}/{name}" for one, names in both for name in names or ()}
    else:
        of_each = [operations_of(scenario, params)]
        known = set(of_each[0] or ())
    for one in wanted:
        name = None if one.of_samples else one.operation
        if name and all(of_each) and name.removesuffix(HOP) not in known:
            raise unknown(f"operation in threshold {one.text!r}:", name, known)


def _brings_samples(workload: Workload) -> bool:
    """Whether the server is asked for samples of itself."""
    target = workload.target
    own = target.url is None and bool(workload.server.get("probes", True))
    return own or bool(target.probes_url or target.metrics_url)


def run_repeats(
    work: Checked,
    data_dir: Path,
    *,
    show_progress: bool,
    on_progress: Progress = lambda run: None,
    look: Look = lambda run: None,
    begin: Callable[[], int] = soon,
) -> list[Run]:
    """Carry out a checked workload as often as its `repeats` say.

    on_progress is called with each run as soon as it has a folder, and several times a second from then on;
    look (`observe.recording.record`) with each one that is complete, before its thresholds are judged: it
    keeps what it finds in run.json. begin says when each load begins, as for `spread.execute`.
    Raises PerfkitError when a run breaks down; its message holds no secret of the workload. A run that is
    interrupted is returned, as aborted; a KeyboardInterrupt before or after it names the runs that are kept.
    """
    redact = Redactor(describe.known_secrets(work.workload, work.params, work.tokens))
    seen: dict[str, Run] = {}

    def tell(run: Run) -> None:
        seen[run.id] = run
        on_progress(run)

    with naming(seen.values()), redacted_errors(redact):
        return _run_repeats(work, data_dir, redact, show_progress, tell, look, begin)


def _run_repeats(
    work: Checked, data_dir: Path, redact: Redactor, show_progress: bool, on_progress: Progress, look: Look,
    begin: Callable[[], int],
) -> list[Run]:  # fmt: skip
    workload, scenario, params, _ = work
    runs: list[Run] = []
    for repeat in range(workload.repeats):
        of = "" if workload.repeats == 1 else f" {repeat + 1}/{workload.repeats}"
        with (
            target_of(workload, show_progress) as aimed,
            live_view(scenario.name + of, show=show_progress) as draw,
        ):

            def tell(run: Run, draw: Progress = draw) -> None:
                draw(run)
                on_progress(run)

            tokens = tokens_of(aimed)
            run = execute(
                aimed,
                scenario,
                params,
                data_dir=data_dir,
                tokens=tokens,
                on_progress=tell,
                own_server=workload.target.url is None,
                begin=begin,
            )
        if run.ended_by_itself:
            look(run)
        runs.append(_judged(Run(run.path), workload, redact))
        if runs[-1].state != "complete":
            break
    return runs


@contextlib.contextmanager
def naming(kept: Collection[Run]) -> Iterator[None]:
    """An interrupt in the block says which runs are kept, and what they have left on their target."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if kept:
            left = [f"; {words}" for run in kept if (words := _still_there(run))]
            interrupt.add_note(f"kept: {', '.join(run.id for run in kept)}{''.join(left)}")
        raise


@contextlib.contextmanager
def target_of(workload: Workload, tell: bool) -> Iterator[Workload]:
    """Yield the workload with a URL: its own, or that of a reference server started for this run."""
    if workload.target.url is not None:
        yield workload
        return
    if find_spec("agent_server") is None and _may_be_forgotten(workload):
        raise BadInput(
            "no target.url is given: add --target URL, or `target: URL` in the workload; without one perfkit"
            " starts its reference server, which is not installed: pip install 'perfkit[server]'"
        )
    if tell:
        print_lines("no target: starting perfkit's reference server (yours: --target URL)", err=True)
    with reference_server(workload.server) as served:
        yield with_server(
            workload, served.url, served.instances if workload.server.get("probes", True) else ()
        )


def _may_be_forgotten(workload: Workload) -> bool:
    """Whether a workload without a target is as well for another server than perfkit's own."""
    refs = [one.scenario for one in workload.mix] or [workload.scenario]
    return not workload.server and all(is_file(ref) or ref in _ANY_SERVER for ref in refs)


def _judged(run: Run, workload: Workload, redact: Redactor) -> Run:
    """The run, with what can be said of it only when it has ended."""
    shown = describe.shown_thresholds(workload.thresholds, redact)
    _apply_thresholds(run, [thresholds.parse(text) for text in shown])
    return Run(run.path)


def _apply_thresholds(run: Run, wanted: list[thresholds.Threshold]) -> None:
    if not wanted or not run.ended_by_itself:
        return
    part = Part(run)
    results: list[dict[str, Any]] = []
    for threshold in wanted:
        try:
            found = threshold.evaluate(part)
        except BadInput as error:  # an operation the run never had: the run is kept, the threshold missed
            results.append({"text": f"{threshold.text} ({error})", "value": None, "ok": False})
            continue
        value = None if math.isnan(found.value) else found.value
        results.append({"text": threshold.text, "value": value, "ok": found.ok, "note": found.note})
    update_run_json(run.path, lambda meta: {"thresholds": results})


#: Of several exit codes the first of these that occurs is told.
_WORST_FIRST = (
    *INTERRUPTIONS.values(),
    *(EXIT_BAD_INPUT, EXIT_TOOL_ERROR, EXIT_RUN_INVALID, EXIT_THRESHOLDS_MISSED),
)


def worst(codes: Iterable[int]) -> int:
    """One exit code for several runs: what kept them from ending says more than what they found."""
    seen = set(codes)
    return next((code for code in _WORST_FIRST if code in seen), EXIT_OK)


# -- runs in words ---------------------------------------------------------------------------------


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
    if words := "" if run.state == "running" else _still_there(run):
        yield words


def _still_there(run: Run) -> str:
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
