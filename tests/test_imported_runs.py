"""Imported runs among all others: listed, shown, reported and compared, never as more than they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from perfkit import figures, frames, report, stats
from perfkit.compare import Comparison, Options, compare
from perfkit.compare.reduce import reduce_run
from perfkit.errors import BadInput
from perfkit.site.sources import workload_yaml
from perfkit.store import Run
from tests.imported import import_file
from tests.test_cli import perfkit
from tests.test_comparison import made as made_by_perfkit
from tests.test_importing import FILES, HEY
from tests.test_importing_traps import HISTORY

ROWS = 3000
JTL = "timeStamp,elapsed,label,responseCode,success\n"


def steady(seed: int, median_ms: float = 40.0) -> Iterator[tuple[int, int]]:
    """Starts and latencies, ns, of a run with no trend: 200 a second."""
    rng = np.random.default_rng(seed)
    starts = 1_795_600_000_000_000_000 + np.cumsum(rng.exponential(5e6, ROWS)).astype(int)
    took = (median_ms * 1e6 * rng.lognormal(0, 0.2, ROWS)).astype(int)
    return zip(starts.tolist(), took.tolist(), strict=True)


def by_vegeta(folder: Path, seed: int, median_ms: float = 40.0) -> Run:
    """A run imported from Vegeta's CSV."""
    file = folder / f"v{seed}.csv"
    lines = (f"{at},200,{took},0,9,,,a,0,GET,http://127.0.0.1/,\n" for at, took in steady(seed, median_ms))
    file.write_text("".join(lines))
    return import_file(file, data_dir=folder, scenario="shop")


def by_jmeter(folder: Path, seed: int, median_ms: float = 400.0) -> Run:
    """A run imported from a JTL, which has whole ms."""
    file = folder / f"j{seed}.jtl"
    lines = (f"{at // 10**6},{took // 10**6},a,200,true\n" for at, took in steady(seed, median_ms))
    file.write_text(JTL + "".join(lines))
    return import_file(file, data_dir=folder, scenario="shop")


def verdicts(found: Comparison) -> dict[str, str]:
    """Of the primary metrics."""
    return {one.metric: one.verdict for one in found.results if one.primary}


def test_runs_of_one_tool_are_compared(tmp_path: Path) -> None:
    """A fifth slower is found; what could not be checked without the file's word is said."""
    a = [by_vegeta(tmp_path, seed) for seed in range(3)]
    b = [by_vegeta(tmp_path, seed, 48.0) for seed in range(3, 6)]
    found = compare(a, b)
    assert found.verdict == "regressed"
    assert verdicts(found)["p50"] == "regressed"
    notes = " ".join(found.notes)
    assert "the generator's health, host and load are not in the file" in notes
    assert "Little's law" in notes


def test_copies_of_one_file_replicate_nothing(tmp_path: Path) -> None:
    """The same file imported on both sides, or twice on one, is refused: it was measured once."""
    file = tmp_path / "v1.csv"
    first, other = by_vegeta(tmp_path, 1), by_vegeta(tmp_path, 2)
    again = import_file(file, data_dir=tmp_path, scenario="shop")
    for a, b in (([first], [again]), ([first, again], [other])):
        found = compare(a, b)
        assert found.verdict == "refused"
        assert "have the same file; the same data counts only once" in found.words


def test_what_the_file_does_not_tell_is_not_drawn(tmp_path: Path) -> None:
    """Quantiles of all so far say nothing of when: no figure over time, requests are taken as independent."""
    lines = [HISTORY, *(f"{1_700_000_000 + i},5,,Aggregated,9,0,30,40,50,{i * 10},0" for i in range(1, 21))]
    made = tmp_path / "history.csv"
    made.write_text("\n".join(lines) + "\n")
    run = import_file(made, data_dir=tmp_path)
    rows = frames.measured(run)
    drawn = [
        figures.call_latency(frames.calls(rows)), figures.concurrency(frames.concurrency(rows)),
        figures.throughput(frames.over_time(rows)), figures.kickoff_timeline(frames.waterfall(rows)),
    ]  # fmt: skip
    assert all("does not say when" in figures.words(ax)[0] for ax in drawn)
    assert set(frames.summary(rows)["p50_unit"]) == {stats.INDEPENDENT}
    assert workload_yaml(run) is None
    assert "load not in the file" in repr(import_file(FILES / "jmeter.csv", data_dir=tmp_path))


def test_another_tool_or_fidelity_is_refused(tmp_path: Path) -> None:
    """Vegeta beside JMeter, or beside perfkit, is refused; --force says that it was forced."""
    vegeta, jmeter = by_vegeta(tmp_path, 1), by_jmeter(tmp_path, 2)
    with pytest.raises(BadInput, match="unknown name in --vary: 'fidelity'"):
        compare([vegeta], [jmeter], Options(vary=("fidelity",)))
    found = compare([vegeta], [jmeter])
    assert found.verdict == "refused"
    assert "different fidelity: 'instants exact, latencies exact, no intended time' and 'inst" in found.words
    own = compare([vegeta], [made_by_perfkit(tmp_path, 3)])
    assert "different tool: 'Vegeta' and 'perfkit'" in own.words
    assert "'measured by perfkit, intended time known'" in own.words
    forced = compare([vegeta], [jmeter], Options(force=True))
    assert any("different fidelity" in one for one in forced.forced)


@pytest.mark.parametrize("name", ["locust_history.csv", "hdr_java.hlog"])
def test_bucketed_runs_are_never_compared(name: str, tmp_path: Path) -> None:
    """Rows made from counts do not tell how requests differ: left out by rule."""
    found = [import_file(FILES / name, data_dir=tmp_path) for _ in range(2)]
    comparison = compare(found[:1], found[1:])
    assert comparison.verdict == "refused"
    assert "its times are bucketed" in comparison.words


def test_latencies_coarser_than_a_percent_are_not_compared(tmp_path: Path) -> None:
    """JMeter's ms carry a median of 400 ms, not one of 20; throughput and errors are compared."""
    fine, coarse = ([by_jmeter(tmp_path, seed, ms) for seed in range(6)] for ms in (400.0, 20.0))
    assert verdicts(compare(fine[:3], fine[3:])).keys() >= {"p50", "p99", "throughput"}
    found = compare(coarse[:3], coarse[3:])
    assert verdicts(found).keys() == {"throughput", "error_rate"}
    notes = " ".join(found.notes)
    assert "latencies are rounded to 1 ms, 5% of the median: not compared (1 % is the most)" in notes
    assert "Not judged: p50 (latencies are rounded to 1 ms, 5% of the median" in found.words


def test_throughput_over_whole_seconds_is_not_compared(tmp_path: Path) -> None:
    """k6's CSV has whole seconds: 15 s of them carry no rate, and no drift; its latencies are exact."""
    file = tmp_path / "k6.csv"
    lines = ["metric_name,timestamp,metric_value,status\n"]
    lines += [f"http_req_duration,{(at + took) // 10**9},{took / 1e6:f},200\n" for at, took in steady(1)]
    file.write_text("".join(lines))
    one = reduce_run(import_file(file, data_dir=tmp_path))
    assert one.reasons == ()
    assert one.value("all operations", "p50") is not None
    assert one.value("all operations", "throughput") is None
    notes = " ".join(one.notes)
    assert "instants are rounded to 1 s, too coarse for" in notes
    assert "latency drift was not checked" in notes


def test_no_delay_is_made_up(tmp_path: Path) -> None:
    """Without an intended time there is no kick-off delay, rather than one of 0."""
    rows = frames.timeline(import_file(FILES / "vegeta.csv", data_dir=tmp_path))
    assert rows["kickoff_ms"].isna().all()
    due = frames.timeline(import_file(FILES / "oha_corrected.db", data_dir=tmp_path))
    assert due["kickoff_ms"].max() > 0.5


@pytest.mark.parametrize("name", ["jmeter.xml", "hdr_java.hlog"])
def test_the_report_names_the_fidelity_first(name: str, tmp_path: Path, chromium: Browser) -> None:
    """Made by a real kernel, with failures that have no end too: from what, how true; facts below."""
    run = import_file(FILES / name, data_dir=tmp_path, note="from elsewhere")
    page = report.make_report(run, progress=False)
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    first = tab.locator("main > *").first.inner_text()
    label = run.meta.imported.fidelity.words
    assert first.startswith(f"IMPORTED — from {name} (")
    assert label in first
    facts = tab.locator("dl.pk-facts").inner_text()
    assert run.meta.imported.sha256 in facts
    assert "Note: from elsewhere" in first
    assert "not in the file the run was imported from" in tab.content()
    tab.close()


def test_the_verb_lists_shows_and_removes(tmp_path: Path) -> None:
    """import, ls, show, compare and rm in a shell: exit codes 0, 2 and 3, the label in each."""
    broken = tmp_path / "broken.csv"
    broken.write_bytes((FILES / "vegeta.csv").read_bytes() + b"and more\n")
    refused = perfkit("import", str(broken), data=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "line 121: 1 columns, expected 9 to 12; repair them, or skip them with" in refused.stderr
    done = perfkit("import", str(broken), "--skip-broken", "--tag", "before", data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "imported from broken.csv (vegeta-csv, Vegeta): instants exact, latencies exact" in done.stdout
    assert "1 broken place of the file left out: line 121" in done.stdout
    columns = [part for field, name in HEY.items() for part in ("--column", f"{field}={name}")]
    told = perfkit("import", str(FILES / "hey.csv"), *columns, "--json", data=tmp_path)
    assert json.loads(told.stdout)["imported"]["fidelity"]["label"] == "rounded"
    listed = perfkit("ls", data=tmp_path).stdout.splitlines()
    assert [line.split()[2] for line in listed[1:]] == ["exact", "rounded"]
    assert "before" in listed[1]
    assert "instants exact" in perfkit("show", listed[1].split()[0], data=tmp_path).stdout
    compared = perfkit("compare", listed[1].split()[0], listed[2].split()[0], "--no-report", data=tmp_path)
    assert compared.returncode == 3
    assert "different fidelity" in compared.stdout
    assert perfkit("rm", listed[1].split()[0], data=tmp_path).returncode == 0
    assert perfkit("import", "nowhere.csv", data=tmp_path).returncode == 2
