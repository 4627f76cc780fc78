"""What is known of a run: a typed, frozen view of its run.json, made once, tolerant of damage.

A value that is missing, or of the wrong type, reads as its default. Every value of the wrong type is named in
`damage`, so that a run with a damaged run.json is shown but never trusted. No other module reads its keys.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from perfkit import stages
from perfkit.errors import BadInput, PerfkitError
from perfkit.model import SCHEMA_VERSION, Arrivals, Budget, Users
from perfkit.text import plural

STATES = ("running", "complete", "aborted")
_DEEPEST = 50  #: levels of nesting; perfkit writes six
#: Nanoseconds and counts: far from the ends of int64, so that sums and differences of them do not overflow.
Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
T = TypeVar("T")


@dataclass(frozen=True)
class ScenarioFacts:
    """The scenario that was run."""

    name: str = "unknown"
    doc: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)  #: of the user's own scenario files, by their names


@dataclass(frozen=True)
class MemberFacts:
    """One scenario of a mix and its load; name is empty where it is the scenario's."""

    scenario: str = ""
    name: str = ""
    users: Users | None = None
    arrivals: Arrivals | None = None


@dataclass(frozen=True)
class Git:
    """The commit perfkit was started in; sha is empty outside git."""

    sha: str = ""
    dirty: bool = False


@dataclass(frozen=True)
class Clocks:
    """The two clocks read together when the run began, ns; None for what an imported file does not say."""

    monotonic_ns: Whole | None = None
    unix_ns: Whole | None = None


@dataclass(frozen=True)
class Span:
    """The measured part on the run's clock, ns; both ends are None until the run has ended."""

    from_ns: Whole | None = None
    to_ns: Whole | None = None


@dataclass(frozen=True)
class Health:
    """What the generator measured of itself; valid is None where that was not recorded."""

    valid: bool | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  #: what is not judged for want of samples
    workers: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ThresholdResult:
    """A threshold and its outcome; value is None where too few requests carry it."""

    text: str = ""
    value: float | None = None
    ok: bool = False
    note: str = ""

    @property
    def measured(self) -> str:
        """The value, in the unit the threshold is written in (a time that is no size in it in another), and
        the note."""
        found = re.search(r"[\d.]\s*([^\d\s.]+)\s*$", self.text)
        value = "no value" if self.value is None else _quantity(self.value, found[1] if found else "")
        return f"{value}; {self.note}" if self.note else value


@dataclass(frozen=True)
class FailureKind:
    """Measured requests of one operation that failed in one way, how many, and the first words heard."""

    error: str = ""
    operation: str = ""
    count: Whole = 0
    words: str = ""


def utc(text: str) -> datetime | None:
    """A time as run.json has it; None for anything else."""
    try:
        when = datetime.fromisoformat(text)
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Finding:
    """One trouble: its kind, the words for it, and from when to when it was seen (s in the measured part)."""

    kind: str = ""
    text: str = ""
    from_s: float = 0.0
    to_s: float = 0.0

    def __str__(self) -> str:
        """Its words and when it was: what was planned before the measured part began is part of it."""
        return f"{self.text} ({max(self.from_s, 0.0):.1f} s to {max(self.to_s, 0.0):.1f} s)"


@dataclass(frozen=True)
class Results:
    """What the rows come to: kept in run.json as long as `digest` is that of the rows (`store.results`).

    rows, errors: of all phases; n, failed: of the measured part; failures: kinds, the most frequent first.
    findings: None where none were looked for; not_looked_for: which of them were not, and why.
    """

    version: Whole = 0
    digest: str = ""
    rows: Whole = 0
    errors: Whole = 0
    n: Whole = 0
    failed: Whole = 0
    failures: tuple[FailureKind, ...] = ()
    findings: tuple[Finding, ...] | None = None
    not_looked_for: str = ""


@dataclass(frozen=True)
class StepError:
    """A kind of mistake that steps of the scenario made, with the words of the first, and how often."""

    text: str = ""
    count: Whole = 0


@dataclass(frozen=True)
class ShardFacts:
    """One load-generating process that was no child of the coordinator, its clock (minus the coordinator's,
    ns) and what came from it. lost: why it did not come to its end, empty where it did."""

    shard: Whole = 0
    place: str = ""
    host: str = ""
    pid: Whole = 0
    python: str = ""
    offset_ns: Whole = 0
    error_ns: Whole = 0
    drift_ppm: float = 0.0
    shortest_trip_ns: Whole = 0
    round_trips: Whole = 0
    rows: Whole | None = None
    fetched_bytes: Whole = 0
    lost: str = ""


@dataclass(frozen=True)
class ProbeSource:
    """A source of server samples and how collecting went.

    page: what was fetched; error: of the last fetch that failed, with what to do; offset_ms of its clock is
    None where unknown.
    """

    source: str = ""
    page: str = ""
    samples: Whole = 0
    lost: Whole = 0
    errors: Whole = 0
    error: str = ""
    offset_ms: float | None = None
    uncertainty_ms: float = 0.0

    @property
    def failure(self) -> str:
        """Which fetches failed and why, in a sentence."""
        return f"{self.page or self.source}: {self.errors} fetches failed ({self.error})"


@dataclass(frozen=True)
class Place:
    """Where a run stands in an experiment of pairs: its side (A or B), its pair and its order, from 1.

    duet: both sides of the pair ran at once. Pair 0 of a duet is A alone, and A beside itself.
    """

    id: str = ""
    side: str = ""
    pair: Whole | None = None
    order: Whole | None = None
    duet: bool = False


@dataclass(frozen=True)
class FidelityFacts:
    """How true the times of an imported run are; steps of rounding in s.

    timed: the file tells when requests ended; else figures over time would be made up.
    """

    label: str = ""
    words: str = ""
    intended_time: str = ""
    latency_to_s: float = 0.0
    instants_to_s: float = 0.0
    timed: bool = True


@dataclass(frozen=True)
class Carried:
    """What a summary tells of one operation, in place of its requests; None for what it does not tell.

    quantiles: (share, ms) in order. Of all operations together where `operation` is empty.
    """

    operation: str = ""
    n: Whole | None = None
    failed: Whole | None = None
    rate_per_s: float | None = None  #: of requests, failed ones too
    mean_ms: float | None = None
    std_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    quantiles: tuple[tuple[float, ...], ...] = ()
    failures: tuple[FailureKind, ...] = ()


@dataclass(frozen=True)
class Imported:
    """The file a run was imported from, and what of it could not be read."""

    tool: str = ""
    version: str = ""
    format: str = ""
    file: str = ""
    bytes: Whole = 0
    sha256: str = ""
    at: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    skipped: Whole = 0
    skipped_first: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fidelity: FidelityFacts = FidelityFacts()
    part: str = ""  #: which of several runs in one file
    carried: tuple[Carried, ...] = ()  #: of a summary, which has no requests


@dataclass(frozen=True)
class Replay:
    """The recording that a run sent again; left_out: requests of it that were not sent, by reason."""

    file: str = ""
    format: str = ""
    sha256: str = ""
    requests: Whole = 0
    different: Whole = 0
    left_out: dict[str, Whole] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """What was replayed, what was left out, what else there is to know, a line each."""
        first = (
            f"replays {self.requests:,} requests of {self.file} ({self.format}, sha256 {self.sha256[:12]})"
        )
        left_out = [f"left out: {n:,} {why}" for why, n in self.left_out.items()]
        return [first, *left_out, *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True)
class Metadata:
    """One run's run.json; `raw` is the document itself, for `show --json` and for writing it back.

    created: ISO 8601, empty where unknown. workload, target, host and versions are kept as they stand there,
    for display and for comparing configurations; what perfkit computes with is typed.
    """

    state: Literal["running", "complete", "aborted"]
    schema: Whole = 0
    id: str = ""
    reason: str = ""
    created: str = ""
    workload: dict[str, Any] = field(default_factory=dict)
    users: Users | None = field(default=None, metadata={"at": "workload.users"})
    arrivals: Arrivals | None = field(default=None, metadata={"at": "workload.arrivals"})
    mix: tuple[MemberFacts, ...] = field(default=(), metadata={"at": "workload.mix"})
    warmup_s: float = field(default=0.0, metadata={"at": "workload.warmup_s"})
    budget: Budget = field(default=Budget(), metadata={"at": "workload.budget"})
    slo: str = field(default="", metadata={"at": "workload.slo"})
    server_options: dict[str, Any] = field(default_factory=dict, metadata={"at": "workload.server"})
    scenario: ScenarioFacts = ScenarioFacts()
    target: dict[str, Any] = field(default_factory=dict)
    target_url: str = field(default="", metadata={"at": "target.url"})
    token_env: str = field(default="", metadata={"at": "target.token_env"})
    git: Git = Git()
    host: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    clock: Clocks = Clocks()
    load_started_ns: Whole | None = None
    measured: Span = Span()
    aborted_by: str = ""  #: the condition that ended the run early, as it was written
    health: Health = Health()
    results: Results = Results()
    shards: tuple[ShardFacts, ...] = ()  #: of a run whose load came from elsewhere
    clock_budget_ms: float = field(default=1.0, metadata={"at": "workload.spread.clock_budget_ms"})
    probes: tuple[ProbeSource, ...] = ()
    thresholds: tuple[ThresholdResult, ...] = ()
    step_errors: tuple[StepError, ...] = ()
    steps_ended: Whole = 0  #: steps of the scenario that came to an end or were cut off
    steps_broken: bool = False  #: most of them raised an exception, sent nothing or never ended
    teardown_error: str = ""
    removal_error: str = ""  #: why things that the run made were not removed; `perfkit cleanup` may change it
    own_server: bool = False  #: perfkit started the server for this run
    experiment: Place | None = None
    imported: Imported | None = None
    replay: Replay | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    rows_at: str = ""  #: the folder of its rows where they lie elsewhere (`store.remote`)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    damage: tuple[str, ...] = ()  #: dotted names of values of the wrong type

    @property
    def carried(self) -> tuple[Carried, ...]:
        """What a summary tells instead of requests; empty for every other run."""
        return self.imported.carried if self.imported else ()

    @property
    def clock_error_ms(self) -> float:
        """By how much the instants of two shards may be apart: each may be wrong by its error, one this way
        and one that; 0 of one shard."""
        errors = sorted(one.error_ns for one in self.shards)
        return sum(errors[-2:]) / 1e6 if len(errors) > 1 else 0.0

    @property
    def clock_doubt(self) -> str:
        """Why what is counted across hosts by time is inexact; empty where it is within the budget."""
        if self.clock_error_ms <= self.clock_budget_ms:
            return ""
        return (
            f"clocks of hosts known to ± {self.clock_error_ms:.2g} ms (budget {self.clock_budget_ms:g} ms):"
            " no finer detail across hosts is real"
        )

    @property
    def shard_words(self) -> list[str]:
        """Which shards were lost, then where the load came from, a line each."""
        if not self.shards:
            return []
        lost = [f"lost: {one.lost}" for one in self.shards if one.lost]
        hosts = list(dict.fromkeys(one.host or one.place for one in self.shards))
        what = f"{plural(len(self.shards), 'shard')} on {', '.join(hosts[:10])}{'…' * (len(hosts) > 10)}"
        if sum(one.round_trips > 0 for one in self.shards) > 1:  # else there is nothing to be apart
            what += f"; clocks within ± {self.clock_error_ms:.2g} ms"
        return [*lost, self.clock_doubt or what]

    @property
    def load(self) -> Users | Arrivals | None:
        """The load that was asked for, None where it is not known."""
        return self.users or self.arrivals

    @property
    def not_cleaned_up(self) -> str:
        """Why something may be left on the target, empty where nothing is."""
        return "; ".join(filter(None, (self.teardown_error, self.removal_error)))

    @property
    def loads(self) -> tuple[Users | Arrivals, ...]:
        """The loads of all scenarios of the run; none where they are not known."""
        every = [self.load, *(one.users or one.arrivals for one in self.mix)]
        return tuple(one for one in every if one is not None)

    @property
    def closed(self) -> bool:
        """Whether users wait for an answer before they ask again, in every scenario of the run."""
        return bool(self.loads) and all(isinstance(one, Users) for one in self.loads)

    @property
    def load_words(self) -> str:
        """The load in a few words; an imported file need not say what it was."""
        if self.mix:
            told = [(one.name or one.scenario, one.users or one.arrivals) for one in self.mix]
            return f"mix: {'; '.join(f'{name}, {_load_words(load)}' for name, load in told)}"
        if self.load is None and self.imported:
            return "load not in the file"
        return _load_words(self.load)

    @property
    def damage_reason(self) -> str:
        """The damage in words, empty without any."""
        more = f" and {len(self.damage) - 5} more" if len(self.damage) > 5 else ""
        named = ", ".join(self.damage[:5])
        return f"run.json is damaged: wrong type or value of {named}{more}" if named else ""

    @classmethod
    def of(cls, document: Any) -> Metadata:
        """Read a parsed run.json; PerfkitError when it was not written by perfkit, or by a later version."""
        if not isinstance(document, Mapping) or "state" not in document:
            raise PerfkitError("run.json was not written by perfkit: 'state' is missing")
        document = _plain(document)
        if document["state"] not in STATES:
            shown = f"{document['state']!r:.40}"
            raise PerfkitError(f"run.json is damaged: state {shown} is not one of {', '.join(STATES)}")
        damage: list[str] = []
        found = _section(cls, document, "", damage)
        if found.schema > SCHEMA_VERSION:
            raise BadInput(
                f"run.json has schema {found.schema}; this perfkit reads up to {SCHEMA_VERSION}, upgrade it"
            )
        changes = _implausible(found)
        return dataclasses.replace(found, raw=document, damage=(*damage, *changes), **changes)

    @classmethod
    def parse(cls, text: str | bytes) -> Metadata:
        """Read the text of a run.json; PerfkitError for what is not JSON."""
        try:
            return cls.of(json.loads(text))
        except RecursionError:
            raise PerfkitError("run.json is damaged: it is nested too deeply") from None
        except ValueError as error:
            raise PerfkitError(f"run.json is damaged: it is not JSON ({error})") from None


_TIMES = ("µs", "ms", "s")  #: each 1,000 of the one before


def _quantity(value: float, unit: str) -> str:
    """A value with its unit, four digits; a time changes its unit until the value is 0.1 to 10,000."""
    name = "µs" if unit == "us" else unit
    if value and name in _TIMES:
        place = written = _TIMES.index(name)
        while abs(value) < 0.1 and place > 0:
            value, place = 1000 * value, place - 1
        while abs(value) >= 10_000 and place < len(_TIMES) - 1:
            value, place = value / 1000, place + 1
        unit = unit if place == written else _TIMES[place]
    return f"{value:.4g}{f' {unit}' if unit else ''}"


def _load_words(load: Users | Arrivals | None) -> str:
    if load is not None and load.stages:
        if isinstance(load, Users):
            return f"closed model: {stages.in_words(load.stages, ' user', ' users')}"
        return f"open model: {stages.in_words(load.stages, '/s', '/s')}"
    if isinstance(load, Users):
        steps, seconds = load.iterations, load.duration_s
        length = f", {plural(steps, 'step')}" if steps else f", {seconds:g} s" if seconds else ""
        return f"closed model: {plural(load.count, 'user')}{length}"
    if load is None:
        return "no load"
    rate = f"{load.rate_per_s:g}/s"
    if load.shape == "steps":
        rate = f"{', '.join(f'{step:g}' for step in load.step_rates_per_s)}/s"
    elif load.shape == "spike":
        rate += f" with a spike of {load.spike_rate_per_s or 5 * load.rate_per_s:g}/s"
    elif load.shape == "replay":
        rate = f"{load.file} at {load.speed or 1:g} ×, {load.rate_per_s:.4g}/s on average"
    return f"open model: {load.shape}, {rate}, {load.duration_s:g} s"


def _implausible(found: Metadata) -> dict[str, Any]:
    """Values of the right type that cannot be, with the default that takes their place."""
    changes: dict[str, Any] = {}
    low, high = found.measured.from_ns, found.measured.to_ns
    if (low is None) != (high is None) or (low is not None and high is not None and high < low):
        changes["measured"] = Span()
    try:
        datetime.fromisoformat(found.created or "2000-01-01")
    except ValueError:
        changes["created"] = ""
    if found.users and isinstance(found.users.think_time_s, tuple) and len(found.users.think_time_s) != 2:
        changes["users"] = None
    return changes


def _plain(value: Any, depth: int = 0) -> Any:
    """The value without what no text or number of perfkit's can be: lone surrogates, NaN, infinities."""
    if depth > _DEEPEST:
        raise PerfkitError(f"run.json is damaged: it is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    return value


def _section(cls: type[T], given: Mapping[str, Any], path: str, damage: list[str]) -> T:
    """A dataclass of this module from a mapping, field by field."""
    values = {}
    for name, hint, at in _fields_of(cls):  # type: ignore[arg-type]
        value: Any = given
        for part in at.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            try:
                values[name] = _value(hint, value, f"{path}{at}", damage)
            except msgspec.ValidationError:
                damage.append(f"{path}{at}")
    return cls(**values)


@functools.cache
def _fields_of(cls: Any) -> list[tuple[str, Any, str]]:
    """Name, type (None taken off) and place in the document of each field that is read from it."""
    hints = get_type_hints(cls, include_extras=True)
    names = [f for f in dataclasses.fields(cls) if f.name not in ("raw", "damage")]
    return [(f.name, _not_none(hints[f.name]), f.metadata.get("at", f.name)) for f in names]


def _not_none(hint: Any) -> Any:
    inner = [one for one in get_args(hint) if one is not type(None)]
    return inner[0] if type(None) in get_args(hint) else hint


def _value(hint: Any, value: Any, path: str, damage: list[str]) -> Any:
    """The value as `hint`; msgspec.ValidationError where it is none."""
    if _is_section(hint):
        if not isinstance(value, Mapping):
            raise msgspec.ValidationError(path)
        return _section(hint, value, f"{path}.", damage)
    if get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise msgspec.ValidationError(path)
        inner, kept = get_args(hint)[0], []
        for i, one in enumerate(value):
            try:
                kept.append(_value(inner, one, f"{path}[{i}]", damage))
            except msgspec.ValidationError:
                damage.append(f"{path}[{i}]")
        return tuple(kept)
    return msgspec.convert(value, hint)


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) and getattr(hint, "__module__", "") == __name__
