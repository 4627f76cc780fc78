"""The simulated language model: seeded answers and times, deterministic embeddings. It says what it is."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncGenerator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

NAME = "perfkit-simulated"
MAX_DIMENSIONS = 4096
PRICE_USD = 6e-7  #: of one token, made up like the rest
#: What is said of every simulated model: its window (tokens) and its embedding's dimensions.
USUAL_MODEL = {"context_window": 128_000, "embedding_dim": 1536}
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
#: Medians; sigma of the logarithm is 0.3.
_TTFT_MS, _TOKEN_MS, _EMBEDDING_MS, _LOOK_UP_MS, _FAILURE_MS = 80.0, 8.0, 15.0, 40.0, 20.0


class ModelUnavailable(Exception):
    """The model refused to answer, as one that is overloaded does."""

    def __init__(self) -> None:
        super().__init__("the model is overloaded (simulated)")


class SimulatedModel:
    """Answers made of a few words, token by token; of a share of its calls none, but ModelUnavailable.

    The words follow from the seed and the question. The times follow from the seed and the number of the
    call: the same question asked again takes another time, and a run with the same calls meets the same
    times again (in the order in which the calls arrive).
    """

    def __init__(self, seed: int, speed: float, failure_share: float = 0.0) -> None:
        self._seed, self._speed, self._failure_share = seed, speed, failure_share
        self._calls = itertools.count()

    async def stream(self, question: str) -> AsyncGenerator[str]:
        """Yield the answer's tokens, each after its simulated time."""
        words, times = random.Random(f"{self._seed}:{question}"), self._times()
        await self._maybe_fail(times)
        await self._wait(times, _TTFT_MS)
        yield "[simulated model]"
        for _ in range(words.randint(20, 60)):
            await self._wait(times, _TOKEN_MS)
            yield " " + words.choice(_WORDS)

    async def embed(self, text: str, dimensions: int) -> list[float]:
        """A unit vector; texts that share words are near each other."""
        times = self._times()
        await self._maybe_fail(times)
        await self._wait(times, _EMBEDDING_MS)
        words = re.findall(r"\w+", text.lower()) or [""]
        total = np.sum([_direction(word, self._seed, dimensions) for word in words], axis=0)
        unit: list[float] = (total / np.linalg.norm(total)).tolist()
        return unit

    async def look_up(self, handle: str) -> dict[str, int]:
        """What the provider of a model says of it: the window (tokens) and the embedding's dimensions."""
        await self._wait(self._times(), _LOOK_UP_MS)
        return USUAL_MODEL

    def _times(self) -> random.Random:
        return random.Random(f"{self._seed}:call {next(self._calls)}")

    async def _maybe_fail(self, rng: random.Random) -> None:
        if self._failure_share and rng.random() < self._failure_share:
            await self._wait(rng, _FAILURE_MS)
            raise ModelUnavailable

    async def _wait(self, rng: random.Random, median_ms: float) -> None:
        if self._speed > 0:
            await asyncio.sleep(rng.lognormvariate(0, 0.3) * median_ms / 1000 / self._speed)


@lru_cache(maxsize=4096)
def _direction(word: str, seed: int, dimensions: int) -> npt.NDArray[np.float32]:
    """Where a word points: a Gaussian vector drawn from its letters."""
    numbers = np.random.default_rng([seed, *word.encode()])
    return numbers.standard_normal(dimensions, dtype=np.float32)
