"""Run folders: segments written while a run is on, one Parquet timeline at its end, readable at any moment.

data/runs/20261123-101500-agent_mass_creation-3f2a/
    run.json            what was run, where, with what; state and generator health
    run.lock            held (flock) by the running process, so a killed run is known to be dead
    undo-*.jsonl        requests that remove what the run made on its target; gone when that is done
    segments/*.parquet  rows, about once a second, each by temporary name, fsync and rename;
                        many are joined to larger ones on the way
    timeline.parquet    all segments merged, at the end
    report/             executed notebooks and HTML
"""

from perfkit.store.contents import contents_of, left_on_target
from perfkit.store.files import (
    hold,
    is_held,
    locked,
    new_folder,
    read_json,
    read_regular,
    remove_if_empty,
    replacing,
    require_regular,
    shipped,
    write_atomically,
    write_json,
)
from perfkit.store.finding import as_path, data_folder, existing_folder, find_run, list_runs, no_runs
from perfkit.store.leftovers import IMPORTING, Leftover, remove_leftovers, survey
from perfkit.store.listing import listed
from perfkit.store.metadata import Metadata
from perfkit.store.reading import PROBES_SCHEMA, Run, read_probes, require_run
from perfkit.store.removing import remove_runs, why_not_removed
from perfkit.store.writing import RunFolder, update_run_json, write_probe_segment, write_segment

__all__ = [
    "IMPORTING",
    "PROBES_SCHEMA",
    "Leftover",
    "Metadata",
    "Run",
    "RunFolder",
    "as_path",
    "contents_of",
    "data_folder",
    "existing_folder",
    "find_run",
    "hold",
    "is_held",
    "left_on_target",
    "list_runs",
    "listed",
    "locked",
    "new_folder",
    "no_runs",
    "read_json",
    "read_probes",
    "read_regular",
    "remove_if_empty",
    "remove_leftovers",
    "remove_runs",
    "replacing",
    "require_regular",
    "require_run",
    "shipped",
    "survey",
    "update_run_json",
    "why_not_removed",
    "write_atomically",
    "write_json",
    "write_probe_segment",
    "write_segment",
]
