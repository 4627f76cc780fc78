"""Comparison, capacity and trend: the pages, and the verbs that make them, with real kernels and servers."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options, experiment, turns
from perfkit.compare import frames as compare_frames
from perfkit.compare.figures import comparison_table
from perfkit.errors import BadInput, NothingToJudge
from perfkit.report import execute, make_comparison_report, notebook_path
from perfkit.store import Run, list_runs
from tests.command import started
from tests.small_server import WIDE_BUDGET, small_server

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>"


def made(folder: Path, number: int, *, scale: float = 1.0, rate: float = 200.0, **meta: Any) -> Run:
    """A quiet run of two operations, one of them with a hostile name."""
    return make_timeline(
        folder, 5000, seed=number, scale=scale, rate_per_s=rate, error_rate=0.0, restless=0.02,
        operations=["one", HOSTILE], run_id=f"20260101-000{number:03d}-made-{number:04x}", meta=meta,
    )  # fmt: skip


def perfkit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return started(*arguments)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> experiment.Kept:
    """Three pairs, B a fifth slower."""
    data = tmp_path_factory.mktemp("data")
    sides = [
        [made(data, 10 * pair + k, scale=by, experiment={"id": "x", "pair": pair, "order": 2 * pair + k})
         for pair in (1, 2, 3)]
        for k, by in ((0, 1.0), (1, 1.2))
    ]  # fmt: skip
    return experiment.compare_and_keep(*sides, Options(), ("before", HOSTILE), data)


def test_the_comparison_page_says_its_verdict_first(kept: experiment.Kept) -> None:
    """Every figure is there, nothing is loaded, a hostile name stays a word."""
    page = make_comparison_report(kept.path, progress=False).read_text()
    verdict = page.index("<strong>REGRESSED")
    assert verdict < page.index("<h2 ")
    assert page.count('role="img"') == 4
    assert "3 pairs in turns" in page
    assert HOSTILE not in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_a_change_that_was_found_has_no_detectable_size(kept: experiment.Kept) -> None:
    """`any size` beside `regressed` would read as its opposite; undecided metrics keep theirs."""
    p50 = dataclasses.replace(kept.comparison.result("p50"), detectable=9.0, repeats=500)
    undecided = dataclasses.replace(p50, metric="p90", verdict="inconclusive")
    found = dataclasses.replace(kept.comparison, results=(p50, undecided))
    rows = re.findall(r"<tr role=\"row\">.*?</tr>", comparison_table(found).html)
    cells = {row[: row.index("</th>")].rpartition(">")[2].split()[0]: row for row in rows[1:]}
    assert p50.verdict == "regressed"
    assert cells["p50"].endswith(">—</td></tr>")
    assert cells["p90"].endswith(">any size</td></tr>")


def test_the_page_of_a_comparison_is_made_by_its_name(kept: experiment.Kept) -> None:
    """`gate` names the command; `report comparison:ID` and comparison:latest print the page's path."""
    data = kept.path.parent.parent
    done = perfkit("gate", kept.id, "--data-dir", str(data))
    path, following = done.stdout.splitlines()[-2:]
    assert (path, following) == (str(kept.path), f"  next: perfkit report comparison:{kept.path}")
    for name in (following.split()[-1], f"comparison:{kept.id}", "comparison:latest"):
        page = perfkit("report", name, "-q", "--data-dir", str(data), "-p", "title=Mine")
        assert (page.returncode, page.stderr) == (0, "")
        assert page.stdout == f"{kept.path / 'report' / 'comparison.html'}\n"
    assert "<h1>Mine</h1>" in (kept.path / "report" / "comparison.html").read_text()
    for options, words in (
        (("comparison:none",), "no comparison 'none'"),
        (("comparison:latest", "-p", "data_dir=x"), "'data_dir' is set by perfkit to the comparison"),
        (("comparison:latest", "-p", "bins=3"), "comparison.ipynb"),
    ):
        refused = perfkit("report", *options, "--data-dir", str(data))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert words in refused.stderr


def test_a_comparison_is_found_again(kept: experiment.Kept) -> None:
    """By id, its end, its folder and as the latest; another name is one clear line."""
    data = kept.path.parent.parent
    for name in ("latest", kept.id, kept.id[-4:], str(kept.path)):
        assert experiment.open_comparison(name, data).comparison.words == kept.comparison.words
    shown = html.unescape(re.sub(r"<[^>]*>", "", kept._repr_html_())).split()
    assert shown == repr(kept).split()
    assert f"{kept.comparison.b.name}, {len(kept.comparison.b.runs)} runs" in repr(kept)
    with pytest.raises(BadInput, match="no comparison 'nothing'"):
        experiment.open_comparison("nothing", data)
    assert [run.id for run in kept.sides["before"]] == list(kept.comparison.a.runs)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (
            {"users": {"count": 2, "iterations": 80}},
            "at most 80 requests; .* set users.iterations: 136 or more",
        ),
        (
            {"arrivals": {"rate_per_s": 10, "duration_s": 8}},
            "at most 80 .* set arrivals.duration_s: 14 or more",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_not_begun(tmp_path: Path, load: Any, words: str) -> None:
    """Where a step surely sends one request, a run of 80 steps is refused before the first of them."""
    given = {"scenario": "http_get", "target": {"url": "http://127.0.0.1:9"}, **load}
    with pytest.raises(NothingToJudge, match=words):
        turns.run_pairs(given, given, ("A", "B"), 5, tmp_path, (), show_progress=False)
    assert list_runs(tmp_path) == []


def test_runs_too_short_to_compare_end_after_the_first(tmp_path: Path) -> None:
    """Ten runs with 80 requests each judge nothing: the first of them says so, and how long it must be."""
    scenario = tmp_path / "perhaps_more.py"
    scenario.write_text(
        "async def step(session, params, rng):\n    for _ in range(1):\n        await session.get('/')\n"
    )
    with small_server() as server:
        load = {
            "scenario": str(scenario),
            "target": {"url": server.url},
            "users": {"count": 2, "iterations": 80},
        }
        given = load | {"budget": {"delay_ms": 10000, "cpu_share": 100, "gc_pause_ms": 60000}}
        with pytest.raises(NothingToJudge, match=r"measured 80 requests.* set users.iterations: 136 or more"):
            turns.run_pairs(given, given, ("A", "B"), 5, tmp_path, (), show_progress=False)
    assert len(list_runs(tmp_path)) == 1


def test_looking_again_and_again_is_told(tmp_path: Path) -> None:
    """Adding runs until a difference shows finds one in the end: the page says how often it was looked."""
    a, b = ([made(tmp_path, 10 * k + i) for i in (1, 2, 3)] for k in (4, 5))
    for count in (2, 3):
        kept = experiment.compare_and_keep(a[:count], b[:count], Options(), ("A", "B"), tmp_path)
    assert "were compared before, once" in kept.comparison.notes[-1]
    again = experiment.compare_and_keep(a, b, Options(), ("A", "B"), tmp_path)
    assert again.comparison.notes == kept.comparison.notes
    other = experiment.compare_and_keep(a, b, Options(margin=0.5), ("A", "B"), tmp_path)
    assert "were compared before, 3 times" in other.comparison.notes[-1]


def test_the_gate_takes_up_a_comparison(kept: experiment.Kept, tmp_path: Path) -> None:
    """Exit code 4 for a regression, with JUnit XML and Markdown; 3 for what is refused; 2 for bad input."""
    data = str(kept.path.parent.parent)
    files = tmp_path / "gate.xml", tmp_path / "summary.md"
    done = perfkit("gate", kept.id, "--data-dir", data, "--junit", str(files[0]), "--markdown", str(files[1]))
    assert (done.returncode, done.stderr) == (4, "")
    assert ET.parse(files[0]).getroot().find("testsuite/testcase/failure") is not None
    assert "REGRESSED" in files[1].read_text()
    ids = [run.id for run in (*kept.a, *kept.b)]
    told = perfkit(
        "compare", ",".join(ids[:3]), ",".join(ids[3:]), "--data-dir", data, "--no-report", "--json"
    )
    assert told.returncode == 0
    assert json.loads(told.stdout)["verdict"] == "regressed"
    for arguments, words in (
        (("compare", ids[0], ids[0]), "is given twice"),
        (("compare", "a.yaml", ids[0]), "two workload files, or two groups"),
        (("compare", "tag:none", ids[0]), "no run is tagged 'none'"),
        (("compare", ids[0], ids[1], "--margin", "2"), "margin must be between 0.0001 and 1"),
        (("compare", ids[0], ids[1], "--primary", "p51"), "unknown metric 'p51'"),
        (("compare", ids[0], ids[1], "--repeats", "3"), "--repeats is for workload files"),
        (("gate", kept.id, "--junit", "/nowhere/at/all.xml"), "does not exist"),
    ):
        done = perfkit(*arguments, "--data-dir", data)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, words in line) == (2, True), line
    done = perfkit("gate", "nope", "--data-dir", data, "--junit", str(files[0]), "--markdown", str(files[1]))
    assert (done.returncode, [file.exists() for file in files]) == (2, [False, False]), "an earlier job's"


@pytest.mark.parametrize("broken", ["one side", "both sides"])
def test_a_refused_comparison_has_a_page_that_compares_nothing(tmp_path: Path, broken: str) -> None:
    """Exit code 3, the reason first on the page, and no figure of two sides that cannot stand together."""
    invalid = {"health": {"valid": False, "reasons": ["steps started late"]}}
    a = [made(tmp_path, i, **(invalid if broken == "both sides" else {})) for i in (1, 2)]
    b = [made(tmp_path, i, **invalid) for i in (3, 4)]
    names = [",".join(run.id for run in side) for side in (a, b)]
    done = perfkit("compare", *names, "--data-dir", str(tmp_path), "-q")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("REFUSED: no run of")
    page = Path(done.stdout.splitlines()[-1]).read_text()
    assert "steps started late" in page
    assert 'role="img"' not in page


def test_a_page_of_several_runs_has_a_place_of_its_own(tmp_path: Path) -> None:
    """Pages of different runs do not replace each other, and a name that is wrong replaces none."""
    runs = [made(tmp_path, i) for i in (1, 2, 3)]
    pages = []
    for some in (runs[:2], runs):
        told = f"runs={','.join(run.id for run in some)}"
        done = perfkit("report", "--notebook", "trend", "-p", told, "--data-dir", str(tmp_path), "-q")
        assert done.returncode == 0, done.stderr
        pages.append(Path(done.stdout.strip()))
    assert pages[0] != pages[1]
    assert all(page.exists() and "reports" in page.parts for page in pages)
    wrong = ("-p", f"runs={runs[0].id},nowhere", "--data-dir", str(tmp_path), "-q")
    done = perfkit("report", "--notebook", "trend", *wrong)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no run 'nowhere'" in done.stderr
    assert [path.name for path in (tmp_path / "reports").glob("*/*.html")] == ["trend.html"] * 2


WORKLOADS = {
    "another url": ("target: {url: 'http://127.0.0.1:1'}", (), "--vary NAME"),
    "a stranger": ("target: {url: 'http://10.1.2.3'}", ("--vary", "target.url"), "is not this machine"),
    "no number": ("repeats: many", (), "repeats"),
    "a mistyped name": ("seed: 2", ("--vary", "target.ulr"), "did you mean 'target.url'"),
    "no file": ("seed: 2", ("--junit", "."), "it is a folder"),
}


@pytest.mark.parametrize(("line", "options", "says"), WORKLOADS.values(), ids=WORKLOADS)
def test_what_can_be_known_is_refused_before_the_first_request(
    tmp_path: Path, line: str, options: tuple[str, ...], says: str
) -> None:
    """One line, exit code 2, and no run is made."""
    common = "scenario: http_get\nusers: {count: 1, iterations: 200}\n"
    (tmp_path / "a.yaml").write_text(common + "target: {url: 'http://127.0.0.1:2'}\n")
    own = "" if line.startswith("target") else "target: {url: 'http://127.0.0.1:2'}\n"
    (tmp_path / "b.yaml").write_text(f"{common}{own}{line}\n")
    files = [str(tmp_path / f"{name}.yaml") for name in "ab"]
    done = perfkit("gate", *files, *options, "--data-dir", str(tmp_path / "data"), "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr
    assert not (tmp_path / "data" / "runs").exists()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("verb", "number", "code", "reason"),
    [
        ("gate", signal.SIGINT, 130, "interrupted"),
        ("aa", signal.SIGTERM, 143, "terminated by SIGTERM"),
        ("compare", signal.SIGTERM, 143, "terminated by SIGTERM"),
    ],
)
def test_an_interrupted_experiment_passes_no_gate(
    tmp_path: Path, verb: str, number: int, code: int, reason: str
) -> None:
    """The exit code says which signal, whatever there is so far; the runs that are whole are named."""
    with small_server() as server:
        file = tmp_path / "a.yaml"
        load = "users: {count: 2, duration_s: 2}\nparams: {path: /slow/3}\n" + WIDE_BUDGET
        file.write_text(f"scenario: http_get\ntarget: {{url: '{server.url}'}}\n{load}")
        files = [str(file)] * (1 if verb == "aa" else 2)
        command = [sys.executable, "-m", "perfkit.cli", verb, *files, "-q", "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            deadline = time.monotonic() + 60
            while not any(run.row_count() and run.state == "running" for run in list_runs(tmp_path)[2:]):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
    assert process.returncode == code
    done = [run.id for run in list_runs(tmp_path) if run.state == "complete"]
    assert said.startswith(f"perfkit: {reason} in pair 2 of")
    assert f"perfkit compare {done[0]} {done[1]}" in said
    assert not (tmp_path / "comparisons").exists()


def test_compare_carries_out_both_sides_in_turns(tmp_path: Path) -> None:
    """Two files: four runs in the order A B B A, each with its pair; then aa keeps a noise floor."""
    with small_server() as server:
        load = f"users: {{count: 2, duration_s: 0.6}}\ntarget: {{url: '{server.url}'}}\nscenario: http_get\n"
        load += WIDE_BUDGET
        load += "params: {path: /slow/5}\n"  # most of it sleep, so that a busy machine is no drift
        for name in ("a", "b"):
            (tmp_path / f"{name}.yaml").write_text(load)
        arguments = (
            str(tmp_path / "a.yaml"),
            str(tmp_path / "b.yaml"),
            "--repeats",
            "2",
            "-q",
            "--no-report",
        )
        done = perfkit("compare", *arguments, "--data-dir", str(tmp_path), "--json")
        told = json.loads(done.stdout)
        aa = perfkit("aa", str(tmp_path / "a.yaml"), "--pairs", "5", "-q", "--data-dir", str(tmp_path))
    assert done.returncode in (0, 3), done.stderr
    kept = experiment.open_comparison(told["id"], tmp_path)
    order = {run.meta.experiment.order: run.meta.experiment.side for run in (*kept.a, *kept.b)}
    assert [order[i] for i in (1, 2, 3, 4)] == ["A", "B", "B", "A"]
    assert aa.returncode == 0, aa.stderr + aa.stdout
    assert "noise floor of a" in aa.stdout
    assert list((tmp_path / "noise").glob("http_get-*.json"))


def test_capacity_finds_the_knee_of_several_loads(tmp_path: Path) -> None:
    """Runs at five loads are five levels, with throughput and concurrency measured on their rows."""
    runs = [
        made(tmp_path, n, rate=50.0 * n, workload={"scenario": "made", "users": {"count": n}})
        for n in (1, 2, 4, 8, 12)
    ]
    steps = compare_frames.load_steps(runs)
    assert steps["load"].tolist() == [1, 2, 4, 8, 12]
    assert steps["throughput"].tolist() == pytest.approx([50, 100, 200, 400, 600], rel=0.05)
    given = {"runs": ",".join(run.id for run in runs), "data_dir": ".."}
    page = execute(notebook_path("capacity"), given, tmp_path / "out" / "capacity.ipynb", progress=False)
    text = page.read_text()
    assert "KNEE UNKNOWN" in text
    assert "Universal Scalability Law" in text


def test_a_stepped_run_has_a_level_for_each_step(tmp_path: Path) -> None:
    """Each step of the arrivals is a level; too few of them are told as such."""
    arrivals = {"shape": "steps", "step_rates_per_s": [200, 200], "duration_s": 24.0}
    run = made(tmp_path, 1, workload={"scenario": "made", "arrivals": arrivals})
    steps = compare_frames.load_steps([run])
    assert steps["load"].tolist() == [200, 200]
    assert compare_frames.scalability(steps) == {}


def test_the_trend_finds_where_it_changed(tmp_path: Path) -> None:
    """Ten runs, the last four a fifth slower: one change point, at the seventh; an invalid run is told."""
    for number in range(1, 11):
        made(tmp_path, number, scale=1.2 if number > 6 else 1.0)
    bad = made(tmp_path, 11, health={"valid": False, "reasons": ["it was late"]})
    found = experiment.series_named(bad.id, tmp_path)
    assert len(found) == 11
    series = compare_frames.trend(found)
    changes = compare_frames.changes(series)
    assert changes["place"].tolist() == [6]
    given = {"run": bad.id, "data_dir": ".."}
    page = execute(
        notebook_path("trend"), given, tmp_path / "out" / "trend.ipynb", progress=False
    ).read_text()
    assert "CHANGED" in page
    assert "it was late" in page
