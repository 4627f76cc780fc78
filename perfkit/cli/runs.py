"""Verbs on runs: run, report, ls, show, rm; and doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from perfkit.cli.base import (
    allow_target_option,
    cli,
    data_dir_option,
    details_of,
    foreign_words,
    json_option,
    print_json,
    print_run,
    print_table,
)
from perfkit.errors import EXIT_TOOL_ERROR, BadInput
from perfkit.text import print_lines


@cli.command("run")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--scenario", metavar="NAME|FILE.py", help="Scenario; replaces the file's.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A scenario parameter.")
@click.option("-s", "--set", "changes", multiple=True, metavar="NAME=VALUE",
              help="Any other value of the workload, e.g. users.count=50, warmup_s=5.")  # fmt: skip
@click.option("--target", metavar="URL", help="Base URL; without one a reference server is started.")
@click.option("--threshold", "thresholds", multiple=True, metavar="TEXT",
              help="Such as 'p95 < 300 ms', 'error_rate < 1 %', 'findings = 0', 'loop_lag p99 < 20 ms'; "
                   "missed: exit code 4.")  # fmt: skip
@allow_target_option
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="Tag the run.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@data_dir_option
@json_option
def run_command(file: Path | None, scenario: str | None, params: tuple[str, ...], changes: tuple[str, ...],
                target: str | None, thresholds: tuple[str, ...], allow_target: tuple[str, ...],
                tags: tuple[str, ...], quiet: bool, data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Carry out the workload in FILE (YAML, see params/), or a scenario by name.

    \b
    perfkit run params/agent_mass_creation.yaml
    perfkit run --scenario http_get --target http://127.0.0.1:8000 -s users.count=20 -s users.duration_s=30
    """
    from perfkit.drive.running import checked, naming, run_repeats, worst
    from perfkit.drive.workloads import merged, parse_assignments, read_yaml
    from perfkit.observe.recording import record

    given = read_yaml(file) if file else {}
    given = merged(given, parse_assignments(changes, "--set"))
    given = merged(given, {"params": parse_assignments(params, "--param")} if params else {})
    given |= {"scenario": scenario} if scenario else {}
    given = merged(given, {"target": {"url": target}} if target else {})
    for name, more in (("thresholds", thresholds), ("tags", tags)):
        if more:
            before = given.get(name) or []
            if not isinstance(before, list):
                raise BadInput(f"{file or '--set'}, {name}: expected a list, got {before!r}")
            given |= {name: [*before, *more]}
    if not given.keys() & {"scenario", "mix"}:
        raise BadInput("nothing to run: give a FILE from params/ or --scenario NAME")
    work = checked(given, str(file or "options"), allow_target)
    runs = run_repeats(work, data_dir, show_progress=not quiet, look=record)
    with naming([run.id for run in runs]):
        _print_runs(runs, as_json)
    sys.exit(worst(run.verdict.exit_code for run in runs))


@cli.command("report")
@click.argument("run", default="latest")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="YAML with notebook parameters.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A notebook parameter.")
@click.option("--notebook", type=click.Path(path_type=Path), help="Another notebook than run_report.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@data_dir_option
@json_option
def report_command(run: str, file: Path | None, params: tuple[str, ...], notebook: Path | None, quiet: bool,
                   data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Execute the report notebook on RUN and print the HTML's path.

    RUN is an id, its start or end, a path, or `latest`. With `-p runs=...` the page is of those runs, in
    data/reports; with `--notebook comparison` RUN is a comparison.

    \b
    perfkit report --notebook capacity -p runs=tag:scale
    """
    from perfkit.drive.workloads import parse_assignments, read_yaml
    from perfkit.report import make_comparison_report, make_report, make_report_of_several, notebook_path
    from perfkit.store import find_run

    if notebook is not None and not notebook.suffix:
        notebook = notebook_path(str(notebook))
    given = (read_yaml(file) if file else {}) | parse_assignments(params, "--param")
    show = not (quiet or as_json)
    if notebook == notebook_path("comparison") and set(given) <= {"comparison"}:
        from perfkit.compare.experiment import open_comparison  # which loads the whole analysis

        kept = open_comparison(str(given.get("comparison", run)), data_dir)
        of, html = kept.id, make_comparison_report(kept.path, progress=show)
    elif notebook is not None and given.get("runs"):
        of, html = str(given["runs"]), make_report_of_several(data_dir, notebook, given, progress=show)
    else:
        found = find_run(run, data_dir)
        of, html = found.id, make_report(found, notebook=notebook, parameters=given, progress=show)
    if as_json:
        print_json({"run": of, "html": str(html)})
    else:
        print_lines(html)


@cli.command("ls")
@data_dir_option
@json_option
def ls_command(data_dir: Path, as_json: bool) -> None:
    """List the runs, oldest first."""
    from perfkit.store import list_runs, listed

    found = listed(list_runs(data_dir))
    if as_json:
        print_json(found)
    elif not found:
        print_lines(f"no runs in {data_dir / 'runs'}; `perfkit run` makes one")
    else:
        for one in found:  # what an imported run has instead of a generator that was checked
            one["verdict"] = one.get("fidelity") or one["verdict"]
        print_table(found, ("id", "state", "verdict", "rows", "errors", "tags"))


@cli.command("show")
@click.argument("run", default="latest")
@data_dir_option
@json_option
def show_command(run: str, data_dir: Path, as_json: bool) -> None:
    """Show one RUN: what was run, where, how it ended, its summary and findings."""
    from perfkit.store import find_run

    print_run(find_run(run, data_dir), as_json)


@cli.command("rm")
@click.argument("runs", nargs=-1, required=True)
@data_dir_option
def rm_command(runs: tuple[str, ...], data_dir: Path) -> None:
    """Remove RUNS, each a whole id or a path, for good; when one of them cannot be removed none is.

    Only runs in a runs/ folder can be removed, and only files that perfkit wrote: others stay and are listed.
    """
    from perfkit.store import find_run, remove_runs

    found = [find_run(name, data_dir, whole=True) for name in runs]
    for run in remove_runs(found):
        print_lines(f"removed {run.id}{foreign_words(run)}")


@cli.command("doctor")
@data_dir_option
@json_option
def doctor_command(data_dir: Path, as_json: bool) -> None:
    """Check whether this machine can measure: packages, clock, timers, file limits, the data folder."""
    from perfkit.doctor import examine

    checks = examine(data_dir)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            print_lines(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['found']}")
    if not all(check["ok"] for check in checks):
        sys.exit(EXIT_TOOL_ERROR)


def _print_runs(runs: Iterable[Any], as_json: bool) -> None:
    if as_json:
        print_json([details_of(run) for run in runs])
        return
    for run in runs:
        print_run(run, as_json)
