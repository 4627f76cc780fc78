"""How far a run is, from outside: what its workers have told of it (`drive.tally`), added up."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perfkit.drive import tally
from perfkit.drive.tally import BINS, Counts, Snapshot, quantile_ms
from perfkit.model import Workload
from perfkit.store import Metadata, Run

#: In the run's folder: ends its load; its text says why.
STOP = "stop"
#: So many seconds back the counts are kept, unless somebody needs them longer.
KEPT_S = 60.0
#: At least so far apart are two counts that are kept: workers report every 0.8 s, each in its own time.
_APART_S = 0.4


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
    """Of some seconds, or of all: requests ended a second, and those of them that succeeded; response time
    of successes in ms, or NaN."""

    rate_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ok_per_s: float


@dataclass(frozen=True)
class Window:
    """What ended between two instants: requests, failures, those that timed out or were cut off, successes
    by latency (`tally.BINS`)."""

    span_s: float
    rows: int
    failed: int
    censored: int
    counts: Counts

    def since(self, before: Window) -> Window:
        """What this one has more than an earlier one that began with it."""
        return Window(
            self.span_s - before.span_s,
            self.rows - before.rows,
            self.failed - before.failed,
            self.censored - before.censored,
            self.counts - before.counts,
        )

    def numbers(self) -> Recent:
        """Rates and quantiles."""
        p50, p95, p99 = (quantile_ms(self.counts, p) for p in (0.5, 0.95, 0.99))
        ended, succeeded = (
            count / self.span_s if self.span_s > 0 else 0.0 for count in (self.rows, self.rows - self.failed)
        )
        return Recent(ended, p50, p95, p99, succeeded)


_NOTHING = Window(0.0, 0, 0, 0, np.zeros(BINS, np.int64))


class Seen:
    """What the workers have told so far.

    rows, failed: of the load, its warm-up included. removed: requests of the teardown. in_flight: requests
    under way when each worker last reported. seconds: since the load began, by the last request started;
    at_s: by the last report. failures: class, count and first words, the most frequent first. raised,
    mistake: steps that raised, unless a request of theirs had failed, and the words of the worker with most
    of them. cpu_share, lag_ms: of the worker that was worst since its report before.
    """

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self.rows = self.failed = self.steps = self.removed = self.in_flight = self.raised = 0
        self.mistake = ""
        self.seconds = self.at_s = self.last_done_s = self.cpu_share = self.lag_ms = 0.0
        self.failures: list[tuple[str, int, str]] = []
        self._kept_s, self._start_ns = kept_s, 0
        self._workers: dict[str, Snapshot] = {}
        self._torn_down: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._windows: deque[tuple[float, Window]] = deque([(0.0, _NOTHING)])

    @property
    def whole(self) -> Window:
        """All that has ended since the load began."""
        return self._windows[-1][1]

    def look(self, run: Run) -> bool:
        """Read what is new; whether anything was."""
        new = False
        try:
            entries = [one for one in os.scandir(run.path / "segments") if one.name.endswith(".live")]
        except OSError:  # merged away meanwhile
            return False
        for entry in entries:
            if (stamp := _stamp(entry)) == self._read.get(entry.name):
                continue
            snapshot, name = tally.read(run.path / "segments" / entry.name), entry.name.partition(".")[0]
            if snapshot is None:
                continue
            self._read[entry.name], new = stamp, True
            if name.startswith("teardown"):  # with a number, of the scenarios of a mix
                self._torn_down[name] = snapshot.rows
                self.removed = sum(self._torn_down.values())
            elif not name.startswith("setup"):
                self._workers[name] = snapshot
        if new and self._workers:
            self._start_ns = self._start_ns or run.meta.load_started_ns or 0
            self._add_up()
        return new

    def _add_up(self) -> None:
        workers = list(self._workers.values())
        self.rows, self.failed = sum(one.rows for one in workers), sum(one.failed for one in workers)
        self.in_flight = sum(one.in_flight for one in workers)
        self.steps = max(one.steps for one in workers)
        self.raised = sum(one.raised for one in workers)
        self.mistake = max(workers, key=lambda one: one.raised).mistake
        self.cpu_share = max(one.cpu_share for one in workers)
        self.lag_ms = max(one.lag_ms for one in workers)
        self.seconds = max(self.seconds, self._since(max(one.started_ns for one in workers)))
        self.last_done_s = max(self.last_done_s, self._since(max(one.done_ns for one in workers)))
        self.at_s = max(self.at_s, self._since(max(one.at_ns for one in workers)))
        self.failures = _by_class(workers)
        counts = np.sum([one.histogram() for one in workers], axis=0)
        censored = sum(one.censored for one in workers)
        self._keep(Window(self.at_s, self.rows, self.failed, censored, counts))

    def _keep(self, now: Window) -> None:
        if len(self._windows) > 1 and self.at_s - self._windows[-2][0] < _APART_S:
            self._windows.pop()
        self._windows.append((self.at_s, now))
        while len(self._windows) > 1 and self._windows[1][0] <= self.at_s - self._kept_s:
            self._windows.popleft()

    def _since(self, at_ns: int) -> float:
        return max(0.0, (at_ns - self._start_ns) / 1e9)

    def window(self, span_s: float) -> Window:
        """What ended in the last `span_s` seconds, or somewhat longer: reports are 0.8 s apart."""
        before = _NOTHING
        for at_s, window in self._windows:
            if at_s > self.at_s - span_s:
                break
            before = window
        return self.whole.since(before)

    def recent(self, span_s: float = 5.0) -> Recent:
        """The numbers of the last `span_s` seconds."""
        return self.window(span_s).numbers()

    def rates(self) -> list[int]:
        """Requests ended in each of the last whole seconds, at most KEPT_S of them, oldest first."""
        counts: Counter[int] = Counter()
        offset = self._start_ns // 1_000_000_000
        for one in self._workers.values():
            for second, count in enumerate(one.ended, one.first_second - offset):
                counts[second] += count
        last = int(self.last_done_s)
        first = max(0, last - int(KEPT_S))
        return [counts[second] for second in range(first, last)]


def _by_class(workers: list[Snapshot]) -> list[tuple[str, int, str]]:
    """Failures of all workers together."""
    counts: Counter[str] = Counter()
    words: dict[str, str] = {}
    for one in workers:
        for name, kind in one.failures.items():
            counts[name] += kind.count
            words[name] = words.get(name) or kind.words
    return [(name, count, words[name]) for name, count in counts.most_common()]


def _stamp(entry: os.DirEntry[str]) -> int:
    """Changes whenever the file is replaced."""
    try:
        return entry.inode() ^ entry.stat().st_mtime_ns
    except OSError:
        return 0


def elapsed_s(run: Run) -> float:
    """Seconds since the load of a run on this machine began; 0 before that."""
    start, began = run.meta.load_started_ns, run.meta.clock.monotonic_ns
    if start is None or began is None:
        return 0.0
    return max(0.0, (time.monotonic_ns() - began - start) / 1e9)
