"""The command line. Each verb is a few lines: check the input, call the package, print, choose an exit code.

Exit codes stand in `perfkit.errors`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

import click

from perfkit import interrupts
from perfkit.cli import (  # noqa: F401 - importing them adds their verbs
    batches,
    comparing,
    importing,
    keeping,
    publishing,
    runs,
    scaffolding,
    shards,
)
from perfkit.cli.base import cli, usage_words
from perfkit.errors import (
    EXIT_CLOSED_PIPE,
    EXIT_TOOL_ERROR,
    INTERRUPTIONS,
    BadInput,
    PerfkitError,
    os_error_words,
    with_extra,
)
from perfkit.text import harmless_libraries, plain, print_lines

__all__ = ["cli", "main"]


def _add_server_command() -> None:
    try:
        from agent_server.command import serve_command
    except ModuleNotFoundError as error:
        missing = error  # said when it is asked for

        @cli.command("serve", context_settings={"ignore_unknown_options": True}, add_help_option=False)
        @click.argument("options", nargs=-1)
        def serve_command(options: tuple[str, ...]) -> NoReturn:
            """Serve the reference agent server, which an extra brings."""
            raise with_extra(missing)

    else:
        cli.add_command(serve_command, "serve")


def main() -> None:
    """Entry point: every error becomes one line and its exit code."""
    interrupts.install()
    _add_server_command()
    harmless_libraries()
    stdout = sys.stdout
    try:
        code = cli.main(prog_name="perfkit", standalone_mode=False)
    except PerfkitError as error:
        _end(error, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print_lines(*error.format_message().split("\n"), err=True)
        sys.exit(BadInput.exit_code)
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        _end(f"{usage_words(error)}{where}", BadInput.exit_code)
    except click.ClickException as error:
        _end(error.format_message(), EXIT_TOOL_ERROR)
    except (click.Abort, KeyboardInterrupt) as error:
        notes = getattr(error.__cause__ or error, "__notes__", ())
        _end("; ".join((interrupts.reason(), *notes)), INTERRUPTIONS[interrupts.reason()])
    except SystemExit as ended:  # nobody reads on (`| head`): click exchanges stdout and exits by 1
        sys.exit(ended.code if sys.stdout is stdout else EXIT_CLOSED_PIPE)
    except BrokenPipeError:
        sys.exit(EXIT_CLOSED_PIPE)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and isinstance(missing := with_extra(error), PerfkitError):
            _end(missing, missing.exit_code)
        if interrupts.received():  # SIGHUP: the terminal is gone, and writing to it fails
            _end(interrupts.reason(), INTERRUPTIONS[interrupts.reason()])
        if os.environ.get("PERFKIT_TRACEBACK"):
            raise
        if isinstance(error, OSError):
            if error.filename is None:  # of standard output, perhaps: what it still holds is given up
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _end(os_error_words(error), EXIT_TOOL_ERROR)
        what = plain(f"{type(error).__name__}: {error}", most=500)
        where = "this is a bug in perfkit or its environment; rerun with PERFKIT_TRACEBACK=1"
        _end(f"{what} ({where})", EXIT_TOOL_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


def _end(words: object, code: int) -> NoReturn:
    """Say what is wrong in one line, if there is still somebody to read it, and exit."""
    with contextlib.suppress(OSError):
        print_lines(*f"perfkit: {words}".split("\n"), err=True)
    exec("")  # else Python ends by SIGINT where an interrupt came in code made of text, such as a dataclass
    sys.exit(code)
