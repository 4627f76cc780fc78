"""Time per output token and goodput: by hand, and the same number wherever it is asked for."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from perfkit import figures, frames
from perfkit.compare import Options, compare, gate
from perfkit.compare.reduce import reduce_run
from perfkit.drive.running import checked
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from perfkit.store import Run, slo
from perfkit.store.rows import Part
from perfkit.store.summary import TOTAL, summarize, warnings
from perfkit.store.thresholds import parse
from perfkit.store.words import describe_run
from tests.hand_made import MS, S, row, write_run

SLO = "ttft < 500 ms and tpot < 50 ms"


def stream(i: int, ttft_ms: float, tokens: int | None, tpot_ms: float, **more: Any) -> dict[str, Any]:
    """The i-th of 100 a second: sent when planned, its first token and its tokens as told."""
    planned = 10 * S + 10 * i * MS
    first = planned + int(ttft_ms * MS)
    done = first + int(tpot_ms * MS * max((tokens or 2) - 1, 0))
    return row(planned, done - planned, late=0) | {
        "sent": planned, "first_byte": first, "first_token": first, "tokens_out": tokens, "chunks": [1],
        **more,
    }  # fmt: skip


def a_run(folder: Path, name: str, rows: list[dict[str, Any]], objective: str | None = SLO) -> Run:
    """A run of these rows, 10 s from 10 s on."""
    return write_run(folder, f"20260101-000000-{name}", rows, workload={"slo": objective})


def mixed(slow: int = 0) -> list[dict[str, Any]]:
    """500 streams of 11 tokens, 20 ms each, within the objective but the first `slow`; then five others."""
    good = [stream(i, 600 if i < slow else 300, 11, 20) for i in range(500)]
    return [
        *good,
        stream(500, 300, 11, 60),  # its tokens come too slowly
        stream(501, 300, 1, 0),  # one token: nobody waits between tokens
        stream(502, 300, None, 20),  # no usage: nobody knows
        stream(503, 300, 11, 20, error="http_5xx", status=503),
        row(10 * S, 5 * MS, operation="models"),  # no stream
    ]


def test_tpot_and_goodput_by_hand(tmp_path: Path) -> None:
    """tpot is (done - first token) ÷ (tokens - 1); goodput the successes within the objective a second.

    One answer with a slow token, one without usage, one failure, one that is no stream do not count.
    """
    part = Part(a_run(tmp_path, "0001", mixed(slow=100)))
    *operations, total = summarize(part)
    by_name = {one["operation"]: one["goodput_per_s"] for one in operations}
    assert (total["goodput_per_s"], total["rate_per_s"]) == (40.1, 50.4)
    assert by_name == {"read": 40.1, "models": 0}
    assert parse("goodput >= 40.1 /s").evaluate(part) == (40.1, True, None)
    assert parse("tpot_p50 < 50 ms").evaluate(part).value == pytest.approx(20)
    assert parse("tpot_p99.9(read) < 50 ms").evaluate(part).value == pytest.approx(40, rel=0.5)
    assert [one for one in warnings(part) if "usage" in one] == [
        "1 streams succeeded without usage from the server: not counted as goodput"
    ]
    assert f"goodput: successes a second with {SLO}" in describe_run(part.run)
    assert "goodput 40.1/s" in describe_run(part.run)
    table = figures.summary_table(frames.summary(part)).html
    assert re.search(r"goodput a second</th>(<td[^>]*>40\.1</td>){2}<td[^>]*>0</td>", table)


def test_without_usage_there_is_no_tpot_and_it_says_why(tmp_path: Path) -> None:
    """A chunk is not a token: no tpot, no goodput, and both thresholds are missed with the reason."""
    part = Part(a_run(tmp_path, "0001", [stream(i, 300, None, 20) for i in range(100)]))
    for text in ("tpot_p50 < 50 ms", "goodput > 0 /s"):
        value, met, note = parse(text).evaluate(part)
        assert (math.isnan(value), met) == (True, False)
        assert note == "the server reported no usage, and a chunk is not a token"
    assert math.isnan(summarize(part)[-1]["goodput_per_s"])
    assert reduce_run(part.run).value(TOTAL, "goodput") is None
    plain = Part(a_run(tmp_path, "0002", [row(10 * S, MS)], "ttft < 1 s"))
    assert parse("goodput > 0 /s").evaluate(plain).note == "no response was streamed"
    none = Part(a_run(tmp_path, "0003", mixed(), None))
    assert parse("goodput > 0 /s").evaluate(none).note == "the workload has no slo"


def test_goodput_is_compared_and_gated(tmp_path: Path) -> None:
    """Latency of successes as good as before, half of them beyond the objective: goodput has regressed."""
    a = [a_run(tmp_path, f"000{i}", mixed(slow=10 + i)) for i in range(3)]
    b = [a_run(tmp_path, f"100{i}", mixed(slow=250 + i)) for i in range(3)]
    found = compare(a, b, Options(primary=("goodput",)))
    result = found.result("goodput")
    assert (found.verdict, gate.exit_code(found), result.unit) == ("regressed", 4, "/s")
    assert result.ratio == pytest.approx(0.5, abs=0.1)
    assert found.result("tpot_p50").ratio == pytest.approx(1)
    none = [a_run(tmp_path, f"300{i}", mixed(slow=500)[:-4]) for i in range(3)]
    lost = compare(a, none, Options(primary=("goodput",)))
    assert (lost.verdict, lost.result("goodput").b) == ("regressed", 0)
    other = a_run(tmp_path, "2000", mixed(), "ttft < 1 s")
    assert "different slo" in compare(a, [other]).words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ttft < 500", "takes a unit of ms, s"),
        ("ttfb < 5 ms", "did you mean 'ttft'"),
        ("ttft > 5 ms", "write it like"),
        ("ttft < 5 ms or tpot < 5 ms", "write it like"),
        ("", "write it like"),
    ],
)
def test_what_is_no_objective_is_refused(text: str, words: str) -> None:
    """Before a run, in one line, with what is allowed."""
    with pytest.raises(BadInput, match=words):
        complete({"scenario": "http_get", "slo": text}, "test")


def test_goodput_needs_an_objective(tmp_path: Path) -> None:
    """A threshold on goodput without `slo` is refused before the run; a damaged objective is none."""
    with pytest.raises(BadInput, match="goodput needs an objective"):
        checked({"scenario": "http_get", "thresholds": ["goodput > 1 /s"]}, "test", ())
    assert slo.sql("nonsense") == slo.sql("") == "NULL::BOOLEAN"
    damaged = Part(a_run(tmp_path, "0001", mixed(), "nonsense"))
    assert math.isnan(summarize(damaged)[-1]["goodput_per_s"])
