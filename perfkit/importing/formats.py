"""The formats there are, and which one a file is in: told by its content, never by its name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perfkit.errors import BadInput, unknown
from perfkit.importing import (
    ab,
    artillery,
    bombardier,
    gatling,
    har,
    hdr,
    hey,
    jmeter,
    jmeter_xml,
    k6,
    locust,
    mapped,
    oha,
    vegeta,
    wrk,
)
from perfkit.importing.elsewhere import advice
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
    "k6-summary": Format("k6 run --summary-export=FILE, handleSummary", k6.is_summary, k6.read_summary),
    "k6-text": Format("what k6 prints at the end", k6.is_text, k6.read_text),
    "locust-log": Format("locust.contrib.csv_request_logger", locust.is_log, locust.read_log),
    "locust-history": Format("locust --csv: NAME_stats_history.csv", locust.is_history, locust.read_history),
    "locust-stats": Format("locust --csv: NAME_stats.csv", locust.is_stats, locust.read_stats),
    "gatling-log": Format("Gatling's simulation.log (to 3.9)", gatling.is_log, gatling.read),
    "jmeter-csv": Format("JMeter's JTL", jmeter.is_csv, jmeter.read_csv),
    "jmeter-xml": Format("JMeter's JTL as XML", jmeter_xml.is_xml, jmeter_xml.read_xml),
    "vegeta-json": Format("vegeta encode --to json", vegeta.is_json, vegeta.read_json),
    "vegeta-csv": Format("vegeta encode --to csv", vegeta.is_csv, vegeta.read_csv),
    "vegeta-report": Format("vegeta report -type json", vegeta.is_report, vegeta.read_report),
    "vegeta-text": Format("what vegeta report prints", vegeta.is_text, vegeta.read_text),
    "oha-sqlite": Format("oha --db-url FILE", oha.is_sqlite, oha.read_sqlite, binary=True),
    "oha-csv": Format("oha --output-format csv", oha.is_csv, oha.read_csv),
    "oha-json": Format("oha --output-format json", oha.is_json, oha.read_json),
    "hey-csv": Format("hey -o csv", hey.is_csv, hey.read_csv),
    "hey-text": Format("what hey prints", hey.is_text, hey.read_text),
    "ab-plot": Format("ab -g FILE", ab.is_plot, ab.read_plot),
    "ab-quantiles": Format("ab -e FILE", ab.is_quantiles, ab.read_quantiles),
    "ab-text": Format("what ab prints", ab.is_text, ab.read_text),
    "bombardier-json": Format("bombardier -o json", bombardier.is_json, bombardier.read_json),
    "bombardier-text": Format("what bombardier prints", bombardier.is_text, bombardier.read_text),
    "artillery-json": Format("artillery run --output FILE", artillery.is_json, artillery.read),
    "wrk": Format("what wrk and wrk2 print", wrk.is_text, wrk.read),
    "hdr-log": Format("an HdrHistogram interval log", hdr.is_log, hdr.read),
    "hdr-table": Format("HdrHistogram's percentiles (.hgrm)", hdr.is_table, hdr.read_table),
    "har": Format("a browser's or proxy's HAR", har.is_har, har.read),
    "csv": Format("any CSV with --column", lambda head: False, mapped.read),
}


def format_of(source: Source, given: str | None, asked: Asked, none: str = "") -> str:
    """The format's name: the one given, `csv` where there is a column map, else the one recognised.

    BadInput when nobody knows the given one, or none or several are recognised; none: its words for none.
    """
    if given is not None and given not in FORMATS:
        raise unknown("format", given, FORMATS)
    name = given or ("csv" if asked.columns else _recognised(source, asked, none))
    if asked.columns and name != "csv":
        raise BadInput(f"--column is for any CSV, not for {name}; omit one of them")
    if name == "csv" and not asked.columns:
        raise BadInput(f"{source.path}: this CSV needs --column, such as --column started=begin "
                       "--column duration_ms=took (see `perfkit import --help`)")  # fmt: skip
    if asked.unit is not None and name not in _UNITLESS:
        raise BadInput(f"--unit is for {' and '.join(_UNITLESS)}, not for {name}; omit it")
    if not FORMATS[name].binary:
        source.refuse_binary()
    elif not FORMATS[name].recognise(Head(source.head)):
        raise BadInput(f"{source.path} is not {name} ({FORMATS[name].meaning})")
    return name


#: Formats that do not tell the unit of their values.
_UNITLESS = ("hdr-log", "hdr-table")


def _recognised(source: Source, asked: Asked, none: str) -> str:
    head = Head(source.head, asked.names)
    found = [name for name, one in FORMATS.items() if one.recognise(head)]
    if len(found) == 1:
        return found[0]
    if not found:
        if told := advice(head):
            raise BadInput(f"{source.path}: {told}")
        source.refuse_binary()
        none = none or f"unknown format; known: {', '.join(FORMATS)} (any other CSV: use --column)"
        raise BadInput(f"{source.path}: {none}")
    raise BadInput(f"{source.path} could be {' or '.join(found)}; choose one with --format")
