"""What beginners mistype, on the command line and in YAML: one line that names the way out, exit code 2."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare.configuration import refuse_unknown
from perfkit.drive import running
from perfkit.errors import BadInput
from perfkit.lab.work import _given
from perfkit.model import Workload
from perfkit.store import list_runs
from tests.command import started

#: A command line (URL: one of this machine) and what its line says.
COMMANDS = {
    # verbs
    "rum URL": "did you mean 'run'?",
    "runn URL": "did you mean 'run'?",
    "start URL": "did you mean 'run'?",
    "URL": "write `perfkit run http://127.0.0.1:9/x`",
    "load.yaml": "write `perfkit run load.yaml`",
    "help": "`perfkit --help`",
    "version": "`perfkit --version`",
    "-V": "did you mean --version?",
    "lst": "did you mean 'ls'?",
    "init mine": "did you mean 'new'?",
    "--users 3 run URL": "perfkit run … --users",
    # what to run
    "run": "give a URL, a FILE from params/, or --scenario NAME",
    "run localhost:8000/x": "write `perfkit run http://localhost:8000/x`",
    "run 127.0.0.1:8000": "write `perfkit run http://127.0.0.1:8000`",
    "run example.com/x": "write `perfkit run http://example.com/x`",
    "run ftp://localhost/x": "give http://host or https://host",
    "run http:/localhost/x": "give http://host or https://host",
    "run http://": "give http://host:port",
    "run http://localhost:abc/": "give http://host:port",
    "run http://me:word@localhost/": "name it in target.token_env",
    "run http://localhost/#top": "remove it",
    "run http://example.com/": "--allow-target example.com",
    "run http_get": "`perfkit run --scenario http_get`",
    "run params/htp_get.yaml": "did you mean params/http_get.yaml?",
    "run params/http_get": "did you mean params/http_get.yaml?",
    "run nowhere.yaml": "cannot read nowhere.yaml",
    "run nowhere.py": "scenario file nowhere.py not found",
    "run mien.py": "did you mean mine.py?",
    "run mine.py": "no target; add --target URL",
    "run mine.py -H 'a: b'": "no target; add --target URL",
    "run mine.py --once": "-s server={} starts perfkit's reference server",
    "run --scenario ./mine": "did you mean mine.py?",
    "run --scenario mine": "did you mean mine.py?",
    "run script.js": "`perfkit new NAME`",
    "run plan.jmx": "`perfkit new NAME`",
    "run page.har": "`perfkit new NAME --from page.har`",
    "run access.log": "-s arrivals.file=access.log --target URL` sends it again",
    "run --scenario replay -s arrivals.shape=replay -s arrivals.file=mine.py": "a replay takes an access",
    "run api.json": "`perfkit new NAME --from api.json`",
    "run --scenario http_gte": "did you mean 'http_get'?",
    "run URL URL": "run takes one URL or FILE",
    "run URL -q 200": "users, rate and times stand behind their options",
    "run URL --target http://localhost": "keep one of them",
    "run mine.py --scenario http_get": "keep one of them",
    # options
    "run URL -c 10": "did you mean --users?",
    "run URL --vus 10": "did you mean --users?",
    "run URL --concurrency 10": "did you mean --users?",
    "run URL -n 100": "did you mean --requests?",
    "run URL -z 10s": "did you mean --duration?",
    "run URL -d 10s": "write --duration 10s",
    "run URL -t 10s": "did you mean --duration?",
    "run URL --duraton 10s": "did you mean --duration?",
    "run URL --rps 10": "did you mean --rate?",
    "run URL --spawn-rate 3": "did you mean --ramp?",
    "run URL --treshold 'p95 < 3 ms'": "did you mean --threshold?",
    "run URL --timeout 5s": "write -s target.timeout_s=1s",
    "run URL --connect-timeout 5s": "write -s target.connect_timeout_s=1s",
    "run URL --think-time 1s": "write -s users.think_time_s=1s",
    "run URL -L": "write -s target.follow_redirects=true",
    "run URL --follow-redirects": "write -s target.follow_redirects=true",
    "run URL --location": "write -s target.follow_redirects=true",
    "run URL -k": "write -s target.verify_tls=false",
    "run URL --insecure": "write -s target.verify_tls=false",
    "run URL --proxy http://localhost:1": "write -s target.transport=httpx -s target.proxy=URL",
    "run URL --http2": "write -s target.transport=httpx -s target.http2=true",
    "run URL --retries 3": "write -s target.retries=…",
    "run URL --warmup 3s": "write -s warmup_s=1s",
    "run URL --seed 3": "write -s seed=…",
    "run URL --cookie a=b": "write -H 'Cookie: NAME=VALUE'",
    "run URL -A me": "write -H 'User-Agent: TEXT'",
    "run URL -F a=b": "session.post(…, files=…)",
    "run URL --stages 10s:5": "did you mean --stage?",
    "run URL --stage 10s": "write TIME:USERS or TIME:RATE, such as 10s:20 or 10s:200/s",
    "run URL --stage ten:5": "'ten' is not a time",
    "run URL --stage 10s:many": "'many' is not a rate",
    "run URL --stage 10s:2.5": "2.5 is not a number of users",
    "run URL --stage 10s:5 --stage 5s:9/s": "some are of users (10s:20), some of a rate (10s:20/s)",
    "run URL --stage 10s:5 --users 3": "leave out --users, --rate, --duration",
    "run URL --stage 10s:0": "all lead to 0",
    "run URL --env A=b": "a parameter is -p NAME=VALUE",
    "run URL --iterations 5": "did you mean --requests?",
    "run URL -m POST": "did you mean --method?",
    "run URL --users": "--users needs a value",
    "run URL --quiet=yes": "does not take a value",
    "import": "perfkit import needs FILE",
    "compare a.yaml": "perfkit compare needs B",
    "compare a b --repeats 0": "--repeats 0 is not a whole number from 1 to 10,000",
    "compare a b --margin wide": "--margin 'wide' is not a number",
    "serve --port 99999": "--port 99999 is not a whole number from 0 to 65,535",
    "serve --log-level loud": "--log-level: 'loud' is not one of",
    "ls --duration 3": "`perfkit ls --help`",
    # numbers and times
    "run URL --users ten": "--users 'ten' is not a whole number from 1 to 100,000",
    "run URL --users 0": "--users 0 is not a whole number from 1 to 100,000",
    "run URL --rate fast": "write 200, 200/s or 30/min",
    "run URL --rate 0": "--rate '0': give at least 0.0001",
    "run URL --users 3 --rate 3": "give one of them",
    "run URL --duration 10sec": "write 300ms, 30s, 2m or 1.5h",
    "run URL --duration -5s": "write 300ms, 30s, 2m or 1.5h",
    "run URL --duration=-2s": "'-2s' is not a time; it is negative; write 300ms",
    "run URL --duration 9d": "there is no unit 'd' (a day is 24h); write 300ms",
    "run URL --duration 9fortnights": "there is no unit 'fortnights'; write 300ms",
    f"run URL --duration {'1' * 41}h": "it is longer than 40 characters; write 300ms",
    "run URL --duration 0": "--duration '0': give at least 0.001",
    "run URL --duration 99999h": "at most 2,592,000",
    "run URL --rate 10 --ramp 20s": "--ramp 20 s does not fit in --duration 10 s",
    "run URL --duration 1s --ramp 5s": "--ramp 5 s does not fit in --duration 1 s",
    "run URL --duration 1sec": "did you mean 1s?",
    "run URL --duration 20minutes": "did you mean 20m?",
    "run URL --duration 1m30": "did you mean 1m30s?",
    "run URL --rate 3 --requests 9 --duration 5s": "leave --duration and --ramp out",
    "run URL --requests 0": "--requests 0 is not a whole number of at least 1",
    # the request
    "run URL --json '{a:1}'": "the body is not JSON",
    "run URL --json '{}' -d x": "keep one of them",
    "run URL -d @nowhere": "--data @nowhere: No such file",
    "run URL --json \"{'a': 1}\"": "--json \"{'a': 1}\": the body is not JSON",
    "run URL --json @nowhere": "--json @nowhere: No such file",
    "run URL --data @mine.yp": "did you mean mine.py?",
    "run URL -H 'X-Page 1'": "write it as NAME: VALUE",
    "run URL -X FETCH": "Methods: GET, HEAD, POST",
    "run URL -H nocolon": "write it as NAME: VALUE",
    "run URL -H 'a b: 1'": "HTTP does not allow",
    "run URL -X 'G ET'": "did you mean GET?",
    "run URL -X PSOT": "did you mean POST?",
    "run URL -X GTE": "did you mean GET?",
    "run -X POST --scenario http_get": "-X is for a URL",
    # -s, -p and thresholds
    "run URL -s user.count=3": "did you mean 'users'?",
    "run URL -s users.cout=5": "unknown parameter in -s, users: 'cout'; did you mean 'count'?",
    "run --scenario http_get -s rat=5": "unknown parameter in -s: 'rat'; did you mean",
    "run --scenario replay -s arrivals.spread=true": "of a replay it stands below params (-p spread=…)",
    "run --scenario replay -s spread=true": "of a replay it stands below params (-p spread=true)",
    "run URL -s count=3": "did you mean users.count?",
    "run URL -s users=3": "users: {count: 20, duration_s: 30s}",
    "run URL -s path=/x": "-p path=…",
    "run URL -p paht=/x": "did you mean 'path'?",
    "run URL -p path": "name=value",
    "run URL --threshold 'p95 < 300'": "write p95 < 300 ms",
    "run URL --threshold 'error_rate < 5'": "write error_rate < 5 %",
    "run URL --threshold 'avg < 3 ms'": "did you mean 'mean'?",
    "run URL --threshold 'p(95)<300'": "write p95 < 300 ms",
    "run URL --threshold 'http_req_duration: p(99.9)<1500'": "write p99.9 < 1500 ms",
    "run URL --threshold 'rate<0.01'": "write error_rate < 1 %",
    "run URL --threshold 'http_req_failed: rate<0.05'": "write error_rate < 5 %",
    "run URL --threshold 'http_req_failed < 1 %'": "did you mean 'error_rate'?",
    "run URL --threshold 'failed < 1 %'": "did you mean 'error_rate'?",
    "run URL --threshold 'p95(foo) < 3 ms'": "'foo'; known: GET /x",
    "run URL --threshold 'p95 less 3 ms'": "write it like p95 < 300 ms",
    # other verbs
    "gate y.yaml x.yaml": "cannot read y.yaml: no such file; did you mean x.yaml?",
    "gate x.yaml": "perfkit gate needs B",
    "new y --from x.yaml": "expected an OpenAPI description (openapi: 3…) or a HAR",
    "show nope": "`perfkit ls` lists runs",
    "new shop --target 127.0.0.1:8123": "give http://host:port",
    "new shop --target ftp://localhost": "give http://",
    "new shop --target http://me:word@localhost": "target.token_env",
    "new shop --from http://localhost:1/openapi.json": "curl -o openapi.json http://localhost:1/openapi.json",
    "import http://localhost:1/x.jtl": "download it first: curl -o x.jtl http://localhost:1/x.jtl",
    "run ''": "what to run is empty: give a URL",
    "run URL --on ''": "--on is empty: give local:N, ssh:HOST1,HOST2",
    "run URL --on ' '": "--on is empty: give local:N, ssh:HOST1,HOST2",
    "run URL -s spread.on=": "spread: on: expected a text, got nothing",
    "run URL -s \"spread={on: ''}\"": "unknown value of spread.on: ''; known: dask",
    "run --scenario http_get --target ''": "--target is empty: give a URL, or leave it out",
    "run mine.py --scenario ''": "--scenario is empty: give a NAME or FILE.py, or leave it out",
    "report": "no runs in ",
    "show latest": "`perfkit run` makes one",
    "new 1st": "begins with a letter",
    "new x --from nowhere.json": "cannot read nowhere.json",
}
#: A workload and what its line says; `;` ends a line.
FILES = {
    "": "such as `scenario: http_get`",
    "- http_get": "such as `scenario: http_get`",
    "scenario http_get": "such as `scenario: http_get`",
    "scenario: htpp_get": "did you mean 'http_get'?",
    "scenario: [http_get]": "scenario: expected a text, got a list",
    "scenarios: http_get": "'scenarios': did you mean 'scenario'?",
    "scenario: mien.py": "did you mean mine.py?",
    "scenario: mine": "did you mean mine.py?",
    "scenario: http_get;params: {path: notes}": "write /notes",
    "scenario: http_get;users: {count: 1, duration_s: 1m30}": "did you mean 1m30s?",
    "users: {count: 3}": "scenario is missing: add `scenario: http_get`",
    "openapi: 3.0.0": "`perfkit new NAME --from x.yaml`",
    "scenario: http_get;\tusers: {count: 3}": "line 2: not YAML",
    "scenario: http_get;scenario: http_get": "'scenario' is given twice",
    "scenario: http_get;users: 20": "users: {count: 20, duration_s: 30s}",
    "scenario: http_get;user: {count: 3}": "did you mean 'users'?",
    "scenario: http_get;vus: 10": "did you mean 'users'?",
    "scenario: http_get;duration: 30s": "did you mean users.duration_s or arrivals.duration_s?",
    "scenario: http_get;users: {vus: 10}": "did you mean 'count'?",
    "scenario: http_get;users: {count: 10}": "needs iterations or duration_s",
    "scenario: http_get;users: {count: 1, duration: 3s}": "did you mean 'duration_s'?",
    "scenario: http_get;users: {count: 1.5, duration_s: 3}": "expected a whole number, got a number",
    "scenario: http_get;users: {count: 1, duration_s: 1:30}": "write a number of s, or 300ms, 30s",
    "scenario: http_get;users: {count: 1, duration_s: 1, think_time: 1s}": "did you mean 'think_time_s'?",
    "scenario: http_get;users:;count: 3": "did you mean users.count?",
    "scenario: http_get;users: {iterations: 1};arrivals: {}": "remove one of them",
    "scenario: http_get;arrivals: {rate: 100}": "did you mean 'rate_per_s'?",
    "scenario: http_get;arrivals: {rate_per_s: 10/s}": "expected a number, got a text",
    "scenario: http_get;arrivals: {shape: poison}": "did you mean 'poisson'?",
    "scenario: http_get;stages: [1]": "it belongs below users or arrivals: users: {stages: [{",
    "scenario: http_get;stages: []": "users: {stages: [{duration_s: 10s, to: 20}, {",
    "scenario: http_get;steps: []": "it belongs below users or arrivals",
    "scenario: http_get;target: localhost:8000": "give http://host:port",
    "scenario: http_get;target: {host: http://localhost}": "did you mean 'url'?",
    "scenario: http_get;target: {timeout: 5s}": "did you mean 'timeout_s'?",
    "scenario: http_get;target: {retry: 3}": "did you mean 'retries'?",
    "scenario: http_get;retry: 3": "did you mean target.retries?",
    "scenario: http_get;url: http://localhost": "did you mean 'target'?",
    "scenario: http_get;headers: {a: b}": "did you mean target.headers?",
    "scenario: http_get;thresholds: p95 < 3 ms": "expected a list, such as [a, b], got a text",
    "scenario: http_get;thresholds: error_rate < 1 %": "; write thresholds: [error_rate < 1 %]",
    "scenario: http_get;thresholds: {p95: 300 ms}": "; write thresholds: [p95 < 300 ms]",
    "scenario: http_get;thresholds: {p95: < 300 ms, error_rate: < 1 %}": "[p95 < 300 ms, error_rate < 1 %]",
    "scenario: http_get;thresholds: [{p95: < 300 ms}, error_rate < 1 %]": "[p95 < 300 ms, error_rate < 1 %]",
    "scenario: http_get;users: {count: 1, params: {path: /x}}": "at the top level, beside users",
    "scenario: http_get;target: {url: http://h, users: {count: 3}}": "at the top level, beside target",
    "scenario: http_get;users: {count: 1, duration_s: 1, thresholds: [p95 < 3 s]}": "at the top level",
    "scenario: http_get;abort: p99 > 5 s for 30s": "; write abort: [p99 > 5 s for 30s]",
    "scenario: http_get;tags: 'a, b'": "; write tags: ['a, b']",
    "scenario: http_get;users: {count: 1, iterations: 1, think_time_s: 100ms-200ms}": "write [100ms, 200ms]",
    "scenario: http_get;users: {count: 1, iterations: 1, think_time_s: 1 to 2s}": "write [1, 2s]",
    "mix: {a: {scenario: http_get}}": "mix is a list, an entry for each scenario: mix: [{scenario: read.py",
    "scenario: http_get;thresholds: [p95 < 300]": "write p95 < 300 ms",
    "scenario: http_get;tags: smoke": "expected a list, such as [a, b], got a text",
    "scenario: http_get;params: /x": "params: {path: /}",
    "scenario: http_get;params: {url: /x}": "did you mean 'path'?",
    "scenario: http_get;warmup: 5s": "did you mean 'warmup_s'?",
    "scenario: http_get;warmup_s: 5 seconds": "write a number of s, or 300ms",
}
WORDS = [
    *(
        (shlex.split(line.replace("URL", "http://127.0.0.1:9/x")), "", says)
        for line, says in COMMANDS.items()
    ),
    *((["run", "x.yaml", "-q"], text.replace(";", "\n"), says) for text, says in FILES.items()),
]


@pytest.mark.parametrize(("line", "text", "says"), WORDS, ids=[*COMMANDS, *FILES])
def test_a_slip_is_one_line_with_the_way_out(
    line: list[str], text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad input (exit code 2) in one line that says what to write; no run, no traceback, nothing sent."""
    monkeypatch.chdir(tmp_path)
    if "x.yaml" in line:
        (tmp_path / "x.yaml").write_text(text)
    (tmp_path / "mine.py").write_text("async def step(session, state, rng):\n    await session.get('/')\n")
    (tmp_path / "access.log").write_text('1.2.3.4 - - [10/Oct/2020:13:55:36 +0000] "GET / HTTP/1.1" 200 2\n')
    done = started(*line, PERFKIT_DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    (words,) = done.stderr.splitlines()
    assert words.startswith("perfkit: ")
    assert says in words
    assert "Traceback" not in words
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("url", "target.url"),
        ("count", "users.count"),
        ("duration_s", "arrivals.duration_s or users.duration_s"),
        ("scenari", "'scenario'"),
    ],
)
def test_what_may_vary_has_its_section(name: str, meant: str) -> None:
    """`--vary url` is answered with the whole name."""
    with pytest.raises(BadInput, match=rf"unknown name in --vary: '{name}'; did you mean {meant}\?"):
        refuse_unknown([name])


def test_runs_in_a_folder_above_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """perfkit.runs() finds the nearest data/ upwards; `ls`, `show` and `report` say where it is."""
    make_timeline(tmp_path / "data", 50)
    (tmp_path / "notebooks" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "mine")
    monkeypatch.delenv("PERFKIT_DATA_DIR", raising=False)
    says = "no runs in data/runs; there are some in ../../data: --data-dir ../../data"
    assert started("ls").stdout == f"{says}\n"
    for line in (["show"], ["report"], ["show", "nope"], ["compare", "nope", "none"]):
        done = started(*line)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert "makes one" in started("ls", "--data-dir", "other").stdout, "one that was named is meant"


@pytest.mark.parametrize(
    ("given", "load"),
    [
        ({"users": 5}, {"users": {"count": 5, "duration_s": 10.0}}),
        ({"users": {"count": 5}, "duration": "3s"}, {"users": {"count": 5, "duration_s": 3.0}}),
        ({"requests": 7, "users": 2}, {"users": {"count": 2, "iterations": 7}}),
        ({"rate": "30/min", "duration": 2}, {"arrivals": {"rate_per_s": 0.5, "duration_s": 2.0}}),
        (
            {"rate": 50, "ramp": "1s"},
            {"arrivals": {"rate_per_s": 50.0, "shape": "ramp", "ramp_s": 1.0}},
        ),
        ({"stages": ["2s:5"]}, {"users": {"stages": [{"duration_s": 2.0, "to": 5.0}]}}),
    ],
)
def test_python_takes_the_names_of_the_command_line(given: dict[str, Any], load: dict[str, Any]) -> None:
    """`perfkit.run(url, users=5)` is `perfkit run URL --users 5`."""
    found, _ = _given("http://127.0.0.1:9/x", given)
    assert {name: found[name] for name in ("users", "arrivals") if name in found} == load


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"users": 0}, "users=0 is not a whole number of at least 1"),
        ({"users": 5, "rate": 5}, "users and rate: give one of them"),
        ({"rate": 5, "users": {"count": 3}}, "rate and users={…} are two loads"),
        ({"users": 5, "arrivals": {}}, "users and arrivals={…} are two loads"),
        ({"rate": "fast"}, "rate 'fast' is not a rate; write 200, 200/s or 30/min"),
        ({"duration": "9d"}, "duration '9d' is not a time; there is no unit 'd'"),
        ({"stages": 5}, "stages=5: write a list of texts, such as ['10s:20', '1m:20'] or ['10s:200/s']"),
        ({"stages": []}, "stages=[]: write a list of texts"),
        ({"stages": {"10s": 5}}, "stages={'10s': 5}: write a list of texts"),
        ({"stages": [{"duration_s": 1, "to": 2}]}, "stages=[{'duration_s': 1, 'to': 2}]: write a list"),
        ({"users": {"stages": [{"duration_s": 1, "to": 2}]}, "duration": 3}, "the workload has stages"),
        ({"duration": 3, "ramp": 9}, "ramp 9 s does not fit in duration 3 s"),
    ],
)
def test_python_refuses_a_load_that_cannot_be(given: dict[str, Any], says: str) -> None:
    """In one line, under the names that were given."""
    with pytest.raises(BadInput, match=re.escape(f"perfkit.run: {says}")):
        _given("http://127.0.0.1:9/x", given)


@pytest.mark.parametrize("scenario", ["http_get", "mine.py"])
def test_a_forgotten_target(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input where the reference server is not installed: how to give a target, and what starts else."""
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with (
        pytest.raises(BadInput, match=r"add --target URL, or .*pip install 'perfkit\[server\]'"),
        running.target_of(Workload(scenario=scenario), False),
    ):
        pass
