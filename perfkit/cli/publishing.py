"""The verb `publish`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from perfkit.cli.base import cli, data_dir_option, json_option, print_json
from perfkit.errors import EXIT_TOOL_ERROR
from perfkit.text import print_lines


@cli.command("publish")
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--runs", metavar="RUNS", help="Only these: ids with commas, or tag:NAME.")
@click.option("--title", metavar="TEXT", help="Title of the site; it is kept for the next time.")
@click.option("--prune", is_flag=True, help="Remove pages of runs that are gone, or not selected.")
@click.option("--report/--no-report", "reports", default=True, show_default=True,
              help="Make reports that have not been made yet.")  # fmt: skip
@click.option("--accept", multiple=True, metavar="FINGERPRINT",
              help="Publish a false positive of the secret scan; the error names it.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@data_dir_option
@json_option
def publish_command(site: Path, runs: str | None, title: str | None, prune: bool, reports: bool,
                    accept: tuple[str, ...], quiet: bool, data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Publish runs and comparisons as a static site in the folder SITE, or bring it up to date.

    Opens from a file and from any web server. Pages stay, also of runs that were removed. Nothing is written
    when something in it looks like a secret (exit code 2). Failed reports are listed (exit code 1).

    \b
    perfkit publish public --title "Agent server"
    perfkit publish public --runs tag:release
    """
    from perfkit.site import Wishes, publish

    wishes = Wishes(runs=runs, title=title, prune=prune, reports=reports, accept=accept)

    def tell(words: str) -> None:
        print_lines(words, err=True)

    done = publish(site, data_dir, wishes, (lambda _: None) if quiet else tell)
    for words in (*done.skipped, *done.problems):
        tell(f"perfkit: {words}")
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        told = f"runs: {done.runs:,} ({done.changed:,} new or changed), comparisons: {done.comparisons:,}"
        print_lines(f"{told}, trends: {done.trends:,}; files written: {done.written:,}", err=True)
        print_lines(done.path / "index.html")
    if done.problems:
        sys.exit(EXIT_TOOL_ERROR)
