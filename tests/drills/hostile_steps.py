"""Asks a hostile server for each of its behaviours in turn, and after each for something harmless."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Params:
    """count: of behaviours; hanging, answering: numbers of those that never end, and that tell the id."""

    count: int = 1
    hanging: tuple[int, ...] = ()
    answering: tuple[int, ...] = ()
    pause_s: float = 0.0


async def step(session: Any, state: Params, rng: random.Random) -> None:
    number = session.iteration % state.count
    own = "".join(DIGITS[session.iteration // 36**i % 36] for i in range(4))

    def is_own(answer: Any) -> bool:
        return own in answer.text

    await session.get(
        f"/b/{number}/{own}",
        name=f"b{number}",
        timeout_s=0.5 if number in state.hanging else 30,
        check=is_own if number in state.answering else None,
    )
    await asyncio.sleep(state.pause_s)
    await session.get(f"/ok/{own}", name="after", timeout_s=30, check=is_own)
