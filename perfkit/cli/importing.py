"""The verb import: what other tools wrote becomes a run."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.base import cli, data_dir_option, json_option, print_run
from perfkit.errors import BadInput

#: Rows, and bytes of them; a summary of more would take more than the 1 GB an import takes at most.
_SUMMARIZED, _SUMMARIZED_BYTES = 2_000_000, 150_000_000


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", metavar="NAME", help="The file's format, where its content does not say."
)
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME",
              help="For any CSV: which of its columns is what.")  # fmt: skip
@click.option("--unit", type=click.Choice(["s", "ms", "us", "ns"]),
              help="Unit of the values of an HdrHistogram log (ns where nothing is said).")  # fmt: skip
@click.option("--scenario", metavar="NAME", help="What was run; runs to be compared need the same.")
@click.option(
    "--skip-broken", is_flag=True, help="Leave out lines that cannot be read, and say so in the run."
)
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="Tag the run.")
@click.option("--note", metavar="TEXT", help="A note that stands in the report.")
@data_dir_option
@json_option
def import_command(file: Path, format_name: str | None, columns: tuple[str, ...], unit: str | None,
                   scenario: str | None, skip_broken: bool, tags: tuple[str, ...], note: str | None,
                   data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Make a run of what another tool wrote in FILE (.gz too).

    \b
    Formats, found by content:
      k6-json k6-csv            k6 run --out json=FILE, --out csv=FILE
      locust-log                locust.contrib.csv_request_logger
      locust-history            locust --csv NAME: NAME_stats_history.csv
      jmeter-csv jmeter-xml     JMeter's JTL
      vegeta-json vegeta-csv    vegeta encode --to json, --to csv
      oha-json oha-csv          oha --output-format json, csv
      oha-sqlite                oha --db-url FILE
      wrk2                      what wrk2 --latency prints
      hdr-log                   an HdrHistogram interval log
      har                       a browser's or proxy's HAR

    \b
    Any other CSV with a header, by --column FIELD=NAME, NAME being the CSV's and FIELD one of
      planned started sent first_byte done     instants: ISO 8601, or numbers with
                                               _unix_s _unix_ms _unix_us _unix_ns  since 1970,
                                               _s _ms _us _ns                      since any start
      duration_s _ms _us _ns                   in place of one of them
      operation status error error_text user bytes_sent bytes_received
    Two of these are needed: planned or started, done, duration.

    \b
    perfkit import results.json.gz --tag before
    perfkit import calls.csv --column started_unix_s=begin --column duration_ms=took --column operation=name

    The run says how true its times are: exact, rounded or bucketed, with an intended time or without.
    """
    from perfkit.importing import import_file

    run = import_file(
        file, data_dir=data_dir, format=format_name, columns=_column_map(columns), unit=unit,
        scenario=scenario, tags=tags, note=note, skip_broken=skip_broken,
    )  # fmt: skip
    fits = run.rows() <= _SUMMARIZED and run.unpacked_bytes() <= _SUMMARIZED_BYTES
    print_run(run, as_json, summary=fits)


def _column_map(columns: tuple[str, ...]) -> dict[str, str]:
    """FIELD=NAME texts as a mapping."""
    found: dict[str, str] = {}
    for text in columns:
        field, equals, name = text.partition("=")
        if not (field.strip() and equals and name.strip()):
            raise BadInput(f"--column {text!r}: write it as FIELD=NAME, such as started_unix_s=begin")
        if field.strip() in found:
            raise BadInput(f"--column {field.strip()} is given twice; give one")
        found[field.strip()] = name.strip()
    return found
