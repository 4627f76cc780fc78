"""Seeded mutators: each takes a Random and an input and returns a broken one with words for what was done."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

#: What stands where nobody expects it; for JSON and YAML trees alike.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7.5, -0.0, float("nan"), float("inf"), float("-inf"), 1e308, 1e-300, 10**30,
    2**63, -(2**63), "", " ", "x", "0", "-1", "NaN", "latest", "x" * 100_000, "\x1b[31mred\x1b]0;title\x07",
    "a\0b", "\u202eevil", "\x85\x9b31m", "<script>alert(1)</script>", "$5 and $6", "|a|b|",
    "../../etc/passwd",
    "/dev/zero", "line\nline\r\nline", "\ud800", "2026-13-45T99:99:99", "http://[::1",
    "http://127.0.0.1:99999",
    [], [None], [[]], ["x"], [1] * 1000, {}, {"x": None}, {"": {"": {}}}, [{"x": 1}, 2, "x"],
)  # fmt: skip


# -- trees: what JSON and YAML say -----------------------------------------------------------------


def tree(rng: Random, document: Any, times: int = 1) -> tuple[Any, str]:
    """A copy with `times` places changed: replaced, removed, renamed, swapped, wrapped, nested, added."""
    document, words = copy.deepcopy(document), []
    for _ in range(times):
        there = list(places(document))
        if not there:
            return rng.choice(ODD), "the whole replaced"
        holder, key, path = rng.choice(there)
        kind = rng.choice(("odd", "odd", "odd", "remove", "rename", "swap", "wrap", "deep", "add", "type"))
        words.append(f"{path} {_change(rng, holder, key, kind, there)}")
        if kind == "deep":  # nothing walks through it afterwards
            break
    return document, "; ".join(words)


def _change(rng: Random, holder: Any, key: Any, kind: str, there: list[Any]) -> str:
    value = holder[key]
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "swap":
        other, at, path = rng.choice(there)
        holder[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(value)
        return f"swapped with {path}"
    elif kind == "wrap":
        holder[key] = rng.choice(([value], {"x": value}, [[value, value]]))
    elif kind == "deep":
        depth = rng.choice((50, 900))
        for _ in range(depth):
            value = [value]
        holder[key] = value
        return f"nested {depth} deep"
    elif kind == "add" and isinstance(holder, dict):
        holder[rng.choice(("unknown", "", "\x1b[31m", "schema", "x" * 5000))] = rng.choice(ODD)
    elif kind == "type":
        holder[key] = _other_type(rng, value)
        return f"as {type(holder[key]).__name__}"
    else:
        holder[key] = rng.choice(ODD)
        return f"= {holder[key]!r:.60}"
    return kind


def _other_type(rng: Random, value: Any) -> Any:
    if isinstance(value, dict):
        return rng.choice((list(value), list(value.items()), str(value)))
    if isinstance(value, list):
        return rng.choice((dict.fromkeys(map(str, value), 1), ",".join(map(str, value)), len(value)))
    if isinstance(value, str):
        return rng.choice((len(value), list(value[:50]), value.encode().hex(), {value[:50]: value[:50]}))
    return rng.choice((str(value), [value], {"value": value}, bool(value)))


def places(node: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Each place below a node: what holds it, its key or index, and its path."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key, f"{path}.{key}"
        yield from places(node[key], f"{path}.{key}"[-120:])


def as_json(value: Any, indent: int | None = 1) -> str:
    """A tree as JSON, however deep it is."""
    try:
        return json.dumps(value, indent=indent, default=str)
    except RecursionError:
        return '{"state": ' + "[" * 100_000


# -- bytes -----------------------------------------------------------------------------------------


def damaged(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Bytes flipped, cut, zeroed, doubled, swapped, inserted or appended; or none at all."""
    at = rng.randrange(len(data) + 1)
    length = min(rng.choice((1, 8, 64, 512)), len(data) - at)
    piece = data[at : at + length]
    noise = rng.randbytes(max(length, 1))
    done: dict[str, Callable[[], bytes]] = {
        "bits flipped": lambda: _flipped(rng, data),
        "cut": lambda: data[:at],
        "head cut": lambda: data[at:],
        "zeroed": lambda: data[:at] + bytes(length) + data[at + length :],
        "removed": lambda: data[:at] + data[at + length :],
        "doubled": lambda: data[:at] + piece + data[at:],
        "noise inserted": lambda: data[:at] + noise + data[at:],
        "noise over it": lambda: data[:at] + noise + data[at + len(noise) :],
        "noise appended": lambda: data + noise,
        "twice": lambda: data + data,
        "empty": lambda: b"",
    }
    kind = rng.choice(list(done))
    return done[kind](), f"{kind} at byte {at} of {len(data)} ({length})"


def _flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


# -- text: lines, numbers, quotes, encodings -------------------------------------------------------

NUMBERS = ("nan", "inf", "-inf", "1e308", "1e-300", "-1", "-0", "0", "9" * 30, "9" * 5000, "0x10", "1_000",
           "1,5", "", "null", "true", "٣", "99999999999999999999")  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
TOKENS = ("\x1b[31m", "\0", "\u202e", "\ufeff", "\x85", '"', "'", '"""', ",", ",,,", "{", "}", "[", "]",
"<", ">",
          "&", "<!--", "<![CDATA[", "&lol;", "\\", "\t", "\r", "\n\n", "%", "|", "x" * 10_000,
          "\U0001f600")  # fmt: skip


def text(rng: Random, given: str, tokens: tuple[str, ...] = TOKENS) -> tuple[str, str]:
    """Lines cut, doubled, swapped, moved; fields swapped; numbers and letters replaced; storms of quotes."""
    lines = given.splitlines(keepends=True) or [""]
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(("drop", "double", "swap", "cut", "indent", "token", "token", "number", "number",
                       "numbers", "fields", "quotes", "many", "tail"))  # fmt: skip
    word = ""
    if kind == "drop":
        del lines[i : i + rng.choice((1, 1, 5))]
    elif kind == "double":
        lines.insert(j, lines[i])
    elif kind == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == "cut":
        lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
    elif kind == "tail":
        del lines[i:]
    elif kind == "indent":
        lines[i] = rng.choice(("  ", "\t", " ")) + lines[i] if rng.random() < 0.6 else lines[i].lstrip()
    elif kind == "token":
        word, at = rng.choice(tokens), rng.randrange(len(lines[i]) + 1)
        lines[i] = lines[i][:at] + word + lines[i][at:]
    elif kind == "number":
        word = rng.choice(NUMBERS)
        lines[i] = _one_number(rng, lines[i], word)
    elif kind == "numbers":
        word, which = rng.choice(NUMBERS), rng.randrange(12)
        lines = [_nth_number(line, which, word) for line in lines]
    elif kind == "fields":
        parts = re.split(r"([,\t;:])", lines[i])
        rng.shuffle(parts)
        lines[i] = "".join(parts)
    elif kind == "quotes":
        word = rng.choice(('"', "'", '""', '"a"b"'))
        lines = [line.replace(",", f",{word}", 1) if rng.random() < 0.5 else line for line in lines]
    else:
        lines[i : i + 1] = [lines[i]] * 2000
    return "".join(lines), f"{kind} {word!r:.20} at line {i + 1}"


def _one_number(rng: Random, line: str, word: str) -> str:
    found = list(_NUMBER.finditer(line))
    if not found:
        return line.rstrip("\n") + word + "\n"
    at = rng.choice(found)
    return line[: at.start()] + word + line[at.end() :]


def _nth_number(line: str, which: int, word: str) -> str:
    found = list(_NUMBER.finditer(line))
    if which >= len(found):
        return line
    return line[: found[which].start()] + word + line[found[which].end() :]


def encoded(rng: Random, given: str) -> tuple[bytes, str]:
    """In another encoding than UTF-8 once in eight times, with other line ends or a mark of byte order."""
    kind = rng.choice(("utf-8",) * 13 + ("utf-16", "latin-1", "utf-32", "bom", "crlf", "cr", "surrogate"))
    if kind in ("utf-16", "utf-32", "latin-1"):
        return given.encode(kind, "replace"), kind
    if kind == "bom":
        return b"\xef\xbb\xbf" + given.encode(errors="replace"), kind
    if kind in ("crlf", "cr"):
        return given.replace("\n", "\r\n" if kind == "crlf" else "\r").encode(errors="replace"), kind
    if kind == "surrogate":
        return given.encode(errors="replace") + "\ud800".encode(errors="surrogatepass"), kind
    return given.encode(errors="replace"), ""


def packed(rng: Random, data: bytes) -> tuple[bytes, str]:
    """As gzip once in six times, and that damaged once in three."""
    if rng.random() > 1 / 6:
        return data, ""
    data = gzip.compress(data, mtime=0)
    if rng.random() < 1 / 3:
        data, words = damaged(rng, data)
        return data, f"gzip, {words}"
    return data, "gzip"
