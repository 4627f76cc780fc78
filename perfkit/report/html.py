"""An executed notebook as one HTML file that loads nothing."""

from __future__ import annotations

import html
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import perfkit
from perfkit.page import SITE_LINK, TEMPLATES, head, script
from perfkit.report.parameters import jupyter
from perfkit.store import write_atomically
from perfkit.text import for_html, plain

_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
_EMPTY = re.compile(r'<div[^<]*<p class="pk-nothing">[^<]*</p></div>')
_LINE = 600  #: characters of a line below the title
_HEAD_MARK = "<!--pk-head-->"
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")


def load() -> None:
    """Import and read what `render` needs, at a time when there is nothing else to do: for an empty page."""
    _html(jupyter("nbformat").v4.new_notebook(), Path("empty.ipynb"), "", "", None)


def render(notebook: Path, *, title: str = "", subtitle: str = "", broken: str | None = None) -> Path:
    """An executed notebook as one HTML file beside it: no external request, code folded, light and dark."""
    nb = jupyter("nbformat").read(str(notebook), as_version=4)
    out = notebook.with_suffix(".html")
    write_atomically(out, _html(nb, notebook, title, subtitle, broken).encode())
    return out


def render_again(notebook: Path, subtitle: str) -> str:
    """The page of a notebook that was executed some time ago; nothing is written.

    ValueError for a file that is none. One that broke is said to be, as when it was made.
    """
    try:
        nb = jupyter("nbformat").read(str(notebook), as_version=4)
        failed = [out for cell in nb.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
        broken = f"{failed[0].ename}: {failed[0].evalue}".splitlines()[0][:300] if failed else None
        given = nb.metadata.get("papermill", {}).get("parameters", {})
        return _html(nb, notebook, str(given.get("title") or ""), subtitle, broken)
    except OSError:
        raise
    except Exception as error:  # somebody else's file: whatever nbformat and nbconvert say of it
        raise ValueError(f"{notebook.name} is not a notebook: {str(error).splitlines()[0]:.120}") from None


def _html(nb: Any, notebook: Path, title: str, subtitle: str, broken: str | None) -> str:
    own, heading = script("perfkit/page.js"), _take_title(nb)
    _drop_empty(nb)
    page = {
        "title": plain(title or heading or notebook.stem.replace("_", " ").capitalize()),
        "subtitle": [plain(line, most=_LINE) for line in (_about(nb), subtitle) if line],
        "broken": broken and plain(broken),
        "notebook": plain(notebook.name),
        "made": str(nb.metadata.get("papermill", {}).get("end_time") or "")[:19].replace("T", " ") + " UTC",
        "version": perfkit.__version__,
        "head_mark": _HEAD_MARK,
        "script": own,
        "kind": notebook.stem,
        "site_link": SITE_LINK,
    }
    body, _ = _exporter().from_notebook_node(nb, resources={"perfkit": page})
    toc = "".join(f'<li><a href="#{i}">{_plain(text)}</a></li>' for i, text in _HEADING.findall(body))
    inside = body.partition(_HEAD_MARK)[2]  # nbconvert writes tags its own way; the first lines are fixed
    return head(own) + str(inside.replace("<!--pk-toc-->", toc, 1))


@cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter

    made = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="perfkit", extra_template_basedirs=[str(TEMPLATES)]
    )
    made.register_filter("printed", _printed)  # type: ignore[no-untyped-call]
    made.register_filter("shown", partial(plain, lines=True))  # type: ignore[no-untyped-call]
    return made


def _printed(text: str) -> str:
    """What a cell printed, as HTML: it keeps its colours, and nothing else in it acts."""
    from nbconvert.filters import ansi2html

    parts = _COLOUR.split(text)
    parts[::2] = (plain(part, lines=True) for part in parts[::2])
    return str(ansi2html("".join(parts)))  # type: ignore[no-untyped-call]


def _about(nb: Any) -> str:
    """What `run_cells` has kept of what a notebook is of; empty in another's."""
    kept = nb.metadata.get("perfkit")
    return str(kept.get("about") or "") if isinstance(kept, dict) else ""


def _take_title(nb: Any) -> str:
    """The `# Heading` a notebook begins with, taken out of it: the page has a place of its own for it."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            first, _, rest = cell.source.partition("\n")
            cell.source = rest.strip()
            return str(first[2:].strip())
    return ""


def _drop_empty(nb: Any) -> None:
    """Take out the cells that found nothing to draw, and the questions of which no cell is left."""
    sections: list[list[Any]] = [[]]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    left = [[cell for cell in section if not _is_empty(cell)] for section in sections]
    nb.cells = [
        cell
        for before, now in zip(sections, left, strict=True)
        for cell in now
        if len(now) > 1 or len(before) == 1
    ]


def _is_empty(cell: Any) -> bool:
    pages = [out.get("data", {}).get("text/html", "") for out in cell.get("outputs", ())]
    return len(pages) == 1 and bool(_EMPTY.fullmatch(pages[0]))


def _plain(heading: str) -> str:
    return for_html(html.unescape(re.sub(r"<[^>]+>", "", heading)).strip())
