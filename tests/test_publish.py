"""The published site: what is on it, that it grows without being torn, and what it refuses to hold."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from benchmarks.make_timeline import make_timeline
from perfkit.drive.workloads import complete, read_yaml
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import Workload
from perfkit.page import SITE_LINK, head, script
from perfkit.report import make_report, notebook_path
from perfkit.retention import mark
from perfkit.site import Wishes, publish
from perfkit.site.folder import SiteFolder
from perfkit.site.leaks import Scanner
from perfkit.store import Run, RunFolder, update_run_json, write_segment
from perfkit.store.words import details
from tests.command import started
from tests.site_fixture import HOSTILE, Site, hostile, nightly, sample

pytestmark = pytest.mark.slow

QUICK = Wishes(reports=False)


def stamp(run: Run, **changes: object) -> None:
    """Put something into a run's run.json."""
    update_run_json(run.path, lambda _: changes)


def perfkit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return started(*arguments, **environment)


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time of change: the same only if it was not written again."""
    files = [p for p in path.rglob("*") if p.is_file() and ".perfkit-site" not in p.parts]
    return {p.relative_to(path).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def contents(path: Path) -> dict[str, bytes]:
    """What is in every file, but for the ids inside of drawings, which count up."""
    return {name: re.sub(rb"\bpk\d+-", b"", (path / name).read_bytes()) for name in tree(path)}


class Links(HTMLParser):
    """Addresses a page names, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value or "" for name, value in attrs if name in ("href", "src", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def assert_links(path: Path) -> int:
    """Every address a reader can come to from the index leads to a file, and to an id there; how many."""
    links = functools.cache(lambda file: Links(file.read_text()))
    count, waiting, seen = 0, [path / "index.html"], set()
    while waiting:
        file = waiting.pop().resolve()
        if file in seen or file.suffix != ".html":
            continue
        seen.add(file)
        for href in (one for one in links(file).hrefs if not one.startswith("data:,")):
            count += 1
            name, _, anchor = href.partition("#")
            assert ":" not in name, href
            there = (file.parent / unquote(name)) if name else file
            assert there.is_file(), f"{file.relative_to(path.resolve())}: {href}"
            if anchor:
                assert unquote(anchor) in links(there.resolve()).ids, href
            waiting.append(there)
    return count


# -- what is on it ---------------------------------------------------------------------------------


def test_a_site_has_a_page_and_the_files_of_each_run(site: Site) -> None:
    """Runs, a comparison and a trend have pages and downloads; nothing is missing, nothing was wrong."""
    assert site.done.problems == site.done.skipped == ()
    assert (site.done.runs, site.done.comparisons, site.done.trends) == (21, 1, 2)
    one = site.run(next(r["id"] for r in site.index["runs"] if r["scenario"] == "http_get"))
    folder = site.path / "runs" / one["id"]
    assert sorted(p.name for p in folder.iterdir()) == [
        *(
            "index.html",
            "run.json",
            "run_report.html",
            "run_report.ipynb",
            "timeline.parquet",
            "workload.yaml",
        )
    ]
    source = site.data / "runs" / one["id"]
    for name in ("run.json", "timeline.parquet", "report/run_report.ipynb"):
        assert (folder / Path(name).name).read_bytes() == (source / name).read_bytes()
    page, shown = (source / "report/run_report.html").read_text(), (folder / "run_report.html").read_text()
    before, after = page.split(SITE_LINK)
    assert shown.startswith(before)
    assert shown.endswith(after)
    assert '<a href="../../index.html">' in shown[len(before) : -len(after)]
    (comparison,) = (site.path / "comparisons").iterdir()
    assert sorted(p.name for p in comparison.iterdir()) == [
        *("comparison.html", "comparison.ipynb", "comparison.json", "index.html")
    ]


def test_index_json_says_what_show_says(site: Site) -> None:
    """The raw numbers with their intervals, null where too few requests carry one; addresses that exist."""
    found = site.index
    assert found["schema"] == 1
    for one in found["runs"]:
        if one["created"][:2] != "20":
            continue
        summary = details(Run(site.data / "runs" / one["id"]))["summary"][-1]
        assert (one["requests"], one["failed"]) == (summary["n"], summary["failed"])
        assert one["rate_per_s"] == pytest.approx(summary["rate_per_s"])
        for name in ("p50", "p95", "p99"):
            told = one["latency_ms"][name]
            assert (told is None) == (summary[name] is None)
            assert told is None or told["value"] == pytest.approx(summary[name])
    for one in (*found["runs"], *found["comparisons"]):
        for address in (one["href"], *one["files"].values()):
            assert (site.path / unquote(address)).is_file()
    assert site.run("20260112-080000-nightly")["latency_ms"]["p95"] is None
    words = {one["id"][6:8]: one["verdict"]["word"] for one in found["runs"] if "nightly" in one["id"]}
    assert (words["09"], words["10"], words["11"], words["12"]) == ("valid", "missed", "invalid", "aborted")
    assert "interrupted" in site.run("20260112-080000-nightly")["verdict"]["reasons"]


def test_no_link_leads_nowhere_or_outside(site: Site) -> None:
    """Every address on every page, reports too, is relative and leads to a file; each has a policy."""
    assert assert_links(site.path) > 250
    for page in site.path.rglob("*.html"):
        text = page.read_text()
        assert text.index("default-src 'none'") < text.index("<title>")
        assert not re.search(r"@import|url\((?!#)", text)


def test_the_workload_can_be_run_again(site: Site, tmp_path: Path) -> None:
    """workload.yaml is the workload of the run; a server that perfkit started has no address in it."""
    one = next(r for r in site.index["runs"] if r["scenario"] == "http_get")
    workload, _, _ = complete(read_yaml(site.path / one["files"]["workload.yaml"]), "workload.yaml")
    told = json.loads((site.path / one["files"]["run.json"]).read_text())["workload"]
    assert workload == Workload.from_mapping(told)
    run = sample(tmp_path / "data", "http_get")
    stamp(run, own_server=True)
    publish(tmp_path / "site", tmp_path / "data", QUICK)
    again = read_yaml(tmp_path / "site" / "runs" / run.id / "workload.yaml")
    assert "url" not in again["target"]


def test_every_figure_is_explained(site: Site) -> None:
    """reading.html has a section for each figure and table of the five notebooks."""
    ids = set(Links((site.path / "reading.html").read_text()).ids)
    for name in ("run_report", "server_health", "comparison", "capacity", "trend"):
        for cell in json.loads(notebook_path(name).read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert set(re.findall(r"figures\.(\w+)\(", "".join(cell["source"]))) <= ids, name


def test_an_aborted_run_has_its_rows(tmp_path: Path) -> None:
    """Segments that were never merged are published as one timeline.parquet with all of their rows."""
    folder = RunFolder.create(tmp_path, "killed")
    source = make_timeline(tmp_path / "other", 80)
    table = source.table()
    for i in range(2):
        write_segment(folder.path, f"0-{i}", table.slice(i * 40, 40))
    folder.write_meta({**source.meta.raw, "state": "running"})
    folder.close()
    publish(tmp_path / "site", tmp_path, QUICK)
    (one,) = json.loads((tmp_path / "site" / "index.json").read_text())["runs"]
    assert one["verdict"]["word"] == "aborted"
    assert pq.read_metadata(tmp_path / "site" / one["files"]["timeline.parquet"]).num_rows == 80


def test_hostile_words_are_inert_and_bounded(site: Site) -> None:
    """No markup, escape sequence, turned text or NUL, and no megabyte, on any page or in index.json."""
    for page in site.path.rglob("*.html"):
        text = page.read_text()
        assert "<script>document" not in text, page
        assert not re.search("[\x00\x1b\u202e]", text), page
        report = page.name in ("run_report.html", "comparison.html")  # these have figures
        assert len(text) < (1_000_000 if report else 200_000), page
    (odd,) = [one for one in site.index["runs"] if one["created"][:2] != "20"]
    texts = [odd["note"], *odd["tags"], *odd["verdict"]["reasons"], odd["scenario"], odd["target"]]
    assert max(map(len, texts)) < 2100
    assert "… (1," in odd["note"]
    assert len(odd["tags"]) == 20
    assert re.fullmatch(r"runs/[\w.-]+/index\.html", odd["href"])
    assert len((site.path / "index.json").read_text()) < 100_000


# -- incremental -----------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three small runs of one configuration."""
    for day in (1, 2, 3):
        nightly(tmp_path / "data", day, rows=300)
    return tmp_path / "data"


def test_what_has_not_changed_is_not_read_or_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second publish reads no row and writes no file; a tag given later writes the pages that show it."""
    path = tmp_path / "site"
    assert publish(path, data, QUICK).changed == 3
    before = tree(path)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "table", lambda *_: pytest.fail("rows were read"))
        done = publish(path, data, QUICK)
    assert (done.changed, done.written, tree(path)) == (0, 0, before)
    run = Run(data / "runs" / "20260102-080000-nightly")
    stamp(run, tags=["nightly", "release"])
    publish(path, data, QUICK)
    changed = {name for name, was in before.items() if tree(path)[name] != was}
    own = f"runs/{run.id}/"
    assert changed - {n for n in changed if n.startswith("trends/")} == {
        *("index.html", "index.json", f"{own}index.html", f"{own}run.json")
    }


def test_pages_are_permanent_until_they_are_pruned(data: Path, tmp_path: Path) -> None:
    """A removed run keeps its page and says so; --prune takes it away, and nothing that others put there."""
    path = tmp_path / "site"
    publish(path, data, QUICK)
    gone = "20260103-080000-nightly"
    (path / "runs" / gone / "mine.txt").write_text("mine")
    (path / "CNAME").write_text("perf.example")
    shutil.rmtree(data / "runs" / gone)
    assert publish(path, data, QUICK).gone == 1
    assert Site(path, data, None).run(gone)["source"] == "gone"  # type: ignore[arg-type]
    assert "not in the data folder" in (path / "runs" / gone / "index.html").read_text()
    publish(path, data, Wishes(reports=False, prune=True))
    assert [p.name for p in (path / "runs" / gone).iterdir()] == ["mine.txt"]
    assert (path / "CNAME").exists()
    assert gone not in (path / "index.html").read_text() + (path / "index.json").read_text()
    assert_links(path)


def test_a_selection(data: Path, tmp_path: Path) -> None:
    """--runs publishes what it names, by tag or id, and leaves alone what is on the site already."""
    stamp(Run(data / "runs" / "20260102-080000-nightly"), tags=["release"])
    path = tmp_path / "site"
    assert publish(path, data, Wishes(reports=False, runs="tag:release")).runs == 1
    assert publish(path, data, Wishes(reports=False, runs="20260101,20260102", title="Mine")).runs == 2
    assert publish(path, data, QUICK).runs == 3
    assert "<title>Mine</title>" in (path / "index.html").read_text()
    with pytest.raises(BadInput, match="no run is tagged 'none'"):
        publish(path, data, Wishes(runs="tag:none"))


def test_what_is_wrong_with_one_run_hides_no_other(data: Path, tmp_path: Path) -> None:
    """Damaged and running runs, a report that cannot be made: told, exit code 1, the rest published."""
    (data / "runs" / "20260101-080000-nightly" / "timeline.parquet").write_bytes(b"no parquet")
    odd = Run(data / "runs" / "20260102-080000-nightly")
    stamp(odd, workload=3, measured="x", scenario=[], health=1, thresholds="y", git=[], target=None, tags={})
    (odd.path / "report").mkdir()
    (odd.path / "report" / "run_report.html").write_text("<p>A report.</p>")
    (data / "runs" / "20260103-080000-nightly" / "report").write_text("a file where the folder should be")
    running = RunFolder.create(data, "busy")
    running.write_meta({"state": "running"})
    done = perfkit("publish", str(tmp_path / "site"), "--data-dir", str(data), "--json", "-q")
    running.close()
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    for words in ("080000-nightly is damaged", "is still running", "cannot write"):
        assert sum(words in line for line in lines) == 1, done.stderr
    assert json.loads(done.stdout)["runs"] >= 1
    page = (tmp_path / "site" / "runs" / "20260103-080000-nightly" / "index.html").read_text()
    assert "The report could not be made" in page
    assert str(tmp_path) not in page


def test_a_damaged_run_stays_as_it_was_published(data: Path, tmp_path: Path) -> None:
    """Its rows or its server's samples cannot be read any more: told, and its page stays, --prune or not."""
    path, names = tmp_path / "site", [f"2026010{day}-080000-nightly" for day in (1, 2, 3)]
    publish(path, data, QUICK)
    (data / "runs" / names[0] / "timeline.parquet").write_bytes(b"no parquet")
    (data / "runs" / names[1] / "probes.parquet").write_bytes(b"no parquet")
    for name in (names[2], nightly(data, 4, rows=300).id):  # sound at its ends, damaged between
        rows = data / "runs" / name / "timeline.parquet"
        count = pq.read_metadata(rows).num_rows
        table = pq.read_table(rows).append_column("padding", pa.array([f"{i:032}" for i in range(count)]))
        pq.write_table(table, rows, compression="zstd")
        told = pq.read_metadata(rows).row_group(0).column(table.num_columns - 1)
        content, start = bytearray(rows.read_bytes()), told.dictionary_page_offset
        content[start : start + told.total_compressed_size] = b"\xff" * told.total_compressed_size
        rows.write_bytes(content)
    done = publish(path, data, Wishes(reports=False, prune=True))
    assert [[name in line for line in done.problems].count(True) for name in names] == [1, 1, 1]
    assert (done.runs, len(done.problems), done.gone) == (3, 4, 0)
    assert_links(path)
    shutil.rmtree(path)
    assert len(publish(path, nightly(data, 5, rows=300).path.parents[1], QUICK).problems) == 4
    assert [one["id"] for one in json.loads((path / "index.json").read_text())["runs"]] == [
        "20260105-080000-nightly"
    ]


def test_what_is_lost_from_the_site_is_put_back_or_told(data: Path, tmp_path: Path) -> None:
    """A removed download comes back from its run, selected or not; of a run that is gone it is told."""
    path, gone, there = tmp_path / "site", "20260101-080000-nightly", "20260102-080000-nightly"
    publish(path, data, QUICK)
    shutil.rmtree(data / "runs" / gone)
    for name in (gone, there):
        (path / "runs" / name / "timeline.parquet").unlink()
    done = publish(path, data, Wishes(reports=False, runs="20260103-080000-nightly"))
    words = f"{gone}: timeline.parquet is no longer on the site and cannot be regenerated"
    assert (done.problems, done.runs, done.gone) == ((words,), 3, 1)
    assert (path / "runs" / there / "timeline.parquet").exists()
    assert "timeline.parquet" not in Site(path, data, done).run(gone)["files"]
    assert_links(path)
    assert publish(path, data, QUICK).problems == ()


# -- reports ---------------------------------------------------------------------------------------


def test_only_pages_of_perfkit_are_published_as_reports(data: Path, tmp_path: Path, site: Site) -> None:
    """A page by hand, or of another perfkit, is made again from its notebook, or left out and told."""
    run = Run(data / "runs" / "20260101-080000-nightly")
    report = run.path / "report"
    report.mkdir()
    odd = '<meta name="generator" content="perfkit 0"><p>' + head(script("perfkit/page.js"))
    for i, text in enumerate(("<script>alert(1)</script>", odd)):
        (report / "run_report.html").write_text(text)
        done = publish(tmp_path / f"site{i}", data, QUICK)
        assert [
            "run_report.html was not written by this version of perfkit" in line for line in done.problems
        ] == [True]
        assert not (tmp_path / f"site{i}" / "runs" / run.id / "run_report.html").exists()
    made = next(site.data.glob("runs/*http_get*/report/run_report.ipynb"))
    shutil.copy(made, report)
    assert publish(tmp_path / "site", data, QUICK).problems == ()
    text = (tmp_path / "site" / "runs" / run.id / "run_report.html").read_text()
    ours = made.with_suffix(".html").read_text()
    assert text.startswith(head(script("perfkit/page.js")))
    assert text.split("</header>")[1][:20_000] == ours.split("</header>")[1][:20_000]
    assert (report / "run_report.html").read_text() == odd
    (report / "run_report.ipynb").write_text("{}")
    assert len(publish(tmp_path / "site", data, QUICK).problems) == 1


def test_a_report_follows_tags_and_notes(tmp_path: Path) -> None:
    """The site never says two things: a report from before a note is made anew, or said to be old."""
    run, path = sample(tmp_path / "data", "http_get"), tmp_path / "site"
    make_report(run, progress=False)
    assert publish(path, tmp_path / "data", QUICK).problems == ()
    page = path / "runs" / run.id / "index.html"
    assert "older than this page" not in page.read_text()
    mark([run], add=["release"], note="the new index")
    publish(path, tmp_path / "data", QUICK)
    assert "older than this page" in page.read_text()
    made = (run.path / "report" / "run_report.html").stat().st_mtime_ns
    publish(path, tmp_path / "data", Wishes())
    assert "older than this page" not in page.read_text()
    assert "the new index" in (path / "runs" / run.id / "run_report.html").read_text()
    assert (run.path / "report" / "run_report.html").stat().st_mtime_ns > made
    assert publish(path, tmp_path / "data", Wishes()).changed == 0


# -- the folder ------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    """Nothing is written to it; a checkout with nothing but .git is welcome."""
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    for bad in (path, path / "thesis.tex"):
        done = perfkit("publish", str(bad), "--data-dir", str(data), "--no-report")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert [p.name for p in path.iterdir()] == ["thesis.tex"]
    (path / "thesis.tex").unlink()
    (path / ".git").mkdir()
    publish(path, data, QUICK)
    assert (path / "index.html").exists()
    with pytest.raises(BadInput, match="no runs in"):
        publish(path, tmp_path / "nowhere", QUICK)


def test_two_publishes_at_once(data: Path, tmp_path: Path) -> None:
    """The second says so in one line and touches nothing; a lock left by a killed one hinders nobody."""
    path = tmp_path / "site"
    publish(path, data, QUICK)
    with open(path / ".perfkit-site" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = perfkit("publish", str(path), "--data-dir", str(data), "--no-report")
    assert done.returncode == 1
    assert (
        done.stderr == f"perfkit: {path} is being published by another process; wait for it and try again\n"
    )
    first, second = SiteFolder.open(tmp_path / "new"), SiteFolder.open(tmp_path / "new")
    with first, second:
        first.commit({"index.html": b"x"}, {"schema": 1, "files": {"index.html": "1"}})
        with pytest.raises(PerfkitError, match="another process"):
            second.commit({"index.html": b"y"}, {"schema": 1, "files": {"index.html": "2"}})
    assert (tmp_path / "new" / "index.html").read_bytes() == b"x"


def test_what_cannot_be_written_leaves_the_site_as_it_was(data: Path, tmp_path: Path) -> None:
    """A page that cannot be put in its place is one line; the index is the old one, nothing is left over."""
    path = tmp_path / "site"
    publish(path, data, QUICK)
    before = tree(path)
    with SiteFolder.open(path) as folder, pytest.raises(PerfkitError, match="the previous site is unchanged"):
        folder.commit({"index.html": b"x", f"runs/{'y' * 300}/index.html": b"z"}, folder.manifest)
    assert tree(path) == before
    assert not (path / ".perfkit-site" / "staging").exists()


@contextlib.contextmanager
def served(path: Path) -> Iterator[str]:
    """The site on a plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_reader_never_meets_half_a_site(data: Path, tmp_path: Path) -> None:
    """While the site is published again and again, every page is whole and every link of the index works."""
    path, stop, seen = tmp_path / "site", threading.Event(), []
    publish(path, data, Wishes(reports=False, title="T0"))

    def read(url: str) -> None:
        while not stop.is_set():
            with urllib.request.urlopen(f"{url}index.html") as answer:
                index = answer.read().decode()
            for href in re.findall(r'href="((?:runs|trends)/[^"]+)"', index):
                with urllib.request.urlopen(url + href) as answer:  # a 404 would raise
                    seen.append(answer.read().endswith(b"</html>\n") and index.endswith("</html>\n"))

    with served(path) as url:
        wrong: list[Exception] = []

        def run() -> None:
            try:
                read(url)
            except Exception as error:
                wrong.append(error)

        readers = [threading.Thread(target=run) for _ in range(2)]
        for reader in readers:
            reader.start()
        for i in range(4, 12):
            nightly(data, i, rows=300)
            publish(path, data, Wishes(reports=False, title=f"T{i}"))
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) > 50
    assert all(seen)


#: Publishes, and kills itself the moment before it does something to a path that ends with given words, for
#: the n-th time: `sys.argv[1:4]`.
KILLED = """
import os, signal, sys
what, where, nth, sys.argv = sys.argv[1], sys.argv[2], int(sys.argv[3]), ["perfkit", *sys.argv[4:]]

def hook(event, given):
    global nth
    if event == what and any(str(one).endswith(where) for one in given):
        nth -= 1
        if not nth:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from perfkit.cli import main
main()
"""


def killed(path: Path, data: Path, what: str, where: str, nth: int = 1, title: str = "") -> None:
    """A publish that ends as its n-th step to a path that ends with `where` begins."""
    command = [sys.executable, "-c", KILLED, what, where, str(nth), "publish", str(path), "--no-report"]
    more = ["--title", title] if title else []
    done = subprocess.run([*command, "--data-dir", str(data), *more], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_kill_at_any_moment_leaves_a_site(data: Path, tmp_path: Path) -> None:
    """Killed while staging, between pages, before the index, its JSON or a manifest: every page is whole, no
    link of the index is dead; the next publish completes the site, and nothing of those before is left."""
    path, first = tmp_path / "site", Run(data / "runs" / "20260101-080000-nightly")
    publish(path, data, Wishes(reports=False, runs=first.id, title="T0"))
    moments = (
        ("open", "/staging/9", 1),
        ("os.rename", "manifest.json", 1),
        ("os.rename", "20260102-080000-nightly/index.html", 1),
        ("os.rename", "site/index.json", 1),
        ("os.rename", "site/index.html", 1),
        ("os.rename", "manifest.json", 2),
    )
    for i, moment in enumerate(moments, 1):
        stamp(first, note=f"told to nobody by T{i}")
        killed(path, data, *moment, title=f"T{i}")
        title = re.search(r"<title>(T\d)</title>", (path / "index.html").read_text())
        assert title
        assert title[1] == ("T6" if i == 6 else "T0")
        assert all(page.read_text().endswith("</html>\n") for page in path.rglob("*.html"))
        assert_links(path)
        told = json.loads((path / "index.json").read_text())
        assert all((path / one["href"]).is_file() for one in told["runs"])
    stamp(first, note=None)
    publish(path, data, Wishes(reports=False, title="T9"))
    assert not (path / ".perfkit-site" / "staging").exists()
    told = json.loads((path / "index.json").read_text())
    assert (len(told["runs"]), told["title"]) == (3, "T9")
    assert_links(path)
    assert [name for name in tree(path) if b"told to nobody" in (path / name).read_bytes()] == []
    publish(tmp_path / "afresh", data, Wishes(reports=False, title="T9"))
    assert sorted(tree(path)) == sorted(tree(tmp_path / "afresh"))


def test_what_a_killed_publish_placed_goes_when_it_is_not_wanted(data: Path, tmp_path: Path) -> None:
    """Files of a run that was removed after the kill are removed; a note taken back is back on no page."""
    path, run = tmp_path / "site", Run(data / "runs" / "20260101-080000-nightly")
    publish(path, data, QUICK)
    before = contents(path)
    new = nightly(data, 4, rows=300)
    killed(path, data, "os.rename", f"{new.id}/workload.yaml")
    assert (path / "runs" / new.id / "timeline.parquet").exists()
    shutil.rmtree(new.path)
    publish(path, data, QUICK)
    assert contents(path) == before
    stored = (run.path / "run.json").read_bytes()
    stamp(run, note="for us only")
    killed(path, data, "os.rename", "site/index.json")
    (run.path / "run.json").write_bytes(stored)
    publish(path, data, QUICK)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["../victim", "/etc/victim", "runs/../../victim", ".git/config", ""])
def test_a_manifest_that_leads_out_of_the_site_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    """Whatever names a file elsewhere, to be removed or written: one line, and nothing is touched."""
    path, manifest = tmp_path / "site", tmp_path / "site" / ".perfkit-site" / "manifest.json"
    publish(path, data, QUICK)
    told = json.loads(manifest.read_text())
    runs = {"x": told["runs"]["20260101-080000-nightly"] | {"place": name}}
    (tmp_path / "victim").write_text("mine")
    for wrong in ({"files": told["files"] | {name: "1"}}, {"going": [name]}, {"runs": runs}, {"files": 3}):
        manifest.write_text(json.dumps(told | wrong))
        before = tree(tmp_path)
        with pytest.raises(PerfkitError, match="is damaged; remove that file"):
            publish(path, data, QUICK)
        assert tree(tmp_path) == before


def test_who_reads_a_page_reads_it_to_its_end(data: Path, tmp_path: Path) -> None:
    """A page that is being read while the site is published stays what it was: files are replaced whole."""
    path = tmp_path / "site"
    publish(path, data, QUICK)
    before = {name: (path / name).read_bytes() for name in tree(path)}
    with contextlib.ExitStack() as stack:
        reading = {name: stack.enter_context(open(path / name, "rb")) for name in before}
        half = {name: file.read(100) for name, file in reading.items()}
        stamp(Run(data / "runs" / "20260102-080000-nightly"), tags=["later"])
        assert publish(path, data, Wishes(reports=False, title="Another")).written > 5
        assert {name: half[name] + file.read() for name, file in reading.items()} == before


# -- secrets ---------------------------------------------------------------------------------------

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA" * 3
#: Put together here, so that no scanner of repositories takes this file for a leak.
SECRETS = {
    "AWS access key": "AKIA" + LETTERS[:16].upper(),
    "GitHub token": "gh" + "p_" + LETTERS[:36],
    "GitLab token": "glpat" + "-" + LETTERS[:20],
    "Slack token": "xox" + "b-123456789012-" + LETTERS[:12],
    "API key": "sk-" + "let-" + LETTERS[:40],
    "JSON Web Token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:20] + "." + LETTERS[:20],
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "bearer token": "Authorization: Bearer " + LETTERS[:24],
    "authorization header": '{"Authorization": "Basic ' + LETTERS[:24] + '"}',
    "password in an address": "postgresql://me:" + "hunter22" + "@db/agents",
    "path of a home folder": 'File "/home/' + 'alice/agent.py", line 3',
}


#: How each of perfkit's reports begins.
REPORT = head(script("perfkit/page.js")) + '<meta name="generator" content="perfkit 0">'


def with_error_text(run: Run, text: str) -> None:
    """Let the server have said `text` in one of the rows."""
    table = run.table()
    words = pa.array([text, *[None] * (len(table) - 1)], pa.string())
    at = table.column_names.index("error_text")
    pq.write_table(table.set_column(at, "error_text", words), run.path / "timeline.parquet")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_wherever_it_is(data: Path, tmp_path: Path, kind: str) -> None:
    """In a row, a note and a report: a line each that names run, file and kind, and nothing is written."""
    run = Run(data / "runs" / "20260102-080000-nightly")
    secret = SECRETS[kind]
    with_error_text(run, f"the server said {secret} and more")
    stamp(run, note=f"see {secret} there")
    (run.path / "report").mkdir()
    for name, before in (("run_report.html", REPORT), ("run_report.ipynb", "")):
        (run.path / "report" / name).write_text(before + json.dumps(f"<p>{secret} there</p>"))
    with pytest.raises(BadInput) as caught:
        publish(tmp_path / "site", data, QUICK)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("nothing was written")
    for name in ("timeline.parquet", "run.json", "run_report.html", "run_report.ipynb", "index.html"):
        assert any(f"runs/{run.id}/{name}: {kind} (" in line for line in lines), (name, lines)
    assert all("--accept" in line for line in lines)
    assert LETTERS[:12] not in str(caught.value)
    assert "hunter22" not in str(caught.value)
    assert not (tmp_path / "site").exists()


def test_secrets_of_the_environment(data: Path, tmp_path: Path) -> None:
    """Values of secret names, of a target's token and inside addresses are found, in any way of writing."""
    secret = 'p"ss&w/rd <of> mine'
    environment = {"MY_API_KEY": secret, "HARMLESS": "agent_mass_creation"}
    environment |= {"BOT": "quite-plain", "DB": "postgres://u:s3cr3t-in-url@h/d"}
    scanner = Scanner({"BOT"}, (), environment)
    escaped = str(escape(secret))
    for text in (secret, escaped, secret.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
                 .replace(">", "&gt;"), json.dumps(secret), "quite-plain", "s3cr3t-in-url"):  # fmt: skip
        assert scanner.file("index.html", text.encode()), text
    assert scanner.file("index.html", b"agent_mass_creation *** Bearer *** http://u:***@h") == []
    stamp(Run(data / "runs" / "20260101-080000-nightly"), note="with quite-plain in it",
          target={"url": "http://127.0.0.1", "token_env": "BOT"})  # fmt: skip
    done = perfkit("publish", str(tmp_path / "s"), "--data-dir", str(data), "--no-report", BOT="quite-plain")
    assert done.returncode == 2
    assert "value of the environment variable BOT (" in done.stderr
    assert "quite-plain" not in done.stderr
    named = json.dumps(
        {"workload": {"params": {"db_password": "tiger"}}, "target": {"headers": {"x-api-key": "***"}}}
    )
    assert [one.kind for one in scanner.file("runs/x/run.json", named.encode())] == ["value of 'db_password'"]


VALUE = "9f8e7d6c5b4a39281706"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("api_key", f"http://127.0.0.1/get?a=1&amp;api_key={VALUE}#x"),
        ("access_token", "/x?access_token=abcdefghijklmnop"),
        ("X-Amz-Signature", f"https://h/x?X-Amz-Signature={VALUE}&X-Amz-Date=1"),
        ("x-api-key", f"400 bad x-api-key: {VALUE}"),
        ("api_key", f"&quot;api_key&quot;: &quot;{VALUE}&quot;"),
        ("db_password", f'{{\\"db_password\\": \\"{VALUE}\\"}}'),
        ("password", "password=hunter2secret"),
    ],
)
def test_a_value_beside_the_name_of_a_secret(name: str, text: str) -> None:
    """In an address, a header, JSON inside a text or HTML; in any file."""
    found = Scanner(environment={}).file("runs/x/run_report.html", text.encode())
    assert [one.kind for one in found] == [f"value of {name!r}"]


def test_words_beside_the_name_of_a_secret_are_none() -> None:
    """Stars, masks, words, numbers, times, variables and code are no secrets."""
    scanner = Scanner(environment={})
    for text in ("token: ********", "api_key=sk***1234567", "token: none", "?token=", "token=${MY_TOKEN1}",
                 "Invalid token: expired_or_wrong", "time to first_token: 0.0012345", "author: abc12345678",
                 "auth = base64.b64encode(x)", "monkey=abc12345678", "last-token: 2026-01-01T00:00:00Z",
                 "password = xxxxxxxx1"):  # fmt: skip
        assert scanner.file("index.html", text.encode()) == [], text
    named = {"token": "***", "headers": [["X-Api-Key", "***"]], "auth": {"kind": "none"}, "max_tokens": "9"}
    assert scanner.file("runs/x/run.json", json.dumps(named).encode()) == []


def test_secrets_deep_in_run_json_and_parquet(tmp_path: Path) -> None:
    """Pairs, lists and objects below a name; lists, structs, maps, views and metadata of a column."""
    scanner, key = Scanner(environment={}), SECRETS["AWS access key"]
    for told in ([["X-Api-Key", "tiger"]], {"password": {"value": "tiger"}}, {"api_keys": ["tiger"]},
                 [{"name": "X-Api-Key", "value": "tiger"}]):  # fmt: skip
        found = scanner.file("runs/x/run.json", json.dumps({"params": told}).encode())
        assert [one.length for one in found] == [5], told
    kinds = {"list": (pa.list_(pa.string()), [key]), "struct": (pa.struct({"a": pa.string()}), {"a": key}),
             "map": (pa.map_(pa.string(), pa.string()), [("a", key)]), "view": (pa.string_view(), key),
             "bytes": (pa.binary(), key.encode()), "plain": (pa.int64(), 1), "words": (
                 pa.list_(pa.dictionary(pa.int32(), pa.string())), [key])}  # fmt: skip
    for name, (kind, value) in kinds.items():
        field = pa.field(name, kind, metadata={"told": key} if name == "plain" else None)
        pq.write_table(pa.table([pa.array([None, value], kind)], pa.schema([field])), tmp_path / "t.parquet")
        assert [one.kind for one in scanner.file("t.parquet", tmp_path / "t.parquet")] == ["AWS access key"]


def test_a_secret_in_a_note_is_refused(data: Path, tmp_path: Path) -> None:
    """What somebody wrote with `perfkit tag --note` is not published when it holds a secret."""
    where = ("--data-dir", str(data))
    assert perfkit("tag", "latest", "--note", f"uses {SECRETS['AWS access key']}", *where).returncode == 0
    done = perfkit("publish", str(tmp_path / "site"), "--no-report", *where)
    assert done.returncode == 2
    assert "20260103-080000-nightly/run.json: AWS access key (" in done.stderr
    assert not (tmp_path / "site").exists()


def test_the_home_of_whoever_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths below it are found, words that only look like one are not."""
    monkeypatch.setenv("HOME", "/srv/me")
    scanner = Scanner()
    assert scanner.file("a.html", b"in /srv/me/code/agent.py")
    assert scanner.file("a.html", b"in /srv/meadow/x, the/srv/me/x, /srv/me") == []


def test_what_only_looks_like_a_secret_is_accepted_for_good(data: Path, tmp_path: Path) -> None:
    """--accept with the fingerprint of the refusal publishes; the site remembers it."""
    path, run = tmp_path / "site", Run(data / "runs" / "20260102-080000-nightly")
    stamp(run, note=f"an example: {SECRETS['AWS access key']}")
    with pytest.raises(BadInput) as caught:
        publish(path, data, QUICK)
    (name,) = set(re.findall(r"--accept (\w{12})", str(caught.value)))
    publish(path, data, Wishes(reports=False, accept=(name,)))
    stamp(run, note=f"the same example: {SECRETS['AWS access key']}")
    assert publish(path, data, QUICK).written > 0
    before = tree(path)
    stamp(run, note=f"another: {SECRETS['GitHub token']}")
    with pytest.raises(BadInput, match="GitHub token"):
        publish(path, data, QUICK)
    assert tree(path) == before


def test_no_false_alarm_on_samples_and_hostile_words(site: Site) -> None:
    """The samples, their report, and hostile words are published without a finding."""
    scanner = Scanner(environment={})
    for file in site.path.rglob("*"):
        if file.is_file():
            assert scanner.file(file.relative_to(site.path).as_posix(), file) == []


def test_a_file_that_changes_meanwhile_is_not_published(tmp_path: Path) -> None:
    """What was looked through is what is published: a file that is another one now ends the publish."""
    from perfkit.site.folder import Source

    source = tmp_path / "x.html"
    source.write_text("harmless")
    seen = Source.of(source)
    source.write_text("harmful!!")
    with SiteFolder.open(tmp_path / "site") as folder, pytest.raises(PerfkitError, match="publish again"):
        folder.commit({"x.html": seen}, {"schema": 1, "files": {"x.html": seen.name}})
    assert not (tmp_path / "site" / "x.html").exists()


def test_a_hostile_run_alone(tmp_path: Path) -> None:
    """The verb publishes it in silence, whatever its folder is called."""
    hostile(tmp_path)
    done = perfkit("publish", str(tmp_path / "site"), "--data-dir", str(tmp_path), "--no-report")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert HOSTILE not in (tmp_path / "site" / "index.html").read_text()
