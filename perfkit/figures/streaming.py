"""How streamed answers arrived: time to first token, time between chunks, chunks and tokens a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from perfkit.figures.axes import legend
from perfkit.figures.distribution import bars, marks
from perfkit.figures.drawing import axes_for, drawn_from, nothing
from perfkit.figures.style import caption, format_level, ms, say
from perfkit.frames.streaming import LEAST_MS

__all__ = ["streaming"]


_per_s = partial(format_level, kind="rate")


class _Kind(NamedTuple):
    name: str
    counted: str
    words: Callable[[float], str]


_KINDS = {
    "ttft": _Kind("time to first token, since sent", "responses", ms),
    "inter_chunk": _Kind("time between two chunks", "gaps", ms),
    "chunks_per_s": _Kind("chunks per second of a response, first to last", "responses", _per_s),
    "tokens_per_s": _Kind("tokens per second of a response, as counted by the server", "responses", _per_s),
}


@drawn_from("streaming")
def streaming(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw histograms of successful streamed responses, one below the other; into `ax` only the first."""
    kinds = [kind for kind in _KINDS if kind in frame.attrs]
    if not kinds:
        failed = frame.attrs["failed_streams"]
        why = f"All {failed:,} streamed responses of this run failed." if failed else ""
        return nothing(axes_for(ax), why or "No response of this run was streamed.")
    panels = [ax] if ax is not None else _panels(len(kinds))
    for panel, kind in zip(panels, kinds, strict=False):
        _panel(panel, frame, kind)
    told = [_told(frame, kind) for kind in kinds]
    counts = [f"{frame.attrs[k]['n']:,} {_KINDS[k].counted}" for k in kinds if not k.endswith("_per_s")]
    if "tokens_per_s" not in kinds:
        counts.append("tokens: not reported by the server")
    if (frame["left"][frame["kind"] == "inter_chunk"] <= LEAST_MS).any():
        counts.append(f"those below {ms(LEAST_MS)} in the first bin")
    if frame.attrs["failed_streams"]:
        counts.append(f"{frame.attrs['failed_streams']:,} failed streams excluded")
    if frame.attrs["one_in"] > 1:
        counts.append(f"sampled: 1 in {frame.attrs['one_in']:,} responses")
    return say(panels[0], "Streamed responses; " + "; ".join(told) + ".", caption(frame, *counts))


def _panels(count: int) -> list[Axes]:
    figure: Figure = axes_for(None, 2.3 * count).get_figure(root=True)  # type: ignore[assignment]
    figure.clear()
    return list(np.atleast_1d(figure.subplots(count)))


def _panel(panel: Axes, frame: pd.DataFrame, kind: str) -> None:
    one = _KINDS[kind]
    bars(panel, frame[frame["kind"] == kind], frame.attrs[kind]["log"], one.words)
    if one.words is not ms:
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    marks(panel, frame.attrs[kind]["marks"], one.words)
    panel.set_xlabel(one.name)
    panel.set_ylabel(f"{one.counted} per bin")
    panel.spines[["top", "right"]].set_visible(False)
    legend(panel)


def _told(frame: pd.DataFrame, kind: str) -> str:
    one = _KINDS[kind]
    quantiles = ", ".join(f"{p} {one.words(x)}" for p, x in frame.attrs[kind]["marks"].items())
    return f"{one.name} of {frame.attrs[kind]['n']:,} {one.counted}: {quantiles or 'too few for a quantile'}"
