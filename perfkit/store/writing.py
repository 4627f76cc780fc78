"""The writing side of a run folder: nothing a reader meets is ever half written."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.errors import BadInput, PerfkitError, no_place
from perfkit.model import INSTANTS, SCHEMA_VERSION
from perfkit.store import segments
from perfkit.store.columns import TEXT_COLUMNS
from perfkit.store.files import hold, locked, new_folder, replacing, write_json
from perfkit.store.metadata import Metadata
from perfkit.store.reading import SCHEMA, Run, read_probes
from perfkit.store.remote import folder_url, move_timeline

ROW_GROUP = 128 * 1024  # rows
#: Changes rows of one worker on their way into the timeline.
Correct = Callable[[pa.Table], pa.Table]
_LARGE_GROUP = 64_000_000  # bytes of fewer rows, which have long error texts


class RunFolder:
    """The writing side of a run folder, held by the coordinating process."""

    def __init__(self, path: Path) -> None:
        """Lock a folder that was just made; FileNotFoundError when it was cleaned up before."""
        self.path = path
        self._lock = open(hold(path / "run.lock"), "w")  # noqa: SIM115  held as long as the run lives
        #: In the lock's file: who reads it there sees this folder, and not another of its name.
        self.nonce = secrets.token_hex(16)
        self._lock.write(self.nonce)
        self._lock.flush()

    @classmethod
    def create(cls, data_dir: Path, scenario: str) -> RunFolder:
        """Make a new, locked run folder; PerfkitError in one line when the place cannot be written."""
        try:
            while True:
                began = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
                path = new_folder(data_dir / "runs", f"{began}-{scenario}")
                with contextlib.suppress(FileNotFoundError):  # cleaned up as a leftover
                    folder = cls(path)
                    (path / "segments").mkdir()
                    return folder
        except OSError as error:
            kind = BadInput if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) else PerfkitError
            raise kind(no_place(f"write runs to {data_dir}", error)) from None

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Replace run.json in one step."""
        write_json(self.path / "run.json", meta)

    def merge(self, correct: Correct = lambda rows: rows) -> None:
        """Turn the segments into timeline.parquet; a crash leaves all rows in one or the other.

        correct: called with rows of one segment at a time, to put instants of other hosts on our clock.
        Where there is a timeline already it holds every row: segments that are still there were merged.
        """
        if not (self.path / "timeline.parquet").exists():
            _join(Run(self.path).files(), self.path / "timeline.parquet", correct)
        shutil.rmtree(self.path / "segments", ignore_errors=True)

    def compact(self) -> None:
        """Join some segments that are due to be, so that a long run has few of them; a crash, or a reader,
        meets all rows once. Where the disk is full they stay as they are."""
        with contextlib.suppress(OSError):
            if found := segments.due(self.path / "segments"):
                name, files = found
                _join(files, self.path / "segments" / f"{name}.parquet")
                for file in files:
                    file.unlink()

    def rows_by_worker(self, processes: int) -> Counter[int]:
        """How many rows each worker's segments hold now."""
        found: Counter[int] = Counter()
        for name in segments.current(file.name for file in (self.path / "segments").glob("w*.parquet")):
            file = self.path / "segments" / name
            found[int(name[1:].partition("-")[0]) % processes] += pq.read_metadata(file).num_rows
        return found

    def move_rows(self, folder: str) -> None:
        """Put the timeline into `folder`, a URL, where it is read from then on; a crash, or a folder that
        cannot be written (PerfkitError), leaves it here."""
        url = folder_url(folder, self.path.name)
        move_timeline(self.path, url, lambda: update_run_json(self.path, lambda _: {"rows_at": url}))

    def merge_probes(self) -> None:
        """Turn the segments of the server's samples, if there are any, into probes.parquet."""
        segments = self.path / "probe_segments"
        if segments.exists():
            _write_table(self.path / "probes.parquet", read_probes(Run(self.path)))
            shutil.rmtree(segments, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder, in which there is no run."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Release the lock; whoever reads the state from now on sees what run.json says."""
        self._lock.close()


def write_segment(folder: Path, name: str, table: pa.Table) -> None:
    """Write one segment so that a reader, or a crash, never meets half of it."""
    _write_table(folder / "segments" / f"{name}.parquet", table)


def write_probe_segment(folder: Path, number: int, table: pa.Table) -> None:
    """The same for samples of the server."""
    (folder / "probe_segments").mkdir(exist_ok=True)
    _write_table(folder / "probe_segments" / f"{number:06d}.parquet", table)


def _write_table(final: Path, table: pa.Table) -> None:
    with replacing(final) as temporary:
        pq.write_table(table, temporary, **parquet_options(table.schema))


def update_run_json(path: Path, change: Callable[[Metadata], Mapping[str, Any]]) -> None:
    """Put what `change` returns into the run.json of the run folder `path`; no change of others gets lost.

    change: called with what run.json says, while no other process changes it. BadInput when the run is not
    there any more.
    """
    try:
        with locked(path / "run.json.lock"):
            meta = Run(path).meta
            write_json(path / "run.json", {**meta.raw, **change(meta)})
    except FileNotFoundError:
        raise BadInput(f"{path.name} was removed in the meantime; `perfkit ls` lists runs") from None


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How columns are packed: whole numbers as differences, which are small and quickly read; words as codes.

    The least and the greatest value are kept of the columns that rows are looked for by.
    """
    delta = [field.name for field in schema if field.type in (pa.int64(), pa.int32())]
    text = (*TEXT_COLUMNS, "source", "probe", "label")
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in text if name in schema.names],
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
        "write_statistics": [name for name in (*INSTANTS, *text) if name in schema.names],
    }


def _join(files: Sequence[Path], target: Path, correct: Correct = lambda rows: rows) -> None:
    """Write the rows of some Parquet files, in their order and corrected, to a new one."""
    unified = pa.unify_schemas([SCHEMA, *map(pq.read_schema, files)], promote_options="permissive")
    schema = unified.with_metadata({"perfkit_schema": str(SCHEMA_VERSION)})
    with (
        replacing(target) as temporary,
        pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer,
        ThreadPoolExecutor(1) as ahead,
    ):
        groups = _row_groups(files, schema, correct)
        following = ahead.submit(next, groups, None)
        while (table := following.result()) is not None:
            following = ahead.submit(next, groups, None)  # read while this one is packed
            writer.write_table(table)


def _row_groups(files: Iterable[Path], schema: pa.Schema, correct: Correct) -> Iterator[pa.Table]:
    """Tables of `schema` large enough to be worth a row group each."""
    pending: list[pa.Table] = []
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = correct(file.read_row_group(group, use_threads=False))
                pending.append(_with_schema(rows, schema))
                size = sum(table.nbytes for table in pending)
                if sum(map(len, pending)) >= ROW_GROUP or size >= _LARGE_GROUP:
                    yield pa.concat_tables(pending)
                    pending = []
    if pending:
        yield pa.concat_tables(pending)


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    there = set(table.column_names)
    return pa.table(
        [table[f.name].cast(f.type) if f.name in there else pa.nulls(len(table), f.type) for f in schema],
        schema=schema,
    )
