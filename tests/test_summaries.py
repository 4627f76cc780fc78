"""Summaries of other tools: their numbers as they stand there, a page of them, and nothing beyond."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser

from perfkit import frames, report
from perfkit.cli import cli
from perfkit.compare import compare
from perfkit.errors import BadInput
from perfkit.importing import hdr, import_runs
from perfkit.site.facts import run_facts
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from tests.imported import import_file
from tests.test_importing import FILES

#: file -> format, requests, failures, mean, p50, p99 (ms; NaN: the file does not tell it).
NUMBERS = {
    "wrk.txt": ("wrk", 136, 0, 43.68, 43.96, 48.03),
    "wrk2.txt": ("wrk", 28_504, 34, 1.7, 1.502, 4.738),
    "oha.json": ("oha-json", 204, 14, 12.1859, 10.54, 28.65),
    "percentiles.hgrm": ("hdr-table", 3, 0, 50.0, 50.0, 75.0),
}


def imported(name: str, folder: Path) -> Run:
    return import_file(FILES / name, data_dir=folder)


def total(run: Run) -> dict[str, float]:
    """The numbers of all operations."""
    return summarize(Part(run))[-1]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    """Without a row: counts, mean and quantiles as printed; what is not told is NaN, not made up."""
    run = imported(name, tmp_path)
    form, n, failed, mean, p50, p99 = NUMBERS[name]
    row = total(run)
    told = run.meta.imported
    assert (told.format, told.fidelity.label, run.row_count()) == (form, "aggregated", 0)
    assert (run.results.n, run.results.failed, row["n"]) == (n, failed, n)
    assert row["failed"] == failed or name == "percentiles.hgrm"  # which does not tell: NaN, a dash
    assert [row["mean"], row["p50"], row["p99"]] == pytest.approx([mean, p50, p99], rel=1e-3)
    if name == "wrk.txt":
        assert row["p95"] != row["p95"]  # NaN


def test_several_outputs_in_one_file_are_several_runs(tmp_path: Path) -> None:
    """wrk's output twice, with a shell's prompt between: two runs, each with its own numbers."""
    runs = import_runs(FILES / "wrk_twice.txt", data_dir=tmp_path)
    assert [run.results.n for run in runs] == [16_364 + 31, 16_386 + 32]
    assert [run.results.failed for run in runs] == [31, 52]
    assert [run.meta.imported.part for run in runs] == ["1 of 2", "2 of 2"]
    assert [run.meta.target_url for run in runs] == ["http://127.0.0.1:8080", "http://127.0.0.1:8118"]


def test_an_old_histogram_is_read(tmp_path: Path) -> None:
    """V0, by jHiccup of 2014: as many values as its headers count."""
    run = imported("hdr_v0.hlog", tmp_path)
    assert run.row_count() > 1_000
    assert run.meta.imported.fidelity.label == "bucketed"
    coded = (FILES / "hdr_v1.txt").read_text().strip()
    values, counts = hdr.decode(hdr.unpack(coded))
    assert counts.sum() == 724
    assert (values[1:] > values[:-1]).all()


def test_many_counts_stay_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of more values than become rows has the same quantiles, and no row."""
    rows = imported("hdr_java.hlog", tmp_path)
    monkeypatch.setattr(hdr, "MOST_COUNTED", 100)
    counts = imported("hdr_java.hlog", tmp_path)
    assert (counts.row_count(), counts.results.n) == (0, rows.row_count())
    for operation in ("requests", "write", "all operations"):
        one, other = (
            next(row for row in summarize(Part(run)) if row["operation"] == operation)
            for run in (rows, counts)
        )
        assert other["n"] == one["n"]
        if operation != "all operations":  # quantiles of several are not those of all
            assert other["p50"] == pytest.approx(one["p50"], rel=0.01)
            assert other["mean"] == pytest.approx(one["mean"], rel=1e-6)


def test_a_summary_is_never_compared(tmp_path: Path) -> None:
    """There is nothing in it that tells noise from change."""
    found = compare(*([import_file(FILES / "oha.json", data_dir=tmp_path)] for _ in range(2)))
    assert found.verdict == "refused"
    assert "it is a summary from another tool" in found.words


def test_the_page_of_a_summary(tmp_path: Path, chromium: Browser) -> None:
    """Verdict, numbers, failures and quantiles; no figure over time, no interval, no empty section."""
    run = imported("wrk2.txt", tmp_path)
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.goto(report.make_report(run, progress=False).as_uri())
    text = tab.locator("main").inner_text()
    assert text.startswith("IMPORTED — from wrk2.txt (wrk, wrk2): aggregated: a summary without its requests")
    assert "949 successes a second, p50 1.5 ms, p95 3.43 ms, p99 4.74 ms, as given" in text
    assert "neither 2xx nor 3xx" in text
    assert [h.inner_text() for h in tab.locator("main h2").all()] == [
        "How long did requests take?", "What failed?", "How bad is the tail?", "How was this measured?",
        "How to read the figures",
    ]  # fmt: skip
    assert tab.locator("figure svg.pk-wide").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()


@pytest.mark.parametrize("name", ["percentiles.hgrm", "ab_quantiles.csv", "locust_stats.csv"])
def test_a_site_takes_what_a_summary_does_not_tell(name: str, tmp_path: Path) -> None:
    """Counts that are not told are null in index.json; failures of a lone operation are those of all."""
    run = imported(name, tmp_path)
    told = run_facts(run)["shown"]
    assert (told["requests"] is None) == (name == "ab_quantiles.csv")
    assert (told["error_rate"] is None) == (name != "locust_stats.csv")
    lines = (FILES / "locust_stats.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(lines[:2]) + "\n")
    lone = import_file(tmp_path / "one.csv", data_dir=tmp_path)
    assert set(frames.errors(Part(lone))["operation"]) <= {"all operations"}


def test_a_table_that_counts_nothing(tmp_path: Path) -> None:
    """Quantiles of no request are a file's numbers all the same, and divide nothing."""
    text = (FILES / "percentiles.hgrm").read_text().splitlines()
    lines = [
        " ".join([*line.split()[:2], "0", "1"]) if line[:1] == " " and "." in line else line for line in text
    ]
    (tmp_path / "none.hgrm").write_text("\n".join(lines) + "\n")
    run = import_file(tmp_path / "none.hgrm", data_dir=tmp_path)
    assert total(run)["n"] == 0
    assert run_facts(run)["shown"]["requests"] == 0


def test_rates_are_of_successes(tmp_path: Path) -> None:
    """Vegeta tells a throughput of them, wrk a rate of answers beside failures that were none."""
    document = json.loads((FILES / "vegeta_report.json").read_text())
    document |= {"requests": 100, "throughput": 5.0, "rate": 10.0, "duration": 10**10, "wait": 0,
                 "status_codes": {"200": 50, "500": 50}}  # fmt: skip
    (tmp_path / "v.json").write_text(json.dumps(document))
    assert total(import_file(tmp_path / "v.json", data_dir=tmp_path))["rate_per_s"] == pytest.approx(5)
    text = (FILES / "wrk.txt").read_text()
    errors = "  Socket errors: connect 0, read 864, write 0, timeout 0\n"
    (tmp_path / "wrk.txt").write_text(text.replace("Requests/sec", f"{errors}Requests/sec"))
    paths = (FILES / "wrk.txt", tmp_path / "wrk.txt")
    rates = [total(import_file(path, data_dir=tmp_path))["rate_per_s"] for path in paths]
    assert rates[0] == pytest.approx(rates[1])


def test_the_verbs_take_a_summary(tmp_path: Path) -> None:
    """ls, show and its JSON tell its numbers and what it is."""
    run = imported("wrk.txt", tmp_path)
    where = ["--data-dir", str(tmp_path)]
    listed = CliRunner().invoke(cli, ["ls", *where])
    assert "aggregated" in listed.output
    shown = CliRunner().invoke(cli, ["show", run.id, *where])
    assert "all operations: n 136, failed 0, 45.3/s, p50 43.96, p95 —, p99 48.03" in shown.output
    told = json.loads(CliRunner().invoke(cli, ["show", run.id, "--json", *where]).output)
    assert told["summary"][-1]["p99"] == 48.03
    assert told["summary"][-1]["p95"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  0 requests in 10.00s, 1MB read", "no line 'N requests in T' with a request"),
        ("  10 requests in -3s, 1MB read", "no line 'N requests in T'"),
        ("    Latency   x   1ms   2ms\n  10 requests in 3s, 1MB read", "cannot be read as wrk"),
    ],
)
def test_a_summary_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    """No request, no time, no number: one line, and nothing is left."""
    made = tmp_path / "wrk.txt"
    made.write_text(f"Running 10s test @ http://127.0.0.1/\n{text}\n")
    with pytest.raises(BadInput, match=words):
        import_file(made, data_dir=tmp_path)
