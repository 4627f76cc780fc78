"""What other tools wrote becomes a run: rows of the same timeline, with a label for how true its times are.

A file is read once, streaming, into a folder aside; it becomes a run in one rename, or nothing at all. What a
tool did not record stays null, with one exception that the label tells: without an intended time a request is
taken to have been due when it started.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from perfkit.drive.describe import versions
from perfkit.errors import BadInput
from perfkit.importing.aside import aside
from perfkit.importing.formats import FORMATS, format_of
from perfkit.importing.limits import MOST_RUNS, MOST_USERS
from perfkit.importing.mapped import FIELDS
from perfkit.importing.nouns import EXACT_NS, Asked, Facts, Fidelity
from perfkit.importing.rows import Rows, Span
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, iso
from perfkit.importing.words import clean
from perfkit.model import SCHEMA_VERSION, refuse_bad_tag, refuse_long_note
from perfkit.store import Run, RunFolder, as_path, new_folder, remove_if_empty, results
from perfkit.text import plural

__all__ = ["FIELDS", "FORMATS", "UNITS", "Asked", "Fidelity", "import_runs"]

#: No run lasts so long; a file that says so has a broken time in it.
_LONGEST_NS = 92 * 86_400 * 1_000_000_000
_HOUR_NS = 3600 * 10**9
_SPLITS = ("1h", "10m")
_BACK = "was the clock set back, or were files joined? Latencies are right; figures over time are not"


def import_runs(
    path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str],
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    unit: str | None = None,
    split_s: float | None = None,
    scenario: str | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
    skip_broken: bool = False,
) -> list[Run]:
    """Read a file another tool wrote and return the runs made of it: one, unless the file holds several.

    columns: for a CSV of any kind, FIELD -> its column (`perfkit.importing.mapped`). names: of the columns of
    a CSV without a header. unit: of an HdrHistogram's values. split_s: a gap of at least so long without a
    request ends a run. skip_broken: leave out lines that cannot be read, and say so in the run, instead of
    refusing the file. BadInput for what cannot be read, naming the first broken lines; nothing is left behind
    then.
    """
    path, data_dir = as_path(path, "path"), as_path(data_dir, "data_dir")
    for tag in tags:
        refuse_bad_tag(tag)
    refuse_long_note(note)
    asked = Asked(dict(columns or {}), unit, tuple(names))
    said = {"tags": list(tags), "note": (note or "").strip() or None}
    first = _Import(path, data_dir, format, asked)
    with aside(data_dir) as folder:
        first.read(folder, skip_broken)
        windows = [None] if split_s is None else first.windows(int(split_s * 1e9))
        if len(windows) == 1 and first.facts.parts == 1:
            return [first.finish(folder, scenario, said)]
    asks = [dataclasses.replace(asked, part=part) for part in range(first.facts.parts)]
    runs: list[Run] = []
    total = len(asks) * len(windows)
    try:
        for number, (ask, window) in enumerate(itertools.product(asks, windows), 1):
            one = _Import(path, data_dir, format, ask, window)
            with aside(data_dir) as folder:
                if one.read(folder, skip_broken):
                    runs.append(one.finish(folder, scenario, said, f"{number} of {total}"))
    except BaseException:  # all of them or none
        for run in runs:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    return runs


class _Import:
    """One run on its way from a file to its folder."""

    def __init__(
        self, path: Path, data_dir: Path, format: str | None, asked: Asked, window: Span | None = None
    ) -> None:
        self._data_dir, self._asked, self._window = data_dir, asked, window
        self._source = Source(path)
        self._name = format_of(self._source, format, asked)
        self.facts = Facts("")

    def read(self, folder: RunFolder, skip_broken: bool) -> bool:
        """Read the file; BadInput where nothing can be made of it.

        False where a part of it, between two gaps, has requests of setup and teardown alone.
        """
        source, self._rows = self._source, Rows(folder.path)
        self._rows.window = self._window
        source.meter.rows_so_far = lambda: self._rows.added
        try:
            self.facts = FORMATS[self._name].read(source, self._rows, self._asked)
            self._rows.close()
        except (ValueError, OverflowError, RecursionError) as error:  # a number nobody can work with
            if isinstance(error, BadInput):
                raise
            what = f"{type(error).__name__}: {short(str(error))}"
            words = f"cannot be read as {self._name} ({what}); nothing was imported"
            raise BadInput(f"{source.path} {words}") from None
        if self._window is not None and self._rows.measured_ns is None:
            return False
        _refuse_broken(source, self._rows, skip_broken, bool(self.facts.carried))
        return True

    def windows(self, gap_ns: int) -> list[Span | None]:
        """The spans between gaps of at least so long; instants as in the file."""
        gaps = self._rows.times.gaps(gap_ns)
        if len(gaps) >= MOST_RUNS:
            words = f"{len(gaps):,} such gaps; one file can become at most {MOST_RUNS} runs"
            raise BadInput(f"{self._source.path} has {words}")
        edges = [-(2**62), *((low + high) // 2 for low, high in gaps), 2**62]
        return list(itertools.pairwise(edges))

    def finish(self, folder: RunFolder, scenario: str | None, said: Mapping[str, Any], part: str = "") -> Run:
        """Put the folder in its place."""
        meta = _meta(self._source, self._name, self._rows, self.facts, scenario) | dict(said)
        meta["imported"]["part"] = part
        return _put_in_place(folder, self._data_dir, meta, self._rows)


def _refuse_broken(source: Source, rows: Rows, skip_broken: bool, is_summary: bool) -> None:
    """BadInput for broken lines nobody allowed, for no row at all, and for a run longer than any."""
    whole = bool(rows.count) or is_summary
    if source.broken_count and not skip_broken and whole:
        places = plural(source.broken_count, "broken place")
        raise BadInput(f"{source.path}: {places}, nothing was imported: {source.told()}; "
                       "repair them, or skip them with --skip-broken")  # fmt: skip
    if not whole:
        why = f": {source.told()}" if source.broken_count else ""
        raise BadInput(f"{source.path} has no request in it{why}; nothing was imported")
    if is_summary:
        return
    if rows.measured_ns is None:
        raise BadInput(f"{source.path} has only requests of setup and teardown; nothing was imported")
    first, last = rows.span_ns
    if last - first > _LONGEST_NS:
        days = f"{(last - first) / 86_400e9:.0f} days lie between its first and its last request"
        raise BadInput(f"{source.path}: {days}, too long for one run; correct the wrong time, or use "
                       "--split 1h if the file holds several runs")  # fmt: skip


# -- the folder ------------------------------------------------------------------------------------


def _put_in_place(folder: RunFolder, data_dir: Path, meta: dict[str, Any], rows: Rows) -> Run:
    """Finish the folder and give it its name among the runs."""
    rows.settle(meta["scenario"]["name"])
    folder.merge()
    pa.default_memory_pool().release_unused()  # the results are computed elsewhere
    path = _new_place(data_dir, meta["clock"]["unix_ns"], meta["scenario"]["name"])
    try:
        document = {"schema": SCHEMA_VERSION, "id": path.name} | meta
        folder.write_meta(document)
        made = Run(folder.path)
        folder.write_meta(document | {"results": results.stamped(made.results, *made.files())})
        folder.path.chmod(stat.S_IMODE(path.stat().st_mode))  # a temporary folder is its maker's alone
        os.rename(folder.path, path)  # which is empty
    finally:
        remove_if_empty(path)
    return Run(path)


def _new_place(data_dir: Path, began: int | None, scenario: str) -> Path:
    """An empty folder with an id no run has: the same file imported again begins at the same second."""
    seconds = began // 1_000_000_000 if began is not None else time.time()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", scenario).strip("_")[:40] or "imported"
    return new_folder(data_dir / "runs", f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{slug}")


def _meta(source: Source, name: str, rows: Rows, facts: Facts, scenario: str | None) -> dict[str, Any]:
    """run.json of the run: what every run has, null where the tool did not tell, and what was imported."""
    first = rows.span_ns[0]
    whole = None if rows.window else facts.span_ns  # of the file
    low, high = whole or rows.measured_ns or rows.span_ns
    hosts = rows.names.hosts
    called = scenario or clean(facts.scenario or "") or facts.tool.lower()
    began = first if rows.absolute and not facts.carried else None
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "state": "complete",
        "reason": None,
        "created": iso(began) if began is not None else now,
        "workload": {"scenario": called, "params": {}, "users": None, "arrivals": None},
        "scenario": {"name": called, "doc": f"Imported: {facts.tool} did this, not perfkit.", "params": {}},
        "target": {"url": next(iter(hosts.values())) if len(hosts) == 1 else None},
        "git": {},
        "host": {},
        "versions": {"perfkit": versions().get("perfkit")},
        "clock": {"unix_ns": began},
        "measured": {"from_ns": low - first, "to_ns": max(high, low + 1) - first},
        "thresholds": [],
        "imported": {
            "tool": facts.tool,
            "version": facts.version,
            "format": name,
            "file": source.path.name,
            "bytes": source.size(),
            "sha256": source.sha256(),
            "at": now,
            "fidelity": _fidelity(rows, facts).to_mapping(),
            "load": dict(facts.load),
            "skipped": source.broken_count,
            "skipped_first": source.broken,
            "notes": [*facts.notes, *_notes(source, rows)],
            "carried": [dataclasses.asdict(one) for one in facts.carried],
        },
    }


def _fidelity(rows: Rows, facts: Facts) -> Fidelity:
    """The coarser of what the format rounds to and what was found; steps as fine as EXACT_NS are none."""
    measured = (1, 1) if facts.bucketed else rows.steps.resolution()
    steps = [max(pair) for pair in zip(facts.rounded_ns, measured, strict=True)]
    instants, latency = (step if step > EXACT_NS else 1 for step in steps)
    return Fidelity(instants, latency, facts.bucketed, facts.intended_time, bool(facts.carried), facts.timed)


def _notes(source: Source, rows: Rows) -> Iterator[str]:
    yield from source.all_notes()
    hosts = list(rows.names.hosts)
    if len(hosts) > 1:
        more = f" and {len(hosts) - 5:,} more" if len(hosts) > 5 else ""
        yield f"its requests went to {len(hosts):,} hosts: {', '.join(hosts[:5])}{more}"
    if rows.names.note:
        yield rows.names.note
    if rows.unnamed:
        yield f"{rows.unnamed:,} requests have no user: only {MOST_USERS:,} user names are kept"
    if not rows.absolute or not rows.count:
        yield "the file has no date; the run is dated by the import"
    if gaps := rows.times.gaps():
        low, high = max(gaps, key=lambda gap: gap[1] - gap[0])
        more = f", and {len(gaps) - 1:,} more gaps" if len(gaps) > 1 else ""
        when = f" ({_minute(low)} to {_minute(high)} UTC)" if rows.absolute else ""
        yield (f"{_length(high - low)} without a request{when}{more}: are these several runs? "
               f"--split {_SPLITS[high - low < 2 * _HOUR_NS]} makes one of each")  # fmt: skip
    if steps := rows.times.steps_back():
        back, at = steps[0]
        to = iso(at) if rows.absolute else f"{at / 1e9:.6g} s"
        more = f", the first of {len(steps)} such steps" if steps[1:] else ""
        yield f"its times step back by {_length(back)}, to {to}{more}: {_BACK}"


def _minute(unix: int) -> str:
    return iso(unix)[:16].replace("T", " ")


def _length(span_ns: int) -> str:
    """A time span in words: 3.0 days, 5.2 h, 12 min, 8.5 s."""
    units = ((24 * _HOUR_NS, "days"), (_HOUR_NS, "h"), (60 * 10**9, "min"), (10**9, "s"))
    size, unit = next((one for one in units if span_ns >= 1.5 * one[0]), units[-1])
    return f"{span_ns / size:.1f} {unit}"
