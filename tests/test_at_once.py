"""Many processes that change the same things at once: what was acknowledged is there afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.errors import BadInput
from perfkit.retention import mark
from perfkit.store import Run, RunFolder, list_runs, locked, update_run_json, write_atomically
from tests.kill_points import Verbs

TAGGERS = 60


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run to be changed."""
    return make_timeline(tmp_path / "data", 50, run_id="20260101-000000-http_get-0000", meta={"tags": []})


@pytest.mark.parametrize("state", ["complete", "running"])
def test_sixty_taggers_lose_no_tag(perfkit: Verbs, run: Run, tmp_path: Path, state: str) -> None:
    """60 processes tag one run at the same moment, also one that was killed: 60 tags, no error."""
    update_run_json(run.path, lambda _: {"state": state})
    calls = [("tag", run.id, f"t{n}", "--data-dir", str(tmp_path / "data")) for n in range(TAGGERS)]
    ended = perfkit.together(calls, below=tmp_path)
    assert [(one.code, one.err) for one in ended] == [(0, "")] * TAGGERS
    assert set(Run(run.path).meta.tags) == {f"t{n}" for n in range(TAGGERS)}
    assert sorted(path.name for path in run.path.iterdir()) == ["run.json", "timeline.parquet"], (
        "nothing is left"
    )


def test_tags_and_notes_at_once(perfkit: Verbs, run: Run, tmp_path: Path) -> None:
    """Adding, removing and noting at the same moment: each is done to what the others have made of it."""
    mark([run], add=[f"old{n}" for n in range(20)])
    data = ("--data-dir", str(tmp_path / "data"))
    calls: list[tuple[str, ...]] = [("tag", run.id, f"new{n}", *data) for n in range(20)]
    calls += [("tag", run.id, "--remove", f"old{n}", *data) for n in range(20)]
    calls += [("tag", run.id, "--note", f"note {n}", *data) for n in range(5)]
    assert {one.code for one in perfkit.together(calls, below=tmp_path)} == {0}
    meta = Run(run.path).meta
    assert set(meta.tags) == {f"new{n}" for n in range(20)}
    assert meta.note in {f"note {n}" for n in range(5)}


@pytest.mark.parametrize("verb", ["rm", "prune"])
def test_tagging_against_removing(perfkit: Verbs, run: Run, tmp_path: Path, verb: str) -> None:
    """A run is tagged, or gone: no error but that it is not there, and no half of it anywhere."""
    data = ("--data-dir", str(tmp_path / "data"))
    remove = ("rm", run.id, *data) if verb == "rm" else ("prune", "--keep", "0", "--yes", *data)
    shutil.copytree(run.path, tmp_path / "copy")
    for _ in range(10):
        calls = [("tag", run.id, f"t{n}", *data) for n in range(5)]
        ended = perfkit.together([*calls, remove, remove], below=tmp_path)
        for one in ended:
            assert (one.code, len(one.err.splitlines())) in ((0, 0), (2, 1)), one
        assert sum(f"removed {run.id}" in one.out for one in ended) == 1
        assert list((tmp_path / "data" / "runs").iterdir()) == []
        shutil.copytree(tmp_path / "copy", run.path)


def test_comparisons_at_once(perfkit: Verbs, run: Run, tmp_path: Path) -> None:
    """Each of 10 comparisons made in the same second has a folder of its own, whole."""
    data = tmp_path / "data"
    other = make_timeline(data, 50, run_id="20260101-000001-http_get-0000", seed=2)
    call = ("compare", run.id, other.id, "--no-report", "--json", "--data-dir", str(data))
    ended = perfkit.together([call] * 10, below=tmp_path)
    assert not [one.err for one in ended if one.err]
    ids = {json.loads(one.out)["id"] for one in ended}
    assert ids == {json.loads(file.read_text())["id"] for file in data.glob("comparisons/*/*")}
    assert len(ids) == 10


def test_two_runs_of_one_second_with_the_same_digits(tmp_path: Path) -> None:
    """Whatever four digits are drawn, a run gets a folder that is its alone."""
    script = """
import secrets, sys, pathlib
from perfkit.store import RunFolder, new_folder
drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"] + [f"{n:04x}" for n in range(100)])
secrets.token_hex = lambda n=None: next(drawn)
import time
time.gmtime = lambda *_, at=time.gmtime(0): at
folders = [RunFolder.create(pathlib.Path(sys.argv[1]), "made") for _ in range(2)]
print(*(folder.path.name for folder in folders))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["19700101-000000-made-aaaa", "19700101-000000-made-bbbb"]


def test_starting_against_pruning(perfkit: Verbs, tmp_path: Path) -> None:
    """Runs that begin while leftovers are removed lose nothing: each is there, locked and whole."""
    script = """
import pathlib, sys
from perfkit.store import Run, RunFolder
made = 0
print("ready", flush=True)
for n in range(300):
    folder = RunFolder.create(pathlib.Path(sys.argv[1]), "made")
    assert (folder.path / "segments").is_dir() and Run(folder.path).is_alive()
    folder.write_meta({"state": "complete", "id": folder.path.name})
    folder.close()
    made += 1
print(made)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    prune = ("prune", "--keep", "1000", "--yes", "--data-dir", str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:
            for one in perfkit.together([prune] * 2, below=tmp_path):
                assert one.code == 0, one.err
        assert process.stdout.read() == "300\n"
    assert len(list_runs(tmp_path)) == 300


def test_a_running_run_answers_at_once(tmp_path: Path) -> None:
    """Tagging a run that is under way is rejected without waiting, though its process holds it."""
    folder = RunFolder.create(tmp_path, "made")
    folder.write_meta({"state": "running", "id": folder.path.name})
    with pytest.raises(BadInput, match="still running"):
        mark([Run(folder.path)], add=["late"])
    folder.close()


def test_a_change_of_a_run_that_was_removed(run: Run) -> None:
    """Told in a line, and nothing is made where it was."""
    shutil.rmtree(run.path)
    with pytest.raises(BadInput, match="was removed in the meantime"):
        update_run_json(run.path, lambda _: {"note": "late"})
    assert not run.path.exists()


def test_a_file_that_is_replaced_keeps_its_content_on_any_failure(tmp_path: Path) -> None:
    """A write that fails leaves the old file and nothing else; one that works has the rights of the umask."""
    file = tmp_path / "file.json"
    before = os.umask(0o027)
    try:
        write_atomically(file, b"old")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as failed:
        write_atomically(tmp_path / "folder", b"new")
    assert failed.value.filename == str(tmp_path / "folder")
    with pytest.raises(TypeError):
        write_atomically(file, "no bytes")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "folder"]
    assert file.read_bytes() == b"old"


def test_a_lock_is_one_although_it_is_removed(tmp_path: Path) -> None:
    """Four processes add 1 to a number 50 times each, under a lock that is removed each time: 200."""
    number, lock = tmp_path / "number", tmp_path / "lock"
    number.write_text("0")
    script = """
import pathlib, sys
from perfkit.store import locked
number, lock = map(pathlib.Path, sys.argv[1:])
for _ in range(50):
    with locked(lock):
        number.write_text(str(int(number.read_text()) + 1))
"""
    command = [sys.executable, "-c", script, str(number), str(lock)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert number.read_text() == "200"
    assert not lock.exists()
    with locked(lock):
        assert lock.exists()
