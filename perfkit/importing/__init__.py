"""What other tools wrote becomes a run: rows of the same timeline, with a label for how true its times are.

A file is read once, streaming, into a folder aside; it becomes a run in one rename, or nothing at all. What a
tool did not record stays null, with one exception that the label tells: without an intended time a request is
taken to have been due when it started.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.describe import versions
from perfkit.errors import BadInput, PerfkitError
from perfkit.importing.aside import aside
from perfkit.importing.formats import FORMATS, format_of
from perfkit.importing.limits import MOST_USERS
from perfkit.importing.mapped import FIELDS
from perfkit.importing.nouns import EXACT_NS, Asked, Facts, Fidelity
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, iso
from perfkit.model import SCHEMA_VERSION, refuse_bad_tag, refuse_long_note
from perfkit.store import Run, RunFolder, new_folder, remove_if_empty, results

__all__ = ["FIELDS", "FORMATS", "UNITS", "Asked", "Fidelity", "import_file"]

#: No run lasts so long; a file that says so has a broken time in it.
_LONGEST_NS = 92 * 86_400 * 1_000_000_000


def import_file(
    path: Path,
    *,
    data_dir: Path,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
    scenario: str | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
    skip_broken: bool = False,
) -> Run:
    """Read a file another tool wrote and return the run made of it.

    columns: for a CSV of any kind, FIELD -> its column (`perfkit.importing.mapped`). unit: of an HdrHistogram
    log's values. skip_broken: leave out lines that cannot be read, and say so in the run, instead of refusing
    the file. BadInput for what cannot be read, naming the first broken lines; nothing is left behind then.
    """
    for tag in tags:
        refuse_bad_tag(tag)
    refuse_long_note(note)
    asked = Asked(dict(columns or {}), unit)
    source = Source(path)
    name = format_of(source, format, asked)
    with aside(data_dir) as folder:
        rows = Rows(folder.path)
        source.meter.rows_so_far = lambda: rows.added
        try:
            facts = FORMATS[name].read(source, rows, asked)
            rows.close()
        except OSError as error:
            raise PerfkitError(
                f"cannot write to {data_dir}: {error.strerror or error}; choose --data-dir"
            ) from None
        except (ValueError, OverflowError, RecursionError) as error:  # a number nobody can work with
            what = f"{type(error).__name__}: {short(str(error))}"
            raise BadInput(f"{path} cannot be read as {name} ({what}); nothing was imported") from None
        _refuse_broken(source, rows, skip_broken)
        meta = _meta(source, name, rows, facts, scenario) | {
            "tags": list(tags),
            "note": (note or "").strip() or None,
        }
        return _put_in_place(folder, data_dir, meta, rows)


def _refuse_broken(source: Source, rows: Rows, skip_broken: bool) -> None:
    """BadInput for broken lines nobody allowed, for no row at all, and for a run longer than any."""
    if source.broken_count and not skip_broken:
        places = f"{source.broken_count:,} broken place{'s' if source.broken_count > 1 else ''}"
        raise BadInput(f"{source.path}: {places}, nothing was imported: {source.told()}; "
                       "repair them, or import the rest with --skip-broken")  # fmt: skip
    if not rows.count:
        why = f": {source.told()}" if source.broken_count else ""
        raise BadInput(f"{source.path} has no request in it{why}; nothing was imported")
    if rows.measured_ns is None:
        raise BadInput(f"{source.path} has only requests of setup and teardown; nothing was imported")
    first, last = rows.span_ns
    if last - first > _LONGEST_NS:
        days = f"{(last - first) / 86_400e9:.0f} days lie between its first and its last request"
        raise BadInput(f"{source.path}: {days}, no run lasts so long; one of its times must be broken")


# -- the folder ------------------------------------------------------------------------------------


def _put_in_place(folder: RunFolder, data_dir: Path, meta: dict[str, Any], rows: Rows) -> Run:
    """Finish the folder and give it its name among the runs."""
    try:
        rows.settle(meta["scenario"]["name"])
        folder.merge()
        path = _new_place(data_dir, meta["clock"]["unix_ns"], meta["scenario"]["name"])
        try:
            document = {"schema": SCHEMA_VERSION, "id": path.name} | meta
            folder.write_meta(document)
            made = Run(folder.path)
            folder.write_meta(document | {"results": results.stamped(made.results, *made.files())})
            folder.path.chmod(0o777 & ~_umask())  # a temporary folder is its maker's alone
            os.rename(folder.path, path)  # which is empty
        finally:
            remove_if_empty(path)
    except OSError as error:
        raise PerfkitError(
            f"cannot write to {data_dir}: {error.strerror or error}; choose --data-dir"
        ) from None
    return Run(path)


def _new_place(data_dir: Path, began: int | None, scenario: str) -> Path:
    """An empty folder with an id no run has: the same file imported again begins at the same second."""
    seconds = began // 1_000_000_000 if began is not None else time.time()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", scenario).strip("_")[:40] or "imported"
    return new_folder(data_dir / "runs", f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{slug}")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _meta(source: Source, name: str, rows: Rows, facts: Facts, scenario: str | None) -> dict[str, Any]:
    """run.json of the run: what every run has, null where the tool did not tell, and what was imported."""
    first = rows.span_ns[0]
    low, high = facts.span_ns or rows.measured_ns or rows.span_ns
    origins = list(rows.names.origins)
    called = scenario or facts.scenario or facts.tool.lower()
    began = first if rows.absolute else None
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "state": "complete",
        "reason": None,
        "created": iso(began) if began is not None else now,
        "workload": {"scenario": called, "params": {}, "users": None, "arrivals": None},
        "scenario": {"name": called, "doc": f"Imported: {facts.tool} did this, not perfkit.", "params": {}},
        "target": {"url": origins[0] if len(origins) == 1 else None},
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
            "skipped_first": [str(one) for one in source.broken],
            "notes": [*facts.notes, *_notes(source, rows, origins)],
        },
    }


def _fidelity(rows: Rows, facts: Facts) -> Fidelity:
    """The coarser of what the format rounds to and what was found; steps as fine as EXACT_NS are none."""
    measured = (1, 1) if facts.bucketed else rows.steps.resolution()
    steps = [max(pair) for pair in zip(facts.rounded_ns, measured, strict=True)]
    instants, latency = (step if step > EXACT_NS else 1 for step in steps)
    return Fidelity(instants, latency, facts.bucketed, facts.intended_time)


def _notes(source: Source, rows: Rows, origins: Sequence[str]) -> Iterator[str]:
    if source.swallowed:
        yield f"{source.swallowed:,} more lines stood in quotes of broken places and are left out with them"
    if source.quoted:
        yield f"{source.quoted:,} lines stand in quotes that an earlier line opened, as part of its text"
    if len(origins) > 1:
        yield f"its requests went to {len(origins)} hosts: {', '.join(origins[:5])}"
    if rows.names.note:
        yield rows.names.note
    if rows.unnamed:
        yield f"{rows.unnamed:,} requests have no user: {MOST_USERS:,} names of users are kept"
    if not rows.absolute:
        yield "the file does not say when it was made; the run's date is that of the import"
