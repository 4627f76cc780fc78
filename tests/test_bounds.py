"""Bounds of what is given: YAML that grows, data without end, numbers no run can carry out."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import perfkit
from perfkit import model
from perfkit.compare import Options
from perfkit.drive.running import checked
from perfkit.drive.schedule import MAX_ARRIVALS, plan, require_requests
from perfkit.drive.workloads import merged, parse_assignments, read_yaml
from perfkit.errors import BadInput
from perfkit.model import Arrivals, Budget, Target, Users, Workload
from perfkit.plain_data import DEEPEST, LONGEST, MOST_VALUES
from perfkit.report import notebook_path
from perfkit.report.parameters import check_parameters
from perfkit.store import thresholds
from tests.command import started


def laughs(levels: int = 30, wide: int = 9) -> str:
    """Lists of lists of aliases: wide**levels words from a few hundred bytes."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * wide)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int = 30, wide: int = 9) -> str:
    """The same of mappings that are merged."""
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * wide)}], k{i}: 1}}" for i in range(1, levels)]
    return "\n".join(lines)


#: Name: (text, words of the message, line).
YAMLS: dict[str, tuple[str, str, int]] = {
    "billion laughs": (laughs(), "more than 20,000 names and values", 6),
    "wide laughs": ("a: &a [" + "x, " * 9000 + "]\nb: [*a, *a, *a]", "more than 20,000", 2),
    "merge bomb": (merges(), "more than 20,000 names and values", 5),
    "a list in itself": ("a: 1\nb: &a [1, *a]", "*a contains itself", 2),
    "a mapping in itself": ("b: &a {c: {d: *a}}", "*a contains itself", 1),
    "a mapping merged into itself": ("b: &a\n  <<: *a", "*a contains itself", 2),
    "a name in itself": ("? &a [*a]\n: 1", "*a contains itself", 1),
    "deep flow": ("x: 1\ny: " + "[" * 100_000, "nested more than 50 deep", 2),
    "deep blocks": ("- " * 100_000, "nested more than 50 deep", 1),
    "deep mappings": ("x: " + "{a: " * 100_000, "nested more than 50 deep", 1),
    "a list for a name": ("a: 1\n{[1]: 2}", "", 2),
    "a list as a name": ("a:\n  [1, 2]: 3", "cannot be a name", 2),
    "a mapping as a name": ("a:\n  {b: c}: 3", "cannot be a name", 2),
    "a name by alias": ("a: &a [1]\nb: {*a : 2}", "cannot be a name", 1),
    "twice inside": ("a:\n  b: 1\n  b: 2", "'b' is given twice", 3),
    "a name with a line break": ('"a\\nb": 1\n"a\\nb": 2', r"'a\nb' is given twice", 2),
    "a number without end": ("a: 1\nb: " + "1" * 900_000, "a number of 900,000 characters", 2),
    "a hexadecimal number without end": ("b: 0x" + "f" * 900_000, "a number of 900,002 characters", 1),
    "an object": ("a: !!python/object/apply:os.system [x]", "could not determine a constructor", 1),
    "bytes": ("a: !!binary aGk=", "could not determine a constructor", 1),
    "a set": ("a: !!set {b, c}", "could not determine a constructor", 1),
    "pairs": ("a: !!omap [b: 1]", "could not determine a constructor", 1),
    "a date by its tag": ("a: !!timestamp x", "could not determine a constructor", 1),
    "a tag of its own": ("a: !mine 3", "could not determine a constructor", 1),
    "no bool": ("a: 1\nb: !!bool 7", "'7' does not fit its type bool", 2),
    "no number": ("a: !!int ''", "'' does not fit its type int", 1),
    "no float": ("a: !!float x", "'x' does not fit its type float", 1),
    "no mapping": ("a: !!map [1]", "expected a mapping", 1),
    "no text": ("a: !!str [1]", "expected a scalar", 1),
    "a null byte": ("a: 1\nb: x\0y", r"'\x00' is not allowed", 2),
    "a control character": ("a: \x1b[31m", r"'\x1b' is not allowed", 1),
    "a tab": ("a:\n\tb: 1", "tok", 2),
    "two documents": ("a: 1\n---\nb: 2", "single document", 2),
    "an unknown alias": ("a: *b", "undefined alias", 1),
    "half": ("a: [1", "", 1),
}


@pytest.mark.parametrize(("text", "words", "line"), YAMLS.values(), ids=YAMLS)
def test_yaml_is_refused_in_words(text: str, words: str, line: int, tmp_path: Path) -> None:
    """One line with the file and its line, within a second of this process's own time."""
    file = tmp_path / "w.yaml"
    file.write_text(text)
    began = time.process_time()
    with pytest.raises(BadInput) as refused:
        read_yaml(file)
    assert time.process_time() - began < 1
    message = str(refused.value)
    assert message.startswith(f"{file}, line {line}: not YAML: ")
    assert words in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "expected names with values"),
        (b"- 1\n", "expected names with values"),
        (b"7", "expected names with values"),
        (b"a: 1\nb: \xff\n", "line 2: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "line 1: not UTF-8 text"),
        (b"a: " + b"x" * LONGEST, "larger than 1 MB"),
        (b"#" * 50_000_000, "larger than 1 MB"),
    ],
    ids=["empty", "a list", "a number", "not UTF-8", "UTF-16", "too long", "50 MB"],
)
def test_files_that_are_no_workload(raw: bytes, words: str, tmp_path: Path) -> None:
    """Refused with the file's name; of a large one no more is read than may be."""
    file = tmp_path / "w.yaml"
    file.write_bytes(raw)
    with pytest.raises(BadInput) as refused:
        read_yaml(file)
    assert str(refused.value).removeprefix("cannot read ").startswith(str(file))
    assert words in str(refused.value)


def test_an_endless_file_and_impossible_names(tmp_path: Path) -> None:
    """A device is not read; a folder and a name no file can have get their words."""
    for name, words in (("/dev/zero", "not a regular file"), (str(tmp_path), "folder"), ("a\0b", "null"),
                        ("x" * 5000, "cannot read")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            read_yaml(Path(name))


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    """A process limited to 1 GB of memory says what is wrong with each bomb."""
    names = []
    for name in ("billion laughs", "merge bomb", "deep flow", "wide laughs"):
        (tmp_path / f"{len(names)}.yaml").write_text(YAMLS[name][0])
        names.append(str(tmp_path / f"{len(names)}.yaml"))
    code = (
        "import sys; from pathlib import Path; from perfkit.errors import BadInput\n"
        "from perfkit.drive.workloads import read_yaml\n"
        "for name in sys.argv[1:]:\n    try: read_yaml(Path(name))\n    except BadInput: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True,
        text=True,
        check=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9)),
    )
    assert done.stdout.split() == ["refused"] * 4


def test_ordinary_yaml_is_taken(tmp_path: Path) -> None:
    """Anchors, aliases and merges, a BOM, comments; numbers are YAML 1.2's, and a date is a text."""
    file = tmp_path / "w.yaml"
    file.write_text(
        "\ufeff# a comment\nbase: &base {a: 1, b: [x, y]}\nother: {<<: *base, a: 2}\nthird: [*base, *base]\n"
        "numbers: [010, 0x1F, 0o17, 1e3, .5, -3, 5., +7]\n"
        "texts: [1_000, 1:30, 2024-01-01, 2024-13-45, =, v1]\n"
        "rest: [true, no, ~, '', null]\n"
    )
    assert read_yaml(file) == {
        "base": {"a": 1, "b": ["x", "y"]},
        "other": {"a": 2, "b": ["x", "y"]},
        "third": [{"a": 1, "b": ["x", "y"]}] * 2,
        "numbers": [10, 31, 15, 1000.0, 0.5, -3, 5.0, 7],
        "texts": ["1_000", "1:30", "2024-01-01", "2024-13-45", "=", "v1"],
        "rest": [True, False, None, "", None],
    }


@pytest.mark.parametrize(
    "value",
    ["[" * 5000, "&a [*a]", "{[1]: 2}", "{{a: b}: c}", "1" * 5000, "!!bool 7", "\x1b", "[1", "!!set {a}"],
)
def test_values_on_the_command_line(value: str) -> None:
    """`-s` and `-p` take what a file takes, and refuse it in one printable line."""
    with pytest.raises(BadInput, match="--set") as refused:
        parse_assignments([f"params.x={value}"], "--set")
    assert str(refused.value).isprintable()


def test_a_name_of_many_sections() -> None:
    """`a.a.a…=1` is a mapping as deep as that: refused, not a traceback."""
    with pytest.raises(BadInput, match="deep"):
        parse_assignments([".".join("a" * 3000) + "=1"], "--set")


# -- data from Python --------------------------------------------------------------------------------


def endless_list() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def endless_mapping() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["params"] = found["target"] = found
    return found


def shared() -> list[Any]:
    found: list[Any] = ["lol"]
    for _ in range(30):
        found = [found] * 9
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


DATA: dict[str, tuple[Any, str]] = {
    "endless list": (endless_list(), "contain themselves"),
    "endless mapping": (endless_mapping(), "contain themselves"),
    "shared": (shared(), "more than 20,000"),
    "deep": (deep(), "50 deep"),
    "wide": ([0] * 10_000_000, "more than 20,000"),
    "long": ("x" * 2_000_000, "1,000,000 characters"),
    "long names": ({"x" * 600_000: {"y" * 600_000: 1}}, "1,000,000 characters"),
    "a huge number": (10**5000, "at most 9,223,372,036,854,775,807"),
    "a negative huge number": (-(10**30), "at most 9,223,372,036,854,775,807"),
    "not a number": (float("nan"), "not a finite number"),
    "infinite": ([{"a": float("-inf")}], "not a finite number"),
}


@pytest.mark.parametrize(("value", "words"), DATA.values(), ids=DATA)
@pytest.mark.parametrize("place", ["params", "headers", "whole", "server"])
def test_data_without_bounds_is_refused(place: str, value: Any, words: str, tmp_path: Path) -> None:
    """Through perfkit.run and through the check itself: words within a second, and no folder."""
    given: Any = {
        "params": {"scenario": "http_get", "params": {"path": value}},
        "headers": {"scenario": "http_get", "target": {"headers": {"a": value}}},
        "server": {"scenario": "http_get", "server": {"seed": value}},
        "whole": {"scenario": "http_get", "users": value},
    }[place]
    for attempt in (
        lambda: checked(given, "test", ()),
        lambda: perfkit.run_sync(given, data_dir=tmp_path, live=False),
        lambda: perfkit.run_sync(data_dir=tmp_path, live=False, **given),
    ):
        began = time.process_time()
        with pytest.raises(BadInput, match=words) as refused:
            attempt()
        assert time.process_time() - began < 1
        assert len(str(refused.value)) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [{"x" * 5_000: 1}, {"target": {"x" * 5_000: 1}}, {"scenario": "x" * 50_000}, {"tags": ["x " * 9_000]}],
)
def test_a_message_repeats_the_beginning_of_what_is_long(given: Mapping[str, Any]) -> None:
    """However long a name or value is, its message stays a few lines of a terminal, and keeps its advice."""
    with pytest.raises(BadInput) as error:
        checked({"scenario": "http_get", "target": {"url": "http://127.0.0.1:9"}} | given, "x.yaml", ())
    assert len(str(error.value)) < 2_100
    if "scenario" not in given and "tags" not in given:
        assert "… (5,000 characters)'; " in str(error.value)


@pytest.mark.parametrize("given", [{"tags": ["\ud800"]}, {"params": {"\udfff": 1}}, {"scenario": "a\udc80"}])
def test_half_a_character_is_refused(given: Mapping[str, Any]) -> None:
    """YAML and JSON can name one, as "\\ud800"; no file, header or terminal can hold it."""
    with pytest.raises(BadInput, match=r"'.*\\ud.*' is half of a surrogate pair"):
        checked({"scenario": "http_get", "target": {"url": "http://127.0.0.1:9"}} | given, "x.yaml", ())


def test_a_mapping_that_holds_itself_is_refused_whole() -> None:
    """The workload itself may be the endless one."""
    for given in (
        endless_mapping() | {"scenario": "http_get"},
        {"scenario": "http_get", "users": [shared()]},
    ):
        with pytest.raises(BadInput):
            checked(given, "test", ())


def test_parameters_of_a_notebook_are_bounded() -> None:
    """A report's parameters: numbers within the limits its notebook states, and data within these."""
    for name, value in (
        ("bins", 1e308),
        ("bins", -1),
        ("bins", 10**30),
        ("bins", True),
        ("title", "x" * LONGEST * 2),
    ):
        with pytest.raises(BadInput):
            check_parameters(notebook_path("run_report"), {name: value})
    with pytest.raises(BadInput, match="contain themselves"):
        check_parameters(notebook_path("explore"), {"params": endless_mapping()})
    check_parameters(notebook_path("run_report"), {"bins": 10})


# -- numbers -----------------------------------------------------------------------------------------

NUMBERS = (
    "1e308",
    "1e-300",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "99999999999999999999",
    "true",
    "'10'",
    "1_0",
    "[1]",
)
FINE: dict[str, Any] = {"scenario": "http_get", "target": {"url": "http://localhost"}}


def numeric_fields() -> list[str]:
    """The dotted name of every field of a workload that takes a number."""
    found = []
    sections = {"": Workload, "target.": Target, "users.": Users, "arrivals.": Arrivals, "budget.": Budget}
    for prefix, cls in sections.items():
        hints = get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            text = str(hints[field.name])
            if ("int" in text.replace("Literal", "") and "Meta" in text) or "float" in text:
                found.append(prefix + field.name)
    return found


def within(name: str, value: Any) -> dict[str, Any]:
    """A workload with one value, and what that value needs beside it."""
    section, _, field = name.rpartition(".")
    of_shapes = model._OF_SHAPE.get(field)
    beside: dict[str, Any] = {}
    if section == "users" and field not in ("iterations", "duration_s"):
        beside = {"iterations": 10}
    if section == "arrivals" and of_shapes:
        beside = {"shape": of_shapes[0]}
    inner = {**beside, field: value}
    return FINE | (
        {section: inner | ({"url": "http://localhost"} if section == "target" else {})} if section else inner
    )


def test_every_number_of_a_workload_has_bounds() -> None:
    """No numeric field without a least and a largest value: 1e308 and -1 are refused by name everywhere."""
    names = numeric_fields()
    assert len(names) >= 28
    for name in names:
        for value in (1e308, 10**18 if name != "seed" else 2**63, -1, float("nan")):
            given_ = [value] if name.endswith("step_rates_per_s") else value
            with pytest.raises(BadInput) as refused:
                checked(within(name, given_), "test", ())
            assert name.rpartition(".")[2] in str(refused.value), (name, value)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name", ["arrivals.rate_per_s", "arrivals.duration_s", "users.count", "target.timeout_s", "repeats"]
)
def test_numbers_on_the_command_line(name: str, number: str, tmp_path: Path) -> None:
    """A value that is out of bounds or of another kind is refused by its name, as a file's would be."""
    with pytest.raises(BadInput) as refused:
        checked(merged(FINE, parse_assignments([f"{name}={number}"], "--set")), "test", ())
    assert name.rpartition(".")[2] in str(refused.value)


def test_the_words_say_what_is_allowed() -> None:
    """The name, the bound as a person writes it, and the value."""
    for rate, words in ((1e308, "at most 1,000,000"), (1e-300, "at least 0.0001")):
        with pytest.raises(BadInput) as refused:
            checked(within("arrivals.rate_per_s", rate), "w.yaml", ())
        assert (
            str(refused.value)
            == f"w.yaml: arrivals.rate_per_s: expected a number of {words} (given: {rate!r})"
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arrivals": {"rate_per_s": 1e6, "duration_s": 1e5}}, "at most 50,000,000"),
        ({"arrivals": {"rate_per_s": 1000, "duration_s": 10}, "warmup_s": 86_400}, "at most 50,000,000"),
        ({"arrivals": {"shape": "steps", "step_rates_per_s": [1] * 1001}}, "at most 1,000 entries"),
        ({"arrivals": {"shape": "steps", "step_rates_per_s": [0, 0]}}, "no request is planned"),
        ({"arrivals": {"shape": "poisson", "rate_per_s": 0.0001}}, "no request is planned"),
        ({"arrivals": {"shape": "ramp", "start_rate_per_s": 1, "rate_per_s": 0.0001, "duration_s": 0.001},
          "warmup_s": 5.5}, "no request is planned"),
        ({"users": {"count": 10, "iterations": 10}, "processes": 11}, "at most 10"),
        ({"users": {"count": 2000, "iterations": 10_000}, "processes": 1000}, "cores"),
        ({"arrivals": {}, "processes": 500}, "cores"),
        ({"tags": [f"t{i}" for i in range(101)]}, "at most 100"),
        ({"scenario": "agent_mass_update", "params": {"agents": 9999, "updates_per_agent": 9999}},
         "1,000,000"),
        ({"scenario": "agent_mass_creation", "params": {"tools": 10**9}}, "tools"),
        ({"scenario": "agent_mass_creation", "params": {"users": 10**6, "agents_per_user": 9999}},
         "iterations"),
        ({"scenario": "user_journey", "params": {"duration_s": 1e-300}}, "duration_s"),
    ],
)  # fmt: skip
def test_combinations_are_bounded(given: Mapping[str, Any], words: str) -> None:
    """Each value may be allowed alone: planned arrivals, processes and products have bounds too, at once."""
    began = time.process_time()
    with pytest.raises(BadInput, match=words):
        checked(FINE | given, "test", ())
    assert time.process_time() - began < 1


def test_the_largest_schedule_is_checked_at_once_and_planned_in_little_memory() -> None:
    """49 million arrivals: the check computes none of them; the plan takes 8 bytes each and a little more."""
    arrivals = Arrivals(rate_per_s=1e6, duration_s=MAX_ARRIVALS / 1e6 * 0.1)
    began = time.process_time()
    require_requests(Arrivals(rate_per_s=1e6, duration_s=49), 1)
    assert time.process_time() - began < 0.2
    code = (
        "import resource; from perfkit.model import Arrivals; from perfkit.drive.schedule import plan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"n = len(plan(Arrivals(rate_per_s=1e6, duration_s={arrivals.duration_s}), 1))\n"
        "print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / n)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n, bytes_each = done.stdout.split()
    assert int(n) == MAX_ARRIVALS // 10
    assert float(bytes_each) < 30


def test_blocks_leave_a_schedule_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed a thousand at a time or at once, a schedule is the same, bit for bit."""
    shapes = [Arrivals(shape=shape, rate_per_s=500, duration_s=9) for shape in ("ramp", "spike", "poisson")]
    whole = [plan(shape, 3, 1.5) for shape in shapes]
    monkeypatch.setattr("perfkit.drive.schedule._BLOCK", 1000)
    assert all((a == plan(shape, 3, 1.5)).all() for a, shape in zip(whole, shapes, strict=True))


@pytest.mark.parametrize("name", ["margin", "error_margin", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 0, 1e-300, 1, 1e308, "x", None])
def test_options_of_a_comparison_are_bounded(name: str, value: Any) -> None:
    """Refused by name before anything runs."""
    with pytest.raises(BadInput, match=name):
        Options(**{name: value})


@pytest.mark.parametrize(
    "text", ["p95 < 1e999 ms", "rate > " + "9" * 310 + " /s", "p95 < " + "1" * 1000 + " ms"]
)
def test_a_threshold_has_a_finite_number(text: str) -> None:
    """An endless limit is met by everything or by nothing."""
    with pytest.raises(BadInput):
        thresholds.parse(text)


CLI: dict[str, list[str]] = {
    "rate": ["run", "--scenario", "http_get", "-s", "arrivals.rate_per_s=1e308"],
    "parameter": ["run", "--scenario", "agent_mass_creation", "-p", "users=1e308"],
    "alpha": ["compare", "W", "W", "--alpha", "nan"],
    "margin": ["gate", "W", "W", "--margin", "inf"],
    "repeats": ["compare", "W", "W", "--repeats", "1000000000"],
    "pairs": ["aa", "W", "--pairs", "1000000000"],
    "keep": ["prune", "--keep", "-1"],
    "pool": ["serve", "--pool-size", "1000000000"],
    "speed": ["serve", "--model-speed", "inf"],
    "speed that is none": ["serve", "--model-speed", "nan"],
    "speed next to nothing": ["serve", "--model-speed", "1e-300"],
    "port": ["serve", "--port", "-1"],
    "instances": ["serve", "--instances", "1000000000"],
    "blocking": ["serve", "--blocking-ms", "1e308"],
    "a started server's": ["run", "--scenario", "http_get", "-q", "-s", "server.pool_size=1e308"],
    "bins": ["report", "SAMPLE", "-p", "bins=1e308"],
}


@pytest.mark.parametrize("arguments", CLI.values(), ids=CLI)
def test_the_command_line_refuses_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    """Exit code 2, one line, and nothing in the data folder."""
    data, file = tmp_path / "data", tmp_path / "w.yaml"
    file.write_text(json.dumps(FINE))
    sample = Path(__file__).parents[1] / "data" / "sample" / "http_get"
    places = {"W": str(file), "SAMPLE": str(sample)}
    where = ("--data-dir", data) if arguments[0] != "serve" else ()
    done = started(*(places.get(one, one) for one in arguments), *where)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert not (data / "runs").exists()


def test_the_bounds_leave_room() -> None:
    """The largest values that are allowed are allowed."""
    largest = {"arrivals.rate_per_s": 1e6, "users.count": 100_000, "users.iterations": 10**9}
    largest |= {"seed": 2**63 - 1, "repeats": 10_000, "target.connections": 65_535}
    for name, value in largest.items():
        more = {"arrivals": {"rate_per_s": value, "duration_s": 1}} if name == "arrivals.rate_per_s" else {}
        checked(within(name, value) | more, "test", ())
    checked(FINE | {"params": {"path": "/" + "x" * 100_000}, "tags": ["x"] * 100}, "test", ())
    guide = (Path(__file__).parents[1] / "docs" / "workload.md").read_text()
    for words in (
        f"{MOST_VALUES:,} names",
        f"{DEEPEST} levels",
        f"{MAX_ARRIVALS // 10**6} million",
        "100,000 users",
    ):
        assert words in guide


@pytest.mark.parametrize("file", ["/dev/zero", "/", "/no/such", "a" * 5000, "a\0b"])
def test_a_certificate_file_is_a_file(file: str) -> None:
    """What has no end is not opened."""
    with pytest.raises(BadInput, match="ca_file"):
        checked(within("target.ca_file", file), "test", ())
