"""The look of all figures: theme, colours and panels.

They are drawn once in placeholder colours, which then become CSS variables: the page decides whether text
is dark on light or light on dark. `--pk-*` comes from perfkit's report template, `--jp-*` from JupyterLab.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from perfkit import card
from perfkit.errors import BadInput
from perfkit.figures.style import say

__all__ = ["canvas"]

P = ParamSpec("P")
T = TypeVar("T")
_TEXT, _DIM, _GRID, _PAPER = "#010203", "#010204", "#010205", "#010206"
BAD = "#010207"  #: failures, everywhere
FILL = "#010208"  #: what lies behind: bands, boxes
#: Seaborn's colour-blind palette without its yellow, which cannot be seen on white.
_SERIES = [c for i, c in enumerate(sns.color_palette("colorblind").as_hex()) if i != 8]
_DASHES = ((5, 2), (1, 1.4), (6, 2, 1, 2), (8, 2, 1, 1, 1, 2), (3, 1))
LINES: tuple[Any, ...] = ("-", *((0, dashes) for dashes in _DASHES))
#: JupyterLab has no colours for series: ours lean towards its text, so that they are lighter on dark.
_LEAN = "color-mix(in oklab, {} 72%, var(--jp-content-font-color1, #222))"
_VARIABLES = {
    **{_TEXT: card.FG, _DIM: card.DIM, _GRID: card.GRID},
    _PAPER: "var(--pk-bg, var(--jp-layout-color0, #fff))",
    BAD: f"var(--pk-bad, {_LEAN.format('#d9363e')})",
    FILL: "var(--pk-fill, color-mix(in oklab, #7ba3cf 65%, var(--jp-layout-color0, #fff)))",
    **{c: f"var(--pk-c{i}, {_LEAN.format(c)})" for i, c in enumerate(_SERIES)},
}
_COLOUR = re.compile("|".join(_VARIABLES), re.IGNORECASE)
_RC: Any = {
    **sns.axes_style("whitegrid"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _DIM,
    "ytick.color": _DIM,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "grid.color": _GRID,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "perfkit",
    "path.simplify": True,
}


@contextmanager
def theme() -> Iterator[None]:
    """Draw inside this: the theme holds for what is made here and leaves the user's own settings alone."""
    with matplotlib.rc_context(_RC):
        yield


def axes_for(ax: Axes | None, height: float = 2.9) -> Axes:
    """The given Axes, or those of a new figure that no pyplot state knows of."""
    if ax is not None:
        return ax
    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    sns.despine(ax=ax)
    return ax


def drawn_from(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a figure or a table say which frame it takes, and what `ax` is, when it is given something else;
    draw in the theme."""

    def around(draw: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(draw)

        @functools.wraps(draw)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind_partial(*args, **kwargs).arguments
            given = bound.get(next(iter(signature.parameters)))
            expected = f"{draw.__name__} takes frames.{name}(rows), got"
            if not isinstance(given, pd.DataFrame):
                raise BadInput(f"{expected} {type(given).__name__}")
            if not isinstance(bound.get("ax"), Axes | None):
                words = f"ax is Axes of matplotlib, or left out, not {bound['ax']!r:.60}"
                raise BadInput(f"{draw.__name__}: {words}")
            try:
                with theme():
                    return draw(*args, **kwargs)
            except KeyError as error:
                # of several columns pandas says it in words of its own
                lacks = "" if "[" in str(error) else f": it has no {error}"
                raise BadInput(f"{expected} another frame{lacks}") from error

        return checked

    return around


@contextmanager
def canvas(height: float = 2.9) -> Iterator[Axes]:
    """Empty Axes for a figure of one's own, in the theme and colours of all others.

    Draw inside the block, then show it::

        with canvas() as ax:
            sns.histplot(rows, x="response_ms", ax=ax)
        show(ax, alt="…", caption="…")
    """
    with matplotlib.rc_context({**_RC, "axes.prop_cycle": cycler(color=_SERIES)}):
        yield axes_for(None, height)


def stacked(ax: Axes | None, height: float, *, one_axis: bool = True) -> tuple[Axes, Axes]:
    """Two panels, over one x axis unless told otherwise, the lower one small; or the given Axes twice."""
    if ax is not None:
        return ax, ax
    figure: Any = axes_for(None, height).get_figure()
    figure.clear()
    top, below = figure.subplots(2, sharex=one_axis, height_ratios=(3, 1))
    sns.despine(fig=figure)
    return top, below


def colour(i: int) -> str:
    """The i-th colour of a series."""
    return str(_SERIES[i % len(_SERIES)])


def in_css(svg: str) -> tuple[str, str]:
    """Return a drawing with CSS variables for its placeholder colours, and the style that sets them."""
    used: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return f"var({used.setdefault(found[0].lower(), f'--v{len(used)}')})"

    drawing = _COLOUR.sub(name, svg)
    return drawing, "".join(f"{variable}:{_VARIABLES[hue]};" for hue, variable in used.items())


def line(i: int) -> dict[str, Any]:
    """Colour and line style of the i-th series: nothing is told by colour alone."""
    return {"color": colour(i), "linestyle": LINES[i % len(LINES)]}


def nothing(ax: Axes, why: str) -> Axes:
    """A figure with nothing to draw says so instead of showing an empty panel."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color=_DIM)
    return say(ax, why, "")
