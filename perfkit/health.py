"""Generator health: how much the load generator disturbed what it measured.

Watched in every worker while the load is on; judged at the end against the workload's `Budget`. A run over
budget is invalid: its numbers tell about the generator, not about the server.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perfkit.model import Budget
from perfkit.transport import Clock

_BEAT_S = 0.05


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
        self._lags_ms: list[float] = []
        self._gc_began = 0
        self._gc_pauses: list[float] = []
        self._beat: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; call it on the running loop."""
        self._loop = asyncio.get_running_loop()
        gc.collect()
        gc.freeze()
        self._threshold = gc.get_threshold()
        gc.set_threshold(50_000, 50, 1000)
        gc.callbacks.append(self._on_gc)
        self._cpu, self._wall = time.process_time(), time.monotonic()
        self._schedule()

    def stop(self) -> WorkerHealth:
        """End watching and say what was seen."""
        if self._beat is not None:
            self._beat.cancel()
        wall = max(time.monotonic() - self._wall, 1e-9)
        share = (time.process_time() - self._cpu) / wall
        gc.callbacks.remove(self._on_gc)
        gc.set_threshold(*self._threshold)
        gc.unfreeze()
        lags = np.array(self._lags_ms or [0.0])
        return WorkerHealth(
            worker=self._worker,
            cpu_share=share,
            loop_lag_p50_ms=float(np.quantile(lags, 0.5)),
            loop_lag_p99_ms=float(np.quantile(lags, 0.99)),
            loop_lag_max_ms=float(lags.max()),
            gc_pauses=len(self._gc_pauses),
            gc_pause_max_ms=max(self._gc_pauses, default=0.0),
        )

    def _schedule(self) -> None:
        self._expected = self._clock() + int(_BEAT_S * 1e9)
        self._beat = self._loop.call_later(_BEAT_S, self._on_beat)

    def _on_beat(self) -> None:
        # the loop's timers are a millisecond coarse and may fire that much early
        self._lags_ms.append(max(0.0, (self._clock() - self._expected) / 1e6))
        self._schedule()

    def _on_gc(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.perf_counter_ns()
        else:
            self._gc_pauses.append((time.perf_counter_ns() - self._gc_began) / 1e6)


def delays(planned: np.ndarray, started: np.ndarray, sent: np.ndarray) -> dict[str, Any]:
    """How late one worker's rows were: instants in nanoseconds, NaN where never reached."""
    return {
        "rows": len(planned),
        "kickoff_p50_ms": quantile_ms(started - planned, 0.5),
        "kickoff_p99_ms": quantile_ms(started - planned, 0.99),
        "client_queue_p99_ms": quantile_ms(sent - started, 0.99),
    }


def quantile_ms(ns: np.ndarray, p: float) -> float | None:
    """A quantile in milliseconds of what was reached, None when nothing was."""
    reached = ns[~np.isnan(ns)]
    return float(np.quantile(reached, p)) / 1e6 if len(reached) else None


def judge(
    workers: Sequence[Mapping[str, Any]], median_response_ms: float | None, budget: Budget
) -> list[str]:
    """Why the run is invalid, one reason a line; empty when it is valid."""
    allowed = max(budget.delay_ms, budget.delay_share * (median_response_ms or 0.0))
    limits = (
        ("kickoff_p99_ms", allowed, "steps started late: kick-off delay p99 {:.1f} ms, budget {:.1f} ms"),
        ("client_queue_p99_ms", allowed, "requests waited in the client: p99 {:.1f} ms, budget {:.1f} ms"),
        ("loop_lag_p99_ms", allowed, "the event loop was late: lag p99 {:.1f} ms, budget {:.1f} ms"),
        ("cpu_share", budget.cpu_share, "the generator was busy: {:.2f} of a core, budget {:.2f}"),
        ("gc_pause_max_ms", budget.gc_pause_ms, "garbage collection paused {:.1f} ms, budget {:.1f} ms"),
    )
    reasons = []
    for key, limit, text in limits:
        worst = max((w for w in workers if w.get(key) is not None), key=lambda w: w[key], default=None)
        if worst is not None and worst[key] > limit:
            reasons.append(f"{text.format(worst[key], limit)} (worker {worst['worker']})")
    return reasons
