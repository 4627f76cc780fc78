"""A name with several addresses: all get load, one that does not answer holds nobody up for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from perfkit.drive.wire import addresses
from perfkit.drive.wire.addresses import Addresses


@contextlib.contextmanager
def listening(*hosts: str) -> Iterator[int]:
    """Listeners at one port of these addresses."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server((hosts[0], 0), backlog=50))
        port = first.getsockname()[1]
        for host in hosts[1:]:
            stack.enter_context(socket.create_server((host, port), backlog=50))
        yield port


def name_of(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> list[str]:
    """Give every name these addresses; the names that were asked for."""
    asked: list[str] = []

    def looked_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return asked


def connected(to: Addresses, times: int) -> Counter[str]:
    """Where so many connections went."""

    async def work() -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(times):
            with await to.connect(asyncio.get_running_loop()) as sock:
                found[sock.getpeername()[0]] += 1
        return found

    return asyncio.run(work())


def test_addresses_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three addresses: each gets a third of the connections; the name is looked up once."""
    asked = name_of(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    with listening("127.0.0.1", "127.0.0.2", "127.0.0.3") as port:
        found = connected(Addresses("many.test", port), 9)
    assert found == {"127.0.0.1": 3, "127.0.0.2": 3, "127.0.0.3": 3}
    assert asked == ["many.test"]


def test_a_dead_address_comes_last_until_the_next_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses, one swallows everything: the good ones get all of it, and only the first try waits."""
    asked = name_of(monkeypatch, "127.0.0.9", "127.0.0.1", "127.0.0.2")  # nobody listens at .9
    with listening("127.0.0.1", "127.0.0.2") as port:
        to = Addresses("some.test", port)
        assert connected(to, 20) == {"127.0.0.1": 10, "127.0.0.2": 10}
        monkeypatch.setattr(addresses, "_NAMES_S", 0.0)
        to = Addresses("some.test", port)
        assert sum(connected(to, 4).values()) == 4
    assert len(asked) == 1 + 4


def test_one_that_does_not_answer_holds_up_for_a_quarter_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog swallows the try: the next address is asked beside it."""
    name_of(monkeypatch, "127.0.0.4", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.4", 0), backlog=0))
        port = full.getsockname()[1]
        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.4", port))
        time.sleep(0.05)
        began = time.monotonic()
        assert connected(Addresses("slow.test", port), 4) == {"127.0.0.1": 4}
        assert time.monotonic() - began < 5


def test_where_nobody_answers_it_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses refuse."""
    name_of(monkeypatch, "127.0.0.8", "127.0.0.9")
    with pytest.raises(OSError, match="Connect call failed"):
        connected(Addresses("none.test", 9), 1)


def test_a_first_burst_takes_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve connections at once: the name is looked up once, and each of three addresses gets four. Where
    the look-up fails all of them are told, after one look-up."""
    asked = name_of(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")

    async def burst(to: Addresses) -> list[socket.socket | BaseException]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(to.connect(loop) for _ in range(12)), return_exceptions=True)

    found: Counter[str] = Counter()
    with listening("127.0.0.1", "127.0.0.2", "127.0.0.3") as port:
        for sock in asyncio.run(burst(Addresses("many.test", port))):
            assert isinstance(sock, socket.socket)
            with sock:
                found[sock.getpeername()[0]] += 1
    assert found == {"127.0.0.1": 4, "127.0.0.2": 4, "127.0.0.3": 4}
    assert asked == ["many.test"]

    def unknown(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    told = asyncio.run(burst(Addresses("none.test", 80)))
    assert all(isinstance(error, socket.gaierror) for error in told)
    assert asked == ["many.test", "none.test"]


def test_an_address_that_was_not_tried_is_not_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families alternate: a dead one hides neither the good ones of its family nor the other's."""
    hosts = ["127.0.0.9", "127.0.0.1", "127.0.0.2", "::1"]  # nobody listens at the first
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        stack.enter_context(socket.create_server(("127.0.0.2", port)))
        stack.enter_context(socket.create_server(("::1", port), family=socket.AF_INET6))

        def looked_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
            return [
                (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                 (one, port, 0, 0) if ":" in one else (one, port))
                for one in hosts
            ]  # fmt: skip

        monkeypatch.setattr(socket, "getaddrinfo", looked_up)
        found = connected(Addresses("many.test", port), 30)
    assert set(found) == {"127.0.0.1", "127.0.0.2", "::1"}
    assert min(found.values()) >= 6, found


def test_who_gives_up_takes_nobody_s_look_up_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two who wait is cancelled: the other one is connected, by the same look-up."""
    asked = name_of(monkeypatch, "127.0.0.1")

    async def work(port: int) -> None:
        to, loop = Addresses("many.test", port), asyncio.get_running_loop()
        first, second = (asyncio.ensure_future(to.connect(loop)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        (await second).close()
        assert first.cancelled()

    with listening("127.0.0.1") as port:
        asyncio.run(work(port))
    assert asked == ["many.test"]
