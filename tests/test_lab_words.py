"""JupyterLab shows a server's words as they are: it takes no dollar in them for mathematics."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser

from benchmarks.make_timeline import WORDS, make_timeline
from perfkit.compare import Options
from perfkit.compare.experiment import compare_and_keep
from tests.lab_fixture import jupyter_lab

pytestmark = pytest.mark.slow

DOLLARS = r"costs $5 and then $6, or \(x\), $$y$$, \[z\]"
#: Every kind of output perfkit makes for a notebook, and a page of nobody's that is typeset.
CELLS = (
    "from IPython.display import HTML\nHTML('<p id=control>costs $5 and then $6</p>')",
    "import perfkit\nfrom perfkit import figures, frames, observe\nfrom perfkit.compare import experiment\n"
    "run = perfkit.open_run('20260102', '../data')\nrun",
    "perfkit.runs('../data')",
    "experiment.open_comparison('latest', '../data')",
    "rows = frames.measured(run)\nsummary = frames.summary(rows)\nfigures.verdict(run, summary)",
    "figures.error_table(frames.errors(rows))",
    "figures.summary_table(summary)",
    "figures.facts(run)",
    "observe.figures.findings(observe.findings.judge(rows))",
    "figures.show(figures.ecdf(frames.survival(rows)))",
    "frames.errors(rows)",
    "from perfkit.lab.live import Display\nview = Display()\nview.look(run, False)",
    "view = Display()\nview.end([run])",
)


def test_dollars_stay_dollars(tmp_path: Path, chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$5 … $6` in error bodies, names, notes and URLs stands there as the server wrote it in every output;
    the same words in a page that is not perfkit's are typeset, so JupyterLab does look for them."""
    monkeypatch.setitem(WORDS, "http_5xx", DOLLARS)
    with jupyter_lab(tmp_path) as address:
        data, names = tmp_path / "data", [DOLLARS, f"other {DOLLARS}"]
        meta = {"note": DOLLARS, "tags": ["$5", "$6"], "target": {"url": "http://h/$5/$6"}}
        meta |= {"health": {"valid": False, "reasons": [DOLLARS]}}
        meta |= {"scenario": {"name": "$5 $6", "doc": DOLLARS}}
        odd = {"operations": names, "error_rate": 0.5, "meta": meta}
        make_timeline(data, 400, run_id="20260102-000000-odd-0001", **odd)
        ids = [f"20260101-00000{i}-made-000{i}" for i in range(4)]
        runs = [make_timeline(data, 400, seed=i, run_id=name) for i, name in enumerate(ids)]
        compare_and_keep(runs[:2], runs[2:], Options(), ("$5", "$6"), data)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in CELLS])
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["kernelspec"] = kernel
        (tmp_path / "notebooks" / "words.ipynb").write_text(nbformat.writes(notebook))
        tab = chromium.new_page(viewport={"width": 1300, "height": 9000})
        tab.goto(address.replace("explore.ipynb", "words.ipynb"))
        tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
        tab.get_by_role("menuitem", name="Run", exact=True).first.click()
        tab.get_by_text("Run All Cells", exact=True).click()
        tab.wait_for_function(
            "() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]"
            f".filter(e => /\\d/.test(e.innerText)).length === {len(CELLS)}",
            timeout=180_000,
        )
        tab.locator("#control mjx-container").first.wait_for(timeout=60_000)  # so it is there, and has begun
        tab.wait_for_timeout(2_000)  # what comes too late would go unseen, not fail
        assert tab.locator("[data-mime-type*=error]").all_inner_texts() == []
        outputs = tab.locator(".jp-Notebook .jp-OutputArea-output:not(:has(#control))")
        assert outputs.count() == len(CELLS) - 1
        typeset = [outputs.nth(i).locator("mjx-container").count() for i in range(outputs.count())]
        assert dict(zip(CELLS[1:], typeset, strict=True)) == dict.fromkeys(CELLS[1:], 0)
        for cell, text in zip(CELLS[1:], outputs.all_text_contents(), strict=True):
            assert "$5" in text, cell
        tab.close()
