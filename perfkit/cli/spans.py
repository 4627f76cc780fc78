"""Times and rates as options of the command line take them."""

from __future__ import annotations

import re

import click

from perfkit.durations import EXAMPLES, duration_ns, how_to_write
from perfkit.errors import BadInput

#: Bounds of the workload, told under the option's name here.
SHORTEST_S, LONGEST_S = 0.001, 30 * 86_400
LEAST_PER_S, MOST_PER_S = 0.0001, 1_000_000
_PER_S = {"/s": 1.0, "": 1.0, "/min": 1 / 60}
_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(/s|/min|)\s*", re.ASCII).fullmatch
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII).fullmatch


def duration(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a time of the command line in seconds: `30s`, `2m`, `300ms`, or a bare number of seconds."""
    if text is None:
        return None
    try:
        found = float(text) if _NUMBER(text.strip()) else duration_ns(text) / 1e9
    except ValueError:
        raise BadInput(f"{param.opts[0]} {text!r:.80} is not a time; {how_to_write(text)}") from None
    least = 0 if param.name == "ramp" else SHORTEST_S
    if not least <= found <= LONGEST_S:
        bounds = f"give at least {least:g} and at most {LONGEST_S:,.0f} s"
        raise BadInput(f"{param.opts[0]} {text!r:.80}: {bounds}, such as {EXAMPLES}")
    return found


def per_second(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a rate of the command line per second: `200`, `200/s`, `30/min`."""
    found = _RATE(text) if text is not None else None
    if text is not None and found is None:
        raise BadInput(f"{param.opts[0]} {text!r:.80} is not a rate; write 200, 200/s or 30/min")
    rate = None if found is None else float(found[1]) * _PER_S[found[2]]
    if rate is not None and not LEAST_PER_S <= rate <= MOST_PER_S:
        words = f"give at least {LEAST_PER_S} and at most {MOST_PER_S:,} per second"
        raise BadInput(f"{param.opts[0]} {text!r:.80}: {words}")
    return rate
