"""perfkit in a notebook: runs started from a cell, watched live, listed and opened as rich objects.

    run = await perfkit.run("../params/http_get.yaml", target="http://127.0.0.1:8000")
    run = perfkit.run_sync(scenario="http_get", users={"count": 5, "duration_s": 10})
    perfkit.runs().filter(tag="before")

The load runs in a process of its own (`perfkit.lab.child`), so that neither a busy kernel nor a live
view disturbs what is measured; the event loop of the notebook is not patched and never blocked.
"""

from perfkit.lab.handle import Run
from perfkit.lab.listing import Runs, open_run, runs
from perfkit.lab.nested import enable_nested_asyncio
from perfkit.lab.starting import RunCancelled, RunInterrupted, run, run_sync

__all__ = [
    "Run",
    "RunCancelled",
    "RunInterrupted",
    "Runs",
    "enable_nested_asyncio",
    "open_run",
    "run",
    "run_sync",
    "runs",
]
