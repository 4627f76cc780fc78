"""One step of a scenario, each of its requests shown with its answer: does it do what it should?

Setup and teardown belong to it, as in a run; nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from perfkit.drive.describe import known_secrets
from perfkit.drive.journal import remove
from perfkit.drive.mistakes import words_with_await
from perfkit.drive.rows import NEVER, to_table
from perfkit.drive.running import Checked, target_of
from perfkit.drive.scenario import Member, Mix, members_of
from perfkit.drive.session import DataFiles, Session, Step
from perfkit.drive.session.response import decoded
from perfkit.drive.steps import StepRandom, no_request
from perfkit.drive.transport import Clock, Exchange, Headers, Transport, quote_path
from perfkit.drive.worker import RunContext, RunPart, make_recorder, run_on_loop
from perfkit.drive.workloads import tokens_of
from perfkit.errors import RequestFailed
from perfkit.redaction import STARS, Redactor, is_secret_name, masked, masked_text, secrets_in
from perfkit.text import harmless_prints, plain, plural, print_lines

Print = Callable[[str], None]
_BODY = 2_000  #: characters of a body that are shown
_HEADER = 300  #: characters of a header's value
_LOOKED_AT = 65_536  #: bytes of an answer's body that are decoded for it
_NOT_SET_UP = object()


@dataclass
class Kept:
    """What one step showed, for programs: requests with their answers, and what went wrong."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_once(work: Checked, stream: TextIO, kept: Kept | None = None) -> bool:
    """Carry out one step, with setup and teardown, and print each request; return whether all went well.

    Of a mix, one step of each of its scenarios, one after the other.

    It has not where a request failed, the scenario raised an exception, nothing was sent, or something it
    made was not removed. PerfkitError and KeyboardInterrupt are raised as in a run.
    kept: gets what is shown, and nothing is printed.
    """
    log = Kept() if kept is None else kept

    def show(line: str) -> None:  # what the scenario prints goes to standard error
        if kept is None:
            with contextlib.redirect_stdout(stream):
                print_lines(line)

    with target_of(work.workload, True) as aimed:
        tokens = tokens_of(aimed)
        secrets = known_secrets(aimed, work.params, tokens)
        members = members_of(work.scenario, work.params, aimed)
        context = RunContext(
            folder=Path("once"),
            workload=aimed,
            parts=tuple(RunPart(one.scenario.ref, one.name, one.workload) for one in members),
            origin_ns=time.monotonic_ns(),
            id_prefix=f"once{os.getpid():06x}-",
            token=tokens.target,
            proxy_auth=tokens.proxy,
            secrets=secrets,
        )
        with harmless_prints():
            went_well = True
            for member in members:
                if isinstance(work.scenario, Mix):
                    show(f"== {member.name}")
                went_well &= run_on_loop(_Once(member, context, show, log).carry_out())
            return went_well


class _Once:
    """The parts of one step and what went wrong in them."""

    def __init__(self, member: Member, context: RunContext, show: Print, log: Kept) -> None:
        self._name, self._log = member.name, log
        self._scenario, self._params, self._context, self._show = (
            member.scenario, member.params, context, show,
        )  # fmt: skip
        # what a replay sends is known before: its setup has nothing to return
        self._recording = self._scenario.recording(self._params, member.workload)
        self._problems: list[str] = []

    async def carry_out(self) -> bool:
        recorder = self._recorder = make_recorder(self._context, "once", first_seq=0)
        recorder.data = DataFiles(self._scenario.folder, recorder.seed, 0, 1)
        shown = self._shown = _Shown(
            recorder.transport, recorder.clock, recorder.redact, self._show, self._name, self._log
        )
        recorder.transport = shown
        state: Any = _NOT_SET_UP
        try:
            async with self._part("setup") as session:
                made = await self._scenario.setup(session, self._params)
                state = made if self._recording is None else self._recording
            if state is not _NOT_SET_UP:
                before = shown.requests
                async with self._part("step", phase="measure") as session:
                    shown.step = session.begin_step(0, recorder.clock())
                    await self._scenario.step(session, state, StepRandom(recorder.seed, 0))
                if shown.requests == before and not self._problems:
                    mistake, words = no_request(self._scenario)
                    self._problems.append(mistake.text(words))
            self._problems += self._failures()
        finally:
            async with self._part("teardown") as session:
                if state is not _NOT_SET_UP:
                    await self._scenario.teardown(session, state)
            removal = await remove(recorder, recorder.undo)
            self._problems += [f"not cleaned up on the target: {removal.told}"] if removal.told else []
            await recorder.transport.close()
        for problem in self._problems:
            self._show(f"FAILED: {problem}")
            self._log.problems.append(plain(problem))
        if not self._problems:
            self._show(f"ok: {plural(shown.requests, 'request')}, none failed")
        return not self._problems

    def _failures(self) -> list[str]:
        """What the rows of setup and the step say of requests that failed, one line each."""
        context, batch = self._context, self._recorder.buffer.take()
        table = to_table(batch, scenario="", worker=0, id_prefix="", origin_ns=context.origin_ns)
        rows = table.select(["operation", "status", "error", "error_text"]).to_pylist()
        failed = [row for row in rows if row["error"]]
        said = ((row, f" (status {row['status']})" if row["status"] else "") for row in failed)
        return [f"{row['operation']}: {row['error']}{status}: {row['error_text']}" for row, status in said]

    @contextlib.asynccontextmanager
    async def _part(self, name: str, phase: str = "") -> AsyncIterator[Session]:
        """Setup, the step or teardown; what it raises is told with its line, a failed request by its row."""
        session = Session(self._recorder, phase=phase or name)
        self._shown.part = name
        try:
            yield session
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except RequestFailed:
            return
        except BaseException as error:
            file = getattr(self._scenario.module, "__file__", None)
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
            where = f" (line {lines[-1]} of {Path(str(file)).name})" if lines else ""
            self._problems.append(session.redact(f"{name} raised {words_with_await(error)}{where}"))


class _Shown:
    """A transport that shows what it sends and what comes back."""

    def __init__(
        self, transport: Transport, clock: Clock, redact: Redactor, show: Print, scenario: str, log: Kept
    ) -> None:
        self._transport, self._clock, self._redact, self._show = transport, clock, redact, show
        self._scenario, self._log = scenario, log
        self.step = Step()  #: the one under way, which knows the secrets it was given
        self.part = self._told = ""  #: of the scenario: what is sent next belongs to it
        self.requests = 0

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float, *, fresh: bool = False
    ) -> Exchange:
        """See `Transport`."""
        fields = dict(line.split(": ", 1) for line in headers.split("\r\n") if line)
        secrets = secrets_in(fields)

        def hidden(text: str) -> str:
            return masked_text(self._redact(text, (*secrets, *self.step.secrets)))

        self.requests += 1
        if self.part != self._told:
            self._told = self.part
            self._show(f"-- {self.part}")
        where = hidden(quote_path(path))
        self._show(f"> {method} {where}")
        asked = self._tell(">", fields.items(), body, hidden)
        begun = self._clock()
        exchange = await self._transport.send(method, path, headers, body, timeout_s, fresh=fresh)
        status = hidden(
            f"{exchange.status}" if exchange.status else f"{exchange.error}: {exchange.error_text}"
        )
        self._show(f"< {status}  {_times(exchange, begun)}")
        answer = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in exchange.headers]
        answered = self._tell("<", answer, decoded(exchange, _LOOKED_AT), hidden)
        self._log.requests.append(
            {
                **{"scenario": self._scenario, "part": self.part, "method": method, "path": where, **asked},
                "answer": {
                    "status": exchange.status or None,
                    "error": None if exchange.status else status,
                    "total_ms": (exchange.done - begun) / 1e6,
                    **answered,
                },
            }
        )
        return exchange

    def _tell(
        self, sign: str, fields: Iterable[tuple[str, str]], body: bytes, hidden: Callable[[str], str]
    ) -> dict[str, Any]:
        """Show headers and body; return them as they are shown."""
        shown = [(name, STARS if is_secret_name(name) else hidden(value)) for name, value in fields]
        shown = [(name, f"{value[:_HEADER]}{'…' * (len(value) > _HEADER)}") for name, value in shown]
        lines = list(_lines(body, hidden))
        for name, value in shown:
            self._show(f"{sign} {name}: {value}")
        for line in lines:
            self._show(f"{sign}   {line}")
        return {"headers": shown, "body": "\n".join(lines)}

    async def close(self) -> None:
        """See `Transport`."""
        await self._transport.close()


def _times(exchange: Exchange, begun: int) -> str:
    """The times of an exchange, in ms, those that it has: each since the instant at which it began, as curl
    has them. The end of writing tells less: the answer may come before we hear of it."""
    parts = [f"connect {exchange.connecting / 1e6:.1f} ms"] if exchange.connecting else []
    if exchange.first_byte != NEVER:
        parts.append(f"first byte {(exchange.first_byte - begun) / 1e6:.1f} ms")
    return ", ".join([*parts, f"total {(exchange.done - begun) / 1e6:.1f} ms"])


def _lines(body: bytes, hidden: Callable[[str], str]) -> Iterator[str]:
    """A body as it is shown: JSON indented and masked, other text as lines, bytes as their number."""
    if not body:
        return
    try:
        text = body.decode(errors="ignore" if len(body) >= _LOOKED_AT else "strict")
    except UnicodeDecodeError:
        yield f"{len(body):,} bytes that are not text"
        return
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(_masked(json.loads(text)), indent=1, ensure_ascii=False)
    text = hidden(text)
    more = f"… ({len(text):,} characters)" if len(text) > _BODY else ""
    yield from f"{text[:_BODY]}{more}".splitlines()


def _masked(given: Any) -> Any:
    """A JSON value without the values of secret names."""
    return masked(given) if isinstance(given, Mapping | list) else given
