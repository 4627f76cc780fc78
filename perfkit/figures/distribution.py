"""How long requests took: histogram, box plot, ECDF with censoring, percentile plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from perfkit.figures.axes import latency_axis, legend
from perfkit.figures.drawing import FILL, axes_for, colour, drawn_from, line, nothing
from perfkit.figures.readout import read_out, rows_of
from perfkit.figures.style import caption, drawable, latency_name, ms, percent, say, short
from perfkit.frames.distribution import MOST_EXACT
from perfkit.text import plural

__all__ = ["boxes", "ecdf", "histogram", "percentile_plot"]

_Words = Callable[[float], str]  #: how a value is written
#: With fewer requests a group has no quartiles worth a box.
FEW = 5
NO_SUCCESS = "No request of the measured part succeeded, so there is no latency to show."
NO_USERS = "Arrivals have no users to tell apart."
NO_GROUP = "No successful request of the measured part has a group: scenarios set `session.group`."


@drawn_from("histogram")
def histogram(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the latency histogram of successes with p50, p95 and p99; of several operations, a ridge each."""
    names = list(frame.attrs["marks"])
    ax = axes_for(ax, 2.9 if len(names) < 2 else 1.2 + 0.45 * len(names))
    if not names:
        return nothing(ax, NO_SUCCESS)
    if len(names) == 1:
        bars(ax, frame, frame.attrs["log"])
        marks(ax, frame.attrs["marks"][names[0]])
    else:
        _ridges(ax, frame)
    ax.set_xlabel(latency_name(frame))
    legend(ax)
    told = "; ".join(
        f"{short(name)}: " + (", ".join(f"{p} {ms(x)}" for p, x in found.items()) or "too few for a quantile")
        for name, found in frame.attrs["marks"].items()
    )
    alt = f"Histogram of the latency of {plural(frame.attrs['ok'], 'successful request')}: {told}."
    scale = "equal ratio" if frame.attrs["log"] else "equal width"
    how = plural(frame.attrs["ok"], "success", "successes")
    how += f" in {frame['left'].nunique()} bins of {scale}"
    ridges = "; each operation as high as its fullest bin" if len(names) > 1 else ""
    return say(ax, alt, caption(frame, how + ridges))


def _ridges(ax: Axes, frame: pd.DataFrame) -> None:
    """Draw a histogram above the line of each operation, which its name and count stand at."""
    labels = []
    for i, (name, found) in enumerate(frame.attrs["marks"].items()):
        part = frame[(frame["operation"] == name).to_numpy()]
        count, grid = part["count"].to_numpy(), np.append(part["left"], part["right"].iloc[-1])
        height = 0.85 * count / count.max()
        ax.stairs(i - height, grid, baseline=i, fill=True, color=FILL, alpha=0.9)
        ax.stairs(i - height, grid, baseline=i, color=colour(0), lw=0.8)
        for j, (p, x) in enumerate(found.items()):
            how = line(j + 1)
            ax.plot([x, x], [i, i - 0.85], lw=1.3, label=p if i == 0 else None, **how)
        labels.append(f"{drawable(name)} · n={count.sum():,}")
        _readout(ax, part, i - height, f"{short(name)}, ")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.9, -1.0)
    ax.grid(axis="y", visible=False)
    low, high = float(frame["left"].min()), float(frame["right"].max())
    latency_axis(ax.xaxis, low if frame.attrs["log"] else 0.0, high, frame.attrs["log"])
    ax.set_xlim(low, high)


def _readout(ax: Axes, part: pd.DataFrame, y: Any, first: str = "", words: _Words = ms) -> None:
    total = max(int(part["count"].sum()), 1)
    there = (part["count"] > 0).to_numpy()
    texts = (
        f"{first}{words(r.left)} to {words(r.right)}: {r.n:,} ({percent(r.n / total)})"
        for r in rows_of(part[there].rename(columns={"count": "n"}))
    )
    read_out(ax, ((part["left"] + part["right"]) / 2)[there], np.asarray(y)[there], texts)


def bars(ax: Axes, frame: pd.DataFrame, log: bool, words: _Words = ms) -> None:
    """Draw counts per bin as one filled outline; words: how a value is written."""
    grid = np.append(frame["left"], frame["right"].iloc[-1])
    ax.stairs(frame["count"], grid, fill=True, color=FILL, alpha=0.9)
    ax.stairs(frame["count"], grid, color=colour(0), lw=0.8)
    latency_axis(ax.xaxis, float(grid[0]) if log else 0.0, float(grid[-1]), log)
    ax.set_ylabel("requests per bin")
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="x", visible=False)
    ax.set_xlim(grid[0], grid[-1])
    _readout(ax, frame, frame["count"], words=words)


def marks(ax: Axes, at: Mapping[Any, Any], words: _Words = ms) -> None:
    """Draw a line at each quantile, with its value in the legend."""
    for i, (name, x) in enumerate(at.items()):
        ax.axvline(x, lw=1.3, label=f"{name} {words(x)}", **line(i + 1))


@drawn_from("boxes")
def boxes(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw a box per group: median, quartiles, whiskers to p5 and p95, dots at the extremes."""
    by = str(frame.attrs["by"])
    ax = axes_for(ax, max(1.3, 0.7 + 0.24 * max(len(frame), 1)))
    if frame.empty:
        return nothing(ax, NO_USERS if not by else NO_GROUP if by == "group" else NO_SUCCESS)
    if by == "operation" and len(frame) == 1:
        return nothing(ax, "There is only one operation.")
    place = np.arange(len(frame)) + 1
    many = frame["n"].to_numpy() >= FEW
    drawn = [
        {"med": r.p50, "q1": r.p25, "q3": r.p75, "whislo": r.p5, "whishi": r.p95}
        for r in rows_of(frame[many])
    ]
    ax.bxp(
        drawn,
        positions=place[many],
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        widths=0.55,
        manage_ticks=False,
        boxprops={"facecolor": FILL, "edgecolor": colour(0), "lw": 0.9},
        medianprops={"color": colour(3), "lw": 2},
        whiskerprops={"color": colour(0)},
        capprops={"color": colour(0)},
    )
    ax.plot(frame["p50"][~many], place[~many], "d", color=colour(3), ms=3.5)
    ax.set_yticks(place, [f"{drawable(g)} · n={n:,}" for g, n in zip(frame[by], frame["n"], strict=True)])
    ax.set_ylim(0.4, len(frame) + 0.6)
    several = frame["n"].to_numpy() > 1
    for extreme in ("min", "max"):
        ax.plot(frame[extreme][several], place[several], ".", color=colour(7), ms=4)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    latency_axis(ax.xaxis, float(frame["min"].min()), float(frame["max"].max()))
    ax.set_xlabel(latency_name(frame))
    if by == "user":
        ax.set_ylabel("virtual user")
    worst, best = frame.iloc[0], frame.iloc[-1]
    alt = f"Box plot of latency by {by}: slowest median {ms(worst.p50)} ({short(worst[by])}), "
    alt += f"fastest {ms(best.p50)} ({short(best[by])})."
    read_out(ax, frame["p50"], place, map(_box_words, rows_of(frame)))
    what = "box: quartiles and median; whiskers: p5 and p95; dots: extremes"
    what += "; quantiles to 0.3 %" if by != "operation" else ""
    if not many.all():
        what += f"; a diamond is the median of fewer than {FEW}"
    return say(ax, alt, caption(frame, what, _drawn_of_all(frame)))


def _box_words(r: Any) -> str:
    return (
        f"{short(r[0])}, {plural(r.n, 'request')}: p5 {ms(r.p5)}, p25 {ms(r.p25)}, p50 {ms(r.p50)}, "
        f"p75 {ms(r.p75)}, p95 {ms(r.p95)}, {ms(r.min)} to {ms(r.max)}"
    )


def _drawn_of_all(frame: pd.DataFrame) -> str:
    groups, drawn = frame.attrs["groups"], len(frame)
    if drawn < groups:
        return f"{drawn} of {groups} drawn, the slowest and the fastest"
    others = frame.attrs["n"] - frame.attrs["failed"] - int(frame["n"].sum())
    without = f"; {others:,} successes have no group" if frame.attrs["by"] == "group" and others > 0 else ""
    return f"all {groups} drawn{without}"


@drawn_from("survival")
def ecdf(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the share of requests answered within each latency; timeouts are right-censored (Kaplan–Meier)."""
    ax = axes_for(ax)
    if frame.empty:
        return nothing(ax, NO_SUCCESS)
    for i, (name, part) in enumerate(frame.groupby("operation", sort=False)):
        ax.step(part["latency_ms"], part["share"], where="post", label=drawable(name), **line(i))
        ax.plot(part["latency_ms"].iloc[-1:], part["share"].iloc[-1:], "o", ms=3, color=colour(i))
        few = part.iloc[:: max(len(part) // 40, 1)]
        texts = (f"{short(name)}: {100 * r.share:.4g} % within {ms(r.latency_ms)}" for r in rows_of(few))
        read_out(ax, few["latency_ms"], few["share"], texts)
    latency_axis(ax.xaxis, float(frame["latency_ms"].min()), float(frame["latency_ms"].max()))
    ax.set_xlabel(latency_name(frame))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("answered within")
    legend(ax)
    reach = frame.groupby("operation", sort=False)["share"].max()
    reached = ", ".join(f"{short(name)} reaches {100 * share:.4g} %" for name, share in reach.items())
    late, left_out, n = frame.attrs["censored"], frame.attrs["excluded"], frame.attrs["n"]
    told = ["no timeouts and no cutoffs"]
    if late:
        told = [f"timeouts and cutoffs ({late:,}) are right-censored: their lines end below 100 %"]
    if left_out:
        told.append(f"other failures ({left_out:,}, {percent(left_out / n)}) ended early and are excluded")
    if none := frame.attrs.get("unanswered"):
        told.append(f"without a line, as none of theirs was answered: {', '.join(map(short, none))}")
    alt = f"Share of requests answered within a latency: {reached}."
    return say(ax, alt, caption(frame, *told, *_precision(frame)))


@drawn_from("percentiles")
def percentile_plot(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw latency by percentile, with equal width for each further nine."""
    ax = axes_for(ax)
    if frame.empty:
        return nothing(ax, NO_SUCCESS)
    for i, (name, part) in enumerate(frame.groupby("operation", sort=False)):
        room = 1 / (1 - part["p"])
        firm = part["firm"].to_numpy()
        ax.plot(room[firm], part["latency_ms"][firm], label=drawable(name), **line(i))
        ax.plot(room[~firm], part["latency_ms"][~firm], color=colour(i), lw=1, ls=":")
        few = part.iloc[:: max(len(part) // 40, 1)]
        texts = (f"{short(name)}: p{100 * r.p:.6g} {ms(r.latency_ms)}" for r in rows_of(few))
        read_out(ax, 1 / (1 - few["p"]), few["latency_ms"], texts)
    ax.set_xscale("log")
    most = float((1 / (1 - frame["p"])).max())
    nines = [1 / (1 - p) for p in (0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)]
    ax.xaxis.set_major_locator(FixedLocator([x for x in nines if x <= most * 1.05]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"p{100 * (1 - 1 / x):.6g}"))
    latency_axis(ax.yaxis, float(frame["latency_ms"].min()), float(frame["latency_ms"].max()))
    ax.set_xlabel("percentile")
    ax.set_ylabel("latency")
    legend(ax)
    last = frame[frame["firm"]].groupby("operation", sort=False).tail(1)
    told = ", ".join(
        f"{short(name)} {ms(x)} at p{100 * p:.4g}"
        for name, x, p in zip(last["operation"], last["latency_ms"], last["p"], strict=True)
    )
    alt = f"Latency by percentile, where at least 10 requests lie beyond: {told or 'nowhere'}."
    dotted = "dotted: fewer than 10 requests lie beyond, so expect another run to differ"
    if frame.attrs.get("carried"):
        alt = alt.replace(", where at least 10 requests lie beyond", "")
        return say(ax, alt, caption(frame, "Quantiles as given in the file"))
    return say(ax, alt, caption(frame, latency_name(frame), dotted, *_precision(frame)))


def _precision(frame: pd.DataFrame) -> list[str]:
    """How exactly the lines are drawn, where not every value is."""
    exact = frame.attrs["exact"]
    return [] if exact else [f"drawn to 0.1 %, the slowest {MOST_EXACT:,} of an operation exactly"]
