"""What coordinator and shards tell each other of a run, as JSON: its context, and how a shard ended."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from perfkit.drive.mistakes import Mistake, Mistakes
from perfkit.drive.scenario import Scenario, load_scenario, plain_params
from perfkit.drive.session import Opening
from perfkit.drive.worker import RunContext
from perfkit.errors import BadInput, PerfkitError, words_of
from perfkit.store import read_regular

T = TypeVar("T")
#: Files beside a scenario that go with it: those that it, or its parameters, name.
_DATA = (".csv", ".jsonl", ".ndjson")
_MOST_DATA = 256 * 2**20


@dataclass(frozen=True)
class Source:
    """A scenario as it travels: of a file its text and the data it names; of one of perfkit's the digest."""

    name: str
    sha256: str
    text: bytes = b""
    data: dict[str, bytes] = field(default_factory=dict)


class Package(NamedTuple):
    """All that a shard is told of its run. folder_nonce: what its lock file holds, where the run's folder can
    be seen from here."""

    context: RunContext
    sources: tuple[Source, ...] = ()  #: of each part; none for our own children, which see the files
    states: tuple[Any, ...] = ()
    folder_nonce: str = ""


def source_of(scenario: Scenario, params: Any) -> Source:
    """Return a scenario with what it needs on another host; BadInput for too much data."""
    path = Path(str(scenario.module.__file__))
    text = read_regular(path)
    digest = hashlib.sha256(text).hexdigest()
    if scenario.ref == scenario.name:  # perfkit brings it
        return Source(scenario.ref, digest)
    named = {*_texts_in(text), *_texts_of(plain_params(params))}
    data: dict[str, bytes] = {}
    for name in sorted(one for one in named if one.endswith(_DATA) and (scenario.folder / one).is_file()):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(
                f"{scenario.label}: data {name}: other hosts get files of the scenario's folder only"
            )
        data[name] = read_regular(scenario.folder / name)
    if (size := sum(map(len, data.values()))) > _MOST_DATA:
        raise BadInput(f"{scenario.label}: {size / 2**20:.0f} MB of data for other hosts, at most 256")
    return Source(path.name, digest, text, data)


def unpacked(source: Source, folder: Path) -> Scenario:
    """Load a scenario that has travelled, from a folder of its own; BadInput where ours is another."""
    if not source.text:
        scenario = load_scenario(source.name)
        digest = hashlib.sha256(read_regular(Path(str(scenario.module.__file__)))).hexdigest()
        if digest != source.sha256:
            raise BadInput(f"scenario {source.name} is another one here (sha256 {digest[:12]}…)")
        return scenario
    folder.mkdir()
    (folder / Path(source.name).name).write_bytes(source.text)
    for name, content in source.data.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise BadInput(f"data {name!r:.80} lies outside the scenario's folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return load_scenario(str(folder / Path(source.name).name))


def _texts_in(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts_of(one)


# -- failures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """What ended a shard before its time, for whoever raises it again."""

    kind: str  #: input, perfkit, system, other
    words: str
    errno: int = 0
    file: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of an exception."""
        if isinstance(error, OSError):
            name = error.filename
            return cls("system", error.strerror or str(error), error.errno or 0, name and str(name))
        kind = "input" if isinstance(error, BadInput) else "perfkit"
        if isinstance(error, PerfkitError):
            return cls(kind, str(error))
        return cls("other", words_of(error))

    def error(self) -> PerfkitError | OSError:
        """As an exception of ours."""
        if self.kind == "system":
            return OSError(self.errno, self.words, self.file)
        if self.kind == "other":  # such as a state that cannot be unpickled
            return PerfkitError(f"a worker process failed: {self.words}")
        return (BadInput if self.kind == "input" else PerfkitError)(self.words)


# -- JSON ------------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Return dataclasses and named tuples as JSON."""
    return msgspec.json.encode(value, enc_hook=_to_plain)


def decode(text: bytes, kind: type[T]) -> T:
    """The inverse of `encode`; PerfkitError for anything else."""
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=_from_plain)
    except msgspec.MsgspecError as error:
        raise PerfkitError(f"a message that is none of perfkit's: {error}") from None


def mistakes_to_plain(mistakes: Mistakes) -> list[list[Any]]:
    """Kinds of mistakes with the words of the first of each, and their counts."""
    return [[*kind, mistakes.words[kind], count] for kind, count in mistakes.counts.items()]


def mistakes_from_plain(plain: list[list[Any]]) -> Mistakes:
    """The inverse."""
    found = Mistakes()
    for what, place, words, count in plain:
        found.add(Mistake(str(what), str(place)), str(words), int(count))
    return found


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mistakes):
        return mistakes_to_plain(value)
    if isinstance(value, Opening):
        return [value._stride, value.every, list(value.ns.items())]
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    raise NotImplementedError(type(value).__name__)


def _from_plain(kind: type, plain: Any) -> Any:
    if kind is Mistakes:
        return mistakes_from_plain(plain)
    if kind is Opening:
        found = Opening(plain[0])
        found.every, found.ns = plain[1], dict(plain[2])
        return found
    if kind is Path:
        return Path(plain)
    raise NotImplementedError(kind.__name__)
