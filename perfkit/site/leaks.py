"""Secrets and places that must not be published, looked for in every file before one is written.

Known values come from the environment, known shapes from the makers of tokens. A value without a shape is
seen where the name of a secret stands beside it: any value in run.json and in the query of an address, in
other text one with letters and digits, because words like `token: expired` are no secret. A scanner of our
own: detect-secrets 1.5 does not know what a load test leaks (a bearer header, an API key of the service under
test, a path of a home) and takes over a second for one report.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perfkit.redaction import is_secret_name, lowered, secrets_of, written
from perfkit.text import plain

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
        return f"{told}; if it is not a secret: --accept {self.fingerprint}"


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
    _shape("path of a home folder", "/home/ /Users/ \\Users\\",
           rf"(?<![\w.~-])(?:/home/|/Users/|[A-Z]:\\{{1,2}}Users\\{{1,2}})(?!(?:{_NOBODY})\b)"
           r"[A-Za-z][\w.-]*(?=[/\\])"),
)  # fmt: skip

_QUOTES = r"(?:[\"'\\]|&quot;|&#34;|&#39;|&#x27;)*"
#: A name that ends like one of a secret, and the value after it; a call, as in code, is none. It is searched
#: for in lowered text: without regard to case a search takes four times as long.
_NAMED = re.compile(
    r"(?:token|secret|password|passwd|pwd|pass(?:phrase|code)|credentials?|creds|auth|authorization|bearer"
    r"|cookie|[cx]srf|hmac|jwt|otp|sid|sess(?:ion)?[_-]?id|sig|signature|key|code)"
    rf"(?![\w-]){_QUOTES}\s*[=:]\s*{_QUOTES}"
    r"([^\s&\"'<>()\[\]{},;\\]{8,}+)(?!\()",
)
_NAME_BEFORE = re.compile(r"(?:^|(?P<query>[?&]|&amp;)|[^\w-])(?P<name>[\w-]{2,60})$")
#: What stands where a secret was, or is to come: stars, a variable of a shell or template, a number, a time.
_NO_SECRET = re.compile(
    r"\**|.*\*\*\*.*|.*[xX]{6}.*|[$%].*|[-+]?[\d.]+(?:e[-+]?\d+)?(?:[mnuµ]?s|%)?[.:]?|\d{4}-\d\d-\d\dT\S*"
)
_NO_VALUES = ("none", "null", "true", "false", "missing", "required", "redacted", "[redacted]", "masked")


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
        self._known = _known(os.environ if environment is None else environment, set(token_names))
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
        low = lowered(text)
        for secret, kind in self._known.items():
            if next(written(secret).spans(low), None):
                yield from self._leak(file, kind, secret)
        for place in self._places:
            if seen := place.search(text):
                yield from self._leak(file, "path of your home folder", seen[0])
        for shape in _SHAPES:
            if any(hint in text for hint in shape.hints):
                for found in shape.pattern.finditer(text):
                    yield from self._leak(file, shape.kind, found[found.lastindex or 0])
        for name, value in _beside_names(text, low):
            yield from self._leak(file, f"value of {name!r}", value)

    def _named(self, file: str, text: str) -> Iterator[Leak]:
        """A value beside or below the name of a secret, at any depth of run.json."""
        try:
            waiting: list[Any] = [json.loads(text)]
        except ValueError:
            return
        while waiting:
            one = waiting.pop()
            waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            for name, below in _pairs(one):
                several = isinstance(below, list | dict) and is_secret_name(name.removesuffix("s"))
                for value in _words(below) if several or is_secret_name(name) else ():
                    if value.strip().lower() not in _NO_VALUES and not _NO_SECRET.fullmatch(value):
                        yield from self._leak(file, f"value of {name[:40]!r}", value)

    def _leak(self, file: str, kind: str, value: str) -> Iterator[Leak]:
        digest = hashlib.sha256(f"{kind}\n{value}".encode(errors="replace")).hexdigest()[:12]
        if digest not in self._accepted:
            begins = plain(value[: min(4, len(value) // 4)])
            yield Leak(file, kind, begins, len(value), digest)


def _known(environment: Mapping[str, str], tokens: set[str]) -> dict[str, str]:
    """Secrets of the environment, each with what it is called."""
    found = {}
    for name, value in environment.items():
        if name in ("PWD", "OLDPWD"):  # folders
            continue
        secrets = secrets_of({}, [value]) if name in tokens else secrets_of({name: value})
        for secret in secrets if not value.isspace() else ():
            found[secret] = f"value of the environment variable {name}"
    return found


def _beside_names(text: str, low: str) -> Iterator[tuple[str, str]]:
    """Names of secrets with the value that stands beside them in any text, given in lower case too."""
    for found in _NAMED.finditer(low):
        value = text[found.start(1) : found.end(1)]
        end = found.start() + len(re.match(r"[\w-]+", found[0])[0])  # type: ignore[index]
        before = _NAME_BEFORE.search(text, max(0, found.start() - 60), end)
        if before is None or not is_secret_name(before["name"]) or _NO_SECRET.fullmatch(value):
            continue
        if before["query"] or (re.search("[0-9]", value) and re.search("[A-Za-z]", value)):
            yield before["name"], value


def _pairs(one: Any) -> Iterator[tuple[str, Any]]:
    """Names with what they stand for, as JSON can have them: an object, a pair, an entry of a HAR."""
    if isinstance(one, dict):
        yield from ((str(name), value) for name, value in one.items())
        if isinstance(one.get("name"), str) and "value" in one:
            yield one["name"], one["value"]
    elif isinstance(one, list) and len(one) == 2 and isinstance(one[0], str):
        yield one[0], one[1]


def _words(value: Any) -> Iterator[str]:
    """Every text in a value of JSON."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


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
        schema = file.schema_arrow
        metadata = {k: v for k, v in (file.metadata.metadata or {}).items() if k != b"ARROW:schema"}
        yield "\n".join([_pairs_in(metadata), _pairs_in(schema.metadata), *map(_of_field, schema)])
        columns = [field.name for field in schema if _has_text(field.type)]
        for group in range(file.num_row_groups if columns else 0):
            table = file.read_row_group(group, columns=columns)
            for name, column in zip(table.column_names, table.columns, strict=True):
                label = f"{name}: " if is_secret_name(name) else ""
                found = {text for chunk in column.chunks for text in _distinct(chunk)}
                yield "\n".join(f"{label}{text}" for text in found)


def _pairs_in(metadata: Mapping[bytes, bytes] | None) -> str:
    pairs = ((k.decode(errors="replace"), v.decode(errors="replace")) for k, v in (metadata or {}).items())
    return "\n".join(f"{key}: {value}" for key, value in pairs)


def _of_field(field: pa.Field) -> str:
    """Name and metadata of a field and of those inside it."""
    return "\n".join([field.name, _pairs_in(field.metadata), *map(_of_field, _inside(field.type))])


def _inside(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)]


def _has_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.DictionaryType):
        return _has_text(kind.value_type)
    return _is_text(kind) or any(_has_text(field.type) for field in _inside(kind))


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
             pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)  # fmt: skip
    return any(test(kind) for test in tests)


def _distinct(array: pa.Array) -> Iterator[str]:
    """Each text in an array, however deep it lies."""
    kind = array.type
    if isinstance(kind, pa.DictionaryType):
        yield from _distinct(array.dictionary)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _distinct(array.field(i))
    elif pa.types.is_map(kind):
        yield from _distinct(array.keys)
        yield from _distinct(array.items)
    elif kind.num_fields:  # lists of all makes
        yield from _distinct(array.flatten())
    elif _is_text(kind):
        for one in pc.unique(_viewless(array)).drop_null().to_pylist():
            yield one.decode(errors="replace") if isinstance(one, bytes) else one


def _viewless(array: pa.Array) -> pa.Array:
    """The same texts in a layout that all functions of pyarrow take."""
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array
