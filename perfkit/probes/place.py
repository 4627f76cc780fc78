"""Which code is meant by a stack: the innermost frame that is neither Python's own nor a library's."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import CodeType, FrameType

_PATHS = sysconfig.get_paths()
_NOT_MEANT = tuple({_PATHS[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PROBES = str(Path(__file__).parent)


def place_of(frame: FrameType) -> str:
    """`file.py:LINE function` of the innermost frame of the service; of the innermost at all without one."""
    found = _meant(frame) or (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return words(*found)


def words(filename: str, line: int, function: str) -> str:
    """A place in words; the file by its last two parts, which say enough and tell nothing of the machine."""
    return f"{'/'.join(Path(filename).parts[-2:])}:{line} {function}"


def caller(frame: FrameType | None, outer: FrameType | None = None) -> tuple[str, int, str] | None:
    """File, line and function of the innermost frame of the service; `outer` goes on where a stack ends."""
    return _meant(frame) or _meant(outer)


def _meant(frame: FrameType | None) -> tuple[str, int, str] | None:
    while frame is not None:
        code = frame.f_code
        meant = _known.get(code)
        if meant is None:
            filename = code.co_filename
            meant = _known[code] = not filename.startswith(("<", _PROBES, *_NOT_MEANT))
        if meant:
            return code.co_filename, frame.f_lineno, code.co_name
        frame = frame.f_back
    return None


_known: dict[CodeType, bool] = {}  # this runs at every checkout of a connection
