"""YAML as it is read and written: what looks like something else than it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfkit import safe_yaml
from perfkit.drive.variables import expanded
from perfkit.drive.workloads import complete, parse_assignments, read_yaml
from perfkit.errors import BadInput
from perfkit.model import Spread, Workload
from tests.command import perfkit

LOAD: dict[str, Any] = {
    "scenario": "http_get",
    "target": {"url": "http://127.0.0.1:9"},
    "users": {"count": 2, "iterations": 2},
}
#: Booleans of YAML 1.1 that YAML 1.2 knows as words.
OLD = [form(word) for word in ("yes", "no", "on", "off") for form in (str.lower, str.title, str.upper)]


def workload(text: str, folder: Path) -> Workload:
    """A workload file with that text behind a load, checked."""
    file = folder / "w.yaml"
    file.write_text(f"{safe_yaml.dump(LOAD)}{text}\n")
    return complete(read_yaml(file), str(file))[0]


@pytest.mark.parametrize(
    "text", ["spread:\n  on: join:2", "spread: {on: 'join:2'}", "spread: {'on': join:2}"]
)
def test_a_spread_is_written_as_it_is_documented(text: str, tmp_path: Path) -> None:
    """`on` is a name like any other, in a file and behind -s; so is what a message recommends."""
    assert workload(text, tmp_path).spread == Spread(on="join:2")
    assert parse_assignments([f"spread={{{text[8:].strip(' {}')}}}"], "-s") == {"spread": {"on": "join:2"}}
    with pytest.raises(BadInput) as told:
        workload("spread: local:2", tmp_path)
    hint = str(told.value).partition("such as ")[2].partition(" (given")[0]
    assert workload(hint, tmp_path).spread == Spread(on="ssh:host1,host2")


@pytest.mark.parametrize("word", OLD)
def test_a_word_is_a_name_and_may_still_say_true_or_false(word: str, tmp_path: Path) -> None:
    """`no: 1` gives the name `no` a value, at any depth; `cookies: no` is false, `'no'` a text."""
    value = word.lower() in ("yes", "on")
    assert safe_yaml.load(f"{word}: {word}\nin: [{{{word}: 1}}]") == {word: value, "in": [{word: 1}]}
    assert safe_yaml.load(f"? {word}\n: '{word}'") == {word: word}
    found = workload(f"duet: {word}", tmp_path)
    assert found.duet is value
    assert parse_assignments([f"{word}.{word}={word}"], "-p") == {word: {word: value}}
    assert expanded({"duet": f"${{UNSET_HERE:-{word}}}"}, "w")[0] == {"duet": value}


def test_a_word_that_is_a_name_is_given_once(tmp_path: Path) -> None:
    """However it is quoted."""
    with pytest.raises(BadInput, match="'on' is given twice"):
        workload("spread: {on: join:2, 'on': join:3}", tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("warmup_s: 010", 10.0),
        ("warmup_s: 0o10", 8.0),
        ("warmup_s: 1e1", 10.0),
        ("warmup_s: .5", 0.5),
        ("seed: 0x10", 16),
        ("tags: [2024-01-01, 1:30, y, n, 1_000]", ("2024-01-01", "1:30", "y", "n", "1_000")),
        ("slo: 'ttft < 1 s'", "ttft < 1 s"),
    ],
)
def test_numbers_are_those_of_yaml_12(text: str, found: Any, tmp_path: Path) -> None:
    """A zero in front says nothing, and neither `1:30` nor a date is anything but a text."""
    assert getattr(workload(text, tmp_path), text.partition(":")[0]) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tags: [on]", "tags[0]: expected a text, got true or false (given: True)"),
        ("tags: [1e3]", "tags[0]: expected a text, got a number (given: 1000.0)"),
        ("slo: off", "slo: expected a text, got true or false (given: False)"),
        ("spread: {on: yes}", "spread: on: expected a text, got true or false (given: True)"),
        ("params: {path: 010}", "path: expected a text, got a whole number (given: 10)"),
    ],
)
def test_a_text_that_looks_like_something_else_is_refused_with_the_way_out(
    text: str, words: str, tmp_path: Path
) -> None:
    """The message says that quotes make it one."""
    with pytest.raises(BadInput) as told:
        workload(text, tmp_path)
    assert str(told.value).endswith(f"{words}; in YAML a text that looks like one needs quotes: 'off', '010'")


@pytest.mark.parametrize(
    "text",
    [*OLD, "true", "null", "~", "", "1e3", "5e-3", "089", "010", "0o17", "0x1F", ".5", "5.", "+7", "1_000",
     "1:30", "2024-01-01", ".inf", "<<", "=", "y", "- a", "a: b", "#x", "{a", "é", "a\nb", " x "],
)  # fmt: skip
def test_what_is_written_reads_the_same(text: str) -> None:
    """A text that would be read as something else is quoted, as a name and as a value."""
    for value in ({"k": text}, {"k": [text, {text: 1}]}):
        for unicode in (True, False):
            assert safe_yaml.load(safe_yaml.dump(value, unicode=unicode)) == value


def test_a_printed_workload_reads_as_it_was_given(tmp_path: Path) -> None:
    """`--print-yaml` keeps a text that looks like a number a text, and `spread.on` a name."""
    given = [
        "--scenario",
        "http_get",
        "-p",
        "path='/089'",
        "-s",
        "spread.on=join:1",
        "-s",
        "tags=['1e3', '089']",
    ]
    printed = perfkit("run", *given, "--print-yaml", data=tmp_path)
    assert printed.code == 0
    found = safe_yaml.load(printed.out)
    assert (found["tags"], found["spread"]) == (["1e3", "089"], {"on": "join:1"})
