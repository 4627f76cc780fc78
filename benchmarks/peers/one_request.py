"""One GET or one POST of a small JSON body: the scenario perfkit is compared with its peers by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # an earlier commit has it elsewhere
    from perfkit.drive.session import Session


@dataclass(frozen=True)
class Params:
    method: str = "GET"
    body: dict[str, str] = field(default_factory=dict)


async def step(session: Session, params: Params, rng: Any) -> None:
    if params.method == "GET":
        await session.get("/bench", name="get")
    else:
        await session.post("/bench", json=params.body, name="post")
