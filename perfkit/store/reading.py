"""A run folder opened for reading: what run.json says, its rows, its server's samples."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit import card
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import COLUMNS, SCHEMA_VERSION

TEXT = pa.dictionary(pa.int32(), pa.string())
TEXT_COLUMNS = ("scenario", "operation", "phase", "error")


@dataclass(frozen=True)
class Run:
    """A run folder opened for reading; rows are read afresh each time, so a running run shows what it has."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name: sortable by time."""
        return self.path.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        """run.json as it was when first asked for."""
        try:
            meta = json.loads((self.path / "run.json").read_text())
        except FileNotFoundError:
            raise BadInput(f"{self.path} is no run: it has no run.json; `perfkit ls` lists runs") from None
        except (OSError, ValueError) as error:
            raise PerfkitError(f"cannot read {self.path / 'run.json'}: {error}") from None
        if not isinstance(meta, dict) or "state" not in meta:
            raise PerfkitError(f"{self.path / 'run.json'} is none of perfkit's: it has no state")
        if meta.get("schema", 0) > SCHEMA_VERSION:
            raise BadInput(
                f"{self.id} has schema {meta['schema']}; perfkit reads up to {SCHEMA_VERSION}, upgrade it"
            )
        return meta

    @property
    def state(self) -> str:
        """`running`, `complete` or `aborted`; a run whose process died while running is aborted."""
        state = str(self.meta["state"])
        return "aborted" if state == "running" and not self._is_alive() else state

    @property
    def reason(self) -> str | None:
        """Why the run was aborted, if it was."""
        if self.state == "aborted" and self.meta["state"] == "running":
            return "its process ended without closing the run (killed?)"
        reason = self.meta.get("reason")
        return str(reason) if reason else None

    def _is_alive(self) -> bool:
        try:
            with open(self.path / "run.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, from timeline.parquet or else from the segments; a column that is not there is null."""
        for _ in range(3):  # segments may be merged away between listing and reading
            try:
                tables = [_read(file, columns) for file in self.files()]
                break
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError) as error:
                words = str(error).splitlines()[0]
                raise PerfkitError(f"{self.id} is damaged, its rows cannot be read: {words}") from None
        else:
            raise PerfkitError(f"{self.path}: its files keep changing; try again when the run has ended")
        if not tables:
            tables = [EMPTY if columns is None else EMPTY.select([c for c in columns if c in COLUMNS])]
        table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
        for name in columns or ():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), pa.float64()))
        return table if columns is None else table.select(list(columns))

    def rows(self) -> int:
        """How many rows there are, without reading them."""
        return sum(pq.read_metadata(file).num_rows for file in self.files())

    def files(self) -> list[Path]:
        """The Parquet files that hold the rows now."""
        merged = self.path / "timeline.parquet"
        segments = sorted((self.path / "segments").glob("*.parquet"))
        return [merged] if merged.exists() else segments  # read in this order: a merge may end now

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> card.Card:
        """What a person is told of it; a run that is damaged says so instead of failing to be shown."""
        try:
            rows = self.rows()
        except (OSError, pa.ArrowException):
            rows = None
        try:
            return card.of_run(self.id, self.meta, self.state, self.reason, rows)
        except PerfkitError as error:
            return card.Card(f"run {self.id}: {error}")


def _read(file: Path, columns: Sequence[str] | None) -> pa.Table:
    if columns is not None:
        there = set(pq.read_schema(file).names)
        columns = [name for name in columns if name in there]
    return pq.read_table(file, columns=columns)


def _empty() -> pa.Table:
    types: dict[str, pa.DataType] = dict.fromkeys(COLUMNS, pa.int64())
    types |= dict.fromkeys(TEXT_COLUMNS, TEXT)
    types |= {"worker": pa.int32(), "user": pa.int32(), "status": pa.int16(), "attempt": pa.uint8()}
    types |= {"error_text": pa.string(), "request_id": pa.string(), "chunks": pa.list_(pa.int32())}
    return pa.schema(types).empty_table()


EMPTY = _empty()


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
    for _ in range(3):
        merged = run.path / "probes.parquet"
        files = [merged] if merged.exists() else sorted((run.path / "probe_segments").glob("*.parquet"))
        try:
            tables = [pq.read_table(file, schema=PROBES_SCHEMA) for file in files]
        except FileNotFoundError:  # merged away meanwhile
            continue
        except (pa.ArrowException, OSError) as error:
            words = str(error).splitlines()[0]
            raise PerfkitError(f"{run.id} is damaged, its probes cannot be read: {words}") from None
        return pa.concat_tables([PROBES_SCHEMA.empty_table(), *tables]).unify_dictionaries()
    raise PerfkitError(f"{run.path}: its files keep changing; try again when the run has ended")
