"""An event loop whose clock jumps to the next timer instead of waiting, and a transport without sockets."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perfkit.drive.transport import Exchange, Headers

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: time asked for passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll; when nothing is ready, let the clock jump."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the loop would sleep for ever: nothing is planned")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time; `time_ns` is what perfkit reads its instants from."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now

    def time_ns(self) -> int:
        """Virtual nanoseconds."""
        return round(self._jumping.now * 1e9)


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class FakeTransport:
    """Answers every request after `latency_s(number of the request)`; errors by script."""

    def __init__(
        self,
        latency_s: Callable[[int], float] = lambda i: 0.01,
        error: Callable[[int], str | None] = lambda i: None,
    ) -> None:
        self._latency_s, self._error = latency_s, error
        self.count = self.in_flight = self.most_in_flight = 0

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float, *, fresh: bool = False
    ) -> Exchange:
        """See `perfkit.drive.transport.Transport`."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        number, self.count = self.count, self.count + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        exchange = Exchange()
        exchange.sent = loop.time_ns()
        try:
            await asyncio.sleep(self._latency_s(number))
        finally:
            self.in_flight -= 1
        error = self._error(number)
        if error is not None:
            exchange.fail(error, "as the script says", loop.time_ns())
            return exchange
        exchange.status, exchange.body = 200, b'{"id": 1}'
        exchange.first_byte = exchange.done = loop.time_ns()
        return exchange

    async def close(self) -> None:
        """Nothing to close."""
