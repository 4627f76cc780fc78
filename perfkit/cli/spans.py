"""Times and rates as options of the command line take them."""

from __future__ import annotations

import click


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a time of the command line in seconds: `30s`, `2m`, `300ms`, or a bare number of seconds."""
    from perfkit.drive.one_line import SHORTEST_S, seconds

    return None if text is None else seconds(text, param.opts[0], 0 if param.name == "ramp" else SHORTEST_S)


def per_second(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a rate of the command line per second: `200`, `200/s`, `30/min`."""
    from perfkit.drive import one_line

    return None if text is None else one_line.per_second(text, param.opts[0])
