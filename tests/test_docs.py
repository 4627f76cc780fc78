"""The documents cannot lie: what they show is run."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser

from perfkit import frames
from perfkit.cli import cli
from perfkit.drive import scenario
from perfkit.drive.running import checked
from perfkit.drive.workload_files import read_workload
from perfkit.drive.workloads import merged
from perfkit.model import Workload
from perfkit.observe import findings
from perfkit.store import list_runs, read_probes
from tests.command import started
from tests.small_server import WIDE_BUDGET, small_server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
_NAMES = ("README.md", "METHOD.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
DOCUMENTS = [*(ROOT / name for name in _NAMES), *(ROOT / "docs" / name for name in GUIDES)]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, of the README and its guides."""
    return re.findall(rf"```{language}\n(.*?)```", "\n".join((README, *GUIDES.values())), re.S)


def test_the_readme_is_read_in_a_sitting() -> None:
    """It has at most 150 lines, and leads to every guide."""
    assert len(README.splitlines()) <= 150
    assert all(f"(docs/{name})" in README for name in GUIDES)


def test_the_probes_of_the_guide_work_in_a_foreign_service(tmp_path: Path) -> None:
    """The service as it stands in its guide: a run against it brings samples of pool, loop and requests."""
    text = next(block for block in blocks("python") if "ProbesMiddleware" in block)
    (tmp_path / "notes_service.py").write_text(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    serve = [
        sys.executable,
        "-m",
        "uvicorn",
        "notes_service:app",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(serve, cwd=tmp_path) as server:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", "http_get"]
            command += ["--target", url, "-p", "path=/notes", "-s", f"target.probes_url={url}"]
            command += ["-s", "arrivals.duration_s=2", "--data-dir", str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True)
        finally:
            server.terminate()
    assert done.returncode in (0, 3), done.stderr  # 3: this machine was too busy for a valid run
    (run,) = list_runs(tmp_path)
    judged = findings.judge(frames.measured(run))
    assert judged.probed
    assert judged.findings == []
    seen = set(read_probes(run)["probe"].to_pylist())
    assert {"pool.checked_out", "loop.lag_ms", "process.cpu_share", "request.app_ms", "request.db_ms"} <= seen
    assert "GET /probe/samples 200" not in read_probes(run)["label"].to_pylist()


def test_the_scenario_of_the_readme_runs(tmp_path: Path) -> None:
    """The 15-line scenario works as it stands: three operations, nothing failed, notes deleted at the end."""
    text = next(block for block in blocks("python") if "async def step" in block)
    assert len(text.strip().splitlines()) <= 17
    (tmp_path / "notes.py").write_text(text)
    with small_server() as server:
        command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--scenario", str(tmp_path / "notes.py")]
        command += ["--target", server.url, "-s", "users.count=2", "-s", "users.iterations=10"]
        for limit in ("delay_ms=10000", "cpu_share=100", "gc_pause_ms=60000"):  # a busy machine fails nothing
            command += ["-s", f"budget.{limit}"]
        done = subprocess.run([*command, "--data-dir", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = list_runs(tmp_path)
    rows = run.table(["operation", "phase", "error"]).to_pandas()
    assert rows["error"].isna().all()
    counts = rows.groupby(["phase", "operation"], observed=True).size().to_dict()
    assert counts == {
        ("measure", "create_note"): 10,
        ("measure", "read_note"): 10,
        ("teardown", "DELETE /notes/{id}"): 10,
    }


def test_every_scenario_is_in_the_readme() -> None:
    """The table of scenarios is complete."""
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.M))
    assert set(scenario.names()) <= listed


def test_every_workload_name_is_in_its_guide() -> None:
    """The table of the workload file names every section."""
    table = GUIDES["workload.md"]
    for name in {field.name for field in fields(Workload)} - {"variables"}:  # it is made, not written
        assert re.search(rf"`{name}\b|{name}`|{name}:", table), name


def test_every_verb_is_in_the_readme() -> None:
    """The list of verbs is complete, and `make` targets named there exist."""
    for verb in cli.commands:
        assert re.search(rf"perfkit {verb}|\| {verb}\b", README), verb
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        if target not in {"is"}:
            assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link and picture exists."""
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in link:
            assert (document.parent / link).exists(), link


def test_security_md_is_found_and_says_what_is_asked_of_it() -> None:
    """The README leads to it; it says how to report, what is promised and what is not, beside the figures."""
    text = (ROOT / "SECURITY.md").read_text()
    assert "(SECURITY.md)" in README
    assert re.findall(r"^## (.+)$", text, re.M) == [
        "Report a vulnerability",
        "What perfkit promises",
        "What it does not promise",
    ]
    assert "benchmarks/README.md#drills-broken-inputs-and-kills" in text
    assert "## Drills: broken inputs and kills" in (ROOT / "benchmarks" / "README.md").read_text()


def test_the_commands_of_the_first_hour_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the guide, and each `perfkit run` of the README's first block, works as it stands, with
    one step in the place of a whole load."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.json").write_text('{"text": "hello"}')
    (tmp_path / "openapi.json").write_text('{"openapi": "3.0.0", "paths": {"/pets": {"get": {}}}}')
    recorded = {"request": {"method": "GET", "url": "http://localhost/page"}}
    (tmp_path / "recorded.har").write_text(json.dumps({"log": {"entries": [recorded]}}))
    first = re.findall(r"^perfkit run .+", README.partition("## Two commands")[0], re.M)
    shown = re.findall(r"```sh\n(.*?)```", GUIDES["first-hour.md"], re.S)
    guide = re.findall(r"^perfkit .+", "\n".join(shown), re.M)
    assert len(first) >= 2
    assert len(guide) >= 12
    with small_server() as server:
        for line in (*first, *guide):
            words, _, out = line.partition("#")[0].replace("http://127.0.0.1:8000", server.url).partition(">")
            command = shlex.split(words)[1:]
            once = command[0] == "run" and not {"--once", "--print-yaml"} & set(command)
            done = started(*command, *(["--once"] if once else []), PERFKIT_DATA_DIR=str(tmp_path))
            assert done.returncode == 0, line + done.stdout + done.stderr
            if out:
                (tmp_path / out.strip()).write_text(done.stdout)
        assert server.requests["PUT /notes/1"] == 1
    assert {"pets.py", "web.yaml", "shop.yaml", "notes.yaml"} <= {file.name for file in tmp_path.iterdir()}


def test_the_tutorial_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files saved, its lines typed: every run is sound, and the gate refuses one run per side (3).

    Only times are other ones, and a busy machine fails nothing. Reports are tested elsewhere.
    """
    monkeypatch.chdir(tmp_path)
    text = GUIDES["tutorial.md"]
    changes = {"duration_s: 10s": "iterations: 400", "duration 10s": "duration 1s", "< 500 ms": "< 50 s"}
    changes |= {"warmup_s: 1s": "warmup_s: 0.1s", "think_time_s: 0.1s": "think_time_s: 0"}
    for shown, changed in changes.items():
        assert shown in text
        text = text.replace(shown, changed)
    files = {"csv": "users.csv", "yaml": "shop.yaml", "python": "shop.py"}
    with small_server() as server:
        for kind, name in files.items():
            found = re.findall(rf"```{kind}\n(.*?)```", text, re.S)[0]
            (tmp_path / name).write_text(found.replace("http://127.0.0.1:8000", server.url))
        with (tmp_path / "shop.yaml").open("a") as file:
            file.write(WIDE_BUDGET)
        lines = re.findall(r"^perfkit .+", "".join(re.findall(r"```sh\n(.*?)```", text, re.S)), re.M)
        assert len(lines) == 10
        for line in lines:
            command = shlex.split(line.replace("http://127.0.0.1:8000", server.url))[1:]
            if command[0] == "report":
                continue
            if command[0] == "run":  # a busy machine fails nothing
                command += ["-s", "budget.delay_ms=10000", "-s", "budget.cpu_share=100"]
            done = started(*command, PERFKIT_DATA_DIR=str(tmp_path))
            assert done.returncode == (3 if command[0] == "gate" else 0), line + done.stdout + done.stderr
    assert server.requests["POST /login"] >= 5
    assert "p95(read)" in (tmp_path / "run.xml").read_text()


def test_the_jobs_for_ci_wait_for_the_server_and_use_options_there_are() -> None:
    """Each CI has a job of both kinds; a server that is started is waited for before perfkit runs."""
    github, gitlab = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", GUIDES["ci.md"], re.S))
    jobs = [[step.get("run", "") for step in job["steps"]] for job in github["jobs"].values()]
    jobs += [job["script"] for job in gitlab.values()]
    verbs = []
    for lines in jobs:
        text = "\n".join(lines)
        assert text.index("./start-my-server") < text.index("--retry-connrefused") < text.index("\nperfkit ")
        _, verb, *words = shlex.split(text[text.index("\nperfkit ") :])
        known = {name for option in cli.commands[verb].params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
        verbs.append(verb)
    assert verbs == ["run", "gate"] * 2


@pytest.mark.drill
def test_the_pages_are_built_without_a_warning(tmp_path: Path, chromium: Browser) -> None:
    """`make docs`: no warning, every page reached from the index; a page loads nothing from elsewhere, in
    either theme, and fits a phone."""
    out = tmp_path / "html"
    build = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", str(ROOT / "docs")]
    done = subprocess.run([*build, str(out)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked: list[str] = []
    for theme in ("light", "dark"):
        tab = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme=theme)  # type: ignore[arg-type]
        tab.on("request", lambda request: asked.append(request.url))
        for page in sorted(out.rglob("*.html")):
            if page.parent.name == "_static":
                continue
            tab.goto(page.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page.name
        tab.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


#: Files that blocks name, as they stand beside the workload.
_FILES = {
    "access.log": '127.0.0.1 - - [10/Oct/2024:13:55:36 +0000] "GET / HTTP/1.1" 200 2\n',
    "conversations.jsonl": '{"prompt": "hello"}\n',
    "shop.py": "async def step(session, state, rng):\n    await session.get('/', operation='read')\n",
}


@pytest.mark.parametrize(
    "text",
    [text for text in blocks("yaml") if not re.search(r"^ *script:|^jobs:", text, re.M)],
    ids=lambda text: text.split(":")[0],
)
def test_the_workloads_of_the_guides_are_accepted_as_written(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each YAML block that is a workload, or a part of one, passes every check of a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "x" * 20)
    for name, content in _FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "w.yaml").write_text(text)
    given = read_workload(tmp_path / "w.yaml")
    url = "http://127.0.0.1:8000"
    given = merged({"target": {"url": url, "probes_url": url}}, given)
    if "mix" not in given:
        given = {"scenario": "http_get", **given}
    if not given.keys() & {"mix", "users", "arrivals"}:
        given["users"] = {"count": 10, "iterations": 10}
    checked(given, "w.yaml", ())


def test_the_blocks_of_the_guides_show_a_spread() -> None:
    """Among the workloads of the guides is one on several hosts."""
    assert any("\nspread:" in f"\n{text}" for text in blocks("yaml"))


def test_the_parameters_of_the_notebooks_are_in_their_guide() -> None:
    """Every parameter of the notebooks a reader runs, with its default, in the row of its notebook."""
    told: dict[str, dict[str, str]] = {}
    for notebook, name, default in re.findall(
        r"^\| (.*?) ?\| `(\w+)` \| (.*?) ?\|", GUIDES["jupyter.md"], re.M
    ):
        notebook = notebook.strip("`") or list(told)[-1]
        told.setdefault(notebook, {})[name] = default.strip("`")
    shared = told.pop("all")
    for notebook, parameters in told.items():
        cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
        cell = next(one for one in cells if "parameters" in one["metadata"].get("tags", []))
        scope: dict[str, object] = {}
        exec("".join(cell["source"]), scope)
        given = {name: value for name, value in scope.items() if not name.startswith("__")}
        written = {name: v if isinstance(v, str) else json.dumps(v) for name, v in given.items()}
        assert written == parameters | shared
