"""Many levels of load, many runs: throughput and latency with their knee, and a metric over time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from perfkit.figures.axes import latency_axis, legend
from perfkit.figures.drawing import BAD, FILL, axes_for, colour, line, nothing, theme
from perfkit.figures.markup import Shown, cell, part, sentence, shown, table
from perfkit.figures.readout import read_out
from perfkit.figures.style import drawable, format_level, ms, number, say
from perfkit.store import Run
from perfkit.store.metrics import METRICS
from perfkit.text import plain

# -- capacity --------------------------------------------------------------------------------------


def _told(level: str, *texts: str) -> Shown:
    return shown("\n".join(texts), part("judgement", level, texts[0], texts[1:]))


def capacity_verdict(steps: pd.DataFrame, laws: dict[str, Any]) -> Shown:
    """Show the first line: the highest throughput, and the knee if the data support one."""
    left = [f"Excluded: {run}: {why}." for run, why in steps.attrs["left_out"].items()]
    if steps.empty:
        return _told("bad", "NOTHING TO JUDGE: none of these runs is valid.", *left)
    best = steps.iloc[int(steps["throughput"].argmax())]
    seen = f"{number(best['throughput'])} successes a second was the most, "
    seen += f"with {number(best['concurrency'])} in flight"
    if not laws:
        few = f"UNKNOWN: {_levels(steps)}; the law has three parameters, so measure at least four levels."
        return _told("warn", few, f"{seen}.", *left)
    law = laws["alike"]
    if law.told:
        return _told("warn", f"KNEE UNKNOWN: {law.told}.", f"{seen}.", *left)
    low, high = law.knee_interval
    knee = f"KNEE at {law.knee:.3g} requests in flight: 95 % interval {low:.3g} to {high:.3g}, "
    return _told("good", f"{knee}{number(law.peak)} successes a second there.", f"{seen}.", *left)


def _levels(steps: pd.DataFrame) -> str:
    """How many levels of load, of how many measurements."""
    levels = steps["load"].nunique()
    text = f"{levels} level{'s' * (levels != 1)} of load"
    return text if len(steps) == levels else f"{text}, measured {len(steps)} times"


def capacity(steps: pd.DataFrame, law: Any, ax: Axes | None = None) -> Axes:
    """Draw throughput against concurrency, with the fitted law in the measured range; latency below it."""
    with theme():
        figure: Any = axes_for(None, 4.6).get_figure()
        if steps.empty:
            return nothing(figure.axes[0], "None of these runs is valid.")
        figure.clear()
        top, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        steps = steps.sort_values("concurrency")
        top.plot(steps["concurrency"], steps["throughput"], "o", color=colour(0), label="measured", ms=5)
        told = "No law was fitted."
        if law is not None:
            n = np.linspace(min(1.0, steps["concurrency"].min()), steps["concurrency"].max(), 200)
            top.plot(n, law(n), label="Universal Scalability Law", **line(1))
            told = (
                f"Knee: {law.told}."
                if law.told
                else f"Knee at {law.knee:.3g}, {law.peak:.4g} successes a second."
            )
            if not law.told:
                top.axvline(law.knee, color=BAD, lw=1, ls=":", label=f"knee {law.knee:.3g}")
                top.axvspan(*law.knee_interval, color=BAD, alpha=0.1, lw=0)
        top.set_ylabel("successes a second")
        top.set_ylim(bottom=0)
        legend(top)
        for i, name in enumerate(("p50", "p95")):
            below.plot(steps["concurrency"], steps[name], marker="o", ms=4, label=name, **line(i))
        both = steps[["p50", "p95"]].to_numpy()
        if np.isfinite(both).any():
            latency_axis(below.yaxis, float(np.nanmin(both)), float(np.nanmax(both)))
        below.set_ylabel("response time")
        below.set_xlabel("requests in flight, mean")
        legend(below)
        return say(top, f"Throughput and latency at {_levels(steps)}. {told}",
                   f"{steps.attrs['n']:,} requests, {_levels(steps)}; the first 20 % of each "
                   f"is cut off. {told}")  # fmt: skip


def capacity_table(steps: pd.DataFrame) -> Shown:
    """Show the levels of load as a table."""
    rows = [
        [number(r["load"]), number(r["concurrency"]), number(r["throughput"]), ms(r["p50"]), ms(r["p95"]),
         format_level(r["failed"], "errors"), f"{r['n']:,.0f}"]
        for _, r in steps.iterrows()
    ]  # fmt: skip
    head = [steps.attrs["unit"], "in flight", "successes a second", "p50", "p95", "failed", "requests"]
    return shown(steps.to_string(index=False), table(head, rows, "Levels of load."))


def runs_table(runs: Sequence[Run], left_out: Mapping[str, str]) -> Shown:
    """Show the runs behind a page: id, load, code, and the reason if one is excluded."""
    rows = []
    for run in runs:
        load = dataclasses.asdict(run.meta.load) if run.meta.load else {}
        asked = ", ".join(f"{name} {value}" for name, value in load.items() if value not in (None, ()))
        asked = asked or (run.meta.load_words if run.meta.mix else "")
        rows.append([run.id, asked, run.meta.git.sha[:10], left_out.get(run.id, "")])
    listed = table(["run", "load", "code", "left out"], rows, f"{len(rows)} runs.", numbers=False)
    return shown("\n".join(run.id for run in runs), listed)


def law_table(laws: dict[str, Any]) -> Shown:
    """Show the law's parameters with 95 % intervals, a row per weighting."""
    if not laws:
        return sentence("No law was fitted.")
    rows = []
    for name, law in laws.items():
        cells = [_with_interval(getattr(law, p), law.intervals[p]) for p in ("gamma", "alpha", "beta")]
        rows.append([name, *cells, law.told or _with_interval(law.knee, law.knee_interval)])
    text = "X(N) = γN / (1 + α(N-1) + βN(N-1)) (Gunther 1993). Small print: 95 % intervals, assuming "
    text += "independent points. A knee beyond the highest load, or with an interval wider than half of it, "
    text += "is not reported."
    return shown(str(laws), table(["points weighted", "γ, /s", "α", "β", "knee"], rows, text))


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return cell(f"{value:.4g}", f"{interval[0]:.3g} to {interval[1]:.3g}")


# -- trend -----------------------------------------------------------------------------------------


def trend_verdict(frame: pd.DataFrame, changes: pd.DataFrame, noise_sd: float = math.nan) -> Shown:
    """Show the first line: how many changes, the latest of them, and the noise floor used."""
    metric, counted = frame.attrs["metric"], int(frame["counts"].sum())
    if METRICS[metric].kind == "errors":
        return _told("", "NOT SCANNED: change points are not searched in error rates; errors are too rare.")
    floor = (
        f"Shifts below the noise floor ({noise_sd:.1%}, sd of a run) are not reported."
        if math.isfinite(noise_sd)
        else "This configuration has no noise floor yet; measure it with perfkit aa."
    )
    if counted < 8:
        return _told("warn", f"TOO FEW: {counted} usable runs; a change point needs at least 8.", floor)
    seen = frame.attrs["detectable"]
    if changes.empty:
        words = f"NO CHANGE DETECTED: {metric} of {counted} runs shows no shift beyond noise."
        if math.isnan(seen):
            return _told("", words, "With so few runs, the size of a detectable shift is unknown.", floor)
        could = (
            f"A lasting shift of {seen:.1%} in the middle of the series would be detected with 80 % power; "
        )
        return _told("", words, f"{could}smaller and shorter ones may go undetected.", floor)
    drift = changes.attrs.get("drift", math.nan)
    if math.isfinite(drift):
        words = f"DRIFTED: {metric} moved slowly, by {drift - 1:+.1%} from the first to the last of {counted}"
        return _told("warn", f"{words} runs.", floor)
    last = changes.iloc[-1]
    words = f"{last['ratio'] - 1:+.1%} at {last['run']} (p {last['p']:.2g})"
    count = "one shift" if len(changes) == 1 else f"{len(changes)} shifts"
    return _told("warn", f"CHANGED: {count} of {metric}, the latest {words}.", floor)


def trend(
    frame: pd.DataFrame, changes: pd.DataFrame, noise_sd: float = math.nan, ax: Axes | None = None
) -> Axes:
    """Draw a metric over runs with its change points, and a band of twice the noise floor per level."""
    with theme():
        ax = axes_for(ax, 3.4)
        good = frame["counts"].to_numpy()
        if not good.any():
            return nothing(ax, "This metric could not be computed for any comparable run.")
        place, shares = np.arange(len(frame)), _is_share(frame)
        _draw_levels(ax, frame, changes, noise_sd)
        level = frame["level"].to_numpy()
        error = np.abs(np.array([level - frame["low"], frame["high"] - level]))
        ax.errorbar(
            place[good],
            level[good],
            error[:, good],
            fmt="o",
            color=colour(0),
            ms=4,
            lw=0.8,
            label="run, within-run 95 %",
        )
        if (~good & np.isfinite(level)).any():
            ax.plot(place[~good], level[~good], "x", color=colour(7), label="not comparable")
        for i, at in enumerate(changes["place"]):
            ax.axvline(at - 0.5, color=BAD, lw=1.2, ls="--", label="change point" if i == 0 else None)
        ax.set_xticks(
            some := place[:: math.ceil(len(place) / 8)],
            [_when(frame.iloc[i], i) for i in some],
        )
        told_bars = _frame_levels(ax, level, error[:, good])
        if shares:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            ax.set_ylim(bottom=0)
        unit = f", {frame.attrs['unit']}" if frame.attrs["unit"] else ""
        ax.set_ylabel(f"{frame.attrs['metric'].replace('_', ' ')} of the steady part{unit}")
        read_out(ax, place, level, (_run_words(frame, i) for i in range(len(frame))))
        ax.set_xlabel("runs, oldest first: time, code")
        legend(ax)
        told = (
            "; ".join(
                f"{ratio - 1:+.1%} at {run} (p {p:.2g})"
                for run, ratio, p in zip(changes["run"], changes["ratio"], changes["p"], strict=True)
            )
            or "no change point"
        )
        counted = f"{int(good.sum())} of {len(frame)} runs counted"
        return say(ax, f"{frame.attrs['metric']} over {int(good.sum())} runs: {told}.",
                   f"{counted}. {told}. Confirm a change point with a comparison.{told_bars}")  # fmt: skip


def _run_words(frame: pd.DataFrame, place: int) -> str:
    """What is read out at a run: its number with the interval, or why it does not count."""
    run, kind = frame.iloc[place], METRICS[frame.attrs["metric"]].kind
    low, high = (format_level(run[end], kind) for end in ("low", "high"))
    told = f"{low} to {high}" if run["counts"] else f"not counted: {run['why']}"
    return f"{plain(run['run'])}: {format_level(run['level'], kind)} ({told})"


def _is_share(frame: pd.DataFrame) -> bool:
    return METRICS[frame.attrs["metric"]].kind == "errors"


def _draw_levels(ax: Axes, frame: pd.DataFrame, changes: pd.DataFrame, noise_sd: float) -> None:
    """The mean between change points, on the scale of the metric, in its band of noise."""
    good, place, shares = frame["counts"].to_numpy(), np.arange(len(frame)), _is_share(frame)
    bounds = [0, *changes["place"], len(frame)]
    for low, high in itertools.pairwise(bounds):
        inside = good & (place >= low) & (place < high)
        if not inside.any():
            continue
        of = frame["level"][inside]
        middle = float(of.mean()) if shares else math.exp(float(np.log(of).mean()))
        ax.plot([low - 0.4, high - 0.6], [middle, middle], color=colour(0), lw=1)
        if math.isfinite(noise_sd):
            width = math.exp(2 * noise_sd)
            label = "± 2 sd of a run" if low == 0 else None
            span = [low - 0.4, high - 0.6]
            ax.fill_between(span, middle / width, middle * width, color=FILL, alpha=0.4, lw=0, label=label)


def _frame_levels(ax: Axes, level: np.ndarray, bars: np.ndarray) -> str:
    """Keep the panel to the levels where one run's wide bar would flatten them; words for the caption."""
    seen = level[np.isfinite(level)]
    low, high = float(seen.min()), float(seen.max())
    room = max(high - low, 0.1 * high)
    if not np.isfinite(bars).any() or np.nanmax(bars) <= 1.5 * room:
        return ""
    ax.set_ylim(max(low - room, 0.0), high + room)
    return " Bars wider than the panel are cut off."


def _when(run: pd.Series, place: int) -> str:
    """A run on the axis: when it was made, and of which code."""
    created = str(run["created"] or "")
    time = drawable(f"{created[5:10]} {created[11:16]}".strip() or place + 1)
    return f"{time}\n{drawable(run['git'])}" if run["git"] else time


def left_out(frame: pd.DataFrame) -> Shown:
    """Show the excluded runs of a trend, with the reason."""
    bad: Sequence[Any] = list(frame[~frame["counts"].to_numpy()].itertuples())
    if not bad:
        return sentence("Every run is usable.")
    reasons = [f"{one.run}: {one.why}" for one in bad]
    return shown("\n".join(reasons), part("listed", "Excluded:", reasons))
