"""The public Python API: `perfkit.run` and the other functions of the package."""

from perfkit.importing import import_runs
from perfkit.lab import open_run, run, run_sync, runs
from perfkit.report import execute, make_report

__all__ = ["execute", "import_runs", "make_report", "open_run", "run", "run_sync", "runs"]
