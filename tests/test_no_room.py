"""A full disk, a read-only one, no permission, files that may not grow: told in a line, and nothing is lost.

Run as a program (`python -m tests.test_no_room MODE FOLDER`) this is what happens in such a place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options
from perfkit.compare.experiment import compare_and_keep
from perfkit.errors import os_error_words
from perfkit.retention import mark
from perfkit.store import Run, list_runs
from tests.kill_points import verbs

ROOT = Path(__file__).parents[1]
IDS = [f"20260101-00000{n}-http_get-0000" for n in range(4)]
WORKLOAD = "scenario: http_get\ntarget: {url: 'http://127.0.0.1:9'}\nusers: {count: 1, iterations: 1}\n"
#: Verbs that write, and what their words name of the place they could not write to.
WRITING = {
    "tag": (("tag", IDS[3], "after", "--note", "n" * 4000), f"{IDS[3]}/run.json"),
    "compare": (("compare", IDS[0], IDS[3], "--no-report"), "/comparisons/"),
    "gate": (("gate", "latest", "--junit", "DATA/gate.xml"), "gate.xml"),
    "report": (("report", IDS[3], "-q"), f"{IDS[3]}/report"),
    "import": (("import", str(ROOT / "tests" / "imports" / "k6.csv")), "DATA"),
    "publish": (("publish", "DATA/site", "-q", "--no-report"), "site"),
    "batch": (("batch", "DATA/work.yaml", "-q"), "DATA"),
}
REMOVING = {
    "rm": (("rm", IDS[2]), IDS[2]),
    "prune": (("prune", "--keep", "1", "--yes"), IDS[0]),
}
WORDS = {
    "full": "No space left on device",
    "limited": "File too large",
    "read-only": "Read-only file system",
    "forbidden": "Permission denied",
}


# -- in the place ----------------------------------------------------------------------------------


def _inside(mode: str, source: Path) -> dict[str, Any]:
    """Carry out every verb there; what each said, and the files before and after."""
    data = source
    if mode in ("full", "read-only"):
        data = source.with_name("mounted")
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "perfkit", str(data)], check=True)
        shutil.copytree(source, data, dirs_exist_ok=True)
    if mode == "full":
        with contextlib.suppress(OSError):
            (data / "fill").write_bytes(b"0" * 600_000)
    if mode == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(data)], check=True)
    if mode == "forbidden":
        for path in (data, *data.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    with verbs(before=_limit if mode == "limited" else None) as perfkit:
        before = _files(data)
        told = {}
        for name, (arguments, _) in _verbs(mode).items():
            arguments = tuple(one.replace("DATA", str(data)) for one in arguments)
            ended = perfkit(*arguments, "--data-dir", str(data), below=data)
            lost = [path for path, size in before.items() if _files(data).get(path) != size]
            told[name] = [ended.code, ended.out, ended.err.replace(str(data), "DATA"), lost]
    return told


def _verbs(mode: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Those that need more than what is allowed there."""
    small = ("compare", "gate") if mode == "limited" else ()
    return {name: one for name, one in (WRITING | REMOVING).items() if name not in small}


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def _files(folder: Path) -> dict[str, str]:
    return {str(p): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file() and p.name != "fill"}


# -- tests -----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Runs, the newest with the tag `before`, a comparison, and a workload."""
    data = tmp_path / "data"
    runs = [make_timeline(data, 50, run_id=name, seed=n, meta={"tags": []}) for n, name in enumerate(IDS)]
    mark([runs[3]], add=["before"])
    compare_and_keep([runs[1]], [runs[3]], Options(force=True), ("A", "B"), data)
    (data / "work.yaml").write_text(WORKLOAD)
    return data


def in_a_place(mode: str, data: Path) -> dict[str, Any]:
    """What the verbs say there: in mounts of this process alone, without a root's rights, or with a limit."""
    root = os.geteuid() == 0
    prefix = {
        "full": ["unshare", "-m"] if root else ["unshare", "-rm"],
        "read-only": ["unshare", "-m"] if root else ["unshare", "-rm"],
        "forbidden": ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if root else [],
        "limited": [],
    }[mode]
    if prefix and subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip(f"{' '.join(prefix)} does not work here")
    command = [*prefix, sys.executable, "-m", "tests.test_no_room", mode, str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mode", WORDS)
def test_verbs_say_it_in_a_line(data: Path, mode: str) -> None:
    """Each says what could not be written, where and why, with exit code 1; every file is as it was.

    Removing needs no room: it works on a full disk, and where it cannot, nothing is removed.
    """
    told = in_a_place(mode, data)
    assert not [run for run in (data / "runs").iterdir() if not (run / "run.json").exists()]
    removes = mode in ("full", "limited")
    for name, (_, place) in _verbs(mode).items():
        code, out, err, lost = told[name]
        if removes and name in REMOVING:
            assert code == 0, err
            continue
        early = name == "gate" and mode != "full"  # known before the load: bad input
        assert (code, lost) == (1 + early, []), (name, out, err)
        says = out.replace(str(data), "DATA") + err if name == "batch" else err
        assert place in says, (name, says)
        assert WORDS[mode] in says, (name, says)
        assert "fault" not in says, (name, says)
        assert len(err.splitlines()) == (name != "batch" or not out), (name, err)


def test_a_full_standard_output(data: Path) -> None:
    """`perfkit ls > /dev/full`: one line, exit code 1."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "perfkit.cli", "ls", "--json", "--data-dir", str(data)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "cannot write its output: No space left on device" in done.stderr


def test_an_acknowledged_tag_stays(data: Path) -> None:
    """A tag that cannot be added takes none away."""
    assert in_a_place("limited", data)["tag"][0] == 1
    assert Run(data / "runs" / IDS[3]).meta.tags == ("before",)
    assert not list(data.rglob(".*.part"))
    assert [run.id for run in list_runs(data)] == [IDS[1], IDS[3]], "a comparison needs the other"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "cannot write DIR/file: No space left on device; free some space"),
        (errno.EDQUOT, "cannot write DIR/file: Disk quota exceeded; free some space"),
        (errno.EROFS, "cannot write DIR/file: Read-only file system; choose"),
        (errno.EACCES, "cannot access DIR/file: Permission denied; change its permissions"),
        (errno.EPERM, "cannot access DIR/file: Operation not permitted; change its permissions"),
        (errno.EMFILE, "cannot open DIR/file: Too many open files; raise the open file limit"),
        (errno.ENAMETOOLONG, "cannot open DIR/file: File name too long; choose a shorter name"),
        (errno.ELOOP, "cannot open DIR/file: Too many levels of symbolic links; remove the link"),
        (errno.ENOENT, "cannot access DIR/file: No such file or directory"),
    ],
)
def test_words_of_the_system(number: int, says: str) -> None:
    """What was tried, where, why, and what to do, for each error that has a way out."""
    assert os_error_words(OSError(number, os.strerror(number), "DIR/file")).startswith(says)


def test_words_without_a_place() -> None:
    """An error that names no file is told all the same, in one line."""
    assert os_error_words(OSError("odd\nthing")) == "OSError: odd thing"
    assert os_error_words(ConnectionResetError(104, "reset")) == "ConnectionResetError: [Errno 104] reset"


if __name__ == "__main__":
    print(json.dumps(_inside(sys.argv[1], Path(sys.argv[2]))))
