"""Environment variables in a workload: what they become, what of them is a secret, what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfkit.drive import cleaning
from perfkit.drive.running import checked
from perfkit.drive.spread import execute
from perfkit.drive.variables import expanded
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from tests.fault_server import fault_server
from tests.shard_threads import Threads

SECRET = "tr0ub4dor-and-3"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "server", "COUNT": "7", "KEY": SECRET, "EMPTY": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${HOST}", "server"),
        ("http://${HOST}:80${UNSET:-/api}", "http://server:80/api"),
        ("${COUNT}", 7),
        ("${UNSET:-0.5}", 0.5),
        ("${UNSET:-yes}", True),
        ("${COUNT} users", "7 users"),
        ("${UNSET:-}", ""),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-[1]}", "[1]"),
        ("$${HOST} costs $5", "${HOST} costs $5"),
        ("{HOST} $HOST", "{HOST} $HOST"),
    ],
)
def test_what_a_reference_becomes(text: str, value: Any) -> None:
    """The variable's value, or the default where it is not set or empty; a number where it is alone."""
    whole, variables = expanded({"tags": [text], "target": {"url": text}}, "test")
    assert whole == {"tags": [value], "target": {"url": value}}
    assert type(whole["tags"][0]) is type(value)
    assert variables == ()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"target": {"headers": {"x-a": "a ${KEY}"}}}, "a ${KEY}"),
        ({"target": {"headers": {"authorization": "Bearer ${KEY:-fallback-of-mine}"}}}, "Bearer ${KEY}"),
        ({"target": {"headers": {"authorization": "known-secret-${KEY}"}}}, "***"),
        ({"params": {"deep": [{"of": "${KEY}"}]}}, "${KEY}"),
        ({"mix": [{"params": {"a": "${KEY}"}}]}, "${KEY}"),
        ({"server": {"password": "${KEY}"}}, "${KEY}"),
    ],
)
def test_what_is_kept_secret(given: dict[str, Any], text: str) -> None:
    """What variables give to headers, params and server is a secret; it is shown as it was written, without a
    default or a neighbour that may be a secret itself."""
    _, (variable,) = expanded(given, "test")
    assert (variable.text, variable.values) == (text, (SECRET,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${UNSET}", "test: target.url names UNSET, which is not set; export UNSET=… first"),
        ("${EMPTY}", "names EMPTY, which is not set"),
        ("${1x}", "target.url: '${1x}': write ${NAME} or ${NAME:-default}, or $${ for"),
        ("a ${HOST", "'${HOST'"),
        ("${HOST-x}", "'${HOST-x}'"),
    ],
)
def test_what_is_no_reference_is_bad_input(text: str, words: str) -> None:
    """One line says where, what and what to do."""
    with pytest.raises(BadInput) as caught:
        complete({"scenario": "http_get", "target": {"url": text}}, "test")
    assert words in str(caught.value)


def test_headers_stay_texts_and_errors_keep_secrets() -> None:
    """A header of digits is no number; a message of a later check does not repeat what a variable gave."""
    whole, _ = expanded({"target": {"headers": {"x-count": "${COUNT}"}}}, "test")
    assert whole["target"]["headers"] == {"x-count": "7"}
    with pytest.raises(BadInput) as caught:
        complete({"scenario": "http_get", "params": {"path": ["${KEY}"]}}, "test")
    assert SECRET not in str(caught.value)
    with pytest.raises(BadInput, match="'variables'"):
        complete({"scenario": "http_get", "variables": []}, "test")


def test_a_run_keeps_names_and_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values travel to the server; run.json has the names, no file of the run has a value, and a later
    clean-up takes the values from the environment again."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Params:\n    word: str = ''\n"
        "async def step(session, params, rng):\n"
        "    await session.get(f'/reflect/{params.word}', headers={'x-word': params.word})\n"
    )
    given = {
        "scenario": str(tmp_path / "mine.py"),
        "params": {"word": "${KEY}"},
        "users": {"count": 1, "iterations": "${COUNT}"},
        "target": {"url": "${BASE_URL}", "headers": {"x-key": "${KEY}", "x-plain": "plain"}},
    }
    with fault_server() as server:
        monkeypatch.setenv("BASE_URL", server.url)
        work = checked(given, "test", ())
        run = execute(work.workload, work.scenario, work.params, data_dir=tmp_path, launcher=Threads())
    assert run.meta.target_url == server.url
    assert run.meta.target["headers"] == {"x-key": "${KEY}", "x-plain": "plain"}
    assert run.meta.workload["params"] == run.meta.scenario.params == {"word": "${KEY}"}
    rows = run.table().to_pandas()
    assert len(rows) == 7
    assert rows["error_text"].str.count(r"\*\*\*").eq(2).all()
    for file in run.path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert cleaning._workload_of(run, {}).target.headers["x-key"] == SECRET
    monkeypatch.delenv("KEY")
    with pytest.raises(BadInput, match=r"target.headers.x-key names KEY, which is not set"):
        cleaning._workload_of(run, {})
