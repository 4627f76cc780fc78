"""`perfkit run URL`, and what else one command line says of a workload."""

from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfkit.drive.operations import most_requests, operations_of, require_files
from perfkit.drive.running import checked
from perfkit.drive.scenario import load_scenario
from perfkit.errors import BadInput
from perfkit.store import Run, list_runs
from tests.command import started
from tests.small_server import SmallServer, small_server

SECRET = "sk-one-line-4711-secret"
WIDE = ("-s", "budget.delay_ms=10s", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=1m", "-q")


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def yaml_of(*arguments: str) -> dict[str, Any]:
    """The workload that a command line asks for."""
    done = started("run", *arguments, "--print-yaml")
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


URL = "http://localhost:1"
GET = {"method": "GET", "path": "/"}
TEN_USERS = {"count": 10, "duration_s": 10.0}
#: A command line, and what its workload says beside the URL and its GET.
MEANS: dict[str, dict[str, Any]] = {
    "": {"users": TEN_USERS},
    "--users 20 --duration 2m": {"users": {"count": 20, "duration_s": 120.0}},
    "--users 20 --requests 1000": {"users": {"count": 20, "iterations": 1000}},
    "--requests 1000 --duration 1.5h": {"users": {"count": 10, "iterations": 1000, "duration_s": 5400.0}},
    "--rate 200": {"arrivals": {"rate_per_s": 200.0}},
    "--rate 30/min --duration 90": {"arrivals": {"rate_per_s": 0.5, "duration_s": 90.0}},
    "--rate 200/s --requests 1000": {"arrivals": {"rate_per_s": 200.0, "duration_s": 5.0}},
    "--rate 200 --ramp 10s --duration 30s": {
        "arrivals": {"rate_per_s": 200.0, "shape": "ramp", "ramp_s": 10.0, "duration_s": 30.0}
    },
    "--stage 10s:20 --stage 1m:20 --stage 0:0": {
        "users": {
            "stages": [
                {"duration_s": 10.0, "to": 20.0},
                {"duration_s": 60.0, "to": 20.0},
                {"duration_s": 0.0, "to": 0.0},
            ]
        }
    },
    "--stage 10s:200/s": {"arrivals": {"stages": [{"duration_s": 10.0, "to": 200.0}]}},
    "--stage 10s:200/s --stage 5s:0": {
        "arrivals": {"stages": [{"duration_s": 10.0, "to": 200.0}, {"duration_s": 5.0, "to": 0.0}]}
    },
    "--stage 0s:30/min --stage 5s:0.0/min -s arrivals.spacing=poisson": {
        "arrivals": {
            "stages": [{"duration_s": 0.0, "to": 0.5}, {"duration_s": 5.0, "to": 0.0}],
            "spacing": "poisson",
        }
    },
    "--stage 5s:3/s -s arrivals.shape=poisson": {
        "arrivals": {"stages": [{"duration_s": 5.0, "to": 3.0}], "spacing": "poisson"}
    },
    '-s users.stages=[{"duration_s":5,"to":3}]': {"users": {"stages": [{"duration_s": 5, "to": 3}]}},
    "-s users.count=3": {"users": {"count": 3, "duration_s": 10.0}},
    "-s arrivals.shape=poisson --rate 5": {"arrivals": {"shape": "poisson", "rate_per_s": 5.0}},
    "-X post": {"params": {**GET, "method": "POST"}, "users": TEN_USERS},
    "--json {}": {"params": {"method": "POST", "path": "/", "json": {}}, "users": TEN_USERS},
    "--json=[1] -X PUT": {"params": {"method": "PUT", "path": "/", "json": [1]}, "users": TEN_USERS},
    "--threshold p95<1s --tag x": {"thresholds": ["p95<1s"], "tags": ["x"], "users": TEN_USERS},
    "-H content-type:a/b": {"params": {**GET, "content_type": "a/b"}, "users": TEN_USERS},
    "-H a:1 -H B:2": {"target": {"url": URL, "headers": {"a": "1", "b": "2"}}, "users": TEN_USERS},
}


@pytest.mark.parametrize(("options", "means"), MEANS.items())
def test_what_a_command_line_means(options: str, means: dict[str, Any]) -> None:
    """Users or a rate, an end, a ramp: what is not said is 10 users, or a rate, for 10 s."""
    given = {"scenario": "http_request", "params": GET, "target": {"url": URL}}
    assert yaml_of(URL, *options.split()) == given | means


def test_the_body_and_its_type() -> None:
    """--data is sent as it is: JSON when it looks like it, else a form, unless -H says what it is."""
    form = "application/x-www-form-urlencoded"
    for options, kind in (
        (["--data", "a=1"], form),
        (["--data", ' {"a": 1}'], "application/json"),
        (["--data", "a", "-H", "Content-Type: text/plain"], "text/plain"),
        (["--json", "{}", "-H", "Content-Type: application/x+json"], "application/x+json"),
    ):
        given = yaml_of(URL, *options)
        assert given["params"]["content_type"] == kind
        assert "headers" not in given["target"]


def test_options_are_laid_over_a_file(tmp_path: Path) -> None:
    """The other half of a file's load stays; a rate takes the place of users; `target: URL` keeps its URL."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"scenario: http_get\ntarget: {URL}\nusers: {{count: 3, duration_s: 2m, think_time_s: 1}}\n"
    )
    given = yaml_of(str(file), "--users", "7", "-s", "target.timeout_s=5s")
    assert given["users"] == {"count": 7, "duration_s": "2m", "think_time_s": 1}
    assert given["target"] == {"url": URL, "timeout_s": "5s"}
    assert yaml_of(str(file), "--requests", "9")["users"] == {"count": 3, "think_time_s": 1, "iterations": 9}
    given = yaml_of(str(file), "--rate", "9")
    assert given["arrivals"] == {"rate_per_s": 9.0}
    assert "users" not in given
    assert yaml_of(URL, "--scenario", "http_get") == {"scenario": "http_get", "target": {"url": URL}}
    assert "users" not in yaml_of("--scenario", "http_get", "--target", URL), "the scenario's own load"


@pytest.mark.parametrize("load", ["users", "arrivals"])
def test_a_file_with_stages_takes_other_stages_alone(tmp_path: Path, load: str) -> None:
    """An option of the load would say a part of what the stages say; one step needs none of them."""
    file = tmp_path / "mine.yaml"
    stages = f"{load}: {{stages: [{{duration_s: 1s, to: 5}}]}}"
    file.write_text(f"scenario: http_get\ntarget: {URL}\n{stages}\n")
    own = ("--users", "7") if load == "users" else ("--rate", "7")
    for options in (own, ("--duration", "3s"), ("--ramp", "1s"), ("--requests", "9")):
        done = started("run", str(file), *options, "--print-yaml")
        assert done.returncode == 2
        assert re.search("the workload has stages, .*; --stage TIME:.* replaces them", done.stderr)
    other = ("--rate", "7") if load == "users" else ("--users", "7")
    assert load not in yaml_of(str(file), *other)
    assert yaml_of(str(file), "--once")[load] == yaml_of(str(file))[load]
    assert yaml_of(str(file), "--stage", "2s:3")["users"] == {"stages": [{"duration_s": 2.0, "to": 3.0}]}


def test_users_are_ramped() -> None:
    """--ramp with --users is users.ramp_s."""
    assert yaml_of(URL, "--users", "3", "--ramp", "5s")["users"]["ramp_s"] == 5.0


def run_of(*arguments: str, data: Path) -> Run:
    """The one run of a command."""
    done = started("run", *arguments, *WIDE, PERFKIT_DATA_DIR=str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = list_runs(data)
    return run


def test_one_line_makes_a_run_that_can_be_repeated(server: SmallServer, tmp_path: Path) -> None:
    """The request arrives as it was typed; run.json's workload is a YAML file that does the same again; the
    value of a secret header is in no file."""
    body = '{"text": "hello"}'
    line = (f"{server.url}/notes?page=2", "-X", "PUT", "--json", body, "-H", f"X-Api-Key: {SECRET}")
    run = run_of(*line, "-H", "x-plain: yes", "--users", "2", "--requests", "8", data=tmp_path / "one")
    rows = run.table(["operation", "status", "error"]).to_pylist()
    assert rows == [{"operation": "PUT /notes", "status": 200, "error": None}] * 8
    assert server.requests["PUT /notes?page=2"] == 8
    head = server.heads[-1]
    assert (head["x-api-key"], head["x-plain"]) == (SECRET, "yes")
    assert (head["content-type"], head["content-length"]) == ("application/json", "16")
    assert not any(SECRET.encode() in file.read_bytes() for file in run.path.rglob("*") if file.is_file())
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(run.meta.raw["workload"]))
    again = run_of(str(file), data=tmp_path / "two")
    assert again.table(["operation"])["operation"].to_pylist() == ["PUT /notes"] * 8
    assert server.requests["PUT /notes?page=2"] == 16


def test_a_scenario_file_and_a_yaml_that_was_printed_run(server: SmallServer, tmp_path: Path) -> None:
    """`run FILE.py` runs it with its parameters, and what --print-yaml printed runs too."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Params:\n    wait_s: float = 1.0\n"
        "async def step(session, params, rng):\n    await session.get(f'/w/{params.wait_s}', name='wait')\n"
    )
    line = (str(file), "--target", server.url, "-p", "wait_s=250ms", "--rate", "50", "--requests", "5")
    printed = started("run", *line, *WIDE, "--print-yaml").stdout
    (tmp_path / "mine.yaml").write_text(printed)
    for name, command in (("py", line), ("yaml", (str(tmp_path / "mine.yaml"),))):
        run = run_of(*command, data=tmp_path / name)
        assert run.table(["operation"])["operation"].to_pylist() == ["wait"] * 5
    assert server.requests["GET /w/0.25"] == 10


def test_a_target_elsewhere_is_allowed_by_name() -> None:
    """A URL of another host needs --allow-target, as every target does."""
    done = started("run", "http://example.com/x", "--print-yaml")
    assert (done.returncode, "--allow-target example.com" in done.stderr) == (2, True)
    assert yaml_of("http://example.com/x", "--allow-target", "example.com")["params"]["path"] == "/x"


SURE = """
async def login(session, params):
    return await session.post("/login", json={}, name="login")

async def step(session, params, rng):
    session.headers["x"] = str(session.user)
    await login(session, params)
    await session.get("/a", name="read_a")
    session.on_teardown("DELETE", "/a")
"""
UNSURE = [
    SURE.replace('name="read_a"', "name=params"),
    SURE.replace(', name="read_a"', ""),
    SURE.replace('name="read_a"', '**{"name": "b"}'),
    SURE + "async def teardown(session, state):\n    await other.go(session)\n",
    SURE + "async def teardown(session, state):\n    send = session.get\n    await send('/')\n",
    SURE.replace("def step(session", "def step(user").replace("session.get", "user.get"),
    SURE.replace('session.post("/login", json={}, name="login")', "helper(session)"),
]


def test_operations_are_read_from_the_source_where_that_is_certain(tmp_path: Path) -> None:
    """Names that are all written out are known; one that may be anything makes all unknown."""
    for number, (text, known) in enumerate([(SURE, {"login", "read_a"}), *((one, None) for one in UNSURE)]):
        file = tmp_path / f"made_{number}.py"
        file.write_text(text)
        assert operations_of(load_scenario(str(file))) == known, text


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ("await session.get('/')", 1),
        ("await session.get('/')\n    if rng: await session.post(f'/{session.user}')", 2),
        ("for _ in range(9): await session.get('/')", None),
        ("await asyncio.gather(*(session.get('/') for _ in range(9)))", None),
        ("await helper(session)", None),
        ("send = session.get\n    await send('/')", None),
        ("async def more(): await session.get('/')\n    await more()\n    await more()", None),
    ],
)
def test_the_most_requests_of_a_step_are_read_where_they_are_certain(
    tmp_path: Path, body: str, most: int | None
) -> None:
    """Each use of the session that sends counts once; where one may send again nothing is claimed."""
    file = tmp_path / "made.py"
    file.write_text(f"import asyncio\n\n\nasync def step(session, params, rng):\n    {body}\n")
    assert most_requests(load_scenario(str(file))) == most


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("{step}session.data('user.csv')", r"line 2: data user.csv in .*: .*; did you mean users.csv\?$"),
        ("{step}await session.post('/', json=session.data('other.txt'))", "line 2: .* must end in"),
        ("{step}if 'user' not in session.local:\n        session.data('user.csv')", "line 3: data user.csv"),
        ("{step}if not session.local: return\n    session.data('user.csv')", None),
        ("{step}session.data('users.csv')", None),
        ("{step}session.data('user' + '.csv')", None),
        ("{step}try: session.data('user.csv')\n    except KeyError: pass", None),
        ("{step}with suppress(KeyError): session.data('user.csv')", None),
        ("{step}if state: session.data('user.csv')", None),
        ("{step}return\n    session.data('user.csv')", None),
        ("{step}if not state: return\n    session.data('user.csv')", None),
        ("{step}rows = session.data('user.csv') if state else []", None),
        ("{step}pass\nasync def unused(session): session.data('user.csv')", None),
        ("async def setup(session, params): pass\n{step}session.data('user.csv')", None),
    ],
)
def test_a_data_file_that_is_surely_not_there_is_said_before_the_load(
    tmp_path: Path, code: str, says: str | None
) -> None:
    """By the name a step writes out; setup may make it, who tries is ready for it to be missing, and a step
    that may go another way may never ask for it."""
    (tmp_path / "users.csv").write_text("name\nann\n")
    file = tmp_path / "made.py"
    file.write_text(code.format(step="async def step(session, state, rng):\n    ") + "\n")
    with pytest.raises(BadInput, match=says) if says else contextlib.nullcontext():
        require_files(load_scenario(str(file)))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "session.get('/')",
            r"line 2: session.get\(…\) is not awaited, so it sends nothing; write await session",
        ),
        ("x = session.post('/').json()", r"write \(await session.post\(…\)\).json"),
        ("x = session.get('/')['a']", r"write \(await session.get\(…\)\)\[…\]"),
        ("await session.get('/')\n    session.put('/')", "line 3: session.put"),
        ("r = session.get('/')\n    r.json()", r"line 2: .* write r = await session.get\(…\)$"),
        ("r = session.get('/')\n    return r['a']", r"write r = await session.get\(…\)$"),
        ("r = session.get('/')\n    await session.get('/')", r"write r = await session.get\(…\)$"),
        ("asyncio.run(session.get('/'))", r"line 2: .* write await session.get\(…\)$"),
        ("r = session.get('/')\n    r.close()", None),
        ("r = session.get('/')\n    r = await r\n    r.json()", None),
        ("r = session.get('/')\n    await asyncio.gather(r, session.get('/'))", None),
        ("r = await session.get('/')\n    r.json()", None),
        ("global r\n    r = session.get('/')", None),
        ("session = other()\n    session.get('/')", None),
        ("await asyncio.gather(session.get('/'), session.get('/'))", None),
        ("later = session.get('/')\n    await later", None),
        ("(await session.get('/')).json()", None),
    ],
)
def test_a_request_that_is_surely_not_awaited_is_found_before_the_load(
    tmp_path: Path, body: str, says: str | None
) -> None:
    """It would send nothing, in a setup as in a step; what may be awaited later is left alone."""
    for name in ("step(session, state, rng)", "setup(session, params)"):
        file = tmp_path / f"{name[:4]}.py"
        rest = (
            "" if name[:4] == "step" else "async def step(session, state, rng):\n    await session.get('/')\n"
        )
        file.write_text(f"async def {name}:\n    {body}\n{rest}")
        given = {"scenario": str(file), "target": URL, "users": {"iterations": 1}}
        if says is None:
            checked(given, "x.yaml", ())
            continue
        with pytest.raises(BadInput, match=says):
            checked(given, "x.yaml", ())


def test_a_threshold_of_no_operation_is_found_before_the_load(tmp_path: Path) -> None:
    """The nearest of the scenario's names is proposed; a name that is there passes."""
    file = tmp_path / "made.py"
    file.write_text(SURE)
    given = {"scenario": str(file), "target": URL, "users": {"iterations": 1}}
    with pytest.raises(BadInput, match=re.escape("'raed_a'; did you mean 'read_a'?")):
        checked({**given, "thresholds": ["p95(raed_a) < 1 s"]}, "x.yaml", ())
    checked({**given, "thresholds": ["p95(read_a) < 1 s", "error_rate(login) < 1 %"]}, "x.yaml", ())


def test_a_run_is_junit_for_ci(server: SmallServer, tmp_path: Path) -> None:
    """A case for the verdict and one for each threshold, failed where it was missed, with what was measured,
    and called the same in each job; a file that cannot be written is refused before the load."""
    file = tmp_path / "run.xml"
    limits = ("--threshold", "error_rate < 1 %", "--threshold", "rate > 1000000 /s")
    line = (server.url, "--requests", "30", *limits)
    done = started("run", *line, *WIDE, "--junit", str(file), PERFKIT_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 4, done.stderr
    (run,) = list_runs(tmp_path / "data")
    suite = ET.parse(file).getroot().find("testsuite")
    assert suite is not None
    counts = {"tests": "3", "failures": "1", "errors": "0", "skipped": "0"}
    assert suite.attrib == {"name": "perfkit run"} | counts
    names = {case.get("name"): [part.tag for part in case] for case in suite}
    assert names == {
        "verdict": ["system-out"],
        "error_rate < 1 %": ["system-out"],
        "rate > 1000000 /s": ["failure", "system-out"],
    }
    assert f"run {run.id}: VALID" in (suite[0].findtext("system-out") or "")
    (missed,) = (part for case in suite for part in case if part.tag == "failure")
    told = missed.get("message") or ""
    assert told.startswith("measured ")
    assert told.endswith("; the threshold is rate > 1000000 /s")
    refused = started("run", "nowhere.yaml", "--junit", str(file), PERFKIT_DATA_DIR=str(tmp_path))
    assert (refused.returncode, file.exists()) == (2, False), "an earlier job's would be taken for this one's"
    before = server.requests.total()
    refused = started("run", *line, "--junit", str(tmp_path / "no" / "x.xml"), PERFKIT_DATA_DIR=str(tmp_path))
    assert (refused.returncode, "does not exist" in refused.stderr) == (2, True)
    assert server.requests.total() == before
