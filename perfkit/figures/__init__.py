"""Figures and tables of a run: functions from a small frame of `perfkit.frames` to matplotlib Axes or HTML.

`show(axes)` makes what a notebook displays: an inline SVG with alt text and a caption, in the colours of the
page it stands in. Nothing here reads a run's rows; a figure draws at most a few thousand points.
"""

from perfkit.errors import with_extra

try:
    import matplotlib  # noqa: F401  what draws is an extra
except ModuleNotFoundError as error:
    raise with_extra(error) from None

from perfkit.figures.axes import *
from perfkit.figures.distribution import *
from perfkit.figures.drawing import *
from perfkit.figures.kickoff import *
from perfkit.figures.markup import *
from perfkit.figures.over_time import *
from perfkit.figures.streaming import *
from perfkit.figures.style import *
from perfkit.figures.tables import *
