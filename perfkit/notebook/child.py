"""The process a notebook's run lives in: one request on standard input, JSON lines on standard output.

Request, one line: {"workload", "where", "data_dir", "allow_targets", "parent_pid"}. Answers, a line each:
{"checked": true} when the input is good, {"run": PATH} for each run as soon as it has a folder,
{"error": WORDS, "code": N} as `perfkit.errors` has it, {"interrupted": true}, {"ended": true}.

SIGINT ends the run cleanly, a second one ends the clean-up too; both come when the parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

#: So long may the clean-up after an interrupt take before it is interrupted too.
CLEAN_UP_S = 60.0
#: So long after that the process may live.
LAST_S = 10.0

Tell = Callable[..., None]


def main() -> None:
    """Carry out one request; the exit code is 0 also when the run failed, for the answer says it."""
    tell = _own_stdout()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a script's background ignores it
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with, args=(request["parent_pid"],), daemon=True).start()
    try:
        _carry_out(request, tell)
    except KeyboardInterrupt:
        tell(interrupted=True)


def _carry_out(request: dict[str, Any], tell: Tell) -> None:
    from pathlib import Path

    from perfkit.errors import PerfkitError
    from perfkit.running import checked, run_repeats
    from perfkit.store import Run

    told: set[Path] = set()

    def on_progress(run: Run) -> None:
        if run.path not in told:
            told.add(run.path)
            tell(run=str(run.path))

    given, where, allowed = request["workload"], request["where"], request["allow_targets"]
    try:
        checked(given, where, allowed)
        tell(checked=True)
        folder = Path(request["data_dir"])
        run_repeats(given, where, folder, allowed, show_progress=False, on_progress=on_progress)
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


def _end_with(parent_pid: int) -> None:
    """Interrupt this process when its parent is gone: the run is closed, and what it made is removed."""
    while os.getppid() == parent_pid:
        time.sleep(0.2)
    for patience_s in (CLEAN_UP_S, LAST_S):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(patience_s)
    os._exit(1)
