"""Statements as text without values: what may stand in a log, a sample and a report."""

from __future__ import annotations

import re

#: From left to right: a comment in a text is none, and the other way round. What was cut off ends at the end.
_TOKENS = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|$))
    |(?P<name>"(?:[^"]|"")*(?:"|$))
    |\b[eE]'(?:[^'\\]|\\.|'')*(?:'|$)
    |(?:\b[bBnNxX])?'(?:[^']|'')*(?:'|$)
    |\$(?P<tag>[A-Za-z_]\w*)\$.*?(?:\$(?P=tag)\$|$)
    |\$\$.*?(?:\$\$|$)""",
    re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(r"(?<![\w$.:?])[-+]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+)(?!\w)")
_QUOTED = re.compile(r"'(?:[^']|'')*(?:'|$)")
_PLACEHOLDER = re.compile(r"\$\d+|%\(\w+\)s|%s|(?<![\w:]):[A-Za-z_]\w*")
_CAST = re.compile(
    r"\?\s*::\s*\w+(?: VARYING| PRECISION| WITH(?:OUT)? TIME ZONE)?(?:\(\s*\?(?:, \?)*\s*\))?(?:\[\])*",
    re.IGNORECASE,
)
_LIST = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_LISTS = re.compile(r"\(\?\)(?:\s*,\s*\(\?\))+")
#: Lists of columns say little and hide what follows them.
_COLUMNS = (
    (re.compile(r"\b(SELECT) .{60,}? (FROM) ", re.IGNORECASE), r"\1 … \2 "),
    (re.compile(r"\b(INSERT INTO \S+) \([^()]{20,}\) ", re.IGNORECASE), r"\1 (…) "),
    (re.compile(r"\b(RETURNING) .{30,}$", re.IGNORECASE), r"\1 …"),
)
_LONGEST = 200


def without_values(sql: str) -> str:
    """The statement with `?` for every value and placeholder, without comments, on one line."""

    def place(match: re.Match[str]) -> str:
        return " " if match["comment"] else match["name"] or "?"

    text = _NUMBER.sub("?", _TOKENS.sub(place, sql))
    return " ".join(_PLACEHOLDER.sub("?", text).split())


def statement_kind(sql: str) -> str:
    """What statements that differ in their values only have in common, at most 200 characters.

    Lists of values and long lists of columns are cut short, so that the tables and conditions remain.
    """
    text = _LIST.sub("(?)", _CAST.sub("?", without_values(sql)))
    text = _LISTS.sub("(?)", text)
    for pattern, short in _COLUMNS:
        text = pattern.sub(short, text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def numbered(sql: str) -> tuple[str, int]:
    """The statement with PostgreSQL's own placeholders `$1`, `$2`, …, and how many there are."""
    present = [int(number) for number in re.findall(r"\$(\d+)", _QUOTED.sub("", sql))]
    if present:
        return sql, max(present)
    names: dict[str, int] = {}

    def place(match: re.Match[str]) -> str:
        name = match[0] if match[0] != "%s" else f"%s{len(names)}"
        return f"${names.setdefault(name, len(names) + 1)}"

    text = re.sub(r"%\(\w+\)s|%s", place, sql)
    return text.replace("%%", "%") if names else sql, len(names)
