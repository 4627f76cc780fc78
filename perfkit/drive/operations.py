"""The operations a scenario's requests will have, read from its source where that is certain."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from perfkit.drive.scenario import Scenario
from perfkit.drive.session import default_name
from perfkit.drive.session.data import read_rows
from perfkit.errors import BadInput

_SENDS = frozenset({"get", "post", "put", "patch", "delete", "request"})
_OTHERS = frozenset({"on_teardown", "headers", "local", "user", "iteration", "seed", "run_tag", "redact"})
_OTHERS |= {"cookies", "data", "group"}
_SESSION = "session"
#: Libraries whose requests perfkit does not see.
_CLIENTS = ("urllib.request", "http.client", "urllib3", "requests", "httpx", "aiohttp")
#: What may be asked of a coroutine that is not awaited.
_OF_COROUTINES = frozenset({"close", "send", "throw"})


def operations_of(scenario: Scenario, params: Any = None) -> frozenset[str] | None:
    """Return the names of all operations in a scenario's file, None where they are not certain.

    They are where each use of `session` is a request with `name="…"` written out, something that sends
    nothing, or an argument named `session` again, of a function of the same file.
    """
    if scenario.ref == "http_request" and params is not None:  # one request, named by its method and path
        return frozenset({default_name(params.method, params.path)})
    if (tree := _tree(scenario)) is None:
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
    if (tree := _tree(scenario)) is None:
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


def require_awaits(scenario: Scenario) -> None:
    """BadInput for a request that a function of the scenario's file makes and surely does not await.

    Nothing is sent then: it stands alone as a statement, something is asked of it at once or by the name it
    is kept under, nobody uses that name, or it is handed to `asyncio.run`.
    """
    tree = _tree(scenario)
    for function in tree.body if tree is not None else ():
        if isinstance(function, ast.AsyncFunctionDef) and (session := _session_of(function)) is not None:
            held = _never_awaited(function)
            for node in ast.walk(function):
                if (slip := _slip(node, session, held)) is not None:
                    call, meant = slip
                    words = f"{session}.{call.attr}(…) is not awaited, so it sends nothing; write {meant}"
                    raise BadInput(f"{scenario.label}, line {call.lineno}: {words}")


def require_files(scenario: Scenario) -> None:
    """BadInput for a data file that a scenario asks for by its written name, and that is surely not there.

    Its setup may make it, and what a step does from its first branch on it may never do: then nothing is said
    before the load. What a user does once only, at first, is not a branch.
    """
    tree = _tree(scenario)
    parts = tree.body if tree is not None else []
    if any(getattr(one, "name", "") == "setup" for one in parts):
        return
    steps = [one for one in parts if isinstance(one, ast.AsyncFunctionDef) and one.name == "step"]
    nodes = (node for step in steps for node in _surely_done(step))
    for call in (node for node in nodes if isinstance(node, ast.Call) and node.args):
        called, name = call.func, getattr(call.args[0], "value", None)
        asked = isinstance(called, ast.Attribute) and called.attr == "data" and _is_session(called.value)
        if asked and isinstance(name, str) and not (scenario.folder / name).exists():
            try:
                read_rows(scenario.folder / name)
            except BadInput as error:
                raise BadInput(f"{scenario.label}, line {call.lineno}: {error}") from None


def _surely_done(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """What each user's first call does: the statements before one that may go another way."""
    parts = list(function.body)
    while parts:
        part = parts.pop(0)
        if isinstance(part, ast.If) and _FIRST_TIME(ast.unparse(part.test)):
            parts = [*part.body, *parts]
            continue
        nodes = list(ast.walk(part))
        if any(isinstance(node, (*_AGAIN, *_MAYBE)) for node in nodes):
            return
        yield from nodes
        if isinstance(part, ast.Return | ast.Raise):
            return


def other_client(scenario: Scenario) -> tuple[str, int] | None:
    """Return the HTTP library that a scenario's file imports and the line where it first uses it, or else the
    line of the import; None where it imports none."""
    tree = _tree(scenario)
    nodes = list(ast.walk(tree)) if tree is not None else []
    names: dict[str, str] = {}  # what the file calls it, by which its uses are found
    lines: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for one in node.names:
                for library in _CLIENTS:
                    if f"{package}{one.name}.".startswith(f"{library}."):
                        names[one.asname or one.name.partition(".")[0]] = library
                        lines.setdefault(library, node.lineno)
    uses = [
        (node.lineno, names[node.id]) for node in nodes if isinstance(node, ast.Name) and node.id in names
    ]
    if uses:
        line, library = min(uses)
        return library, line
    return next(iter(lines.items()), None)


def _session_of(function: ast.AsyncFunctionDef) -> str | None:
    """What the session is called in a function, None where that name also means something else there."""
    arguments = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    name = arguments[0] if arguments and function.name in _ENTRIES else _SESSION
    nodes = list(ast.walk(function))
    bound = sum(isinstance(one, ast.arg) and one.arg == name for one in nodes)
    again = any(
        isinstance(one, ast.Name) and one.id == name and not isinstance(one.ctx, ast.Load) for one in nodes
    )
    return name if bound == 1 and not again else None


def _slip(node: ast.AST, session: str, held: Collection[str]) -> tuple[ast.Attribute, str] | None:
    """The `session.get` of a request that is not awaited in this node, and what was meant; held: names under
    which a request may be kept that is never awaited."""
    name = ""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        asked: ast.expr | None = node.value if name in held else None
    elif isinstance(node, ast.Call):
        asked = node.args[0] if node.args and ast.unparse(node.func) == "asyncio.run" else None
    else:
        asked = node.value if isinstance(node, ast.Expr | ast.Attribute | ast.Subscript) else None
    called = asked.func if isinstance(asked, ast.Call) else None
    if not (isinstance(called, ast.Attribute) and called.attr in _SENDS):
        return None
    if not (isinstance(called.value, ast.Name) and called.value.id == session):
        return None
    sent = f"await {session}.{called.attr}(…)"
    if isinstance(node, ast.Attribute):
        return called, f"({sent}).{node.attr}"
    if isinstance(node, ast.Subscript):
        return called, f"({sent})[…]"
    return called, f"{name} = {sent}" if name else sent


def _never_awaited(function: ast.AsyncFunctionDef) -> frozenset[str]:
    """Names that mean one thing in a function and are used for nothing but an attribute or item of it."""
    nodes = list(ast.walk(function))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = Counter(one.id for one in names if not isinstance(one.ctx, ast.Load))
    loads = Counter(one.id for one in names if isinstance(one.ctx, ast.Load))
    asked = Counter(
        node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute | ast.Subscript)
        and isinstance(node.value, ast.Name)
        and not (isinstance(node, ast.Attribute) and node.attr in _OF_COROUTINES)
    )
    elsewhere = {one.arg for one in nodes if isinstance(one, ast.arg)}
    elsewhere |= {name for one in nodes if isinstance(one, ast.Global | ast.Nonlocal) for name in one.names}
    once = (name for name, count in bound.items() if count == 1 and name not in elsewhere)
    return frozenset(name for name in once if loads[name] == asked[name])


def _tree(scenario: Scenario) -> ast.Module | None:
    """The scenario's source, None where it cannot be read."""
    try:
        return ast.parse(Path(str(getattr(scenario.module, "__file__", ""))).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


_AGAIN = (
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.comprehension,
    ast.Lambda,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
)
_FIRST_TIME = re.compile(r"'[^']*' not in session\.local|not session\.local").fullmatch
_MAYBE = (
    ast.If,
    ast.IfExp,
    ast.BoolOp,
    ast.Match,
    ast.Try,
    ast.TryStar,
    ast.With,
    ast.AsyncWith,
    ast.Assert,
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
