"""Gatling's simulation.log, as text: of 2.x and of 3.0 to 3.9.

A line for each request with its begin and its end, ms since 1970, and OK or KO. What stands before these and
after differs by version; a line's layout follows from where its OK or KO is.
"""

from __future__ import annotations

import re
from collections import Counter

from perfkit.importing.head import Head
from perfkit.importing.limits import LONGEST_NAME, LONGEST_TEXT
from perfkit.importing.nouns import Asked, Facts, Wrong
from perfkit.importing.rows import Rows
from perfkit.importing.source import Source
from perfkit.importing.times import UNITS, ns
from perfkit.importing.words import error_class

_KINDS = {"RUN", "USER", "REQUEST", "GROUP", "ERROR", "ASSERTION"}
_FIRST = re.compile(r"ASSERTION\t\S|(?:[^\t]*\t[^\t]*\t)?(?:RUN|USER|REQUEST|GROUP)\t.*\d{13}")
_VERSION = re.compile(r"[3-9]\.[\w.-]{1,20}")  # 2.x writes that of the file's format
#: What a check says: `status.find.is(200), but actually found 500`, `regex(x).find.exists, found nothing`.
_CHECK = re.compile(r"\.(?:find\w*|count)\b.*\bfound\b")
_STATUS = re.compile(r"status\.find\b.*\bfound (\d{3})\b")


def is_log(head: Head) -> bool:
    """Its first line, of whatever version."""
    return _FIRST.match(head.first_line) is not None


def read(source: Source, rows: Rows, asked: Asked) -> Facts:
    """A row for each line of a request."""
    told: dict[str, str] = {}
    lines: Counter[str] = Counter()

    def add(text: str) -> None:
        cells = text.split("\t")
        kind = next((one for one in (cells[0], *cells[2:3]) if one in _KINDS), "")
        lines[kind] += 1
        if kind == "REQUEST":
            _add(rows, cells)
        elif kind == "RUN" and len(cells) > 5:
            told["scenario"] = cells[0 if cells[2] == kind else 1][:LONGEST_NAME]
            told["version"] = cells[-1] if _VERSION.fullmatch(cells[-1]) else ""
        elif kind in ("", "RUN"):
            raise ValueError(text)

    source.each(source.texts(), add, "a line of a Gatling before 3.10")
    notes = ["Gatling does not record planned times"]
    notes += [f"{lines['ERROR']:,} errors of Gatling's belong to no request"] if lines["ERROR"] else []
    return Facts("Gatling", version=told.get("version") or None, scenario=told.get("scenario"),
                 rounded_ns=(UNITS["ms"], UNITS["ms"]), notes=tuple(notes))  # fmt: skip


def _add(rows: Rows, cells: list[str]) -> None:
    """One request. Until 2.1: scenario, user, REQUEST, groups, name, four instants, OK or KO, maybe words.

    Later: REQUEST; scenario (until 2.3) and user (until 3.3); groups, name, two instants, and the same.
    """
    is_old = cells[0] != "REQUEST"
    places = (9,) if is_old else (5, 6, 7)
    at = next((i for i in places if cells[i : i + 1] in (["OK"], ["KO"]) and cells[i - 1].isdigit()), None)
    if at is None:
        raise Wrong("a request without OK or KO where a version has it", "begin, end, OK or KO")
    begin = at - (4 if is_old else 2)
    words = " ".join(cells[at + 1 : at + 2])[:LONGEST_TEXT].strip()
    error = status = None
    if cells[at] == "KO":
        found = _STATUS.search(words)
        status = int(found[1]) if found else None
        is_check = not words or _CHECK.search(words) is not None
        error = "check" if is_check and status is None else error_class(status, words, failed=True)
    groups = [group for group in cells[begin - 2].split(",") if group.strip()]
    user = "" if at == 5 else cells[1 if is_old or at == 6 else 2]
    rows.add(
        rows.names.of(" / ".join([*groups, cells[begin - 1]])),
        started=ns(cells[begin], "ms"), done=ns(cells[at - 1], "ms"), status=status,
        error=error, words=words or "Gatling does not say why",
        user=int(user) if user.isdecimal() else user or None,
    )  # fmt: skip
