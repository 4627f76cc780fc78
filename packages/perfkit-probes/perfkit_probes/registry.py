"""The metrics of an agent server, by OpenTelemetry: names, kinds, units, attributes, buckets in one table."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from perfkit_probes.histograms import record_all

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

T = TypeVar("T")
Kind = Literal["counter", "histogram", "gauge"]
#: Milliseconds from a cache hit to a hang.
_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 30e3, 60e3)
_USD = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)
_TOKENS = (1.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3)
_BYTES = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)


@dataclass(frozen=True)
class Instrument:
    """One metric; attributes are those it is recorded with besides the context's (`metric_attributes`)."""

    kind: Kind
    unit: str  #: UCUM
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


_POOL = ("engine_name",)
_ENDPOINT = ("endpoint_path", "method", "status_code")

INSTRUMENTS: Mapping[str, Instrument] = {
    "count_user_message": Instrument("counter", "1", "Messages sent by users"),
    "count_tool_execution": Instrument(
        "counter",
        "1",
        "Tools executed; step.id only of failures",
        ("tool.name", "tool.execution_success", "step.id"),
    ),
    "hist_ttft_ms": Instrument("histogram", "ms", "Time to the model's first token", ("model.name",), _MS),
    "hist_llm_execution_time_ms": Instrument(
        "histogram", "ms", "Time of one call of the model", ("model.name",), _MS
    ),
    "hist_tool_execution_time_ms": Instrument(
        "histogram", "ms", "Time of one execution of a tool", ("tool.name",), _MS
    ),
    "hist_step_execution_time_ms": Instrument("histogram", "ms", "Time of one step of an agent", (), _MS),
    "hist_message_cost_usd": Instrument("histogram", "usd", "Cost of a step's messages", (), _USD),
    "hist_message_output_tokens": Instrument(
        "histogram", "1", "Tokens the model put out in a step", ("model.name",), _TOKENS
    ),
    "hist_endpoint_e2e_ms": Instrument(
        "histogram", "ms", "Time of a request, to the last byte of its response", _ENDPOINT, _MS
    ),
    "count_endpoint_requests": Instrument("counter", "1", "Requests", _ENDPOINT),
    "hist_file_process_bytes": Instrument("histogram", "By", "Size of a text that was taken in", (), _BYTES),
    "gauge_db_pool_connections_total": Instrument(
        "gauge", "1", "Connections of the pool that are open, idle or out", _POOL
    ),
    "gauge_db_pool_connections_checked_out": Instrument("gauge", "1", "Connections that are out", _POOL),
    "gauge_db_pool_connections_available": Instrument("gauge", "1", "Open connections that are idle", _POOL),
    "gauge_db_pool_connections_overflow": Instrument(
        "gauge", "1", "Open connections beyond the pool's size", _POOL
    ),
    "hist_db_pool_connection_duration_ms": Instrument(
        "histogram", "ms", "How long a connection was out", _POOL, _MS
    ),
    "count_db_pool_connection_events": Instrument("counter", "1", "Events of the pool", (*_POOL, "event")),
    "count_db_pool_connection_errors": Instrument(
        "counter", "1", "Connections invalidated, and checkouts that failed", (*_POOL, "exception_type")
    ),
    "hist_db_pool_checkout_wait_ms": Instrument(
        "histogram", "ms", "How long a checkout waited for a connection", _POOL, _MS
    ),
    "hist_event_loop_lag_ms": Instrument(
        "histogram", "ms", "How late the event loop ran a callback", (), _MS
    ),
}

#: Attributes every metric of a request carries, such as `project.id`.
metric_attributes: ContextVar[Mapping[str, str]] = ContextVar(
    "perfkit_metric_attributes", default=MappingProxyType({})
)


_BATCH = 64
_MOST_SERIES = 1_000  # of `add` and `record`: what is beyond is handed over value by value
_METHODS: Mapping[Kind, str] = {"counter": "add", "histogram": "record", "gauge": "set"}


class MetricRegistry:
    """The instruments of `INSTRUMENTS`, each made when it is first used; any thread may use it.

    `MetricRegistry.of(provider)` is one per provider, so that nothing is counted twice. What is recorded
    waits in a list and is handed to OpenTelemetry 64 at a time, and whenever a reader collects: in the middle
    of a request, with cold caches, one call there costs ten times what it costs in a row.
    """

    _all: ClassVar[weakref.WeakKeyDictionary[MeterProvider, MetricRegistry]] = weakref.WeakKeyDictionary()
    _all_lock = threading.Lock()

    @classmethod
    def of(cls, provider: MeterProvider | None = None) -> MetricRegistry:
        """The registry of a meter provider; without one, of OpenTelemetry's global provider."""
        from opentelemetry import metrics

        provider = provider or metrics.get_meter_provider()
        with cls._all_lock:
            found = cls._all.get(provider)
            if found is None:
                found = cls._all[provider] = cls(provider.get_meter("perfkit_probes"))
            return found

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._before: tuple[Callable[[MetricRegistry], None], ...] = ()
        self._bound: tuple[Callable[[], None], ...] = ()
        self._tells: dict[tuple[Any, ...], Callable[[float], None]] = {}  # by method and arguments
        self._waiting: deque[tuple[Callable[..., Any], float, dict[str, Any]]] = deque()
        # It observes nothing; it is called at the beginning of each collection.
        self._meter.create_observable_gauge("perfkit_flush", [self._collected])

    def add(self, name: str, amount: float = 1, **attributes: Any) -> None:
        """Count. Attribute names with a dot are given as `**{"model.name": …}`."""
        self._tell("add", name, attributes)(amount)

    def record(self, name: str, value: float, **attributes: Any) -> None:
        """Put a value into a histogram."""
        self._tell("record", name, attributes)(value)

    def set(self, name: str, value: float, **attributes: Any) -> None:
        """Set a gauge."""
        self._later(self._call(name, "set"), value, _checked(name, attributes))

    def bound(self, name: str, **attributes: Any) -> Callable[[float], None]:
        """`add`, `record` or `set`, as the instrument has it, with these attributes: for what comes often."""
        kind = INSTRUMENTS[name].kind
        call, checked = self._call(name, _METHODS[kind]), _checked(name, attributes)
        if kind == "counter":
            return self._tally(call, checked)
        later, context_of = self._later, metric_attributes.get
        series: dict[tuple[tuple[str, str], ...], deque[float]] = {}  # by the request's own attributes
        many = record_all if kind == "histogram" else _set_the_last

        def empty(context: tuple[tuple[str, str], ...], values: deque[float]) -> None:
            batch: list[float] = []
            with contextlib.suppress(IndexError):  # another thread may empty it at the same time
                while True:
                    batch.append(values.popleft())
            if batch:
                many(self._made[name], {**dict(context), **checked}, batch)

        def hand_over() -> None:
            for context, values in list(series.items()):
                empty(context, values)

        def tell(value: float) -> None:
            context = tuple(context_of().items())
            values = series.get(context)
            if values is None:
                if len(series) >= _MOST_SERIES:
                    later(call, value, checked)
                    return
                values = series.setdefault(context, deque())
            values.append(value)
            if len(values) >= _BATCH:
                empty(context, values)

        self._hand_over_with(hand_over)
        return tell

    def _hand_over_with(self, hand_over: Callable[[], None]) -> None:
        with self._lock:
            self._bound = (*self._bound, hand_over)

    def _tell(self, method: str, name: str, attributes: dict[str, Any]) -> Callable[[float], None]:
        """`bound`, once for the same attributes."""
        key = (method, name, *attributes.items())
        tell = self._tells.get(key)
        if tell is None:
            call = self._call(name, method)
            if len(self._tells) >= _MOST_SERIES:
                checked = _checked(name, attributes)
                return lambda value: self._later(call, value, checked)
            tell = self._tells[key] = self.bound(name, **attributes)
        return tell

    def _tally(self, call: Callable[..., Any], checked: dict[str, Any]) -> Callable[[float], None]:
        """Adds up itself and tells the sums when metrics are collected; before that nobody sees a counter."""
        lock, context_of = threading.Lock(), metric_attributes.get
        totals: dict[tuple[tuple[str, str], ...], float] = {}

        def count(amount: float) -> None:
            context = tuple(context_of().items())
            with lock:
                totals[context] = totals.get(context, 0.0) + amount

        def told() -> None:
            nonlocal totals
            with lock:
                amounts, totals = totals, {}
            for context, amount in amounts.items():
                call(amount, {**dict(context), **checked})

        self._hand_over_with(told)
        return count

    def get_or_create_metric(self, name: str, factory: Callable[[Meter], T]) -> T:
        """A metric of the service's own, made by the factory when it is first asked for, by whatever thread.

        ValueError for a name of `INSTRUMENTS`. Its values go straight to OpenTelemetry.
        """
        if name in INSTRUMENTS:
            raise ValueError(f"{name} is a metric of perfkit_probes; use add, record or set")
        return self._get_or_create(name, factory)

    def _get_or_create(self, name: str, factory: Callable[[Meter], T]) -> T:
        with self._lock:
            if name not in self._made:
                self._made[name] = factory(self._meter)
            made: T = self._made[name]
        return made

    def flush(self) -> None:
        """Hand over what waits."""
        for hand_over in self._bound:
            hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        waiting = self._waiting
        with contextlib.suppress(IndexError):  # another thread may empty it at the same time
            while True:
                call, value, attributes = waiting.popleft()
                call(value, attributes)

    def before_collecting(self, tell: Callable[[MetricRegistry], None]) -> None:
        """Call this when the metrics are about to be read: for what is true at a moment, as gauges are."""
        with self._lock:
            self._before = (*self._before, tell)

    def not_before_collecting(self, tell: Callable[[MetricRegistry], None]) -> None:
        """Call it no longer."""
        with self._lock:
            self._before = tuple(one for one in self._before if one != tell)

    def _collected(self, options: object) -> tuple[()]:
        for tell in self._before:
            tell(self)
        self.flush()
        return ()

    def _later(self, call: Callable[..., Any], value: float, attributes: dict[str, Any]) -> None:
        context = metric_attributes.get()
        self._waiting.append((call, value, {**context, **attributes} if context else attributes))
        if len(self._waiting) >= _BATCH:
            self._hand_over()

    def _call(self, name: str, method: str) -> Callable[..., Any]:
        """The instrument's method; the instrument is made when it is first asked for."""
        made = self._made.get(name) or self._get_or_create(name, lambda _: self._make(name))
        kind = INSTRUMENTS[name].kind
        if _METHODS[kind] != method:
            raise TypeError(f"{name} is a {kind}: it has {_METHODS[kind]!r}, not {method!r}")
        call: Callable[..., Any] = getattr(made, method)
        return call

    def _make(self, name: str) -> Any:
        one = INSTRUMENTS[name]
        if one.kind == "histogram":
            return self._meter.create_histogram(
                name, one.unit, one.description, explicit_bucket_boundaries_advisory=one.buckets
            )
        make: Callable[..., Any] = (
            self._meter.create_counter if one.kind == "counter" else self._meter.create_gauge
        )
        return make(name, one.unit, one.description)


def _set_the_last(gauge: Any, attributes: Mapping[str, Any], values: Sequence[float]) -> None:
    gauge.set(values[-1], attributes)


def _checked(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    allowed = INSTRUMENTS[name].attributes
    for key in attributes:
        if key not in allowed:
            raise ValueError(f"{name} has no attribute {key!r}")
    return {key: value for key, value in attributes.items() if value is not None}
