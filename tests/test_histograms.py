"""Many values at once into OpenTelemetry's histograms: the same as one by one."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import Histogram as AnyHistogram
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from perfkit_probes import MetricRegistry, metric_attributes
from perfkit_probes.histograms import record_all
from tests.test_probes import metrics_of

DELTA = {Histogram: AggregationTemporality.DELTA, Counter: AggregationTemporality.DELTA}
VALUES = [0.0, 0.3, 0.5, 7, 1e6, 12.5]
ATTRIBUTES = {"path": "/x", "status": 200}
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (),
    "fewer attributes": (View(instrument_name="*", attribute_keys={"status"}),),
    "exponential": (View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation()),),
    "two": (
        View(instrument_name="h", name="one"),
        View(instrument_name="h", name="two", attribute_keys=set()),
    ),
}


def points(reader: InMemoryMetricReader) -> dict[str, list[dict[str, Any]]]:
    """What a reader sees, without the moments."""
    found = {}
    for name, metric in metrics_of(reader).items():
        parts = [vars(point) if hasattr(point, "__dict__") else point for point in metric.data.data_points]
        found[name] = [{k: v for k, v in part.items() if "time" not in k} for part in parts]
    return found


@pytest.mark.parametrize("temporality", [None, DELTA])
@pytest.mark.parametrize("view", VIEWS)
def test_many_at_once_are_what_they_are_one_by_one(view: str, temporality: Any) -> None:
    """Counts, buckets, sum, extremes and attributes, with any view, before a collection and after it."""
    readers = [InMemoryMetricReader(preferred_temporality=temporality) for _ in range(2)]
    histograms = [
        MeterProvider([reader], views=VIEWS[view], shutdown_on_exit=False)
        .get_meter("m")
        .create_histogram("h")
        for reader in readers
    ]
    for values in (VALUES, VALUES[:2], VALUES[3:]):
        record_all(histograms[0], ATTRIBUTES, values)
        record_all(histograms[0], {}, values[:1])
        for value in values:
            histograms[1].record(value, ATTRIBUTES)
        histograms[1].record(values[0], {})
        at_once, one_by_one = map(points, readers)
        assert at_once
        assert at_once == one_by_one


def test_another_sdk_is_told_each_value() -> None:
    """Where the way of OpenTelemetry's SDK is not there, the public call is used."""
    told = []

    class Other(AnyHistogram):
        def __init__(self) -> None:
            """It has nothing but the public call."""

        def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
            told.append((amount, attributes))

    record_all(Other(), ATTRIBUTES, [1, 2])
    assert told == [(1, ATTRIBUTES), (2, ATTRIBUTES)]


def test_nothing_that_is_recorded_is_missing_from_a_page() -> None:
    """Values and counts by name and bound, with the attributes of a request and without, up to the moment of
    a collection, also what is recorded when it begins; of more series than are kept apart none is lost."""
    reader = InMemoryMetricReader()
    registry = MetricRegistry.of(MeterProvider([reader], shutdown_on_exit=False))
    bound = registry.bound("hist_ttft_ms", **{"model.name": "m"})
    registry.add("count_user_message", 0)
    registry.before_collecting(lambda one: one.add("count_user_message", 100))
    for total in (1, 2):
        for i in range(130):
            registry.record("hist_ttft_ms", i, **{"model.name": "m"})
            bound(i)
            registry.add("count_user_message")
        token = metric_attributes.set({"project.id": "p"})
        bound(5)
        registry.add("count_user_message", 3)
        metric_attributes.reset(token)
        found = metrics_of(reader)
        times = {len(p.attributes): (p.count, p.sum) for p in found["hist_ttft_ms"].data.data_points}
        assert times == {1: (260 * total, 260 * 64.5 * total), 2: (total, 5 * total)}
        counts = {len(p.attributes): p.value for p in found["count_user_message"].data.data_points}
        assert counts == {0: 230 * total, 1: 3 * total}
    for i in range(1_100):
        registry.record("hist_tool_execution_time_ms", 1, **{"tool.name": f"tool {i}"})
    many = metrics_of(reader)["hist_tool_execution_time_ms"].data.data_points
    assert sum(point.count for point in many) == 1_100
