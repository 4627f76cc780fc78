"""Rows on their way to Parquet: packed as they happen, turned into Arrow columns elsewhere.

The load path only packs a fixed-size record (half a microsecond); everything of variable size (error
texts, stream chunks, Server-Timing) goes to a side dict that most rows never touch.
"""

from __future__ import annotations

import struct
import threading
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from perfkit.model import ERRORS, INSTANTS, PHASES, SCHEMA_VERSION

#: Stands for "never reached" in the instants until they become null.
NEVER = -(2**63)

_FIELDS = (
    *((name, "q") for name in INSTANTS if name != "first_token"),
    *(("seq", "q"), ("step", "q"), ("bytes_sent", "q"), ("bytes_received", "q")),
    *(("user", "i"), ("status", "h"), ("operation", "H"), ("group", "H")),
    *(("phase", "B"), ("error", "B"), ("attempt", "B")),
)
_RECORD = struct.Struct("<" + "".join(code for _, code in _FIELDS))
DTYPE = np.dtype([(name, f"<{code}" if code != "B" else "u1") for name, code in _FIELDS])
assert DTYPE.itemsize == _RECORD.size

pack_row = _RECORD.pack

#: So many operations of a run have names; all after them are one, so that an id in a name ends somewhere.
MOST_OPERATIONS = 1000
OTHER_OPERATIONS = "(other operations)"
#: The same for groups.
MOST_GROUPS = 1000
OTHER_GROUPS = "(other groups)"

#: Codes of the dictionary columns; an error code of 0 means none.
PHASE_CODE = {name: code for code, name in enumerate(PHASES)}
ERROR_CODE: dict[str | None, int] = {None: 0, **{name: code for code, name in enumerate(ERRORS, 1)}}

_TEXT = pa.dictionary(pa.int32(), pa.string())


class Extra(NamedTuple):
    """What only some rows have."""

    error_text: str | None
    chunks: list[int] | None
    server_ms: dict[str, float] | None
    first_token: int = NEVER
    tokens_out: int | None = None


class Batch(NamedTuple):
    """Rows handed from the load path to the writer; `extras` is keyed by the row's place in the batch."""

    packed: bytearray
    extras: dict[int, Extra]
    operations: tuple[str, ...]
    groups: tuple[str, ...] = ()


class RowBuffer:
    """Collects rows on the load path; `take` hands over what there is and starts afresh."""

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self._taking = threading.Lock()
        self._packed = bytearray()
        self._extras: dict[int, Extra] = {}
        self._operations: dict[str, int] = {}
        self._groups: dict[str, int] = {}

    def operation_code(self, name: str) -> int:
        """The small number that stands for an operation's name in a packed row."""
        return self._operations.setdefault(name, len(self._operations))

    def group_code(self, name: str) -> int:
        """The small number that stands for a group in a packed row; 0 stands for none."""
        return self._groups.setdefault(name, len(self._groups) + 1)

    def add(self, packed: bytes, extra: Extra | None = None) -> None:
        """Append one record made by `pack_row`."""
        so_far = self._packed  # `self._packed +=` would put back what another thread has taken meanwhile
        if extra is not None:
            self._extras[len(so_far) // _RECORD.size] = extra
        so_far += packed
        self.count += 1

    def take(self) -> Batch:
        """Everything added since the last call; where a step holds the loop, another thread may call, too."""
        names = tuple(self._operations), tuple(self._groups)
        with self._taking:
            batch = Batch(self._packed, self._extras, *names)
            self._packed, self._extras = bytearray(), {}
        return batch


def to_table(
    batch: Batch, *, scenario: str, worker: int, id_prefix: str, origin_ns: int, member: int = 0, of: int = 1
) -> pa.Table:
    """A batch as an Arrow table with the timeline's columns; instants become nanoseconds since the origin.

    member, of: the number of the scenario in a mix of so many. Each scenario counts its users and steps from
    0, as it does alone; in the timeline those numbers interleave, so that each is there once. Operations of a
    mix begin with the scenario's name: two that have the same one need not be the same thing.

    `bytes_sent` is the size of a body that was sent to its end, 0 where `sent` is null, even if a part of the
    body went out; `bytes_received` is what came of the response's body.
    """
    rows = np.frombuffer(batch.packed, DTYPE)
    n = len(rows)
    extras = [batch.extras.get(i) for i in range(n)] if batch.extras else None
    instants = {name: rows[name] for name in INSTANTS if name != "first_token"}
    if extras is None:  # most batches of most runs; the loop waits while this thread goes through rows
        instants["first_token"] = np.full(n, NEVER)
    else:
        instants["first_token"] = np.array([e.first_token if e else NEVER for e in extras], np.int64)
    columns: dict[str, pa.Array] = {
        name: pa.array(instants[name] - origin_ns, mask=instants[name] == NEVER, type=pa.int64())
        for name in INSTANTS
    }
    columns["seq"] = pa.array(rows["seq"])
    columns["worker"] = pa.array(np.full(n, worker, np.int32))
    columns["user"] = pa.array(rows["user"] * np.int32(of) + np.int32(member))
    columns["step"] = pa.array(rows["step"] * of + member)
    columns["scenario"] = _text(np.zeros(n, np.int32), (scenario,))
    operations = batch.operations if of == 1 else tuple(f"{scenario}/{one}" for one in batch.operations)
    columns["operation"] = _text(rows["operation"], operations)
    columns["phase"] = _text(rows["phase"], PHASES)
    columns["status"] = pa.array(rows["status"], mask=rows["status"] == 0, type=pa.int16())
    columns["error"] = _text(rows["error"].astype(np.int32) - 1, ERRORS)
    columns["error_text"] = _of(extras, n, "error_text", pa.string())
    columns["bytes_sent"] = pa.array(rows["bytes_sent"])
    columns["bytes_received"] = pa.array(rows["bytes_received"])
    columns["attempt"] = pa.array(rows["attempt"])
    columns["chunks"] = _of(extras, n, "chunks", pa.list_(pa.int32()))
    columns["tokens_out"] = _of(extras, n, "tokens_out", pa.int32())
    columns["request_id"] = pa.array([f"{id_prefix}{seq}" for seq in rows["seq"].tolist()], pa.string())
    if rows["group"].any():
        columns["group"] = _text(rows["group"].astype(np.int32) - 1, batch.groups)
    for name in sorted({key for e in extras or () if e and e.server_ms for key in e.server_ms}):
        values = [e.server_ms.get(name) if e and e.server_ms else None for e in extras or ()]
        columns[f"server_{name}"] = pa.array(values, pa.float64())
    return pa.table(columns, metadata={"perfkit_schema": str(SCHEMA_VERSION)})


def _of(extras: list[Extra | None] | None, n: int, name: str, type_: pa.DataType) -> pa.Array:
    """A column of what only some rows have."""
    if extras is None:
        return pa.nulls(n, type_)
    return pa.array([getattr(e, name) if e else None for e in extras], type_)


def _text(codes: np.ndarray, words: tuple[str, ...]) -> pa.Array:
    """Codes and their words as a dictionary column; a negative code is null."""
    codes = codes.astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(words, pa.string())).cast(
        _TEXT
    )
