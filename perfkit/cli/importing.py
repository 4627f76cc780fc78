"""The verb import: what other tools wrote becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perfkit.cli.base import cli, data_dir_option, details_of, json_option, print_json, print_run, refuse_url
from perfkit.durations import duration_ns
from perfkit.errors import BadInput, PerfkitError
from perfkit.text import print_lines

#: Rows, and bytes of them; a summary of more would take more than the 1 GB an import takes at most.
_SUMMARIZED, _SUMMARIZED_BYTES = 2_000_000, 150_000_000


class _WithFormats(click.Command):
    """Its help ends with the formats there are, which are loaded for it only."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from perfkit.importing.formats import FORMATS

        with formatter.section("Formats, found by content"):
            formatter.write_dl([(name, one.meaning) for name, one in FORMATS.items()])


@cli.command("import", cls=_WithFormats)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", metavar="NAME", help="The file's format, where its content does not say."
)
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME",
              help="For any CSV: which of its columns is what.")  # fmt: skip
@click.option("--columns", "names", metavar="A,B,…",
              help="For a CSV or JTL without a header: the names of its columns.")  # fmt: skip
@click.option("--unit", type=click.Choice(["s", "ms", "us", "ns"]),
              help="Unit of an HdrHistogram's values (else ns in a log, ms in a table).")  # fmt: skip
@click.option("--split", metavar="TIME",
              help="Make several runs: split where nothing happens for this long, such as 1h.")  # fmt: skip
@click.option("--scenario", metavar="NAME", help="What was run; runs to be compared need the same.")
@click.option(
    "--skip-broken", is_flag=True, help="Leave out lines that cannot be read, and say so in the run."
)
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="Tag the run.")
@click.option("--note", metavar="TEXT", help="A note that stands in the report.")
@data_dir_option
@json_option
def import_command(file: Path, format_name: str | None, columns: tuple[str, ...], names: str | None,
                   unit: str | None, split: str | None, scenario: str | None, skip_broken: bool,
                   tags: tuple[str, ...], note: str | None, data_dir: Path,
                   as_json: bool) -> None:  # fmt: skip
    """Make a run of what another tool wrote in FILE (.gz too).

    \b
    Any other CSV by --column FIELD=NAME, NAME being the CSV's and FIELD one of
      planned started sent first_byte done     instants: ISO 8601, or numbers with
                                               _unix_s _unix_ms _unix_us _unix_ns  since 1970,
                                               _s _ms _us _ns                      since any start
      duration_s _ms _us _ns                   in place of one of them
      operation status error error_text user bytes_sent bytes_received
    Two of these are needed: planned or started, done, duration.

    \b
    perfkit import results.json.gz --tag before
    perfkit import calls.csv --column started_unix_s=begin --column duration_ms=took --column operation=name

    The run states how accurate its times are: exact, rounded, bucketed, or aggregated: a summary without its
    requests. A file with several runs (printed by wrk, or --split) makes several; --json prints a list then.
    """
    from perfkit.importing import import_runs
    from perfkit.store import list_runs

    refuse_url(file)
    before = list_runs(data_dir)
    runs = import_runs(
        file, data_dir=data_dir, format=format_name, columns=_column_map(columns), names=_names(names),
        unit=unit, split_s=_seconds(split), scenario=scenario, tags=tags, note=note, skip_broken=skip_broken,
    )  # fmt: skip
    fits = [run.row_count() <= _SUMMARIZED and run.unpacked_bytes() <= _SUMMARIZED_BYTES for run in runs]
    if as_json and len(runs) > 1:
        print_json([details_of(run, summary=one) for run, one in zip(runs, fits, strict=True)])
    else:
        for run, one in zip(runs, fits, strict=True):
            print_run(run, as_json, summary=one)
    sha256 = runs[0].meta.imported.sha256  # type: ignore[union-attr]
    if again := [run.id for run in before if (was := imported_from(run)) and was.sha256 == sha256]:
        more = f" and {len(again) - 1:,} more" if again[1:] else ""
        told = f"the same file was imported before, as {again[-1]}{more}"
        print_lines(f"note: {told}; `perfkit rm` removes a run", err=True)


def _names(text: str | None) -> list[str]:
    """The names of columns."""
    names = [name.strip() for name in (text or "").split(",")] if text is not None else []
    if text is not None and (not all(names) or len(set(names)) < len(names)):
        raise BadInput(f"--columns {text!r}: use distinct, non-empty names, such as timeStamp,elapsed,label")
    return names


def _seconds(text: str | None) -> float | None:
    """A time such as 10m in s."""
    if text is None:
        return None
    try:
        seconds = duration_ns(text) / 1e9
    except ValueError:
        seconds = 0.0
    if not 60 <= seconds <= 7 * 86_400:
        raise BadInput(f"--split {text!r}: write a time from 1m to 168h, such as 10m or 1h")
    return seconds


def imported_from(run: Any) -> Any:
    """The file a run was imported from, None where it was not, or where its run.json cannot be read."""
    try:
        return run.meta.imported
    except PerfkitError:
        return None


def _column_map(columns: tuple[str, ...]) -> dict[str, str]:
    """FIELD=NAME texts as a mapping."""
    found: dict[str, str] = {}
    for text in columns:
        field, equals, name = text.partition("=")
        if not (field.strip() and equals and name.strip()):
            raise BadInput(f"--column {text!r}: write it as FIELD=NAME, such as started_unix_s=begin")
        if field.strip() in found:
            raise BadInput(f"--column {field.strip()} is given twice; give it once")
        found[field.strip()] = name.strip()
    return found
