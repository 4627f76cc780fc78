"""Watching a run from outside, by the segments it has written: a terminal's bar, a live view's numbers."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit.model import Workload
from perfkit.store import Metadata, Run
from perfkit.text import for_terminal

_COLUMNS = ("step", "error", "planned", "started", "done")
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f}{unit} [{elapsed}{postfix}]"
#: So many seconds of rows are kept for the numbers of the last seconds and the line of rates.
KEPT_S = 60


class Goal(NamedTuple):
    """When a run is done: after so many steps, or so many seconds of warm-up and load."""

    total: float
    steps: bool

    @classmethod
    def of(cls, asked: Workload | Metadata) -> Goal:
        """Of a workload, or of a run: steps when their number is known, seconds otherwise."""
        users = asked.users
        if users and users.iterations is not None and users.duration_s is None:
            return cls(float(users.iterations), True)
        first = asked.mix[0] if asked.mix else asked  # those of a mix end together
        load = first.users or first.arrivals
        return cls(asked.warmup_s + (load.duration_s or 0.0 if load else 0.0), False)


class Recent(NamedTuple):
    """Of the last seconds: requests ended a second; p50 and p95 response time of successes in ms, or NaN."""

    rate_per_s: float
    p50_ms: float
    p95_ms: float


class Seen:
    """What the segments written so far tell; each is read once.

    rows, failed: of the load, its warm-up included. removed: requests of the teardown. in_flight: requests
    under way when each worker last handed rows over. seconds: since the load began, by the last request
    started.
    """

    def __init__(self) -> None:
        self.rows = self.failed = self.steps = self.removed = 0
        self.seconds = 0.0
        self.last_done_s = 0.0
        self._in_flight: dict[str, int] = {}
        self._parts: deque[tuple[np.ndarray, np.ndarray]] = deque()  # s when done; ms, NaN for a failure
        self._read: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Of all workers together."""
        return sum(self._in_flight.values())

    def look(self, run: Run) -> None:
        """Read the segments that are new."""
        for file in run.files():
            if file.name in self._read or file.name.startswith(("setup", "timeline")):
                continue
            self._read.add(file.name)
            if file.name.startswith("teardown"):
                with contextlib.suppress(OSError, pa.ArrowException):
                    self.removed += pq.read_metadata(file).num_rows
                continue
            with contextlib.suppress(OSError, pa.ArrowException):  # merged away meanwhile
                self._add(file, run)

    def _add(self, file: Path, run: Run) -> None:
        table = pq.read_table(file, columns=list(_COLUMNS))
        told = (table.schema.metadata or {}).get(b"perfkit_in_flight", b"0")
        self._in_flight[file.name.partition("-")[0]] = int(told)
        self.rows += len(table)
        self.failed += len(table) - table["error"].null_count
        if not len(table):
            return
        start = run.meta.load_started_ns or 0
        self.steps = max(self.steps, pc.max(table["step"]).as_py() + 1)
        self.seconds = max(self.seconds, (pc.max(table["started"]).as_py() - start) / 1e9)
        done = pc.fill_null(table["done"], 0).to_numpy()
        latency = np.where(table["error"].is_null(), (done - table["planned"].to_numpy()) / 1e6, math.nan)
        self.last_done_s = max(self.last_done_s, (int(done.max()) - start) / 1e9)
        self._parts.append(((done - start) / 1e9, latency))
        while self._parts and self._parts[0][0].max() < self.last_done_s - KEPT_S:
            self._parts.popleft()

    def recent(self, span_s: float = 5.0) -> Recent:
        """The numbers of the `span_s` seconds before the last request that is known to have ended."""
        done, latency = self._kept()
        pick = done > self.last_done_s - span_s
        span_s = min(span_s, max(self.last_done_s, 1e-3))
        good = latency[pick & ~np.isnan(latency)]
        p50, p95 = np.quantile(good, (0.5, 0.95)) if len(good) else (math.nan, math.nan)
        return Recent(int(pick.sum()) / span_s, float(p50), float(p95))

    def rates(self) -> list[int]:
        """Requests ended in each of the last whole seconds, at most KEPT_S of them, oldest first."""
        last = int(self.last_done_s)
        first = max(0, last - KEPT_S)
        if last <= first:
            return []
        counts, _ = np.histogram(self._kept()[0], bins=np.arange(first, last + 1))
        return [int(count) for count in counts]

    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._parts:
            return np.empty(0), np.empty(0)
        done, latency = zip(*self._parts, strict=True)
        return np.concatenate(done), np.concatenate(latency)


def elapsed_s(run: Run) -> float:
    """Seconds since the load of a run on this machine began; 0 before that."""
    start, began = run.meta.load_started_ns, run.meta.clock.monotonic_ns
    if start is None or began is None:
        return 0.0
    return max(0.0, (time.monotonic_ns() - began - start) / 1e9)


@contextlib.contextmanager
def bar(goal: Goal, label: str, *, show: bool = True, leave: bool = True) -> Iterator[Callable[[Run], None]]:
    """A bar on standard error, left there or not; call what is yielded with the run, repeatedly."""
    if not show:  # and nothing is read: the load is not to be disturbed for nobody
        yield lambda run: None
        return
    from tqdm import tqdm

    seen, unit = Seen(), " steps" if goal.steps else " s"
    label = for_terminal(label, most=60)
    with tqdm(total=goal.total, desc=label, unit=unit, leave=leave, bar_format=_BAR) as drawn:

        def on_progress(run: Run) -> None:
            seen.look(run)
            reached = seen.steps if goal.steps else min(goal.total, seen.seconds)
            told = f"{seen.rows} requests, {seen.failed} failed"
            told += f", removing: {seen.removed}" if seen.removed else ""
            drawn.set_postfix_str(told, refresh=False)
            with contextlib.suppress(OSError):  # the terminal is gone: no reason to end a run
                drawn.update(max(0, reached - drawn.n))
                if seen.removed:
                    drawn.refresh()

        yield on_progress
