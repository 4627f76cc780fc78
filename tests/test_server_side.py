"""What the server's probes become: the split of each request's time, findings by their limits, figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames
from perfkit.drive.session.sending import _AT_THE_END as AT_THE_END
from perfkit.observe import figures as server_figures
from perfkit.observe import findings
from perfkit.observe import frames as server_frames
from perfkit.observe.frames import PARTS
from perfkit.store import PROBES_SCHEMA, Run
from perfkit.store.rows import Part

ROWS = 2000
HOSTILE = "<script>alert(1)</script>"
Sample = tuple[float, str, float, str, str | None]  # t_s in the measured part, probe, value, label, request


def run_with(folder: Path, samples: list[Sample], source: str = "server", scale: float = 1.0) -> Run:
    """A made run of 10 s whose server told these samples; scale: of its response times."""
    run = make_timeline(folder, ROWS, error_rate=0.0, scale=scale)
    origin = run.meta.measured.from_ns
    t, probes, values, labels, ids = zip(*samples, strict=True) if samples else ((),) * 5
    columns = {"t": [origin + int(at * 1e9) for at in t], "source": [source] * len(t), "probe": probes}
    columns |= {"value": values, "label": labels, "request_id": ids}
    arrays = [
        pa.array(columns[field.name], field.type.value_type).dictionary_encode().cast(field.type)
        if pa.types.is_dictionary(field.type)
        else pa.array(columns[field.name], field.type)
        for field in PROBES_SCHEMA
    ]
    pq.write_table(pa.table(arrays, schema=PROBES_SCHEMA), run.path / "probes.parquet")
    return run


def measured_ids(run: Run) -> list[str]:
    table = run.table(["phase", "request_id"]).to_pandas()
    return [str(one) for one in table[table["phase"] == "measure"]["request_id"]]


def split_of(folder: Path, told: dict[str, float], who: int = 7) -> tuple[pd.Series, pd.Series]:
    """One request's row and its split when its server told these parts of it, ms."""
    blank = run_with(folder / "blank", [])
    name = measured_ids(blank)[who]
    run = run_with(folder, [(1.0, f"request.{part}_ms", x, "", name) for part, x in told.items()])
    rows = frames.measured(run)
    parts = server_frames.split(rows, server_frames.server_samples(rows))
    assert len(parts) == 1 == parts.attrs["known"]  # the others' server told nothing: they are left out
    return frames.timeline(run).iloc[who], parts.iloc[0]


def test_parts_are_the_servers_and_add_up_to_the_response(tmp_path: Path) -> None:
    """Where parts do not overlap each is what was told; client queue and rest make up the response time."""
    row, parts = split_of(tmp_path, {"app": 20, "db": 3.5, "db_wait": 2, "model": 4})
    assert (parts["db"], parts["db_wait"], parts["model"], parts["loop_lag"]) == (3.5, 2, 4, 0)
    assert parts["client"] == pytest.approx(row["response_ms"] - row["service_ms"])
    assert sum(parts[name] for name in PARTS) == pytest.approx(row["response_ms"])


def test_overlapping_parts_are_cut_to_the_time_there_was(tmp_path: Path) -> None:
    """The blocked loop keeps its share, the others shrink in proportion; nothing is negative."""
    row, parts = split_of(tmp_path, {"app": 20, "loop_lag": 10, "db": 1e4, "db_wait": 3e4})
    assert parts["loop_lag"] == 10
    assert parts["db_wait"] == pytest.approx(3 * parts["db"])
    assert parts["rest"] == pytest.approx(0, abs=1e-6)
    assert sum(parts[name] for name in PARTS) == pytest.approx(row["response_ms"])


def answered(folder: Path) -> tuple[pd.DataFrame, list[str], list[Sample]]:
    """The rows of a made run, their ids, and what its server told of each."""
    blank = run_with(folder / "blank", [])
    rows, ids = frames.timeline(blank), measured_ids(blank)
    ends = zip(rows["done_s"], ids, strict=True)
    return rows, ids, [(float(at), "request.app_ms", 0.01, "", name) for at, name in ends]


def test_what_lay_in_the_socket_while_the_loop_stood_is_the_blocked_loops(tmp_path: Path) -> None:
    """A heartbeat 5 s late at second 6: whoever was sent before and answered after has all of that from the
    loop, also what its server could not know of; whoever was not under way then has none."""
    rows, _, told = answered(tmp_path)
    beats: list[Sample] = [(6.0, "loop.lag_ms", 5000.0, "", None), (8.0, "loop.lag_ms", 1.9, "", None)]
    part = frames.measured(run_with(tmp_path, [*told, *beats]))
    parts = server_frames.split(part, server_frames.server_samples(part))
    overlap = np.minimum(rows["done_s"], 6.0) - np.maximum(rows["sent_s"], 1.0)
    right = np.maximum(overlap, 0.0).to_numpy() * 1e3
    assert len(parts) == len(rows)
    np.testing.assert_allclose(parts["loop_lag"], right, atol=1e-3)
    assert (right == 0).any()
    assert (right > 1).any()


def test_a_loop_that_stood_is_that_of_the_requests_own_server(tmp_path: Path) -> None:
    """Of two instances one stood still: requests that the other answered have nothing of it."""
    _, ids, told = answered(tmp_path)
    beats: list[Sample] = [(9.9, "loop.lag_ms", 9800.0, "", None), (9.9, "loop.lag_ms", 1.0, "", None)]
    part = frames.measured(run_with(tmp_path, [*told, *beats]))
    samples = server_frames.server_samples(part)
    beat, of_a = (samples["probe"] == "loop.lag_ms").to_numpy(), np.arange(len(samples)) % 2 == 1
    samples["source"] = np.where(np.where(beat, samples["value"] > 2, of_a), "a", "b")
    parts = server_frames.split(part, samples)
    by_b = np.isin(ids, list(samples["request_id"][~beat & ~of_a]))
    assert (parts["loop_lag"][by_b] == 0).all()
    assert (parts["loop_lag"][~by_b] > 0).mean() > 0.9


def test_tail_split_compares_the_slowest_with_the_middle(tmp_path: Path) -> None:
    """Shares of the slowest 1 % and of p40 to p60, with both sizes; of few the tenth, with its ties."""
    n = 1000
    response = np.linspace(10, 20, n)
    response[-10:] = 500
    parts = pd.DataFrame({"response_ms": response, **{name: np.zeros(n) for name in PARTS}})
    parts["db"] = 5.0
    parts.loc[parts.index[-10:], "db_wait"] = 400.0
    parts["error"] = pd.Categorical([None] * n)
    parts["rest"] = response - parts["db"] - parts["db_wait"]
    tail = server_frames.tail_split(parts).set_index(["group", "part"])
    assert (tail.loc["slowest"]["n"] == 10).all()
    assert tail.loc[("slowest", "db_wait"), "share"] == pytest.approx(0.8)
    assert tail.loc[("median", "db_wait"), "share"] == 0
    assert tail.loc["median"]["share"].sum() == pytest.approx(1)
    assert "waiting for the pool 80%" in findings.explain_tail(server_frames.tail_split(parts))
    few = findings.explain_tail(server_frames.tail_split(parts.tail(40)))
    assert few.startswith(
        "The slowest 25.0% of 40 requests (n = 10, 500 ms on average): waiting for the pool"
    )
    assert server_frames.tail_split(parts.head(4)).empty


def test_pools_of_two_instances_are_added_up(tmp_path: Path) -> None:
    """Connections out of all instances at each instant, and the size of all their pools."""
    run = run_with(
        tmp_path,
        [(t, f"pool.{what}", x, "main", None) for t in np.arange(0, 10, 0.1)
         for what, x in (("checked_out", 3.0), ("waiting", 0.0), ("overflow", 1.0), ("size", 2.0))],
    )  # fmt: skip
    rows = frames.measured(run)
    one = server_frames.server_samples(rows)
    both = pd.concat([one, one.assign(source="other")], ignore_index=True)
    both.attrs = one.attrs
    found = server_frames.pool(both)
    assert set(found["checked_out"]) == {6.0}
    assert (found["overflow"].max(), found.attrs["size"]) == (2.0, 4.0)


# -- rules: each at its limit and below it ----------------------------------------------------------


def at(times: Any, probe: str, value: float, label: str = "x") -> list[Sample]:
    return [(float(t), probe, value, label, None) for t in times]


TEN_S = np.arange(0, 10, 0.1)
RULES: dict[str, tuple[list[Sample], list[Sample]]] = {
    "pool_exhausted": (
        at(TEN_S[3:], "pool.waiting", 0) + at(TEN_S[:3], "pool.waiting", 2),
        at(TEN_S[2:], "pool.waiting", 0) + at(TEN_S[:2], "pool.waiting", 2),
    ),
    "connection_leak": (at([3], "pool.leak_s", 5), []),
    "loop_blocked": (
        at([2, 4, 6], "loop.recovered_ms", 101, "app.py"),
        at([2, 4, 6], "loop.recovered_ms", 99, "app.py") + at([2, 4], "loop.recovered_ms", 450, "b.py"),
    ),
    "cpu_bound": (
        at(range(5), "process.cpu_share", 0.81) + at(range(5, 10), "process.cpu_share", 0.3),
        at(range(4), "process.cpu_share", 0.81) + at(range(4, 10), "process.cpu_share", 0.79),
    ),
    "slow_model": (at(range(5), "model.ttft_ms", 1001), at(range(5), "model.ttft_ms", 999)),
    "missing_index": (
        at([1], "db.seq_scans", 20, "messages") + at([1], "db.seq_rows", 10_000, "messages"),
        at([1], "db.seq_scans", 20, "messages")
        + at([1], "db.seq_rows", 9_999, "messages")
        + at([2], "db.seq_scans", 19, "agents")
        + at([2], "db.seq_rows", 99_999, "agents"),
    ),
    "cache_misses": (
        at([1], "cache.hits", 24) + at([1], "cache.misses", 26),
        at([1], "cache.hits", 25) + at([1], "cache.misses", 25) + at([1], "cache.misses", 49, "small"),
    ),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_speaks_above_its_limit_only(kind: str, tmp_path: Path) -> None:
    """Above the limit this finding and no other, with when it was seen; just below it none at all."""
    above, below = RULES[kind]
    run = run_with(tmp_path / "above", above + at(TEN_S, "pool.checked_out", 1))
    (found,) = findings.judge(frames.measured(run)).findings
    assert found.kind == kind
    assert 0 <= found.from_s <= found.to_s <= 10
    assert found.text.endswith(".")
    run = run_with(tmp_path / "below", below)
    judged = findings.judge(frames.measured(run))
    assert judged.findings == []


def test_blocks_by_many_places_of_one_file_are_one_finding(tmp_path: Path) -> None:
    """The line a block was noticed in is chance; its file is told once, with the lines that held longest."""
    blocks = [
        s for line in range(5) for s in at([line, line + 5], "loop.recovered_ms", 300, f"app.py:{line} f")
    ]
    run = run_with(tmp_path, blocks)
    (found,) = findings.judge(frames.measured(run)).findings
    assert "blocked 10 times by app.py:0 f, app.py:1 f, app.py:2 f and 2 other places" in found.text


def test_a_late_loop_is_told_without_hang_reports(tmp_path: Path) -> None:
    """A watchdog that waits for 15 s reports no hang of 0.4 s; the lag series knows of it."""
    run = run_with(tmp_path, at(TEN_S, "loop.lag_ms", 1) + at([2.01, 4.01, 6.01], "loop.lag_ms", 400))
    (found,) = findings.judge(frames.measured(run)).findings
    assert "blocked 3 times, 400 ms the longest" in found.text
    assert "hang_after_s" in found.text


def test_a_prometheus_page_is_no_probe_and_trouble_with_a_source_is_told(tmp_path: Path) -> None:
    """Rules read perfkit's probes; without any, a report does not say that they show no trouble."""
    run = run_with(tmp_path, at([1], "http_requests_total", 7))
    (run.path / "run.json").write_text(
        json.dumps(
            {**run.meta.raw, "probes": [{"source": "s", "errors": 2, "error": "status 401", "lost": 7}]}
        )
    )
    run = Run(run.path)
    judged = findings.judge(frames.measured(run))
    assert not judged.probed
    assert judged.notes == ("s: 2 fetches failed (status 401)", "s: 7 samples were lost")
    assert "status 401" in server_figures.findings(judged).html


def test_a_pool_that_gave_up_is_found_without_other_samples(tmp_path: Path) -> None:
    """Of the pool it happened in, not of its neighbour."""
    neighbour = at(TEN_S, "pool.checked_out", 17, "other") + at(TEN_S, "pool.waiting", 0, "other")
    run = run_with(tmp_path, [*neighbour, *at([1, 2], "pool.timeout_ms", 30)])
    (found,) = findings.judge(frames.measured(run)).findings
    assert "pool 'x' of server was exhausted." in found.text
    assert "2 checkouts gave up waiting" in found.text


def test_one_long_block_is_a_finding_also_when_it_never_ended(tmp_path: Path) -> None:
    """A standstill is told by its hang when no recovery was seen, as long as it was late at last."""
    hang = at([3], "loop.recovered_ms", 150, "app.py:1") + at([6.2], "loop.hang_ms", 200, "stuck.py:7")
    late = at([6.25], "loop.lag_ms", 250) + at([9], "loop.lag_ms", 3000)
    run = run_with(tmp_path, hang + late)
    (found,) = findings.judge(frames.measured(run)).findings
    assert (found.kind, found.from_s, found.to_s) == ("loop_blocked", 6.0, 9.0)
    assert "blocked once by stuck.py:7, 3 s in all, 3000 ms the longest" in found.text
    assert found.text.endswith("the last had not ended when the run did.")


def rows_with(folder: Path, error: list[str | None], attempt: int = 1, text: str = "") -> Part:
    """Rows of a made run, all `create`, the first of them with these errors and attempt; text: of all."""
    run = make_timeline(folder, ROWS, error_rate=0.0, operations=["create"])
    table = run.table()
    first = table["phase"].to_pylist().index("measure")
    words: list[Any] = [None] * len(table)
    words[first : first + len(error)] = error
    attempts = [attempt if first <= i < first + len(error) else 1 for i in range(len(table))]
    texts = [text or None] * len(table)
    for name, values in (("error", words), ("attempt", attempts), ("error_text", texts)):
        column = table.schema.field(name)
        array = pa.array(values, column.type if name == "attempt" else pa.string()).cast(column.type)
        table = table.set_column(table.schema.get_field_index(name), column, array)
    pq.write_table(table, run.path / "timeline.parquet")
    return frames.measured(Run(run.path))


def of_rows(rows: Part) -> list[findings.Finding]:
    nothing = pd.DataFrame({"t_s": [], "source": [], "probe": [], "value": [], "label": []})
    return findings.findings(rows, nothing, pd.DataFrame())


def every(step: int, error: str) -> list[str | None]:
    return [None if i % step else error for i in range(ROWS)]


def test_from_a_fifth_on_an_operation_is_failing(tmp_path: Path) -> None:
    """Told before what its server's probes say; fewer failures are told after it."""
    samples = at([3], "pool.leak_s", 5)
    for step, told, kinds in (
        (4, "500 of 2,000 requests of create failed (25%): 500 × check.", ["failing", "connection_leak"]),
        (6, "334 of 2,000 requests of create failed (16.7%): 334 × check.", ["connection_leak", "failures"]),
    ):
        rows = rows_with(tmp_path / str(step), every(step, "check"))
        seen = server_frames.server_samples(frames.measured(run_with(tmp_path / f"{step} seen", samples)))
        found = findings.findings(rows, seen, pd.DataFrame())
        assert [one.kind for one in found if one.kind != "error_burst"] == kinds
        assert any(one.text.startswith(told) for one in found)


def test_timeouts_are_told_by_class_and_operation(tmp_path: Path) -> None:
    """How many of what, their share, and when."""
    (found,) = of_rows(rows_with(tmp_path, ["timeout", "cutoff", "timeout"]))
    assert found.kind == "timeouts"
    assert "3 of 2,000 requests of create got no answer in time (0.15%): " in found.text
    assert "2 × timeout, 1 × cutoff" in found.text
    assert found.to_s < 1


def test_a_burst_is_half_of_a_seconds_ends(tmp_path: Path) -> None:
    """Errors of one second are a burst; the same number spread over the run is none."""
    rows = rows_with(tmp_path, ["http_5xx"] * 150)
    others, found = of_rows(rows)
    assert others.text == "150 of 2,000 requests of create failed (7.5%): 150 × http_5xx."
    ends = frames.timeline(rows.run)
    seconds = np.floor(ends["done_s"])
    failed = ends["error"].notna()
    bad = failed.groupby(seconds).sum()
    burst = bad[(bad >= 5) & (bad >= 0.5 * failed.groupby(seconds).size())]
    assert found.kind == "error_burst"
    assert f"{burst.sum():,} of the 150 failures within {len(burst)} s (http_5xx)" in found.text
    inside = ends["t_s"][failed & seconds.isin(burst.index)]
    assert (found.from_s, found.to_s) == (inside.min(), inside.max())
    assert [one.kind for one in of_rows(rows_with(tmp_path, every(13, "http_5xx")))] == ["failures"]


def test_most_of_a_run_is_no_burst(tmp_path: Path) -> None:
    """Half of all that ended in 6 of 10 s failed: 60 % of the time, with all failures, is no burst; nor are
    2.5 of 10 s with a third of the failures."""
    (found,) = of_rows(rows_with(tmp_path / "long", every(2, "check")[: int(0.6 * ROWS)]))
    assert found.kind == "failing"
    thin = every(3, "check")[: int(0.75 * ROWS)] + every(2, "check")[int(0.75 * ROWS) :]
    assert [one.kind for one in of_rows(rows_with(tmp_path / "thin", thin))] == ["failing"]


def test_what_the_end_cuts_off_is_no_burst(tmp_path: Path) -> None:
    """An interrupt cuts off what is in flight, all at once; a scenario's own time limits may be a burst."""
    for text, kinds in ((AT_THE_END, ["timeouts"]), ("its own time limit", ["timeouts", "error_burst"])):
        rows = rows_with(tmp_path / text[:3], ["cutoff"] * 150, text=text)
        assert [one.kind for one in of_rows(rows)] == kinds


def test_retries_are_told(tmp_path: Path) -> None:
    """A second attempt is a row of its own: a reader must know that users felt the sum."""
    (found,) = of_rows(rows_with(tmp_path, [None, None], attempt=2))
    assert (found.kind, found.text.split(" rows")[0]) == ("retries", "2 of 2,000")


def test_a_run_without_probes_is_judged_without_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where a server told where time went are all rows read."""
    run = run_with(tmp_path, at([1], "http_requests_total", 7))
    monkeypatch.setattr(Run, "table", None)
    assert findings.judge(frames.measured(run)).findings == []


# -- figures ---------------------------------------------------------------------------------------

#: Everything a server can tell, hostile words included.
ALL: list[Sample] = [
    *(s for part, x in (("checked_out", 3), ("waiting", 1), ("overflow", 1), ("size", 2))
      for s in at(TEN_S, f"pool.{part}", x, HOSTILE)),
    *((float(t), "loop.lag_ms", 0.0 if i % 2 else 0.5 * i, HOSTILE, None) for i, t in enumerate(TEN_S)),
    *at(TEN_S, "model.ttft_ms", 70, HOSTILE),
    *at(TEN_S, "request.app_ms", 12, HOSTILE),
    *at([1], "leader.gained", 3, HOSTILE), *at([5], "leader.lost", 3, HOSTILE), *at(TEN_S, "job.tick_ms", 2),
    *at([3], "pool.leak_s", 5, HOSTILE),
]  # fmt: skip


def drawn(run: Run) -> dict[str, Any]:
    """Every figure of the health page."""
    rows = frames.measured(run)
    samples, calls = server_frames.server_samples(rows), frames.calls(rows)
    tail = server_frames.tail_split(server_frames.split(rows, samples))
    return {
        "pool": server_figures.pool(server_frames.pool(samples), calls),
        "lag": server_figures.loop_lag(server_frames.binned(samples, "loop.lag_ms"), calls),
        "requests": server_figures.endpoint_times(server_frames.binned(samples, "request.app_ms"), calls),
        "model": server_figures.model_times(server_frames.binned(samples, "model.ttft_ms"), calls),
        "scheduler": server_figures.leadership(server_frames.leadership(samples), calls),
        "tail": server_figures.tail(tail),
    }


def test_figures_say_what_they_show_and_run_nothing(tmp_path: Path) -> None:
    """Each is a well-formed image with words and a caption; a hostile label stays a word."""
    blank = run_with(tmp_path / "blank", [])
    told = [(1.0, "request.app_ms", 9.0, HOSTILE, name) for name in measured_ids(blank)]
    run = run_with(tmp_path, ALL + told, source=HOSTILE)
    for name, ax in drawn(run).items():
        root = ET.fromstring(figures.show(ax).html)
        svg = next(e for e in root.iter() if e.tag.endswith("svg"))
        assert svg.get("role") == "img", name
        assert len(svg.get("aria-label") or "") > 30, name
        assert "requests" in (root.findtext("figcaption") or ""), name
        assert not {e.tag.rsplit("}")[-1] for e in root.iter()} & {"script", "img", "iframe"}, name
    rows = frames.measured(run)
    table = server_figures.endpoint_table(server_frames.endpoints(server_frames.server_samples(rows))).html
    words = server_figures.findings(findings.judge(rows), "health.html?<b>").html
    assert HOSTILE not in table + words
    assert "<b>" not in words
    assert "&lt;script&gt;" in words


def test_a_lag_of_zero_stays_on_a_logarithmic_axis(tmp_path: Path) -> None:
    """Where a bin's median is 0 the line lies at the axis's foot instead of falling out of the picture."""
    ax = drawn(run_with(tmp_path, ALL))["lag"]
    assert ax.get_yscale() == "log"
    for line in ax.get_lines():
        assert (np.asarray(line.get_ydata()) > 0).all()


def test_a_server_that_told_nothing_is_said_so(tmp_path: Path) -> None:
    """No empty axes: a sentence in the place of each figure."""
    for ax in drawn(run_with(tmp_path, [])).values():
        assert not ax.axison
