"""Files and pages that are small on disk and huge when read, and what reading one costs a child process."""

from __future__ import annotations

import gzip
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
#: perfkit's own promise. The address space ends well above it (libraries, threads): that is for the machine.
MOST_MB = 1_000
#: Begins a child's code.
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

def peak_mb():
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e6
"""
_CLI = """
import sys
from perfkit.cli import main
try:
    main()
finally:
    children_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(peak_mb(), children_mb, file=open(sys.argv.pop(0), "w"))
"""
_IMPORTS = """
import json, sys, time
from pathlib import Path
from perfkit.errors import PerfkitError
from perfkit.importing import import_runs

for given in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this file alone
    began, cpu = time.monotonic(), time.process_time()
    try:
        words = import_runs(Path(given), data_dir=Path(given).parent / "data")[0].id
        code = 0
    except PerfkitError as error:
        words, code = str(error), error.exit_code
    except BaseException as error:
        words, code = f"Traceback {type(error).__name__}: {error}", 1
    took = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps([code, words, peak_mb(), *took]), flush=True)
"""


@dataclass(frozen=True)
class Cost:
    """What a child said, and what it took."""

    code: int
    words: str
    peak_mb: float
    seconds: float
    cpu_s: float
    peak_of_children_mb: float = 0.0


def cost_of(tmp_path: Path, *arguments: str | Path, timeout_s: float = 600) -> Cost:
    """Run a verb of perfkit's in a child of limited address space; its words, peak memory and time."""
    peak = tmp_path / "peak"
    peak.unlink(missing_ok=True)
    code = LIMITED + _CLI.replace("sys.argv.pop(0)", repr(str(peak)))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = _run(code, arguments, timeout_s, PERFKIT_DATA_DIR=str(tmp_path / "data"))
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    of_it, of_children = map(float, peak.read_text().split()) if peak.exists() else (math.inf, math.inf)
    return Cost(child.returncode, child.stdout + child.stderr, of_it, took, cpu_s, of_children)


def costs_of_imports(paths: Sequence[Path], timeout_s: float = 600) -> list[Cost]:
    """The same of importing each of some files, in one child; runs go to `data` beside each."""
    child = _run(LIMITED + _IMPORTS, paths, timeout_s)
    assert child.returncode == 0, child.stderr
    return [Cost(*json.loads(line)) for line in child.stdout.splitlines()]


def _run(
    code: str, arguments: Sequence[str | Path], timeout_s: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
        timeout=timeout_s, env=os.environ | environment, check=False,
    )  # fmt: skip


def packed(path: Path, times: int, block: bytes, before: bytes = b"", after: bytes = b"") -> Path:
    """A gzip of `before`, a block so many times, `after`: members, each made once."""
    member = gzip.compress(block, 9)
    with open(path, "wb") as file:
        file.write(gzip.compress(before))
        for _ in range(times):
            file.write(member)
        file.write(gzip.compress(after))
    return path
