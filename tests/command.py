"""`perfkit` called in this process, or in one of its own that is forked ready: both cost little."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from perfkit.cli import main
from perfkit.interrupts import SIGNALS
from tests.kill_points import Verbs, verbs


class Done(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, as a program reads it."""
        return json.loads(self.out)


def perfkit(*arguments: object, data: Path) -> Done:
    """Call a verb on a data folder. For verbs that start no load: a run needs the signals of its process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with (
        mock.patch.object(sys, "argv", ["perfkit", *map(str, arguments)]),
        mock.patch.dict("os.environ", PERFKIT_DATA_DIR=str(data)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())


@functools.cache
def warm() -> Verbs:
    """The verbs of a process that is started once."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(verbs())


def started(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Carry out a verb in a process of its own, with what a terminal's process has, here; loads too."""
    command = [str(one) for one in arguments]
    ended = warm()(*command, below=Path.cwd(), environment=environment)
    return subprocess.CompletedProcess(command, ended.code, ended.out, ended.err)
