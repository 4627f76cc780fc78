"""The reference pages, made of the code they describe; and the documents of the repository as pages."""

from __future__ import annotations

import dataclasses
import inspect
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
from sphinx.pycode import ModuleAnalyzer

from perfkit import converting, model
from perfkit.cli import _add_server_command, cli
from perfkit.lab.handle import FIGURES
from perfkit.store.columns import SQL_TYPES
from perfkit.store.metrics import METRICS
from perfkit.store.rows import DERIVED

#: Documents outside of docs/, and the pages they become.
DOCUMENTS = {
    "README.md": "generated/readme",
    "METHOD.md": "generated/method",
    "CHANGELOG.md": "generated/changelog",
    "CONTRIBUTING.md": "generated/contributing",
    "SECURITY.md": "generated/security",
    "benchmarks/README.md": "generated/benchmarks",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def write(root: Path, docs: Path) -> None:
    """Write generated/*.md below docs: the documents, and the reference of CLI, workload, columns, Python."""
    (docs / "generated").mkdir(exist_ok=True)
    pages = {page: (root / document).read_text() for document, page in DOCUMENTS.items()}
    pages |= {
        "generated/cli": "\n".join(_cli()),
        "generated/workload-reference": "\n".join(_workload()),
        "generated/columns": "\n".join(_columns()),
        "generated/python": "\n".join(_python()),
    }
    for page, text in pages.items():
        file = docs / f"{page}.md"
        if not file.exists() or file.read_text() != text:  # else Sphinx builds it anew each time
            file.write_text(text)


def relink(app: Any, page: str, source: list[str]) -> None:
    """Let the links of a page, which lead through the repository, lead to pages; others become plain text."""
    document = next((name for name, made in DOCUMENTS.items() if made == page), f"docs/{page}.md")

    def link(found: re.Match[str]) -> str:
        image, words, target, anchor = found.groups(default="")
        if not target or "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        if path in DOCUMENTS:
            path = f"docs/{DOCUMENTS[path]}.md"
        if not path.startswith("docs/"):
            return words
        return f"{image}[{words}]({posixpath.relpath(path, posixpath.dirname(f'docs/{page}'))}{anchor})"

    source[0] = _LINK.sub(link, source[0])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield from ("", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(list(head)))))
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in row)} |"
    yield ""


# -- the command line ------------------------------------------------------------------------------


def _cli() -> Iterator[str]:
    _add_server_command()
    yield "# Command line"
    yield "\nExit codes are in [the README](../../README.md#verbs-and-exit-codes)."
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"perfkit {name}", max_content_width=100)
        pieces = " ".join(command.collect_usage_pieces(context))
        yield f"\n## perfkit {name}\n\n```text\nperfkit {name} {pieces}\n```\n"
        for block in inspect.cleandoc(command.help or "").split("\n\n"):
            kept = block.removeprefix("\b\n").strip()
            code = "sh" if kept.startswith("perfkit ") else "text"
            yield f"```{code}\n{kept}\n```\n" if block.startswith("\b\n") else f"{block}\n"
        records = [found for one in command.params if (found := one.get_help_record(context))]
        yield from _table(("option", "meaning"), ((f"`{names}`", text) for names, text in records))


# -- the workload file -----------------------------------------------------------------------------


def _workload() -> Iterator[str]:
    comments = ModuleAnalyzer.for_module("perfkit.model")
    comments.analyze()
    yield "# Workload file: every key"
    yield "\n[The workload file](../workload.md) says how they go together. Times take units: `30s`, `2m`."
    sections = {"": model.Workload, **converting.sections_of(model.Workload)}
    for name, cls in sections.items():
        yield f"\n## {f'`{name}`' if name else 'Top level'}\n\n{(cls.__doc__ or '').strip()}\n"
        hints = get_type_hints(cls, include_extras=True)
        yield from _table(
            ("key", "type", "default", "meaning"),
            (
                (f"`{one.name}`", _type(hints[one.name]), _default(one), _meaning(comments, cls, one.name))
                for one in dataclasses.fields(cls)
                if one.name != "variables"
            ),
        )


def _meaning(comments: ModuleAnalyzer, cls: type, name: str) -> str:
    return " ".join(comments.attr_docs.get((cls.__name__, name), [""])).strip()


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default is dataclasses.MISSING or one.default in (None, "", ()):
        return ""
    return f"`{str(one.default).lower() if isinstance(one.default, bool) else one.default}`"


_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "names with values"}


def _type(hint: Any) -> str:
    """A type of the model in words, with its bounds."""
    if hasattr(hint, "__metadata__"):
        return _type(get_args(hint)[0]) + "".join(map(_bounds, hint.__metadata__))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return _NAMES[dict]
    if dataclasses.is_dataclass(hint):
        return "section"
    if inner := [one for one in get_args(hint) if one is not type(None)]:
        return " or ".join(map(_type, inner))
    return _NAMES.get(hint, str(hint))


def _bounds(meta: msgspec.Meta) -> str:
    low = (
        f" from {meta.ge:,}" if meta.ge is not None else f" above {meta.gt:,}" if meta.gt is not None else ""
    )
    high = f" to {meta.le:,.15g}" if meta.le is not None else ""
    return f"{low}{high}" + (f", at most {meta.max_length:,}" if meta.max_length else "")


# -- the columns -----------------------------------------------------------------------------------

#: Unit and meaning of each column of a timeline, and of what is derived of it.
MEANING = {
    "planned": ("ns", "when the schedule wanted it; with users: when the user became ready"),
    "started": ("ns", "when the worker took it up"),
    "sending": ("ns", "when its first byte was handed to the socket"),
    "sent": ("ns", "when its last byte was"),
    "first_byte": ("ns", "when the first byte of the response's body arrived"),
    "first_token": ("ns", "of a stream: the first event that carries content"),
    "done": ("ns", "when it ended, well or badly"),
    "seq": ("", "number of the row; retries of a request are tied by it"),
    "worker": ("", "number of the generator process"),
    "user": ("", "number of the virtual user"),
    "step": ("", "the iteration that began the request"),
    "scenario": ("", "the scenario, or the entry of a mix"),
    "operation": ("", "the name of the request"),
    "phase": ("", ", ".join(f"`{one}`" for one in model.PHASES) + ": of the planned instant"),
    "status": ("", "HTTP status, or null"),
    "error": ("", "null, or " + ", ".join(f"`{one}`" for one in model.ERRORS)),
    "error_text": ("", "the server's or socket's words, at most 300 characters, secrets removed"),
    "bytes_sent": ("bytes", "size of the request"),
    "bytes_received": ("bytes", "size of the response"),
    "attempt": ("", "1, or more for a retry"),
    "chunks": ("µs", "of a stream: times since `sent` of each event that carries content"),
    "tokens_out": ("tokens", "as the server counted them, else null"),
    "request_id": ("", "ties the row to the server's samples"),
    "group": ("", "`session.group`; only in files of runs that set it"),
    "response_ms": ("ms", "response time, the wait before sending included"),
    "service_ms": ("ms", "service time: from the last byte sent to the last received"),
    "kickoff_ms": ("ms", "how late the worker took it up; null for a retry"),
    "queue_ms": ("ms", "wait for a connection"),
    "ttft_ms": ("ms", "time to first token, of streams"),
    "tpot_ms": ("ms", "time per output token after the first"),
    "failed": ("", "whether it has an error"),
    "ok": ("", "whether it ended without one"),
    "censored": ("", "a failure that only says it takes longer than it was waited for"),
    "measured": ("", "whether it is in the measured part"),
}


def _columns() -> Iterator[str]:
    yield "# Columns of a timeline"
    yield """
`timeline.parquet` has one row per request. Instants are nanoseconds since the run's start on the monotonic
clock; null means never reached. Columns named `server_…` (ms) follow as `Server-Timing` brings them.
`run.sql` and reports read the columns below and the derived ones.
"""
    yield from _table(
        ("column", "type", "unit", "meaning"),
        ((f"`{name}`", SQL_TYPES[name].lower(), *MEANING[name]) for name in model.COLUMNS),
    )
    yield "## Derived in SQL"
    yield from _table(
        ("column", "unit", "definition", "meaning"),
        ((f"`{name}`", MEANING[name][0], f"`{sql}`", MEANING[name][1]) for name, sql in DERIVED.items()),
    )
    yield "## Metrics\n\nWhat `compare`, `gate` and `trend` judge:\n\n" + ", ".join(
        f"`{name}`" for name in METRICS
    )


# -- Python ----------------------------------------------------------------------------------------


def _python() -> Iterator[str]:
    yield "# Python API\n\n[perfkit in Python](../python.md) shows how it is used."
    entries = [
        ("function", f"perfkit.api.{name}") for name in ("run", "run_sync", "open_run", "runs", "compare")
    ]
    entries += [("class", "perfkit.lab.handle.Run"), ("class", "perfkit.lab.listing.Runs")]
    entries += [("function", f"perfkit.api.{name}") for name in ("make_report", "execute", "import_runs")]
    yield from _auto(entries)
    yield "## Frames\n\nSmall pandas frames that the figures are drawn from. An argument `rows` is"
    yield "`frames.measured(run)`: a handle for queries, not the frame that `run.rows()` returns.\n"
    frames = ("measured", "timeline", "select", "summary", "errors", *FIGURES.values())
    yield from _auto(("function", f"perfkit.frames.{name}") for name in frames)
    yield "## Figures\n\nEach is drawn from its frame, and shown by `figures.show`.\n"
    yield from _auto(("function", f"perfkit.figures.{name}") for name in ("show", "canvas", *FIGURES))
    yield "## In scenarios\n"
    yield from _auto([("function", "perfkit.choosing.choose")])


def _auto(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "```{eval-rst}"
    for kind, name in entries:
        yield f".. auto{kind}:: {name}" + ("\n   :members:\n" if kind == "class" else "\n")
    yield "```\n"
