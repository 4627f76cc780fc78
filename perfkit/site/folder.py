"""The folder of a site: taken by one publish at a time, never half written, nothing of others touched.

Everything is first written to a staging folder inside; then each file takes its place by one rename: new
pages, to which nothing leads yet, then changed ones, index.json and index.html last. A reader meets whole
files only, and no link to a page that is not there yet. What is going to be placed is written down before:
after a kill at any moment the site still stands, and the next publish does all of that again, or removes what
is no longer wanted. Swapping whole folders would be one step less, but would take along what others keep in
it (.git, CNAME) and fail where the folder is a mount.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from perfkit.errors import BadInput, PerfkitError
from perfkit.store import hold, read_json, require_regular, write_atomically

SCHEMA = 1
_OWN = ".perfkit-site"
#: They name all other pages, so they are replaced after them, in this order.
LAST = ("index.json", "index.html")
#: What a folder that is to become a site may hold already: a checkout to be pushed somewhere.
_WELCOME = (".git", ".gitattributes", ".gitignore", ".nojekyll", "CNAME")


@dataclass(frozen=True)
class Source:
    """A file to be copied as it was when it was looked at: its size in bytes and last change, ns.

    put: what to put in place of which bytes on the way, once.
    """

    path: Path
    size: int
    changed_ns: int
    put: tuple[bytes, bytes] | None = None

    @classmethod
    def of(cls, path: Path, put: tuple[bytes, bytes] | None = None) -> Source:
        """A file as it is now."""
        seen = require_regular(path).stat()
        return cls(path, seen.st_size, seen.st_mtime_ns, put)

    @property
    def name(self) -> str:
        """Stands for its content in the manifest."""
        return f"{self.size}-{self.changed_ns}"


Content = bytes | Source


def name_of(content: Content) -> str:
    """What the manifest keeps of a content, to know it again."""
    return content.name if isinstance(content, Source) else hashlib.sha256(content).hexdigest()[:32]


class SiteFolder:
    """A site opened for publishing; `manifest` is what the last publish left (empty for a new site)."""

    def __init__(self, path: Path, lock: IO[str] | None, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> SiteFolder:
        """Nothing is written by this. BadInput for a folder of something else; PerfkitError while another
        publish holds it."""
        if path.exists() and not path.is_dir():
            raise BadInput(f"{path} is a file; give a folder for the site")
        own = path / _OWN
        if not own.is_dir():
            foreign = [name for name in _names_in(path) if name not in _WELCOME]
            if foreign:
                words = f"{path} holds {foreign[0]!r} and is not a perfkit site"
                raise BadInput(f"{words}; give a new or empty folder, nothing was written")
            return cls(path, None, {})
        lock = cls._take(own)
        try:
            return cls(path, lock, _read(own / "manifest.json"))
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def _take(own: Path) -> IO[str]:
        try:
            return open(hold(own / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB), "a")
        except BlockingIOError:
            words = f"{own.parent} is being published by another process"
            raise PerfkitError(f"{words}; wait for it and try again") from None
        except OSError as error:
            raise PerfkitError(f"cannot write to {own.parent}: {error.strerror}") from None

    def __enter__(self) -> SiteFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def holds(self, name: str) -> bool:
        """Whether a file of the site is there."""
        return (self.path / name).is_file()

    def commit(self, files: Mapping[str, Content], manifest: Mapping[str, Any]) -> int:
        """Write these files, remove those the manifest no longer knows; how many were written.

        manifest: what is true afterwards; its `files` name all files of the site.
        """
        staging = self.path / _OWN / "staging"
        try:
            self._start()
            shutil.rmtree(staging, ignore_errors=True)  # of a publish that was killed
            staged = {name: _stage(one, staging / str(i)) for i, (name, one) in enumerate(files.items())}
            if staged:
                self._keep(self._between(staged))
            self._replace(staged)
            gone = {*self.manifest.get("files", ()), *self.manifest.get("going", ())} - set(manifest["files"])
            if gone:  # known as such until they are removed, whatever happens meanwhile
                self._keep(dict(manifest) | {"going": sorted(gone)})
                self._remove(gone)
            self._keep(dict(manifest))
        except OSError as error:
            words = f"cannot write the site to {self.path}: {error.strerror or error}"
            raise PerfkitError(f"{words}; the previous site is unchanged") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return len(files)

    def _between(self, staged: Mapping[str, Path]) -> dict[str, Any]:
        """What is true until all is done: what is in these files, and if they will stay, nobody knows."""
        files = {name: one for name, one in self.manifest.get("files", {}).items() if name not in staged}
        going = {*self.manifest.get("going", ()), *staged}
        return {"schema": SCHEMA} | self.manifest | {"files": files, "going": sorted(going)}

    def _replace(self, staged: Mapping[str, Path]) -> None:
        """Put each file in its place by one rename: first those that nothing leads to yet."""

        def turn(name: str) -> tuple[int, bool, str]:
            return (LAST.index(name) if name in LAST else -1, self.holds(name), name)

        for name in sorted(staged, key=turn):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged[name], self.path / name)

    def _start(self) -> None:
        """Make the folder of a new site and take it."""
        if self._lock is not None:
            return
        own = self.path / _OWN
        own.mkdir(parents=True, exist_ok=True)
        self._lock = self._take(own)
        if (own / "manifest.json").exists():  # two first publishes at once: this one was the slower
            raise PerfkitError(f"another process published {self.path} in the meantime; publish again")

    def _keep(self, manifest: dict[str, Any]) -> None:
        write_atomically(self.path / _OWN / "manifest.json", json.dumps(manifest).encode())

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something of somebody else's is in it
                (self.path / name).parent.rmdir()


def _names_in(path: Path) -> list[str]:
    try:
        return sorted(one.name for one in path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise PerfkitError(f"cannot read {path}: {error.strerror}") from None


def _read(file: Path) -> dict[str, Any]:
    """A manifest; {} where a first publish was killed before it wrote one."""
    damaged = PerfkitError(f"{file} is damaged; remove that file to publish everything again")
    try:
        found: dict[str, Any] = read_json(file, 512 * 2**20)
        if isinstance(found["schema"], int) and found["schema"] > SCHEMA:
            raise BadInput(f"{file.parent.parent} was published by a newer perfkit; upgrade this one")
        names = [*found.get("files", {}).keys(), *found.get("going", ())]
        names += [one["place"] for kind in ("runs", "comparisons") for one in found.get(kind, {}).values()]
        if isinstance(found["schema"], int) and all(map(_may_be_ours, names)):
            return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise damaged from None
    raise damaged


def _may_be_ours(name: str) -> bool:
    """Whether a path can be a file of the site: below it, and nothing hidden; perfkit makes no other."""
    return all(part and not part.startswith(".") for part in name.split("/"))


def _stage(content: Content, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        place.write_bytes(content)
        return place
    if content.put is None:
        shutil.copyfile(content.path, place)
    else:
        place.write_bytes(content.path.read_bytes().replace(*content.put, 1))
    if Source.of(content.path, content.put) != content:  # it was looked through for secrets as it was before
        raise PerfkitError(f"{content.path} changed while it was published; publish again")
    return place
