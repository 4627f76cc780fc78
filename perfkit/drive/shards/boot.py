"""A shard's first moments, as a child of its coordinator or of `sshd`: a line of JSON invites it.

What a new process imports before it can watch its parent stands here, so it is little: standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any, TextIO, cast

from perfkit import interrupts
from perfkit.parent import end_with_parent
from perfkit.text import HarmlessStream, harmless_libraries

#: So long may a shard write its last rows after its coordinator has ended.
_LAST_ROWS_S = 5.0


def main() -> None:
    """Take part in a run through standard input and output; ends the process."""
    given = _invitation()
    parent = int(given.get("parent", 0))
    if parent:
        end_with_parent(parent, _LAST_ROWS_S)
    interrupts.leave_to_parent()
    read_fd, write_fd = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a step may read or print whatever it likes
    os.dup2(2, 1)
    sys.stdout = sys.stderr = cast(TextIO, HarmlessStream(sys.stderr))
    harmless_libraries()
    prepare_process()
    from perfkit.drive.shards.channel import Channel
    from perfkit.drive.shards.shard import take_part

    code = take_part(Channel(read_fd, write_fd), given, parent_pid=parent)
    sys.stderr.flush()
    os._exit(code)  # a thread that a step has left behind keeps nobody


def prepare_process() -> None:
    """Let the process open as many sockets as allowed, and its threads take short turns: the writer's gives
    the interpreter lock back after 0.1 ms, not 5, as a step must not wait for a segment."""
    sys.setswitchinterval(0.0001)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _invitation() -> dict[str, Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):  # whoever started it has ended
            os._exit(1)
        line += byte
    return dict(json.loads(line))
