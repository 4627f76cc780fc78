"""The report as people get it: executed by papermill, opened in a browser, refused for nonsense."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser

from benchmarks.make_timeline import make_timeline
from perfkit import report
from perfkit.errors import BadInput, PerfkitError
from perfkit.report import making
from perfkit.report.kernel import Kernel
from perfkit.report.running import forget_machine
from perfkit.store import Run

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FIGURES = 11
QUESTIONS = 13
CELLS = 17


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with streams, failures and hostile words wherever words can be."""
    meta: dict[str, Any] = {
        "note": HOSTILE,
        "health": {"valid": False, "reasons": [f"too late {HOSTILE}"], "workers": [{"worker": HOSTILE}]},
        "step_errors": [{"text": HOSTILE, "count": 3}],
    }
    operations = ["create_agent", HOSTILE, "send_message"]
    folder = tmp_path_factory.mktemp("made")
    return make_timeline(folder, 3000, operations=operations, error_rate=0.03, streaming=True, meta=meta)


@pytest.fixture(scope="module")
def page(run: Run) -> Path:
    """Its report, made once, by a user whose own kernelspecs do not work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
        patch.setenv("JUPYTER_PATH", str(run.path / "jupyter"))
        spec = run.path / "jupyter" / "kernels" / "python3"
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(
            json.dumps({"argv": ["/nonexistent"], "display_name": "x", "language": "python"})
        )
        return report.make_report(run, parameters={"bins": 60, "title": f"Agents {HOSTILE}"}, progress=False)


def test_the_head_says_what_was_run(run: Run, tmp_path: Path) -> None:
    """Scenario, target, load and time in a line, then the id; what is not known is left out, no secret told.

    A page that is made again from its notebook says the same.
    """
    load = {"workload": {"users": {"count": 20, "duration_s": 30}}, "created": "2026-11-30T19:35:07+01:00"}
    target = {"target": {"url": "http://127.0.0.1:8123"}}
    scenario = {"scenario": {"name": "http_get <b>"}}
    full = make_timeline(tmp_path, 500, meta=load | target | scenario)
    page = report.make_report(full, parameters={"bins": 20}, progress=False)
    words = (
        "http_get &lt;b&gt; on http://127.0.0.1:8123 · closed model: 20 users, 30 s · 2026-11-30 18:35 UTC"
    )
    head = f'<p class="pk-sub">{words}<br/>{full.id}</p>'
    assert head in page.read_text()
    assert head in report.render_again(page.with_suffix(".ipynb"), full.id)
    bare = make_timeline(tmp_path, 500, seed=2, meta=scenario | {"created": "0001-01-01T00:00:00+01:00"})
    told = report.make_report(bare, parameters={"bins": 20}, progress=False).read_text()
    first = told.partition('<p class="pk-sub">')[2].partition("<br/>")[0]
    assert first.startswith("http_get &lt;b&gt;")
    assert "UTC" not in first


def test_files_lie_in_the_run(run: Run, page: Path) -> None:
    """Executed notebook and HTML are in <run>/report; a broken kernelspec of the user's did no harm."""
    assert page == run.path / "report" / "run_report.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["run_report.html", "run_report.ipynb"]
    assert page.stat().st_size < 3_000_000


def test_page_loads_nothing_and_nothing_hostile_runs(page: Path, chromium: Browser) -> None:
    """In a real browser: one request (the page itself), no console message, no script but ours."""
    requests: list[str] = []
    messages: list[str] = []
    tab = chromium.new_page()
    tab.on("request", lambda r: requests.append(r.url))
    tab.on("console", lambda m: messages.append(m.text))
    tab.on("pageerror", lambda e: messages.append(str(e)))
    tab.goto(page.as_uri())
    assert tab.title() == f"Agents {HOSTILE}"
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert messages == []
    assert tab.locator("script").count() == 1
    assert tab.locator("img").count() == 0
    tab.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_plain_papermill_executes_it(tmp_path: Path, folder: str) -> None:
    """`papermill notebook out -f parameters`, from the root or from notebooks/, finds the data by itself."""
    root = Path(__file__).parents[1]
    paths = root / "notebooks" / "run_report.ipynb", tmp_path / "out.ipynb"
    parameters = root / "params" / "report" / "run_report.yaml"
    command = [sys.executable, "-m", "papermill", *map(str, paths), "-f", str(parameters)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    environment.pop("PERFKIT_DATA_DIR", None)
    done = subprocess.run(command, cwd=root / folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pk-verdict" in paths[1].read_text()


def test_every_figure_has_words(page: Path, chromium: Browser) -> None:
    """Every drawing has alt text and a caption with n, failures and time span; no id occurs twice."""
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    figures = tab.locator("figure:has(svg)")
    assert figures.count() == FIGURES
    for i in range(FIGURES):
        figure = figures.nth(i)
        assert len(figure.locator("svg.pk-wide[role=img]").get_attribute("aria-label") or "") > 40
        caption = figure.locator("figcaption").inner_text()
        begin = r"3,000 requests of the measured part, \d+ failed \([\d.]+ %\), 15 s; "
        assert re.match(begin, caption), caption
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    tab.close()


def test_contents_and_structure(page: Path, chromium: Browser) -> None:
    """A language, one h1, a skip link, and a table of contents in which every link leads somewhere."""
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("html[lang=en]").count() == 1
    assert tab.locator("h1").count() == 1
    assert tab.locator("a.pk-skip").get_attribute("href") == "#content"
    links = tab.evaluate("[...document.querySelectorAll('.pk-toc a')].map(a => a.getAttribute('href'))")
    assert len(links) == QUESTIONS + 1 == tab.locator("h2").count()  # and how to read them
    assert all(tab.locator(f"[id='{link[1:]}']").count() == 1 for link in links)
    first = tab.locator("main > *").first
    assert first.inner_text().startswith("INVALID — too late")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(page: Path, chromium: Browser, scheme: Any) -> None:
    """Text of the page and inside figures contrasts with its background by 4.5 or more; the button works."""
    tab = chromium.new_page(color_scheme=scheme)
    tab.goto(page.as_uri())

    def contrasts() -> list[float]:
        paper = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        inks = tab.evaluate(
            "[...document.querySelectorAll('p, h2, figcaption, td')].map(e => getComputedStyle(e).color)"
            ".concat([...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill))"
        )
        tones = [luminance(ink) for ink in set(inks)]
        return [(max(tone, paper) + 0.05) / (min(tone, paper) + 0.05) for tone in tones]

    assert min(contrasts()) >= 4.5
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#pk-theme").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert min(contrasts()) >= 4.5
    tab.close()


def luminance(css: str) -> float:
    """WCAG relative luminance of `rgb(r, g, b)`."""
    parts = np.array([float(v) for v in re.findall(r"[\d.]+", css)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_phone_and_code_toggle(page: Path, chromium: Browser) -> None:
    """At 390 px the page does not scroll sideways; code is folded until asked for."""
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator("details.pk-source[open]").count() == 0
    tab.locator("#pk-code").click()
    assert tab.locator("details.pk-source:not([open])").count() == 0
    tab.close()


def test_page_holds_no_place_and_no_script_from_outside(run: Run, page: Path) -> None:
    """Neither HTML nor executed notebook names where they were made; the policy forbids every load."""
    for file in (page, page.with_suffix(".ipynb")):
        text = file.read_text()
        assert str(run.path.parent) not in text
        assert str(Path(report.__file__).parents[2]) not in text
    html = page.read_text()
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bin": 3}, "unknown parameter of run_report.ipynb: 'bin'; did you mean 'bins'?"),
        ({"bins": "many"}, "bins takes a whole number (default 100), not 'many'"),
        ({"bins": True}, "bins takes a whole number"),
        ({"title": 3}, "title takes text"),
        (
            {"latency": "respons"},
            "unknown value of run_report.ipynb, latency: 'respons'; did you mean 'response'?",
        ),
        ({"run": "latest"}, "'run' is set by perfkit"),
    ],
)
def test_parameters_are_refused_before_anything_runs(
    tmp_path: Path, parameters: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown and ill-typed parameters are one line with the nearest name; nothing is written."""
    run = make_timeline(tmp_path, 20)
    monkeypatch.setattr(making, "run_cells", lambda *_: pytest.fail("it ran"))
    with pytest.raises(BadInput) as caught:
        report.make_report(run, parameters=parameters)
    assert words in str(caught.value)
    assert not (run.path / "report").exists()


def test_unknown_notebook_and_folder(tmp_path: Path) -> None:
    """A notebook nobody knows, or a file that is none, is refused in one line."""
    with pytest.raises(BadInput, match="did you mean 'run_report'"):
        report.notebook_path("run_reprt")
    (tmp_path / "x.ipynb").write_text("no json")
    for name in ("x.ipynb", "y.ipynb"):
        with pytest.raises(BadInput, match=r"not a notebook|no notebook"):
            report.parameters_of(tmp_path / name)


# -- execution -------------------------------------------------------------------------------------


def notebook(path: Path, *cells: str) -> Path:
    """A small notebook whose first cell holds its parameters."""
    made = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(cells)]  # type: ignore[no-untyped-call]
    made[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)  # type: ignore[no-untyped-call]
    return path


def test_a_broken_notebook_is_still_written(
    tmp_path: Path, chromium: Browser, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the HTML and its anchor; the page says so first and links to the cell, opened."""
    bad = notebook(
        tmp_path / "mine.ipynb",
        "share = 0.5",
        "print('before')",
        "raise ValueError('<b>no</b> rows')",
        "print('after')",
    )
    with pytest.raises(PerfkitError) as caught:
        report.execute(bad, {"share": 1}, tmp_path / "out" / "mine.ipynb", progress=False)
    address = re.search(r"file://\S+#broken-cell", str(caught.value))
    assert address
    assert "mine.ipynb failed: ValueError: <b>no</b> rows" in str(caught.value)
    tab = chromium.new_page()
    tab.goto(address[0])
    assert tab.locator("main > *").first.inner_text().startswith("BROKEN REPORT")
    assert tab.locator("main > section a").get_attribute("href") == "#broken-cell"
    assert tab.locator("#broken-cell details[open]").inner_text().count("raise ValueError") == 1
    assert tab.locator("b").count() == 0
    assert "before" in tab.content()
    tab.close()
    assert "share = 1" in (tmp_path / "out" / "mine.ipynb").read_text()
    assert capfd.readouterr() == ("", "")


def test_where_it_was_made_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working and home directory go, after a newline, a colour or file:// too; other paths stay."""
    home, here = tmp_path / "me", tmp_path / "me" / "work"
    here.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    texts = {
        f"in\n{here}/a.py, \\n{here}/a": "in\n./a.py, \\n./a",
        f"\x1b[32m{here}/b\x1b[0m {home}/c \x1b[1;31m{here}.": "\x1b[32m./b\x1b[0m ~/c \x1b[1;31m..",
        f"file://{home}/d, '{home}':{here}": "file://~/d, '~':.",
        f"{here}fs {home}-2 {home}.old /x{home}": f"~/workfs {home}-2 {home}.old /x{home}",
    }
    made = notebook(here / "mine.ipynb", *(repr(text) for text in texts))
    written = nbformat.read(made, as_version=4)  # type: ignore[no-untyped-call]
    for cell, text in zip(written.cells, texts, strict=True):
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]  # type: ignore[no-untyped-call]
    nbformat.write(written, made)  # type: ignore[no-untyped-call]
    forget_machine(made, made, made)
    left = nbformat.read(made, as_version=4).cells  # type: ignore[no-untyped-call]
    assert [cell.outputs[0].text for cell in left] == list(texts.values())


def test_a_dying_kernel_is_told(tmp_path: Path) -> None:
    """A kernel that dies is one line too, and what ran before it is kept."""
    bad = notebook(
        tmp_path / "mine.ipynb",
        "x = 1",
        "print('before')",
        "import os; os.write(2, b'out of luck'); os._exit(3)",
    )
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    with pytest.raises(PerfkitError, match=r"DeadKernelError.*#broken-cell"):
        report.execute(bad, {}, tmp_path / "mine_out.ipynb", progress=False)
    assert "before" in (tmp_path / "mine_out.html").read_text()


def test_a_kernel_that_is_not_needed_ends(tmp_path: Path) -> None:
    """A kernel starts before its notebook is looked at: when that is refused, nothing is left of it."""
    with Kernel(notebook(tmp_path / "mine.ipynb", "x = 1")) as kernel:
        folder = Path(kernel.manager.connection_file).parent
        assert folder.is_dir()
        assert kernel.manager.has_kernel
    assert not kernel.manager.has_kernel
    assert not folder.exists()


def test_own_notebooks_run_in_a_fresh_kernel(tmp_path: Path) -> None:
    """What is imported for perfkit's notebooks is not for somebody's own; both run beside their output."""
    cell = "import os, sys; print(os.getcwd(), sorted({'matplotlib', 'pandas'} & {*sys.modules}))"
    mine = notebook(tmp_path / "mine.ipynb", "x = 1", cell)
    report.execute(mine, {}, tmp_path / "out" / "mine.ipynb", progress=False)
    ran = nbformat.read(tmp_path / "out" / "mine.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert ran.cells[-1].outputs[0].text == f"{tmp_path / 'out'} []\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """An unwritable folder is refused with what to do, before a kernel starts."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PerfkitError, match=r"cannot write .*file: File exists; a file is where"):
        report.make_report(make_timeline(tmp_path, 20), out_dir=tmp_path / "file")


def test_defaults_open_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run cell by cell with its defaults, the notebook shows the last run, whatever it lacks."""
    run = make_timeline(tmp_path / "data", 40)
    (run.path / "run.json").write_text(json.dumps({"schema": 1, "state": "running"}))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    space: dict[str, Any] = {}
    shown = []
    cells = nbformat.read(report.notebook_path("run_report"), as_version=4).cells  # type: ignore[no-untyped-call]
    for cell in cells:
        if cell.cell_type == "code":
            *before, last = cell.source.strip().splitlines()
            exec("\n".join(before), space)
            if "=" in last and "(" not in last:
                exec(last, space)
            else:
                shown.append(eval(last, space)._repr_html_())
    assert len(shown) == CELLS
    assert "<strong>ABORTED</strong>" in shown[0]


def test_notebook_is_thin() -> None:
    """No def, class or for; question, one call, figure; committed without outputs."""
    cells = nbformat.read(report.notebook_path("run_report"), as_version=4).cells  # type: ignore[no-untyped-call]
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata["tags"]
    for cell in code:
        assert not re.search(r"\b(def|class|for|while|lambda)\b", re.sub(r"#.*", "", cell.source))
        assert cell.outputs == []
    assert sum(cell.source.startswith("## ") for cell in cells) == QUESTIONS
