"""The operations a scenario's requests will have, read from its source where that is certain."""

from __future__ import annotations

import ast
from pathlib import Path

from perfkit.drive.scenario import Scenario

_SENDS = frozenset({"get", "post", "put", "patch", "delete", "request"})
_OTHERS = frozenset({"on_teardown", "headers", "local", "user", "iteration", "seed", "run_tag", "redact"})
_OTHERS |= {"cookies", "data", "group"}
_SESSION = "session"


def operations_of(scenario: Scenario) -> frozenset[str] | None:
    """Return the names of all operations in a scenario's file, None where they are not certain.

    They are where each use of `session` is a request with `name="…"` written out, something that sends
    nothing, or an argument named `session` again, of a function of the same file.
    """
    try:
        tree = ast.parse(Path(str(scenario.module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    functions = {
        node.name: [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    entered = {name: arguments[0] for name, arguments in functions.items() if arguments and name in _ENTRIES}
    if any(first != _SESSION for first in entered.values()):
        return None
    found: set[str] = set()
    certain = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if (name := _name_of(node)) is not None:
                found.add(name)
                certain += 1
            certain += sum(_hands_on(node, place, functions) for place in range(len(node.args)))
        elif isinstance(node, ast.Attribute) and node.attr in _OTHERS and _is_session(node.value):
            certain += 1
    uses = sum(isinstance(node, ast.Name) and node.id == _SESSION for node in ast.walk(tree))
    return frozenset(found) if found and certain == uses else None


def most_requests(scenario: Scenario) -> int | None:
    """Return how many requests a step sends at most, None where its source does not make that certain.

    It does where every use of `session` sends one request or nothing, and nothing is done again and again.
    """
    try:
        tree = ast.parse(Path(str(scenario.module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    steps = [one for one in tree.body if isinstance(one, ast.AsyncFunctionDef) and one.name == "step"]
    nodes = [node for step in steps for node in ast.walk(step)]
    again = any(isinstance(node, _AGAIN) for one in steps for part in one.body for node in ast.walk(part))
    sends = others = uses = 0
    for node in nodes:
        uses += isinstance(node, ast.Name) and node.id == _SESSION
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and _is_session(called.value):
            sends += called.attr in _SENDS
        again |= isinstance(node, ast.keyword) and node.arg in ("follow_redirects", None)
        if isinstance(node, ast.Attribute) and _is_session(node.value):
            others += node.attr in _OTHERS
    first = [argument.arg for step in steps for argument in step.args.args[:1]]
    return sends if first == [_SESSION] and not again and uses == sends + others else None


_AGAIN = (
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.comprehension,
    ast.Lambda,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
)
_ENTRIES = ("setup", "step", "teardown")


def _is_session(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == _SESSION and isinstance(node.ctx, ast.Load)


def _name_of(call: ast.Call) -> str | None:
    """The operation of `session.get(…, name="…")`, None for anything else."""
    function = call.func
    if not (isinstance(function, ast.Attribute) and function.attr in _SENDS and _is_session(function.value)):
        return None
    given = [one.value for one in call.keywords if one.arg == "name"]
    literal = given[0] if given else None
    if isinstance(literal, ast.Constant) and isinstance(literal.value, str) and literal.value:
        return literal.value
    return None


def _hands_on(call: ast.Call, place: int, functions: dict[str, list[str]]) -> bool:
    """Whether an argument is the session, of a function of this file that calls it so too."""
    if not (_is_session(call.args[place]) and isinstance(call.func, ast.Name)):
        return False
    return functions.get(call.func.id, [])[place : place + 1] == [_SESSION]
