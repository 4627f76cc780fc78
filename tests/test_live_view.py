"""What workers count for those who watch, and how a terminal or a log shows it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perfkit.drive import live_view, tally
from perfkit.drive.live_view import Block, Line, State, line_of, lines_of, wrapped
from perfkit.drive.progress import Goal, Seen, Window
from perfkit.drive.rows import ERROR_CODE, NEVER, Extra, RowBuffer, pack_row
from perfkit.drive.running import checked, run_repeats
from perfkit.drive.tally import BINS, Failures, Snapshot, Status, Tally, quantile_ms
from perfkit.model import Budget
from perfkit.store import Run, list_runs
from perfkit.text import cells, clipped, plain
from tests.hand_made import S
from tests.kill_runs import GONE_S, ROOT
from tests.small_server import SmallServer, small_server
from tests.test_text import EVERYTHING, FORBIDDEN

MS = 10**6
#: How the block moves on a terminal; nothing else may come out that does not print.
MOVES = re.compile(r"\r|\n|\x1b\[(?:\d*A|[KJ]|(?:0|1|2|31)m)")


def add(
    buffer: RowBuffer, done: int, took: int, error: str | None = None, words: str = "", step: int = 0
) -> None:
    """One request that ended at `done` after `took`, ns."""
    planned = done - took
    instants = (*[planned] * 5, done)
    record = pack_row(*instants, 0, step, 0, 0, 0, 200, 0, 0, 2, ERROR_CODE[error], 1)
    buffer.add(record, Extra(words, None, None) if error else None)


def folder_with(tmp_path: Path, load_started_ns: int = 0) -> Run:
    """A run folder that workers may report to."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "run.json").write_text(f'{{"state": "running", "load_started_ns": {load_started_ns}}}')
    return Run(tmp_path)


# -- what is counted -------------------------------------------------------------------------------


def test_quantiles_of_bins_are_within_a_few_per_cent() -> None:
    """Latencies from 3 us to 20 min: quantiles of the bins are within 1.1 % of those of the values."""
    for seed, scale in enumerate((0.003, 1.0, 70.0, 1.2e6)):
        values = np.random.default_rng(seed).gamma(2.0, scale / 2, 5000) + 0.003
        counts = np.bincount((np.log2(values * 1e3) * tally.PER_OCTAVE).astype(int), minlength=BINS)
        for p in (0.5, 0.95, 0.99):
            exact = np.quantile(values, p, method="inverted_cdf")
            assert quantile_ms(counts, p) == pytest.approx(exact, rel=0.0115)


def test_what_timed_out_is_slower_than_anything() -> None:
    """As in thresholds: a quantile that falls among what timed out is beyond every limit; of nothing, NaN."""
    counts = np.zeros(BINS, np.int64)
    assert math.isnan(quantile_ms(counts, 0.5))
    assert quantile_ms(counts, 0.5, beyond=1) == math.inf
    counts[300] = 90
    assert quantile_ms(counts, 0.5, beyond=10) == quantile_ms(counts, 0.5)
    assert quantile_ms(counts, 0.95, beyond=10) == math.inf


def test_a_worker_counts_its_rows(tmp_path: Path) -> None:
    """Requests, failures by class with the first words, who timed out, steps; all since the load began."""
    run, buffer = folder_with(tmp_path), RowBuffer()
    one = Tally(tmp_path, "w0", origin_ns=S)
    for i in range(100):
        add(buffer, 2 * S + i * MS, 10 * MS, step=i)
    add(buffer, 3 * S, MS, "http_5xx", "busy")
    add(buffer, 3 * S, MS, "http_5xx", "later")
    one.add(buffer.take())
    add(buffer, 4 * S, 2 * S, "timeout")
    one.add(buffer.take())
    one.add(buffer.take())
    one.tell(Status(6 * S, 7, 0.5, 3.0))
    told = tally.read(run.path / "segments" / "w0.live")
    assert told is not None
    assert (told.rows, told.failed, told.censored, told.steps, told.in_flight) == (103, 3, 1, 100, 7)
    assert told.failures == {"http_5xx": Failures(2, "busy"), "timeout": Failures(1, "")}
    assert (told.at_ns, told.done_ns, told.started_ns) == (5 * S, 3 * S, 2 * S - MS)
    assert int(told.histogram().sum()) == 100
    assert (told.first_second, told.ended) == (1, [100, 2, 1])
    assert os.listdir(tmp_path / "segments") == ["w0.live"]


def test_a_request_that_never_ended_is_counted(tmp_path: Path) -> None:
    """One cut off before anything came of it has no end: it is a failure, and no second's."""
    one, buffer = Tally(tmp_path, "w0", 0), RowBuffer()
    folder_with(tmp_path)
    buffer.add(pack_row(S, S, *[NEVER] * 4, *[0] * 8, 2, ERROR_CODE["cutoff"], 1), None)
    one.add(buffer.take())
    one.tell(Status(2 * S))
    told = tally.read(tmp_path / "segments" / "w0.live")
    assert told is not None
    assert (told.rows, told.failed, told.censored, told.ended) == (1, 1, 1, [0])


def tell(run: Run, name: str, at_s: float, rows: int, bin_: int = 300, **more: Any) -> None:
    """What a worker might report of so many requests: those that did not fail are all in one bin."""
    good = rows - more.get("failed", 0)
    found = Snapshot(at_ns=int(at_s * S), rows=rows, first_bin=bin_, counts=[good], **more)
    (run.path / "segments" / f"{name}.new").write_bytes(msgspec.json.encode(found))
    os.replace(run.path / "segments" / f"{name}.new", run.path / "segments" / f"{name}.live")


def test_the_last_seconds_are_a_difference(tmp_path: Path) -> None:
    """Of two workers together: what both reported now, without what they had reported five seconds before."""
    run, seen = folder_with(tmp_path, load_started_ns=S), Seen()
    for second in range(1, 21):
        tell(run, "w0", 1 + second, 100 * second, in_flight=3, cpu_share=0.1)
        tell(run, "w1", 1 + second, 50 * second, in_flight=4, lag_ms=2.0)
        assert seen.look(run)
        assert not seen.look(run)  # nothing is new
    window = seen.window(5.0)
    assert (seen.at_s, window.span_s, window.rows) == (20.0, 5.0, 750)
    assert seen.recent(5.0).rate_per_s == 150.0
    assert (seen.rows, seen.in_flight, seen.cpu_share, seen.lag_ms) == (3000, 7, 0.1, 2.0)
    assert seen.window(100.0).rows == 3000
    assert Seen().window(5.0).rows == 0


def test_a_report_that_is_damaged_is_not_read(tmp_path: Path) -> None:
    """Whatever lies where a worker reports, the view goes on with what it had."""
    run, seen = folder_with(tmp_path), Seen()
    tell(run, "w0", 1, 10)
    assert seen.look(run)
    (tmp_path / "segments" / "w0.live").write_text("{")
    (tmp_path / "segments" / "w1.live").mkdir()
    assert not seen.look(run)
    assert seen.rows == 10


# -- how it is shown -------------------------------------------------------------------------------


def state_of(run: Run, **more: Any) -> State:
    """A run in its tenth second, with failures whose words are hostile."""
    seen = Seen()
    words = Failures(3, f"{EVERYTHING} 世界 {'long ' * 40}")
    tell(run, "w0", 10, 12_345, in_flight=50, failed=3, failures={"http_5xx": words}, cpu_share=0.3)
    seen.look(run)
    return State("http_get 1/3", Goal(60.0, False), Budget(), seen, 10.0, **more)


@pytest.mark.parametrize("width", [40, 57, 80, 120, 200])
def test_the_block_fits_its_window(tmp_path: Path, width: int) -> None:
    """No line is wider than the window, whatever a server says; nothing in it acts; nothing is lost but the
    ends of words that are too long."""
    for stopping in ("", plain(EVERYTHING, most=300)):
        folder = tmp_path / f"at{len(stopping)}"
        folder.mkdir()
        lines = [
            one
            for line in lines_of(state_of(folder_with(folder), stopping=stopping))
            for one in wrapped(line, width)
        ]
        text = "\n".join(words for words, _ in lines)
        assert max(cells(words) for words, _ in lines) <= width
        assert not FORBIDDEN.search(text.replace("\n", ""))
        for part in (
            "http_get 1/3",
            "10 s of 1:00",
            "p99",
            "50 in flight",
            "3 × http_5xx: ",
            "30% of a core",
        ):
            assert part in text
        assert ("stopping: " in text) == bool(stopping)


def test_a_line_of_a_log(tmp_path: Path) -> None:
    """One line that prints: how far, the last seconds, failures, the generator; and why it stops."""
    line = line_of(state_of(folder_with(tmp_path), stopping="interrupted"))
    assert not FORBIDDEN.search(line)
    assert line.startswith("http_get 1/3: stopping: interrupted; 10 s of 1:00, 1,234/s, p50 ")
    assert "12,345 requests, 3 failed (0.0243 %), 3 × http_5xx: " in line
    assert line.endswith("generator ok: 30% of a core, woke up 0.0 ms late")


def test_steps_that_raise_are_shown(tmp_path: Path) -> None:
    """How many of all workers, and the first words of the worker with most of them, in line and block."""
    run, seen = folder_with(tmp_path), Seen()
    tell(run, "w0", 1, 0, raised=1, mistake="KeyError: 'x' (mine.py:2)")
    tell(run, "w1", 1, 0, raised=1_200, mistake=f"ValueError: {EVERYTHING} (mine.py:3)")
    seen.look(run)
    state = State("x", Goal(60, False), Budget(), seen, 1.0)
    assert "0 requests, 0 failed, 1,201 steps raised: ValueError: " in line_of(state)
    (words,) = [line.parts[0] for line in lines_of(state) if "raised" in line.parts[0]]
    assert words.startswith("  1,201 steps raised: ValueError: ")
    assert not FORBIDDEN.search(words)
    tell(run, "w1", 2, 0, raised=1_200, mistake="a step made no request through session")
    seen.look(run)
    assert "1,201 steps broke: a step made no request through session" in line_of(state)


def test_a_rate_on_the_terminal_is_of_successes(tmp_path: Path) -> None:
    """/s means successes in the view, in a log, in the summary and in thresholds."""
    run, seen = folder_with(tmp_path), Seen()
    tell(run, "w0", 10, 600, failed=210)
    seen.look(run)
    state = State("x", Goal(60.0, False), Budget(), seen, 10.0)
    assert ", 39/s, p50 " in line_of(state)
    assert all("39/s" in line.parts for line in lines_of(state)[1:3])


@pytest.mark.parametrize(
    ("goal", "now_s", "words"),
    [
        (Goal(60, False), 0.0, "setting up"),
        (Goal(7200, False), 75.0, "1:15 of 2:00:00, 1:58:45 left"),
        (Goal(60, False), 62.0, "1:00 of 1:00, waiting for the last responses and cleaning up"),
        (Goal(400, True), 10.0, "100 of 400 steps, about 30 s left"),
    ],
)
def test_how_far_it_is(tmp_path: Path, goal: Goal, now_s: float, words: str) -> None:
    """Seconds or steps, and what is left of them."""
    run, seen = folder_with(tmp_path), Seen()
    tell(run, "w0", 1, 100, steps=100)
    seen.look(run)
    assert words in line_of(State("x", goal, Budget(), seen, now_s))


def test_the_generator_is_held_against_its_budget(tmp_path: Path) -> None:
    """Over its share of a core, or later than its budget allows beside such responses: the view says so."""
    run = folder_with(tmp_path)
    for cpu, lag, bin_, words in ((0.5, 5.0, 300, "ok:"), (0.95, 0.0, 300, "over"), (0.1, 15.0, 300, "over"),
                                  (0.1, 15.0, 600, "ok:")):  # fmt: skip
        seen = Seen()
        tell(run, "w0", 1, 100, bin_=bin_, cpu_share=cpu, lag_ms=lag)
        seen.look(run)
        assert f"generator {words}" in line_of(State("x", Goal(60, False), Budget(), seen, 1.0))


def screen(got: str, columns: int) -> list[str]:
    """What a terminal of this width shows of a text, with the sequences the block uses."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[\d*[AKJm]|.|\n", got, re.DOTALL):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.endswith("A") and len(token) > 1:
            row = max(0, row - int(token[2:-1] or 1))
        elif token == "\x1b[K":
            lines[row] = lines[row][:column]
        elif token == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        elif not token.startswith("\x1b"):
            assert column < columns, f"{lines[row]!r} is too wide"
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return lines


class Terminal(io.StringIO):
    """A terminal of a size that may change."""

    encoding = "utf-8"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.size = os.terminal_size((60, 20))
        monkeypatch.setattr(live_view, "_size", lambda stream: self.size)


def test_a_block_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """More lines, fewer, none: only the latest are there, below what was printed before."""
    terminal = Terminal(monkeypatch)
    terminal.write("before\n")
    block = Block(terminal)
    for words in (["one"], ["one", "two" * 40, "three"], ["four"]):
        block.draw([Line((one,)) for one in words])
        shown = screen(terminal.getvalue(), 60)
        assert [one.rstrip() for one in shown] == ["before", *(clipped(one, 59) for one in words), ""]
    block.draw(())
    assert screen(terminal.getvalue(), 60) == ["before", ""]


def test_a_window_that_became_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal has wrapped what stood there, 50 cells in 20 columns, into 3 lines: all are replaced."""
    terminal = Terminal(monkeypatch)
    block = Block(terminal)
    block.draw([Line(("x" * 50,)), Line(("y",))])
    terminal.size = os.terminal_size((20, 5))
    before = len(terminal.getvalue())
    block.draw([Line((str(i),)) for i in range(9)])
    after = terminal.getvalue()[before:]
    assert after.startswith("\r\x1b[4A")
    assert screen(after.removeprefix("\r\x1b[4A"), 20) == ["0", "1", "2", "3", ""]  # it has five rows


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR nothing is coloured or bold; without, what is bad is red."""
    for value, wanted in (("", "\x1b[31mbad\x1b[0m"), ("1", "bad\x1b[K")):
        monkeypatch.setenv("NO_COLOR", value)
        terminal = Terminal(monkeypatch)
        Block(terminal).draw([Line(("bad",), "31")])
        assert wanted in terminal.getvalue()


def test_cells() -> None:
    """Wide characters take two cells, accents none; what is cut ends in an ellipsis and fits."""
    assert (cells("abc"), cells("世界"), cells("e\u0301")) == (3, 4, 1)
    assert (clipped("世界", 4), clipped("世界人", 4), clipped("abcdef", 3)) == ("世界", "世…", "ab…")


def test_windows_add_up() -> None:
    """Rate over the span, quantiles of the successes."""
    counts = np.zeros(BINS, np.int64)
    counts[320] = 8
    one = Window(2.0, 10, 2, 0, counts).numbers()
    assert (one.rate_per_s, one.ok_per_s) == (5.0, 4.0)
    assert one.p50_ms == one.p99_ms == pytest.approx(1.0244 * 1.024, rel=0.02)


# -- on a real terminal ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


class OnTerminal:
    """`perfkit run` on a terminal of its own, whose size can change and whose keys can be pressed."""

    def __init__(self, columns: int, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns)
        self.text = ""
        attach = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        attach += "os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", attach, sys.executable, "-m", "perfkit.cli", "run", *arguments]
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment}
        environ.pop("COLUMNS", None)
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self.process = subprocess.Popen(command, env=environ, start_new_session=True, **streams)
        os.close(slave)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def read(self, until: Callable[[str], bool], within_s: float = 2 * GONE_S) -> str:
        """Read until what came fulfils something, or all has ended; what came since the last call."""
        deadline, came = time.monotonic() + within_s, ""
        while not until(came) and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    came += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # so Linux says that the other side is closed
                    break
        self.text += came
        return came

    def close(self) -> int:
        """The exit code of the program, which is ended where it did not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GONE_S)
        self.process.kill()
        os.close(self._master)
        return self.process.wait()


def load(server: SmallServer, data: Path, *more: str) -> list[str]:
    """Options of a run that fails now and then."""
    given = ("users.count=3", "users.duration_s=120", "users.think_time_s=0.01", *more)
    sets = [word for one in given for word in ("-s", one)]
    return ["--scenario", "http_get", "--target", server.url, "--data-dir", str(data), *sets]


@pytest.mark.slow
def test_a_run_on_a_terminal(server: SmallServer, tmp_path: Path) -> None:
    """A block that updates, in a window of 80 columns and then of 40; Ctrl-C once is said on it, the run is
    closed, the block is gone and the first line below is the verdict's."""
    one = OnTerminal(80, *load(server, tmp_path), "-p", "path=/status/500", NO_COLOR="1")
    try:
        wide = one.read(lambda came: "× http_5xx: " in came)
        assert max(cells(MOVES.sub("", line)) for line in wide.split("\n")) > 40
        one.resize(40)
        one.read(lambda came: came.count("since start") > 1)
        narrow = one.read(lambda came: came.count("since start") > 1)
        assert max(cells(MOVES.sub("", line)) for line in narrow.split("\n")[1:]) < 40
        one.press(b"\x03")
        one.read(lambda came: False)
    finally:
        code = one.close()
    (run,) = list_runs(tmp_path)
    assert (code, run.reason) == (130, "interrupted")
    assert "stopping: interrupted" in one.text
    assert not FORBIDDEN.search(MOVES.sub("", one.text.replace("^C", "")))
    assert "\x1b[31m" not in one.text
    last = screen(one.text.rpartition("\x1b[J")[2], 10**6)
    assert last[0].startswith(f"run {run.id}: aborted (interrupted)")
    assert any(line.startswith("  next: perfkit report ") for line in last)


def test_where_there_is_a_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a terminal that can move its cursor; not on a dumb one, on one of no known kind, in a file."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, (tmp_path / "log").open("w") as log:
        kinds = ("xterm", terminal, True), ("dumb", terminal, False), ("xterm", log, False)
        for kind, stream, wanted in kinds:
            monkeypatch.setenv("TERM", kind)
            assert (live_view._block_for(stream) is not None) == wanted
        monkeypatch.delenv("TERM")
        assert live_view._block_for(terminal) is None
    os.close(master)
    assert live_view._block_for(terminal) is None  # it is closed


@pytest.mark.slow
def test_a_log_gets_a_line_every_so_often(
    server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: plain lines at the interval, nothing that a log cannot hold."""
    monkeypatch.setattr(live_view, "PRINTED_S", 0.4)
    users = {"count": 2, "duration_s": 1.6, "think_time_s": 0.01}
    given = {"scenario": "http_get", "target": {"url": server.url}, "users": users}
    run_repeats(checked(given, "test", ()), tmp_path, show_progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("http_get: ") and not FORBIDDEN.search(line) for line in lines)
    assert re.search(r"\d/s, p50 .* in flight, [\d,]+ requests, 0 failed, generator ", lines[-1])
