"""Segments joined while a run is on: fewer files, and every row once at any instant."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perfkit.store import Run, RunFolder, contents_of, segments, write_segment
from perfkit.store.columns import fitted
from perfkit.store.segments import FAN

ROWS = 3


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    made = RunFolder.create(tmp_path, "made")
    yield made
    made.close()


def written(folder: RunFolder, count: int = FAN, writers: int = 1) -> None:
    """Make it a run under way whose writers have written so many segments each."""
    folder.write_meta({"state": "running", "schema": 2})
    for i in range(count):
        for w in range(writers):
            first = (w * count + i) * ROWS
            table = pa.table(
                {
                    "planned": [*range(first, first + ROWS)],
                    "seq": [*range(first, first + ROWS)],
                    "operation": ["get"] * ROWS,
                    "phase": ["measure"] * ROWS,
                }
            )
            write_segment(folder.path, f"w{w}-{i:06}", fitted(table))


def seqs(folder: RunFolder) -> list[int]:
    return sorted(Run(folder.path).table(["seq"])["seq"].to_pylist())


def names(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.path / "segments"))


def test_many_segments_become_few(folder: RunFolder) -> None:
    """Of each writer, FAN segments become one and FAN of those one more; the files are perfkit's, the merge
    reads them in order."""
    written(folder, FAN + 2, writers=2)
    for _ in range(3):
        folder.compact()
    joined = [
        f"w{w}-{i}.parquet" for w in (0, 1) for i in (f"000000-{FAN - 1:06}", f"{FAN:06}", f"{FAN + 1:06}")
    ]
    assert names(folder) == sorted(joined)
    assert not contents_of(folder.path).foreign
    assert seqs(folder) == [*range(2 * (FAN + 2) * ROWS)]
    folder.merge()
    assert pq.read_table(folder.path / "timeline.parquet")["seq"].to_pylist() == seqs(folder)


def test_joined_ones_are_joined(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files grows with the logarithm of a run's length."""
    monkeypatch.setattr(segments, "FAN", 3)
    written(folder, 29)
    for _ in range(20):
        folder.compact()
    assert names(folder) == [
        *("w0-000000-000026.parquet", "w0-000027.parquet", "w0-000028.parquet"),
    ]
    assert seqs(folder) == [*range(29 * ROWS)]


def test_a_segment_on_its_way_is_waited_for(folder: RunFolder) -> None:
    """Segments with a gap are not joined: what is missing would count as held by the joined one."""
    written(folder, FAN + 1)
    (folder.path / "segments" / "w0-000005.parquet").unlink()
    folder.compact()
    assert len(names(folder)) == FAN


class Killed(BaseException):
    """Nothing more happens, as after kill -9."""


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_joining_doubles_no_row(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before the rename, and after it with any number of the joined segments still there, each row is read
    once; the merge, too, takes it once."""
    monkeypatch.setattr(segments, "FAN", 4)
    written(folder, 4)
    calls = iter(range(6))

    def killing(call: object) -> object:
        def called(*args: object, **options: object) -> object:
            if next(calls, moment) == moment:
                raise Killed
            return call(*args, **options)  # type: ignore[operator]

        return called

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killing(os.replace))
        patched.setattr(Path, "unlink", killing(Path.unlink))
        with pytest.raises(Killed):
            folder.compact()
    assert seqs(folder) == [*range(4 * ROWS)]
    folder.merge()
    assert seqs(folder) == [*range(4 * ROWS)]


def test_a_reader_meets_all_rows_while_they_are_joined(folder: RunFolder) -> None:
    """Whoever reads while segments are joined, over and over, sees every row once."""
    written(folder, 4 * FAN)
    done, seen = threading.Event(), list[int]()

    def read() -> None:
        while not done.is_set():
            seen.append(len(Run(folder.path).table(["seq"])))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        folder.compact()
    done.set()
    reader.join()
    assert set(seen) == {4 * FAN * ROWS}
    assert len(names(folder)) == 4
