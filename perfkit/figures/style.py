"""The house style: how figures and tables write numbers, names, captions and alt texts."""

from __future__ import annotations

import math
import weakref

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perfkit.store.metrics import Kind
from perfkit.text import plain, plural

__all__ = ["words"]

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


def short(text: object, most: int = 40) -> str:
    """A name that may come from anyone, cut to a length that fits a figure and its words."""
    name = plain(text)
    return name if len(name) <= most else name[: most - 1] + "…"


def drawable(text: object, most: int = 40) -> str:
    """The same to be drawn: matplotlib takes no `$…$` in it for mathematics."""
    return short(text, most).replace("$", r"\$")
