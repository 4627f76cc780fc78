"""What the site says of a run or a comparison, as plain values: computed once, then kept by the site.

`fingerprint` tells from the files' sizes and times whether it still holds, so that a thousand runs which have
not changed are published again without reading one row.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perfkit import figures, frames
from perfkit.compare import figures as compare_figures
from perfkit.compare import frames as compare_frames
from perfkit.compare import noise
from perfkit.compare.experiment import Kept
from perfkit.store import Run
from perfkit.store.summary import firm
from perfkit.text import plain

#: Metrics of a trend page, in its order.
TRENDS = ("p50", "p95", "p99", "throughput", "error_rate")
QUANTILES = ("p50", "p95", "p99")
#: Plain values that say something of a run, a comparison or a trend, as JSON keeps them.
Facts = Mapping[str, Any]
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}").fullmatch
_MOST_TAGS = 20


def slug(name: str) -> str:
    """A name as part of an address: itself where it is plain, else what is plain of it with a hash."""
    if _PLAIN(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip(".-") or "x"
    return f"{plain}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:10]}"


def fingerprint(files: Iterable[Path], base: Path) -> dict[str, list[int]]:
    """Size and time of last change (ns) of each file there is, by its path below `base`."""
    found = {}
    for file in files:
        try:
            seen = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[file.relative_to(base).as_posix()] = [seen.st_size, seen.st_mtime_ns]
    return found


# -- runs ------------------------------------------------------------------------------------------


def run_files(run: Run) -> list[Path]:
    """The files the site's pages of a run are made from."""
    pages = [f"{name}{end}" for name in ("run_report", "server_health") for end in (".html", ".ipynb")]
    folder = run.path
    reports = [folder / "report" / name for name in pages]
    here = [file for file in run.files() if isinstance(file, Path)]  # or elsewhere: `Run.files`
    return [folder / "run.json", *here, folder / "probes.parquet", *reports]


def run_facts(run: Run) -> dict[str, Any]:
    """Everything the site says of a run: `shown` in lists and index.json, `html` on its page, `trend`.

    PerfkitError where the run is damaged.
    """
    rows = frames.measured(run)
    summary = frames.summary(rows)
    total, meta, verdict = summary.iloc[-1], run.meta, run.verdict
    shown = {
        "id": plain(run.id, most=200),
        "created": plain(meta.created, most=40),
        "scenario": plain(meta.scenario.name, most=48),
        "load": plain(meta.load_words, most=200),
        "target": "perfkit's own server" if meta.own_server else plain(meta.target_url, most=120),
        "git": {"sha": plain(meta.git.sha, most=40), "dirty": meta.git.dirty},
        "tags": [plain(tag, most=60) for tag in meta.tags[:_MOST_TAGS]],
        "note": plain(meta.note, most=2000),
        "verdict": {"word": verdict.brief, "level": verdict.level, "reasons": _reasons(verdict)},
        "requests": _count(total["n"]),
        "failed": _count(total["failed"]),
        "error_rate": _number(total["failed"] / total["n"]) if total["n"] else None,
        "rate_per_s": _number(total["rate_per_s"]),
        "latency_ms": {name: _quantile(total, name) for name in QUANTILES},
        "interval": str(total["p50_unit"]),
    }
    page = {
        "verdict": figures.verdict(run, summary),
        "summary": figures.summary_table(summary),
        "notes": figures.notes(frames.warnings(rows)),
        "errors": figures.error_table(frames.errors(rows)),
        "facts": figures.facts(run),
    }
    return {
        "shown": shown,
        "html": {name: one.html for name, one in page.items()},
        "key": _key(run),
        "trend": {name: _point(one) for name, one in compare_frames.trend_points(run, TRENDS).items()},
    }


def _key(run: Run) -> str:
    """Runs of one key make a trend; a file that does not name its target is no run of the same thing."""
    nameless = run.meta.imported and not run.meta.target_url
    return f"{noise.key(run)}-{run.id}" if nameless else noise.key(run)


def _reasons(verdict: Any) -> list[str]:
    missed = [f"missed: {one.text}" for one in verdict.missed]
    return [plain(text, most=300) for text in [*verdict.reasons, *missed][:8]]


def _quantile(row: Any, name: str) -> dict[str, float | None] | None:
    """The number with its interval; None where too few requests carry it, as everywhere in perfkit, and for
    an upper end that is not known."""
    if not firm(row, name):
        return None
    return {"value": float(row[name])} | {end: _number(row[f"{name}_{end}"]) for end in ("low", "high")}


def _count(value: float) -> int | None:
    """A number of requests; None where a summary does not tell it."""
    return int(value) if math.isfinite(value) else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _point(one: Facts) -> dict[str, Any]:
    """A point of a trend as JSON can keep it: no NaN, texts bounded."""
    kept: dict[str, Any] = {name: _number(one[name]) for name in ("level", "low", "high")}
    texts = {name: plain(one[name] or "", most=300) for name in ("run", "created", "git", "why")}
    return kept | texts | {"counts": bool(one["counts"])}


# -- comparisons -----------------------------------------------------------------------------------


def comparison_files(folder: Path) -> list[Path]:
    """The files the site's page of a comparison is made from."""
    return [folder / "comparison.json", *(folder / "report" / f"comparison.{e}" for e in ("html", "ipynb"))]


def comparison_facts(kept: Kept, created: str) -> dict[str, Any]:
    """Everything the site says of a comparison; `runs`: ids of both sides, those left out too."""
    found = kept.comparison
    primary = [one for one in found.results if one.primary]
    shown = {
        "id": plain(kept.id, most=200),
        "created": plain(created, most=40),
        "a": plain(found.a.name, most=60),
        "b": plain(found.b.name, most=60),
        "verdict": found.verdict,
        "level": found.level,
        "forced": bool(found.forced),
        "words": plain(found.words, most=600),
        "runs_a": [plain(run.id, most=200) for run in kept.a],
        "runs_b": [plain(run.id, most=200) for run in kept.b],
        "changes": {plain(one.metric, most=40): plain(found.change(one), most=80) for one in primary},
    }
    page = {
        "verdict": compare_figures.comparison_verdict(found),
        "table": compare_figures.comparison_table(found),
    }
    return {"shown": shown, "html": {name: one.html for name, one in page.items()}}


# -- shared ----------------------------------------------------------------------------------------


def href(parts: Sequence[str]) -> str:
    """A relative address of path parts, quoted."""
    return "/".join(quote(part) for part in parts)
