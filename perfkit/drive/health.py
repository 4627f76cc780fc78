"""Generator health: how much the load generator disturbed what it measured.

Watched in every worker while the load is on; judged at the end against the workload's `Budget`. A run over
budget is invalid: its numbers tell about the generator, not about the server.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfkit.drive.session import Opening
from perfkit.drive.transport import Clock
from perfkit.model import Budget
from perfkit.store.quantiles import Binned
from perfkit.store.rows import Part

_BEAT_S = 0.05
#: A loop whose beat is so late is looked at; where so many of the looks find it in the scenario's own code,
#: and half of all of them, a step holds it.
_LATE_NS, _LEAST_LOOKS = 20_000_000, 3
#: So much later than the loop of a process that used so little CPU, no load explains.
_BLOCKED_MS, _IDLE_SHARE = 100.0, 0.3
#: A loop that is so late stood still: more samples would not help.
_STOOD_STILL_MS = 1000.0
#: A p99 of fewer says nothing: the median is judged.
LEAST_FOR_P99 = 100


@dataclass(frozen=True)
class WorkerHealth:
    """What one worker saw of itself; delays in milliseconds, `cpu_share` of one core."""

    worker: int
    cpu_share: float
    loop_lag_p50_ms: float
    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    gc_pauses: int
    gc_pause_max_ms: float
    loop_lag_n: int  #: how many beats there were
    held_at: str  #: where in the scenario's file steps held the loop, `file:line`; empty where they did not

    def to_mapping(self) -> dict[str, Any]:
        """As plain names and numbers."""
        return asdict(self)


class HealthWatch:
    """Measures a worker's event loop, CPU and garbage collector between `start` and `stop`.

    While it is on, objects made before are frozen out of the cyclic collector and young collections are
    rare, so that a pause does not fall into somebody's latency.
    """

    def __init__(self, worker: int, clock: Clock) -> None:
        self._worker, self._clock = worker, clock
        self._beats: list[tuple[float, float, float]] = []  #: instant, CPU in nanoseconds, lag
        self._gc_began = 0
        self._gc_pauses: list[float] = []
        self._beat: asyncio.TimerHandle | None = None
        self._expected = 2**63 - 1  #: when the next beat is due
        self._looks: Counter[str] = Counter()  #: at a loop that was late, by where its thread stood
        self._looked_at = 0  #: the beat up to which `lately` has told

    def start(self) -> None:
        """Begin to watch; call it on the running loop."""
        self._loop = asyncio.get_running_loop()
        gc.collect()
        gc.freeze()
        self._threshold = gc.get_threshold()
        gc.set_threshold(50_000, 50, 1000)
        gc.callbacks.append(self._on_gc)
        self._note(0.0)
        self._schedule()

    def stop(self, from_ns: int, to_ns: int) -> WorkerHealth:
        """End watching and say what was seen between two instants of the clock: while the load was on."""
        if self._beat is not None:
            self._beat.cancel()
        self._note(0.0)
        gc.callbacks.remove(self._on_gc)
        gc.set_threshold(*self._threshold)
        gc.unfreeze()
        beats = np.array(self._beats)
        inside = beats[(beats[:, 0] >= from_ns) & (beats[:, 0] <= to_ns)]
        at, cpu, lags_ms = (inside if len(inside) > 1 else beats).T  # shorter than two beats: all there is
        return WorkerHealth(
            worker=self._worker,
            cpu_share=float((cpu[-1] - cpu[0]) / max(at[-1] - at[0], 1.0)),
            loop_lag_p50_ms=float(np.quantile(lags_ms, 0.5)),
            loop_lag_p99_ms=float(np.quantile(lags_ms, 0.99)),
            loop_lag_max_ms=float(lags_ms.max()),
            gc_pauses=len(self._gc_pauses),
            gc_pause_max_ms=max(self._gc_pauses, default=0.0),
            loop_lag_n=len(lags_ms) - 1,
            held_at=self._held_at(),
        )

    def look(self, where: Callable[[], str]) -> None:
        """Note where the loop's thread stands if its beat is late; another thread calls it again and again.

        where: returns the place in the scenario's own code, empty where it is in other code.
        """
        if self._clock() - self._expected > _LATE_NS:
            self._looks[where()] += 1

    def _held_at(self) -> str:
        own = Counter({place: n for place, n in self._looks.items() if place})
        if own.total() < max(_LEAST_LOOKS, self._looks.total() / 2):
            return ""
        return own.most_common(1)[0][0]

    def lately(self) -> tuple[float, float]:
        """Return, of the time since the last call, the share of a core that was used, and the latest beat by
        how many ms it was late."""
        beats = self._beats[max(self._looked_at - 1, 0) :]
        self._looked_at = len(self._beats)
        if len(beats) < 2:
            return 0.0, 0.0
        (began, cpu, _), (ended, cpu_ended, _) = beats[0], beats[-1]
        return (cpu_ended - cpu) / max(ended - began, 1.0), max(lag for _, _, lag in beats[1:])

    def _note(self, lag_ms: float) -> None:
        self._beats.append((float(self._clock()), float(time.process_time_ns()), lag_ms))

    def _schedule(self) -> None:
        self._expected = self._clock() + int(_BEAT_S * 1e9)
        self._beat = self._loop.call_later(_BEAT_S, self._on_beat)

    def _on_beat(self) -> None:
        # the loop's timers are a millisecond coarse and may fire that much early
        self._note(max(0.0, (self._clock() - self._expected) / 1e6))
        self._schedule()

    def _on_gc(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter_ns()
        else:
            self._gc_pauses.append((time.perf_counter_ns() - self._gc_began) / 1e6)


#: Reported for a worker without rows.
NO_DELAYS = {
    "rows": 0,
    **dict.fromkeys(("kickoff_p50_ms", "kickoff_p99_ms", "client_queue_p50_ms", "client_queue_p99_ms")),
    "kickoff_n": 0,
    "client_queue_n": 0,
}


def delays(part: Part, opening: Sequence[Opening], seq_stride: int) -> dict[int, dict[str, Any]]:
    """How late each worker was, by its measured rows: the names of NO_DELAYS.

    opening: of each worker; where they know it of one request in so many, the queue is that of these.
    Kick-off is that of a step's first request: later ones are planned when they start, and a retry has waited
    for the server. Opening a connection is the network's time and the server's, not waiting here; a request
    that timed out in our own line was never sent, and waited until its end. None where no request tells.
    """
    known = Opening(seq_stride)
    known.every = max((one.every for one in opening), default=1)
    for one in opening:
        for seq, ns in one.ns.items():
            known.add(seq, ns)
    part.use("opening", seq=("BIGINT", known.ns), ns=("BIGINT", known.ns.values()))
    kickoff = Binned(
        part,
        "SELECT worker AS g, 0 AS s, kickoff_ms AS x FROM part WHERE started <> planned AND x IS NOT NULL",
    )
    queue = Binned(
        part,
        "SELECT worker AS g, 0 AS s, (coalesce(sending, sent, done) - started - coalesce(ns, 0)) / 1e6 AS x"
        " FROM part LEFT JOIN opening USING (seq)"
        " WHERE attempt = 1 AND error IS DISTINCT FROM 'connect' AND x IS NOT NULL"
        f" AND seq // {seq_stride} % {known.every} = 0",
    )
    rows = part.query("SELECT worker, count(*) AS n FROM part GROUP BY 1").to_pylist()
    found = {}
    for worker, n in ((row["worker"], row["n"]) for row in rows):
        told: dict[str, Any] = {"rows": n}
        for name, binned in (("kickoff", kickoff), ("client_queue", queue)):
            p50, p99 = binned.quantiles([(worker, 0.5), (worker, 0.99)])
            told |= {f"{name}_p50_ms": _known(p50), f"{name}_p99_ms": _known(p99)}
            told[f"{name}_n"] = binned.n(worker)
        found[worker] = told
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def median_response_ms(part: Part) -> float | None:
    """Half of the requests, failed ones too, took at most this long; None without any."""
    (found,) = Binned(
        part, "SELECT 0 AS g, 0 AS s, response_ms AS x FROM part WHERE x IS NOT NULL"
    ).quantiles([(None, 0.5)])
    return None if math.isnan(found) else found


#: What is said of the worst worker over a limit: with its value, of what, the limit and the worker.
_OVER = {
    "kickoff": "steps started late: kick-off delay {} {:.1f} ms, budget {:.1f} ms (worker {})",
    "client_queue": "requests queued inside perfkit: {} {:.1f} ms, budget {:.1f} ms (worker {})",
    "loop_lag": "perfkit itself was slowed down: its event loop lagged {1:.1f} ms at {0}, "
    "budget {2:.1f} ms (worker {3}); ",
    "cpu_share": "the generator was busy: {:.2f} of a core, budget {:.2f} (worker {})",
    "gc_pause_max_ms": "garbage collection paused {:.1f} ms, budget {:.1f} ms (worker {})",
}


def judge(
    workers: Sequence[Mapping[str, Any]],
    median_response_ms: float | None,
    budget: Budget,
    *,
    cores: float = math.inf,
) -> list[str]:
    """Why the run is invalid, one reason a line; empty when it is valid. cores: that the host has to spare.

    A delay is judged by its p99, where a worker has fewer than `LEAST_FOR_P99` of them by their median.
    """
    if not any(worker["rows"] for worker in workers):
        return ["no request was measured"]
    allowed = _allowed(median_response_ms, budget)
    reasons = []
    for name in _DELAYS:
        of = ((*_delay(worker, name), worker) for worker in workers)
        value, what, worst = max(of, key=lambda one: one[0])
        if value > allowed:
            reasons.append(_OVER[name].format(what, value, allowed, worst["worker"]))
            reasons[-1] += _what_to_do(value, worst, cores) if name == "loop_lag" else ""
    for key, limit in (("cpu_share", budget.cpu_share), ("gc_pause_max_ms", budget.gc_pause_ms)):
        worst = max(
            (one for one in workers if one.get(key) is not None), key=lambda one: one[key], default={}
        )
        if worst and worst[key] > limit:
            reasons.append(_OVER[key].format(worst[key], limit, worst["worker"]))
    return reasons


def spared(
    workers: Sequence[Mapping[str, Any]], median_response_ms: float | None, budget: Budget
) -> list[str]:
    """What would be over the budget at its p99, but has too few samples for one; a line each."""
    allowed = _allowed(median_response_ms, budget)
    notes = []
    for name, words in _DELAYS.items():
        for worker in workers:
            p99, (value, what) = worker.get(f"{name}_p99_ms") or 0.0, _delay(worker, name)
            if what == "p99" or not value <= allowed < p99:
                continue
            told = (
                f"but {worker[f'{name}_n']:,} samples carry no p99: their median, {value:.1f} ms, was judged;"
                " measure for longer"
            )
            if name == "loop_lag" and p99 > _STOOD_STILL_MS:
                place = worker.get("held_at")
                told = f"it stood still at {place}" if place else "it stood still"
            notes.append(f"{words} was up to {p99:.1f} ms (budget {allowed:.1f} ms), {told}")
            break
    return notes


_DELAYS = {
    "kickoff": "the kick-off delay",
    "client_queue": "the wait inside perfkit",
    "loop_lag": "the lag of perfkit's event loop",
}


def _allowed(median_response_ms: float | None, budget: Budget) -> float:
    return max(budget.delay_ms, budget.delay_share * (median_response_ms or 0.0))


def _delay(worker: Mapping[str, Any], name: str) -> tuple[float, str]:
    """What of a worker's delays is judged, in ms, and what that is; -inf where it has none."""
    n = worker.get(f"{name}_n")
    few = n is not None and n < LEAST_FOR_P99
    value = worker.get(f"{name}_p50_ms" if few else f"{name}_p99_ms")
    return -math.inf if value is None else value, f"p50 of {n:,} samples" if few else "p99"


def _what_to_do(lag_ms: float, worker: Mapping[str, Any], cores: float) -> str:
    """What to do about a loop that lagged so much."""
    place, idle = worker.get("held_at"), (worker.get("cpu_share") or 0.0) < _IDLE_SHARE
    if idle and (place or lag_ms >= _BLOCKED_MS):
        blocks = f"a step blocks it at {place}" if place else "a step probably blocks it"
        return f"{blocks} (time.sleep, a synchronous client?): use await asyncio.sleep and session"
    held = f"steps hold it at {place}; " if place else ""
    more = "use more `processes`, " if cores > 0 else ""
    return f"{held}free some CPU, {more}or raise budget.delay_ms"
