"""Verbs on what is kept: tag, prune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from perfkit.cli.base import cli, data_dir_option, json_option
from perfkit.errors import BadInput


@cli.command("tag")
@click.argument("run")
@click.argument("tags", nargs=-1)
@click.option("--remove", multiple=True, metavar="TAG", help="Take this tag off.")
@click.option("--note", metavar="TEXT", help="A note its report shows; an empty one removes it.")
@data_dir_option
@json_option
def tag_command(run: str, tags: tuple[str, ...], remove: tuple[str, ...], note: str | None, data_dir: Path,
                as_json: bool) -> None:  # fmt: skip
    """Put TAGS on RUN, or a note; without either, print what it has.

    RUN is an id, its start or end, a path, `latest`, several of these separated by commas, or tag:NAME. The
    tag `keep` protects a run from `perfkit prune`.

    \b
    perfkit tag latest baseline keep --note "before the new index"
    perfkit tag tag:baseline --remove baseline
    """
    from perfkit.experiment import runs_named
    from perfkit.retention import mark
    from perfkit.retention import tags as tags_of

    found = runs_named(run, data_dir)
    if not found:
        raise BadInput(f"no run is named by {run!r}; give ids separated by commas, latest, or tag:NAME")
    if tags or remove or note is not None:
        found = mark(found, add=tags, remove=remove, note=note)
    told: list[dict[str, Any]] = [
        {"id": one.id, "tags": tags_of(one), "note": one.meta.get("note")} for one in found
    ]
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    for one in told:
        words = f"{one['id']}: {', '.join(one['tags']) or 'no tags'}"
        click.echo(words + (f"; note: {one['note']}" if one["note"] else ""))


@cli.command("prune")
@click.option(
    "--keep",
    type=click.IntRange(0),
    required=True,
    metavar="N",
    help="Keep the newest N complete runs of each scenario, and what is newer than the oldest of them.",
)
@click.option("--scenario", metavar="NAME", help="Only runs of this scenario.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@data_dir_option
@json_option
def prune_command(keep: int, scenario: str | None, yes: bool, data_dir: Path, as_json: bool) -> None:
    """List the runs that are not worth keeping, and with --yes remove them for good.

    Never removed: runs tagged `keep`, runs still running, runs that a kept comparison needs.
    """
    from perfkit.retention import plan
    from perfkit.store import remove_runs

    found = plan(data_dir, keep, scenario)
    freed = sum(_size(run.path) for run in found.remove)
    removed = [run.id for run in (remove_runs(found.remove) if yes else found.remove)]
    if as_json:
        spared = {run.id: why for run, why in found.spared}
        click.echo(
            json.dumps({"remove": removed, "removed": yes, "spared": spared, "bytes": freed}, indent=1)
        )
        return
    for run_id in removed:
        click.echo(f"{'removed' if yes else 'would remove'} {run_id}")
    for run, why in found.spared:
        click.echo(f"kept {run.id}: {why}")
    hint = "" if yes or not removed else "; nothing was removed, add --yes to do it"
    click.echo(f"{len(removed)} run{'s' * (len(removed) != 1)}, {freed / 1e6:.1f} MB{hint}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
