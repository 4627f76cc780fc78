"""Scenarios: one file each, found by name here or by path anywhere.

A scenario file has `async def step(session, state, rng)`, one virtual user's turn, and may have

- `@dataclass class Params`: its parameters with their defaults;
- `async def setup(session, params) -> state`: run once before the load (state must be picklable);
- `async def teardown(session, state)`: run once after it;
- `def load(params) -> dict`: the load (`users` or `arrivals`) when the workload names none;
- `def recording(params, arrivals) -> Recording`: what is sent when, for arrivals of shape replay; the state.

Without `setup`, the state is the params. The file's docstring is the scenario's meaning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import sys
import traceback
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from perfkit.converting import convert
from perfkit.drive.recording import Recording
from perfkit.errors import BadInput, PerfkitError, unknown
from perfkit.model import Workload
from perfkit.suggestions import nearest_file
from perfkit.text import harmless_prints, plural

_OURS = Path(__file__).parents[1] / "scenarios"
_SOURCE = "__perfkit_source__"  #: where a loaded scenario file keeps its text
#: What a scenario may define and how it is called; only the first is needed.
_CALLED = {
    "step": "step(session, state, rng)",
    "setup": "setup(session, params)",
    "teardown": "teardown(session, state)",
}


@dataclass(frozen=True)
class NoParams:
    """The parameters of a scenario that has none."""


@dataclass(frozen=True)
class Scenario:
    """A loaded scenario file."""

    name: str
    ref: str  #: what `load_scenario` takes to load it again, also in another process
    module: ModuleType

    @property
    def doc(self) -> str:
        """What the scenario means, in its author's words."""
        words = self.module.__doc__
        return inspect.cleandoc(words) if isinstance(words, str) else ""

    @property
    def label(self) -> str:
        """What messages call it: `scenario http_get`, `scenario file mine.py`."""
        return _label(self.ref)

    @property
    def folder(self) -> Path:
        """Where its file is, and the data files it names."""
        return Path(str(self.module.__file__)).parent

    @cached_property
    def step(self) -> Any:
        """`async step(session, state, rng)`."""
        return self.module.step

    def params(self, given: Mapping[str, Any]) -> Any:
        """The scenario's parameters, checked; BadInput for an unknown name, a wrong type, or a broken Params.

        They can be written to run.json and, as the state of a scenario without `setup`, sent to workers.
        """
        with _guard(self.ref):
            found = convert(getattr(self.module, "Params", NoParams), given, f"params of {self.label}")
        with _guard(self.ref, "Params cannot be written to run.json: "):
            json.dumps(plain_params(found), default=str)
        if not getattr(self.module, "setup", None):
            with _guard(self.ref, "Params cannot be sent to worker processes: "):
                pickle.dumps(found)
        return found

    def recording(self, params: Any, workload: Workload) -> Recording | None:
        """What a replay sends and when; None for any other load. BadInput where one needs the other."""
        read, arrivals = getattr(self.module, "recording", None), workload.arrivals
        replays = arrivals is not None and arrivals.shape == "replay"
        if replays and read is None:
            raise BadInput(f"{self.label}: arrivals of shape replay are for scenario replay")
        if read is None:
            return None
        if not replays:
            raise BadInput(f"{self.label}: it needs arrivals: {{shape: replay, file: FILE}}")
        with _guard(self.ref):
            found = read(params, arrivals)
            if not isinstance(found, Recording):
                raise BadInput(f"{self.label}: recording returned {type(found).__name__}, not a Recording")
            return found.after_warmup(workload.warmup_s)

    def default_load(self, params: Any) -> dict[str, Any]:
        """`users` or `arrivals` for a workload that names neither; BadInput for a broken `load`."""
        load = getattr(self.module, "load", None)
        if load is None:
            return {"users": {"count": 1, "iterations": 100}}
        if not callable(load):
            what = "write `def load(params):` and return a dict with `users` or `arrivals`"
            raise BadInput(f"{self.label}: load is of type {type(load).__name__}, not a function; {what}")
        with _guard(self.ref):
            found = load(params)
            if inspect.iscoroutine(found):
                found.close()  # else Python warns that nobody awaited it
            if not isinstance(found, Mapping) or not found.keys() & {"users", "arrivals"}:
                what = f"load returned {found!r:.80}; it must return a dict with `users` or `arrivals`"
                raise BadInput(f"{self.label}: {what}")
            return dict(found)

    async def setup(self, session: Any, params: Any) -> Any:
        """Prepare the target; returns the state the steps get."""
        setup = getattr(self.module, "setup", None)
        return await setup(session, params) if setup else params

    async def teardown(self, session: Any, state: Any) -> None:
        """The scenario's own clean-up; `session.on_teardown` requests come after it."""
        teardown = getattr(self.module, "teardown", None)
        if teardown:
            await teardown(session, state)


@dataclass(frozen=True)
class Member:
    """One scenario of a run: its name there, its checked parameters, its part of the workload."""

    name: str
    scenario: Scenario
    params: Any
    workload: Workload


@dataclass(frozen=True)
class Mix:
    """Several scenarios that run at once, in the order of the workload's `mix`."""

    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """Their names, joined by `+`; at most 60 characters."""
        return "+".join(member.name for member in self.members)[:60]

    @property
    def doc(self) -> str:
        """What they mean, a line each."""
        lines = ((member.name, member.scenario.doc.partition("\n")[0]) for member in self.members)
        return "\n".join(f"{name}: {doc}" for name, doc in lines)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of each by its name."""
        return {member.name: member.params for member in self.members}


def members_of(scenario: Scenario | Mix, params: Any, workload: Workload) -> tuple[Member, ...]:
    """Return the scenarios of a run: one, or those of a mix."""
    if isinstance(scenario, Mix):
        parts = zip(scenario.members, workload.members(), strict=True)
        return tuple(dataclasses.replace(member, workload=part) for member, part in parts)
    return (Member(scenario.name, scenario, params, workload),)


def plain_params(params: Any) -> dict[str, Any]:
    """Return parameters, or those of each scenario of a mix, as numbers, texts, lists and mappings."""
    if isinstance(params, Mapping):
        return {name: plain_params(one) for name, one in params.items()}
    return dict(msgspec.to_builtins(dataclasses.asdict(params)))


def names() -> list[str]:
    """The scenarios perfkit brings."""
    return sorted(p.stem for p in _OURS.glob("*.py") if not p.stem.startswith("_"))


def load_scenario(ref: str) -> Scenario:
    """Load a scenario by name or by the path of its file; BadInput says what is wrong with it."""
    if not is_file(ref) and ref not in names():
        if os.path.isfile(f"{ref}.py"):  # False, too, of what can be no name
            raise BadInput(f"unknown scenario {ref!r:.80}; did you mean {ref}.py?")
        raise unknown("scenario", ref, names())
    with _guard(ref):
        if is_file(ref):
            path = Path(os.path.realpath(ref))
            scenario = Scenario(path.stem, str(path), _import_file(path))
        else:
            scenario = Scenario(ref, ref, importlib.import_module(f"perfkit.scenarios.{ref}"))
        for name, call in _CALLED.items():
            _refuse_uncallable(scenario, name, call)
        params = getattr(scenario.module, "Params", NoParams)
        if not (isinstance(params, type) and dataclasses.is_dataclass(params)):
            raise BadInput(f"{scenario.label}: Params must be a dataclass")
    return scenario


def is_file(ref: str) -> bool:
    """Return whether a scenario is named by the path of its file."""
    return ref.endswith(".py") or "/" in ref


def _label(ref: str) -> str:
    return f"scenario file {ref.rpartition('/')[2]}" if is_file(ref) else f"scenario {ref}"


def _refuse_uncallable(scenario: Scenario, name: str, call: str) -> None:
    """BadInput unless the scenario's function can be called and awaited as `call` says, or is not needed."""
    function: Any = getattr(scenario.module, name, None)
    if function is None and name != "step":
        return
    if fault := _fault(scenario.module, name, function, call):
        raise BadInput(f"{scenario.label}: {fault}; it needs `async def {call}`")


def _fault(module: ModuleType, name: str, function: Any, call: str) -> str:
    """What keeps a scenario's function from being called and awaited as `call` says, empty for nothing."""
    if function is None:
        own = [one.__name__ for one in vars(module).values()
               if inspect.isfunction(one) and one.__module__ == module.__name__]  # fmt: skip
        return f"no function {name}{'; found ' * bool(own)}{', '.join(own[:5])}"
    if not callable(function):
        return f"{name} is of type {type(function).__name__}, not a function"
    if not inspect.iscoroutinefunction(function):
        return f"{name} has a yield" if inspect.isasyncgenfunction(function) else f"{name} is not async"
    given = call.partition("(")[2].rstrip(")")
    try:
        signature = inspect.signature(function)
    except TypeError:
        return f"the signature of {name} cannot be read"
    try:
        signature.bind(*given.split(","))
    except TypeError:
        return f"{name} takes {plural(len(signature.parameters), 'argument')}, it gets {given}"
    own = [one.name for one in signature.parameters.values()
           if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]  # fmt: skip
    if _misplaced(own, given.split(", ")):
        return f"{name} gets ({given}) in this order, not ({', '.join(own)})"
    return ""


def _misplaced(own: list[str], given: list[str]) -> bool:
    """Whether an argument of ours has the name of another one; the state may be called params, as it is the
    params without a setup."""
    known = {"session", "rng", "params", "state"}
    same = {"params": "state"}
    places = zip(own, given, strict=False)
    return any(name in known and same.get(name, name) != same.get(place, place) for name, place in places)


def _import_file(path: Path) -> ModuleType:
    if not path.exists():
        near = nearest_file(path, (".py",))
        hint = f"; did you mean {near.name}?" if near is not None else ""
        raise BadInput(f"scenario file {path.name} not found in {path.parent}{hint}")
    if not path.is_file():  # opening a FIFO would wait for ever
        raise BadInput(f"scenario file {path.name} in {path.parent} is not a regular file")
    # a fixed name, so that states unpickle in other processes; two files of one name are two scenarios
    name = f"perfkit_scenario_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    source, there = path.read_bytes(), sys.modules.get(name)
    # the same text is the same module: two sides of a comparison load a file twice, and a state pickles only
    # while its class is the one that the module has
    if there is not None and vars(there).get(_SOURCE) == source:
        return there
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"scenario file {path.name}: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    vars(module)[_SOURCE] = source
    return module


@contextlib.contextmanager
def _guard(ref: str, what: str = "") -> Iterator[None]:
    """Run the scenario's own code: whatever it raises is BadInput with its file, line and words.

    Only an interrupt is not: it comes from the user. What the code prints is out of the way of --json.
    """
    try:
        with harmless_prints():
            yield
    except (PerfkitError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit among others
        raise BadInput(f"{_label(ref)}{_line(ref, error)}: {what}{_words(error)}") from None


def _line(ref: str, error: BaseException) -> str:
    """`, line 12`: where in the scenario's file it happened, as far as that is known."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((str(error.filename), error.lineno))
    lines = [line for file, line in places if is_file(ref) and Path(file).name == Path(ref).name]
    return f", line {lines[-1]}" if lines else ""


def _words(error: BaseException) -> str:
    """The error's class and message; of a ValueError, by which values are refused, the message alone."""
    try:
        words = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:  # it is the scenario's class, and as broken as anything
        words = ""
    if type(error) is ValueError and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
