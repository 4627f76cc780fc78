"""Several experiments one after the other, each run and reported; one that was cut off goes on where it was.

What has been done stands in `data_dir`/batches/KEY.json after every step. KEY is made of the files' names and
contents: the same command takes up its own unfinished batch, and a changed file makes a new one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from perfkit import interrupts
from perfkit.drive.running import Checked, checked, run_repeats, worst
from perfkit.drive.workload_files import read_workload
from perfkit.errors import EXIT_OK, EXIT_TOOL_ERROR, INTERRUPTIONS, BadInput, PerfkitError, no_place
from perfkit.hosts import as_list
from perfkit.observe.recording import record
from perfkit.report import make_report
from perfkit.store import Run, locked, read_json, write_json


@dataclass
class Item:
    """One run of a batch, and what became of it; exit_code None: not done yet."""

    file: str
    repeat: int
    repeats: int
    run: str | None = None  #: its folder's name
    ended: str = ""
    exit_code: int | None = None
    report: str | None = None
    error: str | None = None
    reasons: list[str] = dataclasses.field(default_factory=list)  #: for its verdict

    @property
    def wants_report(self) -> bool:
        """Whether its run has no report yet, and none was tried."""
        return self.run is not None and self.report is None and self.error is None

    @property
    def label(self) -> str:
        """The file, and which of its repeats."""
        return self.file if self.repeats == 1 else f"{self.file} {self.repeat}/{self.repeats}"


@dataclass(frozen=True)
class Batch:
    """The items of a batch in order; `resumed` of them were done before."""

    path: Path
    items: tuple[Item, ...]
    resumed: int
    interrupted: bool = False  #: while a report was made; an interrupted run is an item that is not done

    @property
    def exit_code(self) -> int:
        """One for all: the worst, by `running.worst`; interrupted while something is left to do."""
        codes = [None if self.interrupted else EXIT_OK, *(one.exit_code for one in self.items)]
        return worst(INTERRUPTIONS[interrupts.reason()] if code is None else code for code in codes)


def run_batch(
    files: Sequence[Path],
    data_dir: Path,
    *,
    allow_targets: Iterable[str] = (),
    report: bool = True,
    fresh: bool = False,
    show_progress: bool = True,
    tell: Any = lambda words: None,
) -> Batch:
    """Carry out and report each file in order, as often as its `repeats` say; then all of it is told.

    Every file is checked before the first request (BadInput names the file). A run that breaks or a report
    that fails is told and hinders no other. `tell` is called with a line before each run. An unfinished batch
    of the same files is taken up unless `fresh`; the run that was under way is made again.
    """
    given = {str(file): read_workload(file) for file in files}
    allowed = as_list(allow_targets)
    works = {file: checked(one, file, allowed) for file, one in given.items()}
    repeats = {file: work.workload.repeats for file, work in works.items()}
    plan = [Item(file, k + 1, repeats[file]) for file in map(str, files) for k in range(repeats[file])]
    path = data_dir / "batches" / f"{_key(files, given)}.json"
    with _held(path):
        before = None if fresh else _unfinished(path, plan, report, data_dir)
        batch = Batch(path, tuple(before or plan), sum(one.run is not None for one in before or ()))
        for place, item in enumerate(batch.items):
            if item.exit_code is None:
                tell(f"{place + 1}/{len(batch.items)} {item.label}")
            if not _carry_out(item, works[item.file], data_dir, show_progress):
                break
            _keep(batch)
            if report and item.wants_report:
                try:
                    _report(item, data_dir, show_progress)
                except KeyboardInterrupt:
                    batch = dataclasses.replace(batch, interrupted=True)
                    break
                _keep(batch)
        _keep(batch)
    return batch


def _carry_out(item: Item, work: Checked, data_dir: Path, show_progress: bool) -> bool:
    """Do the run of an item unless it is done; False after an interrupt, which leaves it to be done."""
    if item.exit_code is not None:
        return True
    try:
        (run,) = run_repeats(work.once(), data_dir, show_progress=show_progress, look=record)
    except (PerfkitError, OSError) as error:
        code = error.exit_code if isinstance(error, PerfkitError) else EXIT_TOOL_ERROR
        item.ended, item.exit_code, item.error = "broke down", code, str(error)
        return True
    except KeyboardInterrupt:
        return False
    verdict = run.verdict
    if verdict.exit_code in INTERRUPTIONS.values():
        return False
    item.run, item.ended, item.exit_code = run.id, verdict.brief, verdict.exit_code
    item.reasons = list(verdict.reasons)
    return True


def _report(item: Item, data_dir: Path, show_progress: bool) -> None:
    """Make the report of an item's run; a failure is told in the item, and is a tool error."""
    run = Run(data_dir / "runs" / str(item.run))
    try:
        item.report = str(make_report(run, progress=show_progress))
    except (PerfkitError, OSError) as error:
        item.error = str(error)
        item.exit_code = worst([item.exit_code or EXIT_OK, EXIT_TOOL_ERROR])


# -- what is kept between two calls ----------------------------------------------------------------


def _key(files: Sequence[Path], given: Mapping[str, Mapping[str, Any]]) -> str:
    """Names a batch by its files, their order and what is in them, scenario files of one's own included."""
    digest = hashlib.sha256()
    for file in files:
        workload = given[str(file)]
        entries = [workload, *(one for one in workload.get("mix") or () if isinstance(one, Mapping))]
        scenarios = [Path(str(one.get("scenario"))) for one in entries]
        for one in (file, *(scenario for scenario in scenarios if scenario.is_file())):
            digest.update(f"{one.resolve()}\n".encode() + one.read_bytes())
    return f"{files[0].stem[:40]}-{digest.hexdigest()[:12]}"


def _unfinished(path: Path, plan: Sequence[Item], report: bool, data_dir: Path) -> list[Item] | None:
    """The items of a batch that was cut off; None when there is none, or it cannot be read.

    One whose run has been removed since is to be done again.
    """
    try:
        items = msgspec.convert(read_json(path)["items"], list[Item])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if [(one.file, one.repeat) for one in items] != [(one.file, one.repeat) for one in plan]:
        return None
    items = [
        new if one.run and not (data_dir / "runs" / one.run).exists() else one
        for one, new in zip(items, plan, strict=True)
    ]
    done = all(one.exit_code is not None and not (report and one.wants_report) for one in items)
    return None if done else items


def _keep(batch: Batch) -> None:
    write_json(batch.path, {"items": [asdict(one) for one in batch.items]})


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the batch's lock; BadInput when another process does."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            raise BadInput("another process is already running this batch; wait for it to finish") from None
        except OSError as error:
            raise PerfkitError(no_place(f"write {path.parent}", error)) from None
        yield
