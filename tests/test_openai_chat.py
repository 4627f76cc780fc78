"""The scenario for language models, against a small server over real sockets."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfkit.drive.running import checked, run_repeats
from perfkit.drive.scenario import load_scenario
from perfkit.errors import BadInput
from perfkit.scenarios.openai_chat import Params, read_conversations
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import summarize, without
from tests.llm_server import TOKENS, WORDS, LlmServer, llm_server

BUDGET = {"delay_ms": 10_000, "cpu_share": 100, "gc_pause_ms": 60_000}


def written(folder: Path, *lines: Any) -> str:
    """A JSONL file of conversations."""
    file = folder / "conversations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def run(server: LlmServer, data: Path, steps: int, params: dict[str, Any], **more: Any) -> Run:
    """Carry the scenario out, one conversation after the other."""
    users = {"count": 1, "iterations": steps}
    given = {"scenario": "openai_chat", "params": params, "target": {"url": server.url}, "users": users}
    (made,) = run_repeats(checked(given | {"budget": BUDGET} | more, "test", ()), data, show_progress=False)
    assert made.state == "complete"
    return made


def measured(made: Run) -> dict[str, list[Any]]:
    """The measured rows in the order they were sent in, by column."""
    table = made.table().sort_by("seq")
    return {name: [one[name] for one in table.to_pylist() if one["phase"] == "measure"]
            for name in table.column_names}  # fmt: skip


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_streams_by_the_servers_own_count(tmp_path: Path, api: str) -> None:
    """Tokens are the usage's, not the chunks; without usage they are null; each bad end is a failure.

    An error event, a connection that closes and a stream that just stops fail; ttft, tpot and goodput rest on
    the others.
    """
    kinds = ["plain", "nousage", "error", "cut", "endless"]
    file = written(tmp_path, *({"prompt": f"{kind} story"} for kind in kinds))
    with llm_server() as server:
        objective = {
            "slo": "ttft < 60 s and tpot < 60 s",
            "thresholds": ["goodput > 0 /s", "tpot_p50 > 0.5 ms"],
        }
        made = run(server, tmp_path, 5, {"api": api, "file": file}, **objective)
    rows = measured(made)
    assert set(rows["operation"]) == {"chat" if api == "chat" else "response"}
    assert rows["tokens_out"][:2] == [TOKENS, None]
    assert [len(chunks) for chunks in rows["chunks"]] == [4, 4, 2, 2, 4]
    assert None not in rows["first_token"]
    assert rows["error"][:3] == [None, None, "check"]
    assert (rows["error"][3] in ("reset", "protocol"), rows["error"][4]) == (True, "check")
    words = rows["error_text"]
    assert "out of memory" in words[2]
    assert words[4].startswith("the stream ended without")
    assert [one.ok for one in made.meta.thresholds] == [True, True]
    span_s = Part(made).span_s
    assert summarize(Part(made))[-1]["goodput_per_s"] == pytest.approx(1 / span_s)
    assert server.bodies[0]["model"] == "small-1"
    assert ("stream_options" in server.bodies[0]) == (api == "chat")


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_turn_brings_the_conversation_along(tmp_path: Path, api: str, stream: bool) -> None:
    """Every turn is a request of its own, with the server's answers, not those of the file."""
    system = {"role": "system", "content": "Be short."}
    messages = [system, {"role": "user", "content": "plain one"}, {"role": "assistant", "content": "ours"},
                {"role": "user", "content": "plain two"}]  # fmt: skip
    params = {"api": api, "stream": stream, "model": "m", "max_tokens": 7, "extra": {"temperature": None}}
    with llm_server(0) as server:
        made = run(server, tmp_path, 1, params | {"file": written(tmp_path, {"messages": messages})})
    first, second = (body["messages" if api == "chat" else "input"] for body in server.bodies)
    assert first == messages[:2]
    assert second == [*messages[:2], {"role": "assistant", "content": "".join(WORDS)}, messages[3]]
    assert all("temperature" not in body and body["model"] == "m" for body in server.bodies)
    rows = measured(made)
    assert rows["tokens_out"] == [TOKENS] * 2
    assert rows["error"] == [None] * 2
    assert (None not in rows["first_token"]) == stream
    if not stream:
        assert without(Part(made), "tpot_ms") == "no response was streamed"


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "line 2: not JSON"), ('{"messages": [{"role": "system", "content": "x"}]}', "line 2: expected"),
     ("[]", "line 2: expected"), ('{"messages": [1]}', "line 2: a message needs a role")],
)  # fmt: skip
def test_a_broken_conversation_is_refused_before_the_run(tmp_path: Path, line: str, words: str) -> None:
    """With its line; so is a file that is not there."""
    file = tmp_path / "broken.jsonl"
    file.write_text('{"turns": ["a", "b"]}\n' + line)
    with pytest.raises(BadInput, match=words):
        load_scenario("openai_chat").params({"file": str(file)})
    with pytest.raises(BadInput, match="cannot read"):
        load_scenario("openai_chat").params({"file": str(tmp_path / "none.jsonl")})
    file.write_text('{"turns": ["a", "b"]}\n')
    assert [one["content"] for one in read_conversations(str(file))[0]] == ["a", "b"]


def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    """The workload of the guide, against the small server for two seconds: rows, thresholds, goodput."""
    guide = (Path(__file__).parents[1] / "docs" / "language-models.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", guide, re.S)
    given = yaml.safe_load(text)
    given["params"]["file"] = written(
        tmp_path, {"prompt": "plain one"}, {"turns": ["plain one", "plain two"]}
    )
    given["arrivals"] |= {"rate_per_s": 5, "duration_s": 2}
    given |= {"slo": "ttft < 60 s and tpot < 60 s", "thresholds": ["goodput > 0.1 /s"], "budget": BUDGET}
    with llm_server() as server:
        given["target"] = {"url": server.url}
        (made,) = run_repeats(checked(given, "guide", ()), tmp_path, show_progress=False)
    assert [one.ok for one in made.meta.thresholds] == [True]
    params = {name.partition("=")[0] for name in re.findall(r"-p '?(\w+=)", guide)}
    assert params <= {field.name for field in dataclasses.fields(Params)}
