"""What `rm` and `prune` remove, what they never touch, and what a kill at any moment leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options
from perfkit.compare.experiment import compare_and_keep
from perfkit.errors import BadInput
from perfkit.retention import plan
from perfkit.store import Run, RunFolder, find_run, list_runs, remove_leftovers, remove_runs, survey
from tests.kill_points import Verbs

OWN = (
    *("run.lock", "stop", "probes.parquet", ".run.json.0a1b2c3d.part", "segments/000000.parquet"),
    *("segments/w0-000001.parquet", "segments/setup-000000.parquet", "segments/.w0-000002.0a1b2c3d.part"),
    *("report/run_report.ipynb", "report/run_report.html", "report/server_health.html"),
    "probe_segments/000001.parquet",
)
FOREIGN = (
    *("notes.txt", ".ipynb_checkpoints/notes-checkpoint.txt", "run.json.bak", "segments/mine.parquet"),
    *("report/.ipynb_checkpoints/run_report-checkpoint.ipynb", "report/analysis.ipynb", "report/page.html"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that is still to be made."""
    return tmp_path / "data"


@pytest.fixture
def made(data: Path) -> Callable[..., Run]:
    """Makes a run with an id that sorts as made, and all that perfkit writes into its folder."""
    numbers = iter(range(100))

    def make(**meta: object) -> Run:
        run = make_timeline(data, 50, run_id=f"20260101-0000{next(numbers):02}-http_get-0000", meta=meta)
        for name in OWN:
            file = run.path / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"")
        executed = {"cells": [], "metadata": {"papermill": {"output_path": "mine.ipynb"}}}
        (run.path / "report" / "mine.ipynb").write_text(json.dumps(executed))
        (run.path / "report" / "mine.html").write_text('<meta name="generator" content="perfkit 0.1">')
        return run

    return make


def put_foreign(run: Run) -> dict[str, bytes]:
    """Files of somebody else's in a run folder; their contents by name."""
    for name in FOREIGN:
        file = run.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"mine: {name}" if not name.endswith(".ipynb") else '{"cells": [], "metadata": {}}')
    return {name: (run.path / name).read_bytes() for name in FOREIGN}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and link below a folder with its content, by its path."""
    return {
        str(path.relative_to(folder)): None if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def folder_like_a_run(path: Path, **told: object) -> Path:
    """A folder with a thesis and a run.json in it."""
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("ten years of work")
    (path / "run.json").write_text(json.dumps({"schema": 1, "state": "complete", "id": path.name} | told))
    return path


# -- what may be removed ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thesis", "runs/nested/thesis", "data/runs.old/thesis"])
def test_only_inside_a_folder_runs(perfkit: Verbs, tmp_path: Path, where: str) -> None:
    """A project with a run.json that perfkit would read, by path, by `.`: exit 2, nothing is gone."""
    folder = folder_like_a_run(tmp_path / where)
    before = tree(tmp_path)
    for name in (str(folder), f"{folder}/", f"{folder}/.", os.path.relpath(folder, tmp_path)):
        ended = perfkit("rm", name, below=tmp_path)
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
        assert "not inside a folder named runs" in ended.err
    assert "not inside a folder named runs" in perfkit("rm", ".", below=folder).err
    with pytest.raises(BadInput, match="nothing was removed"):
        list(remove_runs([Run(folder)]))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["/", "..", "../runs", "../..", "", "no-such-run", "x" * 5000, "a\0b"])
def test_what_is_no_run_at_all(perfkit: Verbs, data: Path, made: Callable[..., Run], name: str) -> None:
    """Other names are bad input in one line."""
    run = made()
    before = tree(data)
    if "\0" in name:
        with pytest.raises(BadInput):
            find_run(name, data, whole=True)
        return
    ended = perfkit("rm", name, "--data-dir", str(data), below=run.path)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    assert tree(data) == before


@pytest.mark.parametrize(
    ("folder", "told", "says"),
    [
        ("thesis", {"id": "20260101-000000-http_get-0001"}, "belongs to another run"),
        ("20260101-000000-http_get-0002", {"id": "20260101-000000-http_get-0001"}, "belongs to another run"),
        ("thesis", {"state": "draft"}, "not named like a run"),
        ("20260101-000000-thesis-0000", {"state": "draft"}, "files perfkit did not write (thesis.tex)"),
        ("thesis", {"id": None}, "not named like a run"),
    ],
)
def test_a_folder_that_is_not_surely_a_run(
    perfkit: Verbs, data: Path, made: Callable[..., Run], folder: str, told: dict[str, object], says: str
) -> None:
    """An id that is not the folder's, an unknown state: rejected, and the run named beside it stays, too."""
    run, thesis = made(), folder_like_a_run(data / "runs" / folder, **told)
    before = tree(data)
    for name in (folder, str(thesis)):
        ended = perfkit("rm", run.id, name, "--data-dir", str(data), below=data)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
        assert says in ended.err
    assert perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data).code == 0
    assert tree(thesis) == {
        name[len(f"runs/{folder}/") :]: text for name, text in before.items() if folder in name
    }


def test_a_link_is_not_followed(perfkit: Verbs, data: Path, made: Callable[..., Run], tmp_path: Path) -> None:
    """A linked run: `rm` says what it is, by id and path; `prune` spares it and does the rest."""
    plain, elsewhere = made(), make_timeline(tmp_path / "archive", 50, run_id="20260101-000000-http_get-aaaa")
    link = data / "runs" / elsewhere.id
    link.symlink_to(elsewhere.path)
    before = tree(elsewhere.path)
    for name in (link.name, str(link), f"{link}/"):
        ended = perfkit("rm", name, plain.id, "--data-dir", str(data), below=data)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1)
        assert "symbolic link" in ended.err
    ended = perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data)
    assert ended.code == 0
    assert f"removed {plain.id}" in ended.out
    assert f"kept {link.name}: " in ended.out
    assert (tree(elsewhere.path), link.is_symlink()) == (before, True)


def test_links_in_a_run_lose_nothing(data: Path, made: Callable[..., Run], tmp_path: Path) -> None:
    """A link in the place of a file of perfkit's goes, other links stay; what they lead to stays."""
    run, outside = made(), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("1")
    for name in ("stop", "segments"):
        path = run.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(outside)
    (run.path / "link").symlink_to(outside)
    assert list(remove_runs([run])) == [run]
    assert tree(run.path) == {"link": None}
    assert (outside / "precious").read_text() == "1"


def test_one_run_by_many_names(perfkit: Verbs, data: Path, made: Callable[..., Run], tmp_path: Path) -> None:
    """The same run given several times, also by a path through a linked folder, is removed once."""
    run, other = made(), made()
    (tmp_path / "way").symlink_to(data)
    names = (run.id, run.id, str(run.path), f"{run.path}/", f"{tmp_path}/way/runs/{run.id}")
    ended = perfkit("rm", *names, "--data-dir", str(data), below=data)
    assert (ended.code, ended.out) == (0, f"removed {run.id}\n")
    assert perfkit("rm", ".", below=other.path).code == 0, "a run by `.` is a run"
    assert tree(data) == {}


def test_files_of_others_stay_where_they_are(perfkit: Verbs, data: Path, made: Callable[..., Run]) -> None:
    """Of a run everything perfkit writes goes; notes, checkpoints, own notebooks stay, and are named."""
    plain, noted, pruned = made(), made(), made()
    foreign, also = put_foreign(noted), put_foreign(pruned)
    ended = perfkit("rm", plain.id, noted.id, "--data-dir", str(data), below=data)
    lines = ended.out.splitlines()
    assert lines[0] == f"removed {plain.id}"
    assert lines[1].startswith(
        f"removed {noted.id}; kept, not written by perfkit: .ipynb_checkpoints, notes.txt"
    )
    assert not plain.path.exists()
    assert tree(noted.path) == foreign
    ended = perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data)
    assert f"removed {pruned.id}; kept, not written by perfkit: .ipynb" in ended.out
    assert tree(pruned.path) == also
    assert list_runs(data) == []
    ended = perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data)
    assert ended.out == "0 runs, 0.0 MB\n", "what is left of a run is not perfkit's any more"
    assert tree(noted.path) == foreign


def test_a_damaged_run_is_removed_only_when_named(
    perfkit: Verbs, data: Path, made: Callable[..., Run]
) -> None:
    """A run.json that cannot be read: spared by `prune`, removed by `rm` unless others' files are in."""
    runs = [made(), made()]
    for run in runs:
        (run.path / "run.json").write_text("{half")
    (runs[1].path / "notes.txt").write_text("mine")
    ended = perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data)
    assert f"kept {runs[0].id}: damaged (" in ended.out
    assert "`perfkit rm` removes it" in ended.out
    assert len(list_runs(data)) == 2
    ended = perfkit("rm", runs[1].id, "--data-dir", str(data), below=data)
    assert (ended.code, "did not write (notes.txt)" in ended.err) == (2, True)
    assert perfkit("rm", runs[0].id, "--data-dir", str(data), below=data).code == 0
    assert [run.id for run in list_runs(data)] == [runs[1].id]


def test_a_run_in_use_is_not_removed(data: Path, made: Callable[..., Run]) -> None:
    """While a report is written into it, a run is not removed, nor are those named with it."""
    run, other = made(), made()
    with open(run.path / "report" / ".run_report.ipynb.0a1b2c3d.part.ipynb", "w") as trial:
        fcntl.flock(trial, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="being written to"):
            list(remove_runs([other, run]))
        assert {run.id for run in list_runs(data)} == {run.id, other.id}
    assert len(list(remove_runs([other, run]))) == 2
    assert tree(data) == {}


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("verb", ["rm", "prune"])
def test_a_kill_at_any_moment_leaves_no_half_of_a_run(
    perfkit: Verbs, data: Path, made: Callable[..., Run], verb: str
) -> None:
    """Killed before any of its changes: each run is whole or gone, others' files stay, `prune` tidies."""
    runs = [made(), made()]
    foreign = put_foreign(runs[1])
    whole = {run.id: tree(run.path) for run in runs}
    shutil.copytree(data, data.with_name("fresh"))
    names = [run.id for run in runs] if verb == "rm" else ["--keep", "0", "--yes"]
    kills = 0
    while True:
        kills += 1
        shutil.rmtree(data)
        shutil.copytree(data.with_name("fresh"), data)
        ended = perfkit(verb, *names, "--data-dir", str(data), below=data, kill_at=kills)
        left = {run.id for run in list_runs(data)}
        for run in runs:
            if run.id in left:
                now = tree(run.path)
                now.pop("run.json.lock", None)
                assert now == whole[run.id], f"half of {run.id} at {kills}"
        assert left or ended.out or not runs[0].path.exists()
        assert foreign.items() <= tree(runs[1].path).items(), f"others' files at {kills}"
        if not ended.killed:
            break
        if left != set(whole):
            assert runs[0].id in left or not runs[0].path.exists(), "gone at once"
        if {path.name for path in (data / "runs").iterdir()} - {*left, runs[1].id}:
            assert survey(data).leftovers
        assert perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data).code == 0
        assert tree(data) == {f"runs/{runs[1].id}/{name}": text for name, text in foreign.items()}
        assert survey(data).leftovers == ()
    assert kills > 20
    assert left == set()


def test_a_killed_gate_leaves_nothing_beside_its_files(
    perfkit: Verbs, data: Path, made: Callable[..., Run], tmp_path: Path
) -> None:
    """`gate --junit FILE` killed at any change: FILE is whole or not there; done again, nothing else is."""
    kept = compare_and_keep([made()], [made()], Options(), ("A", "B"), data)
    place = tmp_path / "ci"
    place.mkdir()
    call = ("gate", kept.id, "--junit", str(place / "gate.xml"), "--data-dir", str(data))
    whole, kills, killed = None, 0, True
    while killed:
        kills += 1
        killed = perfkit(*call, below=place, kill_at=kills).killed
        assert whole in (None, *(file.read_bytes() for file in place.glob("gate.xml")))
        assert not perfkit(*call, below=place).killed
        assert [file.name for file in place.iterdir()] == ["gate.xml"]
        whole = (place / "gate.xml").read_bytes()
    assert kills > 3


def test_leftovers_are_listed_and_removed(perfkit: Verbs, data: Path, made: Callable[..., Run]) -> None:
    """Folders that became no run, temporary files anywhere: listed by doctor, removed by prune."""
    run, other = made(), made()
    kept = compare_and_keep([run], [other], Options(force=True), ("A", "B"), data).path
    began = data / "runs" / "20260101-000000-http_get-ffff"
    (began / "segments").mkdir(parents=True)
    (began / "run.lock").touch()
    (data / "runs" / "20260101-000001-http_get-ffff").mkdir()
    (data / ".importing-abcd" / "segments").mkdir(parents=True)
    (data / "comparisons" / "20260101-000000-00ff").mkdir(parents=True)
    (kept / "report").mkdir()
    (data / "noise").mkdir()
    (data / "batches").mkdir()
    copy = data / "runs" / "20260101-000002-http_get-ffff"  # rows without run.json: a copy under way, perhaps
    copy.mkdir()
    (copy / "timeline.parquet").write_bytes(b"rows")
    files = [began / "segments" / ".w0-000000.part", run.path / ".run.json.part",
             run.path / "report" / ".run_report.part.ipynb", run.path / "report" / ".run_report.ipynb.try",
             kept / "report" / ".comparison.ipynb.01234567.part.ipynb", data / "noise" / ".x.json.part",
             data / "batches" / ".x.json.00ff00ff.part"]  # fmt: skip
    for file in files:
        file.write_bytes(b"x" * 100_000)
    stays = {
        path: text for path, text in tree(data).items() if not path.endswith(("part", "part.ipynb", ".try"))
    }
    told = perfkit("doctor", "--data-dir", str(data), below=data).out
    for path in (began, data / ".importing-abcd", data / "comparisons" / "20260101-000000-00ff", *files[1:]):
        assert f"{path} (" in told
    listed = perfkit("prune", "--keep", "9", "--data-dir", str(data), below=data)
    assert f"would remove leftover {began}: a run that never started" in listed.out
    assert "0 runs, 14 leftovers, 0.7 MB; nothing was removed yet, add --yes to remove them" in listed.out
    assert all(file.exists() for file in files)
    done = json.loads(
        perfkit("prune", "--keep", "9", "--yes", "--json", "--data-dir", str(data), below=data).out
    )
    assert len(done["leftovers"]) == 14
    stays = {path: text for path, text in stays.items() if began.name not in path}
    assert tree(data) == stays
    assert not began.exists()
    assert not (data / ".importing-abcd").exists()
    told = perfkit("doctor", "--data-dir", str(data), below=data).out
    assert "left by killed processes" not in told
    assert f"{copy} (rows, but no run.json)" in told


def test_what_a_process_holds_is_no_leftover(data: Path) -> None:
    """A run that has just begun, with the file it is writing: neither listed nor touched."""
    folder = RunFolder.create(data, "http_get")
    part = folder.path / "segments" / ".w0-000000.parquet.0a1b2c3d.part"
    with open(part, "w") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert list(remove_leftovers(data)) == []
        folder.write_meta({"state": "running", "id": folder.path.name})
        assert list(remove_leftovers(data)) == []
    assert [left.path for left in remove_leftovers(data)] == [part]
    folder.close()
    assert Run(folder.path).state == "aborted"


def test_folders_of_others_in_runs_stay(perfkit: Verbs, data: Path) -> None:
    """A folder in runs/ that holds other files, or is not named like a run, is listed as such and kept."""
    for name in ("20260101-000000-http_get-0000", "backup"):
        (data / "runs" / name).mkdir(parents=True)
    (data / "runs" / "20260101-000000-http_get-0000" / "notes.txt").write_text("mine")
    told = perfkit("doctor", "--data-dir", str(data), below=data).out
    assert "2 folders in runs/ not written by perfkit; they are left alone" in told
    assert f"{data}/runs/20260101-000000-http_get-0000 (notes.txt)" in told
    assert perfkit("prune", "--keep", "0", "--yes", "--data-dir", str(data), below=data).code == 0
    assert sorted(path.name for path in (data / "runs").iterdir()) == [
        "20260101-000000-http_get-0000",
        "backup",
    ]


def test_pruning_says_why_it_spares(data: Path, made: Callable[..., Run]) -> None:
    """A run whose id is not its folder's, such as a copy, is spared with the reason."""
    run = made()
    copy = Run(data / "runs" / "20250101-000000-http_get-0000")
    shutil.copytree(run.path, copy.path)
    found = plan(data, 0)
    assert found.remove == (run,)
    assert [(one.id, "belongs to another run" in why) for one, why in found.spared] == [(copy.id, True)]
