"""Questions of one's own in SQL: they read the rows of one run and can reach no other file.

Each query gets a database of its own, in which nothing but the run's files can be opened, no setting can be
changed, and one SELECT is carried out, for so long and up to so many rows.
"""

from __future__ import annotations

import glob
import re
import tempfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from perfkit.errors import BadInput, PerfkitError
from perfkit.store.rows import SETTINGS, Part

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from perfkit.store.reading import Run

#: What a query is given: the views of `Part` under names that say what is in them.
VIEWS = {"requests": "part", "all_requests": "r"}
MOST_S = 60.0  #: a query that takes longer is ended
MOST_ROWS = 10_000_000  #: of a result, which lies in memory
_EXAMPLE = "run.sql('SELECT operation, count(*) FROM requests GROUP BY operation')"


def select(run: Run, sql: str, parameters: Mapping[str, Any], latency: str = "response") -> pa.Table:
    """Return the result of one SELECT over `requests` (the measured part) and `all_requests` (every phase).

    Columns: those of the timeline and of `store.rows.DERIVED`; `$name` in the query is a parameter. BadInput
    for anything but one SELECT, for a mistake in it, for what it may not reach, beyond MOST_S or MOST_ROWS.
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

    ending = threading.Timer(MOST_S, connection.interrupt)
    ending.daemon = True
    ending.start()
    try:
        statements = connection.extract_statements(sql)
        kinds = {one.type for one in statements}
        if len(statements) != 1 or not kinds <= {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}:
            pivot = "; PIVOT needs its values: ON status IN (200, 404)" * bool(_PIVOT(sql))
            raise BadInput(f"run.sql answers one SELECT and changes nothing{pivot}; write {_EXAMPLE}")
        given = {name: _plain(value) for name, value in parameters.items()}
        done = connection.sql(sql, params=given or None).limit(MOST_ROWS + 1)
        return _require_few(done.to_arrow_table())
    except duckdb.IOException:
        raise
    except duckdb.InterruptException:
        words = f"run.sql: the query was ended, it took longer than {MOST_S:g} s"
        raise BadInput(f"{words}; read fewer rows, or join and group less") from None
    except duckdb.OutOfMemoryException:
        raise PerfkitError(
            f"the query needs more memory or room in {tempfile.gettempdir()} than there is; select fewer rows"
        ) from None
    except duckdb.PermissionException:
        raise BadInput(f"run.sql reads the rows of its run and no other file; write {_EXAMPLE}") from None
    except duckdb.Error as error:
        raise BadInput(f"run.sql: {_words(error, sql)}; tables: {', '.join(VIEWS)}") from None
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None
    finally:
        ending.cancel()


def _require_few(found: pa.Table) -> pa.Table:
    """The result of a query, BadInput where it is too large."""
    if found.num_rows > MOST_ROWS:
        words = f"run.sql: the result has more than {MOST_ROWS:,} rows"
        raise BadInput(f"{words}; count and group them in the query, or end it with LIMIT")
    return found


def _plain(value: Any) -> Any:
    """A parameter as DuckDB takes it: numpy's numbers as Python's."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


_PIVOT = re.compile(r"\bPIVOT\b", re.IGNORECASE).search


def _words(error: Exception, sql: str) -> str:
    """What DuckDB says of a query, without where, and without tables that are not the caller's."""
    words = " ".join(str(error).partition("\n\nLINE")[0].split())
    if found := re.search(r'Table with name .* does not exist! Did you mean "([^"]*)"\?', words):
        if found[1] not in VIEWS:
            words = words[: found.start()] + found[0].partition("! Did")[0]
    elif (found := re.search(r'column "([^"]*)" not found', words)) and f'"{found[1]}"' in sql:
        name = found[1].replace("'", "''")
        words += f"; a text stands in single quotes: '{name}'"
    return words
