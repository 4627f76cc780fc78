"""Bring what a server observes of itself into the run: perfkit's probes, and any Prometheus page.

Threads of the coordinating process fetch them, so it takes nothing from the load's event loops. A server
that does not answer, or answers nonsense, disturbs no run: run.json says what was missed.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from perfkit.model import Target
from perfkit.store import PROBES_SCHEMA, write_probe_segment

_PROBES_EVERY_S, _METRICS_EVERY_S = 0.5, 1.0
_TIMEOUT_S = 2.0
_LIMIT = 20_000
_MOST_PAGES = 50  # in one fetch: a server that never ends keeps nobody from the others
_LONGEST_LABEL = 300


@dataclass
class _Source:
    """One page that is fetched again and again, and what became of it."""

    url: str
    name: str
    samples: int = 0
    lost: int = 0
    errors: int = 0
    error: str | None = None
    #: Of the fetch with the shortest round trip: server's clock minus ours, and how far off that may be.
    offset_ns: float = 0.0
    round_trip_ns: float = math.inf
    after: int = -1
    instance: str | None = None
    before: dict[tuple[str, str], float] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For run.json."""
        found: dict[str, Any] = {"source": self.name, "url": self.url, "samples": self.samples}
        found |= {"lost": self.lost, "errors": self.errors, "error": self.error}
        if math.isfinite(self.round_trip_ns):
            found |= {"offset_ms": self.offset_ns / 1e6, "uncertainty_ms": self.round_trip_ns / 2e6}
        return found


class Collector:
    """Fetches a target's probes each half second and its Prometheus pages each second, until it is stopped.

    Samples go to `probes.parquet` on the run's clock. The offset of a server's clock is measured with each
    fetch, and the one of the shortest round trip is taken: it is off by half of that at most (Cristian,
    "Probabilistic clock synchronization", 1989).
    """

    def __init__(self, folder: Path, target: Target, origin_ns: int, token: str | None) -> None:
        self._folder, self._target, self._origin_ns = folder, target, origin_ns
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._probes = [_Source(url, _host(url)) for url in as_list(target.probes_url)]
        self._metrics = [_Source(url, _host(url)) for url in as_list(target.metrics_url)]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._pending: list[pa.Table] = []
        self._segments = 0
        self._next_write = 0.0

    def start(self) -> None:
        """Begin to fetch: a thread for each source, so that a slow one holds up no other."""
        for sources, fetch, every_s in (
            (self._probes, self._fetch_probes, _PROBES_EVERY_S),
            (self._metrics, self._fetch_metrics, _METRICS_EVERY_S),
        ):
            for source in sources:
                thread = threading.Thread(target=self._follow, args=(source, fetch, every_s), daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> list[dict[str, Any]]:
        """Fetch a last time, stop, and say what came from where: an entry for each source."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._write()
        return [source.told() for source in (*self._probes, *self._metrics)]

    # -- in the threads ------------------------------------------------------------------------

    def _follow(self, source: _Source, fetch: Callable[..., None], every_s: float) -> None:
        import httpx

        verify: Any = self._target.ca_file or self._target.verify_tls
        with httpx.Client(
            headers=self._headers, timeout=_TIMEOUT_S, verify=verify, trust_env=False
        ) as client:
            while True:
                last = self._stop.is_set()
                began = time.monotonic()
                self._try(source, client, fetch, last)
                if began >= self._next_write:
                    self._next_write = began + 0.8
                    self._write()
                if last:
                    return
                self._stop.wait(max(every_s - (time.monotonic() - began), 0.05))

    def _try(self, source: _Source, client: Any, fetch: Callable[..., None], last: bool) -> None:
        import httpx

        try:
            fetch(source, client, last)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._failed(source, f"{type(error).__name__}: {error}")
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            self._failed(source, f"the answer is not what was expected: {type(error).__name__}: {error}")

    @staticmethod
    def _failed(source: _Source, words: str) -> None:
        source.errors += 1
        source.error = words.splitlines()[0][:_LONGEST_LABEL]

    def _get(self, client: Any, url: str, **params: Any) -> tuple[Any, int, int]:
        sent = time.monotonic_ns()
        response = client.get(url, params=params or None)
        received = time.monotonic_ns()
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        return response, sent, received

    # -- perfkit's probes

    def _fetch_probes(self, source: _Source, client: Any, last: bool) -> None:
        """Every sample since the last fetch, page by page."""
        url = source.url.rstrip("/") + "/probe/samples"
        for _ in range(_MOST_PAGES):
            response, sent, received = self._get(client, url, after=source.after, limit=_LIMIT)
            page = response.json()
            instance = str(page["instance"])
            if source.instance not in (None, instance):
                # another process: from its beginning, on its own clock
                source.instance, source.after, source.round_trip_ns = instance, 0, math.inf
                continue
            source.instance = instance
            source.name = f"{source.instance} ({_host(source.url)})"
            if received - sent < source.round_trip_ns:
                source.round_trip_ns = received - sent
                source.offset_ns = int(page["now_ns"]) - (sent + received) / 2
            self._keep_page(source, page["samples"])
            source.lost += int(page["lost"])
            source.after = int(page["next"])
            if len(page["samples"]["t_ns"]) < _LIMIT:
                return

    def _keep_page(self, source: _Source, samples: Mapping[str, list[Any]]) -> None:
        shift = int(source.offset_ns) + self._origin_ns
        t = [int(instant) - shift for instant in samples["t_ns"]]
        columns = [samples[name] for name in ("probe", "value", "label", "request_id")]
        if any(len(column) != len(t) for column in columns):
            raise ValueError("columns of different lengths")
        self._keep(source, t, *columns)

    # -- Prometheus

    def _fetch_metrics(self, source: _Source, client: Any, last: bool) -> None:
        """Every series of a page whose value is not what it was; all of them at the first and last fetch."""
        from prometheus_client.parser import text_string_to_metric_families

        response, sent, received = self._get(client, source.url)
        now, before = {}, source.before
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                words = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                now[sample.name, f"{{{words}}}" if words else ""] = float(sample.value)
        if len(now) > _LIMIT:
            raise ValueError(f"{len(now):,} series; at most {_LIMIT:,} are kept")
        source.before = now
        source.round_trip_ns = min(source.round_trip_ns, received - sent)
        changed = [(key, value) for key, value in now.items() if last or before.get(key) != value]
        t = [(sent + received) // 2 - self._origin_ns] * len(changed)
        names, labels = [key[0] for key, _ in changed], [key[1] for key, _ in changed]
        self._keep(source, t, names, [value for _, value in changed], labels, [None] * len(changed))

    # -- writing

    def _keep(self, source: _Source, t: list[int], *columns: list[Any]) -> None:
        if not t:
            return
        probe, value, label, request_id = columns
        label = [str(text)[:_LONGEST_LABEL] for text in label]
        values = (t, [source.name] * len(t), probe, value, label, request_id)
        rows = dict(zip(PROBES_SCHEMA.names, values, strict=True))
        table = pa.table(rows, schema=PROBES_SCHEMA)  # what cannot be written is refused here: this page only
        with self._lock:
            self._pending.append(table)
        source.samples += len(t)

    def _write(self) -> None:
        with self._lock:
            if not self._pending:
                return
            whole = pa.concat_tables(self._pending)
            self._pending.clear()
            with contextlib.suppress(OSError):  # the disk is full: the rows' writer tells of it
                write_probe_segment(self._folder, self._segments, whole)
            self._segments += 1


def as_list(given: str | Iterable[str] | None) -> list[str]:
    """None, one URL or several, as a list."""
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
