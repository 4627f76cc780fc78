"""The pages of a site from the entries of its runs and comparisons; they link each other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.compare import noise
from perfkit.site import pages, trends
from perfkit.site.facts import TRENDS, Facts, href, slug
from perfkit.site.gather import Gathered

INDEX_SCHEMA = 1  #: of index.json


def compose(site: Gathered, title: str) -> dict[str, str]:
    """Put every page of the site; the trend pages by path, with a name for what each shows."""
    newest = sorted(site.runs.values(), key=_age, reverse=True)
    compared = sorted(site.comparisons.values(), key=_age, reverse=True)
    for entry in (*newest, *compared):
        entry["shown"]["href"] = href([entry["place"], "index.html"])
    groups = _groups(newest)
    for entry in newest:
        site.put(f"{entry['place']}/index.html", _run_page(title, entry, groups, compared))
    for entry in compared:
        site.put(f"{entry['place']}/index.html", _comparison_page(title, entry, newest))
    drawn = dict(_trend_page(site, title, key, *group) for key, group in groups.items())
    listed = [about | {"runs": [one["shown"]["id"] for one in runs]} for about, runs in groups.values()]
    site.put("reading.html", pages.reading(title))
    site.put("index.json", _index_json(title, newest, compared, listed))
    runs, comparisons = ([entry["shown"] for entry in entries] for entries in (newest, compared))
    site.put("index.html", pages.index(title, runs, comparisons, listed))
    return drawn


Groups = Mapping[str, tuple[dict[str, Any], Sequence[dict[str, Any]]]]


def _groups(newest: Sequence[dict[str, Any]]) -> Groups:
    """Runs of one configuration, where there are two or more, by key: what they are, and the runs."""
    by_key: dict[str, list[Any]] = {}
    for entry in newest:
        by_key.setdefault(entry["key"], []).append(entry)
    found = {}
    for key, runs in by_key.items():
        about = {name: runs[0]["shown"][name] for name in ("scenario", "load", "target")}
        about["href"] = href(["trends", f"{slug(key)}.html"])
        about["counted"] = sum(entry["trend"][TRENDS[0]]["counts"] for entry in runs)
        for entry in runs:
            entry["shown"]["trend"] = about["href"] if len(runs) > 1 else None
        if len(runs) > 1:
            found[key] = (about, runs)
    return found


def _run_page(title: str, entry: Facts, groups: Groups, compared: Iterable[Any]) -> bytes:
    about, runs = groups.get(entry["key"], ({}, ()))
    trend = {"href": f"../../{about['href']}", "count": about["counted"]} if runs else None
    name = entry["shown"]["id"]
    mine = [one["shown"] for one in compared if name in (*one["shown"]["runs_a"], *one["shown"]["runs_b"])]
    return pages.run(title, entry, trend, [one | {"href": f"../../{one['href']}"} for one in mine])


def _comparison_page(title: str, entry: Facts, runs: Iterable[Facts]) -> bytes:
    shown = entry["shown"]
    ids = {*shown["runs_a"], *shown["runs_b"]}
    shown_runs = [one["shown"] for one in runs if one["shown"]["id"] in ids]
    there = {one["id"]: one | {"href": f"../../{one['href']}"} for one in shown_runs}
    sides = [
        (f"{side}: {shown[side.lower()]}", [there.get(name, {"id": name, "href": None}) for name in listed])
        for side, listed in (("A", shown["runs_a"]), ("B", shown["runs_b"]))
    ]
    return pages.comparison(title, entry, sides)


def _trend_page(
    site: Gathered, title: str, key: str, about: dict[str, Any], newest: Sequence[dict[str, Any]]
) -> tuple[str, str]:
    """Put the page of a trend, drawn afresh only when something in it has changed; its path and name."""
    path, floors = f"trends/{slug(key)}.html", _floors(site.data_dir, key)
    runs = [one | {"shown": one["shown"] | {"href": f"../{one['shown']['href']}"}} for one in newest[::-1]]
    name = trends.name(about | {"title": title}, runs, floors)
    if site.stands(path) and site.old["trends"].get(path) == name:
        site.keep(path)
    else:
        site.tell(f"drawing the trend of {about['scenario']}")
        site.put(path, trends.page(title, about, runs, floors))
    return path, name


def _floors(data_dir: Path, key: str) -> dict[str, float]:
    """What is known of the noise between runs of this configuration, by metric, sd on the log scale."""
    found = noise.load_key(data_dir, key)
    return {name: math.sqrt(found[name].variance) for name in TRENDS if name in found}


def _index_json(title: str, runs: Iterable[Any], compared: Iterable[Any], trends_: Iterable[Any]) -> bytes:
    """The index for programs; addresses are relative to it."""
    told = {
        "schema": INDEX_SCHEMA,
        "title": title,
        "runs": [one["shown"] | {"files": _hrefs(one)} for one in runs],
        "comparisons": [one["shown"] | {"files": _hrefs(one)} for one in compared],
        "trends": list(trends_),
    }
    return (json.dumps(told, indent=1, allow_nan=False) + "\n").encode()


def _hrefs(entry: Facts) -> dict[str, str]:
    return {file: href([entry["place"], file]) for file in entry["sizes"]}


def _age(entry: Facts) -> tuple[str, str]:
    return pages.age(entry["shown"]), entry["shown"]["id"]
