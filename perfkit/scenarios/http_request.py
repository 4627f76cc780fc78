"""One request of any method, with a body or without: what `perfkit run URL` sends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from perfkit.drive.session import Session
from perfkit.drive.transport import quote_path, require_path


@dataclass(frozen=True)
class Params:
    method: str = "GET"
    path: str = "/"  #: with its query
    json: Any = None  #: a body, sent as JSON
    body: str = ""  #: a body, sent as it is
    content_type: str = ""  #: of the body; JSON has its own

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z][A-Z-]*", self.method) or self.method == "CONNECT":
            raise ValueError(f"method is one such as GET or POST, in capitals, not {self.method!r:.40}")
        require_path(self.path)
        quote_path(self.path)
        if self.json is not None and self.body:
            raise ValueError("give json or body, not both")


async def step(session: Session, params: Params, rng: Any) -> None:
    headers = {"content-type": params.content_type} if params.content_type else None
    if params.json is None:
        await session.request(params.method, params.path, content=params.body, headers=headers)
    else:
        await session.request(params.method, params.path, json=params.json, headers=headers)
