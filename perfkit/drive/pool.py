"""Worker processes on this machine, reached through `concurrent.futures.Executor` like those of a cluster.

What a new process imports before it can watch its parent stands here, so it is little: standard library only.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TextIO, cast

from perfkit import interrupts
from perfkit.parent import end_with_parent
from perfkit.text import HarmlessStream

_ROUNDS = 100
#: So long may a worker write its last rows after its coordinator has ended.
_LAST_ROWS_S = 5.0
#: So long may workers take to end when there is nothing left to do.
_END_S = 5.0
#: So long when the user will not wait any more: enough to write what they have, if their steps let them.
_KILL_S = 0.5


@contextmanager
def own_pool(count: int) -> Iterator[Executor]:
    """Yield fresh processes for one run, which end with the block.

    They have a few seconds to write their last rows, half a one when the block is left by an interrupt.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would share our locks and sockets
    with interrupts.held():  # the tracker of the locks starts here, and a closed terminal would end it
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_process)
    patience_s = _END_S
    try:
        yield pool
    except KeyboardInterrupt:
        patience_s = _KILL_S
        raise
    finally:
        workers = list(pool._processes.values())  # shutdown forgets them
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + patience_s
        try:
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in workers:
                worker.kill()


def warm_up(pool: Executor, count: int, scenario_refs: Sequence[str]) -> None:
    """Have every worker import what it needs; the first one ready may take others' turns, so ask again."""
    from perfkit.drive.worker import warm_up_process

    seen: set[int] = set()
    for _ in range(_ROUNDS):
        with interrupts.held():  # half a process would complain, and the pool would break
            asked = [pool.submit(warm_up_process, scenario_refs) for _ in range(count)]
        seen |= {done.result() for done in asked}
        if len(seen) >= count:
            return
        time.sleep(0.05)


def _prepare_process() -> None:
    """Initialise a worker process: it lives as long as its coordinator, and opens as many sockets as allowed.

    The writer thread gives the interpreter lock back after 0.1 ms, not 5: a step must not wait for a segment.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid, _LAST_ROWS_S)
    interrupts.leave_to_parent()
    sys.stdout = sys.stderr = cast(TextIO, HarmlessStream(sys.stderr))  # what steps print
    sys.setswitchinterval(0.0001)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
