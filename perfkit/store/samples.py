"""Numbers of what a server observed of itself (probes.parquet), by SQL: what a threshold over a probe means.

A probe is named as its samples are (`pool.wait_ms`), with `_` for the dot and without its unit (`pool_wait`),
or by its last part alone (`wait`) where that is the only one.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from perfkit import stats
from perfkit.errors import BadInput, nearest
from perfkit.store.rows import Part

#: A leak, or the end of a block, is reported when it is over: so long after the last request (ns).
AFTER_NS = 10**9
#: How the unit of a probe is written at the end of its name, and the units a limit may have, in it.
_TIMES_MS = {"ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001}
_TIMES_S = {unit: ms / 1000 for unit, ms in _TIMES_MS.items()} | {"min": 60.0}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9,
          "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}  # fmt: skip
_SHARES = {"": 1.0, "%": 0.01}
_UNITS: dict[str, dict[str, float]] = {
    "_ms": _TIMES_MS,
    **dict.fromkeys(("_s", "_seconds"), _TIMES_S),
    **dict.fromkeys(("_share", "_ratio"), _SHARES),
    "_percent": {"%": 1.0},
    "_bytes": _BYTES,
    "_kb": {unit: size / 1e3 for unit, size in _BYTES.items()},
    "_mb": {unit: size / 1e6 for unit, size in _BYTES.items()},
}
_COUNTS = {"": 1.0}
#: Every unit a limit over samples may have.
ANY_UNIT = tuple(dict.fromkeys(unit for units in _UNITS.values() for unit in units if unit))
#: Probes that are silent as long as all is well: 0 then, where the other is there, by which somebody watched.
_SILENT = {
    **dict.fromkeys(("pool.wait_ms", "pool.timeout_ms", "pool.error", "pool.leak_s"), "pool.checked_out"),
    **dict.fromkeys(("pool.unused_s", "pool.used_again_s"), "pool.checked_out"),
    **dict.fromkeys(("loop.hang_ms", "loop.recovered_ms"), "loop.lag_ms"),
    **dict.fromkeys(("db.lock_waits", "db.lock_wait_ms"), "db.round_trip_ms"),
    "db.error": "db.requests",
    **dict.fromkeys(("limit.reached", "model.retry_ms"), "request.app_ms"),
}
#: Over all samples together.
_OF_ALL = {
    "mean": "avg(value)",
    "max": "max(value)",
    "min": "min(value)",
    "sum": "sum(value)",
    "count": "count(*)",
}
#: Probes whose label is a remark and not a name: a source has one series of them.
_REMARKED = ("process.", "loop.", "gc.", "executor.")
#: Of each source and label, i of its `size` samples in the order of time; the largest is taken.
_OF_EACH = {
    "last": "arg_max(value, i)",
    # medians of the first and the last tenth: one odd sample at an end is no growth
    "growth": "CASE WHEN any_value(size) > 1 THEN median(value) FILTER (i > size - ceil(size / 10))"
    " / nullif(median(value) FILTER (i <= ceil(size / 10)), 0) - 1 END",
}
STATISTICS = ("pNN", *_OF_ALL, *_OF_EACH)
_PERCENTILE = re.compile(r"p(\d{1,3}(?:\.\d+)?)")
_SHOWN = 20  #: names in a message
_NO_SAMPLE = "FROM (SELECT 0 AS t, 0.0 AS value, '' AS source, '' AS probe, '' AS label WHERE false)"


@dataclass(frozen=True)
class Measured:
    """A number of a probe's samples, NaN for none, in its own unit; what it rests on; units for a limit."""

    value: float
    units: dict[str, float]
    note: str | None = None


def percentile(statistic: str) -> float | None:
    """The share that pNN means, from 0 to 1; None for another statistic. BadInput for p0 and p100."""
    found = _PERCENTILE.fullmatch(statistic)
    if found is None:
        return None
    if not 0 < float(found[1]) < 100:
        raise BadInput(f"a percentile lies between 0 and 100, {statistic!r} does not")
    return float(found[1]) / 100


def require_statistic(statistic: str) -> None:
    """BadInput for a statistic that nobody knows."""
    if percentile(statistic) is None and statistic not in STATISTICS[1:]:
        raise BadInput(f"unknown statistic {statistic!r}; known: {', '.join(STATISTICS)}")


def measure(part: Part, name: str, label: str | None, statistic: str) -> Measured:
    """A statistic of the samples of a probe in a part of a run, up to a second after its last request.

    label: only samples with it, of several pools or endpoints. BadInput for names that the run does not have.
    """
    probe, is_silent = _probe(part, name)
    units = {"growth": _SHARES, "count": _COUNTS}.get(statistic) or _units(probe)
    if label is not None and label not in (labels := _labels(part, probe)):
        is_silent = label in (watched := _labels(part, _SILENT.get(probe, "")))
        if not is_silent:
            raise BadInput(
                f"no sample of {probe} has the label {label!r}; {_known(label, labels or watched)}"
            )
    if is_silent and statistic not in _OF_EACH:
        return Measured(0.0, units, f"no {probe} was reported")
    n, value = _computed(part, probe, label, statistic)
    p, note = percentile(statistic), None
    if math.isnan(value):
        note = "too few samples"
    elif p is not None and (rests_on := stats.support(n, p)) < stats.MIN_SUPPORT:
        note = f"rests on {rests_on:.2g} of {n:,} samples"
    return Measured(value, units, note)


def _computed(part: Part, probe: str, label: str | None, statistic: str) -> tuple[int, float]:
    """How many samples there are, and their statistic; NaN where they have none."""
    named: dict[str, Any] = {"probe": probe, "label": label}
    source = f"({_samples(part)} WHERE probe = $probe AND coalesce(label = $label, $label IS NULL))"
    n, value = "count(*)", _OF_ALL.get(statistic, "quantile_cont(value, $p)")
    if statistic in _OF_EACH:
        names = "source" if probe.startswith(_REMARKED) else "source, label"
        series = f"PARTITION BY {names}"
        order = f"row_number() OVER ({series} ORDER BY t) AS i, count(*) OVER ({series}) AS size"
        source = f"(SELECT *, {order} FROM {source})"
        source = f"(SELECT count(*) AS n, {_OF_EACH[statistic]} AS x FROM {source} GROUP BY {names})"
        n, value = "coalesce(sum(n), 0)::BIGINT", "max(x)"
    elif statistic not in _OF_ALL:
        named["p"] = percentile(statistic)
    found = part.row(f"SELECT {n} AS n, {value} AS value FROM {source}", **named)
    return found["n"], math.nan if found["value"] is None else float(found["value"])


def _samples(part: Part) -> str:
    """SQL for the samples of a part, which may be followed by WHERE."""
    files = part.run.read_each(part.run.probe_files, _readable, "probes")
    ends = part.row("SELECT max(done) AS done FROM part")["done"] or 0
    last = max(ends, part.window_ns[1]) + AFTER_NS
    names = ", ".join("'" + glob.escape(file).replace("'", "''") + "'" for file in files)
    columns = ", ".join(f"{name}::VARCHAR AS {name}" for name in ("source", "probe", "label"))
    read = f"SELECT t, value, {columns} FROM read_parquet([{names}])"
    return f"FROM ({read} WHERE t BETWEEN {part.begin_ns} AND {last})" if files else _NO_SAMPLE


def _readable(file: Path) -> str:
    """The path of a file of samples; ValueError and the like for what is none."""
    pq.read_schema(file)
    return str(file)


def _probe(part: Part, name: str) -> tuple[str, bool]:
    """The probe of this name, and whether it was silent; BadInput with the names there are for none."""
    seen = part.query(f"SELECT DISTINCT probe {_samples(part)} ORDER BY 1")["probe"].to_pylist()
    silent = [probe for probe, watched in _SILENT.items() if watched in seen and probe not in seen]
    for spelling in range(len(_spellings(""))):
        found = [probe for probe in (*seen, *silent) if _spellings(probe)[spelling] == name]
        if len(found) == 1:
            return found[0], found[0] in silent
        if found:
            raise BadInput(f"{name!r} may be any of {', '.join(found)}; name one of them")
    if not seen:
        raise BadInput("its server reported no sample: see target.probes_url and target.metrics_url")
    known = _known(name, sorted(_spellings(probe)[2] for probe in (*seen, *silent)))
    raise BadInput(f"no sample of {name!r} in the run; {known}")


def _spellings(probe: str) -> tuple[str, str, str, str]:
    """The names a probe is known by, the clearest first."""
    plain = probe.replace(".", "_").removesuffix(_suffix(probe))
    last = probe.rpartition(".")[2].removesuffix(_suffix(probe))
    return probe, probe.replace(".", "_"), plain, last


def _suffix(probe: str) -> str:
    return next((suffix for suffix in _UNITS if probe.endswith(suffix)), "")


def _units(probe: str) -> dict[str, float]:
    return _UNITS.get(_suffix(probe), _COUNTS)


def _known(given: str, names: Sequence[str]) -> str:
    """What to name instead."""
    close = nearest(given, names)
    hint = f"did you mean {close!r}? " if close else ""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{hint}there are {', '.join(names[:_SHOWN])}{more}"


def _labels(part: Part, probe: str) -> list[str]:
    sql = f"SELECT DISTINCT coalesce(label, '') AS label {_samples(part)} WHERE probe = $probe ORDER BY 1"
    return list(part.query(sql, probe=probe)["label"].to_pylist())
