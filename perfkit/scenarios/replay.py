"""Replay: send the requests of a recording again, each at its instant.

`arrivals: {shape: replay, file: access.log, speed: 2}` says when: the file is an access log of nginx or
Apache, a HAR, a JTL with URLs, a CSV of time, method, path and body, or what another load generator wrote.
Only GET and HEAD are sent unless `methods` says more, and neither cookies nor other secrets unless
`send_secrets` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perfkit.drive.recording import Recording
from perfkit.drive.recording import Wanted as Params
from perfkit.drive.session import Session
from perfkit.model import Arrivals


def load(params: Params) -> dict[str, Any]:
    raise ValueError("give arrivals: {shape: replay, file: FILE}")


def recording(params: Params, arrivals: Arrivals) -> Recording:
    # the readers of all formats are nothing that a worker needs
    from perfkit.importing.recordings import read_recording

    return read_recording(Path(arrivals.file or ""), params, arrivals.speed or 1.0)


async def step(session: Session, recording: Recording, rng: Any) -> None:
    method, path, name, headers, body = recording.operation(session.iteration)
    await session.request(method, path, content=body, headers=dict(headers), name=name)
