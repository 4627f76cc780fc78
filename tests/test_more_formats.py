"""Logs and summaries of Gatling, hey, ab, bombardier, Artillery, k6, Vegeta and Locust; what is not read."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perfkit.errors import BadInput
from perfkit.importing import import_runs
from perfkit.importing.elsewhere import advice
from perfkit.importing.head import Head
from perfkit.store import Run
from perfkit.store.metadata import Carried
from perfkit.store.rows import Part
from perfkit.store.summary import summarize
from tests.imported import import_file
from tests.test_importing import FILES, rows_of

#: file -> format, rows, failures by class, tool's version, operations.
LOGS: dict[str, tuple[str, int, dict[str, int], str, set[str]]] = {
    "gatling_2.1.log": ("gatling-log", 2, {}, "", {"Reindex All repository", "Wait For Async"}),
    "gatling_2.3.log": ("gatling-log", 5, {}, "", {"Create File"}),
    "gatling_3.0.log": ("gatling-log", 4, {"http_4xx": 4}, "3.0.2", {"group2 / index"}),
    "gatling_3.4.log": ("gatling-log", 6, {}, "3.4.0",
                        {"Google", "desktop_searchbox_sprites318_hr.png", "googlelogo_color_272x92dp.png"}),
    "gatling_groups.log": ("gatling-log", 3, {"check": 1}, "3.5.1",
                           {"User-Login / Auth-POST / POST", "User-Login / Members-Id-GET / GET",
                            "User-Login / Offers-GET / GET"}),
    "hey_8.csv": ("hey-csv", 1, {}, "", {"request"}),
    "hey.csv": ("hey-csv", 200, {}, "", {"request"}),
    "ab_plot.tsv": ("ab-plot", 10, {}, "", {"request"}),
}  # fmt: skip
#: file -> format, requests, failures by class, mean and 95 % in ms, seconds. None: not told.
SUMMARIES: dict[str, tuple[str, int | None, dict[str, int], float | None, float | None, float | None]] = {
    "hey.txt": ("hey-text", 100, {}, 2.2, 8.7, 0.0448),
    "boom.txt": ("hey-text", 1000, {}, 58.6, 106.6, 0.6442),
    "hey_errors.txt": ("hey-text", 1_000_000, {"http_5xx": 386_934, "timeout": 717, "connect": 20_553},
                       2.2, 3221.9, 0.0448),
    "ab_quantiles.csv": ("ab-quantiles", None, {}, None, None, None),
    "ab.txt": ("ab-text", 100_000, {"check": 100_000}, 18, 39, 3.329),
    "ab_length.txt": ("ab-text", 10_000, {}, None, None, 40.575),
    "bombardier_json.txt": ("bombardier-json", 1, {}, 71.221, 71.221, 0.071811825),
    "bombardier.txt": ("bombardier-text", 66_566, {"timeout": 5}, 29.86, None, 10),
    "artillery_1.json": ("artillery-json", 60, {}, None, 308.5, None),
    "artillery_2.json": ("artillery-json", 4323, {"timeout": 1797}, 242.2, 257.3, 369.12),
    "k6_export.json": ("k6-summary", 1587, {}, 3.8487845677378676, 7.593239699999984, 3.003556967),
    "k6_handled.json": ("k6-summary", 16_510, {}, 44.9799197625076, 63.726093199999994, 30.0184068),
    "k6_scenario.json": ("k6-summary", None, {}, 80.51032167533359, 303.0214372, None),
    "k6_old.txt": ("k6-text", 52_939, {}, 652.01, 1230, 70.001480478),
    "k6_new.txt": ("k6-text", 5961, {}, 2.43, 4.41, 70.288792014),
    "vegeta_report.json": ("vegeta-report", 11_457, {}, 263.055331, 297.608972, 30.284779845),
    "vegeta_unclosed.json": ("vegeta-report", 10, {}, 7.9721833, None, None),
    "vegeta_report.txt": ("vegeta-text", 6000, {"connect": 16}, 55.298, 1.833, 59.993),
    "vegeta_report_old.txt": ("vegeta-text", 90_000, {}, 1.864406, 2.026712, 299.9979737),
    "vegeta_hdrplot.txt": ("hdr-table", 1998, {}, None, 0.570617, None),
    "locust_stats.csv": ("locust-stats", 39, {"check": 5}, 109, 330, 37.864077669),
    "locust_requests.csv": ("locust-stats", 5797, {}, 31, None, 59.322554236),
}  # fmt: skip


def whole(run: Run) -> Carried:
    """What a summary tells of all operations together."""
    told = run.meta.carried
    return next((one for one in told if not one.operation), told[0])


def of_lines(folder: Path, *lines: str, name: str = "given", **options: Any) -> Run:
    """A run of these lines."""
    made = folder / name
    made.write_text("\n".join(lines) + "\n")
    return import_file(made, data_dir=folder / "data", **options)


def refused(folder: Path, *lines: str) -> str:
    """The line that these lines are refused with."""
    with pytest.raises(BadInput) as caught:
        of_lines(folder, *lines)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(folder: Path, name: str, old: str, new: str) -> Run:
    """A run of a file in which something else stands."""
    text = (FILES / name).read_text()
    assert old in text
    return of_lines(folder, text.replace(old, new), name=name)


def outcome(made: Path, form: str | None, skip_broken: bool) -> str:
    """What a file is refused with, empty where runs are made of it."""
    try:
        for run in import_runs(made, data_dir=made.parent / "data", format=form, skip_broken=skip_broken):
            summarize(Part(run))
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", LOGS)
def test_rows_of_logs(name: str, tmp_path: Path) -> None:
    """A row for each request and none for anything else; names, classes and version are the file's."""
    form, count, failures, version, operations = LOGS[name]
    run = import_file(FILES / name, data_dir=tmp_path)
    told, rows = run.meta.imported, rows_of(run)
    assert (told.format, told.version or "", run.row_count()) == (form, version, count)
    assert Counter(one for one in rows["error"] if isinstance(one, str)) == failures
    assert set(rows["operation"]) == operations
    assert told.fidelity.label == "rounded"


@pytest.mark.parametrize("name", SUMMARIES)
def test_numbers_of_summaries(name: str, tmp_path: Path) -> None:
    """Counts, failures by class, latencies and length are those that stand there; there is no row."""
    form, n, failures, mean, p95, span = SUMMARIES[name]
    run = import_file(FILES / name, data_dir=tmp_path)
    told, imported = whole(run), run.meta.imported
    assert (imported.format, imported.fidelity.label, run.row_count()) == (form, "aggregated", 0)
    assert (told.n, told.mean_ms) == (n, mean if mean is None else pytest.approx(mean))
    found: Counter[str] = Counter()
    for kind in told.failures:
        found[kind.error] += kind.count
    assert +found == failures
    assert (told.failed or 0) == sum(failures.values())
    row = summarize(Part(run))[-1]
    assert row["p95"] == pytest.approx(math.nan if p95 is None else p95, nan_ok=True)
    measured = run.meta.measured
    assert (measured.to_ns - measured.from_ns) / 1e9 == pytest.approx(span or 0, abs=1e-6)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", [*LOGS, *SUMMARIES])
def test_what_is_damaged_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Cut anywhere, or with other values and types in it: a run, or one line; never a traceback."""
    raw = (FILES / name).read_bytes()
    dice = random.Random(name)
    values = [b"-1", b"NaN", b"Infinity", b"1e999", b"null", b'"x"', b"[]", b"{}", b"9" * 400, b"true", b""]
    damaged = [raw[: len(raw) * cut // 10] for cut in range(1, 10)]
    numbers = list(re.finditer(rb"\d[\d.]*", raw))
    for value in values:
        one = dice.choice(numbers)
        damaged.append(raw[: one.start()] + value + raw[one.end() :])
    damaged.append(re.sub(rb"\d[\d.]*", b"{}", raw))
    damaged.append(b'{"a":' * 5000 + raw)
    for number, content in enumerate(damaged):
        made = tmp_path / f"{number}"
        made.write_bytes(content)
        form = None if number % 3 else (LOGS.get(name) or SUMMARIES[name])[0]
        assert "\n" not in outcome(made, form, skip_broken=number % 2 == 1)


# -- Gatling ---------------------------------------------------------------------------------------

RUN = "RUN\ta.b.MySimulation\tmysimulation\t1611903780943\t \t3.9.5"


def test_gatling_errors_by_their_words(tmp_path: Path) -> None:
    """A status that a check found, a check, and what the network said are told apart; a URL has no query."""
    words = {
        "status.find.is(200), but actually found 503": "http_5xx",
        "status.find.is(201), but actually found 200": "check",
        "jsonPath($.timeout).find.exists, found nothing": "check",
        "": "check",
        "i.g.h.c.i.RequestTimeoutException: Request timeout to a/1.2.3.4:80 after 60000 ms": "timeout",
        "j.n.ConnectException: Connection refused": "connect",
        "j.n.SocketException: Connection reset": "reset",
        "what nobody knows": "protocol",
    }
    line = "REQUEST\t\tGET /a\t1611903781377\t1611903781828\tKO"
    run = of_lines(tmp_path, RUN, *(f"{line}\t{text}" for text in words))
    assert rows_of(run)["error"].tolist() == list(words.values())
    assert run.meta.scenario.name == "a.b.MySimulation"
    assert {one for one in rows_of(run)["status"] if one == one} == {503, 200}


def test_gatling_lines_that_are_no_requests(tmp_path: Path) -> None:
    """Users, groups, assertions are passed over, errors counted; a column of messages may be missing."""
    good = "REQUEST\t{}a\t1611903781377\t1611903781828\tOK"
    lines = [good.format("\t"), good.format("\t") + "\t ", good.format("g,h\t"), good.format("7\t\t"),
             "USER\ts\tSTART\t1611903781314", "GROUP\tg\t1611903781314\t1611903781900\t20\tOK",
             "ERROR\tno attribute named 'x'\t1611903781314"]  # fmt: skip
    run = of_lines(tmp_path, "ASSERTION\tAAECAAIFAAAAAAAAAFlA", RUN, *lines)
    assert Counter(rows_of(run)["operation"]) == {"a": 3, "g / h / a": 1}
    assert "1 errors of Gatling's belong to no request" in run.meta.imported.notes
    broken = refused(tmp_path, RUN, *lines, "REQUEST\t\ta\t1611903781377\t16119")
    assert "line 9: a request without OK or KO" in broken


# -- hey, ab ---------------------------------------------------------------------------------------


def test_hey_reads_what_its_parts_tell(tmp_path: Path) -> None:
    """The first byte is the end less what reading took; a status of 400 and more is a failure."""
    header = (FILES / "hey_8.csv").read_text().splitlines()[0]
    lines = ["0.0100,0.0010,0.0000,0.0001,0.0050,0.0030,200,1.5", "0.0100,0,0,0,0,0.5,500,1.6"]
    rows = rows_of(of_lines(tmp_path, header, *lines))
    assert rows["first_byte"].tolist()[0] == 7_000_000
    assert math.isnan(rows["first_byte"][1])
    assert rows["error"].tolist()[1] == "http_5xx"
    assert rows["started"].tolist() == [0, 100_000_000]


def test_hey_prints_percent_signs_twice(tmp_path: Path) -> None:
    """`50%% in` of many builds is read; several outputs in a file are several runs."""
    text = (FILES / "hey.txt").read_text()
    made = tmp_path / "given"
    both = text.replace("% in", "%% in") + text.replace("[200]\t100", "[200]\t80")
    made.write_text(both.replace("\n", "\r\n"))
    runs = import_runs(made, data_dir=tmp_path / "data")
    assert [whole(run).n for run in runs] == [100, 80]
    assert whole(runs[0]).quantiles[2] == (0.5, pytest.approx(1.9))


def test_hey_where_nothing_was_answered(tmp_path: Path) -> None:
    """Without an answer there is no latency, whatever zeros and NaN stand there."""
    lines = ["Summary:", "  Total:\t1.0 secs", "  Slowest:\t0.0000 secs", "  Fastest:\t0.0000 secs",
             "  Average:\tNaN secs", "  Requests/sec:\t20", "Error distribution:",
             "  [20]\tGet \"http://a/?key=sesame\": dial tcp: connection refused"]  # fmt: skip
    told = whole(of_lines(tmp_path, *lines))
    assert (told.n, told.failed, told.mean_ms, told.max_ms) == (20, 20, None, None)
    assert told.failures[0].error == "connect"
    assert "sesame" not in told.failures[0].words


def test_hey_is_told_from_what_prints_alike(tmp_path: Path) -> None:
    """ghz, oha and etcd's benchmark have other units or other counts: none is hey."""
    text = (FILES / "hey.txt").read_text()
    assert "ghz" in refused(tmp_path, text.replace("  Total:", "  Count:\t400\n  Total:"))
    assert "oha" in refused(tmp_path, text.replace("  Total:", "  Success rate:\t100.00%\n  Total:"))
    assert "unknown format" in refused(
        tmp_path, text.replace("  Requests/", "  Stddev:\t0.1 secs\n  Requests/")
    )


def test_ab_calls_other_lengths_failed(tmp_path: Path) -> None:
    """An answer of another length is no failure here, and that is said; what did not connect is."""
    run = import_file(FILES / "ab_length.txt", data_dir=tmp_path)
    assert "1,573 responses differ in length" in run.meta.imported.notes[0]
    told = whole(edited(tmp_path, "ab_length.txt", "(Connect: 0, Receive: 0", "(Connect: 4, Receive: 3"))
    assert {kind.error: kind.count for kind in told.failures} == {"connect": 4, "reset": 3}
    run = import_file(FILES / "ab.txt", data_dir=tmp_path)
    assert (run.meta.target_url, whole(run).operation) == ("http://127.0.0.1:8000", "/customer/menu")
    assert (run.meta.imported.version, run.meta.imported.load) == ("2.3", {"concurrency": 1000})
    assert (whole(run).min_ms, whole(run).std_ms, whole(run).max_ms) == (4, 72.1, 2085)


def test_ab_plot_knows_whole_seconds(tmp_path: Path) -> None:
    """Begin in s, times in ms; the first byte is after connecting and waiting; that failures lack is said."""
    run = import_file(FILES / "ab_plot.tsv", data_dir=tmp_path)
    words = "instants rounded to 1 s, latencies rounded to 1 ms, no intended time"
    assert run.meta.imported.fidelity.words == words
    rows = rows_of(run)
    assert sorted((rows["done"] - rows["started"]) // 10**6) == [31, 37, 37, 38, 38, 39, 39, 40, 40, 40]
    assert not (rows["first_byte"] > rows["done"]).any()
    assert "failures are missing" in run.meta.imported.notes[0]
    assert run.meta.created.startswith("2020-07-29T10:39:43")


# -- summaries -------------------------------------------------------------------------------------


def test_k6_passes_are_failures(tmp_path: Path) -> None:
    """`passes` of http_req_failed are requests that failed, in JSON of every kind and in text."""
    exported = edited(tmp_path, "k6_export.json", '"passes": 0,\n          "fails": 1587',
                      '"passes": 87,\n          "fails": 1500')  # fmt: skip
    old = edited(tmp_path, "k6_old.txt", "✓ 0          ✗ 52939", "✓ 39         ✗ 52900")
    new = edited(tmp_path, "k6_new.txt", "http_req_failed................: 0.00%  0 out of 5961",
                 "http_req_failed................: 1.00%  61 out of 5961")  # fmt: skip
    metrics = [
        {"name": "http_req_duration", "type": "trend", "values": {"avg": 5, "max": 9, "p(95)": 8}},
        {"name": "http_reqs", "type": "counter", "values": {"count": 200}},
        {"name": "http_req_failed", "type": "rate", "values": {"matches": 3, "total": 200, "rate": 0.015}},
    ]
    document = {"config": {"duration": 10.0}, "metadata": {"k6Version": "1.5.0"},
                "results": {"checks": {}, "metrics": metrics}, "version": "1.0.0"}  # fmt: skip
    machine = of_lines(tmp_path, json.dumps(document))
    assert [whole(run).failed for run in (exported, old, new, machine)] == [87, 39, 61, 3]
    assert [whole(run).n for run in (exported, old, new, machine)] == [1587, 52_939, 5961, 200]
    assert (machine.meta.imported.version, machine.meta.measured.to_ns) == ("1.5.0", 10 * 10**9)


def test_k6_operations_are_sub_metrics_of_a_name(tmp_path: Path) -> None:
    """A name, url, scenario or group makes an operation; the answers expected, or two tags, make none."""
    times = {"avg": 5, "min": 1, "med": 4, "max": 9, "p(95)": 8}
    tags = ["", "{name:GET /a}", "{url:http://h/b?key=1}", "{expected_response:true}", "{name:a,method:GET}"]
    metrics: dict[str, Any] = {f"http_req_duration{tag}": times for tag in tags}
    metrics |= {"http_reqs": {"count": 50, "rate": 5}, "http_reqs{name:GET /a}": {"count": 20, "rate": 2}}
    metrics |= {"http_req_duration{group:::never}": dict.fromkeys(times, 0)}
    run = of_lines(tmp_path, json.dumps({"root_group": {}, "metrics": metrics}))
    assert [(one.operation, one.n) for one in run.meta.carried] == [("", 50), ("GET /a", 20), ("/b", None)]
    lines = (FILES / "k6_new.txt").read_text().replace("expected_response:true", "scenario:shop")
    assert [one.operation for one in of_lines(tmp_path, lines).meta.carried] == ["", "shop"]


def test_artillery_tells_endpoints_apart(tmp_path: Path) -> None:
    """What the plugin counted of an endpoint is an operation, its failures with it; 404 is one of them."""
    run = edited(tmp_path, "artillery_2.json", '"http.codes.200": 2526', '"http.codes.404": 2526')
    total, dino = run.meta.carried
    assert (dino.operation, dino.n, dino.failed) == ("/dino", 3060, 1797)
    assert total.failed == 1797 + 2526
    assert (0.999, 620.3) in total.quantiles


def test_bombardier_after_its_first_lines(tmp_path: Path) -> None:
    """JSON is found behind what was printed; an answer of 500 and what got none are failures."""
    old = '"others":0'
    new = '"others":3,"errors":[{"description":"\\x22a\\x22 connection refused","count":2}]'
    text = (FILES / "bombardier_json.txt").read_text().replace('"req5xx":0', '"req5xx":4').replace(old, new)
    told = whole(of_lines(tmp_path, text))
    assert {kind.error: kind.count for kind in told.failures} == {"http_5xx": 4, "connect": 2, "protocol": 1}
    assert told.n == 1 + 4 + 3


def test_vegeta_does_not_count_its_errors(tmp_path: Path) -> None:
    """Errors of one class are of that class, of several of none; a library's zeros are no latencies."""
    told = whole(import_file(FILES / "vegeta_unclosed.json", data_dir=tmp_path))
    assert (told.quantiles, told.rate_per_s, told.max_ms) == ((), None, 23.259687)
    text = (FILES / "vegeta_report.txt").read_text()
    both = whole(of_lines(tmp_path, text + "Get \"http://a\": context deadline exceeded"))  # fmt: skip
    assert both.failures[0].words == "2 different errors"
    answered = whole(of_lines(tmp_path, text.replace("0:16  200:5984", "200:5984  503:16")))
    assert [(kind.error, kind.count) for kind in answered.failures] == [("http_5xx", 16)]


def test_locust_has_a_row_for_all(tmp_path: Path) -> None:
    """Aggregated or Total is the whole, the others are operations; N/A is not told; 0.12 is read too."""
    run = import_file(FILES / "locust_stats.csv", data_dir=tmp_path)
    assert [one.operation for one in run.meta.carried] == ["", "GET /item", "GET /", "POST /"]
    assert run.meta.carried[3].failures[0].operation == "POST /"
    old = import_file(FILES / "locust_requests.csv", data_dir=tmp_path)
    assert (whole(old).quantiles, len(old.meta.carried)) == (((0.5, 17.0),), 5)
    lines = ['"Type","Name","# requests","# failures","Median response time","Average response time",'
             '"Min response time","Max response time","Average Content Size","Requests/s",'
             '"Requests Failed/s","50%","99.999","100%"', '"GET","/a",4,1,7,8,1,90,0,2,0,7,80,90',
             '"GET","/none",0,0,"N/A",0,0,0,0,0,0,"N/A","N/A","N/A"',
             '"None","Aggregated",4,1,7,8,1,90,0,2,0,7,80,90']  # fmt: skip
    total, _, none = of_lines(tmp_path, *lines).meta.carried
    assert total.quantiles == ((0.5, 7.0), (0.99999, 80.0), (1.0, 90.0))
    assert (none.operation, none.mean_ms, none.quantiles) == ("GET /none", None, ())
    modern = [line.replace("# requests", "Request Count").replace("# failures", "Failure Count")
              .replace('"None","A', '"","A') for line in lines]  # fmt: skip
    assert of_lines(tmp_path, *modern).meta.carried[0].failed == 1


# -- what is known and not read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what", "instead"),
    [
        (b"\0\0\0\0\6" b"3.10.3\0\0", "Gatling's binary simulation.log", "up to 3.9"),
        (b'var stats = {\n type: "GROUP"', "Gatling's statistics", "simulation.log"),
        (b'{"name":"a","numberOfRequests":{"total":1},"meanResponseTime":{},"percentiles1":{}}',
         "Gatling's statistics", "simulation.log"),
        (b'{"errors":0,"non2xx":0,"latency":{"p97_5":3}}', "autocannon's JSON", "--column"),
        (b'{"metadata":{"request_start_ns":1},"metrics":{}}', "AIPerf's record", "started_unix_ns"),
        (b'{"request_throughput":{"unit":"r/s"},"request_latency":{}}', "genai-perf's summary", "--column"),
        (b"Metric,avg,min,max,p99\nTime to First Token (ms),1,1,1,1\n", "genai-perf's CSV", "row"),
        (b'{"benchmarks":[{"request_latency":{},"time_to_first_token_ms":{}}]}', "GuideLLM", "row"),
        (b'{"request_throughput":1.0,"mean_ttft_ms":3}', "vLLM's or SGLang's", "row"),
        (b'{"Total":{"sampleCount":1,"errorPct":0,"pct1ResTime":1}}', "JMeter's", "JTL"),
        (b"Label,# Samples,Average,Min,Max\nTOTAL,1,1,1,1\n", "report of JMeter's", "JTL"),
        (b'<?xml version="1.0"?>\n<jmeterTestPlan version="1.2">', "a JMeter test plan", "results.jtl"),
        (b'{"RunType":"HTTP","ActualQPS":7,"DurationHistogram":{}}', "Fortio's JSON", "-access-log-file"),
        (b'{ "transactions": 32, "availability": 86, "elapsed_time": 1 }', "Siege's JSON", "no requests"),
        (b"Lifting the server siege...\n", "what Siege prints", "no requests"),
        (b"# stats: dump at 1218093520\n", "Tsung's log", "dumptraffic"),
        (b"test_suite,test_name,scenario,duration\na,b,c,1\n", "NBomber's CSV", "row"),
        (b"<!DOCTYPE html>\n<html><head><title>k6 report</title>", "HTML report of k6's", "--out json"),
        (b"<html><head><title>Test Report for locustfile.py</title>", "HTML report of Locust's", "--csv"),
        (b"<!DOCTYPE html><html><title>Gatling Stats - Global", "HTML report of Gatling's", "simulation.log"),
        (b"Method,Name,Error,Occurrences\nGET,/,x,1\n", "NAME_failures.csv", "NAME_stats.csv"),
        (b"Count,Message,Traceback,Nodes\n", "NAME_exceptions.csv", "NAME_stats.csv"),
        (b"PK\3\4\x14\0\0\0", "a zip", "unpack it"),
        (b'{"collection":{},"run":{"executions":[]}}', "Newman's JSON", "row"),
        (b'{"info":{"_postman_id":"x"},"item":[]}', "a Postman collection", "run it"),
        (b"Summary:\n  Success rate:\t100.00%\n", "what oha prints", "--output-format"),
        (b"Summary:\n  Count:\t400615\n", "what ghz prints", "row"),
        (b"Bucket         #     %       Histogram\n", "a histogram of Vegeta's", "vegeta encode"),
    ],
)  # fmt: skip
def test_advice(content: bytes, what: str, instead: str, tmp_path: Path) -> None:
    """A file of a tool that is not read is called by its name, with what to give instead, in one line."""
    made = tmp_path / "given"
    made.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        import_file(made, data_dir=tmp_path / "data")
    words = str(caught.value)
    assert what in words
    assert instead in words
    assert "\n" not in words
    assert "which perfkit cannot read" in words


def test_no_advice_where_nobody_knows() -> None:
    """Other JSON, CSV, pages and text are called nothing that they are not."""
    for raw in (
        b"hello",
        b'{"latency": 3}',
        b"a,b\n1,2\n",
        b"<html><title>Shop</title>",
        b"\0\0\0\0\0\0\0\0",
    ):
        assert advice(Head(raw)) is None
