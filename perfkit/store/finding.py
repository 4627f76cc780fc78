"""Where runs are, and which one is meant."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from perfkit.errors import BadInput, PerfkitError, nearest
from perfkit.store.reading import Run


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder with runs/: the one given, else PERFKIT_DATA_DIR, else the nearest data/ here or above.

    A notebook may be executed from anywhere: papermill runs it in the caller's folder, JupyterLab in its own.
    """
    if given is not None and str(given) not in ("", "."):
        return Path(given)
    if told := os.environ.get("PERFKIT_DATA_DIR"):
        return Path(told)
    here = Path.cwd()
    near = (folder / "data" for folder in (here, *here.parents))
    return next((f for f in near if (f / "runs").is_dir() or (f / "sample").is_dir()), Path("data"))


def list_runs(data_dir: Path) -> list[Run]:
    """All runs below data_dir/runs, oldest first; ids tell seconds, run.json the rest."""
    found = [Run(path.parent) for path in (data_dir / "runs").glob("*/run.json")]
    return sorted(found, key=lambda run: (run.id[:15], _created(run), run.id))


def _created(run: Run) -> str:
    with contextlib.suppress(PerfkitError):
        return str(run.meta.get("created"))
    return ""


def find_run(name: str, data_dir: Path, *, whole: bool = False) -> Run:
    """The run meant by a path, an id, an id's start or end, or `latest`; BadInput when none or several.

    `whole`: only a path or a whole id will do, for what cannot be undone.
    """
    if not name:
        raise BadInput("the name of the run is empty; `perfkit ls` lists runs")
    if (Path(name) / "run.json").exists():
        return Run(Path(name).resolve())
    runs = {run.id: run for run in list_runs(data_dir)}
    if name == "latest" and runs and not whole:
        return list(runs.values())[-1]
    found = [i for i in runs if i == name] or [i for i in runs if i.startswith(name) or i.endswith(name)]
    if whole and name == "latest":
        raise BadInput("give the whole id, `perfkit ls` lists them: `latest` may be another one by now")
    if whole and found and found != [name]:
        raise BadInput(f"give the whole id: {name!r} fits {', '.join(found)}; nothing was done")
    if len(found) == 1:
        return runs[found[0]]
    if found:
        raise BadInput(f"{name!r} could be {', '.join(found)}; give more of the id")
    close = nearest(name, runs)
    hint = f"did you mean {close}?" if close else "`perfkit ls` lists runs"
    raise BadInput(f"no run {name!r} in {data_dir / 'runs'}; {hint}")


def remove_runs(runs: Iterable[Run]) -> Iterator[Run]:
    """Delete run folders, each once, and yield them; when one is still running none is deleted."""
    once = list(dict.fromkeys(runs))
    for run in once:
        if run._is_alive():
            raise BadInput(f"{run.id} is still running; stop it first, nothing was removed")
    for run in once:
        shutil.rmtree(run.path)
        yield run
