"""From a YAML file and command-line options to a checked workload, its scenario and its parameters."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from perfkit.collect import as_list
from perfkit.errors import BadInput
from perfkit.model import Target, Workload
from perfkit.scenarios import Scenario, load_scenario
from perfkit.schedule import plan
from perfkit.transport import split_url
from perfkit.worker import make_transport, run_on_loop


class _Loader(yaml.SafeLoader):
    """YAML's safe part; 1e9 is a number, as in YAML 1.2; a name given twice in one mapping is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """See PyYAML."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; BadInput says where it is broken."""
    try:
        given = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-13-45 looks like a date and is none
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(given, dict):
        raise BadInput(f"{path}: expected names with values, such as `scenario: http_get`")
    return given


def parse_assignments(assignments: Iterable[str], option: str) -> dict[str, Any]:
    """`a.b=value` texts as a nested mapping; values are read as YAML: `3` is a number."""
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"{option} {text!r}: write it as name=value")
        *sections, last = name.strip().split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise BadInput(
                    f"{option} {text!r}: {section} was given a value of its own before; give one of both"
                )
        try:
            place[last] = yaml.load(value, _Loader)
        except (yaml.YAMLError, ValueError, TypeError):
            raise BadInput(f"{option} {text!r}: the value is no number, word or list") from None
    return found


def merged(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with `changes` laid over it, mapping by mapping."""
    result = dict(given)
    for name, value in changes.items():
        inner = result.get(name)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[name] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def complete(given: Mapping[str, Any], where: str) -> tuple[Workload, Scenario, Any]:
    """Check what can be checked before a run: names, types, target, scenario, its parameters, schedule."""
    workload = Workload.from_mapping(given, where)
    if workload.server and workload.target.url is not None:
        name = next(iter(workload.server))
        words = f"{where}: server.{name} is for the server perfkit starts itself"
        raise BadInput(f"{words}; there is none with target.url, leave one of them out")
    _try_target(workload.target)
    try:
        scenario = load_scenario(workload.scenario)
        params = scenario.params(workload.params)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if workload.users is None and workload.arrivals is None:
        workload = Workload.from_mapping(dict(given) | scenario.default_load(params), where)
    if workload.arrivals is not None:
        plan(workload.arrivals, workload.seed, workload.warmup_s)
    return workload, scenario, params


def _try_target(target: Target) -> None:
    """BadInput when no transport can be made for a target: a wrong url, proxy, certificate file, …"""

    for name in ("probes_url", "metrics_url"):
        for url in as_list(getattr(target, name)):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise BadInput(f"target.{name}: give http://host:port…, without a password, not {url:.80}")
    if target.proxy is not None and not _PROXY(target.proxy):  # the value may hold a password
        raise BadInput("target.proxy: give http://host:port or https://host:port")

    async def make() -> None:
        await make_transport(dataclasses.replace(target, url=target.url or "http://localhost")).close()

    try:
        run_on_loop(make())
    except ValueError as error:
        raise BadInput(f"target: {error}") from None


_PROXY = re.compile(r"https?://[^\s/?#]+/?").fullmatch


def with_server(workload: Workload, url: str, probes: tuple[str, ...]) -> Workload:
    """The same workload against another base URL, and the probes of its instances."""
    target = dataclasses.replace(workload.target, url=url)
    if target.probes_url is None:
        target = dataclasses.replace(target, probes_url=probes or None)
    return dataclasses.replace(workload, target=target)


def token_of(workload: Workload) -> str | None:
    """The secret named by target.token_env, from the environment."""
    name = workload.target.token_env
    if name is None:
        return None
    token = os.environ.get(name)
    if not token:
        raise BadInput(f"target.token_env names {name}, which is not set; export {name}=… first")
    if not token.isascii() or not token.isprintable():
        raise BadInput(f"the token in {name} holds characters a header cannot carry")
    return token


def refuse_stranger(workload: Workload, allowed: Iterable[str]) -> None:
    """BadInput unless the target is this machine or was allowed by name: no slip loads a stranger's."""
    target = workload.target
    hosts = [urlsplit(url).hostname for url in (*as_list(target.probes_url), *as_list(target.metrics_url))]
    if target.url is not None:
        hosts.insert(0, split_url(target).hostname)
    known = {name.lower() for name in allowed}
    for host in hosts:
        if not is_loopback(host or "") and host not in known:
            raise BadInput(
                f"target {host} is not this machine; if you may load it, add --allow-target {host} "
                f"(in Python: allow_targets={[host]})"
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
