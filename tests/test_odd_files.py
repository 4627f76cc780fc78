"""Pipes, sockets, devices, folders, circular links in the place of files: told in a line, never opened."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options
from perfkit.compare.experiment import compare_and_keep, open_comparison
from perfkit.compare.noise import load, save
from perfkit.errors import PerfkitError
from perfkit.stats import History
from perfkit.store import Run, read_regular
from tests.kill_points import Verbs


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's address holds about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
}


def put(kind: str, path: Path) -> None:
    """Put something odd in the place of a file."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    ODD[kind](path)


@pytest.fixture(params=ODD)
def kind(request: pytest.FixtureRequest) -> str:
    """What is put in the place of a file."""
    return str(request.param)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A good run, and one that something odd will be put into."""
    return [make_timeline(tmp_path, 50, run_id=f"20260101-00000{n}-http_get-0000", seed=n) for n in range(2)]


def one_line(ended: object, *, code: int, says: str = "") -> None:
    """Check the exit code, and that there is one line that says it."""
    assert (ended.code, len(ended.err.splitlines())) == (code, 1), ended  # type: ignore[attr-defined]
    assert says in ended.err  # type: ignore[attr-defined]
    assert "fault" not in ended.err  # type: ignore[attr-defined]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "place", ["run.json", "timeline.parquet", "segments/w0-000000.parquet", "probes.parquet", "run.lock"]
)
def test_in_a_run(perfkit: Verbs, runs: list[Run], tmp_path: Path, kind: str, place: str) -> None:
    """The run is damaged, in a line, for every verb; the other is listed, shown and tagged as ever."""
    good, odd = runs
    if place.startswith("segments"):
        (odd.path / "timeline.parquet").unlink()
    if place == "run.lock":  # of a run that says it is running
        (odd.path / "run.json").write_text(json.dumps(dict(odd.meta.raw) | {"state": "running"}))
    put(kind, odd.path / place)
    data = ("--data-dir", str(tmp_path))
    listed = perfkit("ls", *data, below=tmp_path)
    assert (listed.code, listed.err) == (0, "")
    assert good.id in listed.out
    assert odd.id in listed.out
    broken = place not in ("probes.parquet", "run.lock")
    for verb in ("show", "compare"):
        other = (good.id, "--no-report") if verb == "compare" else ()
        ended = perfkit(verb, odd.id, *other, *data, below=tmp_path)
        if broken:
            one_line(ended, code=ended.code)
            assert ended.code in (1, 2, 3)
        else:
            assert ended.code in (0, 3)
    ended = perfkit("tag", odd.id, "x", *data, below=tmp_path)
    assert ended.code == (1 if place == "run.json" else 0), ended
    assert perfkit("tag", good.id, "y", *data, below=tmp_path).code == 0
    assert perfkit("prune", "--keep", "0", *data, below=tmp_path).code == 0


def test_rows_as_a_pipe_are_told(perfkit: Verbs, runs: list[Run], tmp_path: Path) -> None:
    """The words name the file and what it is."""
    put("pipe", runs[0].path / "timeline.parquet")
    ended = perfkit("show", runs[0].id, "--data-dir", str(tmp_path), below=tmp_path)
    one_line(ended, code=1, says="timeline.parquet: it is a pipe (FIFO), not a regular file")
    put("pipe", runs[1].path / "run.json")
    ended = perfkit("show", runs[1].id, "--data-dir", str(tmp_path), below=tmp_path)
    one_line(ended, code=1, says="run.json: it is a pipe (FIFO), not a regular file")
    assert "is damaged, its rows cannot be read" in repr(Run(runs[0].path))


@pytest.mark.sampled(2)
def test_given_by_name(perfkit: Verbs, runs: list[Run], tmp_path: Path, kind: str) -> None:
    """A workload, parameters, a notebook, a file to import: bad input, in a line."""
    for name, arguments in (
        ("odd.yaml", ["run"]),
        ("odd.yaml", ["batch"]),
        ("odd.yaml", ["aa"]),
        ("odd.yaml", ["compare", str(tmp_path / "odd.yaml")]),
        ("odd.yaml", ["report", runs[0].id, "-q", "-f"]),
        ("odd.ipynb", ["report", runs[0].id, "-q", "--notebook"]),
        ("odd.json", ["import"]),
        ("scenario.py", ["run", "--target", "http://127.0.0.1:9", "--scenario"]),
    ):
        put(kind, tmp_path / name)
        ended = perfkit(*arguments, str(tmp_path / name), "--data-dir", str(tmp_path), below=tmp_path)
        one_line(ended, code=2, says=name.removesuffix(".py"))
    put(kind, tmp_path / "ca.pem")
    target = ("--target", "https://localhost:9", "-s", f"target.ca_file={tmp_path}/ca.pem")
    ended = perfkit("run", "--scenario", "http_get", *target, "--data-dir", str(tmp_path), below=tmp_path)
    one_line(ended, code=2, says="ca_file")


@pytest.mark.sampled(2)
def test_in_a_comparison(perfkit: Verbs, runs: list[Run], tmp_path: Path, kind: str) -> None:
    """A comparison that is no file is damaged; new ones are made, and looked at, all the same."""
    kept = compare_and_keep([runs[0]], [runs[1]], Options(), ("A", "B"), tmp_path)
    put(kind, kept.path / "comparison.json")
    if kind == "loop":  # not even there for those who look
        return
    data = ("--data-dir", str(tmp_path))
    one_line(perfkit("gate", kept.id, *data, below=tmp_path), code=1, says="comparison.json: it is a")
    one_line(perfkit("prune", "--keep", "0", *data, below=tmp_path), code=1, says=f"{kept.id} is damaged")
    ended = perfkit("compare", runs[0].id, runs[1].id, "--no-report", *data, below=tmp_path)
    assert ended.code in (0, 3), ended


@pytest.mark.sampled(10)
@pytest.mark.parametrize("value", ["x", 3, None, True, [1], {"x": 1}])
@pytest.mark.parametrize("place", ["", "runs_a", "comparison", "comparison.results", "comparison.results.0"])
def test_a_comparison_of_wrong_types(runs: list[Run], tmp_path: Path, place: str, value: object) -> None:
    """Whatever stands in the place of a part of comparison.json, it is damaged, and hinders no new one."""
    kept = compare_and_keep([runs[0]], [runs[1]], Options(force=True), ("A", "B"), tmp_path)
    told = document = {"": json.loads((kept.path / "comparison.json").read_text())}
    *names, last = ["", *filter(None, place.split("."))]
    for name in names:
        told = told[int(name) if name.isdigit() else name]
    told[int(last) if last.isdigit() else last] = value  # type: ignore[call-overload]
    (kept.path / "comparison.json").write_text(json.dumps(document[""]))
    with pytest.raises(PerfkitError, match=f"{kept.id} is damaged"):
        open_comparison(kept.id, tmp_path)
    compare_and_keep([runs[0]], [runs[1]], Options(), ("A", "B"), tmp_path)


def test_in_other_places(runs: list[Run], tmp_path: Path, kind: str) -> None:
    """A noise floor that is no file counts as none, and is replaced unless it is a folder."""
    file = save(tmp_path, runs[0], {"p50": History(1.0, 3.0)})
    assert load(tmp_path, runs[0]) == {"p50": History(1.0, 3.0)}
    put(kind, file)
    assert load(tmp_path, runs[0]) == {}
    if kind == "folder":
        with pytest.raises(IsADirectoryError):
            save(tmp_path, runs[0], {"p50": History(1.0, 3.0)})
    else:
        save(tmp_path, runs[0], {"p50": History(1.0, 3.0)})
        assert load(tmp_path, runs[0]) == {"p50": History(1.0, 3.0)}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["manifest.json", "lock"])
def test_in_a_site(perfkit: Verbs, runs: list[Run], tmp_path: Path, kind: str, name: str) -> None:
    """A site whose own files are odd: a line, and what is there stays."""
    (tmp_path / "site" / ".perfkit-site").mkdir(parents=True)
    put(kind, tmp_path / "site" / ".perfkit-site" / name)
    ended = perfkit("publish", str(tmp_path / "site"), "-q", "--no-report", "--data-dir", str(tmp_path),
                    below=tmp_path)  # fmt: skip
    if name == "manifest.json" or kind in ("socket", "folder", "loop", "device"):
        one_line(ended, code=ended.code)
        assert ended.code in (1, 2)
    else:
        assert ended.code == 0, "a pipe can be locked like a file"


@pytest.mark.sampled(2)
def test_reports_that_are_published(perfkit: Verbs, runs: list[Run], tmp_path: Path, kind: str) -> None:
    """A page that is no file is left out of the site, and the run is on it."""
    for name in ("run_report.html", "run_report.ipynb"):
        put(kind, runs[0].path / "report" / name)
    ended = perfkit("publish", str(tmp_path / "site"), "-q", "--no-report", "--data-dir", str(tmp_path),
                    below=tmp_path)  # fmt: skip
    assert ended.code in (0, 1), ended
    assert (tmp_path / "site" / "index.html").exists()


def test_a_pipe_to_write_to(perfkit: Verbs, runs: list[Run], tmp_path: Path) -> None:
    """`gate --junit PIPE`: without a reader bad input at once, with one all of it is written."""
    kept = compare_and_keep([runs[0]], [runs[1]], Options(), ("A", "B"), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    call = ("gate", kept.id, "--junit", str(tmp_path / "pipe"), "--data-dir", str(tmp_path))
    one_line(perfkit(*call, below=tmp_path), code=2, says="cannot write")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert perfkit(*call, below=tmp_path).code in (0, 3)
    assert os.read(reader, 100_000).startswith(b"<?xml")
    os.close(reader)
    assert perfkit(*call[:3], "/dev/null", *call[4:], below=tmp_path).code in (0, 3)


def test_a_document_has_a_limit(perfkit: Verbs, runs: list[Run], tmp_path: Path) -> None:
    """A run.json of more than 64 MB, a workload of more than 1 MB, is not read: a line with the limit."""
    for path in (runs[0].path / "run.json", tmp_path / "large.yaml"):
        with open(path, "wb") as file:
            file.truncate(10 * 2**30)  # a hole, it takes no room
    data = ("--data-dir", str(tmp_path))
    one_line(perfkit("show", runs[0].id, *data, below=tmp_path), code=1, says="larger than 64 MB")
    one_line(
        perfkit("run", str(tmp_path / "large.yaml"), *data, below=tmp_path), code=2, says="larger than 1 MB"
    )
    assert perfkit("ls", *data, below=tmp_path).code == 0
    (tmp_path / "small").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger"):
        read_regular(tmp_path / "small", 10)
    assert read_regular(tmp_path / "small", 11) == b"x" * 11
