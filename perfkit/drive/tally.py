"""What each worker counts for those who watch the run: latencies in bins, failures by class, its own health.

Counted in the writer's thread, from rows it turns into a segment anyway, and handed over with them: a small
file per worker, replaced as a whole, with the counts since the load began. Who wants those of the last
seconds takes the difference of two of them. Nobody has to read rows while the load is on.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from perfkit.drive.rows import DTYPE, ERROR_CODE, NEVER, Batch
from perfkit.model import ERRORS
from perfkit.store import read_regular

#: Latencies are counted in bins of 1/32 octave from 1 us on, the last one open: within 1.1 % of the truth.
PER_OCTAVE = 32
BINS = 32 * PER_OCTAVE
#: So many whole seconds back it is kept how many requests ended in each.
SECONDS = 60
_CENSORED = [ERROR_CODE["timeout"], ERROR_CODE["cutoff"]]

Counts = npt.NDArray[np.int64]


class Status(NamedTuple):
    """A worker when it hands rows over: requests under way; of the time since it did so before, the share of
    a core it used, and by how many ms its event loop woke up late at most; steps that have raised, and the
    words of the most frequent mistake."""

    at_ns: int = 0
    in_flight: int = 0
    cpu_share: float = 0.0
    lag_ms: float = 0.0
    raised: int = 0
    mistake: str = ""


class Failures(msgspec.Struct):
    """Requests that failed in one class, and the first words heard, without secrets."""

    count: int = 0
    words: str = ""


class Snapshot(msgspec.Struct):
    """What a worker has counted until now; instants in ns since the run's start.

    censored: requests that timed out or were cut off. counts: successes by response time, from the bin
    `first_bin` on. ended: how many requests ended in each second from `first_second` on.
    """

    at_ns: int = 0
    in_flight: int = 0
    cpu_share: float = 0.0
    lag_ms: float = 0.0
    raised: int = 0  #: steps, unless a request of theirs had failed
    mistake: str = ""  #: the most frequent of theirs, without secrets
    rows: int = 0
    failed: int = 0
    censored: int = 0
    steps: int = 0  #: the highest number of a step, and one
    started_ns: int = 0  #: when the latest request began
    done_ns: int = 0  #: when the latest request ended
    failures: dict[str, Failures] = msgspec.field(default_factory=dict)
    first_bin: int = 0
    counts: list[int] = msgspec.field(default_factory=list)
    first_second: int = 0
    ended: list[int] = msgspec.field(default_factory=list)

    def histogram(self) -> Counts:
        """The successes by bin, BINS of them."""
        found = np.zeros(BINS, np.int64)
        counts = self.counts[: max(0, BINS - self.first_bin)]
        found[self.first_bin : self.first_bin + len(counts)] = counts
        return found


class Tally:
    """Counts the rows of one worker and tells them in `segments/NAME.live`; used by one thread."""

    def __init__(self, folder: Path, name: str, origin_ns: int) -> None:
        self._file, self._origin_ns = folder / "segments" / f"{name}.live", origin_ns
        self._histogram = np.zeros(BINS, np.int64)
        self._snapshot = Snapshot()
        self._ended: dict[int, int] = {}

    def add(self, batch: Batch) -> None:
        """Count the rows of a batch."""
        rows = np.frombuffer(batch.packed, DTYPE)
        if not len(rows):
            return
        found, done = self._snapshot, rows["done"]
        good = rows["error"] == 0
        latency_us = (done[good] - rows["planned"][good]) / 1e3
        bins = np.log2(np.maximum(latency_us, 1.0)) * PER_OCTAVE
        self._histogram += np.bincount(np.minimum(bins, BINS - 1).astype(np.int64), minlength=BINS)
        found.rows += len(rows)
        found.steps = max(found.steps, int(rows["step"].max()) + 1)
        found.started_ns = max(found.started_ns, int(rows["started"].max()) - self._origin_ns)
        if len(latency_us) < len(rows):
            self._add_failures(batch, rows["error"])
        done = done[done != NEVER] - self._origin_ns
        if len(done):
            found.done_ns = max(found.done_ns, int(done.max()))
            seconds, counts = np.unique(done // 1_000_000_000, return_counts=True)
            for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
                self._ended[second] = self._ended.get(second, 0) + count

    def _add_failures(self, batch: Batch, errors: npt.NDArray[np.uint8]) -> None:
        counts = np.bincount(errors, minlength=len(ERROR_CODE))
        self._snapshot.failed += int(counts[1:].sum())
        self._snapshot.censored += int(counts[_CENSORED].sum())
        for code in np.flatnonzero(counts[1:]) + 1:
            kind = self._snapshot.failures.setdefault(ERRORS[code - 1], Failures())
            kind.count += int(counts[code])
            if not kind.words:
                extra = batch.extras.get(int(np.argmax(errors == code)))
                kind.words = (extra.error_text if extra else None) or ""

    def tell(self, status: Status) -> None:
        """Put the counts where others find them; a reader never meets half of them."""
        found = self._snapshot
        found.at_ns = status.at_ns - self._origin_ns
        found.in_flight, found.cpu_share, found.lag_ms, found.raised, found.mistake = status[1:]
        used = np.flatnonzero(self._histogram)
        found.first_bin = int(used[0]) if len(used) else 0
        found.counts = self._histogram[used[0] : used[-1] + 1].tolist() if len(used) else []
        last = max(self._ended, default=0)
        self._ended = {second: n for second, n in self._ended.items() if second > last - SECONDS}
        found.first_second = min(self._ended, default=0)
        found.ended = [self._ended.get(second, 0) for second in range(found.first_second, last + 1)]
        part = self._file.with_name(f".{self._file.name}.part")
        with contextlib.suppress(OSError):  # it is for those who watch: no reason to end a run
            part.write_bytes(msgspec.json.encode(found))
            os.replace(part, self._file)


def read(file: Path) -> Snapshot | None:
    """Read what a worker has told; None where it is gone, or was damaged by somebody."""
    try:
        return msgspec.json.decode(read_regular(file), type=Snapshot)
    except (OSError, msgspec.MsgspecError):
        return None


def quantile_ms(counts: Counts, p: float, beyond: int = 0) -> float:
    """The p-quantile of latencies counted in bins, ms; NaN without any.

    beyond: requests known only to take longer than all those counted; infinite where it falls among them.
    """
    total = int(counts.sum())
    if not total + beyond:
        return math.nan
    rank = p * (total + beyond - 1)
    if beyond and math.ceil(rank - 1e-9) >= total:
        return math.inf
    bin_ = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
    return float(2.0 ** ((min(bin_, BINS - 1) + 0.5) / PER_OCTAVE) / 1e3)
