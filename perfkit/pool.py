"""Worker processes on this machine, reached through `concurrent.futures.Executor` like those of a cluster."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from perfkit.worker import prepare_process, warm_up_process

_ROUNDS = 100


@contextmanager
def own_pool(count: int) -> Iterator[Executor]:
    """Fresh processes for one run; when the block is left by an interrupt they are killed, not waited for."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked child would share the parent's locks and sockets
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=prepare_process)
    try:
        yield pool
    except KeyboardInterrupt:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C comes when the block is left; processes started in it begin with it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warm_up(pool: Executor, count: int, scenario_ref: str) -> None:
    """Have every worker import what it needs; the first one ready may take others' turns, so ask again."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        with _interrupts_held():  # a child that has not got as far as to ignore Ctrl-C would complain of it
            asked = [pool.submit(warm_up_process, scenario_ref) for _ in range(count)]
        seen |= {done.result() for done in asked}
        if len(seen) >= count:
            return
        time.sleep(0.05)
