"""A run in a few lines, as text and as HTML of the same words: what `repr(run)` and a notebook show."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LONGEST = 600
_NO_LOAD = "no load"
_GRID = "display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1rem;margin:.3rem 0 0;"
_DIM = "color:var(--pk-dim, var(--jp-content-font-color2, #666));"
_PLAIN = "float:none;width:auto;margin:0;padding:0;overflow-wrap:anywhere;"


class Card(NamedTuple):
    """A heading, and facts as pairs of a label and words."""

    heading: str
    facts: Sequence[tuple[str, str]] = ()

    def text(self) -> str:
        """For a terminal: the heading, and a line for each fact."""
        width = max((len(label) for label, _ in self.facts), default=0)
        lines = (f"  {label.ljust(width)}  {clean(words)}" for label, words in self.facts)
        return "\n".join([clean(self.heading), *lines])

    def html(self) -> str:
        """For a notebook: the same words in the same order; everything is escaped."""
        told = "".join(
            f'<dt style="{_PLAIN}{_DIM}font-weight:400">{html.escape(label)}</dt> '
            f'<dd style="{_PLAIN}">{html.escape(clean(words))}</dd> '
            for label, words in self.facts
        )
        first, colon, rest = clean(self.heading).partition(":")
        heading = f"<strong>{html.escape(first)}</strong>{colon}{html.escape(rest)}"
        return f'<div class="pk-card"><div>{heading}</div> <dl style="{_GRID}">{told}</dl></div>'


def of_run(run_id: str, meta: Mapping[str, Any], state: str, reason: str | None, rows: int | None) -> Card:
    """The card of a run, from its run.json; `rows` is None where they cannot be counted."""
    health, scenario, target = (_mapping(meta.get(name)) for name in ("health", "scenario", "target"))
    valid = {True: ", valid", False: ", INVALID"}.get(health.get("valid"), "")  # type: ignore[arg-type]
    why = f" ({reason})" if reason else ""
    thresholds = [one for one in _sequence(meta.get("thresholds")) if isinstance(one, Mapping)]
    met = sum(bool(one.get("ok")) for one in thresholds)
    pairs = [
        ("invalid", "; ".join(map(str, _sequence(health.get("reasons"))))),
        ("scenario", str(scenario.get("name") or "unknown")),
        ("target", str(target.get("url") or "")),
        ("load", load_words_of(meta)),
        ("rows", "cannot be counted" if rows is None else f"{rows:,}"),
        ("thresholds", f"{met} of {len(thresholds)} met" if thresholds else ""),
        ("tags", ", ".join(map(str, _sequence(meta.get("tags"))))),
        ("note", str(meta.get("note") or "")),
    ]
    return Card(f"run {run_id}: {state}{why}{valid}", [pair for pair in pairs if pair[1]])


def load_words_of(meta: Mapping[str, Any]) -> str:
    """The load of a run in a few words; what another tool measured need not tell its load."""
    told = load_words(_mapping(meta.get("workload")))
    return "load not in the file" if told == _NO_LOAD and meta.get("imported") else told


def load_words(workload: Mapping[str, Any]) -> str:
    """The load of a workload as run.json has it, in a few words; `no load` for anything else."""
    try:
        return _load_words(workload)
    except (KeyError, TypeError, ValueError):
        return _NO_LOAD


def _load_words(workload: Mapping[str, Any]) -> str:
    users, arrivals = workload.get("users"), workload.get("arrivals")
    if users:
        length = f"{users['iterations']} steps" if users.get("iterations") else f"{users['duration_s']:g} s"
        return f"closed model: {users['count']} users, {length}"
    if arrivals:
        rate = f"{arrivals['rate_per_s']:g}/s"
        if arrivals["shape"] == "steps":
            rate = f"{', '.join(f'{step:g}' for step in arrivals['step_rates_per_s'])}/s"
        elif arrivals["shape"] == "spike":
            peak = arrivals.get("spike_rate_per_s") or 5 * arrivals["rate_per_s"]
            rate += f" with a spike of {peak:g}/s"
        return f"open model: {arrivals['shape']}, {rate}, {arrivals['duration_s']:g} s"
    return _NO_LOAD


def clean(words: object) -> str:
    """Words that may come from anyone, on one line, without control characters, cut at 600."""
    text = "".join(c if c.isprintable() else "�" for c in " ".join(str(words).split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []
