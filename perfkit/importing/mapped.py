"""Any CSV, by a map of its columns: `--column started_unix_s=start --column duration_ms=took`.

FIELD=NAME, where NAME is the CSV's and FIELD one of
  planned, started, sent, first_byte, done    instants: ISO 8601, or numbers with
                                              _unix_s, _unix_ms, _unix_us, _unix_ns  since 1970,
                                              _s, _ms, _us, _ns                      since any start
  duration_s, _ms, _us, _ns                   from started (else planned) to done, in place of one of them
  operation, status, error, error_text, user, bytes_sent, bytes_received
`error`: one of perfkit's classes, or any words; empty, 0, false, none and null are no error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from perfkit.errors import BadInput, unknown
from perfkit.importing.head import Head
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.records import records, refuse_twice
from perfkit.importing.rows import INSTANTS, Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS, has_zone, ns, unix_ns, whole
from perfkit.importing.words import error_class
from perfkit.model import ERRORS

_OTHERS = ("operation", "status", "error", "error_text", "user", "bytes_sent", "bytes_received")
_NO_ERROR = ("", "0", "0.0", "false", "none", "null", "nil", "nan", "no", "ok", "success", "-", "n/a")
FIELDS = (*INSTANTS, *(f"{name}_{unit}" for name in ("duration", *INSTANTS) for unit in UNITS),
          *(f"{name}_unix_{unit}" for name in INSTANTS for unit in UNITS), *_OTHERS)  # fmt: skip
Read = Callable[[str], int]


class _Map:
    """A checked column map: the names of columns and how each instant is read."""

    def __init__(self, columns: Mapping[str, str], path: str) -> None:
        self.instants: dict[str, tuple[str, Read]] = {}
        self.duration: tuple[str, Read] | None = None
        self.others: dict[str, str] = {}
        self.zone_unknown = False
        #: In what (ns) a time is written: as named, or by an ISO time's digits.
        self.units: dict[str, int] = {}
        kinds: set[bool] = set()
        for field, name in columns.items():
            if field not in FIELDS:
                raise unknown("field in --column:", field, FIELDS)
            if field in _OTHERS:
                self.others[field] = name
                continue
            instant, unit = _split(field)
            if instant == "duration":
                self.duration = name, partial(ns, unit=unit)
                self.units["took"] = UNITS[unit]
                continue
            if instant in self.instants:
                raise BadInput(f"--column {field}: {instant} is given twice; give one")
            self.instants[instant] = name, self._reading(instant, unit.removeprefix("unix_"))
            kinds.add(not unit or unit.startswith("unix_"))
        has_begin = bool({"planned", "started"} & self.instants.keys())
        if has_begin + ("done" in self.instants) + (self.duration is not None) != 2:
            raise BadInput(f"{path}: a column map needs two of: planned or started, done, duration (such as "
                           "--column started=begin --column duration_ms=took)")  # fmt: skip
        if len(kinds) > 1:
            mixed = "instants since 1970 with instants since a start"
            raise BadInput(f"{path}: --column mixes {mixed}; give one kind")
        self.absolute = kinds.pop()

    def _reading(self, instant: str, unit: str) -> Read:
        """How the texts of an instant are read."""
        self.units[instant] = UNITS[unit or "s"]
        return partial(ns, unit=unit) if unit else partial(self._iso, instant)

    def _iso(self, instant: str, text: str) -> int:
        self.zone_unknown = self.zone_unknown or not has_zone(text)
        at = unix_ns(text)
        while at % self.units[instant]:
            self.units[instant] //= 1000
        return at

    @property
    def between(self) -> tuple[str, ...]:
        """The instants a latency is the difference of, where it is not the duration alone."""
        begin = "planned" if "planned" in self.instants else "started"
        if self.duration is None:
            return begin, "done"
        return ("planned", "started") if {"planned", "started"} <= self.instants.keys() else ()

    def all_columns(self) -> list[str]:
        """Every column the map names."""
        named = [*self.instants.values(), *([self.duration] if self.duration else [])]
        return [name for name, _ in named] + list(self.others.values())


def _split(field: str) -> tuple[str, str]:
    """`sent_unix_ms` -> sent, unix_ms; `first_byte` -> first_byte and nothing."""
    name = next(one for one in ("duration", *INSTANTS) if field == one or field.startswith(f"{one}_"))
    return name, field.removeprefix(name).removeprefix("_")


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each record."""
    given = _Map(asked.columns, str(source.path))
    rows.absolute = given.absolute
    wanted = given.all_columns()
    head = Head(source.head, asked.names)
    names = head.names(head.delimiter(() if asked.names else wanted))
    for name in wanted:
        if name not in names:
            raise unknown(f"column of {source.path.name}:", name, names)
    refuse_twice(source, names, wanted)

    expected = "a value that fits its --column (ISO 8601, or a number of its unit)"
    source.each(records(source, wanted, asked.names), lambda told: _add(rows, given, told), expected)
    rows.steps.between = given.between
    rows.steps.units = given.units
    if given.duration is None:  # as fine as the finer of the two that it is the difference of
        rows.steps.units["took"] = min(given.units[name] for name in given.between)
    known = "planned" in given.instants
    notes = [] if known else ["no column was given for planned times"]
    notes += ["its times have no zone and were taken as UTC"] if given.zone_unknown else []
    return Facts("CSV", intended_time=known, notes=tuple(notes))


def _add(rows: Rows, given: _Map, told: Mapping[str, str]) -> None:
    at: dict[str, int | None] = dict.fromkeys(INSTANTS)
    for instant, (name, value) in given.instants.items():
        if told[name].strip():
            at[instant] = value(told[name])
    if given.duration is not None and told[given.duration[0]].strip():
        name, value = given.duration
        if (took := value(told[name])) < 0:
            raise Wrong(f"a duration of {told[name]}", "0 or more")
        begin = at["started"] if at["started"] is not None else at["planned"]
        if begin is not None:
            at["done"] = begin + took
        elif at["done"] is not None:
            at["started"] = at["done"] - took
    other = dict.fromkeys(_OTHERS, "") | {field: told[name].strip() for field, name in given.others.items()}
    status, sent, received = (
        whole(other[name]) if other[name] else None for name in ("status", "bytes_sent", "bytes_received")
    )
    status = status or None
    error, words = _error(status, other["error"], other["error_text"])
    user = other["user"]
    rows.add(
        rows.names.of(other["operation"] or "request"),
        started=at["started"], planned=at["planned"], sent=at["sent"], first_byte=at["first_byte"],
        done=at["done"], status=status, error=error, words=words, bytes_sent=sent, bytes_received=received,
        user=int(user) if user.isdecimal() and str(int(user)) == user else user,
    )  # fmt: skip


def _error(status: int | None, said: str, text: str) -> tuple[str | None, str | None]:
    """perfkit's class and the words."""
    if said in ERRORS:
        return said, text or said
    failed = said.lower() not in _NO_ERROR
    error = error_class(status, f"{said} {text}", failed=failed)
    plain = said if said.lower() not in ("true", "yes", "1") else ""
    plain = plain or (f"status {status}" if status is not None else f"{said} in the column of errors")
    return error, (text or plain) if error else None
