"""Thresholds: what is read, what is refused, what is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfkit.errors import BadInput
from perfkit.store.metadata import ThresholdResult
from perfkit.store.rows import Part
from perfkit.store.thresholds import parse
from tests.hand_made import MS, S, row, write_run

_INSTANTS = ("planned", "started", "sent", "first_byte", "first_token", "done")


def a_part(folder: Path, rows: list[dict[str, Any]]) -> Part:
    """The measured part of a run of these rows, 10 s from 10 s on."""
    return Part(write_run(folder, "20260101-000000-thresholds-0001", rows))


def request(i: int, took_ms: float, **more: Any) -> dict[str, Any]:
    """The i-th request: sent as it is planned, its first byte after half of the time."""
    planned = 10 * S
    half = planned + int(took_ms * MS / 2)
    stream = {"first_token": half, "chunks": [int(took_ms * 500)]}
    return row(planned, int(took_ms * MS), late=0, sent=planned, first_byte=half, **stream) | more


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("p95(a/read) < 1 s", 0.0002174, "0.2174 ms"),
        ("p95 < 1 s", 0.9123, "0.9123 s"),
        ("p95 < 300 ms", 0.061824, "61.82 µs"),
        ("p95 < 300 ms", 12345.0, "12.35 s"),
        ("p95 < 300 ms", 217.4, "217.4 ms"),
        ("p50 < 900 us", 47.1, "47.1 us"),
        ("p50 < 900 us", 5_200_000.0, "5200 ms"),
        ("p50 < 1 s", 0.0, "0 s"),
        ("error_rate < 1 %", 0.01, "0.01 %"),
        ("rate > 5 /s", 0.01, "0.01 /s"),
    ],
)
def test_a_measured_time_has_a_unit_of_its_size(text: str, value: float, said: str) -> None:
    """The unit it was written in while the number is 0.1 to 10,000 there; nothing but a time changes it."""
    assert ThresholdResult(text=text, value=value).measured == said


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """100 requests of two operations: 1 … 100 ms, the last two of them failed; five end after the 10 s."""
    rows = [request(i, i, operation="create_agent" if i <= 50 else "send") for i in range(1, 101)]
    for i, error in ((99, "http_5xx"), (100, "reset")):
        rows[i - 1] |= {"error": error}
    for one in rows[93:98]:
        shift = 10 * S
        one |= {name: one[name] + shift for name in _INSTANTS}
    return a_part(tmp_path, rows)


@pytest.mark.parametrize(
    ("text", "value", "ok"),
    [
        ("p50 < 51 ms", 49.5, True),
        ("p50<0.0495 s", 0.0495, False),
        ("p50 <= 0.0495 s", 0.0495, True),
        ("p99(create_agent) <= 1.5 s", np.quantile(np.arange(1.0, 51.0), 0.99) / 1000, True),
        ("mean < 49 ms", 49.5, False),
        ("max <= 98 ms", 98.0, True),
        ("min > 1000 us", 1000.0, False),
        ("error_rate < 1 %", 2.0, False),
        ("error_rate <= 0.02", 0.02, True),
        ("error_rate <= 2 %", 2.0, True),
        ("error_rate(create_agent) < 1 %", 0.0, True),
        ("rate > 9 /s", 9.3, True),
        ("rate(send) >= 5 /s", 4.3, False),
        ("ttft_p50 < 1 s", 0.02475, True),
    ],
)
def test_values(part: Part, text: str, value: float, ok: bool) -> None:
    """The value comes in the threshold's own unit, over the requests that succeeded."""
    measured, met, _ = parse(text).evaluate(part)
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
        ("error_rate < 5", "share of all requests; write error_rate < 5 %"),
        ("error_rate(a) <= 1", "write error_rate(a) <= 1 %"),
        ("p0 < 3 ms", "between 0 and 100"),
        ("p100 < 3 ms", "between 0 and 100"),
        ("p95() < 3 ms", "the brackets are empty"),
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


def timed_out(folder: Path, count: int, answered: int) -> Part:
    """Answers of 1, 2, … ms and timeouts after a minute."""
    late = [request(0, 60_000, error="timeout", first_byte=None) for _ in range(count)]
    return a_part(folder, [*(request(i, i) for i in range(1, answered + 1)), *late])


def test_timeouts_are_longer_than_any_answer(tmp_path: Path) -> None:
    """Quantiles rank timeouts behind all answers; where one falls among them: no value, and a miss.

    A mean and a maximum have none as soon as one request timed out.
    """
    most = timed_out(tmp_path / "most", 60, 40)
    measured = parse("p95 < 300 ms").evaluate(most)
    assert (math.isnan(measured.value), measured.ok) == (True, False)
    assert measured.note == "beyond the timeout: 60 of 100 requests timed out or were cut off"
    all_of_them = timed_out(tmp_path / "all", 30, 0)
    assert "30 of 30 requests" in (parse("p50 < 1 s").evaluate(all_of_them).note or "")
    some = timed_out(tmp_path / "some", 20, 80)
    measured = parse("p50 < 300 ms").evaluate(some)
    everything = [*np.arange(1.0, 81.0), *[10_000.0] * 20]
    assert (measured.value, measured.ok) == (pytest.approx(np.quantile(everything, 0.5), abs=1e-12), True)
    for text in ("mean < 100 s", "max < 100 s"):
        measured = parse(text).evaluate(some)
        assert (math.isnan(measured.value), measured.ok) == (True, False)
        assert "20 of 100 requests timed out" in (measured.note or "")
    assert parse("min < 2 ms").evaluate(some).ok


def test_a_quantile_on_few_requests_says_so(tmp_path: Path) -> None:
    """p95 of 30 requests is judged, with the word that it rests on 1.5 of them."""
    few = timed_out(tmp_path, 0, 30)
    assert parse("p95 < 300 ms").evaluate(few).note == "rests on 1.5 of 30 requests"
    assert parse("p50 < 300 ms").evaluate(few) == (15.5, True, None)


def test_each_attempt_counts_and_is_told(tmp_path: Path) -> None:
    """Of 40 requests 10 failed first and were repeated: a fifth of 50 attempts failed."""
    rows = [request(i, 5, error="http_5xx" if i % 4 == 0 else None) for i in range(40)]
    rows += [request(40 + i, 5, attempt=2) for i in range(10)]
    measured = parse("error_rate < 1 %").evaluate(a_part(tmp_path, rows))
    assert measured == (20.0, False, "each attempt counts, 10 are repeats")


def test_unknown_operation(part: Part) -> None:
    """An operation the run does not have is refused with the nearest one, not silently met."""
    with pytest.raises(BadInput, match="did you mean 'create_agent'"):
        parse("p50(create_agnt) < 1 s").evaluate(part)


def test_an_operation_of_the_warm_up_alone_is_told(tmp_path: Path) -> None:
    """Its requests were sent, and none was measured: that is said, not that nobody knows it."""
    warm = [request(i, i, operation="login", phase="warmup") for i in range(1, 4)]
    part = a_part(tmp_path, [*warm, request(9, 9, operation="read")])
    with pytest.raises(BadInput, match=r"^every request of login \(3\) fell into the warm-up \(warmup_s: "):
        parse("p50(login) < 1 s").evaluate(part)


def test_nothing_is_missed(tmp_path: Path) -> None:
    """A threshold over no request is missed, whatever it asks."""
    empty = a_part(tmp_path, [])
    for text in ("p50 < 1 s", "p50 > 0 s", "error_rate < 1 %", "max < 1 s", "ttft_p95 < 1 s"):
        value, ok, _ = parse(text).evaluate(empty)
        assert math.isnan(value)
        assert ok is False
