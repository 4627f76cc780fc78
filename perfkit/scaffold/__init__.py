"""A scenario and its YAML to begin with: from nothing, an OpenAPI description or a recording (HAR)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from perfkit import safe_yaml
from perfkit.drive.workloads import try_target
from perfkit.errors import BadInput
from perfkit.model import Target
from perfkit.scaffold import har, openapi
from perfkit.scaffold.api import READING, Api, identifier
from perfkit.scaffold.source import EMPTY, header_variables, scenario_of, token_variable, yaml_of
from perfkit.store import read_regular

__all__ = ["Written", "write_scenario"]

_LARGEST = 100 * 2**20  #: bytes of a file that is read
_SUFFIXES = (".py", ".yaml", ".yml")


class Written(NamedTuple):
    """What was written. variables: of the environment, which the scenario needs; notes: what was left out."""

    scenario: Path
    workload: Path
    operations: int
    variables: tuple[str, ...]
    notes: tuple[str, ...]


def write_scenario(name: str, source: Path | None = None, target: str | None = None) -> Written:
    """Write NAME.py and NAME.yaml, of which neither may exist; BadInput for what cannot be read or written.

    source: an OpenAPI 3 description (JSON or YAML) or a HAR. target: its base URL in place of the source's.
    """
    base = Path(name).with_suffix("") if name.endswith(_SUFFIXES) else Path(name)
    if not re.fullmatch(r"[A-Za-z][\w-]*", base.name, re.ASCII):
        raise BadInput(f"{name!r:.80}: a name has letters, digits, - and _, and begins with a letter")
    scenario, workload = base.with_name(f"{base.name}.py"), base.with_name(f"{base.name}.yaml")
    for file in (scenario, workload):
        if file.exists() or file.is_symlink():
            raise BadInput(f"{file} exists already: choose another name, or move it away")
    if target is not None:
        try_target(Target(url=target))
    names, stem = (str(workload), scenario.name), identifier(base.name)
    if source is None:
        text = EMPTY.format(path='"/"' if target else '"/v1/health/"')
        texts, written = (text, yaml_of(*names, target, "read", None)), Written(scenario, workload, 1, (), ())
    else:
        api = _read(source)
        token = token_variable(stem) if api.token else None
        first = next((one for one in api.operations if one.method in READING), api.operations[0])
        origin = target or api.origin or "http://127.0.0.1:8000"
        texts = scenario_of(api, str(source), stem), yaml_of(*names, origin, first.name, token)
        needed = (*header_variables(api, stem).values(), *([token] if token else ()))
        written = Written(scenario, workload, len(api.operations), needed, api.notes)
    for file, text in zip((scenario, workload), texts, strict=True):
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise BadInput(f"cannot write {file}: {error.strerror}") from None
    return written


def _read(source: Path) -> Api:
    """The operations in a file, whatever it is."""
    document = _document(source)
    if "log" in document:
        return har.read(document, source.name)
    if document.keys() & {"openapi", "swagger"}:
        return openapi.read(document, source.name)
    raise BadInput(f"{source} is neither an OpenAPI description (openapi: 3…) nor a HAR (log: …)")


def _document(source: Path) -> Mapping[Any, Any]:
    try:
        text = read_regular(source, _LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"cannot read {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{source}: not UTF-8 text") from None
    try:
        found = json.loads(text) if text.lstrip()[:1] == "{" else safe_yaml.load(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source}: broken JSON: {error}") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it contains a control character"
        raise BadInput(f"{source}: not YAML that can be read ({problem}); as JSON it may be larger") from None
    if not isinstance(found, Mapping):
        raise BadInput(f"{source}: expected an OpenAPI description (openapi: 3…) or a HAR (log: …)")
    return found
