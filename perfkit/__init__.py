"""perfkit: drive load exactly, keep every request as a row, judge runs honestly."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.notebook import open_run, run, run_sync, runs

__version__ = "0.1.0"
__all__ = ["__version__", "open_run", "run", "run_sync", "runs"]


def __getattr__(name: str) -> Any:
    """What a notebook uses is loaded when it is first asked for: `import perfkit` stays light."""
    if name in __all__:
        from perfkit import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'perfkit' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
