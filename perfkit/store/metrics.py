"""The metrics of a run: names, units, which way is better, and the requests each is taken over.

Thresholds, comparisons, gates, trends and pages take them from here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["latency", "rate", "errors", "findings"]
Population = Literal["successes", "all", "censored", "slo"]
Column = Literal["response_ms", "ttft_ms", "tpot_ms"]

UNITS: dict[Kind, str] = {"latency": "ms", "rate": "/s", "errors": "", "findings": ""}
#: Units a limit may be written in, as multiples of the metric's own (ms, share, per second).
MULTIPLES: dict[Kind, dict[str, float]] = {
    "latency": {"ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001},
    "errors": {"%": 0.01},
    "rate": {"/s": 1.0, "/min": 1 / 60},
    "findings": {"": 1.0},
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    population: the requests it is computed over. `successes`; `all`; `censored`: successes, and the requests
    that timed out or were cut off, which are known only to have taken longer than the client waited; `slo`:
    successes that meet the workload's `slo`. p: of a quantile. column: the latency it is computed from.
    """

    name: str
    kind: Kind
    population: Population = "successes"
    p: float | None = None
    column: Column = "response_ms"

    @property
    def unit(self) -> str:
        """`ms`, `/s`, or none for a share."""
        return UNITS[self.kind]

    @property
    def higher_is_better(self) -> bool:
        """Of a rate; of all others lower is."""
        return self.kind == "rate"


#: What comparisons, gates and trends know. Latencies are of successes: failures have a metric of their own.
METRICS: dict[str, Metric] = {
    one.name: one
    for one in (
        *(Metric(f"p{100 * p:g}", "latency", p=p) for p in (0.5, 0.9, 0.95, 0.99)),
        Metric("mean", "latency"),
        Metric("throughput", "rate"),
        Metric("goodput", "rate", "slo"),
        Metric("error_rate", "errors", "all"),
        *(Metric(f"ttft_p{100 * p:g}", "latency", p=p, column="ttft_ms") for p in (0.5, 0.99)),
        *(Metric(f"tpot_p{100 * p:g}", "latency", p=p, column="tpot_ms") for p in (0.5, 0.99)),
        Metric("success_p99", "latency", "all", p=0.99),
    )
}
#: What thresholds know besides quantiles: there a request that timed out counts as slower than any limit.
_OF_THRESHOLDS = {
    "mean": Metric("mean", "latency", "censored"),
    "max": Metric("max", "latency", "censored"),
    "min": Metric("min", "latency"),
    "error_rate": METRICS["error_rate"],
    "rate": METRICS["throughput"],
    "goodput": METRICS["goodput"],
    "findings": Metric("findings", "findings", "all"),
}
THRESHOLD_NAMES = tuple(_OF_THRESHOLDS)
_QUANTILE = re.compile(r"(?:(ttft|tpot)_)?p(\d+(?:\.\d+)?)")
_COLUMNS: dict[str | None, Column] = {None: "response_ms", "ttft": "ttft_ms", "tpot": "tpot_ms"}


def of_threshold(name: str) -> Metric | None:
    """The metric a threshold names: `pNN`, `ttft_pNN`, `tpot_pNN` of any percentile too; None for another."""
    if found := _QUANTILE.fullmatch(name):
        return Metric(name, "latency", "censored", float(found[2]) / 100, _COLUMNS[found[1]])
    return _OF_THRESHOLDS.get(name)
