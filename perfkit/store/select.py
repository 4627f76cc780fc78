"""Questions of one's own in SQL: they read the rows of one run and can reach nothing else.

Each query gets a database of its own, in which nothing but the run's files can be opened, no setting can be
changed, and one SELECT is carried out.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfkit.errors import BadInput, PerfkitError
from perfkit.store.rows import SETTINGS, Part

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from perfkit.store.reading import Run

#: What a query is given: the views of `Part` under names that say what is in them.
VIEWS = {"requests": "part", "all_requests": "r"}
_EXAMPLE = "run.sql('SELECT operation, count(*) FROM requests GROUP BY operation')"


def select(run: Run, sql: str, parameters: Mapping[str, Any], latency: str = "response") -> pa.Table:
    """Return the result of one SELECT over `requests` (the measured part) and `all_requests` (every phase).

    Columns: those of the timeline and of `store.rows.DERIVED`; `$name` in the query is a parameter. BadInput
    for anything but one SELECT, for a mistake in it, and for what it may not reach.
    """
    import duckdb

    if not isinstance(sql, str):
        raise BadInput(f"run.sql takes a SELECT as text, not {sql!r:.60}; write {_EXAMPLE}")
    for _ in range(3):
        with (
            tempfile.TemporaryDirectory(prefix="perfkit-sql-") as folder,
            duckdb.connect(config={**SETTINGS, "temp_directory": folder}) as connection,
        ):
            try:
                _lock(connection, Part(run, latency=latency, connection=connection))
                return _carried_out(connection, sql, parameters)
            except duckdb.IOException as error:  # segments were merged away meanwhile
                last = error
    raise run.damaged(last, "rows")


def _lock(connection: duckdb.DuckDBPyConnection, part: Part) -> None:
    """Leave the connection nothing but the files of the run, for good."""
    for name, view in VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS FROM {view}")
    files = [str(file) for file in part.run.files()]
    connection.execute("SET allowed_paths = $files", {"files": [*files, *map(glob.escape, files)]})
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _carried_out(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
    import duckdb

    try:
        statements = connection.extract_statements(sql)
        kinds = {one.type for one in statements}
        if len(statements) != 1 or not kinds <= {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}:
            raise BadInput(f"run.sql answers one SELECT and changes nothing; write {_EXAMPLE}")
        return connection.sql(sql, params=dict(parameters) or None).to_arrow_table()
    except duckdb.IOException:
        raise
    except duckdb.OutOfMemoryException:
        raise PerfkitError(
            f"the query needs more memory or room in {tempfile.gettempdir()} than there is; select fewer rows"
        ) from None
    except duckdb.PermissionException:
        raise BadInput(f"run.sql reads the rows of its run and no other file; write {_EXAMPLE}") from None
    except duckdb.Error as error:
        words = " ".join(str(error).partition("\n\nLINE")[0].split())
        raise BadInput(f"run.sql: {words}; tables: {', '.join(VIEWS)}") from None
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None
