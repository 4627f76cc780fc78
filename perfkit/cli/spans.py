"""Times and rates as options of the command line take them."""

from __future__ import annotations

import click

from perfkit import durations


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a time of the command line in seconds: `30s`, `2m`, `300ms`, or a bare number of seconds."""
    if text is None:
        return None
    return durations.seconds(text, param.opts[0], 0 if param.name == "ramp" else durations.SHORTEST_S)


def per_second(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a rate of the command line per second: `200`, `200/s`, `30/min`."""
    return None if text is None else durations.per_second(text, param.opts[0])
