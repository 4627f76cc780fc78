"""The process a notebook's run lives in, or one side of a duet: JSON lines on standard input and output.

Request, one line: {"workload", "where", "data_dir", "allow_targets", "parent_pid"}, and {"waits": true} for a
load that begins when the next line says so, {"start_ns"} of the monotonic clock. Answers, a line each:
{"checked": true} when the input is good, {"run": PATH} for each run as soon as it has a folder,
{"ready": true} when one that waits might begin,
{"error": WORDS, "code": N} as `perfkit.errors` has it, {"interrupted": true}, {"ended": true}.

SIGINT or SIGTERM ends the run cleanly, a second one ends the clean-up too; both come when the parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from perfkit import interrupts
from perfkit.drive.run_process import LAST_S
from perfkit.parent import when_parent_ends

#: So long may the clean-up after an interrupt take before it is interrupted too.
CLEAN_UP_S = 60.0

Tell = Callable[..., None]


def main() -> None:
    """Carry out one request; the exit code is 0 also when the run failed, for the answer says it."""
    tell = _own_stdout()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a script's background ignores it
    interrupts.install()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the parent ended before it had asked for anything
        return
    request = json.loads(line)
    when_parent_ends(request["parent_pid"], _end_run)
    try:
        _carry_out(request, tell)
    except KeyboardInterrupt:
        tell(interrupted=True)


def _carry_out(request: dict[str, Any], tell: Tell) -> None:
    from pathlib import Path

    from perfkit.drive.running import checked, run_repeats
    from perfkit.drive.spread import soon
    from perfkit.errors import PerfkitError
    from perfkit.observe.recording import record
    from perfkit.store import Run

    told: set[Path] = set()

    def on_progress(run: Run) -> None:
        if run.path not in told:
            told.add(run.path)
            tell(run=str(run.path))

    def when_told() -> int:
        tell(ready=True)
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):  # the other side did not come so far
            raise KeyboardInterrupt
        return int(json.loads(line)["start_ns"])

    given, where, allowed = request["workload"], request["where"], request["allow_targets"]
    try:
        work = checked(given, where, allowed)
        tell(checked=True)
        data_dir = Path(request["data_dir"])
        begin = when_told if request.get("waits") else soon
        run_repeats(work, data_dir, show_progress=False, on_progress=on_progress, look=record, begin=begin)
    except PerfkitError as error:
        tell(error=str(error), code=error.exit_code)
    except Exception as error:  # a fault of perfkit's: one line here, the rest on standard error
        tell(error=f"{type(error).__name__}: {error}".replace("\n", " ")[:500], code=1)
        raise
    else:
        tell(ended=True)


def _own_stdout() -> Tell:
    """A way to tell that nobody else has: what a scenario prints goes to standard error instead."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**message: Any) -> None:
        try:
            out.write(json.dumps(message) + "\n")
            out.flush()
        except OSError:  # the notebook is gone; the run is closed all the same
            pass

    return tell


def _end_run() -> None:
    """Interrupt this process, so that it closes the run and cleans up; end it when that takes too long."""
    for patience_s in (CLEAN_UP_S, LAST_S):
        if not interrupts.received() or patience_s == LAST_S:  # else the clean-up is under way
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(patience_s)
    os._exit(1)
