"""The command line's root: options that verbs share, and what becomes of an error."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from perfkit import __version__
from perfkit.errors import BadInput
from perfkit.redaction import masked_text
from perfkit.suggestions import nearest
from perfkit.text import for_terminal, print_lines

#: Verbs that remove something: no slip in another verb leads to them.
DESTRUCTIVE = frozenset({"rm", "prune"})


class Verbs(click.Group):
    """A click group that answers a mistyped verb with the nearest one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """See click."""
        if args and args[0] not in self.commands:
            close = nearest(args[0], self.commands, last=DESTRUCTIVE)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(sorted(self.commands))}"
            if "://" in args[0] or args[0].endswith((".yaml", ".yml", ".py")):
                hint = f"write `perfkit run {masked_text(args[0])}`"
            hint = "write `perfkit --help`, or `perfkit VERB --help`" if args[0] == "help" else hint
            hint = "write `perfkit --version`" if args[0] == "version" else hint
            raise BadInput(f"unknown verb {masked_text(args[0])!r:.200}; {hint}")
        return super().resolve_command(ctx, args)


_REDIRECTS = "write -s target.follow_redirects=true"
_ANY_CERTIFICATE = "write -s target.verify_tls=false"
_COOKIE = "write -H 'Cookie: NAME=VALUE'; -s target.cookies=true keeps those that the server sets"
#: Options of curl, k6, hey and others that no setting is named like, and what does it here.
_ELSEWHERE = {
    **dict.fromkeys(("-L", "--location"), _REDIRECTS),
    **dict.fromkeys(("-k", "--insecure", "--insecure-skip-tls-verify"), _ANY_CERTIFICATE),
    **dict.fromkeys(("-b", "--cookie", "--cookies"), _COOKIE),
    **dict.fromkeys(("-A", "--user-agent"), "write -H 'User-Agent: TEXT'"),
    **dict.fromkeys(
        ("-F", "--form"), "a scenario sends forms and files: session.post(…, files=…), see docs/scenarios.md"
    ),
    **dict.fromkeys(
        ("-e", "--env"), "a workload reads the environment: ${NAME}; a parameter is -p NAME=VALUE"
    ),
    **dict.fromkeys(("-x", "--proxy"), "write -s target.transport=httpx -s target.proxy=URL"),
    "--http2": "write -s target.transport=httpx -s target.http2=true",
    "--disable-keepalive": "write -s target.keepalive_s=0",
}


def setting_of(name: str) -> str | None:
    """Return the setting that an option was meant for, as `-s` takes it; None where none is near."""
    import dataclasses

    from perfkit.model import Arrivals, Target, Users, Workload

    types = {
        f"{before}{field.name}": str(field.type)
        for before, section in (
            ("target.", Target),
            ("users.", Users),
            ("arrivals.", Arrivals),
            ("", Workload),
        )
        for field in dataclasses.fields(section)
        if field.name != "variables"
    }
    plain = name.lower().replace("-", "_")
    found = next((one for one in types if one.rpartition(".")[2] in (plain, f"{plain}_s")), None)
    found = found or next((one for one in types if nearest(name, [one.rpartition(".")[2]])), None)
    if found is None:
        return None
    return f"{found}={'true' if types[found] == 'bool' else '1s' if found.endswith('_s') else '…'}"


def no_such_option(error: click.NoSuchOption) -> str:
    """Return what is said of an option that a verb does not have: the one that was meant, or which has it."""
    context = error.ctx
    if context is None:
        return error.format_message()
    given = error.option_name
    options = [name for one in context.command.get_params(context) for name in one.opts if name[:1] == "-"]
    words = f"{context.command_path} has no option {given}"
    if given == "-V" and "--version" in options:
        return f"{words}; did you mean --version?"
    if "--set" in options and (here := _ELSEWHERE.get(given)):
        return f"{words}; {here}"
    if close := nearest(given, [name for name in options if name.startswith("--")]):
        return f"{words}; did you mean {close}?"
    if "--set" in options and (setting := setting_of(given.lstrip("-"))):
        return f"{words}; write -s {setting}"
    verbs = context.command.commands if isinstance(context.command, click.Group) else {}
    owner = next(
        (name for name, verb in verbs.items() if any(given in one.opts for one in verb.params)), None
    )
    return f"{words}; it belongs behind its verb: perfkit {owner} … {given}" if owner else words


def usage_words(error: click.UsageError) -> str:
    """Return what is said of options and arguments that click refuses: what was given, what is allowed."""
    if isinstance(error, click.NoSuchOption):
        return no_such_option(error)
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx is not None:
        return f"{error.ctx.command_path} needs {error.param.human_readable_name.upper()}"
    if isinstance(error, click.BadOptionUsage) and "requires an argument" in error.message:
        return f"{error.option_name} needs a value"
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    if kind is None:
        return error.format_message().rstrip(".")
    assert isinstance(error, click.BadParameter)
    assert error.param is not None
    name, value = error.param.opts[0], error.message.partition(" is not ")[0]
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        whole = "whole " if isinstance(kind, click.types.IntParamType) else ""
        return f"{name} {value} is not a {whole}number{_bounds(kind)}"
    return f"{name}: {error.message.rstrip('.')}"


def _bounds(kind: object) -> str:
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is None:
        return "" if high is None else f" of at most {high:,}"
    return f" of at least {low:,}" if high is None else f" from {low:,} to {high:,}"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="perfkit")
def cli() -> None:
    """Load a server, keep every request as a row, judge runs honestly.

    \b
    Exit codes: 0 ok, 1 tool error, 2 bad input, 3 run invalid or nothing to judge, 4 thresholds missed, an
    abort condition met, or regressed, 5 inconclusive (gate --strict), 129 terminal closed, 130 Ctrl-C,
    141 output was closed (| head), 143 SIGTERM.
    """


def data_dir_option(command: Any) -> Any:
    """`--data-dir`, shared by every verb that reads or writes runs."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        default=lambda: Path(os.environ.get("PERFKIT_DATA_DIR", "data")),
        help="Folder that holds runs/ (default: ./data, or PERFKIT_DATA_DIR).",
    )(command)


allow_target_option = click.option(
    "--allow-target", multiple=True, metavar="HOST", help="Permit a target that is not this machine."
)


def refuse_url(file: Path) -> None:
    """Raise BadInput for a URL where a file is read; a path has one slash of its two."""
    if scheme := re.match(r"https?:/+", str(file), re.IGNORECASE):
        url = masked_text(f"{scheme[0].rstrip('/')}//{str(file)[scheme.end() :]}")
        name = Path(url.partition("?")[0]).name
        raise BadInput(f"{url:.200} is not a file; download it first: curl -o {name:.80} {url:.200}")


def print_json(value: Any) -> None:
    """A value for programs: ASCII, what does not print in JSON's own escapes (which leave DEL alone)."""
    print_lines(*json.dumps(value, indent=1, default=str).replace("\x7f", "\\u007f").split("\n"))


def print_run(run: Any, as_json: bool, *, summary: bool = True, brief: bool = False) -> None:
    """One run, by default with its summary, for programs or for a person; brief: see `describe_run`."""
    from perfkit.observe.recording import results_with_findings
    from perfkit.store.words import describe_run

    if as_json:
        print_json(details_of(run, summary=summary))
    else:
        results = results_with_findings(run) if summary else None
        print_lines(*describe_run(run, summary=summary, results=results, brief=brief).split("\n"))


def details_of(run: Any, *, summary: bool = True) -> dict[str, Any]:
    """One run for programs, by default with its summary and findings."""
    from perfkit.observe.recording import results_with_findings
    from perfkit.store.words import details

    results = results_with_findings(run) if summary else None
    return details(run, summary=summary, results=results)


def print_comparison(kept: Any, as_json: bool = False) -> None:
    """A kept comparison, for programs or for a person."""
    from perfkit.compare.gate import level
    from perfkit.compare.keeping import brief
    from perfkit.compare.nouns import ratio_words, verdict_words

    found = kept.comparison
    if as_json:
        print_json(brief(kept) | found.to_mapping())
        return
    print_lines(found.words)
    for side in (found.a, found.b):
        for run, why in side.left_out:
            print_lines(f"  excluded: {run}: {'; '.join(why)}")
    for text in found.forced:
        print_lines(f"  forced: {text}")
    if found.results:
        print_lines(f"  over the {found.part} of every run:")
    for one in found.results:
        if one.operation == found.results[0].operation:
            told = f"{level(one, one.a)} → {level(one, one.b)}"
            star = "*" if one.primary else " "
            change = f"{ratio_words(one, found.options):<28} {verdict_words(one)}"
            print_lines(f"  {star} {one.metric:<12} {told:<28} {change}")
    for text in found.notes:
        print_lines(f"  note: {text}")
    if kept.tags:
        print_lines(f"  tags: {', '.join(kept.tags)}")
    if kept.note:
        print_lines(f"  its note: {kept.note}")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def foreign_words(run: Any) -> str:
    """What others put into the folder of a run, for a line that says what happens to the run."""
    from perfkit.store import contents_of

    contents = contents_of(run.path)
    return f"; kept, not written by perfkit: {contents.words}" if contents.foreign else ""


def print_table(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    cells = [[row.get(name) for name in columns] for row in rows]
    texts = [columns, *(tuple("" if cell is None else for_terminal(cell) for cell in row) for row in cells)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    for text in texts:
        print_lines("  ".join(part.ljust(width) for part, width in zip(text, widths, strict=True)).rstrip())
