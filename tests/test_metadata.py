"""run.json as a typed view: what is damaged reads as missing, is named, and takes no other run with it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.make_timeline import make_timeline
from perfkit import frames
from perfkit.compare import Options, noise
from perfkit.compare import frames as compare_frames
from perfkit.compare.configuration import configuration_of, lines_of
from perfkit.compare.reduce import refusals
from perfkit.compare.turns import refuse_differences
from perfkit.drive.describe import first_meta
from perfkit.drive.progress import Goal, elapsed_s
from perfkit.drive.workloads import complete, redactor_for
from perfkit.errors import BadInput, PerfkitError
from perfkit.lab import Runs
from perfkit.retention import plan
from perfkit.store import Metadata, Run, find_run, list_runs, listed
from perfkit.store.words import describe_run, details

SAMPLES = sorted((Path(__file__).parents[1] / "data" / "sample").glob("*/run.json"))
#: A value of every type JSON has, and those that break arithmetic, dates and terminals.
ODD = (None, True, 0, -1, 2**63, 10**400, 1e308, math.nan, math.inf, "", "x", "\ud800", [], [[]], [1, "a"],
       {}, {"a": 1}, [{"text": 3}], [None])  # fmt: skip


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value at a place."""
    made = copy.deepcopy(document)
    where = made
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return made


def everything_of(run: Run) -> None:
    """Ask what every list, page and verdict asks of a run's metadata; only PerfkitError may come of it."""
    run.verdict, list(refusals(run)), noise.key(run), Goal.of(run.meta), elapsed_s(run)
    repr(run), run._repr_html_(), compare_frames.trend_points(run, ("p50",))
    json.dumps(details(run))
    describe_run(run).encode()
    Runs([run]).filter(scenario="x", tag="y", state="complete")
    frames.listing(listed([run]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with rows and the whole run.json of a sample."""
    folder = tmp_path_factory.mktemp("metadata")
    return make_timeline(
        folder, 400, run_id="20260101-000000-made-0001", meta=json.loads(SAMPLES[0].read_text())
    )


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.parent.name)
def test_a_whole_run_json_has_no_damage(file: Path) -> None:
    """Everything perfkit writes itself is of the right type."""
    assert SAMPLES
    meta = Metadata.parse(file.read_text())
    assert meta.damage == ()
    assert meta.health.valid is True
    assert meta.load is not None


@settings(max_examples=40, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_shown_and_not_trusted(made: Run, data: st.DataObject) -> None:
    """Whatever stands anywhere in run.json, a run is shown, or refused in one line, and nothing breaks."""
    document = json.loads(SAMPLES[0].read_text())
    path = data.draw(st.sampled_from(sorted(places(document), key=str)))
    changed = put(document, path, data.draw(st.sampled_from(ODD)))
    (made.path / "run.json").write_text(json.dumps(changed), "utf-8", "surrogatepass")
    run = Run(made.path)
    try:
        everything_of(run)
    except PerfkitError as error:
        words = str(error)
    else:
        words = ""
    assert "\n" not in words


@pytest.mark.parametrize(
    "path", ["health", "health.valid", "measured.from_ns", "tags", "thresholds", "workload.users"]
)
def test_damage_is_named_and_never_valid(made: Run, path: str) -> None:
    """A value of the wrong type is named wherever a run is judged, and nobody calls the run valid."""
    document = json.loads(SAMPLES[-1].read_text())
    (made.path / "run.json").write_text(json.dumps(put(document, tuple(path.split(".")), "no")))
    run = Run(made.path)
    assert run.meta.damage[0] == path
    assert run.verdict.word == "DAMAGED"
    assert path in "".join(refusals(run))
    assert run.verdict.exit_code == 3
    assert f"DAMAGED: run.json is damaged: wrong type or value of {path}" in describe_run(run)
    (row,) = listed([run])
    assert row["verdict"] == "damaged"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("null", "'state' is missing"),
        ("[]", "'state' is missing"),
        ('{"state": ["complete"]}', "is not one of running, complete, aborted"),
        ('{"state": "compl***t***"}', "is not one of running, complete, aborted"),
        ('{"state": "complete", "schema": 99}', "upgrade it"),
        ("[" * 100_000, "nested too deeply"),
        ('{"state": "complete", "note": ' + "[" * 60 + "]" * 60 + "}", "levels deep"),
        ('{"state": "complete", "seed": ' + "9" * 5000 + "}", "not JSON"),
        (b"\xff\xfe{}", "not"),
    ],
)
def test_one_unreadable_run_hides_no_other(tmp_path: Path, text: str | bytes, words: str) -> None:
    """Lists, finding and pruning go on with the others; the unreadable run is one line that says why."""
    good = make_timeline(tmp_path, 200, run_id="20260101-000000-good-0001", meta={"scenario": {"name": "s"}})
    bad = make_timeline(tmp_path, 200, run_id="20260101-000001-bad-0002")
    (bad.path / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PerfkitError, match=words):
        _ = Run(bad.path).meta
    rows = {row["id"]: row for row in listed(list_runs(tmp_path))}
    assert rows[good.id]["state"] == "complete"
    assert rows[bad.id]["verdict"] == "damaged"
    assert words in rows[bad.id]["tags"]
    assert find_run("0001", tmp_path).id == good.id
    assert [run.id for run in plan(tmp_path, 0).remove] == [good.id]
    assert words in repr(Run(bad.path))


def test_what_a_later_perfkit_wrote_is_bad_input() -> None:
    """A newer schema asks for an upgrade, which is the user's to do: exit code 2."""
    with pytest.raises(BadInput, match="schema 99; this perfkit reads up to"):
        Metadata.of({"state": "complete", "schema": 99})


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("a", "b", "differs"),
    [
        (("main/inv.py", A), ("branch/inv.py", A), ""),
        (("main/inv.py", A), ("branch/other.py", A), ""),
        (
            ("main/inv.py", A),
            ("branch/inv.py", B),
            "'main/inv.py' and 'branch/inv.py', whose content differs",
        ),
        (("inv.py", A), ("inv.py", B), "'inv.py' and 'inv.py', whose content differs"),
        (("inv.py", A), ("inv.py", ""), ""),  # of an earlier version
        (("main/inv.py", A), ("branch/inv.py", ""), "'main/inv.py' and 'branch/inv.py'"),
        (("http_get", ""), ("inv.py", A), "'http_get' and 'inv.py'"),
    ],
)
def test_scenario_files_are_compared_by_their_content(
    a: tuple[str, str], b: tuple[str, str], differs: str
) -> None:
    """The path does not count where the content is known; alone and in a mix."""
    for mix in (False, True):
        found = []
        for ref, digest in (a, b):
            name = "one" if mix else Path(ref).stem
            workload = {"mix": [{"scenario": ref, "name": name}]} if mix else {"scenario": ref}
            told = {"name": name, "sha256": {name: digest} if digest else {}}
            found.append(
                configuration_of(Metadata.of({"state": "complete", "workload": workload, "scenario": told}))
            )
        where = "mix.one.scenario" if mix else "scenario"
        assert lines_of(found) == ([f"different {where}: {differs}"] if differs else [])
        assert not lines_of(found, ("mix" if mix else "scenario",))


@pytest.mark.parametrize("mix", [False, True])
def test_a_run_says_what_its_scenario_file_held(tmp_path: Path, mix: bool) -> None:
    """The same file in two folders is one scenario, before a run is made and after; edited it is another."""
    files = [tmp_path / side / "inv.py" for side in ("main", "branch")]
    for file in files:
        file.parent.mkdir()
        file.write_text("async def step(session, state, rng):\n    await session.get('/')\n")
    users = {"users": {"count": 1, "duration_s": 1}}
    given: list[dict[str, Any]] = []
    for file in files:
        one: dict[str, Any] = {"scenario": str(file), **users}
        mixed = {"mix": [one, {"scenario": "http_get", **users}]}
        given.append({"target": {"url": "http://127.0.0.1:9"}} | (mixed if mix else one))
    refuse_differences(*given, Options())
    _, scenario, params = complete(given[0], "A")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    meta = first_meta(complete(given[0], "A")[0], scenario, params, tmp_path, 0, 0, redactor_for(given[0]))
    assert Metadata.of(meta).scenario.sha256 == {"inv": digest}
    files[1].write_text(files[1].read_text() + "# edited\n")
    with pytest.raises(BadInput, match=r"different .*scenario: .* whose content differs"):
        refuse_differences(*given, Options())


@pytest.mark.parametrize(
    ("a", "b", "differs"),
    [
        ({"on": "ssh:a,b"}, {"on": "ssh:a,b", "folder": "s3://rows", "python": "python3.11"}, ""),
        ({"on": "ssh:a,b", "clock_budget_ms": 5.0}, {"on": "ssh:a,b", "lost_worker": "continue"}, ""),
        ({"on": "local:2"}, None, ""),
        ({"on": "ssh:a,b"}, {"on": "ssh:a,c"}, "different spread.on: 'ssh:a,b' and 'ssh:a,c'"),
        ({"on": "ssh:a,b"}, None, "different spread"),
    ],
)
def test_where_rows_lie_makes_no_runs_differ(
    a: dict[str, Any] | None, b: dict[str, Any] | None, differs: str
) -> None:
    """Runs with different spreads are not compared, but of a spread only where the load comes from counts."""
    found = [
        configuration_of(
            Metadata.of(
                {"state": "complete", "workload": {"processes": 2, **({"spread": one} if one else {})}}
            )
        )
        for one in (a, b)
    ]
    assert "; ".join(lines_of(found)).startswith(differs)
    assert bool(lines_of(found)) == bool(differs)
