"""Groups of runs side by side: verdict, ratios with intervals, distributions, each run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from perfkit.compare import Comparison, Result, tipping_words
from perfkit.compare.nouns import detectable_words, needed_words, verdict_words
from perfkit.figures.axes import latency_axis, legend
from perfkit.figures.drawing import BAD, FILL, axes_for, colour, line, nothing, theme
from perfkit.figures.markup import Shown, cell, part, sentence, shown, table
from perfkit.figures.style import drawable, format_level, say, short
from perfkit.store import Run
from perfkit.store.metrics import METRICS
from perfkit.store.summary import TOTAL

_MARKS = {"regressed": "▲", "improved": "▼", "equivalent": "=", "inconclusive": "?"}


def comparison_verdict(comparison: Comparison) -> Shown:
    """Show the verdict and why; below it what was forced or excluded, and notes."""
    left = [*comparison.a.left_out, *comparison.b.left_out]
    lists = [
        ("FORCED, these runs are not comparable:", comparison.forced),
        ("Excluded by rule:", [f"{run}: {'; '.join(why)}" for run, why in left]),
        ("Read with care:", comparison.notes[:12]),
    ]
    page = part("judgement", comparison.level, comparison.words, lists=lists)
    return shown(comparison.words, page)


def comparison_table(comparison: Comparison, operation: str = TOTAL) -> Shown:
    """Show every metric of one operation: both levels, ratio with interval, verdict, detectable change."""
    found = [one for one in comparison.results if one.operation == operation]
    if not found:
        return sentence("Nothing could be compared.")
    rows = [
        [f"{one.metric}{' ★' if one.primary else ''}", _change(one, comparison), _verdict(one),
         _level(one, one.a), _level(one, one.b), _detectable(one)]
        for one in found
    ]  # fmt: skip
    head = ["metric", "B ÷ A", "verdict", comparison.a.name, comparison.b.name, "detectable"]
    star = (
        "★: a primary metric, named before the runs; these alone decide. "
        if any(r.primary for r in found)
        else ""
    )
    caption = f"{short(operation, 60)}, the {comparison.part} of every run. {star}{_small_print(comparison)}"
    text = "\n".join(f"{one.metric:<12} {comparison.change(one):<28} {verdict_words(one)}" for one in found)
    return shown(text, table(head, rows, caption))


def _small_print(comparison: Comparison) -> str:
    """How to read the table: of runs that are replicated, or of one run a side."""
    if comparison.verdict == "within-run only":
        return (
            "Small print: 95 % interval within each run; the spread between runs is not included. "
            "One run per side cannot distinguish a change from chance: no verdict."
        )
    family = sum(one.primary and math.isfinite(one.p) for one in comparison.results)
    return (
        f"Small print: {comparison.options.interval_level:.4g} % interval of this metric alone, from how "
        "runs differ (where it is equivalent, the "
        f"{comparison.options.narrow_level:.4g} % interval, which decided that); below it the "
        f"{comparison.options.family_level:.4g} % one of all primary metrics at once. p adjusted for "
        f"{family} primary metrics (★); the others are exploratory "
        f"(Benjamini–Hochberg). Margin ±{comparison.options.margin:.0%}. Detectable: the change that would "
        "be detected with 80 % power if only this metric changed; below it, the runs per side needed "
        "to bring that to the margin, if that takes at most 30. A dash: a "
        "change was found, or nothing is known."
    )


def comparison_tables(comparison: Comparison) -> Shown:
    """Show the table of `comparison_table` for each operation, where there are several."""
    names = dict.fromkeys(one.operation for one in comparison.results if one.operation != TOTAL)
    if not names:
        return sentence("There is only one operation." if comparison.results else "Nothing was compared.")
    tables = [comparison_table(comparison, name) for name in names]
    return Shown("".join(one.html for one in tables), "\n\n".join(one.text for one in tables))


def comparison_facts(comparison: Comparison, runs: Sequence[Run]) -> Shown:
    """Show the design, the runs of each side, and the intended differences."""
    how = "at once (a duet)" if comparison.duet else "in turns (AB BA …)"
    design = f"{comparison.pairs} pairs {how}" if comparison.pairs else (
        f"{len(comparison.a.runs)} and {len(comparison.b.runs)} runs, unpaired"
    )  # fmt: skip
    borrowed = f"{comparison.history_df:.0f} degrees of freedom" if comparison.history_df else "none"
    options = comparison.options
    told = [
        ("design", design),
        ("noise of earlier runs", borrowed),
        ("margin", f"±{options.margin:.0%}; errors ±{options.error_margin:.2%}"),
        ("false alarms", f"{options.alpha:.0%} in all of {', '.join(options.primary)} together"),
        *((f"server, {side}", options_of) for side, options_of in _servers(comparison, runs)),
    ]
    sides = dict.fromkeys(comparison.a.runs, "A") | dict.fromkeys(comparison.b.runs, "B")
    rows = [
        [run.id, sides.get(run.id, "left out"),
         (run.meta.experiment and run.meta.experiment.pair) or "", run.meta.git.sha[:10]]
        for run in runs
    ]  # fmt: skip
    listed = table(["run", "side", "pair", "code"], rows, f"{len(runs)} runs.", numbers=False)
    return shown("\n".join(f"{name}: {value}" for name, value in told), part("facts", told), listed)


def _servers(comparison: Comparison, runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """The options of the server perfkit started, a line for each side."""
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        for run in [one for one in runs if one.id in side.runs][:1]:
            given = run.meta.server_options
            yield letter, ", ".join(f"{name} {value}" for name, value in given.items()) or "no options"


def _level(one: Result, value: float) -> str:
    return format_level(value, METRICS[one.metric].kind)


def _change(one: Result, comparison: Comparison) -> str:
    if one.metric == "success_p99" and not math.isfinite(one.ratio):
        return comparison.change(one)
    if not math.isfinite(one.ratio):
        return "—"
    small = []
    if one.verdict == "equivalent" and math.isfinite(one.low_narrow):
        narrow = f"{comparison.options.narrow_level:.4g} %"
        small.append(f"{narrow}: {one.low_narrow - 1:+.1%} to {one.high_narrow - 1:+.1%}")
    elif math.isfinite(one.low):
        small.append(f"{one.low - 1:+.1%} to {one.high - 1:+.1%}")
    if one.primary and math.isfinite(one.low_all):
        small.append(f"all: {one.low_all - 1:+.1%} to {one.high_all - 1:+.1%}")
    return cell(f"{one.ratio - 1:+.1%}", *small)


def _verdict(one: Result) -> str:
    css = {"regressed": "pk-no", "improved": "pk-ok", "equivalent": "pk-ok"}.get(one.verdict, "")
    small = ["small but real"] if one.small_but_real else []
    if math.isfinite(one.p_adjusted):
        small.append(f"p {one.p_adjusted:.2g}, {one.method}")
    if one.verdict == "within-run only" and tipping_words(one):
        small.append(tipping_words(one))
    word = verdict_words(one)
    if word == one.verdict:
        word = f"{_MARKS.get(word, '')} {word}"
    return cell(part("marked", css, word), *small, *one.notes)


def _detectable(one: Result) -> str:
    if one.verdict in ("regressed", "improved"):  # found: "any size" would read as its opposite
        return "—"
    return cell(detectable_words(one.detectable), *filter(None, [needed_words(one)]))


# -- figures ---------------------------------------------------------------------------------------


def ratios(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Draw the ratio B ÷ A of every metric, all operations together, with intervals and the margin band."""
    found = [
        one for one in comparison.results
        if one.operation == TOTAL and math.isfinite(one.low) and METRICS[one.metric].kind != "errors"
    ]  # fmt: skip
    with theme():
        ax = axes_for(ax, 1.1 + 0.3 * max(len(found), 1))
        if not found:
            return nothing(ax, "No ratio has an interval.")
        margin = comparison.options.margin
        ax.axvspan(-margin, margin, color=FILL, alpha=0.35, lw=0, label=f"margin ±{margin:.0%}")
        ax.axvline(0, color=colour(7), lw=1)
        for place, one in enumerate(found):
            hue = {"regressed": BAD, "improved": colour(2)}.get(one.verdict, colour(0))
            if one.primary and math.isfinite(one.low_all):
                ax.plot([one.low_all - 1, one.high_all - 1], [place, place], color=hue, lw=1)
            ax.plot([one.low - 1, one.high - 1], [place, place], color=hue, lw=2.5, alpha=0.6)
            if math.isfinite(one.low_narrow):
                ax.plot([one.low_narrow - 1, one.high_narrow - 1], [place, place], color=hue, lw=5, alpha=0.6)
            ax.plot(one.ratio - 1, place, "o" if one.primary else "s", color=hue, ms=5)
        ax.set_yticks(range(len(found)), [f"{one.metric}{' ★' if one.primary else ''}" for one in found])
        ax.set_ylim(-0.6, len(found) - 0.4)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        widest = max(abs(x - 1) for one in found for x in (one.low, one.high))
        reach = max(1.2 * widest, 1.3 * margin)
        ax.set_xlim(max(-reach, -1.0), reach)  # nothing can fall by more than all of it
        ax.xaxis.set_major_formatter(FuncFormatter(_change_tick))
        ax.xaxis.set_major_locator(MaxNLocator(7))
        ax.set_xlabel(f"change from {drawable(comparison.a.name)} to {drawable(comparison.b.name)}")
        legend(ax)
        told = "; ".join(f"{one.metric} {comparison.change(one)}" for one in found)
        return say(ax, f"Change of each metric: {told}.",
                   _bars(comparison))  # fmt: skip


def _bars(comparison: Comparison) -> str:
    if comparison.verdict == "within-run only":
        return "95 % intervals from within each run; the spread between runs is not included."
    options = comparison.options
    return (
        f"Thickest: {options.narrow_level:.4g} % interval, which decides equivalence; thick: "
        f"{options.interval_level:.4g} %, of the metric alone; thin: {options.family_level:.4g} % of all "
        "primary metrics (★) at once (Bonferroni, a little stricter than the verdict). From how runs differ."
    )


def _change_tick(share: float, _: object) -> str:
    """A change as a tick label: -10 %, 0, +2.5 %."""
    return "0" if abs(share) < 1e-9 else f"{100 * share:+.3g} %"


def group_ecdf(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the distribution functions of both sides, each with a band for the spread between runs."""
    with theme():
        ax = axes_for(ax, 3.4)
        if frame.empty:
            return nothing(ax, "One side has no run that can be compared.")
        for i, (side, part) in enumerate(frame.groupby("side", sort=False)):
            runs = frame.attrs["runs"][side]
            ax.plot(part["ms"], part["share"], label=f"{drawable(side)}, {runs} runs", **line(i))
            ax.fill_between(part["ms"], part["low"], part["high"], color=colour(i), alpha=0.25, lw=0)
        latency_axis(ax.xaxis, float(frame["ms"].min()), float(frame["ms"].max()))
        ax.set_xlim(frame["ms"].min(), frame["ms"].max())
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xlabel("response time, from planned to done")
        ax.set_ylabel("share of requests")
        legend(ax)
        sizes = ", ".join(f"{n} runs of {side}" for side, n in frame.attrs["runs"].items())
        return say(ax, f"Distribution functions of response times of {sizes}.",
                   f"{frame.attrs['n']:,} successes of the steady parts; {sizes}. Line: mean over the runs; "
                   "band: its 95 % interval at each latency, from how the runs differ.")  # fmt: skip


def shift(frame: pd.DataFrame, margin: float, ax: Axes | None = None) -> Axes:
    """Draw where in the distribution a change sits: B ÷ A at each quantile, with a simultaneous band."""
    with theme():
        ax = axes_for(ax)
        if frame.empty:
            return nothing(ax, "One side has no run that can be compared.")
        ax.axhspan(1 - margin, 1 + margin, color=FILL, alpha=0.35, lw=0, label=f"margin ±{margin:.0%}")
        ax.axhline(1, color=colour(7), lw=1)
        if frame["low"].notna().all():
            ax.fill_between(frame["q"], frame["low"], frame["high"], color=colour(0), alpha=0.25, lw=0,
                            label="95 % band, all quantiles at once")  # fmt: skip
        ax.plot(frame["q"], frame["ratio"], marker="o", ms=3, label="B ÷ A", **line(0))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _change_tick(y - 1, _)))
        ax.set_xlabel("quantile of the response time")
        ax.set_ylabel("change")
        legend(ax)
        best = frame.iloc[int((frame["ratio"] - 1).abs().argmax())]
        a, b = frame.attrs["runs"]
        largest = f"{best['ratio'] - 1:+.1%} at the {best['q']:.0%} quantile"
        return say(ax, f"Shift function: the largest change is {largest}.",
                   f"{a} and {b} runs; band by {frame.attrs['method']}.")  # fmt: skip


def run_dots(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each run's metrics in time order: the spread within a side."""
    metrics = list(dict.fromkeys(frame["metric"]))
    with theme():
        figure: Any = axes_for(None, 1.0 + 1.25 * max(len(metrics), 1)).get_figure()
        if not metrics:
            return nothing(figure.axes[0], "No metric could be computed for any run.")
        figure.clear()
        axes = np.atleast_1d(figure.subplots(len(metrics), sharex=True))
        sides = list(dict.fromkeys(frame["side"]))
        for place, (metric, one) in enumerate(zip(metrics, axes, strict=True)):
            for i, side in enumerate(sides):
                part = frame[((frame["metric"] == metric) & (frame["side"] == side)).to_numpy()]
                one.plot(part["order"], part["level"], "os^D"[i % 4], color=colour(i), ms=5,
                         label=drawable(side) if place == 0 else None)  # fmt: skip
                one.axhline(np.exp(np.log(part["level"]).mean()), lw=1, **line(i))
            one.set_ylabel(f"{metric}\n{frame[(frame['metric'] == metric).to_numpy()]['unit'].iloc[0]}")
            one.yaxis.set_major_locator(MaxNLocator(4))
            one.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes[-1].set_xlabel("runs in the order they ran")
        legend(axes[0])
        runs = frame["run"].nunique()
        return say(axes[0], f"Each run's {', '.join(metrics)}, {runs} runs in the order they ran.",
                   f"{runs} runs. A dot is a run; a line is the mean of a side.")  # fmt: skip
