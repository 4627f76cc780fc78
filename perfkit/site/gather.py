"""What a site is to hold: what is new of runs and comparisons, what stays as it was, which files to write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfkit.compare.experiment import Kept, open_comparison
from perfkit.errors import PerfkitError
from perfkit.site import pages
from perfkit.site.facts import Facts, comparison_files, fingerprint, run_files, slug
from perfkit.site.folder import Content, SiteFolder, name_of
from perfkit.site.leaks import Leak, Scanner
from perfkit.site.reports import Tell
from perfkit.site.sources import Problem, comparisons_of, take_comparison, take_run, told_of
from perfkit.store import Run


class Gathered:
    """Entries of runs and comparisons by id, `files` to be written, `names` of all files there will be.

    problems, skipped: a line for whatever is wrong with one of them, or left out; changed: runs read afresh;
    leaks: what looks like a secret in their files.
    """

    def __init__(
        self, folder: SiteFolder, data_dir: Path, *, reports: bool, scanner: Scanner, tell: Tell
    ) -> None:
        self.data_dir, self.tell = data_dir, tell
        self.old = folder.manifest
        self.same_look = self.old.get("look") == pages.look()
        self.runs: dict[str, Any] = {}
        self.comparisons: dict[str, Any] = {}
        self._entries = {"runs": self.runs, "comparisons": self.comparisons}
        self.files: dict[str, Content] = {}
        self.names: dict[str, str] = {}
        self.problems: list[str] = []
        self.skipped: list[str] = []
        self.leaks: list[Leak] = []
        self._scanned: set[str] = set()
        self.changed = self.gone = 0
        self._folder, self._reports, self._scanner = folder, reports, scanner

    def add_run(self, run: Run) -> None:
        """A run, unless it is still running; a damaged one stays as it was published before."""
        with self._or_stay("runs", run.id):
            if run.state == "running":
                self.skipped.append(f"{run.id} is still running and was not published")
            else:
                self._add("runs", run.id, run)

    def add_comparisons(self, chosen: set[str] | None) -> None:
        """All of the data folder, or those whose runs are all among `chosen`."""
        found, wrong = comparisons_of(self.data_dir)
        for name, words in wrong.items():
            old = self.old.get("comparisons", {}).get(name)
            if chosen is None or (old and {*old["shown"]["runs_a"], *old["shown"]["runs_b"]} <= chosen):
                self._stay("comparisons", name, words)
        for kept in found:
            if chosen is None or {run.id for run in (*kept.a, *kept.b)} <= chosen:
                with self._or_stay("comparisons", kept.id):
                    self._add("comparisons", kept.id, kept)

    def keep_others(self) -> None:
        """What was published before and is not now stays: its pages are permanent."""
        for kind, entries in self._entries.items():
            for name, entry in self.old.get(kind, {}).items():
                if name in entries:
                    continue
                there = (self.data_dir / kind / name).is_dir()
                if there and self._lost(entry) and self._take_again(kind, name):
                    continue
                self.gone += not there and kind == "runs"
                self._take_over(kind, name, entry, "there" if there else "gone")

    def put(self, name: str, content: Content) -> None:
        """A file of the site; written only where the site has it otherwise."""
        self.names[name] = name_of(content)
        if self._is_new(name, content):
            self.files[name] = content

    def _is_new(self, name: str, content: Content) -> bool:
        return self.old.get("files", {}).get(name) != name_of(content) or not self._folder.holds(name)

    def find_leaks(self, files: Mapping[str, Content]) -> None:
        """Look for secrets in those of the files that will be written, in each once."""
        new = [name for name, one in files.items() if name not in self._scanned and self._is_new(name, one)]
        found = [leak for name in new for leak in self._scanner.file(name, _place(files[name]))]
        self.leaks += found
        self._scanned |= set(new)

    def stands(self, name: str) -> bool:
        """Whether a file of the site is there and was made with this look; then it may be `keep`-ed."""
        return self.same_look and name in self.old.get("files", {}) and self._folder.holds(name)

    def keep(self, name: str) -> None:
        """A file of the site that stays as it is, also where a killed publish has left us unsure of it."""
        self.names[name] = self.old.get("files", {}).get(name, "")

    # -- one of them -------------------------------------------------------------------------------

    def _add(self, kind: str, name: str, source: Run | Kept) -> None:
        """Take over what the site has of it, or read it afresh."""
        old = self.old.get(kind, {}).get(name)
        if old and old["seen"] == _seen(source) and self._may_stay(old):
            if old["shown"]["report"] == "broken":
                self.problems.append(f"{name}: its report is broken; regenerate it with `perfkit report`")
            self._take_over(kind, name, old, "there")
        else:
            entry = self._entries[kind][name] = self._read(f"{kind}/{slug(name)}", source)
            entry["shown"]["source"] = "there"

    @contextlib.contextmanager
    def _or_stay(self, kind: str, name: str) -> Iterator[None]:
        """What cannot be read inside stays as the site has it."""
        try:
            yield
        except (Problem, PerfkitError, OSError) as error:
            self._stay(kind, name, str(error))

    def _stay(self, kind: str, name: str, problem: str) -> None:
        """What cannot be read now: told, and what the site has of it stays, also when it is pruned."""
        self.problems.append(problem)
        if old := self.old.get(kind, {}).get(name):
            self._take_over(kind, name, old, "there")

    def _take_again(self, kind: str, name: str) -> bool:
        """Read afresh what was not asked for, because files of it are lost; whether that went well."""
        path = self.data_dir / kind / name
        with contextlib.suppress(Problem, PerfkitError, OSError):
            with told_of(name):
                source = Run(path) if kind == "runs" else open_comparison(str(path), self.data_dir)
                self._add(kind, name, source)
            return True
        return False

    def _may_stay(self, old: Facts) -> bool:
        report, place = old["shown"]["report"], old["place"]
        missing = report == "failed" or (report in ("none", "old") and place.startswith("runs/"))
        if not self.same_look or (self._reports and missing):
            return False
        return not self._lost(old) and all(f"{place}/{name}" in self.old["files"] for name in old["sizes"])

    def _lost(self, old: Facts) -> list[str]:
        """Files of it that somebody has taken from the site."""
        return [name for name in old["sizes"] if not self._folder.holds(f"{old['place']}/{name}")]

    def _take_over(self, kind: str, name: str, old: dict[str, Any], source: str) -> None:
        """Keep it as the site has it; what is lost is told, and nothing leads to it any more."""
        for lost in self._lost(old):
            self.problems.append(f"{name}: {lost} is no longer on the site and cannot be regenerated")
            del old["sizes"][lost]
        for file in old["sizes"]:
            self.keep(f"{old['place']}/{file}")
        old["shown"]["source"] = source
        self._entries[kind][name] = old

    def _read(self, place: str, source: Run | Kept) -> dict[str, Any]:
        """The entry of a run or comparison, its report made where it is wanted; its files are put."""
        if isinstance(source, Run):
            taken = take_run(source, self._reports, self.tell)
            self.changed += 1
        else:
            taken = take_comparison(source, self._reports, self.tell)
        self.problems += [taken.wrong] if taken.wrong else []
        files = {f"{place}/{file}": content for file, content in taken.files.items()}
        with told_of(source.id):
            self.find_leaks(files)
        for name, content in files.items():
            self.put(name, content)
        return taken.entry | {"place": place}


def _place(content: Content) -> bytes | Path:
    return content if isinstance(content, bytes) else content.path


def _seen(source: Run | Kept) -> dict[str, list[int]]:
    files = run_files(source) if isinstance(source, Run) else comparison_files(source.path)
    return fingerprint(files, source.path)
