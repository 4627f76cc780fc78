"""A shard's files on their way into the run's folder: segments, counts and journals, in hashed chunks."""

from __future__ import annotations

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
_NAME = re.compile(r"w(\d+)-\d{6}\.parquet|w(\d+)\.live|undo-w(\d+)\.jsonl").fullmatch


class Sender:
    """Sends what a shard writes to a folder of its own; segments are removed once they have arrived."""

    def __init__(self, folder: Path, send: Callable[[str, dict[str, Any], bytes], None]) -> None:
        self._folder, self._send = folder, send
        self._known: dict[Path, int] = {}
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
        self._all("segments/*.live", "segments/*.parquet", "undo-*.jsonl")
        with self._arrived:
            while self._under_way and not is_cut():
                self._arrived.wait(0.2)

    def _work(self) -> None:
        fetch = time.monotonic() + _FETCH_S
        try:
            while not self._over.wait(_COUNTS_S):
                self._all("segments/*.live", "undo-*.jsonl")
                if time.monotonic() >= fetch:
                    fetch += _FETCH_S
                    self._all("segments/*.parquet")
        except (Lost, OSError):
            return  # the link knows, too

    def _all(self, *patterns: str) -> None:
        for pattern in patterns:
            for file in sorted(self._folder.glob(pattern)):
                if file.name.startswith(".") or file.name in self._under_way:
                    continue
                changed = file.stat().st_mtime_ns
                if self._known.get(file) != changed:
                    self._known[file] = changed
                    self._one(file)

    def _one(self, file: Path) -> None:
        content = file.read_bytes()
        with self._arrived:
            self._under_way[file.name] = file
        facts = {"name": file.name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
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
        name, at, size = (message.given.get(one) for one in ("name", "at", "size"))
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
        is_journal = found[0].startswith("undo-")
        with replacing(
            self._folder / found[0] if is_journal else self._folder / "segments" / found[0]
        ) as new:
            if is_journal:
                os.chmod(new, 0o600)
            new.write_bytes(part)
        if found[0].endswith(".parquet"):
            self.rows += pq.read_metadata(io.BytesIO(part)).num_rows
        del self._parts[found[0]]
        return found[0]
