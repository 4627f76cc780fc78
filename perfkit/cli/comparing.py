"""Verbs on groups of runs: compare, aa, gate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from perfkit.cli.base import (
    allow_target_option,
    cli,
    data_dir_option,
    json_option,
    print_comparison,
    print_json,
)
from perfkit.cli.spans import duration
from perfkit.cli.writing import outdated_removed, refuse_unwritable, write
from perfkit.errors import EXIT_RUN_INVALID, BadInput, MissingExtra
from perfkit.text import print_lines

_OPTIONS = (
    click.option("--repeats", type=click.IntRange(1, 10_000),
                 help="Pairs to run (default: as the file says, or 5)."),
    click.option("--until-clear", is_flag=True,
                 help="Carry out pairs until the comparison is clear, at most --max-repeats."),
    click.option("--max-repeats", type=click.IntRange(3, 10_000),
                 help="With --until-clear: pairs at most (default: 20)."),
    click.option("--budget", "budget_s", metavar="DURATION", callback=duration,
                 help="With --until-clear: wall time, such as 45m."),
    click.option("--duet", is_flag=True,
                 help="Run both sides of a pair at once, where they do not disturb each other."),
    click.option("--margin", type=float, default=0.05, show_default=True,
                 help="A ratio within 1 ± this is no difference."),
    click.option("--error-margin", type=float, default=0.001, show_default=True,
                 help="The same for the share of failed requests, absolute."),
    click.option("--alpha", type=float, default=0.05, show_default=True,
                 help="Chance of a false alarm in the whole primary family."),
    click.option("--primary", multiple=True, metavar="METRIC",
                 help="A metric the verdict rests on; replaces p50, p99, throughput, error_rate."),
    click.option("--vary", multiple=True, metavar="NAME",
                 help="What may differ between the sides, e.g. params.agents or target.url."),
    click.option("--force", is_flag=True, help="Compare what is not comparable; every page says so."),
    allow_target_option,
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)  # fmt: skip

#: Those that ask something of a comparison which is yet to be made.
_OF_SIDES = ("--repeats", "--until-clear", "--max-repeats", "--budget", "--duet", "--margin",
             "--error-margin", "--alpha", "--primary", "--vary", "--force")  # fmt: skip


def _comparing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `compare` and `gate` share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@cli.command("compare")
@click.argument("a")
@click.argument("b")
@_comparing
@click.option("--report/--no-report", default=True, show_default=True, help="Make the HTML page.")
@data_dir_option
@json_option
def compare_command(a: str, b: str, report: bool, data_dir: Path, as_json: bool, **options: Any) -> None:
    """Compare two sides, run by run, and say what differs.

    A and B are each a workload file (.yaml), which is carried out in turns (AB BA AB ...), or existing runs:
    ids separated by commas, or tag:NAME. `server` options and the code may differ between the sides, other
    things only with --vary.

    \b
    perfkit compare before.yaml after.yaml --repeats 5
    perfkit compare tag:before tag:after

    Exit code 3 when there is nothing to judge, else 0; `gate` has one for every verdict.
    """
    kept = _kept(a, b, data_dir, **options)
    if not as_json:
        print_comparison(kept)
    page = _page(kept, quiet=options["quiet"] or as_json) if report else None
    if as_json:
        told = {"id": kept.id, "path": str(kept.path), "html": str(page) if page else None}
        print_json(told | kept.comparison.to_mapping())
    elif page:
        print_lines(page)
    else:
        _print_place(kept)
    if kept.comparison.verdict == "refused":
        sys.exit(EXIT_RUN_INVALID)


@cli.command("gate")
@click.argument("a")
@click.argument("b", required=False)
@_comparing
@click.option("--strict", is_flag=True, help="Exit with 5 when the comparison is inconclusive.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML to this file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a Markdown summary to this file.")
@data_dir_option
@json_option
def gate_command(a: str, b: str | None, strict: bool, junit: Path | None, markdown: Path | None,
                 data_dir: Path, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Compare two sides, or use an existing comparison, and set the exit code for CI.

    A and B as for `compare`; with A alone it is a comparison's id, path, or `latest`.

    \b
    perfkit gate main.yaml branch.yaml --junit gate.xml --markdown summary.md
    perfkit gate latest --strict

    Exit codes: 0 pass, 3 nothing to judge, 4 regressed, 5 inconclusive with --strict.
    """
    from perfkit.compare import gate
    from perfkit.compare.experiment import is_workload, open_comparison

    for file in (junit, markdown):
        if file is not None:
            refuse_unwritable(file)
    with outdated_removed(junit, markdown):
        if b is None and is_workload(a):
            raise BadInput(f"perfkit gate needs B: give the workload file that {a} is compared with")
        if b is None:
            _refuse_options()
        kept = open_comparison(a, data_dir) if b is None else _kept(a, b, data_dir, **options)
    found = kept.comparison
    code = gate.exit_code(found, strict=strict)
    if as_json:
        print_json({"id": kept.id, "exit_code": code, **found.to_mapping()})
    else:
        print_comparison(kept)
        if not_passed := gate.failing(found, strict=strict):
            print_lines(not_passed)
        _print_place(kept)
    texts = gate.junit(found, strict=strict), gate.markdown(found, strict=strict)
    for file, text in zip((junit, markdown), texts, strict=True):
        if file is not None:
            write(file, text)
    sys.exit(code)


@cli.command("aa")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--pairs", type=click.IntRange(3, 10_000), default=10, show_default=True, help="Pairs of runs.")
@click.option("--duet", is_flag=True, help="Run both runs of a pair at once, as `compare --duet` does.")
@allow_target_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@data_dir_option
@json_option
def aa_command(
    file: Path, pairs: int, duet: bool, allow_target: tuple[str, ...], quiet: bool, data_dir: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare the workload in FILE with itself and keep this machine's noise floor.

    Later comparisons of the same configuration borrow from it. Prints the changes that could be detected.
    """
    from perfkit.compare import noise
    from perfkit.compare.turns import measure_noise

    kept, found = measure_noise(file, pairs, data_dir, allow_target, show_progress=not quiet, duet=duet)
    if as_json:
        told = {name: {"variance": one.variance, "df": one.df} for name, one in found.items()}
        print_json({"id": kept.id, "noise": told, "detectable": noise.table(found)})
        return
    print_comparison(kept)
    print_lines(*noise.words(found, file.stem).split("\n"))


def _refuse_options() -> None:
    """BadInput for an option that asks something of a comparison that has been made already."""
    context = click.get_current_context()
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and one.opts[0] in _OF_SIDES:
            raise BadInput(f"{one.opts[0]} is for two sides; a stored comparison has its own, so omit it")


# -- shared ----------------------------------------------------------------------------------------


def _kept(a: str, b: str, data_dir: Path, *, repeats: int | None, until_clear: bool, max_repeats: int | None,
          budget_s: float | None, duet: bool, primary: tuple[str, ...], allow_target: tuple[str, ...],
          quiet: bool, **asked: Any) -> Any:  # fmt: skip
    """Carry out or find both sides, compare them and keep the comparison."""
    from perfkit.compare import Options
    from perfkit.compare.experiment import compare_and_keep, is_workload, runs_named

    options = Options(primary=primary or Options().primary, **asked)
    if is_workload(a) != is_workload(b):
        raise BadInput(f"{a} and {b}: give two workload files, or two groups of existing runs")
    names = _name(a, "A"), _name(b, "B")
    if names[0] == names[1]:
        names = f"{names[0]} (A)", f"{names[1]} (B)"
    early = {"--until-clear": until_clear, "--max-repeats": max_repeats, "--budget": budget_s}
    if is_workload(a):
        return _carried_out(
            a, b, names, options, data_dir, allow_target, repeats, early, duet=duet, quiet=quiet
        )
    for option, value in {"--repeats": repeats, **early, "--duet": duet}.items():
        if value:
            raise BadInput(f"{option} is for workload files; with existing runs, omit it")
    return compare_and_keep(runs_named(a, data_dir), runs_named(b, data_dir), options, names, data_dir)


def _carried_out(a: str, b: str, names: tuple[str, str], options: Any, data_dir: Path,
                 allow_target: tuple[str, ...], repeats: int | None, early: dict[str, Any], *,
                 duet: bool, quiet: bool) -> Any:  # fmt: skip
    """Carry out two workload files: a number of pairs, or until the comparison is clear."""
    from perfkit.compare.turns import refuse_differences, repeats_of, run_pairs
    from perfkit.compare.until_clear import run_until_clear, stopping_of
    from perfkit.drive.workload_files import read_workload

    given = read_workload(Path(a)), read_workload(Path(b))
    refuse_differences(*given, options)
    duet = duet or any(one.get("duet") is True for one in given)
    stopping = stopping_of(given[0], early["--until-clear"], early["--max-repeats"], early["--budget"])
    if stopping is None or repeats is not None:
        if early["--until-clear"]:
            raise BadInput("--repeats and --until-clear exclude each other; use --max-repeats")
        pairs = repeats or repeats_of(given[0])
        return run_pairs(
            *given, names, pairs, data_dir, allow_target, options=options, duet=duet, show_progress=not quiet
        )
    both = dict(zip("AB", given, strict=True))
    return run_until_clear(
        both, names, options, data_dir, allow_target, stopping=stopping, duet=duet, show_progress=not quiet
    )


def _name(side: str, letter: str) -> str:
    """A file's name or a tag, cut to a length that fits a table; ids say nothing, so they are a letter."""
    from perfkit.compare.experiment import is_workload

    if is_workload(side):
        return Path(side).stem[:40]
    return side[4:44] if side.startswith("tag:") else letter


def _print_place(kept: Any) -> None:
    """The comparison's folder, and the command that makes its page."""
    from perfkit.store.words import needs_extra, reference

    print_lines(kept.path, f"  next: perfkit report comparison:{reference(kept.path)}{needs_extra()}")


def _page(kept: Any, *, quiet: bool) -> Path | None:
    """The comparison's page; none, with the reason, where the extra that draws it is not installed."""
    from perfkit.report import make_comparison_report

    try:
        return make_comparison_report(kept.path, progress=not quiet)
    except MissingExtra as error:
        print_lines(f"no page was made: {error}", err=True)
        return None
