"""Notebooks by name, and the parameters they declare: what is unknown or of the wrong kind is refused."""

from __future__ import annotations

import ast
import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import BadInput, not_imported, unknown
from perfkit.plain_data import require_plain
from perfkit.store import as_path, require_regular, shipped

_ONE_OF = re.compile(r"one of:\s*(.+)")
_FROM_TO = re.compile(r"from (\d+) to (\d+)")


#: What else a parameter takes, by the type of its default.
_WIDER = {float: (float, int), list: (list, tuple), tuple: (list, tuple)}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook: its name, default, and the values allowed, if its comment lists them."""

    name: str
    default: object
    allowed: tuple[str, ...] = ()
    limits: tuple[int, int] | None = None


def notebook_path(name: str) -> Path:
    """A notebook that comes with perfkit, by name."""
    known = {p.stem: p for p in sorted(shipped("notebooks").glob("*.ipynb"))}
    if name.removesuffix(".ipynb") not in known:
        raise unknown("notebook", name, known)
    return known[name.removesuffix(".ipynb")]


def notebook_given(notebook: object) -> Path:
    """The path of a notebook that was given by its path, or by the name of one that comes with perfkit."""
    path = as_path(notebook, "notebook")
    return path if path.suffix else notebook_path(str(path))


def parameters_of(notebook: Path) -> list[Parameter]:
    """The parameters a notebook declares in its cell tagged `parameters`.

    `# one of: a, b` and `# from 1 to 9` limit one.
    """
    papermill = jupyter("papermill")
    try:
        found = papermill.inspect_notebook(str(require_regular(notebook)))
    except FileNotFoundError:
        raise BadInput(f"no notebook {notebook}") from None
    except OSError as error:
        raise BadInput(f"cannot read {notebook}: {error.strerror}") from None
    except Exception as error:
        raise BadInput(f"{notebook} is not a notebook: {str(error).splitlines()[0]:.120}") from None
    return [_parameter(p) for p in found.values()]


def _parameter(found: Mapping[str, Any]) -> Parameter:
    try:
        default = ast.literal_eval(str(found["default"]))
    except (ValueError, SyntaxError):
        default = None  # an expression: any value goes
    told = str(found.get("help") or "")
    words, numbers = _ONE_OF.search(told), _FROM_TO.search(told)
    allowed = tuple(word.strip() for word in words[1].split(",")) if words else ()
    limits = (int(numbers[1]), int(numbers[2])) if numbers else None
    return Parameter(str(found["name"]), default, allowed, limits)


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was given; BadInput for the first parameter the notebook lacks or whose value does not fit."""
    if not isinstance(given, Mapping):
        raise BadInput(f"parameters: expected names with values, such as {{'bins': 50}}, got {given!r:.60}")
    require_plain(given, notebook.name)
    known = {p.name: p for p in parameters_of(notebook)}
    for name, value in given.items():
        if name not in known:
            raise unknown(f"parameter of {notebook.name}:", str(name), known)
        _check_value(notebook.name, known[name], value)
    return given


def _check_value(notebook: str, parameter: Parameter, value: object) -> None:
    default = parameter.default
    if default is None:
        return
    wanted: tuple[type, ...] = _WIDER.get(type(default), (type(default),))
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
        kind = kinds.get(type(default), type(default).__name__)
        raise BadInput(f"{notebook}: {parameter.name} takes {kind} (default {default!r}), not {value!r:.80}")
    if parameter.limits and not parameter.limits[0] <= value <= parameter.limits[1]:  # type: ignore[operator]
        low, high = parameter.limits
        raise BadInput(f"{notebook}: {parameter.name} takes {low} to {high}, not {value!r:.80}")
    if parameter.allowed and value not in parameter.allowed:
        raise unknown(f"value of {notebook}, {parameter.name}:", str(value), parameter.allowed)


def jupyter(name: str) -> Any:
    """A module that reads notebooks, imported without a grammar of IRIs, of which no notebook has one.

    jsonschema would take a second to load it, where JupyterLab is installed too. Papermill logs paths,
    parameters it does not know and what it raises; all are said better here.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    with not_imported("rfc3987_syntax"):
        return importlib.import_module(name)
