"""Carry out cases of the corpora and collect what broke a rule."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

from perfkit.importing import FORMATS
from tests.drills.cases import ROOT, Case, Corpus, Given
from tests.drills.damaged_runs import json_case, parquet_case
from tests.drills.foreign import EACH, import_case
from tests.drills.oracle import Outcome, check, harmed, snapshot
from tests.drills.store import make_store
from tests.drills.workloads import run_case, yaml_case

#: Each corpus by its name, and how many of its cases `make drills` carries out.
CORPORA: dict[str, tuple[Corpus, int]] = {
    "yaml": (yaml_case, 1_100),
    "run": (run_case, 60),
    "json": (json_case, 330),
    "parquet": (parquet_case, 330),
    "import": (import_case, EACH * len(FORMATS)),
}


@dataclass(frozen=True)
class Finding:
    """A step that did what no step may do."""

    case: str
    changes: str
    step: str
    fault: str

    def __str__(self) -> str:
        return f"{self.case}: {self.fault}\n    perfkit {self.step}\n    {self.changes[:300]}"


@dataclass
class Result:
    """What the cases of one drill came to."""

    name: str
    cases: int = 0
    steps: int = 0
    refused: int = 0
    peak_mb: float = 0.0
    slowest_cpu_s: float = 0.0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def add(self, outcomes: Sequence[Outcome], findings: Iterable[Finding]) -> None:
        """Count one case."""
        self.cases += 1
        self.steps += len(outcomes)
        self.refused += any(one.code in (1, 2) for one in outcomes)
        self.peak_mb = max([self.peak_mb, *(one.mb for one in outcomes)])
        self.slowest_cpu_s = max([self.slowest_cpu_s, *(one.cpu_s for one in outcomes)])
        self.findings += findings

    def row(self) -> str:
        """A line of a table in Markdown."""
        faults = [one.fault for one in self.findings]
        broken = sum(fault.startswith(("traceback", "a fault of its own")) for fault in faults)
        hangs = sum(
            "of processor time" in fault or fault.startswith("ended from outside") for fault in faults
        )
        numbers = [f"{n:,}" for n in (self.cases, self.steps, self.refused, broken, hangs)]
        costs = [f"{self.peak_mb:,.0f}", f"{self.slowest_cpu_s:.1f}"] if self.steps else ["—", "—"]
        return f"| {' | '.join([self.name, *numbers, f'{len(faults) - broken - hangs:,}', *costs])} |"


class Server:
    """A fork server (see there), and what its children ended with."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "COLUMNS": "100"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
        environment.pop("PERFKIT_DATA_DIR", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills.forkserver"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fork server has ended")
        return line.strip()

    def carry_out(self, steps: list[dict[str, Any]], folder: Path, environment: dict[str, str] | None = None,
                  patience_s: float = 30.0) -> list[Outcome]:  # fmt: skip
        """The steps in one child, in the folder; those after one that ended the child are missing."""
        assert self._process.stdin is not None
        case = {"steps": steps, "folder": str(folder), "environment": environment or {},
                "patience_s": patience_s}  # fmt: skip
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._answer())
        outcomes = []
        for number, step in enumerate(steps):
            out, err = (_read(folder / f"{name}{number}") for name in ("out", "err"))
            if number < len(told["steps"]):
                outcomes.append(Outcome(step, out=out, err=err, **told["steps"][number]))
                continue
            words = "did not end in time" if told["over"] else f"signal {told['signal']}"
            outcomes.append(Outcome(step, None, out, err, 0.0, 0.0, died=words))
            break
        if told["left"]:
            outcomes.append(
                Outcome(steps[-1], None, "", "", 0.0, 0.0, died=f"left {told['left']} processes running")
            )
        return outcomes

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="backslashreplace")
    except FileNotFoundError:
        return ""


class Bench:
    """Fork servers, as many as `jobs`, and a store whose copies they work on."""

    def __init__(self, jobs: int, url: str) -> None:
        self._jobs, self.url = jobs, url
        self._servers: SimpleQueue[Server] = SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="perfkit-drills-")
        self.place = Path(self._folder.name)
        self.base = self.place / "store" / "data"

    def __enter__(self) -> Bench:
        for _ in range(self._jobs):
            self._servers.put(Server())
        make_store(self.base)
        finish = [{"call": "tests.drills.calls:finish_store", "arguments": ["data"]}]
        (done,) = self.map(lambda server, _: server.carry_out(finish, self.base.parent)[0], [None])
        assert done.code == 0, done.err
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(self._jobs):
            self._servers.get().close()
        self._folder.cleanup()

    def map(self, work: Callable[[Server, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """The results of `work` with a server and an item each, in the order of the items."""

        def with_server(item: Any) -> Any:
            server = self._servers.get()
            try:
                return work(server, item)
            finally:
                self._servers.put(server)

        with ThreadPoolExecutor(self._jobs) as pool:
            yield from pool.map(with_server, items)


def one_case(server: Server, name: str, seed: int, number: int, given: Given, folder: Path
             ) -> tuple[list[Outcome], list[Finding]]:  # fmt: skip
    """Make, carry out and judge a case."""
    rng = Random(f"{name}:{seed}:{number}")
    case = CORPORA[name][0](rng, folder, given)
    before = snapshot(folder / "data", case.victims)
    outcomes = server.carry_out(case.steps, folder)
    label = f"{name}:{number}"
    findings = [Finding(label, case.changes, one.words, fault) for one in outcomes for fault in check(one)]
    for fault in _after(case, before, outcomes, folder / "data"):
        findings.append(Finding(label, case.changes, "(after all steps)", fault))
    return outcomes, findings


def _after(case: Case, before: dict[str, str], outcomes: list[Outcome], data: Path) -> Iterator[str]:
    """What the steps did to the rest of the data folder."""
    after = snapshot(data, case.victims)
    if gone := harmed(before, after):
        yield f"harmed others: {'; '.join(gone[:3])}"
    refused = outcomes[0].step.get("argv", [""])[0] == "import" and outcomes[0].code
    if refused and (left := sorted(after.keys() - before.keys())):
        yield f"a refused import left {left[0]}"


def fuzz(bench: Bench, name: str, seed: int, numbers: Iterable[int], keep: Path | None = None) -> Result:
    """Carry out these cases of a corpus; the folders of those that failed are copied to `keep`."""
    result, begin = Result(name), time.monotonic()

    def work(server: Server, number: int) -> tuple[list[Outcome], list[Finding]]:
        folder = bench.place / f"{name}-{number}"
        folder.mkdir()
        try:
            done = one_case(server, name, seed, number, Given(bench.base, bench.url), folder)
            if keep is not None and done[1]:  # cp, since it copies FIFOs and sockets as what they are
                subprocess.run(["cp", "-a", "-T", str(folder), str(keep / folder.name)], check=False)
            return done
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    for outcomes, findings in bench.map(work, numbers):
        result.add(outcomes, findings)
    result.seconds = time.monotonic() - begin
    return result
