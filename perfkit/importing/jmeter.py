"""JMeter: a JTL as CSV (with its header, or in the default columns without) and as XML.

timeStamp is when a sample started and elapsed how long it took, in ms, or both to the step of the format the
timestamp was written in. Samples inside a sample (redirects, what a page embeds, the requests of a
transaction that stands for them) are parts of it, no rows: XML has them inside, CSV in the lines after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_TEXT, MOST_USERS
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import Batch, batches, mapped
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source, short
from perfkit.importing.times import UNITS, has_zone, unix_ns, whole
from perfkit.importing.words import clean, error_class

_NO_URL = ("", "null")
_NONE = repeat(None)
_AND = "\x1e"  # between a label and the origin of its URL
_ORIGIN = r"^([^/]*//[^/]*).*$"  # scheme and host of a URL: of a million URLs the same
#: What JMeter writes without a header: its default columns up to 2.13, and since 3.0.
_SHARED = ("timeStamp", "elapsed", "label", "responseCode", "responseMessage", "threadName", "dataType",
           "success")  # fmt: skip
_DEFAULTS = (
    (*_SHARED, "bytes", "grpThreads", "allThreads", "Latency"),
    (*_SHARED, "failureMessage", "bytes", "sentBytes", "grpThreads", "allThreads", "URL", "Latency",
     "IdleTime", "Connect"),
)  # fmt: skip
#: How a sample ended, by these columns.
_TOLD = ("responseCode", "success", "responseMessage", "failureMessage")
NEEDED = ("timeStamp", "elapsed")
_NON_HTTP = "Non HTTP response "
#: A sample's times; those of its parts are rounded to it too, each on its own.
_MS = UNITS["ms"]
#: How a Transaction Controller words its sample.
_TRANSACTION = re.compile(r"Number of samples in transaction : (\d+)")
EXPECTED = "a JMeter sample with timeStamp and elapsed in ms"
_DATES = "ms since 1970, or a date such as 2026-01-31 12:00:00.000"
_NOTES = ("JMeter starts a sample when its thread is free; the file has no planned times",)
#: What is said of samples that were skipped, or are rows though they are no requests.
_COUNTED = (
    "samples of Transaction Controllers are skipped; their requests are in the file",
    "rows are transactions of one or more requests each",
    "transactions; it has no threadName: transactions are rows, and so are their requests, if they are in it",
    "samples are parts of other samples and were skipped",
)


def is_csv(head: Head) -> bool:
    """The two columns every JTL has, or a first line that fits the default columns."""
    return head.has(NEEDED) or _headless(head) is not None


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
    if started < begin - _MS or started >= end or ended > end + _MS:
        return False  # one that begins when it is over is the next one
    stem, _, number = label.rpartition("-")
    if number.isdigit() and (stem == name or stem.startswith(f"{name}-")):
        return True
    return started + _MS < end and (is_transaction or ("://" in label and label != name))


class Reader:
    """A sample's values by their column names, whatever they were written in."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.zone_unknown = False
        self.transactions = self.standing = self.parts = self.unthreaded = 0
        self._latest: dict[str, _Sample] = {}  # the one before, by thread
        rows.steps.units["took"] = UNITS["ms"]

    def read(self, batch: Batch) -> None:
        """Some samples; Wrong, or another ValueError, where one cannot be: then none of them is taken."""
        for name in ("SampleCount", "ErrorCount"):
            counts = batch.numbers(name).fill_null(0)
            batch.refuse(pc.greater(counts, 1), partial(_several, name, counts))
        took_ms, wait_ms = batch.numbers("elapsed"), batch.numbers("Latency").fill_null(0)
        batch.refuse(took_ms.is_null(), lambda _: ValueError("no elapsed"))
        batch.refuse(pc.less(took_ms, 0), lambda i: Wrong(f"elapsed {took_ms[i]}", "0 ms or more"))
        started = self._instants(batch, int(pc.max(took_ms).as_py()))
        told = {"bytes_sent": batch.numbers("sentBytes"), "bytes_received": batch.numbers("bytes")}
        sizes = {name: pc.if_else(pc.less(size, 0), None, size) for name, size in told.items()}
        outcomes = _outcomes(batch)
        # from here on nothing is wrong
        names, took = self.rows.names, took_ms.to_numpy() * _MS
        done, waited = started + took, np.clip(wait_ms.to_numpy(), 0, took // _MS) * _MS
        origins = pc.replace_substring_regex(batch.column("URL"), _ORIGIN, r"\1")
        for url in pc.unique(origins).to_pylist():
            if url not in _NO_URL:
                names.saw(url)
        labels = batch.column("label")
        places = batch.column("URL") if self.rows.keeps_requests else origins
        of_url = pc.match_substring(places, "://")
        if not self.rows.keeps_requests:
            of_url = pc.and_(pc.starts_with(labels, "/"), of_url)
        labels = pc.if_else(of_url, pc.binary_join_element_wise(labels, places, _AND), labels)
        unanswered = outcomes["status"].is_null().to_numpy(zero_copy_only=False) | (waited <= 0)
        columns = sizes | outcomes | {
            "planned": started, "started": started, "done": done,
            "first_byte": pa.array(started + waited, mask=unanswered),
            "operation": mapped(labels, self._named, pa.string()),
            "user": mapped(batch.column("threadName"), self.rows.user, pa.int64()),
        }  # fmt: skip
        self.rows.add_columns(columns, self._kept(batch, started, done))

    def _named(self, text: str) -> str:
        """The name of a label, maybe with the origin of its URL."""
        label, _, origin = text.partition(_AND)
        return self.rows.names.of(label or "unnamed", url=origin)

    def _instants(self, batch: Batch, longest_ms: int) -> np.ndarray:
        """When samples began, Unix ns; Wrong where one cannot have begun then."""
        texts = batch.column("timeStamp")
        at, unit = batch.cast("timeStamp"), _MS
        if at is None:
            at, unit = batch.made("timeStamp", _instant, _DATES), 1
            dates = (text for text in texts.to_pylist() if not text.strip().isdigit())
            self.zone_unknown = self.zone_unknown or not all(map(has_zone, dates))
        batch.refuse(at.is_null(), lambda _: ValueError("no timeStamp"))
        ends = pc.min_max(at).as_py()
        self.rows.refuse(ends["min"] * unit, ends["max"] * unit, longest_ms * _MS)
        return np.asarray(at.to_numpy() * unit)

    def _kept(self, batch: Batch, started: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Which samples are rows of their own."""
        messages, urls = batch.column("responseMessage"), batch.column("URL").to_pylist()
        transactions: Iterable[re.Match[str] | None] = _NONE
        if pc.any(pc.starts_with(messages, "Number of samples in")).as_py():
            transactions = [
                _TRANSACTION.match(message) if url in _NO_URL else None
                for message, url in zip(messages.to_pylist(), urls, strict=True)
            ]
        threads, labels = batch.column("threadName").to_pylist(), batch.column("label").to_pylist()
        if "threadName" not in batch.names or not any(threads):  # then nobody knows what was inside what
            if transactions is not _NONE:
                self.unthreaded += sum(one is not None for one in transactions)
            return np.ones(len(batch), bool)
        if "Hostname" in batch.names:  # hosts may have threads of the same name
            hosts = batch.column("Hostname").to_pylist()
            threads = [f"{host} {one}" for host, one in zip(hosts, threads, strict=True)]
        latest, kept = self._latest, np.ones(len(batch), bool)
        samples = zip(threads, labels, started.tolist(), done.tolist(), transactions)  # noqa: B905 - endless
        for at, (thread, label, begin, end, transaction) in enumerate(samples):
            before = latest.get(thread)
            if before is not None and transaction is None and begin >= before[2] + _MS:
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
        before = self._latest.get(thread)
        if before is not None and _holds(before, label, started, ended):
            self.parts += 1
            return True
        if transaction is not None and int(transaction[1]) and before and before[1] >= started:
            self.transactions += 1
            return True
        self.standing += transaction is not None
        if len(self._latest) < MOST_USERS or thread in self._latest:
            self._latest[thread] = label, started, ended, transaction is not None
        return False

    def facts(self, *notes: str) -> Facts:
        """What there is to say when the file has ended."""
        if self.zone_unknown:
            notes = (*notes, "its times have no zone and were taken as UTC")
        counted = zip((self.transactions, self.standing, self.unthreaded, self.parts), _COUNTED, strict=True)
        notes = (*_NOTES, *notes, *(f"{n:,} {words}" for n, words in counted if n))
        return Facts("JMeter", rounded_ns=(_MS, _MS), notes=notes)


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


def _instant(text: str) -> int | None:
    """Unix ns of ms since 1970, or of a date."""
    if not text.strip():
        return None
    try:
        return whole(text) * _MS
    except ValueError:
        return unix_ns(text)


def _several(name: str, counts: pa.Array, place: int) -> Wrong:
    found = f"{name} {counts[place]}: a line that stands for several samples, as in mode=Statistical"
    return Wrong(found, "a sample a line (mode=Standard or Batch)")


def read_csv(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as CSV."""
    reader, columns = Reader(source, rows), asked.names
    notes = ["the given columns were used"] if columns else []
    if not columns and (columns := _headless(Head(source.head)) or ()):
        notes = ["it has no header; JMeter's default columns were assumed"]
    for batch in batches(source, NEEDED, columns):
        batch.take(source, reader.read, EXPECTED)
    return reader.facts(*notes)
