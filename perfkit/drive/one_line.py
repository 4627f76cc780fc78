"""From one line to a workload: a URL and what is sent to it, users or a rate, and for how long."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.durations import EXAMPLES, duration_ns, how_to_write
from perfkit.errors import BadInput
from perfkit.redaction import masked_text
from perfkit.suggestions import did_you_mean, nearest

#: The load of a URL when none is named, and of `--users` without an end.
DEFAULT_USERS, DEFAULT_S = 10, 10.0
_ENDS = frozenset({"iterations", "duration_s"})  #: of users
_TIME = re.compile(r"\d+(?:\.\d+)?(?:ms|s|m|h)", re.ASCII).fullmatch
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")  # others are sent, too
_LONGEST_BODY = 1_000_000  #: bytes; a workload holds no more text

#: Bounds of the workload, told under the option's name here.
SHORTEST_S, LONGEST_S = 0.001, 30 * 86_400
LEAST_PER_S, MOST_PER_S = 0.0001, 1_000_000
_PER_S = {"/s": 1.0, "": 1.0, "/min": 1 / 60}
_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(/s|/min|)\s*", re.ASCII).fullmatch
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII).fullmatch


@dataclass(frozen=True)
class Request:
    """What `perfkit run URL` sends, as it was typed; headers by name in lower case."""

    method: str | None
    json_text: str | None
    data: str | None
    headers: Mapping[str, str]

    def options(self) -> list[str]:
        """Return the options that were given of those that only a URL takes."""
        given = {"-X": self.method, "--json '{…}'": self.json_text, "--data": self.data}
        return [name for name, value in given.items() if value is not None]

    def params(self, path: str) -> dict[str, Any]:
        """Return the parameters of scenario http_request; BadInput for a body that is not JSON, or two."""
        if self.json_text is not None and self.data is not None:
            raise BadInput("--json '{…}' and --data both give the body; keep one of them")
        found: dict[str, Any] = {"path": path}
        content_type = self.headers.get("content-type", "")
        if self.json_text is not None:
            found["json"] = _json(_text(self.json_text, "--json"))
        elif self.data is not None:
            if _TIME(self.data):
                raise BadInput(f"-d is the body, as in curl and hey; write --duration {self.data} for a time")
            found["body"] = _text(self.data, "--data")
            is_json = found["body"].lstrip()[:1] in ("{", "[")
            content_type = content_type or (
                "application/json" if is_json else "application/x-www-form-urlencoded"
            )
        with_body = self.json_text is not None or self.data is not None
        method = (self.method or ("POST" if with_body else "GET")).upper()
        meant = method if method in _METHODS else nearest(method, _METHODS)
        if meant not in (None, method):
            raise BadInput(f"-X {method!r:.40}: did you mean {meant}? Methods: {', '.join(_METHODS)}")
        return {"method": method, **found, **({"content_type": content_type} if content_type else {})}


@dataclass(frozen=True)
class Load:
    """What the command line says of the load; None: not given."""

    users: int | None = None
    rate_per_s: float | None = None
    duration_s: float | None = None
    ramp_s: float | None = None
    requests: int | None = None
    stages: tuple[str, ...] = ()  #: `10s:20` for users, `10s:200/s` for a rate

    def over(self, given: Mapping[str, Any], *, always: bool) -> dict[str, Any]:
        """Return a workload with this load in place of its own; always: also where none was given.

        The other half of the workload's own load stays: `--users 20` keeps its duration.
        """
        if self.users is not None and self.rate_per_s is not None:
            words = "users wait for their answers, a rate does not wait"
            raise BadInput(f"--users and --rate: give one of them; {words}")
        if self == Load() and not always:
            return dict(given)
        if self.stages:
            return self._staged(given)
        default = DEFAULT_S if always and self.requests is None else None
        lasts = default if self.duration_s is None else self.duration_s
        if lasts is not None and self.ramp_s is not None and self.ramp_s > lasts:
            words = f"--ramp {self.ramp_s:g} s does not fit in --duration {lasts:g} s"
            raise BadInput(f"{words}; the ramp is a part of it")
        own, arrivals = given.get("users"), given.get("arrivals")
        others = {name: value for name, value in given.items() if name not in ("users", "arrivals")}
        is_open = self.rate_per_s is not None or (self.users is None and isinstance(arrivals, Mapping))
        meant = arrivals if is_open else own
        if isinstance(meant, Mapping) and meant.get("stages"):
            if self == Load():
                return dict(given)
            words = "the workload has stages, which say how many and how long"
            raise BadInput(f"{words}; --stage TIME:USERS or TIME:RATE/s replaces them")
        if is_open:
            return {**others, "arrivals": self._arrivals(arrivals if isinstance(arrivals, Mapping) else {})}
        if own is not None and not isinstance(own, Mapping):
            return dict(given)  # refused where the workload is checked
        return {**others, "users": self._users(own or {})}

    def _staged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The workload with these stages in place of its load; users think, arrivals are spaced as before."""
        if self != Load(stages=self.stages):
            more = "leave out --users, --rate, --duration, --ramp and --requests"
            raise BadInput(f"--stage says how many and how long; {more}")
        found = [_stage(text) for text in self.stages]
        pairs = zip(self.stages, found, strict=True)
        kinds = {text.rstrip().endswith(("/s", "/min")) for text, stage in pairs if stage["to"]}
        if len(kinds) > 1:
            raise BadInput("--stage: some are of users (10s:20), some of a rate (10s:20/s); give one kind")
        others = {name: value for name, value in given.items() if name not in ("users", "arrivals")}
        name, kept = ("arrivals", "spacing") if True in kinds else ("users", "think_time_s")
        own = given.get(name)
        load: dict[str, Any] = {"stages": found}
        if isinstance(own, Mapping):
            load |= {kept: own[kept]} if kept in own else {}
            load |= {"spacing": "poisson"} if own.get("shape") == "poisson" else {}
        return {**others, name: load}

    def _users(self, own: Mapping[str, Any]) -> dict[str, Any]:
        ends = {"iterations": self.requests, "duration_s": self.duration_s}
        ends = {name: value for name, value in ends.items() if value is not None}
        kept = {name: value for name, value in own.items() if not ends or name not in _ENDS}
        found = {"count": DEFAULT_USERS, **kept, **ends}
        if self.users is not None:
            found["count"] = self.users
        if not found.keys() & _ENDS:
            found["duration_s"] = DEFAULT_S
        if self.ramp_s is not None:
            found["ramp_s"] = self.ramp_s
        return found

    def _arrivals(self, own: Mapping[str, Any]) -> dict[str, Any]:
        found, shape = dict(own), own.get("shape", "constant")
        if self.rate_per_s is not None:
            if shape == "steps":
                raise BadInput("--rate: arrivals of shape steps have step_rates_per_s; change those")
            found["rate_per_s"] = self.rate_per_s
        if self.ramp_s is not None:
            if shape not in ("constant", "ramp", "soak"):
                raise BadInput(f"--ramp: arrivals of shape {shape!r:.40} are not ramped; leave it out")
            found |= {"shape": "ramp" if shape == "constant" else shape, "ramp_s": self.ramp_s}
        if self.duration_s is not None:
            found["duration_s"] = self.duration_s
        if self.requests is not None:
            if self.duration_s is not None or self.ramp_s is not None or shape != "constant":
                raise BadInput(
                    "--requests with a rate says how long it lasts; leave --duration and --ramp out"
                )
            rate = found.setdefault("rate_per_s", 10.0)
            found["duration_s"] = self.requests / rate if isinstance(rate, int | float) and rate > 0 else 1.0
        return found


def seconds(given: object, name: str, least: float = SHORTEST_S) -> float:
    """Return `30s`, `2m`, `300ms`, or a number of seconds, in seconds; BadInput names what the time is of."""
    text = str(given)
    try:
        found = float(text) if _NUMBER(text.strip()) else duration_ns(text) / 1e9
    except ValueError:
        raise BadInput(f"{name} {text!r:.80} is not a time; {how_to_write(text)}") from None
    if not least <= found <= LONGEST_S:
        bounds = f"give at least {least:g} and at most {LONGEST_S:,.0f} s"
        raise BadInput(f"{name} {text!r:.80}: {bounds}, such as {EXAMPLES}")
    return found


def _stage(text: str) -> dict[str, float]:
    """`10s:20` or `10s:200/s` as a stage of a workload; BadInput for anything else."""
    lasts, colon, level = text.partition(":")
    if not colon:
        raise BadInput(f"--stage {text!r:.80}: write TIME:USERS or TIME:RATE, such as 10s:20 or 10s:200/s")
    to = per_second(level, f"--stage {text!r:.80}:", least=0.0)
    return {"duration_s": seconds(lasts, f"--stage {text!r:.80}:", least=0.0), "to": to}


def per_second(given: object, name: str, least: float = LEAST_PER_S) -> float:
    """Return a rate as `200`, `200/s` or `30/min` per second; BadInput names what it is of."""
    found = _RATE(str(given))
    if found is None:
        raise BadInput(f"{name} {str(given)!r:.80} is not a rate; write 200, 200/s or 30/min")
    rate = float(found[1]) * _PER_S[found[2]]
    if not least <= rate <= MOST_PER_S:
        words = f"give at least {least:g} and at most {MOST_PER_S:,} per second"
        raise BadInput(f"{name} {str(given)!r:.80}: {words}")
    return rate


def without_load(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workload without what the load among its changes takes the place of.

    Users replace arrivals, and arrivals users; another end of the users replaces the one they had.
    """
    told = {name: changes[name] for name in ("users", "arrivals") if changes.get(name) is not None}
    if len(told) != 1:
        return dict(given)
    other = "users" if "arrivals" in told else "arrivals"
    found = {name: value for name, value in given.items() if name != other}
    own, users = found.get("users"), told.get("users")
    if isinstance(own, Mapping) and isinstance(users, Mapping) and users.keys() & _ENDS:
        found["users"] = {name: value for name, value in own.items() if name not in _ENDS}
    return found


def is_url(text: str) -> bool:
    """Return whether what stands where a file is expected is the URL of a target."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def of_url(url: str, request: Request | None = None) -> dict[str, Any]:
    """Return the workload of one request to a URL, without its load; of no other request a GET."""
    origin, path = split_target(url)
    params = (request or Request(None, None, None, {})).params(path)
    return {"scenario": "http_request", "params": params, "target": {"url": origin}}


def split_target(url: str) -> tuple[str, str]:
    """Return a URL as the target's origin and the path with its query; BadInput for one with a fragment."""
    if "#" in url:
        raise BadInput(
            f"{masked_text(url.partition('#')[0])}#…: a server never sees what follows #; remove it"
        )
    start = url.index("://") + 3
    end = next((place for place in range(start, len(url)) if url[place] in "/?"), len(url))
    path = url[end:]
    return url[:end], path if path.startswith("/") else f"/{path}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        quotes = "; JSON has double quotes" if "'" in text else ""
        raise BadInput(f"--json {masked_text(text)!r:.80}: the body is not JSON: {error}{quotes}") from None


def _text(given: str, option: str) -> str:
    """What an option was given: a text, or what is in the file after an @."""
    from perfkit.store import read_regular

    if not given.startswith("@"):
        return given
    name = given[1:]
    try:
        return read_regular(Path(name), _LONGEST_BODY).decode()
    except OSError as error:
        raise BadInput(f"{option} @{name}: {error.strerror}{did_you_mean(Path(name))}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{option} @{name}: not UTF-8 text, which a workload could hold") from None
