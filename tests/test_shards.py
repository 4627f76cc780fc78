"""Runs whose load comes from several processes: the protocol, clocks, files, and whole runs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import queue
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.calibration import Tried, calibrate, words
from perfkit.drive.mistakes import Mistakes
from perfkit.drive.schedule import plan
from perfkit.drive.shards import files, part, shard
from perfkit.drive.shards.channel import Channel, Lost, Message
from perfkit.drive.shards.clocks import ShardClock
from perfkit.drive.shards.coordinator import Body, Coordinator
from perfkit.drive.shards.files import Receiver, Sender
from perfkit.drive.shards.launchers import ByHand, Ssh, processes_of
from perfkit.drive.shards.messages import Failure, encode
from perfkit.drive.shards.plain import from_plain, to_plain
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput, PerfkitError
from perfkit.figures.style import caption
from perfkit.figures.tables import health_table
from perfkit.frames import measured, over_time
from perfkit.model import Budget, Spread
from perfkit.redaction import Redactor
from perfkit.store import Run, list_runs, update_run_json
from perfkit.store.metadata import Metadata
from tests.shard_threads import Threads
from tests.small_server import SmallServer, small_server

SECRET = "a secret of the run"


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


# -- the channel -----------------------------------------------------------------------------------


def ends() -> tuple[Channel, Channel]:
    """Both ends of a connection, before anything was proved."""
    a, b = socket.socketpair()
    fds = a.detach(), b.detach()
    return Channel(fds[0], fds[0]), Channel(fds[1], fds[1])


def proved(secret: str = SECRET, other: str = SECRET) -> tuple[Channel, Channel, list[str]]:
    """Both ends after the handshake, and what went wrong in it."""
    coordinator, joining = ends()
    wrong: list[str] = []

    def prove(what: Any, word: str, channel: Channel) -> None:
        try:
            what(word)
        except Lost as lost:
            wrong.append(str(lost))
            channel.close()

    thread = threading.Thread(target=prove, args=(joining.join, other, joining))
    thread.start()
    prove(coordinator.invite, secret, coordinator)
    thread.join()
    return coordinator, joining, wrong


@settings(deadline=None, max_examples=20)
@given(st.binary(max_size=3000), st.dictionaries(st.text(), st.integers(), max_size=3))
def test_a_frame_arrives_as_it_was_sent(body: bytes, named: dict[str, int]) -> None:
    """Names, values and bytes, both ways; and nothing of them can be read on the wire."""
    named.pop("do", None)
    coordinator, joining, wrong = proved()
    assert not wrong
    for one, other in ((coordinator, joining), (joining, coordinator)) * 2:
        one.send("this", named, body)
        assert other.receive(1) == ("this", named, body)
    coordinator.close()
    with pytest.raises(Lost, match="ended"):
        joining.receive(1)
    joining.close()


def test_who_does_not_know_the_secret_takes_no_part() -> None:
    """The coordinator refuses it before it reads a second frame, and tells it nothing."""
    coordinator, joining, wrong = proved(other="another secret")
    assert sorted(wrong)[1] == "wrong secret"
    assert len(wrong) == 2
    coordinator.close()
    joining.close()


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\3{]}"]
)
def test_strangers_are_sent_away(frame: bytes) -> None:
    """What is no handshake ends the connection, whatever length it claims to have."""
    mine, theirs = socket.socketpair()
    fd = mine.detach()
    channel = Channel(fd, fd)
    theirs.sendall(frame)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Lost, match=r"does not speak|at most 4,096|has ended"):
        channel.invite(SECRET)
    channel.close()
    theirs.close()


@pytest.mark.parametrize("change", ["flip", "repeat", "drop"])
def test_a_frame_that_was_tampered_with_ends_the_connection(change: str) -> None:
    """A changed byte, a frame sent twice, and one that was left out."""
    coordinator, joining, _ = proved()
    frames: list[bytes] = []
    joining._write = frames.append  # type: ignore[method-assign]
    for number in range(3):
        joining.send("this", {"number": number})
    del joining._write  # type: ignore[method-assign]
    first, second, third = frames
    wire = {
        "flip": [first, second[:-1] + bytes([second[-1] ^ 1])],
        "repeat": [first, first],
        "drop": [first, third],
    }[change]
    for frame in wire:
        joining._write(frame)
    assert coordinator.receive(1) is not None
    with pytest.raises(Lost, match="damaged"):
        coordinator.receive(1)
    coordinator.close()
    joining.close()


def test_a_frame_under_way_is_no_silence() -> None:
    """Bytes that flow reset the count of looks at which nothing came, whole frame or not."""
    coordinator, joining, _ = proved()
    frames: list[bytes] = []
    joining._write = frames.append  # type: ignore[method-assign]
    joining.send("outcome", {}, b"x" * 1000)
    wire = struct.pack(">I", len(frames[0])) + frames[0]
    for begin in range(0, 900, 300):
        assert coordinator.receive(0.01) is None
        assert coordinator.silent_s == 0.01
        os.write(joining._write_fd, wire[begin : begin + 300])
        assert coordinator.receive(0.01) is None
        assert coordinator.silent_s == 0.0
    os.write(joining._write_fd, wire[900:])
    message = coordinator.receive(1)
    assert message is not None
    assert message.body == b"x" * 1000
    coordinator.close()
    joining.close()


# -- states ----------------------------------------------------------------------------------------

HERE = sys.modules[__name__]


@dataclass(frozen=True)
class State:
    """As a scenario's file defines one."""

    ids: tuple[str, ...] = ()
    more: Any = None
    made: list[int] = field(default_factory=list)


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(State, ids=st.lists(st.text()).map(tuple), more=inner)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60)
@given(plain_data)
def test_a_state_arrives_as_it_was_returned(state: Any) -> None:
    """Numbers, texts, bytes, lists, tuples, mappings and dataclasses, in one another."""
    import msgspec

    wire = msgspec.json.encode(to_plain(state, HERE))
    assert from_plain(msgspec.json.decode(wire), HERE) == state


def test_a_class_is_that_of_the_other_sides_file() -> None:
    """A class is named, not sent; what is no dataclass of the file is made of nothing."""
    other = ModuleType(__name__)
    there_too = (
        "from dataclasses import dataclass\n@dataclass\nclass State:\n    ids: tuple = ()\n    more = 0"
    )
    exec(there_too, other.__dict__)
    there = from_plain(to_plain(State(ids=("a",), more=3), HERE), other)
    assert type(there) is other.__dict__["State"]
    assert (there.ids, there.more, there.made) == (("a",), 3, [])
    for bad in ({"$class": "Path", "of": "", "held": {}}, {"$class": "system", "of": "os", "held": {}}):
        with pytest.raises(BadInput, match=r"no dataclass|no module"):
            from_plain(bad, HERE)


def test_a_state_that_cannot_travel_is_refused_with_its_place() -> None:
    """The message says where it is and what setup may return."""
    with pytest.raises(BadInput, match=r"state\['a'\]\[1\].more is a lock; return numbers, texts"):
        to_plain({"a": [1, State(more=threading.Lock())]}, HERE)


def nested(levels: int, wrap: Any) -> Any:
    """Something in so many others."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


def holding_itself(kind: str) -> Any:
    """A list, a mapping or a dataclass that is somewhere in itself."""
    held: list[Any] = []
    found = {"list": held, "mapping": {"a": held}, "dataclass": State(more=held)}[kind]
    held.append(found)
    return found


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (["a", {"b": "half \ud800"}], r"state\[1\]\['b'\] is a text with a lone surrogate, 'half \\ud800'"),
        ({"half \ud800": 1}, "a key of state is a text with a lone surrogate"),
        (State(ids=("\udfff",)), r"state.ids\[0\] is a text with a lone surrogate"),
        *((nested(3000, wrap), r".*state.* … is nested more than 100 levels deep, or holds itself")
          for wrap in (lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: {1: v},
                       lambda v: State(more=v), lambda v: frozenset([v]))),
        *((holding_itself(kind), ".* or holds itself") for kind in ("list", "mapping", "dataclass")),
    ],
)  # fmt: skip
def test_an_odd_state_is_bad_input(state: Any, words: str) -> None:
    """As one of an odd type: not a bug of perfkit's, but what setup may return."""
    with pytest.raises(BadInput, match=f"cannot be sent to other hosts: {words}.*; return numbers, texts"):
        to_plain(state, HERE)


def test_a_state_of_100_levels_arrives() -> None:
    """What may be sent can be read, also by a shard whose stack is not empty."""
    import msgspec

    for wrap in (lambda v: [v], lambda v: {1: v}, lambda v: State(more=v), lambda v: (v,)):
        state = nested(100, wrap)
        assert from_plain(msgspec.json.decode(msgspec.json.encode(to_plain(state, HERE))), HERE) == state


# -- clocks ----------------------------------------------------------------------------------------


def watched(offset_ns: int, drift: float, seed: int, span_s: int = 60) -> ShardClock:
    """A clock that was looked at over a network whose ways take 0.1 ms at least, and often far more."""
    dice = np.random.default_rng(seed)
    clock, moments = ShardClock(), [0.0] * 50 + [float(s) for s in range(1, span_s)] + [float(span_s)] * 50
    for number, at_s in enumerate(moments):
        there_ns, back_ns = (100_000 + dice.exponential(2e5) * (dice.random() < 0.7) for _ in range(2))
        sent = int(at_s * 1e9) + number * 10_000
        middle = sent + there_ns
        clock.add(sent, int(middle + offset_ns + drift * middle), int(middle + back_ns))
    return clock


@pytest.mark.parametrize("seed", range(5))
def test_offset_and_drift_of_a_clock_are_known_within_half_a_round_trip(seed: int) -> None:
    """A second away and 20 ppm off: at the start, in the middle and at the end within the error told."""
    clock = watched(10**9, 20e-6, seed)
    assert 100_000 <= clock.error_ns < 200_000
    for at_ns in (0, 30 * 10**9, 60 * 10**9):
        assert abs(clock.offset_ns(at_ns) - (10**9 + 20e-6 * at_ns)) <= clock.error_ns
    assert clock.drift_ppm == pytest.approx(20, abs=3)
    assert watched(5, 20e-6, seed, span_s=5).drift_ppm == 0.0  # too short for a drift to be told from error


def clock_of(true: Any, moments_s: Any, least_ns: float, jitter_ns: float, seed: int) -> ShardClock:
    """A clock that is `true(ns)` ahead, looked at over a network that is quicker one way than the other."""
    dice, clock, received = np.random.default_rng(seed), ShardClock(), 0
    one_way = dice.random()
    for at_s in moments_s:
        sent = max(int(at_s * 1e9), received)
        ways = np.array([one_way, 1 - one_way]) * least_ns
        ways += dice.exponential(jitter_ns, 2) * (dice.random(2) < 0.7)
        there = sent + int(ways[0])
        received = there + int(ways[1])
        clock.add(sent, there + round(true(there)), received)
    return clock


@settings(deadline=None, max_examples=150)
@given(
    st.integers(-(10**15), 10**15), st.floats(-200e-6, 200e-6), st.floats(0.2, 60), st.floats(5e4, 4e7),
    st.floats(0, 1e7), st.sampled_from([(50, 50), (50, 0), (1, 0), (0, 1), (3, 3)]), st.integers(0, 999),
)  # fmt: skip
def test_no_clock_is_known_less_exactly_than_is_told(
    offset: int, drift: float, span_s: float, least_ns: float, jitter_ns: float, bursts: Any, seed: int
) -> None:
    """Whatever the offset, the drift, the length of the run and of the ways, which may differ: at no instant
    between the first and the last round trip is an offset, or a row's instant, further off than the error."""
    moments = [0.0] * bursts[0] + list(np.arange(0.5, span_s, 1.0)) + [span_s] * bursts[1]
    true = lambda at_ns: offset + drift * at_ns  # noqa: E731
    clock = clock_of(true, moments or [span_s], least_ns, jitter_ns, seed)
    first, last = clock._trips[0].at_ns, clock._trips[-1].at_ns
    instants = np.linspace(first, last, 9)
    wrong = [abs(clock.offset_ns(int(at)) - true(int(at))) for at in instants]
    assert max(wrong) <= clock.error_ns + 2
    assert clock.drift_ppm == 0.0 or abs(clock.drift_ppm) <= 500
    clock.began_ns = round(clock.offset_ns(first))
    there = [round(at + true(at)) - clock.began_ns for at in instants]
    found = clock.corrected(pa.table({"done": there}), origin_ns=0)["done"].to_numpy()
    assert np.abs(found - instants).max() <= clock.error_ns * 1.001 + 4


def test_the_drift_of_a_short_run_is_no_surprise() -> None:
    """30 ppm over 9 s are 270 µs; once that is more than round trips leave open it is taken off."""
    clock = clock_of(lambda at: 30e-6 * at, [0.0] * 50 + [*range(1, 9)] + [9.0] * 50, 1e5, 1e4, 1)
    assert clock.drift_ppm == pytest.approx(30, abs=3)
    assert 50_000 <= clock.error_ns <= 60_000


@pytest.mark.parametrize("seed", range(5))
def test_a_clock_whose_drift_changes_is_not_known_as_well(seed: int) -> None:
    """As where NTP slews it: no line fits, and the error says how far from one it was."""

    def true(at_ns: float) -> float:
        return 200e-6 * min(at_ns, 30e9) - 100e-6 * max(at_ns - 30e9, 0.0)

    clock = clock_of(true, [0.0] * 50 + [*range(1, 60)] + [60.0] * 50, 1e5, 2e5, seed)
    wrong = [abs(clock.offset_ns(int(at)) - true(at)) for at in np.linspace(0, 60e9, 600)]
    assert 1e6 < max(wrong) <= clock.error_ns


def test_instants_of_another_host_are_put_on_our_clock() -> None:
    """What was agreed on at the start is a guess; the line of the whole run is applied to every instant."""
    clock = watched(10**9, 20e-6, 1)
    clock.began_ns = 10**9
    true = [0, 30 * 10**9, 60 * 10**9]
    rows = pa.table(
        {"planned": [int(t + 20e-6 * t) for t in true], "done": [None, None, 7], "seq": [1, 2, 3]}
    )
    found = clock.corrected(rows, origin_ns=0)
    assert np.abs(np.array(found["planned"].to_pylist()) - true).max() <= clock.error_ns
    assert found["done"].to_pylist()[:2] == [None, None]
    assert found["seq"].to_pylist() == [1, 2, 3]


# -- files -----------------------------------------------------------------------------------------


class Wire:
    """Carries a sender's chunks to a receiver, at once."""

    def __init__(self, there: Path, here: Path) -> None:
        (there / "segments").mkdir(parents=True)
        (here / "segments").mkdir(parents=True)
        self.receiver, self.sent = Receiver(here, 0, 1), 0
        self.sender = Sender(there, self.send)

    def send(self, do: str, given: dict[str, Any], body: bytes) -> None:
        """As `Channel.send`; what has arrived is told at once."""
        self.sent += len(body)
        if (name := self.receiver.take(Message(do, given, body))) is not None:
            self.sender.kept(name)


def test_of_a_journal_only_what_is_new_is_sent(tmp_path: Path) -> None:
    """However often it grows, each byte of it travels once; a piece that is missing is noticed."""
    wire = Wire(there := tmp_path / "there", here := tmp_path / "here")
    journal, lines = there / "undo-w0.jsonl", b""
    for number in range(5):
        lines += b"[%d]\n" % number * 90_000  # more than one chunk
        journal.write_bytes(lines)
        os.utime(journal, ns=(number, number))
        wire.sender._all("undo-*.jsonl")
    wire.sender.finish(lambda: False)
    assert (here / journal.name).read_bytes() == lines
    assert wire.sent == len(lines)
    assert stat.S_IMODE((here / journal.name).stat().st_mode) == 0o600
    empty = {"name": journal.name, "begin": 3, "at": 0, "size": 0, "sha256": hashlib.sha256().hexdigest()}
    with pytest.raises(Lost, match="in the wrong order"):
        wire.receiver.take(Message("file", empty, b""))


def test_a_file_that_cannot_be_read_is_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was removed since it was listed is skipped; where no descriptor is free it is tried again, at
    the end too, and the thread that fetches goes on. A run of 11 days has segments of seven digits."""
    monkeypatch.setattr(files, "_COUNTS_S", 0.01)
    monkeypatch.setattr(files, "_FETCH_S", 0.0)
    wire = Wire(there := tmp_path / "there", here := tmp_path / "here")
    real, errors = Path.open, [FileNotFoundError(), OSError(errno.EMFILE, "no descriptor is free")] * 2

    def opened(self: Path, *more: Any, **named: Any) -> Any:
        if self.is_relative_to(there) and errors:
            raise errors.pop()
        return real(self, *more, **named)

    monkeypatch.setattr(Path, "open", opened)
    for number in (999_999, 1_000_000):
        name = f"segments/w0-{number}.parquet"
        pq.write_table(pa.table({"seq": [number]}), tmp_path / "new")
        (tmp_path / "new").rename(there / name)
        until = time.monotonic() + 10
        while not (here / name).exists() and time.monotonic() < until and number < 1_000_000:
            time.sleep(0.01)
    errors.append(OSError(errno.EMFILE, "no descriptor is free"))
    wire.sender.finish(lambda: False)
    assert wire.receiver.rows == 2
    assert (here / name).exists()
    assert not (there / name).exists()


# -- a shard's end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["hangs", "has begun", "has ended"])
def test_a_shard_alone_ends_before_its_load_too(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in loading a scenario when its coordinator has gone, or when it is told what nobody of
    ours says, ends its process; under load others see to that."""
    codes: list[int] = []
    monkeypatch.setattr(shard, "_ALONE_S", 0.05)
    monkeypatch.setattr(os, "_exit", codes.append)
    coordinator, joining, _ = proved()
    link = shard.Link(joining, 0, may_exit=True)
    link.folder = tmp_path / "perfkit-shard-x"
    link.folder.mkdir()
    link.begun = state == "has begun"
    if state == "has ended":
        link.ended.set()
        coordinator.close()
    else:
        coordinator.send("ping")  # of what instant?
    for thread in (one for one in threading.enumerate() if one.name == "perfkit-link"):
        thread.join(10)
    assert link.is_cut()
    assert codes == ([70] if state == "hangs" else [])
    assert link.folder.exists() == (state != "hangs")
    shard._links.remove(link)
    coordinator.close()
    joining.close()


def test_a_stuck_shard_sends_its_last_rows_first(tmp_path: Path) -> None:
    """What is in its folder has arrived before the coordinator hears why it ends, and stops to listen."""
    coordinator, joining, _ = proved()
    link = shard.Link(joining, 0, may_exit=False)
    (tmp_path / "segments").mkdir()
    link.sender = Sender(tmp_path, link.send)
    (tmp_path / "segments" / "w0-000000.parquet").write_bytes(b"rows")
    thread = threading.Thread(target=link.stuck, args=("mine.py:3", Mistakes()))
    thread.start()
    heard = []
    while (message := coordinator.receive(5)) is not None:
        heard.append(message.do)
        if message.do == "stuck":
            break
        coordinator.send("kept", {"name": message.given["name"]})
    assert heard == ["file", "stuck"]
    thread.join()
    shard._links.remove(link)
    coordinator.close()
    joining.close()


# -- whole runs ------------------------------------------------------------------------------------


def work(server: SmallServer, **changes: Any) -> tuple[Any, Any, Any]:
    """A workload of two processes, checked."""
    given = {"scenario": "http_get", "target": {"url": server.url}, "processes": 2, "drain_s": 2}
    if "users" not in changes:
        given["arrivals"] = {"rate_per_s": 40, "duration_s": 1}
    return complete(given | changes, "test")


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have shards not see the run's folder, as on another host."""
    monkeypatch.setattr(part, "_is_here", lambda package: False)


def test_rows_of_other_hosts_are_fetched(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is a row, none twice; run.json says of each shard what came and how its clock was."""
    apart(monkeypatch)
    before = server.requests.total()
    run = execute(*work(server), data_dir=tmp_path, launcher=Threads())
    rows = run.table(["seq", "worker", "request_id"]).to_pandas()
    assert len(rows) == server.requests.total() - before == 40
    assert rows["seq"].is_unique
    assert rows["request_id"].is_unique
    first, second = run.meta.raw["shards"]
    assert (first["rows"], second["rows"]) == (20, 20)
    assert first["fetched_bytes"] > 1000
    assert abs(first["offset_ns"]) <= first["error_ns"] + 1000  # it is the same clock
    assert first["round_trips"] > 100
    assert first["lost"] is None
    shown = health_table(run)._repr_html_()
    assert platform.node() in shown
    assert "clocks within ±" in shown
    update_run_json(
        run.path, lambda meta: {"shards": [{**first, "error_ns": 3_000_000}, {**second, "error_ns": 100_000}]}
    )
    frame = over_time(measured(Run(run.path)))
    assert "clocks of hosts known to ± 3.1 ms (budget 1 ms)" in caption(frame)


def test_shards_divide_the_schedule_of_one_process(server: SmallServer, tmp_path: Path) -> None:
    """Shard i of N takes arrivals i, i + N, …: together they plan what one process would, bit for bit."""
    arrivals = {"rate_per_s": 60, "duration_s": 1, "shape": "poisson"}
    workload, scenario, params = work(server, arrivals=arrivals, processes=3, seed=7)
    run = execute(workload, scenario, params, data_dir=tmp_path, launcher=Threads())
    rows = run.table(["worker", "step", "planned"]).to_pandas().sort_values("step")
    started = run.meta.load_started_ns or 0
    expected = np.rint(plan(workload.arrivals, 7) * 1e9).astype(np.int64)
    clocks = {one["shard"]: one["error_ns"] for one in run.meta.raw["shards"]}
    assert rows["step"].tolist() == list(range(len(expected)))
    assert (rows["worker"] == rows["step"] % 3).all()
    off = np.abs(rows["planned"].to_numpy() - started - expected)
    assert off.max() <= 2 * max(clocks.values())  # what the clocks are corrected by


def test_a_state_is_sent_to_other_hosts_with_the_file_and_its_data(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scenario's text, the data rows it names, and the state that its setup returned."""
    apart(monkeypatch)
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Made:\n    ids: tuple\n"
        "async def setup(session, params):\n    return Made(ids=('a', 'b'))\n"
        "async def step(session, state, rng):\n"
        "    assert type(state) is Made and state.ids == ('a', 'b')\n"
        "    row = session.data('rows.csv', per='step')\n"
        "    await session.get(f'/echo/{row[\"n\"]}', name='row')\n"
        "    session.on_teardown('DELETE', f'/gone/{row[\"n\"]}')\n"
    )
    (tmp_path / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(10)))
    users = {"count": 2, "iterations": 10}
    given = work(server, scenario=str(tmp_path / "mine.py"), users=users)
    run = execute(*given, data_dir=tmp_path, launcher=Threads())
    assert not run.meta.step_errors
    assert {f"GET /echo/{n}" for n in range(10)} <= set(server.requests)
    assert {f"DELETE /gone/{n}" for n in range(10)} <= set(server.requests)
    assert not list(run.path.glob("undo-*"))


def test_data_whose_name_is_computed_is_missed_in_words(server: SmallServer, tmp_path: Path) -> None:
    """Elsewhere it says which files are taken along; in a child of ours it is there."""
    (tmp_path / "mine.py").write_text(
        "async def step(session, state, rng):\n"
        "    row = session.data('rows' + '.csv', per='step', at_end='cycle')\n"
        "    await session.get('/')\n"
    )
    (tmp_path / "rows.csv").write_text("n\n1\n")
    given = work(server, scenario=str(tmp_path / "mine.py"), users={"count": 1, "iterations": 2}, processes=1)
    assert not execute(*given, data_dir=tmp_path).meta.step_errors
    (error,) = execute(*given, data_dir=tmp_path, launcher=Threads()).meta.step_errors
    says = "data rows.csv did not come along to this host: only files do whose names stand in the scenario's"
    assert says in error.text
    assert "(docs/many-hosts.md)" in error.text
    assert error.count == 2


def test_an_exception_says_what_no_file_can_hold(server: SmallServer, tmp_path: Path) -> None:
    """A lone surrogate, as of a damaged answer, is replaced: the step is counted, and the run goes on."""
    (tmp_path / "mine.py").write_text(
        "async def step(session, state, rng):\n"
        "    await session.get('/')\n"
        "    raise ValueError('half \\ud800')\n"
    )
    given = work(server, scenario=str(tmp_path / "mine.py"), users={"count": 1, "iterations": 3}, processes=1)
    run = execute(*given, data_dir=tmp_path, launcher=Threads())
    (error,) = run.meta.step_errors
    assert (run.state, error.count) == ("complete", 3)
    assert error.text.startswith("ValueError: half ?")


class Deaf(Threads):
    """Shard 1 is one that claims its part and then says no more."""

    def start(self, invitations: Any) -> Any:
        """See `Launcher`."""
        found = dict(super().start(invitations[:1]))
        found[1], theirs = socket.socketpair()
        self.theirs = Channel(fd := theirs.detach(), fd)
        self.ready = threading.Thread(target=self._claim, args=(invitations[1],))
        self.ready.start()
        return found

    def _claim(self, invitation: Any) -> None:
        self.theirs.join(invitation.secret)
        self.theirs.send("claim", {**shard.claim(), "host": "b.example", "run": invitation.run, "shard": 1})
        while (message := self.theirs.receive(10)) and message.do != "start":
            if message.do == "ping":
                self.theirs.send("pong", {"t": message.given["t"], "clock": time.monotonic_ns()})
            if message.do == "context":
                self.theirs.send("ready", {"sees_folder": True})
        self.lose()

    def lose(self) -> None:
        """Be gone, right after the start."""
        self.theirs.close()


def test_a_lost_shard_ends_the_run_with_its_name(server: SmallServer, tmp_path: Path) -> None:
    """The other stops within 2 s, its rows are kept, the run is aborted and says which host was lost."""
    began = time.monotonic()
    with pytest.raises(PerfkitError, match=r"shard 1 on host b\.example was lost: the connection has ended"):
        execute(
            *work(server, arrivals={"rate_per_s": 40, "duration_s": 60}), data_dir=tmp_path, launcher=Deaf()
        )
    (run,) = list_runs(tmp_path)
    assert time.monotonic() - began < 30
    assert run.state == "aborted"
    assert "b.example" in (run.reason or "")
    assert run.meta.shard_words[0].startswith("lost: shard 1 on host b.example was lost")
    assert [one["worker"] for one in run.meta.health.workers] == [0]


class Silent(Deaf):
    """Its connection stays open."""

    def lose(self) -> None:
        """Say nothing any more."""


def test_a_silent_shard_is_lost_after_five_seconds(server: SmallServer, tmp_path: Path) -> None:
    """As behind a network that swallows everything: no end of the connection is ever heard of."""
    with pytest.raises(PerfkitError, match="was lost: no word from it for 5 s"):
        execute(
            *work(server, arrivals={"rate_per_s": 40, "duration_s": 60}), data_dir=tmp_path, launcher=Silent()
        )


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"shard": 0}, "shard 0 of .* were claimed before|shard 0 .* claimed before"),
        ({"shard": 7}, "run has no shard 7, only 2 shards, counted from 0"),
        ({"shard": "x" * 90}, "run has no shard x{20}…[^,]*, only 2 shards, counted from 0"),
        ({"run": "another"}, "claims a part of another run"),
        ({"python": "2.7.18", "shard": 1}, r"differs: python 2\.7\.18, here 3"),
        ({"perfkit": "0.0.1", "shard": 1}, r"differs: perfkit 0\.0\.1, here"),
    ],
)
def test_a_claim_that_is_not_right_is_refused(tmp_path: Path, claim: dict[str, Any], words: str) -> None:
    """A second one, one of another run, and a host with another Python or perfkit: it is told why."""
    launcher = Threads()
    coordinator = Coordinator("run", tmp_path, 2, launcher, Body(b""), SECRET)
    coordinator.shards[0].facts = {"host": "a", "pid": 1, "python": "3"}
    mine, theirs = socket.socketpair()
    coordinator._serve_beside(mine, None)
    channel = Channel(fd := theirs.detach(), fd)
    channel.join(SECRET)
    channel.send("claim", {**shard.claim(), "run": "run", **claim})
    answer = channel.receive(10)
    channel.close()
    assert answer is not None
    assert answer.do == "refused"
    assert __import__("re").search(words, answer.given["why"])


def coordinating(folder: Path, launcher: Any, count: int = 1) -> Coordinator:
    """A coordinator of a run without content."""
    return Coordinator("run", folder, count, launcher, Body(b""), SECRET)


def test_after_its_end_a_coordinator_hears_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed accept is tried again; closed, the port is free, and who shook hands before is refused."""
    coordinator = coordinating(tmp_path, ByHand("127.0.0.1:0"))
    real, failing = socket.socket.accept, iter([OSError(errno.EMFILE, "no descriptor is free")])

    def accept(listener: socket.socket) -> Any:
        for error in failing:
            raise error
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    host, port = coordinator.open().split(":")
    connection = socket.create_connection((host, int(port)))
    channel = Channel(fd := connection.detach(), fd)
    channel.join(SECRET)
    coordinator.close(0)
    with contextlib.suppress(Lost):
        channel.send("claim", {**shard.claim(), "run": "run", "shard": 0})
    with contextlib.suppress(Lost):
        answer = channel.receive(5)
        assert answer is not None
        assert answer.do == "refused"
    channel.close()
    assert not coordinator.shards[0].facts
    (claims,) = [one for one in threading.enumerate() if one.name == "perfkit-claims"] or [None]
    if claims is not None:
        claims.join(5)
        assert not claims.is_alive()
    socket.create_server((host, int(port))).close()


def test_shards_of_a_start_that_failed_are_dismissed(tmp_path: Path) -> None:
    """They are hung up on at once, whatever they wait for, and are not lost."""
    launcher = Threads()
    coordinator = coordinating(tmp_path, launcher, 2)
    mine, theirs = socket.socketpair()
    coordinator._serve_beside(mine, coordinator.shards[1])  # its process never says a word
    coordinator.open()
    began = time.monotonic()
    coordinator.close(5.0)
    assert time.monotonic() - began < 4
    assert [one["lost"] for one in coordinator.facts(str)] == [None, None]
    assert not coordinator.failures
    theirs.close()


def test_what_lost_a_shard_is_told_without_secrets(tmp_path: Path) -> None:
    """run.json has the last line of what ssh complained of, however much that was; secrets are removed."""
    ssh = Ssh(["a.example"], 1, "python")
    ssh._stderr(0).write(b"x" * 20_000 + b"\nno route for a-long-s3cret\n")
    ssh._complaints[0].flush()
    ssh._processes[0] = subprocess.Popen(["true"])
    ssh._processes[0].wait()
    words = ssh.lost()[0]
    ssh.stop(0)
    assert words == "no route for a-long-s3cret"
    coordinator = coordinating(tmp_path, ssh)
    coordinator.shards[0].failure = PerfkitError(words)
    assert coordinator.facts(Redactor(["a-long-s3cret"]))[0]["lost"] == "no route for ***"


def test_a_full_disk_is_told_of_the_side_that_it_is_on(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that cannot even unpack what it was sent: its host, and TMPDIR there; where what has arrived
    cannot be written: the run's folder, as in any run."""
    coordinator = coordinating(tmp_path, Threads(), 2)
    (one, other), (channel, joining, _) = coordinator.shards, proved()
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/perfkit-shard-x")
    for shared, way_out in ((False, "TMPDIR on that host"), (True, "--data-dir")):
        one.is_over, one.sees_folder, one.facts = False, shared, {"host": "b.example"}
        coordinator._hear(one, channel, Message("failed", {}, encode(Failure.of(full))))
        assert one.why_lost.startswith("host b.example: cannot write /tmp/perfkit-shard-x: No space left")
        assert one.why_lost.endswith(f"or choose another place ({way_out})")
    assert not other.why_lost
    channel.close()
    joining.close()
    apart(monkeypatch)

    def take(self: Receiver, message: Message) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    monkeypatch.setattr(Receiver, "take", take)
    with pytest.raises(PerfkitError, match=r"^No space left on device: here; the rows written so far"):
        execute(*work(server), data_dir=tmp_path / "data", launcher=Threads())
    (run,) = list_runs(tmp_path / "data")
    assert any(one.lost.startswith("cannot write here: No space left on device") for one in run.meta.shards)


def test_what_is_said_of_the_clocks_of_shards() -> None:
    """Two may be apart by the errors of both; of one, and of those that never came, nothing is said."""

    def said(*shards: dict[str, Any], budget_ms: float = 1.0) -> list[str]:
        given = {"state": "complete", "shards": list(shards)}
        found = Metadata.of({**given, "workload": {"spread": {"clock_budget_ms": budget_ms}}})
        return [f"{found.clock_error_ms:g}", *found.shard_words]

    a, b, c = (
        {"host": name, "round_trips": 9, "error_ns": error}
        for name, error in (("a", 600_000), ("b", 500_000), ("c", 0))
    )
    assert said(a) == ["0", "1 shard on a"]
    assert said(a, c) == ["0.6", "2 shards on a, c; clocks within ± 0.6 ms"]
    assert said(c, b, a, budget_ms=2.0) == ["1.1", "3 shards on c, b, a; clocks within ± 1.1 ms"]
    assert said(a, b)[1].startswith("clocks of hosts known to ± 1.1 ms (budget 1 ms)")
    missing = {"place": ByHand("").place(0)}
    assert said(missing, missing) == ["0", "2 shards on a host that has not joined"]
    assert said(a, missing) == ["0.6", "2 shards on a, a host that has not joined"]


def test_the_clock_of_a_child_is_ours(tmp_path: Path) -> None:
    """Round trips to a process of this host would add their noise to its instants, so none are noted."""
    for own, trips in ((True, 0), (False, 1)):
        launcher = Threads()
        launcher.own = own
        coordinator = coordinating(tmp_path, launcher)
        (one,) = coordinator.shards
        channel = Channel(*os.pipe())
        coordinator._hear(one, channel, Message("pong", {"t": 0, "clock": 5}, b""))
        assert one.clock.trips == trips
        channel.close()


# -- as a user has it ------------------------------------------------------------------------------


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`perfkit` with these arguments."""
    words, pipe = [sys.executable, "-m", "perfkit.cli", *arguments], subprocess.PIPE
    return subprocess.Popen(words, text=True, stdout=pipe, stderr=pipe, env={**os.environ, **environment})


def test_a_shard_joins_by_hand(server: SmallServer, tmp_path: Path) -> None:
    """The coordinator says what to start; with the secret in its environment the shard takes its part."""
    given = ("run", "-q", "--scenario", "http_get", "--target", server.url, "--data-dir", str(tmp_path))
    load = ("--on", "join:1", "-s", "arrivals.rate_per_s=50", "-s", "arrivals.duration_s=1")
    run = command(*given, *load, PERFKIT_SECRET=SECRET)
    assert run.stderr is not None
    line = run.stderr.readline()
    assert line.startswith("perfkit: waiting for 1 shards: perfkit shard --join 127.0.0.1:"), line
    address = line.split()[-1]
    wrong = command("shard", "--join", address, PERFKIT_SECRET="x" * 20)
    assert "refused this secret" in wrong.communicate(timeout=60)[1]
    right = command("shard", "--join", address, PERFKIT_SECRET=SECRET)
    assert right.communicate(timeout=120) == ("", "")
    said, complained = run.communicate(timeout=60)
    assert right.returncode == 0
    assert run.returncode in (0, 3), (said, complained)  # 3: the machine was busy
    (found,) = list_runs(tmp_path)
    assert (found.state, found.row_count()) == ("complete", 50)
    assert SECRET not in (found.path / "run.json").read_text() + said + complained


#: A host of its own as far as disks go: $0 is the folder of runs, $1 the size of its TMPDIR.
_DISKS = 'mount -t tmpfs none "$0" && mount -t tmpfs -o size="$1" none "$TMPDIR" || exit 1; shift; exec "$@"'


def test_a_shard_whose_disk_is_full_ends_the_run(server: SmallServer, tmp_path: Path) -> None:
    """Its host, the place and the way out are named, the other shard stops, `lost` says why; how late its
    steps were is not known without their rows, so the run is not
    called valid. What else was measured stays."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("unshare -m does not work here: a full disk of another host was not tested")
    (data := tmp_path / "data").mkdir()
    (temporary := tmp_path / "tmp").mkdir()
    given = ("run", "-q", "--scenario", "http_get", "--target", server.url, "--data-dir", str(data))
    load = ("--on", "join:2", "-s", "arrivals.rate_per_s=400", "-s", "arrivals.duration_s=120")
    run = command(*given, *load, PERFKIT_SECRET=SECRET)
    assert run.stderr is not None
    address = run.stderr.readline().split()[-1]
    join = [sys.executable, "-m", "perfkit.cli", "shard", "--join", address]
    environment = {**os.environ, "PERFKIT_SECRET": SECRET, "TMPDIR": str(temporary)}
    disks = ["unshare", "-m", "sh", "-c", _DISKS, str(data)]
    shards = [subprocess.Popen([*disks, size, *join], env=environment) for size in ("96k", "50m")]
    said, complained = run.communicate(timeout=100)  # of 120 s of load
    assert [one.wait(60) for one in shards] == [0, 0]
    (found,) = list_runs(data)
    full, whole = sorted(found.meta.raw["shards"], key=lambda one: one["lost"] is None)
    assert (found.state, run.returncode) == ("aborted", 1), (said, complained)
    for says in (complained, str(found.reason), full["lost"]):
        assert f"host {platform.node()}: cannot write {temporary}/perfkit-shard-" in says
        assert "No space left on device; free some space, or choose another place (TMPDIR on that" in says
    assert whole["lost"] is None
    assert whole["rows"] > 0
    assert found.meta.health.valid is None
    assert len(found.meta.health.workers) == 2


@contextmanager
def far_away(address: str, way_s: float) -> Iterator[str]:
    """The address of a relay to another, over which everything takes so long each way."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        late: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def deliver() -> None:
            with contextlib.suppress(OSError):
                while (item := late.get())[1]:
                    time.sleep(max(item[0] - time.monotonic(), 0))
                    target.sendall(item[1])
                target.shutdown(socket.SHUT_WR)

        threading.Thread(target=deliver, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                late.put((time.monotonic() + way_s, data))
        late.put((0.0, b""))

    def serve() -> None:
        with contextlib.suppress(OSError):
            here, _ = listening.accept()
            there = socket.create_connection((host, int(port)))
            opened.extend([here, there])
            for ends in ((here, there), (there, here)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    host, _, port = address.rpartition(":")
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    for one in opened:
        one.close()


def test_a_clock_20_ms_away_is_known_to_20_ms(server: SmallServer, tmp_path: Path) -> None:
    """Round trips of 40 ms bound the offset by half of that, and it is within: it is the same clock."""
    given = ("run", "-q", "--scenario", "http_get", "--target", server.url, "--data-dir", str(tmp_path))
    load = ("--on", "join:1", "-s", "arrivals.rate_per_s=50", "-s", "arrivals.duration_s=1")
    run = command(*given, *load, PERFKIT_SECRET=SECRET)
    assert run.stderr is not None
    with far_away(run.stderr.readline().split()[-1], 0.02) as address:
        shard = command("shard", "--join", address, PERFKIT_SECRET=SECRET)
        assert shard.communicate(timeout=120) == ("", "")
        said, complained = run.communicate(timeout=60)
    assert run.returncode in (0, 3), (said, complained)  # 3: the machine was busy
    (found,) = list_runs(tmp_path)
    (one,) = found.meta.raw["shards"]
    assert one["shortest_trip_ns"] >= 40_000_000
    assert abs(one["offset_ns"]) <= one["error_ns"] >= 20_000_000
    assert found.row_count() == 50


def test_ssh_starts_a_shard_on_each_host(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssh` is given the host and a command without a secret; its connection is the shard's."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        'case "$*" in *dead*) echo "ssh: no route" >&2; exit 255;; esac\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    spread = {"on": "ssh:one.example,two.example", "python": sys.executable}
    run = execute(*work(server, processes=1, spread=spread), data_dir=tmp_path)
    assert (run.state, run.row_count(), len(run.meta.raw["shards"])) == ("complete", 40, 2)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [" one.example " in calls[0], " two.example " in calls[1]] == [True, True]
    spread["on"] = "ssh:one.example,dead.example"
    with pytest.raises(PerfkitError, match=r"shard 1 on host dead\.example was lost: ssh: no route"):
        execute(*work(server, processes=1, spread=spread), data_dir=tmp_path / "dead")
    (dead,) = list_runs(tmp_path / "dead")
    assert (dead.state, dead.row_count()) == ("aborted", 0)


NO_PLACES_TO_LISTEN = ("xyz", "", ":7711", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "::1:7711", "a:-1")
NO_SCHEDULERS = (
    "",
    "foo",
    "tcp://",
    "tcp://head",
    "inproc://x",
    "tcp://head:x",
    "head:99999",
    "tcp://[::1:8786",
)


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("moon:3", "moon"),
        ("ssh:", "give ssh:HOST1,HOST2"),
        ("ssh:a,a", "a host is there twice"),
        ("ssh:-oProxyCommand=x", "give ssh:HOST1,HOST2"),
        ("ssh:a,b", "target.url is missing: the server that perfkit starts here"),
        *((f"dask:{one}", "give dask:tcp://HOST:8786") for one in NO_SCHEDULERS),
        ("join:0", "give join:N"),
        ("local:many", "give local:N"),
    ],
)
def test_a_place_that_is_none_is_refused(on: str, words: str) -> None:
    """Before there is a run; the message says what is allowed."""
    given = {"scenario": "http_get", "users": {"count": 2000, "iterations": 2000}, "spread": {"on": on}}
    with pytest.raises(BadInput, match=words):
        complete(given, "test")


@pytest.mark.parametrize(
    ("on", "listen", "words"),
    [
        *(("join:2", bad, "spread.listen .*: give HOST:PORT") for bad in NO_PLACES_TO_LISTEN),
        ("join:2", "127.0.0.1:0", ""),
        ("join:2", "[::1]:7711", ""),
        ("join:2", "head.example:7711", ""),
        ("local:2", "127.0.0.1:7711", "spread.listen is only for spread.on join:N: nobody connects on local"),
        ("ssh:a", "127.0.0.1:7711", "spread.listen is only for spread.on join:N"),
    ],
)
def test_where_shards_are_waited_for_is_checked_with_the_workload(on: str, listen: str, words: str) -> None:
    """Before setup has made anything, and only where shards are waited for."""
    spread = Spread(on=on, listen=listen)
    with pytest.raises(BadInput, match=words) if words else contextlib.nullcontext():
        assert processes_of(spread) == 2


def test_an_address_that_is_taken_is_found_before_setup(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no run, and no setup has run."""
    monkeypatch.setenv("PERFKIT_SECRET", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PerfkitError, match="cannot listen at"):
            execute(*work(server), data_dir=tmp_path, launcher=ByHand(address))
    assert not list_runs(tmp_path)


def test_local_is_another_word_for_processes() -> None:
    """A run on local:2 is one of two processes, and may be compared with it."""
    given = {"scenario": "http_get", "users": {"count": 2, "iterations": 2}}
    assert (
        complete({**given, "spread": {"on": "local:2"}}, "t")[0]
        == complete({**given, "processes": 2}, "t")[0]
    )
    with pytest.raises(BadInput, match=r"asks for 2, processes for 3; leave processes out"):
        complete({**given, "processes": 3, "spread": {"on": "local:2"}}, "t")


# -- calibration -----------------------------------------------------------------------------------


def test_calibration_says_what_one_process_gives() -> None:
    """Rates are tried in one run against a server that does nothing; each has its delays and its CPU."""
    tried = calibrate((50, 100), step_s=0.6)
    assert [one.rate_per_s for one in tried] in ([50, 100], [50])
    assert all(one.kickoff_ms >= 0 and one.queue_ms >= 0 for one in tried)


def test_what_is_made_of_a_calibration() -> None:
    """The highest rate below the first that was not within the budget, what that cost, and how many processes
    to use; where all were within it, more may be, and fewer processes may do."""
    tried = [Tried(100, 1, 1, 0.2), Tried(200, 3, 1, 0.4), Tried(400, 2, 9, 0.8), Tried(800, 12.34, 1, 0.95)]
    first, second = words(tried, Budget(), cores=4)
    assert first == ("one process gives about 400 small requests/s honestly "
                     "(at 800/s its delays at p99 are 12.3 ms and it takes 0.95 of a core)")  # fmt: skip
    assert "the rate you want / 400, rounded up; at most" in second
    assert second.endswith("at most 3 here (4 cores, one left for the rest)")
    assert "free some CPU" in words(tried[3:], Budget(), cores=4)[0]
    tried[1] = Tried(200, 30, 1, 0.4)
    first = words(tried, Budget(), cores=4)[0]
    assert first.startswith("one process gives about 100 small requests/s honestly (at 200/s its delays")
    first, second = words([*tried[:1], tried[2]], Budget(), cores=4)
    assert first == "one process gives at least 400 small requests/s honestly (more was not tried)"
    assert "the rate you want / 400, rounded up or fewer; at most 3 here" in second
