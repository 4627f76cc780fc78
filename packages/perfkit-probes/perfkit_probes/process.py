"""What a process uses, once a second: CPU, memory, descriptors, tasks, threads, and what holds it up.

Everything is read from Python itself or from small files of Linux; what a system does not have is not told.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import gc
import os
import resource
import sys
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perfkit_probes.place import place_of, words
from perfkit_probes.ring import Ring
from perfkit_probes.tasks import commonest_place, tasks_of

_EVERY_NS = 1_000_000_000
_TRACE_EVERY_NS = 5_000_000_000  # a snapshot of the heap holds the interpreter for a while
_MANY_FDS = 64  # from here on it is told what most of them are, by so many of the newest
_MANY_THREADS = 32  # and of so many threads where they are
_TOP = 5  # lines of the heap's growth
_FDS = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
_PAGE_MB = resource.getpagesize() / 1e6


class ProcessProbe:
    """Samples of one process into a ring, each second; `Watchdog` has one, and calls it.

    `process.cpu_share` (of a core), `process.rss_mb`, `process.fds` (label: what most of the newest are),
    `process.fd_limit`, `process.threads` (label: where most of many are), `loop.tasks` (label: where most of
    them wait), `executor.queue`: calls that wait for a thread of an executor (label: its name, and where its
    threads are), and for the last second `gc.pause_ms` (the longest), `process.core_wait_share` (how long the
    loop's thread could have run and got no core), `process.throttled_share` (by a limit of its cgroup) and
    `machine.io_stall_share` (how long something on the machine waited for a disk). With `trace_memory` also
    `memory.growth_mb`, each five seconds: the lines whose objects grew most (label); tracing makes Python
    code 5 to 27 times slower.
    """

    def __init__(self, ring: Ring, *, trace_memory: bool = False) -> None:
        self._ring, self._trace_memory = ring, trace_memory
        self._lock = threading.Lock()
        self._at_ns = self._cpu_ns = self._traced_ns = 0
        self._before: dict[str, float] = {}
        self._thread_id = 0  # the system's, of the loop's thread
        self._fds = (0, "")  # their number when it was last looked what they are, and what they were
        self._heap: tracemalloc.Snapshot | None = None
        self._pauses = _Pauses()
        self._undo: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Begin: the first samples come a second later."""
        self._at_ns, self._cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._undo()
        gc.callbacks.append(self._pauses)
        self._undo = weakref.finalize(self, _forget, self._pauses)
        if self._trace_memory and not tracemalloc.is_tracing():
            tracemalloc.start()

    def stop(self) -> None:
        """End; nothing of it stays in the process."""
        self._undo()
        if self._trace_memory:
            tracemalloc.stop()
            self._heap = None

    def sample(self, loop: asyncio.AbstractEventLoop) -> None:
        """Add samples when a second has passed since the last; from the loop or from any other thread."""
        if time.monotonic_ns() - self._at_ns < _EVERY_NS:
            return
        with self._lock:
            elapsed_ns = time.monotonic_ns() - self._at_ns
            if elapsed_ns >= _EVERY_NS:  # another thread may have been here meanwhile
                self._at_ns += elapsed_ns
                if asyncio._get_running_loop() is loop:
                    self._thread_id = threading.get_native_id()
                self._sample(loop, elapsed_ns)

    def _sample(self, loop: asyncio.AbstractEventLoop, elapsed_ns: int) -> None:
        add, cpu_ns = self._ring.add, time.process_time_ns()
        add("process.cpu_share", (cpu_ns - self._cpu_ns) / elapsed_ns)
        self._cpu_ns = cpu_ns
        add("process.rss_mb", rss_mb())
        threads = threading.enumerate()
        add("process.threads", len(threads), _busy_at(threads) if len(threads) >= _MANY_THREADS else "")
        add("gc.pause_ms", self._pauses.longest_ms())
        with contextlib.suppress(OSError):
            add("process.fds", *self._open_fds())
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if limit != resource.RLIM_INFINITY:
                add("process.fd_limit", limit)
        tasks = tasks_of(loop)
        add("loop.tasks", len(tasks), commonest_place(tasks))
        for queue, label in _executors():
            add("executor.queue", queue, label)
        before, self._before = self._before, dict(_held_up(self._thread_id))
        for name, seconds in self._before.items():
            if name in before:
                add(name, max(seconds - before[name], 0.0) / (elapsed_ns / 1e9))

    def _open_fds(self) -> tuple[int, str]:
        known = os.stat(_FDS).st_size if _FDS.parts[1] == "proc" else 0  # since Linux 6.2 it is their number
        fds = known or len(os.listdir(_FDS))
        if fds >= _MANY_FDS and fds > 1.1 * self._fds[0]:  # to look at thousands takes milliseconds
            self._fds = (fds, _commonest_fd())
        return fds, self._fds[1]

    def trace(self) -> None:
        """Every five seconds compare the heap with what it was; from a thread that may take its time."""
        now = time.monotonic_ns()
        if not self._trace_memory or now - self._traced_ns < _TRACE_EVERY_NS or not tracemalloc.is_tracing():
            return
        self._traced_ns = now
        heap = tracemalloc.take_snapshot()
        before, self._heap = self._heap, heap
        for one in heap.compare_to(before, "lineno")[:_TOP] if before is not None else ():
            if one.size_diff > 0:
                frame = one.traceback[0]
                place = words(frame.filename, frame.lineno, "").strip()
                self._ring.add("memory.growth_mb", one.size_diff / 1e6, place)


class _Pauses:
    """Python's garbage collector, timed. It is called in the middle of anything: it takes no lock."""

    def __init__(self) -> None:
        self._began_ns = self._longest_ns = 0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began_ns = time.monotonic_ns()
        elif self._began_ns:
            self._longest_ns = max(self._longest_ns, time.monotonic_ns() - self._began_ns)

    def longest_ms(self) -> float:
        """The longest pause since the last call."""
        longest_ns, self._longest_ns = self._longest_ns, 0
        return longest_ns / 1e6


def _forget(pauses: _Pauses) -> None:
    with contextlib.suppress(ValueError):
        gc.callbacks.remove(pauses)


def rss_mb() -> float:
    """Memory of this process that is in RAM, MB; the most there was where the system tells nothing else."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _commonest_fd() -> str:
    """What most of the newest are: `sockets`, `pipes`, `files such as folder/name`; empty where unknown."""
    kinds: Counter[str] = Counter()
    files = ""
    for fd in sorted(map(int, os.listdir(_FDS)))[-_MANY_FDS:]:
        with contextlib.suppress(OSError):
            target = os.readlink(_FDS / str(fd))
            kind = target.partition(":")[0] if not target.startswith("/") else "file"
            files = target if kind == "file" else files
            kinds[kind] += 1
    if not kinds:
        return ""
    kind = kinds.most_common(1)[0][0]
    return f"files such as {'/'.join(Path(files).parts[-2:])}" if kind == "file" else f"{kind}s"


def _executors() -> Iterator[tuple[int, str]]:
    """Of each executor of threads: how many calls wait for one, and its name; with the place of its threads.

    Not from the loop: uvloop does not show its default executor.
    """
    with contextlib.suppress(RuntimeError):  # a thread more while we look: next time
        known: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
        pools: dict[Any, list[threading.Thread]] = {}
        for thread, queue in list(known.items()):
            pools.setdefault(queue, []).append(thread)
        for queue, threads in pools.items():
            waiting, name = queue.qsize(), threads[0].name.rpartition("_")[0] or threads[0].name
            yield (
                waiting,
                f"{name!r} of {len(threads)} threads"
                + (f", which were at {_busy_at(threads)}" if waiting else ""),
            )


def _busy_at(threads: list[threading.Thread]) -> str:
    """Where most of the newest of these threads are."""
    frames = sys._current_frames()
    places = Counter(place_of(frames[one.ident]) for one in threads[-_MANY_THREADS:] if one.ident in frames)
    return places.most_common(1)[0][0] if places else "unknown"


def _held_up(thread_id: int) -> Iterator[tuple[str, float]]:
    """Seconds for which a thread, its process and the machine were kept from running so far, by what."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        waited_ns = Path(f"/proc/self/task/{thread_id}/schedstat").read_text().split()[1]
        yield "process.core_wait_share", int(waited_ns) / 1e9
    with contextlib.suppress(OSError, ValueError, IndexError):
        some = Path("/proc/pressure/io").read_text().split("total=")[1]
        yield "machine.io_stall_share", int(some.split()[0]) / 1e6
    for file in _CPU_STATS:
        with contextlib.suppress(OSError, ValueError):
            told = dict(line.split() for line in file.read_text().splitlines())
            if name := next((name for name in _THROTTLED if name in told), None):
                yield "process.throttled_share", int(told[name]) / _THROTTLED[name]
                return


#: Of versions 2 and 1 of Linux's cgroups, and their units in a second.
_THROTTLED = {"throttled_usec": 1e6, "throttled_time": 1e9}


def _cpu_stats() -> Iterator[Path]:
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        own = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
        yield root / own[-1].strip("/") / "cpu.stat"
    yield from (root / name for name in ("cpu.stat", "cpu/cpu.stat", "cpu,cpuacct/cpu.stat"))


_CPU_STATS = tuple(_cpu_stats())
