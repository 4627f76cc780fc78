"""What a cell shows while its run is on, in one display that updates in place, and the figure left behind.

No drawing library while the load runs: the view is a few lines of HTML made by hand. IPython is used where it
is loaded already; everywhere else there is the view of `perfkit run` on standard error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from perfkit.card import DIM, FG, GRID, Card
from perfkit.drive.live_view import live_view, milliseconds, number, say_broken
from perfkit.drive.progress import Goal, Seen, elapsed_s
from perfkit.errors import PerfkitError
from perfkit.lab.nested import in_kernel
from perfkit.store import Run
from perfkit.text import for_html, for_notebook, plain, print_lines

_BINS = 60
_LINE = "var(--pk-c0, #0173b2)"
_BAD = "var(--pk-bad, var(--jp-error-color0, #c0262d))"


class View(Protocol):
    """What watches a run; all of it is called from one thread."""

    @property
    def shown(self) -> bool:
        """Whether there is anything to be seen yet."""

    def look(self, run: Run | None, stopping: bool) -> None:
        """Show the run as it is now; None: none has begun."""

    def end(self, runs: Sequence[Run]) -> None:
        """All is over; leave behind what there is to see."""


def view_for(live: bool) -> View:
    """A display in a Jupyter kernel, the view of `perfkit run` elsewhere, nothing when not live."""
    if not live:
        return Nothing()
    return Careful(Display() if in_kernel() else Terminal())


class Careful:
    """A view that may break, as whatever draws may, without breaking the run it shows; that is told once."""

    def __init__(self, view: View) -> None:
        self._view: View = view

    @property
    def shown(self) -> bool:
        """See View."""
        return self._view.shown

    def look(self, run: Run | None, stopping: bool) -> None:
        """See View."""
        self._try(lambda: self._view.look(run, stopping))

    def end(self, runs: Sequence[Run]) -> None:
        """See View."""
        self._try(lambda: self._view.end(runs))

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception as error:
            self._view = Nothing()
            say_broken(error)


class Nothing:
    """No view."""

    shown = False

    def look(self, run: Run | None, stopping: bool) -> None:
        """See View."""

    def end(self, runs: Sequence[Run]) -> None:
        """See View."""


class Terminal:
    """The view of `perfkit run` on standard error, for each run; at the end the runs in words."""

    shown = False

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._run: Run | None = None

    def look(self, run: Run | None, stopping: bool) -> None:
        """See View."""
        if run is None:
            return
        self.shown = True
        if self._run is None or self._run.path != run.path:
            self._stack.close()
            self._draw = self._stack.enter_context(live_view(_scenario(run)))
            self._run = run
        self._draw(run)

    def end(self, runs: Sequence[Run]) -> None:
        """See View."""
        self._stack.close()
        for run in runs:
            print_lines(*str(run).split("\n"), err=True)


class Display:
    """One display of a notebook, updated in place; at the end a figure and what is to be said of the run."""

    shown = False

    def __init__(self) -> None:
        self._id = ""
        self._seen = Seen()
        self._path: Any = None

    def look(self, run: Run | None, stopping: bool) -> None:
        """See View."""
        if run is None:
            text = "stopping" if stopping else "starting"
            self._show(f'<p style="color:{DIM}">perfkit: {text} …</p>', f"perfkit: {text}")
            return
        if self._path != run.path:
            self._path, self._seen = run.path, Seen()
        with contextlib.suppress(PerfkitError):  # it may be looked at while it is being closed
            self._seen.look(run)
            self._show(*told(run, self._seen, stopping))

    def end(self, runs: Sequence[Run]) -> None:
        """See View."""
        if not runs:
            if self.shown:
                self._show("", "perfkit: no run had begun")
            return
        parts = [left_behind(run) for run in runs[-1:]]
        before = [Card(f"run {run.id}: {run.state}") for run in runs[:-1]]
        parts[:0] = [(card.html(), card.text()) for card in before]
        self._show("".join(part[0] for part in parts), "\n".join(part[1] for part in parts))

    def _show(self, page: str, text: str) -> None:
        from IPython import display

        bundle = {"text/html": for_notebook(page), "text/plain": plain(text, lines=True)}
        if self.shown:
            display.update_display(bundle, display_id=self._id, raw=True)  # type: ignore[no-untyped-call]
            return
        self._id = display.display(bundle, display_id=True, raw=True).display_id  # type: ignore[no-untyped-call]
        self.shown = True


# -- while it runs ---------------------------------------------------------------------------------


def told(run: Run, seen: Seen, stopping: bool) -> tuple[str, str]:
    """A run under way as HTML and as text: how far it is, and the numbers of its last seconds."""
    meta, recent, now_s = run.meta, seen.recent(), elapsed_s(run)
    goal = Goal.of(meta)
    reached = float(seen.steps) if goal.steps else min(now_s, goal.total)
    unit = "steps" if goal.steps else "s"
    if meta.load_started_ns is None:
        where = "setting up"
    elif not goal.steps and now_s > goal.total + 1:
        where = f"{goal.total:g} of {goal.total:g} s; waiting for the last responses and cleaning up"
    else:
        where = f"{reached:,.0f} of {goal.total:,.0f} {unit}"
    if stopping:
        where = "stopping: cancelling requests in flight and removing what the run created; the rows are kept"
    quiet_s = now_s - seen.last_done_s
    note = "p50, p95 and rate of the last 5 s; in flight as last reported"
    if seen.rows and quiet_s > 3 and not stopping:
        note = f"no request has ended for {quiet_s:.0f} s; rate, p50 and p95 of the 5 s before"
    numbers = [
        ("requests/s", number(recent.rate_per_s)),
        ("p50", milliseconds(recent.p50_ms)),
        ("p95", milliseconds(recent.p95_ms)),
        ("failed", f"{seen.failed:,} of {seen.rows:,}"),
        ("in flight", f"{seen.in_flight:,}"),
    ]
    text = f"{run.id}: {where}; " + ", ".join(f"{name} {value}" for name, value in numbers)
    share = reached / goal.total if goal.total else 0.0
    return _page(run, seen, where, share, numbers, note), text


def _page(
    run: Run, seen: Seen, where: str, share: float, numbers: Sequence[tuple[str, str]], note: str
) -> str:
    """The view's HTML: a line, a bar, five numbers, a spark line of the rate."""
    target, load = run.meta.target_url, run.meta.load_words
    about = for_html(f"{_scenario(run)} on {target}, {load}")
    percent = max(0.0, min(100.0, 100 * share))
    cells = "".join(
        f'<div style="min-width:5.5rem"><div style="color:{DIM};font-size:.8em">{name}</div>'
        f'<div style="font-size:1.15em;font-variant-numeric:tabular-nums;white-space:nowrap;'
        f'color:{_BAD if seen.failed and name == "failed" else FG}">{for_html(value)}</div></div>'
        for name, value in numbers
    )
    return (
        f'<div class="pk-live" style="max-width:46rem;margin:.3rem 0;color:{FG}">'
        f"<div><strong>{about}</strong></div>"
        f'<div role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}" style="height:.45rem;margin:.4rem 0;border-radius:.25rem;'
        f'overflow:hidden;background:{GRID}"><div style="height:100%;width:{percent:.1f}%;'
        f'background:{_LINE}"></div></div><div>{for_html(where)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:.5rem 0">{cells}</div>'
        f'{_spark(seen.rates())}<div style="color:{DIM};font-size:.85em">{for_html(note)}</div></div>'
    )


def _spark(rates: Sequence[int]) -> str:
    """The rate of each of the last whole seconds as a small line, with its highest value in words."""
    if len(rates) < 2:
        return '<div style="height:44px"></div>'
    top = max(1, *rates)
    step = 300 / max(len(rates) - 1, 20)
    points = " ".join(f"{i * step:.1f},{40 - 36 * rate / top:.1f}" for i, rate in enumerate(rates))
    label = f"requests ended a second, last {len(rates)} seconds: now {rates[-1]}, at most {top}"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 300 44" width="300" height="44" '
        f'style="display:block;max-width:100%"><title>{label}</title>'
        f'<line x1="0" y1="40" x2="300" y2="40" stroke="{GRID}"/>'
        f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.5"/></svg>'
    )


def _scenario(run: Run) -> str:
    return run.meta.scenario.name


# -- afterwards ------------------------------------------------------------------------------------


def left_behind(run: Run) -> tuple[str, str]:
    """The verdict, one small figure, and which run it is; where nothing can be drawn, the run's card."""
    from perfkit import figures, frames

    named = Card(f"run {run.id}: {run.state}{f' ({run.reason})' if run.reason else ''}")
    try:
        rows = frames.measured(run)
        verdict = figures.verdict(run, frames.summary(rows))
        calls, over_time = frames.calls(rows, _BINS), frames.over_time(rows, _BINS)
        figure = figures.show(figures.glance(calls, over_time))
    except Exception as error:  # the run is what matters: a figure that fails must not hide it
        words = f"cannot be drawn: {type(error).__name__} {error}"
        card = Card(named.heading, [("note", words)])
        return card.html(), card.text()
    page = f'<div class="pk-left">{named.html()}{verdict.html}{figure.html}</div>'
    return page, f"{named.text()}\n{verdict.text}\n{figure.text}"
