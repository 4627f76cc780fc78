"""Secrets and places that must not be published, looked for in every file before one is written.

Known values come from the environment, known shapes from the makers of tokens; passwords without a shape are
seen in run.json only, where a name stands beside its value. A scanner of our own: detect-secrets 1.5 does not
know what a load test leaks (a bearer header, an API key of the service under test, a path of a home) and
takes over a second for one report.
"""

from __future__ import annotations

import getpass
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit.session import is_secret_name

#: A secret of the environment shorter than this is found in any text by chance.
_SHORTEST = 6
#: Users of containers and machines that are nobody.
_NOBODY = "app|appuser|ubuntu|debian|runner|node|user|nonroot|jovyan|vscode|www-data|git|perfkit"


@dataclass(frozen=True)
class Leak:
    """Something that must not be published: in which file, of what kind; never the value itself."""

    file: str
    kind: str
    begins: str
    length: int
    fingerprint: str  #: names this value for `--accept`

    def __str__(self) -> str:
        told = f"{self.file}: {self.kind} ({self.begins}…, {self.length} characters)"
        return f"{told}; if it is none, --accept {self.fingerprint}"


@dataclass(frozen=True)
class _Shape:
    """hints: plain words of which one must be there, so that most texts cost one search each."""

    kind: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]


def _shape(kind: str, hints: str, pattern: str, flags: int = 0) -> _Shape:
    return _Shape(kind, tuple(hints.split()), re.compile(pattern, flags))


#: The secret is group 1 where there is one. `***` is what perfkit itself puts in place of a secret.
_SHAPES = (
    _shape("AWS access key", "AKIA ASIA", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    _shape("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
           r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255})\b"),
    _shape("GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    _shape("Slack token", "xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _shape("API key", "sk-", r"\bsk-(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Za-z])(?:[a-z0-9]{2,12}-)*"
           r"[A-Za-z0-9_-]{20,}"),
    _shape("Stripe key", "_live_", r"\b[rs]k_live_[A-Za-z0-9]{20,}"),
    _shape("Google API key", "AIza", r"\bAIza[A-Za-z0-9_-]{35}\b"),
    _shape("package registry token", "npm_ pypi-", r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{40,}"),
    _shape("Hugging Face token", "hf_", r"\bhf_[A-Za-z0-9]{30,}\b"),
    _shape("JSON Web Token", "eyJ", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    _shape("private key", "PRIVATE KEY-----", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    _shape("authorization header", "uthorization UTHORIZATION",
           r"authorization(?:[\"'\\]|&quot;|&#39;)*\s*[:=]\s*(?:[\"'\\]|&quot;|&#39;)*"
           r"(?:(?:basic|token)\s+|(?=[^\s\"'<&]{16})(?=[^\s\"'<&]*[0-9]))([A-Za-z0-9._~+/=-]{8,})",
           re.IGNORECASE),
    _shape("bearer token", "earer BEARER",
           r"\bbearer\s+((?=[^\s\"'<&]*[0-9])[A-Za-z0-9._~+/=-]{16,})", re.IGNORECASE),
    _shape("password in an address", "://",
           r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>\\]*:((?!\*\*\*)[^\s/:@\"'<>\\]{1,200})@[^\s/@]",
           re.IGNORECASE),
    _shape("path of somebody's home", "/home/ /Users/ \\Users\\",
           rf"(?<![\w.~-])(?:/home/|/Users/|[A-Z]:\\{{1,2}}Users\\{{1,2}})(?!(?:{_NOBODY})\b)"
           r"[A-Za-z][\w.-]*(?=[/\\])"),
)  # fmt: skip


class Scanner:
    """Looks for secrets; known values are taken from the environment and the home directory when made.

    token_names: environment variables that hold a target's token, whatever they are called.
    accepted: fingerprints of what somebody has looked at and found to be no secret.
    """

    def __init__(
        self,
        token_names: Iterable[str] = (),
        accepted: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._accepted = frozenset(accepted)
        self._values = dict(_known(os.environ if environment is None else environment, set(token_names)))
        self._places = [re.compile(rf"(?<![\w.~-]){re.escape(place)}(?=[/\\]\w)") for place in _own_places()]

    def file(self, name: str, content: bytes | Path) -> list[Leak]:
        """What must not be published of a file of the site: its content, or where it lies now."""
        if isinstance(content, Path) and content.suffix == ".parquet":
            found = [one for text in _texts(content) for one in self._text(name, text)]
            return list(dict.fromkeys(found))
        data = content if isinstance(content, bytes) else content.read_bytes()
        if data.startswith(b"PAR1"):
            found = [one for text in _texts(pa.BufferReader(data)) for one in self._text(name, text)]
            return list(dict.fromkeys(found))
        text = data.decode(errors="replace")
        found = [*self._text(name, text), *self._text(name, unquote(text) if "%3A%2F%2F" in text else "")]
        if name.endswith("/run.json"):
            found += self._named(name, text)
        return list(dict.fromkeys(found))

    def _text(self, file: str, text: str) -> Iterator[Leak]:
        for written, (kind, value) in self._values.items():
            if written in text:
                yield from self._leak(file, kind, value)
        for place in self._places:
            if seen := place.search(text):
                yield from self._leak(file, "path of your home", seen[0])
        for shape in _SHAPES:
            if any(hint in text for hint in shape.hints):
                for found in shape.pattern.finditer(text):
                    yield from self._leak(file, shape.kind, found[found.lastindex or 0])

    def _named(self, file: str, text: str) -> Iterator[Leak]:
        """A value beside the name of a secret, at any depth of run.json."""
        try:
            waiting: list[Any] = [json.loads(text)]
        except ValueError:
            return
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                waiting += one.values()
                for name, value in one.items():
                    if isinstance(value, str) and value.strip("*") and is_secret_name(str(name)):
                        yield from self._leak(file, f"value of {str(name)[:40]!r}", value)
            elif isinstance(one, list):
                waiting += one

    def _leak(self, file: str, kind: str, value: str) -> Iterator[Leak]:
        digest = hashlib.sha256(f"{kind}\n{value}".encode(errors="replace")).hexdigest()[:12]
        if digest not in self._accepted:
            begins = "".join(c if c.isprintable() else "�" for c in value[: min(4, len(value) // 4)])
            yield Leak(file, kind, begins, len(value), digest)


def _known(environment: Mapping[str, str], tokens: set[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Secrets of the environment, each way a file may write them -> kind and value."""
    for name, value in environment.items():
        inside = re.search(r"://[^\s/:@]*:([^\s/@]+)@", value)
        secret = value if name in tokens or is_secret_name(name) else inside[1] if inside else ""
        if len(secret) >= _SHORTEST and not secret.isspace():
            kind = f"value of the environment variable {name}"
            for written in {secret, html.escape(secret), json.dumps(secret)[1:-1], quote(secret, safe="")}:
                yield written, (kind, secret)


def _own_places() -> set[str]:
    """The home directory of whoever publishes, and those of the same name on other machines."""
    places = {str(Path.home())} - {"/", "."}
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        return places
    return places | {f"{folder}{name}" for folder in ("/home/", "/Users/", "C:\\Users\\")}


# -- Parquet ---------------------------------------------------------------------------------------


def _texts(source: Any) -> Iterator[str]:
    """All words in a Parquet file: metadata, names of columns, each distinct text once a row group."""
    with pq.ParquetFile(source) as file:
        metadata = file.metadata.metadata or {}
        kept = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
        names = file.schema_arrow.names
        yield "\n".join([*names, *(part.decode(errors="replace") for pair in kept.items() for part in pair)])
        columns = [f.name for f in file.schema_arrow if _is_text(f.type)]
        for group in range(file.num_row_groups if columns else 0):
            table = file.read_row_group(group, columns=columns)
            for column in table.columns:
                yield _distinct(column)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _distinct(column: pa.ChunkedArray) -> str:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    found = pc.unique(column.cast(kind)).drop_null().to_pylist()
    return "\n".join(one.decode(errors="replace") if isinstance(one, bytes) else one for one in found)
