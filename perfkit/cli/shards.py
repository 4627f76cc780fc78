"""The verb `shard`: take part in a run that another host coordinates."""

from __future__ import annotations

import os
import sys

import click

from perfkit.cli.base import allow_target_option, cli
from perfkit.errors import BadInput


@cli.command("shard")
@click.option("--join", "address", required=True, metavar="HOST:PORT", help="Where the run is coordinated.")
@allow_target_option
def shard_command(address: str, allow_target: tuple[str, ...]) -> None:
    """Generate a part of the load of a run that was started with --on join:N.

    The run's secret is the value of PERFKIT_SECRET, or the first line of standard input.

    \b
    PERFKIT_SECRET=… perfkit shard --join 192.0.2.7:7711 --allow-target 192.0.2.9
    """
    from perfkit.drive.shards.joining import join
    from perfkit.drive.shards.launchers import LEAST_SECRET, SECRET_ENV

    # a step has no business with it
    secret = os.environ.pop(SECRET_ENV, "") or sys.stdin.readline().strip()
    if len(secret) < LEAST_SECRET:
        raise BadInput(f"the run's secret is missing: set {SECRET_ENV} as where the run is coordinated")
    sys.exit(join(address, secret, allow_target))
