"""Facts about where and with what a run was made, for run.json."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perfkit.drive.scenario import Mix, Scenario, is_file, plain_params
from perfkit.drive.variables import put_back
from perfkit.model import SCHEMA_VERSION, Tokens, Workload
from perfkit.redaction import SHORTEST, Redactor, secrets_of
from perfkit.store import read_regular

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


def known_secrets(workload: Workload, params: Any, tokens: Tokens) -> tuple[str, ...]:
    """Return every secret a run is given that is long enough to be searched for."""
    server = {name: value for name, value in os.environ.items() if name.startswith("PERFKIT_SERVER_")}
    given = (value for variable in workload.variables for value in variable.values)
    found = secrets_of([workload.to_mapping(), plain_params(params), server], tokens.secrets)
    return (*found, *(value for value in given if len(value) >= SHORTEST and value not in found))


def shown(workload: Workload, redact: Redactor) -> dict[str, Any]:
    """Return a workload as run.json shows it: what was given, without secrets, and perfkit's own words."""
    plain = workload.to_mapping()
    target = plain["target"]
    urls = {name: _url(target[name], redact) for name in ("url", "proxy", "probes_url", "metrics_url")}
    if plain["arrivals"] and plain["arrivals"]["file"]:  # a folder is this machine's own business
        plain["arrivals"]["file"] = redact(Path(plain["arrivals"]["file"]).name)
    told = plain | {
        "target": redact.within(target) | urls,
        "params": redact.within(plain["params"]),
        "mix": redact.within(plain["mix"]),
        "server": redact.within(plain["server"]),
        "thresholds": shown_thresholds(workload.thresholds, redact),
        "tags": [redact(tag) for tag in workload.tags],
    }
    put_back(told, workload.variables)
    return told


def _shown_params(
    workload: Workload, scenario: Scenario | Mix, params: Any, redact: Redactor
) -> dict[str, Any]:
    """The parameters with their defaults, without secrets; of a mix by the names of its scenarios."""
    told = redact.within(plain_params(params))
    if isinstance(scenario, Mix):
        entries = [told[member.name] for member in scenario.members]
        put_back({"mix": [{"params": entry} for entry in entries]}, workload.variables)
    else:
        put_back({"params": told}, workload.variables)
    return dict(told)


def digests(scenario: Scenario | Mix) -> dict[str, str]:
    """The sha256 of the user's own scenario files by the names they have in the run."""
    every = {one.name: one.scenario for one in scenario.members} if isinstance(scenario, Mix) else {
        scenario.name: scenario
    }  # fmt: skip
    found = {}
    for name, one in every.items():
        with contextlib.suppress(OSError):  # read once only, such as /dev/fd/63
            if is_file(one.ref):
                found[name] = hashlib.sha256(read_regular(Path(one.ref))).hexdigest()
    return found


def shown_thresholds(texts: Iterable[str], redact: Redactor) -> list[str]:
    """Return thresholds without secrets in the operations they name, as the rows have them."""
    return [_OPERATION.sub(lambda operation: redact(operation[0]), text) for text in texts]


_OPERATION = re.compile(r"(?<=\()[^)]*(?=\))")


def first_meta(
    workload: Workload,
    scenario: Scenario | Mix,
    params: Any,
    path: Path,
    monotonic: int,
    unix: int,
    redact: Redactor,
) -> dict[str, Any]:
    """Return what run.json says when a run begins. Secrets are removed here, and never from run.json itself:
    one that is an ordinary word would take perfkit's own words with it."""
    plain = shown(workload, redact)
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
            "params": _shown_params(workload, scenario, params, redact),
            "sha256": digests(scenario),
        },
        "target": plain["target"],
        "git": git(Path.cwd()),
        "host": host(),
        "versions": versions(),
        "clock": {"monotonic_ns": monotonic, "unix_ns": unix},
        "workers": workload.processes,
        "thresholds": [],
        "tags": plain["tags"],
        "note": None,
    }


def _url(given: Any, redact: Redactor) -> Any:
    """A URL or several without secrets; the origin stays, it says what was measured."""
    if isinstance(given, str):
        return redact.url(given)
    return given and [redact.url(url) for url in given]


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
