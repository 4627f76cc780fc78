"""The nouns: Target, Users, Arrivals, Workload, and the columns of the timeline.

A YAML file in `params/` maps to one `Workload`, one to one; `Workload.from_mapping` refuses what it
does not know. `target: URL` is short for `target: {url: URL}`, and a time may have a unit
(`duration_s: 30s`). Everything here is plain data: no I/O, no clock, no event loop.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import msgspec

from perfkit.converting import convert
from perfkit.errors import BadInput
from perfkit.plain_data import LARGEST
from perfkit.stages import LONGEST_S, SOME_STAGES, Stage, lasting_s

SCHEMA_VERSION = 2

#: Only rows of phase `measure` enter statistics.
PHASES = ("setup", "warmup", "measure", "drain", "teardown")

#: Why a request failed; null in the timeline when it did not.
ERRORS = ("timeout", "connect", "reset", "http_4xx", "http_5xx", "protocol", "check", "cutoff")

#: Instants of a row, int64 nanoseconds since the run's start on the monotonic clock; null = never reached.
INSTANTS = ("planned", "started", "sending", "sent", "first_byte", "first_token", "done")

Kind = Literal["int64", "int32", "int16", "uint8", "float64", "word", "text", "int32s"]
#: Every fixed column of timeline.parquet with its type, in order; `word`: one of a few texts.
#: `server_*` columns (float64) follow as they are found.
COLUMNS: dict[str, Kind] = {
    **dict.fromkeys(INSTANTS, "int64"),
    **{"seq": "int64", "worker": "int32", "user": "int32", "step": "int64"},
    **{"scenario": "word", "operation": "word", "phase": "word"},
    **{"status": "int16", "error": "word", "error_text": "text"},
    **{"bytes_sent": "int64", "bytes_received": "int64", "attempt": "uint8"},
    **{"chunks": "int32s", "tokens_out": "int32", "request_id": "text"},
    "group": "word",
}
#: Columns that only the files of runs have in which a scenario set them.
OPTIONAL = ("group",)

# Bounds are wider than what a run can carry out; a slip such as 1e308 gets words instead of a run.
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
#: A timeout or a duration: 1 ms to 30 days.
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=LONGEST_S)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=86_400)]  #: seconds, from none to a day
#: Per second: once in three hours to a million.
Rate = Annotated[float, msgspec.Meta(ge=0.0001, le=1_000_000)]
RateOrZero = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server under test and how a client speaks to it."""

    url: str | None = None  #: base URL; without one perfkit starts its own reference server for the run
    transport: Literal["wire", "httpx"] = "wire"
    http2: bool = False  #: httpx only
    proxy: str | None = None  #: httpx only
    timeout_s: Seconds = 60.0  #: from taking the request up to its last byte
    connect_timeout_s: Seconds = 10.0
    #: At most so many open connections a process; waiting for one is client queue.
    connections: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 500
    keepalive_s: Wait = 4.0  #: an idle connection older than this is not used again
    headers: dict[str, str] = field(default_factory=dict)
    token_env: str | None = None  #: environment variable whose value is sent as `Authorization: Bearer …`
    verify_tls: bool = True
    ca_file: str | None = None
    client_cert_file: str | None = None  #: PEM, shown to a server that asks for one; may hold the key too
    client_key_file: str | None = None  #: PEM, without a passphrase
    follow_redirects: bool = False
    cookies: bool = False  #: each user keeps the cookies it is given, and sends them back
    #: After connect, reset and http_5xx. Even with 0, a request that a reused connection lost before any
    #: answer is sent once more: GET, HEAD, PUT, DELETE and OPTIONS, others if nothing of it was written.
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    #: Wait from 0 to this · 2^(retry - 1) before a retry, and as long as Retry-After says (at most 30 s);
    #: retry after status 429, too.
    retry_backoff_s: Wait = 0.0
    max_header_kb: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    max_body_mb: Annotated[int, msgspec.Meta(ge=1, le=4_096)] = 64
    #: Base URL of a server with perfkit's probes (`/probe/samples`), one for each instance.
    probes_url: str | tuple[str, ...] | None = None
    metrics_url: str | tuple[str, ...] | None = None  #: any Prometheus pages, whole URLs
    #: Like token_env, which is not sent to another origin (scheme, host, port) than the target's.
    probes_token_env: str | None = None
    metrics_token_env: str | None = None
    proxy_auth_env: str | None = None  #: environment variable with the proxy's `user:password`


class Tokens(NamedTuple):
    """Values of the environment variables a target names: `token_env`, `probes_token_env`, …"""

    target: str | None = None
    probes: str | None = None
    metrics: str | None = None
    proxy: str | None = None  #: `user:password`

    @property
    def secrets(self) -> tuple[str, ...]:
        """What is to be kept out of every file: all of them, and the proxy's password by itself."""
        password = (self.proxy or "").partition(":")[2]
        return tuple(one for one in (*self, password) if one)


NO_TOKENS = Tokens()


Stages = Annotated[tuple[Stage, ...], msgspec.Meta(max_length=1_000)]


@dataclass(frozen=True, kw_only=True)
class Users:
    """Closed model: `count` virtual users, each starting its next step when the last one has ended."""

    count: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    #: Steps of all users together.
    iterations: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    duration_s: Seconds | None = None
    think_time_s: Wait | tuple[Wait, ...] = 0.0  #: fixed, or uniform between two
    ramp_s: Wait = 0.0  #: users start evenly over so long, from the beginning of the warm-up on
    ramp_down_s: Wait = 0.0  #: and stop, those that started first, over so long before the end
    #: In place of the others but think_time_s: [{duration_s: 10s, to: 20}, {duration_s: 1m, to: 20}, …].
    stages: Stages = ()


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Open model: steps start at planned times, whatever the server does (see `perfkit.drive.schedule`)."""

    shape: Literal["constant", "poisson", "ramp", "steps", "spike", "soak", "replay", "stages"] = "constant"
    rate_per_s: Rate = 10.0  #: the rate; ramp: the last rate; spike: the rate outside the spike
    duration_s: Seconds = 10.0
    spacing: Literal["even", "poisson"] = "even"
    start_rate_per_s: RateOrZero = 0.0  #: ramp: the first rate
    #: Steps: one rate for each equal part of the duration, at most 1,000.
    step_rates_per_s: Annotated[tuple[RateOrZero, ...], msgspec.Meta(max_length=1_000)] = ()
    spike_rate_per_s: Rate | None = None  #: spike: the rate inside the spike (default 5 × rate)
    spike_at_s: NotNegative | None = None  #: spike: when it starts (default 40 % of the duration)
    spike_for_s: Seconds | None = None  #: spike: how long it lasts (default 20 % of the duration)
    #: Ramp: how long the rise takes, `rate_per_s` follows (default: all of the duration); soak: linear rise
    #: and fall at the ends (default 5 % of the duration).
    ramp_s: NotNegative | None = None
    file: str | None = None  #: replay: the recording; rate_per_s and duration_s come from it
    #: Replay: times as fast (default 1).
    speed: Annotated[float, msgspec.Meta(ge=0.001, le=1_000)] | None = None
    sha256: str | None = None  #: replay: of the file, which must be this one; filled in where it is not given
    #: In place of rate_per_s and duration_s: [{duration_s: 10s, to: 200}, {duration_s: 1m, to: 200}, …].
    stages: Stages = ()
    #: Parameters of scenario replay, which are looked for where its file is named.
    SLIPS: ClassVar[Mapping[str, str]] = {
        name: f"of a replay it stands below params (-p {name}=…)"
        for name in ("spread", "send_secrets", "skip_broken", "methods", "host")
    }


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """`compare` and `gate` carry out pairs until the comparison is clear (METHOD.md, "Stopping early")."""

    max_repeats: Annotated[int, msgspec.Meta(ge=3, le=10_000)] = 20
    budget_s: Seconds | None = None  #: of wall time; then one last look decides


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much the generator may disturb what it measures (METHOD.md, "Generator health").

    A delay of the generator's own making may reach `delay_ms`, or `delay_share` of the median response
    when that is more.
    """

    delay_ms: Positive = 10.0
    delay_share: NotNegative = 0.1
    cpu_share: Positive = 0.9  #: of one core, for the busiest worker
    gc_pause_ms: Positive = 100.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the processes are that generate the load (docs/many-hosts.md)."""

    on: str = "local"  #: local:N, ssh:HOST1,HOST2, dask:ADDRESS, join:N
    processes_per_host: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 1  #: ssh; dask: per worker
    python: str = "python3"  #: ssh: there, the Python that has perfkit
    listen: str = "127.0.0.1:0"  #: join: HOST:PORT where shards are waited for
    folder: str = ""  #: where rows are put when the run ends: a URL of any file system fsspec knows
    #: Series across hosts are marked where their clocks are known less exactly than this.
    clock_budget_ms: Positive = 1.0
    lost_worker: Literal["abort"] = "abort"  #: what a lost process means for the run


@dataclass(frozen=True, kw_only=True)
class Member:
    """One scenario of a mix, with its parameters and its load."""

    scenario: str
    name: str = ""  #: in the timeline and in reports; default: the scenario's
    params: dict[str, Any] = field(default_factory=dict)
    users: Users | None = None
    arrivals: Arrivals | None = None


class Variable(NamedTuple):
    """A text of a workload file whose value is secret: its place, how it was written, what variables gave."""

    path: tuple[str | int, ...]
    text: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a run does: a scenario with its parameters, under users or arrivals, against a target.

    Or a mix: several scenarios at once, each with parameters and a load of its own.
    """

    scenario: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    users: Users | None = None
    arrivals: Arrivals | None = None
    #: Several scenarios at once, for the same time, in place of the four above.
    mix: Annotated[tuple[Member, ...], msgspec.Meta(max_length=20)] = ()
    #: Before the measured part, at the load it begins with (a ramp from 0: none); not in statistics.
    warmup_s: Wait = 0.0
    drain_s: Wait = 30.0  #: how long requests under way may take to end; then they are cut off
    seed: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)] = 1
    repeats: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    stopping: Stopping | None = None
    duet: bool = False  #: `compare` and `gate` run both sides of a pair at once (METHOD.md, "Both at once")
    processes: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 1
    spread: Spread | None = None  #: processes on other hosts, too
    budget: Budget = field(default_factory=Budget)
    thresholds: Annotated[tuple[str, ...], msgspec.Meta(max_length=1_000)] = ()
    #: Conditions that end the run early (see `perfkit.drive.abort`); an empty list turns off the default one.
    abort: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] | None = None
    #: Limits of one request, such as `ttft < 500 ms and tpot < 50 ms`: what meets them counts as goodput.
    slo: str | None = None
    #: Options of the server perfkit starts; times among them may have a unit.
    server: dict[str, Any] = field(default_factory=dict, metadata={"times": True})
    tags: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    #: What environment variables gave to the file; no part of it.
    variables: tuple[Variable, ...] = field(default=(), compare=False, repr=False)
    SLIPS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("stages", "stage", "steps"), f"it belongs below users or arrivals: users: {{{SOME_STAGES}}}"
    )

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "workload") -> Workload:
        """Build and check a workload; BadInput names what is wrong, what is allowed and the nearest name."""
        workload = _with_stages(convert(cls, spelled_out(given), where), given, where)
        for tag in workload.tags:
            refuse_bad_tag(tag, f"{where}, tags: ")
        for name in ("warmup_s", "drain_s"):
            if 0 < getattr(workload, name) < 0.001:
                given_s = getattr(workload, name)
                raise BadInput(f"{where}: {name}: {given_s} is neither 0 nor at least 0.001 (a millisecond)")
        for i, member in enumerate(workload.members(where)):
            member._require_load(f"{where}, mix[{i}]" if workload.mix else where)
        return workload

    def members(self, where: str = "workload") -> tuple[Workload, ...]:
        """Return the workload of each scenario; of one without a mix the workload itself.

        BadInput for a workload with neither or both, and for a mix whose scenarios do not run equally long.
        """
        own = (self.scenario, self.params, self.users, self.arrivals)
        if not self.mix:
            if not self.scenario:
                raise BadInput(f"{where}: scenario is missing; name one, or several in mix")
            return (self,)
        for one in self.mix:
            if not _MIX_NAME(one.name):
                raise BadInput(f"{where}: mix: name {one.name!r:.80}: use 1 to 40 letters, digits, _ and -")
        if any(own):
            raise BadInput(f"{where}: scenario, params, users and arrivals are given in each entry of mix")
        names = ("scenario", "params", "users", "arrivals")
        given = [{name: getattr(one, name) for name in names} for one in self.mix]
        found = tuple(dataclasses.replace(self, mix=(), **one) for one in given)
        loads = [one.users or one.arrivals for one in found]
        lengths = {load.duration_s if load else None for load in loads}
        counted = any(isinstance(load, Users) and load.iterations for load in loads)
        if None in lengths or len(lengths) > 1 or counted:
            words = "each entry of mix needs users or arrivals with the same duration_s for all"
            raise BadInput(f"{where}: {words}, and no iterations")
        return found

    def _require_load(self, where: str) -> None:
        """BadInput for users or arrivals that cannot be."""
        users = self.users
        if users is not None and self.arrivals is not None:
            raise BadInput(f"{where}: both users and arrivals are given; remove one of them")
        if self.arrivals is not None:
            _refuse_other_shapes(self.arrivals, where)
        if users is not None:
            if users.iterations is None and users.duration_s is None:
                raise BadInput(f"{where}: users needs iterations or duration_s, or the run never ends")
            _refuse_ramps(users, self.warmup_s, where)
            think = users.think_time_s
            if isinstance(think, tuple) and not (len(think) == 2 and think[0] <= think[1]):
                raise BadInput(f"{where}: users.think_time_s takes seconds or [low, high], not {list(think)}")
            if self.processes > users.count:
                words = f"{where}: processes {self.processes} for users.count {users.count}"
                raise BadInput(f"{words}; a process without users would be idle; give at most {users.count}")

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`: plain dicts, lists and numbers."""
        given = dataclasses.asdict(dataclasses.replace(self, variables=()))
        del given["variables"]
        return cast(dict[str, Any], msgspec.to_builtins(given))


def refuse_bad_tag(tag: str, where: str = "") -> None:
    """BadInput for a tag that could not be named again in `tag:NAME` or in a list of tags."""
    if not tag or len(tag) > 60 or not tag.isprintable() or any(c.isspace() or c == "," for c in tag):
        words = "is not a valid tag: use 1 to 60 characters without spaces or commas"
        raise BadInput(f"{where}{tag[:80]!r} {words}")


_MIX_NAME = re.compile(r"[A-Za-z0-9_-]{0,40}").fullmatch
#: Characters of a note.
LONGEST_NOTE = 4000


def refuse_long_note(note: str | None) -> None:
    """BadInput for a note that is longer than anybody reads."""
    if note is not None and len(note) > LONGEST_NOTE:
        raise BadInput(f"the note has {len(note):,} characters; at most {LONGEST_NOTE:,} are allowed")


#: Which shapes a field of `arrivals` belongs to; those not named are of all shapes.
_OF_SHAPE = {
    "start_rate_per_s": ("ramp",),
    "step_rates_per_s": ("steps",),
    "spike_rate_per_s": ("spike",),
    "spike_at_s": ("spike",),
    "spike_for_s": ("spike",),
    "ramp_s": ("ramp", "soak"),
    "file": ("replay",),
    "speed": ("replay",),
    "sha256": ("replay",),
    "stages": ("stages",),
}


_Part = TypeVar("_Part", Workload, Member)
_Load = TypeVar("_Load", Users, Arrivals)


def _with_stages(workload: Workload, given: Mapping[str, Any], where: str) -> Workload:
    """The workload with what its stages say of count, rate and duration; given: what it was made of."""

    def staged(one: _Part, given: Mapping[str, Any], where: str) -> _Part:
        users = _staged(one.users, given.get("users"), workload.warmup_s, where)
        arrivals = _staged(one.arrivals, given.get("arrivals"), workload.warmup_s, where)
        return dataclasses.replace(one, users=users, arrivals=arrivals)

    mix = [staged(one, given["mix"][i], f"{where}, mix[{i}]") for i, one in enumerate(workload.mix)]
    return dataclasses.replace(staged(workload, given, where), mix=tuple(mix))


def _staged(load: _Load | None, named: Mapping[str, Any] | None, warmup_s: float, where: str) -> _Load | None:
    """The load with what its stages say; BadInput for what cannot be, or is named beside them and differs."""
    if load is None or not load.stages:
        if isinstance(load, Arrivals) and load.shape == "stages":
            raise BadInput(f"{where}: arrivals: shape stages needs {SOME_STAGES}")
        return load
    name = "users" if isinstance(load, Users) else "arrivals"
    most, lasts = max(stage.to for stage in load.stages), lasting_s(load.stages)
    if not most:
        raise BadInput(f"{where}: {name}.stages: all lead to 0, so nothing would be sent")
    if lasts - warmup_s < 0.001:
        raise BadInput(f"{where}: {name}.stages last {lasts:g} s, and warmup_s takes {warmup_s:g} s of them")
    if lasts > LONGEST_S:
        raise BadInput(f"{where}: {name}.stages last {lasts:.10g} s; at most {LONGEST_S:,} are allowed")
    rest_s = round(lasts - warmup_s, 9)
    if isinstance(load, Users):
        if odd := [stage.to for stage in load.stages if stage.to % 1 or stage.to > 100_000]:
            raise BadInput(f"{where}: users.stages: to: {odd[0]:g} is not a number of users up to 100,000")
        told: dict[str, Any] = {"count": int(most), "duration_s": rest_s}
        told |= {"iterations": None, "ramp_s": 0.0, "ramp_down_s": 0.0}
    else:
        told = {"shape": "stages", "rate_per_s": most, "duration_s": rest_s}
    for key, value in told.items():
        given = getattr(load, key)
        if key == "duration_s" and given is not None:
            given = round(given, 9)  # as the stages' sum is: 0.1 + 0.2 is 0.3
        if key in (named or ()) and given != value:
            says = key in ("count", "duration_s", "rate_per_s")
            words = f": the stages say {value:g}" if says else " does not go with stages"
            raise BadInput(f"{where}: {name}.{key} {given}{words}; leave one of them out")
    return dataclasses.replace(load, **told)


def _refuse_ramps(users: Users, warmup_s: float, where: str) -> None:
    """BadInput for ramps that do not fit into the run."""
    up_s, down_s, duration_s = users.ramp_s, users.ramp_down_s, users.duration_s
    if duration_s is None:
        if down_s:
            raise BadInput(f"{where}: users.ramp_down_s needs users.duration_s, which says when the run ends")
    elif up_s + down_s > warmup_s + duration_s or down_s > duration_s:
        ramps = f"users.ramp_s {up_s:g} and ramp_down_s {down_s:g}"
        raise BadInput(f"{where}: {ramps} do not fit in warmup_s {warmup_s:g} and duration_s {duration_s:g}")


def _refuse_other_shapes(arrivals: Arrivals, where: str) -> None:
    """BadInput for a value that the shape would leave unused."""
    for name, shapes in _OF_SHAPE.items():
        if arrivals.shape not in shapes and getattr(arrivals, name) != getattr(Arrivals(), name):
            words = f"arrivals.{name} is for shape {' or '.join(shapes)}, not {arrivals.shape}"
            raise BadInput(f"{where}: {words}; leave it out")
    if arrivals.shape == "replay" and not arrivals.file:
        raise BadInput(f"{where}: arrivals: shape replay needs file, such as access.log")


def spelled_out(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is given for a workload with `target: URL` as the mapping it is short for."""
    if isinstance(given, Mapping) and isinstance(url := given.get("target"), str):
        return {**given, "target": {"url": url}}
    return given
