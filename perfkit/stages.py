"""Stages: a load that rises, stays and falls, one stretch after the other; pure data.

Of users as of arrivals: a stage is a linear change from the level before it, the first one from 0. The first
stage begins with the load, so a warm-up takes its time from the stages.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec

#: As they are written in YAML.
SOME_STAGES = "stages: [{duration_s: 10s, to: 20}, {duration_s: 1m, to: 20}, {duration_s: 10s, to: 0}]"
LONGEST_S = 30 * 86_400  #: 30 days: one stage, and every other duration


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So long until the load has reached `to`: users, or starts per second; 0 s: at once."""

    duration_s: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)]
    to: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
    SLIPS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("target", "users", "count", "rate", "rate_per_s"),
        "the level that a stage leads to is `to`: {duration_s: 10s, to: 20}",
    )


def knots(stages: Sequence[Stage]) -> list[tuple[float, float]]:
    """The level as (seconds since the load's start, level); two knots at one second are a jump."""
    ends = itertools.accumulate(stage.duration_s for stage in stages)
    return [(0.0, 0.0), *((round(end, 9), stage.to) for end, stage in zip(ends, stages, strict=True))]


def lasting_s(stages: Sequence[Stage]) -> float:
    """How long all of them take, in seconds."""
    return knots(stages)[-1][0]


def changes_after(stages: Sequence[Stage], second: float) -> bool:
    """Whether the level changes after this second of the load; a jump at the very end is seen by nobody."""
    levels, lasts = itertools.pairwise(knots(stages)), lasting_s(stages)
    return any(end > second and begin < lasts and level != before for (begin, before), (end, level) in levels)


def level_after(stages: Sequence[Stage], second: float) -> float:
    """The level that the stage under way after this second of the load leads to, or else the last one."""
    return next((level for end, level in knots(stages) if end > second), stages[-1].to)


def active_s(stages: Iterable[Stage]) -> list[list[tuple[float, float]]]:
    """Of each user, when it is active: from and to, in seconds since the load's start.

    As many are active as the level says. A rise takes users that have stopped before new ones; a fall stops
    those first that have been active longest. All stop at the end.
    """
    spans: list[list[tuple[float, float]]] = []
    active: deque[tuple[int, float]] = deque()
    stopped: list[int] = []
    now = 0.0
    for stage in stages:
        more = int(stage.to) - len(active)
        for i in range(more):
            if not stopped:
                heapq.heappush(stopped, len(spans))
                spans.append([])
            active.append((heapq.heappop(stopped), now + stage.duration_s * i / more))
        for i in range(1, 1 - more):
            user, since = active.popleft()
            spans[user].append((since, now + stage.duration_s * i / -more))
            heapq.heappush(stopped, user)
        now += stage.duration_s
    for user, since in active:
        spans[user].append((since, now))
    return spans


def in_words(stages: Iterable[Stage], one: str, more: str) -> str:
    """Such as `10 s to 20 users, 60 s at 20 users, 10 s to 0 users`."""
    told, level = [], 0.0
    for stage in stages:
        way, unit = "at" if stage.to == level else "to", one if stage.to == 1 else more
        told.append(f"{stage.duration_s:g} s {way} {stage.to:g}{unit}")
        level = stage.to
    shown = told if len(told) <= 6 else [*told[:5], f"… {len(told)} stages"]
    return ", ".join(shown)
