"""What standard error shows while a run is on: a block of lines that updates in place, or a line every 10 s.

The block is for a terminal that can move its cursor; a file, a pipe or TERM=dumb gets plain lines without any
control character. No library draws it: a block costs a third of a millisecond, twice a second.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from perfkit.drive.progress import STOP, Goal, Recent, Seen, elapsed_s
from perfkit.errors import PerfkitError
from perfkit.model import Budget
from perfkit.store import Run
from perfkit.text import cells, clipped, for_terminal, plural, print_lines

#: So often a block is drawn, and a line is printed where there is none.
DRAWN_S, PRINTED_S = 0.5, 10.0
#: The numbers called "now" are of so many seconds.
NOW_S = 5.0
_CLASSES = 4  #: of failures that are shown
_PLAIN, _BOLD, _DIM, _BAD = "", "1", "2", "31"


class Line(NamedTuple):
    """Parts that may be wrapped between one another, and how they look (the number of an SGR sequence)."""

    parts: Sequence[str]
    style: str = _PLAIN


class State(NamedTuple):
    """A run as the view shows it; stopping: why its load ends, empty while it does not."""

    label: str
    goal: Goal
    budget: Budget
    seen: Seen
    now_s: float  #: since the load began; 0: it has not
    stopping: str = ""


@contextlib.contextmanager
def live_view(label: str, *, show: bool = True) -> Iterator[Callable[[Run], None]]:
    """A view on standard error; call what is yielded with the run, repeatedly.

    A block is gone when the view ends: what became of the run is said by others. Nothing is read when it is
    not shown.
    """
    if not show:
        yield lambda run: None
        return
    view = _View(for_terminal(label, most=60), _block_for(sys.stderr))
    try:
        yield view.look
    finally:
        view.end()


class _View:
    """Looks at a run and shows it when it is time, in a block or, without one, line by line."""

    def __init__(self, label: str, block: Block | None) -> None:
        self._label, self._block, self._seen = label, block, Seen()
        self._every_s = DRAWN_S if block else PRINTED_S
        self._shown_at_s = -math.inf if block else time.monotonic()
        self._run: Run | None = None
        self._stopping = ""
        self._raised = False  #: whether it was shown that steps raise

    def look(self, run: Run) -> None:
        """See `live_view`."""
        stopping = _stopping(run)
        due = time.monotonic() - self._shown_at_s >= self._every_s
        if not due and (self._every_s == math.inf or not (stopping != self._stopping or self._news(run))):
            return
        self._stopping, self._shown_at_s = stopping, time.monotonic()
        try:
            self._show(run)
        except (OSError, PerfkitError):  # the terminal is gone: no reason to end a run
            pass
        except Exception as error:
            self._every_s = math.inf
            say_broken(error)

    def _news(self, run: Run) -> bool:
        """Whether steps have begun to raise, which a log says at once."""
        if self._block or self._raised:
            return False
        with contextlib.suppress(OSError, PerfkitError):
            self._seen.look(run)
        return self._seen.raised > 0

    def _show(self, run: Run) -> None:
        self._seen.look(run)
        self._raised = self._seen.raised > 0
        if self._run is None or self._run.meta.load_started_ns is None:
            self._run = run  # what it was asked to do is read until its load has begun
        meta, now_s = self._run.meta, elapsed_s(self._run)
        state = State(self._label, Goal.of(meta), meta.budget, self._seen, now_s, self._stopping)
        if self._block:
            self._block.draw(lines_of(state))
        else:
            print_lines(line_of(state), err=True)

    def end(self) -> None:
        """Take the block away."""
        with contextlib.suppress(OSError):
            if self._block:
                self._block.draw(())


def say_broken(error: Exception) -> None:
    """Say, once, that whatever shows a run has failed, which does not break the run."""
    words = f"perfkit: the live view broke ({type(error).__name__}: {error}); the run goes on"
    print_lines(words, err=True)


def _stopping(run: Run) -> str:
    """Why the load of a run ends before its time; empty where it does not."""
    try:
        return for_terminal((run.path / STOP).read_text(errors="replace") or "stopped", most=300)
    except OSError:
        return ""


# -- what is shown ---------------------------------------------------------------------------------


def lines_of(state: State) -> list[Line]:
    """The block: how far it is, the last seconds and all of it, failures, the generator."""
    seen = state.seen
    where = _where(state)
    if not state.now_s:
        return [Line((state.label, where), _BOLD)]
    rows = [(f"now ({NOW_S:g} s)", seen.recent(NOW_S)), ("since start", seen.whole.numbers())]
    lines = [Line((state.label, *where.split(", "), _bar(state)), _BOLD)]
    lines += [Line((f"  {name.ljust(11)}", *_numbers(one))) for name, one in rows]
    lines.append(Line((f"  {seen.in_flight:,} in flight", f"{seen.rows:,} requests", _failed(seen))))
    lines += [Line(("  " + words,), _BAD) for words in _went_wrong(seen)]
    over = _over_budget(state)
    lines.append(Line(("  generator", *_generator(state)), _BAD if over else _PLAIN))
    hint = "Ctrl-C ends the run and removes what it created"
    if state.stopping:
        lines.insert(1, Line((f"  stopping: {state.stopping}",), _BAD))
        hint = "cutting off what is in flight, removing what it created"
        hint += "; Ctrl-C again aborts that"
    removed = (f"removed so far: {seen.removed:,}",) if seen.removed else ()
    return [*lines, Line((f"  {hint}", *removed), _DIM)]


def line_of(state: State) -> str:
    """The same in one line, for a log."""
    seen = state.seen
    if not state.now_s:
        return f"{state.label}: {_where(state)}"
    parts = [_where(state), *_numbers(seen.recent(PRINTED_S)), f"{seen.in_flight:,} in flight"]
    parts += [f"{seen.rows:,} requests", _failed(seen), *_went_wrong(seen)]
    word, *numbers = _generator(state)
    parts += [f"generator {word} {', '.join(numbers)}"]
    parts += [f"removed so far: {seen.removed:,}"] if seen.removed else []
    stopping = f"stopping: {state.stopping}; " if state.stopping else ""
    return f"{state.label}: {stopping}{', '.join(parts)}"


def _where(state: State) -> str:
    goal, seen = state.goal, state.seen
    if not state.now_s:
        return "setting up"
    if goal.steps:
        known = seen.steps > 0 and not state.stopping
        left_s = (goal.total - seen.steps) * state.now_s / seen.steps if known else 0.0
        left = f", about {_clock(left_s)} left" if known else ""
        return f"{max(0, seen.steps):,} of {goal.total:,.0f} steps{left}"
    if state.now_s > goal.total + 1:
        return f"{_clock(goal.total)} of {_clock(goal.total)}, waiting for the last responses and cleaning up"
    reached_s = min(state.now_s, goal.total)
    left = "" if state.stopping else f", {_clock(goal.total - reached_s)} left"
    return f"{_clock(reached_s)} of {_clock(goal.total)}{left}"


def _clock(seconds: float) -> str:
    """Seconds as `12 s`, `3:04` or `1:03:04`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def _bar(state: State) -> str:
    done = state.seen.steps if state.goal.steps else state.now_s
    filled = max(0, min(20, round(20 * done / state.goal.total))) if state.goal.total else 0
    return f"[{'#' * filled}{'-' * (20 - filled)}]"


def _numbers(one: Recent) -> list[str]:
    """The rate, of successes as in the summary and in thresholds, and percentiles."""
    quantiles = (("p50", one.p50_ms), ("p95", one.p95_ms), ("p99", one.p99_ms))
    return [f"{number(one.ok_per_s)}/s", *(f"{name} {milliseconds(value)}" for name, value in quantiles)]


def number(value: float) -> str:
    """A number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def milliseconds(value: float) -> str:
    """A duration in ms or s, three digits; `—` for none."""
    if math.isnan(value):
        return "—"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{number(value)} ms"


def _failed(seen: Seen) -> str:
    share = f" ({100 * seen.failed / seen.rows:.3g} %)" if seen.failed else ""
    return f"{seen.failed:,} failed{share}"


def _went_wrong(seen: Seen) -> list[str]:
    """The steps that raised, and each class of failures, with the first words heard."""
    return [*_raised(seen), *_failures(seen)]


def _raised(seen: Seen) -> list[str]:
    if not seen.raised:
        return []
    words = for_terminal(seen.mistake, most=200)
    return [f"{plural(seen.raised, 'step')} {'broke' if words.startswith('a step ') else 'raised'}: {words}"]


def _failures(seen: Seen) -> list[str]:
    """Each class of failures with the first words heard."""
    shown = [
        f"{count:,} × {name}{': ' if words else ''}{for_terminal(words, most=120)}"
        for name, count, words in seen.failures[:_CLASSES]
    ]
    more = len(seen.failures) - _CLASSES
    return shown + ([f"and {more} more classes of failures"] if more > 0 else [])


def _over_budget(state: State) -> bool:
    """Whether the generator is over its budget at this moment; the run is judged at its end."""
    seen, budget = state.seen, state.budget
    p50_ms = seen.recent(NOW_S).p50_ms
    limit_ms = max(budget.delay_ms, 0.0 if math.isnan(p50_ms) else budget.delay_share * p50_ms)
    return seen.cpu_share > budget.cpu_share or seen.lag_ms > limit_ms


def _generator(state: State) -> tuple[str, ...]:
    seen = state.seen
    numbers = f"{seen.cpu_share:.0%} of a core", f"woke up {seen.lag_ms:.1f} ms late"
    return ("over its budget now:" if _over_budget(state) else "ok:", *numbers)


# -- how it is drawn -------------------------------------------------------------------------------


def _block_for(stream: TextIO) -> Block | None:
    """A block on a terminal that can move its cursor."""
    try:
        is_terminal = stream.isatty()
    except ValueError:  # it is closed
        return None
    return Block(stream) if is_terminal and os.environ.get("TERM", "dumb") != "dumb" else None


class Block:
    """Lines at the end of a terminal that replace one another, whatever its size is by then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._drawn = stream, list[int]()
        self._colours = not os.environ.get("NO_COLOR")

    def draw(self, lines: Sequence[Line]) -> None:
        """Put these in the place of those that were drawn before."""
        columns, rows = _size(self._stream)
        fitted = [one for line in lines for one in wrapped(line, columns - 1)][: max(1, rows - 1)]
        # in a window that became narrower the terminal has wrapped what stood there
        above = sum(max(1, math.ceil(width / columns)) for width in self._drawn)
        text = "\r" + (f"\x1b[{above}A" if above else "")
        text += "".join(f"{self._styled(*one)}\x1b[K\n" for one in fitted) + "\x1b[J"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
        self._drawn = [cells(words) for words, _ in fitted]

    def _styled(self, words: str, style: str) -> str:
        return f"\x1b[{style}m{words}\x1b[0m" if style and self._colours else words


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal; those of its environment where it does not know."""
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(stream.fileno())
        if columns > 1 and rows > 1:
            return columns, rows
    columns, rows = shutil.get_terminal_size()
    return max(columns, 2), max(rows, 2)


def wrapped(line: Line, width: int) -> list[tuple[str, str]]:
    """A line as lines of at most `width` cells, each with its style: broken between parts, which are clipped
    where one alone is too long."""
    found: list[str] = []
    for part in line.parts:
        if not part:
            continue
        if found and cells(found[-1]) + 2 + cells(part) <= width:
            found[-1] += "  " + part
        else:
            found.append(clipped("    " + part if found else part, width))
    return [(words, line.style) for words in found]
