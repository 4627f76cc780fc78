"""Reports of runs of every kind in a browser: nothing is cut, the keyboard reaches values, axe is content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.pages import KINDS, make_page
from tests.test_site_pages import AXE

pytestmark = pytest.mark.slow
#: JavaScript: the texts of a figure that are not wholly in it.
OUTSIDE = """[...document.querySelectorAll('svg.pk-narrow')].flatMap(figure => {
    const whole = figure.getBoundingClientRect();
    return [...figure.querySelectorAll('text')].filter(text => {
        const own = text.getBoundingClientRect();
        return own.width && (own.left < whole.left - 2 || own.right > whole.right + 2);
    }).map(text => text.textContent);
})"""


@pytest.fixture(scope="module", params=[KINDS[0], KINDS[4], KINDS[-2]], ids=str)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of some kind."""
    return make_page(tmp_path_factory.mktemp("made"), request.param)


def opened(chromium: Browser, page: Path, width: int, scheme: Any) -> Page:
    tab = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    tab.goto(page.as_uri())
    return tab


def test_on_a_phone_no_figure_is_cut(page: Path, chromium: Browser) -> None:
    """At 390 px no page, figure or table is wider than the screen; the text of a figure has 9 px or more."""
    tab = opened(chromium, page, 390, "dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    wider = "[...document.querySelectorAll('.pk-scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert tab.evaluate(f"{wider}.map(e => e.textContent.slice(0, 80))") == []
    assert tab.locator("svg.pk-wide >> visible=true").count() == 0
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg.pk-narrow text')].map(e => e.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) >= 9
    assert tab.evaluate(OUTSIDE) == []
    tab.close()


def test_the_keyboard_reaches_values(page: Path, chromium: Browser) -> None:
    """Every figure can be focused; the arrow keys read its values one by one, Escape puts them away."""
    tab = opened(chromium, page, 1200, "light")
    boxes = tab.locator(".pk-scroll[data-values]")
    assert boxes.count() == tab.locator("figure:has(svg)").count() >= 7
    for box in boxes.all():
        note = box.get_by_role("status", include_hidden=True)
        box.focus()
        tab.keyboard.press("ArrowRight")
        first = note.inner_text()
        tab.keyboard.press("End")
        assert note.is_visible()
        assert first
        assert note.inner_text() != first
        tab.keyboard.press("Escape")
        assert note.is_hidden()
    box.hover()
    assert note.is_visible()
    tab.close()


def test_a_finger_reads_values(page: Path, chromium: Browser) -> None:
    """A tap on a figure shows the value next to it, and it stays when the finger is lifted."""
    with chromium.new_context(has_touch=True, viewport={"width": 390, "height": 800}) as phone:
        tab = phone.new_page()
        tab.goto(page.as_uri())
        box = tab.locator(".pk-scroll[data-values]").first
        box.tap()
        assert box.get_by_role("status").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_axe_finds_no_fault(page: Path, chromium: Browser, width: int, scheme: Any) -> None:
    """axe-core: no fault of any level."""
    tab = opened(chromium, page, width, scheme)
    tab.evaluate(AXE.read_text())
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    assert [(one["impact"], one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    tab.close()


def test_the_first_screen_tells_what_matters(page: Path, chromium: Browser) -> None:
    """Above the fold at a desk: verdict, three numbers, what to do, one picture; no section is empty."""
    tab = opened(chromium, page, 1200, "light")
    assert tab.locator(".pk-numbers > div").count() == 3
    for what in (".pk-verdict", ".pk-numbers", ".pk-first ul", ".pk-first svg >> visible=true"):
        box = tab.locator(what).first.bounding_box()
        assert box
        assert box["y"] < 700, what
    assert tab.locator(".pk-nothing").count() == 0
    assert tab.locator("#how-to-read").count() == 1
    tab.close()


def test_code_has_one_switch(page: Path, chromium: Browser) -> None:
    """No cell has a fold of its own; the switch of the page shows the code of all."""
    tab = opened(chromium, page, 1200, "light")
    code = tab.locator(".pk-cell > details.pk-source >> visible=true")
    assert code.count() == 0
    tab.locator("#pk-code").click()
    assert code.count() > 10
    tab.close()
