"""Files that cannot be imported: refused in one line, line by line, with nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfkit.errors import BadInput
from perfkit.store import Run, list_runs
from tests.imported import import_file
from tests.test_importing import EXPECTED, FILES, HEY

K6_POINT = (
    '{"metric":"http_req_duration","type":"Point","data":{"time":"%s","value":%s,"tags":{"status":"200"}}}\n'
)
VEGETA = "1795600000000000000,200,%s,0,9,,,a,%d,GET,http://127.0.0.1/,\n"
GOOD, POINT, LATER = VEGETA % (5, 1), K6_POINT % ("2026-01-01T00:00:00Z", 5), "2026-01-01T00:00:01Z"
JTL = '<testResults version="1.2">%s</testResults>'
SAMPLE = '<httpSample t="%s" ts="1795599961312" s="true" lb="a" rc="200"/>'


def refused(path: Path, **options: object) -> str:
    """The one line a file is refused with; nothing of it is left."""
    data = path.parent / "data"
    with pytest.raises(BadInput) as caught:
        import_file(path, data_dir=data, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list_runs(data) == []
    assert not data.exists() or [p.name for p in data.iterdir()] == ["runs"]
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; nothing to import"),
        (b"\n \n", "only whitespace"),
        (b"hello\nworld\n", "unknown format; known: k6-json"),
        (b"a,b\n1,2\n", "(any other CSV: use --column)"),
        (b"\x7fELF\0\0\0\1", "is binary, not text"),
        (gzip.compress(b"metric_name" * 900, mtime=0)[:60], "its gzip is damaged"),
        (b"SQLite format 3\0 and no more", "is not an oha database"),
        (b'{"log": {"entries": [', "is broken JSON"),
        (b'{"log": {"version": "1.2"}}', "is not a HAR: it has no log.entries"),
        (b'{"log": {"entries": []}}', "has no request in it"),
        (b'{"summary": {"successRate": 1.0}}', "summary of oha counts no HTTP request"),
        (b"Running 3s test @ http://127.0.0.1/\n", "has no line 'N requests in T' with a request"),
        (JTL.encode() % b"", "has no request in it"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + JTL.encode() % b"&a;", "declares a document type"),
        (b'<testResults version="1.2">\n<httpSample t=', "line 2: broken XML"),
        (b"metric_name,timestamp,metric_value\n", "has no request in it"),
        (b"\xff\xfe\x00".join([b"x"] * 9), "is binary"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_a_tool(tmp_path: Path, content: bytes, words: str) -> None:
    """Empty, binary, truncated, of an unknown kind, or with an XML entity: one line says what it is."""
    made = tmp_path / "given"
    made.write_bytes(content)
    assert words in refused(made)


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    """A folder, a name without a file, a pipe."""
    assert "is a folder" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("form", "good", "bad", "words"),
    [
        ("vegeta-csv", GOOD, "x" + VEGETA % (5, 2), "line 2: 'x17956"),
        ("vegeta-csv", GOOD, VEGETA % (-5, 2), "line 2: a latency of -5, expected 0 ns or more"),
        ("vegeta-csv", GOOD, "1,2\n", "line 2: 2 columns, expected 9 to 12"),
        ("vegeta-csv", GOOD, VEGETA.replace("1795600000", "1") % (5, 2), "one between 1990"),
        ("vegeta-csv", GOOD, VEGETA.replace(",200,", ",7,") % (5, 2), "status 7, expected"),
        ("vegeta-csv", GOOD.replace(",GET", "é,GET"), "\udcff\n", "is not UTF-8, expected text"),
        ("vegeta-csv", GOOD, "\udcff\n", "line 2: 1 columns, expected 9 to 12"),
        ("vegeta-csv", GOOD * 2000, "a\0b\n", "line 2,001: zero bytes, expected text"),
        ("k6-json", POINT, '{"metric": "http_reqs"\n', "line 2: '{\"metric\""),
        ("k6-json", POINT, K6_POINT % ("2026-13-01T00:00:00Z", 5), "line 2: "),
        ("k6-json", POINT, K6_POINT % (LATER, -5), "negative"),
        ("k6-json", POINT, K6_POINT % (LATER, "1e999"), "line"),
        ("k6-json", POINT, "[" * 100_000 + "\n", "line 2: "),
        ("jmeter-xml", "", JTL % (SAMPLE % 5 + SAMPLE % "NaN"), "elapsed 'NaN', expected a whole number"),
        ("jmeter-xml", "", JTL % (SAMPLE % 5 + "<sample/>"), "a sample without ts or t, expected both"),
        ("hdr-log", (FILES / "hdr_java.hlog").read_text(), "9.0,1.0,1.0,HISTFAAA\n", "line 17: "),
        ("hdr-log", (FILES / "hdr_java.hlog").read_text(), "9.0,1.0,1.0,HISTEwAAAAA=\n", "no histogram"),
    ],
)  # fmt: skip
def test_broken_lines_are_named(tmp_path: Path, form: str, good: str, bad: str, words: str) -> None:
    """A broken line refuses the file, by its number; with skip_broken the rest is a run that says so."""
    made = tmp_path / "given"
    made.write_bytes((good + bad).encode(errors="surrogateescape"))
    told = refused(made, format=form)
    assert "1 broken place, nothing was imported: " in told
    assert words in told
    run = import_file(made, data_dir=tmp_path / "data", format=form, skip_broken=True)
    assert run.row_count() >= 1
    assert run.meta.imported.skipped == 1
    assert words in run.meta.imported.skipped_first[0]


def test_the_first_three_are_told_and_all_are_counted(tmp_path: Path) -> None:
    """Of 50 broken lines three are shown; where none is whole, leaving them out does not help."""
    made = tmp_path / "given.csv"
    made.write_text(VEGETA % (5, 1) + "nothing\n" * 50)
    told = refused(made)
    assert "50 broken places" in told
    assert "line 4: 1 columns, expected 9 to 12; and 47 more; repair them, or skip them with" in told
    made.write_text("nothing\n" * 5)
    assert "has no request in it: line 1" in refused(made, format="vegeta-csv", skip_broken=True)


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    """A line of more than 16 MB is broken, the ones after it are read."""
    made = tmp_path / "given.csv"
    with open(made, "w") as file:
        file.write(VEGETA % (5, 1))
        for _ in range(40):
            file.write("x" * 1_000_000)
        file.write("\n" + VEGETA % (5, 2))
    assert "line 2: more than 16 MB, expected a line" in refused(made)
    assert import_file(made, data_dir=tmp_path / "data", skip_broken=True).row_count() == 2


def test_a_run_of_years_is_no_run(tmp_path: Path) -> None:
    """One year that was mistyped is told, instead of a report of years."""
    made = tmp_path / "given.csv"
    made.write_text(VEGETA % (5, 1) + (VEGETA % (5, 2)).replace("17956", "15956"))
    assert "days lie between its first and its last request" in refused(made)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "needs --column, such as"),
        ({"start": "offset"}, "unknown field in --column: 'start'; did you mean 'started'?"),
        ({"started_s": "offset"}, "needs two of: planned or started, done, duration"),
        ({"started_s": "offset", "started_ms": "offset", "duration_s": "x"}, "started is given twice"),
        ({"started_s": "offset", "done_unix_s": "offset"}, "mixes instants since 1970 with"),
        ({"started_s": "ofset", "duration_s": "response-time"}, "did you mean 'offset'?"),
        ({"started": "offset", "duration_s": "response-time"}, "expected a value that fits its --column"),
    ],
)
def test_a_column_map_is_checked(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    """Unknown fields and columns come with the nearest; too few instants and mixed ones are told."""
    made = tmp_path / "hey.csv"
    made.write_bytes((FILES / "hey.csv").read_bytes())
    assert words in refused(made, format="csv", columns=columns)


def test_instants_out_of_order_are_broken(tmp_path: Path) -> None:
    """A request that ends before it begins, or has neither end nor error."""
    made = tmp_path / "calls.csv"
    made.write_text("a,b,c\n1,2,\n3,2,\n3,,\n3,,timed out\n")
    told = refused(made, columns={"started_s": "a", "done_s": "b", "error": "c"})
    assert "line 3: an instant before the one it follows, expected planned ≤ started" in told
    assert "line 4: no end, expected one for a request that succeeded; repair them" in told


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    """A format nobody knows, a map for another format, a unit for what has none."""
    made = tmp_path / "k6.json"
    made.write_bytes((FILES / "k6.json").read_bytes())
    assert "unknown format 'k6_json'; did you mean 'k6-json'?" in refused(made, format="k6_json")
    assert "--column is for any CSV, not for k6-json" in refused(made, format="k6-json", columns=HEY)
    assert "--unit is for hdr-log and hdr-table, not for k6-json" in refused(made, unit="ms")
    assert "is not oha-sqlite" in refused(made, format="oha-sqlite")


def test_a_database_of_something_else(tmp_path: Path) -> None:
    """SQLite without oha's table; with a record that is none."""
    made = tmp_path / "x.db"
    with sqlite3.connect(made) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    assert "no such table: oha" in refused(made)
    with sqlite3.connect(made) as database:
        database.execute("CREATE TABLE oha (url, start, start_latency_correction, end, status, len_bytes)")
        database.execute("INSERT INTO oha VALUES ('/', 0.5, NULL, 'soon', 200, 1)")
    database.close()
    assert "has no request in it: row 1: " in refused(made)


def test_counts_nobody_counted(tmp_path: Path) -> None:
    """A small file that claims billions of requests takes no memory: its counts stay counts."""
    made = tmp_path / "oha.json"
    told = json.loads((FILES / "oha.json").read_text())
    told["statusCodeDistribution"] = {"200": 10**12}
    made.write_text(json.dumps(told))
    run = import_file(made, data_dir=tmp_path / "data")
    assert (run.row_count(), run.results.n) == (0, 10**12 + 4)


#: Formats with a request a line, and whether the first line is one of names.
LINES = {"locust-log": 1, "jmeter-csv": 1, "vegeta-json": 0, "vegeta-csv": 0, "oha-csv": 1, "csv": 1}
LEFT_OUT = re.compile(r"([\d,]+) (?:more lines inside|lines are inside|samples of Transaction)")


def accounted_for(run: Run) -> int:
    """Lines of a file that became rows, were broken, or are said to have been left out."""
    told = run.meta.imported
    noted = LEFT_OUT.findall(" ".join(told.notes))
    return run.row_count() + told.skipped + sum(int(one.replace(",", "")) for one in noted)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", EXPECTED)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_a_refusal_or_a_run(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Cut or changed anywhere, a file is refused in one line or read; no line is lost without a word."""
    whole = (FILES / name).read_bytes()
    content = bytearray(whole[: data.draw(st.integers(1, len(whole)), "cut")])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6), "places"):
        content[place] = data.draw(st.integers(0, 255) | st.just(ord('"')), "byte")
    made = tmp_path / name
    made.write_bytes(content)
    form = EXPECTED[name][0]
    lines = sum(1 for line in content.split(b"\n") if line.strip()) - LINES.get(form, 0)
    lines += name == "jmeter_headless.csv"
    for skip in (False, True):
        told = ""
        try:
            run = import_file(made, data_dir=tmp_path / "data", format=form, skip_broken=skip,
                              columns=HEY if form == "csv" else None)  # fmt: skip
            assert run.row_count() > 0
            assert form not in LINES or accounted_for(run) == lines
        except BadInput as error:
            told = str(error)
        assert "\n" not in told


@pytest.mark.parametrize(
    "name", [name for name, (form, *_) in EXPECTED.items() if LINES.get(form) is not None]
)
def test_a_quote_that_opens_a_field_loses_no_line(name: str, tmp_path: Path) -> None:
    """In whichever line of a file of lines: every other line is a row, or counted as left out."""
    lines = (FILES / name).read_bytes().splitlines()
    expected = len(lines) - LINES[EXPECTED[name][0]] + (name == "jmeter_headless.csv")
    for place in range(2, len(lines), max(1, len(lines) // 7)):
        damaged = [*lines]
        damaged[place] = b'"' + damaged[place]
        made = tmp_path / name
        made.write_bytes(b"\n".join(damaged))
        run = import_file(made, data_dir=tmp_path / "data", format=EXPECTED[name][0], skip_broken=True,
                          columns=HEY if name == "hey.csv" else None)  # fmt: skip
        assert accounted_for(run) == expected


@pytest.mark.parametrize(("name", "form"), [("hey.csv", "hey-csv"), ("ab_plot.tsv", "ab-plot")])
def test_given_columns_that_lack_what_a_format_needs(name: str, form: str, tmp_path: Path) -> None:
    """Every line is broken then, and says what it should be."""
    made = tmp_path / name
    made.write_bytes((FILES / name).read_bytes())
    first = made.read_text().splitlines()[0]
    names = tuple("abcdefgh"[: len(re.split("[,\t]", first))])
    words = refused(made, format=form, names=names)
    assert f"has no request in it: line 1: '{first[:9]}" in words
