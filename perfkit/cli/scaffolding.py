"""The verb new: a scenario to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.cli.base import cli, json_option, print_json, refuse_url
from perfkit.text import print_lines


@cli.command("new")
@click.argument("name")
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="FILE",
              help="OpenAPI 3 (JSON or YAML) or a HAR: a function for each operation.")  # fmt: skip
@click.option("--target", metavar="URL", help="Base URL, in place of the one FILE names.")
@json_option
def new_command(name: str, source: Path | None, target: str | None, as_json: bool) -> None:
    """Write NAME.py, a scenario, and NAME.yaml, its workload, to be edited; they run at once.

    A step calls the operations of FILE that only read; what changes data is there to be uncommented. Secrets
    of a HAR are not written, and no file holds a token: it comes from the environment.

    \b
    perfkit new shop --from openapi.json
    perfkit new shop --from recorded.har --target http://127.0.0.1:8000
    """
    from perfkit.scaffold import write_scenario

    if source is not None:
        refuse_url(source)
    done = write_scenario(name, source, target)
    if as_json:
        print_json({**done._asdict(), "scenario": str(done.scenario), "workload": str(done.workload)})
        return
    print_lines(f"wrote {done.scenario} and {done.workload}")
    print_lines(*(f"note: {note}" for note in done.notes))
    print_lines(*(f"first: export {variable}=…" for variable in done.variables))
    print_lines(f"one step: perfkit run {done.workload} --once", f"the load: perfkit run {done.workload}")
