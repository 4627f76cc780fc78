"""Axes of latency and of time, with ticks a person reads, and legends."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

__all__ = ["latency_axis"]

#: Of a legend, in an inch.
_CHARACTERS = 17
#: Inches beside the plot, where its ticks stand.
_BESIDE = 0.75


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
    fitting = int(_CHARACTERS * (inches - _BESIDE) / (max(map(len, labels)) + 8))
    columns = max(min(columns, len(handles), fitting), 1)
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)
    return math.ceil(len(handles) / columns)
