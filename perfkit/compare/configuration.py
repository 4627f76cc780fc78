"""What a run was made with: may runs be compared with one another?"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from perfkit.errors import BadInput, unknown
from perfkit.model import Arrivals, Spread, Target, Users
from perfkit.store import Metadata, Run, fidelity

#: What must be the same in all runs, by its name in a workload; `server`, seed and the code may differ.
_SAME = ("scenario", "params", "users", "arrivals", "warmup_s", "processes", "spread", "slo")
_DEFAULTS = {"users": dataclasses.asdict(Users()), "arrivals": dataclasses.asdict(Arrivals())}
#: Of a spread, where the load comes from; the rest says where rows lie and how shards are reached.
_SAME_SPREAD = ("on", "processes_per_host")
#: Of a target of an earlier version, which had none of these.
_NEW = {"retry_backoff_s": 0.0, "cookies": False}
#: Names that only the workload knows.
_NAMED = re.compile(r"(params|mix)\..+").fullmatch
#: Ends the name of what a scenario file held, beside the name of its path.
CONTENT = "scenario.sha256"
_OF_HOST = ("name", "cpus", "cpu_model")
_SAME_TARGET = (
    "url",
    "transport",
    "http2",
    "proxy",
    "follow_redirects",
    "retries",
    "retry_backoff_s",
    "cookies",
    "timeout_s",
    "connections",
)


def configuration(run: Run) -> dict[str, Any]:
    """What must be the same for runs to be compared: dotted name -> value."""
    return configuration_of(run.meta)


def configuration_of(meta: Metadata) -> dict[str, Any]:
    """Return what must be the same, from what run.json says or would say."""
    found: dict[str, Any] = {"schema": meta.schema}
    found |= {f"host.{name}": meta.host.get(name) for name in _OF_HOST}
    for name in _SAME:
        value = meta.workload.get(name)
        if name in _DEFAULTS and isinstance(value, Mapping):  # an earlier version may not have had all
            value = {**_DEFAULTS[name], **value}
        if name == "spread" and isinstance(value, Mapping):
            value = {inner: value.get(inner) for inner in _SAME_SPREAD}
            if str(value["on"]).startswith("local:"):  # which is what `processes` says
                value = None
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
            if value.get("sha256"):  # the same file by another name is the same
                found.pop(f"{name}.file", None)
        else:
            found[name] = value
    for one in _mix(meta):
        called = str(one.get("name") or one.get("scenario"))
        if called.endswith(".py") and not one.get("name"):  # by its name, wherever the file lies
            called = PurePath(called).stem
        found |= _flat(f"mix.{called}", one)
        if digest := meta.scenario.sha256.get(called):
            found[f"mix.{called}.{CONTENT}"] = digest
    if found.get("scenario") and (digest := meta.scenario.sha256.get(meta.scenario.name)):
        found[CONTENT] = digest
    found |= {f"target.{name}": meta.target.get(name, _NEW.get(name)) for name in _SAME_TARGET}
    if meta.own_server:
        found["target.url"] = "the server perfkit starts"
    if meta.experiment and meta.experiment.duet:
        found["duet"] = "beside another run"
    return found | fidelity.configuration(meta)


def _mix(meta: Metadata) -> list[Mapping[str, Any]]:
    entries = meta.workload.get("mix")
    return [one for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Nested mappings by dotted names."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for inner, one in value.items() for k, v in _flat(f"{name}.{inner}", one).items()}


def refuse_unknown(vary: Iterable[str]) -> None:
    """BadInput for a name that is no part of a configuration, with the nearest one that is."""
    sections = {"users": Users, "arrivals": Arrivals, "target": Target, "spread": Spread}
    known = {"schema", "mix", *_SAME, *sections, "host", *(f"target.{name}" for name in _SAME_TARGET)}
    known |= {f"host.{name}" for name in _OF_HOST}
    known |= {
        f"{s}.{f.name}" for s in ("users", "arrivals", "spread") for f in dataclasses.fields(sections[s])
    }
    for name in vary:
        if name not in known and (inner := sorted(one for one in known if one.endswith(f".{name}"))):
            raise BadInput(f"unknown name in --vary: {name!r:.80}; did you mean {' or '.join(inner)}?")
        if name not in known and not _NAMED(name):
            raise unknown("name in --vary:", name, {*known, "params.NAME"})


def differences_within(side: Iterable[Run]) -> list[str]:
    """In what the runs of one side differ: nothing may, the options of the server perfkit starts included."""
    return lines_of([configuration(run) | _server(run) for run in side])


def _server(run: Run) -> dict[str, Any]:
    return {f"server.{name}": value for name, value in run.meta.server_options.items()}


def differences(runs: Iterable[Run], vary: Iterable[str] = ()) -> list[str]:
    """In which of these the runs differ though they should not, one line each; `vary` names what may."""
    return lines_of([configuration(run) for run in runs], tuple(vary))


def lines_of(found: list[dict[str, Any]], allowed: tuple[str, ...] = ()) -> list[str]:
    """In which names these configurations differ, one line each; a file by its content where all tell it."""
    lines = []
    for name in dict.fromkeys(name for one in found for name in one if not name.endswith(CONTENT)):
        if any(name == free or name.startswith(f"{free}.") for free in allowed):
            continue
        values = [repr(one.get(name, fidelity.OWN.get(name))) for one in found]
        contents = [one.get(f"{name}.sha256") for one in found] if name.endswith("scenario") else []
        by_content = bool(contents) and all(contents)
        seen = list(dict(zip(contents if by_content else values, values, strict=True)).values())
        if len(seen) > 1:
            more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
            more += ", whose content differs" if by_content else ""
            lines.append(f"different {name}: {' and '.join(s[:80] for s in seen[:3])}{more}")
    return lines
