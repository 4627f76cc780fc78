"""The tasks of an event loop, and where in the service's code each of them waits."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from perfkit_probes.place import is_of_the_web_server, place_in

_DEEPEST = 200  # of what a task awaits: recursion without an end keeps nobody
_LOOKED_AT = 100  # tasks: with ten thousand, to look at each would block the loop
_RUNNING = (CoroutineType, GeneratorType, AsyncGeneratorType)
#: What `__anext__`, `anext` and `__await__` return: it does not say what it runs, but it refers to it.
_WRAPPERS = frozenset(
    ("anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper")
)


def tasks_of(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[object]]:
    """Return the loop's pending tasks; from any thread, so the set may change while it is read."""
    for _ in range(5):
        try:
            return list(asyncio.all_tasks(loop))
        except RuntimeError:
            continue
    return []


def waits_at(task: asyncio.Task[object]) -> str:
    """Return the service's innermost place in what the task awaits, `file.py:LINE function`."""
    stack = _stack(task)
    return place_in(stack) if stack else "unknown"


def commonest_place(tasks: Sequence[asyncio.Task[object]]) -> str:
    """Return where most of the tasks wait for anything but a client, of 100 of them; empty without any."""
    looked_at = [_stack(task) for task in tasks[:: len(tasks) // _LOOKED_AT + 1]]
    places = Counter(place_in(stack) for stack in looked_at if stack and not is_of_the_web_server(stack))
    return places.most_common(1)[0][0] if places else ""


def _stack(task: asyncio.Task[object]) -> list[tuple[str, int, str]]:
    """What the task awaits, the innermost first: file, line, function."""
    stack: list[tuple[str, int, str]] = []
    awaited: object = task.get_coro()
    while awaited is not None and len(stack) < _DEEPEST:
        for name in ("cr_frame", "gi_frame", "ag_frame"):
            if (frame := getattr(awaited, name, None)) is not None:
                stack.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        awaited = _awaited_by(awaited)
    return stack[::-1]


def _awaited_by(awaited: object) -> object:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(awaited, name):
            return getattr(awaited, name)
    if type(awaited).__name__ not in _WRAPPERS:
        return None
    held = gc.get_referents(awaited)
    return next((one for one in held if isinstance(one, _RUNNING) or type(one).__name__ in _WRAPPERS), None)
