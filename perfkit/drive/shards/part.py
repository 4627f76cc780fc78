"""A shard's part of a run, from its context to its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfkit.drive.scenario import Scenario, load_scenario
from perfkit.drive.shards.files import Sender
from perfkit.drive.shards.messages import Package, decode, encode, unpacked
from perfkit.drive.shards.plain import from_plain
from perfkit.drive.shards.shard import Link
from perfkit.drive.worker import Shard, run_shard, warm_up_process
from perfkit.hosts import require_allowed_hosts


def carry_out(link: Link, index: int, given: Mapping[str, Any], *, own: bool) -> None:
    """Prepare, start at the agreed instant, send what there is. given: the invitation; own: whether we are a
    child of the coordinator, which sees the run's folder and may be sent a pickled state."""
    with _own_folder(own) as link.folder:
        _carry_out(link, index, link.folder, given)


def _carry_out(link: Link, index: int, folder: Path | None, given: Mapping[str, Any]) -> None:
    message, travelled = link.wait("context"), folder is not None
    if folder is None:
        size = message.given["pickled"]
        package = decode(message.body[size:], Package)
        scenarios = _ours(package)
        states = pickle.loads(message.body[:size])  # of our own parent, by the pipe we were born with
        folder = package.context.folder
    else:
        package = decode(message.body, Package)
        require_allowed_hosts(package.context.workload, given.get("allow") or ())
        scenarios = _travelled(package, folder)
        states = [from_plain(one, its.module) for one, its in zip(package.states, scenarios, strict=True)]
        if _is_here(package):
            folder = package.context.folder
        else:
            (folder / "segments").mkdir()
            link.sender = Sender(folder, link.send)
    warm_up_process()
    link.send("ready", {"sees_folder": link.sender is None})
    start = link.wait("start").given
    context = dataclasses.replace(package.context, folder=folder, origin_ns=start["origin_ns"])
    link.begun = True
    shard = Shard(context, scenarios, states, index, start["start_ns"], travelled=travelled)
    outcome = run_shard(shard, link)
    if link.sender is not None:
        link.sender.finish(link.is_cut)
    link.send("outcome", {}, encode(outcome))
    link.wait("bye", skip="stop")


def _ours(package: Package) -> tuple[Scenario, ...]:
    refs = [part.ref for part in package.context.parts]
    loaded = {ref: load_scenario(ref) for ref in dict.fromkeys(refs)}
    return tuple(loaded[ref] for ref in refs)


def _travelled(package: Package, folder: Path) -> tuple[Scenario, ...]:
    loaded = {
        ref: unpacked(package.sources[i], folder / f"scenario{i}")
        for i, ref in enumerate(part.ref for part in package.context.parts)
    }
    return tuple(loaded[part.ref] for part in package.context.parts)


def _is_here(package: Package) -> bool:
    """Whether the run's own folder can be seen from here, and not another one of its name."""
    try:
        return (package.context.folder / "run.lock").read_text() == package.folder_nonce
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _own_folder(own: bool) -> Iterator[Path | None]:
    """A folder for what travels; none for a child of the coordinator, which has the run's own."""
    if own:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="perfkit-shard-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
