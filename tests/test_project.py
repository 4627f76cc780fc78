"""The files around the package agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from perfkit.drive.workloads import complete, read_yaml
from perfkit.report import parameters_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
REPORTS = sorted((ROOT / "params" / "report").glob("*.yaml"))
#: What the optimisation strategies are predicted to do: no workload (tests/test_strategies.py).
PREDICTIONS = ROOT / "params" / "strategies.yaml"
WORKLOADS = sorted(f for f in (ROOT / "params").rglob("*.yaml") if f not in (*REPORTS, PREDICTIONS))


def tracked_files() -> list[Path]:
    """Every file git knows or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def test_environment_yml_installs_everything() -> None:
    """conda users get perfkit with all its extras, from this folder."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (by_pip,) = [one["pip"] for one in environment["dependencies"] if isinstance(one, dict)]
    assert by_pip == ["-e ./packages/perfkit-probes", "-e ./packages/agent-server", "-e .[all]"]
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras["all"] == [f"perfkit[{','.join(one for one in extras if one != 'all')}]"]
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"python={python}" in environment["dependencies"]


def test_lock_pins_every_dependency() -> None:
    """requirements.lock pins, with hashes, whatever pyproject.toml asks for."""
    projects = [
        PROJECT,
        *(tomllib.loads(file.read_text()) for file in ROOT.glob("packages/*/pyproject.toml")),
    ]
    extras = [
        one
        for project in projects
        for extra in project["project"].get("optional-dependencies", {}).values()
        for one in extra
    ]
    wanted = [
        *(one for project in projects for one in project["project"]["dependencies"]),
        *extras,
        *PROJECT["dependency-groups"]["dev"],
    ]
    wanted = [one for one in wanted if not one.startswith("perfkit")]
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", LOCK, re.M)}
    names = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in wanted}  # type: ignore[index]
    assert names <= pinned
    assert LOCK.count("--hash=sha256:") > len(pinned)


def test_locks_hold_no_addresses() -> None:
    """A lock file says what, never from where."""
    for lock in (ROOT / "requirements.lock", ROOT / "benchmarks" / "requirements-peers.lock"):
        assert not re.search(r"://|--(extra-)?index|--find-links|^-f ", lock.read_text(), re.M)


@pytest.mark.parametrize("file", WORKLOADS, ids=lambda file: file.stem)
def test_every_workload_file_is_valid(file: Path) -> None:
    """Each YAML of params/ passes all the checks that come before a run."""
    complete(read_yaml(file), file.name)


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.stem)
def test_every_report_file_is_valid(file: Path) -> None:
    """Each YAML of params/report/ names parameters its notebook has, with their defaults' types."""
    known = {one.name: one for one in parameters_of(ROOT / "notebooks" / f"{file.stem}.ipynb")}
    assert set(read_yaml(file)) <= set(known)


def test_notebooks_are_stripped() -> None:
    """Notebooks are committed without outputs and execution counts."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for notebook in notebooks:
        for cell in json.loads(notebook.read_text())["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


def test_no_machine_path_in_any_file() -> None:
    """Nothing we commit names a place on somebody's machine."""
    pattern = re.compile(r"/(?:home|Users|root|work)/\w")
    for file in tracked_files():
        if file.suffix in {".parquet", ".png", ".lock"} or file == Path(__file__):
            continue
        found = pattern.search(file.read_text(errors="replace"))
        assert found is None, f"{file.relative_to(ROOT)}: {found}"
