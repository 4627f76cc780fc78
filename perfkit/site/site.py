"""`publish`: gather what is to be on the site, make its pages, look for secrets, then write.

Pages are made afresh from what the manifest keeps of each run, so they never disagree; rows are read only of
runs whose files have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.compare.experiment import runs_named
from perfkit.errors import BadInput, PerfkitError
from perfkit.site import pages
from perfkit.site.compose import compose
from perfkit.site.folder import SCHEMA, SiteFolder
from perfkit.site.gather import Gathered
from perfkit.site.leaks import Leak, Scanner
from perfkit.site.reports import Tell
from perfkit.store import Run, list_runs
from perfkit.text import plain

TITLE = "Performance runs"
_MOST_LEAKS = 40


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of a publish. runs: a selection as for `runs_named`, or None for all."""

    runs: str | None = None
    title: str | None = None  #: None: as before, or "Performance runs"
    prune: bool = False  #: remove pages of what is not published now
    reports: bool = True  #: make reports that are missing
    accept: tuple[str, ...] = ()  #: fingerprints of what only looks like a secret; the site keeps them


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a publish did: numbers of runs and files, and one line for each problem or run left out."""

    path: Path
    runs: int  #: on the site now
    changed: int  #: of them new or changed
    gone: int  #: of them no longer in the data folder
    comparisons: int
    trends: int
    written: int  #: files
    problems: tuple[str, ...]
    skipped: tuple[str, ...]


def publish(path: Path, data_dir: Path, wishes: Wishes, tell: Tell = lambda _: None) -> Published:
    """Bring the site at `path` up to date with the runs and comparisons of `data_dir`.

    BadInput for a folder of something else, an empty selection, or a secret in what would be published (then
    nothing is written). What one run suffers from is told in `problems`; the site is made all the same.
    """
    chosen = runs_named(wishes.runs, data_dir) if wishes.runs is not None else list_runs(data_dir)
    if not chosen:
        words = f"no runs in {data_dir / 'runs'}; `perfkit run` makes one"
        raise BadInput(f"{words}, or choose another folder with --data-dir")
    with SiteFolder.open(path) as folder:
        accepted = sorted({*folder.manifest.get("accepted", ()), *wishes.accept})
        scanner = Scanner(_token_names(chosen), accepted)
        site = Gathered(folder, data_dir, reports=wishes.reports, scanner=scanner, tell=tell)
        for run in dict.fromkeys(chosen):
            site.add_run(run)
        site.add_comparisons(None if wishes.runs is None else {run.id for run in chosen})
        if not wishes.prune:
            site.keep_others()
        title = plain(wishes.title or site.old.get("title") or TITLE, most=120)
        trends = compose(site, title)
        site.find_leaks(site.files)
        _refuse_leaks(site.leaks)
        manifest = {"schema": SCHEMA, "look": pages.look(), "title": title, "accepted": accepted}
        manifest |= {"runs": site.runs, "comparisons": site.comparisons, "trends": trends}
        written = folder.commit(site.files, manifest | {"files": site.names})
    return Published(
        path=path,
        runs=len(site.runs),
        changed=site.changed,
        gone=site.gone,
        comparisons=len(site.comparisons),
        trends=len(trends),
        written=written,
        problems=tuple(site.problems),
        skipped=tuple(site.skipped),
    )


def _refuse_leaks(found: Sequence[Leak]) -> None:
    """BadInput, a line each, when something holds what must not be published."""
    if not found:
        return
    words = f"nothing was written: {len(found)} places in the site look like secrets; edit "
    words += "the note or tag (`perfkit tag`, then `perfkit report`), exclude those runs (--runs), "
    words += "remove them (`perfkit rm`), or accept false positives (--accept)"
    lines = [f"  {plain(leak, most=400)}" for leak in found[:_MOST_LEAKS]]
    more = [f"  and {len(found) - _MOST_LEAKS} more"] if len(found) > _MOST_LEAKS else []
    raise BadInput(words, *lines, *more)


def _token_names(runs: Iterable[Run]) -> set[str]:
    """Environment variables that runs took their target's token from."""
    found = set()
    for run in runs:
        try:
            found |= {run.meta.token_env} - {""}
        except PerfkitError:
            continue
    return found
