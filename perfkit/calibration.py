"""How much load one process of this machine gives honestly: against a server that does nothing.

`perfkit doctor --calibrate` drives it; run as a program, this is the server: it prints its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from perfkit.drive.progress import Seen
from perfkit.drive.spread import execute
from perfkit.drive.worker import run_on_loop
from perfkit.drive.workloads import complete
from perfkit.errors import PerfkitError
from perfkit.model import Budget
from perfkit.parent import end_with_parent
from perfkit.store import Run
from perfkit.store.quantiles import Binned
from perfkit.store.rows import Part
from perfkit.text import plural, print_lines

#: Each rate is tried for so long; together it takes about 15 s.
_STEP_S, _WARMUP_S = 1.1, 1.0
_RATES = tuple(round(250 * 1.5**k, -1) for k in range(12))  # to 21,600/s
#: From here on there is nothing more to learn.
_ENOUGH = "p99 > 100 ms for 3s"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Tried(NamedTuple):
    """A rate that one process was asked for: its delays at p99, and the share of a core it took."""

    rate_per_s: float
    kickoff_ms: float
    queue_ms: float
    cpu_share: float

    @property
    def delay_ms(self) -> float:
        """The longer of its delays."""
        return max(self.kickoff_ms, self.queue_ms)

    def is_honest(self, budget: Budget) -> bool:
        """Whether the generator kept within its budget."""
        return self.delay_ms <= budget.delay_ms and self.cpu_share <= budget.cpu_share


def calibrate(rates: Sequence[float] = _RATES, step_s: float = _STEP_S) -> list[Tried]:
    """Try rates one after the other in one process, for `step_s` seconds each."""
    with null_server() as url, tempfile.TemporaryDirectory(prefix="perfkit-calibrate-") as folder:
        arrivals = {"shape": "steps", "step_rates_per_s": list(rates), "duration_s": step_s * len(rates)}
        given: dict[str, Any] = {"scenario": "http_get", "target": {"url": url}, "arrivals": arrivals}
        given |= {"warmup_s": _WARMUP_S, "drain_s": 1, "abort": [_ENOUGH]}
        seen, shares = Seen(), [(0.0, 0.0)]

        def look(run: Run) -> None:
            if seen.look(run):
                shares.append((seen.at_s, seen.cpu_share))

        run = execute(*complete(given, "calibrate"), data_dir=Path(folder), on_progress=look)
        return _tried(Part(run), rates, step_s, shares)


def _tried(
    part: Part, rates: Sequence[float], step_s: float, shares: Sequence[tuple[float, float]]
) -> list[Tried]:
    step = f"floor(t_s / {step_s})::INTEGER"
    delays = [
        Binned(part, f"SELECT {step} AS g, 0 AS s, {name} AS x FROM part WHERE {name} IS NOT NULL AND ok")
        for name in ("kickoff_ms", "queue_ms")
    ]
    found = []
    for number, rate in enumerate(rates):
        begin_s = _WARMUP_S + number * step_s
        of_step = [share for at_s, share in shares if begin_s < at_s <= begin_s + step_s]
        kickoff_ms, queue_ms = (one.quantiles([(number, 0.99)])[0] for one in delays)
        if not math.isnan(kickoff_ms + queue_ms):  # else it was not come to
            found.append(Tried(rate, kickoff_ms, queue_ms, max(of_step, default=0.0)))
    return found


def words(tried: Sequence[Tried], budget: Budget, cores: int) -> list[str]:
    """What was found, in a line or two; tried: in the order of their rates."""
    within = list(itertools.takewhile(lambda one: one.is_honest(budget), tried))
    about, over, enough = "at least", "more was not tried", " or fewer"
    if len(within) < len(tried):
        more, about, enough = tried[len(within)], "about", ""
        over = f"at {more.rate_per_s:,.0f}/s its delays at p99 are {more.delay_ms:.1f} ms"
        over += f" and it takes {more.cpu_share:.2f} of a core"
    if not within:
        return [f"one process cannot even give {_RATES[0]:,.0f}/s honestly ({over}): free some CPU"]
    honest, most = within[-1].rate_per_s, max(1, cores - 1)
    first = f"one process gives {about} {honest:,.0f} small requests/s honestly ({over})"
    return [
        first,
        f"set processes to the rate you want / {honest:,.0f}, rounded up{enough}; at most {most} here"
        f" ({plural(cores, 'core')}, one left for the rest)",
    ]


# -- the server ------------------------------------------------------------------------------------


@contextlib.contextmanager
def null_server() -> Iterator[str]:
    """Yield the URL of a server process that answers every request at once with 2 bytes."""
    command = [sys.executable, "-m", "perfkit.calibration", str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            if not (port := process.stdout.readline().strip()):
                raise PerfkitError("the server to calibrate against did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._rest = cast(asyncio.WriteTransport, transport), b""  # uvloop's is none

    def data_received(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\r\n\r\n")
        self._transport.write(_ANSWER * len(whole))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    print_lines(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    run_on_loop(_serve())
