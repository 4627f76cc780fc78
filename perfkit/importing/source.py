"""A file of another tool: opened, looked at, read line by line, and what of it was broken."""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.limits import LONGEST_LINE, LONGEST_TEXT, MB, MOST_BLANK, MOST_BROKEN
from perfkit.importing.metered import BLOCK, DAMAGED, Lines, Meter
from perfkit.importing.nouns import Wrong
from perfkit.importing.words import clean

_HEAD = 1024 * 1024
_TOLD = 3
_BOM = b"\xef\xbb\xbf"
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
T = TypeVar("T")


class Source:
    """A file opened for reading. BadInput, from the constructor on, for what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: list[str] = []  #: the first places that could not be read, in words
        self.broken_count = 0
        self.notes: list[str] = []  #: what a reader of the run must know of how the file was read
        self.line = 0  #: of the line read last, from 1; of a CSV's record its first
        self.more = 0  #: lines of the record read last beyond its first
        self.swallowed = 0  # lines that were lost with a broken place, being in its quotes
        self._western = 0  # lines that are no UTF-8
        self._is_utf8 = False  # a line was, with more than ASCII in it
        self._lines: Lines | None = None  # while they are read, and how many of them were
        self._number = 0
        self.meter = Meter(path)
        self._raw_head = self._looked_at()

    def _looked_at(self) -> bytes:
        if self.path.is_dir():
            raise BadInput(f"{self.path} is a folder; give a file that a tool wrote")
        if self.path.exists() and not self.path.is_file():
            raise BadInput(f"{self.path} is not a regular file; write its content to a file first")
        try:
            with open(self.path, "rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error.strerror}") from None
        if not head:
            raise BadInput(f"{self.path} is empty; nothing to import")
        return head

    @property
    def is_gzip(self) -> bool:
        """Whether its first bytes are those of gzip."""
        return self._raw_head[:2] == b"\x1f\x8b"

    @cached_property
    def head(self) -> bytes:
        """The first MB, unpacked, in UTF-8 where it is text, without a byte order mark."""
        head = self._begin()
        if self.encoding:
            head = head.decode(self.encoding, "replace").encode(errors="replace")
        head = _without_marks(head)
        return head if b"\n" in head else head.replace(b"\r", b"\n")

    @cached_property
    def encoding(self) -> str:
        """UTF-16 of one kind or the other, told by its mark or by where its zeros are; empty for all else."""
        head = self._begin()[:200]
        evens, odds = head[::2].count(0), head[1::2].count(0)
        if head[:2] in _UTF_16 or max(evens, odds) <= 0.4 * len(head) or min(evens, odds):
            return _UTF_16.get(head[:2], "")
        return "utf-16-be" if evens else "utf-16-le"

    @cached_property
    def _line_ends(self) -> str:
        """`utf-8-cr` where lines end as on old Macs."""
        begin = self._begin()
        return "utf-8-cr" if b"\r" in begin and b"\n" not in begin else ""

    def _begin(self) -> bytes:
        try:
            with self.meter.open(packed=self.is_gzip) as file:
                head = file.read(_HEAD)
        except DAMAGED as error:
            raise BadInput(f"{self.path}: its gzip is damaged ({error}); nothing was imported") from None
        if not head.strip():
            raise BadInput(f"{self.path} contains only whitespace; nothing to import")
        return head

    def refuse_binary(self) -> None:
        """BadInput for a binary file."""
        if b"\0" in self.head[:8192]:
            raise BadInput(f"{self.path} is binary, not text; for formats see `perfkit import --help`")

    def sha256(self) -> str:
        """Of the file as it lies there, packed or not."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self) -> int:
        """Bytes of the file as it lies there."""
        return os.stat(self.path).st_size

    # -- reading -----------------------------------------------------------------------------------

    def _open(self) -> IO[bytes]:
        return self.meter.open(packed=self.is_gzip, encoding=self.encoding or self._line_ends)

    def lines(self) -> Iterator[bytes]:
        """Every line that is not blank, without its end; one that is too long is broken and left out.

        `line` is its number. A gzip that ends too early is a broken place.
        """
        self._number = blank = 0
        with self._open() as file:
            self._lines = lines = Lines(file)
            try:
                while line := lines.readline(LONGEST_LINE):
                    self._number = number = self._number + 1
                    self.line, self.more = number, 0
                    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                        while (more := lines.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                            continue
                        self.bad(f"more than {LONGEST_LINE // MB} MB", "a line")
                        continue
                    if number == 1:
                        line = _without_marks(line)
                    if not line.isspace():
                        blank = 0
                        yield line.rstrip(b"\r\n")  # tabs and blanks at the end may be empty columns
                    elif (blank := blank + 1) > MOST_BLANK:
                        raise BadInput(f"{self.path}: more than {MOST_BLANK:,} blank lines from line "
                                       f"{number - MOST_BLANK:,} on; nothing was imported")  # fmt: skip
            except DAMAGED as error:
                self.bad(f"the gzip is damaged ({error})", "more of the file")

    def ahead(self) -> bytes:
        """The lines that come next, some kB of them; none before the first was read."""
        return self._lines.ahead() if self._lines else b""

    def passed(self, ahead: bytes, count: int) -> int:
        """These lines, so many, were read; the number of the first."""
        assert self._lines is not None
        self._lines.passed(len(ahead))
        self._is_utf8 = self._is_utf8 or not ahead.isascii()
        first = self._number + 1
        self.line = self._number = self._number + count
        return first

    def blocks(self) -> Iterator[bytes]:
        """All of the file, some kB at a time. A gzip that ends too early is a broken place."""
        with self._open() as file:
            try:
                while block := file.read(BLOCK):
                    yield block
            except DAMAGED as error:
                self.bad(f"the gzip is damaged ({error})", "more of the file")

    def texts(self) -> Iterator[str]:
        """The same as text. What is not UTF-8 is Windows-1252, in a file that has no line of UTF-8 proper."""
        for line in self.lines():
            if b"\0" in line:
                self.bad("zero bytes", "text")
                continue
            try:
                text = line.decode()
                self._is_utf8 = self._is_utf8 or not line.isascii()
            except UnicodeDecodeError:
                if self._is_utf8:
                    self.bad(f"{line[:40]!r} is not UTF-8", "text")
                    continue
                self._western += 1
                text = line.decode("cp1252", "replace")
            yield text

    def document(self, largest: int, hint: str) -> memoryview:
        """All of a file that is one document of up to `largest` bytes; BadInput, with a hint, for more."""
        try:
            with self._open() as file:
                whole = file.read(largest + 1)
        except DAMAGED as error:
            raise BadInput(f"{self.path}: its gzip is damaged ({error}); nothing was imported") from None
        if len(whole) > largest:
            raise BadInput(f"{self.path} is one JSON document of more than {largest // MB} MB; {hint}")
        return memoryview(self._as_utf8(whole))[3 if whole.startswith(_BOM) else 0 :]

    def _as_utf8(self, whole: bytes) -> bytes | bytearray:
        """A document that is no UTF-8 is Windows-1252."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for at in range(0, len(whole), MB):
                decoder.decode(whole[at : at + MB], final=at + MB >= len(whole))
        except UnicodeDecodeError:
            self._western += 1
            made = bytearray()  # part by part: the text of it all would take up to four times the bytes
            for at in range(0, len(whole), MB):
                made += whole[at : at + MB].decode("cp1252", "replace").encode()
            return made
        return whole

    def json(self, largest: int, hint: str) -> Any:
        """The one JSON value the file is; BadInput says where it is broken or too large."""
        try:
            return msgspec.json.decode(self.document(largest, hint))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            several = "several JSON values, not one; split it" if "trailing" in str(error) else ""
            words = several or f"broken JSON ({error})"
            raise BadInput(f"{self.path} is {words}; nothing was imported") from None

    # -- what is broken ----------------------------------------------------------------------------

    def each(self, items: Iterable[T], take: Callable[[T], None], expected: str, place: str = "") -> None:
        """Hand every item to `take`; what it cannot take, a ValueError, is a broken place.

        So is a record without a column: where names of columns are given, any may be missing.

        expected: what would be right where a value alone is wrong. place: what an item is, `entry`, where it
        is not a line.
        """
        for number, item in enumerate(items, 1):
            try:
                take(item)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                self.blame(error, item, expected, f"{place} {number:,}" if place else None)

    def blame(self, error: Exception, item: object, expected: str, place: str | None = None) -> None:
        """Note the place of an item that could not be taken, in the words of a Wrong, else by its value."""
        if isinstance(error, Wrong):
            self.bad(error.found, error.expected, place)
        else:
            self.bad(f"{_shown(item)}{_why(error)}", expected, place)

    def bad(self, found: str, expected: str, place: str | None = None) -> None:
        """Note a broken place; by default the line, or the record of a CSV, read last."""
        self.broken_count += 1
        if place is None and self.more:
            self.swallowed += self.more
            found, self.more = f"{found} (and {self.more:,} more lines in its quotes)", 0
        if len(self.broken) < _TOLD:
            found = clean(found) or "nothing"  # it is kept in the run, and may hold a secret
            self.broken.append(f"{place or f'line {self.line:,}'}: {found}, expected {expected}")
        if self.broken_count > MOST_BROKEN:
            raise BadInput(f"{self.path}: more than {MOST_BROKEN:,} broken places, nothing was imported: "
                           f"{self.told()}")  # fmt: skip

    def told(self) -> str:
        """The first broken places in words."""
        more = self.broken_count - len(self.broken)
        return "; ".join(self.broken) + (f"; and {more:,} more" if more else "")

    def all_notes(self) -> Iterator[str]:
        """What a reader of the run must know of how the file was read."""
        if self.swallowed:
            yield f"{self.swallowed:,} more lines inside quotes of broken places are skipped with them"
        if self._western:
            yield f"{self._western:,} lines are not UTF-8 and were read as Windows-1252 (Latin-1)"
        if self.encoding:
            yield f"it is {self.encoding.upper()}"
        yield from self.notes


def _without_marks(text: bytes) -> bytes:
    """Text without the byte order marks that it begins with."""
    while text.startswith(_BOM):
        text = text.removeprefix(_BOM)
    return text


def _shown(item: object) -> str:
    """An item as a message quotes it."""
    if isinstance(item, bytes):
        return short(item.decode(errors="replace"))
    if isinstance(item, dict):
        item = ",".join(map(str, item.values()))
    return short(item) if isinstance(item, str | tuple) else "what stands there"


def _why(error: Exception) -> str:
    """What a decoder says of it; other errors repeat the value."""
    return f" ({str(error)[:60]})" if isinstance(error, msgspec.DecodeError | RecursionError) else ""


def short(value: object) -> str:
    """A value as it may stand in a message."""
    text = value[:LONGEST_TEXT] if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
