"""Runs as a list that shows itself as a table, and one run by its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, SupportsIndex, overload

from perfkit.errors import BadInput, PerfkitError, unknown
from perfkit.lab.handle import Run
from perfkit.store import Run as StoredRun
from perfkit.store import existing_folder, list_runs, listed
from perfkit.store.metadata import STATES
from perfkit.text import for_html, for_notebook, plain

_SHOWN = 20
_COLUMNS = ("id", "state", "verdict", "rows", "errors", "tags")


class Runs(list[Run]):
    """A list of runs, oldest first; `filter` selects from it, `frame` returns it as a pandas DataFrame."""

    def filter(
        self, *, scenario: str | None = None, tag: str | None = None, state: str | None = None, **other: Any
    ) -> Runs:
        """Select by scenario, tag and state (running, complete, aborted); damaged runs never match."""
        for name, value in (("scenario", scenario), ("tag", tag), ("state", state)):
            if value is not None and not isinstance(value, str):
                raise BadInput(f"filter({name}=…) takes text, not {value!r:.60}")
        if other:
            raise unknown("filter", next(iter(other)), ("scenario", "tag", "state"))
        if state is not None and state not in STATES:
            raise unknown("state", state, STATES)
        return Runs(run for run in self if _fits(run, scenario, tag, state))

    def frame(self) -> Any:
        """Return a pandas DataFrame, a row per run.

        Columns: id, created (UTC), scenario, state, verdict, rows, errors, tags.
        """
        from perfkit import frames

        return frames.listing(listed(self))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Runs(found) if isinstance(index, slice) else found

    def __repr__(self) -> str:
        rows, after = self._table()
        texts = [_COLUMNS, *rows] if rows else []
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = ["  ".join(t.ljust(w) for t, w in zip(text, widths, strict=True)).rstrip() for text in texts]
        return "\n".join([*lines, after])

    def _repr_html_(self) -> str:
        rows, after = self._table()
        return for_notebook(_html(rows) + f"<p>{for_html(after)}</p>")

    def _table(self) -> tuple[list[list[str]], str]:
        """Cells of the newest runs, and the words below."""
        rows = [[_cell(one[name]) for name in _COLUMNS] for one in listed(self[-_SHOWN:])]
        after = f"{len(self)} run{'' if len(self) == 1 else 's'}" if self else "no runs"
        return rows, f"{after}, the newest {_SHOWN} shown" if len(self) > len(rows) else after


def runs(data_dir: str | os.PathLike[str] | None = None) -> Runs:
    """Return all runs, oldest first; data_dir as for `run`, but BadInput for a folder that is not there."""
    return Runs(Run(one.path) for one in list_runs(existing_folder(data_dir)))


def open_run(name: str | os.PathLike[str] = "latest", data_dir: str | os.PathLike[str] | None = None) -> Run:
    """Open a run by id, start or end of an id, path, or `latest` (the sample run if there is no other)."""
    from perfkit import frames

    if isinstance(name, StoredRun):
        return Run(name.path)
    if not isinstance(name, str | os.PathLike):
        raise BadInput(f"perfkit.open_run takes an id, a path or latest, not {name!r:.150}")
    text = os.fspath(name)
    if text.startswith("tag:"):
        listing = f"perfkit.runs().filter(tag={text[4:]!r:.60})"
        raise BadInput(f"{text!r:.80} may be many runs; {listing} lists them")
    try:
        return Run(frames.open_run(text, existing_folder(data_dir)).path)
    except BadInput as error:
        raise BadInput(str(error).replace("`perfkit ls` lists runs", "perfkit.runs() lists them")) from None


def _fits(run: Run, scenario: str | None, tag: str | None, state: str | None) -> bool:
    try:
        meta, now = run.meta, run.state
    except PerfkitError:
        return False
    return (
        (scenario is None or meta.scenario.name == scenario)
        and (tag is None or tag in meta.tags)
        and (state is None or now == state)
    )


def _cell(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else plain(value)


def _html(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = ([f'<td style="white-space:nowrap">{for_html(cell)}</td> ' for cell in row] for row in rows)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    top = "".join(f'<th scope="col">{name}</th> ' for name in _COLUMNS)
    return (
        '<div class="pk-scroll" tabindex="0" role="group" aria-label="table" style="overflow-x:auto">'
        f'<table class="pk-table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
