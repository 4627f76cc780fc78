"""Comparisons: what counts as a difference, what is refused, what one run a side may say."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.make_timeline import make_timeline
from benchmarks.simulated import stored
from perfkit.compare import Comparison, Options, compare, gate, judge, judging, noise, steady
from perfkit.compare.nouns import Result, headline
from perfkit.compare.reduce import FEWEST, Reduced, Value, reduce_run
from perfkit.errors import BadInput, PerfkitError
from perfkit.store import Metadata, Run
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL
from tests.command import perfkit

ROWS = 6000


def made(
    folder: Path, number: int, *, scale: float = 1.0, rows: int = ROWS, seed: int | None = None, **meta: Any
) -> Run:
    """A run that may be compared, `scale` times as slow."""
    name = f"20260101-000{number:03d}-made-{number:04x}"
    told = {"health": {"valid": True, "reasons": []}, **meta}
    return make_timeline(
        folder, rows, seed=seed or number, scale=scale, error_rate=0.0, operations=["one"], restless=0.02,
        run_id=name, meta=told,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Ten runs of the same thing."""
    return [made(tmp_path_factory.mktemp("same"), number) for number in range(102, 112)]


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Five that take a fifth longer."""
    return [made(tmp_path_factory.mktemp("slower"), number, scale=1.2) for number in range(112, 117)]


# -- a run reduced ---------------------------------------------------------------------------------


def test_a_run_is_reduced_to_numpys_numbers(runs: list[Run]) -> None:
    """Every level is computed from the raw rows of the steady part, and y is its logarithm."""
    one = reduce_run(runs[0])
    part = Part(runs[0])
    steady = "SELECT response_ms FROM part WHERE ok AND t_s >= $low"
    x = part.arrays(steady, low=one.cut * part.span_s)["response_ms"]
    for metric, wanted in (("p50", np.quantile(x, 0.5)), ("p99", np.quantile(x, 0.99)), ("mean", x.mean())):
        value = one.value(TOTAL, metric)
        assert value is not None
        assert value.level == pytest.approx(float(wanted), rel=1e-12)
        assert value.y == pytest.approx(math.log(wanted), rel=1e-12)
        assert value.n == len(x) == one.n
    assert one.reasons == ()


def broken(run: Run, **changes: Any) -> tuple[str, ...]:
    """Reasons against a run whose run.json said something else."""
    other = Run(run.path)
    other.__dict__["meta"] = Metadata.of({**run.meta.raw, **changes})
    return reduce_run(other).reasons


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"health": {"valid": False, "reasons": ["steps started late"]}}, "INVALID: steps started late"),
        ({"health": {}}, "health was not recorded"),
        ({"steps_broken": True}, "BROKEN: every step raised an exception"),
    ],
)
def test_runs_that_say_so_may_not_be_compared(runs: list[Run], changes: Any, words: str) -> None:
    """The generator's own verdict comes first."""
    assert words in broken(runs[0], **changes)[0]


def test_drift_saturation_and_lost_time_are_reasons(tmp_path: Path) -> None:
    """A rise of half, a queue that grows, users whose time is not accounted for; a steady run has none."""
    rng = np.random.default_rng(1)
    t = np.sort(rng.uniform(0, 60, 12_000))
    x = 40 * np.exp(rng.normal(0, 0.3, len(t)))
    assert reduce_run(stored(tmp_path, (t, x), 0)).reasons == ()
    drifts = reduce_run(stored(tmp_path, (t, x * (1 + 0.6 * t / 60)), 1)).reasons
    assert any("drifts" in why for why in drifts)
    behind = reduce_run(stored(tmp_path, (t, x + 300 * t), 2)).reasons
    assert any("fell behind" in reason for reason in behind)
    closed = {"users": {"count": 16, "duration_s": 60}}
    (off,) = reduce_run(stored(tmp_path, (t, x), 3, load=closed)).reasons  # 200/s × 42 ms: 8 users, not 16
    assert "Little's law" in off


def test_littles_law_counts_the_users_of_the_measured_part(tmp_path: Path) -> None:
    """More of them in the warm-up, and what the load jumps to at its end, are not those who were measured."""
    rng = np.random.default_rng(1)
    t = np.sort(rng.uniform(0, 60, 12_000))
    x = 40 * np.exp(rng.normal(-0.045, 0.3, len(t)))
    for level, reasons in ((8, 0), (16, 1)):  # 200/s × 40 ms: 8 users
        stages = [(0, 20), (5, 20), (0, level), (60, level), (0, 0)]
        users = {"stages": [{"duration_s": s, "to": to} for s, to in stages]}
        given = {"users": users, "warmup_s": 5}
        found = reduce_run(stored(tmp_path, (t, x), level, load=given))
        assert len(found.reasons) == reasons
        assert not any("changes by plan" in note for note in found.notes)


def test_littles_law_holds_in_a_closed_loop_with_thinking(tmp_path: Path) -> None:
    """Users who wait or think account for all of their time."""
    rng = np.random.default_rng(2)
    users, rows = 10, []
    for _ in range(users):
        now = rng.uniform(0, 0.3)
        while now < 60:
            took = 0.04 * math.exp(rng.normal(0, 0.3))
            rows.append((now, 1000 * took))
            now += took + rng.uniform(0.1, 0.3)
    t, x = np.array(sorted(rows)).T
    load = {"users": {"count": users, "duration_s": 60, "think_time_s": [0.1, 0.3]}}
    assert reduce_run(stored(tmp_path, (t, x), 0, load=load, span_s=60.0)).reasons == ()


def test_too_few_requests_are_no_run(tmp_path: Path) -> None:
    """Below a hundred in the steady part there is nothing to compare."""
    assert any(str(FEWEST) in why for why in reduce_run(made(tmp_path, 1, rows=90)).reasons)


# -- verdicts --------------------------------------------------------------------------------------


def _result_like(one: Result, metric: str, verdict: str, **more: Any) -> Result:
    return dataclasses.replace(one, metric=metric, verdict=verdict, **more)


def test_a_headline_gives_every_primary_metric_its_word(runs: list[Run], slower: list[Run]) -> None:
    """What is decided comes first, each metric with its own verdict; what is not says why, and what to do."""
    one = compare(runs[:5], slower).result("p50")
    one = dataclasses.replace(one, ratio=0.8, low=0.75, high=0.85, detectable=0.03, repeats=12)
    words = headline(
        "inconclusive",
        [
            _result_like(one, "p50", "inconclusive", jumps=True),
            _result_like(one, "p90", "inconclusive"),
            _result_like(one, "p95", "inconclusive", detectable=13.7, repeats=663),
            _result_like(one, "mean", "inconclusive", detectable=0.4, repeats=663),
            _result_like(one, "p99", "improved"),
            _result_like(one, "throughput", "improved", ratio=1.185, low=1.1, high=1.2),
        ],
        ("before", "after"),
        Options(),
    )
    assert words == (
        "INCONCLUSIVE: after vs before: p99 -20.0% [-25.0%, -15.0%] improved;"
        " throughput +18.5% [+10.0%, +20.0%] improved; p50 cannot be decided this way: it lies between two"
        " groups of requests, whose share moves from run to run; compare the operations one by one;"
        " p90 undecided: a change below 3.0% may go undetected; 12 runs per side would detect the margin;"
        " p95 and mean cannot be decided this way: their runs differ so much that a change of any size may go"
        " undetected; try longer runs, an idle machine or a wider --margin."
        " after is 1.25 ± 0.08 times faster than before (p99)."
    )


@pytest.mark.parametrize(
    ("ratio", "low", "high", "words"),
    [
        (31.02, 17.03, 56.5, "after is 31 times slower (17 to 56) than before (p50)."),
        (1 / 31.02, 1 / 56.5, 1 / 17.03, "after is 31 times faster (17 to 56) than before (p50)."),
        (1.5, 1.04, 2.31, "after is 1.50 times slower (1.04 to 2.31) than before (p50)."),
        (1.2, 1.19, 1.28, "after is 1.20 times slower (1.19 to 1.28) than before (p50)."),
        (1.2, 1.1, 1.312, "after is 1.20 ± 0.11 times slower than before (p50)."),
        (31.02, 29.5, 32.6, "after is 31.0 ± 1.6 times slower than before (p50)."),
        (5213.0, 4100.0, 6628.0, "after is 5,213 times slower (4,100 to 6,628) than before (p50)."),
    ],
)
def test_a_factor_has_the_ends_of_its_interval(
    runs: list[Run], ratio: float, low: float, high: float, words: str
) -> None:
    """± stands only where it names the interval's own ends; else they are given."""
    one = dataclasses.replace(compare(runs[:5], runs[5:]).result("p50"), ratio=ratio, low=low, high=high)
    one = dataclasses.replace(one, verdict="regressed" if ratio > 1 else "improved")
    assert headline(one.verdict, [one], ("before", "after"), Options()).endswith(words)


#: Metric, B ÷ A, how much runs differ (log scale): verdict, words, exit codes of `gate` and `gate --strict`.
VERDICTS = [
    ("p50", 1.2, 0.01, "regressed", "+20.0% [", "B is 1.20 ± 0.01 times slower than A (p50).", 4, 4),
    ("p50", 0.8, 0.01, "improved", "-20.0% [", "B is 1.25 ± 0.01 times faster than A (p50).", 0, 0),
    ("p50", 1.01, 0.01, "equivalent", "+1.0% [90 %: ", "equivalent.", 0, 0),
    ("p50", 1.03, 0.04, "inconclusive", "undecided: a change below", "would detect the margin.", 0, 5),
    ("p50", 1.2, 0.3, "inconclusive", "cannot be decided this way: its runs", "a wider --margin.", 0, 5),
    ("ttft_p50", 0.8, 0.01, "improved", "-20.0% [", "times faster than A (ttft_p50).", 0, 0),
    ("throughput", 1.2, 0.01, "improved", "+20.0% [", "%] improved.", 0, 0),
    ("throughput", 0.8, 0.01, "regressed", "-20.0% [", "%] regressed.", 4, 4),
    ("throughput", 1.01, 0.01, "equivalent", "+1.0% [90 %: ", "equivalent.", 0, 0),
    ("goodput", 0.8, 0.01, "regressed", "-20.0% [", "%] regressed.", 4, 4),
    ("error_rate", 2.0, 0.01, "regressed", "1.00% → 2.00%", "regressed.", 4, 4),
    ("error_rate", 0.5, 0.01, "improved", "1.00% → 0.50%", "improved.", 0, 0),
    ("error_rate", 1.01, 0.01, "equivalent", "1.00% → 1.01%", "equivalent.", 0, 0),
    ("error_rate", 2.0, 1.5, "inconclusive", "undecided", "undecided.", 0, 5),
]


@pytest.mark.parametrize(
    ("metric", "ratio", "spread", "verdict", "words", "ends", "code", "strict"), VERDICTS
)
def test_verdict_direction_words_and_exit_code_agree(
    runs: list[Run], metric: str, ratio: float, spread: float, verdict: str, words: str, ends: str, code: int,
    strict: int,
) -> None:  # fmt: skip
    """One table: which way a metric is better, what its change is called, what a page and a gate do."""
    sides = []
    for own, level in ((runs[:5], 0.01), (runs[5:], 0.01 * ratio)):
        y = np.log(level) + spread * np.array([-1.0, 0.5, 0.0, -0.5, 1.0])
        values = [Value(TOTAL, metric, float(np.exp(one)), float(one), 1e-3, 9.0, 10**6) for one in y]
        sides.append(
            [Reduced(run, 0.1, 9.0, 10**6, 0, (v,), (), ()) for run, v in zip(own, values, strict=True)]
        )
    found = judge(*sides, Options(primary=(metric,)))
    assert (found.verdict, found.result(metric).verdict) == (verdict, verdict)
    assert found.words.startswith(f"{verdict.upper()}: B vs A: {metric} {words}")
    assert found.words.endswith(ends)
    assert found.level == {"regressed": "bad", "inconclusive": "warn"}.get(verdict, "good")
    assert (gate.exit_code(found), gate.exit_code(found, strict=True)) == (code, strict)


@pytest.mark.parametrize(
    ("changes", "level", "code"),
    [
        ({"verdict": "within-run only"}, "warn", 3),
        ({"verdict": "refused", "refused": ("different scenario",)}, "bad", 3),
        ({"verdict": "improved", "forced": ("different scenario",)}, "bad", 3),
        ({"verdict": "regressed", "forced": ("different scenario",)}, "bad", 3),
        ({"verdict": "inconclusive", "selection": "2 of 5 runs of B were excluded"}, "warn", 3),
        ({"verdict": "regressed", "selection": "2 of 5 runs of B were excluded"}, "bad", 4),
    ],
)
def test_what_a_gate_cannot_judge_has_a_code_of_its_own(
    runs: list[Run], slower: list[Run], changes: Any, level: str, code: int
) -> None:
    """The rest of the table: verdicts that are none, whatever the metrics say, strict or not."""
    found = dataclasses.replace(compare(runs[:5], slower), **changes)
    assert found.level == level
    assert gate.exit_code(found) == gate.exit_code(found, strict=True) == code


def test_a_median_between_two_groups_is_undecided_for_that(tmp_path: Path) -> None:
    """Half of the requests take three times as long as the others: the page says what p50 suffers from."""
    runs = [made(tmp_path, number) for number in range(1, 5)]
    for run in runs:
        table = pq.read_table(run.path / "timeline.parquet")
        done = table["done"].to_numpy().copy()
        done[::2] = table["planned"].to_numpy()[::2] + 30_000_000
        done[1::2] = table["planned"].to_numpy()[1::2] + 90_000_000
        table = table.set_column(table.schema.get_field_index("done"), "done", pa.array(done))
        pq.write_table(table, run.path / "timeline.parquet")
    found = compare(runs[:2], runs[2:])
    assert found.result("p50").jumps
    assert "30 and 90 ms" in " ".join(found.notes)


def test_a_run_that_is_excluded_does_not_refuse_the_others(runs: list[Run], tmp_path: Path) -> None:
    """An invalid run of another workload is excluded for what it is; the others are compared."""
    load = {"scenario": "made", "arrivals": {"shape": "poisson", "rate_per_s": 300.0}, "seed": 1}
    other = made(tmp_path, 31, workload=load, health={"valid": False, "reasons": ["late"]})
    found = compare(runs[:3], [*runs[5:8], other])
    assert found.refused == ()
    assert [name for name, _ in found.b.left_out] == [other.id]


def test_a_slower_server_is_a_regression_with_its_size(runs: list[Run], slower: list[Run]) -> None:
    """20 % slower: regressed, by a fifth, and the whole is what its worst metric is."""
    found = compare(runs[:5], slower)
    p50 = found.result("p50")
    assert found.verdict == p50.verdict == "regressed"
    assert p50.ratio == pytest.approx(1.2, abs=0.01)
    assert p50.low_all < p50.low
    assert found.words.startswith("REGRESSED: B vs A: p50 +")
    assert compare(slower, runs[:5]).verdict == "improved"


def test_the_same_server_is_not_a_regression(runs: list[Run]) -> None:
    """Five runs of the same thing a side: nothing is found, and what could have been is told."""
    found = compare(runs[:5], runs[5:])
    assert found.verdict in ("equivalent", "inconclusive")
    p50 = found.result("p50")
    assert p50.detectable > 0
    assert p50.repeats is None or p50.repeats >= 2


def test_small_tables_stay_while_runs_are_compared(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are decoded once for warm-up and numbers, where there is room; that changes no number, and nothing
    stays behind."""
    made: list[str] = []
    query = Part.query
    monkeypatch.setattr(
        Part, "query", lambda part, sql, **named: made.append(sql) or query(part, sql, **named)
    )

    def compared() -> tuple[Comparison, int]:
        made.clear()
        found = compare(runs[:2], runs[2:4])
        return found, sum(" measured AS SELECT" in sql for sql in made)

    kept, once = compared()
    assert not steady._loaded
    monkeypatch.setattr(judging, "_FEW_ROWS", 0)
    anew, twice = compared()
    assert (once, twice) == (4, 8)
    assert [(one.operation, one.metric, one.a, one.b) for one in kept.results] == [
        (one.operation, one.metric, pytest.approx(one.a), pytest.approx(one.b)) for one in anew.results
    ]


def test_equal_runs_are_equivalent(tmp_path: Path) -> None:
    """Within the margin by two one-sided tests; a small difference that is sure is called so."""
    a = [made(tmp_path / "a", i) for i in (102, 103, 104)]
    b = [made(tmp_path / "b", i + 100, scale=1.02, seed=i) for i in (102, 103, 104)]
    for side, folder in ((a, "a"), (b, "b")):
        for pair, run in enumerate(side):
            _stamp(run, {"id": "x", "side": folder.upper(), "pair": pair})
    found = compare([Run(r.path) for r in a], [Run(r.path) for r in b])
    assert found.pairs == 3
    p50 = found.result("p50")
    assert (p50.method, p50.verdict) == ("paired", "equivalent")
    assert p50.small_but_real


def _stamp(run: Run, experiment: dict[str, Any]) -> None:
    (run.path / "run.json").write_text(json.dumps({**run.meta.raw, "experiment": experiment}))


def test_one_run_a_side_is_no_verdict(runs: list[Run], slower: list[Run]) -> None:
    """Whatever the difference: within-run only, with the spread of runs that it would have to beat."""
    found = compare(runs[:1], slower[:1])
    assert found.verdict == "within-run only"
    assert {one.verdict for one in found.results} == {"within-run only"}
    p50 = found.result("p50")
    assert math.isnan(p50.p)
    assert 0 < p50.tipping_point < 0.5
    assert gate.exit_code(found) == 3
    assert gate.exit_code(found, strict=True) == 3
    several = compare(runs[:1], slower)
    assert several.verdict == "within-run only"
    assert "nan" not in several.words


def test_runs_of_another_workload_are_refused_unless_forced(runs: list[Run], tmp_path: Path) -> None:
    """One line for each difference; --vary allows one by name, --force all, and it is told."""
    load = {"scenario": "made", "arrivals": {"shape": "poisson", "rate_per_s": 300.0}, "seed": 1}
    other = [made(tmp_path, number, workload=load) for number in (31, 32)]
    refused = compare(runs[:2], other)
    assert refused.verdict == "refused"
    assert "different arrivals.rate_per_s: 200.0 and 300.0" in refused.refused
    assert gate.exit_code(refused) == 3
    assert compare(runs[:2], other, Options(vary=("arrivals",))).verdict != "refused"
    forced = compare(runs[:2], other, Options(force=True))
    assert forced.verdict != "refused"
    assert any("rate_per_s" in line for line in forced.forced)


def test_an_invalid_run_is_left_out_by_rule(runs: list[Run], slower: list[Run], tmp_path: Path) -> None:
    """It is listed with the reason; where none is left the comparison is refused."""
    bad = made(tmp_path, 41, health={"valid": False, "reasons": ["it was late"]})
    found = compare([*runs[:4], bad], slower)
    assert found.a.left_out == ((bad.id, ("INVALID: it was late",)),)
    assert len(found.a.runs) == 4
    assert compare([bad], slower).refused == ("no run of A can be compared (INVALID: it was late)",)


def test_a_run_is_on_one_side_only(runs: list[Run]) -> None:
    """The same run on both sides would make noise look smaller than it is."""
    with pytest.raises(BadInput, match="is given twice; name each run once"):
        compare(runs[:3], runs[2:5])
    with pytest.raises(BadInput, match="no run on side B"):
        compare(runs[:3], [])


def test_failing_fast_does_not_look_fast(tmp_path: Path) -> None:
    """B fails a tenth of its requests: the error rate regresses though its latencies are the same."""
    a = [made(tmp_path / "a", i) for i in range(1, 4)]
    b = [
        make_timeline(tmp_path / "b", ROWS, seed=i, error_rate=0.1, operations=["one"], restless=0.02,
                      run_id=f"20260101-0001{i:02d}-made-b", meta={"health": {"valid": True}})
        for i in range(4, 7)
    ]  # fmt: skip
    found = compare(a, b)
    assert found.result("error_rate").verdict == "regressed"
    assert found.verdict == "regressed"


def test_no_errors_on_either_side_is_equivalent(runs: list[Run]) -> None:
    """Nothing failed: that is equal, and there is no ratio of nothing."""
    one = compare(runs[:3], runs[3:6]).result("error_rate")
    assert (one.verdict, one.a, one.b) == ("equivalent", 0, 0)
    assert math.isnan(one.ratio)
    assert math.isnan(one.p_adjusted), "it takes nothing from the other metrics' share of false alarms"


def test_a_comparison_survives_json(runs: list[Run], slower: list[Run]) -> None:
    """What is written is what is read, NaN included."""
    found = compare(runs[:3], slower[:3])
    told = json.dumps(found.to_mapping(), allow_nan=False)
    again = Comparison.from_mapping(json.loads(told))
    assert again.to_mapping() == found.to_mapping()
    assert again.result("p50") == found.result("p50")


# -- noise floor and gate --------------------------------------------------------------------------


def test_a_noise_floor_is_kept_and_used(runs: list[Run], slower: list[Run], tmp_path: Path) -> None:
    """Its degrees of freedom are added where it fits; a noisier comparison does without."""
    reduced = [reduce_run(run) for run in runs]
    found = noise.measure(reduced[:5], reduced[5:])
    assert found["p50"].df == 9
    assert found["paired p50"].df == 5
    noise.save(tmp_path, runs[0], found)
    known = noise.load(tmp_path, slower[0])
    assert known["p50"].variance == pytest.approx(found["p50"].variance)
    one = compare(runs[:2], slower[:2], history=known).result("p50")
    assert one.method in ("moderated", "pooled")
    assert "p50" in noise.words(found, "made")
    assert noise.load(tmp_path, made(tmp_path, 50, workload={"scenario": "other"})) == {}


def test_the_gate_tells_machines(runs: list[Run], slower: list[Run]) -> None:
    """JUnit has a failure for each metric that regressed; Markdown has the verdict and no name's markup."""
    found = compare(runs[:5], slower, names=("main", "<b>|`x`"))
    assert gate.exit_code(found) == 4
    xml = gate.junit(found)
    assert 'tests="5"' in xml
    assert '<testcase classname="perfkit" name="p50">' in xml
    assert "<failure" in xml
    text = gate.markdown(found)
    assert text.startswith("### perfkit: REGRESSED")
    assert "<b>" not in text
    assert "| 🔴 | p50 |" in text


# -- what replicates nothing, and what only one side has ---------------------------------------------


@pytest.mark.parametrize("how", ["path", "link", "copy", "renamed copy"])
def test_a_run_given_twice_replicates_nothing(runs: list[Run], tmp_path: Path, how: str) -> None:
    """By the same path, a link to it, a copy of its folder, or a copy under a name of its own: refused."""
    original, again = runs[0], tmp_path / "runs" / runs[0].path.name
    again.parent.mkdir()
    if how == "path":
        again = original.path
    elif how == "link":
        again.symlink_to(original.path)
    else:
        shutil.copytree(original.path, again)
    if how == "renamed copy":
        again = again.rename(again.with_name("20260101-009999-made-ffff"))
        told = json.loads((again / "run.json").read_text()) | {"id": again.name}
        (again / "run.json").write_text(json.dumps(told))
    for a, b in (([original, Run(again)], runs[1:3]), (runs[1:3], [original, Run(again)]),
                 ([original, runs[1]], [Run(again), runs[2]])):  # fmt: skip
        if how == "renamed copy":
            found = compare(a, b)
            assert found.verdict == "refused"
            assert f"{original.id} and {again.name} have the same rows" in found.words.replace(
                f"{again.name} and {original.id}", f"{original.id} and {again.name}"
            )
            continue
        with pytest.raises(BadInput, match="given twice; name each run once, on one side"):
            compare(a, b)


def mixed(folder: Path, number: int, shares: dict[str, float], rows: int = 3000) -> Run:
    """A run whose requests are these operations, each slower than the one before."""
    run = made(folder, number, rows=rows)
    table = pq.read_table(run.path / "timeline.parquet")
    rng = np.random.default_rng(number)
    names = rng.choice(list(shares), p=list(shares.values()), size=len(table))
    column = pa.array(names).dictionary_encode().cast(table.schema.field("operation").type)
    place = table.schema.get_field_index("operation")
    pq.write_table(table.set_column(place, "operation", column), run.path / "timeline.parquet")
    return Run(run.path)


def test_an_operation_that_one_side_lacks_is_told_first(tmp_path: Path) -> None:
    """A tenth of A are writes, of B none: no verdict better than inconclusive, whatever the numbers say."""
    a = [mixed(tmp_path, n, {"read": 0.9, "write": 0.1}) for n in range(1, 4)]
    b = [mixed(tmp_path, n, {"read": 1.0}) for n in range(4, 7)]
    for sides, lacks in (((a, b), "B"), ((b, a), "A")):
        found = compare(*sides)
        assert found.verdict == "inconclusive"
        assert f"{lacks} has no write, " in found.words
        assert gate.exit_code(found, strict=True) == 5
    assert not compare(a[:2], a[2:]).lacking


def test_operations_are_chosen_over_all_runs_together(tmp_path: Path) -> None:
    """Twelve that are equally frequent: each run carries the same eight, and what is not shown is told."""
    shares = {f"get-{letter}": 1 / 12 for letter in "abcdefghijkl"}
    runs = [mixed(tmp_path, n, shares) for n in range(1, 7)]
    found = compare(runs[:3], runs[3:])
    shown = {one.operation for one in found.results} - {TOTAL}
    assert len(shown) == 8
    (told,) = [note for note in found.notes if "12 operations" in note]
    hidden = set(shares) - shown
    assert all(name in told for name in hidden)
    assert not found.lacking


def test_another_mix_is_told(tmp_path: Path) -> None:
    """A tenth of A are writes, a fortieth of B."""
    a = [mixed(tmp_path, n, {"read": 0.9, "write": 0.1}) for n in range(1, 3)]
    b = [mixed(tmp_path, n, {"read": 0.975, "write": 0.025}) for n in range(3, 5)]
    assert any(note.startswith("another mix: write is ") for note in compare(a, b).notes)


def test_intervals_are_labelled_by_their_level(runs: list[Run]) -> None:
    """What decides equivalence is of level 1 - 2 alpha: 60 % where alpha is 0.2."""
    found = compare(runs[:3], runs[3:6], Options(alpha=0.2, margin=0.5))
    assert (found.options.narrow_level, found.options.family_level) == (60, 80)
    told = [found.change(one) for one in found.results if one.verdict == "equivalent" and one.unit]
    assert told
    assert all("[60 %: " in one for one in told)
    usual = compare(runs[:3], runs[3:6], Options(margin=0.5))
    assert any("[90 %: " in usual.change(one) for one in usual.results)


def test_a_comparison_kept_before_can_be_read(runs: list[Run]) -> None:
    """The interval that decides equivalence was called by a level it need not have."""
    found = compare(runs[:3], runs[3:6])
    kept = json.loads(json.dumps(found.to_mapping()))
    for one in kept["results"]:
        one["low90"], one["high90"] = one.pop("low_narrow"), one.pop("high_narrow")
    del kept["lacking"]
    assert Comparison.from_mapping(kept).results[0].low_narrow == found.results[0].low_narrow


def test_success_p99_by_name_needs_no_failure(runs: list[Run]) -> None:
    """Where nothing failed it is the p99."""
    found = compare(runs[:3], runs[3:6], Options(primary=("success_p99", "p99")))
    one, p99 = found.result("success_p99"), found.result("p99")
    assert (one.a, one.b, one.ratio) == (p99.a, p99.b, p99.ratio)


def test_one_long_warm_up_does_not_cut_all(tmp_path: Path) -> None:
    """Of five runs one settles late: the others keep their rows, and the note stands at that run."""
    runs = [made(tmp_path, number) for number in range(201, 206)]
    late = pq.read_table(runs[0].path / "timeline.parquet").to_pandas()
    early = late["planned"] < late["planned"].quantile(0.4)
    late.loc[early, "done"] += 3 * (late.loc[early, "done"] - late.loc[early, "planned"])
    schema = pq.read_schema(runs[0].path / "timeline.parquet")
    pq.write_table(pa.Table.from_pandas(late, schema=schema), runs[0].path / "timeline.parquet")
    runs[0] = Run(runs[0].path)
    found = compare(runs[:2], runs[2:])
    assert found.cut is not None
    assert found.cut < 0.2


def test_other_versions_on_the_sides_are_noted(tmp_path: Path) -> None:
    """Of perfkit, a package, Python and the kernel."""
    more = {"versions": {"perfkit": "0.2.0", "numpy": "2.3.0"}}
    a = [made(tmp_path, n, **more) for n in (301, 302)]
    b = [made(tmp_path, n, **more | {"versions": {"perfkit": "0.2.0", "numpy": "2.4.0"}}) for n in (303, 304)]
    assert "runs with different numpy: 2.3.0, 2.4.0" in compare(a, b).notes


def test_requests_that_end_before_they_begin_are_refused(runs: list[Run], tmp_path: Path) -> None:
    """By a comparison and by `show`, in words; a clock that was set back wrote them, or somebody."""
    bad = made(tmp_path, 501)
    table = pq.read_table(bad.path / "timeline.parquet")
    done = table["done"].to_numpy().copy()
    done[5:8] = table["planned"].to_numpy()[5:8] - 10**6
    place = table.schema.get_field_index("done")
    pq.write_table(table.set_column(place, "done", pa.array(done)), bad.path / "timeline.parquet")
    with pytest.raises(PerfkitError, match="3 requests end before they begin"):
        compare([Run(bad.path)], runs[:1])
    told = perfkit("show", str(bad.path), data=tmp_path)
    assert told.code == 1
    assert "3 requests end before they begin" in told.err
    assert told.err.count("\n") == 1
