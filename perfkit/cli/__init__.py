"""The command line. Each verb is a few lines: check the input, call the package, print, choose an exit code.

Exit codes stand in `perfkit.errors`.
"""

from __future__ import annotations

import os
import sys

import click

from perfkit.cli import batches, comparing, keeping, runs  # noqa: F401 - importing them adds their verbs
from perfkit.cli.base import cli
from perfkit.errors import EXIT_INTERRUPTED, EXIT_TOOL_ERROR, BadInput, PerfkitError

__all__ = ["cli", "main"]


def _add_server_command() -> None:
    from perfkit.server.command import serve_command

    cli.add_command(serve_command, "serve")


def main() -> None:
    """Entry point: every error becomes one line and its exit code."""
    _add_server_command()
    try:
        code = cli.main(standalone_mode=False)
    except PerfkitError as error:
        click.echo(f"perfkit: {error}", err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        click.echo(f"perfkit: {error.format_message()}{where}", err=True)
        sys.exit(BadInput.exit_code)
    except click.ClickException as error:
        click.echo(f"perfkit: {error.format_message()}", err=True)
        sys.exit(EXIT_TOOL_ERROR)
    except (click.Abort, KeyboardInterrupt):
        click.echo("perfkit: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_TOOL_ERROR)
    except Exception as error:
        if os.environ.get("PERFKIT_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        click.echo(f"perfkit: {what[:500]} (a fault of perfkit's or the system's; "
                   "PERFKIT_TRACEBACK=1 shows where)", err=True)  # fmt: skip
        sys.exit(EXIT_TOOL_ERROR)
    sys.exit(code if isinstance(code, int) else 0)
