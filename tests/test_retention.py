"""Tags, notes and what is kept: real run folders, real verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options, keeping
from perfkit.compare.experiment import Kept, compare_and_keep, open_comparison
from perfkit.errors import BadInput, PerfkitError
from perfkit.retention import mark, plan
from perfkit.store import Run, RunFolder, list_runs
from tests.test_cli import perfkit


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty data folder."""
    return tmp_path / "data"


@pytest.fixture
def made(data: Path) -> Callable[..., Run]:
    """Makes a small run with an id that sorts as made."""
    numbers = iter(range(100))

    def make(scenario: str = "http_get", **meta: object) -> Run:
        run_id = f"20260101-0000{next(numbers):02}-{scenario}-0000"
        return make_timeline(data, 200, run_id=run_id, meta={"scenario": {"name": scenario}, **meta})

    return make


def test_tags_and_a_note_stay_with_the_run(made: Callable[..., Run], data: Path) -> None:
    """Tags are added once, in order, and taken off; the note is kept until an empty one removes it."""
    run = made(tags=["first"])
    (run,) = mark([run], add=["second", "first", "second"], note=" before the index ")
    assert (run.meta.tags, run.meta.note) == (("first", "second"), "before the index")
    (run,) = mark([run], remove=["first"])
    assert (run.meta.tags, run.meta.note) == (("second",), "before the index")
    assert mark([run], note="")[0].meta.note == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"add": ["two words"]}, "is not a valid tag"),
        ({"add": ["a,b"]}, "is not a valid tag"),
        ({"add": [""]}, "is not a valid tag"),
        ({"remove": ["thrid"]}, "existing tags: third"),
        ({"note": "x" * 4001}, "at most 4,000 are allowed"),
    ],
)
def test_what_is_no_tag_changes_nothing(
    made: Callable[..., Run], change: dict[str, object], says: str
) -> None:
    """Nonsense is refused in one line before any run is changed."""
    runs = [made(tags=["third"]), made(tags=["third"])]
    before = [(run.path / "run.json").read_bytes() for run in runs]
    with pytest.raises(BadInput, match=says):
        mark(runs, **change)  # type: ignore[arg-type]
    assert [(run.path / "run.json").read_bytes() for run in runs] == before


def test_a_running_run_is_not_tagged(data: Path) -> None:
    """Its own process writes run.json and would forget the tag."""
    folder = RunFolder.create(data, "http_get")
    folder.write_meta({"state": "running", "tags": []})
    with pytest.raises(BadInput, match="still running"):
        mark([Run(folder.path)], add=["late"])
    folder.close()


def test_the_newest_complete_runs_of_each_scenario_stay(made: Callable[..., Run], data: Path) -> None:
    """What is newer than the oldest complete run kept stays as well; each scenario counts by itself."""
    runs = [made(), made(), made(state="aborted"), made(), made(state="aborted"), made("other")]
    assert plan(data, 2).remove == (runs[0],)
    assert plan(data, 1).remove == tuple(runs[:3])
    assert plan(data, 3).remove == ()
    assert plan(data, 0, "other").remove == (runs[5],)
    with pytest.raises(BadInput, match="known: http_get, other"):
        plan(data, 1, "http_gte")


def test_pruning_spares_what_somebody_needs(made: Callable[..., Run], data: Path) -> None:
    """Tagged keep, still running, damaged, or part of a kept comparison: spared, with the reason."""
    tagged, damaged, plain = made(tags=["keep"]), made(), made()
    compared, other = (_comparable(data, number) for number in (91, 92))
    (damaged.path / "run.json").write_text("{")
    kept = compare_and_keep([compared], [other], Options(), ("A", "B"), data)
    found = plan(data, 0)
    assert found.remove == (plain,)
    assert {run.id: why.split(" (")[0] for run, why in found.spared} == {
        tagged.id: "tagged keep",
        compared.id: f"comparison {kept.id} needs it",
        other.id: f"comparison {kept.id} needs it",
        damaged.id: "damaged",
    }


def test_pruning_refuses_what_it_cannot_know(made: Callable[..., Run], data: Path) -> None:
    """A comparison that cannot be read may need any run: nothing is planned, and its folder is named."""
    runs = [made(), made()]
    kept = compare_and_keep(runs[:1], runs[1:], Options(), ("A", "B"), data)
    file = kept.path / "comparison.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(PerfkitError, match=f"{kept.id} is damaged"):
        plan(data, 0)


@pytest.mark.parametrize("results", ["x", ["x"], [[]], [None], [{}], {"p50": 1}, 3, None])
def test_a_comparison_whose_results_are_something_else_is_damaged(
    made: Callable[..., Run], data: Path, results: Any
) -> None:
    """Each kind of JSON in the place of the results, or of one of them: named in a line, like cut JSON."""
    kept = compare_and_keep([made()], [made()], Options(), ("A", "B"), data)
    file = kept.path / "comparison.json"
    told = json.loads(file.read_text())
    told["comparison"]["results"] = results
    file.write_text(json.dumps(told))
    with pytest.raises(PerfkitError, match=f"{kept.id} is damaged"):
        open_comparison(kept.id, data)


def test_prune_removes_only_when_told_to(made: Callable[..., Run], data: Path) -> None:
    """Without --yes the runs are listed and stay; with it they go, and the count is told."""
    runs = [made(), made(), made()]
    listed = perfkit("prune", "--keep", "1", data=data)
    assert listed.returncode == 0
    assert f"would remove {runs[0].id}" in listed.stdout
    assert "nothing was removed yet, add --yes" in listed.stdout
    assert len(list_runs(data)) == 3
    done = perfkit("prune", "--keep", "1", "--yes", data=data)
    assert "2 runs, " in done.stdout
    assert [run.id for run in list_runs(data)] == [runs[2].id]


def test_tag_by_command_and_in_the_list(made: Callable[..., Run], data: Path) -> None:
    """`perfkit tag` takes several runs, prints what they have, and `tag:NAME` names them afterwards."""
    runs = [made(tags=[]) for _ in range(3)]
    names = f"{runs[0].id},{runs[1].id}"
    told = perfkit("tag", names, "baseline", "--note", "quiet night", data=data)
    assert told.stdout.splitlines() == [f"{run.id}: baseline; note: quiet night" for run in runs[:2]]
    again = perfkit("tag", "tag:baseline", "--json", data=data)
    assert [one["id"] for one in json.loads(again.stdout)] == [run.id for run in runs[:2]]
    wrong = perfkit("tag", "latest", "--remove", "baseline", data=data)
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "perfkit: no such tag to remove: baseline; existing tags: none\n",
    )


# -- comparisons -----------------------------------------------------------------------------------


def _compared(data: Path, *, refused: bool = False) -> Kept:
    """A comparison of two runs of a side; `refused`: of two that cannot be compared."""
    load = {"scenario": "made", "arrivals": {"shape": "poisson", "rate_per_s": 300.0}, "seed": 1}
    numbers = [int(refused) * 10 + i for i in range(1, 5)]
    runs = [
        _comparable(data, number, **({"workload": load} if refused and number > 12 else {}))
        for number in numbers
    ]
    return compare_and_keep(runs[:2], runs[2:], Options(), ("before", "after"), data)


def _comparable(data: Path, number: int, **meta: Any) -> Run:
    name = f"20260101-0000{number:02d}-made-{number:04x}"
    healthy = {"health": {"valid": True, "reasons": []}}
    return make_timeline(
        data,
        6000,
        seed=number,
        error_rate=0.0,
        operations=["one"],
        restless=0.02,
        run_id=name,
        meta=healthy | meta,
    )


def test_comparisons_are_kept_as_runs_are(tmp_path: Path) -> None:
    """Listed, shown, tagged, untagged and removed by comparison:ID; the runs stay."""
    kept = _compared(tmp_path)
    name = f"comparison:{kept.id}"
    listed = json.loads(perfkit("ls", "--comparisons", "--json", data=tmp_path).stdout)
    assert [(one["id"], one["a"], one["b"], one["runs"]) for one in listed] == [
        (kept.id, "before", "after", [2, 2])
    ]
    assert perfkit("show", name, data=tmp_path).stdout.startswith(kept.comparison.words.split(":")[0])
    assert json.loads(perfkit("show", name, "--json", data=tmp_path).stdout)["words"] == kept.comparison.words
    assert perfkit("tag", name, "release", "--note", "for the board", data=tmp_path).returncode == 0
    shown = perfkit("tag", name, data=tmp_path).stdout
    assert shown == f"{kept.id}: release; note: for the board\n"
    missing = perfkit("tag", name, "--remove", "nothing", data=tmp_path)
    assert (missing.returncode, "existing tags: release" in missing.stderr) == (2, True)
    (kept.path / "mine.txt").write_text("x")
    part = perfkit("rm", f"comparison:{kept.id[:-2]}", data=tmp_path)
    assert (part.returncode, "whole id" in part.stderr) == (2, True)
    removed = perfkit("rm", name, data=tmp_path)
    assert removed.stdout == f"removed comparison {kept.id}; kept, not written by perfkit: mine.txt\n"
    assert json.loads(perfkit("ls", "--comparisons", "--json", data=tmp_path).stdout) == []
    assert len(list_runs(tmp_path)) == 4


def test_a_refused_comparison_keeps_no_run_from_pruning(tmp_path: Path) -> None:
    """It has judged none of them, and goes with them unless tagged `keep`; one that judged needs its runs."""
    good, refused = _compared(tmp_path), _compared(tmp_path, refused=True)
    assert refused.comparison.refused
    found = plan(tmp_path, 0)
    assert {run.id for run in found.remove} == {run.id for run in (*refused.a, *refused.b)}
    assert [one.id for one in found.comparisons] == [refused.id]
    assert plan(tmp_path, None).comparisons == ()
    keeping.mark(refused, add=["keep"])
    assert plan(tmp_path, 0).comparisons == ()
    done = perfkit("prune", "--keep", "0", "--yes", "--json", data=tmp_path)
    assert json.loads(done.stdout)["comparisons"] == []
    assert {run.id for run in list_runs(tmp_path)} == {run.id for run in (*good.a, *good.b)}


def test_a_damaged_comparison_can_be_listed_and_removed(tmp_path: Path) -> None:
    """It is listed as damaged, what reads it names the way out, and that works."""
    kept = _compared(tmp_path)
    (kept.path / "comparison.json").write_text("{")
    (one,) = json.loads(perfkit("ls", "--comparisons", "--json", data=tmp_path).stdout)
    assert one["verdict"] == "damaged"
    told = perfkit("prune", "--keep", "0", data=tmp_path)
    assert (told.returncode, f"`perfkit rm comparison:{kept.id}`" in told.stderr) == (1, True)
    assert perfkit("rm", f"comparison:{kept.id}", data=tmp_path).returncode == 0
    assert perfkit("prune", "--keep", "0", data=tmp_path).returncode == 0
