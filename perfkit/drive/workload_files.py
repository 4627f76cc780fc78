"""Files that a workload file names: its scenario, a recording, certificates.

A relative name begins at the folder of the workload file; where nothing has that name there, at the current
folder. What is given elsewhere (the command line, Python) begins at the current folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perfkit.drive.scenario import is_file, names
from perfkit.drive.variables import expanded
from perfkit.drive.workloads import on_disk, read_yaml
from perfkit.errors import BadInput
from perfkit.model import spelled_out
from perfkit.redaction import masked_text
from perfkit.suggestions import did_you_mean, nearest_file

_OF_TARGET = ("ca_file", "client_cert_file", "client_key_file")
#: Parameters of perfkit's own scenarios that name a file. A scenario of one's own gets its texts as they are.
_OF_PARAMS = {"openai_chat": ("file",)}
Found = Callable[[Any, str], Any]


def read_workload(path: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the mapping in a workload file, the files it names as they are reached from the current folder.

    changes: what will be laid over it; names that they replace are not looked for. BadInput for a broken
    file, and for a name that is neither in the file's folder nor in the current one.
    """
    given, folder = read_yaml(path), on_disk(path).parent
    if os.path.realpath(folder) == os.getcwd():
        return given

    def found(name: Any, what: str) -> Any:
        return _found(name, what, folder, str(path))

    return _with_files(given, spelled_out(changes or {}), found)


def _with_files(given: dict[str, Any], changes: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """A workload with `found(name, what)` in place of each name of a file that the changes do not replace."""
    whole = dict(spelled_out(given))
    if "scenario" not in changes:
        whole |= _entry(whole, changes, "", found)
    else:
        whole |= _section(whole, changes, "arrivals", ("file",), "", found)
    whole |= _section(whole, changes, "target", _OF_TARGET, "", found)
    mix = whole.get("mix")
    if isinstance(mix, list) and "mix" not in changes:
        whole["mix"] = [
            {**one, **_entry(one, {}, f"mix[{i}]: ", found)} if isinstance(one, Mapping) else one
            for i, one in enumerate(mix)
        ]
    return whole if whole != spelled_out(given) else given


def _entry(given: Mapping[str, Any], changes: Mapping[str, Any], where: str, found: Found) -> dict[str, Any]:
    """What names files in a workload, or in an entry of its mix."""
    parts = _section(given, changes, "arrivals", ("file",), where, found)
    parts |= _section(given, changes, "params", _OF_PARAMS.get(str(given.get("scenario")), ()), where, found)
    if "scenario" in given:
        parts["scenario"] = found(given["scenario"], f"{where}scenario file")
    return parts


def _section(
    given: Mapping[str, Any],
    changes: Mapping[str, Any],
    section: str,
    fields: tuple[str, ...],
    where: str,
    found: Found,
) -> dict[str, Any]:
    own, replaced = given.get(section), changes.get(section)
    if not isinstance(own, Mapping):
        return {}
    others = replaced if isinstance(replaced, Mapping) else {}
    kept = [name for name in fields if name in own and name not in others]
    return {section: {**own, **{name: found(own[name], f"{where}{section}.{name}") for name in kept}}}


def _found(name: Any, what: str, folder: Path, where: str) -> Any:
    """A name as it is reached from the current folder; what is no name of a file stays as it is."""
    is_scenario = what.endswith("scenario file")
    if not isinstance(name, str) or not name:
        return name
    try:
        meant = str(expanded({"name": name}, where)[0]["name"])
    except BadInput:  # said where the whole workload is checked
        return name
    if is_scenario and not is_file(meant):
        if meant not in names() and os.path.isfile(folder / f"{meant}.py"):
            raise BadInput(f"{where}: unknown scenario {meant!r:.80}; did you mean {meant}.py?")
        return name
    if os.path.isabs(meant):
        return name
    if os.path.exists(folder / meant):
        # a variable in the name is expanded later, nothing in the folder is
        return os.path.join(str(folder).replace("${", "$${"), name)
    if os.path.exists(meant):
        return name
    if os.path.exists(ours := on_disk(Path(meant))):
        return str(ours)
    near = did_you_mean(folder / meant) if nearest_file(folder / meant) else did_you_mean(Path(meant))
    shown = masked_text(meant)
    raise BadInput(
        f"{where}: {what} {shown:.200} is neither in {folder}, the folder of {Path(where).name}, nor in"
        f" {os.getcwd()}{near}"
    )
