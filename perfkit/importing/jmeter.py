"""JMeter: a JTL as CSV (with its header, or in the default columns without) and as XML.

timeStamp is when a sample started and elapsed how long it took, in ms, or both to the step of the format the
timestamp was written in. Samples inside a sample (redirects, what a page embeds, the requests of a
transaction that stands for them) are parts of it, no rows: XML has them inside, CSV in the lines after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any
from xml.parsers import expat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import (
    DEEPEST,
    LONGEST_TAG,
    LONGEST_TEXT,
    MB,
    MOST_BROKEN,
    MOST_COLUMNS,
    MOST_USERS,
)
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import BATCH, Batch, batches
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, has_zone, unix_ns
from perfkit.importing.words import clean, error_class

#: What JMeter writes without a header: its default columns up to 2.13, and since 3.0.
_NO_URL = ("", "null")
_ORIGIN = r"^([^/]*//[^/]*).*$"  # scheme and host of a URL: of a million URLs the same
_SHARED = (
    *("timeStamp", "elapsed", "label", "responseCode", "responseMessage", "threadName", "dataType"),
    "success",
)
_DEFAULTS = (
    (*_SHARED, "bytes", "grpThreads", "allThreads", "Latency"),
    (*_SHARED, "failureMessage", "bytes", "sentBytes", "grpThreads", "allThreads", "URL", "Latency",
     "IdleTime", "Connect"),
)  # fmt: skip
#: How a sample ended, by these columns.
_TOLD = ("responseCode", "success", "responseMessage", "failureMessage")
_NEEDED = ("timeStamp", "elapsed")
_ATTRIBUTES = {
    "ts": "timeStamp", "t": "elapsed", "lb": "label", "rc": "responseCode", "rm": "responseMessage",
    "tn": "threadName", "s": "success", "by": "bytes", "sby": "sentBytes", "lt": "Latency",
}  # fmt: skip
#: What is read of a sample of XML.
_COLUMNS = (*_ATTRIBUTES.values(), "failureMessage")
_NON_HTTP = "Non HTTP response "
#: How a Transaction Controller words its sample.
#: Times of a sample and of its parts were rounded to ms, each on its own.
_MS = _ROUNDED = UNITS["ms"]
_TRANSACTION = re.compile(r"Number of samples in transaction : (\d+)")
_EXPECTED = "a JMeter sample with timeStamp and elapsed in ms"
_NOTES = ("JMeter starts a sample when its thread is free: when it was due is not in the file",)


def is_csv(head: Head) -> bool:
    """The two columns every JTL has, or a first line that fits the default columns."""
    return head.has(_NEEDED) or _headless(head) is not None


def is_xml(head: Head) -> bool:
    """The root element of a JTL."""
    return "<testResults" in head.text[:4000]


def _headless(head: Head) -> tuple[str, ...] | None:
    """The default columns a first line without names fits."""
    first = head.cells()
    for columns in _DEFAULTS:
        if len(first) == len(columns) and first[0].isdigit() and len(first[0]) == 13 and first[1].isdigit():
            return columns
    return None


#: Label, begin, end (ns), and whether it is a transaction: what the samples after one are held against.
_Sample = tuple[str, int, int, bool]


def _holds(sample: _Sample, label: str, started: int, ended: int) -> bool:
    """Whether a sample is a part of the one before it in its thread; each was rounded on its own."""
    name, begin, end, is_transaction = sample
    if started < begin - _ROUNDED or ended > end + _ROUNDED:
        return False
    stem, _, number = label.rpartition("-")
    if number.isdigit() and (stem == name or stem.startswith(f"{name}-")):
        return True
    return started + _ROUNDED < end and (is_transaction or ("://" in label and label != name))


class _Reader:
    """A sample's values by their column names, whatever they were written in."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.zone_unknown = False
        self.transactions = self.standing = self.parts = 0
        self._latest: dict[str, _Sample] = {}  # the one before, by thread
        rows.steps.units["took"] = UNITS["ms"]

    def read(self, batch: Batch) -> None:
        """Some samples; Wrong, or another ValueError, where one cannot be: then none of them is taken."""
        took_ms, wait_ms = batch.numbers("elapsed"), batch.numbers("Latency").fill_null(0)
        if took_ms.null_count:
            raise ValueError("no elapsed")
        if pc.min(took_ms).as_py() < 0:
            raise Wrong(f"elapsed {took_ms[0]}", "0 ms or more")
        started = self._instants(batch, int(pc.max(took_ms).as_py()))
        sizes = {"bytes_sent": batch.numbers("sentBytes"), "bytes_received": batch.numbers("bytes")}
        outcomes = _outcomes(batch)
        # from here on nothing is wrong
        names, took = self.rows.names, took_ms.to_numpy() * _MS
        done, waited = started + took, np.clip(wait_ms.to_numpy(), 0, took // _MS) * _MS
        for url in pc.unique(pc.replace_substring_regex(batch.column("URL"), _ORIGIN, r"\1")).to_pylist():
            if url not in _NO_URL:
                names.saw(url)
        unanswered = outcomes["status"].is_null().to_numpy(zero_copy_only=False) | (waited <= 0)
        columns = sizes | outcomes | {
            "planned": started, "started": started, "done": done,
            "first_byte": pa.array(started + waited, mask=unanswered),
            "operation": batch.mapped("label", lambda label: names.of(label or "unnamed"), pa.string()),
            "user": batch.mapped("threadName", self.rows.user, pa.int64()),
        }  # fmt: skip
        self.rows.add_columns(columns, self._kept(batch, started, done))

    def _instants(self, batch: Batch, longest_ms: int) -> np.ndarray:
        """When samples began, Unix ns; Wrong where one cannot have begun then."""
        texts = batch.column("timeStamp")
        try:
            at, unit = batch.numbers("timeStamp"), _MS
        except (ValueError, OverflowError):
            at, unit = pa.array(map(unix_ns, texts.to_pylist()), pa.int64()), 1
            self.zone_unknown = self.zone_unknown or not all(map(has_zone, texts.to_pylist()))
        if at.null_count:
            raise ValueError("no timeStamp")
        ends = pc.min_max(at).as_py()
        self.rows.refuse(ends["min"] * unit, ends["max"] * unit, longest_ms * _MS)
        return np.asarray(at.to_numpy() * unit)

    def _kept(self, batch: Batch, started: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Which samples are rows of their own."""
        messages, urls = batch.column("responseMessage"), batch.column("URL").to_pylist()
        transactions: Iterable[re.Match[str] | None] = repeat(None)
        if pc.any(pc.starts_with(messages, "Number of samples in")).as_py():
            transactions = [
                _TRANSACTION.match(message) if url in _NO_URL else None
                for message, url in zip(messages.to_pylist(), urls, strict=True)
            ]
        threads, labels = batch.column("threadName").to_pylist(), batch.column("label").to_pylist()
        latest, kept = self._latest, np.ones(len(batch), bool)
        samples = zip(threads, labels, started.tolist(), done.tolist(), transactions)  # noqa: B905 - endless
        for at, (thread, label, begin, end, transaction) in enumerate(samples):
            before = latest.get(thread)
            if before is not None and transaction is None and begin >= before[2] + _ROUNDED:
                latest[thread] = label, begin, end, False  # as nearly all are
            else:
                kept[at] = not self._is_part(thread, label, begin, end, transaction)
        return kept

    def _is_part(
        self, thread: str, label: str, started: int, ended: int, transaction: re.Match[str] | None
    ) -> bool:
        """Whether a sample is none of its own.

        It is part of the one before in its thread when it lies within that one, and is called like it with a
        number, or by its URL, or that one is a transaction. A transaction that comes after its requests is
        none itself; one that comes before them, or without them, stands for them.
        """
        before = self._latest.get(thread or label.rpartition("-")[0])
        if before is not None and _holds(before, label, started, ended):
            self.parts += 1
            return True
        if transaction is not None and int(transaction[1]) and before and before[1] >= started:
            self.transactions += 1
            return True
        self.standing += transaction is not None
        key = thread or label
        if len(self._latest) < MOST_USERS or key in self._latest:
            self._latest[key] = label, started, ended, transaction is not None
        return False

    def facts(self, *notes: str) -> Facts:
        """What there is to say when the file has ended."""
        if self.zone_unknown:
            notes = (*notes, "its times have no zone and were taken as UTC")
        if self.transactions:
            told = "samples of Transaction Controllers are left out: their requests stand beside them"
            notes = (*notes, f"{self.transactions:,} {told}")
        if self.standing:
            notes = (*notes, f"{self.standing:,} rows are transactions of one or more requests each")
        if self.parts:
            notes = (*notes, f"{self.parts:,} samples inside others are parts of them and no rows")
        step = UNITS["ms"]
        return Facts("JMeter", rounded_ns=(step, step), notes=(*_NOTES, *notes))


def _outcomes(batch: Batch) -> dict[str, pa.Array]:
    """Status, class of the failure and its words of each sample: made once for each kind that there is."""
    coded = [batch.column(name).dictionary_encode() for name in _TOLD]
    kind = np.zeros(len(batch), np.int64)
    for one in coded:  # at most a batch's size each: their product stays below 2^63
        kind = kind * len(one.dictionary) + one.indices.to_numpy()
        kind = np.unique(kind, return_inverse=True)[1]
    _, first, kind_of = np.unique(kind, return_index=True, return_inverse=True)
    texts = [one.dictionary.take(one.indices.take(pa.array(first))).to_pylist() for one in coded]
    told = [_outcome(*(text[:LONGEST_TEXT] for text in one)) for one in zip(*texts, strict=True)]
    columns = zip(*told, strict=True)
    types = {"status": pa.int16(), "error": pa.string(), "error_text": pa.string()}
    return {name: pa.array(column, kind).take(pa.array(kind_of))
            for (name, kind), column in zip(types.items(), columns, strict=True)}  # fmt: skip


def _outcome(
    code: str, success: str, message: str, failure: str
) -> tuple[int | None, str | None, str | None]:
    """Status, class of the failure and its words; Wrong where it neither succeeded nor failed."""
    status = int(code) if len(code) == 3 and code.isdigit() and code.isascii() else None
    status = status if status and 100 <= status <= 599 else None
    if (success := success.lower() or "true") not in ("true", "false"):
        raise Wrong(f"success {short(success)}", "true or false")
    message = message.removeprefix(f"{_NON_HTTP}message: ")
    words = failure if status and status < 400 else " ".join(
        part for part in (code.removeprefix(f"{_NON_HTTP}code: ") if not status else "", message) if part
    )  # fmt: skip
    error = None if success == "true" else error_class(status, words, failed=True)
    if error and status is None and code.isdigit():  # an answer, of another protocol
        error = "check"
    return status, error, clean(words or f"code {code}") if error else None


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as CSV."""
    reader, columns = _Reader(source, rows), asked.names
    notes = ["it has no header; the columns given were taken"] if columns else []
    if not columns and (columns := _headless(Head(source.head)) or ()):
        notes = ["it has no header; JMeter's default columns were taken"]
    for batch in batches(source, () if columns else _NEEDED, columns):
        batch.take(source, reader.read, _EXPECTED)
    return reader.facts(*notes)


# -- XML -------------------------------------------------------------------------------------------


class _Xml:
    """A parser that knows samples by their depth; a document type, and so any entity, is refused."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self._depth = 0
        self._sample: dict[str, str] | None = None
        self._failure: str | None = None
        self._text: list[str] | None = None
        self._rows: list[list[str]] = []
        self._places: list[tuple[int, int]] = []
        self._fed = self._elements = 0
        self._names: dict[str, str] = {}  # of elements and attributes: the parser keeps each for ever
        encoding = "utf-8" if reader.source.encoding else None
        self.parser = expat.ParserCreate(encoding, intern=self._names)
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

    def flush(self) -> None:
        """Have the samples read that there are."""
        batch = Batch(_COLUMNS, self._rows, self._places)
        self._rows, self._places = [], []
        batch.take(self.reader.source, self.reader.read, _EXPECTED)

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
            self.reader.parts += 1
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
                told = self._sample | ({"failureMessage": self._failure} if self._failure else {})
                self._rows.append([told.get(name, "") for name in _COLUMNS])
                self._places.append((self.reader.source.line, 0))
                if len(self._rows) >= BATCH:
                    self.flush()
            else:
                self.reader.source.bad("a sample without ts or t", "both")
            self._sample, self._elements = None, 0
        self._depth -= 1


def read_xml(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as XML, read a block at a time; one that ends too early is broken at its end."""
    reader = _Reader(source, rows)
    xml = _Xml(reader)
    try:
        for block in _allowed(source.blocks()):
            xml.feed(block)
        xml.parser.Parse(b"", True)
    except (LookupError, ValueError) as error:  # an encoding that Python or the parser does not have
        raise BadInput(f"{source.path}: {error}; a JTL is UTF-8") from None
    except expat.ExpatError as error:
        xml.flush()
        source.line = error.lineno
        source.bad(f"broken XML ({expat.ErrorString(error.code)})", "a whole JTL")
    xml.flush()
    return reader.facts()


#: Control characters, which JMeter writes as they come and XML does not have.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|&#(?:x[0-9a-fA-F]{1,8}|[0-9]{1,8});")
_LONGEST_REFERENCE = 12


def _allowed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """XML without the characters that it must not have: each is a question mark."""
    rest = b""
    for block in blocks:
        block = rest + block
        cut = block.rfind(b"&", -_LONGEST_REFERENCE)
        if cut < 0 or b";" in block[cut:]:
            cut = len(block)
        yield _CONTROL.sub(_character, block[:cut])
        rest = block[cut:]
    yield _CONTROL.sub(_character, rest)


def _character(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if text[:1] != b"&":
        return b"?"
    number = int(text[3:-1], 16) if text[2:3] == b"x" else int(text[2:-1])
    fine = (
        number in (9, 10, 13)
        or 32 <= number < 0xD800
        or 0xE000 <= number < 0xFFFE
        or 1 << 16 <= number < 17 << 16
    )
    return text if fine else b"?"
