"""What `perfkit run` is asked for, as a workload; and as YAML, to be kept."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perfkit import safe_yaml
from perfkit.converting import refuse_unknown_names
from perfkit.drive.one_line import Load, Request, is_url, of_url
from perfkit.drive.scenario import names
from perfkit.drive.variables import expanded, put_back
from perfkit.drive.workload_files import read_workload
from perfkit.drive.workloads import merged, parse_assignments, parse_headers
from perfkit.errors import BadInput
from perfkit.model import Workload
from perfkit.redaction import STARS, masked, masked_text
from perfkit.store import shipped
from perfkit.suggestions import nearest, nearest_file

_NOT_EMPTY = {
    "on": "give local:N, ssh:HOST1,HOST2, dask:tcp://HOST:8786 or join:N",
    "target": "give a URL",
    "scenario": "give a NAME or FILE.py",
}


def workload_of(
    what: str | None, options: Mapping[str, Any], *, once: bool = False
) -> tuple[dict[str, Any], str]:
    """Return the workload that `run` is asked for by a URL, a file or nothing and its options, and its name.

    once: it is for one step, which needs no end of its own.
    BadInput for what does not go together. The workload itself is not checked yet.
    """
    if what is not None and not what.strip():
        raise BadInput("what to run is empty: give a URL, a FILE from params/, or --scenario NAME")
    for name, example in _NOT_EMPTY.items():  # of a variable that is not set, perhaps
        if options[name] is not None and not options[name].strip():
            raise BadInput(f"--{name} is empty: {example}, or leave it out")
    one_line = what is not None and is_url(what) and options["scenario"] is None
    headers = parse_headers(options["headers"])
    request = Request(options["method"], options["body_json"], options["data"], headers)
    changes = parse_assignments(options["changes"], "--set")
    params = {"params": parse_assignments(options["params"], "--param")} if options["params"] else {}
    changes = merged(changes, params)
    changes |= {"scenario": options["scenario"]} if options["scenario"] else {}
    changes = merged(changes, {"target": {"url": options["target"]}} if options["target"] else {})
    given, where = _begin(what, options["scenario"], options["target"], request, changes)
    refuse_unknown_names(Workload, changes, "-s")
    given = merged(given, changes)
    if one_line:  # the type of the body is the request's
        headers.pop("content-type", None)
    given = merged(given, {"target": {"headers": headers}} if headers else {})
    for name in ("thresholds", "abort", "tags"):
        if options[name]:
            before = given.get(name) or []
            if not isinstance(before, list):
                raise BadInput(f"{where if what else '--set'}, {name}: expected a list, got {before!r}")
            given |= {name: [*before, *options[name]]}
    given = merged(given, {"spread": {"on": options["on"]}} if options["on"] else {})
    load = Load(*(options[name] for name in ("users", "rate", "duration", "ramp", "requests", "stages")))
    given = load.over(given, always=one_line)
    users = given.get("users")
    if once and isinstance(users, Mapping) and not users.keys() & {"iterations", "duration_s", "stages"}:
        given["users"] = {**users, "iterations": 1}
    if not given.keys() & {"scenario", "mix"} and what and not is_url(what):
        for name in given:
            if meant := nearest(str(name), ("scenario", "mix")):
                raise BadInput(f"{where}: {name!r:.60}: did you mean {meant!r}?")
        raise BadInput(f"{where}: scenario is missing: add `scenario: http_get`, or --scenario NAME|FILE.py")
    if not given.keys() & {"scenario", "mix"}:
        raise BadInput("nothing to run: give a URL, a FILE from params/, or --scenario NAME")
    return given, where


def require_target(own: str, given: Mapping[str, Any], url: str | None) -> None:
    """BadInput where a person's own scenario is run and no server is named: perfkit's knows other paths."""
    if own.endswith(".py") and url is None and "server" not in given:
        own_server = "-s server={} starts perfkit's reference server, to be loaded instead"
        raise BadInput(f"{own}: no target; add --target URL; {own_server}")


def users_without_work(given: Mapping[str, Any]) -> str:
    """What to know of users who find no step left, empty where each has one."""
    users = given.get("users")
    if not isinstance(users, Mapping):
        return ""
    count, steps = users.get("count"), users.get("iterations")
    if not (isinstance(count, int) and isinstance(steps, int) and 0 < steps < count):
        return ""
    return f"note: {steps:,} steps are at most {steps:,} users at work, of {count:,}"


def _begin(
    what: str | None,
    scenario: str | None,
    target: str | None,
    request: Request,
    changes: Mapping[str, Any],
) -> tuple[dict[str, Any], str]:
    """What stands behind `run` as the beginning of a workload, and what messages call it."""
    if what is not None and is_url(what):
        if target:
            raise BadInput(f"{masked_text(what)} and --target are two targets; keep one of them")
        if scenario is None:
            return of_url(what, request), "URL"
        given: dict[str, Any] = {"target": {"url": what}}
    elif what is None:
        given = {}
    elif what.endswith(".py"):
        if scenario:
            raise BadInput(f"{what} and --scenario are two scenarios; keep one of them")
        given = {"scenario": what}
    else:
        given = _from_yaml(what, changes)
    if extra := request.options():
        raise BadInput(f"{extra[0]} is for a URL; a scenario says in its file what it sends")
    return given, "options" if what is None or is_url(what) else what


_RECORDINGS = (".log", ".jtl", ".csv")


def _from_yaml(text: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    file = Path(text)
    _refuse_other_kinds(file)
    try:
        given = read_workload(file, changes)
    except BadInput:
        if file.suffix.lower() in _RECORDINGS and file.is_file():
            replayed = f"--scenario replay -s arrivals.shape=replay -s arrivals.file={shlex.quote(text)}"
            raise BadInput(
                f"{file} is a recording, not a workload; `perfkit run {replayed} --target URL` sends it again"
                f" (docs/replay.md), `perfkit import {shlex.quote(text)}` reads its times"
            ) from None
        near = None if os.path.exists(file) else _meant(text)  # of any name, also of what can be none
        if near is None:
            raise
        raise BadInput(near) from None
    if given.keys() & {"openapi", "swagger"}:
        raise BadInput(f"{file} describes an API; `perfkit new NAME --from {file}` makes a scenario of it")
    return given


def _meant(text: str) -> str | None:
    """What to write in place of a FILE that is not there, None where nothing is near."""
    if text in names():
        return f"{text} is a scenario, not a file; write `perfkit run --scenario {text}`"
    if re.match(r"\w+:/|https?/", text):
        return f"{masked_text(text)!r:.200} is not a URL that perfkit loads; give http://host or https://host"
    if re.match(r"[a-z_.]+=", text):
        return f"{masked_text(text)!r:.200} is not a FILE; write it behind -p (parameters) or -s (all else)"
    if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|/s)?", text):
        return f"{text} is not a FILE or URL; write it behind its option: --users, --rate or --duration"
    file = Path(text)
    near = _near(file)
    if near is None and file.suffix not in (".yaml", ".yml") and _HOST(text):
        return f"there is no such file, and a URL needs its scheme; write `perfkit run http://{masked_text(text)}`"
    return f"cannot read {text}: no such file; did you mean {near}?" if near else None


#: `localhost`, `name:port`, or a name with a dot, with a path or without.
_HOST = re.compile(r"(?:localhost|[\w-]+:\d+|[\w-]+(?:\.[\w-]+)+(?::\d+)?)(?::\d+)?(?:[/?].*)?").fullmatch


def _near(file: Path) -> Path | None:
    """The file that was meant: its name without a suffix, or a slip in it; also among perfkit's own."""
    ours = file.parent == Path("params") and not file.parent.is_dir()
    near = nearest_file(Path(str(shipped("params"))) / file.name if ours else file)
    return file.with_name(near.name) if near is not None else None


def _refuse_other_kinds(file: Path) -> None:
    """BadInput for a file that another verb, or no verb, reads."""
    kinds = {
        ".har": f"`perfkit new NAME --from {file}` makes a scenario of it, `perfkit import` reads its times",
        **dict.fromkeys((".js", ".ts"), "scripts of k6 are not run; `perfkit new NAME` starts a scenario"),
        ".jmx": "plans of JMeter are not run; `perfkit new NAME` starts a scenario",
        ".json": f"a workload is YAML; of an OpenAPI description `perfkit new NAME --from {file}` makes one",
    }
    if words := kinds.get(file.suffix.lower()):
        raise BadInput(f"{file}: {words}")


def as_yaml(given: Mapping[str, Any]) -> Iterable[str]:
    """Return a workload as the lines of a YAML file; secrets are ***, which its first line says."""
    shown = _plain(masked(given))
    put_back(shown, expanded(given, "workload")[1])
    text = safe_yaml.dump(shown, width=100)
    if STARS in text:
        yield f"# {STARS}: a secret, which is not kept; give it again with -H, or by target.token_env"
    yield from text.splitlines()


def _plain(given: Any) -> Any:
    """Nested values as PyYAML's safe part writes them."""
    if isinstance(given, Mapping):
        return {name: _plain(value) for name, value in given.items()}
    return [_plain(one) for one in given] if isinstance(given, list | tuple) else given
