"""Which hosts a workload makes perfkit connect to, and which of them are this machine.

Addresses are split by one grammar, narrower than that of any client they are handed to afterwards: what was
checked is what is connected to. A name other than `localhost` is never taken for this machine, whatever a
name server says of it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from perfkit.errors import BadInput
from perfkit.model import Target, Workload

_HOST = r"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~\-]+)?\])"
_URL = rf"(?i:https?)://(?:[^\s/?#@\\\[\]]*@)?{_HOST}(?::[0-9]*)?(?:[/?][^#\\\s]*)?"
_ADDRESS = re.compile(_URL, re.ASCII).fullmatch
#: `127.1`, `0x7f000001` and `0177.0.0.1` are addresses to some programs and names to others.
_HALF_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?").fullmatch
#: Narrower than SQLAlchemy's: a password with / or @ in it would be split in two ways.
_DATABASE = re.compile(
    rf"postgres(?:ql)?(?:\+asyncpg)?://(?:[^\s/?#@\\\[\]]*@)?({_HOST}(?::[0-9]*)?(?:,{_HOST})*)?"
    r"(?:/[^\s?#]*)?(?:\?([^\s#]*))?"
).fullmatch
_FILE = re.compile(r"sqlite(?:\+aiosqlite)?:///.*").fullmatch
_FORMS = "give postgresql://USER@HOST/DATABASE or sqlite:///FILE, with / and @ in passwords as %2F and %40"


def split_address(given: str, field: str) -> SplitResult:
    """The parts of an http(s) URL; BadInput, which does not repeat it, when its host is in doubt."""
    try:
        parts = urlsplit(given)
        usable = _ADDRESS(given) and given.isprintable() and parts.port != 0
        host = parts.hostname or ""
        host.encode("idna")  # refuses what no name server could know
        usable = usable and (_address(host) is not None or not _HALF_ADDRESS(host))
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"{field}: give http://host:port or https://host:port")
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, without asking a name server."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def as_list(given: str | Iterable[str] | None) -> list[str]:
    """None, one text or several, as a list, each once."""
    return [] if given is None else [given] if isinstance(given, str) else list(dict.fromkeys(given))


def require_allowed_hosts(workload: Workload, allowed: Iterable[str]) -> None:
    """BadInput for the first host that is neither this machine nor in `allowed`, whatever it is for."""
    names = {_allowed_name(name) for name in as_list(allowed)}
    for field, host in hosts_of(workload):
        if not is_loopback(host) and _plain(host) not in names:
            words = f"{field} {host} is not this machine; if you may use it, add --allow-target {host}"
            raise BadInput(f"{words} (in Python: allow_targets={[host]})")


def hosts_of(workload: Workload) -> Iterator[tuple[str, str]]:
    """(field, host) for everything a workload names that perfkit, or the server it starts, connects to."""
    target = workload.target
    for field, urls in addresses_of(target):
        for url in urls:
            yield field, split_address(url, field).hostname or ""
    if target.url is None:
        field, database = _database_of(workload.server)
        yield from ((field, host) for host in (database_hosts(database, field) if database else ()))


def addresses_of(target: Target) -> Iterator[tuple[str, list[str]]]:
    """(field, URLs) of a target; `target` alone is the server under test."""
    yield "target", as_list(target.url)
    for name in ("proxy", "probes_url", "metrics_url"):
        yield f"target.{name}", as_list(getattr(target, name))


def _database_of(server: Mapping[str, Any]) -> tuple[str, str]:
    """(field, URL) of the database of a server perfkit starts: named here, or in the server's environment."""
    options = {name.replace("-", "_"): value for name, value in server.items()}
    if "database_url" in options:
        return "server.database_url", str(options["database_url"])
    return "PERFKIT_SERVER_DATABASE_URL", os.environ.get("PERFKIT_SERVER_DATABASE_URL", "")


def database_hosts(given: str, field: str) -> list[str]:
    """The hosts a database URL leads to, none for a file or a socket; BadInput does not repeat the URL."""
    if _FILE(given):
        return []
    parts = _DATABASE(given)
    if parts is None:
        raise BadInput(f"{field}: {_FORMS}")
    named = [text for name, text in parse_qsl(parts[2] or "") if name == "host"]
    hosts = [_without_port(text) for texts in (parts[1], *named) if texts for text in texts.split(",")]
    if not hosts or not all(hosts):  # the driver would look into PGHOST
        raise BadInput(f"{field} names no host; add one, or ?host=/FOLDER for a socket")
    return [host for host in hosts if not host.startswith("/")]


def _without_port(text: str) -> str:
    """`host` of `host`, `host:port`, `[address]:port` and `address`."""
    if text.startswith("/") or _address(text) is not None:
        return text
    return re.sub(r":[0-9]*\Z", "", text).strip("[]")


def _allowed_name(given: object) -> str:
    """A host as `allowed` holds it; BadInput for anything but a name or an address."""
    text = given.strip("[]") if isinstance(given, str) else ""
    if _address(text) is None and not re.fullmatch(r"[A-Za-z0-9._~\-]+", text):
        words = f"--allow-target {given!r:.80}: give the host alone, such as example.com or 192.0.2.7"
        raise BadInput(f"{words}, without http://, port or path")
    return _plain(text)


def _plain(host: str) -> str:
    """A host in the one form in which two spellings of it are equal."""
    address = _address(host)
    return host.lower().removesuffix(".") if address is None else str(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address a host is; an IPv4 address written as IPv6 is the IPv4 address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
