"""HTML from templates: whatever they are given is shown as text, and nobody writes HTML beside them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2.runtime import Macro

from perfkit.figures.markup import Shown, environment, ours, part, shown
from perfkit.page import TEMPLATES
from perfkit.text import for_html

PACKAGE = Path(__file__).parents[1] / "perfkit"
HOSTILE = "</p></title><script>x</script><img src=x onerror=y> \" onload='z' {{ 7 }} \x1b[31m\u202e\x00&amp;"
#: Every macro with arguments that show all of it.
GIVEN: dict[str, tuple[Any, ...]] = {
    "page_link": ("run_report.html", "data"),
    "sentence": ("text", "pk-nothing"),
    "listed": ("title", ["one", "two"]),
    "notes": ("title", ["one", "two"]),
    "facts": ([("name", "value"), ("other", "value")],),
    "joined": (["one", "two"],),
    "lines": (["one", "two"],),
    "judgement": ("good", "WORD: more", ["one", "two"], [("title", ["one", "two"])]),
    "verdict": (
        "bad", "WORD", "reasons", "headline",
        [{"ok": True, "text": "p95 < 1 s", "measured": "3 s"}, {"ok": False, "text": "x", "measured": "y"}],
        [("Note", "words")], ["2 × error"],
    ),
    "first_page": ("verdict", [("a", "b", "c")], "picture", "findings", ["one", "two"]),
    "more": ("label", "inside"),
    "findings": (["one", "two", "three", "four", "five"], False, ["lost"], "explained", "health.html"),
    "figure": ("figure", "inside", "caption", "values"),
    "svg": ("10", "20", "alt", "drawing", "colours", True, "places"),
    "table": (["head", "a"], [["first", "second"], ["third", "fourth"]], "caption"),
    "cell": ("text", ["small", "print"]),
    "marked": ("pk-ok", "text"),
    "quoted": ("text",),
}  # fmt: skip


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Any] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """See HTMLParser."""
        self.elements.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        self.elements.append(tag)


def poisoned(value: Any) -> Iterator[Any]:
    """The value again and again, each time with another of its texts hostile."""
    if isinstance(value, str):
        yield HOSTILE
    elif isinstance(value, dict):
        yield from ({**value, name: one} for name, inner in value.items() for one in poisoned(inner))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from (type(value)([*value[:i], one, *value[i + 1 :]]) for one in poisoned(inner))


def test_every_macro_is_tried() -> None:
    """A new macro needs arguments here."""
    macros = environment().get_template("parts.html.j2").module.__dict__
    assert {name for name, one in macros.items() if isinstance(one, Macro)} == set(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_no_argument_of_a_macro_acts(name: str) -> None:
    """Any text of any argument may be hostile: it is there to be read, and the elements stay the same."""
    wanted = Shape(part(name, *GIVEN[name])).elements
    tried = list(poisoned(GIVEN[name]))
    assert tried
    for given in tried:
        page = part(name, *given)
        assert for_html(HOSTILE) in page
        assert Shape(page).elements == wanted, given
        assert page.replace("\n", "").isprintable()


def test_a_template_cannot_forget_to_escape() -> None:
    """A template that does nothing for it: markup and controls become text, a long one is cut and says so;
    numbers and objects too. Only what a template made, or `ours` names, stands as it is."""
    page = environment().from_string("<p title='{{ x }}'>{{ x }}</p>").render
    assert page(x=HOSTILE) == f"<p title='{for_html(HOSTILE)}'>{for_html(HOSTILE)}</p>"
    assert "… (5,000 characters)" in page(x="a" * 5000)
    assert page(x=["<b>"]) == "<p title='[&#x27;&lt;b&gt;&#x27;]'>[&#x27;&lt;b&gt;&#x27;]</p>"
    for made in (part("quoted", "<"), shown("", part("quoted", "<")), ours("<q>&lt;</q>")):
        assert page(x=made).endswith("'><q>&lt;</q></p>")


def test_html_is_written_in_templates() -> None:
    """In the rooms that make pages no string holds an element, but for the fixed link of a report to its
    site; Markup is made in one module; no template turns escaping off. The rooms that a base installation
    has, without templates, escape by hand."""
    tags = "p|br|a|b|q|h[1-6]|[uod]l|li|d[td]|div|span|small|strong|code|pre|table|t[rhd]|section|figure|svg"
    element = re.compile(f"</?(?:{tags})[ />]")
    written, by_hand, marked = set(), set(), set()
    for file in PACKAGE.rglob("*.py"):
        where = file.relative_to(PACKAGE).as_posix()
        nodes = list(ast.walk(ast.parse(file.read_text())))
        texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        written |= {where} if any(map(element.search, texts)) else set()
        by_hand |= {where} if "for_html" in names else set()
        marked |= {where} if "Markup" in names else set()
    here = {"card.py", "lab/listing.py", "lab/live.py"}
    assert by_hand == here | {"figures/markup.py", "report/html.py"}
    assert {one for one in written if one.startswith(("figures", "compare", "observe", "site"))} == {
        "figures/markup.py",
        "site/reports.py",
    }
    assert marked == {"figures/markup.py"}
    for file in (TEMPLATES / "parts.html.j2", *(TEMPLATES / "site").glob("*.j2")):
        assert not re.search(r"\|\s*safe\b|\bautoescape\s+(?:false|true)\b", file.read_text()), file.name


def test_a_shown_piece_is_plain_text_for_others() -> None:
    """Its HTML is a `str`: what a notebook adds to it stands as it was written."""
    piece = shown("words", part("quoted", "<"), part("quoted", "2"))
    assert type(piece.html) is str
    assert piece == Shown("<q>&lt;</q><q>2</q>", "words")
