"""JMeter: a JTL as CSV (with its header, or in the default columns without) and as XML.

timeStamp is when a sample started and elapsed how long it took, in ms, or both to the step of the format the
timestamp was written in. Samples inside a sample (the parts of a page) are parts of it, not rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import (
    DEEPEST,
    LONGEST_NAME,
    LONGEST_TAG,
    MB,
    MOST_BROKEN,
    MOST_COLUMNS,
    MOST_USERS,
)
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows, Wrong
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, ns, unix_ns, whole
from perfkit.importing.words import error_class

#: What JMeter writes without a header: its default columns up to 2.13, and since 3.0.
_SHARED = (
    *("timeStamp", "elapsed", "label", "responseCode", "responseMessage", "threadName", "dataType"),
    "success",
)
_DEFAULTS = (
    (*_SHARED, "bytes", "grpThreads", "allThreads", "Latency"),
    (*_SHARED, "failureMessage", "bytes", "sentBytes", "grpThreads", "allThreads", "URL", "Latency",
     "IdleTime", "Connect"),
)  # fmt: skip
_NEEDED = ("timeStamp", "elapsed")
_DELIMITERS = (",", "\t", ";", "|")
_ATTRIBUTES = {
    "ts": "timeStamp", "t": "elapsed", "lb": "label", "rc": "responseCode", "rm": "responseMessage",
    "tn": "threadName", "s": "success", "by": "bytes", "sby": "sentBytes", "lt": "Latency",
}  # fmt: skip
_SLASHES = re.compile(r"(\d{4})/(\d\d)/(\d\d)")
_NON_HTTP = "Non HTTP response "
#: How a Transaction Controller words its sample.
_TRANSACTION = re.compile(r"Number of samples in transaction : (\d+)")
_NOTES = ("JMeter starts a sample when its thread is free: when it was due is not in the file",)


def is_csv(head: Head) -> bool:
    """The two columns every JTL has, or a first line that fits the default columns."""
    return any(set(_NEEDED) <= set(head.names(one)) for one in _DELIMITERS) or _headless(head) is not None


def is_xml(head: Head) -> bool:
    """The root element of a JTL."""
    return "<testResults" in head.text[:4000]


def _headless(head: Head) -> tuple[str, ...] | None:
    """The default columns a first line without names fits."""
    first = head.names()
    for columns in _DEFAULTS:
        if len(first) == len(columns) and first[0].isdigit() and len(first[0]) == 13 and first[1].isdigit():
            return columns
    return None


class _Reader:
    """A sample's values by their column names, whatever they were written in."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.zone_unknown = False
        self.transactions = self.parents = 0
        self._latest: dict[str, int] = {}  # thread -> when its request before this one began
        rows.steps.units["took"] = UNITS["ms"]

    def add(self, told: Mapping[str, str], failure: str | None = None) -> None:
        """One sample; a broken one is noted."""
        try:
            self._add(told, failure)
        except Wrong as wrong:
            self.source.bad(wrong.found, wrong.expected)
        except (ValueError, OverflowError):
            self.source.bad(
                short(",".join(told.values())), "a JMeter sample with timeStamp and elapsed in ms"
            )

    def _add(self, told: Mapping[str, str], failure: str | None) -> None:
        started, took = self._instant(told["timeStamp"]), ns(whole(told["elapsed"]), "ms")
        if took < 0:
            raise Wrong(f"elapsed {told['elapsed']}", "0 ms or more")
        if self._is_transaction(told, started):
            return
        code = told.get("responseCode") or ""
        status = (
            int(code)
            if len(code) == 3 and code.isdigit() and code.isascii() and 100 <= int(code) <= 599
            else None
        )
        success = (told.get("success") or "true").lower()
        if success not in ("true", "false"):
            raise Wrong(f"success {short(success)}", "true or false")
        message = (told.get("responseMessage") or "").removeprefix(f"{_NON_HTTP}message: ")
        problem = failure or told.get("failureMessage") or ""
        words = problem if status and status < 400 else " ".join(
            part for part in (code.removeprefix(f"{_NON_HTTP}code: ") if not status else "", message) if part
        )  # fmt: skip
        error = None if success == "true" else error_class(status, words, failed=True)
        if error and status is None and code.isdigit():  # an answer, of another protocol
            error = "check"
        latency = ns(whole(told["Latency"]), "ms") if told.get("Latency") else 0
        if told.get("URL", "null") not in ("", "null"):
            self.rows.names.saw(told["URL"])
        self.rows.add(
            self.rows.names.of(told.get("label") or "unnamed"),
            started=started, done=started + took, status=status,
            first_byte=started + min(latency, took) if status and latency > 0 else None, error=error,
            words=words or (f"code {code}" if error else None), user=told.get("threadName"),
            bytes_sent=_maybe(told.get("sentBytes")), bytes_received=_maybe(told.get("bytes")),
        )  # fmt: skip

    def _is_transaction(self, told: Mapping[str, str], started: int) -> bool:
        """Whether a sample is a Transaction Controller's and stands beside its requests: it is none itself.

        One that was told to be their parent stands for them: the file has no request of its thread in it.
        """
        thread = (told.get("threadName") or "")[:LONGEST_NAME]
        found = _TRANSACTION.match(told.get("responseMessage") or "")
        if found is None or told.get("URL", "null") not in ("", "null"):
            if len(self._latest) < MOST_USERS or thread in self._latest:
                self._latest[thread] = started
            return False
        beside = self._latest.get(thread, started - 1) >= started or not int(found[1])
        self.transactions += beside
        self.parents += not beside
        return beside

    def _instant(self, text: str) -> int:
        text = text.strip()
        if text.isdigit():
            return whole(text) * UNITS["ms"]
        self.zone_unknown = True
        return unix_ns(_SLASHES.sub(r"\1-\2-\3", text, count=1))

    def facts(self, *notes: str) -> Facts:
        """What there is to say when the file has ended."""
        if self.zone_unknown:
            notes = (*notes, "its times have no zone and were taken as UTC")
        if self.transactions:
            told = "samples of Transaction Controllers are left out: their requests stand beside them"
            notes = (*notes, f"{self.transactions:,} {told}")
        if self.parents:
            notes = (*notes, f"{self.parents:,} rows are transactions of one or more requests each")
        step = UNITS["ms"]
        return Facts("JMeter", rounded_ns=(step, step), notes=(*_NOTES, *notes))


def _maybe(text: str | None) -> int | None:
    return whole(text) if text else None


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as CSV."""
    head = Head(source.head)
    delimiter = next((one for one in _DELIMITERS if set(_NEEDED) <= set(head.names(one))), ",")
    reader, records = _Reader(source, rows), source.table(delimiter)
    columns = _headless(head)
    names = list(columns) if columns else source.header(records, _NEEDED)
    for record in records:
        if len(record) != len(names):
            source.bad(f"{len(record)} columns", f"{len(names)}")
            continue
        reader.add(dict(zip(names, record, strict=True)))
    return reader.facts(*(("it has no header; JMeter's default columns were taken",) if columns else ()))


# -- XML -------------------------------------------------------------------------------------------


class _Xml:
    """A parser that knows samples by their depth; a document type, and so any entity, is refused."""

    def __init__(self, reader: _Reader) -> None:
        self.reader, self.parts = reader, 0
        self._depth = 0
        self._sample: dict[str, str] | None = None
        self._failure: str | None = None
        self._text: list[str] | None = None
        self._fed = self._elements = 0
        self._names: dict[str, str] = {}  # of elements and attributes: the parser keeps each for ever
        self.parser = expat.ParserCreate(intern=self._names)
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, block: bytes) -> None:
        """Parse the next bytes; BadInput for what would make the parser's memory grow with the file."""
        self.parser.Parse(block, False)
        self._fed += len(block)
        path = self.reader.source.path
        if self._fed - max(self.parser.CurrentByteIndex, 0) > LONGEST_TAG + len(block):
            line = f"line {self.parser.CurrentLineNumber:,}"
            raise BadInput(f"{path}: {line} begins a tag or comment of more than {LONGEST_TAG // MB} MB")
        if len(self._names) > MOST_COLUMNS:
            raise BadInput(
                f"{path} has more than {MOST_COLUMNS:,} names of elements and attributes; a JTL has 50"
            )

    def _doctype(self, *_: Any) -> None:
        raise BadInput(
            f"{self.reader.source.path} declares a document type, which no JTL has; it was not read"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise BadInput(f"{self.reader.source.path} has elements more than {DEEPEST} deep in others")
        self._elements += 1
        if self._elements > MOST_BROKEN:
            raise BadInput(f"{self.reader.source.path}: {MOST_BROKEN:,} elements and no sample among them")
        is_sample = name in ("httpSample", "sample")
        if self._depth == 2 and is_sample:
            self._sample = {
                _ATTRIBUTES[key]: value for key, value in attributes.items() if key in _ATTRIBUTES
            }
            self._failure = None
        elif is_sample:
            self.parts += 1
        self._text = [] if name == "failureMessage" else None
        self.parser.CharacterDataHandler = None if self._text is None else self._data

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text[:1000])
            if len(self._text) >= 100:  # the rest costs nothing: nobody looks at it
                self.parser.CharacterDataHandler = None

    def _end(self, name: str) -> None:
        self.reader.source.line = self.parser.CurrentLineNumber
        if name == "failureMessage" and self._text:
            self._failure = self._failure or "".join(self._text)
        self._text = None
        if self._depth == 2 and self._sample is not None:
            if set(_NEEDED) <= self._sample.keys():
                self.reader.add(self._sample, self._failure)
            else:
                self.reader.source.bad("a sample without ts or t", "both")
            self._sample, self._elements = None, 0
        self._depth -= 1


def read_xml(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as XML, read a block at a time; one that ends too early is broken at its end."""
    reader = _Reader(source, rows)
    xml = _Xml(reader)
    try:
        for block in source.blocks():
            xml.feed(block)
        xml.parser.Parse(b"", True)
    except (LookupError, ValueError) as error:  # an encoding that Python or the parser does not have
        raise BadInput(f"{source.path}: {error}; a JTL is UTF-8") from None
    except expat.ExpatError as error:
        source.line = error.lineno
        source.bad(f"broken XML ({expat.ErrorString(error.code)})", "a whole JTL")
    parts = (f"{xml.parts:,} samples inside others are parts of them and no rows",) if xml.parts else ()
    return reader.facts(*parts)
