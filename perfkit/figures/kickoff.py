"""When requests were due, sent and done: a line each, or a map of how long they waited and were served."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from perfkit.figures.axes import latency_axis, legend, time_axis
from perfkit.figures.drawing import BAD, FILL, axes_for, colour, drawn_from, nothing, stacked
from perfkit.figures.readout import read_out, rows_of
from perfkit.figures.style import caption, drawable, ms, number, say, seconds, short
from perfkit.text import plural

__all__ = ["kickoff_timeline"]

NO_ROWS = "No requests in the measured part of this run."
UNTIMED = "The imported file does not say when its requests were made."
#: The shortest line, as a share of the time drawn: seen however short the request.
_SEEN = 0.0015
#: Shades of a map, and how many values of a figure are read out.
_SHADES, _READ = 5, 300
#: Waits up to so many ms are the generator's own, and need no panel.
_WAITS_MS = 1.0


@drawn_from("waterfall")
def kickoff_timeline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each request as a line by planned time, waiting and service apart; of thousands a map."""
    if why := why_nothing(frame):
        return nothing(axes_for(ax), why)
    return _map(frame, ax) if frame.attrs["drawn"] == "map" else _lines(frame, ax)


def why_nothing(frame: pd.DataFrame) -> str:
    """Return why a figure over time has nothing to show; empty where it has."""
    if frame.empty or not frame.attrs["n"]:
        return NO_ROWS
    return UNTIMED if frame.attrs.get("untimed") else ""


def operations(frame: pd.DataFrame) -> list[str]:
    """The operations of a frame's rows, most frequent first."""
    return [str(name) for name, count in frame["operation"].value_counts().items() if count]


def _lines(frame: pd.DataFrame, ax: Axes | None) -> Axes:
    n, height = len(frame), 3.4 if len(frame) <= 200 else 4.6
    ax = axes_for(ax, height)
    wide = float(np.clip(0.65 * (height - 0.8) * 72 / n, 0.25, 5))  # the gap between two lines is seen
    y = frame["order"].to_numpy() + 1
    due, done = frame["t_s"].to_numpy(), frame["done_s"].fillna(frame["t_s"]).to_numpy()
    sent = frame["sent_s"].fillna(frame["done_s"]).fillna(frame["t_s"]).to_numpy()
    shortest = _SEEN * max(done.max() - due.min(), 1e-6)
    waits = sent - due > shortest
    if waits.any():
        label = "waiting: planned, not yet sent"
        _spans(ax, due[waits], sent[waits], y[waits], lw=wide, color=FILL, label=label)
    seen = np.maximum(done, sent + shortest)
    for i, name in enumerate(operations(frame)):
        of, named = (frame["operation"] == name).to_numpy(), drawable(name) if i < 8 else None
        _spans(ax, sent[of], seen[of], y[of], lw=wide, color=colour(i), label=named)
    bad = frame["error"].notna().to_numpy()
    if bad.any():
        size = float(np.clip(1.5 * wide, 3.2, 6))
        ax.plot(done[bad], y[bad], "x", color=BAD, ms=size, mew=1, zorder=5, label="failed")
    ax.set_ylim(n + 0.5 + 0.01 * n, 0.5 - 0.01 * n)
    ax.set_ylabel("request, in order of kick-off")
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="y", visible=False)
    time_axis(ax, frame, float(done.max()))
    legend(ax)
    took = 1e3 * (done - due)
    longest, evenly = np.argsort(-took)[: _READ // 3], np.linspace(0, n - 1, min(n, _READ)).astype(int)
    read = np.union1d(longest, evenly)
    read_out(ax, done[read], y[read], (_request(frame, i, due, sent, done) for i in read))
    alt = f"Kick-off timeline of {plural(frame.attrs['n'], 'request')} "
    alt += f"over {number(done.max() - due.min())} seconds; "
    alt += f"the longest took {ms(float(took.max()))} from planned to done."
    return say(ax, alt, caption(frame, "all drawn, by planned time", "colour: sent to done"))


def _spans(ax: Axes, left: Any, right: Any, y: Any, **how: Any) -> None:
    """Draw horizontal lines as one path."""
    gap = np.full(len(y), np.nan)
    x, y = np.column_stack([left, right, gap]).ravel(), np.repeat(y, 3)
    ax.plot(x, y, solid_capstyle="butt", **how)


def _request(frame: pd.DataFrame, i: int, due: Any, sent: Any, done: Any) -> str:
    error = frame["error"].iloc[i]
    failed = f", failed: {short(error)}" if isinstance(error, str) else ""
    return (
        f"{short(frame['operation'].iloc[i])} at {due[i]:.3f} s: waited {ms(1e3 * (sent[i] - due[i]))}, "
        f"then took {ms(1e3 * (done[i] - sent[i]))}{failed}"
    )


# -- of thousands ----------------------------------------------------------------------------------


def _map(frame: pd.DataFrame, ax: Axes | None) -> Axes:
    kinds = {str(kind): part for kind, part in frame.groupby("kind")}
    waiting = kinds.get("waiting", frame[:0])
    late = int(waiting["n"][waiting["low_ms"] >= _WAITS_MS].sum())
    top, below = stacked(ax, 4.4) if late else (axes_for(ax, 3.4), None)
    wide = frame.attrs["bin_s"]
    if "service" in kinds:
        _shade(top, kinds["service"], wide, colour(0), "sent to done")
    if "failed" in kinds:
        _shade(top, kinds["failed"], wide, BAD, "failed", kinds.get("service"))
    drawn = frame[(frame["kind"] != "waiting").to_numpy()] if len(kinds) > 1 else frame
    latency_axis(top.yaxis, float(drawn["low_ms"].min()), float(drawn["high_ms"].max()), True)
    top.set_ylabel("time to the answer" if "service" in kinds else "time to the failure")
    if below is not None and below is not top:
        _shade(below, waiting, wide, colour(7), "planned to sent")
        latency_axis(below.yaxis, float(waiting["low_ms"].min()), float(waiting["high_ms"].max()), True)
        below.set_ylabel("waiting")
    time_axis(below or top, frame, float(frame["t_s"].max() + wide))
    legend(top)
    _read_map(top, frame, wide)
    n, failed = frame.attrs["n"], frame.attrs["failed"]
    alt = f"Map of {n:,} requests: when each was planned, and how long it took from sent to done"
    alt += f"; {failed:,} failed, on top." if failed else "."
    held = f"{late:,} waited longer than {ms(_WAITS_MS)} before they were sent"
    sent = int(waiting["n"].sum())
    those = "all were" if sent == n else f"the {sent:,} that were sent were"
    what = held if late else f"{those} sent within about {ms(_WAITS_MS)} of their planned time"
    how = "the stronger the colour, the more requests, all counted"
    how += "; the redder, the larger the share that failed" if failed and "service" in kinds else ""
    return say(top, alt, caption(frame, how, what))


def _shade(
    ax: Axes, part: pd.DataFrame, wide: float, hue: str, label: str, beside: pd.DataFrame | None = None
) -> None:
    """Draw cells in shades, one path for each: by the logarithm of their count; or, of those drawn on top of
    `beside`, by their share of both, so that a few failures do not cover what succeeded."""
    count = part["n"].to_numpy()
    share = np.log1p(count) / np.log1p(count.max())
    if beside is not None:
        cell = ["t_s", "low_ms"]
        others = part[cell].merge(beside[[*cell, "n"]], "left", cell)["n"].fillna(0).to_numpy()
        share = count / (count + others)
    shade = np.minimum((_SHADES * share - 1e-9).astype(int), _SHADES - 1)
    for level in range(_SHADES):
        cells = part[shade == level]
        if cells.empty:
            continue
        left, low, high = (cells[name].to_numpy() for name in ("t_s", "low_ms", "high_ms"))
        right = left + wide
        corners = [(left, low), (right, low), (right, high), (left, high), (left, low)]
        at = np.stack([np.column_stack(one) for one in corners], axis=1).reshape(-1, 2)
        codes = np.tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(cells))
        named, alpha = label if level == int(shade.max()) else None, (level + 1.5) / (_SHADES + 0.5)
        ax.add_patch(PathPatch(Path(at, codes), facecolor=hue, lw=0, alpha=alpha, label=named))


def _read_map(ax: Axes, frame: pd.DataFrame, wide: float) -> None:
    """The fullest cell of each stretch of time."""
    seen = frame[(frame["kind"] != "waiting").to_numpy()]
    fullest = seen.loc[seen.groupby("t_s")["n"].idxmax()]
    totals, bad = seen.groupby("t_s")["n"].sum(), seen[seen["kind"] == "failed"].groupby("t_s")["n"].sum()
    read_out(
        ax,
        fullest["t_s"] + wide / 2,
        np.sqrt(fullest["low_ms"] * fullest["high_ms"]),
        (
            f"{seconds(max(r.t_s, 0))}: {totals[r.t_s]:,} requests, most in {ms(r.low_ms)} to {ms(r.high_ms)}"
            + (f"; {bad[r.t_s]:,} failed" if r.t_s in bad.index else "")
            for r in rows_of(fullest)
        ),
    )
