"""Findings about the server's process: its event loop, its CPU, what grows, and time that nobody owns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from perfkit.observe.frames import by_source, of_probe, only, span, tail_split
from perfkit.observe.growth import growths, new_clients, of_each
from perfkit.observe.limits import Limits
from perfkit.store.metadata import Finding
from perfkit.store.rows import Part

_MOST_SLOW = 1000  #: requests whose surroundings are looked at


def findings(rows: Part, samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """All findings about the process; arguments as for `findings.findings`."""
    owned = [*_blocked(samples, limits), *_cpu(samples, limits), *_executor(samples, limits)]
    yield from owned
    yield from _memory(rows, samples, limits)
    yield from _descriptors(rows, samples, limits)
    end = "End them with their request, or await them with a timeout."
    yield from _unended(rows, samples, "tasks", "loop.tasks", limits.tasks, end)
    end = "End them, or give their work to an executor, which has a number of threads that is known."
    yield from _unended(rows, samples, "threads", "process.threads", limits.threads, end)
    if not owned:  # those say already what requests waited for
        yield from _unowned(samples, parts, limits)


# -- the event loop --------------------------------------------------------------------------------


def _blocked(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """The event loop stood still: a hang whose whole duration is known, or that had not ended."""
    hangs = _hangs(samples)
    if hangs.empty:
        yield from _late(samples, limits)
    hangs = hangs[(hangs["value"] >= limits.blocked_ms).to_numpy()]
    busy = [_had_no_core(*hang, samples, limits) for hang in _instants(hangs)]
    hangs = hangs[~np.array(busy, dtype=bool)]
    files = hangs["label"].map(lambda place: str(place).partition(":")[0])
    told = [part for _, part in hangs.groupby(files, sort=False) if _often(part["value"])]
    if not told and hangs["value"].sum() >= max(1000.0, 50 * samples.attrs.get("span_s", 0.0)):
        told = [hangs]  # no code does it often, all together hold it for a twentieth of the time
    for part in told:
        places = part.groupby("label", sort=False)["value"].sum().sort_values(ascending=False)
        times = "once" if len(part) == 1 else f"{len(part):,} times"
        text = f"The event loop was blocked {times} by {', '.join(places.index[:3])}"
        text += f" and {len(places) - 3} other places" if len(places) > 3 else ""
        text += f", {part['value'].sum() / 1e3:.2g} s in all, {part['value'].max():.0f} ms the longest; "
        text += "nothing else was served meanwhile"
        text += "; the last had not ended when the run did." if part["open"].any() else "."
        begin_s = float((part["t_s"] - part["value"] / 1e3).min())  # it is told when it is over
        yield Finding("loop_blocked", text, max(begin_s, 0.0), float(part["t_s"].max()))


def _instants(hangs: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    """Place, begin and end of each hang, s."""
    for place, end_s, ms in hangs[["label", "t_s", "value"]].itertuples(index=False):
        yield str(place), end_s - ms / 1e3, end_s


def _had_no_core(place: str, begin_s: float, end_s: float, samples: pd.DataFrame, limits: Limits) -> bool:
    """Whether no code held the loop and its thread waited for a core: it is the machine that is busy."""
    if not place.startswith("asyncio/"):
        return False
    waits = of_probe(samples, "process.core_wait_share")
    around = ((waits["t_s"] >= begin_s) & (waits["t_s"] <= end_s + 1)).to_numpy()
    return bool(waits["value"][around].mean() >= limits.no_core_share)


def _hangs(samples: pd.DataFrame) -> pd.DataFrame:
    """Hangs with their whole length; one that had not ended (open) with how late the loop was at last."""
    ended, lags = of_probe(samples, "loop.recovered_ms"), of_probe(samples, "loop.lag_ms")
    found = [ended.assign(open=False)]
    for source, part in by_source(samples, "loop.hang_ms"):
        last = part.tail(1).assign(open=True)
        since = float(last["t_s"].iloc[0])
        if not (only(ended, source=source)["t_s"] >= since).any():
            later = only(lags[(lags["t_s"] >= since).to_numpy()], source=source).tail(1)
            found.append(later.assign(label=last["label"].iloc[0], open=True) if len(later) else last)
    return pd.concat(found)


def _often(ms: pd.Series) -> bool:
    """Three times, or once for long: a machine that is short of cores can do less than that to any code."""
    return len(ms) >= 3 or bool(ms.max() >= 1000)


def _late(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """The loop came late again and again, and nobody looked by what: its watchdog waits for longer hangs."""
    for source, lag in by_source(samples, "loop.lag_ms"):
        late = (lag["value"] >= limits.lag_ms).to_numpy()
        peaks = lag["value"][late & ~np.append(late[1:], False)]  # the last of those that rise
        if len(peaks) and _often(peaks):
            text = f"The event loop of {source} was blocked {len(peaks):,} times, {peaks.max():.0f} ms the "
            text += "longest; by which code its watchdog tells with hang_after_s=0.2, check_every_s=0.05."
            yield Finding("loop_blocked", text, *span(lag[late]))


def _cpu(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """A server process used a whole core: with one event loop it cannot use more."""
    for source, cpu in by_source(samples, "process.cpu_share"):
        full = cpu[(cpu["value"] >= limits.cpu_share).to_numpy()]
        if len(full) >= max(limits.cpu_seconds, min(len(cpu) / 2, 10)):
            text = f"The server process {source} used {full['value'].mean():.0%} of a core for {len(full)} "
            text += f"of {len(cpu)} s: it was the bottleneck; more instances or less work a request would "
            text += "help. Times of its model hold its own wait for that core."
            yield Finding("cpu_bound", text, *span(full))


# -- what grows ------------------------------------------------------------------------------------


def _memory(rows: Part, samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Memory grew steadily: something is kept of every request."""
    for source, part, grew in growths(samples, "process.rss_mb"):
        if grew.grown < max(limits.memory_mb, limits.growth_share * grew.first):
            continue
        text = f"The memory of {source} grew steadily from {grew.first:,.0f} to {grew.last:,.0f} MB: "
        text += f"{grew.per_s:.2g} MB a second, {of_each(rows, grew, 1e3):,.0f} kB for each request. "
        yield Finding("memory_growth", text + _lines(samples, source), *span(part))


def _lines(samples: pd.DataFrame, source: str) -> str:
    """Which lines' objects grew, or how to learn that."""
    traced = only(of_probe(samples, "memory.growth_mb"), source=source)
    if traced.empty:
        text = "Something is kept of each. Watchdog(trace_memory=True), of the reference server "
        text += "--trace-memory, names the lines in a run of their own: they make it 5 to 27 times slower."
        return text
    lines = traced.groupby("label")["value"].sum().nlargest(3)
    lines = lines[lines >= 0.1 * lines.max()]
    told = ", ".join(f"{line} ({mb:,.0f} MB)" for line, mb in lines.items())
    return f"What is kept was made at {told}: look who holds it."


def _descriptors(rows: Part, samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Open files and sockets came near their limit, or grew and grew."""
    allowed = {source: part["value"].min() for source, part in by_source(samples, "process.fd_limit")}
    grown = {source: grew for source, _, grew in growths(samples, "process.fds")}
    for source, part in by_source(samples, "process.fds"):
        most, limit, grew = part["value"].max(), allowed.get(source, np.inf), grown.get(source)
        steadily = grew is not None and (
            grew.grown >= 0.5 * grew.first and grew.grown - new_clients(rows, grew) >= limits.fds
        )
        if most < limits.fds_share * limit and not steadily:
            continue
        text = f"The open files and sockets of {source} grew from {part['value'].iloc[0]:,.0f} to {most:,.0f}"
        text += f" of {limit:,.0f} allowed" if np.isfinite(limit) else ""
        text += f", {of_each(rows, grew, 1):.2g} for each request" if grew is not None else ""
        kind = part["label"].iloc[-1]
        text += f"; most of the newest are {kind}. " if kind else ". "
        text += "At the limit it can accept no connection: close what is opened, or raise `ulimit -n`."
        yield Finding("descriptors", text, *span(part))


def _unended(
    rows: Part, samples: pd.DataFrame, what: str, probe: str, limit: float, to_do: str
) -> Iterator[Finding]:
    """Tasks or threads that nobody ends."""
    for source, part, grew in growths(samples, probe):
        if grew.grown - new_clients(rows, grew) < max(limit, grew.first):
            continue
        text = f"The {what} of {source} grew steadily from {grew.first:,.0f} to {grew.last:,.0f}, "
        text += f"{of_each(rows, grew, 1):.2g} for each request"
        place = part["label"].iloc[-1]
        text += f"; most of them wait at {place}. " if place else ". "
        yield Finding(f"{what}_growth", text + to_do, *span(part))


# -- what requests wait for ------------------------------------------------------------------------


def _executor(samples: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Calls waited for a thread of an executor."""
    queues = of_probe(samples, "executor.queue")
    names = queues["label"].map(lambda label: str(label).partition(" of ")[0])
    for (source, name), part in queues.groupby(["source", names], observed=True):
        full = part[(part["value"] >= limits.executor_queue).to_numpy()]
        if len(full) < max(2, limits.executor_share * len(part)):
            continue
        told = full["label"].mode().iloc[0].removeprefix(f"{name} of ")
        text = f"Calls of {source} waited for a thread of the executor {name}: up to "
        text += f"{full['value'].max():,.0f}, in {len(full)} of {len(part)} looks at it; it has {told}. "
        text += "Give it more threads, or make those calls shorter or asynchronous."
        yield Finding("executor_queue", text, *span(full))


def _unowned(samples: pd.DataFrame, parts: pd.DataFrame, limits: Limits) -> Iterator[Finding]:
    """Most of the slowest requests' time is in nothing that is measured."""
    tail = tail_split(parts)
    slowest = only(tail, group="slowest", part="rest")
    if slowest.empty:
        return
    rest = slowest.to_dict("records")[0]
    if rest["share"] < limits.rest_share or rest["ms"] < limits.rest_ms:
        return
    slow = parts.nlargest(min(int(rest["n"]), _MOST_SLOW), "response_ms")
    around = _around(slow, samples)
    no_core = of_probe(around, "process.core_wait_share")["value"].mean()
    if rest["ms"] - np.nan_to_num(no_core) * slow["response_ms"].mean() < limits.rest_ms:
        return  # the machine is busy: it is that what they waited for
    text = f"{rest['share']:.0%} of the time of the {len(slow)} slowest requests "
    text += f"({rest['ms']:,.0f} ms each) is in nothing that is measured"
    outside = (slow["response_ms"] - slow["client"] - slow["app"]).clip(lower=0).sum() / slow["rest"].sum()
    if outside >= 0.5:
        text += f", {min(outside, 1):.0%} of that before or after the application had them: in the "
        text += "network, in a proxy, or in the socket"
    text += f". Meanwhile {_measured(around)}. "
    text += 'Put timed("…") around what is waited for there: a lock, a semaphore, an outgoing call, DNS.'
    end_s = float((slow["t_s"] + slow["response_ms"] / 1e3).max())
    yield Finding("unowned_time", text, float(slow["t_s"].min()), min(end_s, samples.attrs["span_s"]))


def _around(slow: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of the time of some requests; a second more, since many tell of the second before them."""
    t, found = samples["t_s"].to_numpy(), np.zeros(len(samples), dtype=bool)
    for begin, took_ms in slow[["t_s", "response_ms"]].itertuples(index=False):
        found |= (t >= begin) & (t <= begin + took_ms / 1e3 + 1)
    return samples[found]


#: What can hold requests up, and the words for its largest value.
_AROUND = {
    "process.cpu_share": "the process used up to {:.0%} of a core",
    "process.core_wait_share": "its loop waited up to {:.0%} of a second for one",
    "loop.lag_ms": "the loop was up to {:.0f} ms late",
    "executor.queue": "up to {:.0f} calls waited for a thread",
    "gc.pause_ms": "the longest garbage collection took {:.0f} ms",
    "process.throttled_share": "it was throttled for up to {:.0%} of a second",
    "machine.io_stall_share": "something waited up to {:.0%} of a second for a disk",
}


def _measured(around: pd.DataFrame) -> str:
    """What the probes saw in the time of some requests, in words."""
    seen = ((of_probe(around, probe)["value"], words) for probe, words in _AROUND.items())
    told = [words.format(values.max()) for values, words in seen if len(values)]
    tasks = of_probe(around, "loop.tasks")
    if places := [place for place in tasks["label"] if place]:
        told.append(f"most tasks that did not wait for a client waited at {max(places, key=places.count)}")
    return ", ".join(told) if told else "its probes reported nothing else"
