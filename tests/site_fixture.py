"""A published site for tests: made runs, a hostile one, the samples, a comparison; three real reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.make_timeline import make_timeline
from perfkit.compare import Options, experiment
from perfkit.report import make_comparison_report, make_report
from perfkit.site import Published, Wishes, publish
from perfkit.store import Run

SAMPLES = Path(__file__).parents[1] / "data" / "sample"
#: Markup, a terminal's colour, text turned around, and nothing at all.
HOSTILE = "<script>document.title='owned'</script>\x1b[31mred\x1b[0m \u202egnp\x00"
MEGABYTE = "nonsense " * 116_000
#: A folder's name that is no address.
ODD_NAME = "20260105 <script>x#?%41&'\"-é\u202e"
NIGHTLY: dict[str, Any] = {
    "workload": {
        "scenario": "agent_mass_creation",
        "arrivals": {"shape": "poisson", "rate_per_s": 200.0, "duration_s": 12.0},
        "target": {"url": "http://127.0.0.1:8283"},
        "seed": 1,
    },
    "scenario": {"name": "agent_mass_creation", "doc": "Agents.", "params": {}},
    "target": {"url": "http://127.0.0.1:8283"},
}


@dataclass(frozen=True)
class Site:
    """A site, the data folder it was made from, and what publishing it said."""

    path: Path
    data: Path
    done: Published

    @property
    def index(self) -> dict[str, Any]:
        """index.json."""
        return dict(json.loads((self.path / "index.json").read_text()))

    def run(self, name: str) -> dict[str, Any]:
        """A run of index.json."""
        return next(one for one in self.index["runs"] if one["id"] == name)


def nightly(data: Path, day: int, rows: int = 2400, **meta: Any) -> Run:
    """One of a series of runs of the same configuration."""
    told = {"created": f"2026-01-{day:02d}T08:00:00+00:00", "tags": ["nightly"], "thresholds": []}
    told |= {"git": {"sha": f"{day:02d}" * 20, "dirty": day == 2}}
    name = f"202601{day:02d}-080000-nightly"
    return make_timeline(data, rows, seed=day, restless=0.1, run_id=name, meta=NIGHTLY | told | meta)


def sample(data: Path, name: str) -> Run:
    """A sample as a run of `data`."""
    told = json.loads((SAMPLES / name / "run.json").read_text())
    shutil.copytree(SAMPLES / name, data / "runs" / told["id"], ignore=shutil.ignore_patterns("report"))
    return Run(data / "runs" / told["id"])


def hostile(data: Path) -> Run:
    """A run with hostile words wherever words can be, a megabyte of them in places."""
    meta: dict[str, Any] = {
        "created": HOSTILE,
        "note": MEGABYTE + HOSTILE,
        "tags": [HOSTILE, "y" * 300] * 30,
        "scenario": {"name": HOSTILE, "doc": MEGABYTE, "params": {HOSTILE: MEGABYTE}},
        "target": {"url": "http://" + HOSTILE},
        "git": {"sha": HOSTILE, "dirty": True},
        "health": {"valid": False, "reasons": [HOSTILE + MEGABYTE], "workers": [{"worker": HOSTILE}]},
        "step_errors": [{"text": HOSTILE + MEGABYTE, "count": HOSTILE}],
        "thresholds": [{"text": HOSTILE, "value": 1, "ok": False, "note": MEGABYTE}],
    }
    return make_timeline(
        data, 900, seed=98, operations=["get", HOSTILE], error_rate=0.05, run_id=ODD_NAME, meta=meta
    )


def compared(data: Path) -> experiment.Kept:
    """Three pairs, B a fifth slower and hostile by name."""
    sides = [
        [
            make_timeline(data, 2500, seed=20 + 10 * k + pair, scale=by, restless=0.02, error_rate=0.0,
                          run_id=f"20260104-00{k}{pair}00-pair",
                          meta={"created": f"2026-01-04T0{k}:0{pair}:00Z",
                                "experiment": {"id": "x", "pair": pair, "order": 2 * pair + k}})
            for pair in (1, 2, 3)
        ]
        for k, by in ((0, 1.0), (1, 1.2))
    ]  # fmt: skip
    return experiment.compare_and_keep(*sides, Options(), ("before", HOSTILE), data)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Everything a site can hold, published once; tests only read it."""
    data = tmp_path_factory.mktemp("data")
    for day in range(1, 10):
        nightly(data, day)
    nightly(data, 10, thresholds=[{"text": "p95 < 300 ms", "value": 312.0, "ok": False}])
    nightly(data, 11, health={"valid": False, "reasons": ["kick-off delay p99 31 ms is over 10 ms"]})
    nightly(data, 12, state="aborted", reason="interrupted", rows=60)
    make_report(hostile(data), progress=False)
    make_report(sample(data, "http_get"), progress=False)
    sample(data, "agent_mass_creation")
    make_comparison_report(compared(data).path, progress=False)
    path = tmp_path_factory.mktemp("web") / "site"
    return Site(path, data, publish(path, data, Wishes(title="Agent server", reports=False)))
