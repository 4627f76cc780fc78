"""No secret in what a run writes or prints, wherever it came from and in whatever form it came back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from perfkit.compare import Options
from perfkit.compare.turns import refuse_differences
from perfkit.drive.workloads import complete, parse_assignments, read_yaml, tokens_of
from perfkit.errors import BadInput
from perfkit.model import Target, Workload
from perfkit.site.leaks import Scanner
from perfkit.store import Run, list_runs, read_probes
from tests.command import started
from tests.secret_forms import FORMS, held, random_secret
from tests.small_server import SmallServer, small_server


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def play(data: Path, workload: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """`perfkit run` of a workload written to a file."""
    data.mkdir(exist_ok=True)
    file = data / "workload.yaml"
    file.write_text(yaml.safe_dump({"users": {"count": 1, "iterations": 3}, **workload}))
    return started("run", file, "--data-dir", data, **environment)


def only_run(data: Path) -> Run:
    (run,) = list_runs(data)
    return run


def written(run: Run) -> Iterator[str]:
    """Every text in the files of a run: run.json, and of each Parquet names, metadata and distinct values."""
    for file in run.path.rglob("*"):
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            yield str(table.schema.metadata)
            yield from table.column_names
            for column in table.columns:
                if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                    yield from {str(text) for text in column.to_pylist()}
        elif file.is_file():
            yield file.read_text()
            if file.suffix == ".json":
                yield from texts(json.loads(file.read_text()))


def texts(value: Any) -> Iterator[str]:
    """Every text and name in a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


# -- run.json's own words --------------------------------------------------------------------------

VOLATILE = ("id", "created", "clock", "load_started_ns", "measured", "health", "probes", "results")


def document(data: Path) -> dict[str, Any]:
    """run.json without what differs from run to run."""
    found = dict(only_run(data).meta.raw)
    found["target"] = found["workload"]["target"] = {**found["target"], "headers": "…"}
    return {name: value for name, value in found.items() if name not in VOLATILE}


def test_an_ordinary_cookie_leaves_run_json_alone(server: SmallServer, tmp_path: Path) -> None:
    """Short values of a cookie occur in every word: nothing but the header itself is hidden."""
    workload = {"scenario": "http_get", "target": {"url": server.url}, "tags": ["first"]}
    cookie = {"cookie": "sid=abcdef123456; consent=1; lang=e"}
    assert play(tmp_path / "a", workload).returncode == 0
    done = play(tmp_path / "b", workload | {"target": {"url": server.url, "headers": cookie}})
    run = only_run(tmp_path / "b")
    assert (done.returncode, done.stderr.count("***")) == (0, 0)
    assert document(tmp_path / "a") == document(tmp_path / "b")
    assert run.meta.raw["target"]["headers"] == {"cookie": "***"}
    assert run.meta.raw["id"] == run.path.name
    assert run.meta.raw["created"].startswith("20")
    assert not run.meta.damage


def test_words_of_perfkit_are_no_harm_as_secrets(server: SmallServer, tmp_path: Path) -> None:
    """A long value may be a word of run.json: its state, the scenario, the address, names of fields. Only
    what comes from outside is searched."""
    words = ("complete", "http_get", "127.0.0.1", "transport", "iterations", "workload", "duration_s")
    headers = {
        "cookie": "; ".join(f"c{i}={word}" for i, word in enumerate(words)),
        "x-api-key": "monotonic_ns",
        "authorization": "Bearer step_errors",
    }
    workload = {"scenario": "http_get", "target": {"url": server.url}, "thresholds": ["error_rate < 50 %"]}
    assert play(tmp_path / "a", workload).returncode == 0
    assert (
        play(tmp_path / "b", workload | {"target": {"url": server.url, "headers": headers}}).returncode == 0
    )
    assert document(tmp_path / "a") == document(tmp_path / "b")
    assert only_run(tmp_path / "b").state == "complete"


def test_a_short_secret_is_hidden_in_its_own_place_only(server: SmallServer, tmp_path: Path) -> None:
    """What the server repeats of it stays: it is not searched for."""
    headers = {"x-api-key": "sesame", "accept": "sesame"}
    target = {"url": server.url, "headers": headers, "metrics_url": f"{server.url}/metrics?token=sesame&a=b"}
    params = {"path": "/reflect?password=hunter2&page=2"}
    done = play(tmp_path, {"scenario": "http_get", "target": target, "params": params})
    run = only_run(tmp_path)
    shown = run.meta.raw["target"]
    assert shown["headers"] == {"x-api-key": "***", "accept": "sesame"}
    assert shown["metrics_url"] == f"{server.url}/metrics?token=***&a=b"
    assert run.meta.raw["scenario"]["params"] == {"path": "/reflect?password=***&page=2"}
    assert run.meta.raw["workload"]["params"] == run.meta.raw["scenario"]["params"]
    assert [source["page"] for source in run.meta.raw["probes"]] == [f"{server.url}/metrics?token=***&a=b"]
    assert "hunter2" not in done.stdout + done.stderr
    assert "sesame" in run.table(["error_text"])["error_text"][0].as_py()


# -- in everywhere, out nowhere --------------------------------------------------------------------

SCENARIO = '''
"""Send what the server is to repeat; raise it, too."""
import json
import os
from dataclasses import dataclass, field

@dataclass
class Params:
    said: tuple[str, ...] = ()
    login: dict[str, object] = field(default_factory=dict)
    dsn: str = ""
    notes: tuple[object, ...] = ()

SAID = json.loads(os.environ["SAID"])
OWN = {"x-request-token": os.environ["REQUEST_TOKEN"]}

async def setup(session, params):
    session.headers = {"authorization": "Bearer " + os.environ["USER_TOKEN"]}
    await session.post("/echo", content=" ".join(SAID), headers=OWN)
    return None

async def step(session, state, rng):
    session.headers = {"authorization": "Bearer " + os.environ["USER_TOKEN"]}
    turn, raises = divmod(session.iteration, 2)
    text = SAID[turn % len(SAID)]
    session.group = "of " + text
    if raises:
        await session.get("/ok", params={"q": text}, headers=OWN)
        raise type(f"Odd{turn % len(SAID)}", (Exception,), {})(text)  # of each kind the words are kept once
    await session.post("/echo", content=text, name="echo " + text, headers=OWN)

async def teardown(session, state):
    session.headers = {"authorization": "Bearer " + os.environ["USER_TOKEN"]}
    response = await session.post("/echo", content=" ".join(SAID), headers=OWN)
    response.raise_for_status()
'''


def run_with_secrets(server: SmallServer, data: Path, seed: int) -> tuple[list[str], list[str]]:
    """A run with random secrets in every place, which come back in every form; the secrets, and every text
    that was written or printed."""
    rng = random.Random(seed)
    plain = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=24))
    names = ("user", "request", "metrics", "key", "sid", "session", "code", "password", "pwd", "query", "dsn")
    secret = {name: random_secret(rng) for name in names}
    for name in ("sid", "dsn"):
        secret[name] = "".join(rng.choices("abcXYZ019_.~-", k=rng.randint(8, 40)))
    known = [plain, *secret.values()]
    said = [f"{i}: {form(one)}" for i, one in enumerate(known) for form in FORMS.values()]
    given = [text for text in said if not text.startswith(("1:", "2:"))]  # those only the scenario knows
    label = plain.upper().replace("A", "a")
    server.page = f'requests{{who="{label}"}} 1\nm_{plain}_total 2\n'
    server.timing = f"db-{plain};dur=3, app;dur=1"
    data.mkdir()
    (data / "secret_echo.py").write_text(SCENARIO)
    workload = {
        "scenario": str(data / "secret_echo.py"),
        "users": {"count": 2, "iterations": 2 * len(said)},
        "tags": ["first", f"of-{plain}"],
        "thresholds": [f"p99(echo 0: {plain}) < 1 s", "error_rate < 100 %"],
        "target": {
            "url": server.url,
            "token_env": "MY_TOKEN",
            "metrics_url": [f"{server.url}/metrics?sig={plain}", f"{server.url}/metrics2"],
            "metrics_token_env": "METRICS_TOKEN",
            "headers": {
                "x-api-key": secret["key"],
                "cookie": f"theme=dark; sid={secret['sid']}",
                "x-session-id": secret["session"],
                "x-auth-code": secret["code"],
                "x-note": f"see {plain}",
            },
        },
        "params": {
            "said": given,
            "login": {"user": "me", "password": secret["password"], "more": [{"pwd": secret["pwd"]}]},
            "dsn": f"postgresql://me:{secret['dsn']}@db/x",
            "notes": [["x-token", secret["query"]], f"Bearer {plain}", plain.encode().hex()],
        },
    }
    done = play(
        data,
        workload,
        MY_TOKEN=plain,
        METRICS_TOKEN=secret["metrics"],
        SAID=json.dumps(said),
        USER_TOKEN=secret["user"],
        REQUEST_TOKEN=secret["request"],
    )
    run = only_run(data)
    assert run.state == "complete", done.stderr
    assert run.row_count() > 2 * len(said)
    assert "***" in run.meta.raw["teardown_error"]
    assert len(run.meta.raw["step_errors"]) == min(len(said), 201)  # 200 kinds, and the others together
    probes = {row["probe"] for row in read_probes(run).to_pylist()}
    assert probes == {"requests", "m_***_total"}, run.meta.raw["probes"]
    shown = [subprocess_json(data), done.stdout, done.stderr]
    return known, [*written(run), *shown]


def subprocess_json(data: Path) -> str:
    """What `perfkit show --json` prints."""
    command = [sys.executable, "-m", "perfkit.cli", "show", "--json", "--data-dir", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.drill) for n in range(2, 8))])
def test_no_secret_in_any_artefact(server: SmallServer, tmp_path: Path, seed: int) -> None:
    """Tokens, headers, cookies, nested parameters, DSNs and queries go in; the server repeats each in every
    form, in bodies, labels and names of metrics; the scenario raises them and names operations and
    groups after them."""
    secrets, found = run_with_secrets(server, tmp_path / "data", seed)
    leaks = [(secret, text[:300]) for text in found for secret in held(text, *secrets)]
    assert not leaks, leaks[:3]


# -- what goes wrong -------------------------------------------------------------------------------

SECRET = 'sk-4711/"for+your=eyes'
HEAD = """
import asyncio, base64, os
from perfkit.errors import BadInput, PerfkitError
S = os.environ["MY_TOKEN"]
"""
STEP = "\nasync def step(session, state, rng):\n    await session.get('/')\n"
SETUP = "\nasync def setup(session, params):\n    session.headers = {'x-api-key': S[::-1]}\n"
BROKEN = {
    "import": "raise ValueError('odd: ' + S)\n" + STEP,
    "setup, its own error": SETUP + "    raise KeyError(S)\n" + STEP,
    "setup, perfkit's": SETUP
    + "    raise PerfkitError('no ' + base64.b64encode(S.encode()).decode())\n"
    + STEP,
    "setup, bad input": SETUP + "    raise BadInput('no ' + S)\n" + STEP,
    "setup, the system's": SETUP + "    await session.get('/')\n    open('/nowhere/' + S + S[::-1])\n" + STEP,
    "setup, a failed request": SETUP
    + "    (await session.get('/status/500', params={'q': S, 'own': S[::-1]})).raise_for_status()\n"
    + STEP,
    "setup, a path": SETUP + "    await session.get('no' + S)\n" + STEP,
    "setup, a task left behind": SETUP
    + "    async def odd(): raise ValueError(S)\n"
    + "    asyncio.create_task(odd())\n    await asyncio.sleep(0.1)\n"
    + STEP,
    "a state that cannot be sent": SETUP
    + "    class State:\n        def __reduce__(self): raise ValueError(S)\n    return State()\n"
    + STEP,
    "a state that cannot be read": "\nclass State:\n    def __getstate__(self): return {'a': 1}\n"
    + "    def __setstate__(self, state): raise ValueError(S)\n"
    + SETUP
    + "    return State()\n"
    + STEP,
    "teardown": STEP + "\nasync def teardown(session, state):\n    raise ValueError(S)\n",
    "a task of a step": "\nasync def step(session, state, rng):\n    async def odd(): raise ValueError(S)\n"
    + "    asyncio.create_task(odd())\n    await session.get('/')\n    await asyncio.sleep(0.1)\n",
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", BROKEN)
def test_what_goes_wrong_is_told_without_the_secret(server: SmallServer, tmp_path: Path, kind: str) -> None:
    """Neither the terminal nor a file has the token, or the key a session sends, when something breaks."""
    file = tmp_path / "broken.py"
    file.write_text(HEAD + BROKEN[kind])
    target = {"url": server.url, "token_env": "MY_TOKEN"}
    done = play(tmp_path, {"scenario": str(file), "target": target}, MY_TOKEN=SECRET)
    said = [done.stdout, done.stderr, *(text for run in list_runs(tmp_path) for text in written(run))]
    assert any("***" in text for text in said[:2]), said[:2]
    assert "Traceback" not in done.stderr
    for text in said:
        assert not held(text, SECRET, SECRET[::-1]), text


LONG, SHORT = "hunter2-hunter2", "hunt3r"
TARGET = {"url": "http://127.0.0.1:1"}
REFUSED: dict[str, dict[str, Any]] = {
    "a header that is a list": {"target": {**TARGET, "headers": {"x-api-key": [LONG, SHORT]}}},
    "headers that are a list": {"target": {**TARGET, "headers": [["x-api-key", LONG], ["cookie", SHORT]]}},
    "a text for params": {"params": f"password={SHORT} token={LONG}"},
    "a mapping for a scenario": {"scenario": {"password": SHORT}},
    "a parameter of the wrong type": {"params": {"path": {"token": LONG, "password": SHORT}}},
    "an unknown parameter": {
        "params": {f"token {LONG}": 1},
        "target": {**TARGET, "headers": {"x-token": LONG}},
    },
    "a query in the url": {"target": {"url": f"http://127.0.0.1/?token={SHORT}&x={LONG}"}},
    "a user in the url": {"target": {"url": f"http://u:{SHORT}@127.0.0.1"}},
    "a user in metrics_url": {"target": {**TARGET, "metrics_url": f"http://u:{SHORT}@127.0.0.1/metrics"}},
    "a password alone in probes_url": {"target": {**TARGET, "probes_url": f"http://:{SHORT}@127.0.0.1"}},
    "a scheme of metrics_url": {
        "target": {**TARGET, "metrics_url": f"ftp://h/?token={SHORT}&password={LONG}"}
    },
    "a port of metrics_url": {"target": {**TARGET, "metrics_url": f"http://h:x/?token={SHORT}"}},
    "a proxy": {"target": {**TARGET, "transport": "httpx", "proxy": f"socks5://u:{SHORT}@h"}},
    "an unknown operation": {
        "scenario": f"nowhere-{LONG}",
        "target": {**TARGET, "headers": {"cookie": f"a={LONG}"}},
    },
}


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_no_refusal_repeats_a_secret(given: dict[str, Any]) -> None:
    """What is wrong is named; its value, when it may be a secret, is not."""
    with pytest.raises(BadInput) as refused:
        complete({"scenario": "http_get", "target": TARGET, **given}, "x.yaml")
    assert LONG not in str(refused.value)
    assert SHORT not in str(refused.value)


@pytest.mark.parametrize("value", ["*hunt3r", "!hunt3r 1", "!!int hunt3r", "'hunt3r", "[hunt3r"])
def test_no_refusal_of_a_file_repeats_a_secret(value: str, tmp_path: Path) -> None:
    """YAML that cannot be read: a password may begin with any character."""
    (tmp_path / "x.yaml").write_text(f"scenario: http_get\nparams:\n  password: {value}\n")
    with pytest.raises(BadInput, match=r"line [34]: not YAML") as refused:
        read_yaml(tmp_path / "x.yaml")
    assert SHORT not in str(refused.value)


def test_a_token_in_place_of_its_variable_is_not_repeated() -> None:
    """`token_env` takes a name; who puts the token there reads so, and nothing else."""
    target = Target(url="http://127.0.0.1", token_env="ghp_" + LONG)
    with pytest.raises(BadInput, match="name of an environment variable") as refused:
        tokens_of(Workload(scenario="http_get", target=target))
    assert LONG not in str(refused.value)


@pytest.mark.parametrize(
    "option", ["target.headers.x-token={hunt3r", "a=1 a.token=hunt3r", "password:hunt3r"]
)
def test_no_refusal_of_an_option_repeats_a_secret(option: str) -> None:
    """As `-s` and `-p` take them."""
    with pytest.raises(BadInput) as refused:
        parse_assignments(option.split(), "--set")
    assert SHORT not in str(refused.value)


def test_differences_are_named_without_secrets() -> None:
    """Two workloads that differ in a parameter and in a password."""
    common = {"scenario": "http_get", "target": TARGET}
    sides = [common | {"params": {"path": f"/{n}?token={LONG}{n}"}} for n in (1, 2)]
    with pytest.raises(BadInput, match=r"different params\.path") as refused:
        refuse_differences(*sides, Options())
    assert LONG not in str(refused.value)


# -- publishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_publish_finds_a_secret_in_every_form(form: str, tmp_path: Path) -> None:
    """Of the environment, in a page, a notebook and a Parquet file; the same text without it is published."""
    secrets = {"MY_API_KEY": 'p"ss&w/rd +of= mine', "SITE_PWD": "hunter2-hunter2", "BOT": "quite-plain"}
    scanner = Scanner({"BOT"}, (), secrets | {"PWD": "/srv/folder", "HARMLESS": "agent_mass_creation"})
    for name, secret in secrets.items():
        text = f"said {FORMS[form](secret)} here"
        pq.write_table(pa.table({"error_text": [text]}), tmp_path / "t.parquet")
        for leaks in (
            scanner.file("index.html", text.encode()),
            scanner.file("t.parquet", tmp_path / "t.parquet"),
        ):
            assert [leak.kind for leak in leaks] == [f"value of the environment variable {name}"]
            assert secret not in str(leaks[0])
    assert scanner.file("index.html", b"said /srv/folder agent_mass_creation *** here") == []
