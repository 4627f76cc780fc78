"""Findings about a service's own limits: time limits, admission, and calls of the model that are repeated."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from perfkit.observe.frames import of_probe, span
from perfkit.observe.limits import Limits
from perfkit.store.metadata import Finding


def findings(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """All findings about limits the service reached; of statements cancelled see `database`."""
    yield from _model_timeouts(samples, limits)
    yield from _tool_timeouts(samples, limits)
    yield from _request_timeouts(samples, limits)
    yield from _requests_refused(samples, limits)
    yield from _model_retries(samples, limits)


def _reached(samples: pd.DataFrame, name: str, limits: Limits) -> tuple[pd.DataFrame, str]:
    """The samples of a limit that was reached often enough, and its values in words; none of another."""
    part = of_probe(samples, "limit.reached")
    part = part[(part["label"] == name).to_numpy()]
    part = part if len(part) >= limits.limit_reached else part.head(0)
    return part, " and ".join(f"{value:g}" for value in sorted(part["value"].unique()))


def _model_timeouts(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Calls of the model were given up."""
    part, value = _reached(samples, "model", limits)
    if len(part):
        answers = len(of_probe(samples, "model.ttft_ms"))
        text = (
            f"{len(part):,} calls of the model were given up: it sent nothing for {value} s, the service's "
        )
        text += (
            f"time limit (model_timeout_s); {answers:,} others were answered. Ask the model's provider, or "
        )
        text += "use a faster model; with a higher limit requests wait longer instead of failing."
        yield Finding("model_timeouts", text, *span(part))


def _tool_timeouts(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Tools were given up."""
    part, value = _reached(samples, "tool", limits)
    if len(part):
        text = f"{len(part):,} executions of a tool were given up after {value} s, the service's time limit "
        text += (
            "(tool_timeout_s): it hangs or is slow. Look at what it waits for; raise the limit only where "
        )
        text += "tools need that long."
        yield Finding("tool_timeouts", text, *span(part))


def _request_timeouts(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Requests were given up by the service."""
    part, value = _reached(samples, "request", limits)
    if len(part):
        text = f"{len(part):,} requests were given up by the service after {value} s, its time limit "
        text += "(request_timeout_s). Look at where the slowest requests' time goes before raising it."
        yield Finding("request_timeouts", text, *span(part))


def _requests_refused(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """The service let in no more requests."""
    part, value = _reached(samples, "admission", limits)
    if len(part):
        text = f"{len(part):,} requests were refused (503 with Retry-After): {value} were under way already, "
        text += "the service's admission limit (max_requests)."
        cpu = of_probe(samples, "process.cpu_share")["value"]
        text += f" Meanwhile its process used {cpu.mean():.0%} of a core." if len(cpu) else ""
        text += " Add instances; raise the limit only if it has room for more."
        yield Finding("requests_refused", text, *span(part))


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
