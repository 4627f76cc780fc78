"""The published pages in a real browser: they load nothing, all can use them, hostile words stay words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route

from perfkit.site import pages
from tests.site_fixture import Site
from tests.test_publish import served

pytestmark = pytest.mark.slow

AXE = Path(__file__).parents[1] / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
KINDS = ("index", "run", "odd", "trend", "comparison", "reading", "report", "odd report", "comparison report")


@pytest.fixture(scope="module")
def places(site: Site) -> dict[str, str]:
    """A page of each kind by its address in the site."""
    runs, (comparison,) = site.index["runs"], site.index["comparisons"]
    http = next(one for one in runs if one["scenario"] == "http_get")
    odd = next(one for one in runs if one["created"][:2] != "20")
    return {
        "index": "index.html",
        "run": http["href"],
        "odd": odd["href"],
        "trend": next(t["href"] for t in site.index["trends"] if t["scenario"] == "agent_mass_creation"),
        "comparison": comparison["href"],
        "reading": "reading.html",
        "odd report": odd["files"]["run_report.html"],
        "report": http["files"]["run_report.html"],
        "comparison report": comparison["files"]["comparison.html"],
    }


class Watched:
    """A browser that may load files of the site only; what it asked for and what it complained of is kept."""

    def __init__(self, context: BrowserContext, allowed: str) -> None:
        self.context = context
        self.outside: list[str] = []
        self.messages: list[str] = []
        self._allowed = allowed
        context.route("**/*", self._pass)

    def _pass(self, route: Route) -> None:
        if route.request.url.startswith(self._allowed):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def open(self, address: str) -> Page:
        """A page, watched."""
        tab = self.context.new_page()
        tab.on("console", lambda m: self.messages.append(f"{address}: {m.text}"))
        tab.on("pageerror", lambda e: self.messages.append(f"{address}: {e}"))
        tab.on("dialog", lambda d: self.messages.append(f"{address}: {d.message}"))
        tab.goto(address)
        return tab


def test_every_page_opens_from_a_file_and_from_a_server(
    site: Site, places: dict[str, str], chromium: Browser
) -> None:
    """Without a network, no page asks for anything else than itself; no console message; the policy holds."""
    for base in (f"{site.path.as_uri()}/", None):
        with served(site.path) as url:
            context = chromium.new_context()
            watched = Watched(context, base or url)
            for kind, place in places.items():
                asked: list[str] = []
                context.on("request", lambda r, asked=asked: asked.append(r.url))  # type: ignore[misc]
                tab = watched.open((base or url) + place)
                assert [one for one in asked if not one.startswith("data:")] == [tab.url], kind
                assert tab.locator("#pk-theme").is_visible()
                assert "default-src 'none'" in str(
                    tab.locator("meta[http-equiv='Content-Security-Policy']").get_attribute("content")
                )
                tab.close()
            context.close()
        assert watched.outside == []
        assert watched.messages == []


def test_the_policy_stops_what_escaping_would_miss(site: Site, chromium: Browser) -> None:
    """A script or a request that found its way into a page does not run and does not leave."""
    context = chromium.new_context()
    watched = Watched(context, site.path.as_uri())
    tab = watched.open(f"{site.path.as_uri()}/index.html")
    tab.evaluate(
        """() => { const s = document.createElement('script'); s.textContent = "document.title='owned'";
        const i = document.createElement('img'); i.setAttribute('onerror', "document.title='owned'");
        document.body.append(s, i); const told = new Promise(done => i.addEventListener('error', done));
        i.src = 'http://127.0.0.1:9/x.png'; return told; }"""
    )
    assert tab.title() == "Agent server"
    assert watched.outside == []
    assert len([m for m in watched.messages if "Content Security Policy" in m]) >= 2
    context.close()


@pytest.mark.parametrize("kind", ["index", "odd", "odd report", "trend", "comparison", "comparison report"])
def test_hostile_words_are_words(site: Site, places: dict[str, str], chromium: Browser, kind: str) -> None:
    """They are seen as text; no script but the page's own, no image, no frame; the title stays."""
    tab = chromium.new_page()
    tab.goto(f"{site.path.as_uri()}/{places[kind]}")
    assert tab.title() != "owned"
    assert tab.locator("script").count() == 1
    assert tab.locator("img, iframe, object, embed, form[action]").count() == 0
    if kind in ("index", "odd", "odd report", "comparison"):
        assert "<script>document.title='owned'" in tab.locator("body").inner_text()
    tab.close()


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)], ids=["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_fault(
    site: Site, places: dict[str, str], chromium: Browser, kind: str, scheme: Any, width: int
) -> None:
    """axe-core, light at a desk and dark on a phone: no fault of any level."""
    assert AXE.is_file(), "axe-core is missing: scripts/browser installs it"
    context = chromium.new_context(
        color_scheme=scheme, bypass_csp=True, viewport={"width": width, "height": 900}
    )
    tab = context.new_page()
    tab.goto(f"{site.path.as_uri()}/{places[kind]}")
    tab.evaluate(AXE.read_text())
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    told = [(one["impact"], one["id"], one["nodes"][0]["html"][:200]) for one in found]
    assert told == []
    context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_phone_nothing_is_wider_than_the_page(
    site: Site, places: dict[str, str], chromium: Browser, kind: str
) -> None:
    """At 390 px the page itself does not scroll sideways; on the index a run is a card, all of it in view."""
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.goto(f"{site.path.as_uri()}/{places[kind]}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    if kind == "index":
        boxes = tab.evaluate(
            "[...document.querySelectorAll('#runs-table tbody tr:not([hidden]) > *')]"
            ".map(e => e.getBoundingClientRect().right)"
        )
        assert max(boxes) <= 390
        assert tab.locator("#runs-table thead").is_hidden()
        assert tab.locator("select[name=sort]").is_visible()
    tab.close()


# -- the index -------------------------------------------------------------------------------------


@pytest.fixture
def index(site: Site, chromium: Browser) -> Iterator[Page]:
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"{site.path.as_uri()}/index.html")
    yield tab
    tab.close()


def column(tab: Page, name: str) -> list[str]:
    """The texts of a column of the runs that are shown."""
    cells = tab.locator(f"#runs-table tbody tr:not([hidden]) [data-name='{name}']")
    return [text.strip().split("\n")[0] for text in cells.all_inner_texts()]


def test_sorting_by_keyboard(index: Page) -> None:
    """A head is a button; aria-sort says which and how; numbers sort as such, dashes stay last."""
    times = column(index, "time")
    assert times == sorted(times, key=lambda t: "" if t == "unknown time" else t, reverse=True)
    head = index.locator("#runs-table thead th", has_text="p99, ms")
    head.locator("button").focus()
    index.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert index.locator("#runs-table [aria-sort]").count() == 1

    def numbers() -> list[float]:
        return [float(text.replace(",", "")) for text in column(index, "p99, ms") if text != "—"]

    assert numbers() == sorted(numbers())
    assert column(index, "p99, ms")[-1] == "—"
    index.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    assert column(index, "p99, ms")[-1] == "—"


def test_filtering_is_announced(index: Page) -> None:
    """Words, scenario and verdict narrow the table together; a status says how many are left."""
    status = index.get_by_role("status")
    assert status.inner_text() == "21 runs"
    index.get_by_label("Filter", exact=True).fill("nightly AGENT")
    assert status.inner_text() == "12 of 21 runs"
    index.locator("select[name=verdict]").select_option("invalid")
    assert status.inner_text() == "1 of 21 runs"
    assert column(index, "verdict") == ["✗ invalid"]
    index.locator("select[name=scenario]").select_option("http_get")
    assert status.inner_text() == "0 of 21 runs"
    assert index.get_by_text("No run fits the filter.").is_visible()


def test_the_table_names_what_a_run_was(index: Page) -> None:
    """Time, scenario, target, code (changes told), tags, verdict with its reason, numbers or a dash."""
    row = index.locator("#runs-table tbody tr", has=index.locator("a[title='20260102-080000-nightly']"))
    text = re.sub(r"\s+", " ", row.inner_text())
    for words in (
        "2026-01-02 08:00:00",
        "agent_mass_creation",
        "http://127.0.0.1:8283",
        "02020202 with changes",
    ):
        assert words in text
    assert "nightly" in text
    missed = index.locator(".ps-chip", has_text="missed").first
    assert missed.get_attribute("title") == "missed: p95 < 300 ms"


def test_without_scripts_the_index_is_a_plain_table(site: Site, chromium: Browser) -> None:
    """All runs are there, no control that would do nothing."""
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{site.path.as_uri()}/index.html")
    assert tab.locator("#runs-table tbody tr").count() == 21
    assert tab.locator("form, button").locator("visible=true").count() == 0
    context.close()


def test_a_thousand_runs_are_shown_a_hundred_at_a_time(site: Site, tmp_path: Path, chromium: Browser) -> None:
    """More come with a button, which leads the focus on; the filter looks through all of them."""
    one = site.run("20260101-080000-nightly")
    many = [one | {"id": f"run-{i}", "note": "odd one" if i == 900 else ""} for i in range(1000)]
    (tmp_path / "index.html").write_bytes(pages.index("Many", many, [], []))
    tab = chromium.new_page()
    tab.goto((tmp_path / "index.html").as_uri())
    rows = tab.locator("#runs-table tbody tr:not([hidden])")
    assert rows.count() == 100
    assert tab.get_by_role("status").inner_text() == "1,000 runs, the first 100 shown"
    tab.get_by_role("button", name="Show 100 more of 900").click()
    assert rows.count() == 200
    assert tab.evaluate("document.activeElement.title") == "run-100"
    tab.get_by_label("Filter", exact=True).fill("odd one")
    assert rows.count() == 1
    tab.close()


def test_the_theme_is_kept_from_page_to_page(site: Site, places: dict[str, str], chromium: Browser) -> None:
    """The button changes it; the next page, a report too, has the same."""
    context = chromium.new_context(color_scheme="light")
    tab = context.new_page()
    tab.goto(f"{site.path.as_uri()}/index.html")
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#pk-theme").click()
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    for kind in ("run", "report", "trend"):
        tab.goto(f"{site.path.as_uri()}/{places[kind]}")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    context.close()
