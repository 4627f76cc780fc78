"""Findings about a service's own limits: time limits, admission, and calls of the model that are repeated."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from perfkit.observe.frames import of_probe, only, span
from perfkit.observe.limits import Limits
from perfkit.store.metadata import Finding

#: Of each limit by its name in `limit.reached`: the finding, and its words; value: of the limit.
_REACHED = {
    "model": (
        "model_timeouts",
        "{n:,} calls of the model were given up: it sent nothing for {value} s, the service's time limit "
        "(model_timeout_s); {answers:,} others were answered. Ask the model's provider, or use a faster "
        "model; with a higher limit requests wait longer instead of failing.",
    ),
    "tool": (
        "tool_timeouts",
        "{n:,} executions of a tool were given up after {value} s, the service's time limit "
        "(tool_timeout_s): it hangs or is slow. Look at what it waits for; raise the limit only where tools "
        "need that long.",
    ),
    "request": (
        "request_timeouts",
        "{n:,} requests were given up by the service after {value} s, its time limit (request_timeout_s). "
        "Look at where the slowest requests' time goes before raising it.",
    ),
    "admission": (
        "requests_refused",
        "{n:,} requests were refused (503 with Retry-After): {value} were under way already, the service's "
        "admission limit (max_requests).{cpu} Add instances; raise the limit only if it has room for more.",
    ),
}


def findings(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """All findings about limits the service reached; of statements cancelled see `database`."""
    answers = len(of_probe(samples, "model.ttft_ms"))
    cpu = of_probe(samples, "process.cpu_share")["value"]
    used = f" Meanwhile its process used {cpu.mean():.0%} of a core." if len(cpu) else ""
    reached = of_probe(samples, "limit.reached")
    for name, (kind, text) in _REACHED.items():
        part = only(reached, label=name)
        if len(part) >= limits.limit_reached:
            value = " and ".join(f"{one:g}" for one in sorted(part["value"].unique()))
            yield Finding(kind, text.format(n=len(part), value=value, answers=answers, cpu=used), *span(part))
    yield from _model_retries(samples, limits)


def _model_retries(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Calls of the model were repeated, and requests waited for that."""
    part = of_probe(samples, "model.retry_ms")
    calls = len(of_probe(samples, "model.ttft_ms"))
    if len(part) < max(limits.model_retries, limits.model_retry_share * calls):
        return
    reasons = ", ".join(f"{n:,} × {reason}" for reason, n in part["label"].value_counts().items())
    waited = part.groupby("request_id")["value"].sum() if part["request_id"].notna().any() else part["value"]
    text = f"Calls of the model were repeated {len(part):,} times for {calls:,} answers ({reasons}): "
    text += f"{len(waited):,} requests waited {waited.mean():,.0f} ms for that on average, "
    text += f"{waited.max():,.0f} ms at most. Look at the model's errors and its provider's rate limits; "
    text += "fewer retries and shorter pauses fail sooner instead."
    yield Finding("model_retries", text, *span(part))
