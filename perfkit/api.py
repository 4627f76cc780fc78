"""The public Python API: `perfkit.run` and the other functions of the package."""

from perfkit.compare.experiment import compare_named as compare
from perfkit.importing import import_runs
from perfkit.lab import Run, Runs, open_run, run, run_sync, runs
from perfkit.report import execute, make_report

__all__ = [
    "Run",
    "Runs",
    "compare",
    "execute",
    "import_runs",
    "make_report",
    "open_run",
    "run",
    "run_sync",
    "runs",
]
