"""The rows of a run as one table in SQL: here response time and its like are *defined*, and nowhere else.

DuckDB reads the Parquet files in place, the timeline or else the segments; memory is bounded whatever their
number, and what goes beyond it is spilled to temporary files.
"""

from __future__ import annotations

import atexit
import functools
import glob
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perfkit.errors import PerfkitError, unknown
from perfkit.model import INSTANTS, PHASES
from perfkit.stats import SLICES
from perfkit.store import slo
from perfkit.store.columns import ALWAYS, SQL_TYPES, columns_in, require_values
from perfkit.store.fidelity import knows_intended_time

if TYPE_CHECKING:
    import duckdb

    from perfkit.store.reading import Run

_T = TypeVar("_T")
_MEMORY = "256MB"
#: Of every database here: bounded, and no extension is loaded from anywhere.
SETTINGS: dict[str, Any] = {
    "memory_limit": _MEMORY,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
_deciding = threading.RLock()
_in_order: set[tuple[str, ...]] = set()
#: Rows in files of so many bytes together never need more than that.
_FEW_BYTES = 10_000_000
#: What is derived of a row, in SQL. Latencies are in ms, null where an instant was never reached.
DERIVED = {
    "response_ms": "(done - planned) / 1e6",
    "service_ms": "(done - sent) / 1e6",
    # of a step's first attempt: a retry has waited for the server
    "kickoff_ms": "CASE WHEN attempt = 1 THEN (started - planned) / 1e6 END",
    "queue_ms": "(coalesce(sending, sent) - started) / 1e6",
    "ttft_ms": "(first_token - sent) / 1e6",  # of a stream: the first event with content
    "failed": "error IS NOT NULL",
    "ok": "error IS NULL AND done IS NOT NULL",
    # time per output token after the first, by the server's own count of tokens
    "tpot_ms": "CASE WHEN tokens_out > 1 THEN (done - first_token) / 1e6 / (tokens_out - 1) END",
    # a failure that says only that the request takes longer than it was waited for
    "censored": "coalesce(error IN ('timeout', 'cutoff'), false)",
    "measured": "phase = 'measure'",
}


LATENCIES = ("response", "service")


def label(cut: float) -> str:
    """The name of the part of a run that is left without its first `cut`."""
    return f"steady part, without its first {cut:.0%}" if cut else "measured part"


class Part:
    """The requests of one part of a run: of its measured part, or of what follows its first `cut` of it.

    In SQL it is the view `part`: the columns of a timeline and of DERIVED; meets_slo, null where the workload
    has no `slo`; t_s, sent_s, done_s, in seconds since the measured part began; latency_ms and latency_ns, of
    the one asked for; slice, 0 … 39, the time slice of `planned`. The view `r` holds the rows of all phases.
    They are those there were when it was opened. PerfkitError where they are damaged.
    """

    def __init__(
        self,
        run: Run,
        *,
        cut: float = 0.0,
        latency: str = "response",
        phase: str = "measure",
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        if latency not in LATENCIES:
            raise unknown("latency", latency, LATENCIES)
        if phase not in PHASES:
            raise unknown("phase", phase, PHASES)
        self.run, self.cut, self.latency, self.phase = run, cut, latency, phase
        self._connection = connection or _cursor()
        self._retried(self._make_views)

    @property
    def label(self) -> str:
        """Which part of the run it is, in words."""
        return label(self.cut)

    @cached_property
    def window_ns(self) -> tuple[int, int]:
        """The measured part on the run's clock: as recorded, else from the first planned to the last done."""
        span = self.run.meta.measured
        if span.from_ns is not None and span.to_ns is not None:
            return span.from_ns, span.to_ns
        ends = self.row(
            "SELECT min(planned) AS low, max(done) AS high FROM r WHERE phase = $phase", phase=self.phase
        )
        low = ends["low"] or 0
        return low, low if ends["high"] is None else ends["high"]

    @property
    def begin_ns(self) -> int:
        """When the part begins on the run's clock."""
        low, high = self.window_ns
        return low + round(self.cut * (high - low))

    @property
    def span_s(self) -> float:
        """Length of the part, s."""
        return (self.window_ns[1] - self.begin_ns) / 1e9

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many requests there are: n, failed."""
        return self.row("SELECT count(*) AS n, count(*) FILTER (failed) AS failed FROM part")

    def query(self, sql: str, **parameters: Any) -> pa.Table:
        """The result of a query; names and values from outside only as parameters (`$name`)."""
        return self._retried(lambda: self._run(sql, parameters))

    def _retried(self, work: Callable[[], _T]) -> _T:
        """Do it, and anew over the files there are then: segments may be merged away while they are read."""
        import duckdb

        for again in range(3):
            try:
                if again:
                    self._make_views()
                return work()
            except duckdb.IOException as error:
                last = error
        raise self.run.damaged(last, "rows") from None

    def _run(self, sql: str, parameters: dict[str, Any] | None = None, take: str = "to_arrow_table") -> Any:
        """The result of a query, taken by this method of DuckDB's relation; None of a statement."""

        def work() -> Any:
            done = self._connection.sql(sql, params=parameters or None)
            return None if done is None else getattr(done, take)()

        return self._guarded(work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        """Do it; PerfkitError for DuckDB's errors, but duckdb.IOException for a file that is gone."""
        import duckdb

        try:
            return work()
        except duckdb.IOException:
            raise
        except RuntimeError as error:
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from None  # what the handler of a signal has raised in there
        except duckdb.OutOfMemoryException:
            if _spill():
                return self._guarded(work)
            why = f"its rows need more than {_MEMORY} of memory and the room in {tempfile.gettempdir()}"
            raise PerfkitError(f"{self.run.id}: {why}; point TMPDIR to a larger disk") from None
        except duckdb.Error as error:
            if "KeyboardInterrupt" in str(error):  # raised in a callback, which DuckDB took for its own error
                raise KeyboardInterrupt from None
            raise self.run.damaged(error, "rows") from None

    def row(self, sql: str, **parameters: Any) -> dict[str, Any]:
        """The only row of a query, by column."""
        (found,) = self.query(sql, **parameters).to_pylist()
        return dict(found)

    def arrays(self, sql: str, **parameters: Any) -> dict[str, np.ndarray]:
        """The columns of a query as arrays, NaN for null."""
        # not by way of Arrow, which loads pandas: `show` needs none
        found = self._retried(lambda: self._run(sql, parameters, "fetchnumpy"))
        return {
            name: column if type(column) is np.ndarray else column.filled(np.nan)
            for name, column in found.items()
        }

    def coded(self, column: str) -> str:
        """SQL for a column of texts as a dictionary column, its words the most frequent first."""
        self.query(
            f"CREATE OR REPLACE TEMP TYPE {column}_words AS ENUM"
            f" (SELECT {column} FROM part WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1)"
        )
        return f"{column}::{column}_words AS {column}"

    def keep(self, name: str, sql: str, **parameters: Any) -> None:
        """Keep the result of a query as a table for later ones."""
        self.query(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}", **parameters)

    def use(self, name: str, **columns: tuple[str, Iterable[Any]]) -> None:
        """Make a table of a few rows known to later queries; of each column its SQL type and its values."""
        shape = ", ".join(
            f"unnest(${column}::{type_}[]) AS {column}" for column, (type_, _) in columns.items()
        )
        values = {column: list(values) for column, (_, values) in columns.items()}
        self.keep(name, f"SELECT {shape}", **values)

    def _make_views(self) -> None:
        """Make the views, over the files there are now."""
        files = self.run.read_each(self.run.files, _checked, "rows")
        if sum(size for *_, size in files) > _FEW_BYTES:
            _spill()
        there = set[str]().union(*(names for _, names, _ in files))
        _read_through(self.run.files(), self._connection)
        columns = [
            f"{_quoted(name) if name in there else 'NULL'}::{type_} AS {_quoted(name)}"
            for name, type_ in SQL_TYPES.items()
        ]
        derived = DERIVED | {"meets_slo": slo.sql(self.run.meta.slo)}
        if "first_token" not in there:  # schema 1 knows the first byte only
            derived["ttft_ms"] = "CASE WHEN chunks IS NOT NULL THEN (first_byte - sent) / 1e6 END"
        if not knows_intended_time(self.run.meta):  # planned is started: a delay of 0 would be made up
            derived["kickoff_ms"] = "NULL::DOUBLE"
        # glob.escape: a path is a pattern to DuckDB
        self._connection.execute(
            "SET VARIABLE files = $files", {"files": [glob.escape(f) for f, *_ in files]}
        )
        source = (
            "read_parquet(getvariable('files'), union_by_name = true)" if files else "(SELECT 1) WHERE false"
        )
        self._view("r", derived, f"SELECT {', '.join(columns)} FROM {source}", "true")
        if files:
            self._require_values()
        instants = {
            f"{name}_s": f"({column} - {self.window_ns[0]}) / 1e9"
            for name, column in (("t", "planned"), ("sent", "sent"), ("done", "done"))
        }
        begin = "planned" if self.latency == "response" else "sent"
        place = f"floor((planned - {self.begin_ns}) * ({SLICES} / {max(self.span_s, 1e-9) * 1e9}))"
        derived = instants | {
            "latency_ms": f"{self.latency}_ms",
            "latency_ns": f"done - {begin}",
            "slice": f"least(greatest({place}, 0), {SLICES - 1})::INTEGER",
        }
        steady = f" AND planned >= {self.begin_ns}" if self.cut else ""
        self._connection.execute("SET VARIABLE phase = $phase", {"phase": self.phase})
        self._view("part", derived, "r", f"phase = getvariable('phase'){steady}")

    def _require_values(self) -> None:
        """PerfkitError where the rows hold values that no timeline has."""
        told = self._by_statistics()
        if told is None:
            nulls = ", ".join(f"{name}: count(*) - count({name})" for name in ALWAYS)
            furthest = ", ".join(f"{name}: max(abs({name}))" for name in INSTANTS)
            looked = self._run(f"SELECT {{{nulls}}} AS nulls, {{{furthest}}} AS furthest FROM r")
            told = looked["nulls"][0].as_py(), looked["furthest"][0].as_py()
        try:
            require_values(*told)
            self._require_order()
        except ValueError as error:
            raise self.run.damaged(error, "rows") from None

    def _require_order(self) -> None:
        """ValueError for rows that end before they begin; no file is looked at twice."""
        begin = "planned" if self.latency == "response" else "sent"
        files = (begin, *(f"{file} {file.stat().st_mtime_ns}" for file in self.run.files() if file.exists()))
        if files in _in_order:
            return
        backwards = self._run(f"SELECT count(*) AS n FROM r WHERE done < {begin}")
        if wrong := backwards["n"][0].as_py():
            raise ValueError(f"{wrong:,} requests end before they begin")
        _in_order.add(files)

    def _by_statistics(self) -> tuple[dict[str, int], dict[str, int]] | None:
        """How many nulls, and how far from 0, by what the files say of their columns, which DuckDB's filters
        rely on too; None where they do not say it."""
        nulls, furthest = dict.fromkeys(ALWAYS, 0), dict.fromkeys(INSTANTS, 0)
        told = self._run(
            "SELECT path_in_schema AS name, num_values AS n, stats_null_count AS nulls,"
            " stats_min_value AS low, stats_max_value AS high FROM parquet_metadata(getvariable('files'))"
            " WHERE list_contains($names, path_in_schema)",
            {"names": [*nulls, *furthest]},
        )
        for one in told.to_pylist():
            if one["nulls"] is None:
                return None
            if one["name"] in nulls:
                nulls[one["name"]] += one["nulls"]
            if one["name"] in furthest and one["nulls"] < one["n"]:
                try:
                    ends = abs(int(one["low"])), abs(int(one["high"]))
                except (TypeError, ValueError):
                    return None
                furthest[one["name"]] = max(furthest[one["name"]], *ends)
        return nulls, furthest

    def _view(self, name: str, derived: dict[str, str], source: str, where: str) -> None:
        more = ", ".join(f"{sql} AS {column}" for column, sql in derived.items())
        source = f"({source})" if " " in source else source
        sql = f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT *, {more} FROM {source} WHERE {where}"
        self._guarded(lambda: self._connection.execute(sql))


def _quoted(name: str) -> str:
    """A column's name in SQL, where `group` is a word of the language."""
    return f'"{name}"'


def _checked(file: Path) -> tuple[str, list[str], int]:
    """The path of a file, its columns, and its size; ValueError for what is not a timeline's."""
    return str(file), columns_in(pq.read_schema(file), None), file.stat().st_size


def _read_through(files: Iterable[Any], connection: duckdb.DuckDBPyConnection) -> None:
    """Let a database read files that lie elsewhere through fsspec."""
    with _deciding:
        for file in (one for one in files if not isinstance(one, Path)):
            protocol = file.fs.protocol
            protocols = [protocol] if isinstance(protocol, str) else protocol
            if not any(map(connection.filesystem_is_registered, protocols)):
                connection.register_filesystem(file.fs_for_threads)


def _spill() -> bool:
    """Give DuckDB room on disk, in a folder nobody else can read, unless it has; few rows need none."""
    with _deciding, _cursor() as cursor:
        if cursor.sql("SELECT current_setting('temp_directory')").fetchall() != [("",)]:
            return False
        folder = tempfile.mkdtemp(prefix="perfkit-rows-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        cursor.execute("SET temp_directory = $folder", {"folder": folder})
        return True


def _cursor() -> duckdb.DuckDBPyConnection:
    with _deciding:  # one database, whichever threads ask for it first
        return _database().cursor()


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, once a process."""
    import duckdb

    return duckdb.connect(config=SETTINGS)
