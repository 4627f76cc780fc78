"""Scenarios: one file each, found by name here or by path anywhere.

A scenario file has `async def step(session, state, rng)`, one virtual user's turn, and may have

- `@dataclass class Params`: its parameters with their defaults;
- `async def setup(session, params) -> state`: run once before the load (state must be picklable);
- `async def teardown(session, state)`: run once after it;
- `def load(params) -> dict`: the load (`users` or `arrivals`) when the workload names none.

Without `setup`, the state is the params. The file's docstring is the scenario's meaning.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from perfkit.errors import BadInput, unknown
from perfkit.model import convert


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
        return inspect.cleandoc(self.module.__doc__ or "")

    @cached_property
    def step(self) -> Any:
        """`async step(session, state, rng)`."""
        return self.module.step

    def params(self, given: Mapping[str, Any]) -> Any:
        """The scenario's parameters, checked; BadInput for an unknown name or a wrong type."""
        cls = getattr(self.module, "Params", NoParams)
        return convert(cls, given, f"params of {self.name}")

    def default_load(self, params: Any) -> dict[str, Any]:
        """`users` or `arrivals` for a workload that names neither."""
        load = getattr(self.module, "load", None)
        return dict(load(params)) if load else {"users": {"count": 1, "iterations": 100}}

    async def setup(self, session: Any, params: Any) -> Any:
        """Prepare the target; returns the state the steps get."""
        setup = getattr(self.module, "setup", None)
        return await setup(session, params) if setup else params

    async def teardown(self, session: Any, state: Any) -> None:
        """The scenario's own clean-up; `session.on_teardown` requests come after it."""
        teardown = getattr(self.module, "teardown", None)
        if teardown:
            await teardown(session, state)


def names() -> list[str]:
    """The scenarios perfkit brings."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load_scenario(ref: str) -> Scenario:
    """Load a scenario by name or by the path of its file; BadInput says what is wrong with it."""
    if ref.endswith(".py") or "/" in ref:
        path = Path(ref).resolve()
        scenario = Scenario(path.stem, str(path), _import_file(path))
    elif ref in names():
        scenario = Scenario(ref, ref, importlib.import_module(f"perfkit.scenarios.{ref}"))
    else:
        raise unknown("scenario", ref, names())
    step = getattr(scenario.module, "step", None)
    if not inspect.iscoroutinefunction(step) or len(inspect.signature(step).parameters) != 3:
        raise BadInput(f"scenario {ref}: it needs `async def step(session, state, rng)`")
    params = getattr(scenario.module, "Params", NoParams)
    if not dataclasses.is_dataclass(params):
        raise BadInput(f"scenario {ref}: Params must be a dataclass")
    return scenario


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"scenario file {path.name} not found in {path.parent}")
    name = f"perfkit_scenario_{path.stem}"  # a fixed name, so that states unpickle in other processes
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"scenario file {path.name}: {type(error).__name__}: {error}") from None
    return module
