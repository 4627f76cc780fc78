"""From runs and comparisons to executed notebooks and their pages."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.errors import BadInput, PerfkitError, os_error_words
from perfkit.report.html import load, render
from perfkit.report.kernel import Kernel
from perfkit.report.parameters import check_parameters, notebook_given, notebook_path, parameters_of
from perfkit.report.running import run_cells
from perfkit.store import Run, as_path, replacing, require_run
from perfkit.store.metadata import utc


def make_report(
    run: Run,
    *,
    notebook: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Execute a notebook on a run and return the HTML, beside the .ipynb.

    notebook: its path, or the name of one of perfkit's. The default is run_report (of a summary,
    summary_report under its name), with server_health beside it when the run has samples of its server's
    probes.

    BadInput for a parameter the notebook does not have, a value of the wrong type, or one a cell refuses:
    then nothing is written. PerfkitError, with the HTML's address and the broken cell's anchor, when a cell
    fails; both files are written all the same.
    """
    require_run(run, "perfkit.make_report")
    folder = run.path / "report" if out_dir is None else as_path(out_dir, "out_dir")
    own_name = "summary_report" if run.meta.carried else "run_report"
    chosen = notebook_path(own_name) if notebook is None else notebook_given(notebook)
    own, broken = _parameters_for(run, folder), None
    with Kernel(chosen) as kernel:
        given = dict(check_parameters(chosen, parameters or {}))
        if notebook is None and (run.path / "probes.parquet").exists():  # first, so that it can be linked
            own["health_page"] = "server_health.html"
            try:
                make_report(run, notebook=notebook_path("server_health"), out_dir=out_dir, progress=progress)
            except PerfkitError as failed:  # it is written all the same; so must be the report
                broken = failed
        _refuse_set(own, given, "the run")
        there, name = {p.name for p in parameters_of(chosen)}, chosen.stem if notebook else "run_report"
        given |= {name: value for name, value in own.items() if name in there}
        page = _execute(kernel, chosen, given, folder / f"{name}.ipynb", run.id, progress, _about(run))
    if broken is not None:
        raise broken
    return page


def make_report_of_several(data_dir: Path, notebook: Path, parameters: Mapping[str, Any], *,
                           progress: bool = True) -> Path:  # fmt: skip
    """Execute a notebook on the runs its `runs` parameter names, in a folder of its own in data_dir/reports.

    The same runs' page is replaced by a later one; that of others is not. Errors: see `make_report`.
    """
    check_parameters(notebook, parameters)
    words = re.sub(r"[^\w.-]+", "_", str(parameters["runs"]))
    if len(words) > 60:
        words = f"{words[:40]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
    folder = data_dir / "reports" / f"{notebook.stem}-{words}"
    given = {**parameters, "data_dir": os.path.relpath(data_dir, folder)}
    output = folder / f"{notebook.stem}.ipynb"
    return execute(notebook, given, output, subtitle=str(parameters["runs"]), progress=progress)


def make_comparison_report(
    folder: Path, parameters: Mapping[str, Any] | None = None, *, progress: bool = True
) -> Path:
    """Execute the comparison notebook on a comparison's folder; the HTML. Errors: see `make_report`."""
    output, given = folder / "report" / "comparison.ipynb", dict(parameters or {})
    own = {"comparison": "..", "data_dir": os.path.relpath(folder.parent.parent, output.parent)}
    _refuse_set(own, given, "the comparison")
    notebook = notebook_path("comparison")
    return execute(notebook, own | given, output, subtitle=folder.name, progress=progress)


def _about(run: Run) -> str:
    """What was run, where, under which load and when, as far as that is known."""
    meta = run.meta
    where = f" on {meta.target_url}" if meta.target_url else ""
    created = utc(meta.created)
    when = f"{created:%Y-%m-%d %H:%M} UTC" if created else ""
    return " · ".join(filter(None, (f"{meta.scenario.name}{where}".strip(), meta.load_words, when)))


def _refuse_set(own: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    """BadInput for a parameter that says what the page is of, which perfkit sets."""
    for name in own.keys() & given.keys():
        raise BadInput(f"parameter {name!r} is set by perfkit to {what} being reported; omit it")


def _parameters_for(run: Run, folder: Path) -> dict[str, str]:
    """How a notebook that runs in `folder` finds the run: by relative paths, which tell nothing else."""
    name = run.id if run.path.parent.name == "runs" else os.path.relpath(run.path, folder)
    return {"run": name, "data_dir": os.path.relpath(run.path.parent.parent, folder)}


def execute(
    notebook: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    subtitle: str = "",
    progress: bool = True,
) -> Path:
    """Execute any notebook with parameters into `output` (.ipynb) and return the HTML written beside it.

    The kernel runs in the output's folder, under this interpreter. Errors: see `make_report`.
    """
    chosen, page = notebook_given(notebook), as_path(output, "output")
    with Kernel(chosen) as kernel:
        return _execute(kernel, chosen, parameters, page, subtitle, progress)


def _execute(
    kernel: Kernel, notebook: Path, parameters: Mapping[str, Any], output: Path, subtitle: str,
    progress: bool, about: str = "",
) -> Path:  # fmt: skip
    check_parameters(notebook, parameters)
    if output.exists() and output.samefile(notebook):
        raise BadInput(f"{notebook} would be overwritten by its own report; move the notebook elsewhere")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        kernel.run_in(output.parent)
        load()  # beside the kernel, which is still starting
        with replacing(output, ".part.ipynb") as trial:
            broken = run_cells(notebook, dict(parameters), trial, progress, output, kernel, about)
        page = render(output, title=str(parameters.get("title") or ""), subtitle=subtitle, broken=broken)
    except OSError as error:
        raise PerfkitError(os_error_words(error)) from None
    if broken:
        raise PerfkitError(f"{notebook.name} failed: {broken}; see {page.resolve().as_uri()}#broken-cell")
    return page
