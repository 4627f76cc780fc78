"""What a report says in words and tables: verdict, summary, errors, generator health, facts of the run.

Names and error texts come from servers and scenario files: `markup` makes them harmless.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from perfkit import stats
from perfkit.figures.drawing import drawn_from
from perfkit.figures.markup import Shown, cell, part, sentence, shown, table
from perfkit.figures.style import ms, number, percent, seconds, short
from perfkit.store import Run, fidelity
from perfkit.store.metadata import ShardFacts
from perfkit.store.summary import MOVED, NAMES, firm
from perfkit.text import plain, plural

__all__ = ["error_table", "facts", "health_table", "notes", "summary_table", "verdict"]

_ELSEWHERE = ("fidelity", "carried")  #: what other tables tell of a file
_AT_ONCE = 10  #: kinds of failures in sight; the others are there for who asks
_LINE = 500  #: characters of a text from outside that is a line among others

_STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "p99.9", "max")


# -- verdict ---------------------------------------------------------------------------------------


def verdict(run: Run, summary: pd.DataFrame) -> Shown:
    """Show the verdict of a run: can it be trusted, its main numbers, which thresholds it met."""
    found, told = run.verdict, _headline(summary)
    reasons = "; ".join(filter(None, (*found.reasons, found.missed_words)))
    thresholds = [
        {"ok": one.ok, "text": plain(one.text, most=_LINE), "measured": plain(one.measured, most=_LINE)}
        for one in found.thresholds
    ]
    about = [("Tags", ", ".join(run.meta.tags)), ("Note", run.meta.note)]
    errors = [f"{one.count} × {plain(one.text, most=_LINE)}" for one in run.meta.step_errors[:10]]
    first = (found.level, found.word, plain(reasons, most=_LINE), told)
    return shown(f"{found.word} {reasons} {told}".strip(), part("verdict", *first, thresholds, about, errors))


def _headline(summary: pd.DataFrame) -> str:
    row = summary.iloc[-1]
    if row["p50_unit"] == stats.SUMMARIZED:
        return _carried_headline(row, summary.attrs["span_s"])
    n, failed, span = int(row["n"]), int(row["failed"]), summary.attrs["span_s"]
    if not n:
        return "No request was measured."
    share = f" ({percent(failed / n)})" if failed else ""
    text = f"{plural(n, 'request')} in {seconds(span)}, {failed:,} failed{share}, "
    text += f"{number(row['rate_per_s'])} successes a second."
    quoted = [f"{p} {ms(row[p])} ({interval(row, p)})" for p in ("p50", "p99") if firm(row, p)]
    if quoted:
        latency = str(summary.attrs["latency"]).capitalize()
        text += f" {latency} time: {', '.join(quoted)}, 95 % {_method(row)}."
    return text


def _carried_headline(row: Any, span_s: float) -> str:
    """The numbers of a summary in a sentence, as far as it tells them."""
    told = []
    if not math.isnan(row["n"]):
        told.append(f"{row['n']:,.0f} requests{f' in {seconds(span_s)}' if span_s > 1e-6 else ''}")
    if not math.isnan(row["failed"]):
        share = f" ({percent(row['failed'] / row['n'])})" if row["failed"] and row["n"] else ""
        told.append(f"{row['failed']:,.0f} failed{share}")
    if not math.isnan(row["rate_per_s"]):
        told.append(f"{number(row['rate_per_s'])} successes a second")
    told += [f"{p} {ms(row[p])}" for p in ("p50", "p95", "p99") if firm(row, p)]
    return f"{', '.join(told)}, as given in the file."


# -- tables ----------------------------------------------------------------------------------------


@drawn_from("summary")
def summary_table(summary: pd.DataFrame) -> Shown:
    """Show the summary: the total, then a column per operation, with an interval below each number."""
    columns = [summary.iloc[-1], *(row for _, row in summary.iloc[:-1].iterrows())]
    rows = [
        ["requests", *("—" if math.isnan(c["n"]) else f"{c['n']:,.0f}" for c in columns)],
        ["failed", *(_failed(c) for c in columns)],
        ["successes a second", *(number(c["rate_per_s"]) for c in columns)],
        *([name, *(_cell(c, name) for c in columns)] for name in _STATISTICS),
    ]
    if any(not math.isnan(c["goodput_per_s"]) for c in columns):
        rows.insert(3, ["goodput a second", *(number(c["goodput_per_s"]) for c in columns)])
    head = ["statistic", *(short(c["operation"], 60) for c in columns)]
    text = summary[["operation", "n", "failed", *_STATISTICS]].to_string(index=False)
    if columns[0]["p50_unit"] == stats.SUMMARIZED:
        return shown(text, table(head, rows, "A dash: not in the file."))
    methods = [_method(c) for c in columns]
    if len(set(methods)) > 1:
        rows.append(["95 % intervals", *(cell("", method.partition(" (")[0]) for method in methods)])
    mixed = "intervals by the method in the last row; those that assume independent requests have "
    mixed += "too few, or too short a burst, for time slices"
    what = mixed if len(set(methods)) > 1 else methods[0]
    caption = (
        f"{str(summary.attrs['latency']).capitalize()} time of successful requests. "
        f"Small print: 95 % {what}. "
        "It covers the uncertainty within this run, not the spread from run to run. "
        f"{_OPEN if any(math.isinf(c[f'{name}_high']) for c in columns for name in NAMES) else ''}"
        f"A dash: {_why_dash(columns)}."
    )
    return shown(text, table(head, rows, caption))


def _failed(row: Any) -> str:
    n, failed = row["n"], row["failed"]
    if math.isnan(failed):
        return "—"
    return cell(f"{failed:,.0f}", percent(failed / n)) if failed else "0"


def _cell(row: Any, name: str) -> str:
    value = float(row[name])
    if name.startswith("p") and not firm(row, name):
        return "—"
    low = float(row.get(f"{name}_low", math.nan))
    if row["p50_unit"] == stats.SUMMARIZED or (math.isnan(low) and not name.startswith("p")):
        return ms(value)
    return cell(ms(value), interval(row, name))


def interval(row: Any, name: str) -> str:
    """Return the interval of a quantile, or that there is none."""
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    if math.isnan(low):
        return "no interval"
    return f"≥ {ms(low)}" if math.isinf(high) else f"{ms(low)} to {ms(high)}"


_OPEN = "≥: the upper end is unknown; this run has too few requests in that tail. "


def _why_dash(columns: Sequence[Any]) -> str:
    """Why quantiles of these are not shown."""
    few = "fewer than 10 requests lie beyond that quantile"
    if any(c["n"] and not c["ok"] for c in columns):
        none = "no request of an operation succeeded"
        few = none if not any(c["ok"] for c in columns) else f"{few}, or {none}"
    wide = any(c[f"{name}_unit"] == stats.WIDE for c in columns for name in NAMES)
    return f"{few}. No interval: {MOVED}" if wide else few


def _method(row: Any) -> str:
    """By which method an operation's intervals are made: that of its most common quantiles."""
    units = {str(row[f"{name}_unit"]) for name in ("p50", "mean", *NAMES)}
    if stats.WITHIN_RUN in units:
        return "within-run interval from time slices"
    if stats.INDEPENDENT in units:
        return "interval that assumes independent requests (too few, or too short a burst, for time slices)"
    return "no interval"


def notes(warnings: Sequence[str]) -> Shown:
    """Show the warnings of a summary, if any."""
    if not warnings:
        return Shown("", "")
    return shown("\n".join(warnings), part("notes", "Read with care:", warnings[:20]))


@drawn_from("errors")
def error_table(errors: pd.DataFrame) -> Shown:
    """Show failures by class and operation, with the first message of each."""
    if errors.empty and errors.attrs.get("failed") != errors.attrs.get("failed"):
        return sentence("The file does not say what failed.")
    if errors.empty:
        return sentence("No request failed.")
    rows = []
    for _, r in errors.iterrows():
        words = part("quoted", r["words"][:300] if isinstance(r["words"], str) else "")
        rows.append([r["error"], short(r["operation"], 60), f"{r['count']:,}", percent(r["share"]), words])
    kinds = errors.attrs["kinds"]
    more = f" The {len(errors)} most frequent of {kinds}." if kinds > len(errors) else ""
    head = ["class", "operation", "count", "share", "first message"]
    body = [table(head, rows[:_AT_ONCE], f"Failed requests.{more}", numbers=False)]
    if rest := rows[_AT_ONCE:]:
        body.append(part("more", f"{len(rest)} less frequent", table(head, rest, "", numbers=False)))
    return shown(errors.to_string(index=False), *body)


def health_table(run: Run) -> Shown:
    """Show the generator's health, a row per process."""
    workers = run.meta.health.workers
    if not workers:
        why = "is not in the file the run was imported from" if run.meta.imported else "was not recorded"
        return sentence(f"The generator's health {why}.")
    columns = {
        "kickoff_p50_ms": "kick-off p50",
        "kickoff_p99_ms": "kick-off p99",
        "client_queue_p99_ms": "client queue p99",
        "loop_lag_p50_ms": "loop lag p50",
        "loop_lag_p99_ms": "loop lag p99",
        "loop_lag_max_ms": "loop lag max",
        "cpu_share": "CPU share",
        "gc_pauses": "GC pauses",
        "gc_pause_max_ms": "longest GC pause",
    }
    head = ["process", *(w.get("worker", i) for i, w in enumerate(workers))]
    rows = [[label, *(_health(name, w.get(name)) for w in workers)] for name, label in columns.items()]
    shards = {one.shard: one for one in run.meta.shards}
    if all(number in shards for number in head[1:]):
        rows[:0] = [[label, *(what(shards[number]) for number in head[1:])] for label, what in _OF_SHARDS]
    caption = " ".join(["The load-generating processes.", *(f"{words}." for words in run.meta.shard_words)])
    return shown(str(pd.DataFrame(workers)), table(head, rows, caption))


_OF_SHARDS: tuple[tuple[str, Callable[[ShardFacts], str]], ...] = (
    ("host", lambda one: one.host),
    (
        "clock, from the coordinator's",
        lambda one: f"{one.offset_ns / 1e6:+,.3f} ± {one.error_ns / 1e6:.3f} ms",
    ),
    ("its drift", lambda one: f"{one.drift_ppm:+.2f} ppm"),
    ("requests", lambda one: "—" if one.rows is None else f"{one.rows:,}"),
    ("fetched", lambda one: f"{one.fetched_bytes / 1e6:.1f} MB" if one.fetched_bytes else "—"),
)


def _health(name: str, value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "—"
    if name == "cpu_share":
        return f"{100 * value:.0f} %"
    return ms(float(value)) if name.endswith("_ms") else f"{value:,g}"


# -- facts -----------------------------------------------------------------------------------------


def facts(run: Run) -> Shown:
    """Show how the run was made: scenario and parameters, target, load, code, host, versions."""
    meta = run.meta
    doc, name = meta.scenario.doc.strip().split("\n\n")[0], meta.scenario.name
    load = {
        k: meta.workload[k]
        for k in ("users", "arrivals", "mix", "warmup_s", "drain_s", "seed", "processes", "slo")
        if meta.workload.get(k) not in (None, [])
    }
    sha = meta.git.sha[:12]
    imported = dataclasses.asdict(meta.imported) if meta.imported else {}
    pairs: list[tuple[str, str]] = [
        ("run", run.id),
        ("state", f"{run.state} ({run.reason})" if run.reason else run.state),
        ("created", meta.created or "unknown"),
        ("imported", _pairs({k: v for k, v in imported.items() if k not in _ELSEWHERE and v != ""})),
        ("fidelity", fidelity.fidelity(run.meta).words),
        ("scenario", part("lines", [name, doc])),
        ("parameters", _pairs(meta.scenario.params)),
        ("load", _pairs(load)),
        ("recording", part("lines", meta.replay.words) if meta.replay else ""),
        ("target", _pairs(meta.target)),
        ("code", sha + (", with uncommitted changes" if sha and meta.git.dirty else "")),
        ("host", _pairs(meta.host)),
        ("versions", _pairs(meta.versions)),
    ]
    return shown(f"{run.id} {name}", part("facts", pairs))


def _pairs(mapping: Mapping[str, Any]) -> str:
    texts = (f"{name} {_value(v)}" for name, v in mapping.items() if v not in (None, "", [], {}, ()))
    return part("joined", [short(text, 300) for text in texts])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(v)}" for name, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
