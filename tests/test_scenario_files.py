"""Scenario files broken before a run begins: one line with the file's name, exit code 2, no folder."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfkit import choose
from perfkit.drive.scenario import load_scenario
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.store import list_runs
from tests.small_server import SmallServer, small_server

STEP = "async def step(session, state, rng):\n    await session.get('/')\n"
PARAMS = "from dataclasses import dataclass, field\n@dataclass\nclass Params:\n"
CHECKED = PARAMS + "    size: int = 1\n    def __post_init__(self):\n        "

#: What each file holds, and what the message says after its name.
BROKEN: dict[str, tuple[str | bytes, str]] = {
    "another order": ("async def step(rng, session, state):\n    await session.get('/')\n",
                      r"step gets \(session, state, rng\) in this order, not \(rng, session, state\)"),
    "setup the wrong way round": ("async def setup(params, session):\n    pass\n" + STEP,
                                  r"setup gets \(session, params\) in this order"),
    # Params
    "annotation undefined": (PARAMS + "    size: 'Foo' = 1\n" + STEP, "NameError: name 'Foo' is not defined"),
    "post_init raises": (
        CHECKED + "{}['x']\n" + STEP,
        "line 6: KeyError: 'x'",
    ),
    "post_init has a bug": (
        CHECKED + "1 + 'x'\n" + STEP,
        "line 6: TypeError: unsupported operand",
    ),
    "post_init refuses": (
        CHECKED + "raise ValueError('size 2 to 9')\n" + STEP,
        "line 6: size 2 to 9",
    ),
    "a default that raises": (PARAMS + "    size: int = field(default_factory=lambda: 1 // 0)\n" + STEP,
                              "line 4: ZeroDivisionError"),
    "a field without default": (PARAMS + "    size: int\n" + STEP, "missing required field `size`"),
    "types nobody can read": (PARAMS + "    size: 'int | str | bytes' = 1\n" + STEP, "TypeError: .*union"),
    "defaults nobody can write": (PARAMS + "    size: object = field(default_factory=object)\n" + STEP,
                                  "Params cannot be written to run.json: TypeError"),
    "defaults nobody can send": (
        "import enum\ndef made():\n    class Kind(enum.Enum):\n        A = 1\n    return Kind\n"
        + PARAMS + "    kind: object = field(default_factory=lambda: made().A)\n" + STEP,
        "Params cannot be sent to worker processes",
    ),
    "Params is a value": (PARAMS + "    size: int = 1\nParams = Params()\n" + STEP, "must be a dataclass"),
    # load
    "load returns 3": ("def load(params):\n    return 3\n" + STEP, "load returned 3; it must return"),
    "load returns None": ("def load(params):\n    pass\n" + STEP, "load returned None"),
    "load returns no use": ("def load(params):\n    return {'user': 3}\n" + STEP, r"load returned \{"),
    "load returns wrong numbers": ("def load(params):\n    return {'users': {'count': 0}}\n" + STEP,
                                   "users.count: "),
    "load raises": ("def load(params):\n    return params.size\n" + STEP, "line 2: AttributeError"),
    "load is async": ("async def load(params):\n    return {}\n" + STEP, "load returned <coroutine"),
    "load takes nothing": ("def load():\n    return {}\n" + STEP, r"TypeError: load\(\) takes 0"),
    "load is no function": ("load = {'users': {}}\n" + STEP, "load is of type dict, not a function; write"),
    # setup, step, teardown
    "no step": ("x = 1\n", r"needs `async def step\(session, state, rng\)`"),
    "another name": ("async def steps(session, state, rng):\n    pass\n",
                     "no function step; found steps; it needs `async def step"),
    "step is not async": ("def step(session, state, rng):\n    pass\n", "step is not async; it needs"),
    "step yields": ("async def step(session, state, rng):\n    yield\n", "step has a yield; it needs `async"),
    "step takes one": ("async def step(session):\n    pass\n",
                       "step takes 1 argument, it gets session, state, rng; it needs `async def step"),
    "step takes two": ("async def step(session, state):\n    pass\n", "step takes 2 arguments, it gets"),
    "step is a number": ("step = 3\n", "step is of type int, not a function; it needs `async def step"),
    "step lies about itself": (STEP + "step.__signature__ = 3\n", "needs `async def step"),
    "setup is not async": ("def setup(session, params):\n    return 1\n" + STEP, "it needs `async def setup"),
    "setup takes one": ("async def setup(session):\n    return 1\n" + STEP, "it needs `async def setup"),
    "teardown is not async": ("def teardown(a, b):\n    pass\n" + STEP, "needs `async def teardown"),
    "teardown takes three": ("async def teardown(a, b, c):\n    pass\n" + STEP, "needs `async def teardown"),
    # the file itself
    "a name unknown": ("import json\n\nFoo()\n" + STEP, "line 3: NameError: name 'Foo' is not defined"),
    "a module unknown": ("import nowhere_at_all\n" + STEP, "line 1: ModuleNotFoundError: No module named"),
    "syntax": (STEP + "def (:\n", "line 3: SyntaxError: invalid syntax"),
    "not UTF-8": (b"x = '\xff'\n" + STEP.encode(), "SyntaxError: .*utf-8"),
    "zero bytes": (STEP.encode() + b"\0\n", "null bytes"),
    "it exits": ("import sys\nsys.exit(0)\n" + STEP, "line 2: SystemExit: 0"),
    "it ends everything": ("class Odd(BaseException):\n    pass\nraise Odd('no')\n", "line 3: Odd: no"),
    "an error without words": (
        "class Odd(Exception):\n    def __str__(self):\n        raise self\nraise Odd\n", "line 4: Odd"),
    "an error of many lines": ("raise RuntimeError('a\\nb\\x1b[31mc')\n", "RuntimeError: a b�"),
    "it imports itself": (
        "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nimport it_imports_itself\n"
        "it_imports_itself.step\n" + STEP, "partially initialized module"),
    "attributes that raise": ("def __getattr__(name):\n    raise OSError(name)\n", "line 2: OSError: step"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def written(folder: Path) -> dict[str, Path]:
    """The broken files, and what has the name of a file and is none."""
    files = {}
    for name, (content, _) in BROKEN.items():
        files[name] = folder / f"{name.replace(' ', '_')}.py"
        files[name].write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("folder", "fifo", "socket"):
        files[name] = folder / f"{name}.py"
    files["folder"].mkdir()
    os.mkfifo(files["fifo"])
    files["socket"].symlink_to("/dev/null")
    files["missing"] = folder / "missing.py"
    files["loop"] = folder / "loop.py"
    files["loop"].symlink_to(files["loop"])
    return files


EXPECTED = {name: what for name, (_, what) in BROKEN.items()} | {
    "folder": "not a regular file",
    "fifo": "not a regular file",
    "socket": "not a regular file",
    "missing": "not found in",
    "loop": "loop|not found",
}

#: Runs each command line in one process, as `perfkit` does, and says how each ended.
DRIVER = """
import contextlib, io, json, sys
from perfkit.cli import main
for argv in json.load(sys.stdin):
    sys.argv, out, err, code = ["perfkit", *argv], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def test_a_broken_file_is_one_line_before_a_folder_is_made(tmp_path: Path, server: SmallServer) -> None:
    """Whatever the file gets wrong until the first request: exit code 2, one line with its name, no run."""
    files = written(tmp_path)
    data = tmp_path / "data"
    commands = [
        ["run", "-q", "--scenario", str(file), "--target", server.url, "--data-dir", str(data)]
        for file in files.values()
    ]
    done = subprocess.run([sys.executable, "-c", DRIVER], input=json.dumps(commands), capture_output=True,
                          text=True, timeout=240, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")  # and nothing of Python's own
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, file), (code, out, err) in zip(files.items(), results, strict=True):
        assert (code, out, len(err.splitlines())) == (2, "", 1), (name, err)
        stem = file.name if name != "socket" else "null"
        assert f"scenario file {stem}" in err or name == "socket", (name, err)
        assert re.search(EXPECTED[name], err), (name, err)
    assert not data.exists()
    assert server.requests.total() == 0


def test_a_scenario_with_a_name_is_guarded_alike(tmp_path: Path) -> None:
    """A value that a bundled scenario refuses is said by its name, without a line of a file of ours."""
    given = {"scenario": "http_get", "params": {"path": "nowhere"}}
    with pytest.raises(BadInput, match=r"^mine: scenario http_get: path starts with / "):
        complete(given, "mine")
    with pytest.raises(BadInput, match="in params of scenario http_get: 'pth'; did you mean"):
        complete(given | {"params": {"pth": "/"}}, "mine")


def test_what_can_be_called_and_awaited_is_a_step(tmp_path: Path) -> None:
    """Wrapped, partial, with defaults, with any arguments: `step` need not be a plain function."""
    shapes = {
        "wraps": "import functools\ndef twice(f):\n    @functools.wraps(f)\n    async def g(*a):\n"
        "        await f(*a)\n    return g\n@twice\n" + STEP,
        "partial": "import functools\nasync def any(n, session, state, rng):\n    pass\n"
        "step = functools.partial(any, 1)\n",
        "default": "async def step(session, state, rng, more=1):\n    pass\n",
        "any": "async def step(*given):\n    pass\n",
        "doc": "__doc__ = 3\n" + STEP,
    }
    for name, source in shapes.items():
        file = tmp_path / f"{name}.py"
        file.write_text(source)
        assert load_scenario(str(file)).doc == "", name


def test_prints_of_a_scenario_stay_out_of_json(tmp_path: Path, server: SmallServer) -> None:
    """What a scenario prints, wherever it does, goes to standard error, harmless: --json is JSON."""
    say = "print('\\x1b]0;owned\\x07{}')\n"
    source = say.format("at import") + "async def setup(session, params):\n    " + say.format("in setup")
    source += STEP + "    " + say.format("in step")
    source += "async def teardown(session, state):\n    " + say.format("in teardown")
    file = tmp_path / "prints.py"
    file.write_text(source)
    command = [sys.executable, "-m", "perfkit.cli", "run", "-q", "--json", "--scenario", str(file)]
    command += ["--target", server.url, "-s", "users.count=1", "-s", "users.iterations=3"]
    command += ["--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert [one["state"] for one in json.loads(done.stdout)] == ["complete"], done.stderr
    assert len(list_runs(tmp_path / "data")) == 1
    for place in ("at import", "in setup", "in step", "in teardown"):
        assert place in done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stderr)


def test_choose_follows_its_weights() -> None:
    """Names come as often as their weights say, 0 never; the same rng chooses the same; bad ones are told."""
    weights = {"read": 8, "write": 2, "never": 0}
    seen = Counter(choose(random.Random(i), weights) for i in range(5000))
    assert set(seen) == {"read", "write"}
    assert 0.77 < seen["read"] / 5000 < 0.83
    assert [choose(random.Random(7), weights) for _ in range(3)] == [choose(random.Random(7), weights)] * 3
    for odd in (["a", "b"], "ab"):
        with pytest.raises(ValueError, match=r"weights are a dict, not of type .*; write choose"):
            choose(random.Random(1), odd)  # type: ignore[arg-type]
    for wrong in (
        {},
        {"a": "8", "b": -2},
        {"a": 0},
        {"a": -1, "b": 2},
        {"a": float("nan")},
        {"a": float("inf")},
    ):
        with pytest.raises(ValueError, match="give numbers of at least 0, and one of more"):
            choose(random.Random(1), wrong)


def test_a_file_that_is_loaded_twice_has_one_state_class(tmp_path: Path) -> None:
    """Both sides of a comparison load their scenario before the first run: a state of the first one still
    pickles. A file that was changed meanwhile is loaded anew."""
    file = tmp_path / "twice.py"
    file.write_text("class State: ...\n\n\nasync def step(session, state, rng): ...\n")
    first, second = (load_scenario(str(file)).module for _ in range(2))
    assert first.State is second.State
    assert isinstance(pickle.loads(pickle.dumps(first.State())), second.State)
    file.write_text(file.read_text().replace("...", "'changed'"))
    assert load_scenario(str(file)).module.State is not first.State


@pytest.mark.parametrize(
    "arguments", ["session, params, rng", "s, _, random", "*given", "session, state, r=None"]
)
def test_other_names_of_arguments_are_as_good(tmp_path: Path, arguments: str) -> None:
    """Only the name of one in the place of another is a mistake; a state without setup is the params."""
    (tmp_path / "mine.py").write_text(f"async def step({arguments}):\n    pass\n")
    assert load_scenario(str(tmp_path / "mine.py")).name == "mine"
