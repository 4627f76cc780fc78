"""Broken files of other tools."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from random import Random
from typing import Any

from perfkit.errors import BadInput
from perfkit.importing.formats import format_of
from perfkit.importing.nouns import Asked
from perfkit.importing.source import Source
from tests.drills import mutate
from tests.drills.cases import ROOT, Case, Given
from tests.drills.store import copy_store

IMPORTS = sorted(p for p in (ROOT / "tests" / "imports").iterdir() if p.suffix != ".md")
#: Mutants of each format in the whole drill: a few more than 300, whatever the dice.
EACH = 345
_LARGE = 5_000_000


@functools.cache
def by_format() -> dict[str, list[Path]]:
    """The files of each format; a CSV of its own kind is the format of another file."""
    found: dict[str, list[Path]] = {"csv": [ROOT / "tests" / "imports" / "hey.csv"]}
    for file in IMPORTS:
        with contextlib.suppress(BadInput):  # a histogram alone
            found.setdefault(format_of(Source(file), None, Asked()), []).append(file)
    return found


def import_case(rng: Random, folder: Path, given: Given) -> Case:
    """A file another tool wrote, broken, and what is done with what was made of it."""
    copy_store(given.store, folder / "data")
    form = rng.choice(sorted(by_format()))
    base = rng.choice(by_format()[form])
    content, words = _import(rng, base.read_bytes(), base.suffix == ".db")
    file = folder / f"mutant{base.suffix}"
    file.write_bytes(content)
    argv = ["import", file.name, "--data-dir", "data"]
    if form == "csv":
        argv += ["--column", "started_s=offset", "--column", "duration_s=response-time"]
    argv += ["--skip-broken"] if rng.random() < 0.5 else []
    argv += ["--json"] if rng.random() < 0.2 else []
    after = [["ls"], ["show", "latest"], ["show", "latest", "--json"]]
    steps: list[dict[str, Any]] = [{"argv": argv, "mb_ok": 500}]
    if rng.random() < 0.2:  # what is made of a file is read alike, whatever its format
        steps += [{"argv": [*line, "--data-dir", "data"]} for line in after]
    if rng.random() < 0.02:
        steps.append({"call": "tests.drills.calls:notebooks", "cpu_ok_s": 15,
                      "arguments": ["data", "latest", ["run_report"]]})  # fmt: skip
    return Case(f"{base.name}: {words}", steps)


def _import(rng: Random, given: bytes, binary: bool) -> tuple[bytes, str]:
    if binary or rng.random() < 0.2:
        content, words = mutate.damaged(rng, given)
    elif given[:1] in b"{[" and rng.random() < 0.5:
        content, words = _json_lines(rng, given.decode())
    else:
        text, words = given.decode(errors="replace"), ""
        for _ in range(rng.choice((1, 1, 2, 4))):
            if len(text) > _LARGE:  # they may multiply one another
                break
            text, word = mutate.text(rng, text)
            words += f"{word}; "
        content, word = mutate.encoded(rng, text)
        words += word
    content, word = mutate.packed(rng, content)
    return content, f"{words} {word}".strip()


def _json_lines(rng: Random, given: str) -> tuple[bytes, str]:
    """A document, or one of its lines, changed as a tree."""
    try:
        changed, words = mutate.tree(rng, json.loads(given), rng.choice((1, 1, 3)))
        return mutate.as_json(changed).encode(errors="surrogatepass"), words
    except ValueError:
        lines = given.splitlines()
        words = ""
        for _ in range(rng.choice((1, 1, 20))):
            at = rng.randrange(len(lines))
            try:
                changed, word = mutate.tree(rng, json.loads(lines[at]))
            except (ValueError, RecursionError):  # it was changed before, into something deep
                continue
            words += f"line {at + 1} {word}; "
            lines[at] = mutate.as_json(changed, indent=None)
        return "\n".join(lines).encode(errors="surrogatepass"), words
