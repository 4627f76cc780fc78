"""What the server saw of itself: its samples as frames and figures, and findings in plain words."""

from importlib import import_module
from typing import Any

from perfkit.errors import with_extra

_MODULES = ("client", "figures", "findings", "frames", "recording")


def __getattr__(name: str) -> Any:
    """`from perfkit import observe` is enough for `observe.figures` and the others."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise with_extra(error) from None
