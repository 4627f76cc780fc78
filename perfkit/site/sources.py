"""From a run or comparison in the data folder to what the site keeps of it: facts, and files to hand out."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit import safe_yaml
from perfkit.compare.experiment import Kept, open_comparison
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import Workload
from perfkit.site.facts import comparison_facts, comparison_files, fingerprint, run_facts, run_files
from perfkit.site.folder import Content, Source
from perfkit.site.reports import Report, Tell, comparison_report, run_report
from perfkit.store import Run, read_json, read_probes

#: What goes wrong with files that perfkit did not write.
_ODD = (AttributeError, KeyError, TypeError, ValueError, IndexError)


class Problem(Exception):
    """Something that one run or comparison suffers from; the site is made all the same."""


@dataclass(frozen=True)
class Taken:
    """What the manifest keeps of a run or comparison, its files by name, what went wrong with its report."""

    entry: dict[str, Any]
    files: dict[str, Content]
    wrong: str


def take_run(run: Run, make: bool, tell: Tell) -> Taken:
    """A run as it is now, its report made if it is missing and `make`. Problem where the run is damaged."""
    with told_of(run.id):
        inputs = [file for file in run_files(run) if file.parent.name != "report"]
        seen = fingerprint(inputs, run.path)  # before the rows are read: what changes meanwhile is seen later
        facts = run_facts(run)
        read_probes(run)  # damaged ones are told before a report is made of them
        report = run_report(run, make, tell)
        seen = fingerprint(run_files(run), run.path) | seen
        return _taken(seen, facts, _run_contents(run), report)


def take_comparison(kept: Kept, make: bool, tell: Tell) -> Taken:
    """The same for a comparison."""
    with told_of(f"comparison {kept.id}"):
        told = read_json(kept.path / "comparison.json")
        facts = comparison_facts(kept, str(told.get("created") or ""))
        report = comparison_report(kept, make, tell)
        files = _sources(comparison_files(kept.path))
        return _taken(fingerprint(comparison_files(kept.path), kept.path), facts, files, report)


@contextlib.contextmanager
def told_of(name: str) -> Iterator[None]:
    """Whatever a damaged or strange run provokes is a Problem of that run alone."""
    try:
        yield
    except PerfkitError as error:
        raise Problem(f"{name} was not published: {error}") from None
    except OSError as error:
        raise Problem(f"{name} was not published: {error.strerror or error}") from None
    except (*_ODD, pa.ArrowException) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise Problem(f"{name} was not published: it is damaged ({what})") from None


def _taken(seen: dict[str, Any], facts: dict[str, Any], files: dict[str, Content], report: Report) -> Taken:
    files |= report.pages
    sizes = {name: one.size if isinstance(one, Source) else len(one) for name, one in files.items()}
    facts["shown"]["report"] = report.state
    return Taken({"seen": seen, "sizes": sizes, **facts}, files, report.wrong)


def _sources(files: Iterable[Path]) -> dict[str, Content]:
    """Those that are handed out as they are; the pages of reports are not."""
    return {file.name: Source.of(file) for file in files if file.suffix != ".html" and file.exists()}


def _run_contents(run: Run) -> dict[str, Content]:
    """Notebooks, rows, samples, run.json and the workload of a run, by the names they get on the site."""
    files = _sources(file for file in run_files(run) if file.parent != run.path / "segments")
    if "timeline.parquet" not in files:  # aborted: its segments were never merged
        files["timeline.parquet"] = _parquet(run.table())
    if "probes.parquet" not in files and (run.path / "probe_segments").exists():
        files["probes.parquet"] = _parquet(read_probes(run))
    if workload := workload_yaml(run):
        files["workload.yaml"] = workload
    return files


def _parquet(table: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def workload_yaml(run: Run) -> bytes | None:
    """The run's workload as a file that `perfkit run` takes; None where run.json holds none."""
    given = run.meta.workload
    if not given or run.meta.imported:  # another tool's
        return None
    told = {name: value for name, value in given.items() if value is not None}
    target = {name: value for name, value in dict(told.get("target") or {}).items() if value is not None}
    if run.meta.own_server:  # it is gone; the next run gets one of its own
        target = {name: value for name, value in target.items() if name not in ("url", "probes_url")}
    try:
        Workload.from_mapping(told | {"target": target}, "workload")
    except BadInput:
        return None
    head = f"# The workload of run {run.id.encode('ascii', 'replace').decode()}: perfkit run workload.yaml\n"
    if not head.strip().isprintable():
        head = ""
    return (head + safe_yaml.dump(told | {"target": target}, unicode=False)).encode()


def comparisons_of(data_dir: Path) -> tuple[list[Kept], dict[str, str]]:
    """Every kept comparison, oldest first, and what is wrong with those that cannot be read, by id."""
    found, wrong = [], {}
    for file in sorted((data_dir / "comparisons").glob("*/comparison.json")):
        try:
            found.append(open_comparison(str(file.parent), data_dir))
        except (PerfkitError, *_ODD) as error:
            wrong[file.parent.name] = f"comparison {file.parent.name} was not published: {error}"
    return found, wrong
