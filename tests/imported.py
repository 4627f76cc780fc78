"""Files of other tools, imported: where there is one run in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perfkit.importing import import_runs
from perfkit.store import Run


def import_file(path: Path, **options: Any) -> Run:
    """The one run in a file."""
    (run,) = import_runs(path, **options)
    return run
