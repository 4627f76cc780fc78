"""Comparisons: what counts as a difference, what is refused, what one run a side may say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit import gate, noise
from perfkit.comparison import Comparison, Options, compare
from perfkit.errors import BadInput
from perfkit.measured import Measured
from perfkit.reduce import FEWEST, reduce, reduce_run
from perfkit.store import Metadata, Run
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL

ROWS = 6000


def made(folder: Path, number: int, *, scale: float = 1.0, rows: int = ROWS, **meta: Any) -> Run:
    """A run that may be compared, `scale` times as slow."""
    name = f"20260101-000{number:03d}-made-{number:04x}"
    told = {"health": {"valid": True, "reasons": []}, **meta}
    return make_timeline(
        folder, rows, seed=number, scale=scale, error_rate=0.0, operations=["one"], restless=0.02,
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
    rows = Measured.of(Part(runs[0]))
    x = rows.response_ms[rows.planned >= one.cut * rows.span_s]
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
    return reduce(other, Measured.of(Part(run))).reasons


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


def measured(t: np.ndarray, x: np.ndarray) -> Measured:
    return Measured(
        planned=t, done=t + x / 1000, response_ms=x, ttft_ms=np.full(len(t), np.nan),
        good=np.ones(len(t), bool), operation=np.zeros(len(t), np.int32), names=("one",), step=None,
        span_s=float(t[-1]),
    )  # fmt: skip


def test_drift_saturation_and_lost_time_are_reasons(runs: list[Run]) -> None:
    """A rise of half, a queue that grows, users whose time is not accounted for; a steady run has none."""
    rng = np.random.default_rng(1)
    t = np.sort(rng.uniform(0, 60, 12_000))
    x = 40 * np.exp(rng.normal(0, 0.3, len(t)))
    assert reduce(runs[0], measured(t, x)).reasons == ()
    assert any("drifts" in why for why in reduce(runs[0], measured(t, x * (1 + 0.6 * t / 60))).reasons)
    behind = reduce(runs[0], measured(t, x + 300 * t)).reasons
    assert any("fell behind" in reason for reason in behind)
    closed = {"users": {"count": 16, "duration_s": 60}}
    other = Run(runs[0].path)
    other.__dict__["meta"] = Metadata.of({**runs[0].meta.raw, "workload": closed})
    (off,) = reduce(other, measured(t, x)).reasons  # 200/s × 42 ms keep 8 users busy, not 16
    assert "Little's law" in off


def test_littles_law_holds_in_a_closed_loop_with_thinking(runs: list[Run]) -> None:
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
    one = measured(t, x)
    one.__dict__["step"] = np.arange(len(t))
    one.__dict__["span_s"] = 60.0
    other = Run(runs[0].path)
    workload = {"users": {"count": users, "duration_s": 60, "think_time_s": [0.1, 0.3]}}
    other.__dict__["meta"] = Metadata.of({**runs[0].meta.raw, "workload": workload})
    assert reduce(other, one).reasons == ()


def test_too_few_requests_are_no_run(tmp_path: Path) -> None:
    """Below a hundred in the steady part there is nothing to compare."""
    assert any(str(FEWEST) in why for why in reduce_run(made(tmp_path, 1, rows=90)).reasons)


# -- verdicts --------------------------------------------------------------------------------------


def test_a_slower_server_is_a_regression_with_its_size(runs: list[Run], slower: list[Run]) -> None:
    """20 % slower: regressed, by a fifth, and the whole is what its worst metric is."""
    found = compare(runs[:5], slower)
    p50 = found.result("p50")
    assert found.verdict == p50.verdict == "regressed"
    assert p50.ratio == pytest.approx(1.2, abs=0.01)
    assert p50.low_all < p50.low
    assert found.words.startswith("REGRESSED: B beside A: p50 +")
    assert compare(slower, runs[:5]).verdict == "improved"


def test_the_same_server_is_not_a_regression(runs: list[Run]) -> None:
    """Five runs of the same thing a side: nothing is found, and what could have been is told."""
    found = compare(runs[:5], runs[5:])
    assert found.verdict in ("equivalent", "inconclusive")
    p50 = found.result("p50")
    assert p50.detectable > 0
    assert p50.repeats is None or p50.repeats >= 2


def test_equal_runs_are_equivalent(tmp_path: Path) -> None:
    """Within the margin by two one-sided tests; a small difference that is sure is called so."""
    a = [made(tmp_path / "a", i) for i in (102, 103, 104)]
    b = [made(tmp_path / "b", i, scale=1.02) for i in (102, 103, 104)]
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
    with pytest.raises(BadInput, match="both sides"):
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
