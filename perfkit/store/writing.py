"""The writing side of a run folder: nothing a reader meets is ever half written."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.errors import PerfkitError
from perfkit.model import INSTANTS, SCHEMA_VERSION
from perfkit.store.reading import EMPTY, TEXT_COLUMNS, Run, read_probes

_ROW_GROUP = 512 * 1024


class RunFolder:
    """The writing side of a run folder, held by the coordinating process."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, data_dir: Path, scenario: str) -> RunFolder:
        """Make a new, locked run folder; PerfkitError in one line when the place cannot be written."""
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{scenario}-{secrets.token_hex(2)}"
        path = data_dir / "runs" / run_id
        try:
            (path / "segments").mkdir(parents=True)
            lock = open(path / "run.lock", "w")  # noqa: SIM115  held as long as the run lives
        except OSError as error:
            raise PerfkitError(
                f"cannot write runs to {data_dir}: {error.strerror}; choose --data-dir"
            ) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(path, lock)

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Replace run.json in one step."""
        write_atomically(self.path / "run.json", (json.dumps(meta, indent=1, default=str) + "\n").encode())

    def merge(self) -> None:
        """Turn the segments into timeline.parquet; a crash leaves all rows in one or the other.

        Where there is a timeline already it holds every row: segments that are still there were merged.
        """
        segments = sorted((self.path / "segments").glob("*.parquet"))
        merged = self.path / "timeline.parquet"
        if merged.exists():
            shutil.rmtree(self.path / "segments", ignore_errors=True)
            return
        temporary = merged.with_name(".timeline.parquet.part")
        schema = _unified_schema(segments)
        options = _parquet_options(schema)
        try:
            with pq.ParquetWriter(temporary, schema, **options) as writer:
                for table in _row_groups(segments, schema):
                    writer.write_table(table)
            _fsync(temporary)
            os.replace(temporary, merged)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        shutil.rmtree(self.path / "segments", ignore_errors=True)

    def merge_probes(self) -> None:
        """Turn the segments of the server's samples, if there are any, into probes.parquet."""
        segments = self.path / "probe_segments"
        if segments.exists():
            _write_table(self.path / "probes.parquet", read_probes(Run(self.path)))
            shutil.rmtree(segments, ignore_errors=True)

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
    temporary = final.with_name(f".{final.stem}.part")
    try:
        pq.write_table(table, temporary, **_parquet_options(table.schema))
        _fsync(temporary)
        os.replace(temporary, final)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file by temporary name, fsync and rename."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    delta = [name for name in (*INSTANTS, "seq", "step", "t") if name in schema.names]
    text = (*TEXT_COLUMNS, "source", "probe", "label")
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in text if name in schema.names],
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
    }


def _unified_schema(segments: Iterable[Path]) -> pa.Schema:
    schemas = [EMPTY.schema, *map(pq.read_schema, segments)]
    unified = pa.unify_schemas(schemas, promote_options="permissive")
    return unified.with_metadata({"perfkit_schema": str(SCHEMA_VERSION)})


def _row_groups(segments: Iterable[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of `schema` large enough to be worth a row group each."""
    pending: list[pa.Table] = []
    for segment in segments:
        pending.append(_with_schema(pq.read_table(segment), schema))
        if sum(map(len, pending)) >= _ROW_GROUP:
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
