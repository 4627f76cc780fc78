"""A run folder opened for reading: what run.json says, its rows, its server's samples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.card import Card
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import OPTIONAL, SCHEMA_VERSION
from perfkit.store import results, segments
from perfkit.store.columns import TEXT, TYPES, columns_in, fitted
from perfkit.store.files import is_held, read_regular, require_regular
from perfkit.store.metadata import Metadata, Results
from perfkit.store.remote import timeline_at
from perfkit.store.rows import Part
from perfkit.store.verdict import Verdict, verdict_of
from perfkit.text import for_notebook

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run folder opened for reading; rows are read afresh each time, so a running run shows what it has."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name: sortable by time."""
        return self.path.name

    @cached_property
    def meta(self) -> Metadata:
        """run.json as it was when first asked for; PerfkitError where it cannot be read."""
        try:
            text = read_regular(self.path / "run.json")
        except FileNotFoundError:
            raise BadInput(
                f"{self.path} is not a run: run.json is missing; `perfkit ls` lists runs"
            ) from None
        except OSError as error:
            raise PerfkitError(f"cannot read {self.path / 'run.json'}: {error.strerror}") from None
        try:
            return Metadata.parse(text)
        except PerfkitError as error:
            raise type(error)(f"{self.id}: {error}") from None

    @property
    def state(self) -> str:
        """`running`, `complete` or `aborted`; a run whose process died while running is aborted."""
        state = self.meta.state
        return "aborted" if state == "running" and not self.is_alive() else state

    @property
    def ended_by_itself(self) -> bool:
        """Whether it came to its end: the planned one, or one that an abort condition of its own has set."""
        return self.state == "complete" or bool(self.meta.aborted_by)

    @property
    def reason(self) -> str | None:
        """Why the run was aborted, if it was."""
        if self.state == "aborted" and self.meta.state == "running":
            return "its process ended without closing the run (killed?)"
        return self.meta.reason or None

    @cached_property
    def results(self) -> Results:
        """What its rows come to, kept in run.json or else computed; PerfkitError where they are damaged."""
        kept = self.meta.results
        if kept.version == results.VERSION:
            stamps = self.read_each(self.files, results.digest, "rows")
            if stamps == [kept.digest]:
                return kept
        return results.results_of(Part(self))

    @property
    def verdict(self) -> Verdict:
        """May it be trusted? See `store.verdict`."""
        return verdict_of(self)

    @property
    def headline(self) -> str:
        """State and verdict in a line: `complete, valid`; `complete, valid, 1 of 2 thresholds missed`;
        `aborted (interrupted)`; `aborted, FAILED: …`."""
        verdict = self.verdict
        state = f"{self.state} ({self.reason})" if self.reason else self.state
        if self.state != "complete":
            return state if verdict.word in ("ABORTED", "RUNNING") else f"{self.state}, {verdict.words}"
        if verdict.word == "IMPORTED":
            return f"imported {'; '.join(verdict.reasons)}"
        word = "valid" if verdict.word == "VALID" else verdict.words
        return ", ".join(filter(None, (state, word, verdict.missed_words)))

    def is_alive(self) -> bool:
        """Whether a process carries it out now."""
        return is_held(self.path / "run.lock")

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, from timeline.parquet or else from the segments; a column that is not there is null."""
        tables = self.read_each(self.files, lambda file: _read(file, columns), "rows")
        if not tables:
            empty = SCHEMA.empty_table()
            tables = [empty if columns is None else empty.select([c for c in columns if c in TYPES])]
        table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
        for name in columns or ():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), TYPES.get(name, pa.float64())))
        return table if columns is None else table.select(list(columns))

    def row_count(self) -> int:
        """How many rows there are, without reading them; PerfkitError where they are damaged."""
        return sum(self.read_each(self.files, lambda file: int(pq.read_metadata(file).num_rows), "rows"))

    def unpacked_bytes(self) -> int:
        """Bytes of all columns before compression, without reading them."""
        files = [pq.read_metadata(file) for file in self.files()]
        return sum(file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups))

    def files(self) -> list[Path]:
        """The Parquet files that hold the rows now; PerfkitError for what is no file in the place of one."""
        here = self._parquet("timeline.parquet", "segments")
        if here:
            return here
        # they may have been moved since run.json was read
        at = self.meta.rows_at or Run(self.path).meta.rows_at
        return [cast(Path, timeline_at(at, self.id))] if at else []  # what is asked of these paths, it can

    def probe_files(self) -> list[Path]:
        """The Parquet files that hold the samples of its server now; PerfkitError as for `files`."""
        return self._parquet("probes.parquet", "probe_segments")

    def _parquet(self, merged_name: str, folder: str) -> list[Path]:
        try:
            parts = _parquet_in(self.path / folder)
            with contextlib.suppress(FileNotFoundError):  # looked for after the parts: a merge may end now
                return [require_regular(self.path / merged_name)]
        except OSError as error:
            words = f"{error.filename}: {error.strerror}"
            raise PerfkitError(f"{self.id} is damaged, its rows cannot be read: {words}") from None
        return parts

    def read_each(self, files: Callable[[], list[Path]], read: Callable[[Path], T], what: str) -> list[T]:
        """Read each of some files; PerfkitError where one is damaged.

        They may be merged away between listing and reading: then they are listed again.
        """
        for _ in range(3):
            try:
                return [read(file) for file in files()]
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self.damaged(error, what) from None
        raise PerfkitError(f"{self.path}: its files keep changing; try again when the run has ended")

    def damaged(self, error: Exception, what: str) -> PerfkitError:
        """The error to be raised when a library says that the rows, or samples, are broken."""
        return PerfkitError(f"{self.id} is damaged, its {what} cannot be read: {str(error).splitlines()[0]}")

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return for_notebook(self._card().html())

    def _card(self) -> Card:
        """The run in a few lines; one that is damaged says so instead of failing to be shown."""
        try:
            meta = self.meta
        except PerfkitError as error:
            return Card(self._damaged_heading(error))
        try:
            heading, rows = f"run {self.id}: {self.headline}", f"{self.row_count():,}"
        except PerfkitError as error:
            heading, rows = self._damaged_heading(error), "cannot be counted"
        met = sum(threshold.ok for threshold in meta.thresholds)
        facts = [
            ("scenario", meta.scenario.name),
            ("target", meta.target_url),
            ("load", meta.load_words),
            ("rows", rows),
            ("findings", ", ".join(dict.fromkeys(one.kind for one in meta.results.findings or ()))),
            ("thresholds", f"{met} of {len(meta.thresholds)} met" if meta.thresholds else ""),
            ("tags", ", ".join(meta.tags)),
            ("note", meta.note),
        ]
        return Card(heading, [fact for fact in facts if fact[1]])

    def _damaged_heading(self, error: PerfkitError) -> str:
        return f"run {self.id}: {str(error).removeprefix(self.id).lstrip(': ')}"


def require_run(given: object, what: str) -> Run:
    """The run that `what` was given; BadInput for anything else."""
    if not isinstance(given, Run):
        opens = f"perfkit.open_run({given!r:.60})" if isinstance(given, str) else "perfkit.open_run"
        raise BadInput(f"{what} takes a run, not {given!r:.150}; {opens} opens one")
    return given


def _parquet_in(folder: Path) -> list[Path]:
    """The Parquet files of a folder, sorted; OSError for what is no file. Costs no `stat` for each: a live
    view asks for thousands of segments several times a second."""
    found: dict[str, bool] = {}
    # one listing may miss a segment that was put in the place of others, and those too
    while found != (found := _listed(folder)):
        pass
    return [
        folder / name if found[name] else require_regular(folder / name) for name in segments.current(found)
    ]


def _listed(folder: Path) -> dict[str, bool]:
    """The Parquet files of a folder by name, and whether each is a file."""
    try:
        with os.scandir(folder) as entries:
            return {one.name: one.is_file() for one in entries if one.name.endswith(".parquet")}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _read(file: Path, columns: Sequence[str] | None) -> pa.Table:
    names = columns_in(pq.read_schema(file), columns) or ["planned"]  # without a column there are no rows
    return fitted(pq.read_table(file, columns=names))


#: The columns of every file. No table is made here: pyarrow imports pandas for the first one.
SCHEMA = pa.schema({name: type_ for name, type_ in TYPES.items() if name not in OPTIONAL})

#: What a server observed of itself: ns on the run's clock; the unit of a value is in its probe's name.
PROBES_SCHEMA = pa.schema(
    {
        "t": pa.int64(),
        "source": TEXT,
        "probe": TEXT,
        "value": pa.float64(),
        "label": TEXT,
        "request_id": pa.string(),
    },
    metadata={"perfkit_schema": str(SCHEMA_VERSION)},
)


def read_probes(run: Run) -> pa.Table:
    """The samples of a run's server (PROBES_SCHEMA), from probes.parquet or from what is there so far."""
    tables = run.read_each(run.probe_files, lambda file: pq.read_table(file, schema=PROBES_SCHEMA), "probes")
    return pa.concat_tables([PROBES_SCHEMA.empty_table(), *tables]).unify_dictionaries()
