"""The columns of a timeline, held to their types: a Parquet file may hold anything under their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from perfkit.model import COLUMNS, INSTANTS, Kind

TEXT = pa.dictionary(pa.int32(), pa.string())
_KINDS: dict[Kind, tuple[pa.DataType, str]] = {
    "int64": (pa.int64(), "BIGINT"),
    "int32": (pa.int32(), "INTEGER"),
    "int16": (pa.int16(), "SMALLINT"),
    "uint8": (pa.uint8(), "UTINYINT"),
    "float64": (pa.float64(), "DOUBLE"),
    "word": (TEXT, "VARCHAR"),
    "text": (pa.string(), "VARCHAR"),
    "int32s": (pa.list_(pa.int32()), "INTEGER[]"),
}
TYPES = {name: _KINDS[kind][0] for name, kind in COLUMNS.items()}
SQL_TYPES = {name: _KINDS[kind][1] for name, kind in COLUMNS.items()}
TEXT_COLUMNS = tuple(name for name, kind in COLUMNS.items() if kind == "word")
ALWAYS = ("planned", "operation", "phase")
#: Instants beyond this (104 days) are no longer exact as floats, and no run lasts so long.
_LONGEST_NS = 2**53


def columns_in(schema: pa.Schema, wanted: Sequence[str] | None) -> list[str]:
    """The columns of a file that are a timeline's, or the wanted ones among them.

    ValueError for two of one name, where one is missing that every row has, and for another type.
    """
    names = [name for name in schema.names if name in TYPES or name.startswith("server_")]
    names = names if wanted is None else [name for name in names if name in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has two columns {twice[0]}")
    if missing := [name for name in ALWAYS if name not in names and (wanted is None or name in wanted)]:
        raise ValueError(f"it has no column {missing[0]}")
    for name in names:
        given, type_ = schema.field(name).type, TYPES.get(name, pa.float64())
        if not _alike(given, type_):
            raise ValueError(f"its column {name} is {str(given)[:60]}, not {type_}")
    return names


def fitted(table: pa.Table) -> pa.Table:
    """The table with each column in its type; ValueError for values that no timeline has."""
    for place, field in enumerate(table.schema):
        wanted = TYPES.get(field.name, pa.float64())
        column = table[place]
        if field.type != wanted:
            column = column.cast(wanted)  # ArrowInvalid, a ValueError: a number too large for its column
            table = table.set_column(place, field.name, column)
        if field.name in ALWAYS:
            _require_all(field.name, column.null_count)
        if field.name in INSTANTS:
            ends = pc.min_max(column).as_py()
            _require_near(field.name, ends.values())
    return table


def require_values(nulls: Mapping[str, int], furthest: Mapping[str, int | None]) -> None:
    """ValueError for values that no timeline has: how many nulls of a column, how far from 0 an instant."""
    for name in ALWAYS:
        _require_all(name, nulls[name])
    for name in INSTANTS:
        _require_near(name, (furthest[name],))


def _require_all(name: str, nulls: int) -> None:
    if nulls:
        raise ValueError(f"its column {name} has {nulls:,} nulls")


def _require_near(name: str, ends: Iterable[int | None]) -> None:
    for end in ends:
        if end is not None and abs(end) > _LONGEST_NS:
            raise ValueError(f"its column {name} reaches {end / 86_400e9:,.0f} days")


def _alike(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps what the values mean: between integers or texts, from nothing at all."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    if pa.types.is_dictionary(wanted):
        wanted = wanted.value_type
    if pa.types.is_list(given) and pa.types.is_list(wanted):
        given, wanted = given.value_type, wanted.value_type
    if pa.types.is_null(given):
        return True
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(given) or pa.types.is_integer(given))
    return any(kind(given) and kind(wanted) for kind in (pa.types.is_integer, _is_text))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
