"""The findings of a run, kept in its run.json when it has ended: whoever shows them needs no pandas then."""

from __future__ import annotations

import dataclasses

from perfkit.errors import PerfkitError, words_of
from perfkit.observe import client
from perfkit.store import Run, results, update_run_json
from perfkit.store.metadata import Finding, Results
from perfkit.store.rows import Part

_NOT_KEPT = "what the server's samples show was not kept with the run: `perfkit report` looks at them"


def record(run: Run) -> None:
    """Look for findings in a complete run and keep them in its run.json."""
    found, not_looked_for = _look(Part(run))
    known = dataclasses.replace(run.results, findings=found, not_looked_for=not_looked_for)
    kept = results.stamped(known, *run.files())
    update_run_json(run.path, lambda meta: {"results": kept})


def results_with_findings(run: Run) -> Results:
    """The results of a run with the findings kept in run.json, else those of its rows, which cost little."""
    found = run.results
    if found.findings is not None:
        return found
    of_rows = tuple(client.findings(Part(run)))
    return dataclasses.replace(found, findings=of_rows, not_looked_for=_NOT_KEPT if _has_samples(run) else "")


def _has_samples(run: Run) -> bool:
    """Whether its server's samples are there; also where they cannot be read, as who reads them will say."""
    try:
        return bool(run.probe_files())
    except PerfkitError:
        return True


def _look(rows: Part) -> tuple[tuple[Finding, ...], str]:
    """Every finding there is, and which were not looked for, and why; without samples only rows are read."""
    if not _has_samples(rows.run):
        return tuple(client.findings(rows)), ""
    from perfkit import observe

    try:
        return tuple(observe.findings.judge(rows).findings), ""
    except PerfkitError as error:  # pandas is not there, or the samples are damaged
        why = str(error)
    except Exception as error:  # whatever a server calls its samples: thresholds are judged all the same
        why = f"a rule failed, which is a bug in perfkit: {words_of(error)}"
    return tuple(client.findings(rows)), f"what the server's samples show was not looked for: {why}"
