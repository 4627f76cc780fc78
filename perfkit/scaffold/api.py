"""What a description of an API, or a recording of its requests, holds for a scenario."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

#: No body; None is one, JSON's null.
NO_BODY = object()
#: Methods that change nothing on the server.
READING = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_OPERATIONS = 500
_LONGEST_NAME = 60
_TAKEN = frozenset(
    {"setup", "step", "teardown", "load", "session", "params", "rng", "quote", "os", "dataclass"}
)
_PLACEHOLDER = re.compile(r"\{([^{}/]+)\}")


@dataclass(frozen=True)
class Operation:
    """A request of a scenario, with an example of what it sends.

    path: with a placeholder, `{name}`, for each value of `values`, where names are as the file has them.
    """

    name: str  #: an identifier that no other operation has
    method: str
    path: str
    doc: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = NO_BODY
    content: str | None = None  #: any other body

    @property
    def parts(self) -> list[str]:
        """The path in pieces: a text, a name, a text, …; braces without a value are text."""
        found = [""]
        for place, piece in enumerate(_PLACEHOLDER.split(self.path)):
            if place % 2 and piece in self.values:
                found += [piece, ""]
            else:
                found[-1] += f"{{{piece}}}" if place % 2 else piece
        return found


@dataclass(frozen=True)
class Api:
    """Operations and where they go.

    origin: of the server, None where the file does not say. token: whether a bearer token is sent. secrets:
    names of headers whose values come from the environment. notes: what was left out, a line each.
    """

    title: str
    origin: str | None
    operations: tuple[Operation, ...]
    token: bool = False
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def identifier(text: str, taken: Collection[str] = ()) -> str:
    """Return a Python name made of a text, not one of `taken`: `listPets` and `list-pets` are list_pets."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text[:200])
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:_LONGEST_NAME].strip("_") or "unnamed"
    name = f"n_{name}" if name[0].isdigit() else name
    name = f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


#: So deep may an example be nested; Python reads no source with a hundred brackets inside one another.
DEEPEST = 40


def bounded(value: Any, depth: int = 0) -> Any:
    """The value of a JSON document without what is nested deeper than `DEEPEST`, which becomes None."""
    if isinstance(value, dict):
        return {name: bounded(one, depth + 1) for name, one in value.items()} if depth < DEEPEST else None
    if isinstance(value, list):
        return [bounded(one, depth + 1) for one in value] if depth < DEEPEST else None
    return value


def mapping(given: Any) -> Mapping[str, Any]:
    """Return what is given where it is a mapping, an empty one for anything else."""
    return given if isinstance(given, Mapping) else {}
