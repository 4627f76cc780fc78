"""One run as a notebook sees it: a child process that makes it, and a view that watches, on a thread."""

from __future__ import annotations

import contextvars
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.drive.run_process import LAST_S, RunProcess, error_of
from perfkit.errors import BadInput, PerfkitError
from perfkit.hosts import as_list
from perfkit.lab.child import CLEAN_UP_S
from perfkit.redaction import masked_text
from perfkit.text import print_lines

if TYPE_CHECKING:
    from perfkit.drive.one_line import Load
    from perfkit.lab.handle import Run
    from perfkit.lab.listing import Runs
    from perfkit.lab.live import View

#: What is given as a workload: a URL, a file, or a mapping.
Given = str | os.PathLike[str] | Mapping[str, Any] | None
#: The view looks at the run this often.
LOOK_S = 0.4


class Work:
    """What `run` and `run_sync` share; `stop` may be called from any thread, again and again."""

    def __init__(
        self,
        workload: Given,
        changes: Mapping[str, Any],
        data_dir: str | os.PathLike[str] | None,
        allow_targets: Iterable[str],
        live: bool,
    ) -> None:
        self._workload, self._changes = workload, changes
        self._data_dir, self._live = data_dir, live
        self._allow = as_list(allow_targets)
        self._runs: list[Run] = []
        self._stops = self._sent = 0
        self._sent_at = 0.0
        self._done: Future[Run | Runs] = Future()

    def start(self) -> Future[Run | Runs]:
        """Begin on a thread, in the caller's context: what it displays belongs to the caller's cell."""
        work = contextvars.copy_context().run
        threading.Thread(target=work, args=(self._work,), name="perfkit-run", daemon=True).start()
        return self._done

    def stop(self) -> None:
        """End the run cleanly; called again, end the clean-up; once more, end everything."""
        self._stops += 1

    def last_words(self) -> str:
        """What became of a run that was interrupted."""
        if not self._runs:
            return "no run had started"
        run = self._fresh(self._runs[-1])
        left = run.meta.not_cleaned_up
        words = f"run {run.id} is {run.state}, {run.row_count():,} rows are readable"
        return f"{words}; not cleaned up on the target: {left}" if left else words

    def _work(self) -> None:
        try:
            self._done.set_result(self._carry_out())
        except BaseException as error:  # whatever it is, somebody waits for it
            self._done.set_exception(error)

    def _carry_out(self) -> Run | Runs:
        from perfkit.lab.listing import Runs
        from perfkit.lab.live import view_for

        with RunProcess(self._request()) as child:
            view = view_for(self._live)
            try:
                failure = self._watch(child, view)
            finally:
                view.end([self._fresh(run) for run in self._runs])
        if child.complaints and not self._stops:
            print_lines(*child.complaints, err=True)
        if failure is not None:
            raise failure
        runs = [self._fresh(run) for run in self._runs]
        return runs[0] if len(runs) == 1 else Runs(runs)

    def _watch(self, child: RunProcess, view: View) -> PerfkitError | None:
        """Follow the child to its end; returns what failed, if anything."""
        from perfkit.lab.handle import Run

        failure: PerfkitError | None = None
        ended = False
        while (message := child.next(LOOK_S)) is not None:
            self._pass_on(child)
            if "run" in message:
                self._runs.append(Run(Path(message["run"])))
            elif "error" in message:
                failure = error_of(message)
            ended = ended or "ended" in message
            if (message and "error" not in message) or view.shown:
                view.look(self._fresh(self._runs[-1]) if self._runs else None, stopping=self._stops > 0)
        if failure is None and not self._stops:
            failure = self._unfinished(child, ended)
        return failure

    def _unfinished(self, child: RunProcess, ended: bool) -> PerfkitError | None:
        """Why there is no finished run, though nobody here stopped it."""
        kept = f"; {self.last_words()}" if self._runs else ""
        if not ended:
            return PerfkitError(f"the process of the run ended (exit {child.exit_code()}){kept}")
        if any(not self._fresh(run).ended_by_itself for run in self._runs):
            return PerfkitError(f"the run was stopped from outside{kept}")
        return None

    def _pass_on(self, child: RunProcess) -> None:
        """Interrupt the child as often as we were, and once more when the clean-up takes too long."""
        waited_s = time.monotonic() - self._sent_at
        late = (self._sent == 1 and waited_s > CLEAN_UP_S) or (self._sent == 2 and waited_s > LAST_S)
        if self._sent < 3 and (self._sent < self._stops or late):
            self._sent += 1
            self._sent_at = time.monotonic()
            child.interrupt() if self._sent < 3 else child.kill()

    @staticmethod
    def _fresh(run: Run) -> Run:
        """The same run, for its run.json is read once an object."""
        return type(run)(run.path)

    def _request(self) -> bytes:
        from perfkit.store import data_folder

        given, where = _given(self._workload, self._changes)
        request = {
            "workload": given,
            "where": where,
            "data_dir": str(data_folder(self._data_dir).absolute()),
            "allow_targets": self._allow,
            "parent_pid": os.getpid(),
        }
        try:
            return json.dumps(request, default=_plain).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise BadInput(f"{where}: {error}; give numbers, text, lists and mappings") from None


def _given(workload: Given, changes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The workload as a mapping, with the changes laid over it, and what to call it in messages."""
    from perfkit.converting import refuse_unknown_names
    from perfkit.drive.one_line import without_load
    from perfkit.drive.workloads import merged
    from perfkit.model import Workload, spelled_out
    from perfkit.plain_data import require_plain

    given, where = _begin(workload, changes)
    for more in (given, changes):
        require_plain(more, where)
    if "url" in changes:
        raise BadInput(
            "perfkit.run(url=…): a URL is the first argument: perfkit.run('http://127.0.0.1:8000/')"
        )
    load, changes = _load_of(changes)
    refuse_unknown_names(Workload, spelled_out(changes), "perfkit.run")
    begun = without_load(given, changes)
    whole = merged(begun, changes)
    # as on the command line, a URL and a load in place of another need not say how long
    try:
        given = load.over(whole, always=where == "URL" or len(begun) < len(given))
    except BadInput as error:  # which names options of the command line
        raise BadInput(f"perfkit.run: {str(error).replace('--', '')}") from None
    if not given.keys() & {"scenario", "mix"}:
        words = "nothing to run: give perfkit.run a file from params/ or scenario=NAME"
        raise BadInput(f"{words}, or a URL first: perfkit.run('http://127.0.0.1:8000/')")
    return given, where


def _load_of(changes: Mapping[str, Any]) -> tuple[Load, dict[str, Any]]:
    """What is given of the load under the names that the command line has for it, and the other changes."""
    from perfkit.drive.one_line import SHORTEST_S, Load, per_second, seconds

    others, found = dict(changes), {}
    for name in ("users", "requests"):
        if name == "requests" or isinstance(others.get(name), int):
            found[name] = number = others.pop(name, None)
            if number is not None and (type(number) is not int or number < 1):
                raise BadInput(f"perfkit.run: {name}={number!r:.40} is not a whole number of at least 1")
    for name, least in (("duration", SHORTEST_S), ("ramp", 0.0)):
        if (given := others.pop(name, None)) is not None:
            found[f"{name}_s"] = seconds(given, f"perfkit.run: {name}", least)
    if (given := others.pop("rate", None)) is not None:
        found["rate_per_s"] = per_second(given, "perfkit.run: rate")
    if (given := others.pop("stages", None)) is not None:
        stages = (given,) if isinstance(given, str) else given
        found["stages"] = tuple(stages) if isinstance(stages, list | tuple) else ()
        if not found["stages"] or not all(isinstance(one, str) for one in found["stages"]):
            words = "write a list of texts, such as ['10s:20', '1m:20'] or ['10s:200/s']"
            raise BadInput(f"perfkit.run: stages={given!r:.80}: {words}")
    for name, whole in (("users", "arrivals"), ("rate_per_s", "users")):
        if found.get(name) is not None and others.get(whole) is not None:
            words = f"{name.removesuffix('_per_s')} and {whole}={{…}} are two loads"
            raise BadInput(f"perfkit.run: {words}; keep one of them")
    return Load(**found), others


def _begin(workload: Given, changes: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """What `perfkit.run` is given first as the beginning of a workload, and what to call it in messages."""
    from perfkit.drive.one_line import is_url, of_url
    from perfkit.drive.workload_files import read_workload
    from perfkit.model import spelled_out

    for one in (workload, changes.get("scenario")):
        if callable(one):
            name = getattr(one, "__name__", type(one).__name__)
            words = "write it to a file of its own (%%writefile mine.py) and give scenario='mine.py'"
            what = f"the function or class {name:.60}"
            raise BadInput(f"a scenario is a name or a .py file, not {what}; {words}")
    if workload is None or isinstance(workload, Mapping):
        return workload or {}, "perfkit.run"
    takes = f"perfkit.run takes a URL, a .yaml or .py file or a mapping, not {workload!r:.80}"
    if not isinstance(workload, str | os.PathLike):
        raise BadInput(takes)
    text = os.fspath(workload)
    if is_url(text) and changes.get("scenario") is None:
        target = spelled_out(changes).get("target")
        if isinstance(target, Mapping) and target.get("url"):
            raise BadInput(f"{masked_text(text):.80} and target=… are two targets; keep one of them")
        return of_url(text), "URL"
    if is_url(text):
        return {"target": {"url": text}}, "perfkit.run"
    file = _found(Path(text))
    if file.suffix == ".py":
        if changes.get("scenario") is not None:
            raise BadInput(f"{text:.80} and scenario=… are two scenarios; keep one of them")
        return {"scenario": str(file)}, str(file)
    if file.suffix not in (".yaml", ".yml"):
        raise BadInput(f"{takes}; name a scenario with scenario=…")
    return read_workload(file, changes), str(file)


def _found(file: Path) -> Path:
    """A file by its path from here, or else from the folder of data/: notebooks/ lies beside params/."""
    from perfkit.store import data_folder

    beside = data_folder().absolute().parent / file
    return beside if not file.exists() and beside.exists() else file


def _plain(value: Any) -> Any:
    """For JSON: paths as text, numpy's numbers as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a workload cannot hold {type(value).__name__}")
