"""Mappings, as YAML and JSON have them, to dataclasses; what is wrong is one line with the way out."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from perfkit.durations import EXAMPLES, duration_ns, how_to_write
from perfkit.errors import BadInput, unknown
from perfkit.plain_data import require_plain
from perfkit.redaction import is_secret_name, masked, masked_text
from perfkit.stages import SOME_STAGES
from perfkit.suggestions import nearest

T = TypeVar("T")


def convert(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """Turn a mapping into the dataclass `cls`, refusing unknown names and wrong types in one line each.

    Times with a unit are numbers of the unit that ends their name: `duration_s: 2m` is 120.
    """
    if not isinstance(given, Mapping):
        raise BadInput(f"{where}: expected names with values, got {_shown(given)}")
    require_plain(given, where)
    refuse_unknown_names(cls, given, where)
    given = _with_times(cls, given, where)
    try:
        return msgspec.convert(given, type=cls)
    except msgspec.ValidationError as error:
        if error.__cause__ is not None:  # raised by `__post_init__`
            raise error.__cause__ from None
        what, _, path = str(error).partition(" - at ")
        name = path.replace("key` in `$.", "a name in ").strip("`").removeprefix("$").lstrip(".")
        if what.startswith("Invalid enum value"):
            raise unknown(f"value for {where}, {name}:", *_enum_at(cls, given, name)) from None
        if what.startswith("Expected `object") and (example := _EXAMPLES.get(_PLACE("", name))):
            words = f"expected names with values, such as {example}{_value_at(given, name)}"
            if name == "spread" and isinstance(given.get(name), bool):
                words += "; of a replay it stands below params (-p spread=true)"
            raise BadInput(f"{where}: {name}: {words}") from None
        words = _TYPES(_types_in_words, _BOUND(_in_words, what)) + _value_at(given, name)
        words = _MISSING(r"missing required field `\1`", words)
        if meant := _as_limits(what, name, given):
            words += f"; write thresholds: [{meant}]"
        if _TEXT_FOR_LIST(what) and name in given and not is_secret_name(name):
            words += f"; write {name}: [{_in_list(given[name])}]"
        if _OTHER_FOR_TEXT(what):
            words += "; in YAML a text that looks like one needs quotes: 'off', '010'"
        raise BadInput(f"{where}: {name + ': ' if name else ''}{words}") from None


def refuse_unknown_names(cls: type, given: Mapping[str, Any], where: str, whole: type | None = None) -> None:
    """Raise BadInput for a key of `given`, at any depth, that is no field of `cls`.

    whole: what `cls` is a section of. A class may have SLIPS: what to say of names that it does not have.
    """
    fields = names_of(cls)
    for key, value in given.items():
        if key not in fields:
            raise _unknown_key(cls, str(key), fields, where, whole or cls)
        section = sections_of(cls).get(key)
        if section is None:
            continue
        is_list = key in _LISTS
        if isinstance(value, Mapping) and is_list:
            raise BadInput(f"{where}: {key} is a list, {_LISTS[key]}")
        if isinstance(value, Mapping):
            refuse_unknown_names(section, value, f"{where}, {key}", whole or cls)
        for i, one in enumerate(value if is_list and isinstance(value, list | tuple) else ()):
            if isinstance(one, Mapping):
                refuse_unknown_names(section, one, f"{where}, {key}[{i}]", whole or cls)


def names_of(cls: type) -> list[str]:
    """Return the names that may be given for a dataclass: fields with `compare=False` are not of them."""
    return [field.name for field in dataclasses.fields(cls) if field.compare]


def _unknown_key(cls: type, key: str, fields: Iterable[str], where: str, whole: type) -> BadInput:
    """A BadInput for a key nobody knows: what `cls` says of it, or where else in the whole it may belong."""
    shown = f"unknown parameter in {where}: {key[:80]!r}"
    if words := getattr(cls, "SLIPS", {}).get(key):
        return BadInput(f"{shown}; {words}")
    near = nearest(key, fields)
    if cls is not whole and key in names_of(whole) and (key in sections_of(whole) or not near):
        return BadInput(f"{shown}; it belongs at the top level, beside {where.rpartition(', ')[2]}")
    error = unknown(f"parameter in {where}:", key, fields)
    if cls is not whole or near:
        return error
    inner = [
        f"{name}.{close}"
        for name, section in sections_of(cls).items()
        if (close := nearest(key, names_of(section)))
    ]
    if inner:
        return BadInput(f"{shown}; did you mean {' or '.join(inner)}?")
    more = f"; a scenario's own parameters stand below params (-p {key[:80]}=…)" * ("params" in fields)
    return BadInput(f"{error}{more}")


#: What a list of sections looks like, where one of them was given.
_LISTS = {
    "mix": "an entry for each scenario: mix: [{scenario: read.py, users: {count: 5, duration_s: 30s}}, …]",
    "stages": f"one after the other: {SOME_STAGES}",
}
#: Names of times, and nanoseconds of the unit they end with; rates end with `per_s`.
_TIME = re.compile(r"(?:.*[a-z0-9])?(?<!per)_(ms|s)").fullmatch
_TIME_UNIT = {"s": 1e9, "ms": 1e6}


_hints_of = functools.lru_cache(64)(get_type_hints)  # each evaluates the source of every annotation


def _with_times(cls: type, given: Mapping[str, Any], where: str, path: str = "") -> dict[str, Any]:
    """Return `given` for `cls` with numbers for times written with a unit; BadInput for what is no time."""
    hints = _hints_of(cls)
    timed = {field.name for field in dataclasses.fields(cls) if field.metadata.get("times")}
    found = dict(given)
    for name, value in given.items():
        hint = hints.get(name, str)
        section = _section_of(hint)
        if section is not None and isinstance(value, Mapping):
            found[name] = _with_times(section, value, where, f"{path}{name}.")
        elif section is not None and isinstance(value, list | tuple):
            found[name] = [
                _with_times(section, one, where, f"{path}{name}[{i}].") if isinstance(one, Mapping) else one
                for i, one in enumerate(value)
            ]
        elif name in timed and isinstance(value, Mapping):
            found[name] = {key: _timed(str(key), one, f"{where}: {name}.{key}") for key, one in value.items()}
        elif "str" not in str(hint):
            if "tuple" in str(hint):
                _refuse_range(value, f"{where}: {path}{name}")
            found[name] = _timed(name, value, f"{where}: {path}{name}")
    return found


def sections_of(cls: type) -> dict[str, type]:
    """Return the fields of a dataclass that hold another one, or a list of it, and which."""
    return {name: section for name, hint in _hints_of(cls).items() if (section := _section_of(hint))}


def _section_of(hint: Any) -> type | None:
    """The dataclass in a type such as `Users | None` or `tuple[Part, ...]`, None where there is none."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    return next(filter(None, map(_section_of, get_args(hint))), None)


def _timed(name: str, value: Any, where: str) -> Any:
    """A value, or a list of them, as numbers of the unit that the name ends with, if it is a time's."""
    unit = _TIME(name)
    if unit is None:
        return value
    if isinstance(value, list | tuple):
        return [_time(one, unit[1], where) for one in value]
    return _time(value, unit[1], where)


def _refuse_range(value: Any, where: str) -> None:
    """BadInput for `100ms-200ms` where two times are written as a list."""
    if isinstance(value, str) and (ends := _RANGE(value)):
        raise BadInput(f"{where}: {value!r:.80} is not a time: write [{ends[1].strip()}, {ends[2]}]")


_RANGE = re.compile(
    r"\s*([\d.]+\s*(?:ms|s|m|h)?)\s*(?:-|–|,|to|\.\.)\s*([\d.]+\s*(?:ms|s|m|h)?)\s*", re.ASCII
).fullmatch


def _time(value: Any, unit: str, where: str) -> Any:
    """A text as a number of the unit; whatever else is given stays."""
    if not isinstance(value, str):
        return value
    try:
        return duration_ns(value) / _TIME_UNIT[unit]
    except ValueError:
        meant = how_to_write(value, f"write a number of {unit}, or {EXAMPLES}")
        words = f"{masked_text(value)!r:.80} is not a time: {meant}"
        raise BadInput(f"{where}: {words}") from None


_PLACE = re.compile(r".*\.|\[\d+\]").sub
#: What a section may look like, where something else was given.
_EXAMPLES = {
    "stages": "{duration_s: 10s, to: 20}",
    "users": "users: {count: 20, duration_s: 30s}",
    "arrivals": "arrivals: {rate_per_s: 200, duration_s: 30s}",
    "target": "target: {url: http://127.0.0.1:8000}",
    "params": "params: {path: /}",
    "spread": "spread: {on: 'ssh:host1,host2'}",
}


def _enum_at(cls: type, given: Any, dotted: str) -> tuple[str, tuple[str, ...]]:
    """The refused value and the allowed ones of the Literal field at `dotted`."""
    *sections, name = dotted.split(".")
    for section in sections:
        part, bracket, number = section.partition("[")
        cls, given = _section_of(_hints_of(cls)[part]) or cls, given[part]
        if bracket:
            given = given[int(number[:-1])]
    return str(given[name]), get_args(get_type_hints(cls)[name])


def _types_in_words(found: re.Match[str]) -> str:
    wanted, got = (
        " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | ") if kind != "null" or kinds == kind)
        for kinds in found.groups()
    )
    example = ", such as [a, b]" if wanted == "a list" else ""
    return f"expected {wanted}{example}, got {got}"


def _as_limits(what: str, name: str, given: Mapping[str, Any]) -> str:
    """Limits that are written as names with values, as the texts they should be; empty for anything else."""
    if not name.startswith("thresholds") or ", got `object`" not in what:
        return ""
    limits = given["thresholds"]
    found = []
    for one in limits if isinstance(limits, list | tuple) else [limits]:
        pairs = one.items() if isinstance(one, Mapping) else ()
        found += [f"{key} {'' if str(value).strip()[:1] in '<>=' else '< '}{value}" for key, value in pairs]
        found += [one] if isinstance(one, str) else []
    return masked_text(", ".join(map(_in_list, found)))[:200]


_TEXT_FOR_LIST = re.compile(r"Expected `array( \| null)?`, got `str`").fullmatch

_OTHER_FOR_TEXT = re.compile(r"Expected `str( \| null)?`, got `(bool|int|float)`").fullmatch


def _in_list(text: str) -> str:
    """A text as an entry of a list in YAML, quoted where it needs it."""
    shown = masked_text(text)[:80]
    return repr(shown) if re.search(r"""[][{},#'"]|: |^[%&*!|>@`-]""", shown) else shown


_MISSING = re.compile("Object missing required field `(.*?)`").sub
_TYPES = re.compile(r"Expected `([^`]+)`, got `([^`]+)`").sub
_KINDS = {
    **{"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"},
    **{"array": "a list", "object": "names with values", "null": "nothing"},
}


def _in_words(found: re.Match[str]) -> str:
    kind = {"int": "a whole number", "float": "a number", "array": "a list"}[found[1]]
    relation = {">=": "of at least", "<=": "of at most", ">": "above"}[found[3]]
    return f"expected {kind} {relation} {float(found[4]):,.15g}{' entries' if found[2] else ''}"


_BOUND = re.compile(r"Expected `(int|float|array)`( of length)? (>=|<=|>) (\S+)").sub


def _shown(given: Any) -> str:
    return f"str {masked_text(given)!r:.80}" if isinstance(given, str) else repr(type(given))


def _value_at(given: Any, dotted: str) -> str:
    """What was given at a place, in parentheses; nothing where it may be a secret."""
    for part in dotted.replace("[", ".").replace("]", "").split("."):
        try:
            given = given[int(part)] if isinstance(given, list | tuple) else given[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return ""
        if is_secret_name(part):
            return ""
    return f" (given: {masked(given)!r:.80})"
