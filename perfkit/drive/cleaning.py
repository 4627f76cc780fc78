"""Remove later what a run has left on its target: `perfkit cleanup`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence

from perfkit.drive.describe import known_secrets
from perfkit.drive.journal import Removal, being_written, journaled, keep_only, remove
from perfkit.drive.session import Undo
from perfkit.drive.variables import expanded
from perfkit.drive.worker import RunContext, id_prefix, make_recorder, run_on_loop
from perfkit.drive.workloads import tokens_of
from perfkit.errors import BadInput, PerfkitError
from perfkit.hosts import require_allowed_hosts
from perfkit.model import Workload
from perfkit.redaction import NO_SECRETS, STARS, Redactor
from perfkit.store import Run, update_run_json

#: So often is looked whether the workers of a killed run have ended, ten times a second.
_TRIES = 100


def clean_up(run: Run, allow_targets: Iterable[str], headers: Mapping[str, str]) -> Removal:
    """Remove what a run that has ended left on its target, and note in the run what is left now.

    headers: sent with each request, for secrets of the workload's that run.json does not hold. BadInput for a
    run that is under way, and for a target that is not this machine and was not allowed.
    """
    undos = _left(run)
    if not undos:
        return Removal(0, [])
    workload = _workload_of(run, headers)
    require_allowed_hosts(workload, allow_targets)
    tokens = tokens_of(workload)
    context = RunContext(
        folder=run.path,
        workload=workload,
        parts=(),
        origin_ns=0,
        id_prefix=id_prefix(run.path, 0),
        token=tokens.target,
        proxy_auth=tokens.proxy,
        secrets=known_secrets(workload, {}, tokens),
    )
    removal = run_on_loop(_remove_later(context, undos, headers))
    keep_only(run.path, removal.left, Redactor(context.secrets))
    update_run_json(run.path, lambda meta: {"removal_error": removal.told or None})
    return removal


def forget(run: Run) -> Removal:
    """Take no more note of what a run that has ended left on its target: it is not removed."""
    undos = _left(run)
    keep_only(run.path, (), NO_SECRETS)
    update_run_json(run.path, lambda meta: {"removal_error": None})
    return Removal(len(undos), undos)


def _left(run: Run) -> list[Undo]:
    if run.state == "running":
        raise BadInput(f"{run.id} is still running; it cleans up when it ends")
    for _ in range(_TRIES):
        if not being_written(run.path):
            return journaled(run.path)
        time.sleep(0.1)
    raise BadInput(f"a worker of {run.id} is still alive; try again once it has ended")


async def _remove_later(context: RunContext, undos: Sequence[Undo], headers: Mapping[str, str]) -> Removal:
    recorder = make_recorder(context, "cleanup", first_seq=0)
    try:
        return await remove(recorder, undos, headers)
    finally:
        await recorder.transport.close()


def _workload_of(run: Run, headers: Mapping[str, str]) -> Workload:
    """The workload as run.json has it, without headers whose values are not kept there."""
    target, variables = expanded({"target": run.meta.target}, run.id)
    try:
        workload = Workload.from_mapping(run.meta.workload | target, run.id)
    except BadInput as error:
        raise PerfkitError(f"run.json does not say how its target is reached: {error}") from None
    kept = {name: value for name, value in workload.target.headers.items() if STARS not in value}
    aimed = dataclasses.replace(workload.target, headers=kept | dict(headers))
    return dataclasses.replace(workload, target=aimed, variables=variables)
