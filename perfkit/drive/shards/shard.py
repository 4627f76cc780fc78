"""A shard's end of the connection: claims its part of a run at once, before what takes long to import."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from perfkit.drive.shards.channel import SILENCE_S, Channel, Lost, Message
from perfkit.errors import EXIT_OK, EXIT_TOOL_ERROR, words_of
from perfkit.text import print_lines

if TYPE_CHECKING:
    from perfkit.drive.mistakes import Mistakes
    from perfkit.drive.shards.files import Sender

_LOOK_S = 0.25
_CLAIM_S = 30.0
#: So long may a process live whose coordinator is gone and whose load has not begun.
_ALONE_S = 10.0
#: So long may the last rows of a process travel that is about to be ended.
_LAST_ROWS_S = 2.0
#: Exit code of a process that does not end by itself.
_STUCK = 70
_links: list[Link] = []  #: of this process


class Link:
    """A shard's end of the connection (`overdue.Leash`): a thread answers pings and hears what it is told."""

    def __init__(self, channel: Channel, parent_pid: int, may_exit: bool) -> None:
        """parent_pid: of our coordinator, where it is our parent, which the system tells us the end of."""
        self.may_exit = may_exit
        self.send = channel.send
        self.sender: Sender | None = None
        self.folder: Path | None = None  #: of its own, to be removed
        self.begun, self.ended = False, threading.Event()
        self._channel, self._parent_pid = channel, parent_pid
        self._told: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stop, self._cut = threading.Event(), threading.Event()
        _links.append(self)
        threading.Thread(target=self._work, name="perfkit-link", daemon=True).start()

    def told_to_stop(self) -> bool:
        """Whether the coordinator wants the shard to stop."""
        return self._stop.is_set()

    def is_cut(self) -> bool:
        """Whether the coordinator is gone; a forked sibling may hold the pipe open, so its id counts too."""
        return self._cut.is_set() or bool(self._parent_pid and os.getppid() != self._parent_pid)

    def cut(self) -> None:
        """Take no more part."""
        self._cut.set()
        self._told.put(None)

    def stuck(self, place: str, mistakes: Mistakes) -> None:
        """See `Leash`."""
        from perfkit.drive.shards.messages import mistakes_to_plain

        self._send_rest()
        with contextlib.suppress(Lost):
            self.send("stuck", {"place": place, "mistakes": mistakes_to_plain(mistakes)})

    def end(self) -> None:
        """See `Leash`."""
        end_process(_STUCK)

    def leave(self) -> None:
        """Send what can be sent, and remove what lies in a folder of its own: the process is to be ended."""
        self._send_rest()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send_rest(self) -> None:
        def finish() -> None:
            if self.sender is not None:
                with contextlib.suppress(Lost, OSError):
                    self.sender.finish(self.is_cut)

        rest = threading.Thread(target=finish, daemon=True)
        rest.start()
        rest.join(_LAST_ROWS_S)

    def wait(self, do: str, skip: str = "") -> Message:
        """Return the next message but those to `skip`, which must be this one; Lost when there is another."""
        while (message := self._told.get()) is not None and message.do == skip:
            pass
        if message is None or message.do != do:
            raise Lost("the coordinator has ended" if message is None else f"told to {message.do}")
        return message

    def _work(self) -> None:
        try:
            while not self._cut.is_set():
                message = self._channel.receive(_LOOK_S)
                if self._channel.silent_s >= SILENCE_S - 1 and not self._parent_pid:
                    break
                if message is not None:
                    self._hear(message)
        except Lost:
            pass
        except Exception as error:  # of a message that no coordinator of ours would send
            print_lines(f"perfkit shard: {words_of(error)}", err=True)
        finally:
            self.cut()
        if self.may_exit and not self.ended.wait(_ALONE_S) and not self.begun:
            self.end()  # it hangs in loading a scenario, say

    def _hear(self, message: Message) -> None:
        if message.do == "ping":
            self.send("pong", {"t": message.given["t"], "clock": time.monotonic_ns()})
        elif message.do == "kept" and self.sender:
            self.sender.kept(message.given["name"])
        else:
            if message.do == "stop":
                self._stop.set()
            self._told.put(message)


def take_part(
    channel: Channel, given: Mapping[str, Any], *, parent_pid: int = 0, may_exit: bool = True
) -> int:
    """Take part in a run, from the claim to the end; returns an exit code.

    given: an invitation: secret, and perhaps run, shard, and the hosts that may be loaded from here (allow).
    parent_pid: of our coordinator where it is our parent; what it sends is trusted, a pickled state among it.
    """
    try:
        channel.join(given["secret"])
        channel.send("claim", {**claim(), "run": given.get("run"), "shard": given.get("shard")})
        answer = channel.receive(_CLAIM_S)
        if answer is None or answer.do != "welcome":
            why = answer.given.get("why") if answer else f"no answer to its claim for {_CLAIM_S:g} s"
            raise Lost(str(why))
    except Lost as lost:
        if not parent_pid:  # a child's coordinator knows: it has ended, or needs this shard no more
            print_lines(f"perfkit shard: {lost}", err=True)
        return EXIT_TOOL_ERROR
    link = Link(channel, parent_pid, may_exit)
    try:
        from perfkit.drive.shards.part import carry_out  # a second or more

        carry_out(link, int(answer.given["shard"]), given, own=bool(parent_pid))
    except Lost:
        return EXIT_TOOL_ERROR
    except BaseException as error:  # of a step, whatever it is: who asked for the load tells it
        from perfkit.drive.shards.messages import Failure, encode

        with contextlib.suppress(Lost):
            link.send("failed", {}, encode(Failure.of(error)))
            link.wait("bye", skip="stop")
        return EXIT_TOOL_ERROR
    finally:
        link.ended.set()
        link.cut()
        _links.remove(link)
    return EXIT_OK


def end_process(code: int) -> NoReturn:
    """End this process, whose own thread may hang."""
    for link in list(_links):
        link.leave()
    os._exit(code)


def claim() -> dict[str, Any]:
    """What a shard says of itself."""
    from perfkit import __version__

    return {"host": platform.node(), "pid": os.getpid(), "python": platform.python_version(),
            "perfkit": __version__}  # fmt: skip
