"""An executed notebook as one HTML file that loads nothing."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import perfkit
from perfkit.card import clean
from perfkit.page import SITE_LINK, TEMPLATES, head, script

_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
_HEAD_MARK = "<!--pk-head-->"


def render(notebook: Path, *, title: str = "", subtitle: str = "", broken: str | None = None) -> Path:
    """An executed notebook as one HTML file beside it: no external request, code folded, light and dark."""
    import nbformat

    nb = nbformat.read(str(notebook), as_version=4)  # type: ignore[no-untyped-call]
    out = notebook.with_suffix(".html")
    out.write_text(_html(nb, notebook, title, subtitle, broken))
    return out


def render_again(notebook: Path, subtitle: str) -> str:
    """The page of a notebook that was executed some time ago; nothing is written.

    ValueError for a file that is none. One that broke is said to be, as when it was made.
    """
    import nbformat

    try:
        nb = nbformat.read(str(notebook), as_version=4)  # type: ignore[no-untyped-call]
        failed = [out for cell in nb.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
        broken = f"{failed[0].ename}: {failed[0].evalue}".splitlines()[0][:300] if failed else None
        given = nb.metadata.get("papermill", {}).get("parameters", {})
        return _html(nb, notebook, str(given.get("title") or ""), subtitle, broken)
    except OSError:
        raise
    except Exception as error:  # somebody else's file: whatever nbformat and nbconvert say of it
        raise ValueError(f"{notebook.name} is no notebook: {str(error).splitlines()[0]:.120}") from None


def _html(nb: Any, notebook: Path, title: str, subtitle: str, broken: str | None) -> str:
    from nbconvert import HTMLExporter

    own, heading = script("perfkit/page.js"), _take_title(nb)
    page = {
        "title": title or heading or notebook.stem.replace("_", " ").capitalize(),
        "subtitle": clean(subtitle),
        "broken": broken,
        "notebook": notebook.name,
        "made": str(nb.metadata.get("papermill", {}).get("end_time") or "")[:19].replace("T", " ") + " UTC",
        "version": perfkit.__version__,
        "head_mark": _HEAD_MARK,
        "script": own,
        "site_link": SITE_LINK,
    }
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="perfkit", extra_template_basedirs=[str(TEMPLATES)]
    )
    body, _ = exporter.from_notebook_node(nb, resources={"perfkit": page})
    toc = "".join(f'<li><a href="#{i}">{_plain(text)}</a></li>' for i, text in _HEADING.findall(body))
    inside = body.partition(_HEAD_MARK)[2]  # nbconvert writes tags its own way; the first lines are fixed
    return head(own) + str(inside.replace("<!--pk-toc-->", toc, 1))


def _take_title(nb: Any) -> str:
    """The `# Heading` a notebook begins with, taken out of it: the page has a place of its own for it."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            first, _, rest = cell.source.partition("\n")
            cell.source = rest.strip()
            return str(first[2:].strip())
    return ""


def _plain(heading: str) -> str:
    return html.escape(html.unescape(re.sub(r"<[^>]+>", "", heading)).strip())
