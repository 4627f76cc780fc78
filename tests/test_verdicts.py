"""Verdicts on runs that are reduced already: what may be called a difference, and what no gate may pass."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from benchmarks.simulated import stored
from perfkit import stats
from perfkit.compare import Comparison, Options, gate, judge
from perfkit.compare.family import blind_share
from perfkit.compare.figures import ratios
from perfkit.compare.reduce import Reduced, Value, reduce_run
from perfkit.store import Metadata, Run
from perfkit.store.metrics import METRICS
from perfkit.store.summary import TOTAL

LATENCIES = ("p50", "p90", "p95", "p99", "mean", "throughput")
DRIFTS = ("its latency drifts: +20% from its middle third to its last",)


def one(number: int, y: float = 0.0, *, side: str = "a", failed: int = 0, n: int = 10_000,
        pair: int | None = None, without: tuple[str, ...] = (), outcomes: tuple[str, ...] = (),
        **more: Any) -> Reduced:  # fmt: skip
    """A run reduced to log values y (throughput to -y, further metrics as given)."""
    found = []
    for metric in LATENCIES:
        value = float(more.get(metric, -y if METRICS[metric].higher_is_better else y))
        if metric not in without:
            found.append(Value(TOTAL, metric, math.exp(value), value, 0.01, math.nan, n))
    y_failed = math.log((failed + 0.5) / n)
    found.append(Value(TOTAL, "error_rate", failed / n, y_failed, 1 / math.sqrt(failed + 0.5), 1, n))
    meta: dict[str, Any] = {"workload": {"server": more.get("server", {})}, "git": {"sha": more.get("sha")}}
    meta |= {"experiment": {"id": "x", "pair": pair}} if pair is not None else {}
    run: Any = SimpleNamespace(
        id=f"{side}{number}", meta=Metadata.of(meta | {"state": "complete"}), path=None
    )
    return Reduced(run, 0.1, 60.0, n, failed, tuple(found), outcomes, (), outcomes)


def side(ys: Any, letter: str, *, pairs: bool = False, **more: Any) -> list[Reduced]:
    """One run for each y."""
    return [one(i, y, side=letter, pair=i if pairs else None, **more) for i, y in enumerate(ys)]


def compared(a: list[Reduced], b: list[Reduced], **options: Any) -> Comparison:
    return judge(a, b, Options(**options))


NOISE = (-0.004, 0.002, 0.001, -0.002, 0.003)


# -- what could be found ---------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [True, False])
def test_a_change_of_the_detectable_size_regresses_8_times_of_10(pairs: bool) -> None:
    """The promise is about the verdict: of four primary metrics one alone has changed by that much."""
    rng = np.random.default_rng(5)
    regressed, draws, repeats, sd = 0, 400, 10, 0.03
    se = sd * math.sqrt(2 / repeats)
    by = math.log1p(stats.detectable(se, repeats - 1 if pairs else 2 * repeats - 2, level=0.05 / 4))
    for _ in range(draws):
        y = rng.normal(0, sd, (2, repeats, 3))
        sides = [
            [one(i, side=letter, pair=i if pairs else None, failed=40 + int(rng.poisson(20)),
                 p50=values[0] + k * by, p99=values[1], throughput=values[2])
             for i, values in enumerate(y[k])]
            for k, letter in ((0, "a"), (1, "b"))
        ]  # fmt: skip
        regressed += compared(*sides).result("p50").verdict == "regressed"
    assert 0.74 < regressed / draws < 0.92  # max-T, used without pairs, finds a little more


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_what_a_noise_floor_promises_is_found_8_times_of_10(pairs: int) -> None:
    """Over noise floors of so many pairs, each wrong in its way: a change of the size that its table promises
    regresses in 77 to 86 % of the comparisons that borrow from it."""
    rng = np.random.default_rng(20261129)
    sd, repeats, level, found, tries = 0.02, 5, 0.05 / 4, 0, 1500
    for _ in range(tries):
        history = stats.History(float(np.mean((sd * rng.normal(size=pairs)) ** 2)), pairs)
        se, df = math.sqrt(history.variance / repeats), repeats - 1 + pairs
        promised = math.log1p(stats.detectable(se, df, level=level, known_df=pairs))
        b = promised + sd * rng.normal(size=repeats)
        found += stats.paired(np.zeros(repeats), b, history).p < level
    assert 0.77 <= found / tries <= 0.86, found / tries


def test_repeats_and_detectable_change_agree() -> None:
    """As many runs as are told to be needed, and no fewer, make the margin detectable."""
    found = compared(side(NOISE, "a"), side(np.add(NOISE, (0.03, -0.03, 0, 0.03, -0.03)), "b"), alpha=0.01)
    p50 = found.result("p50")
    assert p50.repeats is not None
    family = sum(math.isfinite(r.p) for r in found.results if r.primary)
    spread = (math.log(p50.high) - math.log(p50.low)) / 2 / stats.t_factor(0.95, 8) / math.sqrt(2 / 5)
    for repeats, enough in ((p50.repeats, True), (p50.repeats - 1, False)):
        could = stats.detectable(spread * math.sqrt(2 / repeats), 2 * repeats - 2, level=0.01 / family)
        assert (could <= 0.05) is enough


# -- failures --------------------------------------------------------------------------------------


def test_rare_failures_are_no_difference() -> None:
    """Three failures against none in three runs a side are what chance makes (binomial p = 0.25)."""
    found = compared(side((0, 0, 0), "a", n=500), [one(i, side="b", failed=1, n=500) for i in range(3)])
    assert found.result("error_rate").p > 0.2
    many = compared(side(NOISE, "a"), [one(i, y, side="b", failed=200 + i) for i, y in enumerate(NOISE)])
    assert many.result("error_rate").verdict == "regressed"


@pytest.mark.parametrize("mean", [0.5, 1, 3])
@pytest.mark.parametrize("pairs", [True, False])
def test_rare_failures_cry_wolf_no_more_often_than_said(mean: float, pairs: bool) -> None:
    """A server compared with itself, two runs a side, that fails now and then: at most 6 % below 0.05."""
    rng = np.random.default_rng(7)
    hits, draws = 0, 500
    for _ in range(draws):
        made = [
            [one(i, side=letter, failed=int(k), n=500, pair=i if pairs else None)
             for i, k in enumerate(rng.poisson(mean, 2))]
            for letter in "ab"
        ]  # fmt: skip
        p = compared(*made).result("error_rate").p
        hits += p < 0.05
    assert hits / draws <= 0.06


def test_no_failure_in_few_requests_is_not_called_equivalent() -> None:
    """0 of 600 leaves 0.5 % possible; the verdict rests on the others and says so, unless asked by name."""
    few = [side(NOISE[:3], letter, n=200) for letter in "ab"]
    assert blind_share(*([r.value(TOTAL, "error_rate") for r in s] for s in few)) == pytest.approx(0.005)  # type: ignore[arg-type]
    found = compared(*few)
    assert found.result("error_rate").verdict == "inconclusive"
    assert found.verdict == "equivalent"
    assert "0.50% would not have shown" in found.words
    (row,) = (line for line in gate.markdown(found).splitlines() if "error" in line and line.startswith("|"))
    assert row.endswith("0.00% | 0.00% | — | no failures |")
    assert compared(*few, primary=("p50", "error_rate")).verdict == "inconclusive"
    many = compared(side(NOISE, "a"), side(NOISE, "b"))
    assert (many.result("error_rate").verdict, many.unjudged) == ("equivalent", ())


def test_an_axis_of_changes_ends_at_minus_100_percent() -> None:
    """Two runs a side, a factor of 7 apart: intervals reach far up, and none falls below 0."""
    low, high = ratios(compared(side((-1, 1), "a"), side((1, -1), "b"))).get_xlim()
    assert low == -1
    assert high > 9


# -- what is left out ------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [True, False])
def test_a_side_that_lost_runs_to_its_server_is_not_as_good(paired: bool) -> None:
    """Two of five runs of B drifted away: the three good ones are a selection, and no gate passes on them."""
    b = side(NOISE, "b", pairs=paired)
    b[3:] = [one(i, side="b", outcomes=DRIFTS, pair=i if paired else None) for i in (3, 4)]
    found = compared(side(NOISE, "a", pairs=paired), b)
    assert found.verdict == "inconclusive"
    assert found.words.startswith("INCONCLUSIVE: one side lost more of its runs, so the rest is a selected")
    assert "0 of 5 runs of A and 2 of 5 runs of B were excluded" in found.words
    excluded = tuple(len(side.left_out) for side in (found.a, found.b))
    assert excluded == ((2, 2) if paired else (0, 2))
    assert ("2 and 2 are excluded" in found.words) == paired
    assert gate.exit_code(found) == 3
    a = side(NOISE, "a")
    a[0] = one(0, outcomes=DRIFTS)
    even = compared(a, [*side(NOISE[:4], "b"), one(4, side="b", outcomes=DRIFTS)])
    assert even.verdict == "equivalent"


def test_a_metric_only_one_side_carries_leaves_no_verdict() -> None:
    """B lost its p99: that may be the change. Where neither side carries it, the others decide."""
    found = compared(side(NOISE, "a"), side(NOISE, "b", without=("p99",)))
    assert found.verdict == "inconclusive"
    both = compared(side(NOISE, "a", without=("p99",)), side(NOISE, "b", without=("p99",)))
    assert both.verdict == "equivalent"
    assert "Not judged: p99 (too few requests" in both.words
    xml = ET.fromstring(gate.junit(both, strict=True).partition("\n")[2])
    assert [case.get("name") for case in xml.iter("testcase") if case.find("skipped") is not None] == ["p99"]
    named = compared(
        side(NOISE, "a", without=("p99",)), side(NOISE, "b", without=("p99",)), primary=("p50", "p99")
    )
    assert named.verdict == "inconclusive"
    assert gate.exit_code(named, strict=True) == 5
    assert 'failures="1"' in gate.junit(named, strict=True)


def test_runs_of_one_side_are_of_one_kind() -> None:
    """Server options may differ between the sides, not inside one; several commits in one are told."""
    mixed = [one(i, y, server={"model_speed": 1 + i % 2}) for i, y in enumerate(NOISE)]
    found = compared(mixed, side(NOISE, "b", server={"model_speed": 2}))
    assert found.verdict == "refused"
    assert "runs of A differ: different server.model_speed: 1 and 2" in found.words
    commits = [one(i, y, sha=f"c{i}") for i, y in enumerate(NOISE)]
    assert any("from 5 commits" in note for note in compared(commits, side(NOISE, "b")).notes)


def test_a_gate_cannot_pass_on_what_was_forced_or_not_replicated() -> None:
    """Exit code 3, and an error in the JUnit file."""
    forced = compared(side(NOISE, "a"), side(NOISE, "b", outcomes=DRIFTS), force=True)
    alone = compared(side(NOISE, "a"), [one(9, 0.5, side="b")])
    for found in (forced, alone):
        assert gate.exit_code(found) == 3
        assert 'errors="1"' in gate.junit(found)
    assert "one run per side" in alone.words


# -- numbers far out -------------------------------------------------------------------------------


def test_an_interval_may_be_endless() -> None:
    """Errors that come and go between pairs make an interval nobody can print, and no crash."""
    a = [one(0, pair=0), one(1, pair=1, failed=9000)]
    b = [one(0, side="b", pair=0, failed=9000), one(1, side="b", pair=1)]
    found = compared(a, b, alpha=0.01)
    assert found.result("error_rate").high > 1e50
    assert Comparison.from_mapping(found.to_mapping()).verdict == found.verdict


def test_time_to_success_is_endless_where_too_many_fail() -> None:
    """Beyond 1 % failures the p99 of success is not reached: not compared, and told."""
    endless = Value(TOTAL, "success_p99", math.inf, math.inf, math.nan, math.nan, 10_000)
    b = [one(i, y, side="b", failed=300) for i, y in enumerate(NOISE)]
    b[0] = Reduced(**{**b[0].__dict__, "values": (*b[0].values, endless)})
    found = compared(side(NOISE, "a"), b)
    assert [r.metric for r in found.results].count("success_p99") == 0
    assert any("success_p99 is not compared" in note for note in found.notes)


def test_a_side_that_no_longer_reaches_success_is_worse() -> None:
    """Of A a thousandth fails, of B a tenth: its p99 of success is endless, and as sure as the failures are;
    where both fail so often nothing is told apart."""
    level = {"success_p99": 0.01}

    def failing(letter: str, failed: int, value: float) -> list[Reduced]:
        found = side(NOISE, letter, failed=failed)
        more = Value(TOTAL, "success_p99", math.exp(value), value, math.nan, math.nan, 10_000)
        return [dataclasses.replace(run, values=(*run.values, more)) for run in found]

    a, b = failing("a", 10, level["success_p99"]), failing("b", 1000, math.inf)
    asked = ("success_p99",)
    for sides, verdict, words in (
        ((a, b), "regressed", " ms → not reached"),
        ((b, a), "improved", "not reached → "),
    ):
        found = compared(*sides, primary=asked)
        assert (found.verdict, found.result("success_p99").verdict) == (verdict, verdict)
        assert words in found.words
        again = Comparison.from_mapping(json.loads(json.dumps(found.to_mapping())))
        assert again.change(again.result("success_p99")) == found.change(found.result("success_p99"))
    both = compared(b, failing("c", 1100, math.inf), primary=asked)
    assert both.verdict == "inconclusive"
    assert "not judged: success_p99 (more than 1 % of requests failed on both sides)" in both.words.lower()


def test_sides_that_lost_the_same_share_are_no_selection() -> None:
    """Two of ten beside two of four is a selection, two of four beside four of eight is none."""

    def lost(letter: str, of: int, count: int) -> list[Reduced]:
        return [one(i, 0.001 * i, side=letter, outcomes=DRIFTS if i < count else ()) for i in range(of)]

    assert compared(lost("a", 10, 2), lost("b", 4, 2)).selection
    assert not compared(lost("a", 8, 4), lost("b", 4, 2)).selection


@pytest.mark.parametrize(
    ("of", "lost_a", "lost_b", "suspected"),
    [(18, 1, 0, False), (18, 4, 0, False), (18, 5, 0, True), (18, 0, 5, True), (18, 9, 8, True),
     (30, 8, 2, False), (30, 9, 2, True), (3, 1, 0, True), (5, 1, 0, False), (5, 2, 2, False)],
)  # fmt: skip
def test_a_selection_is_more_than_chance_explains(of: int, lost_a: int, lost_b: int, suspected: bool) -> None:
    """Fisher's exact test below 5 %, or a third of one side: one of 18 runs is none, but it is told."""
    sides = [
        [one(i, NOISE[i % 5], side=letter, outcomes=DRIFTS if i < lost else ()) for i in range(of)]
        for letter, lost in (("a", lost_a), ("b", lost_b))
    ]
    table = [[lost_a, of - lost_a], [lost_b, of - lost_b]]
    wanted = lost_a != lost_b and (
        scipy.stats.fisher_exact(table).pvalue < 0.05 or 3 * max(lost_a, lost_b) >= of
    )
    assert suspected == wanted
    found = compared(*sides)
    assert bool(found.selection) == suspected
    assert gate.exit_code(found) == (3 if suspected else 0)
    told = [note for note in found.notes if note.startswith(f"{lost_a} of {of} runs of A and {lost_b} of")]
    assert len(told) == (not suspected and lost_a != lost_b)
    assert all("chance" in note and "p = " in note for note in told)


def test_a_gate_that_does_not_pass_says_so() -> None:
    """In the terminal and in Markdown, with its exit code; one that passes says nothing of it."""
    b = [*side(NOISE[:3], "b"), *(one(i, side="b", outcomes=DRIFTS) for i in (3, 4))]
    lost = compared(side(NOISE, "a"), b)
    why = "one side lost more of its runs, so the rest is a selected sample"
    line = f"gate: exit code 3, does not pass: {why}"
    assert gate.failing(lost) == line
    assert line in gate.markdown(lost).splitlines()
    same = compared(side(NOISE, "a"), side(NOISE, "b"))
    assert gate.failing(same) == gate.failing(same, strict=True) == ""
    assert "gate:" not in gate.markdown(same)
    slow = compared(side(NOISE, "a"), side([y + 0.2 for y in NOISE], "b"))
    assert gate.failing(slow) == "gate: exit code 4, does not pass: regressed"
    single = compared([one(0)], [one(0, side="b")])
    assert gate.failing(single).startswith("gate: exit code 3, does not pass: one run per side")
    wide = compared(side([-0.2, 0.1, 0.1], "a"), side([-0.1, 0.2, 0.05], "b"))
    assert gate.failing(wide) == ""
    undecided = "gate: exit code 5, does not pass: inconclusive, which --strict does not accept"
    assert gate.failing(wide, strict=True) == undecided
    assert undecided in gate.markdown(wide, strict=True).splitlines()


# -- steady ----------------------------------------------------------------------------------------


CONSTANT = {"arrivals": {"shape": "constant"}}


@pytest.fixture
def reduced(tmp_path: Path) -> Callable[..., Reduced]:
    """Reduces a run of these rows: an open model with a constant rate that says nothing against itself."""
    numbers = itertools.count()

    def work(t: np.ndarray, x: np.ndarray, cut: float | None = None, **more: Any) -> Reduced:
        return reduce_run(stored(tmp_path, (t, x), next(numbers), **{"load": CONSTANT} | more), cut)

    return work


def test_a_run_that_never_settles_is_no_steady_state(reduced: Callable[..., Reduced]) -> None:
    """Levels that differ by half, early or late; noise alone does not."""
    rng = np.random.default_rng(3)
    t = np.sort(rng.uniform(0, 60, 6000))
    x = 40 * np.exp(rng.normal(0, 0.3, len(t)))
    assert reduced(t, x).reasons == ()
    for steps in (np.where(t < 33, 1, 0.5), np.where(t < 36, 1, 0.8), np.where(t < 20, 1, 1.2)):
        assert any("no steady state" in why for why in reduced(t, x * steps, 0.1).reasons)


def test_few_requests_are_looked_at_for_drift_too(reduced: Callable[..., Reduced]) -> None:
    """300 requests make fewer slices; where successes leave gaps it is told that nothing was checked."""
    rng = np.random.default_rng(4)
    t = np.sort(rng.uniform(0, 30, 300))
    x = 40 * np.exp(rng.normal(0, 0.1, len(t)))
    assert reduced(t, x, 0.1).reasons == ()
    assert any("drifts" in why for why in reduced(t, x * (1 + 2 * t / 30), 0.1).reasons)
    gap = (t > 8) & (t < 16)
    assert any("could not be checked" in note for note in reduced(t, x, 0.1, good=~gap).notes)


def test_a_load_that_changes_by_plan_is_not_called_a_backlog(reduced: Callable[..., Reduced]) -> None:
    """A ramp has more in flight at its end because it asked for more."""
    t = 60 * np.sqrt(np.linspace(0, 1, 6000))
    x = np.full(len(t), 40.0) + np.sin(np.arange(len(t)))
    assert any("fell behind" in why for why in reduced(t, x, 0.1).reasons)
    rise = [{"duration_s": 60, "to": 100}]
    for load in ({"arrivals": {"shape": "ramp"}}, {"arrivals": {"shape": "stages", "stages": rise}}):
        ramp = reduced(t, x, load=load)
        assert ramp.reasons == ()
        assert "changes by plan" in ramp.notes[0]
    even = {"arrivals": {"shape": "stages", "stages": [{"duration_s": 0, "to": 100}, *rise]}}
    assert any("fell behind" in why for why in reduced(t, x, 0.1, load=even).reasons)


def test_p99_of_success_is_numpys_with_failures_as_endless(reduced: Callable[..., Reduced]) -> None:
    """Of all requests, those that failed take for ever."""
    rng = np.random.default_rng(6)
    t = np.sort(rng.uniform(0, 60, 5000))
    x = np.round(40 * np.exp(rng.normal(0, 0.3, len(t))), 6)
    for share in (0.004, 0.02):
        good = rng.random(len(t)) >= share
        value = reduced(t, x, 0.0, good=good).value(TOTAL, "success_p99")
        assert value is not None
        everyone = np.where(good, x, 1e12)
        wanted = float(np.quantile(everyone, 0.99))
        assert value.level == pytest.approx(wanted) if wanted < 1e9 else math.isinf(value.level)


def test_each_change_has_the_size_of_its_own_step() -> None:
    """Two steps upwards: the first is not blurred by the second."""
    rng = np.random.default_rng(8)
    levels = np.repeat([0.0, 0.10, 0.16], 20)
    found = stats.change_points(levels + rng.normal(0, 0.005, 60), floor=0.02)
    assert [one.at for one in found] == [20, 40]
    assert [math.log(one.ratio) for one in found] == pytest.approx([0.10, 0.06], abs=0.005)


def test_sides_of_a_kept_comparison_stand_in_pairs() -> None:
    """A figure of pairs needs the runs in the order in which they were compared."""
    from pathlib import Path

    from perfkit.compare.experiment import Kept

    a, b = side(NOISE[:3], "a", pairs=True), side(NOISE[:3], "b", pairs=True)
    found = compared(a, b[::-1])
    runs = [tuple(Run(Path(r.run.id)) for r in group) for group in (a, b[::-1])]
    kept = Kept(Path("x"), found, *runs)
    assert [[run.id for run in runs] for runs in kept.sides.values()] == [
        ["a0", "a1", "a2"],
        ["b0", "b1", "b2"],
    ]


def test_a_p_value_above_alpha_decides_nothing() -> None:
    """Runs of sd 0.1, three a side, 0.2 apart: t = 2.45 with 4 degrees of freedom, p = 0.07."""
    (one,) = [
        result
        for result in judge(
            side([0.0, 0.1, 0.2], "a"), side([0.2, 0.3, 0.4], "b"), Options(primary=("p50",))
        ).results
        if result.metric == "p50"
    ]
    assert one.p_adjusted == pytest.approx(2 * scipy.stats.t.sf(0.2 / (0.1 * math.sqrt(2 / 3)), 4))
    assert (round(one.p_adjusted, 2), one.verdict) == (0.07, "inconclusive")
