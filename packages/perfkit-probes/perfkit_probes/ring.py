"""The last samples of a process, numbered, so that who fetches them knows what it missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4


class Sample(NamedTuple):
    """One observation: the instant in monotonic nanoseconds, what was observed, its value, words to it."""

    t_ns: int
    probe: str  #: such as `loop.lag_ms`; the unit is in the name
    value: float
    label: str = ""
    request_id: str | None = None


@dataclass(frozen=True)
class Page:
    """Some samples, oldest first. `next` asks for those that follow; `lost` were overwritten unread."""

    samples: list[Sample]
    next: int
    lost: int


class Ring:
    """A bounded list of samples; any thread may add and read.

    Adding never blocks for long and never fails; when it is full the oldest sample goes.
    """

    def __init__(self, capacity: int = 100_000, *, instance: str | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1, got {capacity}")
        self.instance = instance or uuid4().hex[:8]  #: this process's name for who fetches the samples
        self.also: dict[str, Any] | None = None  #: where else its pages are, as `SampleServer` has it
        # Plain tuples: the garbage collector need not look at them again and again, as at a class of ours.
        self._slots: list[tuple[int, str, float, str, str | None] | None] = [None] * capacity
        self._added = 0
        # The garbage collector may give back a connection, which adds a sample, in a thread that has it.
        self._lock = threading.RLock()

    def add(
        self,
        probe: str,
        value: float,
        label: str = "",
        request_id: str | None = None,
        t_ns: int | None = None,
    ) -> None:
        """Keep a sample; without `t_ns` it is of now."""
        sample = (time.monotonic_ns() if t_ns is None else t_ns, probe, value, label, request_id)
        with self._lock:
            self._slots[self._added % len(self._slots)] = sample
            self._added += 1

    def add_all(self, values: Iterable[tuple[str, float]], label: str, request_id: str | None) -> None:
        """Keep several samples of one instant, (probe, value) each."""
        t_ns = time.monotonic_ns()
        with self._lock:
            for probe, value in values:
                self._slots[self._added % len(self._slots)] = (t_ns, probe, value, label, request_id)
                self._added += 1

    def page(self, after: int = 0, limit: int = 20_000) -> Page:
        """Up to `limit` samples from number `after` on; start with 0, go on with the page's `next`.

        -1 stands for the number of the sample that comes next: nothing of the past.
        """
        with self._lock:
            after = self._added if after < 0 else after
            oldest = max(self._added - len(self._slots), 0)
            # a number beyond the end is of a process before this one: give everything there is
            first = max(after, oldest) if after <= self._added else oldest
            last = min(first + limit, self._added)
            found = [self._slots[number % len(self._slots)] for number in range(first, last)]
        samples = [Sample(*sample) for sample in found if sample is not None]
        return Page(samples, last, max(first - after, 0))

    def told(self, after: int = 0, limit: int = 20_000) -> dict[str, Any]:
        """A page as perfkit fetches it from `/probe/samples?after=…&limit=…`, to be answered as JSON.

        `now_ns` is this process's monotonic clock: it tells the fetcher how far the clocks are apart. `also`
        is where it may go on while the service does not answer.
        """
        page = self.page(after, min(limit, 50_000))
        columns = zip(*page.samples, strict=True) if page.samples else ((),) * len(Sample._fields)
        samples = dict(zip(Sample._fields, columns, strict=True))
        told = {"instance": self.instance, "next": page.next, "lost": page.lost, "samples": samples}
        return {**told, "also": self.also, "now_ns": time.monotonic_ns()}
