"""A file whose bytes are counted as they are read and unpacked: none can go on without making requests."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from perfkit.errors import BadInput
from perfkit.importing.limits import MB, MOST_RATIO, UNPACKED_FREELY, WITHOUT_A_REQUEST

#: What a gzip that is no whole one raises.
DAMAGED = (OSError, EOFError, zlib.error)
#: What is read at once.
BLOCK = 256 * 1024


class Meter:
    """Counts the bytes of a file, as they are when unpacked. BadInput beyond the limits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows_so_far: Callable[[], int] = lambda: 0  #: set by who makes rows of the file
        self.spent = 0  #: bytes so far
        self._at_last_row = self._rows = 0

    def open(self, *, packed: bool, encoding: str = "") -> IO[bytes]:
        """The file, unpacked if it is a gzip, counted on the way; text of another encoding as UTF-8."""
        raw = gzip.GzipFile(self._path) if packed else open(self._path, "rb", buffering=0)  # noqa: SIM115
        counted = io.BufferedReader(_Counted(raw, self.spend), BLOCK)
        return io.BufferedReader(_Recoded(counted, encoding), BLOCK) if encoding else counted

    def spend(self, size: int) -> None:
        """Count bytes that were read or unpacked."""
        self.spent += size
        if self.spent > UNPACKED_FREELY and self.spent > MOST_RATIO * os.stat(self._path).st_size:
            much = f"{MOST_RATIO} times its size ({self.spent / MB:,.0f} MB so far)"
            raise BadInput(f"{self._path} unpacks to more than {much}, as a compression bomb does; "
                           "unpack it first to import it anyway")  # fmt: skip
        rows = self.rows_so_far()
        if rows != self._rows:
            self._rows, self._at_last_row = rows, self.spent
        if self.spent - self._at_last_row > WITHOUT_A_REQUEST:
            after = f"after its first {rows:,}" if rows else "at its beginning"
            much = f"{WITHOUT_A_REQUEST // MB} MB {after}"
            raise BadInput(f"{self._path}: no request in {much}; nothing was imported")


class Lines:
    """The lines of a file, of which the next ones may be looked at before they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._held = file, io.BytesIO()
        self._damage: Exception | None = None  # comes after what is held

    def readline(self, most: int) -> bytes:
        """The next one, or so much of it; empty at the end."""
        line = self._held.readline(most)
        if line.endswith(b"\n") or len(line) == most:
            return line
        if self._damage:
            raise self._damage
        return line + self._file.readline(most - len(line))

    def ahead(self) -> bytes:
        """The next ones, as many as are in memory, or a block has; empty where one is longer."""
        held = self._held.read()
        if b"\n" not in held and not self._damage:
            try:
                held += self._file.read1(BLOCK)  # type: ignore[attr-defined]
            except DAMAGED as error:
                self._damage = error
        self._held = io.BytesIO(held)
        return held[: held.rfind(b"\n") + 1]

    def passed(self, size: int) -> None:
        """So many bytes of those were read."""
        self._held.seek(size)


class _Wrapped(io.RawIOBase):
    """A file that is read through another one, which is closed with it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


class _Counted(_Wrapped):
    """A file that says how much was read of it."""

    def __init__(self, file: Any, spend: Callable[[int], None]) -> None:
        super().__init__(file)
        self._spend = spend

    def readinto(self, buffer: Any) -> int:
        """See io."""
        size = int(self._file.readinto(memoryview(buffer)[:BLOCK]))  # gzip would make all of it at once
        self._spend(size)
        return size


class _Recoded(_Wrapped):
    """A file of text in another encoding, read as UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file)
        self._rest, self._ended = b"", False
        self._cr = encoding.endswith("-cr")  # old Macs end a line so
        self._errors = "surrogateescape" if self._cr else "replace"
        self._decoder = codecs.getincrementaldecoder(encoding.removesuffix("-cr"))(errors=self._errors)

    def readinto(self, buffer: Any) -> int:
        """See io."""
        while not self._rest and not self._ended:
            block = self._file.read(BLOCK)
            self._ended = not block
            text = self._decoder.decode(block, final=self._ended)
            self._rest = (text.replace("\r", "\n") if self._cr else text).encode(errors=self._errors)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
