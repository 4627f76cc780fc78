"""A shard's files on their way into the run's folder: segments, counts and journals, in hashed chunks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from perfkit.drive.shards.channel import Lost, Message
from perfkit.store import replacing

#: So often segments travel, and the counts for those who watch.
_FETCH_S = 10.0
_COUNTS_S = 1.0
_CHUNK = 256 * 1024
_LARGEST = 2**30
#: So often is a last file tried that cannot be read.
_TRIES = 25
_LAST_LOOK_S = 0.05
_NAME = re.compile(r"w(\d+)-\d{6,}\.parquet|w(\d+)\.live|undo-w(\d+)\.jsonl").fullmatch


class Sender:
    """Sends what a shard writes to a folder of its own; segments are removed once they have arrived.

    Of a journal, which only grows, it sends what has been appended.
    """

    def __init__(self, folder: Path, send: Callable[[str, dict[str, Any], bytes], None]) -> None:
        self._folder, self._send = folder, send
        self._known: dict[Path, int] = {}
        self._journaled: dict[str, int] = {}  #: how many bytes of each have been sent
        self._arrived = threading.Condition()
        self._under_way: dict[str, Path] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="perfkit-fetch", daemon=True)
        self._thread.start()

    def kept(self, name: str) -> None:
        """A file has arrived, whole."""
        with self._arrived:
            file = self._under_way.pop(name, None)
            if file is not None and name.endswith(".parquet"):
                file.unlink(missing_ok=True)
            self._arrived.notify_all()

    def finish(self, is_cut: Callable[[], bool]) -> None:
        """Send the rest and wait until all of it has arrived, or the connection is cut."""
        self._over.set()
        self._thread.join()
        tries = _TRIES
        while not is_cut():
            try:
                if self._all("segments/*.live", "segments/*.parquet", "undo-*.jsonl"):
                    return
            except OSError:
                tries -= 1
                if not tries:
                    raise
            with self._arrived:
                self._arrived.wait(_LAST_LOOK_S)

    def _work(self) -> None:
        fetch = time.monotonic() + _FETCH_S
        with contextlib.suppress(Lost):  # the link knows, too
            while not self._over.wait(_COUNTS_S):
                with contextlib.suppress(OSError):  # no descriptor is free, say: the next turn will do
                    self._all("segments/*.live", "undo-*.jsonl")
                    if time.monotonic() >= fetch:
                        self._all("segments/*.parquet")
                        fetch += _FETCH_S

    def _all(self, *patterns: str) -> bool:
        """Send what is new; returns whether nothing was, and all has arrived."""
        nothing = True
        for file in (file for pattern in patterns for file in sorted(self._folder.glob(pattern))):
            if file.name.startswith("."):
                continue
            if file.name in self._under_way:
                nothing = False
                continue
            with contextlib.suppress(FileNotFoundError):  # it has arrived since it was listed
                changed = file.stat().st_mtime_ns
                if self._known.get(file) != changed:
                    nothing = False
                    self._one(file)
                    self._known[file] = changed
        return nothing

    def _one(self, file: Path) -> None:
        begin = self._journaled.get(file.name, 0)
        with file.open("rb") as opened:
            opened.seek(begin)
            content = opened.read()
        if file.name.startswith("undo-"):
            self._journaled[file.name] = begin + len(content)
        with self._arrived:
            self._under_way[file.name] = file
        facts = {"name": file.name, "begin": begin, "size": len(content),
                 "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
        for at in range(0, max(len(content), 1), _CHUNK):
            self._send("file", {**facts, "at": at}, content[at : at + _CHUNK])


class Receiver:
    """Puts a shard's files into the run's folder; none but its own, and none that is not whole."""

    def __init__(self, folder: Path, shard: int, processes: int) -> None:
        self._folder, self._shard, self._processes = folder, shard, processes
        self._parts: dict[str, bytearray] = {}
        self.bytes = self.rows = 0

    def take(self, message: Message) -> str | None:
        """Add a chunk; the file's name once it is there, whole. Lost for what no shard of ours would send."""
        name, begin, at, size = (message.given.get(one) for one in ("name", "begin", "at", "size"))
        found = _NAME(name) if isinstance(name, str) else None
        if found is None or int(next(filter(None, found.groups()))) % self._processes != self._shard:
            raise Lost(f"it sent a file that is not its own ({name!r:.60})")
        part = self._parts.setdefault(found[0], bytearray())
        if at == 0:
            part.clear()
        if (
            len(part) != at
            or not isinstance(size, int)
            or not len(part) + len(message.body) <= size <= _LARGEST
        ):
            raise Lost(f"chunks of {found[0]} came in the wrong order")
        part += message.body
        self.bytes += len(message.body)
        if len(part) < size:
            return None
        if hashlib.sha256(part).hexdigest() != message.given.get("sha256"):
            raise Lost(f"{found[0]} was damaged on the way")
        if found[0].startswith("undo-"):
            self._append(found[0], begin, part)
        else:
            with replacing(self._folder / "segments" / found[0]) as new:
                new.write_bytes(part)
        if found[0].endswith(".parquet"):
            self.rows += pq.read_metadata(io.BytesIO(part)).num_rows
        del self._parts[found[0]]
        return found[0]

    def _append(self, name: str, begin: object, part: bytearray) -> None:
        """Add to a journal what was appended to it there."""
        fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "ab") as file:
            if file.tell() != begin or file.tell() + len(part) > _LARGEST:
                raise Lost(f"pieces of {name} came in the wrong order, or are too many")
            file.write(part)
