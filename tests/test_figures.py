"""Figures: what they say, that they carry no outside reference, and that hostile words stay words."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.make_timeline import make_timeline
from perfkit import figures, frames
from perfkit.compare import frames as compare_frames
from perfkit.compare import series
from perfkit.figures.drawing import theme
from perfkit.figures.style import words
from perfkit.site.facts import run_facts
from perfkit.store import Run
from perfkit.store.rows import Part
from perfkit.store.summary import NAMES
from perfkit.store.words import describe_run, details
from tests.site_fixture import nightly

DRAWN: dict[str, Callable[[Part], Axes]] = {
    "kickoff": lambda rows: figures.kickoff_timeline(frames.waterfall(rows)),
    "calls": lambda rows: figures.call_latency(frames.calls(rows)),
    "concurrency": lambda rows: figures.concurrency(frames.concurrency(rows)),
    "throughput": lambda rows: figures.throughput(frames.over_time(rows)),
    "delays": lambda rows: figures.generator_delays(frames.delays(rows)),
    "histogram": lambda rows: figures.histogram(frames.histogram(rows)),
    "box operation": lambda rows: figures.boxes(frames.boxes(rows)),
    "box user": lambda rows: figures.boxes(frames.boxes(rows, "user")),
    "ecdf": lambda rows: figures.ecdf(frames.survival(rows)),
    "percentiles": lambda rows: figures.percentile_plot(frames.percentiles(rows)),
    "streaming": lambda rows: figures.streaming(frames.streaming(rows)),
    "glance": lambda rows: figures.glance(frames.calls(rows, 60), frames.over_time(rows, 60)),
}
HOSTILE = ["<img src=x onerror=alert(1)>", "$\\frac{bad}$", "quote\" onload='x' ‮evil", "a" * 300]


@pytest.fixture(scope="module", params=[1, 600, 4000])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs of one, some and many rows, with hostile operation names."""
    folder = tmp_path_factory.mktemp("made")
    return make_timeline(folder, request.param, operations=HOSTILE, error_rate=0.02, streaming=True)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_clean_svg_with_words(run: Run, name: str) -> None:
    """Each figure is one well-formed SVG with alt text, n, failures and span in its caption, ids of its own,
    no reference outside, no placeholder colour left."""
    rows = frames.measured(run)
    shown = figures.show(DRAWN[name](rows)).html
    root = ET.fromstring(shown)
    if "svg" not in shown:
        assert rows.counts["n"] < 10
        return
    svg = next(e for e in root.iter() if e.tag.endswith("svg"))
    assert svg.get("role") == "img"
    assert len(svg.get("aria-label") or "") > 30
    n = rows.counts["n"]
    assert f"{n:,} request{'s' * (n != 1)} of the measured part, " in (root.findtext("figcaption") or "")
    assert "failed" in (root.findtext("figcaption") or "")
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert all(i and i.startswith("pk") for i in ids)
    assert not re.search(r"#0102(03|04|05|06|07|08)", shown)
    assert "var(--pk-fg, var(--jp-content-font-color1" in shown
    addresses = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith(("href", "src"))]
    addresses += [
        v
        for e in root.iter()
        for k in ("style", "clip-path", "fill")
        for v in re.findall(r"url\(([^)]*)\)", e.get(k) or "")
    ]
    assert addresses
    assert all(address.startswith("#pk") for address in addresses)
    assert "<metadata" not in shown
    assert len(shown) < 400_000
    tags = {e.tag.rsplit("}")[-1] for e in root.iter()}
    assert not tags & {"script", "img", "foreignObject", "iframe"}


def test_dollars_are_no_mathematics(tmp_path: Any) -> None:
    """`$\\frac…$` in a name stands in the drawing, its alt text and its caption as it was given."""
    odd = "$\\frac{5}$ \\$6"
    run = make_timeline(tmp_path, 600, operations=[odd, "other"], error_rate=0.1)
    rows = frames.measured(run)
    for name in ("kickoff", "calls", "box operation", "ecdf", "percentiles"):
        texts = [e.text or "" for e in ET.fromstring(figures.show(DRAWN[name](rows)).html).iter()]
        assert any(text.startswith(odd) for text in texts), name  # a legend, an axis
    for name in ("box operation", "ecdf", "percentiles"):
        assert odd in figures.words(DRAWN[name](rows))[0]
    runs = [nightly(tmp_path, day, git={"sha": r"$\x$"}) for day in (1, 2, 3)]
    points = compare_frames.trend(runs, "p50")
    trend = figures.show(series.trend(points, compare_frames.changes(points))).html
    assert r"$\x$" in trend


@pytest.mark.parametrize("name", DRAWN)
def test_the_ticks_of_an_axis_differ_and_are_shown_as_they_are(run: Run, name: str) -> None:
    """No two ticks of an axis bear the same number, and none loses digits on its way to the page."""
    ax = DRAWN[name](frames.measured(run))
    figure: Any = ax.get_figure(root=True)
    drawn = io.StringIO()
    with theme():
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    for axis in (axis for one in figure.axes for axis in (one.xaxis, one.yaxis)):
        low, high = sorted(axis.get_view_interval())
        places = [at for at in axis.get_majorticklocs() if low <= at <= high]
        numbers = [
            one for one in axis.get_major_formatter().format_ticks(places) if one and " · n=" not in one
        ]
        assert len(numbers) == len(set(numbers)), numbers
    if "<svg" in (page := figures.show(ax).html):  # else a sentence says why there is nothing to draw
        assert _texts(page) == _texts(drawn.getvalue())


def _texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", svg.partition("</svg>")[0])


def test_two_figures_share_no_id(run: Run) -> None:
    """The same figure shown twice on one page still has unique ids."""
    rows = frames.measured(run)
    both = "".join(figures.show(DRAWN["concurrency"](rows)).html for _ in range(2))
    ids = re.findall(r'\bid="([^"]+)"', both)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", [n for n in DRAWN if n not in ("streaming", "glance")])
def test_figures_draw_into_given_axes(run: Run, name: str) -> None:
    """A figure function draws where it is told, for one's own compositions."""
    rows = frames.measured(run)
    ax: Any = Figure().subplots()
    build = {
        "kickoff": lambda: figures.kickoff_timeline(frames.waterfall(rows), ax),
        "calls": lambda: figures.call_latency(frames.calls(rows), ax),
        "concurrency": lambda: figures.concurrency(frames.concurrency(rows), ax),
        "throughput": lambda: figures.throughput(frames.over_time(rows), ax),
        "delays": lambda: figures.generator_delays(frames.delays(rows), ax),
        "histogram": lambda: figures.histogram(frames.histogram(rows), ax),
        "box operation": lambda: figures.boxes(frames.boxes(rows), ax),
        "box user": lambda: figures.boxes(frames.boxes(rows, "user"), ax),
        "ecdf": lambda: figures.ecdf(frames.survival(rows), ax),
        "percentiles": lambda: figures.percentile_plot(frames.percentiles(rows), ax),
    }[name]
    assert build() is ax


def test_a_figure_of_ones_own_has_the_theme(run: Run) -> None:
    """Drawn by seaborn inside `canvas`, with a legend: no colour is left that a dark page would swallow."""
    rows = frames.timeline(run)
    with figures.canvas() as ax:
        late = rows.assign(late=rows["t_s"] > rows["t_s"].median())
        sns.histplot(late, x="response_ms", hue="late", element="step", fill=False, ax=ax)
    shown = figures.show(ax, alt="mine", caption="my caption")
    assert "my caption" in shown.html
    assert "var(--pk-fg, var(--jp-content-font-color1" in shown.html
    assert not re.search(r"(?:fill|stroke): #(?:0{3}){1,2}\b|#2[26]2[26]2[26]", shown.html)


def test_empty_runs_say_so(tmp_path: Any) -> None:
    """Without rows every figure is one sentence, not an empty panel."""
    run = make_timeline(tmp_path, 50)
    rows = Part(run, phase="teardown")
    for build in DRAWN.values():
        assert figures.show(build(rows)).html.startswith('<p class="pk-nothing">')


def verdict(run: Run) -> str:
    return figures.verdict(run, frames.summary(frames.measured(run))).html


def test_verdict_names_the_state_first(tmp_path: Any) -> None:
    """VALID, INVALID with its reasons, ABORTED with its reason: the first word of a report."""
    assert "<strong>VALID</strong>" in verdict(make_timeline(tmp_path, 500))
    health = {"valid": False, "reasons": ["kick-off p99 was 31 ms, over 10 ms"], "workers": []}
    invalid = verdict(make_timeline(tmp_path, 501, meta={"health": health}))
    assert re.search(r"<p><strong>INVALID</strong> — kick-off p99 was 31 ms, over 10 ms\.", invalid)
    aborted = verdict(make_timeline(tmp_path, 502, meta={"state": "aborted", "reason": "interrupted"}))
    assert "<p><strong>ABORTED</strong> — interrupted." in aborted
    killed = verdict(
        make_timeline(tmp_path, 503, meta={"state": "running", "health": None, "thresholds": None})
    )
    assert "<strong>ABORTED</strong> — its process ended" in killed
    bare = make_timeline(tmp_path, 504)
    (bare.path / "run.json").write_text('{"schema": 1, "state": "complete"}')
    assert "UNCHECKED" in verdict(Run(bare.path))


def test_missed_thresholds_are_told(tmp_path: Any) -> None:
    """A missed threshold is listed with what was measured, in words besides the colour; a terminal has the
    same words."""
    told = [
        {"text": "p95 < 3 ms", "value": 381.25, "ok": False},
        {"text": "rate > 1 /s", "value": None, "ok": False, "note": "why"},
    ]
    run = make_timeline(tmp_path, 500, meta={"thresholds": told})
    shown, words = verdict(run), describe_run(run, summary=False)
    assert "0 of 2 met" in shown
    assert "✗ missed</span>: <code>p95 &lt; 3 ms</code> (measured: 381.2 ms)" in shown
    assert "(measured: no value; why)" in shown
    assert "threshold p95 < 3 ms: MISSED, measured 381.2 ms" in words
    assert "threshold rate > 1 /s: MISSED, measured no value; why" in words


def test_what_an_interval_rests_on_is_told(tmp_path: Any) -> None:
    """Above 400 requests time slices; below, or in a burst, requests taken as independent, and why.

    Of 600, all together have slices and each of the three operations has not: each column says which.
    """
    told = []
    for n, rate in ((600, 200.0), (60, 200.0), (600, 1e12)):
        rows = frames.measured(make_timeline(tmp_path, n, rate_per_s=rate))
        told.append(figures.summary_table(frames.summary(rows)).html)
    assert ["from time slices" in page for page in told] == [True, False, False]
    assert ["too few, or too short a burst" in page for page in told] == [True, True, True]
    assert ["by the method in the last row" in page for page in told] == [True, False, False]


def test_speed_of_streams_is_shown(tmp_path: Any) -> None:
    """Chunks a second have a figure with its quantiles and n; failed streams are told, and alone, are all."""
    run = make_timeline(tmp_path, 300, streaming=True, error_rate=0.1)
    frame = frames.streaming(frames.measured(run))
    shown = figures.show(figures.streaming(frame)).html
    speeds = frame.attrs["chunks_per_s"]
    assert f"of {speeds['n']:,} responses: p50 {speeds['marks']['p50']:.3g}/s" in shown
    assert f"{frame.attrs['failed_streams']} failed streams excluded" in shown
    run = make_timeline(tmp_path, 30, streaming=True, error_rate=1.0)
    alone = frames.streaming(frames.measured(run))
    assert "streamed responses of this run failed" in figures.show(figures.streaming(alone)).html


def test_tables_withhold_what_few_requests_carry(tmp_path: Any) -> None:
    """p99 and p99.9 of 700 requests are dashes in the table, and the notes say why; `show` and the site
    withhold the same."""
    run = make_timeline(tmp_path, 700)
    rows = frames.measured(run)
    table = figures.summary_table(frames.summary(rows)).html
    cells = dict(re.findall(r'role="rowheader">(p[\d.]+)</th><td[^>]*>(.*?)</td>', table))
    assert (cells["p99"], cells["p99.9"]) == ("—", "—")
    assert " to " in cells["p50"]
    withheld = [name for name in NAMES if cells[name] == "—"]
    assert [name for name in NAMES if details(run)["summary"][-1][name] is None] == withheld
    on_site = run_facts(run)["shown"]["latency_ms"]
    assert [name for name, value in on_site.items() if value is None] == ["p99"]
    assert "p99.9 (0.7)" in figures.notes(frames.warnings(rows)).html


def test_tables_escape_everything(tmp_path: Any) -> None:
    """Names, error texts, parameters and reasons come out as text."""
    bad = "<script>alert(1)</script>"
    meta = {
        "note": bad,
        "tags": [bad],
        "reason": bad,
        "state": "aborted",
        "scenario": {"name": bad, "doc": bad, "params": {bad: [bad]}},
        "target": {"url": bad},
        "step_errors": [{"text": bad, "count": bad}],
        "thresholds": [{"text": bad, "value": bad, "ok": True}],
        "health": {"valid": False, "reasons": [bad], "workers": [{"worker": bad, "cpu_share": bad}]},
    }
    run = make_timeline(tmp_path, 500, operations=HOSTILE, error_rate=0.2, meta=meta)
    rows = frames.measured(run)
    summary = frames.summary(rows)
    pieces = [figures.verdict(run, summary), figures.summary_table(summary), figures.facts(run)]
    pieces += [figures.error_table(frames.errors(rows)), figures.health_table(run), figures.notes([bad])]
    for piece in pieces:
        assert not re.search(r"<(script|img)", piece.html)
        assert "‮" not in piece.html
        ET.fromstring(f"<div>{piece.html.replace('<br>', '<br/>')}</div>")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4213, "0.421 ms"),
        (12.3456, "12.3 ms"),
        (456.7, "457 ms"),
        (1234, "1.23 s"),
        (61_000, "61 s"),
        (float("nan"), "—"),
    ],
)
def test_latencies_read_well(value: float, text: str) -> None:
    """Three figures, a unit, never more."""
    from perfkit.figures.style import ms

    assert ms(value) == text


def test_all_of_many_operations_are_told_of(tmp_path: Path) -> None:
    """Every call has its mark, also those of operations beyond the eighth; one without a success has none in
    the legend. Where a curve is missing as nothing was answered, the caption names the operation."""
    names = [f"call_{i:02}" for i in range(12)]  # each takes 2.2 times as long: the last ones time out
    rows = frames.measured(make_timeline(tmp_path, 700, operations=names, error_rate=0.0))
    frame = frames.calls(rows)
    ax = figures.call_latency(frame)
    assert sum(len(one.get_xdata()) for one in ax.get_lines()) == len(frame) == 700
    there = set(frame["operation"][frame["error"].isna()])
    legend = ax.get_legend()
    assert legend is not None
    told = {text.get_text() for text in legend.get_texts()}
    assert told & set(names) <= there < set(names)
    assert any("other operation" in text for text in told) == (len(there) > 8)
    survival = frames.survival(rows)
    unanswered = survival.attrs["unanswered"]
    assert unanswered
    assert not set(unanswered) & there
    assert f"none of theirs was answered: {', '.join(unanswered)}" in words(figures.ecdf(survival))[1]
