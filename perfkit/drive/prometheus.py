"""A Prometheus page read as it arrives: so many series, so long a line, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

#: Series of a page.
MOST_SERIES = 20_000
_LONGEST_LINE = 64_000  # bytes
_NARROW = "give a narrower metrics_url, such as one with ?name[]= or ?collect[]="


def series(pieces: Iterable[bytes], content_type: str) -> dict[tuple[str, str], float]:
    """The values of a page by name and labels (`{a="b"}`, sorted), in the format it says it has.

    ValueError for what is of neither format, and for a page too large, as soon as that is seen.
    """
    now = {}
    for family in _families(_checked(pieces).decode(), content_type):
        for sample in family.samples:
            words = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            now[sample.name, f"{{{words}}}" if words else ""] = float(sample.value)
    return now


def _checked(pieces: Iterable[bytes]) -> bytes:
    """The page; ValueError when it has too many series or too long a line."""
    page, last, count = bytearray(), b"", 0
    for piece in pieces:
        page += piece
        *lines, last = (last + piece).split(b"\n")
        count += sum(bool(line.strip()) and not line.lstrip().startswith(b"#") for line in lines)
        if count > MOST_SERIES:
            raise ValueError(
                f"more than {MOST_SERIES:,} series, the most that are read from one page: {_NARROW}"
            )
        if max(map(len, (last, *lines))) > _LONGEST_LINE:
            raise ValueError(f"a series with more than {_LONGEST_LINE // 1000} kB of labels: {_NARROW}")
    return bytes(page)


def _families(text: str, content_type: str) -> Iterable[Any]:
    """The metric families of a page; ValueError when it has none of the format."""
    from prometheus_client import parser
    from prometheus_client.openmetrics import parser as openmetrics

    chosen = openmetrics if content_type.startswith("application/openmetrics-text") else parser
    parse: Callable[[str], Iterable[Any]] = chosen.text_string_to_metric_families
    return parse(text)
