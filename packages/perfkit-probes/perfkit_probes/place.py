"""Which code is meant by a stack: the service's innermost frame, also where that is an installed package."""

from __future__ import annotations

import importlib.util
import sysconfig
import traceback
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType

_PATHS = sysconfig.get_paths()
_PYTHON = tuple({_PATHS[name] for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({_PATHS[name] for name in ("purelib", "platlib")})  # most often inside of `stdlib`
_PROBES = str(Path(__file__).parent)
_FOUND = importlib.util.find_spec("sqlalchemy")  # not imported: a service may do without
_SQLALCHEMY = str(Path(_FOUND.origin or "").parent) if _FOUND else _PROBES


#: Installed packages that carry a service; none of them is one.
_CARRIERS = frozenset(
    {
        "anyio",
        "asgiref",
        "asyncpg",
        "fastapi",
        "granian",
        "gunicorn",
        "h11",
        "httptools",
        "hypercorn",
        "opentelemetry",
        "prometheus_client",
        "psycopg",
        "pydantic",
        "sentry_sdk",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "uvloop",
    }
)
_WEB_SERVERS = frozenset({"granian", "hypercorn", "uvicorn"})
#: What runs an event loop: frames outside of it only started the server.
_LOOP = tuple(
    str(Path(_PATHS["stdlib"], "asyncio", f"{name}.py")) for name in ("base_events", "events", "runners")
)


def place_of(frame: FrameType) -> str:
    """`file.py:LINE function` of the innermost frame of the service; of the innermost at all without one.

    Code that is not installed is the service's. Else it is the package whose code the frameworks called: what
    that calls in turn are its libraries.
    """
    inside = []
    for one, line in traceback.walk_stack(frame):
        if one.f_code.co_filename in _LOOP:
            break
        inside.append((one.f_code.co_filename, line, one.f_code.co_name))
    return place_in(inside or [(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)])


def place_in(stack: Sequence[tuple[str, int, str]]) -> str:
    """Return the service's place in a stack of (file, line, function), innermost first, at least one."""
    found = next((one for one in stack if _is_service(one[0])), None)
    if found is None:
        packages = [_package(one[0]) for one in stack]
        service = next((one for one in reversed(packages) if one and one not in _CARRIERS), None)
        found = stack[packages.index(service)] if service else stack[0]
    return words(*found)


def is_of_the_web_server(stack: Sequence[tuple[str, int, str]]) -> bool:
    """Return whether the innermost code but Python's is a web server's: it waits for a client."""
    packages = (_package(one[0]) for one in stack if _is_service(one[0]) or _package(one[0]))
    return next(packages, "") in _WEB_SERVERS


@lru_cache(maxsize=1000)  # each second it is asked of a hundred stacks
def _package(filename: str) -> str:
    """The installed package a file is of; empty for none."""
    if filename.startswith(_PROBES):
        return ""
    root = next((root for root in _INSTALLED if filename.startswith(root)), None)
    return Path(filename).relative_to(root).parts[0].removesuffix(".py") if root else ""


def words(filename: str, line: int, function: str) -> str:
    """A place in words; the file by its last two parts, which say enough and tell nothing of the machine."""
    return f"{_short(filename)}:{line} {function}"


@lru_cache(maxsize=1000)
def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def caller(frame: FrameType | None, outer: FrameType | None = None) -> tuple[str, int, str] | None:
    """File, line and function of who uses SQLAlchemy; `outer` goes on where a stack ends.

    It may be installed code: so is a service that was installed with pip.
    """
    return _first_user(frame) or _first_user(outer)


def _is_service(filename: str) -> bool:
    return not filename.startswith(("<", _PROBES, *_PYTHON, *_INSTALLED))


def _uses_sqlalchemy(filename: str) -> bool:
    if filename.startswith(("<", _PROBES, _SQLALCHEMY)):
        return False
    return filename.startswith(_INSTALLED) or not filename.startswith(_PYTHON)


def _first_user(frame: FrameType | None) -> tuple[str, int, str] | None:
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        uses = _known.get(file)
        if uses is None:
            uses = _known[file] = _uses_sqlalchemy(file)
        if uses:
            return file, frame.f_lineno, code.co_name
        frame = frame.f_back
    return None


# by file, because this runs at every checkout of a connection
_known: dict[str, bool] = {}
