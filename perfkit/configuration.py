"""What a run was made with: may runs be compared with one another?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perfkit.store import Run

#: What must be the same in all runs, by its name in a workload; `server`, seed and the code may differ.
_SAME = ("scenario", "params", "users", "arrivals", "warmup_s", "processes")
_SAME_TARGET = (
    "url",
    "transport",
    "http2",
    "proxy",
    "follow_redirects",
    "retries",
    "timeout_s",
    "connections",
)


def configuration(run: Run) -> dict[str, Any]:
    """What must be the same for runs to be compared: dotted name -> value."""
    meta = run.meta
    workload, target = meta.get("workload") or {}, meta.get("target") or {}
    host = meta.get("host") or {}
    found: dict[str, Any] = {"schema": meta.get("schema")}
    found |= {f"host.{name}": host.get(name) for name in ("name", "cpus", "cpu_model")}
    for name in _SAME:
        value = workload.get(name)
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    found |= {f"target.{name}": target.get(name) for name in _SAME_TARGET}
    if meta.get("own_server"):
        found["target.url"] = "the server perfkit starts"
    return found


def differences_within(side: Iterable[Run]) -> list[str]:
    """In what the runs of one side differ: nothing may, the options of the server perfkit starts included."""
    return _lines([configuration(run) | _server(run) for run in side], ())


def _server(run: Run) -> dict[str, Any]:
    given = (run.meta.get("workload") or {}).get("server") or {}
    return {f"server.{name}": value for name, value in given.items()}


def differences(runs: Iterable[Run], vary: Iterable[str] = ()) -> list[str]:
    """In which of these the runs differ though they should not, one line each; `vary` names what may."""
    return _lines([configuration(run) for run in runs], tuple(vary))


def _lines(found: list[dict[str, Any]], allowed: tuple[str, ...]) -> list[str]:
    lines = []
    for name in dict.fromkeys(name for one in found for name in one):
        if any(name == free or name.startswith(f"{free}.") for free in allowed):
            continue
        seen = list(dict.fromkeys(repr(one.get(name)) for one in found))
        if len(seen) > 1:
            lines.append(f"different {name}: {' and '.join(s[:80] for s in seen[:3])}")
    return lines
