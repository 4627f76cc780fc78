"""One GET: the smallest example, for any server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfkit.session import Session


@dataclass(frozen=True)
class Params:
    path: str = "/v1/health/"


async def step(session: Session, params: Params, rng: Any) -> None:
    await session.get(params.path, name="get")
