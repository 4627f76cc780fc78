"""What a reader gets beyond a drawing: values under the pointer or arrow keys, and one for phones."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from perfkit.figures.axes import legend
from perfkit.figures.drawing import theme

#: Inches. Drawn this wide a figure fills a phone, and its text is as large as that of the page.
_PHONE = 3.6
_LEGEND_ROW = 0.22
_TICKS = 5
_Values = list[tuple[Axes, Any, Any, list[str]]]
_VALUES: weakref.WeakKeyDictionary[Figure, _Values] = weakref.WeakKeyDictionary()


def read_out(ax: Axes, x: Iterable[Any], y: Iterable[Any], texts: Iterable[str]) -> None:
    """Add values to a figure's readout: where they are drawn, and their texts. Points without a place are
    skipped."""
    found = _VALUES.setdefault(ax.get_figure(root=True), [])  # type: ignore[arg-type]
    found.append((ax, np.asarray(list(x), float), np.asarray(list(y), float), list(texts)))


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a frame, their columns by name."""
    return iter(frame.itertuples(index=False))


def texts(figure: Figure) -> list[str]:
    """The texts of a figure's readout, in the order of `places`."""
    return [
        text for _, x, y, words in _VALUES.get(figure, ()) for i, text in enumerate(words) if _there(x, y, i)
    ]


def _there(x: Any, y: Any, i: int) -> bool:
    return bool(np.isfinite(x[i]) and np.isfinite(y[i]))


def places(figure: Figure) -> str:
    """Where the values of a figure lie, once it is drawn: "x y" in thousandths from the top left."""
    wide, high = figure.bbox.width, figure.bbox.height
    found = []
    for ax, x, y, _ in _VALUES.get(figure, ()):
        at = ax.transData.transform(np.column_stack([x, y]))
        found += [
            f"{1000 * left / wide:.0f} {1000 * (1 - up / high):.0f}"
            for i, (left, up) in enumerate(at)
            if _there(x, y, i)
        ]
    return ",".join(found)


@contextmanager
def on_a_phone(figure: Figure) -> Iterator[None]:
    """Lay a figure out for a phone inside this: narrow, with fewer ticks and a legend in fewer columns."""
    width, height = figure.get_size_inches()
    kept = [(ax, ax.xaxis.get_major_locator(), ax.get_yticks(), _names(ax)) for ax in figure.axes]
    with theme():
        rows = sum(legend(ax, again=True) for ax in figure.axes)
        figure.set_size_inches(_PHONE, height)
        for ax, _, at, names in kept:
            _thin_out(ax)
            if names:
                ax.set_yticks(at, [_short(name) for name in names])
            rows -= legend(ax, again=True)
        figure.set_size_inches(_PHONE, height - _LEGEND_ROW * rows)
        yield
        figure.set_size_inches(width, height)
        for ax, locator, at, names in kept:
            ax.xaxis.set_major_locator(locator)
            if names:
                ax.set_yticks(at, names)
            legend(ax, again=True)


def _names(ax: Axes) -> list[str]:
    """Names on the y axis, where it has some: they take more room than numbers."""
    found = [label.get_text() for label in ax.get_yticklabels()]
    return found if max(map(len, found), default=0) > 14 else []


def _short(name: str) -> str:
    """A name on two lines."""
    first, _, count = name.partition(" · ")
    return f"{first[:15]}{'…' * (len(first) > 15)}\n{count}"


def _thin_out(ax: Axes) -> None:
    low, high = sorted(ax.get_xlim())
    at = [tick for tick in ax.get_xticks() if low <= tick <= high]
    if len(at) > _TICKS:
        ax.xaxis.set_major_locator(FixedLocator(at[:: math.ceil(len(at) / _TICKS)]))
