"""Experiments that stop when the question is answered: their levels, their looks, their plan on disk."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit import stats
from perfkit.compare import Options, experiment, judging, turns
from perfkit.compare.experiment import Kept
from perfkit.compare.nouns import Look
from perfkit.compare.until_clear import LOOKS, looks_up_to, run_until_clear
from perfkit.errors import Interrupted
from perfkit.model import Stopping
from perfkit.store import Run
from tests.small_server import small_server
from tests.test_cli import perfkit


@pytest.mark.parametrize(
    ("counts", "power", "published"),
    [
        # bounds 2.576 2.490 2.411 2.340 2.274 (Jennison & Turnbull 2000, table 7.4, rho = 1)
        ((1, 2, 3, 4, 5), 1.0, (0.0100, 0.0128, 0.0159, 0.0193, 0.0230)),
        ((3, 5, 8, 13, 20), 2.0, (0.00113, 0.00235, 0.0059, 0.0162, 0.0389)),
        ((3, 5, 7, 10), 2.0, (0.0045, 0.0097, 0.0176, 0.0374)),
    ],
)
def test_levels_agree_with_published_tables(
    counts: tuple[int, ...], power: float, published: tuple[float, ...]
) -> None:
    """The recursion is within 2 % of the tables."""
    found = stats.nominal_levels([count / counts[-1] for count in counts], 0.05, power)
    assert found == pytest.approx(published, rel=0.02)


def test_all_looks_together_keep_the_level() -> None:
    """Of 40,000 walks without a difference 5 % are called one at some look, however the looks lie."""
    rng = np.random.default_rng(20261130)
    for counts, last in (((3, 5, 8, 13, 20), False), ((3, 4, 9), True)):
        levels = stats.nominal_levels([count / 20 for count in counts], last=last)
        walks = rng.normal(size=(40_000, counts[-1])).cumsum(axis=1)
        z = walks[:, np.array(counts) - 1] / np.sqrt(counts)
        bounds = np.array([stats.t_factor(1 - level, 1e9) for level in levels])
        assert (np.abs(z) > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("counts", [(3, 5, 8, 13, 20), (3, 5, 8, 10), (3, 20)])
def test_intervals_hold_at_whichever_look_one_stops(counts: tuple[int, ...]) -> None:
    """Whoever stops where it suits has a true interval in 95 % of 40,000 experiments of few runs."""
    x = np.random.default_rng(20261130).normal(size=(40_000, counts[-1]))
    missed = np.zeros(len(x), bool)
    for i, count in enumerate(counts):
        look = Look(counts=counts[: i + 1], most=counts[-1], final=count == counts[-1])
        y = x[:, :count]
        half = stats.t_factor(1 - look.level(0.05), count - 1) * y.std(axis=1, ddof=1) / np.sqrt(count)
        missed |= np.abs(y.mean(axis=1)) > half
    assert missed.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(x))


def test_a_look_without_more_pairs_is_the_same_look() -> None:
    """Pairs that were excluded leave a look with what counts; one that shows nothing new costs nothing."""
    look = Look(counts=(3, 5), most=20)
    assert look.now(5).counts == look.now(2).counts == look.counts
    last = Look(counts=(3, 5, 8, 13), most=20, final=True).now(12)
    assert last.level(0.05) == pytest.approx(0.9 * (0.05 - 0.05 * (13 / 20) ** 2)), (
        "what is left, and no look forgotten"
    )
    assert look.now(8).counts == (3, 5, 8)
    assert look.now(7).level(0.05) > look.now(7).level(0.01)
    assert Look(counts=(3,), most=20, final=True).level(0.05) == pytest.approx(0.05)
    assert Options(look=look.now(8)).interval_level == pytest.approx(100 * (1 - look.now(8).level(0.05)))


def test_looks_go_as_far_as_asked() -> None:
    """The same looks at the beginning, whatever the most; the last one is at the most."""
    assert looks_up_to(20) == LOOKS
    assert looks_up_to(3) == (3,)
    assert looks_up_to(10) == (3, 5, 8, 10)
    assert looks_up_to(60) == (3, 5, 8, 13, 20, 33, 53, 60)


def _workload(url: str, path: str) -> dict[str, Any]:
    return {
        "scenario": "http_get",
        "params": {"path": path},
        "target": {"url": url},
        "users": {"count": 2, "iterations": 150},
        "budget": {"delay_ms": 10000, "cpu_share": 100, "gc_pause_ms": 60000},
    }


GIVEN = {side: _workload("http://127.0.0.1:9", "/x") for side in "AB"}


@pytest.fixture
def made_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs are made timelines: those of B `scale` times as slow; they differ by `sd` (log scale)."""

    def use(scale: float, sd: float, stop_after: int = 10_000, first: int = 0) -> None:
        numbers = itertools.count(1)
        rng = np.random.default_rng(7)

        def carry_out(work: Any, data: Path, **_: Any) -> list[Run]:
            number = next(numbers)
            if number > stop_after:
                raise KeyboardInterrupt
            slow = scale if number % 4 in (2, 3) else 1.0  # AB BA
            noise = float(np.exp(rng.normal(0, sd)))
            run = make_timeline(
                data, 4000, seed=first + number, error_rate=0.0, operations=["one"], scale=slow * noise,
                restless=0.0, run_id=f"20260101-{first + number:06d}-made-{first + number:04x}",
                meta={"health": {"valid": True, "reasons": []}},
            )  # fmt: skip
            return [run]

        monkeypatch.setattr(turns, "run_repeats", carry_out)

    return use


def _until_clear(data: Path, stopping: Stopping | None = None, **options: Any) -> Kept:
    asked = Options(primary=("p50",), force=True, **options)
    names = ("before", "after")
    return run_until_clear(
        GIVEN, names, asked, data, (), stopping=stopping or Stopping(), show_progress=False
    )


def test_a_clear_difference_stops_at_the_first_look(made_runs: Any, tmp_path: Path) -> None:
    """Three pairs are enough for a tenfold response time; the words say at which level that was decided."""
    made_runs(10.0, 0.01)
    kept = _until_clear(tmp_path)
    assert (kept.comparison.verdict, kept.comparison.pairs) == ("regressed", 3)
    assert kept.comparison.options.look == Look(counts=(3,), most=20)
    assert (
        "Stopped with 3 pairs that count, of at most 20, at look 1 (level 0.10% of 5%)"
        in kept.comparison.words
    )
    level = 100 * (1 - kept.comparison.options.level)
    assert f"[{level:.4g} %: +" in kept.comparison.words
    again = experiment.open_comparison(kept.id, tmp_path)
    assert again.comparison.options.look == kept.comparison.options.look


def test_a_look_reduces_only_what_is_new(
    made_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sixteen runs of three looks each is reduced once."""
    reduced: list[Path] = []
    whole = judging.reduce_part

    def reduce(part: Any, *how: Any) -> Any:
        reduced.append(part.run.path)
        return whole(part, *how)

    monkeypatch.setattr(judging, "reduce_part", reduce)
    made_runs(1.0, 0.1)
    _until_clear(tmp_path, Stopping(max_repeats=8))
    assert len(reduced) == len(set(reduced)) == 16


def test_noise_is_looked_at_to_the_end(made_runs: Any, tmp_path: Path) -> None:
    """Where runs differ by 10 % nothing is decided about the same server; every look is written down."""
    made_runs(1.0, 0.1)
    kept = _until_clear(tmp_path, Stopping(max_repeats=8))
    assert kept.comparison.verdict == "inconclusive"
    assert kept.comparison.options.look == Look(counts=(3, 5, 8), most=8, final=True)
    (plan,) = (tmp_path / "experiments").glob("*.json")
    assert json.loads(plan.read_text()) == {"id": plan.stem, "most": 8, "counts": [3, 5, 8], "done": True}


def test_the_same_server_is_found_equivalent_early(made_runs: Any, tmp_path: Path) -> None:
    """Runs that differ little and do not differ between the sides need not be repeated twenty times."""
    made_runs(1.0, 0.004)
    kept = _until_clear(tmp_path)
    assert kept.comparison.verdict == "equivalent"
    assert kept.comparison.pairs < 20


def test_an_interrupted_experiment_goes_on_at_its_levels(made_runs: Any, tmp_path: Path) -> None:
    """The plan is there before the first run; the same call counts the pairs and looks that were there."""
    made_runs(1.0, 0.1, 9)
    with pytest.raises(Interrupted, match="pair 5 of 8"):
        _until_clear(tmp_path, Stopping(max_repeats=8))
    (plan,) = (tmp_path / "experiments").glob("*.json")
    assert json.loads(plan.read_text()) == {"id": plan.stem, "most": 8, "counts": [3], "done": False}
    made_runs(1.0, 0.1, first=20)
    kept = _until_clear(tmp_path, Stopping(max_repeats=8))
    assert kept.comparison.options.look == Look(counts=(3, 5, 8), most=8, final=True)
    assert len(kept.a) == 8


def test_other_code_is_another_question(made_runs: Any, tmp_path: Path) -> None:
    """An experiment is not continued with a scenario that was edited after it was interrupted."""
    scenario = tmp_path / "mine.py"
    scenario.write_text("async def step(session, state, rng):\n    await session.get('/')\n")
    given = {side: _workload("http://127.0.0.1:9", "/x") | {"scenario": str(scenario)} for side in "AB"}
    for one in given.values():
        del one["params"]

    def interrupted(first: int) -> None:
        made_runs(1.0, 0.1, 9, first=first)
        asked = (given, ("before", "after"), Options(primary=("p50",), force=True), tmp_path, ())
        with pytest.raises(Interrupted):
            run_until_clear(*asked, stopping=Stopping(max_repeats=8), show_progress=False)

    interrupted(0)
    scenario.write_text(scenario.read_text() + "    await session.get('/more')\n")
    interrupted(20)
    assert len(list((tmp_path / "experiments").glob("*.json"))) == 2


def test_a_budget_of_time_ends_with_a_last_look(made_runs: Any, tmp_path: Path) -> None:
    """No pair is begun that would not fit; the last look uses what is left of the level."""
    made_runs(1.0, 0.1)
    kept = _until_clear(tmp_path, Stopping(budget_s=0.001))
    assert kept.comparison.options.look == Look(counts=(2,), most=20, final=True)
    assert kept.comparison.options.level == pytest.approx(0.05)


@pytest.mark.drill
def test_a_real_experiment_stops_early(tmp_path: Path) -> None:
    """Through the command line: a server that takes twenty times as long is known as that before 20 pairs."""
    with small_server() as server:
        for name, path in (("fast", "/slow/1"), ("slow", "/slow/20")):
            (tmp_path / f"{name}.yaml").write_text(json.dumps(_workload(server.url, path)))
        files = [str(tmp_path / f"{name}.yaml") for name in ("fast", "slow")]
        done = perfkit(
            *("compare", *files, "--vary", "params", "--force", "--until-clear", "--budget", "10m"),
            *("--no-report",), data=tmp_path / "data",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("REGRESSED: slow vs fast: p50 +")
    assert "of at most 20, at look" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-repeats", "9"), "--max-repeats goes with --until-clear"),
        (("--budget", "45m"), "--budget goes with --until-clear"),
        (("--until-clear", "--repeats", "3"), "--repeats and --until-clear exclude each other"),
        (("--until-clear", "--budget", "soon"), "--budget 'soon' is not a time; write"),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """One clear line, exit code 2, and no run."""
    file = tmp_path / "w.yaml"
    file.write_text("scenario: http_get\ntarget: {url: 'http://127.0.0.1:9'}\nusers: {iterations: 1}\n")
    done = perfkit("compare", str(file), str(file), *options, data=tmp_path / "data")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr
    assert not (tmp_path / "data" / "runs").exists()


def test_existing_runs_are_not_carried_out(tmp_path: Path) -> None:
    """`--until-clear` makes runs; with runs that exist it is refused."""
    done = perfkit("compare", "latest", "latest", "--until-clear", data=tmp_path)
    assert (done.returncode, "is for workload files" in done.stderr) == (2, True)
