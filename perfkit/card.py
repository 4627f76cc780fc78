"""A run in a few lines, as text and as HTML of the same words: what `repr(run)` and a notebook show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perfkit.text import for_html, for_terminal

#: Text, dimmed text and lines in the colours of the page they stand in: perfkit's own, or JupyterLab's.
FG = "var(--pk-fg, var(--jp-content-font-color1, #222))"
DIM = "var(--pk-dim, var(--jp-content-font-color2, #666))"
GRID = "var(--pk-grid, var(--jp-border-color2, #d8d8d8))"
_LONGEST = 600  #: characters of a fact
_GRID = "display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1rem;margin:.3rem 0 0;"
_PLAIN = "float:none;width:auto;margin:0;padding:0;overflow-wrap:anywhere;"


class Card(NamedTuple):
    """A heading, and facts as pairs of a label and words."""

    heading: str
    facts: Sequence[tuple[str, str]] = ()

    def text(self) -> str:
        """For a terminal: the heading, and a line for each fact."""
        width = max((len(label) for label, _ in self.facts), default=0)
        lines = [for_terminal(self.heading, most=_LONGEST)]
        for label, words in self.facts:
            lines.append(f"  {label.ljust(width)}  {for_terminal(words, most=_LONGEST)}")
        return "\n".join(lines)

    def html(self) -> str:
        """For a notebook: the same words in the same order; everything is escaped."""
        told = "".join(
            f'<dt style="{_PLAIN}color:{DIM};font-weight:400">{for_html(label)}</dt> '
            f'<dd style="{_PLAIN}">{for_html(words, most=_LONGEST)}</dd> '
            for label, words in self.facts
        )
        first, colon, rest = for_html(self.heading, most=_LONGEST).partition(":")
        heading = f"<strong>{first}</strong>{colon}{rest}"
        return f'<div class="pk-card"><div>{heading}</div> <dl style="{_GRID}">{told}</dl></div>'
