"""`perfkit` called in this process: the whole command line, at a thirtieth of the price of a new process."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from perfkit.cli import main
from perfkit.interrupts import SIGNALS


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
