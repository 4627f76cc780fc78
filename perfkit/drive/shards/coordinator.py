"""The coordinator's end: claims, clocks, the agreed start, and what becomes of each shard."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perfkit import __version__
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.shards.channel import SILENCE_S, Channel, Lost, Message
from perfkit.drive.shards.clocks import BURST, ShardClock
from perfkit.drive.shards.files import Receiver
from perfkit.drive.shards.launchers import Invitation, Launcher, listening
from perfkit.drive.shards.messages import Failure, decode, mistakes_from_plain
from perfkit.drive.worker import Outcome
from perfkit.errors import PerfkitError, os_error_words, words_elsewhere
from perfkit.text import plain, plural, print_lines

_LOOK_S = 0.25
#: From the agreement on a start up to it, on other hosts; five round trips besides.
_FAR_LEAD_NS = 2_000_000_000
_LAST_WORDS_S = 1.0
#: So long until connections are accepted again after one could not be.
_RETRY_S = 0.1
#: So long may a process of ours take until it speaks.
_START_S = 600.0
#: So long may a shard that has claimed its part prepare itself on another host.
_PREPARE_S = 60.0


class Stuck(PerfkitError):
    """A shard had to be ended, since a step held its loop; with the mistakes before that."""

    def __init__(self, place: str, mistakes: Mistakes) -> None:
        super().__init__(
            f"a step at {place} blocked the event loop after the end of the run, so its worker was killed"
        )
        self.mistakes = mistakes


class Body(NamedTuple):
    """What the context message carries: JSON, and in front of it for our own children a pickled state."""

    json: bytes
    pickled: bytes = b""


class ShardState:
    """One shard, as far as the coordinator knows it."""

    def __init__(self, index: int, processes: int, folder: Path) -> None:
        self.index = index
        self.facts: dict[str, Any] = {}  #: what it said of itself when it claimed its part
        self.channel: Channel | None = None
        self.clock = ShardClock()
        self.receiver = Receiver(folder, index, processes)
        self.is_ready = self.is_over = self.sees_folder = False
        self.outcome: Outcome | None = None
        self.failure: PerfkitError | OSError | None = None

    @property
    def why_lost(self) -> str:
        """Why it did not come to its end, or its rows could not be written; empty where all went well."""
        if self.failure is None:
            return (self.outcome.write_error if self.outcome else None) or ""
        return os_error_words(self.failure) if isinstance(self.failure, OSError) else str(self.failure)


class Coordinator:
    """All shards of one run. Each connection has a thread here; the caller's own waits."""

    def __init__(self, run: str, folder: Path, count: int, launcher: Launcher, body: Body,
                 secret: str, allow: tuple[str, ...] = ()) -> None:  # fmt: skip
        """run: its id; body: the context message; allow: hosts that shards may load."""
        self.shards = [ShardState(index, count, folder) for index in range(count)]
        self.failures: list[PerfkitError | OSError] = []  #: in the order in which they came
        self.refused: list[str] = []  #: claims, and why
        self._run, self._folder, self._launcher, self._body = run, folder, launcher, body
        self._secret, self._allow = secret, allow
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._channels: set[Channel] = set()  #: of claimed shards, and of those who have claimed nothing yet
        self._started, self._closing = False, threading.Event()
        self._began = time.monotonic()
        self._dead: dict[int, float] = {}  #: since when a shard is known not to run

    def open(self) -> str:
        """Listen where shards connect, and start them; returns the address, empty where none is needed."""
        address = ""
        if self._launcher.listen is not None:
            self._listener = listening(self._launcher.listen)
            address = "{}:{}".format(*self._listener.getsockname()[:2])
            threading.Thread(target=self._accept, name="perfkit-claims", daemon=True).start()
        invitations = [
            Invitation(self._run, one.index, self._secret, address, self._allow) for one in self.shards
        ]
        self._began = time.monotonic()
        for index, connection in self._launcher.start(invitations).items():
            self._serve_beside(connection, self.shards[index])
        return address

    def gather(self) -> None:
        """Wait until every shard is ready; PerfkitError names those that are not, and nobody starts."""
        while not all(one.is_ready for one in self.shards):
            self._look_for_dead()
            with self._changed:
                self._changed.wait(0.1)
            if self.failures:
                raise self._all_in_one()
            passed_s = time.monotonic() - self._began
            late = [one for one in self.shards if not one.is_ready and passed_s > self._patience_s(one)]
            if late:
                names = ", ".join(f"shard {one.index} on {self._place(one)}" for one in late)
                raise PerfkitError(f"not ready after {passed_s:.0f} s, so nobody started: {names}")

    def start(self, origin_ns: int, start_ns: int) -> int:
        """Agree on a start with every shard, each on its own clock; returns it on ours: start_ns or later."""
        self._started = True
        if not self._launcher.own:
            longest = max(one.clock.shortest_ns for one in self.shards)
            start_ns = max(start_ns, time.monotonic_ns() + _FAR_LEAD_NS + 5 * longest)
        for one in self.shards:
            offset = 0 if self._launcher.own else round(one.clock.offset_ns(start_ns))
            one.clock.began_ns = offset
            self._tell(one, "start", {"origin_ns": origin_ns + offset, "start_ns": start_ns + offset})
        return start_ns

    def wait(self, timeout_s: float) -> bool:
        """Wait until all have ended or one more has failed, at most so long; returns whether any is left."""
        self._look_for_dead()
        with self._changed:
            failed = len(self.failures)
            self._changed.wait_for(lambda: not self._pending() or len(self.failures) > failed, timeout_s)
        return self._pending()

    def stop(self) -> None:
        """Have every shard stop."""
        for one in self.shards:
            self._tell(one, "stop", {})

    def close(self, patience_s: float) -> None:
        """End what has not ended after so long, and all connections; before the start, these first."""
        with self._changed:  # no claim is accepted any more
            self._closing.set()
        if self._listener is not None:
            with contextlib.suppress(OSError), self._listener:
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        try:
            if not self._started:  # dismissed, not lost
                for one in self.shards:
                    self._end(one, None)
                self._hang_up()
            self._launcher.stop(patience_s)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        for channel in list(self._channels):
            channel.hang_up()

    def facts(self, redact: Callable[[str], str]) -> list[dict[str, Any]]:
        """For run.json: each shard that is no child of ours, its clock, and what came from it."""
        if self._launcher.own:
            return []
        return [
            {"shard": one.index, "place": self._place(one), **one.facts, **one.clock.to_mapping(),
             "rows": one.outcome.rows if one.outcome else None, "fetched_bytes": one.receiver.bytes,
             "lost": redact(why) if (why := one.why_lost) else None}
            for one in self.shards
        ]  # fmt: skip

    def _look_for_dead(self) -> None:
        """Lose shards that do not run, a while after they were first seen so: their last words come first."""
        now = time.monotonic()
        for index, why in self._launcher.lost().items():
            if now - self._dead.setdefault(index, now) > _LAST_WORDS_S:
                self._lose(self.shards[index], why)

    def _pending(self) -> bool:
        return not all(one.is_over for one in self.shards)

    def _patience_s(self, one: ShardState) -> float:
        return self._launcher.claim_s + (_PREPARE_S if one.facts else 0.0)

    def _place(self, one: ShardState) -> str:
        return f"host {one.facts['host']}" if one.facts else self._launcher.place(one.index)

    def _all_in_one(self) -> PerfkitError | OSError:
        """Why nobody starts: the first failure, with the words of the others where hosts differ."""
        time.sleep(0.0 if self._launcher.own else 0.5)
        words = list(dict.fromkeys(str(one) for one in self.failures))
        first = self.failures[0]
        return first if len(words) == 1 else type(first)("; ".join(words))

    def _tell(self, one: ShardState, do: str, given: Mapping[str, Any]) -> None:
        if one.channel is not None and not one.is_over:
            with contextlib.suppress(Lost):  # its own thread meets that, too
                one.channel.send(do, dict(given))

    # -- in the threads of connections

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve_beside(connection, None)
            except OSError:  # no descriptor is free, or who came has gone; or closed
                self._closing.wait(_RETRY_S)

    def _serve_beside(self, connection: socket.socket, one: ShardState | None) -> None:
        fd = connection.detach()
        self._channels.add(channel := Channel(fd, fd))
        threading.Thread(target=self._serve, args=(channel, one), name="perfkit-shard", daemon=True).start()

    def _serve(self, channel: Channel, expected: ShardState | None) -> None:
        one = expected
        try:
            if expected is None:
                channel.invite(self._secret)
            else:  # its process is being started; that it has ended is seen
                channel.invite(self._secret, _START_S)
            claim = channel.receive(SILENCE_S)
            if claim is None or claim.do != "claim":
                raise Lost("it claimed nothing")
            claimed = self._claimed(claim.given, channel)
            if isinstance(claimed, str):
                channel.send("refused", {"why": claimed})
                one = None
                raise Lost(claimed)
            one = claimed
            channel.send("welcome", {"shard": one.index})
            self._follow(one, channel)
        except Lost as lost:
            if one is not None:
                self._lose(one, str(lost))
            elif not self._closing.is_set():  # who comes later is told, and nobody here
                self.refused.append(str(lost))
                print_lines(f"perfkit: a shard was refused: {lost}", err=True)
        except OSError as error:  # of our own disk
            if one is not None:
                self._end(one, error)
        except Exception as error:  # of a message that no shard of ours would send
            if one is not None:
                self._end(one, PerfkitError(f"shard {one.index}: {type(error).__name__}: {error}"))
        finally:
            self._channels.discard(channel)
            channel.close()

    def _claimed(self, claim: Mapping[str, Any], channel: Channel) -> ShardState | str:
        """The shard that a claim is given, or why it is refused: the first claim of each wins."""
        host = plain(str(claim.get("host")), most=80)
        ours = {"python": platform.python_version(), "perfkit": __version__}
        other = [f"{name} {plain(str(claim.get(name)), most=20)}, here {mine}" for name, mine in ours.items()
                 if claim.get(name) != mine]  # fmt: skip
        if claim.get("run") not in (None, self._run):
            return f"host {host} claims a part of another run"
        with self._changed:
            if self._closing.is_set():
                return f"host {host} came too late: {self._run} has ended"
            wanted = claim.get("shard")
            free = [one for one in self.shards if not one.facts and wanted in (None, one.index)]
            if not free:
                return f"host {host}: {self._taken(wanted)}"
            if other:
                if self._launcher.claim_s < math.inf:  # it was placed, and nobody else will come for it
                    self._end(free[0], PerfkitError(f"host {host} differs: {', '.join(other)}"))
                return f"host {host} differs: {', '.join(other)}"
            one = free[0]
            one.facts = {"host": host, "pid": int(claim.get("pid") or 0), "python": ours["python"]}
            one.channel = channel
        return one

    def _taken(self, shard: object) -> str:
        """Why nobody can be this shard, or any where that is None."""
        if shard is None:
            return f"all shards of {self._run} were claimed before"
        if shard in range(len(self.shards)):
            return f"shard {shard} of {self._run} was claimed before"
        number = plain(str(shard), most=20)
        return f"{self._run} has no shard {number}, only {plural(len(self.shards), 'shard')}, counted from 0"

    def _follow(self, one: ShardState, channel: Channel) -> None:
        """Hear a shard out until it has ended."""
        if not self._launcher.own:
            self._burst(one, channel)
        pickled = self._body.pickled if self._launcher.own else b""
        channel.send("context", {"pickled": len(pickled)}, pickled + self._body.json)
        ping = 0.0
        while not one.is_over:
            if time.monotonic() >= ping:
                ping = time.monotonic() + 1.0
                channel.send("ping", {"t": time.monotonic_ns()})
            message = channel.receive(_LOOK_S)
            if channel.silent_s >= SILENCE_S:
                raise Lost(f"no word from it for {SILENCE_S:g} s")
            if message is not None:
                self._hear(one, channel, message)

    def _burst(self, one: ShardState, channel: Channel) -> None:
        """Measure the clock by many round trips."""
        for _ in range(BURST):
            channel.send("ping", {"t": time.monotonic_ns()})
            while True:
                message = channel.receive(_LOOK_S)
                if channel.silent_s >= SILENCE_S:
                    raise Lost(f"no word from it for {SILENCE_S:g} s")
                if message is not None:
                    self._hear(one, channel, message)
                    if message.do == "pong":
                        break

    def _hear(self, one: ShardState, channel: Channel, message: Message) -> None:
        now, given = time.monotonic_ns(), message.given
        match message.do:
            case "pong":
                if not self._launcher.own:  # a child's clock is ours: there is noise only to correct
                    one.clock.add(int(given["t"]), int(given["clock"]), now)
            case "ready":
                one.is_ready, one.sees_folder = True, bool(given["sees_folder"])
                self._tell_waiting()
            case "file":
                if (name := one.receiver.take(message)) is not None:
                    channel.send("kept", {"name": name})
            case "stuck":
                self._end(one, Stuck(str(given["place"]), mistakes_from_plain(given["mistakes"])))
            case "failed":
                error = decode(message.body, Failure).error()
                if not self._launcher.own:
                    kind = PerfkitError if isinstance(error, OSError) else type(error)
                    words = os_error_words(error) if isinstance(error, OSError) else str(error)
                    error = kind(self._said(one, words))
                channel.send("bye")
                self._end(one, error)
            case "outcome":
                outcome = decode(message.body, Outcome)
                if not self._launcher.own:
                    if outcome.write_error:
                        outcome = dataclasses.replace(
                            outcome, write_error=self._said(one, outcome.write_error)
                        )
                    one.outcome = outcome  # before the clock is measured: the others may have to stop
                    self._burst(one, channel)
                    if not one.sees_folder and one.receiver.rows != (there := outcome.rows):
                        raise Lost(f"{there:,} rows were written there, {one.receiver.rows:,} have arrived")
                one.outcome = outcome
                channel.send("bye")
                self._end(one, None)

    def _said(self, one: ShardState, words: str) -> str:
        """What a shard on another host says, with the host; its disk is there."""
        return f"{self._place(one)}: {words if one.sees_folder else words_elsewhere(words)}"

    def _lose(self, one: ShardState, why: str) -> None:
        if one.is_over:
            return
        silent = why.startswith("no word")
        if self._launcher.own and not silent:
            self._end(one, PerfkitError("a worker process died (killed or out of memory); see dmesg"))
            return
        if not silent:
            time.sleep(0.2)  # what ended the connection may tell why
            why = self._launcher.lost().get(one.index, why)
        self._end(one, PerfkitError(f"shard {one.index} on {self._place(one)} was lost: {why}"))

    def _end(self, one: ShardState, failure: PerfkitError | OSError | None) -> None:
        with self._changed:
            if one.is_over:
                return
            one.is_over = True
            if failure is not None:
                one.failure, one.outcome = failure, None
                self.failures.append(failure)
            self._changed.notify_all()

    def _tell_waiting(self) -> None:
        with self._changed:
            self._changed.notify_all()
