"""Thresholds: what is read, what is refused, what is measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from perfkit.errors import BadInput
from perfkit.thresholds import parse


@pytest.fixture
def frame() -> pd.DataFrame:
    """100 requests of two operations: 1 … 100 ms, the last two of them failed, over 10 s."""
    made = pd.DataFrame({"response_ms": np.arange(1.0, 101.0), "ttft_ms": np.arange(1.0, 101.0) / 2})
    made["done_s"] = np.arange(1, 101) / 9.5  # the last five ended after the measured part
    made["operation"] = pd.Categorical(["create_agent"] * 50 + ["send"] * 50)
    made["error"] = pd.Categorical([None] * 98 + ["timeout", "reset"])
    made.attrs["span_s"] = 10.0
    return made


@pytest.mark.parametrize(
    ("text", "value", "ok"),
    [
        ("p50 < 51 ms", 50.0, True),
        ("p50<0.05 s", 0.05, False),
        ("p50 <= 0.05 s", 0.05, True),
        ("p99(create_agent) <= 1.5 s", np.quantile(np.arange(1.0, 51.0), 0.99) / 1000, True),
        ("mean < 49 ms", 49.5, False),
        ("max <= 98 ms", 98.0, True),
        ("min > 1000 us", 1000.0, False),
        ("error_rate < 1 %", 2.0, False),
        ("error_rate <= 0.02", 0.02, True),
        ("error_rate <= 2 %", 2.0, True),
        ("error_rate(create_agent) < 1 %", 0.0, True),
        ("rate > 9 /s", 9.5, True),
        ("rate(send) >= 5 /s", 4.5, False),
        ("ttft_p50 < 1 s", 0.02475, True),
    ],
)
def test_values(frame: pd.DataFrame, text: str, value: float, ok: bool) -> None:
    """The value comes in the threshold's own unit, over the requests that succeeded."""
    measured, met, _ = parse(text).evaluate(frame)
    assert measured == pytest.approx(value, abs=1e-12)
    assert met is ok


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p95 300", "write it like"),
        ("p95 < 300", "unit of ms"),
        ("p95 < 300 parsecs", "'parsecs'"),
        ("rate > 5 ms", "unit of /s"),
        ("eror_rate < 1 %", "did you mean 'error_rate'"),
        ("p0 < 3 ms", "between 0 and 100"),
        ("p100 < 3 ms", "between 0 and 100"),
        ("p95() < 3 ms", "no operation between the brackets"),
        ("", "write it like"),
        ("p95 < -3 ms", "write it like"),
    ],
)
def test_refused_in_one_line(text: str, words: str) -> None:
    """What cannot be read is refused with what is allowed, in one line."""
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def timed_out(count: int, answered: int) -> pd.DataFrame:
    """Answers of 1, 2, … ms and timeouts after a minute."""
    made = pd.DataFrame({"response_ms": [*np.arange(1.0, answered + 1), *[60_000.0] * count]})
    made["operation"] = pd.Categorical(["get"] * len(made))
    made["error"] = pd.Categorical([None] * answered + ["timeout"] * count)
    made["ttft_ms"] = made["done_s"] = 1.0
    made.attrs["span_s"] = 10.0
    return made


def test_timeouts_are_longer_than_any_answer() -> None:
    """A quantile ranks timeouts behind all answers; where it falls among them: no value, and a miss."""
    measured = parse("p95 < 300 ms").evaluate(timed_out(60, 40))
    assert (math.isnan(measured.value), measured.ok) == (True, False)
    assert measured.note == "beyond what was waited for: 60 of 100 requests timed out or were cut off"
    assert "30 of 30 requests" in (parse("p50 < 1 s").evaluate(timed_out(30, 0)).note or "")
    measured = parse("p50 < 300 ms").evaluate(timed_out(20, 80))
    everything = [*np.arange(1.0, 81.0), *[10_000.0] * 20]
    assert (measured.value, measured.ok) == (np.quantile(everything, 0.5), True)


def test_a_quantile_on_few_requests_says_so() -> None:
    """p95 of 30 requests is judged, with the word that it rests on 1.5 of them."""
    assert parse("p95 < 300 ms").evaluate(timed_out(0, 30)).note == "rests on 1.5 of 30 requests"
    assert parse("p50 < 300 ms").evaluate(timed_out(0, 30)).note is None


def test_unknown_operation(frame: pd.DataFrame) -> None:
    """An operation the run does not have is refused with the nearest one, not silently met."""
    with pytest.raises(BadInput, match="did you mean 'create_agent'"):
        parse("p50(create_agnt) < 1 s").evaluate(frame)


def test_nothing_is_missed(frame: pd.DataFrame) -> None:
    """A threshold over no request is missed, whatever it asks."""
    empty = frame.iloc[:0]
    for text in ("p50 < 1 s", "p50 > 0 s", "error_rate < 1 %", "max < 1 s"):
        value, ok, _ = parse(text).evaluate(empty)
        assert math.isnan(value)
        assert ok is False
