"""From a YAML file and command-line options to a checked workload, its scenario and its parameters."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from perfkit import safe_yaml
from perfkit.converting import convert
from perfkit.drive.scenario import Member, Mix, Scenario, load_scenario
from perfkit.drive.schedule import require_requests
from perfkit.drive.shards.launchers import processes_of
from perfkit.drive.transport import header_lines, tls_context
from perfkit.drive.variables import expanded
from perfkit.drive.worker import make_transport, run_on_loop
from perfkit.errors import BadInput
from perfkit.hosts import addresses_of, split_address
from perfkit.model import Spread, Target, Tokens, Workload, spelled_out
from perfkit.plain_data import LONGEST, require_plain
from perfkit.redaction import Redactor, is_secret_name, masked_text, redacted_errors, secrets_of
from perfkit.store import read_regular, shipped, slo
from perfkit.store.remote import folder_url
from perfkit.suggestions import did_you_mean


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; BadInput says where it is broken."""
    text = _read_text(path)
    try:
        given = safe_yaml.load(text)
    except yaml.reader.ReaderError as error:
        where = f"{path}, line {_line(text, error.position)}"
        raise BadInput(f"{where}: not YAML: the character {chr(error.character)!r} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = ", ".join(filter(None, (error.context, error.problem)))
        problem = _shown_problem(problem, "\n".join(text.splitlines()[line - 1 : line]))
        raise BadInput(f"{path}, line {line}: not YAML: {problem}") from None
    if not isinstance(given, dict):
        raise BadInput(f"{path}: expected names with values, such as `scenario: http_get`")
    return given


def _shown_problem(problem: str, source: str) -> str:
    """What PyYAML says of a text, without what it quotes where the text may hold a secret."""
    return problem if masked_text(source) == source else re.sub(r"'.*'|(?<=\*)\S+", "***", problem)


def on_disk(path: Path) -> Path:
    """Return where a file is: `params/` is perfkit's own where the current folder has no such file."""
    if path.parts[:1] != ("params",) or ".." in path.parts:
        return path
    ours = shipped("params").joinpath(*path.parts[1:])
    return ours if ours.exists() and not path.exists() else path


def _read_text(path: Path) -> str:
    try:
        raw = read_regular(on_disk(path), LONGEST)
    except OSError as error:
        near = did_you_mean(path, (".yaml", ".yml"))
        words = "no such file" if near else error.strerror
        raise BadInput(f"cannot read {path}: {words}{near}") from None
    except ValueError as error:  # a null byte in the name
        raise BadInput(f"cannot read {str(path)!r:.200}: {error}") from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}, line {_line(raw, error.start)}: not UTF-8 text") from None


def _line(text: Any, position: int) -> int:
    """The number of the line, from 1, of a position in a text or in bytes."""
    return len(text[: position + 1].splitlines())


def parse_assignments(assignments: Iterable[str], option: str) -> dict[str, Any]:
    """`a.b=value` texts as a nested mapping; values are read as YAML: `3` is a number."""
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        hidden = "***" if is_secret_name(name.strip()) else masked_text(value)
        shown = f"{option} {f'{masked_text(name)}{equals}{hidden}'[:80]!r}"
        if not equals or not name.strip():
            raise BadInput(f"{shown}: write it as name=value")
        *sections, last = name.strip().split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise BadInput(f"{shown}: {section} was already given a value; give one or the other")
        try:
            place[last] = safe_yaml.load(value)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "it contains a control character"
            problem = _shown_problem(problem, f"{name}: x" if hidden == "***" else value)
            raise BadInput(f"{shown}: the value is not a number, word or list: {problem}") from None
    require_plain(found, option)
    return found


def parse_headers(given: Iterable[str]) -> dict[str, str]:
    """`NAME: VALUE` texts as a mapping; BadInput, which does not repeat the value, for what is no header."""
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            raise BadInput(f"header {name!r:.20}: write it as NAME: VALUE")
        try:
            found[name.strip().lower()] = value.strip()
            header_lines([(name.strip(), value.strip())], "host")
        except ValueError as error:
            raise BadInput(f"header {name!r:.80}: {error}") from None
    return found


def merged(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with `changes` laid over it, mapping by mapping; both may say `target: URL`."""
    result, changes = dict(spelled_out(given)), spelled_out(changes)
    for name, value in changes.items():
        inner = result.get(name)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[name] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def complete(given: Mapping[str, Any], where: str) -> tuple[Workload, Scenario | Mix, Any]:
    """Check what can be checked before a run: names, types, target, scenario, its parameters, schedule.

    Returns the workload, its scenario or mix, and the parameters; of a mix by the names of its scenarios.

    Raises BadInput, without the secrets among the values.
    """
    require_plain(given, where)
    whole, variables = expanded(given, where)
    with redacted_errors(redactor_for(given)):
        require_plain(whole, where)
        workload, scenario, params = _complete(whole, where)
    return dataclasses.replace(workload, variables=variables), scenario, params


def _complete(given: Mapping[str, Any], where: str) -> tuple[Workload, Scenario | Mix, Any]:
    given = _with_processes(given, where)
    workload = Workload.from_mapping(given, where)
    _require_server_options(workload, where)
    if workload.spread is None or workload.spread.on.startswith("local"):
        _require_cores(workload.processes, where)
    try_target(workload.target)
    if workload.spread is not None and workload.spread.folder:
        folder_url(workload.spread.folder, "")
    if workload.spread is not None and workload.spread.on.startswith("ssh:") and not workload.target.url:
        raise BadInput(
            f"{where}: target.url is missing: the server that perfkit starts here cannot be reached from"
            f" {workload.spread.on!r:.80}"
        )
    if workload.slo is not None:
        slo.parse(workload.slo)
    if workload.mix:
        mix = _mix(workload, where)
        return workload, mix, mix.params
    try:
        scenario = load_scenario(workload.scenario)
        params = scenario.params(workload.params)
        if workload.users is None and workload.arrivals is None:
            load = scenario.default_load(params)
            workload = Workload.from_mapping(dict(given) | load, f"load of {scenario.label}")
        recording = scenario.recording(params, workload)
        if recording is not None and workload.arrivals is not None:
            _refuse_own_length(given)
            arrivals = recording.arrivals(workload.arrivals, workload.warmup_s)
            return dataclasses.replace(workload, arrivals=arrivals), scenario, params
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if workload.arrivals is not None:
        require_requests(workload.arrivals, workload.seed, workload.warmup_s)
    return workload, scenario, params


def _refuse_own_length(given: Mapping[str, Any]) -> None:
    """BadInput for a rate or a duration beside a recording, which has its own."""
    for name in ("rate_per_s", "duration_s", "spacing"):
        if name in given["arrivals"]:
            raise BadInput(f"arrivals.{name}: the recording says it; leave it out, or change speed")


def _mix(workload: Workload, where: str) -> Mix:
    """The scenarios of a mix, checked; each has a name of its own."""
    members: dict[str, Member] = {}
    load = functools.cache(load_scenario)  # a file that is there twice is one module
    for i, (entry, part) in enumerate(zip(workload.mix, workload.members(where), strict=True)):
        try:
            scenario = load(entry.scenario)
            params = scenario.params(entry.params)
        except BadInput as error:
            raise BadInput(f"{where}, mix[{i}]: {error}") from None
        name = entry.name or scenario.name
        if name in members:
            raise BadInput(f"{where}, mix[{i}]: {name} is the name of another one; give this one a `name`")
        members[name] = Member(name, scenario, params, part)
        if part.arrivals is not None:
            if part.arrivals.shape == "replay":
                raise BadInput(f"{where}, mix[{i}]: a replay cannot be part of a mix; run it by itself")
            require_requests(part.arrivals, part.seed, part.warmup_s)
    return Mix(tuple(members.values()))


def _require_server_options(workload: Workload, where: str) -> None:
    """BadInput for options of a server where none is started, and for names that are no options."""
    for name in workload.server:
        if workload.target.url is not None:
            words = f"{where}: server.{name:.60} is for the server perfkit starts itself"
            raise BadInput(f"{words}; with target.url there is none; remove one of the two")
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise BadInput(
                f"{where}: server.{name!r:.60} is not an option of `perfkit serve`; see its --help"
            )


def _with_processes(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What is given, with the processes that its `spread` asks for; of this host alone it says no more."""
    if not isinstance(given.get("spread"), Mapping):
        return given
    spread = convert(Spread, given["spread"], f"{where}, spread")
    try:
        count = processes_of(spread)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    here = {"spread": None} if spread.on.startswith("local") and not spread.folder else {}
    if count is None:
        return {**given, **here}
    if given.get("processes", count) not in (1, count):
        words = f"spread.on {spread.on!r:.80} asks for {count:,}, processes for {given['processes']!r:.20}"
        raise BadInput(f"{where}: {words}; leave processes out")
    return {**given, "processes": count, **here}


def _require_cores(processes: int, where: str) -> None:
    """BadInput for more worker processes than this machine could ever keep busy, or hold in memory."""
    cores = os.cpu_count() or 1
    most = max(16, 4 * cores)
    if processes > most:
        words = f"{where}: processes {processes:,}: this machine has {cores} cores"
        raise BadInput(f"{words}; give at most {most}")


def try_target(target: Target) -> None:
    """Raise BadInput when no transport can be made for a target: a wrong url, proxy, certificate file, …"""
    for field, urls in addresses_of(target):
        for url in urls if field != "target" else ():
            parts = split_address(url, field)
            if field == "target.proxy" and (parts.path.strip("/") or parts.query):
                raise BadInput(f"{field}: give http://host:port or https://host:port, without a path")
            if field != "target.proxy" and parts.username is not None:
                raise BadInput(f"{field}: give http://host:port…, without a password")

    for kind in ("probes", "metrics"):
        may_come = target.url is None and kind == "probes"  # with the server perfkit starts
        if getattr(target, f"{kind}_token_env") and not getattr(target, f"{kind}_url") and not may_come:
            raise BadInput(f"target.{kind}_token_env is for target.{kind}_url; give both or neither")
    if target.proxy_auth_env and not target.proxy:
        raise BadInput("target.proxy_auth_env is for target.proxy; give both or neither")
    if target.ca_file or target.client_cert_file or target.client_key_file:
        tls_context(target)  # probes and metrics use it even where the target itself is http

    async def make() -> None:
        await make_transport(dataclasses.replace(target, url=target.url or "http://localhost")).close()

    try:
        header_lines(target.headers.items(), "host")
        run_on_loop(make())
    except ValueError as error:
        raise BadInput(f"target: {error}") from None


def with_server(workload: Workload, url: str, probes: tuple[str, ...]) -> Workload:
    """Return the workload against a server that perfkit started, with the probes of its instances.

    Each instance has a port of its own; all of them are the target, and get its token.
    """
    target = dataclasses.replace(workload.target, url=url)
    if target.probes_url is None and probes:
        own = target.probes_token_env or target.token_env
        target = dataclasses.replace(target, probes_url=probes, probes_token_env=own)
    return dataclasses.replace(workload, target=target)


def tokens_of(workload: Workload) -> Tokens:
    """Return the tokens in the environment variables a target names; BadInput for one that cannot be sent."""
    target = workload.target
    return Tokens(
        _token("token_env", target.token_env),
        _token("probes_token_env", target.probes_token_env),
        _token("metrics_token_env", target.metrics_token_env),
        _token("proxy_auth_env", target.proxy_auth_env, "user:password"),
    )


def _token(field: str, name: str | None, what: str = "token") -> str | None:
    if name is None:
        return None
    token = os.environ.get(name)
    if not token:
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", name):  # it may be the token itself
            raise BadInput(f"target.{field}: give the name of an environment variable that holds the {what}")
        raise BadInput(f"target.{field} names {name}, which is not set; export {name}=… first")
    if not token.isascii() or not token.isprintable():
        raise BadInput(f"the {what} in {name} contains characters not allowed in a header")
    if what == "user:password" and ":" not in token:
        raise BadInput(f"target.{field}: {name} must contain user:password")
    return token


def redactor_for(given: Mapping[str, Any]) -> Redactor:
    """Return what removes the secrets of a workload that was not checked yet, and of its tokens."""
    whole, variables = expanded(given, "workload") if isinstance(given, Mapping) else ({}, ())
    target = spelled_out(whole).get("target")
    target = target if isinstance(target, Mapping) else {}
    kinds = ("token_env", "probes_token_env", "metrics_token_env", "proxy_auth_env")
    named = [name if isinstance(name := target.get(kind), str) else "" for kind in kinds]
    given_by_name = (value for one in variables for value in one.values)
    return Redactor((*secrets_of(whole, Tokens(*map(os.environ.get, named)).secrets), *given_by_name))
