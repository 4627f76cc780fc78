"""Faults that files of strangers had, each of its kind: what is right, whatever the file."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from perfkit.cli import cli
from perfkit.errors import BadInput
from perfkit.importing import import_runs
from perfkit.importing.jmeter import NEEDED
from perfkit.importing.records import batches, records
from perfkit.importing.source import Source
from perfkit.store import Run
from tests.imported import import_file
from tests.test_importing_traps import HISTORY

JTL = "timeStamp,elapsed,label,responseCode,responseMessage,threadName,success,URL"
AT = 1_776_337_822_000
K6 = (
    '{"type":"Point","metric":"%s","data":{"time":"%s","value":%s,"tags":{"method":"GET","name":"%s",'
    '"url":"%s","status":"200"}}}'
)


def made(folder: Path, lines: Iterable[str] | bytes, name: str = "given") -> Path:
    """A file of these lines."""
    path = folder / name
    path.write_bytes(lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode())
    return path


def read(folder: Path, lines: Iterable[str] | bytes, **options: Any) -> Run:
    """The run in a file of these lines."""
    return import_file(made(folder, lines), data_dir=folder / "data", **options)


def operations(run: Run) -> dict[str, int]:
    """Requests by operation."""
    return dict(Counter(run.table(["operation"])["operation"].to_pylist()))


def latencies(run: Run) -> np.ndarray:
    """ms, in order."""
    table = run.table(["planned", "done"])
    return np.sort((table["done"].to_numpy() - table["planned"].to_numpy()) / 1e6)


def notes(run: Run) -> str:
    """What is said of the file."""
    return "; ".join(run.meta.imported.notes)


def sample(at: int, took: int, label: str, thread: str = "TG 1-1", message: str = "OK", url: str = "") -> str:
    """A line of JTL."""
    return f"{AT + at},{took},{label},200,{message},{thread},true,{url}"


# -- JMeter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_samples_inside_a_sample_are_no_rows(tmp_path: Path, threads: int) -> None:
    """Redirects, of two depths, and embedded resources: lines after their sample, maybe among others'."""
    lines = [JTL]
    for thread in range(threads):
        name = f"TG 1-{thread}"
        pages = [
            [sample(at, 100, "page", name), sample(at, 40, "page-0", name), sample(at, 10, "page-0-0", name),
             sample(at + 41, 60, "page-1", name), sample(at + 50, 20, "http://h/a.png", name)]
            for at in range(0, 1000, 200)
        ]  # fmt: skip
        lines += [line for page in pages for line in page] + [sample(1200, 30, "page-2", name)]
    if threads == 2:  # threads write between each other's lines
        body = lines[1:]
        half = len(body) // 2
        lines = [JTL, *(line for pair in zip(body[:half], body[half:], strict=True) for line in pair)]
    run = read(tmp_path, lines)
    assert operations(run) == {"page": 5 * threads, "page-2": threads}
    assert f"{20 * threads} samples are parts of other samples" in notes(run)


def test_sequential_samples_are_all_rows(tmp_path: Path) -> None:
    """One after the other in a thread, also without a pause, with labels that end in numbers or are URLs."""
    labels = ["http://h/a", "http://h/b", "step-1", "step-2", "page", "page-0"]
    lines = [JTL, *(sample(50 * i, 50, labels[i % 6], url="http://h/x") for i in range(60))]
    assert read(tmp_path, lines).row_count() == 60
    short = [JTL, *(sample(i, 0, labels[i % 4]) for i in range(40))]
    assert read(tmp_path, short).row_count() == 40


def test_a_transaction_that_stands_for_its_requests(tmp_path: Path) -> None:
    """Before its requests it is their parent, as in XML; after them they are the rows."""
    total = "Number of samples in transaction : 2; number of failing samples : 0"
    parent = [sample(0, 100, "T", message=total), sample(0, 50, "a"), sample(50, 50, "b")]
    beside = [sample(200, 50, "a"), sample(250, 50, "b"), sample(200, 100, "T", message=total)]
    assert operations(read(tmp_path, [JTL, *parent])) == {"T": 1}
    assert operations(read(tmp_path, [JTL, *beside])) == {"a": 1, "b": 1}


def test_control_characters_do_not_end_a_file(tmp_path: Path) -> None:
    """JMeter writes them as they come, as characters and as references, also across the reader's blocks."""
    odd = [b"&#x1;&#0;", b"\x01\x1f", b"&#xD800;", b"&#65535;"]
    samples = [
        b'<httpSample t="5" ts="%d" s="false" lb="a" rc="500" rm="%s%s"/>'
        % (AT + i, b"x" * (i % 97), odd[i % 4])
        for i in range(3_000)
    ]
    for document in (b"\n".join(samples), b"".join(samples)):
        run = read(tmp_path, b'<testResults version="1.2">' + document + b"</testResults>")
        assert (run.row_count(), run.meta.imported.skipped) == (3_000, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2026-04-16T11:10:22.401Z", "2026-04-16T13:10:22.520+02:00"),
        ("2026/04/16 11:10:22.401 GMT", "2026/04/16 13:10:22.520 CEST"),
        ("2026/04/16 11:10:22.401 UTC", "2026/04/16 13:10:22.520 GMT+02:00"),
        ("2026-04-16T13:10:22.401+02", "2026-04-16T13:10:22.520+0200"),
        ("2026-04-16T11:10:22.401Z", "2026-04-16T13:10:22.520[Europe/Berlin]"),
    ],
)
def test_zones_are_where_they_stand(tmp_path: Path, first: str, second: str) -> None:
    """119 ms lie between the two, and no word is said of a zone that lacks."""
    head = "timeStamp,elapsed,label"
    run = read(tmp_path, [head, f"{first},5,a", f"{second},5,a"])
    assert np.diff(run.table(["planned"])["planned"].to_numpy()) == [119_000_000]
    assert "no zone" not in notes(run)
    without = read(tmp_path, [head, "2026-04-16T11:10:22.401,5,a"])
    assert "its times have no zone and were taken as UTC" in notes(without)


def test_short_samples_one_after_the_other_are_rows(tmp_path: Path) -> None:
    """A request that begins when the one before is over is no part of it, whatever its length and name."""
    lines = [sample(200 * i, 120, "step") for i in range(20)]
    lines += [sample(200 * i + 120, 1, "step-1") for i in range(20)]
    assert operations(read(tmp_path, [JTL, *sorted(lines)])) == {"step": 20, "step-1": 20}


def test_without_threads_nothing_is_a_part(tmp_path: Path) -> None:
    """What runs beside a request cannot be told from what runs inside it; hosts have threads of their own."""
    beside = ["timeStamp,elapsed,label", *(f"{AT + 100 * i},90,search" for i in range(20)),
              *(f"{AT + 100 * i + 5},50,search-2" for i in range(20))]  # fmt: skip
    assert operations(read(tmp_path, beside)) == {"search": 20, "search-2": 20}
    lines = [f"{JTL},Hostname"]
    lines += [f"{sample(100 * i, 90, 'http://h/a')},pod1" for i in range(20)]
    lines += [f"{sample(100 * i + 5, 50, 'http://h/b')},pod2" for i in range(20)]
    assert operations(read(tmp_path, [lines[0], *sorted(lines[1:])])) == {"/a": 20, "/b": 20}


def test_a_line_for_many_samples_is_refused(tmp_path: Path) -> None:
    """JMeter's Statistical mode: what is one line there is no request."""
    lines = [f"{JTL},SampleCount,ErrorCount", *(f"{sample(i, 5, 'a')},10,2" for i in range(5))]
    with pytest.raises(BadInput, match="SampleCount 10: a line that stands for several samples"):
        read(tmp_path, lines)
    xml = f'<testResults><httpSample t="5" ts="{AT}" s="true" lb="a" sc="10" ec="2"/></testResults>'
    with pytest.raises(BadInput, match="SampleCount 10"):
        read(tmp_path, xml.encode())


def test_another_header_counts_from_there_on(tmp_path: Path) -> None:
    """Joined files may have other columns, or their own marks before the header."""
    other = "elapsed,timeStamp,label"
    lines = [JTL, *(sample(i, 5, "a") for i in range(9)), other, *(f"7,{AT + i},b" for i in range(9)),
             f"\ufeff{JTL}", sample(99, 9, "c"), "sep=,", JTL, sample(99, 9, "c")]  # fmt: skip
    run = read(tmp_path, lines)
    assert operations(run) == {"a": 9, "b": 9, "c": 2}
    assert set(latencies(run)) == {5, 7, 9}


@pytest.mark.parametrize("text", ["1700000000000.0", " 1700000000000 ", "1700000000000"])
def test_whole_numbers_as_people_save_them(tmp_path: Path, text: str) -> None:
    """As pandas writes them, with blanks; what Excel has destroyed is named."""
    assert read(tmp_path, ["timeStamp,elapsed,label", f"{text},5.0,a"]).row_count() == 1
    with pytest.raises(BadInput, match=r"timeStamp .*, expected ms since 1970, or a date such as"):
        read(tmp_path, ["timeStamp;elapsed;label", "1,7E+12;5;a"])


@pytest.mark.parametrize("ends", ["\r", "\r\n"])
def test_line_ends_of_old(tmp_path: Path, ends: str) -> None:
    """Lines end as they do on Windows, or did on a Mac."""
    lines = [JTL, *(sample(i, 5, "a") for i in range(9))]
    assert read(tmp_path, ends.join(lines).encode()).row_count() == 9


# -- names and hosts -------------------------------------------------------------------------------


def k6(url: str, at: int, took: float, blocked: float = 0.0, name: str | None = None) -> list[str]:
    """The metrics of one request of k6's."""
    when = f"2026-04-16T11:10:{at % 60:02}Z"
    values = {"http_reqs": 1, "http_req_duration": took, "http_req_blocked": blocked, "http_req_sending": 0,
              "http_req_waiting": took, "http_req_receiving": 0}  # fmt: skip
    return [K6 % (metric, when, value, name or url, url) for metric, value in values.items()]


def test_hosts_belong_to_names_where_there_are_several(tmp_path: Path) -> None:
    """The same path of two hosts is two operations; http and https of a host are one; a label stays."""
    urls = ["http://a.example/x", "https://a.example/x", "https://b.example/x", "https://b.example:8443/x"]
    run = read(tmp_path, [line for i in range(20) for line in k6(urls[i % 4], i, 10)])
    assert operations(run) == {"GET a.example/x": 10, "GET b.example/x": 5, "GET b.example:8443/x": 5}
    assert "its requests went to 3 hosts: a.example, b.example, b.example:8443" in notes(run)
    one = read(tmp_path, [line for i in range(4) for line in k6(urls[i % 2], i, 10)])
    assert operations(one) == {"GET /x": 4}
    named = read(tmp_path, [line for i in range(4) for line in k6(urls[i], i, 10, name="buy")])
    assert operations(named) == {"GET buy": 4}


def test_hosts_are_counted_to_the_last(tmp_path: Path) -> None:
    """A browser asks 45 hosts: 45 it says, and 45 operations there are."""
    entries = [
        {"startedDateTime": f"2026-04-16T11:10:{i:02}Z", "time": 5, "timings": {"wait": 5},
         "request": {"method": "GET", "url": f"https://h{i}.example/"}, "response": {"status": 200}}
        for i in range(45)
    ]  # fmt: skip
    run = read(tmp_path, json.dumps({"log": {"entries": entries}}).encode())
    assert len(operations(run)) == 45
    assert "its requests went to 45 hosts: h0.example" in notes(run)
    assert "and 40 more" in notes(run)


def test_k6_latency_is_k6s_duration(tmp_path: Path) -> None:
    """Time blocked for a connection is no part of it, and is told."""
    run = read(tmp_path, [line for i in range(20) for line in k6("http://a/x", i, 100, blocked=50)])
    assert set(latencies(run)) == {100.0}
    assert "20 requests were blocked waiting for a connection before starting, 50 ms on average" in notes(run)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["/cart;jsessionid=0A1B2C3D{}", "/cart;JSESSIONID=ff{}?x=1"], "/cart"),
        (["http://h/(S(lit3py55t21z5v55vlm25s{:02}))/cart"], "/cart"),
        (["/user/jane{}.doe@example.com/orders", "/user/jane%40mail{}.example.org/orders"],
         "/user/{email}/orders"),
        (["/order/3f2504e0-4f89-11d3-9a0c-0305e82c33{:02}"], "/order/{uuid}"),
        (["/blob/9e107d9d372bb6826bd81d3542a419{:02}", "/blob/da39a3ee5e6b4b0d3255bfef95601890afd807{:02}"],
         "/blob/{hex}"),
        (["/t/AbCdEfGhIjKlMnOpQrStUv{:02}/x", "/t/AbCdEfGh1234{:02}78ijKLmnOP==/x"], "/t/{token}/x"),
        (["/v/eyJhbGci.eyJzdWIiOiJib2JAZXhhbXBsZS5jb20i{}.SflKxwRJSMeKKF2QT4"], "/v/{token}"),
        (["/s/k3j2h4k5l6h7k8m9h0g1z2d3{:02}", "/s/01ARZ3NDEKTSV4RRFFQ69G5F{:02}"], "/s/{token}"),
        (["/app%3Bjsessionid=node{}xyzabc"], "/app"),
    ],
)  # fmt: skip
def test_ids_are_no_names(tmp_path: Path, labels: list[str], name: str) -> None:
    """Session ids, addresses and long random numbers: one operation, and none of them anywhere in the run."""
    lines = [JTL, *(sample(100 * i, 10, labels[i % len(labels)].format(i)) for i in range(10, 30))]
    run = read(tmp_path, lines)
    assert operations(run) == {name: 20}
    kept = (run.path / "run.json").read_text()
    assert not any(secret in kept for secret in ("jane", "0A1B2C3D", "9e107d9d", "lit3py55"))


@pytest.mark.parametrize(
    "label",
    [
        "/api/v2/orders",
        "/health-check",
        "Login and buy",
        "GET /decade/facade",
        "/assets/app.min.js",
        "/#/cart",
        "/api/GetCustomerOrderHistory2Details",
        "/GetAllOpenOrdersForUserByIdV2",
        "/order-history-2024-report-of-all",
    ],
)
def test_plain_names_stay(tmp_path: Path, label: str) -> None:
    """Words that look a little like ids are none."""
    assert operations(read(tmp_path, [JTL, sample(0, 5, label, url="https://h/x")])) == {label: 1}


# -- encodings, delimiters, joined files --------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252", "latin-1"])
@pytest.mark.parametrize("packed", [False, True])
def test_texts_of_other_encodings(tmp_path: Path, encoding: str, packed: bool) -> None:
    """As PowerShell and Excel write them: every row with its name, and which encoding it was is said."""
    lines = [JTL, *(sample(10 * i, 5, ("connexión", "home")[i % 2]) for i in range(50))]
    content = ("\r\n".join(lines) + "\r\n").encode(encoding)
    run = read(tmp_path, gzip.compress(content) if packed else content)
    assert operations(run) == {"connexión": 25, "home": 25}
    said = {"utf-8-sig": "", "cp1252": "25 lines are not UTF-8", "latin-1": "25 lines are not UTF-8"}
    assert said.get(encoding, "it is UTF-16") in notes(run)


def test_json_in_utf_16(tmp_path: Path) -> None:
    """A redirect of PowerShell's turns k6's lines into UTF-16."""
    lines = "\n".join(line for i in range(5) for line in k6("http://a/x", i, 10))
    assert read(tmp_path, lines.encode("utf-16")).row_count() == 5


@pytest.mark.parametrize(
    ("sep", "delimiter"), [("", ";"), ("sep=;\n", ";"), ("sep=,\n", ","), ('"sep=|"\n', "|")]
)
def test_excel_and_decimal_commas(tmp_path: Path, sep: str, delimiter: str) -> None:
    """`sep=` names the delimiter; where that is no comma, a comma in a number is a point."""
    point = "." if delimiter == "," else ","
    lines = [delimiter.join(("begin", "took", "what"))]
    lines += [
        delimiter.join((f"{i}{point}5", f"12{point}25", "a,b" if delimiter != "," else "ab"))
        for i in range(30)
    ]
    columns = {"started_s": "begin", "duration_ms": "took", "operation": "what"}
    run = read(tmp_path, (sep + "\n".join(lines) + "\n").encode(), columns=columns)
    assert set(latencies(run)) == {12.25}
    assert len(operations(run)) == 1
    jtl = [JTL, *(sample(i, 5, "a") for i in range(5))]
    assert read(tmp_path, (sep + "\n".join(jtl).replace(",", delimiter) + "\n").encode()).row_count() == 5


@pytest.mark.parametrize("blank", [[], [""]])
def test_joined_files(tmp_path: Path, blank: list[str]) -> None:
    """A header that stands again is no broken line, and is said with its line."""
    part = [sample(10 * i, 5, "a") for i in range(20)]
    run = read(tmp_path, [JTL, *part, *blank, JTL, *part])
    assert (run.row_count(), run.meta.imported.skipped) == (40, 0)
    assert f"line {22 + len(blank)} repeats the header: were files joined?" in notes(run)


def test_columns_of_a_file_without_header(tmp_path: Path) -> None:
    """--columns names them: of a JTL, and of any CSV."""
    lines = [f"a,{AT + i},5" for i in range(9)]
    assert operations(read(tmp_path, lines, names=("label", "timeStamp", "elapsed"))) == {"a": 9}
    run = read(
        tmp_path,
        ["0.5,12", "1.5,13"],
        names=("at", "took"),
        columns={"started_s": "at", "duration_ms": "took"},
    )
    assert latencies(run).tolist() == [12, 13]
    with pytest.raises(BadInput, match="unknown column"):
        read(
            tmp_path, ["0.5,12"], names=("at", "took"), columns={"started_s": "begin", "duration_ms": "took"}
        )


# -- time ------------------------------------------------------------------------------------------


def bursts(*begins_s: float, n: int = 50) -> list[str]:
    """Requests every 100 ms for some s from each of these instants on."""
    return [JTL, *(sample(int(1000 * begin) + 100 * i, 20, "a") for begin in begins_s for i in range(n))]


def test_a_gap_of_hours_is_said_and_split(tmp_path: Path) -> None:
    """The file is one run with a word on the gap; with --split as many as there are bursts."""
    file = made(tmp_path, bursts(0, 3 * 3600, 3 * 86_400))
    run = import_file(file, data_dir=tmp_path / "data")
    assert "2.9 days without a request (2026-04-16 14:10 to 2026-04-19 11:10 UTC), and 1 more gaps" in notes(
        run
    )
    runs = import_runs(file, data_dir=tmp_path / "data", split_s=3600)
    assert [one.row_count() for one in runs] == [50, 50, 50]
    assert [one.id[:11] for one in runs] == ["20260416-11", "20260416-14", "20260419-11"]
    assert not any("without a request" in notes(one) for one in runs)
    assert len(import_runs(file, data_dir=tmp_path / "data", split_s=86_400)) == 2


def test_a_split_counts_as_the_whole(tmp_path: Path) -> None:
    """Rows are numbered anew, a log's parts have their own span, and setup alone is no run."""
    lines = [sample(100 * i + (7_200_000 if i > 2_500 else 0), 20, "a") for i in range(6_000)]
    file = made(tmp_path, [JTL, *lines])
    runs = import_runs(file, data_dir=tmp_path / "data", split_s=3600)
    assert [one.row_count() for one in runs] == [2_501, 3_499]
    assert [sorted(one.table(["seq"])["seq"].to_pylist())[-1] for one in runs] == [2_500, 3_498]
    log = (Path(__file__).parent / "imports" / "hdr_java.hlog").read_text()
    first = next(line for line in log.splitlines() if "HIST" in line and not line.startswith(("#", '"')))
    at = first.split(",")[1 if first.startswith("Tag") else 0]
    later = log + first.replace(f"{at},", f"{float(at) + 20_000:.3f},", 1) + "\n"
    runs = import_runs(made(tmp_path, later.splitlines(), "log"), data_dir=tmp_path / "data", split_s=3600)
    spans = [(one.meta.measured.to_ns - one.meta.measured.from_ns) / 1e9 for one in runs]
    assert len(spans) == 2
    assert max(spans) < 60
    around = [K6 % (metric, when, value, "http://a/", "http://a/") for when in ("2026-04-16T08:00:00Z",)
              for metric, value in (("http_req_duration", 5), ("http_req_waiting", 5))]  # fmt: skip
    around = [line.replace('"method"', '"group":"::setup","method"') for line in around]
    lines = [*around, *(line for i in range(9) for line in k6("http://a/", i, 10))]
    runs = import_runs(made(tmp_path, lines, "k6"), data_dir=tmp_path, split_s=3600)
    assert [one.row_count() for one in runs] == [9]


def test_all_runs_of_a_file_or_none(tmp_path: Path) -> None:
    """Where the second of two cannot be read, the first is not left behind."""
    good = (Path(__file__).parent / "imports" / "wrk.txt").read_text()
    bad = good.replace("Latency", "Latency  x  y  z\n    Other", 1)
    with pytest.raises(BadInput):
        import_runs(made(tmp_path, (good + bad).splitlines()), data_dir=tmp_path / "data")
    assert not [*(tmp_path / "data" / "runs").iterdir()]


def test_broken_lines_of_two_batches_are_named_by_their_own_numbers(tmp_path: Path) -> None:
    """The first line of a batch, too."""
    lines = [JTL, *(sample(i, 5, "a") for i in range(4_000))]
    for at in (1_501, 2_001):
        lines[at] = lines[at].replace(",5,", ",x,", 1)
    with pytest.raises(BadInput, match=r"line 1,502: elapsed 'x'.*line 2,002: elapsed 'x'"):
        read(tmp_path, lines)


def test_a_long_request_is_no_step_back(tmp_path: Path) -> None:
    """A HAR is in the order of begins: what is short ends before what began earlier."""
    entries = [
        {"startedDateTime": f"2026-04-16T11:10:{i:02}Z", "time": 5 if i else 40_000,
         "timings": {"wait": 5}, "response": {"status": 200}, "request": {"method": "GET", "url": "https://h/"}}
        for i in range(30)
    ]  # fmt: skip
    assert "step back" not in notes(read(tmp_path, json.dumps({"log": {"entries": entries}}).encode()))


def test_pauses_are_no_gaps(tmp_path: Path) -> None:
    """A run with a request every five minutes, or one request that takes an hour, has no gap."""
    sparse = read(tmp_path, [JTL, *(sample(300_000 * i, 20, "a") for i in range(20))])
    assert "without a request" not in notes(sparse)
    busy = [sample(0, 3_600_000, "slow", "TG 1-2"), *(sample(100 * i, 20, "a") for i in range(50)),
            *(sample(3_500_000 + 100 * i, 20, "a") for i in range(50))]  # fmt: skip
    assert "without a request" not in notes(read(tmp_path, [JTL, *busy]))


def test_a_clock_that_steps_back_is_said(tmp_path: Path) -> None:
    """By an hour in the middle; lines in no order at all say nothing."""
    lines = bursts(7200, 3600)
    run = read(tmp_path, lines)
    assert "its times step back by 60.1 min, to 2026-04-16T12:10:22" in notes(run)
    mixed = [JTL, *random.Random(1).sample(lines[1:], len(lines) - 1)]
    assert "step back" not in notes(read(tmp_path, mixed))
    assert "step back" not in notes(read(tmp_path, bursts(0)))


@pytest.mark.parametrize("at", [1_900, 1_995, 1_999, 3_999])
def test_a_step_back_at_any_line(tmp_path: Path, at: int) -> None:
    """Also at the edge of what is read at once, and where five days were joined the wrong way round."""
    lines = [sample(100 * i - (1_440_000 if i > at else 0), 20, "a") for i in range(4_030)]
    assert "its times step back by 24.0 min" in notes(read(tmp_path, [JTL, *lines]))
    days = [line for day in range(5, 0, -1) for line in bursts(86_400 * day)[1:]]
    assert "the first of 4 such steps" in notes(read(tmp_path, [JTL, *days]))


def test_what_no_server_saw_is_no_request(tmp_path: Path) -> None:
    """Safari's caches, and addresses of no server."""
    urls = ["https://h/", "data:image/png;base64,AAAA", "blob:https://h/0a", "https://h/"]
    entries = [
        {"startedDateTime": "2026-04-16T11:10:00Z", "time": 5, "timings": {"wait": 5},
         "response": {"status": 200}, "request": {"method": "GET", "url": url}}
        | ({"_fetchType": "Memory Cache"} if i == 3 else {})
        for i, url in enumerate(urls)
    ]  # fmt: skip
    run = read(tmp_path, json.dumps({"creator": "x", "log": {"entries": entries}}).encode())
    assert operations(run) == {"GET /": 1}
    assert "2 entries went to no server" in notes(run)


def test_a_har_without_a_total_has_the_sum_of_its_parts(tmp_path: Path) -> None:
    """`time` may be null, as HAR allows; an entry without any time is left out, with the reason."""
    timings: list[dict[str, float]] = [{"blocked": 3, "wait": 190, "receive": 4}, {}]
    entries = [
        {"startedDateTime": "2026-04-16T11:10:00Z", "time": None, "timings": one,
         "request": {"method": "GET", "url": "https://h/"}, "response": {"status": 200}}
        for one in timings
    ]  # fmt: skip
    run = read(tmp_path, json.dumps({"log": {"entries": entries}}).encode())
    assert latencies(run).tolist() == [197]
    assert "left out: 1 entries have no time" in notes(run)


# -- what is told ------------------------------------------------------------------------------------


def test_locust_quantiles_of_all_so_far(tmp_path: Path) -> None:
    """Without a full history the last line's quantiles are the run's, whatever those before it were."""
    lines = [
        f"{1_724_151_243 + i},10,,Aggregated,10,0,100,{100 if i < 30 else 1000},1000,{10 * i},0"
        for i in range(61)
    ]
    run = read(tmp_path, [HISTORY, *lines])
    took = latencies(run)
    assert len(took) == 600
    assert np.quantile(took, [0.5, 0.99], method="inverted_cdf").tolist() == [100, 1000]
    assert (took == 100).mean() == 0.5
    assert "Locust's quantiles are of all requests so far" in notes(run)


def test_statistics_that_were_reset_are_counted_on(tmp_path: Path) -> None:
    """Locust resets its counts when all users are there; or two files were joined: every request counts."""

    def part(begin: int, ms: int, n: int) -> list[str]:
        return [f"{begin + i},10,,Aggregated,10,0,{ms},{ms},{ms},{10 * i},0" for i in range(1, n + 1)]

    run = read(tmp_path, [HISTORY, *part(1_724_151_243, 1000, 50), *part(1_724_151_300, 100, 100)])
    assert Counter(latencies(run).tolist()) == {1000: 500, 100: 1000}
    assert "its counts restart 1 times" in notes(run)
    assert "step back" not in notes(run)


def test_metrics_of_ones_own_are_no_requests(tmp_path: Path) -> None:
    """k6 lets a script name a metric http_req_login_time; a file without any request names what it has."""
    own = K6 % ("http_req_login_time", "2026-04-16T11:10:01Z", 5, "x", "http://a/x")
    assert read(tmp_path, [*k6("http://a/x", 1, 10), own, *k6("http://a/x", 2, 10)]).row_count() == 2
    with pytest.raises(BadInput, match="has no HTTP request in it, only http_req_login_time"):
        read(tmp_path, [own])


def test_no_hope_no_option(tmp_path: Path) -> None:
    """Where no line can be read, leaving out lines is not advised."""
    with pytest.raises(BadInput) as caught:
        read(tmp_path, [JTL, "x,y", "z"])
    assert "--skip-broken" not in str(caught.value)
    assert "has no request in it: line 2" in str(caught.value)


def test_the_same_file_again_is_said(tmp_path: Path) -> None:
    """On standard error, with the run that was made of it; the import goes on."""
    file = made(tmp_path, bursts(0))
    argv = ["import", str(file), "--data-dir", str(tmp_path / "data")]
    first, second = (CliRunner().invoke(cli, argv) for _ in range(2))
    assert first.stderr == ""
    assert "the same file was imported before" in second.stderr
    assert second.exit_code == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--split", "soon"], "write a time from 1m to 168h"),
        (["--split", "1s"], "write a time from 1m to 168h"),
        (["--columns", "a,,b"], "use distinct, non-empty names"),
        (["--columns", "a,a"], "use distinct, non-empty names"),
    ],
)
def test_options_are_checked(tmp_path: Path, given: list[str], words: str) -> None:
    """One line, and nothing is read."""
    file = made(tmp_path, bursts(0))
    found = CliRunner().invoke(cli, ["import", str(file), "--data-dir", str(tmp_path / "data"), *given])
    assert isinstance(found.exception, BadInput)
    assert words in str(found.exception)


@pytest.mark.parametrize("name", ["timeStamp", "elapsed", "Latency", "bytes"])
def test_a_broken_number_takes_no_other_row_with_it(name: str, tmp_path: Path) -> None:
    """Of the records of a JTL that are read together only the broken ones are left out, in line order."""
    names = ["timeStamp", "elapsed", "label", "Latency", "bytes", "success"]
    rows = [[str(1_790_000_000_000 + 10 * i), "5", "get", "3", "100", "true"] for i in range(500)]
    rows[7][names.index(name)] = "abc"
    rows[200][1] = "-3"
    rows[300][0] = "2026-09-21T12:00:00.000Z"  # read beside the others
    file = tmp_path / "calls.jtl"
    file.write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")
    told = rf"2 broken places, nothing was imported: line 9: {name} .*line 202: elapsed"
    with pytest.raises(BadInput, match=told):
        import_file(file, data_dir=tmp_path)
    run = import_file(file, data_dir=tmp_path, skip_broken=True)
    assert run.row_count() == 498


_COLUMNS = (
    "timeStamp,elapsed,label,responseCode,responseMessage,threadName,success,failureMessage,bytes,sentBytes,"
    "grpThreads,allThreads,URL,Latency,IdleTime,Connect"
)
_PLAIN = "1760000000{0:03},12,GET /a,200,OK,1-{0},true,,100,50,1,1,http://a.example/,3,0,1"
_TEXTS = (
    *(
        '"O""K"',
        '"O"K"',
        '"O"K',
        '""OK"',
        'O""K',
        'OK"',
        'OK""',
        '"OK""',
        '"OK"""',
        '"""OK"',
        '"',
        '""',
        '",",",",',
    ),
    *('"O,K"', '"OK"', '"O\nK"', 'O"K', "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\rb", "\0"),
)
_ODD = (
    *(_PLAIN.replace("OK", text) for text in _TEXTS),
    *("", "   ", "one,two", _PLAIN + "\r", f"{_PLAIN}\r{_PLAIN}", _COLUMNS, '"never closed'),
)
_OTHERWISE = ("cut gzip", "cp1252", "gzip and more", "utf-16", "whole gzip")


@pytest.mark.parametrize(
    ("odd", "how"), [(i, how) for i in range(len(_ODD)) for how in ("utf-8", _OTHERWISE[i % 5])]
)
def test_blocks_are_read_as_their_lines_are(tmp_path: Path, odd: int, how: str) -> None:
    """Many plain lines are made records at once, odd ones one by one: the same records, places and words."""
    rng = random.Random(f"{odd} {how}")
    begin = 20_000 if "gzip" in how else 0  # more than is looked at before reading
    lines = [_COLUMNS, *[_PLAIN.format(1)] * begin]
    for _ in range(rng.randrange(1, 4)):
        lines += [_PLAIN.format(i % 1000) for i in range(rng.choice((0, 1, 50, 4_000)))]
        lines += [_ODD[odd].format(i) for i in range(rng.randrange(3))]
        lines += [_PLAIN.format(i) for i in range(rng.choice((0, 1, 50)))]
    data = "\n".join(lines).encode("utf-8" if "gzip" in how else how)
    if "gzip" in how:
        data = gzip.compress(data, 0)
    data += b"\n\xff" * (how == "utf-8")
    data = data[: -len(data) // 20] if "cut" in how else data + b"xy" * ("more" in how)
    path = tmp_path / "a.csv"
    path.write_bytes(data)

    one, all_at_once = Source(path), Source(path)
    singly = [(one.line, one.more, list(row.values())) for row in records(one, NEEDED)]
    at_once = []
    for batch in batches(all_at_once, NEEDED):
        rows = [list(row) for row in batch.rows]
        assert [batch.column(name).to_pylist() for name in batch.names] == [
            [row[i] for row in rows] for i in range(len(batch.names))
        ]
        at_once += [(*place, row) for place, row in zip(batch.places, rows, strict=True)]

    assert at_once == singly
    assert (all_at_once.broken_count, all_at_once.broken) == (one.broken_count, one.broken)
    assert list(all_at_once.all_notes()) == list(one.all_notes())
