"""Can this machine measure? What `perfkit doctor` looks at."""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perfkit.drive.local_server import why_not_here
from perfkit.drive.pacing import pacer_for
from perfkit.drive.transport import loop_clock
from perfkit.drive.worker import run_on_loop
from perfkit.errors import EXTRAS, PerfkitError
from perfkit.model import Budget
from perfkit.store import Run, list_runs, survey

_MODULES = ("httptools", "uvloop", "httpx", "numpy", "scipy", "pyarrow", "duckdb", "yaml", "msgspec",
            "prometheus_client")  # fmt: skip

_SHOWN = 20


def examine(data_dir: Path) -> list[dict[str, Any]]:
    """One entry a check: name, ok, found (what was found, and what to do if it is not ok)."""
    machine = [_modules(), _cores(), _open_files(), _clock(), _timer()]
    return [*machine, _server(), _data_dir(data_dir), _leftovers(data_dir)]


def calibrated() -> tuple[list[dict[str, Any]], list[str]]:
    """Return what one process was asked for and how it did, rate by rate, and what to make of it in words."""
    from perfkit.calibration import calibrate, words

    tried = calibrate()
    return [one._asdict() for one in tried], words(tried, Budget(), cores())


def _check(name: str, ok: bool, found: str, otherwise: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found if ok or not otherwise else f"{found}; {otherwise}"}


def _modules() -> dict[str, Any]:
    missing = [name for name in _MODULES if not _is_there(name)]
    if missing:
        return _check("packages", False, f"missing: {', '.join(missing)}", "reinstall perfkit")
    without = [extra for extra, modules in EXTRAS.items() if not all(map(find_spec, modules))]
    told = f"all installed, except the extras {', '.join(without)} (pip install 'perfkit[all]')"
    return _check("packages", True, told if without else "all there")


def _is_there(name: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some warn of the machine's set-up when they are loaded
            importlib.import_module(name)
    except ImportError:
        return False
    return True


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> dict[str, Any]:
    alone = "the server and the generator share one core: expect invalid runs"
    return _check("cores", cores() >= 2, f"{cores()}", alone)


def _open_files() -> dict[str, Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _check("open files", hard >= 1024, f"at most {hard}", "raise it with ulimit -n")


def _clock() -> dict[str, Any]:
    info = time.get_clock_info("monotonic")
    return _check("clock", info.resolution <= 1e-6, f"monotonic, resolution {info.resolution * 1e9:g} ns")


def _timer() -> dict[str, Any]:
    late_us = [late * 1e6 for late in run_on_loop(_lateness())]
    median = statistics.median(late_us)
    text = f"planned instants are met {median:.0f} µs late (median of 50), at worst {max(late_us):.0f} µs"
    return _check("timer", median < 1000, text, "the machine is too busy for an exact open loop")


async def _lateness() -> list[float]:
    loop = asyncio.get_running_loop()
    clock = loop_clock(loop)
    pacer = pacer_for(loop, clock)
    late = []
    for _ in range(50):
        when = clock() + 3_000_000
        reached: asyncio.Event = asyncio.Event()
        pacer.call_at(when, reached.set)
        await reached.wait()
        late.append((clock() - when) / 1e9)
    pacer.close()
    return late


def _server() -> dict[str, Any]:
    why = why_not_here()
    return _check("reference server", not why, why or "a private folder for its PostgreSQL")


def _data_dir(data_dir: Path) -> dict[str, Any]:
    place = next((p for p in (data_dir, *Path(os.path.realpath(data_dir)).parents) if p.exists()), Path("/"))
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        why = f"{data_dir}: {error.strerror}"
        return _check("data folder", False, why, "choose another place (--data-dir)")
    stat = os.statvfs(place)
    free_gb = stat.f_bavail * stat.f_frsize / 1e9
    return _check("data folder", free_gb > 0.5, f"writable, {free_gb:.1f} GB free", "make room")


def _leftovers(data_dir: Path) -> dict[str, Any]:
    """What kills left, damaged runs, and what others put into runs/. None of it hinders measuring: ok."""
    found = survey(data_dir)
    megabytes = sum(left.bytes for left in found.leftovers) / 1e6
    left = [f"{one.path} ({one.what})" for one in found.leftovers]
    damaged = [run.id for run in list_runs(data_dir) if _is_damaged(run)]
    foreign = [f"{path} ({inside})" for path, inside in found.foreign]
    parts = (
        (left, f"left by killed processes, {megabytes:.1f} MB; `perfkit prune` removes them"),
        (damaged, "damaged runs; `perfkit rm` removes them"),
        (foreign, "folders in runs/ not written by perfkit; they are left alone"),
    )
    told = [f"{len(names)} {words}: {_shortened(names)}" for names, words in parts if names]
    return _check("leftovers", True, "; ".join(told) or "none")


def _is_damaged(run: Run) -> bool:
    try:
        return not run.meta
    except PerfkitError:
        return True


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
