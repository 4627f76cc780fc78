"""What other tools wrote: the rows of every format, beside what the tool itself counted."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from perfkit.importing.hdr import decode, unpack
from perfkit.model import INSTANTS
from perfkit.store import Run
from tests.imported import import_file

FILES = Path(__file__).parent / "imports"
HEY = {"started_s": "offset", "duration_s": "response-time", "status": "status-code"}
EXACT = "instants exact, latencies exact"
#: file -> format, rows, failures by class, fidelity. Counts are those the tools told, or of the file's lines.
EXPECTED: dict[str, tuple[str, int, dict[str, int], str]] = {
    "k6.json": ("k6-json", 13, {"http_4xx": 2, "http_5xx": 1, "timeout": 1, "connect": 1, "check": 1}, EXACT),
    "k6.csv": ("k6-csv", 28, {}, "instants rounded to 1 s, latencies exact"),
    "locust_log.csv": (
        "locust-log",
        416,  # "Aggregated 416 150(36.06%)"
        {"http_4xx": 51, "http_5xx": 24, "timeout": 28, "reset": 25, "check": 22},
        "instants exact, latencies rounded to 10 µs",
    ),
    "locust_history.csv": ("locust-history", 373, {"check": 131}, "instants and latencies bucketed"),
    "jmeter.csv": (
        "jmeter-csv",
        252,  # "summary = 252 … Err: 196"
        {"http_4xx": 28, "http_5xx": 28, "reset": 28, "timeout": 28, "connect": 28, "check": 56},
        "instants rounded to 1 ms, latencies rounded to 1 ms",
    ),
    "jmeter.xml": ("jmeter-xml", 108, {}, "instants rounded to 1 ms, latencies rounded to 1 ms"),
    "jmeter_headless.csv": ("jmeter-csv", 108, {}, "instants rounded to 1 ms, latencies rounded to 1 ms"),
    "jmeter_dated.csv": ("jmeter-csv", 108, {}, "instants rounded to 1 ms, latencies rounded to 1 ms"),
    "jmeter_transactions.csv": (
        "jmeter-csv",
        30,  # "summary = 42": 24 requests, 12 transactions of them, and 6 that stand for two requests each
        {"http_4xx": 6},
        "instants rounded to 1 ms, latencies rounded to 1 ms",
    ),
    "jmeter_transactions.xml": (
        "jmeter-xml",
        30,
        {"http_4xx": 6},
        "instants rounded to 1 ms, latencies rounded to 1 ms",
    ),
    "vegeta.json": (
        "vegeta-json",
        80,
        {"http_4xx": 4, "http_5xx": 2, "timeout": 2, "reset": 3, "connect": 1},
        EXACT,
    ),
    "vegeta.csv": ("vegeta-csv", 120, {}, EXACT),
    "oha.db": ("oha-sqlite", 200, {"http_4xx": 5, "http_5xx": 5}, EXACT),
    "oha_corrected.db": ("oha-sqlite", 200, {"http_4xx": 5, "http_5xx": 5}, EXACT),
    "oha.csv": ("oha-csv", 200, {"http_4xx": 5, "http_5xx": 5}, EXACT),
    "hdr_java.hlog": ("hdr-log", 2400, {}, "instants and latencies bucketed"),
    "hdr_python.hlog": ("hdr-log", 1228, {}, "instants and latencies bucketed"),
    "page.har": (
        "har",
        21,
        {"http_4xx": 6, "http_5xx": 1, "reset": 1, "connect": 1},
        "instants rounded to 1 ms, latencies exact",
    ),
    "hey.csv": ("csv", 200, {}, "instants rounded to 100 µs, latencies rounded to 100 µs"),
}
INTENDED = {"oha_corrected.db"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every file, imported once."""
    folder = tmp_path_factory.mktemp("data")
    return {
        name: import_file(FILES / name, data_dir=folder, columns=HEY if name == "hey.csv" else None)
        for name in EXPECTED
    }


def rows_of(run: Run) -> dict[str, np.ndarray]:
    """Instants as floats, NaN for null; words as lists."""
    table = run.table([*INSTANTS, "operation", "error", "error_text", "status", "user", "bytes_received"])
    return {name: table[name].to_pandas().to_numpy() for name in table.column_names}


def response_ms(run: Run, operation: str | None = None) -> np.ndarray:
    """Response times, of one operation or all, in order of size."""
    rows = rows_of(run)
    mine = slice(None) if operation is None else rows["operation"] == operation
    took = (rows["done"] - rows["planned"])[mine] / 1e6
    return np.sort(took[~np.isnan(took)])


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_failures_and_label(name: str, runs: dict[str, Run]) -> None:
    """A file's format is told by its content; rows, failures by class and fidelity are what they must be."""
    run, (form, count, failures, words) = runs[name], EXPECTED[name]
    told = run.meta.imported
    assert (told.format, told.file, told.skipped) == (form, name, 0)
    assert run.row_count() == count
    found = Counter(one for one in rows_of(run)["error"] if isinstance(one, str))
    assert not failures or found == failures
    intended = "intended time known" if name in INTENDED else "no intended time"
    assert told.fidelity.words == f"{words}, {intended}"
    assert run.state == "complete"


@pytest.mark.parametrize("name", EXPECTED)
def test_instants_are_in_order_and_begin_at_zero(name: str, runs: dict[str, Run]) -> None:
    """planned ≤ started ≤ sent ≤ first byte ≤ done where known; the first is 0; the measured part fits."""
    rows = rows_of(runs[name])
    before = rows["planned"].astype(float)
    assert before.min() == 0
    for instant in INSTANTS[1:]:
        now = rows[instant].astype(float)
        assert not (now < before).any()
        before = np.where(np.isnan(now), before, now)
    assert runs[name].meta.measured.to_ns >= np.nanmax(rows["done"].astype(float))


@pytest.mark.parametrize("name", EXPECTED)
def test_no_secret_and_no_query_is_kept(name: str, runs: dict[str, Run]) -> None:
    """Names and error texts have no query, no password; a JMeter label may say what it likes."""
    rows = rows_of(runs[name])
    words = {str(one) for column in ("operation", "error_text") for one in rows[column]}
    assert not [one for one in words if "sesame" in one or "?" in one]
    assert "sesame" not in json.dumps(runs[name].meta.raw)


def test_locust_log_agrees_with_locust(runs: dict[str, Run]) -> None:
    """Latencies of one name are those of the log's lines, to the digit; the run's id is when the load was."""
    with open(FILES / "locust_log.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["name"] == "a slow one"]
    assert response_ms(runs["locust_log.csv"], "GET a slow one").tolist() == pytest.approx(
        sorted(float(line["response_time_ms"]) for line in lines), abs=1e-6
    )
    assert runs["locust_log.csv"].id.startswith("20261125-094104-locust-")


def test_locust_history_keeps_counts_and_quantiles(runs: dict[str, Run]) -> None:
    """Each name has its last count and failures; its median is the history's, rounded as Locust rounds."""
    with open(FILES / "locust_history.csv") as file:
        last = {line["Name"]: line for line in csv.DictReader(file)}
    rows = rows_of(runs["locust_history.csv"])
    for name, line in last.items():
        if name != "Aggregated":
            mine = np.char.endswith(rows["operation"].astype(str), name.split("?")[0])
            assert mine.sum() == int(line["Total Request Count"])
            failed = np.array([isinstance(one, str) for one in rows["error"][mine]])
            assert failed.sum() == int(line["Total Failure Count"])
    assert np.median(response_ms(runs["locust_history.csv"], "GET /hang")) == 200
    assert last["/hang"]["50%"] == "200"


def test_jmeter_agrees_with_jmeter(runs: dict[str, Run]) -> None:
    """CSV, XML, no header and dates say the same things; parts of a page are no rows; threads are users."""
    took = response_ms(runs["jmeter.csv"])
    assert (round(took.mean()), took.min(), took.max()) == (76, 0, 305)  # "Avg: 76 Min: 0 Max: 305"
    rows = rows_of(runs["jmeter.xml"])
    assert Counter(rows["operation"])["page with parts"] == 12
    assert "samples are parts of other samples" in " ".join(runs["jmeter.xml"].meta.imported.notes)
    texts = set(rows["error_text"][rows["operation"] == "checked"])
    assert texts == {"Test failed: text expected to contain /hello/"}
    assert set(rows["user"]) == {0, 1, 2, 3}
    for name in ("jmeter_transactions.csv", "jmeter_transactions.xml"):
        kept = Counter(rows_of(runs[name])["operation"])
        assert kept == dict.fromkeys(("alone", "fast", "missing", "nested", "parent"), 6)
        notes = " ".join(runs[name].meta.imported.notes)
        assert "12 samples of Transaction Controllers are skipped" in notes
        assert "6 rows are transactions of one or more requests each" in notes
    dated = runs["jmeter_dated.csv"].meta
    assert dated.created.startswith("2026-11-25T09:46:")
    assert dated.id.startswith("20261125-0946")
    assert "taken as UTC" in " ".join(dated.imported.notes)


def test_k6_instants_follow_from_its_metrics(runs: dict[str, Run]) -> None:
    """Service is waiting + receiving, before it sending alone; one without an answer has no first byte."""
    with open(FILES / "k6.json") as file:
        points = [json.loads(line) for line in file]
    took = {
        name: [
            p["data"]["value"]
            for p in points
            if p["metric"] == f"http_req_{name}" and p["data"]["tags"]["status"] != "0"
        ]
        for name in ("blocked", "sending", "waiting", "receiving")
    }
    rows = rows_of(runs["k6.json"])
    service = (rows["done"] - rows["sent"])[~np.isnan(rows["sent"])] / 1e6
    expected = sorted(np.add(took["waiting"], took["receiving"]))
    assert np.sort(service) == pytest.approx(expected, abs=1e-5)
    before = np.sort((rows["sent"] - rows["started"])[~np.isnan(rows["sent"])] / 1e6)
    assert before == pytest.approx(sorted(took["sending"]), abs=1e-5)
    mine = [p for p in points if (p["type"], p["metric"]) == ("Point", "http_req_duration")]
    durations = [p["data"]["value"] for p in mine]
    assert np.sort((rows["done"] - rows["planned"]) / 1e6) == pytest.approx(sorted(durations), abs=1e-5)
    assert "were blocked waiting for a connection before starting" in "".join(
        runs["k6.json"].meta.imported.notes
    )
    assert np.isnan(rows["first_byte"][[one in ("connect", "timeout") for one in rows["error"]]]).all()


def test_vegeta_json_and_csv_are_the_same(runs: dict[str, Run]) -> None:
    """The first 80 results, written both ways, become the same rows."""
    both = [rows_of(runs[name]) for name in ("vegeta.json", "vegeta.csv")]
    for name in ("planned", "done", "operation", "error_text", "bytes_received"):
        assert both[0][name].tolist() == both[1][name][:80].tolist()
    assert runs["vegeta.json"].meta.target_url == "http://127.0.0.1:8765"
    assert runs["vegeta.json"].meta.scenario.name == "fifty"


def test_oha_counts_from_when_requests_were_due(runs: dict[str, Run]) -> None:
    """With its correction the response time is longer by the delay, and the delay is kept."""
    plain, corrected = (rows_of(runs[name]) for name in ("oha.db", "oha_corrected.db"))
    delay = corrected["started"] - corrected["planned"]
    assert delay.max() > 500_000
    assert (corrected["done"] - corrected["planned"]).sum() > (plain["done"] - plain["planned"]).sum()


@pytest.mark.parametrize(
    ("name", "p50", "p99", "highest"),
    [("hdr_java.hlog", 4.026367, 15.785983, 49.709055), ("hdr_python.hlog", 14.582184, None, 77.365058)],
)
def test_hdr_values_are_within_a_bucket(
    name: str, p50: float, p99: float | None, highest: float, runs: dict[str, Run]
) -> None:
    """Three digits are kept: quantiles are those the libraries printed, to 0.1 %; tags are operations."""
    took = response_ms(runs[name])
    assert np.quantile(took, 0.5, method="inverted_cdf") == pytest.approx(p50, rel=1e-3)
    assert took[-1] == pytest.approx(highest, rel=1e-3)
    assert p99 is None or np.quantile(took, 0.99, method="inverted_cdf") == pytest.approx(p99, rel=1e-3)
    if name == "hdr_java.hlog":
        assert Counter(rows_of(runs[name])["operation"]) == {"requests": 1200, "write": 1200}
        assert runs[name].id.startswith("20261125-0948")


def test_hdr_decoding_by_hand() -> None:
    """Zigzag counts, runs of zeros, and buckets that double in width."""
    numbers = [-3, 2, -2047, 1]  # 3 zeros, two of value 3, 2047 zeros, one of the first bucket of width 2
    counts = b""
    for one in numbers:
        number = (one << 1) ^ (one >> 63)
        while number > 0x7F:
            counts += bytes([number & 0x7F | 0x80])
            number >>= 7
        counts += bytes([number])
    payload = struct.pack(">iiiiqqd", 0x1C849313, len(counts), 0, 3, 1, 10**9, 1.0) + counts
    packed = zlib.compress(payload)
    coded = base64.b64encode(struct.pack(">ii", 0x1C849314, len(packed)) + packed).decode()
    values, counts = decode(unpack(coded))
    assert [*zip(values, counts, strict=True)] == [(3, 2), (2 * (2051 - 1024) + 1, 1)]


def test_har_knows_what_came_when(runs: dict[str, Run]) -> None:
    """Time to first byte is the browser's `wait`; a request without an answer has no first byte."""
    entries = json.loads((FILES / "page.har").read_text())["log"]["entries"]
    rows = rows_of(runs["page.har"])
    ttft = np.sort((rows["first_byte"] - rows["sent"]) / 1e6)
    waits = sorted(e["timings"]["wait"] for e in entries if e["timings"]["wait"] >= 0)
    assert ttft[: len(waits)] == pytest.approx(waits, abs=1e-5)
    assert np.isnan(rows["first_byte"][[one in ("connect", "reset") for one in rows["error"]]]).all()


def test_columns_are_mapped(tmp_path: Path) -> None:
    """ISO times, an intended time, words of errors and a semicolon; what is not mapped is null."""
    made = tmp_path / "calls.csv"
    made.write_text(
        "due;begin;end;what;code;why;who\n"
        "2026-01-01T00:00:00Z;2026-01-01T00:00:00.5Z;2026-01-01T00:00:02+00:00;create_agent;200;;ann\n"
        "2026-01-01T01:00:01+01:00;2026-01-01T00:00:01.25Z;;create_agent;;Read timed out, token=sesame;bob\n"
    )
    columns = {"planned": "due", "started": "begin", "done": "end", "operation": "what"}
    columns |= {"status": "code", "error": "why", "user": "who"}
    run = import_file(made, data_dir=tmp_path / "data", columns=columns, scenario="agents", tags=["t"])
    rows = rows_of(run)
    assert (rows["planned"].tolist(), rows["started"].tolist()) == ([0, 10**9], [5 * 10**8, 1_250_000_000])
    assert rows["done"][0] == 2 * 10**9
    assert np.isnan(rows["done"][1])
    assert rows["error"][1] == "timeout"
    assert rows["error_text"][1] == "Read timed out, token=***"
    assert rows["user"].tolist() == [0, 1]
    assert run.meta.imported.fidelity.intended_time == "known"
    assert run.meta.scenario.name == "agents"


def test_a_tab_at_the_end_is_an_empty_column(tmp_path: Path) -> None:
    """Tab-separated JTL and times without a zone: nothing is shifted, and UTC is said to be assumed."""
    made = tmp_path / "tabs.jtl"
    made.write_text("timeStamp\telapsed\tlabel\tfailureMessage\n2026/01/01 00:00:00.5\t7\ta\t\n")
    run = import_file(made, data_dir=tmp_path)
    assert rows_of(run)["done"].tolist() == [7_000_000]
    assert "taken as UTC" in " ".join(run.meta.imported.notes)
    mapped = tmp_path / "mapped.csv"
    mapped.write_text("begin;took\n2026-01-01 00:00:00;2\n")
    run = import_file(mapped, data_dir=tmp_path, columns={"started": "begin", "duration_us": "took"})
    assert rows_of(run)["done"].tolist() == [2000]
    assert "taken as UTC" in " ".join(run.meta.imported.notes)


def test_a_long_first_line_hides_no_format(tmp_path: Path) -> None:
    """Vegeta keeps whole bodies in its lines."""
    made = tmp_path / "long"
    first, *rest = (FILES / "vegeta.csv").read_text().splitlines()
    parts = first.split(",")
    made.write_text("\n".join([",".join([*parts[:6], "eHh4" * 100_000, *parts[7:]]), *rest]))
    assert import_file(made, data_dir=tmp_path).row_count() == 120


def test_many_segments_are_one_timeline(
    tmp_path: Path, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few rows fit in memory, the rows are the same, numbered as in the file."""
    monkeypatch.setattr("perfkit.importing.rows.SEGMENT", 7)
    run = import_file(FILES / "locust_log.csv", data_dir=tmp_path)
    columns = ["seq", *INSTANTS, "operation", "error_text", "user"]
    few, many = (one.table(columns).sort_by("seq").to_pylist() for one in (run, runs["locust_log.csv"]))
    assert few == many
    assert run.meta.imported.fidelity == runs["locust_log.csv"].meta.imported.fidelity
    assert [row["seq"] for row in few] == list(range(416))


def test_packed_files_are_read(tmp_path: Path) -> None:
    """A .gz is the same file; its name does not matter."""
    packed = tmp_path / "anything"
    packed.write_bytes(gzip.compress((FILES / "vegeta.json").read_bytes()))
    run = import_file(packed, data_dir=tmp_path)
    assert run.row_count() == 80
