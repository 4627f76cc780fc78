"""Verbs on runs: run, report, ls, show, rm; and doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
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
    print_comparison,
    print_json,
    print_run,
    print_table,
)
from perfkit.cli.spans import duration, per_second
from perfkit.cli.writing import refuse_unwritable, remove_outdated, write
from perfkit.errors import EXIT_OK, EXIT_TOOL_ERROR
from perfkit.text import print_lines


class RunCommand(click.Command):
    """`run`, whose `--json` is curl's when a JSON object or list follows: the body to send."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        found: list[str] = []
        for text in args:
            is_body = text.lstrip()[:1] in ("{", "[", "@") and found[-1:] == ["--json"]
            if is_body:
                found[-1] = "--body-json"
            name, equals, value = text.partition("=")
            found += ["--body-json", value] if name == "--json" and equals else [text]
        try:
            return super().parse_args(ctx, found)
        except click.UsageError as error:
            if type(error) is not click.UsageError:
                raise
            more = "run takes one URL or FILE; users, rate and times stand behind their options"
            raise click.UsageError(f"{error.format_message()}; {more}", ctx) from None


@cli.command("run", cls=RunCommand)
@click.argument("what", required=False, metavar="[URL|FILE]")
@click.option(
    "--users",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Virtual users, each waiting for its answer.",
)
@click.option("--rate", callback=per_second, metavar="RATE", help="Starts per second, such as 200 or 30/min.")
@click.option(
    "--duration", callback=duration, metavar="TIME", help="How long, such as 30s or 2m.  [default: 10s]"
)
@click.option(
    "--ramp", callback=duration, metavar="TIME", help="Rise to the rate or the users for so long first."
)
@click.option(
    "--stage", "stages", multiple=True, metavar="TIME:USERS",
    help="Rise or fall to so many users within TIME, or to TIME:RATE/s; again for the next stage.",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(1), metavar="N", help="End after so many steps.")
@click.option("-X", "--method", metavar="METHOD", help="Method for a URL.  [default: GET, with a body POST]")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send with each request."
)
@click.option("-d", "--data", metavar="TEXT|@FILE", help="Body for a URL, sent as it is.")
@click.option("--body-json", hidden=True)
@click.option("--scenario", metavar="NAME|FILE.py", help="Scenario; replaces the file's.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A scenario parameter.")
@click.option("-s", "--set", "changes", multiple=True, metavar="NAME=VALUE",
              help="Any other value of the workload, e.g. users.count=50, warmup_s=5s.")  # fmt: skip
@click.option("--target", metavar="URL", help="Base URL; without one a reference server is started.")
@click.option("--threshold", "thresholds", multiple=True, metavar="TEXT",
              help="Such as 'p95 < 300 ms', 'error_rate < 1 %', 'findings = 0', 'loop_lag p99 < 20 ms'; "
                   "missed: exit code 4.")  # fmt: skip
@click.option("--abort", multiple=True, metavar="TEXT",
              help="End the run early: 'error_rate > 50 % for 10s', 'p99 > 5 s for 30s'; exit code 4. "
                   "By default a run ends when nothing has succeeded 10 s after the first request "
                   "ended or steps began to raise (not where no answer ever comes); "
                   "-s abort=[] turns that off.")  # fmt: skip
@allow_target_option
@click.option(
    "--on",
    metavar="PLACES",
    help="Generate the load in local:N, ssh:HOST1,HOST2, dask:tcp://HOST:8786 or join:N shards.",
)
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="Tag the run.")
@click.option("-v", "--once", is_flag=True,
              help="One step: show each request and its answer; exit code 1 when one failed.")  # fmt: skip
@click.option(
    "--print-yaml", is_flag=True, help="Print the workload as YAML, without its secrets; run nothing."
)
@click.option(
    "--junit", type=click.Path(path_type=Path), help="Write JUnit XML: the verdict, each threshold."
)
@click.option("-q", "--quiet", is_flag=True, help="Show nothing while it runs.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True,
              help="Print JSON, not text; with '{…}' or @FILE behind it, as in curl: the body.")  # fmt: skip
def run_command(what: str | None, data_dir: Path, as_json: bool, quiet: bool, once: bool, print_yaml: bool,
                junit: Path | None, allow_target: tuple[str, ...], **options: Any) -> None:  # fmt: skip
    """Load a URL, or carry out the workload in FILE: YAML (see params/), or a scenario's .py.

    \b
    perfkit run http://127.0.0.1:8000/notes --users 20 --duration 30s
    perfkit run http://127.0.0.1:8000/notes --json '{"text": "hello"}' --rate 200 --ramp 10s
    perfkit run notes.py --target http://127.0.0.1:8000 --users 20
    perfkit run params/agent_mass_creation.yaml
    """
    from perfkit.cli.workload import as_yaml, require_target, users_without_work, workload_of
    from perfkit.drive.running import checked, naming, run_repeats, worst
    from perfkit.observe.recording import record

    if junit is not None and not (print_yaml or once):
        refuse_unwritable(junit)
        remove_outdated(junit)
    given, where = workload_of(what, options, once=once)
    work = checked(given, where, allow_target)
    own = what if what and what.endswith(".py") else options["scenario"]
    require_target(own or "", given, work.workload.target.url)
    if print_yaml:
        print_lines(*as_yaml(given))
        return
    if once:
        sys.exit(EXIT_OK if _one_step(work, as_json) else EXIT_TOOL_ERROR)
    if (note := users_without_work(given)) and not quiet:
        print_lines(note, err=True)
    runs = run_repeats(work, data_dir, show_progress=not quiet, look=record)
    with naming(runs):
        _print_runs(runs, as_json)
    if junit is not None:
        write(junit, _as_junit(runs))
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

    RUN is an id, its start or end, a path, or `latest`; comparison:ID or comparison:latest is a comparison.
    With `-p runs=...` the page is of those runs, in data/reports.

    \b
    perfkit report comparison:latest
    perfkit report --notebook capacity -p runs=tag:scale
    """
    from perfkit.compare import keeping
    from perfkit.drive.workloads import parse_assignments, read_yaml
    from perfkit.report import make_comparison_report, make_report, make_report_of_several, notebook_path
    from perfkit.store import find_run

    if notebook is not None and not notebook.suffix:
        notebook = notebook_path(str(notebook))
    given = (read_yaml(file) if file else {}) | parse_assignments(params, "--param")
    show = not (quiet or as_json)
    named = keeping.is_comparison(run)
    if notebook == notebook_path("comparison") or (notebook is None and named):
        name = run if named else str(given.pop("comparison", run))
        kept = keeping.comparison_named(name, data_dir)
        of, html = kept.id, make_comparison_report(kept.path, given, progress=show)
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
@click.option("--comparisons", is_flag=True, help="List the kept comparisons instead.")
@data_dir_option
@json_option
def ls_command(comparisons: bool, data_dir: Path, as_json: bool) -> None:
    """List the runs, oldest first, with the requests of their measured parts, as every summary counts them.

    In --json `n` and `failed` are those, `rows` and `errors` count the warm-up, too.
    """
    from perfkit.store import list_runs, listed, no_runs

    if comparisons:
        _list_comparisons(data_dir, as_json)
        return
    found = listed(list_runs(data_dir))
    if as_json:
        print_json(found)
    elif not found:
        print_lines(no_runs(data_dir))
    else:
        for one in found:  # what an imported run has instead of a generator that was checked
            one["verdict"] = one.get("fidelity") or one["verdict"]
            one["requests"] = one["n"]
        print_table(found, ("id", "state", "verdict", "requests", "failed", "tags"))


def _list_comparisons(data_dir: Path, as_json: bool) -> None:
    from perfkit.compare.keeping import listed

    found = listed(data_dir)
    if as_json:
        print_json(found)
    elif not found:
        print_lines(f"no comparisons in {data_dir / 'comparisons'}; `perfkit compare` makes one")
    else:
        for one in found:
            one["tags"] = ", ".join(one["tags"])
        print_table(found, ("id", "verdict", "a", "b", "tags"))


@cli.command("show")
@click.argument("run", default="latest")
@data_dir_option
@json_option
def show_command(run: str, data_dir: Path, as_json: bool) -> None:
    """Show one RUN: what was run, where, how it ended, its summary and findings; or comparison:ID."""
    from perfkit.compare import keeping
    from perfkit.store import find_run

    if keeping.is_comparison(run):
        print_comparison(keeping.comparison_named(run, data_dir), as_json)
        return
    print_run(find_run(run, data_dir), as_json)


@cli.command("rm")
@click.argument("runs", nargs=-1, required=True)
@data_dir_option
def rm_command(runs: tuple[str, ...], data_dir: Path) -> None:
    """Remove RUNS, each a whole id or a path, for good; when one of them cannot be removed none is.

    Only runs in a runs/ folder can be removed, and only files that perfkit wrote: others stay and are listed.
    A comparison is removed as comparison:ID; its runs stay.
    """
    from perfkit.compare import keeping
    from perfkit.store import find_run, remove_runs

    comparisons = [keeping.removable(name, data_dir) for name in runs if keeping.is_comparison(name)]
    found = [find_run(name, data_dir, whole=True) for name in runs if not keeping.is_comparison(name)]
    for run in remove_runs(found):
        print_lines(f"removed {run.id}{foreign_words(run)}")
    for folder in comparisons:
        stays = keeping.remove_comparison(folder)
        more = f"; kept, not written by perfkit: {', '.join(stays[:5])}" if stays else ""
        print_lines(f"removed comparison {folder.name}{more}")


@cli.command("doctor")
@click.option("--calibrate", is_flag=True,
              help="Find how much load one process gives, against a server that does nothing.")  # fmt: skip
@data_dir_option
@json_option
def doctor_command(calibrate: bool, data_dir: Path, as_json: bool) -> None:
    """Check whether this machine can measure: packages, clock, timers, file limits, the data folder."""
    from perfkit.doctor import calibrated, examine

    if calibrate:
        tried, lines = calibrated()
        if as_json:
            print_json({"words": lines, "tried": tried})
        else:
            print_lines(*lines)
        return
    checks = examine(data_dir)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            print_lines(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['found']}")
    if not all(check["ok"] for check in checks):
        sys.exit(EXIT_TOOL_ERROR)


def _one_step(work: Any, as_json: bool) -> bool:
    """Carry out and show one step, for programs or for a person; return whether all went well."""
    from perfkit.drive.once import Kept, run_once

    if not as_json:
        return run_once(work, sys.stdout)
    kept = Kept()
    went_well = run_once(work, sys.stdout, kept)
    print_json({"ok": went_well, "requests": kept.requests, "problems": kept.problems})
    return went_well


def _print_runs(runs: Iterable[Any], as_json: bool) -> None:
    if as_json:
        print_json([details_of(run) for run in runs])
        return
    for run in runs:
        print_run(run, as_json, brief=True)


def _as_junit(runs: Sequence[Any]) -> str:
    """JUnit XML of runs: for each whether its verdict is sound, and a case for each of its thresholds.

    The cases of a workload are called the same each time, so that a CI system can follow them.
    """
    from perfkit.junit import Case, junit

    cases = []
    for number, run in enumerate(runs, 1):
        of = "" if len(runs) == 1 else f"run {number} of {len(runs)}: "
        verdict = run.verdict
        said = f"run {run.id}: {verdict.words}"
        cases.append(Case(f"{of}verdict", "passed" if verdict.sound else "error", said, said))
        for one in verdict.thresholds:
            said = f"measured {one.measured}"
            told = f"{said}; the threshold is {one.text}"
            cases.append(Case(f"{of}{one.text}", "passed" if one.ok else "failure", told, said))
    return junit("perfkit run", cases)
