"""One look for all figures, and how they write numbers.

They are drawn once in placeholder colours, which then become CSS variables: the page decides whether text
is dark on light or light on dark. `--pk-*` comes from perfkit's report template, `--jp-*` from JupyterLab.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from perfkit.errors import BadInput
from perfkit.store.metrics import Kind
from perfkit.text import plain, plural

__all__ = ["canvas", "latency_axis", "words"]

P = ParamSpec("P")
T = TypeVar("T")
_TEXT, _DIM, _GRID, _PAPER = "#010203", "#010204", "#010205", "#010206"
BAD = "#010207"  #: failures, everywhere
FILL = "#010208"  #: what lies behind: bands, boxes
#: Seaborn's colour-blind palette without its yellow, which cannot be seen on white.
_SERIES = [c for i, c in enumerate(sns.color_palette("colorblind").as_hex()) if i != 8]
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.4)),
    (0, (6, 2, 1, 2)),
    (0, (8, 2, 1, 1, 1, 2)),
    (0, (3, 1)),
)

#: JupyterLab has no colours for series: ours lean towards its text, so that they are lighter on dark.
_LEAN = "color-mix(in oklab, {} 72%, var(--jp-content-font-color1, #222))"
_VARIABLES = {
    _TEXT: "var(--pk-fg, var(--jp-content-font-color1, #222))",
    _DIM: "var(--pk-dim, var(--jp-content-font-color2, #666))",
    _GRID: "var(--pk-grid, var(--jp-border-color2, #d8d8d8))",
    _PAPER: "var(--pk-bg, var(--jp-layout-color0, #fff))",
    BAD: f"var(--pk-bad, {_LEAN.format('#d9363e')})",
    FILL: "var(--pk-fill, color-mix(in oklab, #7ba3cf 65%, var(--jp-layout-color0, #fff)))",
    **{c: f"var(--pk-c{i}, {_LEAN.format(c)})" for i, c in enumerate(_SERIES)},
}
#: Of a legend, in an inch.
_CHARACTERS = 17
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
def style() -> Iterator[None]:
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
    """Let a figure or a table say which frame it takes, and what `ax` is, when it is given something else."""

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
                raise BadInput(
                    f"{draw.__name__}: ax is Axes of matplotlib, or left out, not {bound['ax']!r:.60}"
                )
            try:
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


# -- words -----------------------------------------------------------------------------------------

_WORDS: weakref.WeakKeyDictionary[Figure, tuple[str, str]] = weakref.WeakKeyDictionary()


def say(ax: Axes, alt: str, caption: str) -> Axes:
    """Give a figure its alt text (what it shows) and caption (what was drawn); `show` reads them."""
    _WORDS[ax.get_figure(root=True)] = (alt, caption)  # type: ignore[index]
    return ax


def words(ax: Axes) -> tuple[str, str]:
    """Alt text and caption of a figure."""
    return _WORDS.get(ax.get_figure(root=True), ("", ""))  # type: ignore[arg-type]


def caption(frame: pd.DataFrame, *more: str) -> str:
    """n, failures, time span and what else must be known, from a frame's attrs."""
    n, failed, span = (frame.attrs.get(name, 0) for name in ("n", "failed", "span_s"))
    if frame.attrs.get("carried"):
        return "; ".join(more) + "."
    share = f" ({percent(failed / n)})" if failed and n else ""
    of = f" of the {frame.attrs['part']}" if "part" in frame.attrs else ""
    first = f"{plural(n, 'request')}{of}, {failed:,} failed{share}, {seconds(span)}"
    if clocks := frame.attrs.get("clocks"):
        more = (*more, clocks)
    hidden = frame.attrs.get("hidden_operations", 0)
    if hidden:
        more = (*more, f"{hidden} less frequent operations not drawn")
    return "; ".join([first, *more]) + "."


def latency_name(frame: pd.DataFrame) -> str:
    """What the latency of this frame is, for axis labels."""
    known = {"response": "response time, from planned to done", "service": "service time, from sent to done"}
    return known.get(str(frame.attrs.get("latency")), "latency")


def percent(share: float) -> str:
    """A share a person reads: 0.012 %, 3.4 %, 62 %, 100 %; a dash for none."""
    if math.isnan(share):
        return "—"
    return f"{100 * share:.2g} %" if abs(share) < 0.0995 else f"{100 * share:.0f} %"


def number(value: float) -> str:
    """Three digits that matter, never as a power of ten: 0.0123, 45.6, 3,340; a dash for none."""
    if math.isnan(value):
        return "—"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def seconds(value: float) -> str:
    """A time span a person reads: 35 ms, 35.2 s, 12 min, 3.4 h."""
    if value < 1:
        return ms(1000 * value)
    if value < 180:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 3 * 3600 else f"{value / 3600:.3g} h"


def ms(value: float) -> str:
    """A latency a person reads: 0.42 ms, 125 ms, 1.2 s; a dash for none."""
    if math.isnan(value):
        return "—"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g} s"
    if abs(value) >= 1000:
        return f"{value / 1000:.2f} s"
    if 0 < abs(value) < 0.0995:
        return f"{1000 * value:.3g} µs"
    return f"{value:.0f} ms" if abs(value) >= 100 else f"{value:.3g} ms"


def format_level(value: float | None, kind: Kind) -> str:
    """Return the level of a metric of this kind as a person reads it; a dash for none."""
    if value is None or math.isnan(value):
        return "—"
    if kind == "errors":
        return percent(value) if value else "0"
    return ms(value) if kind == "latency" else f"{number(value)}/s"


def operations(frame: pd.DataFrame) -> list[str]:
    """The operations of a frame's rows, most frequent first."""
    return [str(name) for name, count in frame["operation"].value_counts().items() if count]


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a frame, their columns by name."""
    return iter(frame.itertuples(index=False))


def short(text: object, most: int = 40) -> str:
    """A name that may come from anyone, cut to a length that fits a figure and its words."""
    name = plain(text)
    return name if len(name) <= most else name[: most - 1] + "…"


def drawable(text: object, most: int = 40) -> str:
    """The same to be drawn: matplotlib takes no `$…$` in it for mathematics."""
    return short(text, most).replace("$", r"\$")


# -- axes ------------------------------------------------------------------------------------------


def nothing(ax: Axes, why: str) -> Axes:
    """A figure with nothing to draw says so instead of showing an empty panel."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color=_DIM)
    return say(ax, why, "")


def latency_axis(axis: Axis, low: float, high: float, log: bool | None = None) -> None:
    """Milliseconds with ticks a person reads; logarithmic when the values span more than 20-fold."""
    log = (low > 0 and high > 20 * low) if log is None else log
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale  # type: ignore[attr-defined]
    if log:
        set_scale("log")
        decades = math.log10(high / low) if low > 0 else 5
        subs = (1.0, 2.0, 5.0) if decades < 2.4 else (1.0, 3.0) if decades < 3.5 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def tick(value: float) -> str:
    """A tick label: 0, 50 µs, 20 ms, 1 s."""
    if value == 0:
        return "0"
    if abs(value) < 0.0999:
        return f"{value * 1000:g} µs"
    return f"{value:g} ms" if abs(value) < 999.9 else f"{value / 1000:g} s"


def time_axis(ax: Axes, frame: pd.DataFrame, last: float) -> None:
    """Seconds, or minutes, since the measured part began; the same stretch in every figure of a run."""
    high = max(last, float(frame.attrs["span_s"]), 1e-6)
    ax.set_xlim(-0.015 * high, 1.015 * high)
    if high > 600:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 60:g}"))
        step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 240, 600) if high / 60 / s <= 10), 1440)
        ax.xaxis.set_major_locator(FixedLocator([60 * step * i for i in range(int(high / 60 / step) + 2)]))
        ax.set_xlabel("minutes since the measured part began")
    else:
        ax.set_xlabel("seconds since the measured part began")


def legend(ax: Axes, columns: int = 4, *, again: bool = False) -> int:
    """A legend above the plot, where it can cover nothing, of as many columns as the figure is wide.

    again: only where there is one already. Returns how many rows it has.
    """
    handles, labels = ax.get_legend_handles_labels()
    if not handles or (again and not ax.get_legend()):
        return 0
    inches = ax.get_figure(root=True).get_size_inches()[0]  # type: ignore[union-attr]
    fitting = int(_CHARACTERS * inches / (max(map(len, labels)) + 8))
    columns = max(min(columns, len(handles), fitting), 1)
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)
    return math.ceil(len(handles) / columns)
