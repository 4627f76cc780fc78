"""perfkit: drive load exactly, keep every request as a row, judge runs honestly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.api import (
        Run,
        Runs,
        compare,
        execute,
        import_runs,
        make_report,
        open_run,
        run,
        run_sync,
        runs,
    )
    from perfkit.choosing import choose

__version__ = "0.1.0"
#: The rooms that a person looks into after `import perfkit`.
_ROOMS = ("compare", "figures", "frames", "lab", "observe")
__all__ = [
    "Run",
    "Runs",
    "__version__",
    "choose",
    "compare",
    "execute",
    "import_runs",
    "make_report",
    "open_run",
    "run",
    "run_sync",
    "runs",
]


def __getattr__(name: str) -> Any:
    """What a notebook uses is loaded when it is first asked for: `import perfkit` stays light."""
    if name == "choose":  # for scenarios: nothing else is loaded in a worker
        from perfkit.choosing import choose

        return choose
    if name not in (*_ROOMS, *__all__):
        raise AttributeError(f"module 'perfkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        if name in _ROOMS:
            return import_module(f"perfkit.{name}")
        return getattr(import_module("perfkit.api"), name)
    except ModuleNotFoundError as error:
        from perfkit.errors import with_extra

        raise with_extra(error) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
