"""The verb for several experiments: batch."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from perfkit import interrupts
from perfkit.cli.base import allow_target_option, cli, data_dir_option, json_option, print_json, print_table
from perfkit.errors import INTERRUPTIONS, PerfkitError
from perfkit.text import print_lines


@cli.command("batch")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--report/--no-report", default=True, show_default=True, help="Make each run's HTML report.")
@click.option("--fresh", is_flag=True, help="Begin anew, even if a batch of these files was cut off.")
@allow_target_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@data_dir_option
@json_option
def batch_command(files: tuple[Path, ...], report: bool, fresh: bool, allow_target: tuple[str, ...],
                  quiet: bool, data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Run and report several workload FILES, one after the other.

    A batch cut off by Ctrl-C or a kill resumes where it stopped when the same command is given
    again; the run that was in progress is repeated.

    \b
    perfkit batch params/*.yaml

    Exit code: that of the worst run, as for `perfkit run`.
    """
    from perfkit.batch import run_batch
    from perfkit.store import Run

    def tell(words: str) -> None:
        if not quiet:
            print_lines(words, err=True)

    batch = run_batch(files, data_dir, allow_targets=allow_target, report=report, fresh=fresh,
                      show_progress=not quiet, tell=tell)  # fmt: skip
    if as_json:
        told = {
            "exit_code": batch.exit_code,
            "resumed": batch.resumed,
            "items": [asdict(i) for i in batch.items],
        }
        print_json(told)
        sys.exit(batch.exit_code)
    if batch.resumed:
        print_lines(f"{batch.resumed} of {len(batch.items)} were done before; use --fresh to start over")
    rows = [_row(one, Run(data_dir / "runs" / str(one.run)) if one.run else None) for one in batch.items]
    print_table(rows, ("experiment", "ended", "rows", "failed", "p50 ms", "p95 ms", "p99 ms", "run"))
    for one in batch.items:
        if one.error:
            print_lines(f"{one.label}: {one.error}")
        elif one.reasons:
            print_lines(f"{one.label}: {'; '.join(one.reasons)}")
    if batch.exit_code in INTERRUPTIONS.values():
        words = "rerun the same command to resume; an interrupted run is kept as aborted"
        print_lines(f"{interrupts.reason()}: {words}")
    for one in batch.items:
        if one.report:
            print_lines(one.report)
    sys.exit(batch.exit_code)


def _row(item: Any, run: Any) -> dict[str, Any]:
    """An item of a batch for the table at its end."""
    from perfkit.store.words import headline

    ended, numbers = item.ended or "not done", {}
    if run is not None:
        with contextlib.suppress(PerfkitError):  # damaged meanwhile: a table without its numbers
            numbers = headline(run)
    return {"experiment": item.label, "ended": ended, "run": item.run or "", **{
        name: numbers.get(name, "—") for name in ("rows", "failed", "p50 ms", "p95 ms", "p99 ms")
    }}  # fmt: skip
