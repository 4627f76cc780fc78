"""Notice that the parent process has ended, from a process id that the parent handed over.

`os.getppid()` is no such id: first read after the parent's end it is that of the process that adopted us, and
nothing ever changes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

_LOOK_S = 0.2
#: Clear while this process does work that must be finished even after its parent has ended.
at_rest = threading.Event()
at_rest.set()


def when_parent_ends(parent_pid: int, call: Callable[[], None]) -> None:
    """Call from a thread when `parent_pid`, handed over by the parent, is no longer this process's parent."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_LOOK_S)
        call()

    threading.Thread(target=watch, name="perfkit-parent", daemon=True).start()


def end_with_parent(parent_pid: int, finish_s: float = 0.0) -> None:
    """End this process when its parent has ended: at once, or within `finish_s` where work is under way."""

    def end() -> None:
        at_rest.wait(finish_s)
        os._exit(1)

    when_parent_ends(parent_pid, end)
