"""The site's pages as HTML: one look with the reports, nothing loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import perfkit
from perfkit.figures.markup import environment, ours
from perfkit.page import TEMPLATES, head, script
from perfkit.site.facts import Facts
from perfkit.store.metadata import utc

_SORTS = (
    ("0-", "newest first"), ("0+", "oldest first"), ("1+", "scenario"), ("2+", "verdict"),
    ("3-", "slowest p50"), ("4-", "slowest p95"), ("5-", "slowest p99"), ("7-", "most failures"),
    ("6-", "highest rate"),
)  # fmt: skip
_FILES = {
    "timeline.parquet": "every request as a row (Parquet)",
    "probes.parquet": "what the server reported (Parquet)",
    "run_report.ipynb": "the executed notebook of the report",
    "server_health.ipynb": "the executed notebook of the server's health",
    "workload.yaml": "the parameters; rerun them with perfkit run workload.yaml",
    "run.json": "what was run, where, with what",
    "comparison.ipynb": "the executed notebook of the report",
    "comparison.json": "the comparison with every number",
}
_REPORTS = {
    "run_report.html": "Report with all figures",
    "server_health.html": "Health of the server",
    "comparison.html": "Report with all figures",
}


def index(title: str, runs: Sequence[Facts], comparisons: Sequence[Any], trends: Sequence[Any]) -> bytes:
    """The first page: all runs, newest first, comparisons, trends; each with its `href`."""
    return _page(
        "index.html.j2",
        title,
        "",
        "index",
        runs=[one | {"words": _words(one)} for one in map(_dated, runs)],
        comparisons=[_dated(one) for one in comparisons],
        trends=trends,
        scenarios=sorted({one["scenario"] for one in runs}),
        verdicts=sorted({one["verdict"]["word"] for one in runs}),
        sorts=_SORTS,
    )


def run(title: str, entry: Facts, trend: Facts | None, compared: Sequence[Any]) -> bytes:
    """The permanent page of a run; trend: `href`, `count`."""
    others = [_dated(one) for one in compared]
    return _entry_page("run.html.j2", title, entry, run=_dated(entry["shown"]), trend=trend, compared=others)


def comparison(title: str, entry: Facts, sides: Sequence[tuple[str, Sequence[Any]]]) -> bytes:
    """The permanent page of a comparison; sides: name, and runs with `href` where they are on the site."""
    return _entry_page("comparison.html.j2", title, entry, one=_dated(entry["shown"]), sides=sides)


def trend(title: str, about: Facts, parts: Sequence[Any], runs: Sequence[Any]) -> bytes:
    """The trend of a configuration; parts: `metric`, `name`, `short`, `verdict`, `figure`."""
    dated = [_dated(one) for one in runs]
    return _page("trend.html.j2", title, "../", one=about, parts=parts, runs=dated)


def reading(title: str) -> bytes:
    """How to read each figure."""
    return _page("reading.html.j2", title, "", "reading")


# -- parts -----------------------------------------------------------------------------------------


def _page(template: str, title: str, root: str, here: str = "", **more: Any) -> bytes:
    page = environment().get_template(f"site/{template}")
    return page.render(site=_look() | {"title": title}, root=root, here=here, **more).encode()


def _entry_page(template: str, title: str, entry: Facts, **more: Any) -> bytes:
    """The page of a run or a comparison: with pieces that were made when it was read, reports and files."""
    html = {name: ours(made) for name, made in entry["html"].items()}
    reports = [{"name": what, "href": name} for name, what in _REPORTS.items() if name in entry["sizes"]]
    files = [
        {"name": name, "href": name, "size": _size(entry["sizes"][name]), "what": what, "save": True}
        for name, what in _FILES.items()
        if name in entry["sizes"]
    ]
    return _page(template, title, "../../", html=html, reports=reports, files=files, **more)


@cache
def _look() -> dict[str, Any]:
    """What all pages have: policy, style, script, version."""
    css = "".join((TEMPLATES / name).read_text() for name in ("perfkit/style.css", "site/site.css"))
    own = script("site/site.js")
    return {"css": ours(css), "script": ours(own), "head": ours(head(own)), "version": perfkit.__version__}


def look() -> str:
    """Names the looks of all pages and reports: another style, script, template or version, another name."""
    files = sorted(file for file in TEMPLATES.rglob("*") if file.is_file())
    parts = [perfkit.__version__, *(file.read_text() for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _dated(one: Facts) -> dict[str, Any]:
    """With `when`, its time in UTC to the second, and `age`, to sort by; both say it when there is none."""
    when = utc(one["created"])
    return dict(one) | {"when": f"{when:%Y-%m-%d %H:%M:%S}" if when else "unknown time", "age": age(one)}


def age(one: Facts) -> str:
    """Sorts by time; what has none is the oldest."""
    when = utc(one["created"])
    return when.isoformat() if when else ""


def _words(one: Facts) -> str:
    """What the filter looks through."""
    told = [one["id"], one["scenario"], one["target"], one["git"]["sha"], *one["tags"], one["note"][:300]]
    return " ".join([*told, one["load"], one["verdict"]["word"], *one["verdict"]["reasons"]])


def _size(count: int) -> str:
    if count < 1000:
        return f"{count:,} bytes"
    size, unit = (count / 1e3, "kB") if count < 1e6 else (count / 1e6, "MB")
    return f"{size:,.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"
