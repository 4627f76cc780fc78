"""The simulated language model: seeded answers and times, deterministic embeddings. It says what it is."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

NAME = "perfkit-simulated"
MAX_DIMENSIONS = 4096
_WORDS = (
    "load",
    "row",
    "plan",
    "queue",
    "wait",
    "send",
    "answer",
    "measure",
    "tail",
    "median",
    "server",
    "user",
)
_TTFT_MS, _TOKEN_MS, _EMBEDDING_MS = 80.0, 8.0, 15.0  # medians; sigma of the logarithm is 0.3


class SimulatedModel:
    """Answers made of a few words, token by token, at times drawn from the seed and the question."""

    def __init__(self, seed: int, speed: float) -> None:
        self._seed, self._speed = seed, speed

    async def stream(self, question: str) -> AsyncIterator[str]:
        """Yield the answer's tokens, each after its simulated time."""
        rng = random.Random(f"{self._seed}:{question}")
        await self._wait(rng, _TTFT_MS)
        yield "[simulated model]"
        for _ in range(rng.randint(20, 60)):
            await self._wait(rng, _TOKEN_MS)
            yield " " + rng.choice(_WORDS)

    async def embed(self, text: str, dimensions: int) -> list[float]:
        """A unit vector; texts that share words are near each other."""
        await self._wait(random.Random(f"{self._seed}:{text}"), _EMBEDDING_MS)
        words = re.findall(r"\w+", text.lower()) or [""]
        total = np.sum([_direction(word, self._seed, dimensions) for word in words], axis=0)
        unit: list[float] = (total / np.linalg.norm(total)).tolist()
        return unit

    async def _wait(self, rng: random.Random, median_ms: float) -> None:
        if self._speed > 0:
            await asyncio.sleep(rng.lognormvariate(0, 0.3) * median_ms / 1000 / self._speed)


@lru_cache(maxsize=4096)
def _direction(word: str, seed: int, dimensions: int) -> npt.NDArray[np.float32]:
    """Where a word points: a Gaussian vector drawn from its letters."""
    numbers = np.random.default_rng([seed, *word.encode()])
    return numbers.standard_normal(dimensions, dtype=np.float32)
