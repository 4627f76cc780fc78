"""A scenario's source and its YAML, from an API or from nothing. Foreign text is in literals only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from perfkit.scaffold.api import DEEPEST, NO_BODY, READING, Api, Operation, identifier
from perfkit.text import plain

_DOC = 150  #: characters of foreign text in a docstring

EMPTY = '''\
"""Say here what one virtual user does. `perfkit new` wrote this file: change all of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Params:
    """What the YAML's params, or -p NAME=VALUE, may change."""

    path: str = {path}


async def step(session, params, rng):
    """One virtual user's turn, repeated for as long as the load lasts. Every request is a row of the run."""
    # name: what reports and thresholds call it; check: False, or a text, makes the row a failure
    answer = await session.get(params.path, name="read", check=lambda answer: len(answer.content) > 0)
    answer.raise_for_status()  # ends the step when the request has failed; it is a row either way

    # made = await session.post("/notes", json={{"text": f"note {{rng.randrange(1000)}}"}}, name="create")
    # note = made.raise_for_status().json()["id"]
    # session.on_teardown("DELETE", f"/notes/{{note}}")  # sent when the run is over


# async def setup(session, params):
#     """Called once before the load; what it returns is the second argument of every step."""
#     return params
'''
_YAML = """\
#   perfkit run {file} --once    one step, each request shown
#   perfkit run {file}           the load below
scenario: {scenario}
{target}
users:               # virtual users, each waiting for its answer
  count: 10
  duration_s: 10s
# arrivals:          # or, in place of users, starts at a rate, whatever the server does
#   rate_per_s: 200
#   duration_s: 30s
thresholds:          # missed: exit code 4
  - error_rate < 1 %
# - p95 < 300 ms
# - p95({operation}) < 300 ms
"""


def yaml_of(file: str, scenario: str, origin: str | None, operation: str, token: str | None) -> str:
    """Return a workload of a scenario; token: the environment variable of a bearer token."""
    if origin is None:
        target = (
            "server: {}           # an example server of perfkit's own; for yours, in place of this line:\n"
            "# target: http://127.0.0.1:8000"
        )
    elif token:
        target = f"target:\n  url: {json.dumps(origin)}\n"
        target += f"  token_env: {token}   # sent as Authorization: Bearer …"
    else:
        target = f"target: {json.dumps(origin)}"
    return _YAML.format(file=file, scenario=json.dumps(scenario), target=target, operation=operation)


def token_variable(stem: str) -> str:
    """Return the environment variable of a scenario's bearer token."""
    return f"{stem}_TOKEN".upper()


def header_variables(api: Api, stem: str) -> dict[str, str]:
    """Return the environment variables of a scenario's secret headers, by header."""
    return {name: f"{stem}_{identifier(name)}".upper() for name in api.secrets}


def scenario_of(api: Api, where: str, stem: str) -> str:
    """Return a scenario with a function for each operation, and a step that calls those that only read."""
    variables = header_variables(api, stem)
    blocks = [_beginning(api, where, bool(variables))]
    if variables:
        blocks.append(
            "#: Headers whose values come from environment variables: they are in no file.\n"
            f"HEADERS = {_literal(variables)}\n"
        )
    blocks += [_params(api), *(_function(one) for one in api.operations)]
    if variables:
        blocks.append(_SETUP)
    return "\n\n".join([*blocks, _step(api, bool(variables))])


def _beginning(api: Api, where: str, headers: bool) -> str:
    notes = "".join(f"\n- {_doc(note)}" for note in api.notes)
    examples = f"The examples are made up or recorded: put in values that your server takes.{notes}"
    lines = [f'"""{_doc(api.title)}: made from {_doc(where)}, to be edited.', "", examples, '"""', ""]
    lines += ["import os"] if headers else []
    lines += ["from dataclasses import dataclass"]
    lines += ["from urllib.parse import quote"] if any(one.values for one in api.operations) else []
    return "\n".join(lines) + "\n"


def _params(api: Api) -> str:
    values: dict[str, str] = {}
    for one in api.operations:
        for name, example in one.values.items():
            values.setdefault(identifier(name), example)
    fields = [f"    {name}: str = {_literal(example)}" for name, example in values.items()]
    doc = '    """Values in paths; the YAML\'s params, or -p NAME=VALUE, change them."""\n\n'
    empty = '    """What the YAML\'s params, or -p NAME=VALUE, may change: nothing yet."""'
    return "@dataclass(frozen=True)\nclass Params:\n" + (doc + "\n".join(fields) if fields else empty) + "\n"


def _function(one: Operation) -> str:
    lines = [f"async def {one.name}(session, params):"]
    lines.append(f'    """{_doc(f"{one.method} {one.path}: {one.doc}").rstrip(": ")}"""')
    arguments = [repr(one.method).replace("'", '"'), _path(one)]
    for name, value in (("params", one.query), ("headers", one.headers)):
        arguments += [f"{name}={_literal(value, 2)}"] if value else []
    if one.json is not NO_BODY:
        lines.append(f"    body = {_literal(one.json, 1)}")
        arguments.append("json=body")
    elif one.content is not None:
        lines.append(f"    body = {_literal(one.content)}")
        arguments.append("content=body")
    arguments.append(f"name={_literal(one.name)}")
    call = f"    return await session.request({', '.join(arguments)})"
    if len(call) > 110 or "\n" in call:
        inner = ",\n        ".join(arguments)
        call = f"    return await session.request(\n        {inner},\n    )"
    return "\n".join([*lines, call]) + "\n"


def _path(one: Operation) -> str:
    pieces = [
        f'quote(params.{identifier(piece)}, safe="")' if place % 2 else _literal(piece)
        for place, piece in enumerate(one.parts)
        if piece or not place % 2
    ]
    return " + ".join(piece for piece in pieces if piece != '""')


_SETUP = '''\
async def setup(session, params):
    """Look for what is needed once, before the load."""
    missing = [variable for variable in HEADERS.values() if variable not in os.environ]
    if missing:
        raise RuntimeError(f"export {missing[0]}=… first")
    return params
'''


_STEP = '''\
async def step(session, params, rng):
    """One virtual user's turn. What changes data on the server is for you to uncomment."""'''
_HEADERS = "    session.headers = {name: os.environ[variable] for name, variable in HEADERS.items()}"
_NOTHING_READS = '    raise NotImplementedError("every operation changes data: uncomment what a step does")'


def _step(api: Api, headers: bool) -> str:
    lines = [_STEP, _HEADERS] if headers else [_STEP]
    calls = [(one.method in READING, f"await {one.name}(session, params)") for one in api.operations]
    lines += [f"    {call}" if reads else f"    # {call}" for reads, call in calls]
    if not any(reads for reads, _ in calls):
        lines.append(_NOTHING_READS)
    return "\n".join(lines) + "\n"


def _doc(text: str) -> str:
    """Foreign text inside a docstring."""
    return plain(text, most=_DOC).replace("\\", "/").replace('"', "'").strip()


def _literal(value: Any, depth: int = 0) -> str:
    """A value as Python writes it, on lines of their own where it is long; None where nested too deep."""
    if value is None or depth > DEEPEST or (isinstance(value, float) and not math.isfinite(value)):
        return "None"
    if isinstance(value, Mapping):
        pieces = [f"{_literal(str(name))}: {_literal(one, depth + 1)}" for name, one in value.items()]
        return _joined("{", pieces, "}", depth)
    if isinstance(value, list | tuple):
        return _joined("[", [_literal(one, depth + 1) for one in value], "]", depth)
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    return repr(value) if isinstance(value, int | float) else repr(str(value))


def _joined(begin: str, pieces: list[str], end: str, depth: int) -> str:
    short = f"{begin}{', '.join(pieces)}{end}"
    if len(short) <= 80 and "\n" not in short:
        return short
    inner = "".join(f"{'    ' * (depth + 1)}{piece},\n" for piece in pieces)
    return f"{begin}\n{inner}{'    ' * depth}{end}"
