"""What a real terminal gets from every verb when all that it reads, and is given, is hostile."""

from __future__ import annotations

import html
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options
from perfkit.compare.experiment import compare_and_keep
from perfkit.store import Run
from tests.small_server import Handler, SmallServer, small_server
from tests.test_text import BIDI, CSI, EVERYTHING, FORBIDDEN, HIDDEN, OSC

#: Short enough for a file's name, without what no name can hold.
NAME = re.sub(r"[/\x00]", "", f"{OSC[:12]}{CSI}{BIDI[:4]}\x9b\r\n\t{HIDDEN[0]}")
#: What an argument of a command can hold.
ARGUMENT = EVERYTHING.replace("\x00", "")
#: Without what would end a field of a CSV, or its line, or make an address of it.
FIELD = re.sub(r'[\x00\r\n,"/]', "", EVERYTHING)
#: What may come out beside what prints: the end of a line, and how a progress bar or the live view moves.
MOVES = re.compile(r"\r\n|\n|\r|\x1b\[(?:\d*A|[KJ]|(?:0|1|2|31)m)")
EDITED = "20260102-000000-edited-0001"


class Places(dict[str, str]):
    """Hostile texts by the place they come from; each begins with that place, to be looked for."""

    def __call__(self, place: str, text: str = EVERYTHING) -> str:
        return self.setdefault(place, f"{self.begin(place)}{text}")

    @staticmethod
    def begin(place: str) -> str:
        """What the text of a place begins with."""
        return f"from-{place.replace(' ', '-')}-"

    def unseen(self, got: str) -> set[str]:
        """The places whose text did not come out."""
        return {place for place in self if self.begin(place) not in got}


class Hostile(Handler):
    """Answers every request with 500 and everything."""

    def answer(self) -> None:
        """Answer any method."""
        body = f"from-body-{EVERYTHING}".encode()
        self.send_response(500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        running.RequestHandlerClass = Hostile
        yield running


#: Runs each command line in one process, as `perfkit` does, on the terminal it is given.
DRIVER = """
import json, sys
from pathlib import Path
from perfkit.cli import main
commands, data = json.loads(Path(sys.argv[1]).read_text())
for number, argv in enumerate(commands):
    print("\\n== " + str(number) + " ==", flush=True)
    sys.argv, code = ["perfkit", *argv], 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    print("\\n== exit " + str(code) + " ==", flush=True)
if data:
    import perfkit
    from perfkit.compare.experiment import comparison_folders, open_comparison
    from perfkit.figures import Shown
    runs = perfkit.runs(data)
    kept = [open_comparison(folder.name, data) for folder in comparison_folders(Path(data))]
    print(runs, *runs, *kept, Shown("", runs[0].meta.note), sep="\\n", flush=True)
"""


def on_a_terminal(folder: Path, commands: list[list[str]], data: Path | str = "") -> str:
    """What a terminal gets of these command lines, one after the other, and of the runs' reprs."""
    told = folder / "commands.json"
    told.write_text(json.dumps([commands, str(data)]))
    master, slave = pty.openpty()
    command = [sys.executable, "-c", DRIVER, str(told)]
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "COLUMNS": "200"}, **streams)
    os.close(slave)
    got = bytearray()
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # so Linux says that the other side is closed
            break
        if not part:
            break
        got += part
    os.close(master)
    assert process.wait(60) == 0, got.decode(errors="replace")
    return got.decode()


def assert_harmless(got: str) -> None:
    """Nothing but what prints, ends of lines, and the moves of a progress bar."""
    for part in got.split("\n== "):
        rest = MOVES.sub("", part)
        found = FORBIDDEN.search(rest)
        assert found is None, repr(rest[max(0, found.start() - 200) : found.start() + 50])


# -- what is hostile ----------------------------------------------------------------------------------

SCENARIO = """
text = {print!r}
print(text)
async def setup(session, params):
    print(text)
async def step(session, state, rng):
    print(text)
    await session.get("/", name={operation!r})
async def teardown(session, state):
    raise KeyError({teardown!r})
"""
STEP = "async def step(session, state, rng):\n    {}\n"


def write_files(folder: Path, url: str, of: Places) -> None:
    """Scenarios, workloads and a CSV."""
    odd = folder / of("file name", NAME)
    three = {one: of(one) for one in ("print", "operation", "teardown")}
    (folder / "mine.py").write_text(SCENARIO.format(**three))
    setup = f"async def setup(session, params):\n    raise OSError({of('setup')!r})\n"
    (folder / "fails.py").write_text(setup + STEP.format("pass"))
    (folder / "breaks.py").write_text(f"raise ValueError({of('import')!r})\n")
    (folder / "stumbles.py").write_text(STEP.format(f"raise RuntimeError({of('step')!r})"))
    odd.with_suffix(".py").write_text(STEP.format("await session.get('/')"))
    values = {"scenario": "http_get", "target": {"url": url}, "users": {"count": 1, "iterations": 2}}
    (folder / "value.yaml").write_text(yaml.safe_dump(values | {"seed": of("yaml value")}))
    (folder / "key.yaml").write_text(yaml.safe_dump(values | {of("yaml key"): 1}))
    odd.with_suffix(".yaml").write_text(json.dumps(values))
    (folder / "calls.csv").write_text(f"begin,took,name,status\n0.5,20,{of('label', FIELD)},500\n")


def write_runs(data: Path, of: Places) -> None:
    """A run whose run.json somebody edited, one in a folder with an odd name, and a damaged one."""
    run = make_timeline(data, 300, run_id=EDITED, operations=[of("name")], error_rate=0.3)
    meta = json.loads((run.path / "run.json").read_text())
    threshold = {"text": of("threshold"), "ok": False, "value": None, "note": of("remark")}
    source = {"source": of("source"), "samples": 3, "lost": 1, "errors": 2, "error": of("probe")}
    meta |= {
        "reason": of("reason"),
        "tags": [of("tag")],
        "note": of("note"),
        "scenario": {"name": of("scenario"), "doc": of("doc"), "params": {"x": of("param")}},
        "target": meta["target"] | {"url": of("url")},
        "health": {"valid": False, "reasons": [of("health")], "workers": []},
        "step_errors": [{"text": of("step error"), "count": 3}],
        "teardown_error": of("teardown error"),
        "thresholds": [threshold],
        "probes": [source],
        "git": {"sha": of("sha"), "dirty": True},
        "host": {"name": of("host")},
    }
    (run.path / "run.json").write_text(json.dumps(meta))
    shutil.copytree(run.path, data / "runs" / of("folder", NAME))
    damaged = data / "runs" / of("damaged", NAME)
    damaged.mkdir()
    (damaged / "run.json").write_text("{")


def write_comparison(data: Path, of: Places) -> str:
    """A kept comparison in which every text is hostile; its id."""
    ids = [f"20260101-0000{seed:02}-made-000{seed}" for seed in range(6)]
    runs: list[Run] = [make_timeline(data, 400, seed=seed, run_id=name) for seed, name in enumerate(ids)]
    kept = compare_and_keep(runs[:3], runs[3:], Options(), ("a", "b"), data)
    told = json.loads((kept.path / "comparison.json").read_text())
    found = told["comparison"]
    found |= {"words": of("words"), "notes": [of("comparison note")], "unjudged": [["p99", of("unjudged")]]}
    found["a"] |= {"name": of("side"), "left_out": [[of("left out"), [of("why")]]]}
    for one in found["results"]:
        one |= {"unit": of("unit"), "verdict": "inconclusive"}
    (kept.path / "comparison.json").write_text(json.dumps(told))
    return kept.id


def commands_of(url: str, data: Path, comparison: str, of: Places) -> list[list[str]]:
    """Every verb, with everything in what it reads and in what it is given."""
    load = ["--target", url, "-s", "users.count=1", "-s", "users.iterations=3"]
    arg = lambda place: of(place, ARGUMENT)  # noqa: E731
    columns = ("started_s=begin", "duration_ms=took", "operation=name", "status=status")
    odd, folder = of("file name"), of("folder")
    run = ["run", "--scenario"]
    verbs = [
        *([*run, f"{name}.py", *load] for name in ("mine", "fails", "breaks", "stumbles")),
        [*run, f"./{odd}.py", *load],
        ["run", "value.yaml"], ["run", "key.yaml"], ["run", arg("no file")], [*run, arg("scenario option")],
        [*run, "http_get", "--threshold", arg("threshold option"), *load],
        [*run, "http_get", "--tag", arg("tag option"), *load],
        [*run, "http_get", "--target", arg("target option")],
        [*run, "http_get", "-s", arg("set option")],
        ["batch", f"{odd}.yaml", "--no-report"], ["batch", "value.yaml"],
        ["aa", arg("aa file")], ["aa", f"{odd}.yaml", "--pairs", "3"],
        ["import", "calls.csv", *(part for one in columns for part in ("--column", one))],
        ["import", "calls.csv", "--column", arg("column")], ["import", arg("import file")],
        ["ls"], ["show", EDITED], ["show", folder], ["show", of("damaged")], ["show", arg("run")],
        ["tag", EDITED], ["tag", EDITED, arg("new tag")],
        ["compare", EDITED, folder, "--no-report"], ["compare", "value.yaml", f"{odd}.yaml", "--no-report"],
        ["compare", arg("side a"), "latest"], ["compare", "latest", "latest", "--primary", arg("primary")],
        ["gate", comparison, "--junit", "gate.xml", "--markdown", "gate.md"],
        ["gate", arg("gate")], ["gate", comparison, "--junit", arg("junit file")],
        ["report", arg("report")], ["report", EDITED, "-p", arg("parameter")],
        ["report", "--notebook", arg("notebook")],
        ["publish", "site", "--no-report"], ["publish", "site", "--runs", arg("selection")],
        ["prune", "--keep", "0"], ["rm", arg("remove")], ["doctor"],
    ]  # fmt: skip
    serve = ["serve", "--database-url", f"sqlite:///{arg('database')}/x.db"]
    others = [serve, ["serve", "--host", arg("server host")], [arg("verb")]]
    return [[*one, "--data-dir", str(data)] for one in verbs] + others


#: What only a report shows, or --json.
NOT_SHOWN = {"doc", "param", "host", "sha", "unjudged"}


def test_every_verb_on_a_terminal(tmp_path: Path, server: SmallServer) -> None:
    """All C0, C1, bidi, hidden characters and OSC, from servers, scenarios, files, folders, values, options,
    through every verb: a terminal gets what prints, ends of lines, a bar's moves. And all of it was shown."""
    data, of = tmp_path / "data", Places(body=f"from-body-{EVERYTHING}")
    write_files(tmp_path, server.url, of)
    write_runs(data, of)
    comparison = write_comparison(data, of)
    got = on_a_terminal(tmp_path, commands_of(server.url, data, comparison, of), data)
    assert_harmless(got)
    unseen = of.unseen(got) - NOT_SHOWN
    assert not unseen, got
    junit, summary = ((tmp_path / name).read_text() for name in ("gate.xml", "gate.md"))
    assert ET.fromstring(junit.encode()).tag == "testsuites"
    assert "from-unjudged-" in junit
    assert "from-words-" in summary
    pages = [file.read_text() for file in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 10
    for page in (junit, summary, *pages):
        assert not FORBIDDEN.search(html.unescape(page).replace("\n", ""))


@pytest.mark.slow
def test_a_notebook_that_breaks_on_a_terminal(tmp_path: Path) -> None:
    """Its error, what it printed and its name: harmless on terminal and page; colours stay."""
    of, data = Places(), tmp_path / "data"
    make_timeline(data, 300, run_id=EDITED)
    prints = f"print({of('printed')!r})\nprint('\\x1b[31mred\\x1b[0m')"
    shows = f"import pandas\npandas.DataFrame([{of('frame')!r}])"
    cells = [nbformat.v4.new_code_cell(one) for one in (prints, shows, f"raise ValueError({of('raised')!r})")]
    notebook = tmp_path / f"{of('notebook', NAME)}.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel)))
    got = on_a_terminal(tmp_path, [["report", EDITED, "--notebook", str(notebook), "--data-dir", str(data)]])
    assert_harmless(got)
    assert of.unseen(got) == {"printed", "frame"}, got
    (page,) = (data / "runs" / EDITED / "report").glob("*.html")
    shown = html.unescape(page.read_text())
    assert of.unseen(shown) == set()
    assert not FORBIDDEN.search(shown.replace("\n", ""))
    assert re.search(r'<span class="ansi-red-fg">red</span>', shown)
