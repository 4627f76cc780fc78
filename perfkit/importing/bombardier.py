"""bombardier: `bombardier -o json` and what it prints; both are summaries.

Latencies of the JSON are µs. Its percentiles are there with -l alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import msgspec

from perfkit.errors import BadInput
from perfkit.importing.head import Head
from perfkit.importing.limits import LARGEST_DOCUMENT
from perfkit.importing.nouns import Asked, Facts
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.summaries import (
    Told,
    carried,
    go_ms,
    lost_kinds,
    number_in,
    operations,
    printed,
    summary_of,
)
from perfkit.store.metadata import FailureKind

_BEGIN = r"^Bombarding \S+"
_JSON = re.compile(rb'\{\s*"spec"\s*:')
#: Go quotes bytes in a way that is no JSON.
_HEX = re.compile(rb"\\x([0-9a-fA-F]{2})")
_TIME = r"([\d.]+(?:us|µs|μs|ms|s|m|h))"
_LATENCY = re.compile(rf"^\s*Latency\s+{_TIME}\s+{_TIME}\s+{_TIME}", re.M)


def is_json(head: Head) -> bool:
    """Its JSON, maybe after what it printed before."""
    raw = head.raw[:200_000]
    return _JSON.search(raw) is not None and b'"req2xx"' in raw


def is_text(head: Head) -> bool:
    """The lines it prints."""
    return not is_json(head) and re.search(_BEGIN, head.text, re.M) is not None


def read_json(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as JSON."""
    raw = bytes(source.document(LARGEST_DOCUMENT, "bombardier's JSON has a few kB, however long the run was"))
    found = _JSON.search(raw)
    try:
        value = msgspec.json.decode(_HEX.sub(rb"\\u00\1", raw[found.start() :] if found else raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{source.path} is broken JSON ({error}); nothing was imported") from None
    told = Told(source, "bombardier's JSON", value=value)
    spec, result = told.at("spec"), told.at("result")
    latency, shares = result.at("latency"), result.at("latency").at("percentiles")
    codes = {code: result.count(f"req{code}xx") or 0 for code in range(1, 6)}
    lost: Counter[str] = Counter()
    for _, one in result.at("errors").items():
        lost[one.text("description")] += one.count("count") or 0
    n, kinds = _counts(codes, result.count("others") or 0, lost)
    mean, std, high = (_ms(latency.number(name)) for name in ("mean", "stddev", "max"))
    span = result.number("timeTakenSeconds")
    (name,) = operations(rows, [(spec.text("url") or "requests", spec.text("method"))])
    points = [(float(one) / 100, _ms(shares.number(one))) for one in shares.names()]
    whole = carried(name, n=n, kinds=kinds, rate_per_s=n / span if span else None, mean=mean, std=std,
                    high=high, points=points)  # fmt: skip
    given = {name: spec.number(name) for name in ("numberOfConnections", "rate")}
    load = {name: value for name, value in given.items() if value is not None}
    return summary_of("bombardier", [whole], span_s=span, load=load)


def read_text(source: Source, rows: Rows, asked: Asked) -> Facts:
    """The summary as it is printed."""
    text, parts = printed(source, _BEGIN, asked.part)
    told, latency = re.search(_BEGIN, text, re.M), _LATENCY.search(text)
    mean, std, high = map(go_ms, latency.groups()) if latency else (None, None, None)
    codes = {int(code): int(n) for code, n in re.findall(r"\b([1-5])xx - (\d+)", text)}
    if not codes:
        raise BadInput(f"{source.path} has a run without `HTTP codes`; give the full output of bombardier")
    errors = re.search(r"^\s*Errors:\n(.*?)(?:^\s*Throughput:|\Z)", text, re.M | re.S)
    lines = re.findall(r"^\s*(\S.*) - (\d+)$", errors[1], re.M) if errors else []
    lost = {words: int(n) for words, n in lines}
    n, kinds = _counts(codes, int(number_in(text, r"\bothers - (\d+)") or 0), lost)
    shares = re.findall(rf"^\s*([\d.]+)%\s+{_TIME}\s*$", text, re.M)
    span = re.search(rf"^Bombarding \S+ .*?\bfor {_TIME} using", text, re.M)
    connections = number_in(text, r"^Bombarding .* using (\d+) connection")
    (name,) = operations(rows, [(told[0].split()[1] if told else "requests", "")])
    span_s = go_ms(span[1]) / 1e3 if span else 0.0
    rate = n / span_s if span_s else number_in(text, r"^\s*Reqs/sec\s+([\d.]+)")
    points = [(float(share) / 100, go_ms(at)) for share, at in shares]
    whole = carried(name, n=n, kinds=kinds, rate_per_s=rate, mean=mean, std=std, high=high, points=points)
    load = {"numberOfConnections": int(connections)} if connections else {}
    return summary_of("bombardier", [whole], span_s=span_s, parts=parts, load=load)


def _counts(codes: Mapping[int, int], others: int, lost: Mapping[str, int]) -> tuple[int, list[FailureKind]]:
    """All requests, and failures by kind; others: requests without an answer, which `lost` may explain."""
    kinds = [FailureKind(f"http_{code}xx", "", codes.get(code, 0), f"status {code}xx") for code in (4, 5)]
    explained = sum(lost.values())
    kinds.append(FailureKind("protocol", "", others - explained, "bombardier does not say why"))
    return sum(codes.values()) + max(others, explained), [*kinds, *lost_kinds(lost)]


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1e3
