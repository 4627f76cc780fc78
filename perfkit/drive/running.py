"""What `perfkit run` does: the checks before a load, its repeats with progress, its thresholds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

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
from perfkit.store import Run, slo, thresholds, update_run_json
from perfkit.store.metrics import Metric
from perfkit.store.remote import require_lasting
from perfkit.store.rows import Part
from perfkit.store.words import still_there
from perfkit.text import print_lines

#: Called with a run that is complete, to look for findings in it.
Look = Callable[[Run], None]
#: Scenarios of perfkit's that ask nothing of the server they load.
_ANY_SERVER = ("http_get", "http_request", "openai_chat", "replay")


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
            left = [f"; {words}" for run in kept if (words := still_there(run))]
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
