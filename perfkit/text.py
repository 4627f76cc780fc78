"""Foreign text made harmless: one function for each place it can be shown in.

Foreign is what perfkit did not write itself: what servers answer, names of operations, exceptions, labels of
imported files, names of files, values of options. Rows and run.json keep it as it came; it passes through
here on its way out.
"""

from __future__ import annotations

import contextlib
import html
import logging
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, TextIO

#: A server can answer with a megabyte of nonsense; this many characters of it are shown on a page.
MOST = 2_000
_FORGOTTEN = re.compile(r"coroutine '(.+)' was never awaited").match
_SPACE = re.compile(r"\s+")
#: What starts markup in Markdown, and what GitHub adds: anywhere in a line, or only where it begins.
_MARKUP = re.compile(
    r"[\\`*_{}\[\]<>|#@$~&^!]|:(?=[/\w])|(?<=www)\.|^[-+=]|^\d+(?=[.)](?:\s|$))", re.IGNORECASE
)


def plain(text: object, *, most: int | None = None, lines: bool = False) -> str:
    """Return the text with nothing in it that acts: fit for a sink that escapes its own markup.

    White space of any kind becomes a space, so the result is one line (with `lines`, a line feed stays).
    Every other run of characters that do not print becomes one U+FFFD: C0 and C1 controls, and so all escape
    sequences; bidirectional controls, zero-width and tag characters, lone surrogates, unassigned code points.
    At most `most` characters are kept; a text that is cut says how long it was.
    """
    text = str(text)
    if most is not None and len(text) > most:
        text = f"{text[:most]}… ({len(text):,} characters)"
    if lines:
        return "\n".join(map(plain, text.split("\n")))
    if text.isprintable():
        return text
    text = _SPACE.sub(lambda run: run[0] if run[0].isprintable() else " ", text)
    return "".join("".join(run) if prints else "�" for prints, run in groupby(text, str.isprintable))


def plural(count: int, word: str, words: str = "") -> str:
    """Return a count with its noun: 1 request, 2 requests, 1,000 requests; words: an odd plural."""
    return f"{count:,} {word if count == 1 else words or f'{word}s'}"


#: For a terminal, and for ElementTree, which escapes `<&>` itself.
for_terminal = for_xml = plain


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clipped(text: str, width: int) -> str:
    """Return the text cut to `width` cells of a terminal, with an ellipsis where something is cut."""
    if cells(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _cells_of(character)
        if used > width:
            break
        kept += character
    return f"{kept}…" if width > 0 else ""


def for_html(text: object, *, most: int | None = MOST) -> str:
    """Return the text as HTML that shows it, in an element or an attribute."""
    return html.escape(plain(text, most=most), quote=True)


def for_markdown(text: object, *, most: int | None = None) -> str:
    """Return the text as Markdown that shows it, in a line or a table's cell: no markup, no link, no mention.

    GitHub looks for @names and #numbers after it has removed backslashes, so an empty comment parts them.
    """
    return _MARKUP.sub(_escaped, plain(text, most=most).strip())


def _escaped(markup: re.Match[str]) -> str:
    sign = markup[0]
    if sign in "@#":
        return f"\\{sign}<!-- -->"
    return f"&#{ord(sign[0])};{sign[1:]}" if sign[0].isdigit() or sign in "<>&" else f"\\{sign}"


def for_notebook(page: str) -> str:
    """Return HTML of ours for a notebook's output: JupyterLab takes no `$…$` in it for mathematics."""
    return f'<div class="tex2jax_ignore mathjax_ignore">{page}</div>'


@contextlib.contextmanager
def harmless_prints() -> Iterator[None]:
    """What is printed inside, on either stream, comes out on standard error, made harmless."""
    stream: Any = HarmlessStream(sys.stderr)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


class HarmlessStream:
    """A text stream over another, for what a scenario prints: it is made harmless on its way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See io.TextIOBase."""
        self._stream.write(plain(text, lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """See io.IOBase."""
        self.write("".join(lines))

    def isatty(self) -> bool:
        """False: nobody need send colours here."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def harmless_libraries() -> None:
    """Make harmless what libraries say by `warnings` and `logging`: it quotes files' names and errors. What
    Python says of a coroutine that a scenario has not awaited names a line of ours: it is said in our words.
    """
    as_before = warnings.formatwarning

    def in_words(message: Any, *told: Any, **more: Any) -> str:
        forgotten = _FORGOTTEN(str(message))
        if forgotten is None:
            return plain(as_before(message, *told, **more), lines=True)
        name = "session.request" if forgotten[1] == "Session.request" else plain(forgotten[1])
        return f"perfkit: {name}(…) was not awaited, so it did nothing; write await before it\n"

    warnings.formatwarning = in_words
    if logging.lastResort is not None:  # it prints where nobody has set another handler up
        logging.lastResort.setFormatter(_Formatter())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), lines=True)


def print_lines(*lines: object, err: bool = False) -> None:
    """Print each line, made harmless, on standard output or standard error, as far as its encoding goes."""
    stream = sys.stderr if err else sys.stdout
    text = "".join(f"{for_terminal(line)}\n" for line in lines)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
