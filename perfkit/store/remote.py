"""Rows that lie elsewhere: a timeline in a folder of any file system that fsspec knows (s3://, gs://, hdfs://).

run.json and what is small stay in the run's folder and say where (`rows_at`). Rows are read in place; DuckDB
gets the file system from fsspec and loads no extension.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from perfkit.errors import BadInput, PerfkitError, with_extra, words_of
from perfkit.redaction import masked_text
from perfkit.store.results import digest

_T = TypeVar("_T")
_PLAIN = r"[^\s/@:?#*\[\]]"
#: Neither patterns (`*`) nor chains (`zip://a::b`), and nothing with credentials (`@`, `?`).
_is_url = re.compile(
    rf"[a-z][a-z0-9+.-]*://(?!\Z)(?: *{_PLAIN})*(?::[0-9]+)?(?:/(?: *(?:{_PLAIN}|/|:(?![:/]|\Z)))*)?"
).fullmatch
_NAME = "timeline.parquet"
_CHUNK = 8 * 2**20


def folder_url(folder: str, run_id: str) -> str:
    """Return the URL of a run's own folder in `folder`; BadInput for what is no URL that fsspec can open."""
    scheme, _, path = folder.partition("://")
    url = f"{scheme.lower()}://{path}"
    if not _is_url(url) or not url.isprintable():
        raise BadInput(
            f"folder: {masked_text(folder)!r:.100} is not a URL such as s3://bucket/perfkit;"
            " user and password belong in the environment"
        )
    if scheme.lower() in ("file", "local") and path[0] not in "/~":
        words = f"write file:///{re.sub('^localhost/', '', path, flags=re.I):.100}, with three slashes"
        raise BadInput(f"folder: {folder!r:.100} would begin at the current folder; {words}")
    _file_system(url, ValueError, TypeError, AttributeError)
    return f"{scheme.lower()}://{path.rstrip('/')}/{run_id}"


def require_lasting(folder: str, where: str) -> None:
    """BadInput for a folder that ends with the process of the run, and its rows with it."""
    if folder.lower().startswith("memory://"):
        words = "is the memory of the run's process, and its rows would end with it"
        raise BadInput(f"{where}: spread.folder {folder!r:.100} {words}; give a folder that lasts")


class RemoteFile:
    """A file at a URL, as much of a `Path` and of an open file as readers of rows need."""

    name = _NAME

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs = _file_system(url)

    @property
    def parent(self) -> Path:
        """No folder of this machine."""
        return Path("/dev/null")

    def __str__(self) -> str:
        return self.url

    @property
    def fs_for_threads(self) -> Any:
        """Its file system, the files of which several threads may read at once."""
        safe = object.__new__(type(self.fs))  # fsspec copies none: equal ones are one object
        safe.__dict__.update(self.fs.__dict__)
        safe.open = lambda path, mode="rb", **more: _ForManyThreads(self.fs.open(path, mode, **more))
        return safe

    def open(self, mode: str = "rb") -> Any:
        """Open it; PerfkitError in one line when that cannot be."""
        return _reached(self.url, lambda: self.fs.open(self.url, mode))

    def exists(self) -> bool:
        """Whether it is there."""
        return bool(_reached(self.url, lambda: self.fs.exists(self.url)))

    def stat(self) -> SimpleNamespace:
        """Its size, and 0 for its time: what is put there is never changed."""
        info = _reached(self.url, lambda: self.fs.info(self.url))
        return SimpleNamespace(st_size=info["size"], st_mtime_ns=0)

    def __getattr__(self, name: str) -> Any:
        """What an open file has: pyarrow reads from it."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._opened, name)

    @functools.cached_property
    def _opened(self) -> Any:
        return self.open()


class _ForManyThreads:
    """An open file that several threads seek and read at once, as DuckDB's do: each has its own place."""

    def __init__(self, opened: Any) -> None:
        self._opened, self._lock = opened, threading.Lock()
        self._place: dict[int, int] = {}  # by thread; one of DuckDB's has no `threading.local` of its own

    def seek(self, place: int) -> None:
        """Go there, in this thread."""
        self._place[threading.get_ident()] = place

    def tell(self) -> int:
        """Where this thread is."""
        return self._place.get(threading.get_ident(), 0)

    def read(self, size: int = -1) -> bytes:
        """Read from where this thread is."""
        place = self.tell()
        with self._lock:
            self._opened.seek(place)
            found: bytes = self._opened.read(size)
        self.seek(place + len(found))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)


def require_own(url: str, run_id: str) -> None:
    """PerfkitError where `url` cannot be the folder of this run."""
    if not _is_url(url) or url.rpartition("/")[2] != run_id:
        raise PerfkitError(
            f"{run_id} is damaged: rows_at {url!r:.100} is not the URL of a folder of that name"
        )


def timeline_at(url: str, run_id: str) -> RemoteFile:
    """Return the timeline in a run's folder; PerfkitError as for `require_own`."""
    require_own(url, run_id)
    return RemoteFile(f"{url}/{_NAME}")


def move_timeline(folder: Path, url: str, keep_url: Callable[[], None]) -> None:
    """Put a run's timeline into its folder at `url`, which `keep_url` writes down, and remove it here.

    In this order: whatever ends it, and wherever, the rows are where run.json says, or here, which readers
    ask first. When it fails nothing of it stays at `url`.
    """
    local, there = folder / _NAME, timeline_at(url, folder.name)
    failed = f"{there.url} cannot be written, so the rows stay in {folder}"
    with _told(failed):
        if there.fs.exists(there.url):
            raise PerfkitError(f"{failed}: rows of another run of that name are there")
    try:
        with _told(failed):
            there.fs.makedirs(url, exist_ok=True)
            with local.open("rb") as source, there.fs.open(there.url, "wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
            if digest(local) != digest(cast(Path, there)):
                raise OSError("what was written there reads differently")
        keep_url()
    except BaseException:
        with contextlib.suppress(Exception):
            remove_timeline(url, folder.name)
        raise
    local.unlink()


def remove_timeline(url: str, run_id: str) -> None:
    """Remove a run's timeline from `url`, if it is there, and its folder when that is empty."""
    there = timeline_at(url, run_id)
    if there.exists():
        with _told(f"{there.url} cannot be removed"):
            there.fs.rm_file(there.url)
    with contextlib.suppress(Exception):  # object stores have no folders
        there.fs.rmdir(url)


@contextlib.contextmanager
def _told(what: str, *refused: type[Exception]) -> Iterator[None]:
    """PerfkitError in one line for whatever a file system raises; BadInput for what is in `refused`."""
    try:
        yield
    except PerfkitError:
        raise
    except Exception as error:
        kind = BadInput if isinstance(error, refused) else PerfkitError
        raise kind(f"{what}: {words_of(error).splitlines()[0]:.200}") from None


def _reached(url: str, work: Callable[[], _T]) -> _T:
    with _told(f"{url} cannot be read"):
        return work()


@functools.cache
def _file_system(url: str, *refused: type[Exception]) -> Any:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise with_extra(error) from None
    with _told(f"{url} cannot be opened", *refused):
        return fsspec.core.url_to_fs(url)[0]
