"""What every client sends, and how it tells what it recorded: one JSON object on its last line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

PATH = "/bench"
BODY = {"name": "agent-000001", "text": "a small JSON body, the same for every client " * 2}
WARMUP_S = 1.0  #: open loop: what is planned in the first second is not counted
USER_RATE = 10.0  #: open loop: Locust's users repeat this often a second


def tell(**figures: Any) -> None:
    """Hand figures to the benchmark."""
    print(json.dumps(figures), flush=True)


def tell_lateness(late_ms: Sequence[float]) -> None:
    """Hand over the kick-off errors of an open loop."""
    ordered = sorted(late_ms)
    at = {name: ordered[min(len(ordered) - 1, int(p * len(ordered)))] for name, p in _QUANTILES}
    over = sum(late > 1 for late in ordered) / len(ordered)
    tell(recorded=len(ordered), over_1ms=over, max=ordered[-1], **at)


_QUANTILES = (("p50", 0.5), ("p99", 0.99))
