"""Errors a person can act on: what was given, what is allowed, what to do. One line each.

Exit codes of every `perfkit` verb (also in README.md): 0 ok, 1 tool error, 2 bad input,
3 run invalid or nothing to judge, 4 thresholds missed or regressed, 5 inconclusive (`gate --strict`),
130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_TOOL_ERROR = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_INVALID = 3
EXIT_THRESHOLDS_MISSED = 4
EXIT_REGRESSED = 4
EXIT_INCONCLUSIVE = 5
EXIT_INTERRUPTED = 130


class PerfkitError(Exception):
    """perfkit could not do what it was asked to do; the message is one line for a person."""

    exit_code = EXIT_TOOL_ERROR

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
    """Somebody stopped it; the message says what is kept."""

    exit_code = EXIT_INTERRUPTED


class RequestFailed(Exception):
    """A request of a scenario failed. It is a row of the timeline already; raising it only ends the step."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to `given`, or None when none is close."""
    found = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, given: str, allowed: Iterable[str]) -> BadInput:
    """A BadInput for a name nobody knows: says the nearest known one, or else all of them."""
    names = sorted(allowed)
    close = nearest(given, names)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return BadInput(f"unknown {kind} {given!r}; {hint}")
