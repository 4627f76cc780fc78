"""What a report says in words and tables: verdict, summary, errors, generator health, facts of the run.

Names and error texts come from servers and scenario files: everything is escaped here, by `escaped`.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from perfkit import fidelity
from perfkit.figures.style import Shown, ms, number, percent, printable, scroller, seconds
from perfkit.store import Run
from perfkit.verdicts import verdict_of

#: Characters of a text from outside that are shown; a server can answer with a megabyte of nonsense.
MOST = 2_000
_LINE = 500  #: of one that is a line among others

_STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "p99.9", "max")


def bounded(value: object, most: int = MOST) -> str:
    """Text from anyone, fit to be shown: no control characters, bidirectional overrides included; at most
    `most` characters, and where it is cut it says how many there were."""
    text = str(value)
    kept = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    return printable(kept)


def escaped(value: object, most: int = MOST) -> str:
    """The same for HTML."""
    return html.escape(bounded(value, most), quote=True)


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
    return _list(escaped(text) for text in texts)


# -- verdict ---------------------------------------------------------------------------------------


def verdict(run: Run, summary: pd.DataFrame) -> Shown:
    """The first line of a report: may this run be trusted, what did it find, which thresholds did it meet."""
    found, told = verdict_of(run), _headline(summary)
    reasons = "; ".join(found.reasons)
    first = f"<strong>{escaped(found.word)}</strong>" + (f" — {escaped(reasons, _LINE)}." if reasons else "")
    if found.over_budget and found.word != "INVALID":
        first += " The generator was over its budget too."
    css = found.level if int(summary.iloc[-1]["ok"]) or not int(summary.iloc[-1]["n"]) else "bad"
    parts = [f"<p>{first} {escaped(told)}</p>"]
    if found.thresholds:
        met = len(found.thresholds) - len(found.missed)
        parts.append(f"<p>Thresholds: {met} of {len(found.thresholds)} met.</p>")
        parts.append(_list(_threshold(t) for t in found.thresholds))
    tags = ", ".join(str(tag) for tag in _sequence(run.meta.get("tags")))
    for name, words in (("Tags", tags), ("Note", str(run.meta.get("note") or ""))):
        if words:
            parts.append(f'<p class="pk-note">{name}: {escaped(words)}</p>')
    errors = [e for e in _sequence(run.meta.get("step_errors")) if isinstance(e, Mapping)]
    if errors:
        parts.append("<p>Steps of the scenario that ended by an error of their own:</p>")
        parts.append(
            _list(
                f"{escaped(e.get('count', '?'))} × {escaped(e.get('text', ''), _LINE)}" for e in errors[:10]
            )
        )
    return Shown(
        f'<section class="pk-verdict pk-{css}">{"".join(parts)}</section>',
        f"{found.word} {reasons} {told}".strip(),
    )


def _headline(summary: pd.DataFrame) -> str:
    row = summary.iloc[-1]
    n, failed, span = int(row["n"]), int(row["failed"]), summary.attrs["span_s"]
    if not n:
        return "No request reached the measured part."
    share = f" ({percent(failed / n)})" if failed else ""
    text = f"{n:,} requests in {seconds(span)}, {failed:,} failed{share}, "
    text += f"{number(row['rate_per_s'])} successes a second."
    quoted = [
        f"{p} {ms(row[p])} ({ms(row[f'{p}_low'])} to {ms(row[f'{p}_high'])})"
        for p in ("p50", "p99")
        if _firm(row, p)
    ]
    if quoted:
        text += f" {str(summary.attrs['latency']).capitalize()} time: {', '.join(quoted)}, 95 % {_unit(row)}."
    return text


def _threshold(threshold: Mapping[str, Any]) -> str:
    sign = (
        '<span class="pk-ok">✓ met</span>' if threshold.get("ok") else '<span class="pk-no">✗ missed</span>'
    )
    value = threshold.get("value")
    seen = f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "no value"
    text = str(threshold.get("text", ""))
    note = f"; {threshold['note']}" if threshold.get("note") else ""
    unit = re.search(r"[\d.]\s*([^\d\s.]+)\s*$", text)
    measured = escaped(seen + (f" {unit[1]}" if unit else "") + note, _LINE)
    return f"{sign}: <code>{escaped(text, _LINE)}</code> (measured: {measured})"


# -- tables ----------------------------------------------------------------------------------------


def summary_table(summary: pd.DataFrame) -> Shown:
    """A column for each operation, all of them first; an interval below each number."""
    columns = [summary.iloc[-1], *(row for _, row in summary.iloc[:-1].iterrows())]
    rows = [
        ["requests", *(f"{int(c['n']):,}" for c in columns)],
        ["failed", *(_failed(c) for c in columns)],
        ["successes a second", *(number(c["rate_per_s"]) for c in columns)],
        *([name, *(_cell(c, name) for c in columns)] for name in _STATISTICS),
    ]
    caption = (
        f"{escaped(str(summary.attrs['latency']).capitalize())} time of successful requests. "
        f"Small print: 95 % {escaped(_unit(summary.iloc[-1]))}. "
        "It tells how well this run knows its own number, not what the next run would show. "
        "A dash: fewer than 10 requests lie beyond that quantile."
    )
    body = table(["statistic", *(_name(c["operation"]) for c in columns)], rows, caption)
    return Shown(body, summary[["operation", "n", "failed", *_STATISTICS]].to_string(index=False))


def _failed(row: Any) -> str:
    n, failed = int(row["n"]), int(row["failed"])
    return f"{failed:,}<br><small>{percent(failed / n)}</small>" if failed else "0"


def _name(value: object) -> str:
    text = str(value)
    return escaped(text if len(text) <= 60 else text[:59] + "…")


def _cell(row: Any, name: str) -> str:
    value = float(row[name])
    if name.startswith("p") and not _firm(row, name):
        return "—"
    low = float(row.get(f"{name}_low", math.nan))
    if math.isnan(low):
        return ms(value)
    return f"{ms(value)}<br><small>{ms(low)} to {ms(float(row[f'{name}_high']))}</small>"


def _firm(row: Any, name: str) -> bool:
    return not math.isnan(float(row[f"{name}_low"]))


def _unit(row: Any) -> str:
    unit = str(row["unit"])
    if unit.endswith("within-run"):
        return "within-run interval from time slices"
    return "interval that takes requests as independent (too few, or too short a burst, for time slices)"


def notes(warnings: Sequence[str]) -> Shown:
    """Warnings that belong to the summary, or nothing."""
    if not warnings:
        return Shown("", "")
    listed = _list(escaped(text) for text in warnings[:20])
    return Shown(f'<aside class="pk-notes"><p>Read with care:</p>{listed}</aside>', "\n".join(warnings))


def error_table(errors: pd.DataFrame) -> Shown:
    """Failures by class and operation with the first words heard."""
    if errors.empty:
        return Shown("<p>No request failed.</p>", "No request failed.")
    rows = [
        [
            escaped(r["error"]),
            _name(r["operation"]),
            f"{r['count']:,}",
            percent(r["share"]),
            f"<q>{escaped(_words(r['words']))}</q>",
        ]
        for _, r in errors.iterrows()
    ]
    kinds = errors.attrs["kinds"]
    more = f" The {len(errors)} most frequent of {kinds}." if kinds > len(errors) else ""
    body = table(
        ["class", "operation", "count", "share", "first words heard"],
        rows,
        f"Failed requests.{more}",
        numbers=False,
    )
    return Shown(body, errors.to_string(index=False))


def _words(text: object) -> str:
    return str(text)[:300] if isinstance(text, str) else ""


def health_table(run: Run) -> Shown:
    """What the generator measured of itself, a row for each of its processes."""
    workers = [
        w for w in _sequence(_mapping(run.meta.get("health")).get("workers")) if isinstance(w, Mapping)
    ]
    if not workers:
        why = "is not in the file the run was imported from" if fidelity.imported(run) else "was not recorded"
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
    head = ["process", *(escaped(w.get("worker", i)) for i, w in enumerate(workers))]
    rows = [[label, *(_health(name, w.get(name)) for w in workers)] for name, label in columns.items()]
    return Shown(table(head, rows, "The processes that made the load."), str(pd.DataFrame(workers)))


def _health(name: str, value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "—"
    if name == "cpu_share":
        return f"{100 * value:.0f} %"
    return ms(float(value)) if name.endswith("_ms") else f"{value:,g}"


# -- facts -----------------------------------------------------------------------------------------


def facts(run: Run) -> Shown:
    """How the run was made: scenario and parameters, target, load, code, host, versions."""
    meta = run.meta
    scenario, git, host = (_mapping(meta.get(name)) for name in ("scenario", "git", "host"))
    versions, workload = _mapping(meta.get("versions")), _mapping(meta.get("workload"))
    doc = str(scenario.get("doc") or "").strip().split("\n\n")[0]
    name = scenario.get("name", workload.get("scenario", "unknown"))
    load = {
        k: workload[k]
        for k in ("users", "arrivals", "warmup_s", "drain_s", "seed", "processes")
        if workload.get(k) is not None
    }
    sha = str(git.get("sha") or "")[:12]
    pairs: list[tuple[str, str]] = [
        ("run", escaped(run.id)),
        ("state", escaped(run.state) + (f" ({escaped(run.reason)})" if run.reason else "")),
        ("created", escaped(meta.get("created", "unknown"))),
        ("imported", _pairs({k: v for k, v in fidelity.imported(run).items() if k != "fidelity"})),
        ("fidelity", escaped(fidelity.fidelity(run).get("words") or "")),
        ("scenario", escaped(name) + (f"<br>{escaped(doc)}" if doc else "")),
        ("parameters", _pairs(_mapping(scenario.get("params")))),
        ("load", _pairs(load)),
        ("target", _pairs(_mapping(meta.get("target")))),
        ("code", (escaped(sha) + (", with uncommitted changes" if git.get("dirty") else "")) if sha else ""),
        ("host", _pairs(host)),
        ("versions", _pairs(versions)),
    ]
    body = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in pairs if value)
    return Shown(f'<dl class="pk-facts">{body}</dl>', f"{run.id} {name}")


def _pairs(mapping: Mapping[str, Any]) -> str:
    texts = [f"{name} {_value(v)}" for name, v in mapping.items() if v not in (None, "", [], {}, ())]
    return "; ".join(escaped(text if len(text) < 300 else text[:299] + "…") for text in texts)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(v)}" for name, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []
