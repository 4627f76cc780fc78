"""How Sphinx builds these pages: `make docs`. Nothing is loaded from other sites, at no time."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT)]

import reference  # noqa: E402  beside this file
from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from perfkit import __version__  # noqa: E402

lexers["csv"] = TextLexer()

project, author, release = "perfkit", "the perfkit authors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme, html_title = "furo", f"perfkit {release}"
html_show_sphinx = html_show_copyright = html_copy_source = False
default_role = "literal"  # docstrings have Markdown's single backticks
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True


def setup(app: object) -> None:
    """Write the pages that are made of the code, and let links of the repository lead within these pages."""
    app.connect("builder-inited", lambda app: reference.write(ROOT, Path(app.srcdir)))  # type: ignore[attr-defined]
    app.connect("source-read", reference.relink)  # type: ignore[attr-defined]
