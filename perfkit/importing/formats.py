"""The formats there are, and which one a file is in: told by its content, never by its name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perfkit.errors import BadInput, unknown
from perfkit.importing import har, hdr, jmeter, k6, locust, mapped, oha, vegeta, wrk2
from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source


@dataclass(frozen=True)
class Format:
    """How a file is recognised and read; meaning: for the help."""

    meaning: str
    recognise: Callable[[Head], bool]
    read: Callable[[Source, Rows, Asked], Facts]
    binary: bool = False


FORMATS: dict[str, Format] = {
    "k6-json": Format("k6 run --out json=FILE", k6.is_json, k6.read_json),
    "k6-csv": Format("k6 run --out csv=FILE", k6.is_csv, k6.read_csv),
    "locust-log": Format("locust.contrib.csv_request_logger", locust.is_log, locust.read_log),
    "locust-history": Format("locust --csv: NAME_stats_history.csv", locust.is_history, locust.read_history),
    "jmeter-csv": Format("JMeter's JTL", jmeter.is_csv, jmeter.read_csv),
    "jmeter-xml": Format("JMeter's JTL as XML", jmeter.is_xml, jmeter.read_xml),
    "vegeta-json": Format("vegeta encode --to json", vegeta.is_json, vegeta.read_json),
    "vegeta-csv": Format("vegeta encode --to csv", vegeta.is_csv, vegeta.read_csv),
    "oha-sqlite": Format("oha --db-url FILE", oha.is_sqlite, oha.read_sqlite, binary=True),
    "oha-csv": Format("oha --output-format csv", oha.is_csv, oha.read_csv),
    "oha-json": Format("oha --output-format json", oha.is_json, oha.read_json),
    "wrk2": Format("what wrk2 --latency prints", wrk2.is_text, wrk2.read),
    "hdr-log": Format("an HdrHistogram interval log", hdr.is_log, hdr.read),
    "har": Format("a browser's or proxy's HAR", har.is_har, har.read),
    "csv": Format("any CSV with --column", lambda head: False, mapped.read),
}


def format_of(source: Source, given: str | None, asked: Asked) -> str:
    """The format's name: the one given, `csv` where there is a column map, else the one recognised.

    BadInput when nobody knows the given one, or none or several are recognised.
    """
    if given is not None and given not in FORMATS:
        raise unknown("format", given, FORMATS)
    name = given or ("csv" if asked.columns else _recognised(source))
    if asked.columns and name != "csv":
        raise BadInput(f"--column is for any CSV, not for {name}; leave one of them out")
    if name == "csv" and not asked.columns:
        raise BadInput(f"{source.path}: a CSV of its own kind needs --column, such as --column started=begin "
                       "--column duration_ms=took (see `perfkit import --help`)")  # fmt: skip
    if asked.unit is not None and name != "hdr-log":
        raise BadInput(f"--unit is for hdr-log, not for {name}; leave it out")
    if not FORMATS[name].binary:
        source.refuse_binary()
    elif not FORMATS[name].recognise(Head(source.head)):
        raise BadInput(f"{source.path} is no {name}: {FORMATS[name].meaning} makes another kind of file")
    return name


def _recognised(source: Source) -> str:
    head = Head(source.head)
    found = [name for name, one in FORMATS.items() if one.recognise(head)]
    if len(found) == 1:
        return found[0]
    if not found:
        source.refuse_binary()
        kinds = ", ".join(FORMATS)
        raise BadInput(
            f"{source.path}: no format fits its content; known: {kinds} (a CSV of another kind: --column)"
        )
    raise BadInput(f"{source.path} could be {' or '.join(found)}; say which with --format")
