"""Bring what a server observes of itself into the run: perfkit's probes, and any Prometheus page.

Threads of the coordinating process fetch them, so it takes nothing from the load's event loops. A server
that does not answer, or answers nonsense, disturbs no run: run.json says what was missed.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from perfkit.drive import prometheus
from perfkit.drive.transport import origin, tls_context, unpacked
from perfkit.hosts import as_list
from perfkit.model import NO_TOKENS, Target, Tokens
from perfkit.redaction import NO_SECRETS, Redactor
from perfkit.store import PROBES_SCHEMA, write_probe_segment

_PROBES_EVERY_S, _METRICS_EVERY_S = 0.5, 1.0
_PROBES = "/probe/samples"
_IS_IT_BUSY = "is the server too busy to answer?"
_IS_IT_RIGHT = "is target.{}_url right?"
_TIMEOUT_S = 2.0  # for each part of an answer
_WHOLE_S = 4.0  # for a whole answer: one that comes byte by byte meets no other limit
_STOP_S = 10.0  # for the last fetches of all sources together
_MOST_BYTES = 16_000_000  # of an answer, unpacked; as Python's objects JSON takes up to 30 times as much
_LIMIT = 20_000  # samples of a page
_MOST_PAGES = 50  # in one fetch: a server that never ends keeps nobody from the others
_LONGEST_LABEL = 600  # a statement with its plan
_KEY = re.compile(r"[\w-]{8,200}", re.ASCII)
_T = TypeVar("_T")
_CLOCK_FETCHES = 60  # a clock is known from the last half minute: clocks drift


class _Clock(NamedTuple):
    """What one fetch told of a server's clock: it minus ours, off by half the round trip at most."""

    round_trip_ns: int
    offset_ns: float | None  #: None: the page tells no instants of its own


@dataclass
class _Source:
    """One page that is fetched again and again, and what became of it."""

    kind: Literal["probes", "metrics"]
    page: str  #: the URL that is fetched
    token: str | None
    shown_page: str
    name: str  #: what its samples are called after
    samples: int = 0
    lost: int = 0
    errors: int = 0
    error: str | None = None
    clocks: deque[_Clock] = field(default_factory=lambda: deque(maxlen=_CLOCK_FETCHES))
    after: int = -1
    beside: tuple[str, str] | None = None  #: where a thread of the server has the same page, and its key
    instance: str | None = None
    earlier: set[str] = field(default_factory=set)
    before: dict[tuple[str, str], float] = field(default_factory=dict)
    ended: bool = False

    def clock(self) -> _Clock:
        """The measurement of the shortest round trip; ValueError when there is none."""
        return min(self.clocks)

    def told(self) -> dict[str, Any]:
        """For run.json."""
        found: dict[str, Any] = {"source": self.name, "page": self.shown_page, "samples": self.samples}
        found |= {"lost": self.lost, "errors": self.errors, "error": self.error}
        if self.clocks:
            round_trip_ns, offset_ns = self.clock()
            found |= {"uncertainty_ms": round_trip_ns / 2e6, "round_trip_ms": round_trip_ns / 1e6}
            if offset_ns is not None:
                found["offset_ms"] = offset_ns / 1e6
        return found


class Collector:
    """Fetches a target's probes each half second and its Prometheus pages each second, until it is stopped.

    Samples go to `probes.parquet` on the run's clock. The offset of a server's clock is measured with each
    fetch, and of the last half minute the one of the shortest round trip is taken: when it was measured it
    was off by half of that at most (Cristian, "Probabilistic clock synchronization", 1989).
    """

    def __init__(
        self,
        folder: Path,
        target: Target,
        origin_ns: int,
        tokens: Tokens = NO_TOKENS,
        redact: Redactor = NO_SECRETS,
    ) -> None:
        self._folder, self._target, self._origin_ns = folder, target, origin_ns
        self._tokens, self._redact = tokens, redact
        self._sources = [
            *(self._source("probes", url.rstrip("/") + _PROBES) for url in as_list(target.probes_url)),
            *(self._source("metrics", url) for url in as_list(target.metrics_url)),
        ]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._pending: list[pa.Table] = []
        self._segments = 0
        self._next_write = 0.0
        self._began_ns = time.monotonic_ns() - origin_ns

    def start(self) -> None:
        """Begin to fetch: a thread for each source, so that a slow one holds up no other."""
        self._began_ns = time.monotonic_ns() - self._origin_ns
        for source in self._sources:
            thread = threading.Thread(target=self._follow, args=(source,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> list[dict[str, Any]]:
        """Fetch a last time, stop, and say what came from where: an entry for each source.

        A source that does not come to an end is left behind.
        """
        self._stop.set()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        with self._lock:
            for source in self._sources if self._threads else ():
                if not source.ended:
                    words = f"no answer {_STOP_S:g} s after the end of the load"
                    self._failed(source, words, _IS_IT_BUSY)
                    source.ended = True
        self._threads.clear()
        self._write()
        return [source.told() for source in self._sources]

    def _source(self, kind: Literal["probes", "metrics"], page: str) -> _Source:
        """A source with its own token, or with the target's where it is of the target's own origin."""
        token: str | None = getattr(self._tokens, kind)
        if token is None and origin(page) == origin(self._target.url or ""):
            token = self._tokens.target
        shown = self._redact.url(page)
        name = _host(page) + (urlsplit(shown).path if kind == "metrics" else "")
        return _Source(kind, page, token, shown, name)

    # -- in the threads ------------------------------------------------------------------------

    def _follow(self, source: _Source) -> None:
        import httpx

        of_probes = self._fetch_probes, _PROBES_EVERY_S
        fetch, every_s = of_probes if source.kind == "probes" else (self._fetch_metrics, _METRICS_EVERY_S)

        tls = tls_context(self._target)
        headers = {"authorization": f"Bearer {source.token}"} if source.token else {}
        with httpx.Client(headers=headers, timeout=_TIMEOUT_S, verify=tls, trust_env=False) as client:
            while True:
                last = self._stop.is_set()
                began = time.monotonic()
                self._try(source, client, fetch, last)
                if began >= self._next_write:
                    self._next_write = began + 0.8
                    self._write()
                if last:
                    source.ended = True
                    return
                self._stop.wait(max(every_s - (time.monotonic() - began), 0.05))

    def _try(self, source: _Source, client: Any, fetch: Callable[..., None], last: bool) -> None:
        import httpx

        try:
            fetch(source, client, last)
        except _Refused as refused:
            self._failed(source, str(refused), _to_do(refused.status, source.kind))
        except httpx.TimeoutException as error:
            self._failed(source, f"{type(error).__name__}: {error}", _IS_IT_BUSY)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._failed(source, f"{type(error).__name__}: {error}", _IS_IT_RIGHT.format(source.kind))
        except Exception as error:  # whatever nonsense brings about: a thread that ends tells nobody
            words = f"unexpected response: {type(error).__name__}: {error}"
            self._failed(source, words, _IS_IT_RIGHT.format(source.kind))

    def _failed(self, source: _Source, words: str, to_do: str) -> None:
        if not source.ended:
            source.errors += 1
            source.error = f"{self._redact(words).splitlines()[0][:_LONGEST_LABEL]}; {to_do}"

    def _get(
        self,
        client: Any,
        url: str,
        read: Callable[[Iterator[bytes], str], _T],
        token: str | None = None,
        **params: Any,
    ) -> tuple[_T, int, int]:
        """What `read` makes of the pieces and the content type; when it was asked for, and was here."""
        sent = received = time.monotonic_ns()

        def pieces() -> Iterator[bytes]:
            nonlocal received
            size = 0
            for piece in unpacked(response.iter_raw(), response.headers.get("content-encoding", "")):
                received = time.monotonic_ns()
                size += len(piece)
                if size > _MOST_BYTES or received - sent > 1e9 * _WHOLE_S:
                    raise ValueError(f"more than {_MOST_BYTES / 1e6:g} MB or {_WHOLE_S:g} s")
                yield piece

        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {token}"} if token else {})
        with client.stream("GET", url, params=params or None, headers=headers) as response:
            received = time.monotonic_ns()
            if response.status_code != 200:
                raise _Refused(response.status_code)
            found = read(pieces(), response.headers.get("content-type", ""))
        return found, sent, received

    # -- perfkit's probes

    def _fetch_probes(self, source: _Source, client: Any, last: bool) -> None:
        """Every sample since the last fetch; from the server's thread when its loop does not answer."""
        import httpx

        try:
            self._fetch_pages(source, client, source.page, None)
        except httpx.TimeoutException as late:
            if source.beside is None:
                raise
            try:
                self._fetch_pages(source, client, *source.beside)
            except (httpx.HTTPError, _Refused):
                raise late from None

    def _fetch_pages(self, source: _Source, client: Any, url: str, key: str | None) -> None:
        for _ in range(_MOST_PAGES):
            page, sent, received = self._get(client, url, _json, key, after=source.after, limit=_LIMIT)
            instance = self._redact(str(page["instance"]))[:_LONGEST_LABEL]
            if self._is_another(source, instance):
                continue
            source.name = f"{instance} ({_host(source.page)})"
            source.beside = _beside(source.page, page.get("also"))
            offset_ns = int(page["now_ns"]) - (sent + received) / 2
            source.clocks.append(_Clock(received - sent, offset_ns))
            self._keep_page(source, page["samples"])
            source.lost += max(int(page["lost"]), 0)
            source.after = int(page["next"])
            if len(page["samples"]["t_ns"]) < _LIMIT:
                return

    @staticmethod
    def _is_another(source: _Source, instance: str) -> bool:
        """Whether another process answered than before: it is asked from its beginning, on its own clock."""
        known, source.instance = source.instance, instance
        if known in (None, instance):
            return False
        source.after = 0
        source.clocks.clear()
        source.earlier.add(str(known))
        if instance in source.earlier:  # no restart: their numbers cannot be told apart
            raise ValueError("several instances answer here; list the address of each in probes_url")
        return True

    def _keep_page(self, source: _Source, samples: Mapping[str, list[Any]]) -> None:
        shift = int(source.clock().offset_ns or 0) + self._origin_ns
        t = [int(instant) - shift for instant in samples["t_ns"]]
        columns = [samples[name] for name in ("probe", "value", "label", "request_id")]
        if any(len(column) != len(t) for column in columns):
            raise ValueError("columns of different lengths")
        if not all(math.isfinite(value) for value in columns[1]):
            raise ValueError("a value that is not a number")
        self._keep(source, t, *columns)

    # -- Prometheus

    def _fetch_metrics(self, source: _Source, client: Any, last: bool) -> None:
        """Every series of a page whose value is not what it was; all of them at the first and last fetch."""
        now, sent, received = self._get(client, source.page, prometheus.series)
        before, source.before = source.before, now
        source.clocks.append(_Clock(received - sent, None))
        changed = [(key, value) for key, value in now.items() if last or not _same(before.get(key), value)]
        t = [(sent + received) // 2 - self._origin_ns] * len(changed)
        names, labels = [key[0] for key, _ in changed], [key[1] for key, _ in changed]
        self._keep(source, t, names, [value for _, value in changed], labels, [None] * len(changed))

    # -- writing

    def _keep(self, source: _Source, t: list[int], *columns: list[Any]) -> None:
        if not t:
            return
        probe, value, label, request_id = columns
        probe, label, request_id = (self._clean(column) for column in (probe, label, request_id))
        values = (t, [source.name] * len(t), probe, value, label, request_id)
        rows = dict(zip(PROBES_SCHEMA.names, values, strict=True))
        table = pa.table(rows, schema=PROBES_SCHEMA)  # what cannot be written is refused here: this page only
        # a process that is new to us may be older than the run
        earliest = self._began_ns - source.clock().round_trip_ns // 2
        table = table.filter(pc.field("t") >= earliest)
        with self._lock:
            if source.ended:  # it was given up, and told of
                return
            self._pending.append(table)
            source.samples += len(table)

    def _clean(self, column: list[Any]) -> list[Any]:
        """The texts without secrets, none too long; the same text once: most columns have few."""
        clean = {one: self._redact(str(one))[:_LONGEST_LABEL] for one in {*column} if one is not None}
        return [clean.get(one) for one in column]

    def _write(self) -> None:
        with self._lock:
            if not self._pending:
                return
            whole = pa.concat_tables(self._pending)
            self._pending.clear()
            with contextlib.suppress(OSError):  # the disk is full: the rows' writer tells of it
                write_probe_segment(self._folder, self._segments, whole)
            self._segments += 1


def _json(pieces: Iterable[bytes], _: str) -> Any:
    return json.loads(b"".join(pieces))


def _beside(page: str, told: Any) -> tuple[str, str] | None:
    """Where else a server says its page is: another port of the same host, and the key it gave for that.

    It never sees the target's own token. Not beside an encrypted page: that one is not.
    """
    parts = urlsplit(page)
    if parts.scheme != "http" or not isinstance(told, dict):
        return None
    port, key = told.get("port"), told.get("key")
    if (
        not isinstance(port, int)
        or not 0 < port < 65536
        or not isinstance(key, str)
        or not _KEY.fullmatch(key)
    ):
        return None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"http://{host}:{port}{_PROBES}", key


def _same(before: float | None, now: float) -> bool:
    return before == now or (before is not None and before != before and now != now)  # NaN is no news


class _Refused(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def _to_do(status: int, kind: str) -> str:
    """What to do about a status, in a few words."""
    if status in (401, 403):
        return f"name a variable with its token in target.{kind}_token_env"
    if status == 404:
        what = "the base URL of a server with perfkit's probes" if kind == "probes" else "a page's whole URL"
        return f"target.{kind}_url must be {what}"
    return "see the server's log" if status >= 500 else _IS_IT_RIGHT.format(kind)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
