"""The thread that turns row batches into segment files, and counts them for those who watch the run."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from perfkit.drive.rows import Batch, to_table
from perfkit.drive.tally import Status, Tally
from perfkit.store import write_segment

#: Rows are handed over this often; with the time a flush takes, a killed run loses less than a second.
FLUSH_S = 0.8
#: So often are rows tried at the end that could not be written before.
_TRIES = 5
_NO_ROWS = Batch(bytearray(), {}, ())


class SegmentWriter:
    """Writes one worker's segments. `put` never blocks; a failure is kept in `error`.

    When a segment cannot be written `on_error` is called from the writer's thread, once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scenario: str,
        worker: int,
        name: str,
        id_prefix: str,
        origin_ns: int,
        member: int = 0,
        of: int = 1,
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        """member, of: see `to_table`."""
        self._folder, self._name = folder, name
        self._scenario, self._worker = scenario, worker
        self._member, self._of = member, of
        self._id_prefix, self._origin_ns = id_prefix, origin_ns
        self._on_error = on_error
        self._batches: queue.SimpleQueue[tuple[Batch, Status] | None] = queue.SimpleQueue()
        self._tally = Tally(folder, name, origin_ns)
        self._kept: list[Batch] = []  #: that have not been written yet
        self._closing = False
        self._number = 0
        self.error: Exception | None = None
        self.rows_written = 0
        self._thread = threading.Thread(target=self._work, name="perfkit-writer", daemon=True)
        self._thread.start()

    def put(self, batch: Batch, status: Status) -> None:
        """Hand over rows, which may be none, and how the worker is."""
        self._batches.put((batch, status))

    def close(self) -> None:
        """Write what was handed over and end the thread."""
        self._closing = True
        self._batches.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (handed := self._batches.get()) is not None:
            batch, status = handed
            if batch.packed:
                self._write(batch)
            self._tally.add(batch)
            self._tally.tell(status)
        for _ in range(_TRIES):
            if not self._kept:
                return
            self._write(_NO_ROWS)
            time.sleep(0.1)

    def _write(self, batch: Batch) -> None:
        self._kept.append(batch)
        try:
            table = pa.concat_tables([self._table(one) for one in self._kept], promote_options="permissive")
            write_segment(self._folder, f"{self._name}-{self._number:06}", table)
        except Exception as error:  # whatever it is, the rows are kept, and it is told
            if _no_descriptor(error) and not self._closing:
                return  # the load has taken every descriptor, and gives them back when it ends
            first, self.error = self.error is None, error
            if first:
                self._on_error()
        else:
            self._number += 1
            self.rows_written += len(table)
            self._kept = []  # else the disk may have room again at the next flush
            if _no_descriptor(self.error):
                self.error = None

    def _table(self, batch: Batch) -> pa.Table:
        return to_table(
            batch,
            scenario=self._scenario,
            worker=self._worker,
            id_prefix=self._id_prefix,
            origin_ns=self._origin_ns,
            member=self._member,
            of=self._of,
        )


def _no_descriptor(error: Exception | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def monotonic_unix_ns() -> tuple[int, int]:
    """The monotonic and the Unix clock read together, the closest of five tries."""
    tries = []
    for _ in range(5):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, unix))
    _, monotonic, unix = min(tries)
    return monotonic, unix
