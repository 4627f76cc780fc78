"""Mutators of Parquet files: of their bytes, their columns, their types, their metadata."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from tests.drills import mutate

_HUGE = (2**63 - 1, -(2**63), -1, 0, 10**15)
_TYPES = (pa.string(), pa.int8(), pa.int64(), pa.uint64(), pa.float64(), pa.float16(), pa.bool_(),
pa.binary(),
          pa.date32(), pa.timestamp("ns"), pa.timestamp("us", tz="UTC"), pa.duration("s"), pa.decimal128(38,
          3),
          pa.large_string(), pa.null(), pa.list_(pa.int64()), pa.struct({"a": pa.int64()}),
          pa.dictionary(pa.int32(), pa.string()), pa.map_(pa.string(), pa.int64()))  # fmt: skip


def parquet(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A file damaged in its bytes, or written anew with other columns, types, values or metadata."""
    if rng.random() < 0.4:
        return _bytes(rng, data)
    table = pq.read_table(io.BytesIO(data))
    words = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        table, word = _columns(rng, table)
        words.append(word)
    out = io.BytesIO()
    options: dict[str, Any] = {"compression": rng.choice(("zstd", "snappy", "gzip", "none"))}
    if rng.random() < 0.2:
        options["row_group_size"] = 500
    pq.write_table(table, out, **options)
    return out.getvalue(), "; ".join(words)


def _bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.choice(
        ("any", "any", "footer", "footer", "length", "page", "encrypted", "arrow", "text", "json")
    )
    footer = int.from_bytes(data[-8:-4], "little")
    if kind == "footer":
        at = len(data) - 8 - rng.randrange(footer)
        return data[:at] + rng.randbytes(1) + data[at + 1 :], f"footer, byte {at}"
    if kind == "length":
        length = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, len(data), footer - 1))
        return data[:-8] + length.to_bytes(4, "little") + data[-4:], f"length of its footer {length}"
    if kind == "page":
        at = rng.randrange(4, len(data) - 8 - footer)
        return data[:at] + rng.randbytes(8) + data[at + 8 :], f"page, byte {at}"
    if kind == "encrypted":
        return data[:-4] + b"PARE", kind
    if kind == "arrow":
        out = io.BytesIO()
        pyarrow.feather.write_feather(pq.read_table(io.BytesIO(data)), out)
        return out.getvalue(), "an Arrow file"
    if kind in ("text", "json"):
        return {"text": b"planned,done\n1,2\n", "json": b"{}\n"}[kind], kind
    return mutate.damaged(rng, data)


def _columns(rng: Random, table: pa.Table) -> tuple[pa.Table, str]:
    if not table.num_columns:
        return table, "no columns"
    at = rng.randrange(table.num_columns)
    name, n = table.column_names[at], len(table)
    kind = rng.choice(("drop", "rename", "type", "type", "type", "null", "some null", "huge", "huge",
    "reverse",
                       "twice", "no rows", "one row", "no columns", "text", "extra", "swap", "metadata",
                       "nan",
                       "many", "nested"))  # fmt: skip
    changed = _shape(rng, table, kind, at)
    if changed is not None:
        return changed, f"{kind} {name}"
    column: Any = {
        "null": lambda: pa.nulls(n, table[at].type),
        "some null": lambda: pa.array([v if rng.random() < 0.7 else None for v in table[at].to_pylist()],
                                      table[at].type),
        "huge": lambda: pa.array(rng.choices(_HUGE, k=n), pa.int64()),
        "nan": lambda: pa.array(rng.choices((float("nan"), float("inf"), -1.5), k=n), pa.float64()),
        "text": lambda: pa.array(rng.choices(("", "\x1b[31m", "x" * 20_000, "a\0b", "\u202e", "<b>",
        "measure"), k=n)),
        "nested": lambda: pa.array([[{"a": [1, None]}]] * n),
    }.get(kind, lambda: _cast(rng, table[at], n))()  # fmt: skip
    return table.set_column(at, name, column), f"{kind} {name} ({column.type})"


def _shape(rng: Random, table: pa.Table, kind: str, at: int) -> pa.Table | None:
    """The kinds that change which columns and rows there are."""
    name = table.column_names[at]
    names = list(table.column_names)
    if kind == "drop":
        return table.drop_columns([name])
    if kind == "rename":
        return table.rename_columns(
            [*names[:at], rng.choice((f"{name}x", "", name.upper())), *names[at + 1 :]]
        )
    if kind == "swap":
        other = rng.randrange(len(names))
        names[at], names[other] = names[other], names[at]
        return table.rename_columns(names)
    if kind == "twice":
        return table.append_column(name, table[at])
    if kind == "extra":
        for i in range(300):
            table = table.append_column(f"more_{i}", pa.nulls(len(table), pa.int64()))
        return table
    if kind == "metadata":
        value = rng.choice((b"99", b"x", b"-1", b"", b"1e3", b"\xff\xfe", b"\x1b[31m"))
        return table.replace_schema_metadata({"perfkit_schema": value, "pandas": b"{"})
    if kind == "many":
        return pa.concat_tables([table] * 20)
    shapes = {"no rows": table.slice(0, 0), "one row": table.slice(0, 1), "no columns": table.select([]),
              "reverse": table.take(np.arange(len(table))[::-1])}  # fmt: skip
    return shapes.get(kind)


def _cast(rng: Random, column: Any, n: int) -> Any:
    kind = rng.choice(_TYPES)
    try:
        return column.cast(kind)
    except pa.ArrowException:
        sample: Any = {"string": "x", "list<item: int64>": [1], "struct<a: int64>": {"a": 1}}.get(str(kind))
        try:
            return pa.array([sample] * n, kind)
        except pa.ArrowException:
            return pa.nulls(n, kind)
