"""Facts about where and with what a run was made, for run.json."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from perfkit.model import SCHEMA_VERSION, Workload
from perfkit.scenarios import Scenario
from perfkit.session import is_secret_name

_PACKAGES = ("perfkit", "numpy", "pyarrow", "httptools", "uvloop", "httpx", "pandas", "scipy")


def host() -> dict[str, Any]:
    """Name, cores, memory and kernel of this machine."""
    return {
        "name": platform.node(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages a measurement depends on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git(folder: Path) -> dict[str, Any]:
    """Commit of the working tree at `folder` and whether it has changes; empty outside git."""
    sha = _git(folder, "rev-parse", "HEAD")
    if sha is None:
        return {}
    return {"sha": sha, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def first_meta(
    workload: Workload, scenario: Scenario, params: Any, path: Path, monotonic: int, unix: int
) -> dict[str, Any]:
    """What run.json says when a run begins; no value of a name that holds a secret is in it."""
    plain = workload.to_mapping()
    plain["target"]["headers"] = _without_secrets(plain["target"]["headers"])
    plain["params"] = _without_secrets(plain["params"])
    plain["server"] = _without_secrets(plain["server"])
    plain["target"]["proxy"] = _without_user(plain["target"]["proxy"])
    return {
        "schema": SCHEMA_VERSION,
        "id": path.name,
        "state": "running",
        "reason": None,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "workload": plain,
        "scenario": {
            "name": scenario.name,
            "doc": scenario.doc,
            "params": _without_secrets(msgspec.to_builtins(dataclasses.asdict(params))),
        },
        "target": plain["target"],
        "git": git(Path.cwd()),
        "host": host(),
        "versions": versions(),
        "clock": {"monotonic_ns": monotonic, "unix_ns": unix},
        "workers": workload.processes,
        "thresholds": [],
        "tags": list(workload.tags),
        "note": None,
    }


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The same nested value, every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(one, change) for one in value]
    return value


def _without_secrets(given: dict[str, Any]) -> dict[str, Any]:
    return {name: "***" if is_secret_name(name) and value else value for name, value in given.items()}


def _without_user(url: str | None) -> str | None:
    """A URL without its user and password."""
    return re.sub(r"//[^/@]*@", "//***@", url) if url else url


def _git(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
