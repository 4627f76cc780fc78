"""HTML from templates: Python says what is shown, `templates/` how.

Every value a template puts out goes through `for_html` by itself; only what templates made (Markup, Shown)
and what `ours` names stands as it is. No caller escapes, so none can forget to.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perfkit.errors import BadInput
from perfkit.figures.drawing import in_css, theme
from perfkit.figures.readout import on_a_phone, places, texts
from perfkit.figures.style import format_level, number, words
from perfkit.page import TEMPLATES
from perfkit.text import for_html, for_notebook, plain, plural

__all__ = ["Shown", "show"]


@dataclass(frozen=True)
class Shown:
    """A piece of HTML that a notebook displays; `text` is what a plain terminal shows instead."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return for_notebook(self.html)

    def __repr__(self) -> str:
        return plain(self.text, lines=True)


# -- templates -------------------------------------------------------------------------------------


@cache
def environment() -> jinja2.Environment:
    """Return the only environment that renders templates, those of reports and of the site."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"level": format_level, "number": _number, "plural": plural, "whole": _whole}
    return found


def _harmless(value: object) -> Markup:
    value = ours(value.html) if isinstance(value, Shown) else value
    return value if isinstance(value, Markup) else Markup(for_html(value))


def _whole(text: object) -> Markup:
    """Return text of any length, for what was bounded before."""
    return Markup(for_html(text, most=None))


def _number(value: float | None) -> str:
    return number(math.nan if value is None else value)


def ours(html: str) -> Markup:
    """Mark HTML that perfkit or one of its libraries made: it is not escaped again."""
    return Markup(html)


def part(name: str, *given: Any, **named: Any) -> Markup:
    """Render a macro of `parts.html.j2`."""
    made: Markup = getattr(environment().get_template("parts.html.j2").module, name)(*given, **named)
    return made


def shown(text: str, *parts: Markup) -> Shown:
    """Join pieces of HTML; text: what a terminal shows instead."""
    return Shown("".join(parts), text)


def sentence(text: str, css: str = "") -> Shown:
    """Show a sentence where there is nothing else to show."""
    return shown(text, part("sentence", text, css))


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], caption: str, *, numbers: bool = True
) -> Markup:
    """Render a table of texts and `cell`s; the first column heads its row."""
    return part("table", head, rows, caption, numbers)


def cell(text: object, *small: str) -> Markup:
    """Render a table's cell: a text with lines of small print below it."""
    return part("cell", text, small)


# -- figures ---------------------------------------------------------------------------------------

_numbers = itertools.count(1)


def show(ax: Axes, *, alt: str | None = None, caption: str | None = None) -> Shown:
    """The figure of `ax` as `<figure>` with inline SVG, alt text and caption."""
    if not isinstance(ax, Axes):
        raise BadInput(f"figures.show takes what a figure returns, Axes of matplotlib, not {ax!r:.60}")
    told = words(ax)
    if not told[1] and alt is None and caption is None:  # there was nothing to draw
        return sentence(told[0], "pk-nothing")
    alt = told[0] if alt is None else alt
    caption = told[1] if caption is None else caption
    figure: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    drawings = svg(figure, alt)
    with on_a_phone(figure):
        drawings += svg(figure, alt, narrow=True)
    values = json.dumps(found, ensure_ascii=False) if (found := texts(figure)) else ""
    name = "figure; the arrow keys read its values" if values else "figure"
    return shown(f"{alt}\n{caption}", part("figure", name, drawings, caption, values))


def _own(tag: str, prefix: str) -> str:
    """An element's tag with ids of its own, without digits of less than a hundredth of a point."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', tag)
    tag = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{prefix}\2"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", tag)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)


def svg(figure: Figure, alt: str, *, narrow: bool = False) -> Markup:
    """An SVG element for a page: own ids, alt text, CSS variables for colours, no date, no reference."""
    buffer = io.StringIO()
    with theme():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    prefix = f"pk{next(_numbers)}-"
    text = re.sub("<[^>]+>", lambda tag: _own(tag[0], prefix), text)  # what it says stays as it is
    text, colours = in_css(text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', 'DejaVu Sans'"))
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    drawing = re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip().removesuffix("</svg>")
    return part("svg", size[1], size[2], alt, ours(drawing), ours(colours), narrow, places(figure))
