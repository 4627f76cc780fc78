"""Run folders: segments written while a run is on, one Parquet timeline at its end, readable at any moment.

data/runs/20261123-101500-agent_mass_creation-3f2a/
    run.json            what was run, where, with what; state and generator health
    run.lock            held (flock) by the running process, so a killed run is known to be dead
    segments/*.parquet  rows, about once a second, each by temporary name, fsync and rename
    timeline.parquet    all segments merged, at the end
    report/             executed notebooks and HTML
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from perfkit import card
from perfkit.errors import BadInput, PerfkitError, nearest
from perfkit.model import COLUMNS, INSTANTS, SCHEMA_VERSION

_TEXT = pa.dictionary(pa.int32(), pa.string())
_TEXT_COLUMNS = ("scenario", "operation", "phase", "error")
_ROW_GROUP = 512 * 1024


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
            tables = [_EMPTY if columns is None else _EMPTY.select([c for c in columns if c in COLUMNS])]
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
    types |= dict.fromkeys(_TEXT_COLUMNS, _TEXT)
    types |= {"worker": pa.int32(), "user": pa.int32(), "status": pa.int16(), "attempt": pa.uint8()}
    types |= {"error_text": pa.string(), "request_id": pa.string(), "chunks": pa.list_(pa.int32())}
    return pa.schema(types).empty_table()


_EMPTY = _empty()


#: What a server observed of itself: ns on the run's clock; the unit of a value is in its probe's name.
PROBES_SCHEMA = pa.schema(
    {
        "t": pa.int64(),
        "source": _TEXT,
        "probe": _TEXT,
        "value": pa.float64(),
        "label": _TEXT,
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


# -- finding runs ----------------------------------------------------------------------------------


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder with runs/: the one given, else PERFKIT_DATA_DIR, else the nearest data/ here or above.

    A notebook may be executed from anywhere: papermill runs it in the caller's folder, JupyterLab in its own.
    """
    if given is not None and str(given) not in ("", "."):
        return Path(given)
    if told := os.environ.get("PERFKIT_DATA_DIR"):
        return Path(told)
    here = Path.cwd()
    near = (folder / "data" for folder in (here, *here.parents))
    return next((f for f in near if (f / "runs").is_dir() or (f / "sample").is_dir()), Path("data"))


def list_runs(data_dir: Path) -> list[Run]:
    """All runs below data_dir/runs, oldest first; ids tell seconds, run.json the rest."""
    found = [Run(path.parent) for path in (data_dir / "runs").glob("*/run.json")]
    return sorted(found, key=lambda run: (run.id[:15], _created(run), run.id))


def _created(run: Run) -> str:
    with contextlib.suppress(PerfkitError):
        return str(run.meta.get("created"))
    return ""


def find_run(name: str, data_dir: Path, *, whole: bool = False) -> Run:
    """The run meant by a path, an id, an id's start or end, or `latest`; BadInput when none or several.

    `whole`: only a path or a whole id will do, for what cannot be undone.
    """
    if not name:
        raise BadInput("the name of the run is empty; `perfkit ls` lists runs")
    if (Path(name) / "run.json").exists():
        return Run(Path(name).resolve())
    runs = {run.id: run for run in list_runs(data_dir)}
    if name == "latest" and runs and not whole:
        return list(runs.values())[-1]
    found = [i for i in runs if i == name] or [i for i in runs if i.startswith(name) or i.endswith(name)]
    if whole and found and found != [name]:
        raise BadInput(f"give the whole id: {name!r} fits {', '.join(found)}; nothing was done")
    if len(found) == 1:
        return runs[found[0]]
    if found:
        raise BadInput(f"{name!r} could be {', '.join(found)}; give more of the id")
    close = nearest(name, runs)
    hint = f"did you mean {close}?" if close else "`perfkit ls` lists runs"
    raise BadInput(f"no run {name!r} in {data_dir / 'runs'}; {hint}")


def remove_runs(runs: Iterable[Run]) -> Iterator[Run]:
    """Delete run folders, each once, and yield them; when one is still running none is deleted."""
    once = list(dict.fromkeys(runs))
    for run in once:
        if run._is_alive():
            raise BadInput(f"{run.id} is still running; stop it first, nothing was removed")
    for run in once:
        shutil.rmtree(run.path)
        yield run


# -- writing ---------------------------------------------------------------------------------------


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
    text = (*_TEXT_COLUMNS, "source", "probe", "label")
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in text if name in schema.names],
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
    }


def _unified_schema(segments: Iterable[Path]) -> pa.Schema:
    schemas = [_EMPTY.schema, *map(pq.read_schema, segments)]
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
