"""Foreign text for a terminal, Markdown, XML and HTML: all of it is shown, nothing in it acts."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mistune
import pytest

from perfkit.errors import BadInput
from perfkit.text import for_html, for_markdown, for_terminal, for_xml, plain

PACKAGE = Path(__file__).parents[1] / "perfkit"
C0 = "".join(map(chr, range(0x20)))
C1 = "\x7f" + "".join(map(chr, range(0x80, 0xA0)))
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HIDDEN = "\u200b\u200c\u200d\u2060\ufeff\u2028\u2029\U000e0041\U000e007f"
OSC = "\x1b]0;title\x07\x1b]8;;http://evil.example/\x1b\\link\x1b]8;;\x1b\\\x1b]52;c;aGk=\x07\x9d2;x\x9c"
CSI = "\x1b[31mred\x1b[2J\x1b[1A\x1b[?1049h\x9b31m\x1bc\x1b(0"
EVERYTHING = f"<{C0}{C1}{BIDI}{HIDDEN}{OSC}{CSI}>"
FORBIDDEN = re.compile(f"[{re.escape(C0 + C1 + BIDI + HIDDEN)}]")


def harmless(text: str) -> bool:
    return FORBIDDEN.search(text) is None


# -- one function for each ----------------------------------------------------------------------------


@pytest.mark.parametrize("sink", [plain, for_terminal, for_xml, for_html, for_markdown])
def test_every_sink_takes_every_character(sink: Any) -> None:
    """Of 1.1 million code points, alone between letters, only those that print come out, on one line."""
    for start in range(0, 0x110000, 0x1000):
        out = sink("".join(f"a{chr(point)}" for point in range(start, start + 0x1000)))
        assert out.isprintable(), hex(start)
    out = sink(EVERYTHING)
    assert out.isprintable()
    assert "�" in out  # a reader sees that something was there
    assert "title" in out


def test_what_prints_stays_as_it_is() -> None:
    """Words of any script, emoji, a run of blanks; any other white space becomes a blank."""
    for text in ("p95  12 ms", "Zoë 東京 مرحبا שלום", "👍🏽 ≥ ½ — “x”", "�", ""):
        assert plain(text) == text
    assert plain("a\tb\r\nc\u2028d\u00a0e\u3000f") == "a b c d e f"
    assert plain("a\r\nb\n", lines=True) == "a \nb\n"
    assert plain("x\x1b\x00\x07y") == "x�y"
    assert plain("x" * 30, most=10) == f"{'x' * 10}… (30 characters)"
    assert plain("\ud800").encode() == "�".encode()


def test_a_long_text_takes_no_time() -> None:
    """Linear in the text's length: 4 million characters of the worst kinds pass in well under a minute."""
    for part in ("\x1b", " ", " \t", "a\x00", "\r\n"):
        assert len(plain(part * (4_000_000 // len(part)))) > 0


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """See HTMLParser."""
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        self.text += data


MARKUP = [
    "<script>x</script><img src=x onerror=y>", "![a](http://x/y.png) [b](javascript:z)", "a | b \\| c",
    "`x` ``y``", "*a* _b_ **c** ~~d~~", "http://evil.example www.evil.example a@evil.example",
    "&lt;b&gt; &#60;i&#62;", "$x^2$ $$y$$", "# a", "- a", "+ a", "1. a", "12) a", "> a", "---", "===",
    "    code", "```", "[^1]: note", "<http://x.y>", "a\n\n# b", "| a |\n|---|", "* * *", ":smile:", "{x}",
    "a\\", "<!-- x", "http://evil.example/\n- x",
]  # fmt: skip


#: A line, an item, a cell; and the elements each of them is by itself.
AROUND = {
    "{}": "p",
    "- note: {}": "ul li",
    "| a | b |\n|---|---|\n| {} | x |": "table thead tr th th tbody tr td td",
}


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    """A line, an item and a cell with any markup in it render as the text itself: no element comes of it."""
    plugins = ["table", "strikethrough", "url", "footnotes", "math"]
    render = mistune.create_markdown(escape=False, plugins=plugins)
    for around, elements in AROUND.items():
        page = Elements(str(render(around.format(for_markdown(text)))))
        assert page.elements == elements.split(), text
        assert " ".join(text.split()) in " ".join(page.text.split())


def test_markdown_mentions_nobody() -> None:
    """GitHub looks for @names and #numbers in what is left of a backslash: a comment parts them."""
    out = for_markdown("@octocat #12 octo/cat#3 a@b.de")
    assert not re.search(r"@\w|#\d", out)
    assert Elements(out.replace("\\", "")).text == "@octocat #12 octo/cat#3 a@b.de"


def test_an_error_is_one_line_for_each_argument() -> None:
    """Whatever a message quotes, it cannot begin a line of its own, in a terminal, a notebook or a script."""
    error = BadInput(f"no run {EVERYTHING}\nremoved all", "second line")
    assert len(str(error).split("\n")) == 2
    assert harmless(str(error).replace("\n", ""))
    assert error._render_traceback_() == [f"BadInput: {error}"]


def test_one_function_prints(tmp_path: Path) -> None:
    """Nothing outside perfkit/text.py prints, but the reference server and the child of a notebook's run;
    every `_repr_html_` goes through `for_notebook`. So no verb, and none to come, can forget."""
    for file in PACKAGE.rglob("*.py"):
        where = file.relative_to(PACKAGE).as_posix()
        tree = ast.parse(file.read_text())
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if not where.startswith(("server/", "probes/")) and where not in ("text.py", "notebook/child.py"):
            printing = {"print", "click.echo", "click.secho", "echo", "sys.stdout.write", "sys.stderr.write"}
            assert not calls & printing, where
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "_repr_html_":
                assert "for_notebook(" in ast.unparse(node), where


def test_printing_needs_no_unicode(tmp_path: Path) -> None:
    """On a terminal that knows ASCII only, words come out with question marks."""
    done = subprocess.run([sys.executable, "-m", "perfkit.cli", "show", "東京", "--data-dir", str(tmp_path)],
                          env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
                          capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"perfkit: no run '??'")
