"""What is on the site: runs, comparisons and trends, gathered, looked through for secrets, then written.

Pages are made afresh from what the manifest keeps of each run, so they never disagree; rows are read only of
runs whose files have changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfkit import noise
from perfkit.errors import BadInput, PerfkitError
from perfkit.experiment import Kept, runs_named
from perfkit.figures.tables import bounded
from perfkit.publish import pages, trends
from perfkit.publish.facts import TRENDS, comparison_files, fingerprint, href, run_files, slug
from perfkit.publish.folder import SCHEMA, Content, SiteFolder, name_of
from perfkit.publish.leaks import Leak, Scanner
from perfkit.publish.sources import (
    Problem,
    comparison_entry,
    comparison_report,
    comparisons_of,
    run_entry,
    run_report,
)
from perfkit.store import Run, list_runs

TITLE = "Performance runs"
_MOST_LEAKS = 40


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of a publish. runs: a selection as of `runs_named`, or None for all."""

    runs: str | None = None
    title: str | None = None  #: None: as before, or "Performance runs"
    prune: bool = False  #: remove pages of what is not published now
    reports: bool = True  #: make reports that are missing
    accept: tuple[str, ...] = ()  #: fingerprints of what only looks like a secret


@dataclass
class Published:
    """What a publish did: numbers of runs and files, and one line for each problem or run left out."""

    path: Path
    runs: int = 0
    changed: int = 0
    gone: int = 0
    comparisons: int = 0
    trends: int = 0
    written: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def publish(
    path: Path, data_dir: Path, wishes: Wishes, tell: Callable[[str], None] = lambda _: None
) -> Published:
    """Bring the site at `path` up to date with the runs and comparisons of `data_dir`.

    BadInput for a folder of something else, an empty selection, or a secret in what would be published (then
    nothing is written). What one run suffers from is told in `problems`; the site is made all the same.
    """
    chosen = runs_named(wishes.runs, data_dir) if wishes.runs is not None else list_runs(data_dir)
    if not chosen and not list((data_dir / "comparisons").glob("*")):
        raise BadInput(
            f"no runs in {data_dir / 'runs'}; `perfkit run` makes one, --data-dir names another folder"
        )
    with SiteFolder.open(path) as folder:
        work = _Work(folder, data_dir, wishes, tell)
        for run in dict.fromkeys(chosen):
            work.add_run(run)
        work.add_comparisons({run.id for run in chosen})
        work.keep_others()
        work.make_pages()
        work.refuse_leaks(chosen)
        work.told.written = folder.commit(work.files, work.manifest())
        return work.told


class _Work:
    """A publish under way: entries by id, what is to be written, the names of all files there will be."""

    def __init__(
        self, folder: SiteFolder, data_dir: Path, wishes: Wishes, tell: Callable[[str], None]
    ) -> None:
        self.folder, self.data_dir, self.wishes, self.tell = folder, data_dir, wishes, tell
        self.told = Published(folder.path)
        self.old = folder.manifest
        self.same_look = self.old.get("look") == pages.look()
        self.title = bounded(wishes.title or self.old.get("title") or TITLE, 120)
        self.runs: dict[str, Any] = {}
        self.comparisons: dict[str, Any] = {}
        self.trends: dict[str, str] = {}
        self.files: dict[str, Content] = {}
        self.names: dict[str, str] = {}

    # -- gathering ---------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        try:
            if run.state == "running":
                self.told.skipped.append(f"{run.id} is still running")
                return
            self._add("runs", run.id, run, self.runs)
        except (Problem, PerfkitError) as error:
            self.told.problems.append(str(error))

    def add_comparisons(self, chosen: set[str]) -> None:
        """All of them; with a selection, those whose runs are all in it."""
        found, wrong = comparisons_of(self.data_dir)
        if self.wishes.runs is None:
            self.told.problems += wrong
        for kept in found:
            if self.wishes.runs is None or {run.id for run in (*kept.a, *kept.b)} <= chosen:
                try:
                    self._add("comparisons", kept.id, kept, self.comparisons)
                except (Problem, PerfkitError) as error:
                    self.told.problems.append(str(error))

    def _add(self, kind: str, name: str, source: Run | Kept, found: dict[str, Any]) -> None:
        """Take over what the site has of it, or read it afresh."""
        old, place = self.old.get(kind, {}).get(name), f"{kind}/{slug(name)}"
        files = run_files(source) if isinstance(source, Run) else comparison_files(source.path)
        seen = fingerprint(files, source.path)
        if old and old["seen"] == seen and self._stands(old, place):
            if old["shown"]["report"] == "broken":
                self.told.problems.append(f"{name}: its report is broken; `perfkit report` makes it anew")
            found[name] = old
            self._keep_names(place)
        else:
            make_report = run_report if isinstance(source, Run) else comparison_report
            report, wrong = make_report(source, self.wishes.reports, self.tell)  # type: ignore[arg-type]
            self.told.problems += [wrong] if wrong else []
            make_entry = run_entry if isinstance(source, Run) else comparison_entry
            entry, contents = make_entry(source, report)  # type: ignore[arg-type]
            found[name] = entry
            self.told.changed += isinstance(source, Run)
            for file, content in contents.items():
                self.put(f"{place}/{file}", content)
        found[name]["place"], found[name]["shown"]["source"] = place, "there"

    def _stands(self, old: Mapping[str, Any], place: str) -> bool:
        """Whether what the site has of it can stay."""
        if not self.same_look or (self.wishes.reports and old["shown"]["report"] == "failed"):
            return False
        if self.wishes.reports and old["shown"]["report"] == "none" and place.startswith("runs/"):
            return False
        return all(self.folder.holds(f"{place}/{name}") for name in old["sizes"])

    def _keep_names(self, place: str) -> None:
        kept = self.old["files"].items()
        self.names |= {name: told for name, told in kept if name.startswith(f"{place}/")}

    def keep_others(self) -> None:
        """What was published before and is not now stays: pages are permanent, unless they are pruned."""
        for kind, found in (("runs", self.runs), ("comparisons", self.comparisons)):
            for name, entry in self.old.get(kind, {}).items():
                if name in found or self.wishes.prune:
                    continue
                there = (self.data_dir / kind / name).is_dir()
                entry["shown"]["source"] = "there" if there else "gone"
                self.told.gone += not there and kind == "runs"
                found[name] = entry
                self._keep_names(f"{kind}/{slug(name)}")

    # -- pages -------------------------------------------------------------------------------------

    def put(self, name: str, content: Content) -> None:
        """A file of the site; written only where the site has it otherwise."""
        self.names[name] = name_of(content)
        if self.old.get("files", {}).get(name) != self.names[name] or not self.folder.holds(name):
            self.files[name] = content

    def make_pages(self) -> None:
        """Everything that is made of more than one run, and each run's own page."""
        newest = sorted(self.runs.values(), key=_age, reverse=True)
        compared = sorted(self.comparisons.values(), key=_age, reverse=True)
        for entry in (*newest, *compared):
            entry["shown"]["href"] = href([entry["place"], "index.html"])
        groups = self._trends(newest)
        for entry in newest:
            self.put(f"{entry['place']}/index.html", self._run_page(entry, groups, compared))
        for entry in compared:
            self.put(f"{entry['place']}/index.html", self._comparison_page(entry))
        self.put("reading.html", pages.reading(self.title))
        listed = [one["about"] | {"runs": one["runs"]} for one in groups.values()]
        shown = [entry["shown"] for entry in newest]
        self.put("index.json", self._index_json(newest, compared, listed))
        self.put("index.html", pages.index(self.title, shown, [one["shown"] for one in compared], listed))
        self.told.runs, self.told.comparisons, self.told.trends = len(newest), len(compared), len(groups)

    def _trends(self, newest: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Groups of two or more runs of one configuration by key; their pages."""
        groups: dict[str, list[Any]] = {}
        for entry in newest:
            groups.setdefault(entry["key"], []).append(entry)
        found = {}
        for key, of in groups.items():
            if len(of) < 2:
                continue
            last = of[0]["shown"]
            about = {name: last[name] for name in ("scenario", "load", "target")}
            about["href"] = href(["trends", f"{slug(key)}.html"])
            for entry in of:
                entry["shown"]["trend"] = about["href"]
            found[key] = {"about": about, "runs": [one["shown"]["id"] for one in of]}
            self._trend_page(key, about, of[::-1])
        return found

    def _trend_page(self, key: str, about: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        path, floors = f"trends/{slug(key)}.html", self._floors(key)
        shown = [one | {"shown": one["shown"] | {"href": f"../{one['shown']['href']}"}} for one in runs]
        told = trends.name(about | {"title": self.title}, runs, floors)
        self.trends[path] = told
        if self.same_look and self.old.get("trends", {}).get(path) == told and self.folder.holds(path):
            self.names[path] = self.old["files"][path]
            return
        self.tell(f"drawing the trend of {about['scenario']}")
        self.put(path, trends.page(self.title, about, shown, floors))

    def _floors(self, key: str) -> dict[str, float]:
        """What is known of the noise between runs of this configuration, by metric."""
        found = noise.load_key(self.data_dir, key)
        return {name: math.sqrt(found[name].variance) for name in TRENDS if name in found}

    def _run_page(self, entry: dict[str, Any], groups: Mapping[str, Any], compared: Iterable[Any]) -> bytes:
        group = groups.get(entry["key"])
        entry["shown"].setdefault("trend", None)
        if group is None:
            entry["shown"]["trend"] = None
        trend = {"href": f"../../{group['about']['href']}", "count": len(group["runs"])} if group else None
        name = entry["shown"]["id"]
        mine = [
            one["shown"] for one in compared if name in (*one["shown"]["runs_a"], *one["shown"]["runs_b"])
        ]
        return pages.run(self.title, entry, trend, [one | {"href": f"../../{one['href']}"} for one in mine])

    def _comparison_page(self, entry: dict[str, Any]) -> bytes:
        shown = entry["shown"]
        known = {one["shown"]["id"]: one["shown"] for one in self.runs.values()}

        def listed(ids: Iterable[str]) -> list[dict[str, Any]]:
            return [
                known[i] | {"href": f"../../{known[i]['href']}"} if i in known else {"id": i, "href": None}
                for i in ids
            ]

        sides = [(f"A: {shown['a']}", listed(shown["runs_a"])), (f"B: {shown['b']}", listed(shown["runs_b"]))]
        return pages.comparison(self.title, entry, sides)

    def _index_json(self, runs: list[Any], compared: list[Any], listed: list[Any]) -> bytes:
        """The index for programs; addresses are relative to it."""
        told = {
            "schema": SCHEMA,
            "title": self.title,
            "runs": [one["shown"] | {"files": _hrefs(one)} for one in runs],
            "comparisons": [one["shown"] | {"files": _hrefs(one)} for one in compared],
            "trends": listed,
        }
        return (json.dumps(told, indent=1, allow_nan=False) + "\n").encode()

    # -- secrets, and the end ----------------------------------------------------------------------

    def refuse_leaks(self, chosen: Iterable[Run]) -> None:
        """BadInput, a line each, when a file to be written holds what must not be published."""
        scanner = Scanner(_token_names(chosen), self.wishes.accept)
        found: list[Leak] = []
        for name, content in self.files.items():
            found += scanner.file(name, content if isinstance(content, bytes) else content.path)
        if found:
            lines = [f"  {bounded(leak, 400)}" for leak in found[:_MOST_LEAKS]]
            more = [f"  and {len(found) - _MOST_LEAKS} more"] if len(found) > _MOST_LEAKS else []
            words = f"nothing was written: {len(found)} places in what would be published look like secrets;"
            words += " remove those runs (`perfkit rm`), leave them out (--runs),"
            words += " or accept what is none (--accept)"
            raise BadInput("\n".join([words, *lines, *more]))

    def manifest(self) -> dict[str, Any]:
        """What the site will keep of this publish."""
        return {
            "schema": SCHEMA,
            "look": pages.look(),
            "title": self.title,
            "runs": self.runs,
            "comparisons": self.comparisons,
            "trends": self.trends,
            "files": self.names,
        }


def _age(entry: Mapping[str, Any]) -> tuple[str, str]:
    return pages.age(entry["shown"]), entry["shown"]["id"]


def _hrefs(entry: Mapping[str, Any]) -> dict[str, str]:
    return {file: href([entry["place"], file]) for file in entry["sizes"]}


def _token_names(runs: Iterable[Run]) -> set[str]:
    """Environment variables that runs took their target's token from."""
    found = set()
    for run in runs:
        try:
            target = run.meta.get("target")
        except PerfkitError:
            continue
        name = target.get("token_env") if isinstance(target, dict) else None
        found |= {name} if isinstance(name, str) else set()
    return found
