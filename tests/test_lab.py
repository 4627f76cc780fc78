"""notebooks/explore.ipynb as people meet it: in JupyterLab in a real browser, and executed by papermill."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from perfkit import report
from perfkit.store import list_runs
from tests.lab_fixture import jupyter_lab
from tests.small_server import small_server

pytestmark = pytest.mark.slow

FIGURES = 5
NOTEBOOK = json.loads(report.notebook_path("explore").read_text())


def test_the_notebook_is_thin() -> None:
    """No def, class or for; every section asks a question; code fits the page."""
    code = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    for source in code:
        assert not re.search(r"\b(def|class|for|while|lambda)\b", re.sub(r'"[^"]*"|#.*', "", source))
    assert max(len(line) for source in code[1:] for line in source.splitlines()) <= 110
    text = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    assert all(heading.endswith("?") for heading in re.findall(r"^## (.+)$", text, re.M))
    assert "This is not a verdict" in text
    assert "perfkit compare" in text


def test_papermill_executes_it(tmp_path: Path, chromium: Browser) -> None:
    """Both runs, every figure once with its words, no output of a view left; wide or on a phone."""
    with small_server() as server:
        given = {"target": {"url": server.url}, "seconds": 1, "data_dir": str(tmp_path / "data")}
        notebook = report.notebook_path("explore")
        page = report.execute(notebook, given, tmp_path / "out" / "explore.ipynb", progress=False)
    runs = list_runs(tmp_path / "data")
    assert [run.meta.users.count for run in runs] == [4, 8]
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    figures = tab.locator("svg[role=img]")
    assert figures.count() == FIGURES == tab.locator("figure:has(svg) figcaption").count()
    assert all(len(figures.nth(i).get_attribute("aria-label") or "") > 40 for i in range(FIGURES))
    assert tab.locator(".pk-live").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert [run.id for run in runs if run.id not in tab.content()] == []
    tab.close()


@pytest.mark.slow
def test_jupyterlab_runs_it(tmp_path: Path, chromium: Browser) -> None:
    """`make lab`'s server, its own kernel, Run All: the view is seen, then the figures, and no error."""
    with jupyter_lab(tmp_path) as address:
        tab = chromium.new_page(viewport={"width": 1300, "height": 7000})
        tab.goto(address)
        tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
        tab.get_by_role("menuitem", name="Run", exact=True).first.click()
        tab.get_by_text("Run All Cells", exact=True).click()
        view = tab.locator(".pk-live").first
        view.wait_for(timeout=60_000)
        assert "in flight" in view.inner_text()
        prompts = tab.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
        last = prompts.last
        tab.wait_for_function(
            "() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]"
            ".every(e => /\\d/.test(e.innerText))",
            timeout=90_000,
        )
        assert re.fullmatch(r"\[\d+\]:", last.inner_text())
        tab.locator("svg[role=img]").nth(FIGURES - 1).wait_for(timeout=10_000)
        assert tab.locator(".jp-Notebook svg[role=img]").count() == FIGURES
        assert tab.locator(".pk-live").count() == 0
        assert tab.locator("[data-mime-type*=error], [data-mime-type*=stderr]").count() == 0
        tab.close()
    assert [run.state for run in list_runs(tmp_path / "data")] == ["complete", "complete"]
