"""Environment variables in a workload file: `${NAME}`, `${NAME:-default}`, and `$${` for a plain `${`.

What a variable gives to headers, `params` and `server`, or to anything named like a secret, is a secret:
run.json has the text as it was written, and the value is removed from everything else that is recorded. What
it gives elsewhere (a URL, a number of users) says what was measured, and stands in run.json as its value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from perfkit import safe_yaml
from perfkit.errors import BadInput
from perfkit.model import Variable
from perfkit.redaction import STARS, is_secret_name, masked_text

_FOUND = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^{}]*))?\})?")
#: Words beside a reference that are no part of a secret.
_SCHEMES = ("", "bearer", "basic", "token")
_SECRET_SECTIONS = ("headers", "params", "server")


def expanded(given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[Variable, ...]]:
    """Return a workload with the values of variables in place of their names, and what is to be kept secret.

    A text that is one reference alone is read as YAML: `${USERS:-5}` is a number, except in headers.
    BadInput for a variable that is not set and has no default, and for what only looks like a reference.
    """
    variables: list[Variable] = []

    def inside(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, str) and "${" in value:
            return _text(value, path, where, variables)
        if isinstance(value, Mapping):
            return {name: inside(one, (*path, name)) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [inside(one, (*path, i)) for i, one in enumerate(value)]
        return value

    return {name: inside(value, (name,)) for name, value in given.items()}, tuple(variables)


def _text(text: str, path: tuple[str | int, ...], where: str, variables: list[Variable]) -> Any:
    secrets: list[str] = []

    def value_of(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        dotted = ".".join(map(str, path))
        if not found[1]:
            shown = masked_text(text[found.start() : found.start() + 40])
            words = "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves"
            raise BadInput(f"{where}: {dotted}: {shown!r}: {words}")
        if value := os.environ.get(found[1]):
            secrets.append(value)
            return value
        if found[2] is None:
            raise BadInput(f"{where}: {dotted} names {found[1]}, which is not set; export {found[1]}=… first")
        return str(found[3])

    value: Any = _FOUND.sub(value_of, text)
    in_headers = "headers" in path
    if (whole := _FOUND.fullmatch(text)) and whole[1] and not in_headers:
        value = _number_or_text(value)
    if any(part in _SECRET_SECTIONS or is_secret_name(str(part)) for part in path):
        variables.append(Variable(path, _shown(text, str(path[-1])), tuple(secrets)))
    return value


def _number_or_text(text: str) -> Any:
    try:
        value = safe_yaml.load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _shown(text: str, name: str) -> str:
    """A text as it was written, without what may be a secret itself: what stands beside the references."""
    if not is_secret_name(name):
        return masked_text(text)
    rest = _FOUND.sub("", text).strip().lower()
    names = _FOUND.sub(lambda found: f"${{{found[1]}}}" if found[1] else found[0], text)
    return names if rest in _SCHEMES else STARS


def put_back(plain: dict[str, Any], variables: Iterable[Variable]) -> None:
    """Write the names of variables over the values they gave, in a mapping laid out like a workload."""
    for variable in variables:
        place: Any = plain
        try:
            for part in variable.path[:-1]:
                place = place[part]
            place[variable.path[-1]]  # it may have been changed since
        except (KeyError, IndexError, TypeError):
            continue
        place[variable.path[-1]] = variable.text
