"""Run folders: what is written, what is read, at every stage of a run's life."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perfkit.drive.rows import NEVER, Batch, Extra, RowBuffer, pack_row, to_table
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import COLUMNS, INSTANTS, OPTIONAL
from perfkit.store import Run, RunFolder, find_run, list_runs, remove_runs, write_segment


def segment(number: int, operation: str = "get", extra: Extra | None = None, rows: int = 5) -> pa.Table:
    """A table as the writer makes it."""
    buffer = RowBuffer()
    code = buffer.operation_code(operation)
    for i in range(rows):
        seq = number * rows + i
        buffer.add(
            pack_row(seq, seq + 1, seq + 2, seq + 2, NEVER, seq + 4, seq, i, 0, 10, 0, 200, code, 0, 2, 0, 1),
            extra,
        )
    return to_table(buffer.take(), scenario="made", worker=0, id_prefix="ab-", origin_ns=0)


def rows_handed_over(method: str, at: int) -> float:
    """How many of the rows are handed over when another thread takes them at this instruction."""
    row, buffer = pack_row(*[0] * 17), RowBuffer()
    buffer.add(row)
    batches: list[Batch] = []
    other = threading.Thread(target=lambda: batches.append(buffer.take()))
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left == 0 and other.ident is None:
            other.start()
            other.join(0.005)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        buffer.add(row) if method == "add" else batches.append(buffer.take())
    finally:
        sys.settrace(before)
    if other.ident is not None:
        other.join()
    batches.append(buffer.take())
    return sum(len(one.packed) for one in batches) / len(row)


@pytest.mark.parametrize(("method", "rows"), [("add", 2), ("take", 1)])
def test_rows_are_handed_over_once_whoever_takes_them(method: str, rows: int) -> None:
    """A second thread that takes them between any two instructions of the first makes none of them double."""
    assert {rows_handed_over(method, at) for at in range(1, 70)} == {rows}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run under way, with three segments whose operations and server columns differ."""
    made = RunFolder.create(tmp_path, "made")
    made.write_meta({"state": "running", "schema": 1})
    write_segment(made.path, "w0-000000", segment(0))
    write_segment(made.path, "w0-000001", segment(1, "post", Extra("boom", [1, 2], {"db": 1.5})))
    write_segment(made.path, "w1-000000", segment(2, "get", Extra(None, None, {"app": 2.5})))
    yield made
    made.close()


def test_the_columns_are_the_documented_ones() -> None:
    """to_table has the timeline's columns and types, those that are optional only where they were set, and
    null where nothing was reached."""
    table = segment(0, extra=Extra("x", [1], {"db": 1.0}))
    assert table.column_names == [*(name for name in COLUMNS if name not in OPTIONAL), "server_db"]
    assert all(table.schema.field(name).type == pa.int64() for name in INSTANTS)
    assert table["first_byte"].null_count == 5
    assert table["error"].null_count == 5
    assert table["chunks"].to_pylist() == [[1]] * 5
    assert table["request_id"].to_pylist() == [f"ab-{i}" for i in range(5)]
    for name in ("scenario", "operation", "phase", "error"):
        assert pa.types.is_dictionary(table.schema.field(name).type)


def test_merging_changes_no_value(folder: RunFolder) -> None:
    """The merged timeline holds exactly the rows of the segments; late columns begin with nulls."""
    run = Run(folder.path)
    before = run.table().to_pylist()
    folder.merge()
    assert run.files() == [folder.path / "timeline.parquet"]
    after = run.table().to_pylist()
    assert sorted(after, key=lambda r: r["seq"]) == sorted(
        [{name: row.get(name) for name in after[0]} for row in before], key=lambda r: r["seq"]
    )
    assert {row["operation"] for row in after} == {"get", "post"}
    assert [row["server_db"] for row in after if row["operation"] == "post"] == [1.5] * 5


def test_merging_twice_loses_nothing(folder: RunFolder) -> None:
    """A second merge, with no segment left or with segments that could not be removed, changes nothing."""
    kept = (folder.path / "segments" / "w0-000000.parquet").read_bytes()
    folder.merge()
    folder.merge()
    assert Run(folder.path).row_count() == 15
    (folder.path / "segments").mkdir()
    (folder.path / "segments" / "w0-000000.parquet").write_bytes(kept)
    folder.merge()
    assert Run(folder.path).row_count() == 15
    assert not (folder.path / "segments").exists()


def test_how_parquet_is_written(folder: RunFolder) -> None:
    """zstd, dictionaries for text, deltas for instants, and the schema's version in the file."""
    folder.merge()
    file = pq.ParquetFile(folder.path / "timeline.parquet")
    assert file.schema_arrow.metadata[b"perfkit_schema"] == b"2"
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in columns["planned"].encodings
    assert "RLE_DICTIONARY" in columns["operation"].encodings


def test_an_empty_run_has_an_empty_table(tmp_path: Path) -> None:
    """No rows at all: reading and merging work, with every column there."""
    folder = RunFolder.create(tmp_path, "made")
    folder.write_meta({"state": "running", "schema": 1})
    for _ in range(2):
        table = Run(folder.path).table(["planned", "operation", "server_none"])
        assert (len(table), table.num_columns) == (0, 3)
        if (folder.path / "segments").exists():
            folder.merge()
    folder.close()
    assert Run(folder.path).table().column_names == [name for name in COLUMNS if name not in OPTIONAL]


def test_half_a_segment_is_never_met(folder: RunFolder) -> None:
    """A part file, as a crash leaves it, is not read."""
    (folder.path / "segments" / ".w0-000002.parquet.part").write_bytes(b"PAR1 half")
    assert Run(folder.path).row_count() == 15


def test_reading_while_segments_are_merged_away(folder: RunFolder) -> None:
    """A reader that meets the merge sees all rows, before or after, never fewer."""
    run = Run(folder.path)
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(len(run.table(["seq"])))

    reader = threading.Thread(target=read)
    reader.start()
    while len(seen) < 3:
        pass
    folder.merge()
    count = len(seen)
    while len(seen) < count + 3:
        pass
    done.set()
    reader.join()
    assert set(seen) == {15}


def test_states(folder: RunFolder) -> None:
    """running while its process holds the lock, aborted when that is gone, else what run.json says."""
    assert Run(folder.path).state == "running"
    code = "import sys, pathlib, perfkit.store as s; print(s.Run(pathlib.Path(sys.argv[1])).state)"
    command = [sys.executable, "-c", code, str(folder.path)]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "running", "also seen by another process"
    folder.close()
    assert Run(folder.path).state == "aborted"
    assert "killed" in (Run(folder.path).reason or "")
    folder.write_meta({"state": "complete", "schema": 1})
    assert (Run(folder.path).state, Run(folder.path).reason) == ("complete", None)


def test_finding_runs(tmp_path: Path) -> None:
    """By path, id, start, end, latest; several or none are told with the way out."""
    ids = ["20260101-000000-one-aaaa", "20260102-000000-two-bbbb"]
    for one in ids:
        (tmp_path / "runs" / one).mkdir(parents=True)
        (tmp_path / "runs" / one / "run.json").write_text(json.dumps({"state": "complete", "schema": 1}))
    assert [run.id for run in list_runs(tmp_path)] == ids
    for name in (ids[0], "20260101", "aaaa", str(tmp_path / "runs" / ids[0])):
        assert find_run(name, tmp_path).id == ids[0]
    assert find_run("latest", tmp_path).id == ids[1]
    with pytest.raises(BadInput, match="could be"):
        find_run("2026", tmp_path)
    with pytest.raises(BadInput, match="did you mean 20260102-000000-two-bbbb"):
        find_run("20260102-000000-two-bbbc", tmp_path)


def test_broken_runs_are_told(tmp_path: Path) -> None:
    """No run.json, a broken one, and one of a newer schema: a line each."""
    with pytest.raises(BadInput, match=r"run\.json is missing"):
        _ = Run(tmp_path).meta
    (tmp_path / "run.json").write_text("{half")
    with pytest.raises(PerfkitError, match="is not JSON"):
        _ = Run(tmp_path).meta
    (tmp_path / "run.json").write_text('{"schema": 99, "state": "complete"}')
    with pytest.raises(BadInput, match="upgrade"):
        _ = Run(tmp_path).meta


def test_a_running_run_is_not_removed(folder: RunFolder) -> None:
    """rm refuses a run under way, and removes it when it has ended."""
    with pytest.raises(BadInput, match="still running"):
        list(remove_runs([Run(folder.path)]))
    folder.close()
    assert len(list(remove_runs([Run(folder.path), Run(folder.path)]))) == 1, "named twice, removed once"
    assert not folder.path.exists()


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    """A file where the folder should be: one line that names --data-dir."""
    (tmp_path / "file").touch()
    with pytest.raises(PerfkitError, match="--data-dir"):
        RunFolder.create(tmp_path / "file", "made")


def test_damaged_rows_are_told_by_all_who_count_or_read_them(folder: RunFolder) -> None:
    """A segment that is not Parquet: one line from the count, the rows and the card alike."""
    (folder.path / "segments" / "w0-000002.parquet").write_bytes(b"PAR1 half")
    run = Run(folder.path)
    for read in (run.row_count, run.table):
        with pytest.raises(PerfkitError, match="is damaged, its rows cannot be read"):
            read()
    assert "cannot be counted" in repr(run)
