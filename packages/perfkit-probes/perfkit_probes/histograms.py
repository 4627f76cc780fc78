"""Many values at once into a histogram of OpenTelemetry's SDK, whose own call takes one at a time.

`record` checks, copies and hashes the attributes of each value: 6 µs, of which adding up is one. At a few
values per request that is the largest part of what metrics cost. The SDK has no public call for many values,
so this goes where `record` goes, with the same locks; where it does not find its way, values are recorded one
by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class _Value:
    """What an aggregation reads of a measurement."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


def record_all(histogram: Any, attributes: Mapping[str, Any], values: Sequence[float]) -> None:
    """Put values into a histogram under the same attributes; but those it cannot take (below 0, NaN)."""
    values = [value for value in values if 0 <= value < math.inf]
    series = _series(histogram, attributes)
    if series is None:
        for value in values:
            histogram.record(value, attributes)
        return
    for match, key, kept in series:
        with match._lock:  # a collection may take the aggregation away
            aggregation = match._get_or_create_aggregation(key, kept)
            for value in values:
                aggregation.aggregate(_Value(value), False)


def _series(histogram: Any, attributes: Mapping[str, Any]) -> list[tuple[Any, Any, dict[str, Any]]] | None:
    """Return where the SDK's views of a histogram add it up, with the key and the attributes they keep."""
    try:
        from opentelemetry.sdk.metrics._internal._view_instrument_match import _hash_attributes as key_of

        if not histogram._is_enabled():
            return []
        found = []
        for storage in list(histogram._measurement_consumer._reader_storages.values()):
            for match in storage._get_or_init_view_instrument_match(histogram):
                names = match._view._attribute_keys
                kept = {name: value for name, value in attributes.items() if names is None or name in names}
                _ = match._lock, match._get_or_create_aggregation
                found.append((match, key_of(kept), kept))
    except (ImportError, AttributeError):  # another SDK, or another version of it
        return None
    return found
