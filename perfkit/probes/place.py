"""Which code is meant by a stack: the innermost frame that is neither Python's own nor a library's."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import sqlalchemy

_PATHS = sysconfig.get_paths()
_PYTHON = tuple({_PATHS[name] for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({_PATHS[name] for name in ("purelib", "platlib")})  # most often inside of `stdlib`
_PROBES = str(Path(__file__).parent)
_SQLALCHEMY = str(Path(sqlalchemy.__file__).parent)


def place_of(frame: FrameType) -> str:
    """`file.py:LINE function` of the innermost frame of the service; of the innermost at all without one."""
    found = _first(frame, _is_service) or (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return words(*found)


def words(filename: str, line: int, function: str) -> str:
    """A place in words; the file by its last two parts, which say enough and tell nothing of the machine."""
    return f"{'/'.join(Path(filename).parts[-2:])}:{line} {function}"


def caller(frame: FrameType | None, outer: FrameType | None = None) -> tuple[str, int, str] | None:
    """File, line and function of who uses SQLAlchemy; `outer` goes on where a stack ends.

    It may be installed code: so is a service that was installed with pip.
    """
    return _first(frame, _uses_sqlalchemy) or _first(outer, _uses_sqlalchemy)


def _is_service(filename: str) -> bool:
    return not filename.startswith(("<", _PROBES, *_PYTHON, *_INSTALLED))


def _uses_sqlalchemy(filename: str) -> bool:
    if filename.startswith(("<", _PROBES, _SQLALCHEMY)):
        return False
    return filename.startswith(_INSTALLED) or not filename.startswith(_PYTHON)


def _first(frame: FrameType | None, is_meant: Callable[[str], bool]) -> tuple[str, int, str] | None:
    known = _known[is_meant]
    while frame is not None:
        code = frame.f_code
        meant = known.get(code)
        if meant is None:
            meant = known[code] = is_meant(code.co_filename)
        if meant:
            return code.co_filename, frame.f_lineno, code.co_name
        frame = frame.f_back
    return None


# by code, because this runs at every checkout of a connection
_known: dict[Callable[[str], bool], dict[CodeType, bool]] = {_is_service: {}, _uses_sqlalchemy: {}}
