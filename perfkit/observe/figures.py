"""What the server saw, under the client's latency on one time axis; where time went; findings in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from perfkit.figures.axes import latency_axis, legend, time_axis
from perfkit.figures.drawing import BAD, FILL, axes_for, colour, line, nothing, theme
from perfkit.figures.markup import Shown, part, sentence, show, shown, table
from perfkit.figures.over_time import call_latency
from perfkit.figures.style import caption, drawable, ms, number, percent, say, seconds
from perfkit.figures.tables import interval, verdict
from perfkit.observe.findings import Judged
from perfkit.observe.frames import only
from perfkit.store import Run
from perfkit.store.summary import firm


@theme()
def _under_latency(calls: pd.DataFrame, draw: Callable[[Axes], str], height: float = 4.2) -> Axes:
    """The client's latency, below it what `draw` draws, over one time axis; `draw` returns the alt text."""
    figure: Any = axes_for(None, height).get_figure()
    figure.clear()
    top, below = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    sns.despine(fig=figure)
    call_latency(calls, top)
    top.set_xlabel("")
    alt = draw(below)
    time_axis(below, calls, float(calls["t_s"].max()) if len(calls) else 0.0)
    legend(below)
    return say(below, f"{alt} Above it the client's latency.", caption(calls, "above: the client's latency"))


def pool(frame: pd.DataFrame, calls: pd.DataFrame) -> Axes:
    """Connections out, overflow and waiting checkouts of the server's database pools over time."""
    if frame.empty or frame["checked_out"].isna().all():
        return _none("pool")

    def draw(ax: Axes) -> str:
        t = frame["t_s"].to_numpy()
        ax.axhline(frame.attrs["size"], color=colour(7), lw=1, ls=":", label="size of the pool")
        ax.plot(t, frame["checked_out"], label="connections out", drawstyle="steps-mid", **line(0))
        if frame["overflow"].max() > 0:
            ax.plot(t, frame["overflow"], label="opened beyond the size", drawstyle="steps-mid", **line(2))
        if frame["waiting"].max() > 0:
            ax.fill_between(t, 0, frame["waiting"], step="mid", color=BAD, alpha=0.35, lw=0)
            ax.plot(t, frame["waiting"], color=BAD, lw=1, drawstyle="steps-mid", label="waiting for one")
        ax.set_ylim(bottom=0)
        ax.set_ylabel("connections")
        out, waiting = frame["checked_out"].max(), frame["waiting"].max()
        return (
            f"Database pool over time: at most {out:.0f} of {frame.attrs['size']:.0f} connections out, "
            f"at most {waiting:.0f} requests waiting."
        )

    return _under_latency(calls, draw)


def loop_lag(frame: pd.DataFrame, calls: pd.DataFrame) -> Axes:
    """How late the server's event loop ran a callback: the worst and the median of each bin."""
    return _latencies(frame, calls, "event loop's lag", "Lag of the server's event loop")


def model_times(frame: pd.DataFrame, calls: pd.DataFrame) -> Axes:
    """Time to the model's first token over time."""
    return _latencies(frame, calls, "time to the first token", "The model's time to its first token")


def endpoint_times(frame: pd.DataFrame, calls: pd.DataFrame) -> Axes:
    """How long the server itself was at its requests, over time."""
    return _latencies(frame, calls, "time in the server", "Time of requests inside the server")


def _latencies(frame: pd.DataFrame, calls: pd.DataFrame, label: str, what: str) -> Axes:
    if frame.empty or not frame["n"].sum():
        return _none(label)

    def draw(ax: Axes) -> str:
        there = frame[frame["n"].to_numpy() > 0]
        t, middle, most = (there[name].to_numpy() for name in ("t_s", "p50", "most"))
        low = float(middle[middle > 0].min()) if (middle > 0).any() else 0.0
        middle, most = np.maximum(middle, low), np.maximum(most, low)  # 0 has no place on a logarithmic axis
        ax.fill_between(t, middle, most, color=FILL, alpha=0.45, lw=0)
        ax.plot(t, most, label="worst of the bin", **line(1))
        ax.plot(t, middle, label="median", **line(0))
        latency_axis(ax.yaxis, low, float(most.max()))
        ax.set_ylabel(label)
        worst, width = ms(frame.attrs["worst"]), seconds(frame.attrs["bin_s"])
        return f"{what} over time: {worst} the worst, bins of {width}."

    return _under_latency(calls, draw)


def leadership(frame: pd.DataFrame, calls: pd.DataFrame) -> Axes:
    """When which instance led, and the scheduler's ticks."""
    if frame.empty:
        return _none("scheduler")

    def draw(ax: Axes) -> str:
        sources = list(dict.fromkeys(frame["source"].astype(str)))
        for i, (event, mark) in enumerate((("tick", "|"), ("gained", "^"), ("lost", "v"))):
            part = only(frame, event=event)
            if part.empty:
                continue
            y = [sources.index(source) for source in part["source"].astype(str)]
            hue = BAD if event == "lost" else colour(i)
            label = event if event == "tick" else f"leadership {event}"
            ax.plot(part["t_s"], y, mark, color=hue, ms=7, label=label)
        ax.set_yticks(range(len(sources)), [drawable(source, 12) for source in sources])
        ax.set_ylim(-0.6, len(sources) - 0.4)
        ax.set_ylabel("instance")
        counts = frame["event"].value_counts()
        return ", ".join(f"{n:,} {event}" for event, n in counts.items()) + " events of the scheduler."

    return _under_latency(calls, draw, 3.4)


@theme()
def _none(what: str) -> Axes:
    return nothing(axes_for(None), f"No data on the {what}: the server reported none while measuring.")


@theme()
def tail(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Where the slowest requests spent their time, beside the median ones: shares as stacked bars."""
    ax = axes_for(ax, 2.2)
    if frame.empty:
        return nothing(ax, "Too few requests for which the server reported where their time went.")
    groups = {"slowest": f"slowest {percent(frame.attrs['slowest'])}", "median": "median (p40 to p60)"}
    hatches = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "**", "||", "--")
    left = np.zeros(len(groups))
    labels = frame.drop_duplicates("part")[["part", "label"]].itertuples(index=False, name=None)
    for i, (name, label) in enumerate(labels):
        rows = only(frame, part=name).set_index("group")
        width = rows.loc[list(groups), "share"].to_numpy()
        hue = FILL if name == "rest" else BAD if name == "loop_lag" else colour(i)
        hatch, words = "" if name == "rest" else hatches[i], drawable(label)
        ax.barh(list(groups.values()), width, left=left, color=hue, hatch=hatch, label=words, lw=0)
        left = left + width
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the response time")
    ax.grid(axis="y", visible=False)
    legend(ax, 3)
    sizes = frame.groupby("group", sort=False)[["n", "ms"]].agg({"n": "first", "ms": "sum"})
    told = "; ".join(
        f"{groups[str(g)]}: n = {r['n']:,.0f}, {ms(r['ms'])} on average" for g, r in sizes.iterrows()
    )
    return say(ax, f"Shares of the response time. {told}.", caption(frame, told))


def endpoint_table(frame: pd.DataFrame, most: int = 20) -> Shown:
    """Endpoints as the server timed them."""
    if frame.empty:
        return sentence("The server reported no request.")
    rows = [
        [r["endpoint"], f"{r['n']:,}", ms(r["p50"]), ms(r["p95"]), ms(r["most"])]
        for _, r in frame.head(most).iterrows()
    ]
    head = ["endpoint, status", "requests", "p50", "p95", "max"]
    listed = table(head, rows, "Time inside the server, to the last byte.")
    return shown(frame.to_string(index=False), listed)


def first_page(
    run: Run, summary: pd.DataFrame, picture: Axes, judged: Judged, health_page: str = ""
) -> Shown:
    """Show what a colleague in a hurry reads: verdict, three numbers, one picture, findings, what to do."""
    row, told = summary.iloc[-1], verdict(run, summary)
    name = next((name for name in ("p99", "p95", "p50") if firm(row, name)), "p50")
    share = row["failed"] / row["n"] if row["n"] else math.nan
    n, failed = (number(row[one]) for one in ("n", "failed"))
    numbers = [
        (f"{name} of the {summary.attrs['part']}", ms(row[name]), f"95 %: {interval(row, name)}"),
        ("successes a second", number(row["rate_per_s"]), f"over {seconds(summary.attrs['span_s'])}"),
        ("failed", percent(share) if share else "0 %", f"{failed} of {n} requests"),
    ]
    todo = list(_what_to_do(run, row, judged, health_page))
    found = findings(judged, health_page)
    page = part("first_page", told, numbers, show(picture), found, todo)
    return shown("\n".join([told.text, found.text, *todo]), page)


def _what_to_do(run: Run, row: Any, judged: Judged, health_page: str) -> Iterator[str]:
    if run.verdict.level == "bad":
        yield "Do not quote these numbers: remove the reason given above and repeat the run."
    if row["failed"] >= 0.01 * max(row["n"], 1):
        yield "Begin with what failed: latencies are those of the successes alone."
    if run.verdict.missed:
        yield "Find what changed since a run that met the thresholds: perfkit compare says which numbers did."
    if judged.findings and health_page:
        yield "Look at the server's health for the evidence of the findings."
    if row["ok"] and not firm(row, "p99"):
        yield f"For a p99 measure longer: it needs 1,000 successes, and this run has {row['ok']:,.0f}."
    if run.verdict.level == "good" and not judged.findings:
        fine = "Nothing to repair. " if row["failed"] < 0.01 * max(row["n"], 1) and firm(row, "p99") else ""
        yield f"{fine}To judge a change: perfkit compare before.yaml after.yaml --until-clear."


def findings(judged: Judged, health_page: str = "") -> Shown:
    """Findings in words, the explanation of the tail, and a link to the page that shows them."""
    items = [str(one) for one in judged.findings]
    page = part("findings", items, judged.probed, judged.notes, judged.tail, health_page)
    return shown("\n".join([*(items or ["no findings"]), judged.tail]).strip(), page)
