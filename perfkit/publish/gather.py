"""What a site is to hold: what is new of runs and comparisons, what stays as it was, which files to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perfkit.errors import PerfkitError
from perfkit.experiment import Kept
from perfkit.publish import pages
from perfkit.publish.facts import comparison_files, fingerprint, run_files, slug
from perfkit.publish.folder import Content, SiteFolder, name_of
from perfkit.publish.sources import Problem, comparisons_of, take_comparison, take_run
from perfkit.store import Run


class Gathered:
    """Entries of runs and comparisons by id, `files` to be written, `names` of all files there will be.

    problems, skipped: a line for whatever is wrong with one of them, or left out; changed: runs read afresh.
    """

    def __init__(
        self, folder: SiteFolder, data_dir: Path, *, reports: bool, tell: Callable[[str], None]
    ) -> None:
        self.data_dir, self.tell = data_dir, tell
        self.old = folder.manifest
        self.same_look = self.old.get("look") == pages.look()
        self.runs: dict[str, Any] = {}
        self.comparisons: dict[str, Any] = {}
        self.files: dict[str, Content] = {}
        self.names: dict[str, str] = {}
        self.problems: list[str] = []
        self.skipped: list[str] = []
        self.changed = self.gone = 0
        self._folder, self._reports = folder, reports

    def add_run(self, run: Run) -> None:
        """A run, unless it is still running or damaged."""
        try:
            if run.state == "running":
                self.skipped.append(f"{run.id} is still running, it was not published")
                return
            self._add("runs", run.id, run, self.runs)
        except (Problem, PerfkitError, OSError) as error:
            self.problems.append(str(error))

    def add_comparisons(self, chosen: set[str] | None) -> None:
        """All of the data folder, or those whose runs are all among `chosen`."""
        found, wrong = comparisons_of(self.data_dir)
        self.problems += wrong if chosen is None else []
        for kept in found:
            if chosen is None or {run.id for run in (*kept.a, *kept.b)} <= chosen:
                try:
                    self._add("comparisons", kept.id, kept, self.comparisons)
                except (Problem, PerfkitError, OSError) as error:
                    self.problems.append(str(error))

    def keep_others(self) -> None:
        """What was published before and is not now stays: its pages are permanent."""
        for kind, found in (("runs", self.runs), ("comparisons", self.comparisons)):
            for name, entry in self.old.get(kind, {}).items():
                if name in found:
                    continue
                there = (self.data_dir / kind / name).is_dir()
                entry["shown"]["source"] = "there" if there else "gone"
                self.gone += not there and kind == "runs"
                found[name] = entry
                self._keep_names(entry)

    def put(self, name: str, content: Content) -> None:
        """A file of the site; written only where the site has it otherwise."""
        self.names[name] = name_of(content)
        if self.old.get("files", {}).get(name) != self.names[name] or not self._folder.holds(name):
            self.files[name] = content

    def stands(self, name: str) -> bool:
        """Whether a file of the site is there and was made with this look; then it may be `keep`-ed."""
        return self.same_look and name in self.old.get("files", {}) and self._folder.holds(name)

    def keep(self, name: str) -> None:
        """A file of the site that stays as it is."""
        self.names[name] = self.old["files"][name]

    # -- one of them -------------------------------------------------------------------------------

    def _add(self, kind: str, name: str, source: Run | Kept, found: dict[str, Any]) -> None:
        """Take over what the site has of it, or read it afresh."""
        old = self.old.get(kind, {}).get(name)
        if old and old["seen"] == _seen(source) and self._may_stay(old):
            if old["shown"]["report"] == "broken":
                self.problems.append(f"{name}: its report is broken; `perfkit report` makes it anew")
            found[name] = old
            self._keep_names(old)
        else:
            found[name] = self._read(f"{kind}/{slug(name)}", source)
        found[name]["shown"]["source"] = "there"

    def _may_stay(self, old: Mapping[str, Any]) -> bool:
        report, place = old["shown"]["report"], old["place"]
        missing = report == "failed" or (report == "none" and place.startswith("runs/"))
        if not self.same_look or (self._reports and missing):
            return False
        return all(self._folder.holds(f"{place}/{name}") for name in old["sizes"])

    def _keep_names(self, old: Mapping[str, Any]) -> None:
        for name in old["sizes"]:
            self.keep(f"{old['place']}/{name}")

    def _read(self, place: str, source: Run | Kept) -> dict[str, Any]:
        """The entry of a run or comparison, its report made where it is wanted; its files are put."""
        if isinstance(source, Run):
            taken = take_run(source, self._reports, self.tell)
            self.changed += 1
        else:
            taken = take_comparison(source, self._reports, self.tell)
        self.problems += [taken.wrong] if taken.wrong else []
        for file, content in taken.files.items():
            self.put(f"{place}/{file}", content)
        return taken.entry | {"place": place}


def _seen(source: Run | Kept) -> dict[str, list[int]]:
    files = run_files(source) if isinstance(source, Run) else comparison_files(source.path)
    return fingerprint(files, source.path)
