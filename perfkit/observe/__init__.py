"""What the server saw of itself: its samples as frames and figures, and findings in plain words."""

from importlib import import_module
from typing import Any

_MODULES = ("figures", "findings", "frames")


def __getattr__(name: str) -> Any:
    """`from perfkit import observe` is enough for `observe.figures` and the others."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
