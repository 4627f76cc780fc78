"""One GET: the smallest example, for any server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session


@dataclass(frozen=True)
class Params:
    path: str = "/v1/health/"

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            hint = "" if "://" in self.path else f"; write /{self.path:.80}"
            raise ValueError(
                f"path starts with / and is relative to the target's url, not {self.path!r:.80}{hint}"
            )


async def step(session: Session, params: Params, rng: Any) -> None:
    await session.get(params.path, name="get")
