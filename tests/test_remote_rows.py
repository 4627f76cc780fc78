"""Rows that lie elsewhere, on file systems of fsspec: read in place, removed with their run."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import compare
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput, MissingExtra, PerfkitError
from perfkit.store import Run, RunFolder, remote, update_run_json, writing
from perfkit.store.remote import RemoteFile
from perfkit.store.rows import Part
from perfkit.store.select import select
from perfkit.store.summary import summarize
from tests.command import perfkit
from tests.small_server import small_server


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of that file system."""
    yield f"{request.param}://{tmp_path / 'bucket'}"
    fsspec.filesystem("memory").store.clear()


def moved(data: Path, place: str, rows: int = 3000, seed: int = 1) -> Run:
    """A run whose rows were put to `place`."""
    run = make_timeline(data, rows, seed=seed)
    folder = RunFolder(run.path)
    folder.move_rows(place)
    folder.close()
    return Run(run.path)


def told(run: Run) -> list[dict[str, str]]:
    """Its summary; the order in which DuckDB adds up moves the last digits."""
    return [
        {k: f"{v:.9g}" if isinstance(v, float) else str(v) for k, v in row.items()}
        for row in summarize(Part(run))
    ]


def test_many_rows_read_by_several_threads_are_whole(tmp_path: Path, place: str) -> None:
    """DuckDB's threads share an open file, and so do those of perfkit: none reads where another went to."""
    run = make_timeline(tmp_path, 400_000)
    sums = "SELECT sum(done)::BIGINT AS done, sum(planned)::BIGINT AS planned, count(*) AS n FROM r"
    whole = Part(run).row(sums)
    folder = RunFolder(run.path)
    folder.move_rows(place)
    folder.close()
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: Part(Run(run.path)).row(sums), range(30)))
    assert found == [whole] * 30


def test_rows_elsewhere_give_the_same_numbers(tmp_path: Path, place: str) -> None:
    """Every number of a run is the same wherever its rows lie; run.json says where."""
    here = make_timeline(tmp_path / "here", 3000)
    there = moved(tmp_path / "there", place)
    assert there.meta.rows_at == f"{place}/{there.id}"
    assert not (there.path / "timeline.parquet").exists()
    assert told(there) == told(here)
    assert there.results == here.results
    assert there.row_count() == here.row_count()
    assert there.table(["seq", "done"]).equals(here.table(["seq", "done"]))


def test_the_verbs_work_on_them(tmp_path: Path, place: str) -> None:
    """`ls`, `show` and a comparison read them; `rm` removes them, and nothing of another run."""
    a, b = (moved(tmp_path, place, seed=seed) for seed in (1, 2))
    listed = perfkit("ls", "--json", data=tmp_path)
    assert [one["rows"] for one in listed.json] == [3060, 3060]
    assert "complete, valid" in perfkit("show", a.id, data=tmp_path).out
    assert compare([a], [b]).verdict
    fs = fsspec.filesystem(place.partition(":")[0])
    assert perfkit("rm", a.id, data=tmp_path).code == 0
    assert not fs.exists(f"{a.meta.rows_at}/timeline.parquet")
    assert fs.exists(f"{b.meta.rows_at}/timeline.parquet")


def test_rows_that_are_gone_or_damaged_are_one_line(tmp_path: Path, place: str) -> None:
    """What is not there, or is no Parquet file, is named with its address."""
    run = moved(tmp_path, place)
    fs, file = fsspec.filesystem(place.partition(":")[0]), f"{run.meta.rows_at}/timeline.parquet"
    fs.pipe_file(file, b"PAR1 nothing")
    with pytest.raises(PerfkitError, match="is damaged") as damaged:
        Part(run)
    fs.rm_file(file)
    with pytest.raises(PerfkitError, match=r"timeline\.parquet cannot be read: FileNotFoundError") as gone:
        Part(Run(run.path))
    assert all(len(str(error.value).splitlines()) == 1 for error in (damaged, gone))


def test_a_place_that_cannot_be_written_leaves_the_rows_here(tmp_path: Path) -> None:
    """Then the run is read from its own folder as before."""
    (tmp_path / "file").write_text("no folder")
    run = make_timeline(tmp_path, 100)
    folder = RunFolder(run.path)
    with pytest.raises(PerfkitError, match="cannot be written, so the rows stay in"):
        folder.move_rows(f"file://{tmp_path}/file/below")
    folder.close()
    assert Run(run.path).row_count() == 102


class _Failing:
    """A file that cannot be written beyond its first bytes, or that is not what was written."""

    def __init__(self, opened: Any, broken: str) -> None:
        self._opened, self._broken = opened, broken

    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def write(self, chunk: bytes) -> None:
        self._opened.write(chunk[:100])
        if self._broken == "interrupted":
            raise KeyboardInterrupt
        if self._broken == "full":
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["full", "shortened", "interrupted", "no room for run.json", "removed"])
def test_a_move_that_fails_leaves_nothing_there(
    broken: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows stay here, run.json does not say that they are elsewhere, half a file there is removed."""
    run = make_timeline(tmp_path, 100)
    fs = fsspec.filesystem(place.partition(":")[0])
    real, folder = fs.open, RunFolder(run.path)
    if broken in ("full", "shortened", "interrupted"):
        failing = lambda path, mode="rb", **more: (  # noqa: E731
            _Failing(real(path, mode, **more), broken) if mode == "wb" else real(path, mode, **more)
        )
        monkeypatch.setattr(fs, "open", failing)
    else:

        def change(*_: object) -> None:
            raise (
                OSError(errno.ENOSPC, "no room") if broken == "no room for run.json" else BadInput("removed")
            )

        monkeypatch.setattr(writing, "update_run_json", change)
    with pytest.raises((PerfkitError, OSError, KeyboardInterrupt)):
        folder.move_rows(place)
    folder.close()
    assert Run(run.path).row_count() == 102
    assert Run(run.path).meta.rows_at == ""
    assert not fs.exists(f"{place}/{run.id}")


def test_rows_are_told_of_once_they_are_there(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever run.json is read, and wherever a kill ends the move, the rows are where it says, or here."""
    run = make_timeline(tmp_path, 100)
    real, seen = writing.update_run_json, []

    def change(path: Path, how: Any) -> None:
        seen.append(RemoteFile(f"{place}/{run.id}/timeline.parquet").stat().st_size)
        assert (path / "timeline.parquet").stat().st_size == seen[-1]
        real(path, how)

    monkeypatch.setattr(writing, "update_run_json", change)
    folder = RunFolder(run.path)
    folder.move_rows(place)
    folder.close()
    assert len(seen) == 1
    assert Run(run.path).row_count() == 102


def test_rows_of_another_run_are_not_overwritten(tmp_path: Path, place: str) -> None:
    """Two machines may give runs the same name in one folder: who comes second keeps its rows."""
    first = moved(tmp_path / "a", place)
    (tmp_path / "b" / "runs").mkdir(parents=True)
    second = make_timeline(tmp_path / "b", 100)
    second.path.rename(second.path.with_name(first.id))
    folder = RunFolder(second.path.with_name(first.id))
    with pytest.raises(PerfkitError, match="rows of another run of that name are there"):
        folder.move_rows(place)
    folder.close()
    assert Run(first.path).row_count() == 3060
    assert Run(folder.path).row_count() == 102


@pytest.mark.parametrize(
    "folder", ["fo ld", "a:b", "it's", "%20", "ünï", "h:80/below", "a  b/c d/"], ids=lambda name: name
)
def test_rows_are_read_in_folders_of_any_name(tmp_path: Path, place: str, folder: str) -> None:
    """Names that a file system has, and that are no pattern, are no reason to refuse it."""
    there = moved(tmp_path, f"{place.partition(':')[0].upper()}://{tmp_path}/{folder}")
    assert there.meta.rows_at.startswith(f"{place.partition(':')[0]}://{tmp_path}/{folder.rstrip('/')}/")
    assert there.row_count() == Part(there).query("SELECT count(*) AS n FROM r")["n"][0].as_py() == 3060
    assert perfkit("rm", there.id, data=tmp_path).code == 0
    assert fsspec.filesystem(place.partition(":")[0]).glob(f"{tmp_path}/**/timeline.parquet") == []


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("memory://host:8020/x", "memory://host:8020/x/id"),
        ("MEMORY://Bucket/X", "memory://Bucket/X/id"),
        ("file:///", "file:///id"),
        ("memory://bucket//", "memory://bucket/id"),
    ],
)
def test_ports_and_capitals_are_taken(url: str, found: str) -> None:
    """The scheme is written small, as file systems know it; all else stays."""
    assert remote.folder_url(url, "id") == found


@pytest.mark.parametrize(
    "url",
    ["ftp://me:secret@host/x", "ftp://me:secret/x", "http://h/x?sig=abc", "memory://a::b", "memory://a/b:",
     "memory://a\nb", "memory://a\x07", "memory://a ", "file:///tmp/a::b", "memory://"],
)  # fmt: skip
def test_credentials_chains_and_what_does_not_print_are_refused(url: str) -> None:
    """Whatever else is allowed; a password is not repeated."""
    with pytest.raises(BadInput, match="is not a URL such as s3://bucket/perfkit; user and pass") as told:
        remote.folder_url(url, "id")
    assert ":secret@" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("file://tmp/xyz", "file:///tmp/xyz"),
        ("file://localhost/tmp/fold", "file:///tmp/fold"),
        ("FILE://LOCALHOST/tmp/fold", "file:///tmp/fold"),
        ("local://x", "file:///x"),
    ],
)
def test_a_file_url_with_two_slashes_is_refused(url: str, meant: str) -> None:
    """It would begin at the current folder, which nobody means."""
    with pytest.raises(BadInput, match=f"current folder; write {meant}, with three slashes"):
        remote.folder_url(url, "id")


@pytest.mark.parametrize("url", ["foo://x/y", "simplecache://x", "reference://x", "dir://x"])
def test_a_file_system_that_cannot_be_is_bad_input(url: str, tmp_path: Path) -> None:
    """Before the load, as any other slip."""
    line = ("run", "--scenario", "http_get", "--target", "http://127.0.0.1:9", "-s", f"spread.folder={url}")
    done = perfkit(*line, data=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert f"{url} cannot be opened: " in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("url", ["memory://x", "Memory://x"])
def test_rows_are_not_put_into_a_memory_that_ends(url: str, tmp_path: Path) -> None:
    """They would end with the process of the run, which is not even Python's own for `perfkit.run`."""
    line = ["--target", "http://127.0.0.1:9", "-s", f"spread.folder={url}"]
    done = perfkit("run", "--scenario", "http_get", *line, data=tmp_path)
    words = f"spread.folder {url!r} is the memory of the run's process, and its rows would end with it"
    assert (done.code, done.err) == (2, f"perfkit: options: {words}; give a folder that lasts\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "url", ["/plain/path", "s3://key:secret@bucket/x", "zip://x::http://y", "memory://*", ""]
)
def test_a_folder_that_is_no_url_is_rejected(url: str) -> None:
    """Nor are credentials taken: they would stand in run.json."""
    with pytest.raises(BadInput, match="is not a URL such as s3://bucket/perfkit"):
        remote.folder_url(url, "id")


def test_an_unknown_file_system_is_one_line() -> None:
    """fsspec says what is missing."""
    with pytest.raises(PerfkitError, match="nosuch://x cannot be opened: ValueError: Protocol not known"):
        remote.folder_url("nosuch://x", "id")


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"needs fsspec.*perfkit\[dask\]"):
        remote.folder_url("memory://never-asked", "id")


def test_removing_a_run_removes_nothing_of_others(tmp_path: Path) -> None:
    """A run.json that names a folder which is not the run's own is damaged: nothing there is touched."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "timeline.parquet").write_text("mine")
    run = make_timeline(tmp_path, 100)
    document = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(document | {"rows_at": f"file://{precious}"}))
    assert perfkit("rm", run.id, data=tmp_path).code == 1
    assert (precious / "timeline.parquet").read_text() == "mine"


def test_a_run_puts_its_rows_into_its_folder(tmp_path: Path) -> None:
    """`spread.folder`: when the run ends its rows lie there, its figures beside run.json."""
    with small_server() as server:
        given = {
            "scenario": "http_get",
            "target": {"url": server.url},
            "users": {"count": 2, "iterations": 5},
            "spread": {"folder": f"file://{tmp_path}/bucket"},
        }
        run = execute(*complete(given, "test"), data_dir=tmp_path)
    assert (tmp_path / "bucket" / run.id / "timeline.parquet").exists()
    assert not (run.path / "timeline.parquet").exists()
    assert (Run(run.path).state, Run(run.path).row_count()) == ("complete", 5)


def test_a_folder_is_checked_before_the_load() -> None:
    """A slip in it costs no run."""
    with pytest.raises(BadInput, match="is not a URL such as"):
        complete(
            {
                "scenario": "http_get",
                "target": {"url": "http://127.0.0.1"},
                "users": {"count": 1, "iterations": 1},
                "spread": {"folder": "/nfs"},
            },
            "test",
        )


def test_sql_reads_them_too(tmp_path: Path, place: str) -> None:
    """A question of one's own is answered wherever the rows lie."""
    there = moved(tmp_path, place)
    assert select(there, "SELECT count(*) AS n FROM all_requests", {})["n"][0].as_py() == 3060


def test_a_folder_out_of_reach_keeps_nobody_from_removing_rows_that_are_here(tmp_path: Path) -> None:
    """Where a move has failed the rows are here, and the run can be removed."""
    run = make_timeline(tmp_path, 100)
    update_run_json(run.path, lambda _: {"rows_at": f"nothing://bucket/{run.id}"})
    assert perfkit("rm", run.id, data=tmp_path).code == 0
    assert not run.path.exists()


def test_who_opened_a_run_before_its_rows_were_moved_still_finds_them(tmp_path: Path, place: str) -> None:
    """What run.json said when it was read is no reason to see no rows."""
    before = make_timeline(tmp_path, 3000)
    assert before.meta.rows_at == ""
    folder = RunFolder(before.path)
    folder.move_rows(place)
    folder.close()
    assert before.row_count() == Part(before).query("SELECT count(*) AS n FROM r")["n"][0].as_py() == 3060
