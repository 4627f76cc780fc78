"""The rules both transports share: events, Server-Timing, URLs, paths, header lines."""

from __future__ import annotations

import itertools
import math
import re
import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perfkit.drive.session import Response
from perfkit.drive.transport import (
    Exchange,
    header_lines,
    is_event_stream,
    os_words,
    quote_path,
    server_timing,
    split_url,
)
from perfkit.drive.via_httpx import HttpxTransport
from perfkit.drive.wire import WireTransport
from perfkit.errors import BadInput
from perfkit.model import Target
from perfkit.streams import Events, plain, read


def reference_events(stream: bytes) -> list[bytes]:
    """WHATWG HTML 9.2.6, word by word, on the whole stream at once."""
    found, data = [], None
    *lines, _ = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        name, _, value = line.partition(b":")
        if not line:
            if data is not None:
                found.append(b"\n".join(data))
            data = None
        elif name == b"data":
            data = [*(data or []), value.removeprefix(b" ")]
    return found


PIECES = [b"data", b"data:", b"data: x", b"datax: y", b":", b": ping", b"id: 1", b"event: data", b" data: z"]
streams = st.lists(st.sampled_from([*PIECES, b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"]), max_size=30)


@given(pieces=streams, cuts=st.lists(st.integers(0, 200), max_size=8))
@example(pieces=[b"data: x", b"\r\n\r\n", b"data: y", b"\r", b"\n\n"], cuts=[8, 9, 10, 11, 12])
@example(pieces=[b"data: x", b"\r", b"\n", b"\r", b"\n"], cuts=[8, 10])
def test_events_do_not_depend_on_packets(pieces: list[bytes], cuts: list[int]) -> None:
    """However a stream is cut into packets, the same events are found as the standard's parser finds in the
    whole; each at the packet that completed it, and as many as `Response.events` gives the scenario."""
    stream = b"".join(pieces)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    events = Events()
    for now, (start, end) in enumerate(itertools.pairwise(edges), 1):
        events.feed(stream[start:end], now)
        # what a prefix holds is known with its last byte, no packet later
        assert len(events.seen) == len(reference_events(stream[:end]))
    expected = reference_events(stream)
    assert len(events.seen) == len(expected)
    assert [event.at for event in events.seen] == sorted(event.at for event in events.seen)
    exchange = Exchange()
    exchange.body = stream
    assert Response(exchange, "GET", "/").events() == [event.decode() for event in expected]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_are_a_stream(packets: list[bytes]) -> None:
    """Nothing a server sends as events raises."""
    events = Events()
    for packet in packets:
        events.feed(packet, 5)
    assert len(events.seen) <= sum(len(packet) for packet in packets)


def test_a_large_event_in_small_packets_costs_no_more_than_its_size() -> None:
    """The time for one long event grows with its length, not with its square."""

    def cost(packets: int) -> float:
        events, data = Events(), b"x" * 2000
        events.feed(b"data: ", 1)
        began = time.perf_counter()
        for _ in range(packets):
            events.feed(data, 1)
        return time.perf_counter() - began

    cost(100)
    assert min(cost(8000) for _ in range(3)) < 20 * min(cost(1000) for _ in range(3))


def test_instants_count_from_sent_and_fit_their_column() -> None:
    """Microseconds since `sent`; without `sent` there are none; a stream of hours stays an int32."""
    events = Events()
    for now in (3_000_000, 5_000_000, 10**13):
        events.feed(b"data: x\n\n", now)
    assert read(events.seen, 1_000_000, plain).chunks == [2000, 4000, 2**31 - 1]
    assert read(events.seen, None, plain).chunks == []


@pytest.mark.parametrize(
    ("value", "is_stream"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"text/event-strea", False),
        (b"application/json", False),
    ],
)
def test_what_is_an_event_stream(value: bytes, is_stream: bool) -> None:
    """The content type says so, in any case of letters, with or without parameters."""
    assert is_event_stream([(b"server", b"x"), (b"content-type", value)]) is is_stream
    assert not is_event_stream([])


# -- Server-Timing ---------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=5))
@example([b'a;desc="'])
@example([b"a;dur=1e999, b;dur=nan, c;dur=-inf"])
@example([",".join(f"m{i};dur={i}" for i in range(100)).encode()])
def test_server_timing_never_raises(values: list[bytes]) -> None:
    """Any bytes give None or finite numbers under names fit for a column, at most 32."""
    found = server_timing([(b"server-timing", value) for value in values])
    if found is not None:
        assert 0 < len(found) <= 32
        assert all(math.isfinite(value) for value in found.values())
        assert all(re.fullmatch(r"[a-z0-9_]{1,40}", name) for name in found)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"db;dur=5.5", {"db": 5.5}),
        (b"db;dur=5;dur=6", {"db": 5.0}),
        (b'db;desc="a, b;dur=7";dur=2, app;dur=3', {"db": 2.0, "app": 3.0}),
        (b'db;desc="say \\"hi\\", you";dur=2', {"db": 2.0}),
        (b'cache;desc=hit, db-wait;dur="1.5"', {"db_wait": 1.5}),
        (b" DB ; DUR = 4 ", {"db": 4.0}),
        (b"db;dur=, app;dur=x, ;dur=1", None),
        (b"miss", None),
        (b"", None),
    ],
)
def test_server_timing_is_read_as_the_standard_says(value: bytes, found: dict[str, float] | None) -> None:
    """Names, commas in quoted descriptions, the first duration of several; the malformed is left out."""
    assert server_timing([(b"date", b"db;dur=1"), (b"server-timing", value)]) == found


# -- URLs, paths, headers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "localhost:8283",
        "127.0.0.1",
        "ftp://host",
        "http://",
        "http:///path",
        "http://host:0",
        "http://host:99999",
        "http://host:port",
        "http://[::1",
        "http://ho st",
        "http://host\r\nx: y",
        "http://host/a b",
        "http://" + "a" * 64 + ".example",
        "http://a..b",
        "http://hôst",
        "http://host/?x=1",
        "http://host?",
        "http://host/#part",
        "http://host\\x",
    ],
)
def test_an_unusable_url_is_refused(url: str | None) -> None:
    """One line that shows what was given and what a usable URL looks like, from both transports."""
    for use in (split_url, WireTransport, HttpxTransport):
        with pytest.raises(BadInput, match="target url") as refused:
            use(Target(url=url))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@host", "http://hunter2@host:99999/x", "https://:hunter2@h"]
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    """User and password belong into the environment; the message does not show them."""
    with pytest.raises(BadInput, match="token_env") as refused:
        split_url(Target(url=url))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "https://h:443/base/", "http://[::1]:8283", "http://my_host.local:80", "HTTP://H"],
)
def test_usable_urls(url: str) -> None:
    """Names, ports, IPv6 addresses, a base path."""
    assert split_url(Target(url=url)).hostname


@given(st.text(max_size=40))
@example('/a b"<>\\^`{|}#ä☃')
@example("/100%/%41")
def test_paths_are_quoted_once_and_without_loss(text: str) -> None:
    """A quoted path is ASCII without spaces, stays as it is when quoted again, and means the same bytes."""
    try:
        quoted = quote_path("/" + text)
    except ValueError:
        assert re.search(r"[\0-\x1f\x7f\ud800-\udfff]", text)
        return
    assert re.fullmatch(r"[!-~]+", quoted)
    assert quote_path(quoted) == quoted
    assert unquote_to_bytes(quoted) == unquote_to_bytes("/" + text)


names = st.text("abX-_:\r\n \0é", max_size=8) | st.sampled_from(["host", "Host", "Content-Length", "te"])


@given(st.dictionaries(names, st.text("a\t\r\n\0\x7fé☃: ", max_size=8), max_size=4))
@example({"a: b\r\nc": "d"})
@example({"a": "b\r\nc: d"})
def test_header_lines_are_what_was_given_or_refused(headers: dict[str, str]) -> None:
    """What passes reads back as exactly the given headers and one host; the rest is a ValueError."""
    try:
        lines = header_lines(headers.items(), "h:1")
    except ValueError:
        bad = re.compile(r"[\r\n\0\x7f☃]|[^\t -~é]")
        framing = {"content-length", "transfer-encoding"}
        assert any(
            name.lower() in framing or not re.fullmatch(r"[abX_-]+|host|Host|te", name) or bad.search(value)
            for name, value in headers.items()
        )
        return
    read = [tuple(line.split(": ", 1)) for line in lines.split("\r\n")[:-1]]
    assert len(read) == lines.count("\n") == lines.count("\r")
    own = [] if any(name.lower() == "host" for name in headers) else [("host", "h:1")]
    assert read == [*own, *headers.items()]
    assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name in headers)
    assert not {name.lower() for name in headers} & {"content-length", "transfer-encoding"}
    lines.encode("latin-1")


def test_a_reset_without_words() -> None:
    """No colon before nothing; a reset of what should be TLS asks whether it is."""
    words = {url: os_words(ConnectionResetError(), Target(url=url)) for url in ("http://x", "https://x")}
    assert words["http://x"] == "ConnectionResetError"
    assert words["https://x"] == "ConnectionResetError; does this port speak https?"
