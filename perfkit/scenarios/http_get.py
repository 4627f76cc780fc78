"""One GET: the smallest example, for any server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.drive.transport import require_path


@dataclass(frozen=True)
class Params:
    path: str = "/v1/health/"

    def __post_init__(self) -> None:
        require_path(self.path)


async def step(session: Session, params: Params, rng: Any) -> None:
    await session.get(params.path, name="get")
