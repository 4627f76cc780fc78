"""JMeter's JTL as XML: samples by their depth, a block of the file at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.parsers import expat

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.jmeter import EXPECTED, NEEDED, Reader
from perfkit.importing.limits import DEEPEST, LONGEST_TAG, MB, MOST_BROKEN, MOST_COLUMNS
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.records import BATCH, Batch
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source

_ATTRIBUTES = {
    "ts": "timeStamp", "t": "elapsed", "lb": "label", "rc": "responseCode", "rm": "responseMessage",
    "tn": "threadName", "s": "success", "by": "bytes", "sby": "sentBytes", "lt": "Latency",
    "sc": "SampleCount", "ec": "ErrorCount", "hn": "Hostname",
}  # fmt: skip
#: What is read of a sample of XML.
_COLUMNS = (*_ATTRIBUTES.values(), "failureMessage")


def is_xml(head: Head) -> bool:
    """The root element of a JTL."""
    return "<testResults" in head.text[:4000]


class _Xml:
    """A parser that knows samples by their depth; a document type, and so any entity, is refused."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._source = reader, reader.source
        self._depth = 0
        self._sample: dict[str, str] | None = None
        self._failure: str | None = None
        self._text: list[str] | None = None
        self._rows: list[list[str]] = []
        self._places: list[tuple[int, int]] = []
        self._fed = self._elements = self._size = 0
        self._names: dict[str, str] = {}  # of elements and attributes: the parser keeps each for ever
        encoding = "utf-8" if self._source.encoding else None
        self.parser = expat.ParserCreate(encoding, intern=self._names)
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, block: bytes) -> None:
        """Parse the next bytes; BadInput for what would make the parser's memory grow with the file."""
        self.parser.Parse(block, False)
        self._fed += len(block)
        path = self._source.path
        if self._fed - max(self.parser.CurrentByteIndex, 0) > LONGEST_TAG + len(block):
            line = f"line {self.parser.CurrentLineNumber:,}"
            raise BadInput(f"{path}: {line} begins a tag or comment of more than {LONGEST_TAG // MB} MB")
        if len(self._names) > MOST_COLUMNS:
            many = f"more than {MOST_COLUMNS:,} names of elements and attributes"
            raise BadInput(f"{path} has {many}; a JTL has 50")

    def flush(self) -> None:
        """Have the samples read that there are."""
        batch = Batch(_COLUMNS, self._rows, self._places)
        self._rows, self._places, self._size = [], [], 0
        batch.take(self._source, self._reader.read, EXPECTED)

    def _doctype(self, *_: Any) -> None:
        raise BadInput(f"{self._source.path} declares a document type, which no JTL has; it was not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise BadInput(f"{self._source.path} has elements more than {DEEPEST} deep in others")
        self._elements += 1
        if self._elements > MOST_BROKEN:
            raise BadInput(f"{self._source.path}: {MOST_BROKEN:,} elements and no sample among them")
        is_sample = name in ("httpSample", "sample")
        if self._depth == 2 and is_sample:
            self._sample = {name: attributes[key] for key, name in _ATTRIBUTES.items() if key in attributes}
            self._failure = None
        elif is_sample:
            self._reader.parts += 1
        self._text = [] if name == "failureMessage" else None
        self.parser.CharacterDataHandler = None if self._text is None else self._data

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text[:1000])
            if len(self._text) >= 100:  # the rest costs nothing: nobody looks at it
                self.parser.CharacterDataHandler = None

    def _end(self, name: str) -> None:
        self._source.line = self.parser.CurrentLineNumber
        if name == "failureMessage" and self._text:
            self._failure = self._failure or "".join(self._text)
        self._text = None
        if self._depth == 2 and self._sample is not None:
            if set(NEEDED) <= self._sample.keys():
                self._sample["failureMessage"] = self._failure or ""
                self._rows.append([self._sample.get(name, "") for name in _COLUMNS])
                self._places.append((self._source.line, 0))
                self._size += sum(map(len, self._rows[-1]))
                if len(self._rows) >= BATCH or self._size > LONGEST_TAG:
                    self.flush()
            else:
                self._source.bad("a sample without ts or t", "both")
            self._sample, self._elements = None, 0
        self._depth -= 1


def read_xml(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A JTL as XML, read a block at a time; one that ends too early is broken at its end."""
    reader = Reader(source, rows)
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
        several = error.code == expat.errors.codes[expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT]
        words = "another document" if several else f"broken XML ({expat.ErrorString(error.code)})"
        source.bad(words, "a JTL alone; split the file" if several else "a whole JTL")
    xml.flush()
    return reader.facts()


#: Control characters, which JMeter writes as they come and XML does not have.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|&#(?:x[0-9a-fA-F]{1,8}|[0-9]{1,8});")
_LONGEST_REFERENCE = 12
_CHARACTERS = (
    range(9, 11),
    range(13, 14),
    range(32, 0xD800),
    range(0xE000, 0xFFFE),
    range(1 << 16, 17 << 16),
)


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
    return text if any(number in one for one in _CHARACTERS) else b"?"
