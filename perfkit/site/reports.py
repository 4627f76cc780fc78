"""The reports of runs and comparisons on the site: perfkit's own pages, none older than what it shows.

A page that lies where a report should be is handed out only if it is as perfkit writes one, with its policy
before everything else; any other is made again from its notebook, or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.compare.experiment import Kept
from perfkit.errors import PerfkitError
from perfkit.page import GENERATOR, SITE_LINK, head, script
from perfkit.report import make_comparison_report, make_report, render_again
from perfkit.site.folder import Content, Source
from perfkit.store import Run, require_regular

#: What a report says in its first line when one of its cells failed.
_BROKEN = b"<strong>BROKEN REPORT</strong>"
#: From a report, two folders down, to the index.
_LINK = '<nav class="pk-site" aria-label="Site"><a href="../../index.html">← site</a></nav>'
_PUT = (SITE_LINK.encode(), _LINK.encode())


Tell = Callable[[str], None]  #: is called with a line on what is being done
Make = Callable[[], Path]


@dataclass(frozen=True)
class Report:
    """state: `made`, `old` (what it shows has changed), `broken`, `failed` or `none`; wrong: in a line."""

    state: str
    pages: dict[str, Content]
    wrong: str = ""


def run_report(run: Run, make: bool, tell: Tell) -> Report:
    """The report of a run with the page on its server, made first where that is needed and `make`."""
    pages = [run.path / "report" / f"{name}.html" for name in ("run_report", "server_health")]
    inputs = [run.path / "run.json", *(file for file in run.files() if isinstance(file, Path))]
    how = (lambda: make_report(run, progress=False)) if make else None
    return _report(pages, inputs, run.id, run.id, how, tell)


def comparison_report(kept: Kept, make: bool, tell: Tell) -> Report:
    """The same for a comparison; without its runs none can be made."""
    pages, inputs = [kept.path / "report" / "comparison.html"], [kept.path / "comparison.json"]
    make = make and all((run.path / "run.json").exists() for run in (*kept.a, *kept.b))
    how = (lambda: make_comparison_report(kept.path, progress=False)) if make else None
    return _report(pages, inputs, kept.id, f"comparison {kept.id}", how, tell)


def _report(
    pages: Sequence[Path], inputs: Sequence[Path], subtitle: str, name: str, how: Make | None, tell: Tell
) -> Report:
    """pages: the first is the report itself; how: makes them, where that is wanted."""
    wrong, taken, old = "", _take(pages, subtitle), _is_older(pages[0], inputs)
    if how and (taken is None or old):
        tell(f"making the report of {name}")
        try:
            how()
        except PerfkitError as error:
            wrong = str(error)
        taken, old = _take(pages, subtitle), _is_older(pages[0], inputs)
    if taken is None:
        if pages[0].exists() and not wrong:
            wrong = f"{pages[0].name} was not written by this version of perfkit and was skipped; "
            wrong += "regenerate it with `perfkit report`"
        return Report("failed" if how and wrong else "none", {}, f"{name}: {wrong}" if wrong else "")
    if wrong or _BROKEN in _bytes(taken[pages[0].name]):
        words = wrong or "its report is broken; regenerate it with `perfkit report`"
        return Report("broken", taken, f"{name}: {words}")
    return Report("old" if old else "made", taken)


def _is_older(page: Path, inputs: Sequence[Path]) -> bool:
    made = [file.stat().st_mtime_ns for file in (page, page.with_suffix(".ipynb")) if file.exists()]
    return bool(made) and min(made) < max((f.stat().st_mtime_ns for f in inputs), default=0)


def _take(pages: Sequence[Path], subtitle: str) -> dict[str, Content] | None:
    """The pages there are, by name; None without the first, or where one is neither ours nor can be."""
    if not pages[0].exists():
        return None
    there = [page for page in pages if page.exists()]
    try:
        return {page.name: _page(page, subtitle) for page in there}
    except (OSError, ValueError):
        return None


def _page(page: Path, subtitle: str) -> Content:
    """A page with its way back; rendered again where it is another's, or of another perfkit."""
    with open(require_regular(page), "rb") as file:
        first = file.read(4096)
    if first.startswith(head(script("perfkit/page.js")).encode()) and GENERATOR in first:
        return Source.of(page, _PUT)
    return render_again(require_regular(page.with_suffix(".ipynb")), subtitle).encode().replace(*_PUT, 1)


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.path.read_bytes()
