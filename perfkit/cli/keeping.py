"""Verbs on what is kept: tag, prune; and cleanup, of what a run left on its target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from perfkit.cli.base import allow_target_option, cli, data_dir_option, foreign_words, json_option, print_json
from perfkit.errors import EXIT_TOOL_ERROR, BadInput
from perfkit.text import print_lines


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

    RUN is an id, its start or end, a path, `latest`, several of these separated by commas, or tag:NAME; or a
    comparison, comparison:ID. The tag `keep` protects it from `perfkit prune`.

    \b
    perfkit tag latest baseline keep --note "before the new index"
    perfkit tag tag:baseline --remove baseline
    """
    from perfkit.compare import keeping
    from perfkit.compare.experiment import runs_named
    from perfkit.retention import mark

    if keeping.is_comparison(run):
        kept = keeping.comparison_named(run, data_dir)
        if tags or remove or note is not None:
            kept = keeping.mark(kept, add=tags, remove=remove, note=note)
        _print_tags([{"id": kept.id, "tags": list(kept.tags), "note": kept.note or None}], as_json)
        return
    found = runs_named(run, data_dir)
    if not found:
        raise BadInput(f"{run!r} names no run; give ids separated by commas, latest, or tag:NAME")
    if tags or remove or note is not None:
        found = mark(found, add=tags, remove=remove, note=note)
    _print_tags(
        [{"id": one.id, "tags": list(one.meta.tags), "note": one.meta.note or None} for one in found], as_json
    )


def _print_tags(tagged: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(tagged)
        return
    for one in tagged:
        words = f"{one['id']}: {', '.join(one['tags']) or 'no tags'}"
        print_lines(words + (f"; note: {one['note']}" if one["note"] else ""))


@cli.command("cleanup")
@click.argument("run")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
              help="Send with each request: a secret that the run was given but did not store.")  # fmt: skip
@click.option("--forget", is_flag=True, help="Do not try to remove what is left; stop tracking it.")
@allow_target_option
@data_dir_option
@json_option
def cleanup_command(run: str, headers: tuple[str, ...], forget: bool, allow_target: tuple[str, ...],
                    data_dir: Path, as_json: bool) -> None:  # fmt: skip
    """Remove what RUN, a whole id or a path, has left on its target: it was killed, or requests failed.

    Every run records what it creates as it creates it. What its scenario removes in its own teardown
    is not included. Exit code 1 when something is left.
    """
    from perfkit.drive import cleaning
    from perfkit.drive.workloads import parse_headers
    from perfkit.store import find_run

    found = find_run(run, data_dir, whole=True)
    if forget:
        done = cleaning.forget(found)
    else:
        done = cleaning.clean_up(found, allow_target, parse_headers(headers))
    left = len(done.left)
    if as_json:
        told = {"run": found.id, "things": done.wanted, "left": left, "why": done.told or None}
        print_json(told | {"forgotten": forget})
    elif not done.wanted:
        print_lines(f"{found.id} left nothing on its target")
    elif forget:
        print_lines(f"forgot {left:,} things that {found.id} left on its target")
    else:
        print_lines(f"removed {done.wanted - left:,} of {done.wanted:,} things that {found.id} left")
        print_lines(*([f"not removed: {done.told}; run `perfkit cleanup` again"] if left else []))
    if left and not forget:
        sys.exit(EXIT_TOOL_ERROR)


@cli.command("prune")
@click.option(
    "--keep",
    type=click.IntRange(0),
    metavar="N",
    help="Keep the newest N valid or imported runs of each scenario, and what is newer than the oldest of "
    "them (default: all runs; only leftovers go).",
)
@click.option("--scenario", metavar="NAME", help="Only runs of this scenario.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@data_dir_option
@json_option
def prune_command(keep: int | None, scenario: str | None, yes: bool, data_dir: Path, as_json: bool) -> None:
    """List the runs that are not worth keeping, and with --yes remove them for good.

    Never removed: runs tagged `keep`, runs still running, runs that a kept comparison needs, and files in a
    run's folder that perfkit did not write. Leftovers of runs, imports and removals that were killed go too;
    with --keep, comparisons that were refused.
    """
    from perfkit.compare.keeping import remove_comparison
    from perfkit.retention import plan
    from perfkit.store import contents_of, remove_leftovers, remove_runs

    found = plan(data_dir, keep, scenario)
    sizes = {run.id: contents_of(run.path).bytes for run in found.remove}
    verb, tell = "removed" if yes else "would remove", (lambda _: None) if as_json else print_lines
    runs, leftovers, freed = [], [], 0
    for run in remove_runs(found.remove) if yes else found.remove:
        runs.append(run.id)
        freed += sizes[run.id]
        tell(f"{verb} {run.id}{foreign_words(run)}")
    for kept in found.comparisons:
        if yes:
            remove_comparison(kept.path)
        tell(f"{verb} comparison {kept.id}: it was refused")
    for left in remove_leftovers(data_dir) if yes else found.leftovers:
        leftovers.append(str(left.path))
        freed += left.bytes
        tell(f"{verb} leftover {left.path}: {left.what}")
    for run, why in found.spared:
        tell(f"kept {run.id}: {why}")
    if as_json:
        told = {"remove": runs, "removed": yes, "spared": {run.id: why for run, why in found.spared},
                "comparisons": [kept.id for kept in found.comparisons],
                "leftovers": leftovers, "bytes": freed}  # fmt: skip
        print_json(told)
        return
    counts = [f"{len(runs)} run{'s' * (len(runs) != 1)}"]
    counts += [f"{len(leftovers)} leftover{'s' * (len(leftovers) != 1)}"] if leftovers else []
    hint = (
        ""
        if yes or not (runs or leftovers or found.comparisons)
        else "; nothing was removed yet, add --yes to remove them"
    )
    print_lines(f"{', '.join(counts)}, {freed / 1e6:.1f} MB{hint}")
