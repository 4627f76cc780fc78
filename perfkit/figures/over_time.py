"""What happened when: latency of each call, concurrency, throughput, generator delays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from perfkit.figures.axes import latency_axis, legend, time_axis
from perfkit.figures.drawing import BAD, FILL, axes_for, colour, drawn_from, line, nothing, stacked, theme
from perfkit.figures.kickoff import NO_ROWS, UNTIMED, operations, why_nothing
from perfkit.figures.readout import read_out, rows_of
from perfkit.figures.style import caption, drawable, latency_name, ms, number, say, seconds, short, words
from perfkit.text import plural

__all__ = ["call_latency", "concurrency", "generator_delays", "glance", "throughput"]

NO_SUCCESS = "No request of the measured part succeeded."
_MARKS = ("o", "s", "^", "D", "v", "P", "<", ">")
#: Requests planned within so small a share of the run's time are a burst: time does not tell them apart.
_BURST = 0.05


@drawn_from("calls")
def call_latency(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw latency over planned time: each call, or quantiles per time bin when there are many."""
    ax = axes_for(ax)
    if why := why_nothing(frame) or _without_success(frame):
        return nothing(ax, why)
    return _each_call(frame, ax) if frame.attrs["drawn"] == "calls" else _binned_calls(frame, ax)


def _without_success(frame: pd.DataFrame) -> str:
    return NO_SUCCESS if frame.attrs["failed"] == frame.attrs["n"] else ""


def _each_call(frame: pd.DataFrame, ax: Axes) -> Axes:
    good = frame["error"].isna().to_numpy()
    t, x = frame["t_s"].to_numpy(), frame["latency_ms"].to_numpy()
    burst = _is_burst(frame)
    at = np.arange(1, len(t) + 1) if burst else t
    every, there = operations(frame), set(frame["operation"][good])
    names = [name for name in every if name in there]
    style: Any = {"ms": 2.6, "alpha": 0.75, "mew": 0}
    for mark, name in zip(_MARKS, names, strict=False):
        pick = good & (frame["operation"] == name).to_numpy()
        ax.plot(at[pick], x[pick], mark, color=colour(every.index(name)), label=drawable(name), **style)
    if others := names[len(_MARKS) :]:
        pick = good & frame["operation"].isin(others).to_numpy()
        label = plural(len(others), "other operation")
        ax.plot(at[pick], x[pick], "o", color=colour(len(_MARKS)), label=label, **style)
    if (~good).any():
        ax.plot(at[~good], x[~good], "x", color=BAD, ms=5, label="failed, when it ended")
    latency_axis(ax.yaxis, float(x[x > 0].min(initial=np.inf)), float(x.max(initial=0)))
    ax.set_ylabel("latency")
    if burst:
        ax.set_xlabel("request of the burst, in order of kick-off")
    else:
        time_axis(ax, frame, float(t.max(initial=0)))
    legend(ax)
    few = np.unique(np.linspace(0, len(t) - 1, min(len(t), 300)).astype(int))
    texts = (
        f"{short(frame['operation'].iloc[i])} at {t[i]:.3f} s: {ms(x[i])}{'' if good[i] else ', failed'}"
        for i in few
    )
    read_out(ax, at[few], x[few], texts)
    middle = ms(float(np.median(x[good]))) if good.any() else "none"
    alt = f"Latency of {plural(len(x), 'call')} over time; median {middle}, "
    alt += f"largest {ms(float(x[good].max(initial=0)))}."
    where = "by order, since all were planned within a moment" if burst else "at its planned time"
    return say(ax, alt, caption(frame, latency_name(frame), f"every call, {where}"))


def _is_burst(frame: pd.DataFrame) -> bool:
    """Whether calls are drawn by order: all were planned within a moment."""
    if frame.attrs["drawn"] != "calls" or len(frame) < 2:
        return False
    t, x = frame["t_s"].to_numpy(), frame["latency_ms"].to_numpy()
    return bool(np.ptp(t) < _BURST * float(np.max(t + x / 1e3) - t.min()))


def _binned_calls(frame: pd.DataFrame, ax: Axes) -> Axes:
    t = frame["t_s"].to_numpy()
    ax.fill_between(t, frame["min"], frame["max"], color=FILL, alpha=0.45, lw=0, label="least to most")
    names = [name for name in frame.attrs["over_s"] if frame[name].notna().any()]
    for name, i in (("p99", 1), ("p90", 2), ("p50", 0)):
        if name in names:
            stepped = "steps-mid" if frame.attrs["over_s"][name] > 1.01 * frame.attrs["bin_s"] else "default"
            ax.plot(t, frame[name], label=name, drawstyle=stepped, **line(i))
    latency_axis(ax.yaxis, float(frame["min"].min()), float(frame["max"].max()))
    ax.set_ylabel("latency")
    time_axis(ax, frame, float(t.max()))
    legend(ax)
    middle = frame["p50"].fillna((frame["min"] * frame["max"]) ** 0.5)
    read_out(ax, t, middle, (_bin_words(row, names) for row in rows_of(frame)))
    p50 = frame["p50"].dropna()
    alt = f"Latency over time in {len(frame)} bins: the median of a bin moves between {ms(p50.min())} and "
    alt += f"{ms(p50.max())}; the slowest call took {ms(float(frame['max'].max()))}."
    wide = [
        f"{name} of every {seconds(over)}"
        for name, over in frame.attrs["over_s"].items()
        if name in names and over > 1.01 * frame.attrs["bin_s"]
    ]
    how = "quantiles to 0.3 %, only where 10 requests lie beyond"
    missing = [name for name in frame.attrs["over_s"] if name not in names]
    if missing:
        how += f": the run is too short for {' and '.join(missing)} over time"
    bins = f"{len(frame)} bins of {seconds(frame.attrs['bin_s'])}"
    return say(ax, alt, caption(frame, latency_name(frame), ", ".join([bins, *wide]), how))


def _bin_words(row: Any, names: list[str]) -> str:
    told = [f"{name} {ms(getattr(row, name))}" for name in names if np.isfinite(getattr(row, name))]
    extremes = f"{ms(row.min)} to {ms(row.max)}" if row.n else "none"
    return f"{seconds(max(row.t_s, 0))}: {', '.join([*told, extremes])}, {row.n:,} successes"


@drawn_from("concurrency")
def concurrency(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw requests in flight over time, with the range in each bin, and those planned but not yet sent."""
    ax = axes_for(ax)
    if why := why_nothing(frame):
        return nothing(ax, why)
    t, width = frame["t_s"].to_numpy(), frame.attrs["bin_s"]
    t = np.append(t, t[-1] + width)
    least, most = (np.append(frame[name], frame[name].iloc[-1]) for name in ("least", "most"))
    ax.fill_between(t, least, most, step="post", color=FILL, alpha=0.5, lw=0, label="least to most")
    ax.stairs(frame["mean"], t, baseline=None, label="in flight, mean", lw=1.4, **line(0))
    if frame["waiting"].max() > 0.02 * max(frame["mean"].max(), 1e-9):
        ax.stairs(frame["waiting"], t, baseline=None, label="due but not yet sent, mean", lw=1.4, **line(1))
    ax.set_ylabel("requests")
    ax.yaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    ax.set_ylim(bottom=0)
    time_axis(ax, frame, float(t[-1]))
    legend(ax)
    alt = f"Requests in flight over time: {number(frame['mean'].mean())} on average, "
    alt += f"{frame['most'].max():,} at most; "
    alt += f"due but not yet sent: {number(frame['waiting'].max())} at most in a bin's mean."
    texts = (
        f"{seconds(max(r.t_s, 0))}: {number(r.mean)} in flight, {r.least:,} to {r.most:,}"
        + (f"; {number(r.waiting)} due but not sent" if r.waiting >= 0.005 else "")
        for r in rows_of(frame)
    )
    read_out(ax, t[:-1] + width / 2, frame["mean"], texts)
    apart = frame.attrs["moments_s"]
    how = f"least and most, sampled every {seconds(apart)}" if apart else "at every start and end"
    means = "open model: growth under a constant rate means that the server does not keep up"
    if frame.attrs["closed"]:
        means = "closed model: never more than there are users, so overload shows as latency"
    return say(ax, alt, caption(frame, f"bins of {seconds(width)}, counted exactly, {how}", means))


@drawn_from("over_time")
def throughput(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw requests per second: planned and succeeded; failures in a second panel (or in the given Axes)."""
    if frame.attrs.get("untimed"):
        return nothing(axes_for(ax), UNTIMED)
    failures = bool(frame.attrs["n"]) and frame["failed_per_s"].max() > 0
    ax, below = stacked(ax, 3.6) if failures else (axes_for(ax), None)
    if not frame.attrs["n"]:
        return nothing(ax, NO_ROWS)
    t = np.append(frame["t_s"], frame["t_s"].iloc[-1] + frame.attrs["bin_s"])
    if not frame.attrs["closed"]:  # in a closed loop nothing is planned: a user asks when it has its answer
        whole = np.arange(len(frame)) < max(np.searchsorted(t, frame.attrs["due_s"], "right") - 1, 1)
        planned = np.where(whole, frame["planned_per_s"], np.nan)  # the last one is due only in part
        ax.stairs(planned, t, baseline=None, label="planned", lw=1.1, **line(7))
    ax.stairs(frame["ok_per_s"], t, baseline=None, label="succeeded", lw=1.5, color=colour(0))
    ax.set_ylabel("requests per second")
    ax.set_ylim(bottom=0)
    if below is not None:
        label = "failed" if below is ax else None  # in a panel of its own the axis says it
        below.stairs(frame["failed_per_s"], t, fill=True, color=BAD, alpha=0.85, label=label)
        below.set_ylabel("failed per second")
        below.set_ylim(bottom=0)
    time_axis(below or ax, frame, float(t[-1]))
    legend(ax)
    alt = f"Throughput over time: at most {number(frame['ok_per_s'].max())} successes and "
    alt += f"{number(frame['failed_per_s'].max())} failures a second in a bin."
    texts = (
        f"{seconds(max(r.t_s, 0))}: {number(r.ok_per_s)} succeeded a second, "
        + f"{number(r.failed_per_s)} failed"
        + ("" if frame.attrs["closed"] else f", {number(r.planned_per_s)} planned")
        for r in rows_of(frame)
    )
    read_out(ax, t[:-1] + frame.attrs["bin_s"] / 2, frame["ok_per_s"], texts)
    width = f"bins of {seconds(frame.attrs['bin_s'])}, by end time"
    means = "planned: by planned time; where fewer succeed, the server or the client was saturated"
    if frame.attrs["closed"]:
        means = "closed model: users wait for their answers, so the rate is what the server gave them"
    return say(ax, alt, caption(frame, width, means))


@theme()
def glance(calls: pd.DataFrame, over_time: pd.DataFrame) -> Axes:
    """Draw a run in one small figure: latency above, planned and successful rate below."""
    if calls.empty or not calls.attrs["n"]:
        return nothing(axes_for(None, 1.2), NO_ROWS)
    if why := _without_success(calls):
        return nothing(axes_for(None, 1.2), why)
    burst = _is_burst(calls)
    top, below = stacked(None, 3.4, one_axis=not burst)
    call_latency(calls, top)
    told = words(top)
    if not burst:
        top.set_xlabel("")
    throughput(over_time, below)
    alt = f"{told[0]} Below, {words(below)[0][0].lower()}{words(below)[0][1:]}"
    below.set_ylabel("per second")
    return say(top, alt, told[1])


@drawn_from("delays")
def generator_delays(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the generator's own delays over time: kick-off delay and client queue per bin."""
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
        ax.plot(t, frame[name], label=label, marker="." if frame.attrs["n"] < 2000 else "", ms=3, **line(i))
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
    texts = (
        f"{seconds(max(r.t_s, 0))}: kick-off p50 {ms(r.kickoff_p50)}, p99 {ms(r.kickoff_p99)}, "
        f"client queue p99 {ms(r.queue_p99)}"
        for r in rows_of(frame)
    )
    read_out(ax, t, worst, texts)
    alt = f"Delays of the generator itself: kick-off at most {ms(float(frame['kickoff_max'].max()))}, "
    alt += f"client queue at most {ms(float(frame['queue_max'].max()))}."
    what = "kick-off delay: started - planned; client queue: sent - started"
    return say(ax, alt, caption(frame, what, f"bins of {seconds(frame.attrs['bin_s'])}"))
