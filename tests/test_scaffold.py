"""`perfkit new`: what it writes runs at once, holds no secret, and is harmless whatever a file says."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.drive.workloads import complete, read_yaml
from perfkit.errors import BadInput
from perfkit.scaffold import har, openapi, write_scenario
from perfkit.scaffold.api import Api, Operation
from perfkit.scaffold.source import scenario_of
from tests.command import started
from tests.small_server import SmallServer, small_server

SECRET = "sk-scaffold-4711-secret"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One run, whatever the machine is busy with."""
    wide = ("-s", "budget.delay_ms=10s", "-s", "budget.cpu_share=100", "-s", "budget.gc_pause_ms=1m", "-q")
    return started("run", *arguments, *wide, PERFKIT_DATA_DIR=os.fspath(Path.cwd()), **environment)


def test_a_new_scenario_runs_at_once(server: SmallServer) -> None:
    """NAME.py and NAME.yaml run as they are, and neither is ever overwritten."""
    done = started("new", "mine", "--target", server.url, "--json")
    assert json.loads(done.stdout)["workload"] == "mine.yaml"
    done = run("mine.yaml", "--requests", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "n 6, failed 0" in done.stdout
    before = Path("mine.py").read_text()
    for taken in ("mine", "mine.py", "mine.yaml"):
        done = started("new", taken)
        assert (done.returncode, "exists already" in done.stderr) == (2, True)
    assert Path("mine.py").read_text() == before
    Path("mine.py").unlink()
    assert started("new", "mine").returncode == 2, "the other one is kept too"
    assert not Path("mine.py").exists()


def test_without_a_target_the_example_server_is_meant() -> None:
    """The workload has no target: perfkit starts its own server, whose health the scenario asks for."""
    write_scenario("mine")
    workload, _, params = complete(read_yaml(Path("mine.yaml")), "mine.yaml")
    assert (workload.target.url, params.path) == (None, "/v1/health/")


PET: dict[str, Any] = {
    "type": "object",
    "required": ["name", "born", "kind", "tags", "friend", "size"],
    "properties": {
        "id": {"type": "string", "readOnly": True},
        "name": {"type": "string", "example": 'a "quoted" name'},
        "born": {"type": "string", "format": "date"},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "size": {"allOf": [{"$ref": "#/components/schemas/Size"}]},
        "friend": {"$ref": "#/components/schemas/Pet"},
        "nick": {"type": "string"},
    },
}
SIZE = {"type": "object", "properties": {"cm": {"type": "integer", "minimum": 3}, "big": {"type": "boolean"}}}
LIMIT = {"name": "limit", "in": "query", "required": True, "schema": {"type": "integer", "default": 5}}
ID = {"name": "petId", "in": "path", "required": True, "schema": {"type": "string"}, "example": "p 1/2"}
API: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Pets"},
    "security": [{"bearer": []}],
    "paths": {
        "/pets": {
            "get": {
                "operationId": "listPets",
                "parameters": [LIMIT, {**LIMIT, "name": "x", "required": False}],
            },
            "post": {
                "operationId": "create-pet",
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}
                },
            },
        },
        "/pets/{petId}": {
            "parameters": [ID],
            "get": {"security": [{"key": []}]},
            "delete": {"operationId": "class"},
        },
    },
    "components": {
        "schemas": {"Pet": PET, "Size": SIZE},
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
    },
}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_scenario_of_an_openapi_description_runs(server: SmallServer, suffix: str) -> None:
    """Each operation is a function with its path, query and an example of its body; a step calls those that
    read; tokens come from the environment, and the run says which variable is missing."""
    document = {**API, "servers": [{"url": f"{server.url}/api/"}]}
    Path(f"api.{suffix}").write_text(json.dumps(document) if suffix == "json" else yaml.safe_dump(document))
    done = started("new", "pets", "--from", f"api.{suffix}")
    assert done.returncode == 0, done.stderr
    assert {"first: export PETS_TOKEN=…", "first: export PETS_X_API_KEY=…"} <= set(done.stdout.splitlines())
    assert "PETS_TOKEN" in run("pets.yaml", "--once").stderr
    assert "export PETS_X_API_KEY=" in run("pets.yaml", "--once", PETS_TOKEN=SECRET).stdout

    file = Path("pets.py")
    calls = "".join(line.replace("# await", "await") + "\n" for line in file.read_text().splitlines())
    assert calls.count("await create_pet") == calls.count("await class_") == 1
    file.write_text(calls)
    done = run("pets.yaml", "--once", PETS_TOKEN=SECRET, PETS_X_API_KEY=f"{SECRET}2")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [line[2:] for line in done.stdout.splitlines() if line.startswith("> ") and "/api/" in line]
    assert asked == [
        "GET /api/pets?limit=5",
        "POST /api/pets",
        "GET /api/pets/p%201%2F2",
        "DELETE /api/pets/p%201%2F2",
    ]
    assert server.heads[-1]["authorization"] == f"Bearer {SECRET}"
    assert server.heads[-1]["x-api-key"] == f"{SECRET}2"
    (post,) = [one for one in openapi.read(document, "x").operations if one.method == "POST"]
    assert post.json == {"name": 'a "quoted" name', "born": "2026-01-01", "kind": "cat", "tags": ["text"],
                         "size": {"cm": 3, "big": True}, "friend": None}  # fmt: skip


def entry(method: str, url: str, mime: str = "application/json", **request: Any) -> dict[str, Any]:
    """An entry of a HAR."""
    headers = [{"name": name, "value": value} for name, value in request.pop("headers", {}).items()]
    answer = {"content": {"mimeType": mime, "text": request.pop("answer", "{}")}}
    return {"request": {"method": method, "url": url, "headers": headers, **request}, "response": answer}


def posted(text: str, mime: str) -> dict[str, Any]:
    """A request's body."""
    return {"postData": {"mimeType": mime, "text": text}}


def test_a_scenario_of_a_recording_runs_without_its_secrets(server: SmallServer) -> None:
    """One function for each kind of request of the server asked most; no secret in any file: not that of a
    header, cookie, query, body or answer, nor where another place repeats it."""
    url = f"{server.url}/api"
    session = {"Authorization": f"Bearer {SECRET}", "Cookie": f"sid={SECRET}3", "X-Page": "home"}
    entries = [
        entry("GET", "http://elsewhere.example/ads"),
        entry("GET", f"{server.url}/logo.png", "image/png"),
        entry("POST", f"{url}/login", answer=json.dumps({"access_token": f"{SECRET}4"}),
              **posted(json.dumps({"user": "me", "password": f"{SECRET}5"}), "application/json")),
        entry("GET", f"{url}/notes/1?page=2&api_key={SECRET}6", headers=session),
        entry("GET", f"{url}/notes/2?page=3", headers=session),
        entry("GET", f"{url}/exchange/{SECRET}4/{JWT}"),
        entry("POST", f"{url}/form", **posted(f"a=1&password={SECRET}7", "application/x-form")),
    ]  # fmt: skip
    Path("x.har").write_text(json.dumps({"log": {"entries": entries}}))
    done = started("new", "notes", "--from", "x.har")
    assert done.returncode == 0, done.stderr
    written = Path("notes.py").read_text() + Path("notes.yaml").read_text()
    for text in (written, done.stdout):
        assert SECRET not in text
        assert JWT not in text
    assert "first: export NOTES_AUTHORIZATION=…" in done.stdout
    assert "note: left out: 1 requests to other servers" in done.stdout
    api = har.read(json.loads(Path("x.har").read_text()), "x.har")
    assert [one.path for one in api.operations] == [
        "/api/login",
        "/api/notes/1",
        "/api/exchange/***/***",
        "/api/form",
    ]
    assert [one.name for one in api.operations][:2] == ["post_api_login", "get_api_notes_one"]
    done = run("notes.yaml", "--once", NOTES_AUTHORIZATION=f"Bearer {SECRET}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.requests["GET /api/notes/1?page=2&api_key=%2A%2A%2A"] == 1
    head = next(one for one in server.heads[::-1] if one.get("x-page") == "home")
    assert head["authorization"] == f"Bearer {SECRET}"


BAD: dict[str, tuple[str, str]] = {
    "swagger 2": ('{"swagger": "2.0", "paths": {}}', "swagger 2.0; perfkit reads OpenAPI 3"),
    "no operation": ('{"openapi": "3.0.0"}', "it describes no operation"),
    "nothing known": ("a: 1", "neither an OpenAPI description"),
    "broken JSON": ('{"openapi": ', "broken JSON"),
    "broken YAML": ("openapi: [", "not YAML"),
    "a list": ("[1]", "expected an OpenAPI description"),
    "an empty HAR": ('{"log": {"entries": []}}', "no request of an API"),
    "a HAR of no list": ('{"log": {"entries": 3}}', "no request of an API"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_said_and_nothing_written(text: str, says: str) -> None:
    """One line with the file's name; no half of a scenario."""
    Path("given").write_text(text)
    with pytest.raises(BadInput, match=says) as refused:
        write_scenario("mine", Path("given"))
    assert "given" in str(refused.value)
    assert sorted(file.name for file in Path.cwd().iterdir()) == ["given"]


@pytest.mark.parametrize("name", ["", "1st", "a b", "../x.d/", "-x", "ä"])
def test_a_name_is_an_identifier(name: str) -> None:
    """What could not be a file of Python is rejected."""
    with pytest.raises(BadInput, match="a name has letters"):
        write_scenario(name)


HOSTILE = st.text(st.sampled_from("a{}\"'\\\n\r\u2028\x00$#;%é💥 /_"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    title=HOSTILE,
    doc=HOSTILE,
    path=HOSTILE,
    value=VALUES,
    names=st.dictionaries(HOSTILE, HOSTILE, max_size=3),
)
def test_foreign_text_stays_text(
    title: str, doc: str, path: str, value: Any, names: Mapping[str, str]
) -> None:
    """Whatever a file says in titles, paths, names and values, the source defines these functions and does
    nothing else, and the values are what the file had."""
    query = {"q": value}
    operation = Operation("made", "GET", f"/{path}", doc, names, query, names, value, None)
    source = scenario_of(Api(title, None, (operation,), True, tuple(names), (doc,)), title, "mine")
    space: dict[str, Any] = {}
    exec(compile(source, "made.py", "exec"), space)
    own = {name for name in space if not name.startswith("__")}
    assert own - {"os", "dataclass", "quote"} <= {"HEADERS", "Params", "made", "setup", "step"}


@pytest.mark.parametrize(
    ("entry", "gone"),
    [
        ({"request": {"method": "GET", "url": "http://[::1/a"}}, ""),
        ({"request": {"method": "M-SEARCH", "url": "http://127.0.0.1:1/a"}}, ""),
        ({"request": {"method": "POST", "url": "http://127.0.0.1:1/deep", "postData": {
            "mimeType": "application/json", "text": '{"a":' * 500 + "1" + "}" * 500}}}, ""),
        ({"request": {"method": "POST", "url": "http://127.0.0.1:1/form", "postData": {
            "mimeType": "multipart/form-data; boundary=x",
            "text": '--x\r\nContent-Disposition: form-data; name="password"\r\n\r\ns3cr3tV4lue99\r\n--x--'}}},
         "s3cr3tV4lue99"),
        ({"request": {"method": "POST", "url": "http://127.0.0.1:1/xml", "postData": {
            "mimeType": "application/xml", "text": "<a><password>s3cr3tV4lue99</password></a>"}}},
         "s3cr3tV4lue99"),
    ],
)  # fmt: skip
def test_odd_recordings_make_a_scenario_all_the_same(
    tmp_path: Path, entry: dict[str, Any], gone: str
) -> None:
    """An address or a method that is none, bodies nested deeply, secrets in forms and XML: what is written
    can be loaded and holds no secret."""
    good = {"request": {"method": "GET", "url": "http://127.0.0.1:1/good"}, "response": {}}
    file = tmp_path / "odd.har"
    file.write_text(json.dumps({"log": {"entries": [good, entry | {"response": {}}]}}))
    done = started("new", "odd", "--from", str(file))
    assert done.returncode == 0, done.stderr
    source = (tmp_path / "odd.py").read_text()
    compile(source, "odd.py", "exec")
    assert not gone or gone not in source


def test_answers_in_base64_are_looked_through_for_secrets(tmp_path: Path) -> None:
    """A token that a log-in returned is sent later, in a path, too."""
    token = base64.b64encode(b'{"access_token": "s3cr3tV4lue99"}').decode()
    login = {
        "request": {"method": "POST", "url": "http://127.0.0.1:1/login"},
        "response": {"content": {"mimeType": "application/json", "encoding": "base64", "text": token}},
    }
    later = {"request": {"method": "GET", "url": "http://127.0.0.1:1/x/s3cr3tV4lue99"}, "response": {}}
    file = tmp_path / "b64.har"
    file.write_text(json.dumps({"log": {"entries": [login, later]}}))
    assert started("new", "b64", "--from", str(file)).returncode == 0
    assert "s3cr3tV4lue99" not in (tmp_path / "b64.py").read_text()
