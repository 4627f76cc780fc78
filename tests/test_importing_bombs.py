"""Whatever file is given, an import takes at most 1 GB of memory, ends soon, and says what the limit was.

Each file is made here, is small on disk, and is read by a real child process whose peak memory is measured.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from perfkit.drive.rows import MOST_OPERATIONS, OTHER_OPERATIONS
from perfkit.errors import BadInput
from perfkit.importing.limits import MOST_USERS
from perfkit.store.words import describe_run
from tests.bombs import MB, MOST_MB, Cost, cost_of, costs_of_imports, packed
from tests.imported import import_file
from tests.test_importing import FILES
from tests.test_importing_refused import GOOD, JTL, POINT, SAMPLE, VEGETA

#: CPU time of a child: a busy machine changes it little.
MOST_CPU_S = 60
HAR = b'{"log":{"entries":['
ENTRY = (
    b'{"startedDateTime":"2026-01-01T00:00:00.001Z","time":5,"timings":{"wait":1},'
    b'"response":{"status":200%s},"request":{"method":"GET","url":"http://a/%s"}},'
)
LOG = b"#[Histogram log format version 1.3]\n"
JMETER = b"timeStamp,elapsed,threadName,label\n"


def histogram(counts: bytes, digits: int) -> bytes:
    """A line of an HdrHistogram log."""
    payload = struct.pack(">iiiiqqd", 0x1C849313, len(counts), 0, digits, 1, 2**62, 1.0) + counts
    coded = zlib.compress(payload, 9)
    return b"0.1,1.0,1.0," + base64.b64encode(struct.pack(">ii", 0x1C849314, len(coded)) + coded) + b"\n"


def varint(number: int) -> bytes:
    """A count as a histogram has it."""
    number, found = number << 1, b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


Make = Callable[[Path], Path]
GOOD_CSV, BODY = GOOD.encode(), "YWJj" * 9000
VIEW = (
    "CREATE VIEW oha AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT 'u' url, x start, x start_latency_correction, x + 1 end, 200 status, 1 len_bytes, x rowid FROM c"
)
TABLE = "CREATE TABLE oha (start, start_latency_correction, end, status, len_bytes, url %s)"
ROW = "INSERT INTO oha (start, end, status, len_bytes) VALUES (1, 2, 200, 1)"
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaa"><!ENTITY b "&a;&a;">]><testResults>&b;</testResults>'
HISTORY = (
    "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,100%,Total Request Count,Total Failure Count\n"
)
LINE = "%d,1,GET,/%d,0,0,1,2,0,0\n"


def gz(times: int, block: bytes, before: bytes = b"", after: bytes = b"") -> Make:
    """A gzip of `before`, 4 MB of the block so many times, `after`."""
    return lambda path: packed(path, times, block * (4 * MB // len(block)), before, after)


def plain(content: Callable[[], bytes]) -> Make:
    """A file of what is made when it is needed."""

    def make(path: Path) -> Path:
        path.write_bytes(content())
        return path

    return make


def database(*statements: str) -> Make:
    """A SQLite file."""

    def make(path: Path) -> Path:
        with contextlib.closing(sqlite3.connect(path)) as opened:
            for statement in statements:
                opened.execute(statement)
            opened.commit()
        return path

    return make


#: name -> how the file is made, and what is said of it.
BOMBS: dict[str, tuple[Make, str]] = {
    "zeros": (gz(1000, b"\0", GOOD_CSV), "is binary, not text"),
    "newlines": (gz(1000, b"\n", GOOD_CSV), "more than 1,000,000 blank lines from line 2 on"),
    "a line": (gz(1000, b"x", GOOD_CSV), "no request in 250 MB after its first 1;"),
    "good rows": (
        gz(100, (VEGETA % (5, 1)).replace(",a,", f",{BODY},").encode()),
        "unpacks to more than 200 times its size (250 MB so far), as a compression bomb does; unpack it "
        "first to import it anyway",
    ),
    "columns": (gz(3, b"xx,", JMETER.rstrip(), b"\n1,2\n"), "columns; up to 1,000 are read"),
    "HAR": (
        gz(60, ENTRY % (b"", b""), HAR, (ENTRY % (b"", b""))[:-1] + b"]}}"),
        "is one JSON document of more than 200 MB; save it without the content of responses, or in parts",
    ),
    "HAR of nothing": (gz(20, b"{},", HAR, b"{}]}}"), "more than 500,000 entries"),
    "HAR of numbers": (gz(20, b"1,", HAR, b"1]}}"), "is not a HAR: it has no log.entries"),
    "HAR of brackets": (gz(20, b"[", HAR), "is broken JSON (maximum recursion depth"),
    "oha": (
        gz(120, b"[],", b'{"summary":{"successRate":1.0,"x":[', b"1]}}"),
        "is one JSON document of more than 16 MB; oha's JSON has a few kB",
    ),
    "XML attribute": (
        gz(1000, b"x", b'<testResults>\n<httpSample lb="'),
        "line 2 begins a tag or comment of more than 1 MB",
    ),
    "XML comment": (gz(1000, b"x\n", b"<testResults>\n\n<!--"), "line 3 begins a tag or comment of more"),
    "XML names": (
        gz(1, b"".join(b"<a%d/>\n" % number for number in range(100_000)), b"<testResults>"),
        "more than 1,000 names of elements and attributes",
    ),
    "XML depth": (gz(1000, b"<a>", b"<testResults>"), "elements more than 100 deep in others"),
    "XML elements": (gz(1000, b"<a/>", b"<testResults>"), "1,000,000 elements and no sample among them"),
    "XML entities": (plain(lambda: ENTITIES), "declares a document type"),
    "hdr payload": (
        plain(lambda: LOG + histogram(b"\0" * 30 * MB, 5) * 9),
        "a histogram of more than 4 MB, expected a smaller one",
    ),
    "view": (database(VIEW), "is not an oha database (not authorized)"),
    "blob": (
        database(TABLE % "", "INSERT INTO oha VALUES (1, null, 2, 200, 1, zeroblob(5000000))"),
        "is not an oha database (string or blob too big)",
    ),
    "column made of a blob": (
        database(TABLE % "AS (hex(zeroblob(400000000)))", ROW),
        "is not an oha database (string or blob too big)",
    ),
}  # fmt: skip
#: The same, of those that take longer.
LONG: dict[str, tuple[Make, str]] = {
    "broken lines": (gz(1000, b"a,b\n", GOOD_CSV), "more than 1,000,000 broken places"),
    "other metrics": (
        gz(1000, b'{"metric":"vus","type":"Point","data":{}}\n', POINT.encode()),
        "no request in 250 MB at its beginning",
    ),
    "long labels": (gz(200, b"1795600000000,5,t," + b"ab " * MB + b"\n", JMETER), "unpacks to more than 200"),
    "quote": (gz(1000, b"x" * 3999 + b"\n", GOOD_CSV + b'"'), "no request in 250 MB after its first 1"),
    "quotes": (gz(1000, b'"\n",', GOOD_CSV), "more than 1,000,000 broken places"),
    "XML text": (
        gz(1000, b"x\n", b"<testResults><httpSample><failureMessage>"),
        "no request in 250 MB at its beginning",
    ),
    "hdr zeros": (
        plain(lambda: LOG + histogram(b"\0" * 3_900_000, 5) * 200),
        "unpacks to more than 200 times its size",
    ),
    "wrk": (
        gz(60, b"9.0 0.9 20000 1\n", (FILES / "wrk2.txt").read_bytes().partition(b"#[Mean")[0]),
        "of more than 20,000 lines",
    ),
    "history": (
        plain(lambda: (HISTORY + "".join(LINE % (1795600000 + n, n) for n in range(1_000_100))).encode()),
        "a history of more than 1,000,000 lines; import the request log",
    ),
}  # fmt: skip


def assert_cheap(cost: Cost) -> None:
    """Memory and time of an import are bounded, and it ended by its own words."""
    assert cost.peak_mb < MOST_MB
    assert cost.cpu_s < MOST_CPU_S
    assert "Traceback" not in cost.words
    assert "this is a bug in perfkit" not in cost.words


def assert_refused(cost: Cost, words: str) -> None:
    """In one line that says why."""
    assert_cheap(cost)
    assert words in cost.words
    assert (cost.code, cost.words.strip().count("\n")) == (BadInput.exit_code, 0)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """A few kB that unpack, decode, expand or count to any size: the limit is named, 1 GB is never taken."""
    make, words = BOMBS[name]
    path = make(tmp_path / "given")
    assert path.stat().st_size < 8 * MB
    (cost,) = costs_of_imports([path])
    assert_refused(cost, words)
    assert not list((tmp_path / "data" / "runs").iterdir())


@pytest.mark.drill
@pytest.mark.parametrize("name", LONG)
def test_a_long_bomb_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """The same of what takes seconds, by the command line."""
    make, words = LONG[name]
    assert_refused(cost_of(tmp_path, "import", make(tmp_path / "given")), words)
    assert not list((tmp_path / "data" / "runs").iterdir())


def test_the_command_line_is_as_cheap(tmp_path: Path) -> None:
    """785 kB that took 4.5 GB: a document of 512 MB, by `perfkit import`."""
    given = gz(128, b"[],", HAR, b"1]}}")(tmp_path / "given")
    assert_refused(cost_of(tmp_path, "import", given), "one JSON document of more than 200 MB")


def test_counts_stay_counts(tmp_path: Path) -> None:
    """A log of some bytes that counts 20 million values makes no row of them."""
    given = tmp_path / "given"
    given.write_bytes(LOG + histogram(varint(9), 3) + histogram(varint(20 * MB - 5), 3))
    cost = cost_of(tmp_path, "import", given, "--json")
    assert_cheap(cost)
    assert json.loads(cost.words)["summary"][-1]["n"] == 20 * MB + 4
    assert cost.peak_mb < 300


def test_large_texts_of_good_rows_are_cut_before_they_are_kept(tmp_path: Path) -> None:
    """Labels, users, errors and URLs of 3 MB, of any alphabet, in each row: a run of them takes no 1 GB."""
    given = tmp_path / "given"
    with open(given, "w") as file:
        file.write("timeStamp,elapsed,threadName,label,success,failureMessage,URL\n")
        for number in range(24):
            texts = (f"{number}{word} " + f"{word} " * 1_700_000 + "😀" for word in "tlej")
            thread, label, failure, url = texts
            file.write(f"1795600000000,5,{thread},{label},false,{failure},http://{url}\n")
    cost = cost_of(tmp_path, "import", given, "--json")
    given.unlink()
    assert_cheap(cost)
    assert cost.code == 0
    assert max(len(row["operation"]) for row in json.loads(cost.words)["summary"]) == 200


def test_bodies_of_a_har_cost_nothing(tmp_path: Path) -> None:
    """150 MB of bodies, an entry with all the rest of the file in it: they are passed over."""
    body = b',"content":{"text":"%s"}' % (b"YWJj" * 5_000_000)
    given = tmp_path / "given"
    given.write_bytes(HAR + (ENTRY % (body, b"")) * 7 + (ENTRY % (b"", b"last"))[:-1] + b"]}}")
    cost = cost_of(tmp_path, "import", given, "--json")
    assert_cheap(cost)
    assert json.loads(cost.words)["summary"][-1]["n"] == 8


# -- many of a kind ---------------------------------------------------------------------------------


def test_operations_without_end_are_one(tmp_path: Path) -> None:
    """40,000 operations: the first thousand by name, the rest as one, and the run says so, by that name."""
    given = tmp_path / "given"
    with open(given, "w") as file:
        for number in range(42_000):
            label = number % 40_000
            file.write((VEGETA % (5, number)).replace("http://127.0.0.1/", f"http://127.0.0.1/users/{label}"))
    run = import_file(given, data_dir=tmp_path / "data")
    names = run.table(["operation"])["operation"].to_pylist()
    assert len(set(names)) == MOST_OPERATIONS + 1
    assert names.count(OTHER_OPERATIONS) == 42_000 - 2 * MOST_OPERATIONS
    note = (
        "40,000 different operations: the first 1,000 are kept by name, the other 39,000 together as "
        "(other operations); give requests a name without ids in the tool"
    )
    assert note in run.meta.raw["imported"]["notes"]
    shown = describe_run(run)
    assert note in shown
    assert "971 less frequent operations are not shown" in shown
    assert shown.count("\n") < 100


def test_a_thousand_operations_are_all_kept(tmp_path: Path) -> None:
    """The limit is that of runs perfkit makes itself."""
    given = tmp_path / "given"
    given.write_text("".join((VEGETA % (5, n)).replace("0.1/,", f"0.1/{n},") for n in range(MOST_OPERATIONS)))
    run = import_file(given, data_dir=tmp_path / "data")
    assert len(set(run.table(["operation"])["operation"].to_pylist())) == MOST_OPERATIONS
    assert "1,000 different operations; give requests a name in the tool to group them" in describe_run(run)


def test_users_without_end_have_no_number(tmp_path: Path) -> None:
    """The names of the first 100,000 threads are users; requests of others are kept without one."""
    given = tmp_path / "given"
    rows = "".join(f"1795600000000,5,thread {number},a\n" for number in range(MOST_USERS + 50))
    given.write_text(JMETER.decode() + rows)
    run = import_file(given, data_dir=tmp_path / "data")
    users = run.table(["user"])["user"]
    assert (len(users), users.null_count) == (MOST_USERS + 50, 50)
    assert "50 requests have no user: only 100,000 user names are kept" in run.meta.raw["imported"]["notes"]


def test_names_of_a_history_are_counted_apart(tmp_path: Path) -> None:
    """Counts of Locust's names beyond the thousandth do not mix: each goes up on its own."""
    given = tmp_path / "given"
    lines = (
        f"{1795600000 + at},1,GET,/{name},1,0,5,9,{count},0\n"
        for at, counts in enumerate(((10, 3), (12, 5)))
        for name, count in ((number, counts[number % 2]) for number in range(1_200))
    )
    given.write_text(HISTORY + "".join(lines))
    run = import_file(given, data_dir=tmp_path / "data")
    assert run.row_count() == 600 * 12 + 600 * 5
    assert run.table(["operation"])["operation"].to_pylist().count(OTHER_OPERATIONS) == 100 * 12 + 100 * 5


@pytest.mark.parametrize("value", ["1e400", "9" * 5_000, "NaN", "-1e308", "1e30"])
def test_numbers_nobody_can_work_with(tmp_path: Path, value: str) -> None:
    """Larger than any float or clock, or none at all: a broken place, or the file's own refusal."""
    oha = json.loads((FILES / "oha.json").read_text())
    oha["summary"]["total"] = 123.25
    files = {
        "vegeta-csv": GOOD + VEGETA.replace("%s", value, 1) % 2,
        "jmeter-xml": JTL % (SAMPLE % 5 + SAMPLE % value),
        "k6-json": POINT + POINT.replace('"value":5', f'"value":{value}').replace("00Z", "01Z"),
        "oha-json": json.dumps(oha).replace("123.25", value),
        "har": (HAR + (ENTRY % (b"", b""))[:-1] + b"]}}").decode().replace('"time":5', f'"time":{value}'),
        "wrk": (FILES / "wrk2.txt").read_text().replace(" requests in ", f" requests in {value}", 1),
    }
    for form, text in files.items():
        given = tmp_path / form
        given.write_text(text)
        with pytest.raises(BadInput) as caught:
            import_file(given, data_dir=tmp_path / "data", format=form)
        assert "\n" not in str(caught.value)


# -- large and legitimate ---------------------------------------------------------------------------


@pytest.mark.drill
def test_long_error_texts_are_merged_a_part_at_a_time(tmp_path: Path) -> None:
    """600,000 failures of 300 characters and 900 bytes each, no two alike: still within 1 GB."""
    given = tmp_path / "given"
    with open(given, "w") as file:
        file.write("timeStamp,elapsed,label,success,responseCode,failureMessage\n")
        for number in range(600_000):
            file.write(f"1795600000000,5,a,false,200,{number} {'漢' * 300}\n")
    cost = cost_of(tmp_path, "import", given)
    given.unlink()
    assert_cheap(cost)
    assert cost.code == 0
    assert "600,000 requests; `perfkit show 2026" in cost.words


@pytest.mark.drill
def test_ten_million_requests_are_imported(tmp_path: Path) -> None:
    """A file of 10^7 requests takes no more memory than one of 10^5, and is not summarized for that."""
    given = tmp_path / "given"
    with open(given, "w") as file:
        for number in range(10_000_000):
            file.write(
                VEGETA.replace("1795600000000000000", str(1795600000000000000 + number * 1000)) % (5, 1)
            )
    cost = cost_of(tmp_path, "import", given, timeout_s=3600)
    assert cost.code == 0
    assert cost.peak_mb < MOST_MB
    assert "10,000,000 requests; `perfkit show 2026" in cost.words


@pytest.mark.drill
def test_twenty_million_counted_requests_are_imported(tmp_path: Path) -> None:
    """What a hundred bytes count is made rows without a Python object for each."""
    given = tmp_path / "given"
    given.write_bytes(LOG + histogram(varint(20 * MB), 3))
    cost = cost_of(tmp_path, "import", given, timeout_s=3600)
    assert cost.code == 0
    assert_cheap(cost)
    assert "20,000,000 requests; `perfkit show 1970" in cost.words or "summarizes them" in cost.words


@pytest.mark.drill
def test_a_run_of_a_thousand_operations_is_reported(tmp_path: Path) -> None:
    """Its report is made within a minute of CPU time, and is not megabytes of rows."""
    given = tmp_path / "given"
    with open(given, "w") as file:
        for number in range(100_000):
            file.write((VEGETA % (5_000_000 + number, number)).replace("0.1/,", f"0.1/{number % 40_000},"))
    run = import_file(given, data_dir=tmp_path / "data")
    cost = cost_of(tmp_path, "report", run.path)
    assert cost.code == 0, cost.words
    assert cost.cpu_s < 60
    page = next((run.path / "report").glob("*.html")).read_text()
    assert len(page) < 2 * MB
    assert page.count("<tr") < 300
    assert "40,000 different operations" in page
