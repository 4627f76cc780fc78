"""A setup's state as JSON and back: plain data, and dataclasses of the scenario's file or of perfkit's.

A class is named, never sent: the other side takes the one that its own copy of the file defines.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import operator
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from perfkit.errors import BadInput

_ATOMS = (str, bool, int, type(None))
#: Levels of a state, which is read by functions that call themselves.
_DEEPEST = 100
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}


def to_plain(value: Any, module: ModuleType, where: str = "state", depth: int = 0) -> Any:
    """Return what JSON can hold of a state; BadInput, with the place, for what it cannot."""
    kind = type(value)
    if depth > _DEEPEST:
        raise _unsendable(f"{where:.80} … is nested more than {_DEEPEST} levels deep, or holds itself")
    if kind is str and not value.isascii():
        _require_utf8(value, where)
    if kind is int and not -(2**63) <= value < 2**63:
        return {"$int": str(value)}
    if kind in _ATOMS or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {"$float": repr(value)}
    if kind is list:
        return [to_plain(one, module, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        return {f"${kind.__name__}": to_plain(list(value), module, where, depth)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping) and (kind is dict or kind.__name__ == "mappingproxy"):
        return _mapping(value, module, where, depth + 1)
    if kind is np.ndarray and value.dtype.kind in "biuf" and value.ndim == 1:
        return {"$array": value.dtype.str, "of": base64.b64encode(value.tobytes()).decode()}
    if dataclasses.is_dataclass(value) and _is_known(kind, module):
        # a dataclass may hold more than its fields, or less
        held = {name: getattr(value, name) for name in _names(value) if hasattr(value, name)}
        return _object(kind, module, held, where, depth + 1)
    if isinstance(value, tuple) and hasattr(kind, "_fields") and _is_known(kind, module):
        return _object(kind, module, dict(zip(kind._fields, value, strict=True)), where, depth + 1)
    raise _unsendable(f"{where} is a {kind.__name__}")


def _unsendable(what: str) -> BadInput:
    return BadInput(
        f"setup returned a state that cannot be sent to other hosts: {what}; return"
        " numbers, texts, lists, mappings, and dataclasses that the scenario's file defines"
    )


def _require_utf8(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unsendable(f"{where} is a text with a lone surrogate, {text!r:.40}") from None


def from_plain(plain: Any, module: ModuleType) -> Any:
    """The inverse of `to_plain`, with the classes of another copy of the scenario's file."""
    if isinstance(plain, list):
        return [from_plain(one, module) for one in plain]
    if not isinstance(plain, dict):
        return plain
    sign = next(iter(plain), "")
    if not sign.startswith("$"):
        return {name: from_plain(one, module) for name, one in plain.items()}
    value = plain[sign]
    match sign[1:]:
        case "float":
            return float(value)
        case "int":
            return int(value)
        case "bytes":
            return base64.b64decode(value)
        case "mapping":
            return {from_plain(key, module): from_plain(one, module) for key, one in value}
        case "array":
            return np.frombuffer(base64.b64decode(plain["of"]), np.dtype(value)).copy()
        case "class":
            return _made(plain, module)
        case name:
            return _SEQUENCES[name](from_plain(value, module))


def _mapping(value: Mapping[Any, Any], module: ModuleType, where: str, depth: int) -> Any:
    keys = [to_plain(key, module, f"a key of {where}", depth) for key in value]
    held = [to_plain(one, module, f"{where}[{key!r:.40}]", depth) for key, one in value.items()]
    texts = all(type(key) is str for key in value)
    if texts and not next(iter(value), "").startswith("$"):
        return dict(zip(keys, held, strict=True))
    pairs = [list(pair) for pair in zip(keys, held, strict=True)]
    return {"$mapping": pairs}


def _names(value: Any) -> list[str]:
    """Of fields, and of whatever else was set on a dataclass."""
    names = [one.name for one in dataclasses.fields(value)]
    return list(dict.fromkeys([*names, *getattr(value, "__dict__", ())]))


def _is_known(kind: type, module: ModuleType) -> bool:
    """Whether the other side has this class: by its own name, in the scenario's file or in perfkit."""
    home = sys.modules.get(kind.__module__)
    ours = kind.__module__ == module.__name__ or kind.__module__.startswith("perfkit.")
    try:
        return ours and operator.attrgetter(kind.__qualname__)(home) is kind
    except AttributeError:  # made inside a function
        return False


def _object(
    kind: type, module: ModuleType, held: Mapping[str, Any], where: str, depth: int
) -> dict[str, Any]:
    home = "" if kind.__module__ == module.__name__ else kind.__module__
    plain = {name: to_plain(value, module, f"{where}.{name}", depth) for name, value in held.items()}
    return {"$class": kind.__qualname__, "of": home, "held": plain}


def _made(plain: Mapping[str, Any], module: ModuleType) -> Any:
    home: Any = module
    if plain["of"]:
        if not plain["of"].startswith("perfkit."):
            raise BadInput(f"{plain['of']!r:.80} is no module of perfkit")
        __import__(plain["of"])
        home = sys.modules[plain["of"]]
    kind = operator.attrgetter(plain["$class"])(home)
    held = {name: from_plain(one, module) for name, one in plain["held"].items()}
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return kind(**held)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise BadInput(f"{plain['$class']!r:.80} is no dataclass")
    found = object.__new__(kind)
    for name, value in held.items():
        object.__setattr__(found, name, value)
    return found
