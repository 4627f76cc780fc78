"""What happened when: kick-off timeline, latency of each call, concurrency, throughput, generator delays."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from perfkit.figures.style import (
    BAD,
    FILL,
    axes_for,
    caption,
    colour,
    drawable,
    drawn_from,
    latency_axis,
    latency_name,
    legend,
    line,
    ms,
    nothing,
    number,
    say,
    seconds,
    stacked,
    style,
    time_axis,
    words,
)

__all__ = ["call_latency", "concurrency", "generator_delays", "glance", "kickoff_timeline", "throughput"]

NO_ROWS = "No requests in the measured part of this run."
NO_SUCCESS = "No request of the measured part succeeded."
UNTIMED = "The imported file does not say when its requests were made."
#: So many lines of a point's width fit below each other in a kick-off timeline.
_LINES = 400
_MARKS = ("o", "s", "^", "D", "v", "P", "<", ">")


def _operations(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name, count in frame["operation"].value_counts().items() if count]


@drawn_from("waterfall")
def kickoff_timeline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each request as a line: planned to sent in grey, sent to done in colour, by planned time."""
    with style():
        ax = axes_for(ax, 3.4)
        if frame.empty:
            return nothing(ax, NO_ROWS)
        if frame.attrs.get("untimed"):
            return nothing(ax, UNTIMED)
        y = frame["order"].to_numpy() + 1
        sent = frame["sent_s"].fillna(frame["done_s"]).to_numpy()
        due, done = frame["t_s"].to_numpy(), frame["done_s"].fillna(frame["t_s"]).to_numpy()
        waits = np.flatnonzero(sent - due > (done.max() - due.min()) / 2000)
        wide = float(np.clip(_LINES / len(frame), 0.5, 2.2))  # as many lines as fit beside each other
        spans = [[(due[i], y[i]), (sent[i], y[i])] for i in waits]
        ax.add_collection(LineCollection(spans, colors=FILL, linewidths=0.8 * wide))
        names = _operations(frame)
        colours = dict(zip(names, map(colour, range(len(names))), strict=True))
        spans = [[(sent[i], y[i]), (done[i], y[i])] for i in range(len(y))]  # in order: none covers another
        ax.add_collection(
            LineCollection(
                spans,
                colors=[colours[str(name)] for name in frame["operation"]],
                linewidths=wide,
                capstyle="round",  # seen however short
            )
        )
        for name in names[:8]:
            ax.plot([], [], color=colours[name], lw=1.5, label=drawable(name))
        bad = frame["error"].notna().to_numpy()
        if bad.any():
            ax.plot(done[bad], y[bad], "x", color=BAD, ms=3.5, mew=0.8, zorder=3, label="failed")
        ax.autoscale()
        ax.invert_yaxis()
        ax.set_ylabel("request, in order of kick-off")
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.grid(axis="y", visible=False)
        time_axis(ax, frame, float(done.max()))
        legend(ax)
        drawn, n = frame.attrs["drawn"], frame.attrs["n"]
        what = f"{drawn:,} of {n:,} drawn: an even sample plus the slowest" if drawn < n else "all drawn"
        alt = f"Kick-off timeline of {n:,} requests over {number(done.max() - due.min())} seconds; "
        alt += f"the longest took {ms(1e3 * float(np.nanmax(done - due)))} from planned to done."
        return say(ax, alt, caption(frame, what, "grey: planned but not yet sent; colour: sent to done"))


@drawn_from("calls")
def call_latency(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw latency over planned time: each call, or quantiles per time bin when there are many."""
    with style():
        ax = axes_for(ax)
        if frame.empty or not frame.attrs["n"]:
            return nothing(ax, NO_ROWS)
        if frame.attrs.get("untimed"):
            return nothing(ax, UNTIMED)
        if frame.attrs["failed"] == frame.attrs["n"]:
            return nothing(ax, NO_SUCCESS)
        return _each_call(frame, ax) if frame.attrs["drawn"] == "calls" else _binned_calls(frame, ax)


def _each_call(frame: pd.DataFrame, ax: Axes) -> Axes:
    good = frame["error"].isna().to_numpy()
    t, x = frame["t_s"].to_numpy(), frame["latency_ms"].to_numpy()
    for i, name in enumerate(_operations(frame)[:8]):
        pick = good & (frame["operation"] == name).to_numpy()
        ax.plot(
            t[pick], x[pick], _MARKS[i % 8], color=colour(i), ms=2.6, alpha=0.75, mew=0, label=drawable(name)
        )
    if (~good).any():
        ax.plot(t[~good], x[~good], "x", color=BAD, ms=5, label="failed, when it ended")
    latency_axis(ax.yaxis, float(x[x > 0].min(initial=np.inf)), float(x.max(initial=0)))
    ax.set_ylabel("latency")
    time_axis(ax, frame, float(t.max(initial=0)))
    legend(ax)
    middle = ms(float(np.median(x[good]))) if good.any() else "none"
    alt = f"Latency of each of {len(x):,} calls over time; median {middle}, "
    alt += f"largest {ms(float(x[good].max(initial=0)))}."
    return say(ax, alt, caption(frame, latency_name(frame), "every call, at its planned time"))


def _binned_calls(frame: pd.DataFrame, ax: Axes) -> Axes:
    t = frame["t_s"].to_numpy()
    ax.fill_between(t, frame["min"], frame["max"], color=FILL, alpha=0.45, lw=0, label="least to most")
    ax.plot(t, frame["p99"], label="p99", drawstyle="steps-mid", **line(1))
    ax.plot(t, frame["p50"], label="p50", **line(0))
    latency_axis(ax.yaxis, float(frame["min"].min()), float(frame["max"].max()))
    ax.set_ylabel("latency")
    time_axis(ax, frame, float(t.max()))
    legend(ax)
    p50 = frame["p50"].dropna()
    alt = f"Latency over time in {len(frame)} bins: the median of a bin moves between {ms(p50.min())} and "
    alt += f"{ms(p50.max())}; the slowest call took {ms(float(frame['max'].max()))}."
    how = "each computed from all its successes; p50 and p99 to 0.3 %"
    if frame.attrs["p99_s"] > 1.01 * frame.attrs["bin_s"]:
        how += f"; p99 of every {seconds(frame.attrs['p99_s'])}, where 10 requests lie beyond it"
    bins = f"{len(frame)} bins of {seconds(frame.attrs['bin_s'])} drawn"
    return say(ax, alt, caption(frame, latency_name(frame), bins, how))


@drawn_from("concurrency")
def concurrency(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw requests in flight over time, with the range in each bin, and those planned but not yet sent."""
    with style():
        ax = axes_for(ax)
        if not frame.attrs["n"]:
            return nothing(ax, NO_ROWS)
        if frame.attrs.get("untimed"):
            return nothing(ax, UNTIMED)
        t, width = frame["t_s"].to_numpy(), frame.attrs["bin_s"]
        t = np.append(t, t[-1] + width)
        least, most = (np.append(frame[name], frame[name].iloc[-1]) for name in ("least", "most"))
        ax.fill_between(t, least, most, step="post", color=FILL, alpha=0.5, lw=0, label="least to most")
        ax.stairs(frame["mean"], t, baseline=None, label="in flight, mean", lw=1.4, **line(0))
        if frame["waiting"].max() > 0.02 * max(frame["mean"].max(), 1e-9):
            ax.stairs(
                frame["waiting"], t, baseline=None, label="due but not yet sent, mean", lw=1.4, **line(1)
            )
        ax.set_ylabel("requests")
        ax.yaxis.set_major_locator(MaxNLocator(7, integer=True))
        ax.set_ylim(bottom=0)
        time_axis(ax, frame, float(t[-1]))
        legend(ax)
        alt = f"Requests in flight over time: {number(frame['mean'].mean())} on average, "
        alt += f"{frame['most'].max():,} at most; "
        alt += f"due but not yet sent: {number(frame['waiting'].max())} at most in a bin's mean."
        apart = frame.attrs["moments_s"]
        how = f"least and most, sampled every {seconds(apart)} apart" if apart else "at every start and end"
        return say(ax, alt, caption(frame, f"bins of {seconds(width)}, counted exactly, {how}"))


@drawn_from("over_time")
def throughput(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw requests per second: planned and succeeded; failures in a second panel (or in the given Axes)."""
    with style():
        if frame.attrs.get("untimed"):
            return nothing(axes_for(ax), UNTIMED)
        failures = bool(frame.attrs["n"]) and frame["failed_per_s"].max() > 0
        ax, below = stacked(ax, 3.6) if failures else (axes_for(ax), None)
        if not frame.attrs["n"]:
            return nothing(ax, NO_ROWS)
        t = np.append(frame["t_s"], frame["t_s"].iloc[-1] + frame.attrs["bin_s"])
        ax.stairs(frame["planned_per_s"], t, baseline=None, label="planned", lw=1.1, **line(7))
        ax.stairs(frame["ok_per_s"], t, baseline=None, label="succeeded", lw=1.5, color=colour(0))
        ax.set_ylabel("requests per second")
        ax.set_ylim(bottom=0)
        if below is not None:
            label = "failed" if below is ax else None  # in a panel of its own the axis says it
            below.stairs(frame["failed_per_s"], t, fill=True, color=BAD, alpha=0.85, label=label)
            below.set_ylabel("failed per second")
            below.set_ylim(bottom=0)
        time_axis(ax if below is None or below is ax else below, frame, float(t[-1]))
        legend(ax)
        alt = f"Throughput over time: at most {number(frame['ok_per_s'].max())} successes and "
        alt += f"{number(frame['failed_per_s'].max())} failures a second in a bin."
        width = f"bins of {seconds(frame.attrs['bin_s'])}; planned: by planned time; others: by end time"
        return say(ax, alt, caption(frame, width))


def glance(calls: pd.DataFrame, over_time: pd.DataFrame) -> Axes:
    """Draw a run in one small figure: latency above, planned and successful rate below."""
    with style():
        if calls.empty or not calls.attrs["n"]:
            return nothing(axes_for(None, 1.2), NO_ROWS)
        if calls.attrs["failed"] == calls.attrs["n"]:
            return nothing(axes_for(None, 1.2), NO_SUCCESS)
        top, below = stacked(None, 3.4)
        call_latency(calls, top)
        told = words(top)
        top.set_xlabel("")
        throughput(over_time, below)
        alt = f"{told[0]} Below, {words(below)[0][0].lower()}{words(below)[0][1:]}"
        below.set_ylabel("per second")
        return say(top, alt, told[1])


@drawn_from("delays")
def generator_delays(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the generator's own delays over time: kick-off delay and client queue per bin."""
    with style():
        ax = axes_for(ax)
        if not frame.attrs["n"]:
            return nothing(ax, NO_ROWS)
        if not frame[["kickoff_max", "queue_max"]].notna().any(axis=None):
            return nothing(ax, "No delay of the generator was recorded.")
        t = frame["t_s"].to_numpy()
        names = {
            "kickoff_p50": "kick-off p50",
            "kickoff_p99": "kick-off p99",
            "queue_p99": "client queue p99",
        }
        for i, (name, label) in enumerate(names.items()):
            ax.plot(
                t, frame[name], label=label, marker="." if frame.attrs["n"] < 2000 else "", ms=3, **line(i)
            )
        worst = frame[["kickoff_max", "queue_max"]].max(axis=1)
        ax.plot(t, worst, ".", color=colour(7), ms=2.5, label="worst of the bin")
        values = frame[[*names, "kickoff_max"]].to_numpy()
        positive = values[values > 0]
        low, high = (float(positive.min()), float(worst.max())) if len(positive) else (0.0, 1.0)
        latency_axis(ax.yaxis, low, high)
        if high <= 20 * low:
            ax.set_ylim(bottom=0)
        ax.set_ylabel("delay")
        time_axis(ax, frame, float(t[-1]))
        legend(ax)
        alt = f"Delays of the generator itself: kick-off at most {ms(float(frame['kickoff_max'].max()))}, "
        alt += f"client queue at most {ms(float(frame['queue_max'].max()))}."
        what = "kick-off delay: started - planned; client queue: sent - started"
        return say(ax, alt, caption(frame, what, f"bins of {seconds(frame.attrs['bin_s'])}"))
