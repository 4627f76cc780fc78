"""Run folders: segments written while a run is on, one Parquet timeline at its end, readable at any moment.

data/runs/20261123-101500-agent_mass_creation-3f2a/
    run.json            what was run, where, with what; state and generator health
    run.lock            held (flock) by the running process, so a killed run is known to be dead
    segments/*.parquet  rows, about once a second, each by temporary name, fsync and rename
    timeline.parquet    all segments merged, at the end
    report/             executed notebooks and HTML
"""

from perfkit.store.finding import data_folder, find_run, list_runs, remove_runs
from perfkit.store.reading import PROBES_SCHEMA, Run, read_probes
from perfkit.store.writing import RunFolder, write_atomically, write_probe_segment, write_segment

__all__ = [
    "PROBES_SCHEMA",
    "Run",
    "RunFolder",
    "data_folder",
    "find_run",
    "list_runs",
    "read_probes",
    "remove_runs",
    "write_atomically",
    "write_probe_segment",
    "write_segment",
]
