"""A recording and its replay: what of the two can be compared, and why they get no verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perfkit.compare.reduce import Reduced, operations_of
from perfkit.store import Run
from perfkit.store.rows import Part

_MOST = 5  #: operations that are named


def recording_and_replay(runs: Sequence[Reduced]) -> list[str]:
    """Why an imported run gets no verdict beside a replay of its file; empty without such a pair.

    What is the same in both, and what may be compared by eye, stands there, too.
    """
    for one in runs:
        for other in runs:
            imported, replay = one.run.meta.imported, other.run.meta.replay
            if imported and replay and imported.sha256 == replay.sha256:
                return list(_words(one.run, other.run))
    return []


def _words(recorded: Run, replayed: Run) -> Iterator[str]:
    imported, replay, arrivals = recorded.meta.imported, replayed.meta.replay, replayed.meta.arrivals
    assert imported is not None
    assert replay is not None
    speed = (arrivals.speed if arrivals else None) or 1.0
    yield f"{replayed.id} replays {imported.file}, from which {recorded.id} was imported"
    yield (
        f"comparable: order and distances in time, as recorded{f' ÷ {speed:g}' if speed != 1 else ''};"
        f" requests by operation ({_operations(recorded, replayed)});"
        f" failures, {_failures(recorded)} recorded and {_failures(replayed)} replayed"
    )
    if replay.left_out:
        left_out = "; ".join(f"{n:,} {why}" for why, n in replay.left_out.items())
        yield f"not in the replay: {left_out}"
    yield (
        f"not comparable: latency, which {imported.tool} measured on its machine and network "
        f"({imported.fidelity.words}) and perfkit on this one, from planned times"
    )
    yield (
        "not comparable: throughput, which the recorded instants decide"
        f"{f', {speed:g} times as fast' if speed != 1 else ''}; compare two replays of the file instead"
    )


def _operations(recorded: Run, replayed: Run) -> str:
    """Whether both have the same requests by operation, or the first that differ."""
    a, b = (operations_of(Part(run)) for run in (recorded, replayed))
    apart = [f"{name} {a.get(name, 0):,} and {b.get(name, 0):,}" for name in sorted({*a, *b})
             if a.get(name, 0) != b.get(name, 0)]  # fmt: skip
    if not apart:
        return f"the same {sum(a.values()):,}"
    more = f" and {len(apart) - _MOST} more" if len(apart) > _MOST else ""
    return f"{'; '.join(apart[:_MOST])}{more}"


def _failures(run: Run) -> str:
    return f"{run.results.failed:,} of {run.results.n:,}"
