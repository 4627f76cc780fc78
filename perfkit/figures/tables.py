"""What a report says in words and tables: verdict, summary, errors, generator health, facts of the run.

Names and error texts come from servers and scenario files: everything goes through `for_html`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from perfkit import stats
from perfkit.figures.style import Shown, ms, number, percent, scroller, seconds
from perfkit.store import Run, fidelity
from perfkit.store.metadata import ThresholdResult
from perfkit.store.summary import MOVED, NAMES
from perfkit.text import for_html

__all__ = ["error_table", "facts", "health_table", "notes", "summary_table", "verdict"]

_ELSEWHERE = ("fidelity", "carried")  #: what other tables tell of a file
_LINE = 500  #: characters of a text from outside that is a line among others

_STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "p99.9", "max")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, numbers: bool = True) -> str:
    """A table of cells that are HTML already; the first column heads its row."""
    css = ' class="pk-n"' if numbers else ""
    top = "".join(f'<th scope="col"{css if i else ""}>{cell}</th>' for i, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td{css}>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    inside = f'<table class="pk-table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<figure class="pk-figure">{scroller("table", inside)}<figcaption>{caption}</figcaption></figure>'


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def items(texts: Iterable[str]) -> str:
    """A list of words, escaped."""
    return _list(for_html(text) for text in texts)


# -- verdict ---------------------------------------------------------------------------------------


def verdict(run: Run, summary: pd.DataFrame) -> Shown:
    """Show the verdict of a run: can it be trusted, its main numbers, which thresholds it met."""
    found, told = run.verdict, _headline(summary)
    reasons = "; ".join(found.reasons)
    first = f"<strong>{for_html(found.word)}</strong>" + (
        f" — {for_html(reasons, most=_LINE)}." if reasons else ""
    )
    parts = [f"<p>{first} {for_html(told)}</p>"]
    if found.thresholds:
        met = len(found.thresholds) - len(found.missed)
        parts.append(f"<p>Thresholds: {met} of {len(found.thresholds)} met.</p>")
        parts.append(_list(_threshold(t) for t in found.thresholds))
    for name, words in (("Tags", ", ".join(run.meta.tags)), ("Note", run.meta.note)):
        if words:
            parts.append(f'<p class="pk-note">{name}: {for_html(words)}</p>')
    if run.meta.step_errors:
        parts.append("<p>Errors in steps of the scenario:</p>")
        parts.append(
            _list(
                f"{error.count} × {for_html(error.text, most=_LINE)}" for error in run.meta.step_errors[:10]
            )
        )
    return Shown(
        f'<section class="pk-verdict pk-{found.level}">{"".join(parts)}</section>',
        f"{found.word} {reasons} {told}".strip(),
    )


def _headline(summary: pd.DataFrame) -> str:
    row = summary.iloc[-1]
    if row["p50_unit"] == stats.SUMMARIZED:
        return _carried_headline(row, summary.attrs["span_s"])
    n, failed, span = int(row["n"]), int(row["failed"]), summary.attrs["span_s"]
    if not n:
        return "No request was measured."
    share = f" ({percent(failed / n)})" if failed else ""
    text = f"{n:,} requests in {seconds(span)}, {failed:,} failed{share}, "
    text += f"{number(row['rate_per_s'])} successes a second."
    quoted = [f"{p} {ms(row[p])} ({_interval(row, p)})" for p in ("p50", "p99") if _firm(row, p)]
    if quoted:
        text += (
            f" {str(summary.attrs['latency']).capitalize()} time: {', '.join(quoted)}, 95 % {_method(row)}."
        )
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
    told += [f"{p} {ms(row[p])}" for p in ("p50", "p95", "p99") if _firm(row, p)]
    return f"{', '.join(told)}, as given in the file."


def _threshold(threshold: ThresholdResult) -> str:
    sign = '<span class="pk-ok">✓ met</span>' if threshold.ok else '<span class="pk-no">✗ missed</span>'
    seen = "no value" if threshold.value is None else f"{threshold.value:.4g}"
    note = f"; {threshold.note}" if threshold.note else ""
    unit = re.search(r"[\d.]\s*([^\d\s.]+)\s*$", threshold.text)
    measured = for_html(seen + (f" {unit[1]}" if unit else "") + note, most=_LINE)
    return f"{sign}: <code>{for_html(threshold.text, most=_LINE)}</code> (measured: {measured})"


# -- tables ----------------------------------------------------------------------------------------


def summary_table(summary: pd.DataFrame) -> Shown:
    """Show the summary: the total, then a column per operation, with an interval below each number."""
    columns = [summary.iloc[-1], *(row for _, row in summary.iloc[:-1].iterrows())]
    rows = [
        ["requests", *("—" if math.isnan(c["n"]) else f"{c['n']:,.0f}" for c in columns)],
        ["failed", *(_failed(c) for c in columns)],
        ["successes a second", *(number(c["rate_per_s"]) for c in columns)],
        *([name, *(_cell(c, name) for c in columns)] for name in _STATISTICS),
    ]
    if columns[0]["p50_unit"] == stats.SUMMARIZED:
        head = ["statistic", *(_name(c["operation"]) for c in columns)]
        body = table(head, rows, "A dash: not in the file.")
        return Shown(body, summary[["operation", "n", "failed", *_STATISTICS]].to_string(index=False))
    methods = [_method(c) for c in columns]
    if len(set(methods)) > 1:
        rows.append(["95 % intervals", *methods])
    what = "intervals by the method in the last row" if len(set(methods)) > 1 else methods[0]
    caption = (
        f"{for_html(str(summary.attrs['latency']).capitalize())} time of successful requests. "
        f"Small print: 95 % {for_html(what)}. "
        "It covers the uncertainty within this run, not the spread from run to run. "
        f"{_OPEN if any(math.isinf(c[f'{name}_high']) for c in columns for name in NAMES) else ''}"
        f"A dash: {for_html(_why_dash(columns))}."
    )
    body = table(["statistic", *(_name(c["operation"]) for c in columns)], rows, caption)
    return Shown(body, summary[["operation", "n", "failed", *_STATISTICS]].to_string(index=False))


def _failed(row: Any) -> str:
    n, failed = row["n"], row["failed"]
    if math.isnan(failed):
        return "—"
    return f"{failed:,.0f}<br><small>{percent(failed / n)}</small>" if failed else "0"


def _name(value: object) -> str:
    text = str(value)
    return for_html(text if len(text) <= 60 else text[:59] + "…")


def _cell(row: Any, name: str) -> str:
    value = float(row[name])
    if name.startswith("p") and not _firm(row, name):
        return "—"
    low = float(row.get(f"{name}_low", math.nan))
    if row["p50_unit"] == stats.SUMMARIZED or (math.isnan(low) and not name.startswith("p")):
        return ms(value)
    return f"{ms(value)}<br><small>{_interval(row, name)}</small>"


def _interval(row: Any, name: str) -> str:
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    if math.isnan(low):
        return "no interval"
    return f"≥ {ms(low)}" if math.isinf(high) else f"{ms(low)} to {ms(high)}"


def _firm(row: Any, name: str) -> bool:
    return bool(row[f"{name}_unit"] != stats.THIN and not math.isnan(row[name]))


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
    listed = _list(for_html(text) for text in warnings[:20])
    return Shown(f'<aside class="pk-notes"><p>Read with care:</p>{listed}</aside>', "\n".join(warnings))


def error_table(errors: pd.DataFrame) -> Shown:
    """Show failures by class and operation, with the first message of each."""
    if errors.empty and errors.attrs.get("failed") != errors.attrs.get("failed"):
        return Shown("<p>The file does not say what failed.</p>", "The file does not say what failed.")
    if errors.empty:
        return Shown("<p>No request failed.</p>", "No request failed.")
    rows = [
        [
            for_html(r["error"]),
            _name(r["operation"]),
            f"{r['count']:,}",
            percent(r["share"]),
            f"<q>{for_html(_words(r['words']))}</q>",
        ]
        for _, r in errors.iterrows()
    ]
    kinds = errors.attrs["kinds"]
    more = f" The {len(errors)} most frequent of {kinds}." if kinds > len(errors) else ""
    body = table(
        ["class", "operation", "count", "share", "first message"],
        rows,
        f"Failed requests.{more}",
        numbers=False,
    )
    return Shown(body, errors.to_string(index=False))


def _words(text: object) -> str:
    return str(text)[:300] if isinstance(text, str) else ""


def health_table(run: Run) -> Shown:
    """Show the generator's health, a row per process."""
    workers = run.meta.health.workers
    if not workers:
        why = "is not in the file the run was imported from" if run.meta.imported else "was not recorded"
        return Shown(f"<p>The generator's health {why}.</p>", f"The generator's health {why}.")
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
    head = ["process", *(for_html(w.get("worker", i)) for i, w in enumerate(workers))]
    rows = [[label, *(_health(name, w.get(name)) for w in workers)] for name, label in columns.items()]
    return Shown(table(head, rows, "The load-generating processes."), str(pd.DataFrame(workers)))


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
        for k in ("users", "arrivals", "warmup_s", "drain_s", "seed", "processes")
        if meta.workload.get(k) is not None
    }
    sha = meta.git.sha[:12]
    imported = dataclasses.asdict(meta.imported) if meta.imported else {}
    pairs: list[tuple[str, str]] = [
        ("run", for_html(run.id)),
        ("state", for_html(run.state) + (f" ({for_html(run.reason)})" if run.reason else "")),
        ("created", for_html(meta.created or "unknown")),
        ("imported", _pairs({k: v for k, v in imported.items() if k not in _ELSEWHERE and v != ""})),
        ("fidelity", for_html(fidelity.fidelity(run.meta).words)),
        ("scenario", for_html(name) + (f"<br>{for_html(doc)}" if doc else "")),
        ("parameters", _pairs(meta.scenario.params)),
        ("load", _pairs(load)),
        ("target", _pairs(meta.target)),
        ("code", (for_html(sha) + (", with uncommitted changes" if meta.git.dirty else "")) if sha else ""),
        ("host", _pairs(meta.host)),
        ("versions", _pairs(meta.versions)),
    ]
    body = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in pairs if value)
    return Shown(f'<dl class="pk-facts">{body}</dl>', f"{run.id} {name}")


def _pairs(mapping: Mapping[str, Any]) -> str:
    texts = [f"{name} {_value(v)}" for name, v in mapping.items() if v not in (None, "", [], {}, ())]
    return "; ".join(for_html(text if len(text) < 300 else text[:299] + "…") for text in texts)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(v)}" for name, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
