"""What a hostile server does to a request, some 250 ways, and what the row of the request has to say.

Each is a script: pieces of bytes that travel one by one, and how it ends. `{id}` stands for what the request
asked for, so that an answer to the wrong request is seen. Right is what RFC 9110 and 9112 say, and where they
leave it open what curl does.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tests.fault_server import chunk

End = Literal["keep", "close", "reset", "hang"]

#: Long enough that the id's place inside does not matter, short enough for one packet.
_ID = b"{id}" + b"." * 60


@dataclass(frozen=True)
class Behaviour:
    """name: of the row's operation; right: classes its row may have, `ok` for none, of `wire` and of `httpx`;
    answers: whether the body, where all is well, holds the id."""

    name: str
    pieces: tuple[bytes, ...]
    end: End
    wire: frozenset[str]
    httpx: frozenset[str]
    answers: bool = True
    late: bool = False  #: something comes after the answer, when the next request may be on its way


def behaviours() -> list[Behaviour]:
    """All of them, each name once."""
    kinds = (
        _statuses,
        _framings,
        _cuts,
        _lengths,
        _chunks,
        _heads,
        _odd_heads,
        _versions,
        _interim,
        _strays,
        _codings,
    )
    found = [one for kind in (*kinds, _streams) for one in kind()]
    names = [one.name for one in found]
    assert len(names) == len(set(names)), "two behaviours of one name"
    return found


def _of(name: str, *pieces: bytes, right: str = "ok", httpx: str = "", end: End = "keep", answers: bool = True
        ) -> Behaviour:  # fmt: skip
    """right: classes separated by blanks; httpx: of that transport, where they are others."""
    wire = frozenset(right.split())
    return Behaviour(name, pieces, end, wire, frozenset(httpx.split()) or wire, answers and "ok" in wire)


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"HTTP/1.1") -> bytes:
    """A response head."""
    return b"\r\n".join([version + b" " + status, *lines, b"", b""])


def sized(body: bytes, *lines: bytes, **given: bytes) -> bytes:
    """A response with its Content-Length; the id in it is as long as its placeholder."""
    return head(*lines, b"content-length: %d" % len(body), **given) + body


CHUNKED = b"transfer-encoding: chunked"
EVENTS = b"content-type: text/event-stream"
OK = sized(_ID)


def _statuses() -> Iterator[Behaviour]:
    """Each status says by itself how the request went; redirects are not followed here."""
    codes = (
        *range(200, 209),
        226,
        *range(300, 309),
        *range(400, 419),
        421,
        422,
        423,
        424,
        425,
        426,
        428,
        429,
    )
    for code in (*codes, 431, 451, 499, *range(500, 512), 520, 529, 599):
        right = "ok" if code < 400 else "http_4xx" if code < 500 else "http_5xx"
        right = (
            "check" if code in (301, 302, 303, 307, 308) else right
        )  # without a location, and switched off
        bare = code in (204, 304)
        answer = head(status=b"%d Status" % code) if bare else sized(_ID, status=b"%d Status" % code)
        yield _of(f"status-{code}", answer, right=right, answers=not bare)
    yield _of("status-no-reason", sized(_ID, status=b"200"))
    yield _of("status-blank-reason", sized(_ID, status=b"200 "))
    yield _of("status-long-reason", sized(_ID, status=b"200 " + b"y" * 2000))
    yield _of("status-latin1-reason", sized(_ID, status="200 schön".encode("latin-1")))
    for name, status in (
        ("2-digits", b"20 OK"),
        ("letters", b"2OO OK"),
        ("negative", b"-200 OK"),
        ("none", b""),
    ):
        yield _of(f"status-{name}", sized(_ID, status=status), right="protocol")
    yield _of("status-000", sized(_ID, status=b"000 OK"), right="protocol")
    yield _of("status-999", sized(_ID, status=b"999 OK"), right="protocol http_5xx")


def _framings() -> Iterator[Behaviour]:
    """The ways a body can end."""
    yield _of("framed-length", OK)
    yield _of("framed-chunks", head(CHUNKED) + chunk(_ID) + chunk(b""))
    yield _of("framed-close", head() + _ID, end="close")
    yield _of("framed-close-said", head(b"connection: close") + _ID, end="close")
    yield _of("framed-reset", head() + _ID, end="reset", right="reset")
    yield _of("framed-never", head() + _ID, end="hang", right="timeout")
    yield _of("framed-http10", head(version=b"HTTP/1.0") + _ID, end="close")
    yield _of("framed-http10-length", sized(_ID, version=b"HTTP/1.0"), end="close")
    yield _of("framed-http10-kept", sized(_ID, b"connection: keep-alive", version=b"HTTP/1.0"))
    yield _of("framed-empty", sized(b""), answers=False)
    yield _of("framed-empty-chunks", head(CHUNKED) + chunk(b""), answers=False)
    yield _of("framed-empty-close", head(), end="close", answers=False)
    yield _of("framed-close-unsaid", OK, end="close")
    yield _of("framed-reset-after", OK, end="reset", right="ok reset")
    yield _of("framed-close-said-kept", sized(_ID, b"connection: close"))
    yield _of("framed-large", sized(_ID + b"x" * 700_000))
    yield _of("framed-large-chunks", head(CHUNKED) + chunk(_ID) + chunk(b"x" * 70_000) * 10 + chunk(b""))
    yield _of("framed-many-chunks", head(CHUNKED) + chunk(_ID) + chunk(b"y") * 5000 + chunk(b""))
    yield _of("framed-204-with-length", head(b"content-length: 5", status=b"204 None"), answers=False)
    yield _of(
        "framed-not-modified-with-length", head(b"content-length: 5", status=b"304 Same"), answers=False
    )


def _cuts() -> Iterator[Behaviour]:
    """Each framing, ended at each place in each way."""
    long = _ID + b"z" * 400
    whole = {
        "length": sized(long),
        "chunks": head(CHUNKED) + chunk(long) + chunk(b""),
        "gzip": sized(gzip.compress(b"z" * 5000) * 5, b"content-encoding: gzip"),
        "events": head(CHUNKED, EVENTS) + chunk(b"data: {id}\n\n") + chunk(b"data: two\n\n" * 9) + chunk(b""),
    }
    for name, answer in whole.items():
        body = answer.index(b"\r\n\r\n") + 4
        places = {
            "nothing": 0,
            "version": 5,
            "status-line": 15,
            "head": body - 3,
            "body": body,
            "middle": body + 90,
        }
        for place, cut in (places | {"last-byte": len(answer) - 1}).items():
            for end, right in (("close", "reset"), ("reset", "reset"), ("hang", "timeout")):
                yield _of(f"cut-{name}-{place}-{end}", answer[:cut], end=end, right=right)  # type: ignore[arg-type]
        bytewise = (*(answer[i : i + 1] for i in range(300)), answer[300:])
        yield _of(f"split-{name}-bytes", *filter(None, bytewise), answers=name != "gzip")
        for cut in (7, body - 2, body + 1, len(answer) - 3):
            yield _of(f"split-{name}-{cut}", answer[:cut], answer[cut:], answers=name != "gzip")


def _lengths() -> Iterator[Behaviour]:
    """What Content-Length may say: two that differ, or none that is a number, are two readers' two ends."""
    n = b"%d" % len(_ID)
    same = (b"Content-Length: " + n, b"content-length: " + n)
    yield _of("length-twice-same", head(*same) + _ID)
    yield _of("length-listed-same", head(b"content-length: " + n + b", " + n) + _ID)
    yield _of("length-blanks", head(b"content-length:   " + n + b"  ") + _ID)
    yield _of("length-zeros", head(b"content-length: 000" + n) + _ID)
    bad = {"letters": b"many", "empty": b"", "negative": b"-5", "plus": b"+" + n, "hex": b"0x40"}
    for name, value in (bad | {"fraction": b"64.0", "overflow": b"9" * 40, "exponent": b"6e1"}).items():
        yield _of(f"length-{name}", head(b"content-length: " + value) + _ID, right="protocol", end="close")
    yield _of("length-twice-other", head(same[0], b"content-length: 5") + _ID, right="protocol", end="close")
    yield _of("length-listed-other", head(b"content-length: 5, " + n) + _ID, right="protocol", end="close")
    yield _of("length-too-long", head(b"content-length: 500") + _ID, right="reset", end="close")
    yield _of("length-too-long-kept", head(b"content-length: 500") + _ID, right="timeout", end="hang")
    yield _of("length-too-short", head(b"content-length: 40") + _ID)
    yield _of("length-and-chunks", head(b"content-length: 7", CHUNKED) + chunk(_ID) + chunk(b""),
              right="ok protocol", answers=False)  # fmt: skip


def _chunks() -> Iterator[Behaviour]:
    """Sizes of chunks, extensions, trailers."""

    def chunked(body: bytes) -> bytes:
        return head(CHUNKED) + body

    size = b"%x" % len(_ID)
    good = {
        "upper": b"%X\r\n" % len(_ID) + _ID + b"\r\n0\r\n\r\n",
        "zeros": b"000" + size + b"\r\n" + _ID + b"\r\n000\r\n\r\n",
        "extension": chunk(_ID, b";name=value") + b"0;last\r\n\r\n",
        "extension-quoted": chunk(_ID, b';name="a;b"') + chunk(b""),
        "blank-after-size": size + b" \r\n" + _ID + b"\r\n0\r\n\r\n",
        "trailers": chunk(_ID) + b"0\r\nx-sum: 1\r\nserver-timing: db;dur=1\r\n\r\n",
    }
    for name, body in good.items():
        yield _of(f"chunk-{name}", chunked(body))
    bad = {
        "letters": b"zz\r\n" + _ID + b"\r\n0\r\n\r\n",
        "negative": b"-4\r\n" + _ID + b"\r\n0\r\n\r\n",
        "prefix": b"0x40\r\n" + _ID + b"\r\n0\r\n\r\n",
        "empty-size": b"\r\n" + _ID + b"\r\n0\r\n\r\n",
        "overflow": b"f" * 40 + b"\r\n" + _ID,
        "too-short": b"5\r\n" + _ID + b"\r\n0\r\n\r\n",
    }
    for name, body in bad.items():
        yield _of(f"chunk-{name}", chunked(body), right="protocol", end="close")
    trailer = b"0\r\ncontent-length: 5\r\n\r\n"
    yield _of("chunk-trailer-length", chunked(chunk(_ID) + trailer), right="ok protocol", end="close",
              answers=False)  # fmt: skip
    yield _of("chunk-too-long", chunked(b"fff\r\n" + _ID), right="reset", end="close")
    yield _of("chunk-no-last", chunked(chunk(_ID)), right="reset", end="close")
    yield _of("chunk-no-last-kept", chunked(chunk(_ID)), right="timeout", end="hang")
    yield _of("chunk-gzip-coding", head(b"transfer-encoding: gzip, chunked") + chunk(_ID) + chunk(b""),
              right="ok protocol", answers=False)  # fmt: skip
    yield _of("chunk-shouted", head(b"Transfer-Encoding: CHUNKED") + chunk(_ID) + chunk(b""))
    yield _of("chunk-not-last-coding", head(b"transfer-encoding: chunked, gzip") + _ID, end="close",
              right="ok protocol reset", answers=False)  # fmt: skip


def _heads() -> Iterator[Behaviour]:
    """Lines of the head: what all read alike is read, what two may read as two things is not HTTP."""
    good = {
        "lf": OK.replace(b"\r\n", b"\n"),
        "folded": sized(_ID, b"x-long: one\r\n\ttwo\r\n  three"),
        "no-blank-after-colon": sized(_ID, b"x-a:b"),
        "empty-value": sized(_ID, b"x-a:"),
        "odd-case": sized(_ID, b"X-oDd: Yes").replace(b"content-length", b"CoNtEnT-lEnGtH"),
        "latin1": sized(_ID, "x-name: Jörg".encode("latin-1")),
        "utf8": sized(_ID, "x-name: Jörg".encode()),
        "many": sized(_ID, *(b"x-%d: y" % i for i in range(90))),
        "long-value": sized(_ID, b"x-a: " + b"b" * 30_000),
        "cookies": sized(_ID, *(b"set-cookie: c%d=1" % i for i in range(9))),
        "timing": sized(_ID, b"server-timing: db;dur=1, cache;desc=hit, ;;dur, x;dur=abc"),
        "timing-hostile": sized(_ID, b"server-timing: " + b'\xff"; drop table;dur=1e999, a;dur=nan'),
        "upgrade-offer": sized(_ID, b"upgrade: h2c", b"connection: upgrade"),
        "type-nonsense": sized(_ID, b"content-type: \xff/;;;charset=nonsense"),
        "location-nonsense": sized(_ID, b"location: http://[::1/"),
    }
    for name, answer in good.items():
        yield _of(f"head-{name}", answer)
    bad = {
        "nul": sized(_ID, b"x-a: b\x00c"),
        "no-colon": sized(_ID, b"nothing here"),
        "blank-in-name": sized(_ID, b"x a: b"),
        "no-name": sized(_ID, b": b"),
        "too-large": sized(_ID, b"x-a: " + b"b" * 70_000),
        "too-many": sized(_ID, *(b"x-%d: %s" % (i, b"y" * 900) for i in range(90))),
    }
    for name, answer in bad.items():
        yield _of(f"head-{name}", answer, right="protocol", end="close")
    yield _of("head-blank-lines-first", b"\r\n\r\n" + OK, right="ok protocol", end="close", answers=False)
    yield _of("head-delete", sized(_ID, b"x-a: b\x7fc"), right="ok protocol", end="close", answers=False)
    yield _of("head-control", sized(_ID, b"x-a: b\x01c"), right="ok protocol", end="close", answers=False)
    yield _of(
        "head-blank-before-colon", sized(_ID, b"x-a : b"), right="ok protocol", end="close", answers=False
    )
    yield _of("head-cr", sized(_ID, b"x-a: b\rc"), right="ok protocol", end="close", answers=False)
    lines = [b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200)]
    yield _of("head-endless", b"HTTP/1.1 200 OK\r\n", *lines, right="protocol", end="hang")


def _versions() -> Iterator[Behaviour]:
    """Only HTTP/1.x is HTTP/1.x."""
    for name, version in (("rtsp", b"RTSP/1.0"), ("icy", b"ICY"), ("http2", b"HTTP/2.0"), ("http", b"HTTP"),
                          ("lower", b"http/1.1"), ("9", b"HTTP/9.9"), ("long", b"HTTP/1.11")):  # fmt: skip
        for where, before in (
            ("", b""),
            ("-after-hints", head(status=b"103 Hints")),
            ("-after-crlf", b"\r\n"),
        ):
            answer = before + sized(_ID, version=version)
            yield _of(f"version-{name}{where}", answer, right="protocol", httpx="protocol reset", end="close")
        begin, rest = version[:5], sized(_ID, version=version)[5:]
        yield _of(f"version-{name}-cut", begin, rest, right="protocol", httpx="protocol reset", end="close")
    yield _of("version-0", sized(_ID, version=b"HTTP/1.0"), end="close")
    yield _of("version-0-cut", b"HTTP/1", sized(_ID, version=b"HTTP/1.0")[6:], end="close")
    yield _of("version-1-cut", b"H", OK[1:])
    other = {
        "html": b"<html>{id}</html>",
        "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
        "zeros": bytes(300),
        "tls-alert": b"\x15\x03\x01\x00\x02\x02\x28",
        "smtp": b"220 mail ESMTP\r\n",
        "json": b'{"id": 1}\n',
        "request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "http2-frame": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        "crlf": b"\r\n" * 50,
    }
    for name, text in other.items():
        right = "reset protocol" if name == "crlf" else "protocol"
        yield _of(f"garbage-{name}", text, right=right, httpx="reset protocol", end="close")


def _odd_heads() -> Iterator[Behaviour]:
    """What others read too, in every framing and cut: LF ends, folded lines, one length twice."""
    either, twice = "ok protocol reset", [b"content-length: %d" % len(_ID)] * 2
    folded = head(b"x: a\r\n b", CHUNKED) + chunk(_ID) + chunk(b"")
    yield _of("odd-folded-chunks", folded, httpx=either)
    yield _of("odd-folded-close", head(b"x: a\r\n b") + _ID, httpx=either, end="close")
    yield _of("odd-folded-204", head(b"x: a\r\n b", status=b"204 None"), httpx=either, answers=False)
    chunks = head(CHUNKED).replace(b"\r\n", b"\n") + chunk(_ID) + chunk(b"")
    yield _of("odd-lf-chunks", chunks, httpx=either)
    old = head(b"x: a", version=b"HTTP/1.0").replace(b"\r\n", b"\n") + _ID
    yield _of("odd-lf-old-close", old, httpx=either, end="close")
    for hints in (b"103 Hints", b"100 Continue"):
        before = head(b"link: a", status=hints)
        yield _of(f"odd-twice-after-{hints[:3].decode()}", before + head(*twice) + _ID, httpx=either)
        lines = (before + head(*twice)).replace(b"\r\n", b"\n")
        yield _of(f"odd-lf-twice-after-{hints[:3].decode()}", lines + _ID, httpx=either)
    whole = head(*twice, b"x: y") + _ID
    for cut in (20, 36, 60, len(whole) - len(_ID) - 3, len(whole) - 9):
        yield _of(f"odd-twice-cut-at-{cut}", whole[:cut], whole[cut:], httpx=either)
    both = head(b"content-length: 64, 64", b"x: y") + b"{id}" + b"." * 60
    yield _of("odd-list-cut", both[:45], both[45:], httpx=either)


def _interim() -> Iterator[Behaviour]:
    """Answers before the answer."""
    for status in (b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Odd"):
        code = status[:3].decode()
        yield _of(f"interim-{code}", head(status=status), OK)
        yield _of(f"interim-{code}-at-once", head(b"link: </a>", status=status) + OK)
    yield _of("interim-many", *[head(status=b"103 Hints")] * 9, OK)
    yield _of("interim-only-close", head(status=b"100 Continue"), right="reset", end="close")
    yield _of("interim-only-hang", head(status=b"100 Continue"), right="timeout", end="hang")
    yield _of("interim-switch", head(b"upgrade: h2c", b"connection: upgrade", status=b"101 Switch"),
              right="protocol", end="hang")  # fmt: skip


def _strays() -> Iterator[Behaviour]:
    """More than was asked for: the next request must not get it."""
    for name, stray in (("bytes", b"nobody asked"), ("answer", sized(b"not yours")), ("blank", b"\r\n"),
                        ("many", sized(b"not yours") * 20), ("nul", b"\x00")):  # fmt: skip
        yield _of(f"stray-{name}", OK + stray)
        yield replace(_of(f"stray-{name}-later", OK, stray), late=True)
        yield _of(f"stray-{name}-close", OK + stray, end="close")
    yield replace(_of("stray-408", OK, sized(b"", status=b"408 Too late"), end="close"), late=True)
    yield _of("stray-after-no-content", head(status=b"204 None") + b"nobody asked", answers=False)
    yield _of("stray-after-chunks", head(CHUNKED) + chunk(_ID) + chunk(b"") + b"nobody asked")


def _codings() -> Iterator[Behaviour]:
    """Bodies in codings nobody asked for: kept as they are, and no reason to fail."""
    zipped = gzip.compress(b"z" * 10_000)
    bomb = gzip.compress(bytes(30_000_000))
    for name, body, coding in (
        ("gzip", zipped, b"gzip"), ("gzip-cut", zipped[:20], b"gzip"), ("gzip-none", b"plain", b"gzip"),
        ("gzip-bomb", bomb, b"gzip"), ("deflate", zlib.compress(b"z"), b"deflate"),
        ("br", b"\x0b\x02\x80", b"br"), ("zstd", b"\x28\xb5\x2f\xfd", b"zstd"), ("unknown", b"x", b"rot13"),
        ("twice", zipped, b"gzip, gzip"), ("identity", b"x", b"identity"), ("empty-name", b"x", b""),
    ):  # fmt: skip
        yield _of(f"coding-{name}", sized(body, b"content-encoding: " + coding), answers=False)
    yield _of(
        "coding-gzip-500", sized(zipped, b"content-encoding: gzip", status=b"500 Bad"), right="http_5xx"
    )
    yield _of("coding-binary-500", sized(bytes(range(256)) * 30, status=b"500 Bad"), right="http_5xx")
    yield _of(
        "coding-surrogates-400", sized(b'"\xed\xa0\x80\\ud800"' * 30, status=b"400 Bad"), right="http_4xx"
    )


def _streams() -> Iterator[Behaviour]:
    """Server-sent events, well and badly formed."""
    for name, texts, right in (
        ("one", (b"data: {id}\n\n",), "ok"), ("crlf", (b"data: {id}\r\n\r\n",), "ok"),
        ("cr", (b"data: {id}\r\r",), "ok"), ("split", (b"da", b"ta: {id", b"}\n", b"\n"), "ok"),
        ("comments", (b": hi\n\n" * 9, b"data: {id}\n\n"), "ok"), ("only-comments", (b": hi\n\n" * 9,), "ok"),
        ("bom", (b"\xef\xbb\xbfdata: {id}\n\n",), "ok"), ("nul", (b"data: \x00{id}\n\n",), "ok"),
        ("no-end", (b"data: {id}",), "ok"), ("binary", (bytes(range(256)) + b"{id}",), "ok"),
        ("long", (b"data: {id}" + b"x" * 200_000 + b"\n\n",), "ok"),
        ("fields", (b"id: 1\nretry: x\ndata\n\n",), "ok"), ("many", (b"data: {id}\n\n" * 3000,), "ok"),
        ("error-event", (b"event: error\ndata: {id}\n\n",), "check ok"),
    ):  # fmt: skip
        echoes = any(b"{id" in text for text in texts) and name != "split"
        yield _of(f"events-{name}", head(CHUNKED, EVENTS), *(chunk(text) for text in texts), chunk(b""),
                  right=right, answers=echoes and right == "ok")  # fmt: skip
    yield _of("events-close", head(EVENTS) + b"data: {id}\n\n", end="close")
    yield _of("events-no-type-end", sized(b"data: {id}\n\n", EVENTS + b"; charset=utf-8"))
