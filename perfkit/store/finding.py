"""Where runs are, and which one is meant."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from perfkit.errors import BadInput, PerfkitError, no_place
from perfkit.store.reading import Run
from perfkit.suggestions import nearest

_SHOWN = 5  #: of the runs that a name could mean, the newest


def as_path(given: object, name: str) -> Path:
    """A path that was given as text or as a path; BadInput, under the parameter's name, for anything else."""
    if not isinstance(given, str | os.PathLike):
        raise BadInput(f"{name}: expected a path, got {given!r:.60}")
    return Path(given)


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder with runs/: as given, else PERFKIT_DATA_DIR, else the nearest data/ here or above.

    A notebook may be executed from anywhere: papermill runs it in the caller's folder, JupyterLab in its own.
    """
    if given is not None and given != "":
        return as_path(given, "data_dir")
    if told := os.environ.get("PERFKIT_DATA_DIR"):
        return Path(told)
    here = Path.cwd()
    near = (folder / "data" for folder in (here, *here.parents))
    return next((f for f in near if (f / "runs").is_dir() or (f / "sample").is_dir()), Path("data"))


def existing_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """`data_folder`, to be read from: BadInput where one was given and is not there."""
    folder = data_folder(given)
    if given and not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; data_dir is the one that holds runs/")
    return folder


def list_runs(data_dir: Path) -> list[Run]:
    """Return all runs below data_dir/runs, oldest first."""
    folder = data_dir / "runs"
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PerfkitError(no_place(f"read {folder}", error)) from None
    found = [Run(folder / name) for name in names if os.path.lexists(folder / name / "run.json")]
    return sorted(found, key=lambda run: (run.id[:15], _created(run), run.id))


def no_runs(data_dir: Path) -> str:
    """Return what is said of a folder without runs: where a folder above has some, or how to make one."""
    above = _with_runs_above(data_dir)
    way_out = f"there are some in {above}: --data-dir {above}" if above else "`perfkit run` makes one"
    return f"no runs in {data_dir / 'runs'}; {way_out}"


def _with_runs_above(data_dir: Path) -> Path | None:
    """The nearest data folder above that has runs; None without one, and where another folder was named."""
    above = Path("..")
    for _ in Path.cwd().parents if data_dir == Path("data") else ():
        with contextlib.suppress(PerfkitError):
            if list_runs(above / "data"):
                return above / "data"
        above /= ".."
    return None


def _created(run: Run) -> str:
    with contextlib.suppress(PerfkitError):
        return run.meta.created
    return ""


def find_run(name: str, data_dir: Path, *, whole: bool = False) -> Run:
    """Find a run by path, id, start or end of an id, or `latest`; BadInput when none or several match.

    whole: accept only a path or a whole id, for what cannot be undone; links are not followed.
    """
    if not name:
        raise BadInput("the name of the run is empty; `perfkit ls` lists runs")
    if os.path.lexists(os.path.join(name, "run.json")):
        return Run(Path(os.path.abspath(name)) if whole else Path(name).resolve())
    runs = {run.id: run for run in list_runs(data_dir)}
    if name == "latest" and runs and not whole:
        return list(runs.values())[-1]
    found = [i for i in runs if i == name] or [i for i in runs if i.startswith(name) or i.endswith(name)]
    if whole and name == "latest":
        raise BadInput("give the whole id (`perfkit ls` lists them): `latest` may have changed")
    if whole and found and found != [name]:
        raise BadInput(f"give the whole id: {name!r} fits {', '.join(found[-_SHOWN:])}; nothing was done")
    if len(found) == 1:
        return runs[found[0]]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BadInput(f"{name!r} could be {', '.join(found[-_SHOWN:])}{more}; type more of the id")
    if name == "latest" and not runs:
        raise BadInput(no_runs(data_dir))
    if not runs and _with_runs_above(data_dir):
        raise BadInput(f"no run {name!r}: {no_runs(data_dir)}")
    close = nearest(name, runs)
    hint = f"did you mean {close}?" if close else "`perfkit ls` lists runs"
    raise BadInput(f"no run {name!r} in {data_dir / 'runs'}; {hint}")
